"""Sums down columns that walk whole rows.

In a channels-last image the sums of one channel meet one element of each row. Lanes along the
channels take a strip of a row, go down all rows, and come back for the next strip: each strip
misses all caches again, and fetches of a few lines from every page are slow. Here some rows at a
time are walked from end to end,

    for some rows: for each strip: add up these rows in registers; add the part to the strip's total

and the totals of all columns wait in scratch memory. The parts are those in which long sums are
made anyway, so the numbers stay what they were. Statements between the sums run strip by strip.
What they and the sums make for others goes to arrays there, too.

Where registers hold the sums of a whole short row, all strips of a row are added up before the next
row: memory is read from end to end, and totals are met once in many rows.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby

from llvmlite import ir

from graphc.codegen.llvm.lanes import TYPES
from graphc.codegen.llvm.loops import Carry, Count, Frame, whole
from graphc.codegen.llvm.row_batch import Emit, is_sweep, made_locals
from graphc.codegen.llvm.schedule import Schedule
from graphc.codegen.llvm.scratch import Scratch
from graphc.codegen.llvm.shares import when
from graphc.codegen.llvm.spread import about_pivot, sum_and_spread, widened
from graphc.codegen.llvm.sweeps import SPREAD
from graphc.codegen.llvm.vector import Values
from graphc.codegen.nodes import Address, FoldNode, StatementNode, reachable, statement_nodes
from graphc.ir.types import DTYPES
from graphc.kernel.lang import Axis

PART = 8  # rows; so many fit the first cache's ways where they lie a page apart
# Rows of several arrays: each is a stream of its own, and a processor follows few of these.
PART_OF_SEVERAL = 2
PART_OF_SHORT = 32  # rows of which registers hold all sums
HOLDING = 0.5  # of the registers
BYTES_AHEAD = 8192  # of all arrays together
WIDE = "float64"  # what totals are added up in
Strip = Callable[[], contextlib.AbstractContextManager[None]]  # stands there


class RowWalk:
    """Emits all statements for a share of the columns; `strip` lanes at a time where it sums up."""

    def __init__(self, frame: Frame, values: Values, plan: Schedule, scratch: Scratch):
        assert plan.vector is not None
        self.frame = frame
        self.values = values
        self.builder = frame.builder
        self.scratch = scratch
        self.axis: Axis = plan.vector
        self.lanes = plan.lanes
        self.target = values.math.target
        self.extent = plan.nodes.extents[plan.vector]
        self.extents = plan.nodes.extents
        statements = plan.nodes.statements
        self.stretches = [(sweep, list(some)) for sweep, some in groupby(statements, is_sweep)]
        self.dtypes = made_locals(statements)
        self.arrays = {name: self._array(dtype) for name, dtype in self.dtypes.items()}
        most = max(len(s.names) for s in statements if isinstance(s, FoldNode) and s.axes)
        self.totals = [self._array(WIDE) for _ in range(most)]
        self.pivot = self._array(WIDE)

    def _array(self, dtype: str) -> ir.Value:
        size = math.ceil(self.extent / self.lanes) * self.lanes
        return self.scratch.array(dtype, size)

    def emit(self, low: ir.Value, high: ir.Value, emit: Emit) -> None:
        """The columns low .. high; `emit` emits one statement where the frame stands."""
        for sweep, statements in self.stretches:
            if sweep:
                for fold in statements:
                    assert isinstance(fold, FoldNode)
                    self._fold(fold, low, high)
            else:
                self.over_strips(low, high, partial(self._scalars, statements, emit))

    def over_strips(self, low: ir.Value, high: ir.Value, body: Callable[[], None]) -> None:
        """body() for the columns, some lanes at a time."""

        def strip(i: ir.Value, rest: Count | None, carry: Carry) -> Carry:
            with self.values.along(self.axis, self.lanes, i, rest):
                body()
            return carry

        if self.extent % self.lanes:
            self.frame.lane_loop(low, high, self.lanes, [], strip)
        else:  # a share begins and ends at multiples of the lanes: there is no tail
            self.frame.loop(low, high, self.lanes, [], lambda i, c: strip(i, None, c))

    # -- statements between the sums --

    def _scalars(self, statements: list[StatementNode], emit: Emit) -> None:
        v = self.values
        self.take(statements)
        for statement in statements:
            emit(statement)
        for name, dtype in made_locals(statements).items():
            value = v.locals[name][1]
            wide = value if isinstance(value.type, ir.VectorType) else v.splat(value)
            self.put(self.arrays[name], wide, dtype)

    def take(self, statements: Sequence[StatementNode]) -> None:
        """Load what statements read that others made."""
        own = made_locals(statements)
        read = {n for s in statements for node in statement_nodes(s) for n in node.locals}
        for name, dtype in self.dtypes.items():
            if name in read and name not in own:
                self.values.locals[name] = (self.frame.depth, self.get(self.arrays[name], dtype))

    def get(self, array: ir.Value, dtype: str) -> ir.Value:
        """The strip of one of these arrays."""
        type_ = ir.VectorType(TYPES[dtype], self.values.lanes)
        return self.builder.load(self._place(array, dtype), typ=type_, align=DTYPES[dtype])

    def put(self, array: ir.Value, value: ir.Value, dtype: str) -> None:
        """Set the strip of one of these arrays."""
        self.builder.store(value, self._place(array, dtype), align=DTYPES[dtype])

    def _place(self, array: ir.Value, dtype: str) -> ir.Value:
        column = self.values.places[self.axis][1]
        return self.builder.gep(array, [column], source_etype=TYPES[dtype])

    # -- sums --

    def _fold(self, fold: FoldNode, low: ir.Value, high: ir.Value) -> None:
        (rows,) = fold.axes
        sums = self._sums(fold, rows)
        extent, size = self.extents[rows], sums.part
        whole_parts = extent // size * size

        def part(first: ir.Value, carry: Carry) -> Carry:
            sums.add_rows(first, size, low, high)
            return carry

        self.over_strips(low, high, sums.begin)
        self.frame.loop(0, whole_parts, size, [], part)
        if extent > whole_parts:
            sums.add_rows(whole(whole_parts), extent - whole_parts, low, high)
        self.over_strips(low, high, sums.end)

    def _sums(self, fold: FoldNode, rows: Axis) -> _Sums:
        """How a fold is added up along `rows`."""
        if fold.kind == SPREAD:
            return _Spread(self, fold, rows)
        items = sum(DTYPES[node.dtype] for node in fold.values)
        held = math.ceil(self.extent / self.lanes) * self.lanes * items
        fits = held <= HOLDING * self.target.registers * self.target.vector_bytes
        return (_ShortRows if fits else _Sums)(self, fold, rows)

    @contextlib.contextmanager
    def strip(self, first: int) -> Iterator[None]:
        """Inside the strip that begins at a column, of a row that is written out."""
        rest = self.extent - first
        tail = rest if rest < self.lanes else None
        with self.frame.written_out(), self.values.along(self.axis, self.lanes, whole(first), tail):
            yield


class _Sums:
    """Plain sums: one total each. All methods speak of the strip where the walk stands."""

    def __init__(self, walk: RowWalk, fold: FoldNode, rows: Axis):
        self.walk = walk
        self.fold = fold
        self.rows = rows
        self.totals = walk.totals[: len(fold.names)]
        self.read = _far(fold, rows, walk.axis)
        self.part = PART if len({a.buffer for a in self.read}) < 2 else PART_OF_SEVERAL

    def begin(self) -> None:
        """Before the first row."""
        nothing = ir.Constant(ir.VectorType(TYPES[WIDE], self.walk.values.lanes), None)
        for total in self.totals:
            self.walk.put(total, nothing, WIDE)

    def add_rows(self, first: ir.Value, count: int, low: ir.Value, high: ir.Value) -> None:
        """Add `count` rows from `first` on, of them the columns low .. high."""
        self.walk.over_strips(low, high, partial(self.add, first, count))

    def add(self, first: ir.Value, count: int) -> None:
        """Add `count` rows from `first` on."""
        self.walk.take([self.fold])
        sums = [_PairwiseSum(self.walk.builder) for _ in self.fold.values]
        for values in self.rows_from(first, count):
            for total, value in zip(sums, values, strict=True):
                total.add(value)
        self.added([widened(self.walk.builder, some.result()) for some in sums])

    def rows_from(self, first: ir.Value, count: int) -> Iterator[list[ir.Value]]:
        """What is summed up in each of some rows; those after them are fetched meanwhile."""
        walk, b = self.walk, self.walk.builder
        ahead = [(a, self._distance(a)) for a in self.read]
        for number in range(count):
            row = b.add(first, whole(number))
            with walk.frame.written_out(), walk.values.at_axis(self.rows, row):
                for address, distance in ahead:
                    walk.values.prefetch(address, distance)
                yield [walk.values.wide(node) for node in self.fold.values]

    def _distance(self, address: Address) -> int:
        """How many elements further on to fetch: some rows, a part at least."""
        return max(address.terms[self.rows] * self.part, self._rows_ahead(address))

    def _rows_ahead(self, address: Address) -> int:
        step = address.terms[self.rows]
        size = step * DTYPES[address.buffer.dtype] * len(self.read)
        return step * math.ceil(BYTES_AHEAD / size)

    def added(self, parts: list[ir.Value]) -> None:
        """Add parts to the totals."""
        for total, part in zip(self.totals, parts, strict=True):
            self.walk.put(total, self.walk.builder.fadd(self.walk.get(total, WIDE), part), WIDE)

    def end(self) -> None:
        """After the last row: round, for others to read."""
        self.ended([self.walk.get(total, WIDE) for total in self.totals])

    def ended(self, results: list[ir.Value]) -> None:
        walk, fold = self.walk, self.fold
        for name, node, value in zip(fold.names, fold.values, results, strict=True):
            type_ = ir.VectorType(TYPES[node.dtype], walk.values.lanes)
            rounded = value if value.type == type_ else walk.builder.fptrunc(value, type_)
            walk.put(walk.arrays[name], rounded, node.dtype)


class _ShortRows(_Sums):
    """Sums of rows of which registers hold all strips at once.

    A share of the columns is added up strip by strip, each in the same order.
    """

    def __init__(self, walk: RowWalk, fold: FoldNode, rows: Axis):
        super().__init__(walk, fold, rows)
        self.part = PART_OF_SHORT

    def add_rows(self, first: ir.Value, count: int, low: ir.Value, high: ir.Value) -> None:
        walk, b = self.walk, self.walk.builder
        begins = b.icmp_signed("==", low, whole(0))
        is_whole = b.and_(begins, b.icmp_signed("==", high, whole(walk.extent)))
        strips = [partial(walk.strip, column) for column in range(0, walk.extent, walk.lanes)]
        when(walk.frame, is_whole, lambda: self._add(first, count, strips))
        here = partial(self._add, first, count, [contextlib.nullcontext])
        when(walk.frame, b.not_(is_whole), lambda: walk.over_strips(low, high, here))

    def _add(self, first: ir.Value, count: int, strips: Sequence[Strip]) -> None:
        """Add rows in some strips."""
        walk, b = self.walk, self.walk.builder

        def row(number: ir.Value, sums: Carry) -> Carry:
            with walk.values.at_axis(self.rows, number):
                values = [value for strip in strips for value in self._values(strip)]
            return [b.fadd(total, value) for total, value in zip(sums, values, strict=True)]

        types = [ir.VectorType(TYPES[node.dtype], walk.lanes) for node in self.fold.values]
        zeros = [walk.values.math.constant(0.0, type_) for _ in strips for type_ in types]
        sums = iter(walk.frame.loop(first, b.add(first, whole(count)), 1, zeros, row))
        for strip in strips:
            with strip():
                self.added([widened(b, next(sums)) for _ in types])

    def _values(self, strip: Strip) -> list[ir.Value]:
        """What a strip of a row adds to the sums."""
        walk = self.walk
        with strip():
            walk.take([self.fold])
            for address in self.read:
                walk.values.prefetch(address, self._rows_ahead(address))
            return [walk.values.wide(node) for node in self.fold.values]


class _Spread(_Sums):
    """A sum, and the sum of squared distances from the mean, in one sweep.

    The rows of a part are read twice, from the first cache the second time: their mean is c, and
    the pivot an element of the column (see `spread`).
    """

    def __init__(self, walk: RowWalk, fold: FoldNode, rows: Axis):
        super().__init__(walk, fold, rows)
        self.pivot = walk.pivot

    def begin(self) -> None:
        super().begin()
        walk = self.walk
        walk.take([self.fold])
        with walk.frame.written_out(), walk.values.at_axis(self.rows, whole(0)):
            walk.put(self.pivot, widened(walk.builder, walk.values.wide(self.fold.values[0])), WIDE)

    def add(self, first: ir.Value, count: int) -> None:
        walk, b = self.walk, self.walk.builder
        walk.take([self.fold])
        values = [row[0] for row in self.rows_from(first, count)]
        total = _pairwise(b, values)
        centre = b.fmul(total, walk.values.math.constant(1.0 / count, total.type))
        distances = [b.fsub(value, centre) for value in values]
        rest = widened(b, _pairwise(b, distances))
        square = widened(b, _pairwise(b, [b.fmul(d, d) for d in distances]))
        far = b.fsub(widened(b, centre), walk.get(self.pivot, WIDE))
        number = walk.values.math.constant(float(count), far.type)
        self.added(list(about_pivot(b, number, far, rest, square)))

    def end(self) -> None:
        walk = self.walk
        total, square = (walk.get(array, WIDE) for array in self.totals)
        count, pivot = float(walk.extents[self.rows]), walk.get(self.pivot, WIDE)
        self.ended(list(sum_and_spread(walk.values.math, count, pivot, total, square)))


class _PairwiseSum:
    """Adds up numbers in pairs, pairs of pairs and so on: short chains, and little error."""

    def __init__(self, builder: ir.IRBuilder):
        self.builder = builder
        self.waiting: list[tuple[int, ir.Value]] = []  # how many numbers, their sum

    def add(self, value: ir.Value) -> None:
        """One more number."""
        count = 1
        while self.waiting and self.waiting[-1][0] == count:
            value = self.builder.fadd(self.waiting.pop()[1], value)
            count *= 2
        self.waiting.append((count, value))

    def result(self) -> ir.Value:
        """The sum of all of them, of which there is one at least."""
        *others, (_, total) = self.waiting
        for _, value in reversed(others):
            total = self.builder.fadd(value, total)
        return total


def _pairwise(builder: ir.IRBuilder, values: list[ir.Value]) -> ir.Value:
    total = _PairwiseSum(builder)
    for value in values:
        total.add(value)
    return total.result()


def _far(fold: FoldNode, rows: Axis, columns: Axis) -> list[Address]:
    """The rows of matrices that a fold reads."""
    loads = [n.address for n in reachable(fold.values) if n.address is not None]
    return [a for a in loads if a.terms.get(rows, 0) and a.terms.get(columns, 0)]
