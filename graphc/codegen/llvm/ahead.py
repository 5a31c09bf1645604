"""Windows that move over an image: what a kernel should fetch from memory ahead of its windows.

The rows that windows meet are several streams, and a processor notices too late where these go: a
window waits for memory although it computes little. So a kernel with windows asks for all that it
will read some way ahead, but for what a window shares with the one before it along any loop.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

from graphc.codegen.llvm.schedule import Schedule
from graphc.codegen.llvm.target import Target
from graphc.codegen.nodes import Address, FoldNode, reachable, statement_nodes
from graphc.ir.types import DTYPES
from graphc.kernel.lang import Axis

BYTES_AHEAD = 4096
MOST_PLACES = 64  # loads of one window that are looked at
_Row = tuple[str, tuple[tuple[Axis, int], ...]]


def fetched_ahead(plan: Schedule, target: Target) -> list[tuple[Address, int]]:
    """Addresses, each with how many elements further on lies what is to be fetched."""
    if plan.vector is None or target.lanes("float32") == 1:
        return []
    rows: dict[_Row, dict[int, Address]] = {}
    overlap = False
    for statement in plan.nodes.statements:
        if plan.nodes.size(statement.axes) > MOST_PLACES:
            return []
        for node in reachable(statement_nodes(statement)):
            if node.address is not None and _is_far_row(node.address, plan.vector, target):
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


def _is_far_row(address: Address, vector: Axis, target: Target) -> bool:
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
