"""Graph -> Program: lower, join, order, share, and place everything in one arena."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from graphc.ir.graph import Graph
from graphc.ir.remark import Remark
from graphc.kernel.factors import take_factors_out
from graphc.kernel.lang import Kernel
from graphc.kernel.once import compute_once
from graphc.plan.algorithm import choose_algorithms
from graphc.plan.arena import Block, pack, stacked
from graphc.plan.budget import Memory
from graphc.plan.cheap import repeat_cheap_maps
from graphc.plan.cores import PROCESSOR, Cores
from graphc.plan.draft import Draft, Storage
from graphc.plan.joining import join_steps
from graphc.plan.liveness import (
    Span,
    array_spans,
    bound_of_any_order,
    bound_of_order,
    storage_spans,
)
from graphc.plan.lower import lower
from graphc.plan.occupancy import Overwriting
from graphc.plan.order import order_steps
from graphc.plan.parted_sums import part_sums
from graphc.plan.permission import Algorithms, allowed
from graphc.plan.program import MemoryReport, Program, ProgramBuffer, Step
from graphc.plan.recompute import fit
from graphc.plan.savings import note_savings, overwriting_intervals
from graphc.plan.savings import rows as saved_rows
from graphc.plan.share import IN_PLACE, Shares, commit_in_place, possible_savings, share_bytes
from graphc.plan.unread import mark_unread


def plan(
    graph: Graph,
    *,
    keep: Iterable[str] = (),
    memory: Memory = "reuse",
    join: bool = True,
    algorithms: Algorithms | None = None,
    cores: Cores = PROCESSOR,
) -> Program:
    """The program of a graph, forward and backward.

    Args:
        graph: the net after all passes.
        keep: names of blobs (`conv5`, `conv5.diff`) whose values must survive the call.
        memory: "reuse" lets values share bytes when they are not needed at the same time; "all"
            gives each its own and keeps every blob; a number is a budget for the arena in bytes,
            which is met by computing values again. All run the same arithmetic.
        join: whether steps are joined into one sweep where kernels allow it.
        algorithms: what convolutions may be besides direct sums; None: what is usual.
        cores: what the program runs on, as far as joining depends on it.

    Raises NetError for a name in `keep` that the net does not know, BudgetError for a budget that
    cannot be met.
    """
    draft = lower(graph, keep, everything=memory == "all")
    if join:
        join_steps(draft, cores)
    _simplify(draft)
    algorithms = allowed() if algorithms is None else algorithms
    choose_algorithms(draft, algorithms)
    if algorithms.parted_sums:
        part_sums(draft)
    commit_in_place(draft)
    overwriting = Overwriting(draft)
    forward_steps = order_steps(draft, overwriting)
    _drop_unused(draft)
    if memory == "reuse":
        forward_steps = repeat_cheap_maps(draft, forward_steps, overwriting)
    elif memory != "all":

        def arena_size() -> int:
            return _place(draft, memory).bytes

        forward_steps = fit(draft, forward_steps, overwriting, memory, arena_size)
    mark_unread(draft)
    return _program(graph, draft, forward_steps, memory)


@dataclass(frozen=True)
class _Placement:
    """Where every storage lies: blocks by their root, and the size of the arena."""

    shares: Shares
    blocks: dict[Storage, Block]
    offsets: dict[Storage, int]
    bytes: int
    remarks: tuple[Remark, ...] = ()


def _place(draft: Draft, memory: Memory) -> _Placement:
    spans = storage_spans(draft)
    remarks: list[Remark] = []
    shares = Shares() if memory == "all" else share_bytes(draft, spans, remarks)
    blocks = _blocks(spans, shares)
    offsets, size = (stacked if memory == "all" else pack)(list(blocks.values()))
    return _Placement(shares, blocks, dict(zip(blocks, offsets, strict=True)), size, tuple(remarks))


def _program(graph: Graph, draft: Draft, forward_steps: int, memory: Memory) -> Program:
    placed = _place(draft, memory)
    draft.remarks.extend(placed.remarks)
    buffers = _buffers(draft, placed.shares, placed.offsets)
    places = list(placed.blocks.values())
    if memory == "all":
        final = len(draft.steps) - 1
        places = [replace(block, last=final) for block in places]
    spans = storage_spans(draft)
    without = note_savings(graph, draft)
    without[IN_PLACE] = overwriting_intervals(placed.shares.parent, spans)
    remarks = (*graph.remarks, *draft.remarks)
    live = [(b.bytes, b.first, b.last) for b in places]
    report = MemoryReport(
        peak=placed.bytes,
        bound_of_order=bound_of_order(live, len(draft.steps)),
        bound_of_any_order=bound_of_any_order(draft, possible_savings(draft)),
        naive=sum(storage.bytes for storage in spans),
        slots=_slot_bytes(draft),
        saved=saved_rows(remarks, without, live, len(draft.steps)),
    )
    readable_forward, _ = _readable(draft, buffers, forward_steps)
    readable, overwritten = _readable(draft, buffers, len(draft.steps))
    return Program(
        name=graph.name,
        slots=tuple(draft.slots),
        buffers=buffers,
        steps=tuple(
            Step(s.kernel, s.arguments, ", ".join(s.layers), ", ".join(s.kinds), s.backward)
            for s in draft.steps
        ),
        forward_steps=forward_steps,
        arena_bytes=placed.bytes,
        memory=report,
        readable=readable,
        overwritten=overwritten,
        remarks=remarks,
        readable_forward=readable_forward,
    )


def _simplify(draft: Draft) -> None:
    """Let every kernel sum up no more than it must, and keep what it would compute again."""
    made: dict[Kernel, Kernel] = {}
    for step in draft.steps:
        if step.kernel not in made:
            made[step.kernel] = compute_once(take_factors_out(step.kernel))
        step.kernel = made[step.kernel]


def _drop_unused(draft: Draft) -> None:
    """Forget arrays that no step touches and no blob names."""
    used = {name for step in draft.steps for name in step.arguments} | set(draft.blobs.values())
    draft.arrays = {
        name: array for name, array in draft.arrays.items() if name in used or array.storage.slot
    }


def _blocks(spans: dict[Storage, Span], shares: Shares) -> dict[Storage, Block]:
    """One block for every set of storages that share bytes, living as long as any of them."""
    blocks: dict[Storage, Block] = {}
    for storage, (first, last) in spans.items():
        root = shares.root(storage)
        known = blocks.get(root, Block(storage.bytes, first, last))
        blocks[root] = Block(known.bytes, min(known.first, first), max(known.last, last))
    return blocks


def _buffers(draft: Draft, shares: Shares, placed: dict[Storage, int]) -> dict[str, ProgramBuffer]:
    spans = array_spans(draft)
    final = max(len(draft.steps) - 1, 0)
    buffers: dict[str, ProgramBuffer] = {}
    for name, array in draft.arrays.items():
        offset = array.offset
        first, last = 0, final
        if array.storage.slot == 0:
            if name not in spans:
                continue
            first, last = spans[name]
            offset += placed[shares.root(array.storage)]
        buffers[name] = ProgramBuffer(
            name=name,
            dtype=array.type.dtype,
            shape=array.type.shape,
            strides=array.strides,
            slot=array.storage.slot,
            offset=offset,
            first=first,
            last=last,
            needed=last,
        )
    return buffers


def _readable(
    draft: Draft, buffers: dict[str, ProgramBuffer], steps: int
) -> tuple[dict[str, str], dict[str, str]]:
    """Which blobs stand after the first `steps` steps, and what happened to the others.

    A blob that nothing happened to overwrite is promised as well: its buffer's span is lengthened.
    """
    readable: dict[str, str] = {}
    overwritten = dict(draft.gone)
    done = {name for step in draft.steps[:steps] for name in step.writes}
    writes = _Writes(draft, buffers, steps)
    for blob, name in draft.blobs.items():
        if name not in buffers:
            overwritten[blob] = (
                f"'{blob}' is not stored: it stays in registers; keep='{blob}' keeps it"
            )
            continue
        if not draft.arrays[name].sources <= done:
            overwritten[blob] = f"'{blob}' is not computed yet"
            continue
        buffer = buffers[name]
        by = None if buffer.slot else writes.over(buffer)
        if by is None:
            readable[blob] = name
            buffers[name] = replace(buffer, last=max(buffer.last, steps - 1))
        else:
            overwritten[blob] = (
                f"'{blob}' has been overwritten by {by} to save memory; keep='{blob}' keeps it"
            )
    return readable, overwritten


class _Writes:
    """What the first `steps` steps write into the arena: asked for every blob of a deep net."""

    def __init__(self, draft: Draft, buffers: dict[str, ProgramBuffer], steps: int):
        self.draft = draft
        self.storages = {
            storage: n for n, storage in enumerate({a.storage for a in draft.arrays.values()})
        }
        rows = [
            (place, other.offset, other.offset + other.span_bytes, other.first, self.number(name))
            for place, step in enumerate(draft.steps[:steps])
            for name in step.writes
            if not (other := buffers[name]).slot
        ]
        table = np.array(rows, np.int64).reshape(-1, 5)
        self.place, self.start, self.end, self.first, self.storage = table.T

    def number(self, name: str) -> int:
        return self.storages[self.draft.arrays[name].storage]

    def over(self, buffer: ProgramBuffer) -> str | None:
        """The first step that writes over an arena buffer after it is made; None if none does."""
        late = (self.place >= buffer.first) & (self.first >= buffer.first)
        meets = (self.start < buffer.offset + buffer.span_bytes) & (buffer.offset < self.end)
        found = np.flatnonzero(late & meets & (self.storage != self.number(buffer.name)))
        return self.draft.steps[self.place[found[0]]].pass_label if len(found) else None


def _slot_bytes(draft: Draft) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for slot in draft.slots[1:]:
        sizes[slot.role] = sizes.get(slot.role, 0) + slot.type.bytes
    return sizes
