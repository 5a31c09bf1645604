"""Sliding windows: what convolution and pooling share.

A window at output position o along one axis covers the image indices

    o * stride - before + tap * dilation    for tap = 0 .. kernel - 1

where `before` (and `after`) is the padding. The reverse question, which positions o cover image
index i with which tap, is what the gradients ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphc.error import need
from graphc.kernel.build import Writer
from graphc.kernel.lang import Expr, Var

Pads = tuple[tuple[int, int], ...]


def reach(kernel: int, dilation: int) -> int:
    """How many image elements a window spans, gaps included."""
    return dilation * (kernel - 1) + 1


def positions(extent: int, kernel: int, stride: int, pads: tuple[int, int], dilation: int) -> int:
    """The number of windows that fit into the padded image; below 1 where none does."""
    return (extent + sum(pads) - reach(kernel, dilation)) // stride + 1


def need_geometry(
    name: str,
    rank: int,
    *,
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Pads,
    dilations: Sequence[int] | None = None,
) -> None:
    """Raise NetError unless there is one sensible number per spatial axis."""
    dilations = (1,) * rank if dilations is None else dilations
    for what, given in (("kernel", kernel), ("strides", strides), ("dilations", dilations)):
        need(
            len(given) == rank and all(number >= 1 for number in given),
            f"{name}: {what} {tuple(given)} must be {rank} numbers of at least 1",
        )
    need(
        len(pads) == rank and all(number >= 0 for pair in pads for number in pair),
        f"{name}: pads {pads} must be {rank} pairs of numbers of at least 0",
    )


def stays_inside(
    extent: int, count: int, kernel: int, stride: int, before: int, dilation: int
) -> bool:
    """Whether every tap of every one of `count` windows lies inside the image."""
    return before == 0 and (count - 1) * stride + reach(kernel, dilation) <= extent


def both(left: Expr | None, right: Expr | None) -> Expr | None:
    """The guard that holds where both do; None stands for always."""
    if left is None or right is None:
        return right if left is None else left
    return left & right


def image_index(
    k: Writer,
    position: Sequence[Expr],
    tap: Sequence[Expr],
    *,
    extents: Sequence[int],
    counts: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Pads,
    dilations: Sequence[int],
) -> tuple[list[Expr], Expr | None]:
    """Indices into the image of the windows' taps, and the guard that they lie inside it."""
    index: list[Expr] = []
    guard: Expr | None = None
    for axis, extent in enumerate(extents):
        stride, before, dilation = strides[axis], pads[axis][0], dilations[axis]
        place = position[axis] * stride + tap[axis] * dilation - before
        if not stays_inside(extent, counts[axis], kernel[axis], stride, before, dilation):
            guard = both(guard, k.within(place, extent))
        index.append(place)
    return index, guard


def covering(
    k: Writer, index: Sequence[Expr], kernel: Sequence[int], strides: Sequence[int], pads: Pads
) -> tuple[list[Var], list[Expr], list[Expr], Expr | None]:
    """The windows (without dilation) that cover an image index.

    Returns the fold variables, and in terms of them each window's position, the tap with which it
    covers the index, and the guard that it does. Positions may lie outside 0 .. count - 1.
    """
    variables: list[Var] = []
    position: list[Expr] = []
    tap: list[Expr] = []
    guard: Expr | None = None
    for axis, place in enumerate(index):
        stride = strides[axis]
        back = k.axis(-(-kernel[axis] // stride))
        shifted = place + pads[axis][0]
        variables.append(back)
        position.append(shifted // stride - back)
        tap.append(shifted % stride + back * stride)
        if kernel[axis] % stride:
            guard = both(guard, tap[-1] < kernel[axis])
    return variables, position, tap, guard


# -- the same for numpy references ---------------------------------------------------------------


def padded(
    x: np.ndarray,
    fill: float,
    counts: Sequence[int],
    spans: Sequence[int],
    strides: Sequence[int],
    pads: Pads,
) -> np.ndarray:
    """x with `fill` around it, so that all windows (`spans` long) lie inside."""
    rank = len(counts)
    widths = [(0, 0)] * (x.ndim - rank)
    for axis in range(rank):
        end = (counts[axis] - 1) * strides[axis] + spans[axis]
        before = pads[axis][0]
        widths.append((before, max(0, end - before - x.shape[x.ndim - rank + axis])))
    return np.pad(x, widths, constant_values=fill)


def windows(
    image: np.ndarray, counts: Sequence[int], spans: Sequence[int], strides: Sequence[int]
) -> np.ndarray:
    """All windows of a padded image: [..., *counts, *spans], a view."""
    rank = len(counts)
    if rank == 0:
        return image
    axes = tuple(range(image.ndim - rank, image.ndim))
    found = np.lib.stride_tricks.sliding_window_view(image, tuple(spans), axis=axes)
    picked = tuple(
        slice(0, (count - 1) * stride + 1, stride)
        for count, stride in zip(counts, strides, strict=True)
    )
    at: tuple[Any, ...] = (..., *picked, *(slice(None),) * rank)
    return np.asarray(found[at])


def scattered(
    into: np.ndarray,
    tap: Sequence[int],
    counts: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> np.ndarray:
    """What tap `tap` of all windows meets in a padded image: [..., *counts], a view."""
    picked: tuple[Any, ...] = tuple(
        slice(t * dilation, t * dilation + (count - 1) * stride + 1, stride)
        for t, count, stride, dilation in zip(tap, counts, strides, dilations, strict=True)
    )
    return into[(..., *picked)]  # a view: writing to it writes to `into`


def cropped(image: np.ndarray, extents: Sequence[int], pads: Pads) -> np.ndarray:
    """The image without its padding."""
    picked: tuple[Any, ...] = tuple(
        slice(before, before + extent) for extent, (before, _) in zip(extents, pads, strict=True)
    )
    return image[(..., *picked)]
