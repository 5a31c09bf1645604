"""What lies in the arena at each step of an order, writing over inputs counted in.

The figures are those that the arena comes to where nothing is lost between blocks, so a stage that
changes the steps can see at once what a change is worth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from graphc.plan.arena import aligned
from graphc.plan.draft import Draft, DraftStep, Storage
from graphc.plan.liveness import Span
from graphc.plan.share import overwritable


class Overwriting:
    """Who may write over whom, by the kernels alone; asked for often, found once for each step."""

    def __init__(self, draft: Draft):
        self.draft = draft
        self.known: dict[tuple[DraftStep, tuple[str, ...]], list[tuple[str, str]]] = {}

    def pairs(self, step: DraftStep) -> list[tuple[Storage, Storage]]:
        """(what is written, what it may lie on) for whole storages of the arena."""
        arrays = self.draft.arrays
        key = step, step.arguments
        if key not in self.known:
            self.known[key] = overwritable(self.draft, step)
        found = [(arrays[target], arrays[source]) for target, source in self.known[key]]
        return [(target.storage, source.storage) for target, source in found if source.is_whole]


class Occupancy:
    """Where each storage of the arena is written and read, and how much is live at each step.

    Attributes:
        touched: storage -> positions of the steps that write or read it, in order.
        written: storage -> positions of the steps that write it.
        renewed: array of the user's -> the step that writes it.
        pinned: storages that must survive the call.
        live: bytes at each step.
        across: bytes that lie there while nothing runs, just before each step.
    """

    def __init__(self, draft: Draft, overwriting: Overwriting):
        self.draft = draft
        self.count = len(draft.steps)
        self.pinned = {draft.arrays[name].storage for name in draft.survivors()}
        self.touched: dict[Storage, list[int]] = {}
        self.written: dict[Storage, list[int]] = {}
        self.renewed: dict[Storage, int] = {}
        for position, step in enumerate(draft.steps):
            inputs = len(step.kernel.inputs)
            for place, name in enumerate(step.arguments):
                storage = draft.arrays[name].storage
                if storage.slot:
                    if place >= inputs:
                        self.renewed.setdefault(storage, position)
                    continue
                touched = self.touched.setdefault(storage, [])
                if not touched or touched[-1] != position:
                    touched.append(position)
                if place >= inputs:
                    self.written.setdefault(storage, []).append(position)
        self.spans: dict[Storage, Span] = {
            storage: (self.written[storage][0], self.last(storage)) for storage in self.written
        }
        self.live = _sums(self.spans, self.count)
        self.across = self.live.copy()
        for storage, (first, _) in self.spans.items():
            self.across[first] -= aligned(storage.bytes)
        for position, step in enumerate(draft.steps):
            self.live[position] -= self.overwritten(position, overwriting.pairs(step))

    def last(self, storage: Storage) -> int:
        """The last step for which its bytes must be as they are."""
        return self.count - 1 if storage in self.pinned else self.touched[storage][-1]

    def overwritten(self, position: int, pairs: Sequence[tuple[Storage, Storage]]) -> int:
        """Bytes that a step saves by writing over inputs that nobody reads after it."""
        done: set[Storage] = set()
        saved = 0
        for new, old in pairs:
            if old in done or new in done or old in self.pinned:
                continue
            if self.spans[old][1] == position and self.spans[new][0] == position:
                done |= {old, new}
                saved += aligned(new.bytes)
        return saved

    @property
    def peak(self) -> int:
        """The most that is live at one step."""
        return int(self.live.max()) if self.count else 0

    def at(self, position: int) -> list[Storage]:
        """Storages that are live at a step, the largest first."""
        found = [s for s, (first, last) in self.spans.items() if first <= position <= last]
        return sorted(found, key=lambda storage: (-storage.bytes, storage.name))


def _sums(spans: Mapping[Storage, Span], count: int) -> np.ndarray:
    change = np.zeros(count + 1, np.int64)
    for storage, (first, last) in spans.items():
        change[first] += aligned(storage.bytes)
        change[last + 1] -= aligned(storage.bytes)
    return np.cumsum(change)[:count]
