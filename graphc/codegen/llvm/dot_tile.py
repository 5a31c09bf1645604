"""Emits a product whose operands both lie contiguously along the fold: dot products of rows.

An inner product reads weights[o, k] and data[n, k] this way. A tile holds vectors of partial sums,
along k, for `rows` points of one operand's axis and `columns` of the other's; at the end the lanes
are added, in a fixed order. Every element of the column operand is read once a panel of rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir

from graphc.codegen.llvm.loops import INT32, Carry, Count, Frame, PartialSums, whole
from graphc.codegen.llvm.operand import Operands
from graphc.codegen.llvm.product import Factor, Product
from graphc.codegen.llvm.shares import Part, Shares, each, when
from graphc.codegen.llvm.target import ITEM_BYTES, Target
from graphc.codegen.llvm.vector import Values
from graphc.kernel.lang import Axis

LONGEST_SUM = 1024  # terms one after another in one lane
MOST_TILE = 12
MOST_GROUP = 8
MOST_PACKED = 24  # rows of a panel that is packed
FEWEST_SHARES = 32
SCRATCH_BYTES = 96 << 10
AHEAD_BYTES = 2048  # how far ahead of the reads lines are asked for


@dataclass
class DotTiling:
    """rows, columns: points in a tile of `row` (only in a) and `column` (only in b), if there are.

    along: the contiguous fold axis. over: the other folds, outermost first. outer: the other `each`
    axes. panel, group: rows and tiles of columns that one share covers. chunk: all row tiles of a
    panel pass over so many points of `along`, which stay in the first-level cache, before any goes
    on; 0: each tile's sum is done at once.
    """

    a: Factor
    b: Factor
    along: Axis
    over: list[Axis]
    outer: list[Axis]
    row: Axis | None
    column: Axis | None
    lanes: int
    rows: int = 1
    columns: int = 1
    panel: int = 1
    group: int = 1
    chunk: int = 0
    cost: float = 0.0


def choose_dot(product: Product, target: Target) -> DotTiling | None:
    """The cheapest tile of dot products; None where the operands do not lie that way."""
    if product.guards:
        return None
    best: DotTiling | None = None
    lanes = target.lanes(product.left.buffer.dtype)
    for a, b in ((product.left, product.right), (product.right, product.left)):
        along = [x for x in product.over if a.strides.get(x, 0) == b.strides.get(x, 0) == 1]
        if not along or product.extents[along[0]] < lanes:
            return None
        over = [x for x in product.over if x != along[0]]
        over.sort(key=lambda axis: -abs(b.strides.get(axis, 0)))
        rows = _only_in(product, a, b) or [None]
        columns = _only_in(product, b, a) or [None]
        for row, column in itertools.product(rows, columns):
            outer = [axis for axis in product.each if axis not in (row, column)]
            tiling = DotTiling(a, b, along[0], over, outer, row, column, lanes)
            _choose_sizes(tiling, product, target)
            if best is None or tiling.cost < best.cost:
                best = tiling
    return best


def _only_in(product: Product, factor: Factor, other: Factor) -> list[Axis | None]:
    return [x for x in product.each if x in factor.strides and x not in other.strides]


def _choose_sizes(tiling: DotTiling, product: Product, target: Target) -> None:
    all_rows = product.extents[tiling.row] if tiling.row else 1
    all_columns = product.extents[tiling.column] if tiling.column else 1
    steps = product.size(product.over) / tiling.lanes
    found = []
    for rows in range(1, min(all_rows, MOST_TILE) + 1):
        for columns in range(1, min(all_columns, MOST_TILE) + 1):
            if rows * columns + min(rows, columns) + 1 > target.registers:
                break
            # Lines of b from far away, once for all rows; then instructions, two a cycle.
            cost = 0.0
            for r, row_tiles in _parts(all_rows, rows):
                for c, column_tiles in _parts(all_columns, columns):
                    busy = max(r * c, r + c, 8) + 0.5 * (r + c)
                    cost += row_tiles * column_tiles * (steps * busy + 10 * r * c + 20)
            found.append((cost, -rows, columns))
    cost, rows, tiling.columns = min(found)
    tiling.rows = -rows
    tiling.cost = cost * product.size(tiling.outer)
    _choose_chunks(tiling, product, target)


def _choose_chunks(tiling: DotTiling, product: Product, target: Target) -> None:
    """Decide what a share covers, and whether its sums wait in memory between chunks."""
    item = ITEM_BYTES[tiling.a.buffer.dtype]
    all_rows = product.extents[tiling.row] if tiling.row else 1
    tiles = -(-all_rows // tiling.rows)
    chunk = _chunk(tiling, target, min(all_rows, MOST_PACKED), item)
    sweep = all_rows * product.extents[tiling.along] * item
    if tiles == 1 or tiling.over or sweep <= 2 * target.l1_bytes:
        row_bytes = product.size(product.over) * item
        most = target.l2_bytes * 5 // 8 // row_bytes // tiling.rows
        tiling.panel = min(tiles, max(most, 4)) * tiling.rows
        return
    # Several tiles of columns pass over a chunk of the rows before it leaves the caches.
    tiling.chunk = chunk
    all_columns = product.extents[tiling.column] if tiling.column else 1
    column_tiles = all_columns // tiling.columns * product.size(tiling.outer)
    tiling.group = max(1, min(MOST_GROUP, column_tiles // FEWEST_SHARES))
    sums = tiling.group * tiling.rows * tiling.columns * tiling.lanes * item
    most = min(SCRATCH_BYTES // sums, MOST_PACKED // tiling.rows)
    tiling.panel = min(tiles, max(most, 1)) * tiling.rows


def _chunk(tiling: DotTiling, target: Target, rows: int, item: int) -> int:
    """As many points of `along` as let the packed rows and two tiles of columns share a cache."""
    chunk = target.l1_bytes // (rows + 2 * tiling.columns) // item
    return chunk - chunk % tiling.lanes


def _parts(extent: int, size: int) -> list[tuple[int, int]]:
    """(size, count) of full parts and of what is left over."""
    return [(s, n) for s, n in ((size, extent // size), (extent % size, 1)) if s and n]


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
        counts += [("panel", self.panels), ("group", self.groups)]
        self.shares = Shares(counts)
        self.extent = self.shares.extent
        self.slot_items = tiling.panel * tiling.columns * tiling.lanes  # sums of a tile of columns
        self.sums = self.slot_items * tiling.group if tiling.chunk else 0
        self.scratch_items = self.sums + tiling.panel * tiling.chunk

    def emit(
        self, frame: Frame, values: Values, scratch: ir.Value | None, low: Count, high: Count
    ) -> None:
        """Shares low .. high - 1."""
        self.frame, self.values, self.scratch = frame, values, scratch
        self.builder = frame.builder
        self.at = Operands(frame, values, self.tiling.a.buffer.dtype, self.tiling.lanes)
        each(frame, low, high, self._share)

    def _share(self, index: ir.Value) -> None:
        b, tiling = self.builder, self.tiling
        parts = self.shares.parts(b, index)
        left, right = self.at.start(tiling.a), self.at.start(tiling.b)
        for axis in tiling.outer:
            self.values.places[axis] = (self.frame.depth, parts[axis])
            left = self.at.along(left, tiling.a, axis, parts[axis])
            right = self.at.along(right, tiling.b, axis, parts[axis])
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
        elif rest:
            when(self.frame, b.icmp_signed("==", self.group, whole(self.groups - 1)), last)

    def _rows(self, left: ir.Value, right: ir.Value, panel: ir.Value, first: ir.Value) -> None:
        """All row tiles of the panel against one tile of columns, each sum done at once."""
        tiling = self.tiling
        right = self.at.along(right, tiling.b, tiling.column, first)

        def tile(row: ir.Value, rows: int) -> None:
            place = self.at.along(left, tiling.a, tiling.row, row)
            sums = self._fold(tiling.over, place, right, self._zeros(rows), rows)
            self._store_all(row, first, sums)

        self._row_tiles(panel, tile)

    def _store_all(self, row: ir.Value, first: ir.Value, sums: Carry) -> None:
        for number, value in enumerate(sums):
            i, j = divmod(number, self.columns)
            column = self.builder.add(first, whole(j))
            self._store(self.builder.add(row, whole(i)), column, self._total(value))

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
            items = b.mul(b.sub(row, first_row), whole(self.columns * tiling.lanes))
            start = self.at.moved(start, items)
            return [self.at.moved(start, k * tiling.lanes) for k in range(rows * self.columns)]

        def chunk(start: ir.Value, _: Carry) -> Carry:
            end = self.at.smaller(b.add(start, whole(tiling.chunk)), full)
            block = self._packed(left, first_row, start, end)

            def columns(first: ir.Value, slot: ir.Value) -> None:
                self.ahead = -(-self.columns // tiles)  # columns that a tile asks for
                near = self.at.along(right, tiling.b, tiling.column, first)

                def tile(row: ir.Value, rows: int) -> None:
                    inside = b.sub(row, first_row)
                    place = self.at.moved(block, b.mul(inside, whole(tiling.chunk)))
                    number = b.udiv(b.sub(row, first_row), whole(tiling.rows))
                    following = self._following(near, b.mul(number, whole(self.ahead)))

                    def body(i: ir.Value, carry: Carry) -> Carry:
                        for ahead in following:
                            self.at.fetch(self.at.moved(ahead, i))
                        return self._step(place, near, i, carry, rows, row_step=tiling.chunk)

                    new = self.frame.loop(start, end, tiling.lanes, self._zeros(rows), body)
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
                    sums = self._step(place, near, whole(full), sums, rows, extent - full)
                self._store_all(row, first, sums)

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

    def _following(self, right: ir.Value, first: ir.Value) -> list[ir.Value]:
        """What the next chunk reads of `ahead` columns from `first` on, the last at most."""
        places = []
        for k in range(self.ahead):
            column = self.at.smaller(self.builder.add(first, whole(k)), self.columns - 1)
            place = self.at.along(right, self.tiling.b, self.tiling.column, column)
            places.append(self.at.moved(place, self.tiling.chunk))
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
                return self._fold(
                    rest,
                    self.at.along(left, tiling.a, axis, i),
                    self.at.along(right, tiling.b, axis, i),
                    carry,
                    rows,
                )

            return self.frame.loop(0, self.product.extents[axis], 1, sums, outer)
        extent = self.product.extents[tiling.along]
        full = extent - extent % lanes

        def body(i: ir.Value, carry: Carry) -> Carry:
            for n in range(self.columns):
                ahead = self.at.moved(right, n * step + AHEAD_BYTES // self.at.item)
                self.at.fetch(self.at.moved(ahead, i))
            return self._step(left, right, i, carry, rows)

        step = self._stride(tiling.b, tiling.column)
        sums = self.frame.chunked(0, full, lanes, sums, body, PartialSums(LONGEST_SUM))
        if full == extent:
            return sums
        return self._step(left, right, whole(full), sums, rows, extent - full)

    def _step(
        self,
        left: ir.Value,
        right: ir.Value,
        i: ir.Value,
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

    def _total(self, value: ir.Value) -> ir.Value:
        """The sum of all lanes: halves are added until one is left."""
        lanes, b = self.tiling.lanes, self.builder
        while lanes > 1:
            lanes //= 2
            halves = []
            for start in (0, lanes):
                chosen = list(range(start, start + lanes))
                order = ir.Constant(ir.VectorType(INT32, lanes), chosen)
                halves.append(b.shuffle_vector(value, value, order))
            value = b.fadd(*halves)
        if isinstance(value.type, ir.VectorType):
            value = b.extract_element(value, ir.Constant(INT32, 0))
        return value

    def _store(self, row: ir.Value, column: ir.Value, value: ir.Value) -> None:
        """Run the kernel's stores for one sum."""
        tiling, values = self.tiling, self.values
        with self.frame.scope():
            for axis, place in ((tiling.row, row), (tiling.column, column)):
                if axis is not None:
                    values.places[axis] = (self.frame.depth, place)
            values.locals[self.product.local] = (self.frame.depth, value)
            values.store_all(self.product.store_nodes())
