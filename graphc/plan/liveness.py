"""When each array's bytes matter, and how much memory that asks for at the least."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphc.plan.draft import Draft, DraftStep, Storage

Span = tuple[int, int]


def array_spans(draft: Draft) -> dict[str, Span]:
    """First and last step, both included, between which an arena array's bytes must stay.

    From the first write of anything it shows to the last read of it through any array; to the last
    step where it must survive the call. Arrays that nothing ever writes are left out.
    """
    final = len(draft.steps) - 1
    written: dict[str, int] = {}
    last: dict[str, int] = {}
    for position, step in enumerate(draft.steps):
        for name in step.writes:
            written[name] = last[name] = position
        for source in draft.sources(step.reads):
            last[source] = position
    for source in draft.survivors():
        last[source] = final
    spans: dict[str, Span] = {}
    for name, array in draft.arrays.items():
        seen = [source for source in array.sources if source in written]
        if seen and array.storage.slot == 0:
            spans[name] = min(written[s] for s in seen), max(last[s] for s in seen)
    return spans


def storage_spans(draft: Draft) -> dict[Storage, Span]:
    """The same for whole arena storages."""
    spans: dict[Storage, Span] = {}
    for name, (first, last) in array_spans(draft).items():
        storage = draft.arrays[name].storage
        known = spans.get(storage, (first, last))
        spans[storage] = min(known[0], first), max(known[1], last)
    return spans


def live_bytes(intervals: Sequence[tuple[int, int, int]], steps: int) -> np.ndarray:
    """Bytes live at each step, for (bytes, first, last)."""
    change = np.zeros(steps + 1, np.int64)
    for size, first, last in intervals:
        change[first] += size
        change[last + 1] -= size
    return np.asarray(np.cumsum(change)[:steps])


def bound_of_order(intervals: Sequence[tuple[int, int, int]], steps: int) -> int:
    """The largest sum of bytes live at one step: no placement in this order can do with less."""
    return int(live_bytes(intervals, steps).max()) if steps else 0


def bound_of_any_order(draft: Draft, overwrites: dict[int, int]) -> int:
    """A number of bytes that no order of these steps (forward before backward) can do with less.

    While a step runs, a storage is live in any order if something that writes it comes before the
    step (or is it) and something that reads it comes after (or is it). `overwrites` says how many
    bytes a step may save at most by writing over its own inputs.
    """
    count = len(draft.steps)
    if not count:
        return 0
    place = {step: position for position, step in enumerate(draft.steps)}
    before = _ancestors(draft, place)
    after = _descendants(draft, place)
    writers: dict[Storage, int] = {}
    readers: dict[Storage, int] = {}
    survivors = {draft.arrays[name].storage for name in draft.survivors()}
    everything = (1 << count) - 1
    for position, step in enumerate(draft.steps):
        for name in step.arguments:
            storage = draft.arrays[name].storage
            readers[storage] = readers.get(storage, 0) | before[position]
        for name in step.writes:
            storage = draft.arrays[name].storage
            writers[storage] = writers.get(storage, 0) | after[position]
    total = np.zeros(count, np.int64)
    for storage, begun in writers.items():
        if storage.slot == 0:
            needed = everything if storage in survivors else readers[storage]
            total += storage.bytes * _bits(begun & needed, count)
    for position, saved in overwrites.items():
        total[position] -= saved
    return int(total.max())


def _ancestors(draft: Draft, place: dict[DraftStep, int]) -> list[int]:
    """For each step the set (as bits) of steps that must come before it, and itself."""
    needed = draft.dependencies()
    masks: list[int] = []
    forward = 0
    for position, step in enumerate(draft.steps):
        mask = 1 << position
        if step.backward:
            mask |= forward
        for other in needed[step]:
            mask |= masks[place[other]]
        masks.append(mask)
        if not step.backward:
            forward |= 1 << position
    return masks


def _descendants(draft: Draft, place: dict[DraftStep, int]) -> list[int]:
    """For each step the set (as bits) of steps that must come after it, and itself."""
    needed = draft.dependencies()
    backward = sum(1 << place[step] for step in draft.steps if step.backward)
    masks = [1 << place[step] | (0 if step.backward else backward) for step in draft.steps]
    for position in reversed(range(len(masks))):
        for other in needed[draft.steps[position]]:
            masks[place[other]] |= masks[position]
    return masks


def _bits(mask: int, count: int) -> np.ndarray:
    data = np.frombuffer(mask.to_bytes((count + 7) // 8, "little"), np.uint8)
    return np.unpackbits(data, bitorder="little")[:count].astype(np.int64)
