"""Kernels as nets have them, compiled for several targets, against numpy's formulas."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from native_kernels import NativeKernel, compile_kernels
from native_programs import TARGETS, channels_last, dense, kernel

from graphc.codegen.fingerprint import fingerprint
from graphc.codegen.llvm import ir
from graphc.codegen.llvm.interleave import emit_interleave
from graphc.codegen.llvm.schedule import schedule
from graphc.codegen.llvm.target import Target
from graphc.codegen.llvm.transpose import emit_transpose
from graphc.codegen.nodes import Nodes
from graphc.kernel import philox
from graphc.kernel.lang import INDEX, Buffer, Kernel
from graphc.ops.dropout import Dropout

SIZES = (1, 7, 15, 16, 17, 63, 64, 65, 130)
Image = Callable[..., Buffer]


def native(made: Kernel, target: str = "host") -> NativeKernel:
    (compiled,) = compile_kernels([made], Target.named(target))
    if isinstance(compiled, Exception):
        raise compiled
    return compiled


def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def real(*shape: int, dtype: str = "float32") -> np.ndarray:
    return rng().standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("size", SIZES)
def test_elementwise_chain(size: int, target: str):
    def chain(k, x, scale, y):
        i, j = k.each(3, size)
        t = k.let(k.tanh(x[i, j]) * scale[j])
        y[i, j] = k.select(t < 0.0, t * 0.25, k.exp(t) + t)

    made = kernel(chain, [dense("x", 3, size), dense("s", size)], [dense("y", 3, size)])
    x, scale = real(3, size), real(size)
    (y,) = native(made, target)([x, scale, np.zeros_like(x)])
    t = np.tanh(x) * scale
    np.testing.assert_allclose(y, np.where(t < 0, t / 4, np.exp(t) + t), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("outer", "classes", "inner"), [(3, s, 1) for s in SIZES] + [(2, 5, 67)])
def test_softmax(outer: int, classes: int, inner: int, dtype: str, target: str):
    def softmax(k, x, y):
        o, i = k.each(outer, inner)
        c = k.axis(classes)
        top = k.max(c, x[o, c, i])
        mass = k.sum(c, k.exp(x[o, c, i] - top))
        y[o, c, i] = k.exp(x[o, c, i] - top) / mass

    shape = (outer, classes, inner)
    made = kernel(softmax, [dense("x", *shape, dtype=dtype)], [dense("y", *shape, dtype=dtype)])
    x = real(*shape, dtype=dtype) * 30
    (y,) = native(made, target)([x, np.zeros_like(x)])
    wanted = np.exp(x - x.max(1, keepdims=True))
    tolerance = 1e-6 if dtype == "float32" else 1e-14
    np.testing.assert_allclose(y, wanted / wanted.sum(1, keepdims=True), atol=tolerance)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 17), (700, 1001)])
def test_long_float_sum_stays_accurate(shape: tuple[int, int], target: str):
    def total(k, x, y):
        i, j = k.axes(*shape)
        y[()] = k.sum([i, j], x[i, j])

    made = kernel(total, [dense("x", *shape)], [dense("y")])
    x = rng().uniform(0, 1, shape).astype(np.float32)
    (y,) = native(made, target)([x, np.zeros((), np.float32)])
    # One float after another would lose up to four digits of 700 000 numbers of one sign.
    assert abs(float(y) - x.sum(dtype=np.float64)) < 2e-6 * x.sum(dtype=np.float64)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("image", [dense, channels_last])
@pytest.mark.parametrize(("channels", "height", "width"), [(3, 7, 9), (16, 5, 5), (17, 8, 40)])
def test_max_pooling_with_places(channels: int, height: int, width: int, image: Image, target: str):
    high, wide = (height + 1) // 2 + 1, (width + 1) // 2 + 1

    def pooling(k, x, y, place):
        n, c, h, w = k.each(2, channels, high, wide)
        p, q = k.axes(3, 3)
        row, column = h * 2 - 1 + p, w * 2 - 1 + q
        inside = k.within(row, height) & k.within(column, width)
        best, found = k.argmax([p, q], x[n, c, row, column], row * width + column, inside)
        y[n, c, h, w] = best
        place[n, c, h, w] = found

    out = (2, channels, high, wide)
    made = kernel(
        pooling,
        [image("x", 2, channels, height, width)],
        [image("y", *out), dense("place", *out, dtype="int64")],
    )
    x = np.round(real(2, channels, height, width) * 2)  # many equals: the first must win
    x[0, 0, 0, 0] = np.nan
    y, place = native(made, target)([x, np.zeros(out, "f"), np.zeros(out, np.int64)])
    for at in np.ndindex(out):
        n, c, h, w = at
        rows = range(max(0, 2 * h - 1), min(height, 2 * h + 2))
        columns = range(max(0, 2 * w - 1), min(width, 2 * w + 2))
        best, found = -np.inf, 0
        for r in rows:
            for s in columns:
                if x[n, c, r, s] > best:
                    best, found = x[n, c, r, s], r * width + s
        assert (y[at], place[at]) == (best, found)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("image", [dense, channels_last])
def test_convolution_with_guards(image: Image, target: str):
    def convolution(k, x, w, y):
        n, o, i, j = k.each(2, 5, 4, 9)
        c, p, q = k.axes(3, 3, 3)
        row, column = i * 2 + p - 1, j + q - 1
        inside = k.within(row, 7) & k.within(column, 9)
        y[n, o, i, j] = k.sum([c, p, q], x[n, c, row, column] * w[o, c, p, q], inside)

    made = kernel(
        convolution,
        [image("x", 2, 3, 7, 9), dense("w", 5, 3, 3, 3)],
        [image("y", 2, 5, 4, 9)],
    )
    x, w = real(2, 3, 7, 9), real(5, 3, 3, 3)
    (y,) = native(made, target)([x, w, np.zeros((2, 5, 4, 9), "f")])
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))[:, :, ::2]
    np.testing.assert_allclose(y, np.einsum("nchwij,ocij->nohw", windows, w), atol=2e-5)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("width", [1, 16, 37])
def test_rows_are_added_where_labels_say(width: int, target: str):
    def scatter(k, rows, label, table):
        (n,) = k.each(50)
        c = k.axis(width)
        k.add(table, (k.cast(label[n], INDEX), c), rows[n, c])

    made = kernel(
        scatter,
        [dense("rows", 50, width), dense("label", 50, dtype="uint8")],
        [dense("table", 6, width)],
    )
    rows, label = real(50, width), rng().integers(0, 6, 50).astype(np.uint8)
    (table,) = native(made, target)([rows, label, np.ones((6, width), "f")])
    wanted = np.ones((6, width), "f")
    for n in range(50):  # in this order, to the last bit
        wanted[label[n]] += rows[n]
    np.testing.assert_array_equal(table, wanted)


@pytest.mark.parametrize("target", TARGETS)
def test_integers_and_casts(target: str):
    def casts(k, x, small, y, whole):
        (i,) = k.each(40)
        y[i] = k.cast(x[i], INDEX)
        whole[i] = k.cast(small[i], INDEX) % 7 - k.cast(small[i], INDEX) // 16

    made = kernel(
        casts,
        [dense("x", 40, dtype="float64"), dense("small", 40, dtype="uint8")],
        [dense("y", 40, dtype="int64"), dense("whole", 40, dtype="int64")],
    )
    x = np.linspace(-3, 3, 40)
    x[:4] = np.nan, np.inf, -np.inf, -0.5
    small = np.arange(40, dtype=np.uint8) * 6
    y, whole = native(made, target)([x, small, np.zeros(40, "q"), np.zeros(40, "q")])
    assert list(y[:4]) == [0, 2**63 - 1, -(2**63), 0]
    np.testing.assert_array_equal(y[4:], np.trunc(x[4:]).astype("q"))
    np.testing.assert_array_equal(whole, small.astype("q") % 7 - small.astype("q") // 16)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("whole", ["int32", "int64"])
@pytest.mark.parametrize("real", ["float32", "float64"])
def test_real_numbers_beyond_the_whole_ones(real: str, whole: str, target: str):
    def casts(k, x, y):
        (i,) = k.each(32)
        y[i] = k.cast(x[i], whole)

    made = kernel(casts, [dense("x", 32, dtype=real)], [dense("y", 32, dtype=whole)])
    limits = np.iinfo(whole)
    end = np.asarray(-float(limits.min), real)
    below = np.nextafter(end, end.dtype.type(0))
    edges = [np.nan, np.inf, -np.inf, end, -end, below, -below, 4 * end, -4 * end, 0.9, -0.9, -0.0]
    x = np.resize(np.asarray(edges, real), 32)
    wanted = [
        0 if np.isnan(value) else int(np.clip(value, -1e30, 1e30)) for value in x.astype("f8")
    ]
    (y,) = native(made, target)([x, np.zeros(32, whole)])
    assert list(y) == [min(max(value, limits.min), limits.max) for value in wanted]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("size", [5, 16, 100])
def test_failed_check_is_reported_and_nothing_is_read_outside(size: int, target: str):
    def look_up(k, table, label, y):
        (n,) = k.each(size)
        y[n] = table[k.index(label[n], 10, "a label")]

    made = kernel(look_up, [dense("t", 10), dense("l", size)], [dense("y", size)])
    run = native(made, target)
    label = np.arange(size, dtype=np.float32) % 10
    (y,) = run([real(10), label, np.zeros(size, "f")])
    np.testing.assert_array_equal(y, real(10)[label.astype(int)])
    label[size - 2] = 10**9
    error = (ctypes.c_int64 * 2)()
    arrays = [real(10), label, np.zeros(size, "f")]
    function = ctypes.CFUNCTYPE(
        None, *[ctypes.c_void_p] * 3, *[ctypes.c_int64] * 2, ctypes.c_void_p
    )
    addresses = [a.ctypes.data for a in arrays]
    function(run.address)(*addresses, 0, run.emitted.extent, ctypes.addressof(error))
    assert list(error) == [1, 10**9]
    assert run.emitted.checks == ("a label is not within 0 .. 9",)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("rows", "columns"), [(5, 0), (40, 0), (0, 5), (0, 0)])
def test_loops_that_never_run(rows: int, columns: int, target: str):
    def folds(k, x, total, top, place):
        (i,) = k.each(rows)
        j = k.axis(columns)
        total[i] = k.sum(j, x[i, j])
        top[i] = k.max(j, x[i, j])
        place[i] = k.argmax(j, x[i, j], j)[1]

    made = kernel(
        folds,
        [dense("x", rows, columns)],
        [dense("total", rows), dense("top", rows), dense("place", rows, dtype="int64")],
    )
    arrays = [np.ones((rows, columns), "f"), np.ones(rows, "f"), np.ones(rows, "f")]
    total, top, place = native(made, target)([*arrays, np.ones(rows, "q")])
    assert (total == 0).all() and (top == -np.inf).all() and (place == 0).all()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "shape", [(2, 17, 5, 9), (1, 64, 6, 6), (3, 4, 2, 2), (40, 24, 3, 3), (2, 3, 20, 20)]
)
def test_copies_between_layouts(shape: tuple[int, ...], dtype: str, target: str):
    """Every pair of axis orders: as images and weights change between neighbouring kernels."""

    def copy(k, x, y):
        i = k.each(*shape)
        y[tuple(i)] = x[tuple(i)]

    layouts = [strides_of(shape, order) for order in ORDERS]
    pairs = [(source, result) for source in layouts for result in layouts]
    made = [
        kernel(copy, [Buffer("x", dtype, shape, source)], [Buffer("y", dtype, shape, result)])
        for source, result in pairs
    ]
    x = real(*shape, dtype=dtype)
    for run in compile_kernels(made, Target.named(target)):
        assert isinstance(run, NativeKernel)
        (y,) = run([x, np.zeros_like(x)])
        np.testing.assert_array_equal(y, x)


# Outermost axis first: row-major, channels-last, filters-last as packed weights are, and a mixture.
ORDERS = [(0, 1, 2, 3), (0, 2, 3, 1), (3, 2, 1, 0), (2, 3, 1, 0), (1, 0, 3, 2)]


def strides_of(shape: tuple[int, ...], order: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a dense array whose axes lie in memory in this order."""
    strides, reach = [0] * len(shape), 1
    for axis in reversed(order):
        strides[axis] = reach
        reach *= shape[axis]
    return tuple(strides)


def test_layout_changes_are_transposed_in_blocks():
    def copy(k, x, y):
        i = k.each(2, 64, 14, 14)
        y[tuple(i)] = x[tuple(i)]

    shape = (2, 64, 14, 14)
    changing = kernel(copy, [dense("x", *shape)], [channels_last("y", *shape)])
    same = kernel(copy, [dense("x", *shape)], [dense("y", *shape)])
    target = Target.named("x86-64-v3")
    assert emit_transpose(ir.Module(), changing, target, "changing") is not None
    assert emit_transpose(ir.Module(), same, target, "same") is None


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("channels", [2, 3])
@pytest.mark.parametrize("to_points", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_points_of_few_channels(dtype: str, to_points: bool, channels: int, target: str):
    """Images of two and three channels between planes and points, at every length of a row."""
    for height, width in ((1, 16), (3, 7), (5, 13), (1, 129)):
        shape = (2, channels, height, width)

        def copy(k, x, y, shape=shape):
            i = k.each(*shape)
            y[tuple(i)] = x[tuple(i)]

        planes = dense("x", *shape, dtype=dtype)
        points = replace(channels_last("y", *shape), dtype=dtype)
        if not to_points:
            planes, points = replace(planes, name="y"), replace(points, name="x")
        made = kernel(copy, *([planes], [points])[:: 1 if to_points else -1])
        emitted = emit_interleave(ir.Module(), made, Target.named(target), "few")
        lanes = Target.named(target).lanes(dtype)
        assert (emitted is not None) == (1 < lanes <= height * width)
        x = real(*shape, dtype=dtype)
        (y,) = native(made, target)([x, np.full(shape, np.nan, dtype)])
        np.testing.assert_array_equal(y, x)


def test_vectors_run_along_neighbours():
    """Channels are the neighbours in channels-last images, columns in row-major ones."""

    def pooling(k, x, y):
        n, c, h, w = k.each(2, 32, 8, 32)
        p = k.axis(3)
        row = h + p - 1
        y[n, c, h, w] = k.max(p, x[n, c, row, w], k.within(row, 8))

    for image, position in ((dense, 3), (channels_last, 1)):
        made = kernel(pooling, [image("x", 2, 32, 8, 32)], [image("y", 2, 32, 8, 32)])
        plan = schedule(Nodes(made).read(), Target.named("x86-64-v4"))
        assert plan.vector is not None
        assert plan.vector.name == made.each[position].name


def test_dense_loops_become_one():
    def double(k, x, y):
        i = k.each(4, 5, 6, 7)
        y[tuple(i)] = x[tuple(i)] * 2.0

    made = kernel(double, [dense("x", 4, 5, 6, 7)], [dense("y", 4, 5, 6, 7)])
    plan = schedule(Nodes(made).read(), Target.named("x86-64-v4"))
    assert (plan.outer, plan.loops, plan.extent) == ([], [], 4 * 5 * 6 * 7)


def test_fingerprint_is_of_the_meaning_only():
    def first(k, x, y):
        (i,) = k.each(9)
        y[i] = x[i] * 2.0

    def second(k, x, y):
        (i,) = k.each(9)
        y[i] = x[i] * 3.0

    def buffers() -> tuple[list[Buffer], list[Buffer]]:
        return [dense("x", 9)], [dense("y", 9)]

    one, two, three = (kernel(write, *buffers()) for write in (first, first, second))
    assert fingerprint(one) == fingerprint(two) != fingerprint(three)


@pytest.mark.parametrize("image", [dense, channels_last])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "shape",
    [(3, 5), (2, 64), (1, 300), (4, 2048), (3, 1111), (2, 24, 3, 5), (2, 7, 3, 3), (2, 2, 8, 8)],
)
def test_dropout_draws_the_same_in_any_layout(shape: tuple[int, ...], target: str, image: Image):
    """Rows that share blocks of the generator, rows that begin amid a block, and tails."""
    op = Dropout(0.3, 2)

    def dropout(k, x, counter, y):
        op.kernel(k, x, counter, y)

    layout = image if len(shape) == 4 else dense
    made = kernel(dropout, [layout("x", *shape), Buffer("n", INDEX, (), ())], [layout("y", *shape)])
    x, counter = real(*shape) + 9, np.array(2**41 + 3)
    (y,) = native(made, target)([x, counter, np.zeros_like(x)])
    np.testing.assert_array_equal(y == 0, op.reference(x, counter) == 0)
    np.testing.assert_allclose(y, op.reference(x, counter), rtol=1e-6)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("first", [0, 2**34 - 256, 2**34 - 1024, 2**34, 2**40 + 4, 2**34 - 7])
def test_blocks_of_small_and_of_large_numbers(first: int, target: str):
    """Whether a block's number has a high word is known beforehand, or there may be one."""
    count = 1024

    def drawn(k, n, y):
        (i,) = k.each(count)
        y[i] = k.select(k.random_bits(n[()], 5, i + first) < 20000, 1.0, 0.0)

    made = kernel(drawn, [Buffer("n", INDEX, (), ())], [dense("y", count)])
    (y,) = native(made, target)([np.array(11), np.zeros(count, np.float32)])
    bits = philox.random_bits(11, 5, np.arange(first, first + count))
    np.testing.assert_array_equal(y, bits < 20000)


@pytest.mark.parametrize("target", ["x86-64-v2", "x86-64-v3", "x86-64-v4"])
def test_random_bits_are_compared_as_they_are_made(target: str):
    """In lanes of 16 bits: those of 32 would take twice the registers."""

    def dropout(k, x, counter, y):
        Dropout(0.3, 2).kernel(k, x, counter, y)

    inputs = [dense("x", 4, 2048), Buffer("n", INDEX, (), ())]
    made = kernel(dropout, inputs, [dense("y", 4, 2048)])
    (compiled,) = compile_kernels([made], Target.named(target))
    assert isinstance(compiled, NativeKernel)
    text = str(compiled.emitted.function)
    assert "x i16> %" in text[text.index("icmp ult <") :].split("\n")[0]
    assert "zext" not in text


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", [(3, 64), (5, 192), (7, 4096), (3, 999), (9, 1201)])
@pytest.mark.parametrize("first", [0, 1])
def test_large_results_go_past_the_caches(shape: tuple[int, int], first: int, target: str):
    def larger(k, x, bias, y):
        i, j = k.each(*shape)
        total = k.let(x[i, j] + bias[j])
        y[i, j] = k.select(total > 0.0, total, 0.0)

    columns = shape[1]
    named = Target.named(target)
    small = replace(named, l2_bytes=4)
    made = kernel(larger, [dense("x", *shape), dense("b", columns)], [dense("y", *shape)])
    (compiled,) = compile_kernels([made], small)
    assert isinstance(compiled, NativeKernel)
    streams = named.vector_bytes >= 32
    text = str(compiled.emitted.function)
    assert ("!nontemporal" in text) == streams
    lanes = named.lanes("float32")
    stored = [line for line in text.splitlines() if "!nontemporal" in line]
    assert all(f"store <{lanes} x float>" in line for line in stored)  # lines go out in order
    x, bias = real(*shape), real(columns)
    (y,) = compiled([x, bias, np.zeros_like(x)], shift=4 * first)
    np.testing.assert_array_equal(y, np.maximum(x + bias, 0))


def test_a_result_that_is_read_again_stays_in_the_caches():
    def sums(k, x, y, s):
        (i,) = k.each(64)
        j = k.axis(256)
        y[i, j] = x[i, j] * 2.0
        s[i] = k.sum(j, y[i, j])

    made = kernel(sums, [dense("x", 64, 256)], [dense("y", 64, 256), dense("s", 64)])
    (compiled,) = compile_kernels([made], replace(Target.named("host"), l2_bytes=4))
    assert isinstance(compiled, NativeKernel)
    assert "!nontemporal" not in str(compiled.emitted.function)
