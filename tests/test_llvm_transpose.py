"""Copies that turn neighbours away from each other: in which order, and past which caches."""

from __future__ import annotations

from dataclasses import replace

import native_kernels
import numpy as np
import pytest
from native_kernels import compile_kernels

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.target import Target
from graphc.codegen.llvm.transpose import Transposition, emit_transpose
from graphc.ir.types import TensorType
from graphc.kernel.lang import Kernel
from graphc.plan.layout import channels_last, strides_of
from graphc.plan.lower import copy_kernel

Shape = tuple[int, int, int, int]
SHAPES: list[Shape] = [(2, 32, 8, 10), (1, 48, 21, 19), (3, 37, 9, 9), (2, 20, 4, 16)]
SMALL = {"l1_bytes": 1024, "l2_bytes": 1 << 14, "l3_bytes": 1 << 15}


@pytest.fixture(autouse=True)
def _outside_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill what lies around and between elements with nan, so that a wrong read is seen."""
    monkeypatch.setattr(native_kernels, "CANARY", 0xFF)


def to_channels_last(shape: Shape, dtype: str, back: bool) -> Kernel:
    rows, last = strides_of(shape, (0, 1, 2, 3)), strides_of(shape, channels_last(4))
    return copy_kernel(TensorType(dtype, shape), *((last, rows) if back else (rows, last)))


def plan_of(kernel: Kernel, target: Target) -> Transposition:
    emitted = emit_transpose(ir.Module("plan"), kernel, target, "k")
    assert emitted is not None and isinstance(emitted.made, Transposition)
    return emitted.made


@pytest.mark.parametrize("name", ["host", "x86-64-v3"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_element_is_copied(shape: Shape, back: bool, dtype: str, name: str) -> None:
    kernel = to_channels_last(shape, dtype, back)
    (native,) = compile_kernels([kernel], replace(Target.named(name), **SMALL))
    assert not isinstance(native, Exception)
    given = np.random.default_rng(1).standard_normal(shape).astype(dtype)
    for shift in (0, 8):  # bytes from a line's beginning
        for unit in (1, 2, native.emitted.extent):
            cut = replace(native, emitted=replace(native.emitted, unit=unit))
            (got,) = cut([given, np.full(shape, np.nan, dtype)], shift=shift)
            assert np.array_equal(got, given)


def test_the_side_whose_lines_are_further_apart_is_walked_along() -> None:
    target = Target.named("x86-64-v4")
    shape = (8, 64, 56, 56)
    there, back = (plan_of(to_channels_last(shape, "float32", b), target) for b in (False, True))
    assert there.along > 1 and back.along == 1
    small = plan_of(to_channels_last(shape, "float32", False), replace(target, l2_bytes=1 << 14))
    assert small.along == 1  # rows of the target would leave the cache


def test_whole_lines_of_large_targets_go_past_the_caches() -> None:
    target = Target.named("x86-64-v4")
    for shape, dtype, streamed in (
        ((32, 96, 55, 55), "float32", True),
        ((2, 96, 55, 55), "float32", False),  # it waits in a cache
        ((32, 100, 55, 55), "float32", False),  # rows begin inside of lines
    ):
        assert plan_of(to_channels_last(shape, dtype, False), target).streamed == streamed
    assert not plan_of(to_channels_last((32, 96, 55, 55), "float32", True), target).streamed
    assert plan_of(to_channels_last((32, 96, 64, 64), "float32", True), target).streamed
