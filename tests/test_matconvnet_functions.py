"""MatConvNet's functions against values it computed, and what the values cannot ask."""

from __future__ import annotations

import inspect
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import cases_folder

from graphc import function_call, vl
from graphc.error import NetError

FOLDER = cases_folder() / "matconvnet"
DTYPES = ("float64", "float32")


@cache
def read(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    return json.loads(str(arrays.pop("meta"))), arrays


def block_cases() -> list[str]:
    """Cases of one function each; L2Loss is a block of DagNN alone."""
    names = [path.stem for path in sorted(Path(FOLDER).glob("*.npz"))]
    kinds = {name: read(name)[0] for name in names}
    return [n for n, m in kinds.items() if m["kind"] == "block" and m["function"] != "L2Loss"]


def close(got: Any, wanted: np.ndarray, meta: dict[str, Any], key: str, dtype: str) -> None:
    """Whether a result passes by the case's own rule."""
    tolerance = meta["tolerance"]
    got = np.asarray(got)
    assert got.dtype == dtype
    assert got.shape == wanted.shape, f"{key} has shape {got.shape}, not {wanted.shape}"
    if not wanted.size:
        return
    limit = tolerance["float64"]
    if dtype == "float32":
        limit = (tolerance.get("float32") or {}).get(key, tolerance["float32_default"])
    error = np.abs(got.astype(np.float64) - wanted.astype(np.float64)).max()
    scale = tolerance["scale"][key]
    assert error <= limit * scale, f"{key}: off by {error:.3g}, scale {scale:.3g}"


def call_of(meta: dict[str, Any], arrays: dict[str, np.ndarray], dtype: str) -> tuple[Any, ...]:
    """The function, its positional and keyword arguments, and dzdy."""
    given = {k[3:]: a.astype(dtype) for k, a in arrays.items() if k.startswith("in_")}
    options = dict(meta["options"])
    projection = given.pop("dzdy")
    name = meta["function"].removeprefix("vl_nn")
    if name == "dropout":
        del options["rate"]  # the mask holds it
    if name in ("loss", "softmaxloss") and "master" in meta["source"]:
        options["version"] = "master"
    if name == "concat":
        return vl.concat, list(given.values()), options, projection
    return getattr(vl, name), [], {**given, **options}, projection


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", block_cases())
def test_it_computes_what_matconvnet_computed(name: str, dtype: str) -> None:
    meta, arrays = read(name)
    function, positional, named, projection = call_of(meta, arrays, dtype)
    close(function(*positional, **named), arrays["out_y"], meta, "y", dtype)
    found = function(*positional, **named, dzdy=projection)
    keys = [f"x{number}" for number in range(1, len(positional) + 1)]
    keys = [f"d{key}" for key in keys or inspect.signature(function).parameters]
    keys = [key for key in keys if f"out_{key}" in arrays and key != "dmoments"]
    if meta["function"] == "vl_nnbnorm":
        keys.append("dmoments")
    assert len(found) == len(keys)
    for key, part in zip(keys, found, strict=True):
        if f"out_{key}" in arrays:
            close(part, arrays[f"out_{key}"], meta, key, dtype)


def test_there_are_cases() -> None:
    """Without their folder a parametrised test runs nothing, and fails nowhere."""
    assert len(block_cases()) > 5


# -- what the cases cannot ask --------------------------------------------------------------------


def real(*shape: int, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def test_the_exercise_of_matconvnet() -> None:
    x, w = real(16, 16, 3, 2), real(5, 5, 3, 4, seed=1)
    y = vl.conv(x, w, None)
    z = vl.relu(y)
    p = real(*z.shape, seed=2)
    (dy,) = vl.relu(y, dzdy=p)
    dx, dw, db = vl.conv(x, w, None, dzdy=dy)
    np.testing.assert_array_equal(dy, p * (y > 0))
    assert db is None
    # the projection onto a direction is the slope of the projected value
    ex, ew = real(*x.shape, seed=3), real(*w.shape, seed=4)
    step = 1e-3
    sides = [
        (p.astype(float) * (y > 0) * vl.conv(x + s * step * ex, w + s * step * ew)).sum()
        for s in (1, -1)
    ]
    slope = (sides[0] - sides[1]) / (2 * step)
    assert slope == pytest.approx((dx * ex).sum() + (dw * ew).sum(), rel=1e-3)


def test_a_call_is_compiled_once() -> None:
    x = real(4, 4, 2, 1)
    vl.pool(x, 2, stride=2)
    before = function_call._compiled.cache_info().misses
    vl.pool(x + 1, [2, 2], stride=2)
    vl.pool(x + 2, [2, 2], stride=2)
    assert (
        function_call._compiled.cache_info().misses == before + 1
    )  # [2, 2] is another spelling of 2


def test_results_are_not_overwritten_by_the_next_call() -> None:
    x = real(3, 3, 1, 1)
    first = vl.sigmoid(x)
    kept = first.copy()
    vl.sigmoid(-x)
    np.testing.assert_array_equal(first, kept)


def test_axes_left_out_come_back_in_derivatives() -> None:
    x = real(4, 5)
    y = vl.relu(x)
    assert y.shape == (4, 5, 1, 1)
    (dx,) = vl.relu(x, dzdy=1.0)
    assert dx.shape == (4, 5)
    np.testing.assert_array_equal(dx, (x > 0).astype("float32"))


def test_an_even_lrn_window_reaches_one_channel_further_up() -> None:
    x = real(1, 1, 5, 1, dtype="float64")
    y = vl.normalize(x, [4, 0.5, 2.0, 0.75])
    squares = x[0, 0, :, 0] ** 2
    for c in range(5):
        scale = 0.5 + 2.0 * squares[max(c - 1, 0) : c + 3].sum()
        assert y[0, 0, c, 0] == pytest.approx(x[0, 0, c, 0] * scale**-0.75, rel=1e-12)


def test_ignored_elements_never_give_nan() -> None:
    x = np.full((1, 1, 2, 1), 0.5)
    (dx,) = vl.loss(x, np.array([[[[0]], [[1]]]]).reshape(1, 1, 2, 1), loss="binarylog", dzdy=1)
    np.testing.assert_allclose(dx.ravel(), [0, -2])
    zero = np.zeros((1, 1, 3, 1))
    assert vl.loss(zero, [0], loss="log").item() == 0


def test_dropout_draws_a_mask() -> None:
    x = np.ones((20, 20, 5, 1), "float32")
    y, mask = vl.dropout(x, rate=0.25)
    np.testing.assert_array_equal(y, mask)
    assert set(np.unique(mask)) == {0, np.float32(1 / 0.75)}
    assert 0.7 < (mask > 0).mean() < 0.8


def test_roipool_scales_corners_about_the_first_pixel() -> None:
    x = np.arange(36.0).reshape(6, 6, 1, 1)
    whole = vl.roipool(x, [[1], [1], [1], [6], [6]], subdivisions=[2, 3])
    scaled = vl.roipool(x, [[1], [1], [1], [11], [11]], subdivisions=[2, 3], transform=0.5)
    np.testing.assert_array_equal(whole, scaled)
    assert whole[:, :, 0, 0].tolist() == [[13, 15, 17], [31, 33, 35]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: vl.conv(x, real(9, 9, 3, 2)), "does not fit"),
        (lambda x: vl.conv(x, real(3, 3, 2, 2)), "filters of depth 2 do not divide the 3"),
        (lambda x: vl.conv(x, real(3, 3, 3, 2, dtype="float64")), "w is float64"),
        (lambda x: vl.conv(x, real(3, 3, 3, 2), real(3)), "biases have 3 elements for 2"),
        (lambda x: vl.pool(x, 2, pad=2), "must be smaller than the pooling window"),
        (lambda x: vl.pool(x, 2, method="sum"), "max or avg"),
        (lambda x: vl.loss(x, [1, 2], loss="softmaxlogg"), "did you mean 'softmaxlog'"),
        (lambda x: vl.loss(x, [1, 4]), "label 4 is none of 0 .. 3"),
        (lambda x: vl.loss(x, [1, 2, 3]), "do not fit scores of 6 x 6 x 3 x 2"),
        (lambda x: vl.relu(x, dzdy=real(5, 6, 3, 2)), "dzdy of 5 x 6 x 3 x 2 does not fit"),
        (lambda x: vl.loss(x, [1, 2], loss="topkerror", topK=4), "but there are 3 classes"),
        (lambda x: vl.normalizelp(x, p=3), "even"),
        (lambda x: vl.relu([["a"]]), "real numbers"),
    ],
)
def test_what_cannot_be_is_refused(call: Any, message: str) -> None:
    with pytest.raises(NetError, match=message):
        call(real(6, 6, 3, 2))
