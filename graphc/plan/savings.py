"""What each kind of decision about memory saved.

Every such decision leaves a remark with the bytes of the array that is not made, or not kept. Here
those are added up by kind. Arrays do not all live at once, so the sums say little about the arena;
for that each kind is taken back alone: the most that would be live at one step of this order if its
arrays were made, and kept as long as somebody would need them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from graphc.ir.graph import Graph, Node, Value
from graphc.ir.remark import Remark, Saving
from graphc.plan.draft import Array, Draft, DraftStep, Storage
from graphc.plan.liveness import Span, live_bytes
from graphc.plan.program import SavedRow
from graphc.plan.repeat import AGAIN

VIEW = "a view in place of a copy"
PART = "a part written in its place in a concatenation"
FREED = "a value that backward does not read"
INDEX = "an index of one byte instead of four"

Interval = tuple[int, int, int]  # bytes, first and last step


def note_savings(graph: Graph, draft: Draft) -> dict[str, list[Interval]]:
    """Remark on what is saved by views and by what backward reads.

    Returns when the arrays of each kind would be live, if they were made.
    """
    return {
        VIEW: _views(draft),
        PART: _parts(draft),
        FREED: _freed(graph, draft),
        INDEX: _indices(draft),
        AGAIN: _waiting(draft),
    }


def overwriting_intervals(
    parents: dict[Storage, Storage], spans: dict[Storage, Span]
) -> list[Interval]:
    """While a step writes over its input, one of the two would be needed besides."""
    return [(new.bytes, spans[new][0], spans[new][0]) for new in parents]


def rows(
    remarks: Iterable[Remark],
    intervals: dict[str, list[Interval]],
    live: Sequence[Interval],
    steps: int,
) -> tuple[SavedRow, ...]:
    """The kinds, by what they save, the largest first. `live` are the arena's blocks."""
    found: dict[str, list[int]] = {}
    for remark in dict.fromkeys(remarks):
        if remark.saving is not None and remark.saving.bytes:
            found.setdefault(remark.saving.choice, []).append(remark.saving.bytes)
    now = live_bytes(live, steps)
    made = [
        SavedRow(choice, len(sizes), sum(sizes), _without(now, intervals.get(choice)))
        for choice, sizes in found.items()
    ]
    return tuple(sorted(made, key=lambda row: (-row.bytes, row.choice)))


def _without(now: np.ndarray, intervals: list[Interval] | None) -> int | None:
    if not intervals or not len(now):
        return None
    return int((now + live_bytes(intervals, len(now))).max())


# -- each kind -------------------------------------------------------------------------------------


def _positions(draft: Draft, of: Callable[[DraftStep], Iterable[str]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for position, step in enumerate(draft.steps):
        for name in of(step):
            found.setdefault(name, []).append(position)
    return found


def _note(draft: Draft, array: Array, said: str, choice: str) -> None:
    """A remark on a value that needs no bytes of its own, all of which `choice` has saved."""
    draft.remark("share", f"blob:{array.name}", said, Saving(choice, array.type.bytes))


def _views(draft: Draft) -> list[Interval]:
    """Flattened, reshaped and sliced values, and the copies that a Split hands out."""
    writers, readers = draft.writers(), _positions(draft, lambda step: step.reads)
    intervals = []
    for name, array in draft.arrays.items():
        storage = array.storage
        if name in writers or name not in readers or name == storage.name:
            continue
        said = f"{name} shows {storage.name}, or a part of it, and needs no copy"
        _note(draft, array, said, VIEW)
        intervals.append((array.type.bytes, readers[name][0], readers[name][-1]))
    return intervals


def _parts(draft: Draft) -> list[Interval]:
    """What is written straight into its place in a larger array, by another step than a copy."""
    writes = _positions(draft, lambda step: step.writes)
    last: dict[Storage, int] = {}
    for name, places in writes.items():
        storage = draft.arrays[name].storage
        last[storage] = max(last.get(storage, 0), places[-1])
    intervals = []
    for name, (position, *_) in writes.items():
        array = draft.arrays[name]
        if draft.steps[position].is_copy or not _is_part(draft, array):
            continue
        said = f"{name} is written straight into its place in {array.storage.name}"
        _note(draft, array, said, PART)
        intervals.append((array.type.bytes, position, last[array.storage]))
    return intervals


def _is_part(draft: Draft, array: Array) -> bool:
    return not array.storage.slot and not array.is_whole and array.storage.name in draft.arrays


def _freed(graph: Graph, draft: Draft) -> list[Interval]:
    """Inputs of a layer that has a gradient, but whose gradient does not read them."""
    read_late = {v for node in graph.nodes if node.origin.backward for v in node.inputs}
    late: dict[str, set[Value]] = {}
    for node in graph.nodes:
        if node.origin.backward:
            late.setdefault(node.origin.layer, set()).update(node.inputs)
    made_by = {value: node for node in graph.nodes for value in node.outputs}
    layers = _layer_positions(draft)
    intervals, seen = [], set[Value]()
    for node in graph.nodes:
        layer = node.origin.layer
        if node.origin.backward or not layer or layer not in late or _only_shows(node):
            continue
        for value in node.inputs:
            maker = made_by.get(value)
            if maker is None or value in read_late or value in seen or not value.type.is_real:
                continue
            if maker.origin.layer == layer or maker.origin.backward:
                continue
            seen.add(value)
            instead = "its output" if late[layer] & set(node.outputs) else "nothing of it"
            draft.remark(
                "share",
                f"blob:{value.name}",
                f"{value.name} is not kept for backward: the gradient of {layer}"
                f" ({node.origin.kind}) reads {instead}",
                Saving(FREED, value.type.bytes),
            )
            if all(way in layers for way in ((layer, False), (layer, True))):
                intervals.append(
                    (value.type.bytes, layers[layer, False][0], layers[layer, True][-1])
                )
    return intervals


def _only_shows(node: Node) -> bool:
    op = node.op
    return op.is_view or op.is_identity or op.is_slice or op.is_concat


def _layer_positions(draft: Draft) -> dict[tuple[str, bool], list[int]]:
    """Where each layer runs, forward and backward."""
    found: dict[tuple[str, bool], list[int]] = {}
    for position, step in enumerate(draft.steps):
        for layer in step.layers:
            found.setdefault((layer, step.backward), []).append(position)
    return found


def _indices(draft: Draft) -> list[Interval]:
    """Where a maximum was found, in a window small enough to count in a byte."""
    writes = _positions(draft, lambda step: step.writes)
    readers = _positions(draft, lambda step: step.reads)
    intervals = []
    for name, (position, *_) in writes.items():
        array = draft.arrays[name]
        late = [place for place in readers.get(name, ()) if draft.steps[place].backward]
        if array.type.dtype != "uint8" or array.storage.slot or not late:
            continue
        draft.remark(
            "share",
            f"blob:{name}",
            f"{name} takes one byte an element: it says where in a window the maximum is",
            Saving(INDEX, 3 * array.type.bytes),
        )
        intervals.append((3 * array.type.bytes, position, late[-1]))
    return intervals


def _waiting(draft: Draft) -> list[Interval]:
    """Values computed again, from their last use before that to the first use after it."""
    touched: dict[str, list[int]] = {}
    for position, step in enumerate(draft.steps):
        for name in step.arguments:
            touched.setdefault(draft.arrays[name].storage.name, []).append(position)
    sizes = {array.storage.name: array.storage.bytes for array in draft.arrays.values()}
    return [
        (sizes[name], touched[name][-1] + 1, touched[f"{name}~again"][0] - 1)
        for name in touched
        if f"{name}~again" in touched and touched[name][-1] + 1 < touched[f"{name}~again"][0]
    ]
