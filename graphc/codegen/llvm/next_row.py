"""The next row of windows: fetched line by line while this row is computed.

Windows of a row read several rows of an image, some of which the row before has read. The others
lie in one piece behind those: while a row is computed, the next one's piece is fetched from end to
end into the second cache, each window its share; or in several pages at once, where a target's
cores read so faster (`pages_ahead`). Processors follow such streams well. They wait if many lines
are asked for at once, so a share is spread over the reading of a window's elements. From the second
cache into the first comes what the next windows read (`ahead`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from graphc.codegen.llvm.ahead import is_far_row
from graphc.codegen.llvm.lanes import CACHE_LINE, TYPES
from graphc.codegen.llvm.loops import whole
from graphc.codegen.llvm.nest import FEW_ITERATIONS
from graphc.codegen.llvm.pages_ahead import LEAST_READ, Pages, pages_of
from graphc.codegen.llvm.schedule import Schedule
from graphc.codegen.llvm.target import Target
from graphc.codegen.llvm.vector import Values
from graphc.codegen.nodes import Address, FoldNode, reachable, statement_nodes
from graphc.ir.types import DTYPES
from graphc.kernel.lang import Axis

CACHE_PART = 0.5  # of the second cache is room for this row and the next one's piece
LEAST_PIECE = 4096  # bytes: the next row must be some way ahead
SECOND_CACHE = 2


@dataclass(frozen=True)
class Share:
    """What one iteration fetches: lines from a place on that moves through the piece.

    pages: those of the lines are fetched that go with them.
    """

    start: Address
    lines: int
    pages: Pages | None = None

    def part(self, number: int, of: int) -> range:
        """One of so many parts of the lines, by their numbers."""
        return range(self.lines * number // of, self.lines * (number + 1) // of)

    def fetch(self, values: Values, numbers: range) -> None:
        """Fetch some of the lines."""
        dtype = self.start.buffer.dtype
        # No instruction: it keeps what is fetched between the loads around it.
        values.builder.fence("acq_rel", "singlethread")
        for number in numbers:
            distance = whole(number * CACHE_LINE // DTYPES[dtype])
            place = values.affine_place(self.start)
            there = values.builder.gep(place, [distance], source_etype=TYPES[dtype])
            if self.pages is not None:
                there = self.pages.ahead(values.builder, there)
            values.fetch(there, near=SECOND_CACHE)


def next_rows(plan: Schedule, target: Target) -> dict[FoldNode, list[Share]]:
    """For folds over windows in lanes along rows: what each iteration fetches."""
    if plan.vector is None or plan.kept.slots or target.lanes("float32") == 1:
        return {}
    found: dict[FoldNode, list[Share]] = {}
    for fold in plan.nodes.statements:
        if not isinstance(fold, FoldNode) or not 1 < plan.nodes.size(fold.axes) <= FEW_ITERATIONS:
            continue
        shares = [_share(address, fold, plan, target) for address in _far(fold, plan, target)]
        known = [share for share in shares if share is not None]
        if known and len(known) == len(shares):
            found[fold] = known
    return found


def _far(fold: FoldNode, plan: Schedule, target: Target) -> list[Address]:
    """What a fold reads in rows of large arrays, each array once."""
    assert plan.vector is not None
    addresses = (node.address for node in reachable(statement_nodes(fold)))
    rows = (a for a in addresses if a is not None and is_far_row(a, plan.vector, target))
    return list({address.buffer.name: address for address in rows}.values())


def _share(address: Address, fold: FoldNode, plan: Schedule, target: Target) -> Share | None:
    """An iteration's part of the next piece along the outermost loop where that fits a cache."""
    assert plan.vector is not None
    loops, size = [*plan.outer, *plan.loops], DTYPES[address.buffer.dtype]
    for place, axis in enumerate(loops):
        inner, step = [*loops[place + 1 :], plan.vector], address.terms.get(axis, 0)
        moves = [(address.terms.get(a, 0), plan.nodes.extents[a]) for a in (*inner, *fold.axes)]
        low, high = _reach(moves)
        room = (high + 1 - low + step) * size
        if step <= 0 or room > CACHE_PART * target.l2_bytes:
            continue
        first = max(high + 1, low + step)
        piece = high + 1 + step - first
        if piece * size < LEAST_PIECE or not _is_dense(moves):
            return None
        terms = {a: s for a, s in address.terms.items() if a in loops[: place + 1]}
        lanes = min(plan.lanes, plan.nodes.extents[plan.vector])
        terms.update(_paces(piece, inner, plan))
        constant = address.constant + first
        start = Address(address.buffer, terms, constant, (), False, frozenset())
        lines = round(terms[plan.vector] * lanes * size / CACHE_LINE)
        return Share(start, max(1, lines), pages_of(plan.nodes.kernel, target))
    return None


def _reach(moves: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """The least and the largest distance of what loops of these steps and extents read."""
    ends = [step * (extent - 1) for step, extent in moves]
    return sum(end for end in ends if end < 0), sum(end for end in ends if end > 0)


def _is_dense(moves: Iterable[tuple[int, int]]) -> bool:
    """Whether loops read nearly all between the first and the last that they read."""
    run = 1
    for step, extent in sorted((abs(step), extent) for step, extent in moves):
        if run < LEAST_READ * step:
            return False
        run += step * (extent - 1)
    return True


def _paces(piece: int, inner: list[Axis], plan: Schedule) -> Iterator[tuple[Axis, int]]:
    """How far each of the loops moves through the piece: together to its end, or nearly."""
    for axis in inner:
        extent = plan.nodes.extents[axis]
        pace = piece // extent
        piece = pace + 1 if piece - pace * extent > piece / 8 else pace
        yield axis, piece
