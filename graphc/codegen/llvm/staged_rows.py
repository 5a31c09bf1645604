"""Rows that begin anywhere in a line go past the caches all the same: some rows at a time.

A store past the caches writes whole lines. Where a row's length is no multiple of a line, vectors
of columns meet lines elsewhere in each row. So the results of some rows are put to a small array
first, each as far from a line's beginning as it will be, and go from there to memory in lines: as
one piece where a thread walks whole rows, else row by row. What is left at the ends of a piece is
stored as usual, in lines that were fetched meanwhile.

The array begins as far from a page's beginning as the rows do. Else a load from it may have to wait
for a store that is still on its way to memory and has the same place in a page.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.lane_access import Lanes
from graphc.codegen.llvm.lanes import CACHE_LINE, TYPES
from graphc.codegen.llvm.loops import INT64, Carry, Count, whole
from graphc.codegen.llvm.shares import each
from graphc.codegen.llvm.streaming import before_aligned
from graphc.codegen.llvm.target import PAGE_BYTES
from graphc.codegen.nodes import StoreNode
from graphc.ir.types import DTYPES

if TYPE_CHECKING:
    from graphc.codegen.llvm.row_walk import RowWalk

STAGED_BYTES = 32 << 10  # of rows that wait, at most


class StagedRows:
    """The results of one store, for at most `most` rows at a time: begin, put and end."""

    def __init__(self, walk: RowWalk, store: StoreNode, most: int):
        self.walk = walk
        self.values = walk.values
        self.builder = walk.builder
        self.store = store
        self.dtype = store.address.buffer.dtype
        self.element, self.item = TYPES[self.dtype], DTYPES[self.dtype]
        (self.rows,) = store.axes
        self.step = store.address.terms[self.rows]
        page = PAGE_BYTES // self.item
        # Rows are as far apart as in memory, but for whole pages.
        self.pitch = walk.panel + (self.step - walk.panel) % page
        self.most = max(1, min(most, STAGED_BYTES // (self.pitch * self.item)))
        self.array = walk.scratch.array(self.dtype, self.most * self.pitch + page, CACHE_LINE)
        self.there = self.here = self.array  # where the first row will be, and is now
        self.low: ir.Value = whole(0)

    def begin(self, first: ir.Value, count: int, low: ir.Value, high: ir.Value) -> None:
        """Before the columns low .. high of some rows are put."""
        v, b = self.values, self.builder
        self.low = low
        rows, columns = (self.rows, first), (self.walk.axis, low)
        with v.frame.written_out(), v.at_axis(*rows), v.at_axis(*columns):
            self.there = v.affine_place(self.store.address)
        distance = b.sub(b.ptrtoint(self.there, INT64), b.ptrtoint(self.array, INT64))
        skip = b.and_(distance, whole(PAGE_BYTES - 1))
        self.here = b.gep(self.array, [skip], source_etype=TYPES["uint8"])

        def fetch(here: ir.Value, there: ir.Value, size: ir.Value) -> None:
            for place in (whole(0), b.sub(size, whole(1))):
                v.fetch(self._at(there, place), to_write=True)

        self._pieces(count, low, high, fetch)

    def put(self, number: int) -> None:
        """The value of the strip where the walk stands, in one of these rows."""
        v, b = self.values, self.builder
        column = b.sub(v.places[self.walk.axis][1], self.low)
        place = self._at(self.here, b.add(column, whole(number * self.pitch)))
        lanes = Lanes(place, "row", self.dtype, v.lanes, v.active)
        lanes.store(v.math, v.wide(self.store.value), streamed=False)

    def end(self, count: int, low: ir.Value, high: ir.Value) -> None:
        """After the rows were put: to memory."""
        self._pieces(count, low, high, self._move)

    def _pieces(
        self,
        count: int,
        low: ir.Value,
        high: ir.Value,
        body: Callable[[ir.Value, ir.Value, ir.Value], None],
    ) -> None:
        """body(here, there, elements) for each piece of memory that some rows are."""
        b = self.builder
        columns = b.sub(high, low)
        dense = self.pitch == self.step
        is_whole = b.icmp_signed("==", columns, whole(self.step if dense else -1))
        size = b.select(is_whole, whole(count * self.step), columns)

        def row(number: ir.Value) -> None:
            here = self._at(self.here, b.mul(number, whole(self.pitch)))
            body(here, self._at(self.there, b.mul(number, whole(self.step))), size)

        each(self.walk.frame, 0, b.select(is_whole, whole(1), whole(count)), row)

    def _move(self, here: ir.Value, there: ir.Value, size: ir.Value) -> None:
        frame, b, lanes = self.walk.frame, self.builder, self.walk.lanes
        some = before_aligned(b, there, self.item, self.walk.target.vector_bytes)
        some = b.select(b.icmp_signed("<", some, size), some, size)

        def vector(start: ir.Value, rest: Count | None, carry: Carry) -> Carry:
            v = self.values
            with v.along(self.walk.axis, lanes, start, rest, aligned=False):
                old, new = (
                    Lanes(self._at(base, start), "row", self.dtype, lanes, v.tail)
                    for base in (here, there)
                )
                new.store(v.math, old.load(v.math), streamed=rest is None)
            return carry

        is_cut = b.icmp_signed(">", some, whole(0))
        frame.guard(is_cut, [], lambda carry: vector(whole(0), some, carry))
        frame.lane_loop(some, size, lanes, [], vector)

    def _at(self, base: ir.Value, element: ir.Value) -> ir.Value:
        return self.builder.gep(base, [element], source_etype=self.element)
