"""What a kernel should fetch from memory ahead of what it computes.

The rows that windows meet are several streams, and a processor notices too late where these go: a
window waits for memory although it computes little. So a kernel with windows asks for all that it
will read some way ahead, but for what a window shares with the one before it along any loop.

A map reads an array from end to end. A processor follows, but it begins anew at each page, and the
computation of elements that have not come yet leaves it no room to look further. Where a core reads
several pages at once faster, they are asked for so (`pages_ahead`). A sum over rows that do not
follow each other, those of a channel, begins anew at each row, too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

from graphc.codegen.llvm.pages_ahead import Pages, is_walk, pages_of
from graphc.codegen.llvm.schedule import Schedule
from graphc.codegen.llvm.target import Target
from graphc.codegen.nodes import Address, FoldNode, Node, reachable, statement_nodes
from graphc.ir.types import DTYPES
from graphc.kernel.lang import Axis

BYTES_AHEAD = 4096
ROW_BYTES_AHEAD = 8192
MOST_PLACES = 64  # loads of one window that are looked at
_Row = tuple[str, tuple[tuple[Axis, int], ...]]
Ahead = tuple[Address, int | Pages]  # how many elements further on, or in which pages


def fetched_ahead(plan: Schedule, target: Target) -> list[Ahead]:
    """Addresses, each with where lies what is to be fetched."""
    if plan.vector is None or plan.kept.slots or target.lanes("float32") == 1:
        return []  # strips that are kept fetch for themselves
    if plan.is_map:
        return list(_map_ahead(plan, plan.vector, target))
    rows: dict[_Row, dict[int, Address]] = {}
    overlap = False
    for statement in plan.nodes.statements:
        if plan.nodes.size(statement.axes) > MOST_PLACES:
            return []
        for node in reachable(statement_nodes(statement)):
            if node.address is not None and is_far_row(node.address, plan.vector, target):
                found = _places(node.address, statement.axes, plan)
                key = _key(found[0])
                overlap = overlap or (isinstance(statement, FoldNode) and len(found) > 1)
                rows.setdefault(key, {}).update({a.constant: a for a in found})
    if not overlap:
        return []
    return [
        (address, _distance(address, plan))
        for places in rows.values()
        for address in places.values()
        if not _was_met(address, places, plan)
    ]


def _map_ahead(plan: Schedule, vector: Axis, target: Target) -> Iterator[Ahead]:
    """The rows that a map reads: in pages ahead; or if there is one array, of several some come.

    Rows that are read again and again stay in the caches.
    """
    every = {n: None for s in plan.nodes.statements for n in reachable(statement_nodes(s))}
    addresses = dict.fromkeys(node.address for node in every if node.address is not None)
    far = [address for address in addresses if is_far_row(address, vector, target)]
    rows = [*plan.outer, *plan.loops]
    pages = pages_of(plan.nodes.kernel, target)
    if pages:
        walked = [address for address in far if is_walk(address, [*rows, vector], plan.nodes)]
        yield from ((address, pages) for address in walked)
        if walked:
            return
    for address in far if len(far) == 1 else ():
        item = DTYPES[address.buffer.dtype]
        step = address.terms.get(rows[-1], 0) if rows else plan.nodes.extents[vector]
        if step == plan.nodes.extents[vector] or abs(step) * item > ROW_BYTES_AHEAD:
            yield address, ROW_BYTES_AHEAD // item
        elif step:
            yield address, step * -(-ROW_BYTES_AHEAD // (abs(step) * item))


def folded_ahead(plan: Schedule, target: Target) -> dict[FoldNode, list[Ahead]]:
    """The same for each fold in lanes along one of its own loops.

    What an earlier fold has read is near, if that was less than a cache holds.
    """
    found: dict[FoldNode, list[Ahead]] = {}
    near: set[Node] = set()
    for fold in plan.nodes.statements:
        if not isinstance(fold, FoldNode) or fold in plan.carried or fold not in plan.inner:
            continue
        loads = [n for n in reachable(statement_nodes(fold)) if n.address and n not in near]
        found[fold] = list(_rows_ahead(fold, loads, plan, target))
        if plan.nodes.size(fold.axes) * DTYPES["float32"] <= target.l2_bytes // 2:
            near.update(loads)
    return found


def _rows_ahead(
    fold: FoldNode, loads: list[Node], plan: Schedule, target: Target
) -> Iterator[Ahead]:
    """A row ahead where rows lie apart, since that is where a processor has to begin anew.

    What lies in one piece is fetched as a map's is: in pages ahead, or where it is one array.
    """
    inner = plan.inner[fold]
    extent = plan.nodes.extents[inner]
    rows = [*plan.outer, *plan.loops, *(axis for axis in fold.axes if axis != inner)]
    addresses = dict.fromkeys(n.address for n in loads if n.address is not None)
    far = [address for address in addresses if is_far_row(address, inner, target)]
    for address in far:
        item = DTYPES[address.buffer.dtype]
        step = address.terms.get(rows[-1], 0) if rows else 0
        pages = pages_of(plan.nodes.kernel, target)
        if pages and is_walk(address, [*rows, inner], plan.nodes):
            yield address, pages
            continue
        if step == extent and len(far) > 1:
            continue  # rows one after the other, as a map of several arrays reads them
        if step in (0, extent) or extent * item > 2 * ROW_BYTES_AHEAD:
            yield address, ROW_BYTES_AHEAD // item
        else:
            yield address, step * -(-ROW_BYTES_AHEAD // (extent * item))


def is_far_row(address: Address, vector: Axis, target: Target) -> bool:
    """Whether lanes read neighbours in an array that does not stay in the second cache."""
    size = math.prod(address.buffer.shape) * DTYPES[address.buffer.dtype]
    return address.terms.get(vector) == 1 and not address.parts and size > target.l2_bytes


def _places(address: Address, own: tuple[Axis, ...], plan: Schedule) -> list[Address]:
    """The address at every iteration of a statement's own loops."""
    axes = [axis for axis in own if axis in address.terms]
    outside = {axis: step for axis, step in address.terms.items() if axis not in axes}
    found = []
    for numbers in itertools.product(*(range(plan.nodes.extents[axis]) for axis in axes)):
        moved = sum(address.terms[axis] * n for axis, n in zip(axes, numbers, strict=True))
        found.append(replace(address, terms=outside, constant=address.constant + moved))
    return found


def _key(address: Address) -> _Row:
    terms = sorted(address.terms.items(), key=lambda term: term[0].name)
    return address.buffer.name, tuple(terms)


def _was_met(address: Address, places: dict[int, Address], plan: Schedule) -> bool:
    """Whether the iteration before, along some loop, has read the same."""
    steps = (address.terms.get(axis, 0) for axis in (*plan.outer, *plan.loops))
    return any(step and address.constant + step in places for step in steps)


def _distance(address: Address, plan: Schedule) -> int:
    step = address.terms.get(plan.loops[-1], 0) if plan.loops else plan.lanes
    size = max(1, abs(step) * DTYPES[address.buffer.dtype])
    return step * -(-BYTES_AHEAD // size)


def pages_asked_for(ahead: Iterable[Ahead]) -> int:
    """In how many pages at once; 0 for none."""
    return max((to.count for _, to in ahead if isinstance(to, Pages)), default=0)
