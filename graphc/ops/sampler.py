"""Bilinear sampling of images at real positions, as in spatial transformer networks.

x [N, C, W, H] and grid [M, V, U, 2] -> y [M, C, V, U], M a multiple of N: image n serves the grids
n * M / N up to (n + 1) * M / N - 1. grid[..., 0] is the place along the last axis of x,
grid[..., 1] along the one before; -1 and 1 are the centres of the first and the last element. A
point before a first centre gives 0; past a last centre the image goes over to 0 within one element,
as it does in MatConvNet. Jaderberg et al., "Spatial transformer networks", NIPS 2015.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from graphc.error import need
from graphc.ir.graph import Value
from graphc.ir.op import Example, Op, Sample, normal, operator
from graphc.ir.types import TensorType
from graphc.kernel.build import Array, Writer
from graphc.kernel.lang import INDEX, Expr

Corner = tuple[int, int]
CORNERS: tuple[Corner, ...] = ((0, 0), (0, 1), (1, 0), (1, 1))


def _need_grid(name: str, x: TensorType, grid: TensorType) -> TensorType:
    """The type of the samples."""
    need(
        x.rank == 4 and grid.rank == 4 and grid.shape[3] == 2,
        f"{name}: images {x} need four axes, and the grid {grid} must hold pairs on its last axis",
    )
    need(x.is_real and grid.dtype == x.dtype, f"{name}: {x} and {grid} must be reals of one type")
    images, grids = x.shape[0], grid.shape[0]
    need(
        images > 0 and grids % images == 0,
        f"{name}: {grids} grids cannot be shared out among {images} images",
    )
    need(0 not in x.shape, f"{name}: the images {x} are empty")
    return x.with_shape(grids, x.shape[1], *grid.shape[1:3])


class _Place:
    """Where one grid point falls: the corner of the pixel square, and how far inside it is."""

    def __init__(self, k: Writer, grid: Array, at: tuple[Expr, ...], size: tuple[int, ...]):
        self.k, self.size = k, size
        self.low: list[Expr] = []
        self.part: list[Expr] = []
        for extent, which in zip(size, (1, 0), strict=True):
            position = k.let((grid[(*at, which)] + 1.0) * ((extent - 1) / 2))
            low = k.let(k.floor(position))
            self.part.append(k.let(position - low))
            self.low.append(k.let(k.cast(low, INDEX)))

    def pixel(self, corner: Corner) -> tuple[Expr, Expr]:
        """The corner's indices, moved into the image."""
        k = self.k
        w, h = (
            k.maximum(k.minimum(low + step, extent - 1), 0)
            for low, step, extent in zip(self.low, corner, self.size, strict=True)
        )
        return w, h

    def inside(self, corner: Corner) -> Expr:
        """Whether the corner is a pixel of the image."""
        first, second = (
            (low >= 0) & (low + step < extent)
            for low, step, extent in zip(self.low, corner, self.size, strict=True)
        )
        return first & second

    def weight(self, axis: int, step: int) -> Expr:
        """The corner's weight along one axis."""
        return self.part[axis] if step else 1.0 - self.part[axis]

    def value(self, x: Array, n: Expr, c: Expr, corner: Corner) -> Expr:
        """The corner's pixel, 0 outside."""
        return self.k.select(self.inside(corner), x[(n, c, *self.pixel(corner))], 0.0)


@operator
class BilinearSampler(Op):
    """Samples of the images x at the grid's points; see the head of this file."""

    def infer(self, x: TensorType, grid: TensorType) -> TensorType:
        return _need_grid(self.op_name, x, grid)

    def reference(self, x: np.ndarray, grid: np.ndarray) -> np.ndarray:
        total = 0.0
        for corner in CORNERS:
            values, weights, _ = _corner(x, grid, corner)
            total = total + values * (weights[0] * weights[1])[:, None]
        return np.asarray(total, x.dtype)

    def gradient(self, dy: Value, y: Value, x: Value, grid: Value) -> tuple[Value, Value]:
        dx = BilinearDataGradient(x.shape)(grid, dy)
        return dx, BilinearGridGradient()(x, grid, dy)

    def kernel(self, k: Writer, x: Array, grid: Array, y: Array) -> None:
        m, c, v, u = k.each(*y.shape)
        place = _Place(k, grid, (m, v, u), x.shape[2:])
        n = m // (grid.shape[0] // x.shape[0])
        total: Expr | None = None
        for corner in CORNERS:
            weight = place.weight(0, corner[0]) * place.weight(1, corner[1])
            part = place.value(x, n, c, corner) * weight
            total = part if total is None else total + part
        assert total is not None
        y[m, c, v, u] = total

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(2, 3, 5, 4), _points((2, 3, 2), (5, 4)))
        yield Example(cls(), normal(1, 2, 3, 6), _points((3, 2, 2), (3, 6)))


def _points(shape: tuple[int, ...], size: tuple[int, int]) -> Sample:
    """Grid points, some outside, none near a pixel's centre, where the slope jumps."""
    w, h = size

    def draw(rng: np.random.Generator) -> np.ndarray:
        places = [
            rng.integers(-1, extent + 1, shape) + rng.uniform(0.1, 0.9, shape) for extent in (h, w)
        ]
        return np.stack([2 * p / (e - 1) - 1 for p, e in zip(places, (h, w), strict=True)], -1)

    return Sample(TensorType("float64", (*shape, 2)), draw)


def _corner(
    x: np.ndarray, grid: np.ndarray, corner: Corner
) -> tuple[np.ndarray, list[np.ndarray], tuple[np.ndarray, ...]]:
    """One corner's pixels [M, C, V, U], its weights along both axes, and (image, w, h, inside)."""
    images = np.arange(grid.shape[0]) // (grid.shape[0] // x.shape[0])
    index, weights = [], []
    inside = np.ones(grid.shape[:3], bool)
    for step, extent, which in zip(corner, x.shape[2:], (1, 0), strict=True):
        position = (grid[..., which] + 1) * x.dtype.type((extent - 1) / 2)
        low = np.floor(position)
        weights.append(position - low if step else 1 - (position - low))
        at = low.astype(np.int64) + step
        inside &= (low >= 0) & (at < extent)
        index.append(np.clip(at, 0, extent - 1))
    n = np.broadcast_to(images[:, None, None], inside.shape)
    values = np.where(inside[..., None], x[n, :, index[0], index[1]], 0)
    return np.moveaxis(values, -1, 1), weights, (n, *index, inside)


@operator
class BilinearDataGradient(Op):
    """grid and dy -> dx: every sample hands its dy to the four pixels around it, by weight."""

    shape: tuple[int, ...]

    def infer(self, grid: TensorType, dy: TensorType) -> TensorType:
        x = dy.with_shape(*self.shape)
        need(dy == _need_grid(self.op_name, x, grid), f"{self.op_name}: {dy} does not fit {grid}")
        return x

    def reference(self, grid: np.ndarray, dy: np.ndarray) -> np.ndarray:
        dx = np.zeros(self.shape, dy.dtype)
        for corner in CORNERS:
            _, weights, (n, w, h, inside) = _corner(dx, grid, corner)
            share = np.where(inside, weights[0] * weights[1], 0)[:, None] * dy
            where: Any = (n, slice(None), w, h)
            np.add.at(dx, where, np.moveaxis(share, 1, -1))
        return dx

    def kernel(self, k: Writer, grid: Array, dy: Array, dx: Array) -> None:
        # One thread adds up one channel of one image; the order of additions is fixed.
        n, c = k.each(*self.shape[:2])
        w, h = k.axes(*self.shape[2:])
        dx[n, c, w, h] = 0.0
        share = grid.shape[0] // self.shape[0]
        own, v, u = k.axes(share, *dy.shape[2:])
        m = n * share + own
        for corner in CORNERS:
            self._add(k, grid, dy, dx, (n, c), (m, v, u), corner)

    def _add(
        self,
        k: Writer,
        grid: Array,
        dy: Array,
        dx: Array,
        image: tuple[Expr, Expr],
        at: tuple[Expr, Expr, Expr],
        corner: Corner,
    ) -> None:
        place = _Flat(k, grid, at, self.shape[2:])
        m, v, u = at
        weight = place.weight(0, corner[0]) * place.weight(1, corner[1])
        value = k.select(place.inside(corner), dy[m, image[1], v, u] * weight, 0.0)
        k.add(dx, (*image, *place.pixel(corner)), value)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls((2, 3, 5, 4)), _points((2, 3, 2), (5, 4)), normal(2, 3, 3, 2))
        yield Example(cls((1, 2, 3, 6)), _points((3, 2, 2), (3, 6)), normal(3, 2, 2, 2))


class _Flat(_Place):
    """A place without names of its own, for a store's loops: a name holds for `each` only."""

    def __init__(self, k: Writer, grid: Array, at: tuple[Expr, ...], size: tuple[int, ...]):
        self.k, self.size = k, size
        self.low, self.part = [], []
        for extent, which in zip(size, (1, 0), strict=True):
            position = (grid[(*at, which)] + 1.0) * ((extent - 1) / 2)
            self.low.append(k.cast(k.floor(position), INDEX))
            self.part.append(position - k.floor(position))


@operator
class BilinearGridGradient(Op):
    """x, grid and dy -> dgrid: the slope of the interpolation, times the pixels' spacing."""

    def infer(self, x: TensorType, grid: TensorType, dy: TensorType) -> TensorType:
        need(dy == _need_grid(self.op_name, x, grid), f"{self.op_name}: {dy} does not fit {grid}")
        return grid

    def reference(self, x: np.ndarray, grid: np.ndarray, dy: np.ndarray) -> np.ndarray:
        slopes = [np.zeros(grid.shape[:3], x.dtype) for _ in range(2)]
        for corner in CORNERS:
            values, weights, _ = _corner(x, grid, corner)
            pull = (values * dy).sum(1)
            for axis in range(2):
                slopes[axis] += (2 * corner[axis] - 1) * weights[1 - axis] * pull
        w, h = ((extent - 1) / 2 for extent in x.shape[2:])
        return np.stack([slopes[1] * h, slopes[0] * w], -1).astype(x.dtype)

    def kernel(self, k: Writer, x: Array, grid: Array, dy: Array, dgrid: Array) -> None:
        m, v, u = k.each(*grid.shape[:3])
        place = _Place(k, grid, (m, v, u), x.shape[2:])
        n = m // (grid.shape[0] // x.shape[0])
        c = k.axis(x.shape[1])
        pulls = {
            corner: k.sum(c, place.value(x, n, c, corner) * dy[m, c, v, u]) for corner in CORNERS
        }
        for axis, which in ((0, 1), (1, 0)):
            slope: Expr | None = None
            for corner, pull in pulls.items():
                part = pull * place.weight(1 - axis, corner[1 - axis])
                part = part if corner[axis] else -part
                slope = part if slope is None else slope + part
            assert slope is not None
            spacing = (x.shape[2 + axis] - 1) / 2
            dgrid[m, v, u, which] = slope * spacing

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(2, 3, 5, 4), _points((2, 3, 2), (5, 4)), normal(2, 3, 3, 2))
