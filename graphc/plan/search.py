"""The best order of a few steps, found by looking at all that could be better.

A state is the set of steps that have run; what is live then depends on the set alone, not on the
order in it. So this is a path problem whose cost is the largest step on the way: the state with the
smallest cost is extended first, of equal ones the one furthest on, and the first complete path is
the best there is. A ready step that needs no more than the path has cost already, and leaves no
more behind than it found, is run at once: whatever comes later is no worse for it.

Graphs of a few dozen steps finish; where the limit of states is reached nothing is known.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from graphc.plan.arena import aligned
from graphc.plan.draft import Draft, DraftStep, Storage
from graphc.plan.occupancy import Overwriting

STATES = 2000
# States that a search in breadth keeps of each size, times the number of steps.
MOST_WIDE = 800


@dataclass(frozen=True)
class Found:
    """An order of steps and the bytes that its most crowded step needs."""

    steps: list[DraftStep]
    peak: int


def best_order(
    draft: Draft,
    done: Sequence[DraftStep],
    steps: Sequence[DraftStep],
    later: Sequence[DraftStep],
    overwriting: Overwriting,
    states: int = STATES,
    enough: int = 0,
) -> Found | None:
    """The order of `steps`, which run after `done` and before `later`, with the lowest peak.

    enough: a peak below which it does not matter. None where `states` are not enough to know.
    """
    problem = _Problem(draft, done, steps, later, overwriting)
    return problem.search(states, enough)


@dataclass(frozen=True, order=True)
class _Path:
    """A step, and the way to it."""

    step: int
    before: _Path | None


def good_order(
    draft: Draft,
    done: Sequence[DraftStep],
    steps: Sequence[DraftStep],
    later: Sequence[DraftStep],
    overwriting: Overwriting,
) -> Found:
    """A good order of any number of steps: the most promising states of each size are followed."""
    return _Problem(draft, done, steps, later, overwriting).beam(max(MOST_WIDE // len(steps), 1))


class _Problem:
    def __init__(
        self,
        draft: Draft,
        done: Sequence[DraftStep],
        steps: Sequence[DraftStep],
        later: Sequence[DraftStep],
        overwriting: Overwriting,
    ):
        self.steps = steps
        place = {step: position for position, step in enumerate(steps)}
        needed = draft.dependencies()
        self.before = [sum(1 << place[o] for o in needed[s] if o in place) for s in steps]
        self.storage: dict[Storage, int] = {}
        self.bytes: list[int] = []
        self.users: list[int] = []  # bits of the steps that touch a storage
        self.pinned: list[bool] = []
        self.touched = [self.numbers(draft, step, 1 << place[step]) for step in steps]
        survivors = {draft.arrays[name].storage for name in draft.survivors()}
        outside = {draft.arrays[name].storage for step in later for name in step.arguments}
        for storage, number in self.storage.items():
            self.pinned[number] = storage in survivors or storage in outside
        made = {draft.arrays[name].storage for step in done for name in step.writes}
        self.made = [storage in made for storage in self.storage]
        self.idle = sum(
            aligned(s.bytes)
            for s in made
            if not s.slot and s not in self.storage and (s in survivors or s in outside)
        )
        self.pairs = [
            [(self.storage[new], self.storage[old]) for new, old in overwriting.pairs(step)]
            for step in steps
        ]

    def numbers(self, draft: Draft, step: DraftStep, bit: int) -> list[int]:
        found: list[int] = []
        for name in step.arguments:
            storage = draft.arrays[name].storage
            if storage.slot:
                continue
            number = self.storage.setdefault(storage, len(self.storage))
            if number == len(self.bytes):
                self.bytes.append(aligned(storage.bytes))
                self.users.append(0)
                self.pinned.append(False)
            self.users[number] |= bit
            if number not in found:
                found.append(number)
        return found

    def search(self, states: int, enough: int) -> Found | None:
        everything = (1 << len(self.steps)) - 1
        start = self.idle + sum(b for b, made in zip(self.bytes, self.made, strict=True) if made)
        # (cost, steps left, states seen, set, live, path)
        queue: list[tuple[int, int, int, int, int, _Path | None]] = [
            (max(enough, start), len(self.steps), 0, 0, start, None)
        ]
        seen: set[int] = set()
        count = 0
        while queue:
            cost, left, _, done, live, path = heapq.heappop(queue)
            if done in seen:
                continue
            seen.add(done)
            if done == everything:
                return Found(self.unfolded(path), cost)
            count += 1
            if count > states:
                return None
            moves = [(s, *self.run(s, done, live)) for s in self.ready(done)]
            free = next((m for m in moves if m[1] <= cost and m[2] <= live), None)
            for step, peak, after in moves if free is None else [free]:
                total = done | 1 << step
                if total not in seen:
                    entry = (max(cost, peak), left - 1, -count, total, after, _Path(step, path))
                    heapq.heappush(queue, entry)
        return None

    def beam(self, width: int) -> Found:
        start = self.idle + sum(b for b, made in zip(self.bytes, self.made, strict=True) if made)
        front: list[tuple[int, int, int, _Path | None]] = [(start, start, 0, None)]
        for _ in self.steps:
            reached: dict[int, tuple[int, int, int, _Path | None]] = {}
            for cost, live, done, path in front:
                for step in self.ready(done):
                    peak, after = self.run(step, done, live)
                    total = done | 1 << step
                    state = max(cost, peak), after, total, _Path(step, path)
                    if total not in reached or state[0] < reached[total][0]:
                        reached[total] = state
            front = sorted(reached.values(), key=lambda state: state[:3])[:width]
        return Found(self.unfolded(front[0][3]), front[0][0])

    def ready(self, done: int) -> list[int]:
        return [
            step
            for step, before in enumerate(self.before)
            if not done >> step & 1 and before & done == before
        ]

    def run(self, step: int, done: int, live: int) -> tuple[int, int]:
        """Bytes while a step runs after the others, and bytes that stay behind it."""
        after = done | 1 << step
        born, dying = set[int](), set[int]()
        for number in self.touched[step]:
            if not self.made[number] and not self.users[number] & done:
                born.add(number)
            if not self.pinned[number] and self.users[number] & after == self.users[number]:
                dying.add(number)
        peak = live + sum(self.bytes[number] for number in born)
        behind = peak - sum(self.bytes[number] for number in dying)
        spent = set[int]()
        for new, old in self.pairs[step]:
            if new in born and old in dying and not spent & {new, old}:
                spent |= {new, old}
                peak -= self.bytes[new]
        return peak, behind

    def unfolded(self, path: _Path | None) -> list[DraftStep]:
        found: list[DraftStep] = []
        while path is not None:
            found.append(self.steps[path.step])
            path = path.before
        return found[::-1]
