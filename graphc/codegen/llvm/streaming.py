"""Results that go past the caches: large arrays of which a kernel writes whole lines.

A line that an ordinary store writes is first read from memory, and later pushes another one out of
the caches. For an array that no cache holds until its reader comes, both are for nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.loops import INT64, whole
from graphc.codegen.llvm.schedule import Schedule
from graphc.codegen.llvm.sweeps import stored_loads
from graphc.codegen.llvm.target import Target
from graphc.codegen.nodes import StoreNode, reachable, statement_nodes
from graphc.ir.types import DTYPES

# An array of so many second-level caches is taken for one that does not stay in any.
STREAMED_CACHES = 8
# Rows that begin anywhere need a part of a vector at either end, so they must be long.
LEAST_VECTORS = 8


@dataclass(frozen=True)
class Streams:
    """buffers: names of those that are written past the caches.

    uneven: the store whose rows begin at no multiple of a vector's size, if there is one: the first
    vector of each row must be cut so that the others are aligned. Without one, vectors are aligned
    if the buffers are.
    """

    buffers: frozenset[str] = frozenset()
    uneven: StoreNode | None = None


def streams_of(plan: Schedule, target: Target) -> Streams:
    """What a kernel writes in whole vectors to large buffers and does not read again."""
    if plan.batch or target.vector_bytes < 32:
        return Streams()
    nodes = plan.nodes
    stores: dict[str, list[StoreNode]] = {}
    every = [n for statement in nodes.statements for n in reachable(statement_nodes(statement))]
    kept = {n for slot in plan.kept.slots.values() for some in slot.taken.values() for n in some}
    if plan.made is not None:
        kept.update(n for s in nodes.statements for n in stored_loads(plan.made, s))
    read = {node.address.buffer.name for node in every if node.address and node not in kept}
    for statement in nodes.statements:
        if not isinstance(statement, StoreNode) or statement in plan.kept.temporary:
            continue
        if statement.address.buffer.name not in read:
            stores.setdefault(statement.address.buffer.name, []).append(statement)
    large = {
        name: found
        for name, found in stores.items()
        if all(_is_large_row(store, plan, target) for store in found)
    }
    even = [name for name, found in large.items() if all(_is_even(s, target, plan) for s in found)]
    if even or len(large) != 1:
        return Streams(frozenset(even))
    ((name, (store, *others)),) = large.items()
    axis = plan.inner.get(store, plan.vector)
    long = axis is not None and nodes.extents[axis] >= LEAST_VECTORS * _lanes(store, plan)
    drawn = any(node.op == "random_bits" for node in every)  # made for lanes at even places
    inside = store in plan.inner or not store.axes
    by_rows = plan.walk or (plan.outer and inside)
    if others or drawn or not long or not by_rows:
        return Streams()
    return Streams(frozenset([name]), store)


def _is_large_row(store: StoreNode, plan: Schedule, target: Target) -> bool:
    address = store.address
    axis = plan.inner.get(store, plan.vector)
    size = math.prod(address.buffer.shape) * DTYPES[address.buffer.dtype]
    if store.mode != "set" or address.parts or axis is None:
        return False
    if any(axis in guard.axes or guard.locals or guard.reads for guard in store.guards):
        return False  # only some lanes of a vector
    if address.terms.get(axis) != 1:
        return False
    whole_vectors = _lane_bytes(store, plan) % target.vector_bytes == 0
    return size >= STREAMED_CACHES * target.l2_bytes and whole_vectors


def _lanes(store: StoreNode, plan: Schedule) -> int:
    return plan.inner_lanes[store] if store in plan.inner else plan.lanes


def _lane_bytes(store: StoreNode, plan: Schedule) -> int:
    return _lanes(store, plan) * DTYPES[store.address.buffer.dtype]


def _is_even(store: StoreNode, target: Target, plan: Schedule) -> bool:
    """Whether all vectors begin at multiples of their size, counted from the buffer."""
    address, axis = store.address, plan.inner.get(store, plan.vector)
    steps = [step for other, step in address.terms.items() if other != axis]
    item = DTYPES[address.buffer.dtype]
    return not any(step * item % target.vector_bytes for step in (*steps, address.constant))


def before_aligned(builder: ir.IRBuilder, place: ir.Value, item: int, size: int) -> ir.Value:
    """Elements of `item` bytes from a place to the next multiple of `size` bytes."""
    left = builder.and_(builder.neg(builder.ptrtoint(place, INT64)), whole(size - 1))
    return builder.udiv(left, whole(item))


def are_aligned(builder: ir.IRBuilder, bases: list[ir.Value], size: int) -> ir.Value:
    """Whether all of these places are multiples of `size` bytes."""
    bits: ir.Value = whole(0)
    for base in bases:
        bits = builder.or_(bits, builder.ptrtoint(base, INT64))
    return builder.icmp_unsigned("==", builder.and_(bits, whole(size - 1)), whole(0))
