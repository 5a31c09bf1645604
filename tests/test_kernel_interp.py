"""The kernel interpreter against plain numpy formulas."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.error import NetError
from graphc.kernel.build import Array, Writer
from graphc.kernel.interp import interpret
from graphc.kernel.lang import Buffer, Kernel
from graphc.kernel.reading import parse_kernel
from graphc.kernel.verify import verify

RNG = np.random.default_rng(0)


def run(
    text: str, *inputs: np.ndarray, schedule: np.random.Generator | None = None
) -> list[np.ndarray]:
    """Outputs of a kernel text, which start as 7 everywhere."""
    kernel = parse_kernel(text)
    verify(kernel)
    outputs = [np.full(b.shape, 7, b.dtype) for b in kernel.outputs]
    assert interpret(kernel, [*inputs, *outputs], schedule) == []
    return outputs


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


SOFTMAX = """kernel softmax(x: float32[2, 5, 9], y: float32[2, 5, 9]) each o:2 i:9
    top = max c:5 x[o, c, i]
    mass = sum c:5 exp(sub(x[o, c, i], top))
    y[o, c, i] = div(exp(sub(x[o, c, i], top)), mass) for c:5"""


@pytest.mark.parametrize("scheduled", [False, True])
def test_softmax(scheduled: bool) -> None:
    x = normal(2, 5, 9)
    power = np.exp(x.astype(np.float64))
    schedule = np.random.default_rng(3) if scheduled else None
    (y,) = run(SOFTMAX, x, schedule=schedule)
    np.testing.assert_allclose(y, power / power.sum(1, keepdims=True), rtol=1e-6)


def test_written_with_the_builder() -> None:
    w = Writer("row_sums")
    x, y = (
        Array(w, Buffer("x", "float32", (3, 4), (4, 1))),
        Array(w, Buffer("y", "float32", (3,), (1,))),
    )
    (i,) = w.each(3)
    j = w.axis(4)
    y[i] = w.sum(j, x[i, j]) * 2
    kernel = w.finish([x.buffer], [y.buffer])
    values, result = normal(3, 4), np.zeros(3, np.float32)
    interpret(kernel, [values, result])
    np.testing.assert_allclose(result, values.sum(1) * 2, rtol=1e-6)


def test_convolution_with_padding() -> None:
    x, w = normal(2, 3, 6, 5), normal(4, 3, 3, 3)
    each = "each n:2 f:4 p:3 q:3"
    row, column = "sub(add(mul(p, 2), r), 1)", "sub(add(mul(q, 2), s), 1)"
    inside = f"and(and(le(0, {row}), lt({row}, 6)), and(le(0, {column}), lt({column}, 5)))"
    (y,) = run(
        f"""kernel c(x: float32[2, 3, 6, 5], w: float32[4, 3, 3, 3], y: float32[2, 4, 3, 3]) {each}
        t = sum c:3 r:3 s:3 mul(x[n, c, {row}, {column}], w[f, c, r, s]) where {inside}
        y[n, f, p, q] = t""",
        x,
        w,
    )
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))[:, :, ::2, ::2]
    np.testing.assert_allclose(y, np.einsum("ncpqrs,fcrs->nfpq", windows, w), rtol=1e-4, atol=1e-5)


def test_argmax_takes_the_first_of_equals_and_never_a_nan() -> None:
    x = np.array([[1, 3, 3, 2], [np.nan, -1, np.nan, -1], [np.nan] * 4], np.float32)
    best, place = run(
        """kernel argmax(x: float32[3, 4], b: float32[3], p: int64[3]) each i:3
        t, u = argmax c:4 x[i, c], c
        b[i] = t
        p[i] = u""",
        x,
    )
    assert best.tolist() == [3, -1, -np.inf]
    assert place.tolist() == [1, 1, 0]


def test_pooling_mask_and_its_gradient() -> None:
    x = normal(2, 5, 5)
    row, column = "add(mul(p, 2), r)", "add(mul(q, 2), s)"
    y, mask = run(
        f"""kernel k(x: float32[2, 5, 5], y: float32[2, 2, 2], m: int64[2, 2, 2]) each c:2 p:2 q:2
        t, u = argmax r:3 s:3 x[c, {row}, {column}], add(mul({row}, 5), {column})
        y[c, p, q] = t
        m[c, p, q] = u""",
        x,
    )
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))[:, ::2, ::2]
    assert np.array_equal(y, windows.max((3, 4)))
    assert np.array_equal(
        np.take_along_axis(x.reshape(2, 25), mask.reshape(2, 4), 1), y.reshape(2, 4)
    )
    (dx,) = run(
        """kernel unpool(dy: float32[2, 2, 2], m: int64[2, 2, 2], dx: float32[2, 25]) each c:2
        dx[c, k] = 0.0 for k:25
        dx[c, m[c, p, q]] += dy[c, p, q] for p:2 q:2""",
        y,
        mask,
    )
    expected = np.zeros((2, 25), np.float32)
    for c in range(2):
        for place, value in zip(mask[c].ravel(), y[c].ravel(), strict=True):
            expected[c, place] += value
    assert np.array_equal(dx, expected)


def test_adds_at_a_data_index_run_in_row_major_order() -> None:
    # In float32, 1e8 + 1 is 1e8: the order of the additions shows in the result.
    values = np.array([1, 1e8, -1e8, 1, 1, -1e8, 1e8, 1], np.float32).reshape(4, 2)
    place = np.zeros(4, np.int64)
    (y,) = run(
        """kernel scatter(v: float32[4, 2], p: int64[4], y: float32[1])
        y[k] = 0.0 for k:1
        y[p[i]] += v[i, j] for i:4 j:2""",
        values,
        place,
    )
    total = np.float32(0)
    for value in values.ravel():
        total += value
    assert y[0] == total == 1
    assert values.sum(dtype=np.float64) == 4


def test_a_check_reports_the_first_wrong_number_and_nothing_is_skipped() -> None:
    kernel = parse_kernel(
        """kernel pick(x: float32[3, 4], label: float32[3], y: float32[3]) each i:3
        k = int64(label[i])
        check and(le(0, k), lt(k, 4)), "the label is not within 0 .. 3", k
        y[i] = x[i, min(max(k, 0), 3)]"""
    )
    x, y = normal(3, 4), np.zeros(3, np.float32)
    assert interpret(kernel, [x, np.array([0, 1, 3], np.float32), y]) == []
    assert y.tolist() == [x[0, 0], x[1, 1], x[2, 3]]
    (failure,) = interpret(kernel, [x, np.array([0, 9, -2], np.float32), y])
    assert (failure.message, failure.value) == ("the label is not within 0 .. 3", 9)
    assert y.tolist() == [x[0, 0], x[1, 3], x[2, 0]]


def test_empty_folds() -> None:
    more = "p: int64[3], n: int32[3]"
    y, b, p, n = run(
        f"""kernel k(x: float32[3, 4], y: float32[3, 4], b: float32[3], {more}) each i:3
        s = sum c:4 x[i, c] where lt(c, i)
        h = max c:4 x[i, c] where lt(c, i)
        l = min c:4 x[i, c] where lt(c, i)
        f = prod c:4 x[i, c] where lt(c, i)
        t, u = argmin c:4 x[i, c], c where lt(c, i)
        y[i, 0] = s
        y[i, 1] = h
        y[i, 2] = l
        y[i, 3] = f
        b[i] = t
        p[i] = u
        n[i] = int32(h)""",
        np.arange(1, 13, dtype=np.float32).reshape(3, 4),
    )
    assert y.tolist() == [[0, -np.inf, np.inf, 1], [5, 5, 5, 5], [19, 10, 9, 90]]
    assert b.tolist() == [np.inf, 5, 9] and p.tolist() == [0, 0, 0]
    assert n.tolist() == [-(2**31), 5, 10]


def test_conversions_saturate_and_integers_divide_downwards() -> None:
    x = np.array([np.nan, np.inf, -np.inf, 1e20, -1e20, 2.9, -2.9, 300, -7], np.float32)
    wide, byte, half, rest = run(
        """kernel c(x: float32[9], w: int64[9], b: uint8[9], h: int64[9], r: int64[9]) each i:9
        t = int64(x[i])
        w[i] = t
        b[i] = uint8(x[i])
        h[i] = floordiv(t, 4)
        r[i] = mod(t, 4)""",
        x,
    )
    top, low = 2**63 - 1, -(2**63)
    assert wide.tolist() == [0, top, low, top, low, 2, -2, 300, -7]
    assert byte.tolist() == [0, 255, 0, 255, 0, 2, 0, 255, 0]
    assert half[-3:].tolist() == [-1, 75, -2] and rest[-3:].tolist() == [2, 0, 1]


def test_strides_do_not_change_the_meaning() -> None:
    x = normal(2, 5, 9)
    turned = np.ascontiguousarray(x.transpose(0, 2, 1)).transpose(0, 2, 1)
    assert np.array_equal(run(SOFTMAX, x)[0], run(SOFTMAX, turned)[0])


def test_large_loops_are_cut_without_changing_the_result() -> None:
    x = RNG.integers(-3, 4, (40, 70, 900)).astype(np.float32)
    total, best, place = run(
        """kernel k(x: float32[40, 70, 900], t: float32[40], b: float32[40], p: int64[40]) each i:40
        s = sum j:70 k:900 x[i, j, k]
        u, v = argmax j:70 k:900 x[i, j, k], add(mul(j, 900), k)
        t[i] = s
        b[i] = u
        p[i] = v""",
        x,
    )
    assert np.array_equal(total, x.sum((1, 2)))
    assert np.array_equal(place, x.reshape(40, -1).argmax(1)) and (best == 3).all()


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("y[i] = x[add(i, label[i])]", "reads x[4], outside float32[4]"),
        ("y[sub(label[i], 2)] = x[i]", "stores to y[-1], outside float32[4]"),
    ],
)
def test_out_of_bounds_is_an_error(statement: str, words: str) -> None:
    kernel = parse_kernel(
        f"kernel k(x: float32[4], label: int64[4], y: float32[4]) each i:4\n{statement}"
    )
    arrays = [normal(4), np.ones(4, np.int64), np.zeros(4, np.float32)]
    with pytest.raises(NetError) as caught:
        interpret(kernel, arrays)
    assert words in str(caught.value)


def test_a_guarded_statement_may_point_outside() -> None:
    (y,) = run(
        """kernel shift(x: float32[4], y: float32[4]) each i:4
        y[i] = 0.0
        y[i] = x[sub(i, 1)] where le(1, i)""",
        np.array([1, 2, 3, 4], np.float32),
    )
    assert y.tolist() == [0, 1, 2, 3]


def test_empty_arrays() -> None:
    kernel: Kernel = parse_kernel(
        """kernel none(x: float32[3, 0], y: float32[3]) each i:3
        s = sum c:0 x[i, c]
        y[i] = s"""
    )
    result = np.full(3, 5, np.float32)
    interpret(kernel, [np.zeros((3, 0), np.float32), result])
    assert result.tolist() == [0, 0, 0]


def test_wrong_arrays_are_named() -> None:
    kernel = parse_kernel(SOFTMAX)
    with pytest.raises(NetError, match="x is float32"):
        interpret(kernel, [np.zeros((2, 5, 9)), np.zeros((2, 5, 9), np.float32)])
    with pytest.raises(NetError, match="takes 2 arrays"):
        interpret(kernel, [np.zeros((2, 5, 9), np.float32)])
