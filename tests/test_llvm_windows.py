"""Windows: loops written out but at the edges, rows in strips, what is fetched ahead of them."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from native_kernels import compile_kernels

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.ahead import fetched_ahead
from graphc.codegen.llvm.kernel import emit_kernel
from graphc.codegen.llvm.schedule import schedule
from graphc.codegen.llvm.streaming import streams_of
from graphc.codegen.llvm.strips import cut_in_strips
from graphc.codegen.llvm.target import Target
from graphc.codegen.nodes import Nodes
from graphc.ir.types import TensorType
from graphc.kernel.build import kernel_of
from graphc.kernel.facts import may_overwrite
from graphc.kernel.lang import Kernel
from graphc.ops.lrn import Lrn, LrnGradient, LrnQuotient
from graphc.ops.pool import AvgPool, MaxPool
from graphc.plan.layout import channels_last, strides_of

NAMES = ["host", "x86-64-v3", "x86-64-v2", "scalar"]
NORMALISED = 5, 0.5, 0.75, 1.0


def real(*shape: int) -> TensorType:
    return TensorType("float32", shape)


def native(kernel: Kernel, name: str, arrays: list[np.ndarray], shift: int = 0) -> list[np.ndarray]:
    (found,) = compile_kernels([kernel], Target.named(name))
    assert not isinstance(found, Exception), found
    return found(arrays, shift=shift)


def normalising(shape: tuple[int, ...]) -> list[tuple[Kernel, object, int]]:
    """LRN and its gradient's two steps: kernel, operator, number of inputs."""
    ops = (Lrn(*NORMALISED), 1), (LrnQuotient(*NORMALISED), 2), (LrnGradient(*NORMALISED), 2)
    return [(kernel_of(op, [real(*shape)] * n, [real(*shape)]), op, n) for op, n in ops]


# Rows of 1024 and more are cut on every machine; the last strip is a long or a short one.
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(2, 7, 61, 60), (1, 9, 4099), (3, 2, 50, 50), (2, 4, 33)])
def test_windows_over_rows(shape: tuple[int, ...], name: str):
    rng = np.random.default_rng(3)
    for kernel, op, count in normalising(shape):
        given = [rng.standard_normal(shape).astype("f") for _ in range(count)]
        empty = np.full(shape, np.nan, "f")
        wanted = op.reference(*(array.astype(np.float64) for array in given))
        for shift in (0, 4):
            (got,) = native(kernel, name, [*given, empty], shift)
            assert np.abs(got - wanted).max() <= 1e-6 * np.abs(wanted).max()


def test_strips_follow_the_cache():
    target = Target.named("x86-64-v4")  # 32 KiB
    for shape, wanted in (((2, 7, 61, 60), True), ((2, 7, 10, 10), False)):
        plan = schedule(Nodes(normalising(shape)[0][0]).read(), target)
        strips = cut_in_strips(plan, target)
        assert (strips is not None) == wanted
        if strips is not None:
            assert 5 * 4 * strips.size <= target.l1_bytes // 2 and strips.size % plan.lanes == 0
            assert plan.loops and strips.axis in plan.outer


def test_a_row_that_ends_past_the_caches_is_cut_at_whole_lines():
    """Aligned stores past the caches fault elsewhere; strips must begin where these may be."""
    target = Target.host()
    side = 1031  # no multiple of a vector
    channels = -(-16 * target.l2_bytes // (4 * side * 5)) + 1
    shape = (1, channels, side * 5)
    kernel = kernel_of(Lrn(*NORMALISED), [real(*shape)], [real(*shape)])
    x = np.random.default_rng(4).standard_normal(shape).astype("f")
    (got,) = native(kernel, "host", [x, np.full(shape, np.nan, "f")], 4)
    wanted = Lrn(*NORMALISED).reference(x.astype(np.float64))
    assert np.abs(got - wanted).max() <= 1e-6 * np.abs(wanted).max()


@pytest.mark.parametrize("shift", [0, 4, 32])
def test_a_last_strip_shorter_than_the_first_cut_is_not_done_twice(shift: int):
    """In place of its input, what is computed again would read results."""
    target = replace(Target.host(), l1_bytes=8192, l2_bytes=64)
    for extent in (1025, 1026, 1033, 1039):
        shape = (1, 7, extent)
        op, count = LrnQuotient(*NORMALISED), 2
        kernel = kernel_of(op, [real(*shape)] * count, [real(*shape)])
        plan = schedule(Nodes(kernel).read(), target)
        streams, strips = streams_of(plan, target), cut_in_strips(plan, target)
        if target.lanes("float32") == 16:
            assert strips is not None and 0 < extent % strips.size < 16 and streams.uneven
        assert may_overwrite(kernel, 0, 0) is None
        rng = np.random.default_rng(3)
        given = [rng.standard_normal(shape).astype("f") for _ in range(count)]
        (found,) = compile_kernels([kernel], target)
        assert not isinstance(found, Exception), found
        (got,) = found([*given, np.full(shape, np.nan, "f")], {0: 0}, shift)
        wanted = op.reference(*(array.astype(np.float64) for array in given))
        assert np.abs(got - wanted).max() <= 1e-6 * np.abs(wanted).max()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pads", [((0, 0), (0, 0)), ((1, 1), (1, 1))])
@pytest.mark.parametrize("channels", [19, 33])
def test_pooling_of_channels_last_images(
    channels: int, pads: tuple[tuple[int, int], ...], name: str
):
    """Of 33 indices the last is stored by itself, a byte behind whole registers."""
    x, rng = real(2, channels, 9, 11), np.random.default_rng(5)
    values = rng.standard_normal(x.shape).astype("f")
    output = tuple((e + sum(p) - 3) // 2 + 1 for e, p in zip((9, 11), pads, strict=True))
    last = channels_last(4)
    for op in (MaxPool((3, 3), (2, 2), pads, output), AvgPool((3, 3), (2, 2), pads, output)):
        types = op.infer(x)
        outputs = list(types) if isinstance(types, tuple) else [types]
        strides = [strides_of(t.shape, last) for t in (x, *outputs)]
        kernel = kernel_of(op, [x], outputs, strides)
        wanted = op.reference(values)
        got = native(kernel, name, [values, *(np.zeros(t.shape, t.dtype) for t in outputs)])
        for one, other in zip(got, wanted if len(outputs) > 1 else [wanted], strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-6, atol=1e-7)


def test_only_what_is_new_is_fetched_ahead():
    """Of a window of 3 x 3 that moves by 2, four elements have not been met before."""
    target, x = Target.named("x86-64-v4"), real(8, 96, 55, 55)
    op = AvgPool((3, 3), (2, 2), ((0, 0), (0, 0)), (27, 27))
    y = op.infer(x)
    strides = [strides_of(t.shape, channels_last(4)) for t in (x, y)]
    plan = schedule(Nodes(kernel_of(op, [x], [y], strides)).read(), target)
    rows, step = 55 * 96, 96
    found = fetched_ahead(plan, target)
    assert sorted(a.constant for a, _ in found) == [
        rows + step, rows + 2 * step, 2 * rows + step, 2 * rows + 2 * step,
    ]  # fmt: skip
    assert {distance % (2 * step) for _, distance in found} == {0}
    small = real(1, 96, 15, 15)
    op = AvgPool((3, 3), (2, 2), ((0, 0), (0, 0)), (7, 7))
    plan = schedule(Nodes(kernel_of(op, [small], [op.infer(small)])).read(), target)
    assert fetched_ahead(plan, target) == []


def test_a_short_window_has_no_loop():
    op = AvgPool((3, 3), (2, 2), ((0, 0), (0, 0)), (7, 7))
    x = real(1, 32, 15, 15)
    y = op.infer(x)
    strides = [strides_of(t.shape, channels_last(4)) for t in (x, y)]
    module = ir.Module()
    emit_kernel(module, kernel_of(op, [x], [y], strides), Target.named("x86-64-v4"), "k")
    assert len(re.findall(r"load <\d+ x float>", str(module))) == 9
