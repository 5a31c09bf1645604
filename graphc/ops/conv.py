"""Convolution over any number of spatial axes, and its two gradients.

The three are closed under differentiation: each is linear in both inputs, and the gradients of any
of them are the other two. A deconvolution layer is `ConvDataGradient` used forward.

Shapes: data x [N, C, *S], weights w [O, C / groups, *K], result y [N, O, *T]. Group g connects the
channels g * C / groups ... of x with g * O / groups ... of y. Along each spatial axis

    y[n, o, t] = sum over c, j of x[n, c, t * stride + j * dilation - before] * w[o, c, j]

with zeros outside x (a cross-correlation, as in Caffe and MatConvNet).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from graphc.error import need
from graphc.ir.graph import Value
from graphc.ir.op import Example, Op, normal, operator
from graphc.ir.types import TensorType
from graphc.kernel.build import Array, Writer
from graphc.kernel.lang import Expr
from graphc.ops import window
from graphc.ops.window import Pads

Extents = tuple[int, ...]


@operator
class Conv(Op):
    """Data [N, C, *S] and weights [O, C / groups, *K] -> [N, O, *T].

    One stride, one (before, after) padding and one dilation per spatial axis.
    """

    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    dilations: tuple[int, ...]
    groups: int = 1

    def infer(self, x: TensorType, w: TensorType) -> TensorType:
        _need_operands(self, x, w, "data", "weights")
        window.need_geometry(
            self.op_name,
            x.rank - 2,
            kernel=w.shape[2:],
            strides=self.strides,
            pads=self.pads,
            dilations=self.dilations,
        )
        _need_groups(self, x.shape[1], w)
        return x.with_shape(x.shape[0], w.shape[0], *_counts(self, x.shape[2:], w.shape[2:]))

    def reference(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        counts = _counts(self, x.shape[2:], w.shape[2:])
        taps = _all_taps(self, x, counts, w.shape[2:])
        made = [
            np.tensordot(
                _part(taps, 1, g, self.groups),
                _part(w, 0, g, self.groups),
                ((1, *range(-w.ndim + 2, 0)), tuple(range(1, w.ndim))),
            )
            for g in range(self.groups)
        ]
        return np.moveaxis(np.concatenate(made, -1), -1, 1)

    def gradient(self, dy: Value, y: Value, x: Value, w: Value) -> tuple[Value, Value]:
        return _data_gradient(self, x.shape[2:])(dy, w), _weight_gradient(self, w.shape[2:])(x, dy)

    def kernel(self, k: Writer, x: Array, w: Array, y: Array) -> None:
        group, (n, o, *t) = _each(k, self.groups, y.shape[0], w.shape[0], *y.shape[2:])
        c, *j = k.axes(w.shape[1], *w.shape[2:])
        place, inside = _image_index(self, k, t, j, x.shape[2:], y.shape[2:], w.shape[2:])
        out = _channel(group, o, self.groups, w.shape[0])
        product = x[(n, _channel(group, c, self.groups, x.shape[1]), *place)] * w[(out, c, *j)]
        y[(n, out, *t)] = k.sum([c, *j], product, inside)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        for geometry, x, w in _GEOMETRIES:
            yield Example(cls(*geometry), normal(*x), normal(*w))


@operator
class ConvDataGradient(Op):
    """dy [N, O, *T] and weights [O, C / groups, *K] -> dx [N, C, *extents].

    Element i of dx along a spatial axis gets dy[t] * w[j] from every t * stride + j * dilation -
    before = i. Used forward this is a deconvolution (transposed convolution) of dy.
    """

    extents: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    dilations: tuple[int, ...]
    groups: int = 1

    def infer(self, dy: TensorType, w: TensorType) -> TensorType:
        _need_operands(self, dy, w, "gradient", "weights")
        window.need_geometry(
            self.op_name,
            dy.rank - 2,
            kernel=w.shape[2:],
            strides=self.strides,
            pads=self.pads,
            dilations=self.dilations,
        )
        x = dy.with_shape(dy.shape[0], w.shape[1] * self.groups, *self.extents)
        _need_groups(self, x.shape[1], w)
        y = (dy.shape[0], w.shape[0], *_counts(self, self.extents, w.shape[2:]))
        need(dy.shape == y, f"{self.op_name}: the gradient {dy} should have shape {list(y)}")
        return x

    def reference(self, dy: np.ndarray, w: np.ndarray) -> np.ndarray:
        kernel, counts = w.shape[2:], dy.shape[2:]
        empty = np.zeros((dy.shape[0], w.shape[1] * self.groups, *self.extents), dy.dtype)
        image = window.padded(empty, 0.0, counts, _spans(self, kernel), self.strides, self.pads)
        for tap in itertools.product(*map(range, kernel)):
            at: tuple[Any, ...] = (..., *tap)
            met = window.scattered(image, tap, counts, self.strides, self.dilations)
            for g in range(self.groups):
                weights = _part(w[at], 0, g, self.groups)
                part = np.tensordot(_part(dy, 1, g, self.groups), weights, ((1,), (0,)))
                _part(met, 1, g, self.groups)[...] += np.moveaxis(part, -1, 1)
        return np.ascontiguousarray(window.cropped(image, self.extents, self.pads))

    def gradient(self, dy: Value, y: Value, given: Value, w: Value) -> tuple[Value, Value]:
        forward = Conv(self.strides, self.pads, self.dilations, self.groups)
        return forward(dy, w), _weight_gradient(self, w.shape[2:])(dy, given)

    def kernel(self, k: Writer, dy: Array, w: Array, dx: Array) -> None:
        group, (n, c, *i) = _each(k, self.groups, dx.shape[0], dx.shape[1], *self.extents)
        o, *j = k.axes(w.shape[0] // self.groups, *w.shape[2:])
        place, exact = self._position(k, i, j, dy.shape[2:], w.shape[2:])
        out = _channel(group, o, self.groups, w.shape[0])
        product = dy[(n, out, *place)] * w[(out, c, *j)]
        total = k.sum([o, *j], product, exact)
        dx[(n, _channel(group, c, self.groups, dx.shape[1]), *i)] = total

    def _position(
        self, k: Writer, i: Sequence[Expr], tap: Sequence[Expr], counts: Extents, kernel: Extents
    ) -> tuple[list[Expr], Expr | None]:
        """The windows that meet image index `i` with `tap`, and the guard that there are such."""
        position: list[Expr] = []
        guard: Expr | None = None
        for axis, place in enumerate(i):
            stride, dilation, before = self.strides[axis], self.dilations[axis], self.pads[axis][0]
            distance = place - tap[axis] * dilation + before
            if stride > 1:
                guard = window.both(guard, k.equal(distance % stride, 0))
            lowest = before - (kernel[axis] - 1) * dilation
            highest = (self.extents[axis] - 1 + before) // stride
            if lowest < 0 or highest >= counts[axis]:
                guard = window.both(guard, k.within(distance // stride, counts[axis]))
            position.append(distance // stride)
        return position, guard

    @classmethod
    def examples(cls) -> Iterator[Example]:
        for geometry, x, w in _GEOMETRIES:
            y = Conv(*geometry).infer(TensorType("float64", x), TensorType("float64", w))
            assert isinstance(y, TensorType)
            yield Example(cls(x[2:], *geometry), normal(*y.shape), normal(*w))


@operator
class ConvWeightGradient(Op):
    """Data [N, C, *S] and dy [N, O, *T] -> dw [O, C / groups, *kernel]."""

    size: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    dilations: tuple[int, ...]
    groups: int = 1

    def infer(self, x: TensorType, dy: TensorType) -> TensorType:
        _need_operands(self, x, dy, "data", "gradient")
        window.need_geometry(
            self.op_name,
            x.rank - 2,
            kernel=self.size,
            strides=self.strides,
            pads=self.pads,
            dilations=self.dilations,
        )
        shape = (dy.shape[1], x.shape[1] // self.groups, *self.size)
        _need_groups(self, x.shape[1], x.with_shape(*shape))
        y = (x.shape[0], dy.shape[1], *_counts(self, x.shape[2:], self.size))
        need(dy.shape == y, f"{self.op_name}: the gradient {dy} should have shape {list(y)}")
        return x.with_shape(*shape)

    def reference(self, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
        taps = _all_taps(self, x, dy.shape[2:], self.size)
        over = (0, *range(2, dy.ndim))
        return np.concatenate(
            [
                np.tensordot(
                    _part(dy, 1, g, self.groups), _part(taps, 1, g, self.groups), (over, over)
                )
                for g in range(self.groups)
            ]
        )

    def gradient(self, dy: Value, y: Value, x: Value, given: Value) -> tuple[Value, Value]:
        forward = Conv(self.strides, self.pads, self.dilations, self.groups)
        return _data_gradient(self, x.shape[2:])(given, dy), forward(x, dy)

    def kernel(self, k: Writer, x: Array, dy: Array, dw: Array) -> None:
        kernel = self.size
        group, (o, c, *j) = _each_of_weights(k, self.groups, dw.shape)
        n, *t = k.axes(x.shape[0], *dy.shape[2:])
        place, inside = _image_index(self, k, t, j, x.shape[2:], dy.shape[2:], kernel)
        out = _channel(group, o, self.groups, dw.shape[0])
        product = x[(n, _channel(group, c, self.groups, x.shape[1]), *place)] * dy[(n, out, *t)]
        dw[(out, c, *j)] = k.sum([n, *t], product, inside)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        for geometry, x, w in _GEOMETRIES:
            y = Conv(*geometry).infer(TensorType("float64", x), TensorType("float64", w))
            assert isinstance(y, TensorType)
            yield Example(cls(w[2:], *geometry), normal(*x), normal(*y.shape))


Convolution = Conv | ConvDataGradient | ConvWeightGradient

# (strides, pads, dilations, groups), shape of x, shape of w.
_GEOMETRIES: tuple[tuple[tuple[Extents, Pads, Extents, int], Extents, Extents], ...] = (
    (((1, 1), ((0, 0), (0, 0)), (1, 1), 1), (2, 3, 5, 6), (4, 3, 3, 2)),
    (((2, 1), ((1, 2), (2, 0)), (1, 1), 1), (2, 3, 6, 5), (2, 3, 3, 3)),
    (((1, 1), ((1, 1), (1, 1)), (1, 1), 2), (2, 4, 4, 4), (6, 2, 3, 3)),
    (((2, 3), ((2, 2), (2, 2)), (2, 1), 2), (1, 2, 7, 8), (4, 1, 3, 2)),
    (((3, 2), ((0, 0), (0, 0)), (1, 2), 1), (1, 2, 9, 8), (3, 2, 2, 3)),
    (((2,), ((1, 1),), (1,), 1), (2, 3, 7), (2, 3, 4)),
    (((1, 2, 1), ((0, 0), (1, 1), (1, 0)), (1, 1, 1), 1), (1, 2, 3, 4, 3), (2, 2, 2, 3, 2)),
    (((1, 1), ((0, 0), (0, 0)), (1, 1), 1), (1, 17, 3, 3), (33, 17, 1, 1)),
)


# -- shared parts ---------------------------------------------------------------------------------


def _data_gradient(op: Convolution, extents: Extents) -> ConvDataGradient:
    return ConvDataGradient(extents, op.strides, op.pads, op.dilations, op.groups)


def _weight_gradient(op: Convolution, kernel: Extents) -> ConvWeightGradient:
    return ConvWeightGradient(kernel, op.strides, op.pads, op.dilations, op.groups)


def _need_operands(
    op: Convolution, left: TensorType, right: TensorType, left_is: str, right_is: str
) -> None:
    need(
        left.rank >= 2 and left.rank == right.rank,
        f"{op.op_name}: {left_is} {left} and {right_is} {right} need the same number of axes,"
        " two of them for images and channels",
    )
    need(
        left.dtype == right.dtype and left.is_real,
        f"{op.op_name}: {left_is} {left} and {right_is} {right} must hold the same kind of reals",
    )


def _need_groups(op: Convolution, channels: int, w: TensorType) -> None:
    need(op.groups >= 1, f"{op.op_name}: there cannot be {op.groups} groups")
    need(
        channels % op.groups == 0 and w.shape[0] % op.groups == 0,
        f"{op.op_name}: {channels} channels and {w.shape[0]} outputs"
        f" cannot be split into {op.groups} groups",
    )
    need(
        w.shape[1] == channels // op.groups,
        f"{op.op_name}: weights {w} read {w.shape[1]} channels a group,"
        f" the data has {channels // op.groups}",
    )


def _counts(op: Convolution, extents: Extents, kernel: Extents) -> Extents:
    """The extents of y. Raises NetError where no window fits."""
    counts = tuple(
        window.positions(extent, size, stride, pads, dilation)
        for extent, size, stride, pads, dilation in zip(
            extents, kernel, op.strides, op.pads, op.dilations, strict=True
        )
    )
    need(
        all(count >= 1 for count in counts),
        f"{op.op_name}: a kernel of {list(kernel)} (dilation {list(op.dilations)}) does not fit"
        f" into an image of {list(extents)} with padding {[list(pair) for pair in op.pads]}",
    )
    return counts


def _spans(op: Convolution, kernel: Extents) -> Extents:
    return tuple(map(window.reach, kernel, op.dilations))


def _all_taps(op: Convolution, x: np.ndarray, counts: Extents, kernel: Extents) -> np.ndarray:
    """What every window sees: [N, C, *counts, *kernel], a view of padded x."""
    spans = _spans(op, kernel)
    image = window.padded(x, 0.0, counts, spans, op.strides, op.pads)
    found = window.windows(image, counts, spans, op.strides)
    taps: tuple[Any, ...] = (..., *(slice(None, None, dilation) for dilation in op.dilations))
    return np.asarray(found[taps])


def _part(array: np.ndarray, axis: int, group: int, groups: int) -> np.ndarray:
    """One group's share of an axis, a view."""
    size = array.shape[axis] // groups
    return array[(slice(None),) * axis + (slice(group * size, (group + 1) * size),)]


def _each(
    k: Writer, groups: int, images: int, channels: int, *rest: int
) -> tuple[Expr | None, list[Expr]]:
    """Parallel loops over images, groups (if several), channels of a group, and the rest."""
    if groups == 1:
        return None, list(k.each(images, channels, *rest))
    n, group, *others = k.each(images, groups, channels // groups, *rest)
    return group, [n, *others]


def _each_of_weights(k: Writer, groups: int, shape: Extents) -> tuple[Expr | None, list[Expr]]:
    if groups == 1:
        return None, list(k.each(*shape))
    group, *others = k.each(groups, shape[0] // groups, *shape[1:])
    return group, list(others)


def _channel(group: Expr | None, inner: Expr, groups: int, channels: int) -> Expr:
    """The channel number of the inner-th channel of a group."""
    return inner if group is None else group * (channels // groups) + inner


def _image_index(
    op: Convolution,
    k: Writer,
    position: Sequence[Expr],
    tap: Sequence[Expr],
    extents: Extents,
    counts: Extents,
    kernel: Extents,
) -> tuple[list[Expr], Expr | None]:
    return window.image_index(
        k,
        position,
        tap,
        extents=extents,
        counts=counts,
        kernel=kernel,
        strides=op.strides,
        pads=op.pads,
        dilations=op.dilations,
    )
