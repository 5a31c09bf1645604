"""A whole net against the machine's limits, and against PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from graphc.bench.agreement import disagreement
from graphc.bench.contest import CLOCKS, Contestant, Timing, contest
from graphc.bench.device import limits_of
from graphc.bench.machine import Limits
from graphc.bench.torch_rival import VARIANTS, TorchRun, UnsupportedError, Workload, leaving_out
from graphc.bench.work import work_of
from graphc.error import need
from graphc.ir.graph import Graph
from graphc.net import Net
from graphc.plan.program import Program, Step
from graphc.random_inputs import input_kinds, random_input
from graphc.runtime.cpu import Executable

OURS = "graphc"


@dataclass(frozen=True)
class Call:
    """A net compiled and bound, and what it is called with.

    Attributes:
        graph: forward, as the front end made it.
        executable: the machine code; its arrays are bound.
        inputs: shapes of the net's inputs, as the user writes them.
        given: gradients that are given.
        wrt: inputs and parameters of the graph whose gradients are wanted; none: forward alone.
        target: what runs it, a key of BACK_ENDS.
        tf32: whether tensor cores round what they multiply.
    """

    name: str
    threads: int
    graph: Graph
    program: Program
    executable: Executable
    inputs: Mapping[str, tuple[int, ...]]
    wrt: tuple[str, ...]
    given: Mapping[str, np.ndarray]
    target: str = "cpu"
    tf32: bool = False

    def run(self) -> None:
        """One native call on the bound arrays."""
        self.executable.call("both" if self.wrt else "forward", self.threads)


def prepare(net: Net, wrt: Sequence[str], given: Sequence[str], seed: int = 0) -> Call:
    """Compile a net for these gradients (none: forward alone), and run it once on random inputs."""
    front = net.front()
    rng = np.random.default_rng(seed)
    kinds = input_kinds(front.graph)
    inputs = {
        value.name: random_input(value, kinds[value.name], rng)
        for value in front.graph.inputs("input")
        if value.name in front.inputs
    }
    blobs = front.graph.blobs
    gradients = {
        name: rng.standard_normal(blobs[name].shape).astype(blobs[name].type.dtype)
        for name in (given if wrt else ())
    }
    made = net.prepare(wrt=tuple(wrt), given=tuple(gradients))
    if wrt:
        net.forward_backward(inputs, gradients, wrt=wrt)
    else:
        net.set_inputs(inputs)
        net.forward()
    assert made.executable is not None
    return Call(
        net.name,
        net.threads,
        made.caffe.graph,
        made.program,
        made.executable,
        {name: array.shape for name, array in inputs.items()},
        tuple(wrt),
        gradients,
        made.signature.target,
        "tf32" in made.signature.fast_math,
    )


@dataclass(frozen=True)
class Figures:
    """One contestant's result. memory: bytes of a call, arrays of the user's included."""

    name: str
    timing: Timing
    flops: float
    bytes: float
    memory: int | None
    error: float | None = None


@dataclass(frozen=True)
class NetReport:
    """A comparison. products, bytes: work of one call. refusals: rivals that could not run."""

    limits: Limits
    products: int
    bytes: int
    figures: tuple[Figures, ...]
    refusals: dict[str, str] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """The best rival's median over ours: above 1, ours is faster."""
        ours = next(f for f in self.figures if f.name == OURS).timing.median
        others = [f.timing.median for f in self.figures if f.name != OURS]
        return min(others) / ours if others else None


def bench_net(
    call: Call,
    rivals: Sequence[str] = VARIANTS,
    seconds: float = 10.0,
    clock: str = "wall",
) -> NetReport:
    """Measure a call, and torch's variants of the same graph if any are named.

    Raises NetError where results differ too much: then nothing is timed. A variant
    that torch itself cannot run is a refusal, not an error.
    """
    threads = call.threads
    need_clock(clock, threads)
    runs, errors, refusals = _rival_runs(call, rivals)
    before = limits_of(call.target, threads)
    contestants = [Contestant(OURS, call.run)]
    contestants += [Contestant(run.name, run.run) for run in runs]
    timings = contest(contestants, seconds, clock=CLOCKS[clock])
    limits = before.better(limits_of(call.target, threads))
    work = [work_of(call.program, step) for step in steps_of(call)]
    products, moved = sum(w.products for w in work), sum(w.bytes for w in work)
    memory = {run.name: run.peak_bytes() for run in runs}
    memory[OURS] = planned_bytes(call.program)
    figures = tuple(
        Figures(
            name,
            timing,
            products / timing.median,
            moved / timing.median,
            memory[name],
            errors.get(name),
        )
        for name, timing in timings.items()
    )
    return NetReport(limits, products, moved, figures, refusals)


def _rival_runs(
    call: Call, rivals: Sequence[str]
) -> tuple[list[TorchRun], dict[str, float], dict[str, str]]:
    """Variants that compute the same, how far they are from it, and why others cannot run."""
    threads, target = call.threads, call.target
    runs: list[TorchRun] = []
    errors: dict[str, float] = {}
    refusals: dict[str, str] = {}

    @cache
    def workload() -> Workload:
        return workload_of(call)

    @cache
    def exact() -> Mapping[str, np.ndarray]:
        double = TorchRun(workload(), "eager", threads, masked=True, target=target, double=True)
        return double.results()

    for variant in rivals:
        with leaving_out(variant, refusals):
            checked = TorchRun(workload(), variant, threads, masked=True, target=target)
            errors[checked.name] = disagreement(call, checked.results(), exact)
            timed = checked
            if checked.is_masked or target != "cpu":  # a GPU's tensor cores may round there
                timed = TorchRun(workload(), variant, threads, target=target, tf32=True)
            timed.run()
            runs.append(timed)
    return runs, errors, refusals


def need_clock(clock: str, threads: int) -> None:
    """Raise NetError where a thread's own clock would miss what other threads do."""
    need(clock in CLOCKS, f"the clock is one of {', '.join(CLOCKS)}, not '{clock}'")
    need(
        clock == "wall" or threads == 1,
        f"the cpu clock is that of one thread; a call with {threads} threads needs --clock wall",
    )


def steps_of(call: Call) -> tuple[Step, ...]:
    """The steps that a call runs."""
    program = call.program
    return program.steps if call.wrt else program.steps[: program.forward_steps]


def planned_bytes(program: Program) -> int:
    """The arena, and the user's arrays: all that a call touches."""
    arrays = sum(slot.type.bytes for slot in program.slots if slot.role != "arena")
    return program.arena_bytes + arrays


def workload_of(call: Call) -> Workload:
    """The same graph, values and gradients for a rival; states as they are before the next call.

    Raises UnsupportedError for numbers of double precision.
    """
    graph = call.graph
    arrays = {
        value.name: np.array(call.executable.arrays[value.name])
        for value in graph.inputs()
        if value.name in call.executable.arrays
    }
    if any(v.type.dtype == "float64" for v in graph.inputs()):
        raise UnsupportedError("the torch rival compares float32 nets")
    return Workload(graph, arrays, call.wrt, call.given)
