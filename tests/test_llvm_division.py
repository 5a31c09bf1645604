"""Lanes that are divided by one number: multiplied by its reciprocal, to the same quotient."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from native_kernels import compile_kernels

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.kernel import emit_kernel
from graphc.codegen.llvm.target import Target
from graphc.ir.op import Op
from graphc.ir.types import TensorType
from graphc.kernel.build import kernel_of
from graphc.kernel.lang import Kernel
from graphc.ops.pool import AvgPoolGradient
from graphc.ops.softmax import Softmax
from graphc.plan.layout import channels_last, strides_of

IMAGE = (1, 4096, 9, 9)
SPECIAL = [np.inf, -np.inf, np.nan, 0.0, -0.0, 3.4e38, -3.4e38, 1.2e-37, 1e-45, -7e-44]


def spread(size: tuple[int, int], count_padding: bool) -> tuple[Op, tuple[int, ...]]:
    """The gradient of means of windows that do not meet, some of them cut; its input's shape."""
    rows = -(-10 // size[0]), -(-10 // size[1])
    pads = tuple((1, at * rows[axis] - 10) for axis, at in enumerate(size))
    return AvgPoolGradient((9, 9), size, size, pads, count_padding), (1, 4096, *rows)


def compiled(op: Op, shape: tuple[int, ...], target: Target, dtype: str) -> tuple[Kernel, str]:
    """The kernel on channels-last arrays, and its text."""
    type_ = TensorType(dtype, shape)
    made = op.infer(type_)
    orders = [channels_last(len(shape))] * 2
    strides = [strides_of(t.shape, order) for t, order in zip((type_, made), orders, strict=True)]
    kernel = kernel_of(op, [type_], [made], strides)
    module = ir.Module("division")
    emit_kernel(module, kernel, target, "k")
    return kernel, str(module)


@pytest.mark.parametrize("count_padding", [True, False])
@pytest.mark.parametrize("size", [(3, 3), (2, 7), (4, 2), (11, 5)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_quotient_by_a_whole_number_is_that_of_a_division(
    size: tuple[int, int], count_padding: bool, dtype: str
) -> None:
    op, shape = spread(size, count_padding)
    kernel, text = compiled(op, shape, Target.host(), dtype)
    assert ("fdiv <" in text) == (not Target.host().has_fma)
    rng = np.random.default_rng(5)
    scale = 2.0 ** rng.integers(-100, 100, shape)
    dy = (rng.standard_normal(shape) * scale).astype(dtype)
    dy.reshape(-1)[: len(SPECIAL)] = SPECIAL
    dy = np.ascontiguousarray(dy.reshape(shape))
    (native,) = compile_kernels([kernel], Target.host())
    assert not isinstance(native, Exception)
    (dx,) = native([dy, np.full(IMAGE, np.nan, dtype)])
    with np.errstate(all="ignore"):
        wanted = op.reference(dy)
    normal = ~(np.abs(wanted) < np.finfo(dtype).tiny)  # below, the last bit may be another
    assert np.array_equal(dx[normal], wanted[normal], equal_nan=True)
    assert np.abs(dx[~normal] - wanted[~normal]).max() <= np.finfo(dtype).smallest_subnormal


@pytest.mark.parametrize("name", ["host", "x86-64-v3"])
def test_a_softmax_divides_once_a_row(name: str) -> None:
    target = Target.named(name)
    x = np.random.default_rng(2).integers(-5000, 5000, (33, 1001)) / np.float32(128)
    x = x.astype("float32")  # differences are exact
    kernel, text = compiled(Softmax(1), x.shape, target, "float32")
    assert target.has_fma and "fdiv <" not in text
    (native,) = compile_kernels([kernel], target)
    assert not isinstance(native, Exception)
    (y,) = native([x, np.empty_like(x)])
    wanted = Softmax(1).reference(x.astype("float64"))
    assert np.abs(y / wanted - 1)[wanted > 1e-36].max() < 4e-7


def test_where_no_product_is_fused_lanes_are_divided() -> None:
    plain = replace(Target.named("x86-64-v3"), has_fma=False)
    op, shape = spread((3, 3), True)
    assert "fdiv <" in compiled(op, shape, plain, "float32")[1]
    assert "fdiv <" in compiled(Softmax(1), (33, 1001), plain, "float32")[1]
