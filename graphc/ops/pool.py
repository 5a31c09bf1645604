"""Pooling over any number of spatial axes: x [N, C, *S] -> y [N, C, *output].

The extents of the output are a field, because frameworks round them differently; `pooled_extent`
is Caffe's rule. Max pooling keeps which element of the window won, so that its gradient needs
neither x nor y.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import inf, prod
from typing import Any

import numpy as np

from graphc.error import need
from graphc.ir.graph import Value
from graphc.ir.op import Example, Op, Sample, distinct, normal, operator
from graphc.ir.types import TensorType
from graphc.kernel.build import Array, Writer
from graphc.kernel.lang import Expr
from graphc.ops import window
from graphc.ops.neuron import Relu
from graphc.ops.window import Pads

Extents = tuple[int, ...]


def pooled_extent(
    extent: int,
    size: int,
    stride: int,
    pads: tuple[int, int],
    ceil: bool = True,
    is_padded: bool | None = None,
) -> int:
    """Caffe's number of windows along one axis.

    The last one may hang over the padded image (where `ceil` is set), but if there is padding it
    must start inside the image or the padding before it. `is_padded` says whether there is any, on
    this axis or another; None: look at `pads`.
    """
    before, after = pads
    room = extent + before + after - size
    count = (-(-room // stride) if ceil else room // stride) + 1
    if is_padded is None:
        is_padded = bool(before or after)
    if is_padded and (count - 1) * stride >= extent + before:
        count -= 1
    return count


def index_dtype(size: Sequence[int]) -> str:
    """The smallest element type that holds a position inside a window, or that there is none."""
    return "uint8" if prod(size) < 256 else "int32"


def _need_windows(
    name: str, x: TensorType, size: Extents, strides: Extents, pads: Pads, output: Extents
) -> None:
    """Every window must meet the image. Raises NetError naming the first that does not."""
    rank = x.rank - 2
    need(x.rank >= 2 and x.is_real, f"{name}: {x} has no axes for images and channels")
    window.need_geometry(name, rank, kernel=size, strides=strides, pads=pads)
    need(
        len(output) == rank and all(count >= 1 for count in output),
        f"{name}: windows of {list(size)} do not fit into an image of {list(x.shape[2:])}",
    )
    for axis, extent in enumerate(x.shape[2:]):
        before = pads[axis][0]
        start = (output[axis] - 1) * strides[axis] - before
        need(
            before < size[axis] and start < extent,
            f"{name}: along spatial axis {axis}, a window of {size[axis]} starting at"
            f" {start if start >= extent else -before} lies wholly outside"
            f" the image's 0 .. {extent - 1}",
        )


def _flat(tap: Sequence[Expr], size: Sequence[int]) -> Expr | int:
    """Row-major position of a tap inside its window."""
    flat: Expr | int = 0
    for position, extent in zip(tap, size, strict=True):
        flat = flat * extent + position
    return flat


def _as_index(k: Writer, value: Expr | int, dtype: str) -> Expr:
    return k.cast(value, dtype) if isinstance(value, Expr) else k.number(value, dtype)


@operator
class MaxPool(Op):
    """Largest element of each window, and its row-major position inside the window.

    Windows are clipped to the image; the first of equal elements counts, and a nan never does.
    Where all are -inf that is the first one inside of the image, as in MatConvNet. The position's
    element type is `index_dtype(size)`.

    rectified: as relu behind it makes it, 0 where no element is above 0. Nothing won there: the
    position is the first beyond the window, so that the gradient needs no more than positions.
    """

    size: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    output: tuple[int, ...]
    rectified: bool = False

    def infer(self, x: TensorType) -> tuple[TensorType, TensorType]:
        _need_windows(self.op_name, x, self.size, self.strides, self.pads, self.output)
        shape = (*x.shape[:2], *self.output)
        return x.with_shape(*shape), TensorType(index_dtype(self.size), shape)

    def reference(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        comparable = np.where(np.isnan(x), -np.inf, x).astype(x.dtype)
        image = window.padded(comparable, -np.inf, self.output, self.size, self.strides, self.pads)
        taps = window.windows(image, self.output, self.size, self.strides)
        flat = taps.reshape(*taps.shape[: x.ndim], -1)
        best, index = flat.max(-1), flat.argmax(-1)
        index = np.where(best == -np.inf, self._first_inside(), index)
        if self.rectified:
            index = np.where(best > 0, index, prod(self.size))
            best = np.maximum(best, 0)
        return best, index.astype(index_dtype(self.size))

    def gradient(self, dy: Any, y: Any, x: Value) -> Value | None:
        if dy[0] is None:
            return None
        undo = MaxPoolGradient(x.shape[2:], self.size, self.strides, self.pads)
        gradient: Value = undo(dy[0], y[1])
        return gradient

    def _first_inside(self) -> np.ndarray:
        """The position in each window of the first element inside of the image."""
        flat = np.zeros((), np.int64)
        for axis, count in enumerate(self.output):
            taps = np.maximum(self.pads[axis][0] - np.arange(count) * self.strides[axis], 0)
            flat = flat[..., None] * self.size[axis] + taps
        return flat

    def selects(self) -> bool:
        return not self.rectified

    def followed_by(self, function: Op) -> Op | None:
        return replace(self, rectified=True) if function == Relu() else None

    def kernel(self, k: Writer, x: Array, y: Array, index: Array) -> None:
        n, c, *t = k.each(*y.shape)
        j = k.axes(*self.size)
        place, inside = _image_index(self, k, t, j, x.shape[2:])
        # 32 bits, as a real has, so that the comparison and the choice work on equal vectors.
        position = _as_index(k, _flat(j, self.size), "int32")
        best, found = k.argmax(j, x[(n, c, *place)], position, inside)
        won: Expr = found
        if self.rectified:
            won = k.select(best > 0.0, found, k.number(prod(self.size), "int32"))
        elif any(before for before, _ in self.pads):
            # The comparison has found nothing above -inf, and its position 0 may lie outside.
            steps = zip(t, self.strides, self.pads, strict=True)
            first = [k.maximum(before - at * stride, 0) for at, stride, (before, _) in steps]
            won = k.select(best > -inf, found, _as_index(k, _flat(first, self.size), "int32"))
        y[(n, c, *t)] = k.maximum(best, 0.0) if self.rectified else best
        index[(n, c, *t)] = k.cast(won, index.dtype)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        for size, strides, pads, output, x in _GEOMETRIES:
            yield Example(cls(size, strides, pads, output), distinct(*x))
        for size, strides, pads, output, x in _GEOMETRIES[:3]:
            yield Example(cls(size, strides, pads, output, rectified=True), _about_zero(*x))


@operator
class MaxPoolGradient(Op):
    """dy and the winners' positions inside their windows -> dx [N, C, *extents].

    A position beyond the window says that nothing won: what arrives there is lost.
    Each element of dx gathers from the windows that cover it, so the sums have a fixed order and
    no two threads write to one place.
    """

    extents: tuple[int, ...]
    size: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]

    def infer(self, dy: TensorType, index: TensorType) -> TensorType:
        need(
            dy.shape == index.shape and index.dtype == index_dtype(self.size),
            f"{self.op_name}: positions {index} do not belong to the gradient {dy}",
        )
        x = dy.with_shape(*dy.shape[:2], *self.extents)
        _need_windows(self.op_name, x, self.size, self.strides, self.pads, dy.shape[2:])
        return x

    def reference(self, dy: np.ndarray, index: np.ndarray) -> np.ndarray:
        output = dy.shape[2:]
        empty = np.zeros((*dy.shape[:2], *self.extents), dy.dtype)
        image = window.padded(empty, 0.0, output, self.size, self.strides, self.pads)
        for position, tap in enumerate(itertools.product(*map(range, self.size))):
            met = window.scattered(image, tap, output, self.strides, (1,) * len(output))
            met += np.where(index == position, dy, 0)
        return np.ascontiguousarray(window.cropped(image, self.extents, self.pads))

    def kernel(self, k: Writer, dy: Array, index: Array, dx: Array) -> None:
        n, c, *i = k.each(*dx.shape)
        back, t, tap, covers = window.covering(k, i, self.size, self.strides, self.pads)
        where = _existing(k, t, dy.shape[2:], covers)
        mine = _as_index(k, _flat(tap, self.size), index.dtype)
        won = k.equal(index[(n, c, *t)], mine)
        value = k.select(won, dy[(n, c, *t)], 0.0)
        dx[(n, c, *i)] = k.sum(back, value, where) if back else value

    @classmethod
    def examples(cls) -> Iterator[Example]:
        for size, strides, pads, output, x in _GEOMETRIES:
            shape = (*x[:2], *output)
            won = _positions(shape, size, prod(size) + 1)
            yield Example(cls(x[2:], size, strides, pads), normal(*shape), won)


@operator
class MaxPoolMask(Op):
    """Positions inside the windows -> row-major positions in the image, as reals (Caffe's mask)."""

    dtype: str
    extents: tuple[int, ...]
    size: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]

    gradient_stops = True

    def infer(self, index: TensorType) -> TensorType:
        mask = TensorType(self.dtype, index.shape)
        x = mask.with_shape(*index.shape[:2], *self.extents)
        _need_windows(self.op_name, x, self.size, self.strides, self.pads, index.shape[2:])
        return mask

    def reference(self, index: np.ndarray) -> np.ndarray:
        taps = np.unravel_index(index.astype(np.int64), self.size)
        flat = np.zeros(index.shape, np.int64)
        for axis, extent in enumerate(self.extents):
            count = index.shape[2 + axis]
            start = np.arange(count) * self.strides[axis] - self.pads[axis][0]
            along = (count,) + (1,) * (index.ndim - 3 - axis)
            flat = flat * extent + taps[axis] + start.reshape(along)
        return flat.astype(self.dtype)

    def kernel(self, k: Writer, index: Array, y: Array) -> None:
        n, c, *t = k.each(*y.shape)
        tap = k.let(k.cast(index[(n, c, *t)], "int64"))
        flat: Expr | int = 0
        for axis, extent in enumerate(self.extents):
            own = tap // prod(self.size[axis + 1 :]) % self.size[axis]
            place = t[axis] * self.strides[axis] - self.pads[axis][0] + own
            flat = flat * extent + place
        y[(n, c, *t)] = _as_index(k, flat, self.dtype)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        for size, strides, pads, output, x in _GEOMETRIES[:3]:
            yield Example(
                cls("float64", x[2:], size, strides, pads), _winners((*x[:2], *output), size)
            )


@operator
class AvgPool(Op):
    """Mean of each window, with zeros in the padding.

    The sum is divided by the number of elements that the window shares with the padded image, as in
    Caffe, or with the image alone where `count_padding` is off. What a window hangs over the padded
    image never counts.
    """

    size: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    output: tuple[int, ...]
    count_padding: bool = True

    def infer(self, x: TensorType) -> TensorType:
        _need_windows(self.op_name, x, self.size, self.strides, self.pads, self.output)
        return x.with_shape(*x.shape[:2], *self.output)

    def reference(self, x: np.ndarray) -> np.ndarray:
        image = window.padded(x, 0.0, self.output, self.size, self.strides, self.pads)
        taps = window.windows(image, self.output, self.size, self.strides)
        summed = taps.sum(tuple(range(x.ndim, taps.ndim)))
        return np.asarray(summed / _counted(self, x.shape[2:], self.output), x.dtype)

    def gradient(self, dy: Value, y: Value, x: Value) -> Value:
        undo = AvgPoolGradient(x.shape[2:], self.size, self.strides, self.pads, self.count_padding)
        gradient: Value = undo(dy)
        return gradient

    def kernel(self, k: Writer, x: Array, y: Array) -> None:
        n, c, *t = k.each(*y.shape)
        j = k.axes(*self.size)
        place, inside = _image_index(self, k, t, j, x.shape[2:])
        total = k.sum(j, x[(n, c, *place)], inside)
        y[(n, c, *t)] = total / _divisor(self, k, t, x.shape[2:], self.output, x.dtype)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        for size, strides, pads, output, x in _GEOMETRIES:
            yield Example(cls(size, strides, pads, output), normal(*x))
        size, strides, pads, output, x = _GEOMETRIES[1]
        yield Example(cls(size, strides, pads, output, count_padding=False), normal(*x))


@operator
class AvgPoolGradient(Op):
    """dy [N, C, *output] -> dx [N, C, *extents]: every window spreads dy / its divisor."""

    extents: tuple[int, ...]
    size: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    count_padding: bool = True

    def infer(self, dy: TensorType) -> TensorType:
        x = dy.with_shape(*dy.shape[:2], *self.extents)
        _need_windows(self.op_name, x, self.size, self.strides, self.pads, dy.shape[2:])
        return x

    def reference(self, dy: np.ndarray) -> np.ndarray:
        output = dy.shape[2:]
        share = (dy / _counted(self, self.extents, output)).astype(dy.dtype)
        empty = np.zeros((*dy.shape[:2], *self.extents), dy.dtype)
        image = window.padded(empty, 0.0, output, self.size, self.strides, self.pads)
        for tap in itertools.product(*map(range, self.size)):
            met = window.scattered(image, tap, output, self.strides, (1,) * len(output))
            met += share
        return np.ascontiguousarray(window.cropped(image, self.extents, self.pads))

    def gradient(self, dy: Value, y: Value, given: Value) -> Value:
        redo = AvgPool(self.size, self.strides, self.pads, given.shape[2:], self.count_padding)
        gradient: Value = redo(dy)
        return gradient

    def kernel(self, k: Writer, dy: Array, dx: Array) -> None:
        n, c, *i = k.each(*dx.shape)
        output = dy.shape[2:]
        back, t, _, covers = window.covering(k, i, self.size, self.strides, self.pads)
        where = _existing(k, t, output, covers)
        share = dy[(n, c, *t)] / _divisor(self, k, t, self.extents, output, dy.dtype)
        dx[(n, c, *i)] = k.sum(back, share, where) if back else share

    @classmethod
    def examples(cls) -> Iterator[Example]:
        for size, strides, pads, output, x in _GEOMETRIES:
            yield Example(cls(x[2:], size, strides, pads), normal(*x[:2], *output))
        size, strides, pads, output, x = _GEOMETRIES[1]
        yield Example(cls(x[2:], size, strides, pads, count_padding=False), normal(*x[:2], *output))


# size, strides, pads, output, shape of x.
_GEOMETRIES: tuple[tuple[Extents, Extents, Pads, Extents, Extents], ...] = (
    ((2, 2), (2, 2), ((0, 0), (0, 0)), (2, 3), (2, 3, 4, 6)),
    ((3, 3), (2, 2), ((1, 1), (1, 1)), (4, 3), (2, 2, 6, 5)),
    ((3, 2), (2, 1), ((0, 0), (0, 0)), (3, 4), (1, 2, 6, 5)),
    ((3, 3), (1, 1), ((1, 1), (1, 1)), (4, 4), (1, 2, 4, 4)),
    ((2, 1), (3, 2), ((0, 0), (0, 0)), (2, 3), (1, 2, 5, 5)),
    ((4, 5), (1, 1), ((0, 0), (0, 0)), (1, 1), (2, 3, 4, 5)),
    ((3,), (2,), ((1, 0),), (4,), (2, 2, 7)),
    ((2, 2, 2), (1, 2, 2), ((0, 0), (0, 0), (0, 0)), (2, 2, 1), (1, 2, 3, 4, 2)),
    ((17, 17), (1, 1), ((0, 0), (0, 0)), (1, 2), (1, 2, 17, 18)),
)


def _about_zero(*shape: int) -> Sample:
    """Numbers no two of which are closer than 0.1, nor closer to 0 than 0.05; most are below."""
    first = 0.05 - 0.1 * (prod(shape) // 4 * 3)
    return Sample(
        TensorType("float64", shape),
        lambda rng: rng.permutation(prod(shape)).reshape(shape) * 0.1 + first,
    )


def _winners(shape: Extents, size: Extents) -> Sample:
    """Positions inside windows; those in clipped parts of a window are as good as any other."""
    return _positions(shape, size, prod(size))


def _positions(shape: Extents, size: Extents, count: int) -> Sample:
    """Numbers below `count`; that of all positions says that there is none."""
    dtype = index_dtype(size)
    return Sample(
        TensorType(dtype, shape),
        lambda rng: rng.integers(0, count, shape).astype(dtype),
        differentiable=False,
    )


def _image_index(
    op: MaxPool | AvgPool,
    k: Writer,
    position: Sequence[Expr],
    tap: Sequence[Expr],
    extents: Extents,
) -> tuple[list[Expr], Expr | None]:
    """Where in the image a window's element lies, and the guard that it lies inside."""
    return window.image_index(
        k,
        position,
        tap,
        extents=extents,
        counts=op.output,
        kernel=op.size,
        strides=op.strides,
        pads=op.pads,
        dilations=(1,) * len(extents),
    )


def _existing(k: Writer, t: list[Expr], output: Extents, guard: Expr | None) -> Expr | None:
    """The guard that positions `t` are windows at all, besides `guard`."""
    where: Expr | None = None
    for place, count in zip(t, output, strict=True):
        where = window.both(where, k.within(place, count))
    return window.both(where, guard)


def _divisor(
    op: AvgPool | AvgPoolGradient,
    k: Writer,
    t: Sequence[Expr],
    extents: Extents,
    output: Extents,
    dtype: str,
) -> Expr:
    """How many elements of the (padded) image the window at `t` counts, as a real."""
    fixed = 1
    clipped: Expr | None = None
    for axis, extent in enumerate(extents):
        (before, after), size, stride = op.pads[axis], op.size[axis], op.strides[axis]
        first, last = (-before, extent + after) if op.count_padding else (0, extent)
        if first == -before and (output[axis] - 1) * stride - before + size <= last:
            fixed *= size
            continue
        start = t[axis] * stride - before
        # No window lies wholly outside: that 1 is least is no news but to what bounds the divisor.
        shared = k.maximum(k.minimum(start + size, last) - k.maximum(start, first), 1)
        clipped = shared if clipped is None else clipped * shared
    if clipped is None:
        return k.number(fixed, dtype)
    return k.cast(clipped * fixed, dtype)


def _counted(op: AvgPool | AvgPoolGradient, extents: Extents, output: Extents) -> np.ndarray:
    """The divisors, counted: how many ones of an indicator image each window holds."""
    if op.count_padding:
        sides = tuple(b + e + a for e, (b, a) in zip(extents, op.pads, strict=True))
        indicator, pads = np.ones(sides), ((0, 0),) * len(sides)
    else:
        indicator, pads = np.ones(extents), op.pads
    image = window.padded(indicator, 0.0, output, op.size, op.strides, pads)
    taps = window.windows(image, output, op.size, op.strides)
    return np.asarray(taps.sum(tuple(range(len(output), taps.ndim))))
