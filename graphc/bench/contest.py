"""Timing several things fairly: by turns, in one process, with medians.

Other work on the machine, its clock and its caches change while a benchmark runs. So each
contestant has its turn in every round; a turn begins with runs that are not timed, so that nobody
pays for what the one before left in the caches, nor for its threads, which may keep their cores
busy for some milliseconds while they wait for more work.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.thread_time}
TURN_SECONDS = 0.05  # a turn is so many runs as fit in here, and at least one
LEAD_SECONDS = 0.02  # before it, as long as OpenMP's threads may spin
LEAST_ROUNDS = 5


@dataclass(frozen=True)
class Contestant:
    """Something to be timed."""

    name: str
    run: Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Seconds of a run: the median over all rounds, the quartiles, and the best."""

    median: float
    low: float
    high: float
    best: float
    rounds: int

    @staticmethod
    def of(samples: Sequence[float]) -> Timing:
        """The figures of some rounds' seconds."""
        quarter, half, three_quarters = statistics.quantiles(samples, n=4, method="inclusive")
        return Timing(half, quarter, three_quarters, min(samples), len(samples))

    @property
    def spread(self) -> float:
        """The distance of the quartiles, as a part of the median."""
        return (self.high - self.low) / self.median if self.median else 0.0


def contest(
    contestants: Sequence[Contestant],
    seconds: float = 5.0,
    least_rounds: int = LEAST_ROUNDS,
    clock: Clock = time.perf_counter,
) -> dict[str, Timing]:
    """Time all of them by turns for about `seconds`, and at least so many rounds.

    The order turns too, so that nobody always follows the same one. The clock may be that of the
    calling thread, which stands still while others have its core: right for one thread only.
    """
    counts = {one.name: _runs_a_turn(one) for one in contestants}
    samples: dict[str, list[float]] = {one.name: [] for one in contestants}
    started = time.perf_counter()
    rounds = 0
    while rounds < max(2, least_rounds) or time.perf_counter() - started < seconds:
        first = rounds % len(contestants)
        for one in (*contestants[first:], *contestants[:first]):
            samples[one.name].append(_turn(one, counts[one.name], clock))
        rounds += 1
    return {name: Timing.of(found) for name, found in samples.items()}


def _once(one: Contestant) -> float:
    started = time.perf_counter()
    one.run()
    return time.perf_counter() - started


def _runs_a_turn(one: Contestant) -> int:
    _once(one)  # pages are touched, threads made
    return max(1, min(1000, int(TURN_SECONDS / max(_once(one), 1e-7))))


def _turn(one: Contestant, count: int, clock: Clock) -> float:
    ready = time.perf_counter() + LEAD_SECONDS
    one.run()
    while time.perf_counter() < ready:
        one.run()
    started = clock()
    for _ in range(count):
        one.run()
    return (clock() - started) / count
