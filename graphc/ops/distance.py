"""Losses on distances: squared distance of two arrays, and the contrastive loss on pairs.

Axis 0 counts the items; every loss gives one number per item.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from graphc.error import need
from graphc.ir.graph import Value
from graphc.ir.op import Example, Op, classes, normal, operator
from graphc.ir.types import TensorType
from graphc.kernel.build import Array, Writer
from graphc.kernel.lang import INDEX, Expr, Local, Var

# Caffe adds this to the distance it divides by in the contrastive loss's gradient.
DISTANCE_OFFSET = 1e-4


def _need_pair(a: TensorType, b: TensorType) -> TensorType:
    need(a == b, f"two arrays of one shape are needed, not {a} and {b}")
    need(a.is_real and a.rank > 0, f"real arrays with an axis of items are needed, not {a}")
    return a.with_shape(a.shape[0])


def _squares(k: Writer, a: Array, b: Array, item: Var) -> Local:
    """The squared distance of one item's arrays."""
    rest = k.axes(*a.shape[1:])
    difference = a[item, *rest] - b[item, *rest]
    return k.sum(rest, difference * difference) if rest else k.let(difference * difference)


def _squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squares = np.square(a - b).sum(tuple(range(1, a.ndim)))
    return np.asarray(squares)


def _spread(per_item: np.ndarray, like: np.ndarray) -> np.ndarray:
    return per_item.reshape(-1, *([1] * (like.ndim - 1)))


@operator
class SquaredDistance(Op):
    """Sum of (a - b)^2 for each item (index of axis 0). Gradients 2 (a - b) and its negative."""

    def infer(self, a: TensorType, b: TensorType) -> TensorType:
        return _need_pair(a, b)

    def reference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return _squared(a, b)

    def gradient(self, dy: Value, y: Value, a: Value, b: Value) -> tuple[Value, Value]:
        da: Value = SquaredDistanceGradient()(a, b, dy)
        return da, -da

    def kernel(self, k: Writer, a: Array, b: Array, y: Array) -> None:
        (item,) = k.each(a.shape[0])
        y[item] = _squares(k, a, b, item)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(4, 3), normal(4, 3))
        yield Example(cls(), normal(2, 3, 4, 5), normal(2, 3, 4, 5))
        yield Example(cls(), normal(5), normal(5))


@operator
class SquaredDistanceGradient(Op):
    """Gradient of the first array: 2 (a - b) dy, dy one number per item."""

    gradient_stops = True

    def infer(self, a: TensorType, b: TensorType, dy: TensorType) -> TensorType:
        need(dy == _need_pair(a, b), f"a gradient {dy} does not fit the items of {a}")
        return a

    def reference(self, a: np.ndarray, b: np.ndarray, dy: np.ndarray) -> np.ndarray:
        return np.asarray(2 * (a - b) * _spread(dy, a), a.dtype)

    def kernel(self, k: Writer, a: Array, b: Array, dy: Array, da: Array) -> None:
        item, *rest = k.each(*a.shape)
        da[item, *rest] = (a[item, *rest] - b[item, *rest]) * (dy[item] * 2.0)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(2, 3, 4), normal(2, 3, 4), normal(2))


def _need_similar(a: TensorType, b: TensorType, similar: TensorType) -> TensorType:
    items = _need_pair(a, b)
    need(
        similar.shape == items.shape,
        f"there must be one similarity for each of the {a.shape[0]} pairs, not {similar}",
    )
    return items


@operator
class ContrastiveLoss(Op):
    """For each pair: d^2 where `similar` is not 0, else max(margin - d, 0)^2; d the distance.

    With `legacy`, the second is max(margin - d^2, 0). `similar` is truncated to a whole number.
    `offset` is added to d where the gradient divides by it: with 0 the gradient is exact, and
    undefined for two equal arrays. Hadsell, Chopra, LeCun, "Dimensionality reduction by learning an
    invariant mapping", CVPR 2006.
    """

    margin: float = 1.0
    legacy: bool = False
    offset: float = DISTANCE_OFFSET

    def infer(self, a: TensorType, b: TensorType, similar: TensorType) -> TensorType:
        return _need_similar(a, b, similar)

    def reference(self, a: np.ndarray, b: np.ndarray, similar: np.ndarray) -> np.ndarray:
        squared = _squared(a, b)
        if self.legacy:
            apart = np.maximum(self.margin - squared, 0)
        else:
            apart = np.square(np.maximum(self.margin - np.sqrt(squared), 0))
        return np.asarray(np.where(np.trunc(similar) != 0, squared, apart), a.dtype)

    def gradient(
        self, dy: Value, y: Value, a: Value, b: Value, similar: Value
    ) -> tuple[Value, Value, None]:
        operator = ContrastiveLossGradient(self.margin, self.legacy, self.offset)
        da: Value = operator(a, b, similar, dy)
        return da, -da, None

    def kernel(self, k: Writer, a: Array, b: Array, similar: Array, y: Array) -> None:
        (item,) = k.each(a.shape[0])
        squared = _squares(k, a, b, item)
        if self.legacy:
            apart = k.maximum(self.margin - squared, 0.0)
        else:
            short = k.let(k.maximum(self.margin - k.sqrt(squared), 0.0))
            apart = short * short
        y[item] = k.select(_different(k, similar[item]), apart, squared)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        pairs = normal(6, 3), normal(6, 3), classes(2, 6)
        yield Example(cls(margin=3.0, offset=0.0), *pairs)
        yield Example(cls(margin=9.0, legacy=True), *pairs)
        yield Example(cls(margin=4.0, offset=0.0), normal(4, 2, 3), normal(4, 2, 3), classes(2, 4))


def _different(k: Writer, similar: Expr) -> Expr:
    return k.equal(k.cast(similar, INDEX), 0)


@operator
class ContrastiveLossGradient(Op):
    """Gradient of the first array of each pair, 2 (a - b) dy times a factor.

    The factor is 1 for similar pairs and -max(margin - d, 0) / (d + offset) for the others; legacy:
    -1 for others within the margin.
    """

    margin: float = 1.0
    legacy: bool = False
    offset: float = DISTANCE_OFFSET

    gradient_stops = True

    def infer(
        self, a: TensorType, b: TensorType, similar: TensorType, dy: TensorType
    ) -> TensorType:
        need(dy == _need_similar(a, b, similar), f"a gradient {dy} does not fit the pairs of {a}")
        return a

    def reference(
        self, a: np.ndarray, b: np.ndarray, similar: np.ndarray, dy: np.ndarray
    ) -> np.ndarray:
        squared = _squared(a, b)
        if self.legacy:
            factor = np.where(self.margin - squared > 0, -1, 0)
        else:
            d = np.sqrt(squared)
            short = np.maximum(self.margin - d, 0)
            factor = -np.divide(short, d + self.offset, where=short > 0, out=np.zeros_like(d))
        factor = np.where(np.trunc(similar) != 0, 1, factor)
        return np.asarray(2 * (a - b) * _spread(factor * dy, a), a.dtype)

    def kernel(self, k: Writer, a: Array, b: Array, similar: Array, dy: Array, da: Array) -> None:
        (item,) = k.each(a.shape[0])
        squared = _squares(k, a, b, item)
        if self.legacy:
            within = squared < self.margin
            factor = k.select(within, k.number(-1, a.dtype), 0.0)
        else:
            d = k.let(k.sqrt(squared))
            short = k.let(k.maximum(self.margin - d, 0.0))
            factor = k.select(short > 0.0, -short / (d + self.offset), 0.0)
        factor = k.select(_different(k, similar[item]), factor, 1.0)
        scale = k.let(factor * dy[item] * 2.0)
        rest: Sequence[Var] = k.axes(*a.shape[1:])
        da[item, *rest] = scale * (a[item, *rest] - b[item, *rest])

    @classmethod
    def examples(cls) -> Iterator[Example]:
        inputs = normal(6, 3), normal(6, 3), classes(2, 6), normal(6)
        yield Example(cls(margin=3.0), *inputs)
        yield Example(cls(margin=9.0, legacy=True), *inputs)
