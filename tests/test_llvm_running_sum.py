"""Softmax losses of many classes along axis 0: the largest score and the sum in one sweep."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from native_kernels import NativeKernel, compile_kernels
from native_programs import TARGETS
from test_llvm_rows import sweep

from graphc.bench.loss import Candidate, Size
from graphc.codegen.llvm.running_sum import RUNNING
from graphc.codegen.llvm.schedule import Schedule, schedule
from graphc.codegen.llvm.streaming import streams_of
from graphc.codegen.llvm.target import Target
from graphc.codegen.nodes import FoldNode, Nodes
from graphc.error import NetError
from graphc.ir.types import TensorType
from graphc.kernel.build import kernel_of
from graphc.kernel.lang import Kernel
from graphc.kernel.once import compute_once
from graphc.ops.loss import SoftmaxLogLoss, SoftmaxLogLossGradient
from graphc.ops.softmax import Softmax


def small(name: str = "host", l2_bytes: int = 4096) -> Target:
    """A target with so small a cache that small matrices are walked, and stored past it."""
    return replace(Target.named(name), l2_bytes=l2_bytes)


def planned(kernel: Kernel, target: Target) -> Schedule:
    return schedule(Nodes(kernel).read(), target)


def native(kernel: Kernel, target: Target) -> NativeKernel:
    (found,) = compile_kernels([kernel], target)
    assert not isinstance(found, Exception), found
    return found


def softmax(shape: tuple[int, ...], axis: int = 0, dtype: str = "float32") -> Kernel:
    x = TensorType(dtype, shape)
    return compute_once(kernel_of(Softmax(axis), [x], [x]))


def given(x: np.ndarray, seed: int = 3) -> list[np.ndarray]:
    """Scores, labels, slopes, and two arrays to fill."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, len(x), x.shape[1]).astype("f")
    dy = rng.standard_normal(x.shape[1]).astype("f")
    return [x, label, dy, np.full_like(dy, np.nan), np.full_like(x, np.nan)]


def is_right(made: list[np.ndarray], arrays: list[np.ndarray]) -> None:
    """Compare loss and gradient with the references in float64."""
    x, label, dy = (array.astype(np.float64) for array in arrays[:3])
    loss = SoftmaxLogLoss(0, 0.0).reference(x, label)
    slope = SoftmaxLogLossGradient(0).reference(x, label, dy)
    np.testing.assert_allclose(made[0], loss, rtol=1e-6, atol=1e-6)
    assert np.abs(made[1] - slope).max() <= 3e-7 * np.abs(slope).max()


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("examples", [15, 48, 129, 250, 256, 1031])
@pytest.mark.parametrize("classes", [200, 331])
def test_loss_and_gradient_in_two_sweeps(classes: int, examples: int, name: str):
    """Rows of whole lines and others; whole rows, panels and shares; beside lines; in place."""
    kernel = sweep((classes, examples), 0)
    in_panels = classes == 200
    target = small(name, 2048 if in_panels else 150 * examples)
    plan = planned(kernel, target)
    if target.lanes("float32") > 1:
        assert bool(plan.panel) == (in_panels and examples >= 48)
        assert plan.walk and plan.made is not None
        kinds = [s.kind for s in plan.nodes.statements if isinstance(s, FoldNode)]
        assert kinds == [RUNNING]
    rng = np.random.default_rng(classes)
    arrays = given((rng.standard_normal((classes, examples)) * 20).astype("f"))
    shares = native(kernel, target)
    at_once = replace(shares, emitted=replace(shares.emitted, unit=shares.emitted.extent))
    right = [array.copy() for array in shares(arrays)]
    is_right(right, arrays)
    for run in (shares, at_once):
        for options in ({"shift": 4}, {"shift": 32}, {"shared": {1: 0}}, {}):
            for got, want in zip(run(arrays, **options), right, strict=True):
                np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("examples", [129, 250, 256])
def test_gradients_go_past_the_caches_whatever_the_length_of_rows(examples: int):
    kernel, target = sweep((200, examples), 0), small()
    streams = streams_of(planned(kernel, target), target)
    if target.vector_bytes >= 32:
        assert len(streams.buffers) == 1
        assert (streams.uneven is not None) == (4 * examples % target.vector_bytes != 0)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("spread", [1.0, 100.0, 1e4, 1e30])
def test_scores_far_apart(spread: float, name: str):
    rng = np.random.default_rng(4)
    x = (rng.standard_normal((300, 100)) * spread).astype("f")
    x[:, 0] = np.sort(x[:, 0])
    x[:, 1] = -np.sort(-x[:, 1])
    arrays = given(x)
    is_right(native(sweep(x.shape, 0), small(name))(arrays), arrays)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("step", [1e-5, 1e-4, 3e-3])
def test_a_largest_score_that_grows_with_each_row_costs_no_precision(step: float, name: str):
    """The sum is multiplied for every few rows: a rounding each time would be seen.

    The probabilities are about alike, so their sum's error is theirs.
    """
    classes = 20000
    rows = np.arange(classes)[:, None] * step
    x = np.repeat(rows, 20, axis=1).astype("f")
    made = native(softmax(x.shape), small(name))([x, np.full_like(x, np.nan)])[0]
    wanted = Softmax(0).reference(x.astype(np.float64))
    assert np.abs(made - wanted).max() <= 3e-7 * wanted.max()


@pytest.mark.parametrize("name", TARGETS)
def test_scores_of_minus_infinity_have_no_share(name: str):
    """At the beginning of a column, where nothing larger is known yet, at its end, between."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((300, 70)).astype("f")
    x[:100, 0] = x[200:, 1] = x[50:60, 2] = -np.inf
    x[:299, 3] = -np.inf
    x[1:, 4] = -np.inf
    made = native(softmax(x.shape), small(name))([x, np.full_like(x, np.nan)])[0]
    wanted = Softmax(0).reference(x.astype(np.float64))
    np.testing.assert_allclose(made, wanted, rtol=2e-6, atol=1e-37)
    assert made[299, 3] == made[0, 4] == 1


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_not_finite_stays_in_its_column(name: str):
    rng = np.random.default_rng(6)
    x = rng.standard_normal((300, 70)).astype("f")
    x[7, 0], x[250, 1], x[9, 2], x[:, 3] = np.nan, np.inf, np.inf, -np.inf
    x[280, 2] = np.inf
    made = native(softmax(x.shape), small(name))([x, np.full_like(x, np.nan)])[0]
    for column, place in ((0, 7), (1, 250), (2, 9), (3, 0)):
        assert np.isnan(made[place, column])
    wanted = Softmax(0).reference(x[:, 4:].astype(np.float64))
    np.testing.assert_allclose(made[:, 4:], wanted, rtol=2e-6)


@pytest.mark.parametrize("shape", [(150, 90), (2, 150, 90)])
def test_wide_numbers_and_many_matrices_are_computed_as_before(shape: tuple[int, ...]):
    axis = len(shape) - 2
    dtype = "float64" if axis == 0 else "float32"
    kernel = softmax(shape, axis, dtype)
    assert not planned(kernel, small()).walk
    x = np.random.default_rng(7).standard_normal(shape).astype(dtype)
    made = native(kernel, small())([x, np.full_like(x, np.nan)])[0]
    wanted = Softmax(axis).reference(x.astype(np.float64))
    np.testing.assert_allclose(made, wanted, rtol={"float64": 1e-12, "float32": 1e-6}[dtype])


def test_what_stays_in_the_second_cache_is_not_computed_twice():
    """Strips of it, or the matrix."""
    target = replace(Target.host(), l2_bytes=1 << 20)
    for shape in ((1000, 4096), (2000, 100), (200, 4001)):
        assert not planned(sweep(shape, 0), target).walk
    if target.lanes("float32") > 1:
        for shape in ((10000, 256), (1000, 4001)):
            assert planned(sweep(shape, 0), target).walk


@pytest.mark.parametrize("examples", [250, 256])
def test_a_matrix_larger_than_the_caches_on_threads(examples: int):
    """The same bits every time, on any number of threads; labels beyond the classes are refused."""
    classes = 12000
    rng = np.random.default_rng(8)
    x = rng.standard_normal((classes, examples)).astype("f")
    label = rng.integers(0, classes, examples).astype("f")
    results = []
    for threads in (1, 2, 3, 2):
        candidate = Candidate(Size(examples, classes, 0), "fused", threads)
        candidate.put(x, label)
        candidate.run()
        results.append((candidate.loss, candidate.gradient.copy()))
    for loss, gradient in results[1:]:
        assert loss == results[0][0]
        np.testing.assert_array_equal(gradient, results[0][1])
    slope = SoftmaxLogLossGradient(0).reference(
        x.astype(np.float64), label, np.full(examples, 1 / examples)
    )
    assert np.abs(results[0][1] - slope).max() <= 3e-7 * np.abs(slope).max()
    label[examples - 1] = classes
    candidate.put(x, label)
    with pytest.raises(NetError, match=f"label is not within 0 .. {classes - 1}"):
        candidate.run()
