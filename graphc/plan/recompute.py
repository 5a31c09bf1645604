"""Recomputation: values are computed again just before they are read, so that a budget is met.

Between two of its uses a value only waits. Where the steps of that time need more than the budget,
the value may be dropped and its step run again before the second use, if what it is made from is
still there, is kept a little longer, or is made again as well (a chain). What the budget is
exceeded by, summed over all steps, is what has to go; the candidate that takes most of it off for
a second of added work is applied, until nothing is left or nothing helps.

Only the pure part is repeated: the same kernel on the same values, so every bit is the same. What a
step writes besides (an output of the user's, a new state) goes to a scratch place. A step that
reads a state which has been renewed meanwhile reads the held old one; if there is none it is not
repeated. So dropout draws the same mask, by the same counter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from graphc.kernel.lang import Kernel
from graphc.plan.arena import aligned
from graphc.plan.budget import cannot_be_met, shown
from graphc.plan.draft import Array, Draft, DraftStep, Storage
from graphc.plan.occupancy import Occupancy, Overwriting
from graphc.plan.rough_time import kernel_seconds

# How many values are made again to make one.
LONGEST_CHAIN = 12
# Into how many parts a way down to a budget is cut.
STAGES = 25
# A value that is this small a part of what is too much is not worth a step.
SMALLEST_PART = 1 / 2000


def fit(draft: Draft, forward_steps: int, budget: int, size: Callable[[], int]) -> int:
    """Repeat steps until the arena, whose size for the draft `size` tells, is within the budget.

    Returns the new number of forward steps. Raises BudgetError where that cannot be.
    """
    work = Recomputation(draft, forward_steps)
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
            f" {work.seconds * 1e3:.2g} ms of a call by a rough count"
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


@dataclass(frozen=True)
class Repeat:
    """A way to take bytes off: what is made again before step `before`, and what it costs.

    gain: bytes over the budget that it takes off, summed over steps. after: the step after which
    `storages[0]` waits. longer: whether some of what it is made from has to stay longer.
    """

    storages: tuple[Storage, ...]
    steps: tuple[int, ...]
    after: int
    before: int
    gain: int
    seconds: float
    longer: bool


class Recomputation:
    """Repeats steps of an ordered draft until it fits; the draft stays usable all the time."""

    def __init__(self, draft: Draft, forward_steps: int):
        self.draft = draft
        self.forward_steps = forward_steps
        self.overwriting = Overwriting(draft)
        self.costs: dict[Kernel, float] = {}
        self.seconds = 0.0
        self.count = 0
        self.holds = set(draft.held.values())
        self.refused: set[tuple[Storage, DraftStep]] = set()

    def occupancy(self) -> Occupancy:
        """What is live at each step as the draft stands."""
        return Occupancy(self.draft, self.overwriting)

    def reduce(self, target: int) -> bool:
        """Repeat steps until no step needs more than `target` bytes; False where nothing helps."""
        now = self.occupancy()
        while now.peak > target:
            best = self.best(now, target)
            if best is None:
                return False
            over = _over(now.live, target)
            reader = self.draft.steps[best.before]
            undo = self.apply(best)
            now = self.occupancy()
            if _over(now.live, target) < over:
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
                inputs = self.inputs(now, position, before)
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
        gain = _over(live, target) - _over(live + change, target)
        if gain <= 0:
            return None
        seconds = sum(self.cost(self.draft.steps[position]) for position in steps)
        return Repeat(
            tuple(again), tuple(sorted(steps)), after, before, gain, seconds, bool(longer)
        )

    def repeatable(self, now: Occupancy, storage: Storage, before: int) -> bool:
        """Whether all of a value can be made again before that step."""
        written = now.written[storage]
        return written[-1] < before and all(
            self.inputs(now, position, before) is not None for position in written
        )

    def inputs(self, now: Occupancy, position: int, before: int) -> list[Storage] | None:
        """Arena storages that a step reads when it is run again; None where that cannot be."""
        step = self.draft.steps[position]
        if step.has_effect or self.holds & set(step.writes):
            return None
        found: list[Storage] = []
        for name in step.reads:
            source = self.source(now, name, before)
            if source is None:
                return None
            if not source.slot:
                found.append(source)
        return list(dict.fromkeys(found))

    def source(self, now: Occupancy, name: str, before: int) -> Storage | None:
        """What holds an argument's value just before step `before`; None where nothing does."""
        array = self.draft.arrays[name]
        is_old = array.storage.slot and not array.sources  # what it held before the call
        if is_old and now.renewed.get(array.storage, before) < before:
            held = self.draft.held.get(name)
            return self.draft.arrays[held].storage if held else None
        return array.storage

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
        scratch = [
            sum(
                aligned(array.type.bytes)
                for array in map(self.draft.arrays.__getitem__, self.draft.steps[position].writes)
                if array.storage not in own
            )
            for position in steps
        ]
        return int(now.across[before]) + extra + max(scratch)

    def making(self, now: Occupancy, storage: Storage) -> float:
        """The time of the steps that write a value, in seconds."""
        steps = {position: self.draft.steps[position] for position in now.written[storage]}
        return sum(map(self.cost, steps.values()))

    def cost(self, step: DraftStep) -> float:
        """A rough time of a step, in seconds: enough to choose by."""
        if step.kernel not in self.costs:
            moved = sum(self.draft.arrays[name].type.bytes for name in set(step.arguments))
            self.costs[step.kernel] = kernel_seconds(step.kernel, moved)
        return self.costs[step.kernel]

    # -- applying --

    def apply(self, repeat: Repeat) -> Callable[[], None]:
        """Run the steps again before the reader; it and all later readers take the new values.

        Returns what takes that back.
        """
        undo = self.undo()
        draft, steps = self.draft, self.draft.steps
        reader = steps[repeat.before]
        new = {old: Storage(f"{old.name}~again", old.bytes) for old in repeat.storages}
        renamed = {
            name: self.again(array, new[array.storage])
            for name, array in list(draft.arrays.items())
            if array.storage in new and array.sources
        }
        for made in renamed.values():
            array = draft.arrays[made]
            array.sources = frozenset(renamed[source] for source in array.sources)
        clones = [self.repeated(steps[p], renamed, repeat.before, reader) for p in repeat.steps]
        for step in steps[repeat.before :]:
            step.arguments = tuple(renamed.get(name, name) for name in step.arguments)
        steps[repeat.before : repeat.before] = clones
        if repeat.before < self.forward_steps:
            self.forward_steps += len(clones)
        self.count += len(clones)
        self.seconds += repeat.seconds
        return undo

    def again(self, array: Array, storage: Storage) -> str:
        name = self.draft.fresh(f"{array.name}~again")
        self.draft.arrays[name] = Array(
            name, array.type, array.strides, storage, array.offset, array.sources
        )
        return name

    def repeated(
        self, step: DraftStep, renamed: dict[str, str], before: int, reader: DraftStep
    ) -> DraftStep:
        """A step once more: on new arrays where it writes, scratch ones where nobody reads them."""
        inputs = len(step.kernel.inputs)
        arguments = []
        for place, name in enumerate(step.arguments):
            if name in renamed:
                arguments.append(renamed[name])
            elif place >= inputs:
                arguments.append(self.scratch(self.draft.arrays[name]))
            else:
                arguments.append(self.held(name, before))
        clone = DraftStep(
            step.kernel,
            tuple(arguments),
            layers=step.layers,
            kinds=(*(kind for kind in step.kinds if kind != "again"), "again"),
            backward=reader.backward,
            is_copy=step.is_copy,
        )
        for later in self.draft.steps[before:]:
            slots = {self.draft.arrays[name].storage for name in later.writes}
            if any(s.slot and s in slots for s in map(self.storage, clone.reads)):
                later.after.add(clone)
        return clone

    def storage(self, name: str) -> Storage:
        return self.draft.arrays[name].storage

    def held(self, name: str, before: int) -> str:
        """The array to read in place of a user's that has been renewed by then."""
        array = self.draft.arrays[name]
        if not array.storage.slot or array.sources:
            return name
        done = self.draft.steps[:before]
        renewed = any(self.storage(w) is array.storage for step in done for w in step.writes)
        return self.draft.held[name] if renewed else name

    def scratch(self, array: Array) -> str:
        name = self.draft.fresh(f"{array.name}~scratch")
        reach = sum((e - 1) * s for e, s in zip(array.type.shape, array.strides, strict=True))
        size = (reach + 1) * array.item_bytes if array.type.size else 0
        storage = Storage(name, size)
        self.draft.arrays[name] = Array(
            name, array.type, array.strides, storage, sources=frozenset({name})
        )
        return name

    def undo(self) -> Callable[[], None]:
        """What brings the draft back to how it is now."""
        before = [(step, step.arguments, set(step.after)) for step in self.draft.steps]
        figures = self.forward_steps, self.count, self.seconds
        arrays, remarks = dict(self.draft.arrays), len(self.draft.remarks)
        refused = set(self.refused)

        def back() -> None:
            self.draft.steps = [step for step, _, _ in before]
            for step, arguments, after in before:
                step.arguments, step.after = arguments, after
            self.forward_steps, self.count, self.seconds = figures
            self.draft.arrays, self.refused = arrays, refused
            del self.draft.remarks[remarks:]

        return back

    def note(self, repeat: Repeat, reader: DraftStep) -> None:
        """Say what was done and why."""
        first, *others = repeat.storages
        chain = f", with {', '.join(s.name for s in others)}" if others else ""
        self.draft.remark(
            "recompute",
            f"blob:{first.name}",
            f"{first.name} is computed again before {reader.pass_label}{chain}: that frees"
            f" {shown(first.bytes)} for {repeat.before - repeat.after - 1} steps and costs"
            f" about {repeat.seconds * 1e3:.2g} ms",
        )


def _over(live: np.ndarray, target: int) -> int:
    """Bytes above the target, summed over steps."""
    return int(np.maximum(live - target, 0).sum())


def _rank(repeat: Repeat) -> tuple[float, int]:
    return repeat.gain / max(repeat.seconds, 1e-9), -repeat.after
