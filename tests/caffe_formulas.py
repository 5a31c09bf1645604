"""Caffe's layers in numpy, straight from their definitions: loops over taps, windows and steps.

Slow, plain and apart from graphc's own reference functions, so that a test can compare with them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

Array = np.ndarray
Extents = Sequence[int]


def correlation(
    x: Array, w: Array, b: Array, stride: Extents, pad: Extents, dilation: Extents, groups: int = 1
) -> Array:
    """Convolution: x [N, C, ...], w [O, C / groups, ...]."""
    kernel, axes = w.shape[2:], range(x.ndim - 2)
    padded = np.pad(x, [(0, 0), (0, 0), *((p, p) for p in pad)])
    out = [(padded.shape[2 + i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in axes]
    y = np.zeros((len(x), len(w), *out))
    width, made = w.shape[1], len(w) // groups
    for group in range(groups):
        read, write = _part(group, width), _part(group, made)
        for tap in itertools.product(*map(range, kernel)):
            at = tuple(_row(tap[i] * dilation[i], stride[i], out[i]) for i in axes)
            taken, weights = padded[(slice(None), read, *at)], w[(write, slice(None), *tap)]
            y[:, write] += np.einsum("nc...,oc->no...", taken, weights)
    return y + b.reshape(-1, *(1 for _ in axes))


def spreading(
    x: Array, w: Array, b: Array, stride: Extents, pad: Extents, dilation: Extents, groups: int = 1
) -> Array:
    """Deconvolution: x [N, C, ...], w [C, O / groups, ...]; every pixel paints a kernel."""
    kernel, axes = w.shape[2:], range(x.ndim - 2)
    full = [stride[i] * (x.shape[2 + i] - 1) + dilation[i] * (kernel[i] - 1) + 1 for i in axes]
    y = np.zeros((len(x), w.shape[1] * groups, *full))
    width, made = x.shape[1] // groups, w.shape[1]
    for group in range(groups):
        read, write = _part(group, width), _part(group, made)
        for tap in itertools.product(*map(range, kernel)):
            at = tuple(_row(tap[i] * dilation[i], stride[i], x.shape[2 + i]) for i in axes)
            painted = np.einsum("nc...,co->no...", x[:, read], w[(read, slice(None), *tap)])
            y[(slice(None), write, *at)] += painted
    inside = tuple(slice(p, extent - p) for p, extent in zip(pad, full, strict=True))
    return y[(slice(None), slice(None), *inside)] + b.reshape(-1, *(1 for _ in axes))


def _part(number: int, width: int) -> slice:
    return slice(number * width, (number + 1) * width)


def _row(first: int, step: int, count: int) -> slice:
    return slice(first, first + step * (count - 1) + 1, step)


def pooled(
    x: Array, kernel: Extents, stride: Extents, pad: Extents, method: str, ceil: bool = True
) -> tuple[Array, Array]:
    """Pooling of x [N, C, H, W]: values, and for MAX the place of each within its plane."""
    extents = x.shape[2:]
    y = np.zeros(
        (
            *x.shape[:2],
            *(_windows(*z, ceil, any(pad)) for z in zip(extents, kernel, stride, pad, strict=True)),
        )
    )
    places = np.zeros_like(y)
    for row, column in np.ndindex(*y.shape[2:]):
        starts = [row * stride[0] - pad[0], column * stride[1] - pad[1]]
        ends = [min(s + k, e + p) for s, k, e, p in zip(starts, kernel, extents, pad, strict=True)]
        area = (ends[0] - starts[0]) * (ends[1] - starts[1])
        top, left = (max(start, 0) for start in starts)
        window = x[:, :, top : min(ends[0], extents[0]), left : min(ends[1], extents[1])]
        flat = window.reshape(*x.shape[:2], -1)
        best = flat.argmax(axis=2)
        width = window.shape[3]
        y[:, :, row, column] = flat.sum(axis=2) / area if method == "AVE" else flat.max(axis=2)
        places[:, :, row, column] = (top + best // width) * extents[1] + left + best % width
    return y, places


def _windows(extent: int, kernel: int, stride: int, pad: int, ceil: bool, is_padded: bool) -> int:
    room = (extent + 2 * pad - kernel) / stride
    count = (math.ceil(room) if ceil else math.floor(room)) + 1
    return count - 1 if is_padded and (count - 1) * stride >= extent + pad else count


def pyramid(x: Array, height: int, method: str) -> Array:
    """Spatial pyramid pooling."""
    levels = []
    for level in range(height):
        bins = 2**level
        kernel = [math.ceil(extent / bins) for extent in x.shape[2:]]
        pad = [(k * bins - e + 1) // 2 for k, e in zip(kernel, x.shape[2:], strict=True)]
        levels.append(pooled(x, kernel, kernel, pad, method)[0].reshape(len(x), -1))
    return np.concatenate(levels, axis=1)


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x)."""
    return 1 / (1 + np.exp(-x))


def lstm(
    x: Array, cont: Array, drive: Array, recurrent: Array, hidden: Array, cell: Array
) -> tuple[Array, Array, Array]:
    """An LSTM over x's time steps; `drive` [T, N, 4 H] is what its inputs give to the gates."""
    outputs = []
    for given, mark in zip(drive, cont[:, :, np.newaxis], strict=True):
        entering, forget, leaving, new = np.split(given + (mark * hidden) @ recurrent.T, 4, axis=1)
        cell = mark * sigmoid(forget) * cell + sigmoid(entering) * np.tanh(new)
        hidden = sigmoid(leaving) * np.tanh(cell)
        outputs.append(hidden)
    return np.stack(outputs), hidden[np.newaxis], cell[np.newaxis]


def rnn(
    cont: Array, drive: Array, recurrent: Array, leaving: Array, bias: Array, hidden: Array
) -> tuple[Array, Array]:
    """A plain recurrent net; `drive` [T, N, H]."""
    outputs = []
    for given, mark in zip(drive, cont[:, :, np.newaxis], strict=True):
        hidden = np.tanh(given + (mark * hidden) @ recurrent.T)
        outputs.append(np.tanh(hidden @ leaving.T + bias))
    return np.stack(outputs), hidden[np.newaxis]


def standardised(x: Array, across: bool, variance: bool) -> Array:
    """MVN, with an epsilon that does not matter."""
    four = x.reshape(*x.shape, *(1 for _ in range(4 - x.ndim)))
    axes = (1, 2, 3) if across else (2, 3)
    centred = four - four.mean(axes, keepdims=True)
    if variance:
        centred = centred / (np.sqrt((centred**2).mean(axes, keepdims=True)) + 1e-9)
    return centred.reshape(x.shape)


def largest(x: Array, axis: int | None, count: int, values: bool) -> Array:
    """ArgMax: the higher index first among equals."""
    rows = x.reshape(len(x), -1) if axis is None else np.moveaxis(x, axis, -1)
    order = np.apply_along_axis(_order, -1, rows)[..., :count]
    held = np.take_along_axis(rows, order, -1)
    if axis is not None:
        return np.moveaxis(held if values else order, -1, axis)
    shown = np.stack([order, held] if values else [order], axis=1)
    return shown.reshape(*shown.shape, *(1 for _ in range(x.ndim - 3)))


def _order(row: Array) -> Array:
    return np.array(sorted(range(len(row)), key=lambda place: (-row[place], -place)))


def accuracy(x: Array, label: Array, top_k: int, ignored: int | None, axis: int = 1) -> list[Array]:
    """The share of right answers, and that of each class; equal scores count against the label."""
    rows = np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis])
    right: dict[int, list[bool]] = {number: [] for number in range(x.shape[axis])}
    for row, number in zip(rows, label.reshape(-1).astype(int), strict=True):
        if number != ignored:
            right[number].append(int((row >= row[number]).sum()) - 1 < top_k)
    everything = [answer for answers in right.values() for answer in answers]
    shares = [np.mean(answers) if answers else 0.0 for answers in (everything, *right.values())]
    return [np.array(shares[0]), np.array(shares[1:])]
