"""The log loss, on probabilities and on scores.

Each loss gives one number per position; sums and normalisers are operators of their own, so what
frameworks do differently is visible in the graph.

With z the label's score, top the largest score and e(c) = exp(x(c) - top), the loss on scores is

    -log softmax(x)[label] = (top - z) + log(sum of e),

and neither term loses digits: `top - z` is a plain difference, and the sum is at least 1. The sum
is taken without the label (`rest`), so the logarithm is right where the label wins by far,
log(1 + rest), and the gradient at the label, p - 1 = -rest / (sum of e), never subtracts numbers
that are nearly equal.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from graphc.error import need
from graphc.ir.graph import Value
from graphc.ir.op import Example, Op, classes, normal, operator, probabilities
from graphc.ir.types import TensorType
from graphc.kernel.build import Array, Writer
from graphc.kernel.lang import Expr, Var
from graphc.ops.label import along, class_of, classes_of, need_labels, unless
from graphc.ops.softmax import Softmax

# Caffe's floors: log(max(p, floor)) keeps a loss finite. The first is the smallest normal float32.
SCORE_FLOOR = 1.17549435e-38
PROBABILITY_FLOOR = 1e-20


def at_most(k: Writer, value: Expr, limit: float) -> Expr:
    """The smaller of both; nan stays nan, so a broken net shows in its loss."""
    return k.select(k.number(limit, value.dtype) < value, limit, value)


def at_least(k: Writer, value: Expr, limit: float) -> Expr:
    """The larger of both; nan stays nan."""
    return k.select(value < limit, limit, value)


def pick(values: np.ndarray, index: np.ndarray, axis: int) -> np.ndarray:
    """values[..., index, ...] at each position of the other axes."""
    return np.take_along_axis(values, np.expand_dims(index, axis), axis).squeeze(axis)


def one_hot(like: np.ndarray, index: np.ndarray, axis: int) -> np.ndarray:
    """1 at each position's index along `axis`, 0 elsewhere."""
    hot = np.zeros_like(like)
    np.put_along_axis(hot, np.expand_dims(index, axis), 1, axis)
    return hot


def need_gradient(position: TensorType, dy: TensorType) -> None:
    """Raise NetError unless `dy` holds one real number per position."""
    need(dy == position, f"a gradient {dy} does not fit a loss of {position}")


class LossGradient(Op):
    """The gradient of scores (or probabilities) x, from labels and one number dy a position."""

    axis: int
    gradient_stops = True

    def infer(self, x: TensorType, label: TensorType, dy: TensorType) -> TensorType:
        need_gradient(need_labels(x, label, self.axis), dy)
        return x


@operator
class MultinomialLogLoss(Op):
    """-log(max(p, floor)) of the label's probability p along `axis`, per position; 0 if ignored.

    The gradient is -1 / max(p, floor) at the label, below the floor too, as Caffe's is.
    """

    axis: int = 1
    floor: float = PROBABILITY_FLOOR
    ignore_label: int | None = None

    def infer(self, p: TensorType, label: TensorType) -> TensorType:
        return need_labels(p, label, self.axis)

    def reference(self, p: np.ndarray, label: np.ndarray) -> np.ndarray:
        index, valid = classes_of(label, p.shape[self.axis], self.ignore_label)
        own = np.maximum(pick(p, index, self.axis), np.asarray(self.floor, p.dtype))
        return np.asarray(np.where(valid, -np.log(own), 0), p.dtype)

    def gradient(self, dy: Value, y: Value, p: Value, label: Value) -> tuple[Value, None]:
        operator = MultinomialLogLossGradient(self.axis, self.floor, self.ignore_label)
        return operator(p, label, dy), None

    def kernel(self, k: Writer, p: Array, label: Array, y: Array) -> None:
        at = k.each(*y.shape)
        own, ignored = class_of(k, label[*at], p.shape[self.axis], self.ignore_label)
        likely = at_least(k, p[along(at, self.axis, own)], self.floor)
        y[*at] = unless(k, ignored, -k.log(likely))

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), probabilities(3, 5), classes(5, 3))
        yield Example(cls(axis=2), probabilities(2, 3, 4, 5, axis=2), classes(4, 2, 3, 5))
        yield Example(cls(ignore_label=1), probabilities(6, 3, 2), classes(3, 6, 2))


@operator
class MultinomialLogLossGradient(LossGradient):
    """Gradient of the probabilities: -dy / max(p, floor) at the label, 0 elsewhere."""

    axis: int = 1
    floor: float = PROBABILITY_FLOOR
    ignore_label: int | None = None

    def reference(self, p: np.ndarray, label: np.ndarray, dy: np.ndarray) -> np.ndarray:
        index, valid = classes_of(label, p.shape[self.axis], self.ignore_label)
        slope = -np.where(valid, dy, 0) / np.maximum(
            pick(p, index, self.axis), np.asarray(self.floor, p.dtype)
        )
        return np.asarray(one_hot(p, index, self.axis) * np.expand_dims(slope, self.axis), p.dtype)

    def kernel(self, k: Writer, p: Array, label: Array, dy: Array, dp: Array) -> None:
        at = k.each(*dy.shape)
        c = k.axis(p.shape[self.axis])
        own, ignored = class_of(k, label[*at], p.shape[self.axis], self.ignore_label)
        likely = at_least(k, p[along(at, self.axis, own)], self.floor)
        slope = k.let(unless(k, ignored, -dy[*at] / likely))
        dp[along(at, self.axis, c)] = k.select(k.equal(c, own), slope, 0.0)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), probabilities(3, 5), classes(5, 3), normal(3))
        yield Example(
            cls(axis=2, ignore_label=0),
            probabilities(2, 3, 4, 5, axis=2),
            classes(4, 2, 3, 5),
            normal(2, 3, 5),
        )


def _sweep(
    k: Writer, x: Array, at: Sequence[Expr], c: Var, own: Expr, axis: int
) -> tuple[Expr, Expr, Expr]:
    """(top, rest, e(label)) as the head of this file names them.

    The loss and its gradient both begin so, statement by statement: joined, they share the sweep.
    """
    score = x[along(at, axis, c)]
    top = k.max(c, score)
    rest = k.sum(c, k.select(k.equal(c, own), 0.0, k.exp(score - top)))
    mine = k.let(k.exp(x[along(at, axis, own)] - top))
    return top, rest, mine


@operator
class SoftmaxLogLoss(Op):
    """-log softmax(x)[label] along `axis`, at each position; 0 if ignored.

    `floor` bounds the probability inside the logarithm from below (0: not at all). It caps the
    value as Caffe does, never the gradient, which is softmax(x) - onehot(label).
    """

    axis: int = 1
    floor: float = SCORE_FLOOR
    ignore_label: int | None = None

    def equals(self, x: Value, label: Value) -> list[Value | tuple[Value, dict[str, float]]]:
        """Caffe's pair, and MatConvNet's, whose value has no floor."""
        # That file takes what losses share from this one.
        from graphc.ops.score import NegativeLog, Pick

        p = Softmax(self.axis)(x)
        picked = Pick(self.axis, self.ignore_label, 1.0)(p, label)
        return [
            MultinomialLogLoss(self.axis, self.floor, self.ignore_label)(p, label),
            (NegativeLog(self.floor)(picked), {"floor": 0.0}),
        ]

    def infer(self, x: TensorType, label: TensorType) -> TensorType:
        return need_labels(x, label, self.axis)

    def reference(self, x: np.ndarray, label: np.ndarray) -> np.ndarray:
        index, valid = classes_of(label, x.shape[self.axis], self.ignore_label)
        shifted = x - x.max(self.axis, keepdims=True)
        loss = np.log(np.exp(shifted).sum(self.axis)) - pick(shifted, index, self.axis)
        if self.floor > 0:
            loss = np.minimum(loss, -math.log(self.floor))
        return np.asarray(np.where(valid, loss, 0), x.dtype)

    def gradient(self, dy: Value, y: Value, x: Value, label: Value) -> tuple[Value, None]:
        return SoftmaxLogLossGradient(self.axis, self.ignore_label)(x, label, dy), None

    def kernel(self, k: Writer, x: Array, label: Array, y: Array) -> None:
        at = k.each(*y.shape)
        c = k.axis(x.shape[self.axis])
        own, ignored = class_of(k, label[*at], x.shape[self.axis], self.ignore_label)
        top, rest, mine = _sweep(k, x, at, c, own, self.axis)
        # mine - 1 is exactly 0 where the label has the largest score: log1p then keeps a tiny rest.
        loss = (top - x[along(at, self.axis, own)]) + k.log1p(rest + (mine - 1.0))
        if self.floor > 0:
            loss = at_most(k, loss, -math.log(self.floor))
        y[*at] = unless(k, ignored, loss)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(3, 5), classes(5, 3))
        yield Example(cls(), normal(2, 5, 3, 3), classes(5, 2, 3, 3))
        yield Example(cls(axis=0), normal(6), classes(6))
        yield Example(cls(axis=2, ignore_label=2), normal(2, 3, 4), classes(4, 2, 3))
        yield Example(cls(floor=0.0), normal(4, 3, scale=100.0), classes(3, 4))


@operator
class SoftmaxLogLossGradient(LossGradient):
    """Gradient of the scores, dy (softmax(x) - onehot(label)), without stored probabilities."""

    axis: int = 1
    ignore_label: int | None = None

    def reference(self, x: np.ndarray, label: np.ndarray, dy: np.ndarray) -> np.ndarray:
        index, valid = classes_of(label, x.shape[self.axis], self.ignore_label)
        slope = np.expand_dims(np.where(valid, dy, 0), self.axis)
        difference = Softmax(self.axis).reference(x) - one_hot(x, index, self.axis)
        return np.asarray(difference * slope, x.dtype)

    def kernel(self, k: Writer, x: Array, label: Array, dy: Array, dx: Array) -> None:
        at = k.each(*dy.shape)
        c = k.axis(x.shape[self.axis])
        own, ignored = class_of(k, label[*at], x.shape[self.axis], self.ignore_label)
        top, rest, mine = _sweep(k, x, at, c, own, self.axis)
        scale = k.let(unless(k, ignored, dy[*at] / (rest + mine)))
        here = along(at, self.axis, c)
        dx[here] = scale * k.select(k.equal(c, own), -rest, k.exp(x[here] - top))

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(3, 5), classes(5, 3), normal(3))
        yield Example(cls(axis=2, ignore_label=2), normal(2, 3, 4), classes(4, 2, 3), normal(2, 3))
        yield Example(cls(), normal(4, 3, scale=100.0), classes(3, 4), normal(4))
