"""MatConvNet's functions on odd shapes, against plain transcriptions of their formulas."""

# ruff: noqa: N803 (options have MATLAB's names)

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from graphc import vl

RNG = np.random.default_rng(6)
Array = np.ndarray


def four(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,) * 4


def two(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,) * 2


def padded(x: Array, pad: Any, value: float = 0.0) -> Array:
    top, bottom, left, right = four(pad)
    widths = ((top, bottom), (left, right), (0, 0), (0, 0))
    return np.pad(x, widths, constant_values=value)


def conv(x: Array, w: Array, b: Array | None = None, stride=1, pad=0, dilate=1) -> Array:
    x, (sy, sx), (dy, dx) = padded(x, pad), two(stride), two(dilate)
    height, width, depth, count = w.shape
    groups = x.shape[2] // depth
    rows = (x.shape[0] - (height - 1) * dy - 1) // sy + 1
    columns = (x.shape[1] - (width - 1) * dx - 1) // sx + 1
    y = np.zeros((rows, columns, count, x.shape[3]))
    for i, j, k in np.ndindex(rows, columns, count):
        first = k // (count // groups) * depth
        window = x[
            i * sy : i * sy + (height - 1) * dy + 1 : dy,
            j * sx : j * sx + (width - 1) * dx + 1 : dx,
            first : first + depth,
        ]
        y[i, j, k] = np.einsum("hwcn,hwc->n", window, w[..., k])
    return y if b is None else y + np.ravel(b)[None, None, :, None]


def convt(x: Array, w: Array, b: Array | None = None, upsample=1, crop=0, numGroups=1) -> Array:
    (uy, ux), (top, bottom, left, right) = two(upsample), four(crop)
    height, width, outputs, depth = w.shape
    rows = uy * (x.shape[0] - 1) + height
    columns = ux * (x.shape[1] - 1) + width
    y = np.zeros((rows, columns, outputs * numGroups, x.shape[3]))
    for i, j, c in np.ndindex(x.shape[0], x.shape[1], depth):
        group = c // (depth // numGroups)
        place = (slice(i * uy, i * uy + height), slice(j * ux, j * ux + width))
        made = w[:, :, :, c, None] * x[i, j, c]
        y[(*place, slice(group * outputs, (group + 1) * outputs))] += made
    y = y[top : rows - bottom, left : columns - right]
    return y if b is None else y + np.ravel(b)[None, None, :, None]


def pool(x: Array, pool: Any, stride=1, pad=0, method="max") -> Array:
    (height, width), (sy, sx) = two(pool), two(stride)
    inside = padded(x, pad, np.nan)
    rows = (inside.shape[0] - height) // sy + 1
    columns = (inside.shape[1] - width) // sx + 1
    y = np.zeros((rows, columns, *x.shape[2:]))
    for i, j in np.ndindex(rows, columns):
        window = inside[i * sy : i * sy + height, j * sx : j * sx + width]
        y[i, j] = (np.nanmax if method == "max" else np.nanmean)(window, axis=(0, 1))
    return y


def normalize(x: Array, param: Any) -> Array:
    size, kappa, alpha, beta = param
    y = np.zeros_like(x)
    for k in range(x.shape[2]):
        first = max(0, k - (int(size) - 1) // 2)
        last = k + int(np.ceil((size - 1) / 2))
        mass = (x[:, :, first : last + 1] ** 2).sum(axis=2)
        y[:, :, k] = x[:, :, k] * (kappa + alpha * mass) ** -beta
    return y


def spnorm(x: Array, param: Any) -> Array:
    height, width, alpha, beta = param
    top, left = (height - 1) // 2, (width - 1) // 2
    pad = [top, height - 1 - top, left, width - 1 - left]
    return x * (1 + alpha * pool(x**2, [height, width], pad=pad, method="avg")) ** -beta


def noffset(x: Array, param: Any) -> Array:
    mass = np.maximum((x**2).sum(axis=2, keepdims=True), 1e-8)
    return x - param[0] * mass ** param[1]


def normalizelp(x: Array, p=2, epsilon=0.01, spatial=False) -> Array:
    axes = (0, 1) if spatial else 2
    return x / ((x**p).sum(axis=axes, keepdims=True) + epsilon) ** (1 / p)


def bnorm(x: Array, g: Array, b: Array, epsilon=1e-4) -> Array:
    mu = x.mean(axis=(0, 1, 3), keepdims=True)
    sigma = np.sqrt(x.var(axis=(0, 1, 3), keepdims=True) + epsilon)
    g, b = (np.ravel(v)[None, None, :, None] for v in (g, b))
    return g * (x - mu) / sigma + b


def pdist(x: Array, x0: Array, p=2.0, noRoot=False, aggregate=False, epsilon=1e-6) -> Array:
    y = (np.abs(x - x0) ** p).sum(axis=2, keepdims=True)
    y = y if noRoot else y ** (1 / p)
    return y.sum().reshape(1, 1, 1, 1) if aggregate else y


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=2, keepdims=True))
    return e / e.sum(axis=2, keepdims=True)


def real(*shape: int) -> Array:
    return RNG.standard_normal(shape)


# Each case: a function of this file and vl, its inputs, its options.
CASES: list[tuple[Callable[..., Array], tuple[Any, ...], dict[str, Any]]] = [
    (conv, (real(1, 1, 1, 1), real(1, 1, 1, 1), real(1)), {}),
    (conv, (real(5, 4, 6, 1), real(2, 3, 6, 2), None), {"pad": [0, 3, 2, 1]}),
    (conv, (real(5, 7, 6, 2), real(3, 2, 2, 9), real(9)), {"stride": [2, 3], "pad": [1, 0, 0, 2]}),
    (conv, (real(7, 6, 4, 2), real(2, 2, 4, 3), real(3)), {"dilate": [3, 2], "stride": [2, 1]}),
    (conv, (real(3, 3, 2, 2), real(1, 1, 1, 2), None), {"stride": 5}),
    (conv, (real(2, 2, 3, 1), real(4, 4, 3, 1), real(1)), {"pad": [2, 2, 1, 3]}),
    (convt, (real(1, 1, 1, 1), real(1, 1, 1, 1), real(1)), {"upsample": 4}),
    (convt, (real(3, 2, 4, 2), real(3, 4, 3, 4), real(3)), {"crop": [1, 0, 0, 2]}),
    (convt, (real(2, 3, 4, 1), real(2, 3, 2, 4), real(4)), {"upsample": [3, 2], "numGroups": 2}),
    (convt, (real(3, 3, 6, 2), real(2, 2, 1, 6), None), {"upsample": [2, 3], "numGroups": 3}),
    (pool, (real(1, 1, 1, 1), 1), {}),
    (pool, (real(5, 4, 2, 1), [3, 2]), {"pad": [2, 1, 1, 0], "stride": [2, 3], "method": "avg"}),
    (pool, (real(5, 4, 2, 1), [3, 2]), {"pad": [2, 1, 1, 0], "stride": [1, 2]}),
    (pool, (real(6, 6, 1, 3), [6, 1]), {"stride": 7, "method": "avg"}),
    (normalize, (real(1, 1, 1, 1), [1, 2, 0.5, 0.75]), {}),
    (normalize, (real(2, 1, 7, 2), [4, 1, 0.3, 0.5]), {}),
    (normalize, (real(2, 1, 3, 1), [9, 2, 0.3, 0.75]), {}),
    (spnorm, (real(4, 5, 2, 1), [3, 2, 10, 0.5]), {}),
    (spnorm, (real(1, 1, 1, 1), [1, 1, 2, 2]), {}),
    (noffset, (real(2, 3, 4, 1), [0.7, 0.5]), {}),
    (normalizelp, (real(3, 2, 4, 1),), {"p": 4}),
    (normalizelp, (real(3, 2, 4, 2),), {"spatial": True, "epsilon": 0.5}),
    (bnorm, (real(1, 1, 3, 4), real(3), real(3)), {}),
    (bnorm, (real(2, 3, 1, 1), real(1), real(1)), {"epsilon": 0.1}),
    (pdist, (real(2, 3, 4, 1), real(2, 3, 4, 1), 1.0), {}),
    (pdist, (real(1, 1, 1, 1), real(1, 1, 1, 1), 2.0), {}),
    (pdist, (real(2, 2, 3, 2), real(2, 2, 3, 2), 3.0), {"noRoot": True, "aggregate": True}),
    (softmax, (real(1, 1, 1, 1),), {}),
    (softmax, (real(2, 1, 5, 1),), {}),
]
IDS = [f"{case[0].__name__} {i}" for i, case in enumerate(CASES)]


def slopes(function: Callable[..., Array], inputs: list[Any], at: int, dzdy: Array) -> Array:
    """Central differences of sum(dzdy * y) with respect to one input."""
    x = inputs[at]
    found = np.zeros_like(x)
    for place in np.ndindex(*x.shape):
        ends = []
        for step in (1e-6, -1e-6):
            moved = x.copy()
            moved[place] += step
            ends.append((dzdy * function(*inputs[:at], moved, *inputs[at + 1 :])).sum())
        found[place] = (ends[0] - ends[1]) / 2e-6
    return found


@pytest.mark.parametrize(("function", "inputs", "options"), CASES, ids=IDS)
def test_value_and_derivatives(
    function: Callable[..., Array], inputs: tuple[Any, ...], options: dict[str, Any]
) -> None:
    own = getattr(vl, function.__name__)
    wanted = function(*inputs, **options)
    y = own(*inputs, **options)
    assert y.shape == wanted.shape
    np.testing.assert_allclose(y, wanted, rtol=1e-9, atol=1e-12)
    single = own(*(a.astype("f4") if isinstance(a, Array) else a for a in inputs), **options)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, wanted, rtol=1e-4, atol=1e-5)
    dzdy = RNG.standard_normal(wanted.shape)
    found = own(*inputs, dzdy=dzdy, **options)
    arrays = [i for i, value in enumerate(inputs) if isinstance(value, Array)]
    for i in arrays:
        expected = slopes(lambda *a: function(*a, **options), list(inputs), i, dzdy)
        assert found[i].shape == inputs[i].shape
        np.testing.assert_allclose(found[i], expected, rtol=1e-6, atol=1e-7)


def test_empty_filters_pad_subsample_and_add_biases() -> None:
    x, b = real(5, 4, 3, 2), real(3)
    options = {"stride": [2, 3], "pad": [1, 2, 0, 1]}
    wanted = padded(x, options["pad"])[::2, ::3] + b[None, None, :, None]
    np.testing.assert_array_equal(vl.conv(x, [], b, **options), wanted)
    dzdy = real(*wanted.shape)
    dx, dw, db = vl.conv(x, [], b, dzdy=dzdy, **options)
    assert np.size(dw) == 0
    whole = np.zeros((8, 5, 3, 2))
    whole[::2, ::3] = dzdy
    np.testing.assert_array_equal(dx, whole[1:6, :4])
    np.testing.assert_allclose(db, dzdy.sum(axis=(0, 1, 3)))


def test_concat_and_crop_of_single_things() -> None:
    x, z = real(1, 2, 3, 1), real(1, 2, 1, 1)
    y = vl.concat(x, z)
    np.testing.assert_array_equal(y, np.concatenate([x, z], axis=2))
    dx, dz = vl.concat(x, z, dzdy=y)
    np.testing.assert_array_equal(dx, x)
    np.testing.assert_array_equal(dz, z)
    (alone,) = vl.concat(x, dzdy=x)
    np.testing.assert_array_equal(alone, x)
    p = real(3, 4, 2, 1)
    (back,) = vl.crop(p, [0, 2, 1, 0], dzdy=np.ones((1, 3, 2, 1)))
    assert back.sum() == 6
    np.testing.assert_array_equal(vl.crop(p, [0, 2, 1, 0]), p[:1, 1:])
