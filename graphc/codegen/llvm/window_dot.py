"""Emits a product under guards whose operands lie contiguously along the fold: dots in windows.

The data gradient of a layer with a few input channels is one: dx[image, y, x, c] is the sum over
the taps (j, k) that meet (y, x) of dy[image, .., .., :] . w[j, k, c, :], and with three channels
the lanes are full along the outputs only. A tile holds vectors of partial sums for `rows` points
of one image axis and all columns c. In a strided layer its rows are a stride apart: they meet the
same taps. A row that a tap does not meet reads zeros, so that one piece of code serves all tiles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.fold_loops import FoldLoops
from graphc.codegen.llvm.loops import INT32, Carry, Count, Frame, whole
from graphc.codegen.llvm.operand import LINE_BYTES, Operands
from graphc.codegen.llvm.product import Factor, Interval, Product
from graphc.codegen.llvm.shares import Part, Shares, each, when
from graphc.codegen.llvm.target import Target
from graphc.codegen.llvm.vector import Values
from graphc.kernel.lang import Axis

LONGEST_SUM = 1200  # terms one after another in one lane
MOST_COLUMNS = 4
MOST_ROWS = 8
MOST_UNROLLED = 2  # vectors along the fold
# Slots that a step of a tile takes besides its multiplications: its loop, and lines that come from
# the second-level cache. Few rows that fit the image better than many lose more by it.
STEP = 4


@dataclass
class WindowTiling:
    """A schedule: `rows` points of `row`, `step` apart, by all points of `column`, if there is one.

    along: the contiguous fold axis. over: the other folds, outermost first. outer: the other `each`
    axes. row_items: elements of a from one row of a tile to the next. checks: guards on rows.
    """

    a: Factor
    b: Factor
    along: Axis
    over: list[Axis]
    outer: list[Axis]
    row: Axis
    column: Axis | None
    checks: list[Interval]
    step: int
    row_items: int
    lanes: int
    rows: int = 1
    cost: float = 0.0


def choose_window_dot(product: Product, target: Target) -> WindowTiling | None:
    """The cheapest such tile; None where the product is not of this form."""
    best: WindowTiling | None = None
    for a, b in ((product.left, product.right), (product.right, product.left)):
        for tiling in _tilings(product, target, a, b):
            _choose_rows(tiling, product, target)
            if tiling.cost < (math.inf if best is None else best.cost):
                best = tiling
    return best


def _tilings(product: Product, target: Target, a: Factor, b: Factor) -> list[WindowTiling]:
    guarded = {axis for guard in product.guards for axis in guard.terms}
    lanes = target.lanes(a.buffer.dtype)
    along = [x for x in product.over if a.strides.get(x, 0) == b.strides.get(x, 0) == 1]
    along = [x for x in along if x not in guarded and product.extents[x] >= lanes]
    if b.guarded or not along:
        return []
    columns = [x for x in product.each if x in b.strides and x not in a.strides]
    held = {step.each_axis: step for step in a.stepped}
    columns = [x for x in columns if x not in held and x not in guarded]
    small = [x for x in columns if product.extents[x] <= MOST_COLUMNS]
    over = [x for x in product.over if x != along[0]]
    found = []
    for row in product.each:
        if row in b.strides or (row not in a.strides and row not in held):
            continue
        checks = [guard for guard in product.guards if row in guard.terms]
        step = held[row].divisor if row in held else 1
        items = a.strides.get(row, 0) * step + (
            held[row].each * held[row].stride if held.get(row) else 0
        )
        column = max(small, key=lambda x: product.extents[x]) if small else None
        if not checks or (columns and column is None):
            continue
        outer = [axis for axis in product.each if axis not in (row, column)]
        # A guard on rows is looked at where all its loops are open: those come last but one.
        tied = {axis for guard in checks for axis in guard.terms}
        inside = sorted(over, key=lambda x: (x in tied, -abs(a.strides.get(x, 0))))
        found.append(
            WindowTiling(a, b, along[0], inside, outer, row, column, checks, step, items, lanes)
        )
    return sorted(found, key=lambda tiling: abs(tiling.row_items))  # of equal ones the first


def _choose_rows(tiling: WindowTiling, product: Product, target: Target) -> None:
    columns = product.extents[tiling.column] if tiling.column else 1
    steps: float = -(-product.extents[tiling.along] // tiling.lanes)
    for axis in tiling.over:
        stepped = product.stepped.get(axis)
        steps *= product.extents[axis] / (stepped.divisor if stepped else 1)
    in_phase = -(-product.extents[tiling.row] // tiling.step)
    found = []
    for rows in range(1, min(in_phase, MOST_ROWS) + 1):
        sums = rows * columns
        if sums + columns + 1 > target.registers:
            break
        busy = max(sums, 8, rows + columns + 2)
        tiles = -(-in_phase // rows) * tiling.step
        cost = tiles * (steps * busy + 40 + 12 * sums)
        found.append((cost + tiles * steps * STEP, cost, rows))
    _, cost, tiling.rows = min(found)
    tiling.cost = cost * product.size(tiling.outer)
    if steps > LONGEST_SUM:
        tiling.cost = math.inf


class WindowDot:
    """One product under construction. `extent` counts the shares of it that may run apart."""

    def __init__(self, product: Product, tiling: WindowTiling):
        self.product = product
        self.tiling = tiling
        self.columns = product.extents[tiling.column] if tiling.column else 1
        counts: list[tuple[Part, int]] = [(x, product.extents[x]) for x in tiling.outer]
        self.shares = Shares(counts)
        self.extent = self.shares.extent
        self.zeros = product.extents[tiling.along]
        self.sums = tiling.rows * self.columns
        whole_vectors = -(-self.sums // tiling.lanes)
        self.scratch_items = self.zeros + (whole_vectors + 1) * tiling.lanes

    def emit(
        self, frame: Frame, values: Values, scratch: ir.Value, low: Count, high: Count
    ) -> None:
        """Shares low .. high - 1."""
        self.frame, self.values = frame, values
        self.builder = frame.builder
        tiling = self.tiling
        self.at = Operands(frame, values, tiling.a.buffer.dtype, tiling.lanes)
        whole_vectors = -(-self.sums // tiling.lanes)
        self.totals = scratch
        self.nothing = self.at.moved(scratch, whole_vectors * tiling.lanes)

        def clear(i: ir.Value, _: Carry) -> Carry:
            self.at.store(self.at.zero, self.at.moved(self.nothing, i))
            return []

        frame.loop(0, self.zeros, tiling.lanes, [], clear)
        each(frame, low, high, self._share)

    def _share(self, index: ir.Value) -> None:
        b, tiling = self.builder, self.tiling
        parts = self.shares.parts(b, index)
        clips = [guard for guard in self.product.guards if guard not in tiling.checks]
        self.loops = FoldLoops(self.at, self.product, tiling.a, tiling.b, tiling.b, clips)
        left, right = self.at.start(tiling.a), self.at.start(tiling.b)
        for axis in tiling.outer:
            self.loops.place(axis, parts[axis])
            left, right = self.loops.both(left, right, axis, parts[axis])
        extent = self.product.extents[tiling.row]

        def phase(first: ir.Value) -> None:
            def tile(row: ir.Value, _: Carry) -> Carry:
                with self.loops.opened(tiling.row, row):
                    place = self.loops.both(left, right, tiling.row, row)[0]
                    self.all_exist = self._exists(tiling.rows - 1)
                    self._fetch_ahead(place)
                    zeros: Carry = [self.at.zero] * self.sums
                    sums = self._fold(tiling.over, place, right, zeros)
                self._store_all(row, sums)
                return []

            self.frame.loop(first, extent, tiling.rows * tiling.step, [], tile)

        if tiling.step == 1:
            phase(whole(0))
        else:
            each(self.frame, 0, min(tiling.step, extent), phase)

    # -- the fold --

    def _fold(self, axes: list[Axis], left: ir.Value, right: ir.Value, sums: Carry) -> Carry:
        if not axes:
            return self._met(left, right, sums)
        axis, *rest = axes

        def body(i: ir.Value, carry: Carry) -> Carry:
            with self.loops.opened(axis, i):
                return self._fold(rest, *self.loops.both(left, right, axis, i), carry)

        low, high = self.loops.clipped(axis, 0, self.product.extents[axis])
        low, step = self.loops.starts(axis, low)
        return self.frame.loop(low, high, step, sums, body)

    def _met(self, left: ir.Value, right: ir.Value, sums: Carry) -> Carry:
        """One tap: rows that it does not meet read zeros, where there are such rows."""
        b, tiling = self.builder, self.tiling
        rows = [self.at.moved(left, m * tiling.row_items) for m in range(tiling.rows)]
        numbers = [self.values.linear(guard.terms, guard.constant) for guard in tiling.checks]
        inside = self.all_exist
        for guard, number in zip(tiling.checks, numbers, strict=True):
            # Both ends of the tile are inside: between them, so are all rows.
            reach = (tiling.rows - 1) * self._move(guard)
            lowest = b.add(number, whole(min(reach, 0)))
            most = whole(max(guard.extent - abs(reach), 0))
            inside = b.and_(inside, b.icmp_unsigned("<", lowest, most))
        sums = self.frame.guard(inside, sums, lambda carry: self._along(rows, right, carry))

        def some(carry: Carry) -> Carry:
            chosen = [
                b.select(self._meets(m, numbers), r, self.nothing) for m, r in enumerate(rows)
            ]
            return self._along(chosen, right, carry)

        return self.frame.guard(b.not_(inside), sums, some)

    def _move(self, guard: Interval) -> int:
        """What a guard's number changes by from one row of a tile to the next."""
        return self.tiling.step * guard.terms[self.tiling.row]

    def _meets(self, m: int, numbers: list[ir.Value]) -> ir.Value:
        """Whether row m of the tile exists and meets the tap, for which guards have `numbers`."""
        b = self.builder
        inside = self._exists(m)
        for guard, number in zip(self.tiling.checks, numbers, strict=True):
            here = b.add(number, whole(m * self._move(guard)))
            inside = b.and_(inside, b.icmp_unsigned("<", here, whole(guard.extent)))
        return inside

    def _exists(self, m: int) -> ir.Value:
        b, tiling = self.builder, self.tiling
        row = b.add(self.loops.open[tiling.row], whole(m * tiling.step))
        return b.icmp_signed("<", row, whole(self.product.extents[tiling.row]))

    def _along(self, rows: list[ir.Value], right: ir.Value, sums: Carry) -> Carry:
        extent, lanes = self.product.extents[self.tiling.along], self.tiling.lanes
        full = extent - extent % lanes
        if full <= MOST_UNROLLED * lanes:
            for start in range(0, full, lanes):
                sums = self._step(rows, right, whole(start), sums)
        else:
            sums = self.frame.loop(
                0, full, lanes, sums, lambda i, carry: self._step(rows, right, i, carry)
            )
        if full < extent:
            sums = self._step(rows, right, whole(full), sums, extent - full)
        return sums

    def _step(
        self,
        rows: list[ir.Value],
        right: ir.Value,
        i: ir.Value,
        sums: Carry,
        tail: int | None = None,
    ) -> Carry:
        stride = self.tiling.b.strides[self.tiling.column] if self.tiling.column else 0
        right = self.at.moved(right, i)
        others = [self.at.load(self.at.moved(right, n * stride), tail) for n in range(self.columns)]
        new = list(sums)
        for m, row in enumerate(rows):
            left = self.at.load(self.at.moved(row, i), tail)
            for n, other in enumerate(others):
                k = m * self.columns + n
                new[k] = self.at.math.fma(left, other, new[k])
        return new

    def _fetch_ahead(self, left: ir.Value) -> None:
        """Ask for a part of the line that the next lines of the result read first."""
        extent = self.product.extents[self.tiling.along]
        line = self._line_items()
        for m in range(self.tiling.rows if line else 0):
            for start in range(0, extent, LINE_BYTES // self.at.item):
                self.at.fetch(self.at.moved(left, line + m * self.tiling.row_items + start))

    def _line_items(self) -> int:
        """Elements of a from one line to the next, for the nearest of the outer axes' lines."""
        tiling = self.tiling
        steps = [abs(tiling.a.strides.get(axis, 0)) for axis in tiling.outer]
        steps += [abs(s.stride) for s in tiling.a.stepped if s.each_axis != tiling.row]
        return min((step for step in steps if step > abs(tiling.row_items)), default=0)

    # -- the sums --

    def _store_all(self, row: ir.Value, sums: Carry) -> None:
        """Add up the lanes, and run the kernel's stores for every row that there is."""
        tiling, b, values = self.tiling, self.builder, self.values
        places = self._totals(sums)
        extent = self.product.extents[tiling.row]
        ragged = extent % (tiling.rows * tiling.step) != 0

        def one(m: int) -> None:
            place = b.add(row, whole(m * tiling.step))
            for n in range(self.columns):
                with self.frame.scope():
                    depth = self.frame.depth
                    values.places[tiling.row] = (depth, place)
                    if tiling.column is not None:
                        values.places[tiling.column] = (depth, whole(n))
                    total = b.load(places[m * self.columns + n], typ=self.at.element)
                    values.locals[self.product.local] = (depth, total)
                    values.store_all(self.product.store_nodes())

        for m in range(tiling.rows):
            if ragged and m:
                there = b.icmp_signed("<", b.add(row, whole(m * tiling.step)), whole(extent))
                when(self.frame, there, partial(one, m))
            else:
                one(m)

    def _totals(self, sums: Carry) -> list[ir.Value]:
        """Places of the sums' totals, in order."""
        lanes = self.tiling.lanes
        places = []
        for start in range(0, self.sums, lanes):
            part = sums[start : start + lanes]
            total, order = self._total(part)
            where = self.at.moved(self.totals, start)
            self.at.store(total, where)
            places += [self.at.moved(where, order[j]) for j in range(len(part))]
        return places

    def _total(self, vectors: list[ir.Value]) -> tuple[ir.Value, dict[int, int]]:
        """One vector with the totals of several, and the lane of each.

        Each lane of a vector belongs to a block, at first one block a vector. A step adds the two
        halves of every block of two vectors, and puts both results into one.
        """
        lanes = self.tiling.lanes
        blocks: list[list[int]] = [[j] for j in range(len(vectors))]
        vectors = list(vectors)
        width = lanes
        while width > 1:
            width //= 2
            new, made = [], []
            for j in range(0, len(vectors), 2):
                alone = j + 1 == len(vectors)
                pair = (vectors[j], vectors[j] if alone else vectors[j + 1])
                new.append(self._halves_added(*pair, width, len(blocks[j])))
                other = [-1] * len(blocks[j]) if alone else blocks[j + 1]
                made.append([x for both in zip(blocks[j], other, strict=True) for x in both])
            vectors, blocks = new, made
        return vectors[0], {x: lane for lane, x in enumerate(blocks[0]) if x >= 0}

    def _halves_added(self, one: ir.Value, two: ir.Value, width: int, count: int) -> ir.Value:
        """For `count` blocks of 2 * width lanes: the sums of their halves, of one and of two."""
        lanes = self.tiling.lanes
        halves = []
        for half in (0, width):
            order = []
            for block in range(count):
                start = block * 2 * width + half
                order += list(range(start, start + width))
                order += list(range(lanes + start, lanes + start + width))
            mask = ir.Constant(ir.VectorType(INT32, lanes), order)
            halves.append(self.builder.shuffle_vector(one, two, mask))
        return self.builder.fadd(*halves)
