"""The infogain loss: a log loss whose weights are the rows of a matrix H, one row per label.

    loss = -sum over l of H[label, l] log(max(p(l), floor))

With H the identity this is the log loss. Caffe's layer takes scores and does the softmax itself
since 2017; before, it took probabilities. Both are here. Nothing is learned in H.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from graphc.error import need
from graphc.ir.graph import Value
from graphc.ir.op import Example, Op, Sample, classes, normal, operator, positive, probabilities
from graphc.ir.types import TensorType
from graphc.kernel.build import Array, Writer
from graphc.ops.label import along, class_of, classes_of, need_labels, unless
from graphc.ops.loss import PROBABILITY_FLOOR, at_least, need_gradient
from graphc.ops.softmax import Softmax, exponential_sum


def _need_matrix(x: TensorType, label: TensorType, matrix: TensorType, axis: int) -> TensorType:
    position = need_labels(x, label, axis)
    count = x.shape[axis]
    need(
        matrix == TensorType(x.dtype, (count, count)),
        f"the infogain matrix {matrix} must be {x.dtype}[{count}, {count}] for scores {x}",
    )
    return position


def _rows(matrix: np.ndarray, index: np.ndarray, axis: int) -> np.ndarray:
    """The matrix row of each position's label, laid along `axis`."""
    return np.moveaxis(matrix[index], -1, axis)


def _matrix(count: int) -> Sample:
    return dataclasses.replace(positive(count, count), differentiable=False)


@operator
class InfogainLoss(Op):
    """The infogain loss on probabilities along `axis`, one number per position; 0 if ignored.

    The gradient is -H[label, l] / max(p(l), floor), below the floor too.
    """

    axis: int = 1
    floor: float = PROBABILITY_FLOOR
    ignore_label: int | None = None

    def infer(self, p: TensorType, label: TensorType, matrix: TensorType) -> TensorType:
        return _need_matrix(p, label, matrix, self.axis)

    def reference(self, p: np.ndarray, label: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        index, valid = classes_of(label, p.shape[self.axis], self.ignore_label)
        logs = np.log(np.maximum(p, np.asarray(self.floor, p.dtype)))
        loss = -(_rows(matrix, index, self.axis) * logs).sum(self.axis)
        return np.asarray(np.where(valid, loss, 0), p.dtype)

    def gradient(
        self, dy: Value, y: Value, p: Value, label: Value, matrix: Value
    ) -> tuple[Value, None, None]:
        operator = InfogainLossGradient(self.axis, self.floor, self.ignore_label)
        return operator(p, label, matrix, dy), None, None

    def kernel(self, k: Writer, p: Array, label: Array, matrix: Array, y: Array) -> None:
        at = k.each(*y.shape)
        c = k.axis(p.shape[self.axis])
        own, ignored = class_of(k, label[*at], p.shape[self.axis], self.ignore_label)
        likely = at_least(k, p[along(at, self.axis, c)], self.floor)
        gain = k.sum(c, matrix[own, c] * k.log(likely))
        y[*at] = unless(k, ignored, -gain)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), probabilities(3, 4), classes(4, 3), _matrix(4))
        yield Example(
            cls(axis=2, ignore_label=1),
            probabilities(2, 3, 3, 2, axis=2),
            classes(3, 2, 3, 2),
            _matrix(3),
        )


@operator
class InfogainLossGradient(Op):
    """Gradient of the probabilities: -dy H[label, l] / max(p(l), floor)."""

    axis: int = 1
    floor: float = PROBABILITY_FLOOR
    ignore_label: int | None = None

    gradient_stops = True

    def infer(
        self, p: TensorType, label: TensorType, matrix: TensorType, dy: TensorType
    ) -> TensorType:
        need_gradient(_need_matrix(p, label, matrix, self.axis), dy)
        return p

    def reference(
        self, p: np.ndarray, label: np.ndarray, matrix: np.ndarray, dy: np.ndarray
    ) -> np.ndarray:
        index, valid = classes_of(label, p.shape[self.axis], self.ignore_label)
        slope = np.expand_dims(np.where(valid, dy, 0), self.axis)
        likely = np.maximum(p, np.asarray(self.floor, p.dtype))
        return np.asarray(-slope * _rows(matrix, index, self.axis) / likely, p.dtype)

    def kernel(
        self, k: Writer, p: Array, label: Array, matrix: Array, dy: Array, dp: Array
    ) -> None:
        at = k.each(*dy.shape)
        c = k.axis(p.shape[self.axis])
        own, ignored = class_of(k, label[*at], p.shape[self.axis], self.ignore_label)
        scale = k.let(unless(k, ignored, -dy[*at]))
        here = along(at, self.axis, c)
        dp[here] = scale * matrix[own, c] / at_least(k, p[here], self.floor)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), probabilities(3, 4), classes(4, 3), _matrix(4), normal(3))
        yield Example(
            cls(axis=0, ignore_label=1),
            probabilities(3, 2, axis=0),
            classes(3, 2),
            _matrix(3),
            normal(2),
        )


@operator
class SoftmaxInfogainLoss(Op):
    """The infogain loss on scores: a softmax along `axis`, then InfogainLoss.

    `floor` caps the logarithm's value, never the gradient, which is
    softmax(x)(l) sum(H[label]) - H[label, l].
    """

    axis: int = 1
    floor: float = PROBABILITY_FLOOR
    ignore_label: int | None = None

    def equals(self, x: Value, label: Value, matrix: Value) -> Value:
        loss: Value = InfogainLoss(self.axis, self.floor, self.ignore_label)(
            Softmax(self.axis)(x), label, matrix
        )
        return loss

    def infer(self, x: TensorType, label: TensorType, matrix: TensorType) -> TensorType:
        return _need_matrix(x, label, matrix, self.axis)

    def reference(self, x: np.ndarray, label: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        index, valid = classes_of(label, x.shape[self.axis], self.ignore_label)
        shifted = x - x.max(self.axis, keepdims=True)
        logs = shifted - np.log(np.exp(shifted).sum(self.axis, keepdims=True))
        if self.floor > 0:
            logs = np.maximum(logs, math.log(self.floor))
        loss = -(_rows(matrix, index, self.axis) * logs).sum(self.axis)
        return np.asarray(np.where(valid, loss, 0), x.dtype)

    def gradient(
        self, dy: Value, y: Value, x: Value, label: Value, matrix: Value
    ) -> tuple[Value, None, None]:
        operator = SoftmaxInfogainLossGradient(self.axis, self.ignore_label)
        return operator(x, label, matrix, dy), None, None

    def kernel(self, k: Writer, x: Array, label: Array, matrix: Array, y: Array) -> None:
        at = k.each(*y.shape)
        c = k.axis(x.shape[self.axis])
        own, ignored = class_of(k, label[*at], x.shape[self.axis], self.ignore_label)
        score = x[along(at, self.axis, c)]
        top, excess = exponential_sum(k, score, c)
        log_mass = k.let(k.log1p(excess))
        log_likely = (score - top) - log_mass
        if self.floor > 0:
            log_likely = at_least(k, log_likely, math.log(self.floor))
        y[*at] = unless(k, ignored, -k.sum(c, matrix[own, c] * log_likely))

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(3, 4), classes(4, 3), _matrix(4))
        yield Example(cls(axis=2, ignore_label=1), normal(2, 3, 3), classes(3, 2, 3), _matrix(3))
        yield Example(cls(floor=0.0), normal(4, 3, scale=100.0), classes(3, 4), _matrix(3))


@operator
class SoftmaxInfogainLossGradient(Op):
    """Gradient of the scores: dy (p(l) S - H[label, l]), with S the sum of the label's row of H.

    Written as p (S - H) - H (1 - p), so that it keeps its digits where p is nearly 1.
    """

    axis: int = 1
    ignore_label: int | None = None

    gradient_stops = True

    def infer(
        self, x: TensorType, label: TensorType, matrix: TensorType, dy: TensorType
    ) -> TensorType:
        need_gradient(_need_matrix(x, label, matrix, self.axis), dy)
        return x

    def reference(
        self, x: np.ndarray, label: np.ndarray, matrix: np.ndarray, dy: np.ndarray
    ) -> np.ndarray:
        index, valid = classes_of(label, x.shape[self.axis], self.ignore_label)
        slope = np.expand_dims(np.where(valid, dy, 0), self.axis)
        rows = _rows(matrix, index, self.axis)
        total = rows.sum(self.axis, keepdims=True)
        return np.asarray((Softmax(self.axis).reference(x) * total - rows) * slope, x.dtype)

    def kernel(
        self, k: Writer, x: Array, label: Array, matrix: Array, dy: Array, dx: Array
    ) -> None:
        at = k.each(*dy.shape)
        c = k.axis(x.shape[self.axis])
        own, ignored = class_of(k, label[*at], x.shape[self.axis], self.ignore_label)
        here = along(at, self.axis, c)
        top, excess = exponential_sum(k, x[here], c)
        row = k.sum(c, matrix[own, c])
        scale = k.let(unless(k, ignored, dy[*at] / (1.0 + excess)))
        mass = k.exp(x[here] - top)
        others = k.select(mass < 1.0, 1.0 + (excess - mass), excess)
        dx[here] = scale * (mass * (row - matrix[own, c]) - matrix[own, c] * others)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(3, 4), classes(4, 3), _matrix(4), normal(3))
        yield Example(
            cls(axis=0, ignore_label=1), normal(3, 2), classes(3, 2), _matrix(3), normal(2)
        )
        yield Example(cls(), normal(4, 3, scale=100.0), classes(3, 4), _matrix(3), normal(4))
