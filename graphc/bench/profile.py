"""Where a call's time goes, step by step.

Two passes take turns: whole calls as users make them, which give the true total, and calls made of
single steps with a clock around each, which give the shares. What the clock and the call of a step
cost is measured on a step that does nothing and taken away.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from functools import cache

import graphc.ops  # noqa: F401  (enters all operators in the table)
from graphc.bench.contest import CLOCKS, Clock
from graphc.bench.machine import Limits, measure_limits
from graphc.bench.net import Call, need_clock, steps_of
from graphc.bench.work import Work, work_of
from graphc.codegen.llvm.jit import load
from graphc.codegen.llvm.object import compile_program
from graphc.ir.core import Fill
from graphc.ir.graph import Graph
from graphc.passes.pipeline import compile_graph
from graphc.plan.planner import plan
from graphc.runtime.cpu import Executable

CLOSE = 0.05  # how far the sum of the steps may be from the whole call
LEAST_ROUNDS = 5


@dataclass(frozen=True)
class StepProfile:
    """A step's median seconds, its work, and how near it is to the machine's roofline (1: at it).

    Above 1 its data came out of a cache and not from memory.
    """

    number: int
    layers: tuple[str, ...]
    kernel: str
    kind: str
    backward: bool
    seconds: float
    work: Work
    roofline: float


@dataclass(frozen=True)
class LayerProfile:
    """A layer's steps of one way, or of several together."""

    seconds: float
    flops: int
    bytes: int
    roofline: float


@dataclass(frozen=True)
class Profile:
    """All steps, the sum of their seconds, and the seconds of an unprofiled call."""

    limits: Limits
    steps: tuple[StepProfile, ...]
    total: float
    unprofiled: float
    rounds: int

    @property
    def difference(self) -> float:
        """How much longer the steps took than the call, as a part of it."""
        return self.total / self.unprofiled - 1

    @property
    def is_close(self) -> bool:
        """Whether the sum of the steps is as good as the call."""
        return abs(self.difference) <= CLOSE

    def layers(self) -> dict[str, tuple[LayerProfile | None, LayerProfile | None]]:
        """(forward, backward) of every layer, the longest first.

        A step of joined layers counts for the first of them.
        """
        groups: dict[str, tuple[list[StepProfile], list[StepProfile]]] = {}
        for step in self.steps:
            name = step.layers[0] if step.layers else ""
            groups.setdefault(name, ([], []))[step.backward].append(step)
        ordered = sorted(
            groups.items(), key=lambda item: -sum(s.seconds for part in item[1] for s in part)
        )
        return {
            name: (self._together(forward), self._together(backward))
            for name, (forward, backward) in ordered
        }

    def _together(self, steps: list[StepProfile]) -> LayerProfile | None:
        if not steps:
            return None
        seconds = sum(s.seconds for s in steps)
        least = sum(s.roofline * s.seconds for s in steps)
        return LayerProfile(
            seconds,
            sum(s.work.flops for s in steps),
            sum(s.work.bytes for s in steps),
            least / seconds if seconds else 0.0,
        )


def profile(call: Call, seconds: float = 3.0, clock: str = "wall") -> Profile:
    """Run both passes by turns for about `seconds`."""
    threads = call.threads
    need_clock(clock, threads)
    now = CLOCKS[clock]
    executable = call.executable
    program = call.program
    count = len(steps_of(call))
    before = measure_limits(threads)
    whole: list[float] = []
    rounds: list[list[float]] = []
    cost = _clock_cost(now)
    started = time.perf_counter()
    while len(whole) < LEAST_ROUNDS or time.perf_counter() - started < seconds:
        call.run()
        begun = now()
        call.run()
        whole.append(now() - begun)
        rounds.append(_step_seconds(executable, count, threads, now))
    limits = before.better(measure_limits(threads))
    medians = [max(0.0, statistics.median(column) - cost) for column in zip(*rounds, strict=True)]
    steps = []
    for number, (step, spent) in enumerate(zip(steps_of(call), medians, strict=True)):
        work = work_of(program, step)
        layers = tuple(name for name in step.layer.split(", ") if name)
        least = max(work.flops / limits.fma, work.bytes / limits.copy)
        steps.append(
            StepProfile(
                number,
                layers,
                step.kernel.name,
                step.kind,
                step.backward,
                spent,
                work,
                least / spent if spent else 0.0,
            )
        )
    return Profile(limits, tuple(steps), sum(medians), statistics.median(whole), len(whole))


def _step_seconds(executable: Executable, count: int, threads: int, clock: Clock) -> list[float]:
    found = []
    for number in range(count):
        begun = clock()
        executable.step(number, threads)
        found.append(clock() - begun)
    return found


@cache
def _clock_cost(clock: Clock) -> float:
    """Seconds that a step of no work takes, seen from here."""
    graph = Graph("nothing")
    graph.outputs["zero"] = graph.apply(Fill("float32", (), 0.0))[0]
    program = plan(compile_graph(graph).graph)
    executable = load(compile_program(program))
    executable.bind_new()
    return statistics.median(_step_seconds(executable, 1, 1, clock)[0] for _ in range(1000))
