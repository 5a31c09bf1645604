"""Pooling of regions of images into a fixed number of bins, as in Fast R-CNN.

x [N, C, W, H] and rois [R, 5] -> y [R, C, *size]. A row of rois is (image, u0, v0, u1, v1): the
image's number and two corners, which belong to the region, all counted from 1; u runs along W and v
along H. `transform` (a, b, c, d, e, f) maps a corner to u' = a u + b v + c, v' = d u + e v + f,
which is rounded, halves away from 0. A region of `length` elements along an axis with `count` bins
has bin i from floor(i length / count) to ceil((i + 1) length / count): bins may overlap. What lies
outside the image does not count; a bin without elements gives 0. Girshick, "Fast R-CNN",
ICCV 2015.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from graphc.error import need
from graphc.ir.graph import Value
from graphc.ir.op import Example, Op, Sample, distinct, normal, operator
from graphc.ir.types import TensorType
from graphc.kernel.build import Array, Writer
from graphc.kernel.lang import INDEX, Expr

Transform = tuple[float, ...]
IDENTITY: Transform = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def _need_regions(name: str, x: TensorType, rois: TensorType, size: tuple[int, ...]) -> TensorType:
    """The type of the pooled regions."""
    need(x.rank == 4 and x.is_real, f"{name}: images {x} need four axes")
    need(
        rois.rank == 2 and rois.shape[1] == 5 and rois.dtype == x.dtype,
        f"{name}: regions {rois} must be rows of five numbers of the type of {x}",
    )
    need(
        len(size) == 2 and all(count >= 1 for count in size),
        f"{name}: there must be at least one bin along both axes, not {size}",
    )
    need(0 not in x.shape, f"{name}: the images {x} are empty")
    return x.with_shape(rois.shape[0], x.shape[1], *size)


# -- kernels --------------------------------------------------------------------------------------


def _rounded(k: Writer, value: Expr) -> Expr:
    return k.cast(k.sign(value) * k.floor(k.abs(value) + 0.5), INDEX)


def _bins(
    k: Writer,
    rois: Array,
    r: Expr,
    bins: tuple[Expr, Expr],
    op: RoiMaxPool | RoiAvgPool | RoiAvgPoolGradient,
    extents: tuple[int, ...],
) -> list[tuple[Expr, Expr]]:
    """First and past-the-last index of a bin along W and H, inside the image."""
    found = []
    for axis in range(2):
        factors = op.transform[3 * axis : 3 * axis + 3]
        low, high = (_corner(k, rois, r, which, factors) for which in (1, 3))
        length = k.maximum(high - low + 1, 1)
        count, i = op.size[axis], bins[axis]
        start = low + i * length // count
        stop = low - (-((i + 1) * length)) // count
        limits = [k.minimum(k.maximum(edge, 0), extents[axis]) for edge in (start, stop)]
        found.append((limits[0], limits[1]))
    return found


def _corner(k: Writer, rois: Array, r: Expr, which: int, factors: tuple[float, ...]) -> Expr:
    a, b, c = factors
    return _rounded(k, rois[r, which] * a + rois[r, which + 1] * b + c) - 1


def _inside(bounds: list[tuple[Expr, Expr]], w: Expr, h: Expr) -> Expr:
    (w_low, w_high), (h_low, h_high) = bounds
    return (w >= w_low) & (w < w_high) & (h >= h_low) & (h < h_high)


def _image(k: Writer, rois: Array, r: Expr, images: int) -> Expr:
    return k.index(k.cast(rois[r, 0], INDEX) - 1, images, "a region's image, counted from 0,")


# -- numpy ----------------------------------------------------------------------------------------


def _all_bins(
    rois: np.ndarray, size: tuple[int, ...], transform: Transform, extents: tuple[int, ...]
) -> Iterator[tuple[int, int, int, int, tuple[slice, slice]]]:
    """(region, image, bin along W, bin along H, the bin's elements), for every bin."""
    factors = np.reshape(transform, (2, 3))
    for r, row in enumerate(rois.astype(np.float64)):
        low = _numpy_rounded(factors[:, :2] @ row[1:3] + factors[:, 2]) - 1
        high = _numpy_rounded(factors[:, :2] @ row[3:5] + factors[:, 2]) - 1
        length = np.maximum(high - low + 1, 1)
        for i in np.ndindex(*size):
            start = low + i * length // size
            stop = low - (-(np.array(i) + 1) * length) // size
            w, h = (
                slice(*np.clip([start[axis], stop[axis]], 0, extents[axis])) for axis in range(2)
            )
            yield r, int(row[0]) - 1, i[0], i[1], (w, h)


def _numpy_rounded(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.sign(values) * np.floor(np.abs(values) + 0.5), np.int64)


# -- operators ------------------------------------------------------------------------------------


@operator
class RoiMaxPool(Op):
    """The largest element of every bin, and its place w * H + h in the image; 0 and -1 if none."""

    size: tuple[int, ...]
    transform: tuple[float, ...] = IDENTITY

    output_count = 2

    def infer(self, x: TensorType, rois: TensorType) -> tuple[TensorType, TensorType]:
        y = _need_regions(self.op_name, x, rois, self.size)
        return y, TensorType("int32", y.shape)

    def reference(self, x: np.ndarray, rois: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        y = np.zeros((rois.shape[0], x.shape[1], *self.size), x.dtype)
        place = np.full(y.shape, -1, np.int32)
        flat = np.arange(x.shape[2] * x.shape[3]).reshape(x.shape[2:])
        for r, n, i, j, where in _all_bins(rois, self.size, self.transform, x.shape[2:]):
            values = x[(n, slice(None), *where)].reshape(x.shape[1], -1)
            if values.size:
                y[r, :, i, j] = values.max(1)
                place[r, :, i, j] = flat[where].ravel()[values.argmax(1)]
        return y, place

    def gradient(self, dy: Any, y: Any, x: Value, rois: Value) -> tuple[Value | None, None]:
        if dy[0] is None:
            return None, None
        dx: Value = RoiMaxPoolGradient(x.shape)(rois, y[1], dy[0])
        return dx, None

    def kernel(self, k: Writer, x: Array, rois: Array, y: Array, place: Array) -> None:
        r, c, i, j = k.each(*y.shape)
        n = _image(k, rois, r, x.shape[0])
        bounds = _bins(k, rois, r, (i, j), self, x.shape[2:])
        bounds = [(k.let(low), k.let(high)) for low, high in bounds]
        w, h = k.axes(*x.shape[2:])
        flat = w * x.shape[3] + h
        best, found = k.argmax([w, h], x[n, c, w, h], flat, where=_inside(bounds, w, h))
        (w_low, w_high), (h_low, h_high) = bounds
        some = (w_low < w_high) & (h_low < h_high)
        y[r, c, i, j] = k.select(some, best, 0.0)
        place[r, c, i, j] = k.cast(k.select(some, found, -1), "int32")

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls((2, 3)), distinct(2, 3, 5, 4), _regions(4, 2, (5, 4)))
        scaled = (0.5, 0.0, 0.5, 0.0, 0.5, 0.5)
        yield Example(cls((3, 2), scaled), distinct(1, 2, 4, 6), _regions(3, 1, (12, 12)))


def _regions(count: int, images: int, extents: tuple[int, int]) -> Sample:
    """Regions whose corners, some outside the images, lie clear of the halves."""

    def draw(rng: np.random.Generator) -> np.ndarray:
        rows = [rng.integers(1, images + 1, count).astype(np.float64)]
        corners = [rng.integers(0, 2 * e + 4, (2, count)) * 0.5 + 0.1 for e in extents]
        rows += [np.sort(pair, 0)[which] for which in range(2) for pair in corners]
        return np.stack(rows, 1)

    return Sample(TensorType("float64", (count, 5)), draw, differentiable=False)


@operator
class RoiMaxPoolGradient(Op):
    """rois, the winners' places and dy -> dx: each bin hands its dy to its winner."""

    shape: tuple[int, ...]

    def infer(self, rois: TensorType, place: TensorType, dy: TensorType) -> TensorType:
        need(
            place.shape == dy.shape and rois.shape[:1] == dy.shape[:1],
            f"{self.op_name}: regions {rois} and places {place} do not fit the gradient {dy}",
        )
        return dy.with_shape(*self.shape)

    def reference(self, rois: np.ndarray, place: np.ndarray, dy: np.ndarray) -> np.ndarray:
        dx = np.zeros(self.shape, dy.dtype)
        for r, c, i, j in np.ndindex(*dy.shape):
            if place[r, c, i, j] >= 0:
                image = dx[int(rois[r, 0]) - 1, c].reshape(-1)
                image[place[r, c, i, j]] += dy[r, c, i, j]
        return dx

    def kernel(self, k: Writer, rois: Array, place: Array, dy: Array, dx: Array) -> None:
        # One thread adds up one channel of one image; the order of additions is fixed.
        n, c = k.each(*self.shape[:2])
        w, h = k.axes(*self.shape[2:])
        dx[n, c, w, h] = 0.0
        r, i, j = k.axes(dy.shape[0], *dy.shape[2:])
        at = k.cast(place[r, c, i, j], INDEX)
        mine = k.equal(k.cast(rois[r, 0], INDEX) - 1, n) & (at >= 0)
        flat = k.minimum(k.maximum(at, 0), self.shape[2] * self.shape[3] - 1)
        to = (n, c, flat // self.shape[3], flat % self.shape[3])
        k.add(dx, to, k.select(mine, dy[r, c, i, j], 0.0))

    @classmethod
    def examples(cls) -> Iterator[Example]:
        places = Sample(
            TensorType("int32", (4, 3, 2, 3)),
            lambda rng: rng.integers(-1, 20, (4, 3, 2, 3)).astype(np.int32),
            differentiable=False,
        )
        yield Example(cls((2, 3, 5, 4)), _regions(4, 2, (5, 4)), places, normal(4, 3, 2, 3))


@operator
class RoiAvgPool(Op):
    """The mean of every bin's elements inside the image; 0 if there are none."""

    size: tuple[int, ...]
    transform: tuple[float, ...] = IDENTITY

    def infer(self, x: TensorType, rois: TensorType) -> TensorType:
        return _need_regions(self.op_name, x, rois, self.size)

    def reference(self, x: np.ndarray, rois: np.ndarray) -> np.ndarray:
        y = np.zeros((rois.shape[0], x.shape[1], *self.size), x.dtype)
        for r, n, i, j, where in _all_bins(rois, self.size, self.transform, x.shape[2:]):
            values = x[(n, slice(None), *where)].reshape(x.shape[1], -1)
            if values.size:
                y[r, :, i, j] = values.mean(1)
        return y

    def gradient(self, dy: Value, y: Value, x: Value, rois: Value) -> tuple[Value, None]:
        return RoiAvgPoolGradient(x.shape, self.size, self.transform)(rois, dy), None

    def kernel(self, k: Writer, x: Array, rois: Array, y: Array) -> None:
        r, c, i, j = k.each(*y.shape)
        n = _image(k, rois, r, x.shape[0])
        bounds = _bins(k, rois, r, (i, j), self, x.shape[2:])
        bounds = [(k.let(low), k.let(high)) for low, high in bounds]
        w, h = k.axes(*x.shape[2:])
        total = k.sum([w, h], x[n, c, w, h], where=_inside(bounds, w, h))
        y[r, c, i, j] = total / _elements(k, bounds, x.dtype)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls((2, 3)), normal(2, 3, 5, 4), _regions(4, 2, (5, 4)))
        scaled = (0.5, 0.0, 0.5, 0.0, 0.5, 0.5)
        yield Example(cls((3, 2), scaled), normal(1, 2, 4, 6), _regions(3, 1, (12, 12)))


def _elements(k: Writer, bounds: list[tuple[Expr, Expr]], dtype: str) -> Expr:
    """How many elements a bin has, at least 1."""
    (w_low, w_high), (h_low, h_high) = bounds
    count = k.maximum(w_high - w_low, 0) * k.maximum(h_high - h_low, 0)
    return k.cast(k.maximum(count, 1), dtype)


@operator
class RoiAvgPoolGradient(Op):
    """rois and dy -> dx: each bin spreads dy / its number of elements over them."""

    shape: tuple[int, ...]
    size: tuple[int, ...]
    transform: tuple[float, ...] = IDENTITY

    def infer(self, rois: TensorType, dy: TensorType) -> TensorType:
        x = dy.with_shape(*self.shape)
        need(
            dy == _need_regions(self.op_name, x, rois, self.size),
            f"{self.op_name}: a gradient {dy} does not fit regions {rois}",
        )
        return x

    def reference(self, rois: np.ndarray, dy: np.ndarray) -> np.ndarray:
        dx = np.zeros(self.shape, dy.dtype)
        for r, n, i, j, where in _all_bins(rois, self.size, self.transform, self.shape[2:]):
            part = dx[(n, slice(None), *where)]
            count = max(part.size // part.shape[0], 1)
            part += (dy[r, :, i, j] / count)[:, None, None]
        return dx

    def kernel(self, k: Writer, rois: Array, dy: Array, dx: Array) -> None:
        n, c, w, h = k.each(*self.shape)
        r, i, j = k.axes(dy.shape[0], *dy.shape[2:])
        bounds = _bins(k, rois, r, (i, j), self, self.shape[2:])
        mine = k.equal(k.cast(rois[r, 0], INDEX) - 1, n) & _inside(bounds, w, h)
        share = dy[r, c, i, j] / _elements(k, bounds, dx.dtype)
        dx[n, c, w, h] = k.sum([r, i, j], share, where=mine)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls((2, 3, 5, 4), (2, 3)), _regions(4, 2, (5, 4)), normal(4, 3, 2, 3))
