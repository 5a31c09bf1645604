"""Emits a product whose operands both lie contiguously along the fold: dot products of rows.

An inner product reads weights[o, k] and data[n, k] this way. A tile holds vectors of partial sums,
along k, for `rows` points of one operand's axis and `columns` of the other's; at the end the lanes
are added, in a fixed order. Every element of the column operand is read once a panel of rows.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from llvmlite import ir

from graphc.codegen.llvm.loops import INT1, INT32, Carry, Count, Frame, whole
from graphc.codegen.llvm.product import Factor, Product
from graphc.codegen.llvm.target import ITEM_BYTES, Target
from graphc.codegen.llvm.vector import SUFFIXES, TYPES, Values
from graphc.kernel.lang import Axis

LONGEST_SUM = 1024  # terms one after another in one lane
MOST_TILE = 12


@dataclass
class DotTiling:
    """rows, columns: points in a tile of `row` (only in a) and `column` (only in b), if there are.

    along: the contiguous fold axis. over: the other folds, outermost first. outer: the other `each`
    axes. panel: rows that one share covers.
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
    row_bytes = product.size(product.over) * ITEM_BYTES[tiling.a.buffer.dtype]
    most = max(1, target.l2_bytes * 5 // 8 // row_bytes // tiling.rows)
    tiles = -(-all_rows // tiling.rows)
    tiling.panel = min(tiles, max(most, 4)) * tiling.rows


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
        counts: list[tuple[Axis | str, int]] = [(x, product.extents[x]) for x in tiling.outer]
        counts += [("panel", self.panels), ("columns", -(-self.all_columns // tiling.columns))]
        self.counts = [(name, count) for name, count in counts if count > 1]
        self.extent = 1
        for _, count in self.counts:
            self.extent *= count
        self.scratch_items = 0

    def emit(
        self, frame: Frame, values: Values, scratch: ir.Value | None, low: Count, high: Count
    ) -> None:
        """Shares low .. high - 1."""
        self.frame, self.values = frame, values
        self.builder, self.math = frame.builder, values.math
        dtype = self.tiling.a.buffer.dtype
        self.element, self.item = TYPES[dtype], ITEM_BYTES[dtype]
        lanes = self.tiling.lanes
        self.vector_type = ir.VectorType(self.element, lanes) if lanes > 1 else self.element
        frame.loop(low, high, 1, [], self._share)

    def _share(self, index: ir.Value, _: Carry) -> Carry:
        b, tiling = self.builder, self.tiling
        parts: dict[Axis | str, ir.Value] = {}
        for name, count in reversed(self.counts[1:]):
            parts[name] = b.urem(index, whole(count))
            index = b.udiv(index, whole(count))
        if self.counts:
            parts[self.counts[0][0]] = index
        left, right = self._start(tiling.a), self._start(tiling.b)
        for axis in tiling.outer:
            self.values.places[axis] = (self.frame.depth, parts[axis])
            left = self._along(left, tiling.a, axis, parts[axis])
            right = self._along(right, tiling.b, axis, parts[axis])
        panel = parts.get("panel", whole(0))
        first = b.mul(parts.get("columns", whole(0)), whole(tiling.columns))
        right = self._along(right, tiling.b, tiling.column, first)
        rest = self.all_columns % tiling.columns
        if not rest:
            self._rows(left, right, panel, first, tiling.columns)
        elif self.all_columns < tiling.columns:
            self._rows(left, right, panel, first, rest)
        else:
            full = b.icmp_signed("<", first, whole(self.all_columns - rest))
            for condition, columns in ((full, tiling.columns), (b.not_(full), rest)):
                self.frame.guard(
                    condition, [], lambda _, n=columns: self._rows(left, right, panel, first, n)
                )
        return []

    def _start(self, factor: Factor) -> ir.Value:
        return self._moved(self.values.bases[factor.buffer.name], factor.constant)

    def _moved(self, place: ir.Value, items: Count) -> ir.Value:
        if isinstance(items, int) and items == 0:
            return place
        return self.builder.gep(place, [whole(items)], source_etype=self.element)

    def _along(
        self, place: ir.Value, factor: Factor, axis: Axis | None, value: ir.Value
    ) -> ir.Value:
        stride = factor.strides.get(axis, 0) if axis is not None else 0
        if stride == 0:
            return place
        return self._moved(place, value if stride == 1 else self.builder.mul(value, whole(stride)))

    def _rows(
        self, left: ir.Value, right: ir.Value, panel: ir.Value, first: ir.Value, columns: int
    ) -> Carry:
        """All row tiles of the panel against one tile of columns."""
        b, tiling = self.builder, self.tiling

        def tile(row: ir.Value, rows: int) -> None:
            place = self._along(left, tiling.a, tiling.row, row)
            zero = self.math.constant(0.0, self.vector_type)
            sums = self._fold(tiling.over, place, right, [zero] * (rows * columns), rows, columns)
            for number, value in enumerate(sums):
                i, j = divmod(number, columns)
                self._store(b.add(row, whole(i)), b.add(first, whole(j)), self._total(value))

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
            return []
        low = b.mul(panel, whole(tiling.panel))
        high = self.math.min(b.add(low, whole(tiling.panel)), whole(full))
        self.frame.loop(low, high, tiling.rows, [], body)
        if rest:
            last = b.icmp_signed("==", panel, whole(self.panels - 1))

            def remainder(_: Carry) -> Carry:
                tile(whole(full), rest)
                return []

            self.frame.guard(last, [], remainder)
        return []

    def _fold(
        self,
        axes: list[Axis],
        left: ir.Value,
        right: ir.Value,
        sums: Carry,
        rows: int,
        columns: int,
    ) -> Carry:
        tiling, lanes = self.tiling, self.tiling.lanes
        if axes:
            axis, *rest = axes

            def outer(i: ir.Value, carry: Carry) -> Carry:
                return self._fold(
                    rest,
                    self._along(left, tiling.a, axis, i),
                    self._along(right, tiling.b, axis, i),
                    carry,
                    rows,
                    columns,
                )

            return self.frame.loop(0, self.product.extents[axis], 1, sums, outer)
        extent = self.product.extents[tiling.along]
        full = extent - extent % lanes

        def body(i: ir.Value, carry: Carry) -> Carry:
            return self._step(left, right, i, carry, rows, columns, 0)

        sums = self.frame.chunked(0, full, lanes, sums, body, LONGEST_SUM)
        if full == extent:
            return sums
        return self._step(left, right, whole(full), sums, rows, columns, extent - full)

    def _step(
        self,
        left: ir.Value,
        right: ir.Value,
        i: ir.Value,
        sums: Carry,
        rows: int,
        columns: int,
        tail: int,
    ) -> Carry:
        left, right = self._moved(left, i), self._moved(right, i)
        row, column = self._stride(self.tiling.a, self.tiling.row), self._stride(
            self.tiling.b, self.tiling.column
        )
        ones = [self._load(self._moved(left, m * row), tail) for m in range(rows)]
        others = [self._load(self._moved(right, n * column), tail) for n in range(columns)]
        pairs = itertools.product(ones, others)
        return [self.math.fma(x, y, s) for (x, y), s in zip(pairs, sums, strict=True)]

    def _stride(self, factor: Factor, axis: Axis | None) -> int:
        return factor.strides.get(axis, 0) if axis is not None else 0

    def _load(self, place: ir.Value, tail: int) -> ir.Value:
        if not tail:
            return self.builder.load(place, typ=self.vector_type, align=self.item)
        lanes = self.tiling.lanes
        mask = ir.Constant(ir.VectorType(INT1, lanes), [int(lane < tail) for lane in range(lanes)])
        name = f"llvm.masked.load.v{lanes}{SUFFIXES[self.tiling.a.buffer.dtype]}.p0"
        align = ir.Constant(INT32, self.item)
        nothing = self.math.constant(0.0, self.vector_type)
        return self.math.intrinsic(name, self.vector_type, place, align, mask, nothing)

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
            for store in self.product.store_nodes():
                values.store(store.address, store.value, store.mode)
