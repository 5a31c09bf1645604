"""Rows of a table picked by number, and added back: embeddings, reordered and filtered batches.

Row numbers are numbers of any dtype; a real one is truncated, as Caffe does. One outside the table
is an error of the call, never a read beside it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graphc.error import need
from graphc.ir.graph import Value
from graphc.ir.op import Example, Op, Sample, classes, normal, operator
from graphc.ir.types import TensorType
from graphc.kernel.build import Array, Writer
from graphc.ops.label import classes_of


@operator
class TakeRows(Op):
    """table [R, *S] and row numbers [*I] -> [*I, *S]: the row that each number names."""

    def infer(self, table: TensorType, row: TensorType) -> TensorType:
        need(table.rank >= 1 and table.is_real, f"{self.op_name}: {table} has no rows of reals")
        return table.with_shape(*row.shape, *table.shape[1:])

    def reference(self, table: np.ndarray, row: np.ndarray) -> np.ndarray:
        index, _ = classes_of(row, table.shape[0], None)
        return np.asarray(table[index])

    def gradient(self, dy: Value, y: Value, table: Value, row: Value) -> tuple[Value, None]:
        return AddRows(table.shape[0])(dy, row), None

    def kernel(self, k: Writer, table: Array, row: Array, y: Array) -> None:
        at = k.each(*row.shape)
        chosen = k.index(row[tuple(at)], table.shape[0], "row number")
        rest = k.axes(*table.shape[1:])
        y[(*at, *rest)] = table[(chosen, *rest)]

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(6, 4), classes(6, 5))
        yield Example(cls(), normal(4, 2, 3), classes(4, 3))
        yield Example(cls(), normal(3, 5), classes(3, 2, 4))


@operator
class AddRows(Op):
    """y [*I, *S] and row numbers [*I] -> [rows, *S]: each row is the sum of what names it."""

    rows: int

    def infer(self, y: TensorType, row: TensorType) -> TensorType:
        need(
            y.shape[: row.rank] == row.shape and y.is_real,
            f"{self.op_name}: there must be one row number for each row of {y}, not {row}",
        )
        need(self.rows >= 1, f"{self.op_name}: a table has at least 1 row, not {self.rows}")
        return y.with_shape(self.rows, *y.shape[row.rank :])

    def reference(self, y: np.ndarray, row: np.ndarray) -> np.ndarray:
        index, _ = classes_of(row, self.rows, None)
        table = np.zeros((self.rows, *y.shape[row.ndim :]), y.dtype)
        np.add.at(table, index, y)
        return table

    def gradient(self, dy: Value, y: Value, given: Value, row: Value) -> tuple[Value, None]:
        return TakeRows()(dy, row), None

    def kernel(self, k: Writer, y: Array, row: Array, table: Array) -> None:
        rest = k.each(*table.shape[1:])
        place = k.axis(self.rows)
        k.store(table, (place, *rest), 0.0)
        at = k.axes(*row.shape)
        # The range is checked where the rows are taken; here a wrong number only must do no harm.
        whole = k.cast(row[tuple(at)], "int64")
        chosen = k.minimum(k.maximum(whole, 0), self.rows - 1)
        k.add(table, (chosen, *rest), y[(*at, *rest)])

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(6), normal(5, 4), classes(6, 5))
        yield Example(cls(3), normal(2, 4, 3), classes(3, 2, 4))


@operator
class NonzerosBefore(Op):
    """For each element of x [N] the number of elements before it that are not 0."""

    gradient_stops = True

    def infer(self, x: TensorType) -> TensorType:
        need(x.rank == 1 and x.is_real, f"{self.op_name} takes a list of reals, not {x}")
        return x

    def reference(self, x: np.ndarray) -> np.ndarray:
        counts = np.cumsum(x != 0) - (x != 0)
        return np.asarray(counts, x.dtype)

    def kernel(self, k: Writer, x: Array, y: Array) -> None:
        (i,) = k.each(x.shape[0])
        j = k.axis(x.shape[0])
        y[i] = k.sum(j, k.number(1, y.dtype), (j < i) & ~k.equal(x[j], 0.0))

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), classes(2, 9))
        yield Example(cls(), classes(3, 1))


@operator
class NonzeroRows(Op):
    """Where x [N] is not 0, as `count` rising row numbers; another count is an error of the call.

    `before` is NonzerosBefore of x: the place of each row number in the result.
    """

    count: int

    gradient_stops = True

    def infer(self, x: TensorType, before: TensorType) -> TensorType:
        need(x.rank == 1 and x.is_real, f"{self.op_name} takes a list of reals, not {x}")
        need(before == x, f"{self.op_name}: {before} does not belong to {x}")
        need(0 <= self.count <= x.shape[0], f"{self.op_name}: {x} has no {self.count} rows")
        return x.with_shape(self.count)

    def reference(self, x: np.ndarray, before: np.ndarray) -> np.ndarray:
        (rows,) = np.nonzero(x)
        need(len(rows) == self.count, f"there are {len(rows)} rows, not {self.count}")
        return np.asarray(rows, x.dtype)

    def kernel(self, k: Writer, x: Array, before: Array, y: Array) -> None:
        i = k.axis(x.shape[0])
        chosen = ~k.equal(x[i], 0.0)
        total = k.sum(i, k.number(1, "int64"), chosen)
        message = f"the selector lets another number of items pass than {self.count}"
        k.check(k.equal(total, self.count), message, total)
        k.store(y, k.axis(self.count), 0.0)
        if self.count:
            place = k.minimum(k.maximum(k.cast(before[i], "int64"), 0), self.count - 1)
            k.store(y, place, k.cast(i, y.dtype), where=chosen, mode="add")

    @classmethod
    def examples(cls) -> Iterator[Example]:
        selected = Sample(
            TensorType("float64", (6,)), lambda _: np.array([0, 1, 1, 0, -2, 0.0]), False
        )
        places = Sample(
            TensorType("float64", (6,)), lambda _: np.array([0, 0, 1, 2, 2, 3.0]), False
        )
        yield Example(cls(3), selected, places)
