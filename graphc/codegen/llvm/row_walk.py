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

The columns of a softmax are walked in the same way (see `running_sum`), and what is stored of them
row by row.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby

from llvmlite import ir

from graphc.codegen.llvm.lanes import TYPES
from graphc.codegen.llvm.loops import INT32, INT64, Carry, Count, Frame, whole
from graphc.codegen.llvm.row_batch import Emit, is_sweep, made_locals
from graphc.codegen.llvm.running_sum import RUNNING
from graphc.codegen.llvm.schedule import Schedule
from graphc.codegen.llvm.scratch import Scratch
from graphc.codegen.llvm.shares import when
from graphc.codegen.llvm.spread import about_pivot, sum_and_spread, widened
from graphc.codegen.llvm.staged_rows import StagedRows
from graphc.codegen.llvm.sweeps import SPREAD, stored_loads
from graphc.codegen.llvm.vector import Values
from graphc.codegen.nodes import (
    Address,
    FoldNode,
    LetNode,
    Node,
    StatementNode,
    StoreNode,
    reachable,
    statement_nodes,
)
from graphc.ir.types import DTYPES
from graphc.kernel.lang import Axis

PART = 8  # rows; so many fit the first cache's ways where they lie a page apart
# Rows of several arrays: each is a stream of its own, and a processor follows few of these.
PART_OF_SEVERAL = 2
PART_OF_SHORT = 32  # rows of which registers hold all sums
HOLDING = 0.5  # of the registers
BYTES_AHEAD = 8192  # of all arrays together
WIDE = "float64"  # what totals are added up in
NARROW = "int32"  # what whole numbers are kept as that fit it
LARGEST = {"float32": 3.4028234663852886e38, "float64": 1.7976931348623157e308}
Strip = Callable[[], contextlib.AbstractContextManager[None]]  # stands there


class RowWalk:
    """Emits all statements for a share of the columns; `strip` lanes at a time where it sums up.

    uneven: the store whose rows begin anywhere and go past the caches (see `staged_rows`).
    """

    def __init__(
        self,
        frame: Frame,
        values: Values,
        plan: Schedule,
        scratch: Scratch,
        uneven: StoreNode | None = None,
    ):
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
        self.made = plan.made
        self.uneven = uneven
        self.panel = plan.panel or self.extent
        statements = plan.nodes.statements
        self.stretches = [(sweep, list(some)) for sweep, some in groupby(statements, is_sweep)]
        self.dtypes = made_locals(statements)
        self.narrow = narrow_locals(statements)
        self.dtypes |= dict.fromkeys(self.narrow, NARROW)
        self.arrays = {name: self._array(dtype) for name, dtype in self.dtypes.items()}
        most = max(len(s.names) for s in statements if isinstance(s, FoldNode) and s.axes)
        self.totals = [self._array(WIDE) for _ in range(most)]
        self.pivot = self._array(WIDE)

    def _array(self, dtype: str) -> ir.Value:
        size = math.ceil(self.extent / self.lanes) * self.lanes
        return self.scratch.array(dtype, size)

    def emit(self, low: ir.Value, high: ir.Value, emit: Emit) -> None:
        """The columns low .. high; `emit` emits one statement where the frame stands."""
        if self.panel >= self.extent:
            self._panel(low, high, emit)
            return

        def panel(first: ir.Value, carry: Carry) -> Carry:
            stop = self.builder.add(first, whole(self.panel))
            is_last = self.builder.icmp_signed(">", stop, high)
            self._panel(first, self.builder.select(is_last, high, stop), emit)
            return carry

        self.frame.loop(low, high, self.panel, [], panel)

    def _panel(self, low: ir.Value, high: ir.Value, emit: Emit) -> None:
        for sweep, statements in self.stretches:
            if sweep:
                for statement in statements:
                    if isinstance(statement, StoreNode):
                        self._store(statement, low, high)
                    else:
                        assert isinstance(statement, FoldNode)
                        self._fold(statement, low, high)
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
        for name in made_locals(statements):
            value = v.locals[name][1]
            wide = value if isinstance(value.type, ir.VectorType) else v.splat(value)
            if name in self.narrow:
                wide = self.builder.trunc(wide, ir.VectorType(INT32, v.lanes))
            self.put(self.arrays[name], wide, self.dtypes[name])

    def take(self, statements: Sequence[StatementNode]) -> None:
        """Load what statements read that others made."""
        own = made_locals(statements)
        read = {n for s in statements for node in statement_nodes(s) for n in node.locals}
        for name, dtype in self.dtypes.items():
            if name in read and name not in own:
                value = self.get(self.arrays[name], dtype)
                if name in self.narrow:
                    value = self.builder.sext(value, ir.VectorType(INT64, self.values.lanes))
                self.values.locals[name] = (self.frame.depth, value)

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

        def part(count: int, first: ir.Value, carry: Carry) -> Carry:
            sums.add_rows(first, count, low, high)
            return carry

        self.over_strips(low, high, sums.begin)
        self.parts(rows, sums.part, part)
        self.over_strips(low, high, sums.end)

    def _sums(self, fold: FoldNode, rows: Axis) -> _Sums:
        """How a fold is added up along `rows`."""
        if fold.kind == SPREAD:
            return _Spread(self, fold, rows)
        if fold.kind == RUNNING:
            return _RunningSums(self, fold, rows)
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

    # -- stores --

    def _store(self, store: StoreNode, low: ir.Value, high: ir.Value) -> None:
        """Some rows at a time past the caches; into them one by one, as these fetch lines first."""
        (rows,) = store.axes
        read = self.read_rows(store)
        ahead = [(address, rows_ahead(address, rows, len(read))) for address in read]
        needed = [store, *([self.made] if self.made else [])]

        staged = StagedRows(self, store, PART) if store is self.uneven else None

        def strip(first: ir.Value, count: int) -> None:
            self.take(needed)
            # All is read before the first of it is stored: a processor lets a load wait for a store
            # under way that has the same place in a page, as these have where rows are pages long.
            loads = [node for node in self.read_nodes(store) if node.address in read]
            known: list[list[ir.Value]] = []
            for _ in self.each_row(rows, first, count):
                for address, distance in ahead:
                    self.values.prefetch(address, distance)
                known.append([self.values.wide(node) for node in loads])
            for number in self.each_row(rows, first, count):
                for node, value in zip(loads, known[number], strict=True):
                    self.values.remember(value, [node])
                self.make(store)
                if staged is not None:
                    staged.put(number)
                else:
                    self.values.store(store.address, store.value, store.mode)

        def some(count: int, first: ir.Value, carry: Carry) -> Carry:
            if staged is not None:
                staged.begin(first, count, low, high)
            self.over_strips(low, high, partial(strip, first, count))
            if staged is not None:
                staged.end(count, low, high)
            return carry

        streamed = store.address.buffer.name in self.values.streamed
        self.parts(rows, staged.most if staged else PART if streamed else 1, some)

    def parts(self, rows: Axis, size: int, body: Callable[[int, ir.Value, Carry], Carry]) -> None:
        """body(count, first, []) for some rows at a time, for fewer at the end."""
        extent = self.extents[rows]
        whole_parts = extent // size * size
        self.frame.loop(0, whole_parts, size, [], partial(body, size))
        if extent > whole_parts:
            body(extent - whole_parts, whole(whole_parts), [])

    def each_row(self, rows: Axis, first: ir.Value, count: int) -> Iterator[int]:
        """Stands in each of some rows, one after another."""
        for number in range(count):
            row = self.builder.add(first, whole(number)) if number else first
            with self.frame.written_out(), self.values.at_axis(rows, row):
                yield number

    def read_rows(self, statement: FoldNode | StoreNode) -> list[Address]:
        """The rows of matrices that a statement reads."""
        (rows,) = statement.axes
        found = [node.address for node in self.read_nodes(statement) if node.address]
        return [a for a in found if a.terms.get(rows, 0) and a.terms.get(self.axis, 0)]

    def read_nodes(self, statement: FoldNode | StoreNode) -> list[Node]:
        """What a statement reads, for what is made again for it, too."""
        made = set(stored_loads(self.made, statement)) if self.made else set()
        again = (self.made.value,) if self.made else ()
        nodes = dict.fromkeys(reachable((*statement_nodes(statement), *again)))
        return [node for node in nodes if node.address is not None and node not in made]

    def make(self, statement: StatementNode) -> None:
        """Make again what a statement would load that nobody has stored."""
        if self.made is not None:
            loads = stored_loads(self.made, statement)
            self.values.remember(self.values.wide(self.made.value), loads)


class _Sums:
    """Plain sums: one total each. All methods speak of the strip where the walk stands."""

    def __init__(self, walk: RowWalk, fold: FoldNode, rows: Axis):
        self.walk = walk
        self.fold = fold
        self.rows = rows
        self.names, self.values = fold.names, fold.values  # of the sums
        self.totals = walk.totals[: len(fold.names)]
        self.read = walk.read_rows(fold)
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
        sums = [_PairwiseSum(self.walk.builder) for _ in self.values]
        for values in self.rows_from(first, count, self.values):
            for total, value in zip(sums, values, strict=True):
                total.add(value)
        self.added([widened(self.walk.builder, some.result()) for some in sums])

    def rows_from(
        self, first: ir.Value, count: int, nodes: Sequence[Node]
    ) -> Iterator[list[ir.Value]]:
        """Values in each of some rows; those after them are fetched meanwhile."""
        walk = self.walk
        ahead = [(a, self._distance(a)) for a in self.read]
        for _ in walk.each_row(self.rows, first, count):
            for address, distance in ahead:
                walk.values.prefetch(address, distance)
            yield [walk.values.wide(node) for node in nodes]

    def _distance(self, address: Address) -> int:
        """How many elements further on to fetch: some rows, a part at least."""
        return max(address.terms[self.rows] * self.part, self._rows_ahead(address))

    def _rows_ahead(self, address: Address) -> int:
        return rows_ahead(address, self.rows, len(self.read))

    def added(self, parts: list[ir.Value]) -> None:
        """Add parts to the totals."""
        for total, part in zip(self.totals, parts, strict=True):
            self.walk.put(total, self.walk.builder.fadd(self.walk.get(total, WIDE), part), WIDE)

    def end(self) -> None:
        """After the last row: round, for others to read."""
        self.ended([self.walk.get(total, WIDE) for total in self.totals])

    def ended(self, results: list[ir.Value]) -> None:
        walk = self.walk
        for name, node, value in zip(self.names, self.values, results, strict=True):
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
        values = [row[0] for row in self.rows_from(first, count, self.values[:1])]
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


class _RunningSums(_Sums):
    """The largest score, and sums of exponentials below the largest until now (see `running_sum`).

    Totals are multiplied where a larger score comes, as numbers as wide as they are.
    """

    def __init__(self, walk: RowWalk, fold: FoldNode, rows: Axis):
        super().__init__(walk, fold, rows)
        self.top, *names = fold.names
        self.score, *values = fold.values
        self.names, self.values = tuple(names), tuple(values)
        self.totals = walk.totals[: len(names)]

    def begin(self) -> None:
        super().begin()
        walk, dtype = self.walk, self.score.dtype
        type_ = ir.VectorType(TYPES[dtype], walk.values.lanes)
        walk.put(walk.arrays[self.top], walk.values.math.constant(-math.inf, type_), dtype)

    def add(self, first: ir.Value, count: int) -> None:
        walk = self.walk
        walk.take([self.fold])
        old = walk.get(walk.arrays[self.top], self.score.dtype)
        top, scores = old, []
        for (score,) in self.rows_from(first, count, [self.score]):
            top = self._larger(score, top)
            scores.append(score)
        # Where all scores are -inf until now, exponentials are 0, and not those of -inf + inf.
        lowest = walk.values.math.like(top, -LARGEST[self.score.dtype])
        reference = self._larger(top, lowest)
        totals = self._moved(old, top, reference)
        walk.values.locals[self.top] = walk.frame.depth, reference
        sums = [_PairwiseSum(walk.builder) for _ in self.values]
        for number in walk.each_row(self.rows, first, count):
            walk.values.remember(scores[number], [self.score])
            walk.make(self.fold)
            for some, node in zip(sums, self.values, strict=True):
                some.add(walk.values.wide(node))
        for place, total, some in zip(self.totals, totals, sums, strict=True):
            part = widened(walk.builder, some.result())
            walk.put(place, walk.builder.fadd(total, part), WIDE)

    def _larger(self, new: ir.Value, old: ir.Value) -> ir.Value:
        """The larger of two; the old one where the new one is nan."""
        b = self.walk.builder
        return b.select(b.fcmp_ordered(">", new, old), new, old)

    def _moved(self, old: ir.Value, top: ir.Value, reference: ir.Value) -> Carry:
        """The totals of exponentials below `reference`; they were those below `old`."""
        walk, b = self.walk, self.walk.builder
        larger = b.fcmp_ordered(">", top, old)
        bits = b.bitcast(larger, ir.IntType(walk.values.lanes))

        def moved(totals: Carry) -> Carry:
            walk.put(walk.arrays[self.top], top, self.score.dtype)
            distance = b.fsub(widened(b, old), widened(b, reference))
            factor = walk.values.math.exp(distance, True)
            return [b.fmul(total, factor) for total in totals]

        totals = [walk.get(total, WIDE) for total in self.totals]
        some = b.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0))
        return walk.frame.guard(some, totals, moved)


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


def narrow_locals(statements: Sequence[StatementNode]) -> set[str]:
    """Names of wide whole numbers that are known to fit half their size."""
    lets = [s for s in statements if isinstance(s, LetNode) and s.value.dtype == "int64"]
    return {
        s.name
        for s in lets
        if s.value.bounds and s.value.bounds[0] >= -(2**31) and s.value.bounds[1] < 2**31
    }


def rows_ahead(address: Address, rows: Axis, arrays: int) -> int:
    """How many elements further on to fetch, where so many arrays are read: whole rows."""
    step = address.terms[rows]
    return step * math.ceil(BYTES_AHEAD / (step * DTYPES[address.buffer.dtype] * arrays))
