"""Rows of a table picked by number, and added back: embeddings and reordered batches.

Row numbers are numbers of any dtype; a real one is truncated, as Caffe does. One outside the table
is an error of the call, never a read beside it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graphc.error import need
from graphc.ir.graph import Value
from graphc.ir.op import Example, Op, classes, normal, operator
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
