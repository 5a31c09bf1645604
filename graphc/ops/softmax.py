"""Softmax along one axis."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from graphc.error import need
from graphc.ir.graph import Value
from graphc.ir.op import Example, Op, normal, operator, probabilities
from graphc.ir.types import TensorType
from graphc.kernel.build import Array, Writer
from graphc.kernel.lang import Expr, Var
from graphc.ops.label import along, need_axis


def exponential_sum(k: Writer, score: Expr, c: Var) -> tuple[Expr, Expr]:
    """The largest score, and the sum of exp(x - top) less 1.

    Leaving the 1 of the largest score out keeps the digits of the others where it wins by far.
    """
    top = k.max(c, score)
    mass = k.exp(score - top)
    below = k.sum(c, k.select(mass < 1.0, mass, 0.0))
    ties = k.sum(c, k.select(mass < 1.0, k.number(0, score.dtype), 1.0))
    return top, k.let(below + (ties - 1.0))


@operator
class Softmax(Op):
    """exp(x) / sum(exp(x)) along `axis`, at each position of the other axes.

    The largest score is subtracted first, so no score is too large.
    """

    axis: int = 1

    once_only = True

    def infer(self, x: TensorType) -> TensorType:
        need_axis(x, self.axis)
        need(x.is_real, f"the scores must be real, not {x}")
        return x

    def reference(self, x: np.ndarray) -> np.ndarray:
        mass = np.exp(x - x.max(self.axis, keepdims=True))
        return np.asarray(mass / mass.sum(self.axis, keepdims=True))

    def viewed(self, old: tuple[int, ...], new: tuple[int, ...]) -> Softmax | None:
        before, classes = math.prod(old[: self.axis]), old[self.axis]
        for axis, extent in enumerate(new):
            if extent == classes and math.prod(new[:axis]) == before:
                return Softmax(axis)
        return None

    def gradient(self, dy: Value, y: Value, x: Value) -> Value:
        dx: Value = SoftmaxGradient(self.axis)(y, dy)
        return dx

    def kernel(self, k: Writer, x: Array, y: Array) -> None:
        others = x.shape[: self.axis] + x.shape[self.axis + 1 :]
        at = k.each(*others)
        c = k.axis(x.shape[self.axis])
        score = x[along(at, self.axis, c)]
        top = k.max(c, score)
        mass = k.sum(c, k.exp(score - top))
        y[along(at, self.axis, c)] = k.exp(score - top) / mass

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(3, 5))
        yield Example(cls(), normal(2, 4, 3, 3))
        yield Example(cls(axis=0), normal(7))
        yield Example(cls(axis=2), normal(2, 3, 17))
        yield Example(cls(), normal(2, 3, scale=100.0))


@operator
class SoftmaxGradient(Op):
    """Gradient of the scores from the probabilities y and their gradient: y (dy - sum(y dy))."""

    axis: int = 1

    gradient_stops = True

    def infer(self, y: TensorType, dy: TensorType) -> TensorType:
        need_axis(y, self.axis)
        need(y == dy, f"a gradient {dy} does not fit a softmax of {y}")
        return y

    def reference(self, y: np.ndarray, dy: np.ndarray) -> np.ndarray:
        return np.asarray(y * (dy - (y * dy).sum(self.axis, keepdims=True)))

    def kernel(self, k: Writer, y: Array, dy: Array, dx: Array) -> None:
        others = y.shape[: self.axis] + y.shape[self.axis + 1 :]
        at = k.each(*others)
        c = k.axis(y.shape[self.axis])
        here = along(at, self.axis, c)
        mean = k.sum(c, y[here] * dy[here])
        dx[here] = y[here] * (dy[here] - mean)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), probabilities(3, 5), normal(3, 5))
        yield Example(cls(axis=2), probabilities(2, 3, 4, 2, axis=2), normal(2, 3, 4, 2))
