"""Matrix products, and sums and products with one number a channel."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graphc.error import need
from graphc.ir.core.axes import Sum
from graphc.ir.core.elementwise import Multiply
from graphc.ir.graph import Value
from graphc.ir.op import Example, Op, normal, operator
from graphc.ir.types import TensorType
from graphc.kernel.build import Array, Writer


@operator
class MatMul(Op):
    """a[i, k] * b[k, j] summed over k: a matrix product, either operand perhaps transposed.

    With `left_transposed` a is stored [k, i], with `right_transposed` b is stored [j, k]. Caffe's
    inner product is MatMul(right_transposed=True) of data [n, k] and weights [o, k].
    """

    left_transposed: bool = False
    right_transposed: bool = False

    def infer(self, a: TensorType, b: TensorType) -> TensorType:
        need(
            a.rank == 2 and b.rank == 2 and a.dtype == b.dtype and a.is_real,
            f"mat_mul takes two real matrices of one element type, not {a} and {b}",
        )
        inner, rows = a.shape if self.left_transposed else a.shape[::-1]
        columns, depth = b.shape if self.right_transposed else b.shape[::-1]
        need(
            inner == depth,
            f"mat_mul of {a} and {b}: sums over {inner} elements of one, {depth} of the other",
        )
        return a.with_shape(rows, columns)

    def reference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        left = a.T if self.left_transposed else a
        right = b.T if self.right_transposed else b
        return np.asarray(left @ right)

    def gradient(self, dy: Value, y: Value, a: Value, b: Value) -> tuple[Value, Value]:
        left, right = self.left_transposed, self.right_transposed
        da = MatMul(right, True)(b, dy) if left else MatMul(False, not right)(dy, b)
        db = MatMul(True, left)(dy, a) if right else MatMul(not left, False)(a, dy)
        return da, db

    def kernel(self, k: Writer, a: Array, b: Array, y: Array) -> None:
        i, j = k.each(*y.shape)
        t = k.axis(a.shape[0] if self.left_transposed else a.shape[1])
        left = a[t, i] if self.left_transposed else a[i, t]
        right = b[j, t] if self.right_transposed else b[t, j]
        y[i, j] = k.sum(t, left * right)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(False, True), normal(3, 5), normal(4, 5))
        yield Example(cls(False, False), normal(3, 5), normal(5, 4))
        yield Example(cls(True, False), normal(5, 3), normal(5, 4))
        yield Example(cls(True, True), normal(5, 3), normal(4, 5))
        yield Example(cls(False, True), normal(1, 70), normal(33, 70))


def _channel_axes(rank: int, axis: int, x: TensorType) -> tuple[int, ...]:
    return tuple(other for other in range(x.rank) if not axis <= other < axis + rank)


def _need_channels(name: str, axis: int, x: TensorType, b: TensorType) -> None:
    need(
        axis >= 0 and x.shape[axis : axis + b.rank] == b.shape and x.dtype == b.dtype,
        f"{name}: {b} does not match {x} from axis {axis} on",
    )


@operator
class AddBias(Op):
    """x + b, where b's axes are x's axes from `axis` on; b is repeated over the others."""

    axis: int = 1

    def infer(self, x: TensorType, b: TensorType) -> TensorType:
        _need_channels(self.op_name, self.axis, x, b)
        return x

    def reference(self, x: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray(x + _spread(b, x, self.axis))

    def gradient(self, dy: Value, y: Value, x: Value, b: Value) -> tuple[Value, Value]:
        return dy, _gathered(dy, self.axis, b)

    def kernel(self, k: Writer, x: Array, b: Array, y: Array) -> None:
        i = tuple(k.each(*x.shape))
        y[i] = x[i] + b[i[self.axis : self.axis + b.rank]]

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(2, 3, 4, 5), normal(3))
        yield Example(cls(), normal(2, 3), normal(3))
        yield Example(cls(0), normal(2, 3, 4), normal(2, 3))
        yield Example(cls(2), normal(2, 3, 4), normal())


@operator
class Scale(Op):
    """x * b, where b's axes are x's axes from `axis` on; b is repeated over the others."""

    axis: int = 1

    def infer(self, x: TensorType, b: TensorType) -> TensorType:
        _need_channels(self.op_name, self.axis, x, b)
        return x

    def reference(self, x: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray(x * _spread(b, x, self.axis))

    def gradient(self, dy: Value, y: Value, x: Value, b: Value) -> tuple[Value, Value]:
        return Scale(self.axis)(dy, b), _gathered(Multiply()(dy, x), self.axis, b)

    def kernel(self, k: Writer, x: Array, b: Array, y: Array) -> None:
        i = tuple(k.each(*x.shape))
        y[i] = x[i] * b[i[self.axis : self.axis + b.rank]]

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(2, 3, 4, 5), normal(3))
        yield Example(cls(0), normal(2, 3, 4), normal(2, 3))
        yield Example(cls(0), normal(2, 3), normal(2, 3))
        yield Example(cls(0), normal(2, 3), normal())


def _spread(b: np.ndarray, x: np.ndarray, axis: int) -> np.ndarray:
    """b with extent 1 at the axes of x it lacks."""
    return b.reshape(b.shape + (1,) * (x.ndim - axis - b.ndim))


def _gathered(dy: Value, axis: int, b: Value) -> Value:
    """dy summed over the axes that b lacks."""
    others = _channel_axes(b.type.rank, axis, dy.type)
    summed: Value = Sum(others)(dy) if others else dy
    return summed
