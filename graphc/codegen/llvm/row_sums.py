"""Emits the weighted sum of a matrix's rows, y[k] = sum over o of a[o] * b[o, k], in streams.

The data gradient of an inner product of one example. Memory is the limit, and cores that read it
fastest in several places at once take so many rows side by side, each from end to end: few pages
are open at a time, and a row's lines are asked for in the order in which they lie. The sums wait in
the first-level cache, and each passing over the rows adds one part to them:

    for o in 0, streams, ...:
        for k in a row: sums[k] += a[o] * b[o, k] + a[o + 1] * b[o + 1, k] + ...
"""

from __future__ import annotations

from dataclasses import dataclass

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.loops import Carry, Count, Frame, whole
from graphc.codegen.llvm.operand import Operands
from graphc.codegen.llvm.product import Factor, Product
from graphc.codegen.llvm.shares import each, when
from graphc.codegen.llvm.target import ITEM_BYTES, PAGE_BYTES, Target
from graphc.codegen.llvm.vector import Values
from graphc.kernel.lang import Axis

MOST_PARTS = 1200  # that are added one after another
AHEAD_BYTES = 512  # how far ahead of the reads lines of each row are asked for
SUMS_PART = 0.7  # of the first-level cache


@dataclass
class RowTiling:
    """b: the matrix, whose rows lie along `vector`; a: a number for each of them, along `fold`.

    streams: rows that are read side by side. wide: vectors whose sums wait at once. cost: of its
    multiplications, in the slots of other tilings; memory takes longer.
    """

    a: Factor
    b: Factor
    vector: Axis
    fold: Axis
    lanes: int
    streams: int
    wide: int
    cost: float = 0.0


def choose_row_sums(product: Product, target: Target) -> RowTiling | None:
    """How a sum of far rows runs; None where the product is none, or one stream is fastest."""
    each_axes = [axis for axis in product.each if product.extents[axis] > 1]
    lanes = target.lanes(product.left.buffer.dtype)
    plain = not (product.guards or product.stepped or product.left.spread or product.right.spread)
    if target.streams == 1 or lanes == 1 or len(each_axes) != 1 or len(product.over) != 1:
        return None
    vector, fold = each_axes[0], product.over[0]
    for a, b in ((product.left, product.right), (product.right, product.left)):
        rows = b.strides.get(vector, 0) == 1 and vector not in a.strides and fold in a.strides
        size = product.extents[vector] * product.extents[fold] * ITEM_BYTES[b.buffer.dtype]
        long = product.extents[vector] >= 4 * lanes and b.strides.get(fold, 0) > 0
        count = product.extents[fold]
        some = target.streams <= count <= MOST_PARTS * target.streams
        if plain and rows and long and some and size > 2 * target.l2_bytes:
            width = lanes * ITEM_BYTES[b.buffer.dtype]
            wide = max(1, int(target.l1_bytes * SUMS_PART) // width)
            cost = product.size([vector, fold]) / lanes
            return RowTiling(a, b, vector, fold, lanes, target.streams, wide, cost)
    return None


class RowSums:
    """One product under construction; threads share its `extent` vectors of a row."""

    def __init__(self, product: Product, tiling: RowTiling):
        self.product = product
        self.tiling = tiling
        columns = product.extents[tiling.vector]
        self.extent = -(-columns // tiling.lanes)
        self.full = columns // tiling.lanes
        self.tail = columns % tiling.lanes or None
        self.scratch_items = min(tiling.wide, self.extent) * tiling.lanes
        width = tiling.lanes * ITEM_BYTES[tiling.b.buffer.dtype]
        # A thread reads a page of each row at least.
        self.joined = min(PAGE_BYTES // width, self.extent)

    def emit(
        self, frame: Frame, values: Values, scratch: ir.Value, low: Count, high: Count
    ) -> None:
        """Vectors low .. high - 1 of the result."""
        self.frame, self.values, self.builder = frame, values, frame.builder
        self.at = Operands(frame, values, self.tiling.a.buffer.dtype, self.tiling.lanes)
        self.scratch = scratch

        def part(first: ir.Value, _: Carry) -> Carry:
            following = self.builder.add(first, whole(self.tiling.wide))
            self._part(first, self.at.smaller(following, whole(high)))
            return []

        frame.loop(low, high, self.tiling.wide, [], part)

    def _part(self, first: ir.Value, end: ir.Value) -> None:
        """Vectors first .. end - 1 for all rows."""
        tiling, at, b = self.tiling, self.at, self.builder
        self.first = first
        count = b.sub(end, first)

        def clear(i: ir.Value, _: Carry) -> Carry:
            at.store(at.zero, self._sum(i))
            return []

        self.frame.loop(0, count, 1, [], clear)
        start = at.moved(at.start(tiling.b), b.mul(first, whole(tiling.lanes)))
        rows = self.product.extents[tiling.fold]
        rest = rows % tiling.streams

        def pass_over(row: ir.Value, _: Carry) -> Carry:
            self._pass(start, row, tiling.streams, end)
            return []

        self.frame.loop(0, rows - rest, tiling.streams, [], pass_over)
        if rest:
            self._pass(start, whole(rows - rest), rest, end)
        each(self.frame, first, at.smaller(end, self.full), lambda i: self._store(i, None))
        if self.tail is not None:
            is_last = b.icmp_signed("==", end, whole(self.extent))
            when(self.frame, is_last, lambda: self._store(whole(self.full), self.tail))

    def _sum(self, i: Count) -> ir.Value:
        """Where the i-th sum of this part waits."""
        return self.at.moved(self.scratch, self.builder.mul(whole(i), whole(self.tiling.lanes)))

    def _pass(self, start: ir.Value, row: ir.Value, rows: int, end: ir.Value) -> None:
        """Add what `rows` rows from `row` on give to all sums of this part."""
        tiling, at, b = self.tiling, self.at, self.builder
        places = [b.add(row, whole(k)) for k in range(rows)]
        numbers = [
            at.everywhere(at.along(at.start(tiling.a), tiling.a, tiling.fold, k)) for k in places
        ]
        starts = [at.along(start, tiling.b, tiling.fold, k) for k in places]

        def vector(i: ir.Value, tail: int | None, fetch: bool) -> None:
            inside = b.sub(i, self.first)
            items = b.mul(inside, whole(tiling.lanes))
            total: ir.Value = at.zero
            for number, place in zip(numbers, starts, strict=True):
                near = at.moved(place, items)
                if fetch:
                    at.fetch(at.moved(near, AHEAD_BYTES // at.item), level=1)
                total = at.math.fma(number, at.load(near, tail), total)
            where = self._sum(inside)
            at.store(b.fadd(at.load(where), total), where)

        def body(i: ir.Value, _: Carry) -> Carry:
            vector(i, None, True)
            return []

        self.frame.loop(self.first, at.smaller(end, self.full), 1, [], body)
        if self.tail is not None:
            is_last = b.icmp_signed("==", end, whole(self.extent))
            when(self.frame, is_last, lambda: vector(whole(self.full), self.tail, False))

    def _store(self, i: ir.Value, tail: int | None) -> None:
        """Run the kernel's stores for one vector of sums."""
        tiling, values, b = self.tiling, self.values, self.builder
        value = self.at.load(self._sum(b.sub(i, self.first)))
        with self.frame.scope():
            values.locals[self.product.local] = (self.frame.depth, value)
            for axis in self.product.each:
                if axis != tiling.vector:
                    values.places[axis] = (self.frame.depth, whole(0))
            with values.along(tiling.vector, tiling.lanes, b.mul(i, whole(tiling.lanes)), tail):
                values.store_all(self.product.store_nodes())
