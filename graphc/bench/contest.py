"""Timing several things fairly: by turns, in one process, with medians.

Other work on the machine, its clock and its caches change while a benchmark runs. So each
contestant has its turn in every round; a turn begins with runs that are not timed, so that nobody
pays for what the one before left in the caches, nor for its threads, which may keep their cores
busy for some milliseconds while they wait for more work.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

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
    turns = {one.name: partial(_turn, one, _runs_a_turn(one), clock) for one in contestants}
    started = time.perf_counter()

    def goes_on(rounds: int) -> bool:
        return rounds < max(2, least_rounds) or time.perf_counter() - started < seconds

    return {name: Timing.of(found) for name, found in by_turns(turns, goes_on).items()}


def by_turns(
    work: Mapping[str, Callable[[], float]], goes_on: Callable[[int], bool]
) -> dict[str, list[float]]:
    """Run all pieces of work in rounds, each begun by another one; the seconds that each gives.

    `goes_on`: whether there is another round after so many.
    """
    found: dict[str, list[float]] = {name: [] for name in work}
    names = list(work)
    rounds = 0
    while goes_on(rounds):
        first = rounds % len(names)
        for name in (*names[first:], *names[:first]):
            found[name].append(work[name]())
        rounds += 1
    return found


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
