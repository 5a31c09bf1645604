"""Single operators against the machine's limits and against PyTorch.

An operator is timed as it runs inside a net: tensors lie as the compiler likes them, and the
transposes of the user's arrays at the edges of this one-operator net are left out. torch gets its
tensors row-major and channels-last, and the better counts. Packing weights belongs to the operator.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

import graphc.ops  # noqa: F401  (enters all operators in the table)
from graphc.back_ends import back_end
from graphc.bench.agreement import TF32_FACTOR, relative_difference
from graphc.bench.contest import CLOCKS, Contestant, Timing, contest
from graphc.bench.device import loaded
from graphc.bench.net import OURS, need_clock
from graphc.bench.operator_table import Row
from graphc.bench.torch_rival import TorchRun, Workload, leaving_out
from graphc.bench.work import work_of
from graphc.error import NetError
from graphc.passes.pipeline import compile_graph
from graphc.plan.permission import Algorithms
from graphc.plan.planner import plan
from graphc.plan.program import Program, Step
from graphc.runtime.cpu import Executable

TOLERANCE = 1e-4


@dataclass(frozen=True)
class RowReport:
    """A row's figures; `errors`: against each variant; `memory`: the limit of its bytes.

    refusals: variants that could not run, and why.
    decisions: how steps run that were tried both ways, by a library of the GPU's and by ours.
    """

    name: str
    way: str
    products: int
    bytes: int
    memory: str
    timing: Timing
    rivals: dict[str, Timing]
    errors: dict[str, float]
    decisions: tuple[str, ...] = ()
    refusals: dict[str, str] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """The best rival's median over ours: above 1, ours is faster."""
        others = [timing.median for timing in self.rivals.values()]
        return min(others) / self.timing.median if others else None


@dataclass(frozen=True)
class Setup:
    """How our operators run.

    algorithms: as for `plan`. tf32: a GPU's tensor cores round for us too. libraries: as for a net.
    """

    threads: int = 1
    algorithms: Algorithms | None = None
    target: str = "cpu"
    tf32: bool = False
    libraries: str = "off"


class OneOperator:
    """A row compiled for a target and bound to random arrays; `run` runs what counts of it."""

    def __init__(self, row: Row, setup: Setup, seed: int = 0):
        self.row = row
        self.graph = row.graph()
        self.threads = setup.threads
        backward = row.way == "backward"
        self.wrt = ("x",) if backward else ()
        rng = np.random.default_rng(seed)
        self.arrays = {
            v.name: rng.standard_normal(v.shape).astype(v.type.dtype) for v in self.graph.inputs()
        }
        shape = self.graph.blobs["y"].shape
        self.given = {"y": rng.standard_normal(shape).astype("float32")} if backward else {}
        made = compile_graph(self.graph, self.wrt, tuple(self.given))
        cores = back_end(setup.target).cores
        self.program = plan(made.graph, memory="all", algorithms=setup.algorithms, cores=cores)
        self.executable: Executable = loaded(
            self.program, setup.target, setup.tf32, setup.libraries
        )
        for name, array in self.executable.bind_new().items():
            source = self.given.get(name.removesuffix(".diff"), self.arrays.get(name))
            if source is not None:
                array[...] = source
        self.executable.call("both", self.threads)
        self.numbers = list(counted_steps(self.program, row))

    def run(self) -> None:
        """The operator's steps."""
        for number in self.numbers:
            self.executable.step(number, self.threads)

    def results(self) -> dict[str, np.ndarray]:
        """What a whole call gives, under the rival's names."""
        arrays = self.executable.arrays
        found = {name: arrays.get(f"{name}~out", arrays.get(name)) for name in ("y", "x.diff")}
        return {name: array for name, array in found.items() if array is not None}

    def steps(self) -> list[Step]:
        """The steps that count."""
        return [self.program.steps[number] for number in self.numbers]


def counted_steps(program: Program, row: Row) -> Iterator[int]:
    """Numbers of the operator's own steps: not the transposes of tensors at the net's edges."""
    for number, step in enumerate(program.steps):
        if row.way == "backward" and number < program.forward_steps:
            continue
        if step.kernel.name != "copy" or _is_weight(program, step, row):
            yield number


def _is_weight(program: Program, step: Step, row: Row) -> bool:
    """Whether a copy packs weights, or unpacks their gradient."""
    names = {program.slots[program.buffers[name].slot].name for name in step.arguments}
    return (
        "x1" in names
        if row.way in ("forward", "data gradient")
        else (row.way == "weight gradient" and bool(names & {"y", "y~out"}))
    )


def bench_row(
    row: Row, setup: Setup, rivals: Sequence[str], seconds: float = 1.0, clock: str = "wall"
) -> RowReport:
    """Measure one row beside variants of the rival, for about so many seconds.

    Raises NetError where a rival's results differ by more than TOLERANCE.
    """
    threads, target = setup.threads, setup.target
    need_clock(clock, threads)
    ours = OneOperator(row, setup)
    workload = Workload(ours.graph, ours.arrays, ours.wrt, ours.given)
    errors: dict[str, float] = {}
    refusals: dict[str, str] = {}
    contestants = [Contestant(OURS, ours.run)]
    for variant in rivals:
        if variant == "compile" and row.library:
            continue
        with leaving_out(variant, refusals):
            checked = TorchRun(workload, variant, threads, masked=True, target=target)
            error = _checked(ours, checked, TF32_FACTOR if setup.tf32 else 1)
            # A backward pass that runs alone must be compiled so: what `checked` compiled cannot.
            again = checked.is_masked or bool(ours.wrt) or target != "cpu"
            run = checked
            if again:
                run = TorchRun(workload, variant, threads, target=target, tf32=True)
            once = run.backward_alone() if ours.wrt else run.run
            once()
            contestants.append(Contestant(variant, once))
            errors[variant] = error
    timings = contest(contestants, seconds, clock=CLOCKS[clock])
    timing = timings.pop(OURS)
    products = sum(work_of(ours.program, step).products for step in ours.steps())
    return RowReport(
        row.name,
        row.way,
        products,
        row.bytes,
        row.memory,
        timing,
        timings,
        errors,
        tuple(said for _, said in ours.executable.decisions),
        refusals,
    )


def _checked(ours: OneOperator, rival: TorchRun, factor: float) -> float:
    """The largest difference of any result, as a part of it; TOLERANCE times `factor` is right."""
    allowed = TOLERANCE * factor
    own = ours.results()
    worst = 0.0
    for name, theirs in rival.results().items():
        error = relative_difference(own[name], theirs)
        if not error <= allowed:
            raise NetError(
                f"torch and graphc disagree on {ours.row.name}, {ours.row.way}: the relative"
                f" difference is {error:.2g}, more than {allowed:g}; it was not timed"
            )
        worst = max(worst, error)
    return worst
