"""Emits sums of products at all taps of a window: the weight gradient of a depthwise convolution.

`tap_tiling.py` says how it runs and why. Padding is peeled: lines and columns that miss some taps
are code of their own, without those.
"""

from __future__ import annotations

from functools import partial

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.loops import Carry, Count, Frame, whole
from graphc.codegen.llvm.operand import LINE_BYTES, Operands
from graphc.codegen.llvm.product import Product
from graphc.codegen.llvm.shares import each, when
from graphc.codegen.llvm.tap_tiling import CHANNEL_GRAIN, Span, TapTiling
from graphc.codegen.llvm.vector import Values
from graphc.kernel.lang import Axis

LINES_ABOVE = 3  # of dy, whose windows may have met what a line meets

Places = tuple[ir.Value, ir.Value]


class TapSums:
    """One product under construction; threads share its `extent` vectors of channels."""

    def __init__(self, product: Product, tiling: TapTiling):
        self.product = product
        self.tiling = tiling
        self.channels = product.extents[tiling.vector]
        self.extent = -(-self.channels // tiling.lanes)
        self.tail = self.channels % tiling.lanes or None
        self.full = self.channels // tiling.lanes
        self.joined = CHANNEL_GRAIN
        self.row_items = len(tiling.points) * tiling.lanes  # of the sums of one vector
        self.sums = min(tiling.wide, self.extent) * self.row_items
        kept, width = tiling.kept, tiling.vectors * tiling.lanes
        self.scratch_items = self.sums + (kept.slots * kept.width * width if kept else 0)

    def emit(
        self, frame: Frame, values: Values, scratch: ir.Value, low: Count, high: Count
    ) -> None:
        """Vectors low .. high - 1 of channels."""
        self.frame, self.values, self.builder = frame, values, frame.builder
        self.at = Operands(frame, values, self.tiling.a.buffer.dtype, self.tiling.lanes)
        self.scratch = scratch

        def group(first: ir.Value, _: Carry) -> Carry:
            self.first = first
            following = self.builder.add(first, whole(self.tiling.wide))
            self.end = self.at.smaller(following, whole(high))
            self._group()
            return []

        frame.loop(low, high, self.tiling.wide, [], group)

    def _group(self) -> None:
        """Vectors first .. end - 1 for the whole fold."""
        b, at, tiling = self.builder, self.at, self.tiling
        count = b.mul(b.sub(self.end, self.first), whole(self.row_items))

        def clear(i: ir.Value, _: Carry) -> Carry:
            at.store(at.zero, at.moved(self.scratch, i))
            return []

        self.frame.loop(0, count, tiling.lanes, [], clear)
        start = b.mul(self.first, whole(tiling.lanes))
        a, c = at.moved(at.start(tiling.a), start), at.moved(at.start(tiling.b), start)
        self._chunks(list(tiling.chunks), (a, c))
        full = at.smaller(self.end, self.full)
        each(self.frame, self.first, full, lambda i: self._store(i, None))
        if self.tail is not None:
            last = b.icmp_signed("==", self.end, whole(self.extent))
            when(self.frame, last, lambda: self._store(whole(self.full), self.tail))

    def _moved(self, places: Places, axis: Axis | None, i: Count) -> Places:
        a, b = places
        return self.at.along(a, self.tiling.a, axis, i), self.at.along(b, self.tiling.b, axis, i)

    def _chunks(self, axes: list[Axis], places: Places) -> None:
        if axes:
            axis, *rest = axes
            extent = self.product.extents[axis]
            each(self.frame, 0, extent, lambda i: self._chunks(rest, self._moved(places, axis, i)))
            return
        line, strip = self.tiling.line, self.tiling.strip
        lines = self.product.extents[line] if line is not None else 1
        if strip >= lines:
            self._strip(places, 0, lines)
            return

        def body(low: ir.Value, _: Carry) -> Carry:
            high = self.at.smaller(self.builder.add(low, whole(strip)), lines)
            self._strip(places, low, high)
            return []

        self.frame.loop(0, lines, strip, [], body)

    def _strip(self, places: Places, low: Count, high: Count) -> None:
        """Lines low .. high - 1 for the group's channels."""
        b, vectors = self.builder, self.tiling.vectors
        full = self.at.smaller(self.end, self.full)
        tile = partial(self._tile, places, (low, high))

        def many(i: ir.Value, _: Carry) -> Carry:
            tile(i, vectors, None)
            return []

        self.frame.loop(self.first, b.sub(full, whole(vectors - 1)), vectors, [], many)
        if vectors > 1 and self.full >= 1:
            count = b.sub(full, self.first)
            done = b.sub(count, b.srem(count, whole(vectors)))
            each(self.frame, b.add(self.first, done), full, lambda i: tile(i, 1, None))
        if self.tail is not None:
            last = b.icmp_signed("==", self.end, whole(self.extent))
            when(self.frame, last, lambda: tile(whole(self.full), 1, self.tail))

    # -- a tile --

    def _tile(
        self,
        places: Places,
        lines: tuple[Count, Count],
        i: ir.Value,
        vectors: int,
        tail: int | None,
    ) -> None:
        """A strip's sums for `vectors` vectors from the i-th on, the last of `tail` elements."""
        b, at, tiling = self.builder, self.at, self.tiling
        self.vectors, self.tail_here = vectors, tail
        inside = b.sub(i, self.first)
        moved = b.mul(inside, whole(tiling.lanes))
        start = at.moved(places[0], moved), at.moved(places[1], moved)
        self._look_ahead(i, moved)
        sums: Carry = [at.zero] * (vectors * len(tiling.points))
        slots = self._first_lines(start[0], lines[0]) if tiling.kept else []
        carry = [*sums, *slots]
        for span in tiling.line_spans:
            low, high = (self._within(span, line) for line in lines)
            carry = self.frame.loop(low, high, 1, carry, partial(self._line, span, start))
        sums = carry[: len(sums)]
        target = at.moved(self.scratch, b.mul(inside, whole(self.row_items)))
        for k, value in enumerate(sums):
            where = at.moved(target, k * tiling.lanes)
            at.store(b.fadd(at.load(where), value), where)

    def _within(self, span: Span, line: Count) -> Count:
        if isinstance(line, int):
            return min(max(line, span.first), span.last)
        return self.at.smaller(self.at.larger(line, span.first), span.last)

    def _line(self, lines: Span, start: Places, i: ir.Value, carry: Carry) -> Carry:
        """One line of dy; after the sums, `carry` has the slots of kept lines."""
        tiling, kept = self.tiling, self.tiling.kept
        held = self.vectors * len(tiling.points)
        sums, self.slots = carry[:held], carry[held:]
        places = self._moved(start, tiling.line, i)
        self.is_top = lines.first == 0 and len(tiling.line_spans) > 1
        if kept:
            following = self.builder.add(i, whole(1))
            self.source = self._line_of_window(start[0], following, kept.count - 1)
        for span in tiling.column_spans:
            if taps := sorted(lines.taps & span.taps):
                sums = self._span(span, taps, places, sums)
        if kept:
            done = kept.first + self.product.extents[tiling.column] * kept.across
            self._copy(self.source, self.slots[-1], range(done, kept.last))
        return [*sums, *self.slots[1:], *self.slots[:1]]

    def _span(self, span: Span, taps: list[int], places: Places, sums: Carry) -> Carry:
        """Columns that meet the same taps."""
        self.is_left = span.first == 0 and len(self.tiling.column_spans) > 1
        step = self.tiling.columns
        rest = (span.last - span.first) % step
        body = partial(self._columns, taps, places, step)
        sums = self.frame.loop(span.first, span.last - rest, step, sums, body)
        if not rest:
            return sums
        return self._columns(taps, places, rest, whole(span.last - rest), sums)

    def _columns(
        self, taps: list[int], start: Places, columns: int, i: ir.Value, sums: Carry
    ) -> Carry:
        """Some columns from the i-th on: every vector of a is loaded once."""
        tiling, at = self.tiling, self.at
        a, b = self._moved(start, tiling.column, i)
        step = tiling.step(tiling.b, tiling.column)
        others = [self._vectors(at.moved(b, column * step)) for column in range(columns)]
        new = list(sums)
        met = tiling.met(taps, columns)
        if kept := tiling.kept:
            a = self._keep(columns, i)
            fresh = [(kept.first + k) * kept.pixel for k in range(columns * kept.across)]
        else:
            fresh = self._fresh(list(met), columns)
        self._fetch(a, self.ahead_a, fresh)
        self._fetch(b, self.ahead_b, [column * step for column in range(columns)])
        for offset, pairs in met.items():
            near = self._kept_place(i, *pairs[0]) if kept else at.moved(a, offset)
            for j, left in enumerate(self._vectors(near, is_kept=kept is not None)):
                for column, tap in pairs:
                    k = j * len(tiling.points) + tap
                    new[k] = at.math.fma(left, others[column][j], new[k])
        return new

    def _vectors(self, place: ir.Value, is_kept: bool = False) -> list[ir.Value]:
        """The tile's vectors of one point; those of a kept line are whole."""
        found = []
        for j in range(self.vectors):
            tail = self.tail_here if j == self.vectors - 1 and not is_kept else None
            found.append(self.at.load(self.at.moved(place, j * self.tiling.lanes), tail))
        return found

    # -- kept lines --

    def _first_lines(self, a: ir.Value, low: Count) -> Carry:
        """The slots, all lines of the first window being there."""
        kept, at = self.tiling.kept, self.at
        assert kept is not None
        ring = at.moved(self.scratch, self.sums)
        size = kept.width * self.tiling.vectors * self.tiling.lanes
        slots = [at.moved(ring, k * size) for k in range(kept.slots)]
        for row, slot in enumerate(slots[:-1]):
            source = self._line_of_window(a, whole(low), row)
            body = partial(self._copy_column, source, slot)
            self.frame.loop(kept.first, kept.last, 1, [], body)
        return slots

    def _copy_column(self, source: ir.Value, slot: ir.Value, column: ir.Value, _: Carry) -> Carry:
        kept, b = self.tiling.kept, self.builder
        assert kept is not None
        width = self.tiling.vectors * self.tiling.lanes
        near = self.at.moved(source, b.mul(column, whole(kept.pixel)))
        self._copy(near, self.at.moved(slot, b.mul(column, whole(width))), range(1))
        return []

    def _line_of_window(self, a: ir.Value, line: ir.Value, row: int) -> ir.Value:
        """Where a line of the window at a line of dy begins; another that exists, if it does not.

        No tap reads what is copied from there then.
        """
        kept, at = self.tiling.kept, self.at
        assert kept is not None
        least, largest = kept.lines[row]
        line = at.smaller(at.larger(line, least), largest)
        step = self.tiling.step(self.tiling.a, self.tiling.line)
        return at.moved(a, self.builder.mul(self.builder.add(line, whole(row)), whole(step)))

    def _copy(self, source: ir.Value, slot: ir.Value, columns: range) -> None:
        kept, at = self.tiling.kept, self.at
        assert kept is not None
        for column in columns:
            there = at.moved(slot, column * self.tiling.vectors * self.tiling.lanes)
            for j, vector in enumerate(self._vectors(at.moved(source, column * kept.pixel))):
                at.store(vector, at.moved(there, j * self.tiling.lanes))

    def _keep(self, columns: int, i: ir.Value) -> ir.Value:
        """Copy these columns' part of the next line."""
        kept, at, b = self.tiling.kept, self.at, self.builder
        assert kept is not None
        width = kept.across * self.tiling.vectors * self.tiling.lanes
        source = at.along(self.source, self.tiling.a, self.tiling.column, i)
        slot = at.moved(self.slots[-1], b.mul(i, whole(width)))
        first = kept.first
        self._copy(source, slot, range(first, first + columns * kept.across))
        return source

    def _kept_place(self, i: ir.Value, column: int, tap: int) -> ir.Value:
        """Where a tile that is at column i finds what a tap meets `column` columns on."""
        kept = self.tiling.kept
        assert kept is not None
        row, place = kept.places[tap]
        width = self.tiling.vectors * self.tiling.lanes
        near = self.at.moved(self.slots[row], self.builder.mul(i, whole(kept.across * width)))
        return self.at.moved(near, (column * kept.across + place) * width)

    # -- what the next tile reads --

    def _look_ahead(self, i: ir.Value, moved: ir.Value) -> None:
        """How far ahead the next tile reads: the next channels, or the next strip's first ones."""
        b, tiling = self.builder, self.tiling
        following = b.add(i, whole(self.vectors))
        last = b.icmp_signed(">=", following, self.end)
        axis, count = tiling.line, tiling.strip
        beside = whole(self.vectors * tiling.lanes)
        self.ahead_a, self.ahead_b = (
            b.select(last, b.sub(whole(count * tiling.step(factor, axis)), moved), beside)
            for factor in (tiling.a, tiling.b)
        )

    def _fetch(self, place: ir.Value, ahead: ir.Value, offsets: list[int]) -> None:
        """Ask for what the next tile reads there."""
        far = self.at.moved(place, ahead)
        for offset in offsets:
            for k in range(0, self.vectors * self.tiling.lanes, LINE_BYTES // self.at.item):
                self.at.fetch(self.at.moved(far, offset + k))

    def _fresh(self, met: list[int], columns: int) -> list[int]:
        """Of these places in a those that neither the line above nor columns before have met."""
        tiling, there = self.tiling, set(met)
        down = tiling.step(tiling.a, tiling.line)
        across = columns * tiling.step(tiling.a, tiling.column)
        reach = range(-len(met), len(met) + 1)
        seen = set()
        if not self.is_left:
            seen |= {offset - k * across for offset in there for k in reach if k > 0}
        if not self.is_top and down:
            lines = range(1, LINES_ABOVE + 1)
            seen |= {o - m * down - k * across for o in there for k in reach for m in lines}
        return [offset for offset in met if offset not in seen]

    # -- the epilogue --

    def _store(self, i: ir.Value, tail: int | None) -> None:
        """Run the kernel's stores for all taps of one vector of channels."""
        tiling, values, b = self.tiling, self.values, self.builder
        sums = self.at.moved(self.scratch, b.mul(b.sub(i, self.first), whole(self.row_items)))
        channel = b.mul(i, whole(tiling.lanes))
        for number, point in enumerate(tiling.points):
            value = self.at.load(self.at.moved(sums, number * tiling.lanes))
            with self.frame.scope():
                for axis, place in zip(tiling.taps, point, strict=True):
                    values.places[axis] = (self.frame.depth, whole(place))
                values.locals[self.product.local] = (self.frame.depth, value)
                lane = (
                    values.at_axis(tiling.vector, channel)
                    if tiling.lanes == 1
                    else values.along(tiling.vector, tiling.lanes, channel, tail)
                )
                with lane:
                    values.store_all(self.product.store_nodes())
