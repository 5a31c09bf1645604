"""Tiled contractions against the operators' references and the kernels' interpreter."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Sequence
from dataclasses import replace

import llvmlite.binding as llvm
import native_kernels
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from native_kernels import NativeKernel
from pairs import in_turn

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.contraction import emit_contraction, tiled_parts
from graphc.codegen.llvm.dot_tile import DotProduct
from graphc.codegen.llvm.product import products
from graphc.codegen.llvm.target import Target
from graphc.codegen.llvm.tiled_product import TiledProduct
from graphc.ir.op import Op
from graphc.ir.types import TensorType
from graphc.kernel.build import Array, Writer, kernel_of
from graphc.kernel.contraction import match
from graphc.kernel.interp import interpret
from graphc.kernel.lang import Buffer, Kernel
from graphc.ops.conv import Conv, ConvDataGradient, ConvWeightGradient
from graphc.ops.linear import MatMul
from graphc.plan.layout import channels_last, packed_strides, strides_of

TARGETS = ("host", "x86-64-v3", "x86-64", "scalar")
TOLERANCE = {"float32": 2e-5, "float64": 1e-12}  # of the largest value
Shape = tuple[int, ...]
Geometry = tuple[Shape, tuple[tuple[int, int], ...], Shape, int, Shape, Shape]


@pytest.fixture(autouse=True)
def _outside_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill what lies around and between elements with nan, so that a wrong read is seen."""
    monkeypatch.setattr(native_kernels, "CANARY", 0xFF)


def tiled(kernels: Sequence[Kernel], target: Target) -> list[NativeKernel | None]:
    """The kernels as the tile emitter compiles them; None for each that it leaves to others."""
    module = ir.Module("tiled")
    module.triple = target.triple
    found = [emit_contraction(module, k, target, f"k{n}") for n, k in enumerate(kernels)]
    for emitted in found:
        if emitted is not None:
            emitted.function.linkage = "external"
    machine = target.machine()
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    engine = llvm.create_mcjit_compiler(parsed, machine)
    engine.finalize_object()
    return [
        None if e is None else NativeKernel(k, e, engine.get_function_address(f"k{n}"), engine)
        for n, (k, e) in enumerate(zip(kernels, found, strict=True))
    ]


def close(got: np.ndarray, want: np.ndarray, dtype: str) -> bool:
    """Whether all elements agree up to what rounding explains."""
    scale = max(float(np.abs(want).max()), 1e-30)
    return bool(np.abs(got - want).max() <= TOLERANCE[dtype] * scale)


# -- convolutions --------------------------------------------------------------------------------

# strides, pads, dilations, groups, shape of x, shape of w. Each is there for one form.
CONVOLUTIONS: dict[str, Geometry] = {
    "3x3": ((1, 1), ((1, 1), (1, 1)), (1, 1), 1, (2, 20, 13, 13), (70, 20, 3, 3)),
    "7x7 stride 2": ((2, 2), ((3, 3), (3, 3)), (1, 1), 1, (2, 3, 20, 22), (64, 3, 7, 7)),
    "11x11 stride 4": ((4, 4), ((0, 0), (0, 0)), (1, 1), 1, (1, 3, 27, 31), (96, 3, 11, 11)),
    "groups": ((1, 1), ((2, 2), (2, 2)), (1, 1), 2, (2, 32, 9, 9), (40, 16, 5, 5)),
    "1x1": ((1, 1), ((0, 0), (0, 0)), (1, 1), 1, (3, 70, 7, 7), (130, 70, 1, 1)),
    "1x1 stride 2": ((2, 2), ((0, 0), (0, 0)), (1, 1), 1, (2, 33, 8, 8), (48, 33, 1, 1)),
    "1x1 padded": ((1, 1), ((1, 1), (1, 1)), (1, 1), 1, (2, 6, 5, 5), (7, 6, 1, 1)),
    "dilated": ((1, 1), ((2, 2), (2, 2)), (2, 2), 1, (1, 16, 12, 12), (16, 16, 3, 3)),
    "3x3 stride 2": ((2, 2), ((1, 1), (1, 1)), (1, 1), 1, (2, 32, 9, 10), (48, 32, 3, 3)),
    "long sum": ((1, 1), ((1, 1), (1, 1)), (1, 1), 1, (1, 150, 5, 5), (33, 150, 3, 3)),
    "covers the image": ((1, 1), ((0, 0), (0, 0)), (1, 1), 1, (5, 40, 6, 6), (50, 40, 6, 6)),
    "uneven": ((2, 1), ((1, 2), (2, 0)), (1, 1), 1, (2, 3, 6, 5), (2, 3, 3, 3)),
    "stride over size": ((3, 2), ((0, 0), (0, 0)), (1, 2), 1, (1, 2, 9, 8), (3, 2, 2, 3)),
    "1x3 stride 5": ((5, 5), ((0, 1), (1, 1)), (1, 1), 1, (2, 3, 9, 8), (4, 3, 1, 3)),
    "many phases": ((8, 8), ((4, 4), (3, 5)), (1, 1), 1, (2, 21, 40, 37), (20, 21, 16, 16)),
    "more phases": ((5, 33), ((4, 4), (0, 9)), (3, 1), 1, (1, 5, 40, 70), (6, 5, 4, 39)),
    "few beyond a vector": ((1, 1), ((0, 0), (0, 0)), (1, 1), 1, (20, 20, 7, 8), (50, 20, 5, 5)),
    "few beyond, padded": ((1, 1), ((1, 1), (2, 0)), (1, 1), 1, (19, 20, 6, 5), (36, 20, 3, 3)),
    "few beyond, stride 2": ((2, 2), ((1, 1), (1, 1)), (1, 1), 1, (18, 20, 7, 6), (35, 20, 3, 3)),
    "small groups": ((1, 1), ((1, 1), (1, 1)), (1, 1), 11, (2, 44, 9, 11), (44, 4, 3, 3)),
    "two outputs a channel": ((1, 1), ((1, 1), (1, 1)), (1, 1), 21, (2, 21, 9, 7), (42, 1, 3, 3)),
    "groups that narrow": ((2, 2), ((1, 1), (1, 1)), (1, 1), 9, (2, 54, 9, 7), (18, 6, 3, 3)),
    "depthwise": ((1, 1), ((1, 1), (1, 1)), (1, 1), 37, (2, 37, 9, 11), (37, 1, 3, 3)),
    "depthwise, stride 2": ((2, 2), ((1, 2), (0, 1)), (1, 1), 70, (1, 70, 9, 8), (70, 1, 4, 3)),
    "depthwise, wide": ((1, 1), ((2, 2), (2, 2)), (1, 1), 80, (2, 80, 7, 33), (80, 1, 5, 5)),
    "depthwise, wide steps": ((2, 2), ((2, 2), (2, 2)), (1, 1), 33, (2, 33, 9, 40), (33, 1, 5, 5)),
    "depthwise, dilated": ((1, 1), ((2, 0), (3, 4)), (2, 2), 40, (1, 40, 9, 21), (40, 1, 3, 4)),
    "depthwise, gaps": ((1, 3), ((0, 0), (0, 0)), (1, 2), 18, (2, 18, 5, 43), (18, 1, 2, 4)),
    "depthwise, long sums": ((1, 1), ((1, 1), (1, 1)), (1, 1), 20, (2, 20, 26, 25), (20, 1, 3, 3)),
    "groups of eight": ((2, 2), ((1, 1), (1, 1)), (1, 1), 4, (2, 32, 18, 14), (32, 8, 3, 3)),
    "groups, long sums": ((2, 2), ((1, 1), (1, 1)), (1, 1), 5, (2, 40, 52, 54), (40, 8, 3, 3)),
    "one axis": ((2,), ((1, 1),), (1,), 1, (2, 3, 7), (2, 3, 4)),
    "three axes": (
        (1, 2, 1),
        ((0, 0), (1, 1), (1, 0)),
        (1, 1, 1),
        1,
        (1, 2, 3, 4, 3),
        (2, 2, 2, 3, 2),
    ),
}


def operators(
    geometry: Geometry,
    images_last: bool = True,
    outputs_last: bool = False,
    packed: bool = True,
) -> list[tuple[Op, tuple[str, ...], list[Shape | None]]]:
    """Forward, data and weight gradient: operator, operands, strides as the plan chooses them.

    outputs_last: the data gradient reads weights as it does for images of a few channels.
    packed: weights do not lie as the user stores them.
    """
    strides, pads, dilations, groups, x, w = geometry
    forward = Conv(strides, pads, dilations, groups)
    y = forward.infer(TensorType("float32", x), TensorType("float32", w)).shape
    rank = len(x)
    spatial = tuple(range(2, rank))

    def image(shape: tuple[int, ...]) -> tuple[int, ...]:
        return strides_of(shape, channels_last(rank) if images_last else tuple(range(rank)))

    def weights(*order: int) -> tuple[int, ...] | None:
        return packed_strides(w, order) if packed else None

    return [
        (forward, ("x", "w"), [image(x), weights(*spatial, 1, 0), image(y)]),
        (
            ConvDataGradient(x[2:], strides, pads, dilations, groups),
            ("y", "w"),
            [image(y), weights(*spatial, *((1, 0) if outputs_last else (0, 1))), image(x)],
        ),
        (
            ConvWeightGradient(w[2:], strides, pads, dilations, groups),
            ("x", "y"),
            [image(x), image(y), None],
        ),
    ]


def check_convolution(
    geometry: Geometry,
    dtype: str,
    target: Target,
    images_last: bool = True,
    outputs_last: bool = False,
    packed: bool = True,
) -> int:
    """Compare what is tiled with the references; returns how many of the three are."""
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape) for shape in geometry[4:])
    work = operators(geometry, images_last, outputs_last, packed)
    y = work[0][0].reference(x, w)
    arrays = {"x": x, "w": w, "y": rng.standard_normal(y.shape)}
    kernels, wanted = [], []
    for op, names, strides in work:
        types = [TensorType(dtype, arrays[name].shape) for name in names]
        kernels.append(kernel_of(op, types, [op.infer(*types)], strides))
        exact = [arrays[name].astype(dtype).astype("float64") for name in names]
        wanted.append(op.reference(*exact))
    count = 0
    for kernel, native, want, (op, names, _) in zip(
        kernels, tiled(kernels, target), wanted, work, strict=True
    ):
        if native is None:
            continue
        count += 1
        inputs = [arrays[name].astype(dtype) for name in names]
        (got,) = native([*inputs, np.full(want.shape, np.nan, dtype)])
        assert close(got, want, dtype), f"{op.op_name} {geometry} {kernel.name}"
    return count


@pytest.mark.parametrize(("target", "images_last"), in_turn(TARGETS, (True, False)))
def test_weights_may_lie_as_they_are_stored(target: str, images_last: bool) -> None:
    """Then the lanes' weights are transposed, but for taps of which a stride meets only some."""
    few = ((1, 2), ((0, 3), (3, 3)), (3, 1), 1, (2, 2, 14, 31), (8, 2, 5, 3))
    strided = ((1, 5), ((1, 0), (0, 0)), (1, 1), 2, (2, 6, 13, 40), (8, 3, 3, 3))
    tall = ((1, 1), ((1, 1), (2, 1)), (1, 1), 1, (2, 3, 60, 2), (5, 3, 4, 4))
    groups = ((2, 1), ((0, 1), (1, 0)), (1, 1), 2, (1, 16, 41, 3), (16, 8, 3, 2))
    for geometry in (*CONVOLUTIONS.values(), few, strided, tall, groups):
        check_convolution(geometry, "float32", Target.named(target), images_last, packed=False)


@pytest.mark.parametrize("images_last", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_of_few_outputs_may_lie_along_channels(dtype: str, images_last: bool) -> None:
    """Lanes' weights are transposed then, and windows of neighbouring pixels overlap besides."""
    rng = np.random.default_rng(0)
    kernels, given, wanted = [], [], []
    for geometry in (
        ((4, 1), ((2, 0), (2, 3)), (2, 1), 3, (1, 390, 7, 40), (9, 130, 5, 7)),
        ((1, 1), ((1, 1), (1, 1)), (1, 1), 1, (2, 40, 9, 11), (3, 40, 3, 3)),
        ((1, 5), ((1, 0), (0, 0)), (1, 1), 2, (2, 6, 13, 40), (8, 3, 3, 3)),
    ):
        op = Conv(*geometry[:4])
        arrays = [rng.standard_normal(shape).astype(dtype) for shape in geometry[4:]]
        types = [TensorType(dtype, array.shape) for array in arrays]
        y = op.infer(*types)
        image = channels_last(4) if images_last else (0, 1, 2, 3)
        for order in ((0, 2, 3, 1), (2, 3, 0, 1)):
            orders = (image, order, channels_last(4))
            strides = [strides_of(t.shape, o) for t, o in zip((*types, y), orders, strict=True)]
            kernels.append(kernel_of(op, types, [y], strides))
            given.append([*arrays, np.full(y.shape, np.nan, dtype)])
            wanted.append(op.reference(*(array.astype("float64") for array in arrays)))
    natives = tiled(kernels, replace(Target.host(), l1_bytes=4096, l2_bytes=65536))
    for kernel, native, arrays, want in zip(kernels, natives, given, wanted, strict=True):
        if native is not None:
            assert close(native(arrays)[0], want, dtype), kernel.name


# Their weight gradients have panels of several taps, whose sums wait in memory or do not.
WIDE = {
    "gaps between packed rows": (
        (1, 1),
        ((1, 1), (1, 1)),
        (1, 1),
        1,
        (1, 256, 5, 6),
        (512, 256, 3, 3),
    ),
    "all taps": ((1, 1), ((1, 1), (2, 0)), (1, 1), 1, (1, 24, 7, 9), (400, 24, 3, 3)),
    "long sums of all taps": (
        (2, 1),
        ((1, 1), (1, 1)),
        (1, 1),
        1,
        (1, 116, 73, 36),
        (400, 116, 3, 3),
    ),
    "long sums of a row of taps": (
        (1, 1),
        ((1, 1), (1, 1)),
        (1, 1),
        1,
        (1, 70, 37, 36),
        (130, 70, 3, 3),
    ),
}


@pytest.mark.parametrize("target", ["host", "x86-64-v3"])
@pytest.mark.parametrize("name", WIDE)
def test_wide_convolutions(name: str, target: str) -> None:
    assert check_convolution(WIDE[name], "float32", Target.named(target)) == 3


# A single tap at more phases than are written out: the data gradient is left to loops.
SINGLE_TAPS = {
    "1x1 stride 5": ((5, 6), ((0, 0), (1, 0)), (1, 1), 1, (2, 3, 9, 8), (4, 3, 1, 1)),
    "1x1 stride 7, groups": ((7, 7), ((0, 0), (0, 0)), (1, 1), 2, (2, 4, 3, 3), (4, 2, 1, 1)),
}


@pytest.mark.parametrize("name", SINGLE_TAPS)
def test_a_single_tap_at_a_large_stride_is_left_to_loops(name: str) -> None:
    assert check_convolution(SINGLE_TAPS[name], "float32", Target.named("host")) == 2


@pytest.mark.parametrize(("name", "target"), in_turn(CONVOLUTIONS, TARGETS[1:], TARGETS[:1]))
def test_convolutions_and_their_gradients(name: str, target: str) -> None:
    for dtype in ("float32", "float64"):
        assert check_convolution(CONVOLUTIONS[name], dtype, Target.named(target)) == 3


# The data gradients of these are sums of dot products in windows: few channels, many outputs.
FEW_CHANNELS: dict[str, Geometry] = {
    "three": ((1, 1), ((1, 1), (1, 1)), (1, 1), 1, (2, 3, 13, 29), (64, 3, 3, 3)),
    "one": ((1, 1), ((2, 2), (2, 1)), (1, 1), 1, (2, 1, 9, 28), (20, 1, 5, 5)),
    "stride 2": ((2, 2), ((3, 3), (3, 3)), (1, 1), 1, (1, 3, 20, 39), (70, 3, 7, 7)),
    "stride 4": ((4, 4), ((0, 0), (0, 0)), (1, 1), 1, (2, 4, 27, 31), (33, 4, 11, 11)),
    "a few rows fit": ((4, 4), ((0, 0), (0, 0)), (1, 1), 1, (1, 3, 15, 59), (48, 3, 11, 11)),
    "stride 3, dilated": ((3, 3), ((2, 0), (1, 4)), (2, 4), 1, (1, 2, 25, 30), (48, 2, 4, 3)),
    "stride over size": ((5, 3), ((0, 0), (1, 0)), (1, 1), 1, (1, 3, 22, 17), (32, 3, 2, 2)),
    "groups": ((2, 2), ((1, 1), (1, 1)), (1, 1), 2, (1, 6, 9, 12), (64, 3, 3, 3)),
    "one axis": ((2,), ((1, 3),), (1,), 1, (3, 2, 50), (40, 2, 6)),
    "one column": ((2, 2), ((3, 3), (3, 3)), (1, 1), 1, (2, 4, 37, 1), (48, 4, 5, 7)),
    "one line": ((3, 2), ((2, 2), (0, 1)), (1, 1), 1, (2, 3, 1, 29), (40, 3, 5, 4)),
}


# What is done for large results (stores past the caches, panels of a few rows) happens to small
# ones on a machine whose caches are small.
SMALL_CACHES = ((8192, 1024), (8192, 16384), (2048, 65536))


@pytest.mark.parametrize(("name", "caches"), in_turn([*CONVOLUTIONS, *FEW_CHANNELS], SMALL_CACHES))
def test_convolutions_larger_than_the_caches(name: str, caches: tuple[int, int]) -> None:
    one, two = caches
    geometry = CONVOLUTIONS.get(name) or FEW_CHANNELS[name]
    for machine in ("host", "x86-64-v3"):
        target = replace(Target.named(machine), l1_bytes=one, l2_bytes=two)
        for outputs_last in (False, True):
            assert check_convolution(geometry, "float32", target, outputs_last=outputs_last) >= 2


def test_images_with_channels_first_are_right_where_they_are_tiled() -> None:
    for geometry in CONVOLUTIONS.values():
        check_convolution(geometry, "float32", Target.host(), images_last=False)


@pytest.mark.parametrize("target", TARGETS)
def test_data_gradients_of_few_channels(target: str) -> None:
    for geometry in FEW_CHANNELS.values():
        for dtype in ("float32", "float64"):
            assert check_convolution(geometry, dtype, Target.named(target), outputs_last=True) == 3


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Convolutions with a few channels around multiples of vectors, and any window."""

    def pair(low: int, high: int) -> tuple[int, int]:
        return draw(st.integers(low, high)), draw(st.integers(low, high))

    kernel, strides, dilations = pair(1, 5), pair(1, 3), pair(1, 2)
    pads = pair(0, 3), pair(0, 3)
    size = pair(1, 17)
    for axis in range(2):
        reach = dilations[axis] * (kernel[axis] - 1) + 1
        assume(size[axis] + sum(pads[axis]) >= reach)
    groups = draw(st.sampled_from((1, 1, 1, 2, 3)))
    inner = draw(st.sampled_from((1, 2, 3, 7, 8, 16, 19, 40)))
    outer = draw(st.sampled_from((1, 2, 5, 8, 16, 17, 33, 64)))
    x = (draw(st.integers(1, 3)), groups * inner, *size)
    return strides, pads, dilations, groups, x, (groups * outer, inner, *kernel)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    geometries(),
    st.sampled_from(("float32", "float64")),
    st.sampled_from(TARGETS),
    st.sampled_from((None, *SMALL_CACHES)),
    st.booleans(),
)
def test_random_convolutions(
    geometry: Geometry,
    dtype: str,
    machine: str,
    caches: tuple[int, int] | None,
    outputs_last: bool,
) -> None:
    target = Target.named(machine)
    if caches is not None:
        target = replace(target, l1_bytes=caches[0], l2_bytes=caches[1])
    check_convolution(geometry, dtype, target, outputs_last=outputs_last)


# -- inner products ------------------------------------------------------------------------------

PRODUCTS = (
    (1, 10, 70),
    (1, 1, 33),
    (3, 7, 40),
    (16, 100, 129),
    (5, 1000, 64),
    (33, 17, 300),
    (7, 5, 2500),
    (70, 1, 50),
    (40, 96, 600),
    (13, 20, 1300),
    (1, 800, 700),
    (1, 5, 130),
    (16, 200, 1000),
    (18, 130, 2100),
    (70, 50, 1),
    (33, 300, 16),
    (5, 40, 3),
)


@pytest.mark.parametrize(("target", "dtype"), in_turn(TARGETS, ("float32", "float64")))
def test_matrix_products(target: str, dtype: str) -> None:
    rng = np.random.default_rng(1)
    kernels, inputs, wanted = [], [], []
    for rows, columns, depth in PRODUCTS:
        for left, right in itertools.product((False, True), repeat=2):
            a = rng.standard_normal((depth, rows) if left else (rows, depth)).astype(dtype)
            b = rng.standard_normal((columns, depth) if right else (depth, columns)).astype(dtype)
            op = MatMul(left, right)
            types = [TensorType(dtype, a.shape), TensorType(dtype, b.shape)]
            kernels.append(kernel_of(op, types, [op.infer(*types)]))
            inputs.append([a, b])
            wanted.append(op.reference(a.astype("float64"), b.astype("float64")))
    whole = Target.named(target)
    small = [replace(whole, l1_bytes=one, l2_bytes=two) for one, two in SMALL_CACHES]
    for machine in (whole, *small):
        natives = tiled(kernels, machine)
        for kernel, native, arrays, want in zip(kernels, natives, inputs, wanted, strict=True):
            assert native is not None, kernel
            (got,) = native([*arrays, np.full(want.shape, np.nan, dtype)])
            assert close(got, want, dtype), kernel


def test_a_long_sum_errs_like_a_blocked_one() -> None:
    # Added one by one, 200000 times 0.1 errs by 3e-3; in blocks of a thousand by less than 1e-5.
    depth = 200_000
    for op, shapes in (
        (MatMul(False, True), ((2, depth), (3, depth))),
        (MatMul(True, False), ((depth, 2), (depth, 20))),
    ):
        arrays = [
            np.full(shape, value, "float32") for shape, value in zip(shapes, (0.1, 1), strict=True)
        ]
        types = [TensorType("float32", shape) for shape in shapes]
        kernel = kernel_of(op, types, [op.infer(*types)])
        (native,) = tiled([kernel], Target.host())
        assert native is not None
        want = op.reference(*(a.astype("float64") for a in arrays))
        (got,) = native([*arrays, np.zeros(want.shape, "float32")])
        assert np.abs(got / want - 1).max() < 1e-5


@pytest.mark.parametrize("shift", [0, 4])
def test_results_stored_past_the_caches(shift: int) -> None:
    # A cache so small that this result counts as large. What is not aligned is stored as usual.
    target = replace(Target.host(), l2_bytes=1024)
    rng = np.random.default_rng(4)
    arrays = [rng.standard_normal(shape).astype("float32") for shape in ((9, 40), (9, 112))]
    op = MatMul(True, False)
    types = [TensorType("float32", array.shape) for array in arrays]
    (native,) = tiled([kernel_of(op, types, [op.infer(*types)])], target)
    assert native is not None
    if target.lanes("float32") > 1:
        assert "!nontemporal" in str(native.emitted.function)
    memory = np.full(40 * 112 * 4 + 192, 0xFF, np.uint8)
    start = -memory.ctypes.data % 64 + 64 + shift
    got = memory[start : start + 40 * 112 * 4].view("float32").reshape(40, 112)
    places = [ctypes.c_void_p(array.ctypes.data) for array in (*arrays, got)]
    whole = ctypes.c_int64(0), ctypes.c_int64(native.emitted.extent)
    ctypes.CFUNCTYPE(None)(native.address)(*places, *whole, None)
    assert close(got, arrays[0].T.astype("float64") @ arrays[1], "float32")
    assert (memory[:start] == 0xFF).all() and (memory[start + got.nbytes :] == 0xFF).all()


# Rows of a few vectors, of many with a part of one at the end, and of whole blocks of vectors.
@pytest.mark.parametrize(
    "rows, columns", [(16, 900), (9, 2111), (3, 2500), (16, 2048), (24, 1500), (40, 3000)]
)
def test_a_large_matrix_is_read_in_long_rows(rows: int, columns: int) -> None:
    rng = np.random.default_rng(5)
    arrays = [
        rng.standard_normal(shape).astype("float32") for shape in ((rows, 1300), (1300, columns))
    ]
    op = MatMul(False, False)
    types = [TensorType("float32", array.shape) for array in arrays]
    kernel = kernel_of(op, types, [op.infer(*types)])
    contraction = match(kernel)
    assert contraction is not None
    for l2_bytes in (1 << 19, *(second for _, second in SMALL_CACHES)):
        machine = replace(Target.named("znver5"), l2_bytes=l2_bytes)
        (part,) = tiled_parts(contraction, machine)
        assert isinstance(part, TiledProduct) and part.tiling.wide > 1
        target = replace(Target.host(), l2_bytes=l2_bytes)
        (native,) = tiled([kernel], target)
        assert native is not None
        got = native([*arrays, np.full((rows, columns), np.nan, "float32")])[0].copy()
        assert close(got, arrays[0].astype("float64") @ arrays[1], "float32")
        thirds = replace(native.emitted, unit=max(1, native.emitted.extent // 3))
        empty = np.full((rows, columns), np.nan, "float32")
        assert np.array_equal(got, replace(native, emitted=thirds)([*arrays, empty])[0])


def test_tiles_of_columns_share_a_chunk_of_long_rows() -> None:
    rng = np.random.default_rng(6)
    arrays = [rng.standard_normal(shape).astype("float32") for shape in ((16, 9216), (300, 9216))]
    op = MatMul(False, True)
    types = [TensorType("float32", array.shape) for array in arrays]
    kernel = kernel_of(op, types, [op.infer(*types)])
    contraction = match(kernel)
    assert contraction is not None
    (part,) = tiled_parts(contraction, Target.named("znver5"))
    assert isinstance(part, DotProduct) and part.tiling.chunk and part.tiling.group > 1
    wanted = arrays[0].astype("float64") @ arrays[1].T
    for target in TARGETS:
        (native,) = tiled([kernel], Target.named(target))
        assert native is not None
        (got,) = native([*arrays, np.full((16, 300), np.nan, "float32")])
        assert close(got, wanted, "float32")


def test_channels_beyond_the_last_full_vector_have_lanes_along_the_fold() -> None:
    target = Target.named("znver5")
    geometry = CONVOLUTIONS["few beyond a vector"]
    shapes = {"x": geometry[4], "w": geometry[5], "y": (20, 50, 3, 4)}
    for (op, names, strides), outputs in zip(operators(geometry), (48, 16, 48), strict=True):
        types = [TensorType("float32", shapes[name]) for name in names]
        contraction = match(kernel_of(op, types, [op.infer(*types)], strides))
        assert contraction is not None
        full, rest = tiled_parts(contraction, target)
        assert full.product.extents[full.tiling.vector] == outputs
        if op.op_name != "conv_weight_gradient":
            assert isinstance(rest, DotProduct) and rest.tiling.source is not None


# -- the epilogue --------------------------------------------------------------------------------


def with_epilogue(dtype: str, rows: int, columns: int, depth: int) -> Kernel:
    """relu(x w + bias), and old + that: two stores, one of them an addition to what is there."""
    k = Writer("epilogue")
    shapes = {
        "x": (rows, depth),
        "w": (depth, columns),
        "b": (columns,),
        "y": (rows, columns),
        "z": (columns, rows),
    }
    buffers = {name: Buffer.of(name, TensorType(dtype, shape)) for name, shape in shapes.items()}
    x, w, b, y, z = (Array(k, buffer) for buffer in buffers.values())
    i, j = k.each(rows, columns)
    t = k.axis(depth)
    total = k.let(k.sum(t, x[i, t] * w[t, j]) + b[j])
    y[i, j] = k.maximum(total, 0.0) * k.cast(i + 2 * j, dtype)
    k.add(z, (j, i), k.tanh(total))
    listed = list(buffers.values())
    return k.finish(listed[:3], listed[3:])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", [(9, 37, 20), (20, 5, 1500), (1, 70, 3), (30, 16, 300)])
def test_stores_are_evaluated_on_the_sums(shape: tuple[int, int, int], target: str) -> None:
    rng = np.random.default_rng(2)
    for dtype in ("float32", "float64"):
        kernel = with_epilogue(dtype, *shape)
        (native,) = tiled([kernel], Target.named(target))
        assert native is not None
        arrays = [rng.standard_normal(buffer.shape).astype(dtype) for buffer in kernel.buffers]
        exact = [array.copy() for array in arrays]
        assert not interpret(kernel, exact)
        for got, want in zip(native(arrays), exact[3:], strict=True):
            assert close(got, want, dtype)


def residual(dtype: str, rows: int, columns: int, depth: int) -> Kernel:
    """x w + r where m is positive, else 0: a data gradient, a second one and a ReLU's."""
    k = Writer("residual")
    map_shape = (rows, columns)
    shapes = {"x": (rows, depth), "w": (depth, columns)}
    shapes |= {"m": map_shape, "r": map_shape, "y": map_shape}
    listed = [Buffer.of(name, TensorType(dtype, shape)) for name, shape in shapes.items()]
    x, w, m, r, y = (Array(k, buffer) for buffer in listed)
    i, j = k.each(rows, columns)
    t = k.axis(depth)
    total = k.sum(t, x[i, t] * w[t, j]) + r[i, j]
    y[i, j] = k.select(m[i, j] > 0.0, total, 0.0)
    return k.finish(listed[:4], listed[4:])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", [(60, 96, 20), (131, 37, 8), (61, 70, 300)])
def test_what_stores_read_of_large_arrays_is_asked_for(
    shape: tuple[int, int, int], target: str
) -> None:
    rng = np.random.default_rng(2)
    large = Target.named(target)
    small = replace(large, l2_bytes=1024)
    for dtype in ("float32", "float64"):
        kernel = residual(dtype, *shape)
        arrays = [rng.standard_normal(buffer.shape).astype(dtype) for buffer in kernel.buffers]
        exact = [array.copy() for array in arrays]
        assert not interpret(kernel, exact)
        fetches = []
        for machine in (large, small):
            module = ir.Module("tiled")
            emit_contraction(module, kernel, machine, "k")
            fetches.append(str(module).count("call void @llvm.prefetch"))
            (native,) = tiled([kernel], machine)
            assert native is not None
            assert close(native(arrays)[0], exact[4], dtype)
        assert fetches[1] >= fetches[0] + (0 if target == "scalar" else 2)


def test_addresses_run_along_with_the_counter_of_a_tile_alone() -> None:
    """Of other loops LLVM does not see how the counter goes on: there that would take long."""
    types = [TensorType("float32", (128, 784)), TensorType("float32", (784, 512))]
    kernel = kernel_of(MatMul(), types, [MatMul().infer(*types)])
    module = ir.Module("tiled")
    emitted = emit_contraction(module, kernel, Target.named("x86-64-v4"), "k")
    assert emitted is not None
    blocks = [block.text for block in emitted.function.blocks]
    own = [b for b in blocks if f"label %{b[0][:-1]}," in b[-1]]  # loops of one block
    sums = [b for b in own if any("@llvm.fma" in line for line in b)]
    assert sums
    for block in own:
        assert any("@llvm.expect" in line for line in block) == (block not in sums)
    last = [b for b in blocks if "br i1" in b[-1] and any("@llvm.expect" in line for line in b)]
    assert len(last) >= 2  # those of shares and panels


def test_every_cut_into_shares_gives_the_same_bits() -> None:
    for name, outputs in (
        ("3x3", (2, 70, 13, 13)),
        ("few beyond a vector", (20, 50, 3, 4)),
        ("depthwise, long sums", (2, 20, 26, 25)),
    ):
        check_shares(CONVOLUTIONS[name], outputs)


def parts_of(name: str, outputs: Shape, target: Target) -> list[list[TiledProduct]]:
    """What becomes of forward, data gradient and weight gradient, where all are tiles."""
    geometry, found = CONVOLUTIONS[name], []
    shapes = {"x": geometry[4], "w": geometry[5], "y": outputs}
    for op, names, strides in operators(geometry):
        types = [TensorType("float32", shapes[operand]) for operand in names]
        contraction = match(kernel_of(op, types, [op.infer(*types)], strides))
        assert contraction is not None
        parts = tiled_parts(contraction, target)
        found.append([part for part in parts if isinstance(part, TiledProduct)])
        assert len(found[-1]) == len(parts) > 0
    return found


# Convolutions whose weight gradients have shares of taps, or of groups, that read the same lines.
SHARED_LINES = (("depthwise, long sums", (2, 20, 26, 25)), ("groups, long sums", (2, 40, 26, 27)))


@pytest.fixture
def _in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """No weight gradient holds all its taps, as if there were more of them than registers."""
    name = "graphc.codegen.llvm.contraction.choose_tap_sums"
    monkeypatch.setattr(name, lambda *_: None)


@pytest.mark.usefixtures("_in_tiles")
@pytest.mark.parametrize(("name", "outputs"), SHARED_LINES)
def test_a_thread_reads_once_what_several_of_its_shares_read(name: str, outputs: Shape) -> None:
    *_, (part,) = parts_of(name, outputs, Target.named("znver5"))
    tiling = part.tiling
    assert tiling.lines_together and part.extent > part.shares.extent
    both = tiling.line in tiling.a.strides and tiling.line in tiling.b.strides
    assert both == name.startswith("groups")
    assert len(tiling.whole_lines) == both
    rng = np.random.default_rng(3)
    op, _, strides = operators(CONVOLUTIONS[name])[2]
    types = [TensorType("float32", shape) for shape in (CONVOLUTIONS[name][4], outputs)]
    kernel = kernel_of(op, types, [op.infer(*types)], strides)
    (native,) = tiled([kernel], Target.host())
    assert native is not None
    arrays = [rng.standard_normal(buffer.shape).astype("float32") for buffer in kernel.buffers]
    want = op.reference(*(array.astype("float64") for array in arrays[:2]))
    for unit in range(1, native.emitted.extent + 1):
        cut = replace(native, emitted=replace(native.emitted, unit=unit))
        assert close(cut(arrays)[0], want, "float32")


@pytest.mark.usefixtures("_in_tiles")
def test_windows_of_few_channels_that_overlap_are_read_once() -> None:
    for name, outputs in (
        ("depthwise, wide", (2, 80, 7, 33)),
        ("depthwise, dilated", (1, 40, 7, 22)),
        ("depthwise, wide steps", (2, 33, 5, 20)),
        ("small groups", (2, 44, 9, 11)),
        ("groups of eight", (2, 32, 9, 7)),
    ):
        for machine in ("znver5", "x86-64-v3"):
            (forward,), *_ = parts_of(name, outputs, Target.named(machine))
            tiling = forward.tiling
            assert tiling.sliding is not None
            taps = forward.product.extents[tiling.sliding]
            assert (tiling.rows + taps) * tiling.vectors < Target.named(machine).registers


def test_parts_of_lines_do_not_go_past_the_caches() -> None:
    small = replace(Target.named("znver5"), l2_bytes=1024)
    for part in itertools.chain(*parts_of("groups of eight", (2, 32, 9, 7), small)):
        tiling = part.tiling
        assert tiling.lanes == 8 and not tiling.streamed and not tiling.by_rows


def test_folds_go_forwards_in_the_larger_operand() -> None:
    for name in ("3x3", "3x3 stride 2", "depthwise, wide", "dilated"):
        geometry = CONVOLUTIONS[name]
        op, _, strides = operators(geometry)[1]
        y = operators(geometry)[0][0].infer(*(TensorType("float32", s) for s in geometry[4:]))
        types = [y, TensorType("float32", geometry[5])]
        contraction = match(kernel_of(op, types, [op.infer(*types)], strides))
        assert contraction is not None
        for product in products(contraction) or ():
            factors = (product.left, product.right)
            large = max(factors, key=lambda factor: np.prod(factor.buffer.shape))
            assert all(large.strides.get(axis, 0) >= 0 for axis in product.over)


def check_shares(geometry: Geometry, outputs: Shape) -> None:
    """Halves and thirds of the shared loop give the same."""
    rng = np.random.default_rng(3)
    for op, names, strides in operators(geometry):
        shapes = {"x": geometry[4], "w": geometry[5], "y": outputs}
        types = [TensorType("float32", shapes[name]) for name in names]
        kernel = kernel_of(op, types, [op.infer(*types)], strides)
        (native,) = tiled([kernel], Target.host())
        assert native is not None and native.emitted.extent > 1
        arrays = [rng.standard_normal(buffer.shape).astype("float32") for buffer in kernel.buffers]
        halves = native(arrays)[0].copy()
        thirds = replace(native.emitted, unit=-(-native.emitted.extent // 3))  # cut elsewhere
        assert np.array_equal(halves, replace(native, emitted=thirds)(arrays)[0])


# -- what is left to loops -----------------------------------------------------------------------


def test_what_is_no_contraction_is_left_to_loops() -> None:
    k = Writer("square")
    x, y = (
        Array(k, Buffer.of(name, TensorType("float32", (4, 5)[: 2 - n])))
        for n, name in enumerate("xy")
    )
    (i,) = k.each(4)
    t = k.axis(5)
    y[i] = k.sum(t, x[i, t] * x[i, t])
    kernel = k.finish([x.buffer], [y.buffer])
    assert tiled([kernel], Target.host()) == [None]
