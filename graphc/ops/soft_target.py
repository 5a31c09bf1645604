"""Losses whose target is a distribution over the classes: soft targets and smoothed labels.

    loss = -sum over c of t(c) log p(c)

Soft targets t are an array like the scores, as in distillation (Hinton, Vinyals, Dean, "Distilling
the Knowledge in a Neural Network", 2015). Smoothed labels are t = (1 - s) onehot(label) + s / K for
K classes (Szegedy et al., "Rethinking the Inception Architecture", 2015, section 7). Targets are
data: no gradient flows there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from graphc.error import need
from graphc.ir.graph import Value
from graphc.ir.op import Example, Op, Sample, classes, normal, operator, probabilities
from graphc.ir.types import REAL, TensorType
from graphc.kernel.build import Array, Writer
from graphc.ops.label import along, class_of, classes_of, need_axis, need_labels, unless
from graphc.ops.loss import PROBABILITY_FLOOR, LossGradient, at_least, need_gradient, one_hot
from graphc.ops.softmax import Softmax, exponential_sum


def _need_targets(x: TensorType, target: TensorType, axis: int) -> TensorType:
    need_axis(x, axis)
    need(x.is_real and x == target, f"there must be a target for each of {x}, not {target}")
    return x.dropping(axis)


def _targets(*shape: int, axis: int = 1) -> Sample:
    return dataclasses.replace(probabilities(*shape, axis=axis), differentiable=False)


@operator
class SmoothedTargets(Op):
    """(1 - smoothing) onehot(label) + smoothing / count along a new axis; 0 where it is ignored."""

    axis: int
    count: int
    smoothing: float
    ignore_label: int | None = None
    dtype: str = "float32"

    gradient_stops = True

    def infer(self, label: TensorType) -> TensorType:
        need(0 <= self.smoothing <= 1, f"smoothing is from 0 to 1, not {self.smoothing}")
        need(0 <= self.axis <= label.rank, f"axis {self.axis} cannot be added to {label}")
        need(self.dtype in REAL and self.count > 0, f"{self}: targets are real, of some classes")
        shape = (*label.shape[: self.axis], self.count, *label.shape[self.axis :])
        return TensorType(self.dtype, shape)

    def reference(self, label: np.ndarray) -> np.ndarray:
        index, valid = classes_of(label, self.count, self.ignore_label)
        shape = (*label.shape[: self.axis], self.count, *label.shape[self.axis :])
        hot = one_hot(np.zeros(shape, self.dtype), index, self.axis)
        smooth = (1 - self.smoothing) * hot + self.smoothing / self.count
        return np.asarray(np.where(np.expand_dims(valid, self.axis), smooth, 0), self.dtype)

    def kernel(self, k: Writer, label: Array, t: Array) -> None:
        at = k.each(*label.shape)
        c = k.axis(self.count)
        own, ignored = class_of(k, label[*at], self.count, self.ignore_label)
        low = self.smoothing / self.count
        one = k.number(1 - self.smoothing + low, t.dtype)
        t[along(at, self.axis, c)] = unless(k, ignored, k.select(k.equal(c, own), one, low))

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(1, 5, 0.1, dtype="float64"), classes(5, 3))
        yield Example(cls(0, 4, 0.3, 2, dtype="float64"), classes(4, 2, 3))


@operator
class SoftTargetLogLoss(Op):
    """-sum of t log p along `axis`, per position; a class whose target is 0 adds nothing.

    The gradient of p divides by p, or by PROBABILITY_FLOOR where p is less.
    """

    axis: int = 1

    def infer(self, p: TensorType, target: TensorType) -> TensorType:
        return _need_targets(p, target, self.axis)

    def reference(self, p: np.ndarray, target: np.ndarray) -> np.ndarray:
        logs = np.log(np.where(target == 0, 1, p))
        return np.asarray(-(target * logs).sum(self.axis, dtype=p.dtype))

    def gradient(self, dy: Value, y: Value, p: Value, target: Value) -> tuple[Value, None]:
        return SoftTargetLogLossGradient(self.axis)(p, target, dy), None

    def kernel(self, k: Writer, p: Array, target: Array, y: Array) -> None:
        at = k.each(*y.shape)
        c = k.axis(p.shape[self.axis])
        here = along(at, self.axis, c)
        nothing = k.equal(target[here], k.number(0, p.dtype))
        y[*at] = -k.sum(c, k.select(nothing, 0.0, target[here] * k.log(p[here])))

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), probabilities(3, 5), _targets(3, 5))
        yield Example(cls(axis=2), probabilities(2, 3, 4, axis=2), _targets(2, 3, 4, axis=2))


@operator
class SoftTargetLogLossGradient(Op):
    """Gradient of the probabilities: -dy t / max(p, floor)."""

    axis: int = 1

    gradient_stops = True

    def infer(self, p: TensorType, target: TensorType, dy: TensorType) -> TensorType:
        need_gradient(_need_targets(p, target, self.axis), dy)
        return p

    def reference(self, p: np.ndarray, target: np.ndarray, dy: np.ndarray) -> np.ndarray:
        likely = np.maximum(p, np.asarray(PROBABILITY_FLOOR, p.dtype))
        return np.asarray(-np.expand_dims(dy, self.axis) * target / likely, p.dtype)

    def kernel(self, k: Writer, p: Array, target: Array, dy: Array, dp: Array) -> None:
        at = k.each(*dy.shape)
        here = along(at, self.axis, k.axis(p.shape[self.axis]))
        dp[here] = -dy[*at] * target[here] / at_least(k, p[here], PROBABILITY_FLOOR)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), probabilities(3, 5), _targets(3, 5), normal(3))


@operator
class SoftmaxSoftTargetLoss(Op):
    """-sum of t log softmax(x) along `axis`, at each position. The targets need not add up to 1."""

    axis: int = 1

    def equals(self, x: Value, target: Value) -> Value:
        loss: Value = SoftTargetLogLoss(self.axis)(Softmax(self.axis)(x), target)
        return loss

    def infer(self, x: TensorType, target: TensorType) -> TensorType:
        return _need_targets(x, target, self.axis)

    def reference(self, x: np.ndarray, target: np.ndarray) -> np.ndarray:
        below = x.max(self.axis, keepdims=True) - x
        mass = np.log(np.exp(-below).sum(self.axis, keepdims=True))
        return np.asarray((target * (below + mass)).sum(self.axis, dtype=x.dtype))

    def gradient(self, dy: Value, y: Value, x: Value, target: Value) -> tuple[Value, None]:
        return SoftmaxSoftTargetLossGradient(self.axis)(x, target, dy), None

    def kernel(self, k: Writer, x: Array, target: Array, y: Array) -> None:
        at = k.each(*y.shape)
        c = k.axis(x.shape[self.axis])
        here = along(at, self.axis, c)
        top, excess = exponential_sum(k, x[here], c)
        total = k.sum(c, target[here])
        gap = k.sum(c, target[here] * (top - x[here]))
        y[*at] = gap + total * k.log1p(excess)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(3, 5), _targets(3, 5))
        yield Example(cls(), normal(2, 5, 3, 2), _targets(2, 5, 3, 2))
        yield Example(cls(axis=0), normal(6), _targets(6, axis=0))
        yield Example(cls(), normal(4, 3, scale=100.0), _targets(4, 3))


@operator
class SoftmaxSoftTargetLossGradient(Op):
    """Gradient of the scores: dy (p sum(t) - t).

    Written as p (sum(t) - t) - t (1 - p), so that it keeps its digits where p is nearly 1.
    """

    axis: int = 1

    gradient_stops = True

    def infer(self, x: TensorType, target: TensorType, dy: TensorType) -> TensorType:
        need_gradient(_need_targets(x, target, self.axis), dy)
        return x

    def reference(self, x: np.ndarray, target: np.ndarray, dy: np.ndarray) -> np.ndarray:
        total = target.sum(self.axis, keepdims=True)
        difference = Softmax(self.axis).reference(x) * total - target
        return np.asarray(difference * np.expand_dims(dy, self.axis), x.dtype)

    def kernel(self, k: Writer, x: Array, target: Array, dy: Array, dx: Array) -> None:
        at = k.each(*dy.shape)
        c = k.axis(x.shape[self.axis])
        here = along(at, self.axis, c)
        top, excess = exponential_sum(k, x[here], c)
        total = k.sum(c, target[here])
        scale = k.let(dy[*at] / (1.0 + excess))
        mass = k.exp(x[here] - top)
        others = k.select(mass < 1.0, 1.0 + (excess - mass), excess)
        dx[here] = scale * (mass * (total - target[here]) - target[here] * others)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(3, 5), _targets(3, 5), normal(3))
        yield Example(cls(axis=0), normal(5, 2), _targets(5, 2, axis=0), normal(2))
        yield Example(cls(), normal(4, 3, scale=100.0), _targets(4, 3), normal(4))


@operator
class SoftmaxSmoothedLoss(Op):
    """The log loss on scores of labels smoothed over `count` classes; 0 if ignored.

    As torch's cross_entropy with label_smoothing has it. The targets are never stored.
    """

    axis: int
    count: int
    smoothing: float
    ignore_label: int | None = None
    dtype: str = "float32"

    def equals(self, x: Value, label: Value) -> list[Value]:
        smooth = SmoothedTargets(
            self.axis, self.count, self.smoothing, self.ignore_label, self.dtype
        )
        target = smooth(label)
        return [
            SoftTargetLogLoss(self.axis)(Softmax(self.axis)(x), target),
            SoftmaxSoftTargetLoss(self.axis)(x, target),
        ]

    def infer(self, x: TensorType, label: TensorType) -> TensorType:
        position = need_labels(x, label, self.axis)
        need(0 <= self.smoothing <= 1, f"smoothing is from 0 to 1, not {self.smoothing}")
        need(x.shape[self.axis] == self.count, f"{x} does not hold {self.count} classes")
        return position

    def reference(self, x: np.ndarray, label: np.ndarray) -> np.ndarray:
        smooth = SmoothedTargets(
            self.axis, self.count, self.smoothing, self.ignore_label, str(x.dtype)
        )
        return SoftmaxSoftTargetLoss(self.axis).reference(x, smooth.reference(label))

    def gradient(self, dy: Value, y: Value, x: Value, label: Value) -> tuple[Value, None]:
        operator = SoftmaxSmoothedLossGradient(self.axis, self.smoothing, self.ignore_label)
        return operator(x, label, dy), None

    def kernel(self, k: Writer, x: Array, label: Array, y: Array) -> None:
        at = k.each(*y.shape)
        c = k.axis(self.count)
        own, ignored = class_of(k, label[*at], self.count, self.ignore_label)
        score = x[along(at, self.axis, c)]
        top, excess = exponential_sum(k, score, c)
        others = k.sum(c, top - score) * (self.smoothing / self.count)
        mine = (top - x[along(at, self.axis, own)]) * (1 - self.smoothing)
        y[*at] = unless(k, ignored, (mine + others) + k.log1p(excess))

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(1, 5, 0.1), normal(3, 5), classes(5, 3))
        yield Example(cls(1, 5, 0.25, 2), normal(2, 5, 3, 3), classes(5, 2, 3, 3))
        yield Example(cls(0, 6, 1.0), normal(6), classes(6))


@operator
class SoftmaxSmoothedLossGradient(LossGradient):
    """Gradient of the scores: dy (p - s / K), less dy (1 - s) at the label, for smoothing s."""

    axis: int
    smoothing: float
    ignore_label: int | None = None

    def reference(self, x: np.ndarray, label: np.ndarray, dy: np.ndarray) -> np.ndarray:
        count = x.shape[self.axis]
        smooth = SmoothedTargets(
            self.axis, count, self.smoothing, self.ignore_label, str(x.dtype)
        ).reference(label)
        return SoftmaxSoftTargetLossGradient(self.axis).reference(x, smooth, dy)

    def kernel(self, k: Writer, x: Array, label: Array, dy: Array, dx: Array) -> None:
        at = k.each(*dy.shape)
        count = x.shape[self.axis]
        c = k.axis(count)
        own, ignored = class_of(k, label[*at], count, self.ignore_label)
        here = along(at, self.axis, c)
        top, excess = exponential_sum(k, x[here], c)
        slope = k.let(unless(k, ignored, dy[*at]))
        part = k.let(1.0 / (1.0 + excess))
        mass = k.exp(x[here] - top)
        # p - (1 - s) = s - (1 - p), and 1 - p is a sum without the label where the label wins.
        rest = k.select(mass < 1.0, 1.0 + (excess - mass), excess) * part
        low = self.smoothing / count
        dx[here] = slope * k.select(
            k.equal(c, own), (self.smoothing - low) - rest, mass * part - low
        )

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(1, 0.1), normal(3, 5), classes(5, 3), normal(3))
        yield Example(cls(0, 0.2, 1), normal(5, 4), classes(5, 4), normal(4))
