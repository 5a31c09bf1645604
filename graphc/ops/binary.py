"""Losses that ask a yes-or-no question of every score: logistic (sigmoid) and hinge."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graphc.error import need
from graphc.ir.graph import Value
from graphc.ir.op import Example, Op, Sample, classes, normal, operator, positive
from graphc.ir.types import TensorType
from graphc.kernel.build import Array, Writer
from graphc.kernel.lang import INDEX, Expr
from graphc.ops.label import along, class_of, classes_of, need_labels, whole_of
from graphc.ops.loss import LossGradient, need_gradient, one_hot


def _need_targets(x: TensorType, target: TensorType) -> TensorType:
    need(x == target and x.is_real, f"there must be one target for each score of {x}, not {target}")
    return x


def _targets(*shape: int) -> Sample:
    drawn = positive(*shape, low=0.0, high=1.0)
    return Sample(drawn.type, drawn.draw, differentiable=False)


@operator
class SigmoidLogLoss(Op):
    """-t log(s) - (1 - t) log(1 - s) with s = sigmoid(x), for each score x and target t.

    Computed as max(x, 0) - x t + log(1 + exp(-|x|)), which no score overflows. 0 where the target,
    truncated, is `ignore_label`. Targets may be any reals.
    """

    ignore_label: int | None = None

    begins_with = "sigmoid"

    def infer(self, x: TensorType, target: TensorType) -> TensorType:
        return _need_targets(x, target)

    def reference(self, x: np.ndarray, target: np.ndarray) -> np.ndarray:
        loss = target * np.logaddexp(0, -x) + (1 - target) * np.logaddexp(0, x)
        return np.asarray(np.where(_counts(target, self.ignore_label), loss, 0), x.dtype)

    def gradient(self, dy: Value, y: Value, x: Value, target: Value) -> tuple[Value, None]:
        return SigmoidLogLossGradient(self.ignore_label)(x, target, dy), None

    def kernel(self, k: Writer, x: Array, target: Array, y: Array) -> None:
        at = k.each(*x.shape)
        loss = k.maximum(x[*at], 0.0) - x[*at] * target[*at] + k.log1p(k.exp(-k.abs(x[*at])))
        y[*at] = _unless_ignored(k, target[*at], self.ignore_label, loss)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(3, 4), _targets(3, 4))
        yield Example(cls(ignore_label=1), normal(2, 3, 4), classes(3, 2, 3, 4))
        yield Example(cls(), normal(3, 4, scale=30.0), classes(2, 3, 4))


def _counts(target: np.ndarray, ignore_label: int | None) -> np.ndarray:
    if ignore_label is None:
        return np.ones(target.shape, bool)
    return np.asarray(whole_of(target) != ignore_label)


def _unless_ignored(k: Writer, target: Expr, ignore_label: int | None, value: Expr) -> Expr:
    if ignore_label is None:
        return value
    return k.select(k.equal(k.cast(target, INDEX), ignore_label), 0.0, value)


@operator
class SigmoidLogLossGradient(Op):
    """Gradient of the scores: dy (sigmoid(x) - t).

    Written as (1 - t) sigmoid(x) - t sigmoid(-x), which keeps its digits where t is 0 or 1.
    """

    ignore_label: int | None = None

    gradient_stops = True

    def infer(self, x: TensorType, target: TensorType, dy: TensorType) -> TensorType:
        need_gradient(_need_targets(x, target), dy)
        return x

    def reference(self, x: np.ndarray, target: np.ndarray, dy: np.ndarray) -> np.ndarray:
        slope = 0.5 * np.tanh(0.5 * x) + 0.5 - target
        return np.asarray(np.where(_counts(target, self.ignore_label), dy * slope, 0), x.dtype)

    def kernel(self, k: Writer, x: Array, target: Array, dy: Array, dx: Array) -> None:
        at = k.each(*x.shape)
        yes, score = target[*at], x[*at]
        slope = (1.0 - yes) * k.sigmoid(score) - yes * k.sigmoid(-score)
        dx[*at] = _unless_ignored(k, yes, self.ignore_label, dy[*at] * slope)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(3, 4), _targets(3, 4), normal(3, 4))
        yield Example(cls(ignore_label=1), normal(2, 3, 4), classes(3, 2, 3, 4), normal(2, 3, 4))


@operator
class HingeLoss(Op):
    """Sum over the classes along `axis` of max(0, 1 - t x), squared if so asked, at each position.

    t is +1 for the label's class and -1 for the others.
    """

    axis: int = 1
    squared: bool = False

    def infer(self, x: TensorType, label: TensorType) -> TensorType:
        return need_labels(x, label, self.axis)

    def reference(self, x: np.ndarray, label: np.ndarray) -> np.ndarray:
        margin, _ = _margins(x, label, self.axis)
        return np.asarray((np.square(margin) if self.squared else margin).sum(self.axis))

    def gradient(self, dy: Value, y: Value, x: Value, label: Value) -> tuple[Value, None]:
        return HingeLossGradient(self.axis, self.squared)(x, label, dy), None

    def kernel(self, k: Writer, x: Array, label: Array, y: Array) -> None:
        at = k.each(*y.shape)
        c = k.axis(x.shape[self.axis])
        own, _ = class_of(k, label[*at], x.shape[self.axis], None)
        score = x[along(at, self.axis, c)]
        margin = k.maximum(1.0 - k.select(k.equal(c, own), score, -score), 0.0)
        y[*at] = k.sum(c, margin * margin if self.squared else margin)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(3, 5), classes(5, 3))
        yield Example(cls(squared=True), normal(3, 5), classes(5, 3))
        yield Example(cls(axis=2), normal(2, 3, 4), classes(4, 2, 3))


def _margins(x: np.ndarray, label: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """(max(0, 1 - t x), t)."""
    index, _ = classes_of(label, x.shape[axis], None)
    sign = 2 * one_hot(x, index, axis) - 1
    return np.maximum(1 - sign * x, 0), sign


@operator
class HingeLossGradient(LossGradient):
    """Gradient of the scores: -t dy where the margin is positive; times 2 margin if squared."""

    axis: int = 1
    squared: bool = False

    def reference(self, x: np.ndarray, label: np.ndarray, dy: np.ndarray) -> np.ndarray:
        margin, sign = _margins(x, label, self.axis)
        slope = 2 * margin if self.squared else (margin > 0)
        return np.asarray(-sign * slope * np.expand_dims(dy, self.axis), x.dtype)

    def kernel(self, k: Writer, x: Array, label: Array, dy: Array, dx: Array) -> None:
        at = k.each(*dy.shape)
        c = k.axis(x.shape[self.axis])
        own, _ = class_of(k, label[*at], x.shape[self.axis], None)
        here = along(at, self.axis, c)
        mine = k.equal(c, own)
        margin = k.maximum(1.0 - k.select(mine, x[here], -x[here]), 0.0)
        slope = margin * 2.0 if self.squared else k.sign(margin)
        dx[here] = dy[*at] * k.select(mine, -slope, slope)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(3, 5), classes(5, 3), normal(3))
        yield Example(cls(axis=2, squared=True), normal(2, 3, 4), classes(4, 2, 3), normal(2, 3))
