"""How the rows of a walk are added up to totals, one for each column (see `row_walk`).

Some rows make a part, which is added up in registers, as pairs and pairs of pairs; parts are added
to the totals, which are wide and wait in scratch memory. For a row of three strips

    for each part of the rows: for each strip: total[strip] += (row0 + row1) + (row2 + row3) + ...

while registers that hold the sums of a whole short row meet the totals once in many rows.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.lanes import TYPES
from graphc.codegen.llvm.loops import Carry, whole
from graphc.codegen.llvm.shares import when
from graphc.codegen.llvm.spread import about_pivot, sum_and_spread, widened
from graphc.codegen.nodes import Address, FoldNode, Node
from graphc.kernel.lang import Axis

if TYPE_CHECKING:
    from graphc.codegen.llvm.row_walk import RowWalk

PART = 8  # rows; so many fit the first cache's ways where they lie a page apart
# Rows of several arrays: each is a stream of its own, and a processor follows few of these.
PART_OF_SEVERAL = 2
PART_OF_SHORT = 32  # rows of which registers hold all sums
WIDE = "float64"  # what totals are added up in
LARGEST = {"float32": 3.4028234663852886e38, "float64": 1.7976931348623157e308}
Strip = Callable[[], contextlib.AbstractContextManager[None]]  # stands there


class Sums:
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
        for _ in walk.each_row(self.rows, first, count):
            for address in self.read:
                walk.ask_ahead(address, self.rows, self._distance(address), len(self.read))
            yield [walk.values.wide(node) for node in nodes]

    def _distance(self, address: Address) -> int:
        """How many elements further on to fetch: a part at least."""
        return address.terms[self.rows] * self.part

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


class ShortRowSums(Sums):
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
                walk.ask_ahead(address, self.rows, 0, len(self.read))
            return [walk.values.wide(node) for node in self.fold.values]


class SpreadSums(Sums):
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


class RunningSums(Sums):
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
