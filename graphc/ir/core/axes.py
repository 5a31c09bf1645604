"""Core operators on whole axes: permuted, summed, repeated."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from graphc.error import need
from graphc.ir.core.view import View
from graphc.ir.graph import Value
from graphc.ir.op import Example, Op, away_from_zero, normal, operator
from graphc.ir.types import TensorType


@operator
class Transpose(Op):
    """y's axis i is x's axis permutation[i], as numpy.transpose has it."""

    permutation: tuple[int, ...]

    def infer(self, x: TensorType) -> TensorType:
        need(
            sorted(self.permutation) == list(range(x.rank)),
            f"transpose: {list(self.permutation)} is no permutation of the axes of {x}",
        )
        return x.with_shape(*(x.shape[axis] for axis in self.permutation))

    def reference(self, x: np.ndarray) -> Any:
        return x.transpose(self.permutation)

    def gradient(self, dy: Value, y: Value, x: Value) -> Any:
        inverse = sorted(range(len(self.permutation)), key=self.permutation.__getitem__)
        return Transpose(tuple(inverse))(dy)

    def kernel(self, k: Any, x: Any, y: Any) -> None:
        i = k.each(*y.shape)
        where = dict(zip(self.permutation, i, strict=True))
        y[*i] = x[*(where[axis] for axis in range(x.rank))]

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls((0, 2, 3, 1)), normal(2, 3, 4, 5))
        yield Example(cls((2, 0, 1)), normal(2, 3, 4))


def _check_axes(name: str, axes: tuple[int, ...], rank: int, shown: object) -> None:
    fine = len(set(axes)) == len(axes) and all(0 <= axis < rank for axis in axes)
    need(fine, f"{name}: {list(axes)} are not distinct axes of {shown}")


def _without(items: Any, axes: tuple[int, ...]) -> tuple[Any, ...]:
    return tuple(item for axis, item in enumerate(items) if axis not in axes)


def _sum_kernel(k: Any, x: Any, y: Any, axes: tuple[int, ...], keep: bool, factor: float) -> None:
    kept = iter(k.each(*_without(x.shape, axes)))
    folded = [axis for axis in range(x.rank) if axis in axes]
    over = dict(zip(folded, k.axes(*(x.shape[axis] for axis in folded)), strict=True))
    index = [over[axis] if axis in over else next(kept) for axis in range(x.rank)]
    total = k.sum(list(over.values()), x[*index]) if over else x[*index]
    place = [0 if axis in over else i for axis, i in enumerate(index) if keep or axis not in over]
    y[*place] = total if factor == 1.0 else total * factor


@operator
class Sum(Op):
    """Sum over `axes`, which go, or stay with extent 1 where `keep` is set."""

    axes: tuple[int, ...]
    keep: bool = False

    def infer(self, x: TensorType) -> TensorType:
        _check_axes("sum", self.axes, x.rank, x)
        if self.keep:
            return x.with_shape(*(1 if a in self.axes else e for a, e in enumerate(x.shape)))
        return x.with_shape(*_without(x.shape, self.axes))

    def reference(self, x: np.ndarray) -> Any:
        return np.asarray(x.sum(self.axes, keepdims=self.keep, dtype=x.dtype))

    def gradient(self, dy: Value, y: Value, x: Value) -> Any:
        flat = View(_without(x.shape, self.axes))(dy) if self.keep else dy
        return Broadcast(x.shape, self.axes)(flat)

    def kernel(self, k: Any, x: Any, y: Any) -> None:
        _sum_kernel(k, x, y, self.axes, keep=self.keep, factor=1.0)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls((0, 2, 3)), normal(2, 3, 4, 5))
        yield Example(cls((1,), keep=True), normal(2, 3, 4, 5))
        yield Example(cls((0, 1)), normal(3, 4))


@operator
class Mean(Op):
    """Mean over `axes`, which go."""

    axes: tuple[int, ...]

    def infer(self, x: TensorType) -> TensorType:
        _check_axes("mean", self.axes, x.rank, x)
        need(self._count(x.shape), f"mean: {x} has no elements along {list(self.axes)}")
        return x.with_shape(*_without(x.shape, self.axes))

    def _count(self, shape: tuple[int, ...]) -> int:
        return math.prod(shape[axis] for axis in self.axes)

    def reference(self, x: np.ndarray) -> Any:
        return np.asarray(x.mean(self.axes, dtype=x.dtype))

    def gradient(self, dy: Value, y: Value, x: Value) -> Any:
        return Broadcast(x.shape, self.axes)(dy * (1.0 / self._count(x.shape)))

    def kernel(self, k: Any, x: Any, y: Any) -> None:
        _sum_kernel(k, x, y, self.axes, keep=False, factor=1.0 / self._count(x.shape))

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls((2, 3)), normal(2, 3, 4, 5))
        yield Example(cls((0,)), normal(6))


@operator
class Broadcast(Op):
    """x repeated along `axes` of `shape`; x's axes are the others, in order."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]

    def infer(self, x: TensorType) -> TensorType:
        _check_axes("broadcast", self.axes, len(self.shape), list(self.shape))
        expected = _without(self.shape, self.axes)
        need(
            x.shape == expected,
            f"broadcast: {x} is not {list(expected)}, which {list(self.shape)} is"
            f" without axes {list(self.axes)}",
        )
        return x.with_shape(*self.shape)

    def reference(self, x: np.ndarray) -> Any:
        return np.broadcast_to(np.expand_dims(x, self.axes), self.shape).copy()

    def gradient(self, dy: Value, y: Value, x: Value) -> Any:
        return Sum(self.axes)(dy)

    def kernel(self, k: Any, x: Any, y: Any) -> None:
        i = k.each(*self.shape)
        y[*i] = x[*_without(i, self.axes)]

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls((2, 3, 4, 5), (0, 2, 3)), normal(3))
        yield Example(cls((2, 3, 4, 5), (1,)), away_from_zero(2, 4, 5))
        yield Example(cls((2, 3), (0, 1)), normal())
