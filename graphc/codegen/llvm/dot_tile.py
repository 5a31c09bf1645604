"""Emits a product whose operands both lie contiguously along the fold: dot products of rows.

An inner product reads weights[o, k] and data[n, k] this way. A tile holds vectors of partial sums,
along k, for `rows` points of one operand's axis and `columns` of the other's; at the end the lanes
are added, in a fixed order. Every element of the column operand is read once a panel of rows.
Sums that wait in memory have had some of their lanes added: they take less of the caches.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.dot_tiling import DotTiling
from graphc.codegen.llvm.fold_loops import FoldLoops
from graphc.codegen.llvm.lane_sums import halved, lane_totals, vectors_left
from graphc.codegen.llvm.loops import Carry, Count, Frame, PartialSums, whole
from graphc.codegen.llvm.operand import Operands
from graphc.codegen.llvm.pages_ahead import most_pages
from graphc.codegen.llvm.product import Factor, Product
from graphc.codegen.llvm.shares import Part, Shares, each, when
from graphc.codegen.llvm.vector import Values
from graphc.kernel.lang import Axis

LONGEST_SUM = 1024  # terms one after another in one lane
MOST_UNROLLED = 4  # vectors along the fold
AHEAD_BYTES = 2048  # how far ahead of the reads lines are asked for
STREAM_AHEAD_BYTES = 1024  # the same where a target reads many streams


class DotProduct:
    """One product under construction. `extent` counts the shares of it that may run apart."""

    def __init__(self, product: Product, tiling: DotTiling):
        self.product = product
        self.tiling = tiling
        self.all_rows = product.extents[tiling.row] if tiling.row else 1
        self.all_columns = product.extents[tiling.column] if tiling.column else 1
        self.panels = -(-self.all_rows // tiling.panel)
        counts: list[tuple[Part, int]] = [(x, product.extents[x]) for x in tiling.outer]
        tiles = -(-self.all_columns // tiling.columns)
        self.groups = -(-tiles // tiling.group)
        counts.insert(0 if tiling.by_rows else len(counts), ("panel", self.panels))
        counts.append(("group", self.groups))
        self.shares = Shares(counts)
        self.extent = self.shares.extent
        waiting = vectors_left(tiling.rows * tiling.columns, tiling.halvings)
        self.tile_items = waiting * tiling.lanes  # of a tile's sums in memory
        self.slot_items = -(-tiling.panel // tiling.rows) * self.tile_items
        self.sums = self.slot_items * tiling.group if tiling.chunk else 0
        self.scratch_items = self.sums + tiling.panel * tiling.chunk
        if tiling.source is not None:
            assert not tiling.chunk
            self.scratch_items = product.size(list(tiling.b.strides)) + tiling.lanes

    def emit(
        self, frame: Frame, values: Values, scratch: ir.Value, low: Count, high: Count
    ) -> None:
        """Shares low .. high - 1."""
        self.frame, self.values, self.scratch = frame, values, scratch
        self.builder = frame.builder
        self.at = Operands(frame, values, self.tiling.a.buffer.dtype, self.tiling.lanes)
        self.pages = most_pages(values.math.target) if self.tiling.partial > 1 else None
        source = self.tiling.source
        if source is not None:
            axes = list(source.strides)
            self._copy(axes, source, self.at.start(source), self.at.moved(scratch, 0))
        each(frame, low, high, self._share)

    def _copy(self, axes: list[Axis], source: Factor, place: ir.Value, copy: ir.Value) -> None:
        """Copy b's elements one by one: there are few."""
        if not axes:
            value = self.builder.load(place, typ=self.at.element, align=self.at.item)
            self.at.store(value, copy)
            return
        axis, *rest = axes

        def one(i: ir.Value) -> None:
            near = self.at.along(place, source, axis, i)
            self._copy(rest, source, near, self.at.along(copy, self.tiling.b, axis, i))

        each(self.frame, 0, self.product.extents[axis], one)

    def _share(self, index: ir.Value) -> None:
        b, tiling = self.builder, self.tiling
        parts = self.shares.parts(b, index)
        left = self.at.start(tiling.a)
        right = self.at.start(tiling.b) if tiling.source is None else self.scratch
        loops = FoldLoops(self.at, self.product, tiling.a, tiling.b, tiling.b, self.product.guards)
        self.loops = loops
        for axis in tiling.outer:
            loops.place(axis, parts[axis])
            left, right = loops.both(left, right, axis, parts[axis])
        panel = parts.get("panel", whole(0))
        self.group = parts.get("group")
        if tiling.chunk:
            self._chunks(left, right, panel)
        else:
            self._column_tiles(lambda first, _: self._rows(left, right, panel, first))

    def _column_tiles(self, tile: Callable[[ir.Value, ir.Value], None]) -> None:
        """tile(first column, number in the group) for all tiles of columns; sets `columns`."""
        b, tiling, size = self.builder, self.tiling, self.tiling.columns
        full, rest = divmod(self.all_columns, size)
        low: ir.Value = whole(0)
        high: Count = full
        if self.group is not None:
            low = b.mul(self.group, whole(tiling.group))
            high = self.at.smaller(b.add(low, whole(tiling.group)), full)

        def one(i: ir.Value) -> None:
            self.columns = size
            tile(b.mul(i, whole(size)), b.sub(i, low))

        def last() -> None:
            self.columns = rest
            tile(whole(full * size), b.sub(whole(full), low))

        each(self.frame, 0 if self.group is None else low, high, one)
        if rest and self.group is None:
            last()
        elif rest and self.group is not None:
            when(self.frame, b.icmp_signed("==", self.group, whole(self.groups - 1)), last)

    def _rows(self, left: ir.Value, right: ir.Value, panel: ir.Value, first: ir.Value) -> None:
        """All row tiles of the panel against one tile of columns, each sum done at once."""
        tiling = self.tiling
        right = self.at.along(right, tiling.b, tiling.column, first)

        def tile(row: ir.Value, rows: int) -> None:
            place = self.at.along(left, tiling.a, tiling.row, row)
            zeros = self._zeros(rows) * tiling.partial
            sums = self._fold(tiling.over, place, right, zeros, rows)
            self._store_all(row, first, self._added(sums, rows * self.columns), rows)

        self._row_tiles(panel, tile)

    def _store_all(
        self, row: ir.Value, first: ir.Value, sums: Carry, rows: int, halvings: int = 0
    ) -> None:
        totals = lane_totals(self.builder, sums, rows * self.columns, halvings)
        for number, value in enumerate(totals):
            i, j = divmod(number, self.columns)
            column = self.builder.add(first, whole(j))
            self._store(self.builder.add(row, whole(i)), column, value)

    def _added(self, sums: Carry, pairs: int) -> Carry:
        """The partial sums of each pair, added in halves."""
        while len(sums) > pairs:
            half = len(sums) // 2
            sums = [self.builder.fadd(*two) for two in zip(sums[:half], sums[half:], strict=True)]
        return sums

    def _zeros(self, rows: int) -> Carry:
        return [self.at.zero] * (rows * self.columns)

    def _row_tiles(self, panel: ir.Value, tile: Callable[[ir.Value, int], None]) -> None:
        """tile(first row, rows) for all row tiles of a panel."""
        b, tiling = self.builder, self.tiling

        def body(row: ir.Value, _: Carry) -> Carry:
            tile(row, tiling.rows)
            return []

        rest = self.all_rows % tiling.rows
        full = self.all_rows - rest
        if self.panels == 1:
            if full == tiling.rows:
                tile(whole(0), tiling.rows)
            else:
                self.frame.loop(0, full, tiling.rows, [], body)
            if rest:
                tile(whole(full), rest)
            return
        low = b.mul(panel, whole(tiling.panel))
        high = self.at.smaller(b.add(low, whole(tiling.panel)), full)
        self.frame.loop(low, high, tiling.rows, [], body)
        if rest:
            last = b.icmp_signed("==", panel, whole(self.panels - 1))
            when(self.frame, last, lambda: tile(whole(full), rest))

    def _chunks(self, left: ir.Value, right: ir.Value, panel: ir.Value) -> None:
        """Sums over one chunk after another are added up in memory."""
        b, tiling = self.builder, self.tiling
        extent = self.product.extents[tiling.along]
        full = extent - extent % tiling.lanes
        first_row = b.mul(panel, whole(tiling.panel))
        tiles = -(-min(self.all_rows, tiling.panel) // tiling.rows)

        def clear(i: ir.Value, _: Carry) -> Carry:
            self.at.store(self.at.zero, self.at.moved(self.scratch, i))
            return []

        def sums_of(slot: ir.Value, row: ir.Value, rows: int) -> list[ir.Value]:
            start = self.at.moved(self.scratch, b.mul(slot, whole(self.slot_items)))
            number = b.udiv(b.sub(row, first_row), whole(tiling.rows))
            start = self.at.moved(start, b.mul(number, whole(self.tile_items)))
            waiting = range(vectors_left(rows * self.columns, tiling.halvings))
            return [self.at.moved(start, k * tiling.lanes) for k in waiting]

        def chunk(start: ir.Value, _: Carry) -> Carry:
            end = self.at.smaller(b.add(start, whole(tiling.chunk)), full)
            block = self._packed(left, first_row, start, end)
            onwards = self._to_next_chunk(start, full)

            def columns(first: ir.Value, slot: ir.Value) -> None:
                self.ahead = -(-self.columns // tiles)  # columns that a tile asks for
                near = self.at.along(right, tiling.b, tiling.column, first)

                def tile(row: ir.Value, rows: int) -> None:
                    inside = b.sub(row, first_row)
                    place = self.at.moved(block, b.mul(inside, whole(tiling.chunk)))
                    number = b.udiv(b.sub(row, first_row), whole(tiling.rows))
                    following = self._following(near, b.mul(number, whole(self.ahead)), onwards)

                    def body(i: ir.Value, carry: Carry) -> Carry:
                        for ahead in following:
                            self.at.fetch(self.at.moved(ahead, i), level=1)
                        return self._step(place, near, i, carry, rows, row_step=tiling.chunk)

                    sums = self.frame.loop(start, end, tiling.lanes, self._zeros(rows), body)
                    new = halved(b, sums, 0, tiling.halvings)
                    for where, value in zip(sums_of(slot, row, rows), new, strict=True):
                        self.at.store(b.fadd(self.at.load(where), value), where)

                self._row_tiles(panel, tile)

            self._column_tiles(columns)
            return []

        def finish(first: ir.Value, slot: ir.Value) -> None:
            near = self.at.along(right, tiling.b, tiling.column, first)

            def tile(row: ir.Value, rows: int) -> None:
                sums = [self.at.load(place) for place in sums_of(slot, row, rows)]
                if full < extent:
                    place = self.at.along(left, tiling.a, tiling.row, row)
                    zeros = self._zeros(rows)
                    rest = self._step(place, near, whole(full), zeros, rows, extent - full)
                    rest = halved(b, rest, 0, tiling.halvings)
                    sums = [b.fadd(*two) for two in zip(sums, rest, strict=True)]
                self._store_all(row, first, sums, rows, tiling.halvings)

            self._row_tiles(panel, tile)

        self.frame.loop(0, self.sums, tiling.lanes, [], clear)
        self.frame.loop(0, full, tiling.chunk, [], chunk)
        self._column_tiles(finish)

    def _packed(
        self, left: ir.Value, first_row: ir.Value, start: ir.Value, end: ir.Value
    ) -> ir.Value:
        """A dense copy of the rows' chunk, as a place to which points of `along` can be added.

        Rows of the array may lie so that they all fall into a few sets of the first-level cache.
        """
        b, tiling = self.builder, self.tiling
        block = self.at.moved(self.scratch, self.sums)
        rows = self.at.smaller(b.sub(whole(self.all_rows), first_row), tiling.panel)

        def row(number: ir.Value) -> None:
            source = self.at.along(left, tiling.a, tiling.row, b.add(first_row, number))
            items = b.sub(b.mul(number, whole(tiling.chunk)), start)
            target = self.at.moved(block, items)

            def copy(i: ir.Value, _: Carry) -> Carry:
                self.at.store(self.at.load(self.at.moved(source, i)), self.at.moved(target, i))
                return []

            self.frame.loop(start, end, tiling.lanes, [], copy)

        each(self.frame, 0, rows, row)
        return self.at.moved(block, b.sub(whole(0), start))

    def _to_next_chunk(self, start: ir.Value, full: int) -> ir.Value:
        """Elements from a place in a chunk to its like in the next one.

        After the last chunk that is the first of the next group, which the same thread mostly has.
        """
        b, tiling = self.builder, self.tiling
        columns = tiling.group * tiling.columns * self._stride(tiling.b, tiling.column)
        is_last = b.icmp_signed(">=", b.add(start, whole(tiling.chunk)), whole(full))
        return b.select(is_last, b.sub(whole(columns), start), whole(tiling.chunk))

    def _following(self, right: ir.Value, first: ir.Value, onwards: ir.Value) -> list[ir.Value]:
        """What the next chunk reads of `ahead` columns from `first` on, the last at most."""
        places = []
        for k in range(self.ahead):
            column = self.at.smaller(self.builder.add(first, whole(k)), self.columns - 1)
            place = self.at.along(right, self.tiling.b, self.tiling.column, column)
            places.append(self.at.moved(place, onwards))
        return places

    def _fold(
        self,
        axes: list[Axis],
        left: ir.Value,
        right: ir.Value,
        sums: Carry,
        rows: int,
    ) -> Carry:
        tiling, lanes = self.tiling, self.tiling.lanes
        if axes:
            axis, *rest = axes

            def outer(i: ir.Value, carry: Carry) -> Carry:
                with self.loops.opened(axis, i):
                    places = self.loops.both(left, right, axis, i)
                    return self._fold(rest, *places, carry, rows)

            low, high = self.loops.clipped(axis, 0, self.product.extents[axis])
            return self.frame.loop(low, high, 1, sums, outer)
        extent = self.product.extents[tiling.along]
        pairs = rows * self.columns
        step = lanes * tiling.partial

        def steps(start: Count, carry: Carry, some: int, fetch: bool = True) -> Carry:
            """The vectors of `some` elements from `start` on, each for a partial sum of its own."""
            new = list(carry)
            for part, offset in enumerate(range(0, some, lanes)):
                if isinstance(start, int):
                    i: Count = start + offset
                else:
                    i = self.builder.add(start, whole(offset))
                if fetch:
                    self._fetch_ahead(right, i)
                own = slice(part * pairs, (part + 1) * pairs)
                tail = None if offset + lanes <= some else some - offset
                new[own] = self._step(left, right, i, new[own], rows, tail)
            return new

        full = extent - extent % step
        if tiling.source is not None and full <= MOST_UNROLLED * lanes:
            for start in range(0, full, lanes):
                sums = steps(start, sums, lanes, fetch=False)
        else:

            def body(i: ir.Value, carry: Carry) -> Carry:
                return steps(i, carry, step)

            sums = self.frame.chunked(0, full, step, sums, body, PartialSums(LONGEST_SUM))
        return steps(full, sums, extent - full, fetch=False)

    def _fetch_ahead(self, right: ir.Value, i: Count) -> None:
        """Ask for the lines of the columns that come some time after point i."""
        step = self._stride(self.tiling.b, self.tiling.column)
        streams = self.at.math.target.streams > 1
        distance = STREAM_AHEAD_BYTES if streams else AHEAD_BYTES
        for n in range(self.columns):
            near = self.at.moved(right, n * step)
            if self.pages is not None:
                there = self.pages.ahead(self.builder, self.at.moved(near, i))
            else:
                there = self.at.moved(self.at.moved(near, distance // self.at.item), i)
            self.at.fetch(there, level=1 if self.tiling.partial > 1 or streams else 2)

    def _step(
        self,
        left: ir.Value,
        right: ir.Value,
        i: Count,
        sums: Carry,
        rows: int,
        tail: int | None = None,
        row_step: int = 0,
    ) -> Carry:
        left, right = self.at.moved(left, i), self.at.moved(right, i)
        row = row_step or self._stride(self.tiling.a, self.tiling.row)
        column = self._stride(self.tiling.b, self.tiling.column)
        ones = [self.at.load(self.at.moved(left, m * row), tail) for m in range(rows)]
        others = [self.at.load(self.at.moved(right, n * column), tail) for n in range(self.columns)]
        pairs = itertools.product(ones, others)
        return [self.at.math.fma(x, y, s) for (x, y), s in zip(pairs, sums, strict=True)]

    def _stride(self, factor: Factor, axis: Axis | None) -> int:
        return factor.strides.get(axis, 0) if axis is not None else 0

    def _store(self, row: ir.Value, column: ir.Value, value: ir.Value) -> None:
        """Run the kernel's stores for one sum."""
        tiling, values = self.tiling, self.values
        with self.frame.scope():
            for axis, place in ((tiling.row, row), (tiling.column, column)):
                if axis is not None:
                    values.places[axis] = (self.frame.depth, place)
            values.locals[self.product.local] = (self.frame.depth, value)
            values.store_all(self.product.store_nodes())
