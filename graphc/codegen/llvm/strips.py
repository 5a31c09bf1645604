"""Strips of long rows: windows that reach over several rows find them in the first cache.

A window sum across the channels of a row-major image reads five rows of its neighbours. Where these
are longer than the cache, each is fetched again for each of the five. So rows are cut into strips,
and all rows of one strip are done before those of the next.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from graphc.codegen.llvm.schedule import Schedule
from graphc.codegen.llvm.target import Target
from graphc.codegen.nodes import FoldNode, reachable, statement_nodes
from graphc.ir.types import DTYPES
from graphc.kernel.lang import Axis

# A strip has at least so many groups of lanes, so that its ends do not matter.
LEAST_GROUPS = 8


@dataclass(frozen=True)
class Strips:
    """The loop over strips, and how many elements of the vector's axis are one."""

    axis: Axis
    size: int


def cut_in_strips(plan: Schedule, target: Target) -> Strips | None:
    """Let a schedule run in strips where that saves fetching rows again; None where it does not.

    The loop over rows goes inside of the one over strips, which threads share.
    """
    if plan.vector is None or plan.loops or plan.serial or not plan.outer or plan.kept.slots:
        return None
    rows = plan.outer[-1]
    read, again = _row_bytes(plan, plan.vector, rows)
    extent = plan.nodes.extents[plan.vector]
    if not again or read * extent <= target.l1_bytes // 2:
        return None
    least = LEAST_GROUPS * plan.lanes
    size = max(least, target.l1_bytes // 2 // read // plan.lanes * plan.lanes)
    if extent < size + least:
        return None
    strips = Axis("strip", math.ceil(extent / size))
    plan.nodes.extents[strips] = strips.extent
    plan.outer = [*plan.outer[:-1], strips]
    plan.loops = [rows]
    return Strips(strips, size)


def _row_bytes(plan: Schedule, vector: Axis, rows: Axis) -> tuple[int, bool]:
    """Bytes read at one place of the rows that windows meet; whether a row is met again."""
    met: dict[str, set[int]] = {}
    items: dict[str, int] = {}
    again = False
    for statement in plan.nodes.statements:
        for node in reachable(statement_nodes(statement)):
            address = node.address
            if address is None or address.parts or address.terms.get(vector) != 1:
                continue
            places = {address.constant}
            for axis in statement.axes:
                step = address.terms.get(axis, 0)
                places = {p + step * n for p in places for n in range(plan.nodes.extents[axis])}
            name = address.buffer.name
            step = address.terms.get(rows, 0)
            met.setdefault(name, set()).update(places)
            items[name] = DTYPES[address.buffer.dtype]
            windowed = isinstance(statement, FoldNode) and len(places) > 1
            again = again or (windowed and any(p + step in places for p in places if step))
    return sum(len(places) * items[name] for name, places in met.items()), again
