"""The softmax log loss in blocks of classes: what one block adds, and what all blocks make.

With z the label's score, `top` the largest score and e(c) = exp(x(c) - top), a position's loss
needs three numbers (see graphc.ops.loss): `top`, `rest`, the sum of e without the label, and e of
the label, `mine`. A block of classes gives its own top and rest, and the label's score if the label
is in it. Whoever has those of all blocks scales each rest to the largest top:

    rest = sum over blocks of rest(block) exp(top(block) - top).

So the scores are needed a block at a time, forward and, computed again, backward.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from graphc.error import need
from graphc.ir.op import Example, Op, classes, normal, operator, positive
from graphc.ir.types import TensorType
from graphc.kernel.build import Array, Writer
from graphc.kernel.lang import INDEX
from graphc.ops.label import class_of, classes_of, unless, whole_of
from graphc.ops.loss import SCORE_FLOOR, at_most


def _is_own(x: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Where in scores [rows, classes of the block] the label's own is."""
    return np.asarray(place[:, None] == np.arange(x.shape[1]))


def _need_block(x: TensorType, *rows: TensorType) -> None:
    need(x.rank == 2 and x.is_real, f"a block of scores is a real matrix, not {x}")
    for other in rows:
        need(other.shape == x.shape[:1], f"{other} must hold one number a row of {x}")


@operator
class BlockPlaces(Op):
    """Where each label [N] lies in each of `count` blocks of `size` classes: int64 [count, N].

    It is the label less the block's first class, and no place of the block where that is outside:
    so the blocks differ in data alone, and share their kernels.
    """

    size: int
    count: int

    gradient_stops = True

    def infer(self, label: TensorType) -> TensorType:
        need(label.rank == 1, f"labels of rows have one axis, not {label}")
        return TensorType(INDEX, (self.count, *label.shape))

    def reference(self, label: np.ndarray) -> np.ndarray:
        return np.asarray(whole_of(label) - self.size * np.arange(self.count)[:, None])

    def kernel(self, k: Writer, label: Array, y: Array) -> None:
        p, n = k.each(*y.shape)
        y[p, n] = k.cast(label[n], INDEX) - p * self.size

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(4, 3), classes(11, 5))


@operator
class BlockMass(Op):
    """Largest score, sum of exp(x - largest) without the label, and the label's score, 0 elsewhere.

    x [N, classes of the block]; place [N] from BlockPlaces. All three are [1, N], so that those of
    several blocks stack. The largest is never -inf: a block of masked scores adds 0.
    """

    gradient_stops = True

    def infer(self, x: TensorType, place: TensorType) -> tuple[TensorType, ...]:
        _need_block(x, place)
        return (x.with_shape(1, x.shape[0]),) * 3

    def reference(self, x: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, ...]:
        top = np.maximum(x.max(1), np.finfo(x.dtype).min)
        own = _is_own(x, place)
        rest = np.where(own, 0, np.exp(x - top[:, None])).sum(1, dtype=x.dtype)
        return top[None], rest[None], np.where(own, x, 0).sum(1, dtype=x.dtype)[None]

    def kernel(
        self, k: Writer, x: Array, place: Array, tops: Array, rests: Array, owns: Array
    ) -> None:
        (n,) = k.each(x.shape[0])
        c = k.axis(x.shape[1])
        own = k.equal(c, k.let(k.cast(place[n], INDEX)))
        lowest = k.number(float(np.finfo(x.dtype).min), x.dtype)
        top = k.let(k.maximum(k.max(c, x[n, c]), lowest))
        tops[0, n] = top
        rests[0, n] = k.sum(c, k.select(own, 0.0, k.exp(x[n, c] - top)))
        owns[0, n] = k.sum(c, k.select(own, x[n, c], 0.0))

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(3, 5), classes(5, 3))
        yield Example(cls(), normal(6, 40, scale=100.0), classes(80, 6))


@operator
class MassLogLoss(Op):
    """-log softmax(x)[label] of rows from what their P blocks gave; and top, rest and mine.

    tops, rests, owns [P, N]: BlockMass of each block, of `count` classes together. label [N]. All
    four results are [N]. `floor` and `ignore_label` as SoftmaxLogLoss has them.
    """

    count: int
    floor: float = SCORE_FLOOR
    ignore_label: int | None = None

    gradient_stops = True

    def infer(
        self, tops: TensorType, rests: TensorType, owns: TensorType, label: TensorType
    ) -> tuple[TensorType, ...]:
        need(
            tops == rests == owns and tops.rank == 2 and tops.shape[1:] == label.shape,
            f"{tops}, {rests} and {owns} must hold one number a block and label of {label}",
        )
        return (tops.with_shape(tops.shape[1]),) * 4

    def reference(
        self, tops: np.ndarray, rests: np.ndarray, owns: np.ndarray, label: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        _, valid = classes_of(label, self.count, self.ignore_label)
        top = tops.max(0)
        rest = (rests * np.exp(tops - top)).sum(0, dtype=tops.dtype)
        own = owns.sum(0, dtype=tops.dtype)
        mine = np.exp(own - top)
        loss = (top - own) + np.log1p(rest + (mine - 1))
        if self.floor > 0:
            loss = np.minimum(loss, -math.log(self.floor))
        return np.asarray(np.where(valid, loss, 0), tops.dtype), top, rest, mine

    def kernel(
        self, k: Writer, tops: Array, rests: Array, owns: Array, label: Array, *made: Array
    ) -> None:
        (n,) = k.each(tops.shape[1])
        p = k.axis(tops.shape[0])
        _, ignored = class_of(k, label[n], self.count, self.ignore_label)
        top = k.max(p, tops[p, n])
        rest = k.sum(p, rests[p, n] * k.exp(tops[p, n] - top))
        own = k.sum(p, owns[p, n])
        mine = k.let(k.exp(own - top))
        # mine - 1 is exactly 0 where the label has the largest score: log1p then keeps a tiny rest.
        loss = (top - own) + k.log1p(rest + (mine - 1.0))
        if self.floor > 0:
            loss = at_most(k, loss, -math.log(self.floor))
        for array, value in zip(made, (unless(k, ignored, loss), top, rest, mine), strict=True):
            array[n] = value

    @classmethod
    def examples(cls) -> Iterator[Example]:
        parts = normal(3, 5), positive(3, 5), normal(3, 5, scale=0.01)
        yield Example(cls(7), *parts, classes(7, 5))
        yield Example(cls(7, 0.0, 2), *parts, classes(7, 5))


@operator
class MassSlope(Op):
    """What each row's e is multiplied with in the gradient: dy / (rest + mine); 0 if ignored.

    label, rest, mine, dy [N], rest and mine as MassLogLoss makes them.
    """

    ignore_label: int | None = None

    gradient_stops = True

    def infer(
        self, label: TensorType, rest: TensorType, mine: TensorType, dy: TensorType
    ) -> TensorType:
        fits = rest == mine == dy and rest.rank == 1 and label.shape == rest.shape
        need(fits, f"{label}, {rest}, {mine} and {dy} must hold one number a row")
        return dy

    def reference(
        self, label: np.ndarray, rest: np.ndarray, mine: np.ndarray, dy: np.ndarray
    ) -> np.ndarray:
        counts = True if self.ignore_label is None else whole_of(label) != self.ignore_label
        return np.asarray(np.where(counts, dy / (rest + mine), 0), dy.dtype)

    def kernel(
        self, k: Writer, label: Array, rest: Array, mine: Array, dy: Array, y: Array
    ) -> None:
        (n,) = k.each(*y.shape)
        ignored = None
        if self.ignore_label is not None:
            ignored = k.equal(k.cast(label[n], INDEX), self.ignore_label)
        y[n] = unless(k, ignored, dy[n] / (rest[n] + mine[n]))

    @classmethod
    def examples(cls) -> Iterator[Example]:
        rows = positive(5), positive(5), normal(5)
        yield Example(cls(), classes(3, 5), *rows)
        yield Example(cls(2), classes(3, 5), *rows)


@operator
class BlockLogLossGradient(Op):
    """Gradient of one block's scores: slope e, and -slope rest at the label.

    x [N, classes of the block] and place [N] as BlockMass had them; top, rest [N] from MassLogLoss,
    slope [N] from MassSlope.
    """

    gradient_stops = True

    def infer(
        self, x: TensorType, place: TensorType, top: TensorType, rest: TensorType, slope: TensorType
    ) -> TensorType:
        _need_block(x, place, top, rest, slope)
        return x

    def reference(
        self, x: np.ndarray, place: np.ndarray, top: np.ndarray, rest: np.ndarray, slope: np.ndarray
    ) -> np.ndarray:
        own = _is_own(x, place)
        mass = np.exp(np.where(own, 0, x - top[:, None]))
        return np.asarray(slope[:, None] * np.where(own, -rest[:, None], mass), x.dtype)

    def kernel(
        self, k: Writer, x: Array, place: Array, top: Array, rest: Array, slope: Array, dx: Array
    ) -> None:
        (n,) = k.each(x.shape[0])
        c = k.axis(x.shape[1])
        own = k.equal(c, k.let(k.cast(place[n], INDEX)))
        dx[n, c] = slope[n] * k.select(own, -rest[n], k.exp(x[n, c] - top[n]))

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(3, 5), classes(9, 3), normal(3), positive(3), normal(3))
