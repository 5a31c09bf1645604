"""What a classifier's scores say: is it right, how often for each class, which are best."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graphc.error import need
from graphc.ir.op import Example, Op, classes, distinct, normal, operator
from graphc.ir.types import TensorType
from graphc.kernel.build import Array, Writer
from graphc.kernel.lang import INDEX
from graphc.ops.label import along, class_of, classes_of, need_axis, need_labels, unless, whole_of


@operator
class Correct(Op):
    """1 where fewer than `top_k` other classes score at least as much as the label's, else 0.

    One number per position; ties count against the label, as Caffe has it. 0 if ignored.
    """

    axis: int = 1
    top_k: int = 1
    ignore_label: int | None = None

    gradient_stops = True

    def infer(self, x: TensorType, label: TensorType) -> TensorType:
        position = need_labels(x, label, self.axis)
        need(
            1 <= self.top_k <= x.shape[self.axis],
            f"top_k is {self.top_k}, but there are {x.shape[self.axis]} classes",
        )
        return position

    def reference(self, x: np.ndarray, label: np.ndarray) -> np.ndarray:
        index, valid = classes_of(label, x.shape[self.axis], self.ignore_label)
        own = np.take_along_axis(x, np.expand_dims(index, self.axis), self.axis)
        rivals = (x >= own).sum(self.axis) - 1
        return np.asarray((rivals < self.top_k) & valid, x.dtype)

    def kernel(self, k: Writer, x: Array, label: Array, y: Array) -> None:
        at = k.each(*y.shape)
        c = k.axis(x.shape[self.axis])
        own, ignored = class_of(k, label[*at], x.shape[self.axis], self.ignore_label)
        mine = k.let(x[along(at, self.axis, own)])
        rival = (x[along(at, self.axis, c)] >= mine) & ~k.equal(c, own)
        rivals = k.sum(c, k.select(rival, k.number(1, x.dtype), 0.0))
        right = k.select(rivals < self.top_k, k.number(1, x.dtype), 0.0)
        y[*at] = unless(k, ignored, right)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(8, 4), classes(4, 8))
        yield Example(cls(top_k=2, ignore_label=1), distinct(3, 4, 2), classes(4, 3, 2))
        yield Example(cls(axis=2, top_k=3), normal(2, 3, 5), classes(5, 2, 3))


@operator
class ClassAccuracy(Op):
    """For each of `count` classes, the mean of `correct` over the positions with that label.

    0 for a class that does not occur. Labels out of range belong to no class.
    """

    count: int
    ignore_label: int | None = None

    gradient_stops = True

    def infer(self, correct: TensorType, label: TensorType) -> TensorType:
        need(
            correct.shape == label.shape,
            f"there must be one label for each position of {correct}, not {label}",
        )
        return correct.with_shape(self.count)

    def reference(self, correct: np.ndarray, label: np.ndarray) -> np.ndarray:
        whole = whole_of(label).ravel()
        means = np.zeros(self.count, correct.dtype)
        for c in range(self.count):
            hits = correct.ravel()[whole == c]
            if hits.size and c != self.ignore_label:
                means[c] = hits.mean()
        return means

    def kernel(self, k: Writer, correct: Array, label: Array, y: Array) -> None:
        (c,) = k.each(self.count)
        at = k.axes(*label.shape)
        mine = k.equal(k.cast(label[*at], INDEX), c)
        hits = k.sum(at, k.select(mine, correct[*at], 0.0))
        total = k.sum(at, k.select(mine, k.number(1, y.dtype), 0.0))
        ignored = None if self.ignore_label is None else k.equal(c, self.ignore_label)
        y[c] = unless(k, ignored, hits / k.maximum(total, 1.0))

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(count=5), classes(2, 12), classes(4, 12))
        yield Example(cls(count=3, ignore_label=1), classes(2, 4, 3), classes(3, 4, 3))


@operator
class ArgMax(Op):
    """The `top_k` largest along `axis`, largest first: their indices (as reals) and values.

    Of equal values the one with the higher index comes first, as in Caffe.
    """

    axis: int = 1
    top_k: int = 1

    gradient_stops = True
    output_count = 2

    def infer(self, x: TensorType) -> tuple[TensorType, TensorType]:
        need_axis(x, self.axis)
        extent = x.shape[self.axis]
        need(1 <= self.top_k <= extent, f"top_k is {self.top_k}, but there are {extent} classes")
        y = x.with_shape(*x.shape[: self.axis], self.top_k, *x.shape[self.axis + 1 :])
        return y, y

    def reference(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        backwards = np.flip(x, self.axis)
        order = np.argsort(-backwards, self.axis, kind="stable").take(
            np.arange(self.top_k), self.axis
        )
        index = x.shape[self.axis] - 1 - order
        return index.astype(x.dtype), np.take_along_axis(x, index, self.axis)

    def kernel(self, k: Writer, x: Array, index: Array, value: Array) -> None:
        at = k.each(*x.shape[: self.axis], *x.shape[self.axis + 1 :])
        extent = x.shape[self.axis]
        best, found = k.number(0, x.dtype), k.number(0, INDEX)
        for rank in range(self.top_k):
            step = k.axis(extent)
            c = extent - 1 - step  # from the end: the fold keeps the first of equals
            score = x[along(at, self.axis, c)]
            after = (score < best) | (k.equal(score, best) & (c < found))
            best, found = k.argmax(step, score, c, where=after if rank else None)
            index[along(at, self.axis, k.number(rank, INDEX))] = k.cast(found, x.dtype)
            value[along(at, self.axis, k.number(rank, INDEX))] = best

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), distinct(3, 6))
        yield Example(cls(axis=0, top_k=3), distinct(4, 2))
        yield Example(cls(axis=1, top_k=2), classes(3, 4, 6, 2))
