"""Sums over channels: rows walked whole, mean and variance in one sweep, in any layout."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from native_kernels import compile_kernels
from native_programs import TARGETS

from graphc.codegen.llvm.schedule import Schedule, schedule
from graphc.codegen.llvm.sweeps import SPREAD
from graphc.codegen.llvm.target import Target
from graphc.codegen.nodes import FoldNode, Nodes
from graphc.ir.op import Op
from graphc.ir.types import TensorType
from graphc.kernel.build import Array, Writer, kernel_of
from graphc.kernel.factors import take_factors_out
from graphc.kernel.interp import interpret
from graphc.kernel.join import join_siblings
from graphc.kernel.lang import Buffer, Fold, Kernel
from graphc.kernel.verify import verify
from graphc.ops.moments import Moments, StandardizeGradientSums
from graphc.plan.layout import channels_last, strides_of

AXES = (0, 2, 3)
SHAPES = [(3, c, 30, 31) for c in (16, 32, 33, 96, 515)] + [(2, 64, 57, 57)]


def channels(op: Op, shape: tuple[int, ...], images: int, dtype: str = "float32") -> Kernel:
    """The kernel of an operator on channels-last images, then vectors, that gives two vectors."""
    x = TensorType(dtype, shape)
    vector = x.with_shape(shape[1])
    types = [x] * images + [vector] * (1 if images == 2 else 0)
    strides = [strides_of(shape, channels_last(4)) if t == x else None for t in types]
    return kernel_of(op, types, [vector, vector], [*strides, None, None])


def planned(kernel: Kernel, name: str = "host") -> Schedule:
    return schedule(Nodes(kernel).read(), Target.named(name))


def run(kernel: Kernel, arrays: list[np.ndarray], name: str = "host") -> list[np.ndarray]:
    (native,) = compile_kernels([kernel], Target.named(name))
    assert not isinstance(native, Exception), native
    return native([*arrays, *(np.full(b.shape, np.nan, b.dtype) for b in kernel.outputs)])


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_mean_and_variance_are_found_in_one_sweep(shape: tuple[int, ...], name: str):
    kernel = channels(Moments(AXES), shape, 1)
    plan = planned(kernel, name)
    if Target.named(name).lanes("float32") > 1:
        assert plan.walk
        assert [s.kind for s in plan.nodes.statements if isinstance(s, FoldNode)] == [SPREAD]
    rng = np.random.default_rng(1)
    factor, shift = rng.uniform(0.1, 10, (2, 1, shape[1], 1, 1))
    x = (rng.standard_normal(shape) * factor + shift).astype("f")
    mean, variance = run(kernel, [x], name)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(mean, wide.mean(AXES), rtol=0, atol=3e-7 * np.abs(wide).max())
    np.testing.assert_allclose(variance, wide.var(AXES), rtol=4e-7)


@pytest.mark.parametrize("first", [0.0, 1e4, -1e4])
def test_a_mean_far_from_0_does_not_cost_the_variance(first: float):
    """The rows before others, an outlier at the beginning, and columns of one number."""
    shape = (2, 48, 40, 41)
    rng = np.random.default_rng(2)
    x = (rng.standard_normal(shape) + 3000).astype("f")
    x[0, :, 0, 0] += np.float32(first)
    x[:, 7] = 0.1
    x[0, 8, :20] = 0
    _, variance = run(channels(Moments(AXES), shape, 1), [x])
    wide = x.astype(np.float64).var(AXES)
    assert variance[7] == 0
    others = np.arange(shape[1]) != 7
    np.testing.assert_allclose(variance[others], wide[others], rtol=1e-6)


def test_moments_of_what_is_not_finite_are_nan():
    shape = (2, 32, 40, 41)
    x = np.random.default_rng(3).standard_normal(shape).astype("f")
    x[1, 3, 2, 2], x[1, 4, 2, 2] = np.inf, np.nan
    mean, variance = run(channels(Moments(AXES), shape, 1), [x])
    assert np.isnan(variance[[3, 4]]).all()
    assert np.isnan(mean[4])
    assert np.isfinite(variance[[0, 1, 2, 5]]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_walk_rows(shape: tuple[int, ...], dtype: str):
    kernel = channels(StandardizeGradientSums(AXES), shape, 2, dtype)
    assert planned(kernel).walk == (Target.host().lanes("float32") > 1)
    rng = np.random.default_rng(4)
    dy, x = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    mean = rng.standard_normal(shape[1]).astype(dtype)
    right = StandardizeGradientSums(AXES).reference(*(a.astype("f8") for a in (dy, x, mean)))
    size = np.abs(dy).sum(AXES).max() * (1e-6 if dtype == "float32" else 1e-14)
    for got, want in zip(run(kernel, [dy, x, mean]), right, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=size)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("shape", [(3, c, 30, 31) for c in (16, 33, 64, 100, 128, 200)], ids=str)
def test_whole_rows_and_shares_of_them_give_the_same_sums(shape: tuple[int, ...], name: str):
    """A whole short row is summed up in registers, a share of its columns strip by strip."""
    kernel = channels(StandardizeGradientSums(AXES), shape, 2)
    (native,) = compile_kernels([kernel], Target.named(name))
    assert not isinstance(native, Exception), native
    at_once = replace(native, emitted=replace(native.emitted, unit=native.emitted.extent))
    rng = np.random.default_rng(5)
    dy, x = (rng.standard_normal(shape).astype("f") for _ in range(2))
    mean = rng.standard_normal(shape[1]).astype("f")
    right = StandardizeGradientSums(AXES).reference(*(a.astype("f8") for a in (dy, x, mean)))
    arrays = [dy, x, mean, *(np.full(b.shape, np.nan, b.dtype) for b in kernel.outputs)]
    size = np.abs(dy).sum(AXES).max() * 1e-6
    for one, other, want in zip(at_once(arrays), native(arrays), right, strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_allclose(one, want, rtol=0, atol=size)


# -- channels that are rows ---------------------------------------------------------------------


ROWS = [(7, 3, 49, 57), (2000, 2, 7, 7), (16, 2, 5, 1000), (3, 70001)]


def rows(shape: tuple[int, ...], dtype: str = "float32") -> tuple[Kernel, tuple[int, ...]]:
    """The moments of each channel of a row-major array, and the axes that go."""
    axes = tuple(axis for axis in range(len(shape)) if axis != (0 if len(shape) == 2 else 1))
    x = TensorType(dtype, shape)
    mean, variance = Moments(axes).infer(x)
    return kernel_of(Moments(axes), [x], [mean, variance]), axes


@pytest.mark.parametrize("name", [n for n in TARGETS if Target.named(n).lanes("float32") > 1])
@pytest.mark.parametrize("shape", ROWS, ids=str)
def test_long_rows_are_swept_once(shape: tuple[int, ...], name: str):
    """Short parts, tails, a mean far from 0.

    An outlier of ten thousand deviations at the beginning puts the pivot away from the mean, and
    that many digits more are lost.
    """
    kernel, axes = rows(shape)
    folds = [s for s in planned(kernel, name).nodes.statements if isinstance(s, FoldNode)]
    assert [fold.kind for fold in folds] == [SPREAD]
    rng = np.random.default_rng(7)
    for shift, first in ((0, 0), (3000, 0), (3000, 1e4), (1e5, 0)):
        x = (rng.standard_normal(shape) + shift).astype("f")
        x[(0,) * len(shape)] += np.float32(first)
        wide = x.astype(np.float64)
        mean, variance = run(kernel, [x], name)
        np.testing.assert_allclose(mean, wide.mean(axes), rtol=0, atol=1e-7 * np.abs(wide).max())
        np.testing.assert_allclose(variance, wide.var(axes), rtol=3e-6 if first else 4e-7)


def test_what_is_not_finite_in_a_row_stays_in_its_channel():
    kernel, _ = rows((3, 70001))
    x = np.random.default_rng(8).standard_normal((3, 70001)).astype("f")
    x[0, 5], x[1, 69999] = np.nan, np.inf
    mean, variance = run(kernel, [x])
    assert np.isnan(variance[:2]).all()
    assert np.isnan(mean[0])
    np.testing.assert_allclose(variance[2], x[2].astype("f8").var(), rtol=4e-7)


@pytest.mark.parametrize(("shape", "dtype"), [((64, 1000), "float32"), ((3, 70001), "float64")])
def test_rows_in_the_first_cache_and_wide_ones_are_swept_twice(shape: tuple[int, int], dtype: str):
    kernel, axes = rows(shape, dtype)
    kinds = [s.kind for s in planned(kernel).nodes.statements if isinstance(s, FoldNode)]
    assert kinds == ["sum", "sum"]
    x = np.random.default_rng(9).standard_normal(shape).astype(dtype)
    _, variance = run(kernel, [x])
    np.testing.assert_allclose(variance, x.astype("f8").var(axes), rtol=4e-7)


# -- fewer sums ---------------------------------------------------------------------------------


def scaled_sums(k: Writer, dy: Array, x: Array, g: Array, a: Array, b: Array) -> None:
    """What a normalisation and the factor behind it ask for."""
    (c,) = k.each(24)
    n, i = k.axes(4, 30)
    a[c] = k.sum([n, i], dy[n, c, i] * (x[n, c, i] * g[c]))
    m, j = k.axes(4, 30)
    b[c] = k.sum([m, j], (dy[m, c, j] * g[c]) * x[m, c, j])


def scaled() -> Kernel:
    k = Writer("scaled")
    real = [Buffer.of(n, TensorType("float32", (4, 24, 30))) for n in ("dy", "x")]
    vectors = [Buffer.of(n, TensorType("float32", (24,))) for n in "gab"]
    scaled_sums(k, *(Array(k, b) for b in (*real, *vectors)))
    return k.finish([*real, vectors[0]], vectors[1:])


def test_factors_of_a_whole_sum_are_taken_out_and_equal_sums_done_once():
    kernel = scaled()
    made = take_factors_out(kernel)
    verify(made)
    assert len([s for s in made.body if isinstance(s, Fold)]) == 1
    assert take_factors_out(made) is made
    rng = np.random.default_rng(5)
    arrays = [rng.standard_normal(b.shape).astype("f") for b in kernel.inputs]
    results = []
    for version in (kernel, made):
        outputs = [np.full(b.shape, np.nan, "f") for b in kernel.outputs]
        assert interpret(version, [*arrays, *outputs]) == []
        results.append(outputs)
    for before, after in zip(*results, strict=True):
        np.testing.assert_allclose(before, after, rtol=1e-5, atol=1e-5)


def test_sums_past_a_store_are_one_sweep():
    shape = (2, 48, 30, 31)
    kernel = channels(StandardizeGradientSums(AXES), shape, 2)
    joined = join_siblings(kernel, ("dy", "x", "mean", "a", "b"), _total(shape), ("dy", "x", "t"))
    assert not isinstance(joined, str), joined
    folds = [s for s in planned(joined[0]).nodes.statements if isinstance(s, FoldNode)]
    assert len(folds) == 1
    rng = np.random.default_rng(6)
    dy, x = (rng.standard_normal(shape).astype("f") for _ in range(2))
    mean = rng.standard_normal(shape[1]).astype("f")
    wanted = StandardizeGradientSums(AXES).reference(dy, x, mean)
    for got, want in zip(run(joined[0], [dy, x, mean]), (*wanted, (dy + x).sum(AXES)), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-3)


def _total(shape: tuple[int, ...]) -> Kernel:
    """The sum of dy + x over all but the channels."""
    k = Writer("total")
    strides = strides_of(shape, channels_last(4))
    given = [Buffer.of(n, TensorType("float32", shape), strides) for n in ("dy", "x")]
    result = Buffer.of("t", TensorType("float32", (shape[1],)))
    (c,) = k.each(shape[1])
    n, h, w = k.axes(shape[0], *shape[2:])
    dy, x, t = (Array(k, b) for b in (*given, result))
    t[c] = k.sum([n, h, w], dy[n, c, h, w] + x[n, c, h, w])
    return k.finish(given, [result])
