"""Operators that only move elements: joining and cutting along an axis, windows of an array."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar

import numpy as np

from graphc.error import need
from graphc.ir.core.fill import Fill
from graphc.ir.graph import Value
from graphc.ir.op import Example, Op, normal, operator
from graphc.ir.types import TensorType
from graphc.kernel.build import Array, Writer
from graphc.kernel.lang import Expr
from graphc.ops.label import along, need_axis


@operator
class Concat(Op):
    """The inputs one after the other along `axis`; their other extents are equal."""

    is_concat: ClassVar[bool] = True

    axis: int = 1

    def infer(self, *xs: TensorType) -> TensorType:
        first = xs[0]
        need_axis(first, self.axis)
        for x in xs[1:]:
            need(
                x.rank == first.rank and x.dropping(self.axis) == first.dropping(self.axis),
                f"cannot join {first} and {x} along axis {self.axis}: another extent differs",
            )
        total = sum(x.shape[self.axis] for x in xs)
        return first.with_shape(*first.shape[: self.axis], total, *first.shape[self.axis + 1 :])

    def reference(self, *xs: np.ndarray) -> np.ndarray:
        return np.concatenate(xs, self.axis)

    def gradient(self, dy: Value, y: Value, *xs: Value) -> tuple[Value, ...]:
        extents = [x.shape[self.axis] for x in xs]
        if len(extents) == 1:
            return (dy,)
        points = tuple(sum(extents[:count]) for count in range(1, len(extents)))
        parts: tuple[Value, ...] = Slice(self.axis, points)(dy)
        return parts

    def kernel(self, k: Writer, *arrays: Array) -> None:
        *xs, y = arrays
        at = k.each(*y.shape[: self.axis], *y.shape[self.axis + 1 :])
        start = 0
        for x in xs:
            c = k.axis(x.shape[self.axis])
            y[along(at, self.axis, start + c)] = x[along(at, self.axis, c)]
            start += x.shape[self.axis]

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(2, 3, 2, 4), normal(2, 1, 2, 4), normal(2, 5, 2, 4))
        yield Example(cls(axis=0), normal(2, 3), normal(4, 3))
        yield Example(cls(axis=2), normal(2, 3, 4), normal(2, 3, 1))


@operator
class Slice(Op):
    """`x` cut along `axis` before each of the rising `points`: one output more than points."""

    is_slice: ClassVar[bool] = True

    axis: int
    points: tuple[int, ...]

    @property
    def output_count(self) -> int:
        """How many parts there are."""
        return len(self.points) + 1

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:
        need_axis(x, self.axis)
        bounds = self._bounds(x.shape[self.axis])
        need(
            all(low <= high for low, high in pairwise(bounds)),
            f"slice points {list(self.points)} must rise and lie inside axis {self.axis} of {x}",
        )
        return tuple(
            x.with_shape(*x.shape[: self.axis], high - low, *x.shape[self.axis + 1 :])
            for low, high in pairwise(bounds)
        )

    def _bounds(self, extent: int) -> list[int]:
        return [0, *self.points, extent]

    def reference(self, x: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(np.split(x, self.points, self.axis))

    def gradient(
        self, dy: tuple[Value | None, ...], y: tuple[Value, ...], x: Value
    ) -> Value | None:
        if not isinstance(dy, tuple):  # no points: the one output is x itself
            return dy
        parts = []
        for arrived, part in zip(dy, y, strict=True):
            if arrived is None:
                (arrived,) = x.graph.apply(Fill(part.type.dtype, part.shape, 0.0))
            parts.append(arrived)
        joined: Value = Concat(self.axis)(*parts)
        return joined

    def kernel(self, k: Writer, x: Array, *parts: Array) -> None:
        at = k.each(*x.shape[: self.axis], *x.shape[self.axis + 1 :])
        starts = self._bounds(x.shape[self.axis])
        for start, part in zip(starts, parts, strict=False):
            c = k.axis(part.shape[self.axis])
            part[along(at, self.axis, c)] = x[along(at, self.axis, start + c)]

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(axis=1, points=(1, 4)), normal(2, 6, 2, 3))
        yield Example(cls(axis=0, points=(2,)), normal(5, 3))
        yield Example(cls(axis=2, points=(5,)), normal(2, 3, 6))


def _need_window(whole: tuple[int, ...], offsets: tuple[int, ...], window: tuple[int, ...]) -> None:
    fits = len(whole) == len(offsets) == len(window) and all(
        offset >= 0 and offset + extent <= available
        for available, offset, extent in zip(whole, offsets, window, strict=True)
    )
    need(
        fits,
        f"a window of shape {list(window)} at {list(offsets)} does not lie inside {list(whole)}",
    )


def _window(offsets: tuple[int, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(o, o + e) for o, e in zip(offsets, shape, strict=True))


@operator
class Crop(Op):
    """The part of x of the given shape that begins at `offsets`, one for each axis."""

    offsets: tuple[int, ...]
    shape: tuple[int, ...]

    def infer(self, x: TensorType) -> TensorType:
        _need_window(x.shape, self.offsets, self.shape)
        return x.with_shape(*self.shape)

    def reference(self, x: np.ndarray) -> np.ndarray:
        return x[_window(self.offsets, self.shape)].copy()

    def gradient(self, dy: Value, y: Value, x: Value) -> Value:
        padded: Value = Embed(self.offsets, x.shape)(dy)
        return padded

    def kernel(self, k: Writer, x: Array, y: Array) -> None:
        at = k.each(*y.shape)
        y[*at] = x[*(offset + i for offset, i in zip(self.offsets, at, strict=True))]

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls((0, 1, 2), (2, 2, 3)), normal(2, 4, 5))
        yield Example(cls((0, 0, 0, 0), (2, 3, 4, 5)), normal(2, 3, 4, 5))


@operator
class Embed(Op):
    """Zeros of the given shape with x placed at `offsets`: what Crop's gradient is."""

    offsets: tuple[int, ...]
    shape: tuple[int, ...]

    def infer(self, x: TensorType) -> TensorType:
        _need_window(self.shape, self.offsets, x.shape)
        return x.with_shape(*self.shape)

    def reference(self, x: np.ndarray) -> np.ndarray:
        whole = np.zeros(self.shape, x.dtype)
        whole[_window(self.offsets, x.shape)] = x
        return whole

    def gradient(self, dy: Value, y: Value, x: Value) -> Value:
        part: Value = Crop(self.offsets, x.shape)(dy)
        return part

    def kernel(self, k: Writer, x: Array, y: Array) -> None:
        at = k.each(*y.shape)
        places = [i - offset for offset, i in zip(self.offsets, at, strict=True)]
        inside: Expr | None = None
        for place, extent, whole in zip(places, x.shape, y.shape, strict=True):
            if extent < whole:
                here = k.within(place, extent)
                inside = here if inside is None else inside & here
        if inside is not None:
            k.store(y, tuple(at), 0.0, where=~inside)
        k.store(y, tuple(at), x[*places], where=inside)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls((0, 1, 2), (2, 4, 6)), normal(2, 2, 3))
        yield Example(cls((0, 0), (2, 3)), normal(2, 3))
