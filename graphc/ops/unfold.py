"""The windows of a convolution laid out as channels (im2col), and adding them back."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from math import prod

import numpy as np

from graphc.error import need
from graphc.ir.graph import Value
from graphc.ir.op import Example, Op, normal, operator
from graphc.ir.types import TensorType
from graphc.kernel.build import Array, Writer
from graphc.kernel.lang import Expr
from graphc.ops import window

Extents = tuple[int, ...]


def _counts(op: Unfold | Fold, x: TensorType, extents: Extents) -> Extents:
    """Windows along each spatial axis. Raises NetError for options that do not fit."""
    need(x.rank >= 2 and x.is_real, f"{op.op_name}: {x} has no axes for images and channels")
    window.need_geometry(
        op.op_name,
        len(extents),
        kernel=op.size,
        strides=op.strides,
        pads=op.pads,
        dilations=op.dilations,
    )
    counts = tuple(map(window.positions, extents, op.size, op.strides, op.pads, op.dilations))
    need(
        all(count >= 1 for count in counts),
        f"{op.op_name}: windows of {list(op.size)} do not fit into an image of {list(extents)}",
    )
    return counts


@operator
class Unfold(Op):
    """x [N, C, *S] -> [N, C * product(size), *T]: channel (c, tap) holds what tap sees of c.

    Zeros stand for what lies outside the image. Caffe's Im2col.
    """

    size: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    dilations: tuple[int, ...]

    def infer(self, x: TensorType) -> TensorType:
        counts = _counts(self, x, x.shape[2:])
        return x.with_shape(x.shape[0], x.shape[1] * prod(self.size), *counts)

    def reference(self, x: np.ndarray) -> np.ndarray:
        counts = _counts(self, TensorType(str(x.dtype), x.shape), x.shape[2:])
        spans = tuple(map(window.reach, self.size, self.dilations))
        image = window.padded(x, 0.0, counts, spans, self.strides, self.pads)
        taps = [
            window.scattered(image, tap, counts, self.strides, self.dilations)
            for tap in itertools.product(*map(range, self.size))
        ]
        return np.stack(taps, 2).reshape(x.shape[0], x.shape[1] * len(taps), *counts)

    def gradient(self, dy: Value, y: Value, x: Value) -> Value:
        gradient: Value = Fold(x.shape[2:], self.size, self.strides, self.pads, self.dilations)(dy)
        return gradient

    def kernel(self, k: Writer, x: Array, y: Array) -> None:
        n, c, *t = k.each(x.shape[0], x.shape[1], *y.shape[2:])
        j = k.axes(*self.size)
        place, inside = window.image_index(
            k,
            t,
            j,
            extents=x.shape[2:],
            counts=y.shape[2:],
            kernel=self.size,
            strides=self.strides,
            pads=self.pads,
            dilations=self.dilations,
        )
        channel: Expr = c
        for tap, extent in zip(j, self.size, strict=True):
            channel = channel * extent + tap
        if inside is not None:
            k.store(y, (n, channel, *t), 0.0, where=~inside)
        k.store(y, (n, channel, *t), x[(n, c, *place)], where=inside)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        for geometry, x in _GEOMETRIES:
            yield Example(cls(*geometry), normal(*x))


@operator
class Fold(Op):
    """y [N, C * product(size), *T] -> [N, C, *extents]: every tap added where it was seen."""

    extents: tuple[int, ...]
    size: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    dilations: tuple[int, ...]

    def infer(self, y: TensorType) -> TensorType:
        counts = _counts(self, y, self.extents)
        need(
            y.shape[2:] == counts and y.shape[1] % prod(self.size) == 0,
            f"{self.op_name}: {y} does not hold windows of {list(self.size)}",
        )
        return y.with_shape(y.shape[0], y.shape[1] // prod(self.size), *self.extents)

    def reference(self, y: np.ndarray) -> np.ndarray:
        counts = y.shape[2:]
        taps = y.reshape(y.shape[0], -1, prod(self.size), *counts)
        empty = np.zeros((*taps.shape[:2], *self.extents), y.dtype)
        spans = tuple(map(window.reach, self.size, self.dilations))
        image = window.padded(empty, 0.0, counts, spans, self.strides, self.pads)
        for position, tap in enumerate(itertools.product(*map(range, self.size))):
            met = window.scattered(image, tap, counts, self.strides, self.dilations)
            met += taps[:, :, position]
        return np.ascontiguousarray(window.cropped(image, self.extents, self.pads))

    def gradient(self, dy: Value, y: Value, given: Value) -> Value:
        gradient: Value = Unfold(self.size, self.strides, self.pads, self.dilations)(dy)
        return gradient

    def kernel(self, k: Writer, y: Array, x: Array) -> None:
        n, c, *i = k.each(*x.shape)
        j = k.axes(*self.size)
        channel: Expr = c
        guard: Expr | None = None
        position: list[Expr] = []
        for axis, place in enumerate(i):
            channel = channel * self.size[axis] + j[axis]
            distance = place + self.pads[axis][0] - j[axis] * self.dilations[axis]
            if self.strides[axis] > 1:
                guard = window.both(guard, k.equal(distance % self.strides[axis], 0))
            position.append(distance // self.strides[axis])
            guard = window.both(guard, k.within(position[-1], y.shape[2 + axis]))
        x[(n, c, *i)] = k.sum(j, y[(n, channel, *position)], guard)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        for geometry, x in _GEOMETRIES:
            y = Unfold(*geometry).infer(TensorType("float64", x))
            yield Example(cls(x[2:], *geometry), normal(*y.shape))


# (size, strides, pads, dilations), shape of x.
_GEOMETRIES = (
    (((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)), (2, 2, 4, 5)),
    (((2, 3), (1, 2), ((0, 0), (2, 1)), (2, 1)), (1, 3, 5, 4)),
    (((2,), (1,), ((0, 0),), (1,)), (2, 3, 6)),
)
