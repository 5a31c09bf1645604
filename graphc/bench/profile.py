"""Where a call's time goes, step by step.

Two passes take turns: calls as users make them, which give the true total, and calls in which each
thread reads a clock before and behind each step; on a GPU that is its own clock. Of both the faster
half of the calls counts.

A step's time is that of the whole team, what threads wait for each other included, and the part of
the threads' time that they spent so is shown beside it: what it could gain by shares that are even.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from graphc.bench.contest import CLOCKS
from graphc.bench.device import limits_of
from graphc.bench.machine import Limits
from graphc.bench.net import Call, need_clock, steps_of
from graphc.bench.work import Work, work_of
from graphc.runtime.cpu import StepTimes

CLOSE = 0.05  # how far the sum of the steps may be from the whole call
LEAST_ROUNDS = 5
_KINDS = {"wall": time.CLOCK_MONOTONIC, "cpu": time.CLOCK_THREAD_CPUTIME_ID}


@dataclass(frozen=True)
class StepProfile:
    """A step's mean seconds, its work, and how near it is to the machine's roofline (1: at it).

    Above 1 its data came out of a cache and not from memory. waiting: the part of the threads' time
    in which they had nothing to do.
    """

    number: int
    layers: tuple[str, ...]
    kernel: str
    kind: str
    backward: bool
    seconds: float
    work: Work
    roofline: float
    waiting: float


@dataclass(frozen=True)
class LayerProfile:
    """A layer's steps of one way, or of several together."""

    seconds: float
    flops: int
    bytes: int
    roofline: float
    waiting: float


@dataclass(frozen=True)
class Profile:
    """All steps, and the seconds of a call with the clock and of one without.

    starting: what a call took before its first step, its threads being made.
    """

    limits: Limits
    steps: tuple[StepProfile, ...]
    starting: float
    total: float
    unprofiled: float
    rounds: int

    @property
    def difference(self) -> float:
        """How much longer the clock made a call, as a part of it."""
        return self.total / self.unprofiled - 1

    @property
    def waiting(self) -> float:
        """The part of the threads' time, from the first step on, that they spent waiting."""
        seconds = sum(step.seconds for step in self.steps)
        return sum(s.waiting * s.seconds for s in self.steps) / seconds if seconds else 0.0

    @property
    def is_close(self) -> bool:
        """Whether the calls with the clock are as good as those without."""
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
        waiting = sum(s.waiting * s.seconds for s in steps)
        return LayerProfile(
            seconds,
            sum(s.work.flops for s in steps),
            sum(s.work.bytes for s in steps),
            least / seconds if seconds else 0.0,
            waiting / seconds if seconds else 0.0,
        )


def profile(call: Call, seconds: float = 3.0, clock: str = "wall") -> Profile:
    """Run both passes by turns for about `seconds`."""
    threads = call.threads
    need_clock(clock, threads)
    now = CLOCKS[clock]
    before = limits_of(call.target, threads)
    whole: list[float] = []
    rounds: list[StepTimes] = []
    way = "both" if call.wrt else "forward"
    started = time.perf_counter()
    while len(whole) < LEAST_ROUNDS or time.perf_counter() - started < seconds:
        call.run()
        begun = now()
        call.run()
        whole.append(now() - begun)
        rounds.append(call.executable.timed_call(way, threads, _KINDS[clock]))
    limits = before.better(limits_of(call.target, threads))
    kept = [rounds[i] for i in _fastest([r.starting + sum(r.steps) for r in rounds])]
    starting = statistics.fmean(times.starting for times in kept)
    means = _means([times.steps for times in kept])
    steps = _steps(call, limits, means, _means([times.waiting for times in kept]))
    unprofiled = statistics.fmean(whole[i] for i in _fastest(whole))
    return Profile(limits, steps, starting, starting + sum(means), unprofiled, len(whole))


def _steps(
    call: Call, limits: Limits, means: Sequence[float], waits: Sequence[float]
) -> tuple[StepProfile, ...]:
    steps = []
    for number, step in enumerate(steps_of(call)):
        work, spent = work_of(call.program, step), means[number]
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
                waits[number] / spent if spent else 0.0,
            )
        )
    return tuple(steps)


def _means(rows: Sequence[Sequence[float]]) -> list[float]:
    return [statistics.fmean(column) for column in zip(*rows, strict=True)]


def _fastest(seconds: Sequence[float]) -> list[int]:
    """The faster half of some calls: those that other work on the machine held up least.

    The means of their steps add up to the mean of the calls; medians would not.
    """
    return sorted(range(len(seconds)), key=seconds.__getitem__)[: (len(seconds) + 1) // 2]
