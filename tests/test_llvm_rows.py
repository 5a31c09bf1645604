"""Short rows in batches, and strips of rows that lie apart: the same numbers, every edge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from native_kernels import compile_kernels

from graphc.codegen.llvm.late_store import late_store
from graphc.codegen.llvm.schedule import Schedule, schedule
from graphc.codegen.llvm.streaming import STREAMED_CACHES, streams_of
from graphc.codegen.llvm.target import Target
from graphc.codegen.nodes import Nodes
from graphc.ir.types import TensorType
from graphc.kernel.build import kernel_of
from graphc.kernel.join import join, join_siblings
from graphc.kernel.lang import Kernel
from graphc.kernel.once import compute_once
from graphc.ops.distance import SquaredDistance
from graphc.ops.loss import SoftmaxLogLoss, SoftmaxLogLossGradient
from graphc.ops.softmax import Softmax


def sweep(shape: tuple[int, ...], axis: int, ignore: int | None = None) -> Kernel:
    """Loss and gradient of scores of that shape in one kernel."""
    x = TensorType("float32", shape)
    label = x.dropping(axis)
    loss = kernel_of(SoftmaxLogLoss(axis, 0.0, ignore), [x, label], [label])
    gradient = kernel_of(SoftmaxLogLossGradient(axis, ignore), [x, label, label], [x])
    made = join_siblings(loss, ("x", "l", "y"), gradient, ("x", "l", "dy", "dx"))
    assert not isinstance(made, str)
    return compute_once(made[0])


def planned(kernel: Kernel) -> Schedule:
    return schedule(Nodes(kernel).read(), Target.host())


def agrees(
    kernel: Kernel,
    shape: tuple[int, ...],
    axis: int,
    ignore: int | None = None,
    target: Target | None = None,
) -> None:
    """Compare machine code with the references in float64."""
    (native,) = compile_kernels([kernel], target or Target.host())
    assert not isinstance(native, Exception), native
    rng = np.random.default_rng(7)
    x = (rng.standard_normal(shape) * 20).astype(np.float32)
    places = shape[:axis] + shape[axis + 1 :]
    label = rng.integers(0, shape[axis], places).astype(np.float32)
    dy = rng.standard_normal(places).astype(np.float32)
    arrays = {"x": x, "l": label, "dy": dy}
    given = [arrays[name] for name in ("x", "l", "dy")]
    assert [b.shape for b in kernel.inputs] == [a.shape for a in given]
    y, dx = native([*given, np.full(places, np.nan, "f"), np.full(shape, np.nan, "f")])
    wide = x.astype(np.float64)
    wanted = SoftmaxLogLoss(axis, 0.0, ignore).reference(wide, label)
    slope = SoftmaxLogLossGradient(axis, ignore).reference(wide, label, dy.astype(np.float64))
    np.testing.assert_allclose(y, wanted, rtol=1e-6, atol=1e-6)
    assert np.abs(dx - slope).max() <= 3e-7 * np.abs(slope).max()


@pytest.mark.parametrize("ignore", [None, 2])
@pytest.mark.parametrize("rows", [16, 17, 31, 100])
@pytest.mark.parametrize("classes", [13, 16, 21, 100])
def test_short_rows_go_in_batches(rows: int, classes: int, ignore: int | None):
    kernel = sweep((rows, classes), 1, ignore)
    if Target.host().lanes("float32") == 16:
        assert planned(kernel).batch == 16
    agrees(kernel, (rows, classes), 1, ignore)


@pytest.mark.parametrize(("rows", "classes"), [(64, 4000), (5, 20)])
def test_long_rows_and_few_rows_do_not(rows: int, classes: int):
    kernel = sweep((rows, classes), 1)
    assert planned(kernel).batch == 0
    agrees(kernel, (rows, classes), 1)


@pytest.mark.parametrize(
    ("shape", "axis", "lanes"),
    [
        ((21, 1024), 0, 64),
        ((21, 1000), 0, 64),
        ((2, 21, 32, 64), 1, 64),
        ((2, 40, 1024), 1, 64),
        ((3, 21, 5, 5), 1, 32),
        ((40, 21, 3, 3), 1, 16),
        ((21, 63), 0, 64),
    ],
)
def test_rows_that_lie_apart_are_fetched_once(shape: tuple[int, ...], axis: int, lanes: int):
    kernel = sweep(shape, axis)
    plan = planned(kernel)
    if Target.host().lanes("float32") == 16:
        assert len(plan.kept.slots) == 2 and len(plan.kept.temporary) == 1
        assert plan.lanes == lanes
    agrees(kernel, shape, axis)


@pytest.mark.parametrize("target", ["x86-64-v3", "x86-64-v2", "scalar"])
@pytest.mark.parametrize("shape", [(2, 45, 1000), (3, 7, 256)])
def test_strips_are_right_on_every_target(shape: tuple[int, ...], target: str):
    agrees(sweep(shape, 1), shape, 1, target=Target.named(target))


@pytest.mark.parametrize("places", [1024, 1000, 1002])
def test_large_strips_are_stored_past_the_caches(places: int):
    shape = (3, 20, places)
    kernel = sweep(shape, 1)
    target = replace(Target.host(), l2_bytes=shape[0] * shape[1] * places * 4 // STREAMED_CACHES)
    streams = streams_of(schedule(Nodes(kernel).read(), target), target)
    if target.lanes("float32") == 16:
        assert bool(streams.buffers) == (places % 16 == 0)
    agrees(kernel, shape, 1, target=target)


@pytest.mark.parametrize(
    "shape", [(2, 20, 1024), (3, 9, 330), (2, 7, 64), (2, 7, 130)], ids=lambda shape: str(shape[2])
)
def test_results_wait_for_the_next_strip(shape: tuple[int, ...]):
    """One strip and several, whole and not; and results that take the scores' place."""
    kernel = sweep(shape, 1)
    if Target.host().lanes("float32") == 16:
        assert late_store(planned(kernel)) is not None
    agrees(kernel, shape, 1)
    (native,) = compile_kernels([kernel], Target.host())
    assert not isinstance(native, Exception), native
    rng = np.random.default_rng(8)
    places = shape[:1] + shape[2:]
    x, dy = rng.standard_normal(shape).astype("f"), rng.standard_normal(places).astype("f")
    given = [x, rng.integers(0, shape[1], places).astype("f"), dy]
    empty = [np.full(places, np.nan, "f"), np.full(shape, np.nan, "f")]
    apart = [array.copy() for array in native([*given, *empty])]
    for one, other in zip(apart, native([*given, *empty], shared={1: 0}), strict=True):
        np.testing.assert_array_equal(one, other)


def test_strips_of_many_classes_are_narrower():
    kernel = sweep((2500, 208), 0)
    if Target.host().lanes("float32") == 16:
        assert planned(kernel).lanes == 32
        assert not planned(sweep((2500, 200), 0)).kept.slots
    agrees(kernel, (2500, 208), 0)


@pytest.mark.parametrize(
    ("positions", "shared", "lanes"), [(512, 0, 0), (512, 32 << 20, 64), (500, 32 << 20, 0)]
)
def test_strips_of_many_classes_wait_in_the_shared_cache(positions: int, shared: int, lanes: int):
    shape = (2, 9000, positions)
    kernel = sweep(shape, 1)
    target = replace(Target.host(), l3_bytes=shared)
    plan = schedule(Nodes(kernel).read(), target)
    if target.lanes("float32") == 16:
        assert (plan.lanes if plan.kept.slots else 0) == lanes
    agrees(kernel, shape, 1, target=target)


@pytest.mark.parametrize("target", ["host", "x86-64-v3", "x86-64-v2", "scalar"])
@pytest.mark.parametrize("classes", [1000, 1001, 1007, 1024, 1039])
def test_long_rows_are_kept_and_stored_past_the_caches(classes: int, target: str):
    machine = replace(Target.named(target), l2_bytes=1024)
    kernel = compute_once(kernel_of(Softmax(1), *[[TensorType("float32", (9, classes))]] * 2))
    plan = schedule(Nodes(kernel).read(), machine)
    streams = streams_of(plan, machine)
    wide = machine.vector_bytes >= 32
    assert bool(plan.kept.slots) == (machine.lanes("float32") > 1)
    assert bool(streams.buffers) == wide
    uneven = 4 * classes % machine.vector_bytes != 0
    assert (streams.uneven is not None) == (wide and uneven)
    (native,) = compile_kernels([kernel], machine)
    assert not isinstance(native, Exception), native
    x = np.random.default_rng(3).standard_normal((9, classes)).astype(np.float32)
    x[4] = -np.inf
    x[4, 17] = 3.0
    wanted = Softmax(1).reference(x.astype(np.float64))
    for shift in (0, 4, 32):
        (y,) = native([x, np.full(x.shape, np.nan, "f")], shift=shift)
        np.testing.assert_allclose(y, wanted, rtol=2e-6, atol=1e-37)
        assert (y[4] == wanted[4]).all()
    (y,) = native([x, np.full(x.shape, np.nan, "f")], shared={0: 0})
    np.testing.assert_allclose(y, wanted, rtol=2e-6, atol=1e-37)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("target", ["host", "x86-64-v3", "x86-64-v2", "scalar"])
@pytest.mark.parametrize("classes", [2, 3, 17, 300_000])
def test_what_a_sweep_divides_in_place_is_divided_once(classes: int, target: str, dtype: str):
    """The sum behind reads each quotient as it was stored; rows short and too long to be kept."""
    x = TensorType(dtype, (3, classes))
    parts = kernel_of(Softmax(1), [x], [x])
    squares = kernel_of(SquaredDistance(), [x, x], [TensorType(dtype, (3,))])
    made = join(parts, ("x", "p"), squares, ("p", "x", "y"))
    assert not isinstance(made, str)
    assert made[1] == ("x", "p", "y")
    (native,) = compile_kernels([compute_once(made[0])], Target.named(target))
    assert not isinstance(native, Exception), native
    scores = np.random.default_rng(classes).standard_normal((3, classes)).astype(dtype)
    p, y = native([scores, np.full(scores.shape, np.nan, dtype), np.full(3, np.nan, dtype)])
    wanted = Softmax(1).reference(scores.astype(np.float64))
    distance = SquaredDistance().reference(wanted, scores.astype(np.float64))
    tolerance = 1e-12 if dtype == "float64" else 2e-6
    np.testing.assert_allclose(p, wanted, rtol=tolerance)
    np.testing.assert_allclose(y, distance, rtol=tolerance)
