"""Losses that look at the label's score among others: margins, and being among the best.

Scores x [N, C, ...], labels [N, ...]; a label equal to `ignore_label` counts nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graphc.error import need
from graphc.ir.core.axes import Broadcast
from graphc.ir.core.fill import OneHot
from graphc.ir.graph import Value
from graphc.ir.op import Example, Op, classes, distinct, normal, operator, positive
from graphc.ir.types import TensorType
from graphc.kernel.build import Array, Writer
from graphc.kernel.lang import Expr
from graphc.ops.elementwise import Map
from graphc.ops.label import along, class_of, classes_of, need_labels, unless
from graphc.ops.loss import LossGradient, one_hot, pick


@operator
class Pick(Op):
    """x[label] along `axis` at each position; `missing`, without gradient, where it is ignored.

    `ignore_label` must not be a class.
    """

    axis: int = 1
    ignore_label: int | None = None
    missing: float = 0.0

    def infer(self, x: TensorType, label: TensorType) -> TensorType:
        position = need_labels(x, label, self.axis)
        inside = self.ignore_label is not None and 0 <= self.ignore_label < x.shape[self.axis]
        need(not inside, f"{self.op_name}: the label to ignore, {self.ignore_label}, is a class")
        return position

    def reference(self, x: np.ndarray, label: np.ndarray) -> np.ndarray:
        index, valid = classes_of(label, x.shape[self.axis], self.ignore_label)
        return np.asarray(np.where(valid, pick(x, index, self.axis), self.missing), x.dtype)

    def gradient(self, dy: Value, y: Value, x: Value, label: Value) -> tuple[Value, None]:
        here = OneHot(self.axis, x.shape[self.axis], x.type.dtype)(label)
        return here * Broadcast(x.shape, (self.axis,))(dy), None

    def kernel(self, k: Writer, x: Array, label: Array, y: Array) -> None:
        at = k.each(*y.shape)
        own, ignored = class_of(k, label[*at], x.shape[self.axis], self.ignore_label)
        found = x[along(at, self.axis, own)]
        y[*at] = found if ignored is None else k.select(ignored, self.missing, found)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(3, 5), classes(5, 3))
        yield Example(cls(axis=2, ignore_label=-1, missing=1.0), normal(2, 3, 4), classes(4, 2, 3))


@operator
class NegativeLog(Map):
    """-log x. The derivative is -1 / max(x, floor), finite where the value is not."""

    floor: float

    def scalar(self, k: Writer, x: Expr) -> Expr:
        return -k.log(x)

    def derivative(self, k: Writer, wrt: int, y: Expr, *x: Expr) -> Expr:
        return -1.0 / k.maximum(x[0], self.floor)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(1e-8), positive(2, 3))


@operator
class Hinge(Map):
    """max(0, 1 - x); the derivative at x = 1 is 0."""

    def scalar(self, k: Writer, x: Expr) -> Expr:
        return k.maximum(1.0 - x, 0.0)

    def derivative(self, k: Writer, wrt: int, y: Expr, *x: Expr) -> Expr:
        return k.select(x[0] < 1.0, k.number(-1.0, y.dtype), 0.0)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(2, 3))


def _best_other(k: Writer, x: Array, at: list[Expr], own: Expr, axis: int) -> tuple[Expr, Expr]:
    """The largest score that is not the label's, and its class (the first of equals)."""
    c = k.axis(x.shape[axis])
    other = ~k.equal(c, own)
    return k.argmax(c, x[along(at, axis, c)], c, where=other)


@operator
class StructuredHinge(Op):
    """max(0, 1 - x[label] + largest other score), at each position; 0 if ignored.

    Crammer, Singer, "On the algorithmic implementation of multiclass kernel-based vector machines",
    JMLR 2001. The derivative at the kink is 0; of equal rivals the first gets it.
    """

    axis: int = 1
    ignore_label: int | None = None

    def infer(self, x: TensorType, label: TensorType) -> TensorType:
        position = need_labels(x, label, self.axis)
        need(x.shape[self.axis] > 1, f"a margin needs at least two classes, {x} has one")
        return position

    def reference(self, x: np.ndarray, label: np.ndarray) -> np.ndarray:
        margin, _, valid = _margin(self, x, label)
        return np.asarray(np.where(valid, np.maximum(margin, 0), 0), x.dtype)

    def gradient(self, dy: Value, y: Value, x: Value, label: Value) -> tuple[Value, None]:
        return StructuredHingeGradient(self.axis, self.ignore_label)(x, label, dy), None

    def kernel(self, k: Writer, x: Array, label: Array, y: Array) -> None:
        at = k.each(*y.shape)
        own, ignored = class_of(k, label[*at], x.shape[self.axis], self.ignore_label)
        best, _ = _best_other(k, x, list(at), own, self.axis)
        margin = (best + 1.0) - x[along(at, self.axis, own)]
        y[*at] = unless(k, ignored, k.maximum(margin, 0.0))

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), distinct(3, 5), classes(5, 3))
        yield Example(cls(axis=2, ignore_label=1), distinct(2, 3, 4), classes(4, 2, 3))


@operator
class StructuredHingeGradient(LossGradient):
    """Where the margin is broken: -dy at the label, dy at the best other class."""

    axis: int = 1
    ignore_label: int | None = None

    def reference(self, x: np.ndarray, label: np.ndarray, dy: np.ndarray) -> np.ndarray:
        margin, rival, valid = _margin(self, x, label)
        index, _ = classes_of(label, x.shape[self.axis], self.ignore_label)
        slope = np.expand_dims(np.where(valid & (margin > 0), dy, 0), self.axis)
        sides = one_hot(x, rival, self.axis) - one_hot(x, index, self.axis)
        return np.asarray(sides * slope, x.dtype)

    def kernel(self, k: Writer, x: Array, label: Array, dy: Array, dx: Array) -> None:
        at = k.each(*dy.shape)
        own, ignored = class_of(k, label[*at], x.shape[self.axis], self.ignore_label)
        best, rival = _best_other(k, x, list(at), own, self.axis)
        broken = x[along(at, self.axis, own)] < best + 1.0
        slope = k.let(unless(k, ignored, k.select(broken, dy[*at], 0.0)))
        c = k.axis(x.shape[self.axis])
        at_rival = k.select(k.equal(c, rival), slope, 0.0)
        dx[along(at, self.axis, c)] = k.select(k.equal(c, own), -slope, at_rival)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), distinct(3, 5), classes(5, 3), normal(3))
        yield Example(
            cls(axis=2, ignore_label=1), distinct(2, 3, 4), classes(4, 2, 3), normal(2, 3)
        )


def _margin(
    op: StructuredHinge | StructuredHingeGradient, x: np.ndarray, label: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(1 - x[label] + best other, the best other's class, which positions count)."""
    index, valid = classes_of(label, x.shape[op.axis], op.ignore_label)
    others = x.copy()
    np.put_along_axis(others, np.expand_dims(index, op.axis), -np.inf, op.axis)
    margin = others.max(op.axis) + 1 - pick(x, index, op.axis)
    return margin, others.argmax(op.axis), valid


@operator
class TopError(Op):
    """0 where the label is among the `top` classes of the largest scores, else 1; 0 if ignored.

    Of equal scores the first class counts as larger, as in MatConvNet (Caffe's rule is `correct`).
    """

    axis: int = 1
    top: int = 1
    ignore_label: int | None = None

    gradient_stops = True

    def infer(self, x: TensorType, label: TensorType) -> TensorType:
        position = need_labels(x, label, self.axis)
        extent = x.shape[self.axis]
        need(
            1 <= self.top <= extent,
            f"the best {self.top} are asked for, but there are {extent} classes",
        )
        return position

    def reference(self, x: np.ndarray, label: np.ndarray) -> np.ndarray:
        index, valid = classes_of(label, x.shape[self.axis], self.ignore_label)
        ranked = np.argsort(-x, self.axis, kind="stable").take(np.arange(self.top), self.axis)
        found = (ranked == np.expand_dims(index, self.axis)).any(self.axis)
        return np.asarray(valid & ~found, x.dtype)

    def kernel(self, k: Writer, x: Array, label: Array, y: Array) -> None:
        at = k.each(*y.shape)
        c = k.axis(x.shape[self.axis])
        own, ignored = class_of(k, label[*at], x.shape[self.axis], self.ignore_label)
        mine = k.let(x[along(at, self.axis, own)])
        score = x[along(at, self.axis, c)]
        before = (mine < score) | (k.equal(mine, score) & (c < own))
        one = k.number(1, x.dtype)
        rank = k.sum(c, k.select(before, one, 0.0))
        y[*at] = unless(k, ignored, k.select(rank < float(self.top), k.number(0, x.dtype), one))

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(8, 4), classes(4, 8))
        yield Example(cls(top=2, ignore_label=1), classes(3, 6, 4, 2), classes(4, 6, 2))
