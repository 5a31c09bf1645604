"""Mean, variance, and bringing data to mean 0 and deviation 1: the parts of batch normalisation.

Batch normalisation (arXiv 1502.03167) is three operators in a row:

    mean, variance = Moments(axes)(x)
    factor = InverseDeviation(epsilon)(variance)
    y = Standardize(axes)(x, mean, factor)

Each is differentiated by itself. Together their gradients read x, dy and a few numbers a channel:
one sweep adds up dy and dy * (x - mean), one more makes dx. y is not kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from graphc.error import need
from graphc.ir.core.axes import Broadcast
from graphc.ir.core.fill import fill_like
from graphc.ir.graph import Value
from graphc.ir.op import Example, Op, normal, operator, positive
from graphc.ir.types import TensorType
from graphc.kernel.build import Array, Writer
from graphc.kernel.lang import Expr, Var
from graphc.ops.elementwise import Map

Axes = tuple[int, ...]


def _kept(x: TensorType, axes: Axes, name: str) -> TensorType:
    """The type without `axes`. Raises NetError unless they are distinct axes with elements."""
    fine = len(set(axes)) == len(axes) and all(0 <= axis < x.rank for axis in axes)
    need(fine and axes and x.is_real, f"{name}: {list(axes)} are not distinct axes of reals {x}")
    need(_count(x.shape, axes), f"{name}: {x} has no elements along {list(axes)}")
    return x.with_shape(*_without(x.shape, axes))


def _without(shape: tuple[int, ...], axes: Axes) -> tuple[int, ...]:
    return tuple(extent for axis, extent in enumerate(shape) if axis not in axes)


def _count(shape: tuple[int, ...], axes: Axes) -> int:
    return math.prod(shape[axis] for axis in axes)


def _indices(
    k: Writer, shape: tuple[int, ...], axes: Axes
) -> tuple[list[Var], list[Var], tuple[Var, ...]]:
    """Parallel variables over what is kept, fold variables over `axes`, and all in x's order."""
    kept = k.each(*_without(shape, axes))
    over = k.axes(*(shape[axis] for axis in sorted(axes)))
    rest, folded = iter(kept), iter(over)
    index = [next(folded) if axis in axes else next(rest) for axis in range(len(shape))]
    return kept, over, tuple(index)


@operator
class Moments(Op):
    """Mean and variance of x over `axes`, which go; the variance is the mean of (x - mean)^2."""

    axes: tuple[int, ...]

    output_count = 2

    def infer(self, x: TensorType) -> tuple[TensorType, TensorType]:
        y = _kept(x, self.axes, self.op_name)
        return y, y

    def reference(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.asarray(x.mean(self.axes)), np.asarray(x.var(self.axes))

    def gradient(
        self, dy: tuple[Value | None, ...], y: tuple[Value, ...], x: Value
    ) -> Value | None:
        arrived = [
            fill_like(part, 0.0) if given is None else given
            for given, part in zip(dy, y, strict=True)
        ]
        gradient: Value = MomentsGradient(self.axes)(x, y[0], *arrived)
        return gradient

    def kernel(self, k: Writer, x: Array, mean: Array, variance: Array) -> None:
        kept, over, at = _indices(k, x.shape, self.axes)
        share = 1.0 / _count(x.shape, self.axes)
        middle = k.let(k.sum(over, x[at]) * share)
        distance = x[at] - middle
        spread = k.sum(over, distance * distance) * share
        mean[tuple(kept)] = middle
        variance[tuple(kept)] = spread

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls((0, 2, 3)), normal(2, 3, 4, 5))
        yield Example(cls((2, 3)), normal(2, 3, 4, 5))
        yield Example(cls((0,)), normal(5, 3))


@operator
class MomentsGradient(Op):
    """(dmean + 2 (x - mean) dvariance) / n, n being the number of elements along `axes`."""

    axes: tuple[int, ...]

    def infer(
        self, x: TensorType, mean: TensorType, dmean: TensorType, dvariance: TensorType
    ) -> TensorType:
        y = _kept(x, self.axes, self.op_name)
        need(
            mean == y and dmean == y and dvariance == y,
            f"{self.op_name}: {mean}, {dmean} and {dvariance} are not the moments of {x}",
        )
        return x

    def reference(
        self, x: np.ndarray, mean: np.ndarray, dmean: np.ndarray, dvariance: np.ndarray
    ) -> np.ndarray:
        middle, slope, spread = (
            np.expand_dims(part, self.axes) for part in (mean, dmean, dvariance)
        )
        total = slope + 2 * (x - middle) * spread
        return np.asarray(total / _count(x.shape, self.axes), x.dtype)

    def kernel(
        self, k: Writer, x: Array, mean: Array, dmean: Array, dvariance: Array, dx: Array
    ) -> None:
        at = tuple(k.each(*x.shape))
        here = tuple(v for axis, v in enumerate(at) if axis not in self.axes)
        share = 1.0 / _count(x.shape, self.axes)
        dx[at] = (x[at] - mean[here]) * (dvariance[here] * (2 * share)) + dmean[here] * share

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls((0, 2, 3)), normal(2, 3, 4, 5), normal(3), normal(3), normal(3))
        yield Example(cls((1,)), normal(2, 3), normal(2), normal(2), normal(2))


@operator
class InverseDeviation(Map):
    """1 / sqrt(variance + epsilon)."""

    epsilon: float

    def scalar(self, k: Writer, x: Expr) -> Expr:
        return 1.0 / k.sqrt(x + self.epsilon)

    def gradient(self, dy: Value, y: Value, x: Value) -> tuple[Value]:
        return (InverseCube()(dy, y),)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(0.1), positive(5))
        yield Example(cls(1e-5), positive(2, 3))


@operator
class InverseSpread(Map):
    """1 / (sqrt(variance) + epsilon), as Caffe's MVN layer divides.

    The derivative is -y^3 / 2, Caffe's: it takes the deviation for sqrt(variance) + epsilon. That
    is off by the factor sqrt(variance) / (sqrt(variance) + epsilon), and finite at variance 0.
    """

    epsilon: float

    def scalar(self, k: Writer, x: Expr) -> Expr:
        return 1.0 / (k.sqrt(x) + self.epsilon)

    def gradient(self, dy: Value, y: Value, x: Value) -> tuple[Value]:
        return (InverseCube()(dy, y),)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(1e-9), positive(2, 3))


@operator
class InverseCube(Map):
    """-dy y^3 / 2, the gradient of y = 1 / sqrt(x).

    y^3 alone is too small for a float32 from deviations of 10^13 on. But dy is a sum of products
    with the data, so it is large where y is small: nothing leaves the range if it comes first.
    """

    def scalar(self, k: Writer, dy: Expr, y: Expr) -> Expr:
        return dy * y * y * y * -0.5

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(2, 3), positive(2, 3))


@operator
class Standardize(Op):
    """(x - mean) * factor, where mean and factor are repeated along `axes`."""

    axes: tuple[int, ...]

    def infer(self, x: TensorType, mean: TensorType, factor: TensorType) -> TensorType:
        y = _kept(x, self.axes, self.op_name)
        need(
            mean == y and factor == y,
            f"{self.op_name}: {mean} and {factor} do not fit {x} without axes {list(self.axes)}",
        )
        return x

    def reference(self, x: np.ndarray, mean: np.ndarray, factor: np.ndarray) -> np.ndarray:
        middle, scale = np.expand_dims(mean, self.axes), np.expand_dims(factor, self.axes)
        return np.asarray((x - middle) * scale)

    def gradient(
        self, dy: Value, y: Value, x: Value, mean: Value, factor: Value
    ) -> tuple[Value, Value, Value]:
        total, moment = StandardizeGradientSums(self.axes)(dy, x, mean)
        dx = dy * Broadcast(x.shape, self.axes)(factor)
        return dx, -(total * factor), moment

    def kernel(self, k: Writer, x: Array, mean: Array, factor: Array, y: Array) -> None:
        at = tuple(k.each(*x.shape))
        here = tuple(v for axis, v in enumerate(at) if axis not in self.axes)
        y[at] = (x[at] - mean[here]) * factor[here]

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls((0, 2, 3)), normal(2, 3, 4, 5), normal(3), positive(3))
        yield Example(cls((1,)), normal(2, 3), normal(2), positive(2))


@operator
class StandardizeGradientSums(Op):
    """The sums of dy and of dy * (x - mean) over `axes`."""

    axes: tuple[int, ...]

    output_count = 2

    def infer(
        self, dy: TensorType, x: TensorType, mean: TensorType
    ) -> tuple[TensorType, TensorType]:
        y = _kept(x, self.axes, self.op_name)
        need(dy == x and mean == y, f"{self.op_name}: {dy} and {mean} do not fit {x}")
        return y, y

    def reference(
        self, dy: np.ndarray, x: np.ndarray, mean: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        moment = dy * (x - np.expand_dims(mean, self.axes))
        return np.asarray(dy.sum(self.axes)), np.asarray(moment.sum(self.axes))

    def kernel(
        self, k: Writer, dy: Array, x: Array, mean: Array, total: Array, moment: Array
    ) -> None:
        kept, over, at = _indices(k, x.shape, self.axes)
        middle = mean[tuple(kept)]
        total[tuple(kept)] = k.sum(over, dy[at])
        moment[tuple(kept)] = k.sum(over, dy[at] * (x[at] - middle))

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls((0, 2, 3)), normal(2, 3, 4, 5), normal(2, 3, 4, 5), normal(3))
        yield Example(cls((1,)), normal(2, 3), normal(2, 3), normal(2))


@operator
class QuotientOrZero(Map):
    """a / b; 0 where b is 0. The mean of statistics of which there are none yet is 0."""

    def scalar(self, k: Writer, a: Expr, b: Expr) -> Expr:
        none = k.equal(b, 0.0)
        return k.select(none, 0.0, a / k.select(none, 1.0, b))

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(2, 3), positive(2, 3))
