"""Emits a tiled product: rows x vectors of sums held in registers while the fold runs.

Each step of the fold loads the vectors of b, then for every row puts one number of a in all lanes
and does one multiply-add a vector. Padding is peeled: a guard is a bound of the innermost loop it
speaks of, or, for guards on rows, decides here which rows a piece of the fold's loop has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llvmlite import ir

from graphc.codegen.llvm.loops import INT32, VOID, Carry, Count, Frame, whole
from graphc.codegen.llvm.product import Factor, Interval, Product
from graphc.codegen.llvm.target import ITEM_BYTES
from graphc.codegen.llvm.tiling import Piece, TileGroup, Tiling
from graphc.codegen.llvm.vector import SUFFIXES, TYPES, Values
from graphc.kernel.lang import Axis


class TiledProduct:
    """One product under construction.

    extent: the shares of it that may run apart. scratch_items: elements that the sums of a panel
    need between chunks.
    """

    def __init__(self, product: Product, tiling: Tiling):
        self.product = product
        self.tiling = tiling
        size = product.extents
        self.row_extent = size[tiling.row] if tiling.row else 1
        self.deep = size[tiling.deep] if tiling.deep else 1
        vectors = -(-size[tiling.vector] // tiling.lanes)
        self.blocks = -(-vectors // tiling.vectors)
        self.last_vectors = vectors - (self.blocks - 1) * tiling.vectors
        self.tail = size[tiling.vector] % tiling.lanes
        self.panels = -(-self.row_extent // tiling.panel_rows)
        line = size[tiling.line] if tiling.line else 1
        counts: list[tuple[Axis | str, int]] = [(axis, size[axis]) for axis in tiling.outer]
        counts += [("lines", -(-line // tiling.lines)), ("panel", self.panels)]
        place = 0 if tiling.vectors_outside else len(counts)
        counts.insert(place, ("block", self.blocks))
        self.counts = [(name, count) for name, count in counts if count > 1]
        self.extent = 1
        for _, count in self.counts:
            self.extent *= count
        fixed = tiling.fixed
        self.clips = [guard for guard in product.guards if guard not in fixed]
        rows = tiling.lines * tiling.panel_rows * self.deep * tiling.chunked
        self.scratch_items = rows * tiling.vectors * tiling.lanes

    def emit(
        self, frame: Frame, values: Values, scratch: ir.Value | None, low: Count, high: Count
    ) -> None:
        """Shares low .. high - 1."""
        self.frame, self.values, self.scratch = frame, values, scratch
        self.builder, self.math = frame.builder, values.math
        self.element = TYPES[self.tiling.a.buffer.dtype]
        self.item = ITEM_BYTES[self.tiling.a.buffer.dtype]
        lanes = self.tiling.lanes
        self.vector_type = ir.VectorType(self.element, lanes) if lanes > 1 else self.element
        self.open: dict[Axis, ir.Value] = {}
        frame.loop(low, high, 1, [], self._share)

    # -- what one share covers --

    def _share(self, index: ir.Value, _: Carry) -> Carry:
        b = self.builder
        parts: dict[Axis | str, ir.Value] = {}
        for name, count in reversed(self.counts[1:]):
            parts[name] = b.urem(index, whole(count))
            index = b.udiv(index, whole(count))
        if self.counts:
            parts[self.counts[0][0]] = index
        self.open.clear()
        for axis in self.tiling.outer:
            self._place(axis, parts[axis])
        self.line_panel = parts.get("lines", whole(0))
        self.panel = parts.get("panel", whole(0))
        block = parts.get("block", whole(0))
        width = self.tiling.vectors * self.tiling.lanes
        first = b.mul(block, whole(width))
        same = self.last_vectors == self.tiling.vectors and not self.tail
        if self.blocks == 1 or same:
            self._block(first, self.last_vectors, self.tail)
        else:
            full = b.icmp_signed("<", block, whole(self.blocks - 1))
            self._when(full, lambda: self._block(first, self.tiling.vectors, 0))
            self._when(b.not_(full), lambda: self._block(first, self.last_vectors, self.tail))
        return []

    def _when(self, condition: ir.Value, body: Callable[[], None]) -> None:
        def run(_: Carry) -> Carry:
            body()
            return []

        self.frame.guard(condition, [], run)

    def _place(self, axis: Axis, value: ir.Value) -> None:
        self.open[axis] = value
        self.values.places[axis] = (self.frame.depth, value)

    @contextmanager
    def _opened(self, axis: Axis, value: ir.Value) -> Iterator[None]:
        self._place(axis, value)
        yield
        del self.open[axis], self.values.places[axis]

    def _block(self, first: ir.Value, vectors: int, tail: int) -> None:
        """One block of vectors, `first` being its first element's place along the vector axis."""
        self.first, self.vectors, self.tail_lanes = first, vectors, tail
        a = self._start(self.tiling.a)
        b = self._moved(self._start(self.tiling.b), first)
        if self.tiling.chunked:
            self._chunked_panel(a, b)
        else:
            self._direct_panel(a, b)

    def _start(self, factor: Factor) -> ir.Value:
        place = self.values.bases[factor.buffer.name]
        if factor.constant:
            place = self._moved(place, whole(factor.constant))
        for axis, value in self.open.items():
            place = self._along(place, factor, axis, value)
        return place

    def _moved(self, place: ir.Value, items: Count) -> ir.Value:
        if isinstance(items, int) and items == 0:
            return place
        return self.builder.gep(place, [whole(items)], source_etype=self.element)

    def _along(self, place: ir.Value, factor: Factor, axis: Axis | None, value: Count) -> ir.Value:
        stride = factor.strides.get(axis, 0) if axis is not None else 0
        if isinstance(value, int):
            return self._moved(place, value * stride)
        if stride == 0:
            return place
        return self._moved(place, value if stride == 1 else self.builder.mul(value, whole(stride)))

    # -- panels --

    def _direct_panel(self, a: ir.Value, b: ir.Value) -> None:
        """Every tile has its whole sum in registers, and is stored from there."""

        def tile(group: TileGroup, row: ir.Value) -> None:
            start = self._along(a, self.tiling.a, self.tiling.row, row)
            sums = self._sums(start, b, group)
            for number, value in enumerate(sums):
                m, j = divmod(number, self.vectors)
                place = self.builder.add(row, whole(m // self.deep))
                self._store(place, whole(m % self.deep), j, value)

        self._row_tiles(tile)

    def _row_tiles(self, tile: Callable[[TileGroup, ir.Value], None]) -> None:
        """tile(group, first row) for all tiles of the panel, in order."""
        for group in self.tiling.groups:
            if self.panels == 1:
                self._group(group, whole(group.first), group.count, tile)
                continue
            b, rows = self.builder, self.tiling.panel_rows
            first = b.mul(self.panel, whole(rows))
            if group.rows == self.tiling.rows:
                left = b.sub(whole(group.count), b.mul(self.panel, whole(rows // group.rows)))
                most = whole(rows // group.rows)
                count = b.select(b.icmp_signed("<", left, most), left, most)
                self._group(group, first, count, tile)
            else:
                is_last = b.icmp_signed("==", self.panel, whole(self.panels - 1))
                self._when(is_last, lambda g=group: tile(g, whole(g.first)))  # type: ignore[misc]

    def _group(
        self,
        group: TileGroup,
        first: ir.Value,
        count: Count,
        tile: Callable[[TileGroup, ir.Value], None],
    ) -> None:
        def body(i: ir.Value, _: Carry) -> Carry:
            b = self.builder
            tile(group, b.add(first, b.mul(i, whole(group.rows))))
            return []

        if isinstance(count, int) and count == 1:
            tile(group, first)
        else:
            self.frame.loop(0, count, 1, [], body)

    def _chunked_panel(self, a: ir.Value, b: ir.Value) -> None:
        """Sums over one chunk of the fold after another are added up in `scratch`, then stored."""
        size, line = self.tiling.lanes, self.tiling.line
        rows = self.tiling.panel_rows * self.deep
        low, high = self._line_range()
        used = self.builder.mul(
            self.builder.sub(whole(high), whole(low)), whole(rows * self.vectors * size)
        )
        zero = self.math.constant(0.0, self.vector_type)

        def clear(i: ir.Value, _: Carry) -> Carry:
            self.builder.store(zero, self._moved(self.scratch, i), align=self.item)
            return []

        self.frame.loop(0, used, size, [], clear)
        self._chunks(list(self.tiling.chunks), a, b)

        def finish(i: ir.Value | None) -> None:
            if line is None or i is None:
                self._finish_line(self.scratch)
            else:
                offset = self.builder.mul(
                    self.builder.sub(i, whole(low)), whole(rows * self.vectors * size)
                )
                with self._opened(line, i):
                    self._finish_line(self._moved(self.scratch, offset))

        self._lines(low, high, finish)

    def _line_range(self) -> tuple[Count, Count]:
        """The lines of this panel."""
        line, most = self.tiling.line, self.tiling.lines
        if line is None:
            return 0, 1
        extent, b = self.product.extents[line], self.builder
        if extent == most:
            return 0, extent
        low = b.mul(self.line_panel, whole(most))
        if extent % most == 0:
            return low, b.add(low, whole(most))
        return low, self._smaller(b.add(low, whole(most)), whole(extent))

    def _lines(self, low: Count, high: Count, body: Callable[[ir.Value | None], None]) -> None:
        if self.tiling.line is None:
            body(None)
            return

        def run(i: ir.Value, _: Carry) -> Carry:
            body(i)
            return []

        self.frame.loop(low, high, 1, [], run)

    def _chunks(self, axes: list[Axis], a: ir.Value, b: ir.Value) -> None:
        """The loops over chunks, from the outermost on, then the panel for each."""
        if axes:
            axis, *rest = axes

            def body(i: ir.Value, _: Carry) -> Carry:
                with self._opened(axis, i):
                    self._chunks(
                        rest,
                        self._along(a, self.tiling.a, axis, i),
                        self._along(b, self.tiling.b, axis, i),
                    )
                return []

            low, high = self._clipped(axis, 0, self.product.extents[axis])
            self.frame.loop(low, high, 1, [], body)
        elif self.tiling.strip:
            extent = self.product.extents[self.tiling.inner[0]]

            def strip(i: ir.Value, _: Carry) -> Carry:
                end = self.builder.add(i, whole(self.tiling.strip))
                self.strip_range = i, self._smaller(end, whole(extent))
                self._chunk(a, b)
                return []

            self.frame.loop(0, extent, self.tiling.strip, [], strip)
        else:
            self._chunk(a, b)

    def _chunk(self, a: ir.Value, b: ir.Value) -> None:
        """One chunk of the fold for all tiles of the panel."""
        line, size = self.tiling.line, self.tiling.lanes
        row_items = self.deep * self.vectors * size
        start, end = self._line_range()

        def tiles(place: ir.Value, offset: ir.Value) -> None:
            def tile(group: TileGroup, row: ir.Value) -> None:
                inside = row
                if self.panels > 1:
                    done = self.builder.mul(self.panel, whole(self.tiling.panel_rows))
                    inside = self.builder.sub(row, done)
                items = self.builder.add(offset, self.builder.mul(inside, whole(row_items)))
                target = self._moved(self.scratch, items)
                sums = self._sums(self._along(place, self.tiling.a, self.tiling.row, row), b, group)
                for number, value in enumerate(sums):
                    where = self._moved(target, number * size)
                    old = self.builder.load(where, typ=self.vector_type, align=self.item)
                    self.builder.store(self.builder.fadd(old, value), where, align=self.item)

            self._row_tiles(tile)

        def one(i: ir.Value | None) -> None:
            if line is None or i is None:
                tiles(a, whole(0))
                return
            with self._opened(line, i):
                skipped = self.builder.sub(i, whole(start))
                offset = self.builder.mul(skipped, whole(self.tiling.panel_rows * row_items))
                tiles(self._along(a, self.tiling.a, line, i), offset)

        low, high = (start, end) if line is None else self._clipped(line, start, end)
        self._lines(low, high, one)

    def _finish_line(self, source: ir.Value) -> None:
        """Store one line's rows from their sums in memory."""
        size, rows = self.tiling.lanes, self.tiling.panel_rows
        low: ir.Value = self.builder.mul(self.panel, whole(rows))
        high = self._smaller(self.builder.add(low, whole(rows)), whole(self.row_extent))

        def row(i: ir.Value, _: Carry) -> Carry:
            inside = self.builder.sub(i, low)
            start = self._moved(
                source, self.builder.mul(inside, whole(self.deep * self.vectors * size))
            )
            for number in range(self.deep * self.vectors):
                m, j = divmod(number, self.vectors)
                where = self._moved(start, number * size)
                value = self.builder.load(where, typ=self.vector_type, align=self.item)
                self._store(i, whole(m), j, value)
            return []

        self.frame.loop(low, high, 1, [], row)

    # -- bounds --

    def _smaller(self, left: ir.Value, right: ir.Value) -> ir.Value:
        return self.math.intrinsic("llvm.smin.i64", left.type, left, right)

    def _larger(self, left: ir.Value, right: ir.Value) -> ir.Value:
        return self.math.intrinsic("llvm.smax.i64", left.type, left, right)

    def _clipped(self, axis: Axis, low: Count, high: Count) -> tuple[Count, Count]:
        """The part of low .. high where all guards hold that speak of `axis` and open loops only."""
        for guard in self.clips:
            others = [other for other in guard.terms if other != axis]
            if axis in guard.terms and all(other in self.open for other in others):
                low, high = self._clip(guard, axis, low, high)
        return low, high

    def _clip(
        self, guard: Interval, axis: Axis, low: Count, high: Count
    ) -> tuple[Count, Count]:
        b, coefficient = self.builder, guard.terms[axis]
        rest: ir.Value = whole(guard.constant)
        for other, factor in guard.terms.items():
            if other != axis:
                rest = b.add(rest, b.mul(self.open[other], whole(factor)))
        left = b.sub(whole(guard.extent - 1), rest)  # up to the largest index
        if coefficient == 0:
            inside = b.icmp_unsigned("<", rest, whole(guard.extent))
            return low, b.select(inside, whole(high), whole(low))
        size = abs(coefficient)
        below, above = self._floor(rest, size), self._floor(left, size)
        if coefficient < 0:
            below, above = above, below
        return (
            self._larger(whole(low), b.neg(below)),
            self._smaller(whole(high), b.add(above, whole(1))),
        )

    def _floor(self, value: ir.Value, divisor: int) -> ir.Value:
        b = self.builder
        if divisor == 1:
            return value
        quotient = b.sdiv(value, whole(divisor))
        rest = b.sub(value, b.mul(quotient, whole(divisor)))
        return b.sub(quotient, b.zext(b.icmp_signed("<", rest, whole(0)), value.type))

    # -- the tile --

    def _sums(self, a: ir.Value, b: ir.Value, group: TileGroup) -> Carry:
        """The tile's sums, row by row, vector by vector."""
        zero = self.math.constant(0.0, self.vector_type)
        rows = list(range(group.rows))
        start = [zero] * (group.rows * self.deep * self.vectors)
        return self._fold(list(self.tiling.inner), a, b, start, rows, group)

    def _fold(
        self,
        axes: list[Axis],
        a: ir.Value,
        b: ir.Value,
        sums: Carry,
        rows: list[int],
        group: TileGroup,
    ) -> Carry:
        """The fold loops `axes` from here inwards."""
        if not axes:
            return self._step(a, b, sums, rows)
        axis, *rest = axes
        if axis == self.tiling.tied:
            for piece in group.pieces:
                sums = self._piece(piece, rest, a, b, sums, group)
            return sums

        def body(i: ir.Value, carry: Carry) -> Carry:
            with self._opened(axis, i):
                inner_a = self._along(a, self.tiling.a, axis, i)
                inner_b = self._along(b, self.tiling.b, axis, i)
                return self._fold(rest, inner_a, inner_b, carry, rows, group)

        low: Count = 0
        high: Count = self.product.extents[axis]
        if self.tiling.strip and axis == self.tiling.inner[0]:
            low, high = self.strip_range
        low, high = self._clipped(axis, low, high)
        if (low, high) == (0, 1):
            return body(whole(0), sums)
        return self.frame.loop(low, high, 1, sums, body)

    def _piece(
        self,
        piece: Piece,
        rest: list[Axis],
        a: ir.Value,
        b: ir.Value,
        sums: Carry,
        group: TileGroup,
    ) -> Carry:
        """Part of the loop tied to the rows, for the rows that count in it."""
        axis, rows = self.tiling.tied, list(piece.rows)
        assert axis is not None
        width = self.deep * self.vectors
        places = [row * width + k for row in rows for k in range(width)]
        chosen = [sums[place] for place in places]

        def body(i: Count, carry: Carry) -> Carry:
            inner_a = self._along(a, self.tiling.a, axis, i)
            inner_b = self._along(b, self.tiling.b, axis, i)
            return self._fold(rest, inner_a, inner_b, carry, rows, group)

        low, high = self._clipped(axis, piece.first, piece.last)
        count = piece.last - piece.first
        if (low, high) != (piece.first, piece.last):
            new = self.frame.loop(low, high, 1, chosen, body)
        elif count == 1:
            new = body(piece.first, chosen)
        elif len(rest) == 1 and self._runs_on(axis, rest[0]):
            a = self._along(a, self.tiling.a, axis, piece.first)
            b = self._along(b, self.tiling.b, axis, piece.first)
            new = self._run(rest[0], count * self.product.extents[rest[0]], a, b, chosen, rows)
        else:
            new = self.frame.loop(piece.first, piece.last, 1, chosen, body)
        result = list(sums)
        for place, value in zip(places, new, strict=True):
            result[place] = value
        return result

    def _runs_on(self, far: Axis, near: Axis) -> bool:
        """Whether the two loops are one long loop for both operands."""
        extent = self.product.extents[near]
        if any(near in guard.terms for guard in self.clips):
            return False
        return all(
            factor.strides.get(far, 0) == factor.strides.get(near, 0) * extent
            for factor in (self.tiling.a, self.tiling.b)
        )

    def _run(
        self, axis: Axis, count: int, a: ir.Value, b: ir.Value, sums: Carry, rows: list[int]
    ) -> Carry:
        def body(i: ir.Value, carry: Carry) -> Carry:
            inner_a = self._along(a, self.tiling.a, axis, i)
            inner_b = self._along(b, self.tiling.b, axis, i)
            return self._step(inner_a, inner_b, carry, rows)

        return self.frame.loop(0, count, 1, sums, body)

    def _step(self, a: ir.Value, b: ir.Value, sums: Carry, rows: list[int]) -> Carry:
        """One multiply-add for every sum."""
        vectors = [self._load_b(b, j) for j in range(self.vectors)]
        if self.tiling.chunked:
            self._fetch_ahead(a, b)
        new = list(sums)
        step = self._stride(self.tiling.row)
        inner = self._stride(self.tiling.deep)
        for number, row in enumerate(rows):
            for deep in range(self.deep):
                place = self._moved(a, row * step + deep * inner)
                scalar = self.builder.load(place, typ=self.element, align=self.item)
                left = self._splat(scalar)
                for j, right in enumerate(vectors):
                    k = (number * self.deep + deep) * self.vectors + j
                    new[k] = self.math.fma(left, right, new[k])
        return new

    def _fetch_ahead(self, a: ir.Value, b: ir.Value) -> None:
        """Ask for what the next chunk reads here, into the second-level cache."""
        tiling = self.tiling
        axis, count = (tiling.chunks[-1], 1) if not tiling.strip else (tiling.inner[0], tiling.strip)
        hints = [ir.Constant(INT32, hint) for hint in (0, 2, 1)]
        line = 64 // self.item
        for factor, place, items in ((tiling.a, a, 1), (tiling.b, b, self.vectors * tiling.lanes)):
            ahead = count * factor.strides.get(axis, 0)
            for offset in range(0, items, line) if ahead else ():
                where = self._moved(place, ahead + offset)
                self.math.intrinsic("llvm.prefetch.p0", VOID, where, *hints)

    def _stride(self, axis: Axis | None) -> int:
        return self.tiling.a.strides.get(axis, 0) if axis is not None else 0

    def _splat(self, scalar: ir.Value) -> ir.Value:
        if self.tiling.lanes == 1:
            return scalar
        self.values.lanes, lanes = self.tiling.lanes, self.values.lanes
        wide = self.values.splat(scalar)
        self.values.lanes = lanes
        return wide

    def _load_b(self, b: ir.Value, j: int) -> ir.Value:
        place = self._moved(b, j * self.tiling.lanes)
        if not self.tail_lanes or j < self.vectors - 1:
            return self.builder.load(place, typ=self.vector_type, align=self.item)
        lanes = self.tiling.lanes
        bits = [int(lane < self.tail_lanes) for lane in range(lanes)]
        mask = ir.Constant(ir.VectorType(ir.IntType(1), lanes), bits)
        name = f"llvm.masked.load.v{lanes}{SUFFIXES[self.tiling.b.buffer.dtype]}.p0"
        align = ir.Constant(INT32, self.item)
        nothing = self.math.constant(0.0, self.vector_type)
        return self.math.intrinsic(name, self.vector_type, place, align, mask, nothing)

    # -- the epilogue --

    def _store(self, row: ir.Value, deep: ir.Value, j: int, value: ir.Value) -> None:
        """Run the kernel's stores for one vector of sums."""
        tiling, values = self.tiling, self.values
        with self.frame.scope():
            for axis, place in ((tiling.row, row), (tiling.deep, deep)):
                if axis is not None:
                    values.places[axis] = (self.frame.depth, place)
            values.locals[self.product.local] = (self.frame.depth, value)
            first = self.builder.add(self.first, whole(j * tiling.lanes))
            rest = self.tail_lanes if self.tail_lanes and j == self.vectors - 1 else None
            if tiling.lanes == 1:
                with values.at_axis(tiling.vector, first):
                    self._stores()
            else:
                with values.along(tiling.vector, tiling.lanes, first, rest):
                    self._stores()

    def _stores(self) -> None:
        for store in self.product.store_nodes():
            self.values.store(store.address, store.value, store.mode)
