"""The order of the steps: each pass in the order that lets memory be freed early.

A step that depends on no other (a packed weight, a copy of an input, a fill) runs just before its
first reader, so that what it makes does not lie about. Beside the graph's own order a list schedule
is tried: among the steps that are ready, the one that makes live memory grow least runs first, so a
weight gradient comes before the data gradient that needs new bytes. Where the better of the two is
above what any order needs, and the steps are few, the best order is searched for. Everything is
deterministic: ties go to the graph's order.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.plan.draft import Draft, DraftStep, Storage
from graphc.plan.liveness import bound_of_any_order
from graphc.plan.occupancy import Occupancy, Overwriting
from graphc.plan.search import best_order, good_order
from graphc.plan.share import possible_savings

# Passes of more steps are not searched: they would not finish.
SEARCHED = 64


def order_steps(draft: Draft, overwriting: Overwriting | None = None) -> int:
    """Reorder the draft's steps, forward before backward. Returns the number of forward steps."""
    passes = [[s for s in draft.steps if s.backward is late] for late in (False, True)]
    overwriting = overwriting or Overwriting(draft)
    needed = draft.dependencies()
    for late in (False, True):
        plain = _late_sources(passes[late], needed)
        done, later = (passes[0], []) if late else ([], passes[1])
        greedy = _late_sources(_Schedule(draft, done, passes[late], later, needed).run(), needed)
        passes[late] = plain
        if _peak(draft, done + greedy + later, overwriting) < _peak(
            draft, done + plain + later, overwriting
        ):
            passes[late] = greedy
    draft.steps = passes[0] + passes[1]
    _search(draft, passes, overwriting)
    draft.steps = passes[0] + passes[1]
    draft.check_order()
    return len(passes[0])


def _search(draft: Draft, passes: list[list[DraftStep]], overwriting: Overwriting) -> None:
    """Put the best order of small passes in place, and say whether it was known to be the best."""
    peak = _peak(draft, draft.steps, overwriting)
    least = bound_of_any_order(draft, possible_savings(draft))
    if peak <= least:
        return
    known = True
    for late, steps in enumerate(passes):
        done, later = (passes[0], []) if late else ([], passes[1])
        found = None
        if len(steps) <= SEARCHED:
            found = best_order(draft, done, steps, later, overwriting, enough=least)
        known = known and found is not None
        if found is None and steps:
            found = good_order(draft, done, steps, later, overwriting)
        if found is not None:
            before, passes[late] = passes[late], found.steps
            now = _peak(draft, passes[0] + passes[1], overwriting)
            if now > peak:
                passes[late] = before
            peak = min(now, peak)
    if known:
        draft.remark("order", "net", f"no order of the calls needs less than {peak:,} bytes")


def _peak(draft: Draft, steps: list[DraftStep], overwriting: Overwriting) -> int:
    draft.steps = steps
    return Occupancy(draft, overwriting).peak


def _late_sources(
    steps: list[DraftStep], needed: dict[DraftStep, set[DraftStep]]
) -> list[DraftStep]:
    """The same order, with steps that depend on nothing moved to just before their first reader."""
    sources = {step for step in steps if not needed[step]}
    wanted = {other for step in steps for other in needed[step]} & sources
    place = {step: position for position, step in enumerate(steps)}
    done: set[DraftStep] = set()
    result: list[DraftStep] = []
    for step in steps:
        if step in wanted:
            continue
        for source in sorted(needed[step] & wanted - done, key=place.__getitem__):
            result.append(source)
            done.add(source)
        result.append(step)
    return result


class _Schedule:
    """A greedy list schedule of the steps of one pass."""

    def __init__(
        self,
        draft: Draft,
        done: Sequence[DraftStep],
        behind: Sequence[DraftStep],
        later: Sequence[DraftStep],
        needed: dict[DraftStep, set[DraftStep]],
    ):
        self.draft = draft
        self.place = {step: position for position, step in enumerate(behind)}
        inside = set(behind)
        self.waiting = {step: needed[step] & inside for step in behind}
        self.followers: dict[DraftStep, list[DraftStep]] = {step: [] for step in behind}
        for step in behind:
            for other in self.waiting[step]:
                self.followers[other].append(step)
        # A source is run by its first reader, so its bytes count there.
        self.sources = {s for s in behind if not needed[s] and self.followers[s]}
        survivors = draft.survivors()
        self.readers_left: dict[Storage, int] = {}
        self.touched: dict[DraftStep, set[Storage]] = {}
        self.live: set[Storage] = set()
        self.pinned: set[Storage] = set()
        for name in (*survivors, *(name for step in later for name in step.arguments)):
            self.pinned.add(draft.arrays[name].storage)
        for step in behind:
            arrays = [draft.arrays[name] for name in step.arguments]
            self.touched[step] = {a.storage for a in arrays if a.storage.slot == 0}
            for storage in self.touched[step]:
                self.readers_left[storage] = self.readers_left.get(storage, 0) + 1
        for step in done:
            for name in step.writes:
                self.live.add(draft.arrays[name].storage)

    def run(self) -> list[DraftStep]:
        result: list[DraftStep] = []
        left = {s: len(self.waiting[s] - self.sources) for s in self.place if s not in self.sources}
        ready = {step for step, count in left.items() if count == 0}
        while ready:
            step = min(ready, key=lambda s: (self.growth(s), self.place[s]))
            ready.remove(step)
            pending = self.waiting[step] & self.sources
            for source in sorted(pending, key=self.place.__getitem__):
                if source in self.sources:
                    self.sources.remove(source)
                    self.finish(source)
                    result.append(source)
            self.finish(step)
            result.append(step)
            for follower in self.followers[step]:
                if follower in left:
                    left[follower] -= 1
                    if left[follower] == 0:
                        ready.add(follower)
        return result

    def growth(self, step: DraftStep) -> int:
        """How much live memory changes when the step (and the sources it needs) has run."""
        steps = [step, *(self.waiting[step] & self.sources)]
        uses: dict[Storage, int] = {}
        for one in steps:
            for storage in self.touched[one]:
                uses[storage] = uses.get(storage, 0) + 1
        total = 0
        for storage, count in uses.items():
            dies = self.readers_left[storage] == count and storage not in self.pinned
            born = storage not in self.live
            total += (0 if dies else storage.bytes) if born else (-storage.bytes if dies else 0)
        return total

    def finish(self, step: DraftStep) -> None:
        for storage in self.touched[step]:
            self.readers_left[storage] -= 1
            self.live.add(storage)
