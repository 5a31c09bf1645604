"""Large arrays that are walked in several places at once.

A core follows one stream of memory as far as its prefetchers look ahead, which on some is not far
enough. These read and write several parts of an array at once, an iteration of each in turn: of
twelve iterations in four parts

    0 3 6 9, 1 4 7 10, 2 5 8 11

come in this order. What an iteration makes is the same in any order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from llvmlite import ir

from graphc.codegen.llvm.loops import Carry, Count, Frame, whole
from graphc.codegen.llvm.schedule import Schedule
from graphc.codegen.llvm.target import PAGE_BYTES, Target
from graphc.codegen.nodes import KernelNodes, StoreNode, reachable, statement_nodes
from graphc.ir.types import DTYPES
from graphc.kernel.lang import Buffer

LARGE_CACHES = 2  # so many times the second-level cache, and all arrays together are far
LONGEST_TURN = 512  # elements that one iteration makes; rows as long as pages are streams enough


def parts_of_map(plan: Schedule, target: Target) -> int:
    """In how many parts a map is walked: its iterations only make their own elements."""
    order_matters = plan.batch or plan.walk or plan.serial or plan.kept.slots or plan.inner
    if order_matters or not plan.is_map:
        return 1
    inside = [*plan.loops, *([plan.vector] if plan.vector else [])] if plan.outer else []
    parts = parts_of(plan.nodes, target)
    return parts if plan.nodes.size(inside) <= LONGEST_TURN else 1


def parts_of(nodes: KernelNodes, target: Target) -> int:
    """A power of two: the streams that a core reads fastest, shared by those there are anyway."""
    found = set(_large(nodes, target))
    size = sum(_bytes(buffer) for buffer in {buffer for buffer, *_ in found})
    if target.streams == 1 or not found or size <= LARGE_CACHES * target.l2_bytes:
        return 1
    return 1 << (max(1, target.streams // (len(found) + 1)).bit_length() - 1)


def _large(nodes: KernelNodes, target: Target) -> Iterator[tuple[Buffer, object, int]]:
    """What is read or written of arrays that do not stay in the second-level cache.

    What lies on one page, and moves alike, is one stream.
    """
    for statement in nodes.statements:
        stored = [statement.address] if isinstance(statement, StoreNode) else []
        read = [node.address for node in reachable(statement_nodes(statement))]
        for address in (*stored, *read):
            if address is not None and _bytes(address.buffer) > target.l2_bytes // 2:
                page = address.constant * DTYPES[address.buffer.dtype] // PAGE_BYTES
                yield address.buffer, frozenset(address.terms.items()), page


def _bytes(buffer: Buffer) -> int:
    return math.prod(buffer.shape) * DTYPES[buffer.dtype]


def side_by_side(
    frame: Frame,
    low: ir.Value,
    high: ir.Value,
    step: int,
    parts: int,
    body: Callable[[ir.Value, Carry], Carry],
) -> ir.Value:
    """body(i, []) for i = low, low + step, ... in so many equal parts; where those end."""
    b = frame.builder
    part = b.udiv(b.sub(high, low), whole(step * parts))

    def one(number: ir.Value, carry: Carry) -> Carry:
        which = b.and_(number, whole(parts - 1))
        inside = b.lshr(number, whole(parts.bit_length() - 1))
        place = b.add(b.mul(which, part), inside)
        return body(b.add(low, b.mul(place, whole(step))), carry)

    count: Count = b.mul(part, whole(parts))
    frame.loop(0, count, 1, [], one)
    return b.add(low, b.mul(part, whole(step * parts)))
