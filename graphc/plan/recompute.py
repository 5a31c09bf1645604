"""Recomputation: values are computed again just before they are read, so that a budget is met.

Between two of its uses a value only waits. Where the steps of that time need more than the budget,
the value may be dropped and its step run again before the second use, if what it is made from is
still there, is kept a little longer, or is made again as well (a chain). What the budget is
exceeded by, summed over all steps, is what has to go; the candidate that takes most of it off for
a second of added work is applied, until nothing is left or nothing helps.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from graphc.plan.arena import aligned
from graphc.plan.budget import cannot_be_met, shown
from graphc.plan.draft import Draft, DraftStep, Storage
from graphc.plan.occupancy import Occupancy, Overwriting
from graphc.plan.repeat import Repeat, Repeater, over_target
from graphc.plan.rough_time import shown_seconds

# How many values are made again to make one.
LONGEST_CHAIN = 12
# Into how many parts a way down to a budget is cut.
STAGES = 25
# A value that is this small a part of what is too much is not worth a step.
SMALLEST_PART = 1 / 2000


def fit(
    draft: Draft,
    forward_steps: int,
    overwriting: Overwriting,
    budget: int,
    size: Callable[[], int],
) -> int:
    """Repeat steps until the arena, whose size for the draft `size` tells, is within the budget.

    Returns the new number of forward steps. Raises BudgetError where that cannot be.
    """
    work = Recomputation(draft, forward_steps, overwriting)
    arena = size()
    if arena > budget:
        back = work.undo()
        if not _at_once(work, budget, arena, size):
            back()
            if not _by_and_by(work, budget, size):
                raise cannot_be_met(draft, work.occupancy(), budget, size())
        arena = size()
    said = f"the arena takes {shown(arena)} of the {shown(budget)} that it may take"
    if work.count:
        said += (
            f": {work.count} steps run a second time, which costs about"
            f" {shown_seconds(work.seconds)} of a call by a rough count"
        )
    draft.remark("recompute", "net", said)
    return work.forward_steps


def _at_once(work: Recomputation, budget: int, arena: int, size: Callable[[], int]) -> bool:
    """Aim at the budget, and a little lower as long as blocks do not fit together."""
    target = budget
    while arena > budget:
        if not work.reduce(target):
            return False
        arena = size()
        target -= max(arena - budget, target // 200)
    return True


def _by_and_by(work: Recomputation, budget: int, size: Callable[[], int]) -> bool:
    """Aim a little lower than the peak again and again: that ends lower than a leap at what cannot
    be reached, and the same way for every budget, so what one call reached another can ask for."""
    lower = True
    while True:
        peak = work.occupancy().peak
        if peak <= budget and size() <= budget:
            return True
        if not lower:
            return False
        lower = work.reduce(peak - max(peak // STAGES, 1))


class Recomputation(Repeater):
    """Repeats steps of an ordered draft until it fits."""

    def reduce(self, target: int) -> bool:
        """Repeat steps until no step needs more than `target` bytes; False where nothing helps."""
        now = self.occupancy()
        while now.peak > target:
            best = self.best(now, target)
            if best is None:
                return False
            over = over_target(now.live, target)
            reader = self.draft.steps[best.before]
            undo = self.apply(best)
            self.hold_parameters()
            now = self.occupancy()
            if over_target(now.live, target) < over:
                self.note(best, reader)
                continue
            undo()
            self.refused.add((best.storages[0], reader))
            now = self.occupancy()
        return True

    # -- candidates --

    def best(self, now: Occupancy, target: int) -> Repeat | None:
        """The candidate that takes most off for its time."""
        over = np.maximum(now.live - target, 0)
        crowded = np.concatenate(([0], np.cumsum(over)))
        least = int(over.max() * SMALLEST_PART)
        best: Repeat | None = None
        for storage, touched in now.touched.items():
            if storage in now.pinned or storage.bytes <= least:
                continue
            ready = now.written[storage][-1]
            for after, before in pairwise(touched):
                idle = crowded[before] - crowded[after + 1]
                if after < ready or not idle:
                    continue
                if (storage, self.draft.steps[before]) in self.refused:
                    continue
                most = min(int(idle), storage.bytes * (before - after - 1))
                if best and most <= _rank(best)[0] * self.making(now, storage):
                    continue
                found = self.cheapest(now, target, storage, after, before)
                if found and (best is None or _rank(found) > _rank(best)):
                    best = found
        return best

    def cheapest(
        self, now: Occupancy, target: int, storage: Storage, after: int, before: int
    ) -> Repeat | None:
        """The better of keeping what the value is made from, and of making that again too."""
        found: Repeat | None = None
        for chain in (1, LONGEST_CHAIN):
            made = self.candidate(now, target, storage, after, before, chain)
            if made and (found is None or _rank(made) > _rank(found)):
                found = made
            if made and not made.longer:
                break
        return found

    def candidate(
        self, now: Occupancy, target: int, storage: Storage, after: int, before: int, chain: int
    ) -> Repeat | None:
        """What it takes to have `storage` again before step `before`; None where it cannot be."""
        again, longer = [storage], dict[Storage, int]()
        steps: set[int] = set()
        for one in again:  # grows while it is walked
            for position in now.written[one]:
                inputs = self.inputs(now, position, before, one)
                if inputs is None:
                    return None
                steps.add(position)
                for source in inputs:
                    if source in again or now.spans[source][1] >= before:
                        continue
                    if len(again) < chain and self.repeatable(now, source, before):
                        again.append(source)
                    else:
                        longer[source] = now.spans[source][1]
        first = min((after, *longer.values())) + 1
        change = np.zeros(before + 1 - first, np.int64)  # of steps first .. before
        change[after + 1 - first : -1] -= aligned(storage.bytes)
        for source, last in longer.items():
            change[last + 1 - first :] += aligned(source.bytes)
        room = self.room(now, storage, again, longer, steps, before)
        if room > max(target, int(now.live[before])):
            return None
        live = now.live[first : before + 1]
        gain = over_target(live, target) - over_target(live + change, target)
        gain -= len(steps) * max(0, room - target)  # the repeated steps are too crowded as well
        if gain <= 0:
            return None
        seconds = sum(self.cost(self.draft.steps[position]) for position in steps)
        return Repeat(
            tuple(again), tuple(sorted(steps)), after, before, gain, seconds, bool(longer)
        )

    def room(
        self,
        now: Occupancy,
        storage: Storage,
        again: list[Storage],
        longer: dict[Storage, int],
        steps: set[int],
        before: int,
    ) -> int:
        """The most that is live while the steps run again."""
        extra = sum(aligned(other.bytes) for other in again if other is not storage)
        extra += sum(aligned(other.bytes) for other in longer)
        own = set(again)
        scratch = [self.scratch_bytes(self.draft.steps[position], own) for position in steps]
        return int(now.across[before]) + extra + max(scratch)

    def scratch_bytes(self, step: DraftStep, own: set[Storage]) -> int:
        """What a step writes beside these storages when it is run again."""
        wanted = [name for name in step.writes if self.storage(name) in own]
        kernel, names = self.narrowed(step, wanted)
        written = names[len(kernel.inputs) :]
        arrays = [self.draft.arrays[name] for name in written if name not in wanted]
        return sum(aligned(array.type.bytes) for array in arrays)


def _rank(repeat: Repeat) -> tuple[float, int]:
    return repeat.gain / max(repeat.seconds, 1e-9), -repeat.after
