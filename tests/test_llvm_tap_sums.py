"""Weight gradients of depthwise convolutions: the sums of all taps stay in registers."""

from __future__ import annotations

from dataclasses import replace

import native_kernels
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from native_kernels import NativeKernel
from pairs import in_turn
from test_llvm_contraction import SMALL_CACHES, TARGETS, Geometry, close, operators, tiled

from graphc.codegen.llvm import contraction, kept_lines, tap_tiling
from graphc.codegen.llvm.product import Product
from graphc.codegen.llvm.tap_sums import TapSums
from graphc.codegen.llvm.target import Target
from graphc.ir.op import Op
from graphc.ir.types import TensorType
from graphc.kernel.build import kernel_of
from graphc.kernel.contraction import match
from graphc.kernel.lang import Kernel

ONE, NONE = ((1, 1), (1, 1)), ((0, 0), (0, 0))
# strides, pads, dilations, groups, shape of x, shape of w. Whether windows share whole lines.
SHAPES: dict[str, tuple[Geometry, bool]] = {
    "plain": (((1, 1), ONE, (1, 1), 48, (2, 48, 9, 11), (48, 1, 3, 3)), True),
    "odd": (((1, 1), ONE, (1, 1), 37, (3, 37, 7, 8), (37, 1, 3, 3)), True),
    "no padding": (((1, 1), NONE, (1, 1), 40, (2, 40, 8, 9), (40, 1, 3, 3)), True),
    "padding that differs": (
        ((1, 1), ((2, 0), (0, 1)), (1, 1), 19, (2, 19, 9, 6), (19, 1, 3, 3)),
        True,
    ),
    "strided across": (((1, 2), ONE, (1, 1), 33, (2, 33, 9, 10), (33, 1, 3, 3)), True),
    "strided": (((2, 2), ONE, (1, 1), 70, (2, 70, 9, 10), (70, 1, 3, 3)), False),
    "strided, even": (
        ((2, 2), ((0, 1), (0, 1)), (1, 1), 32, (1, 32, 10, 12), (32, 1, 3, 3)),
        False,
    ),
    "dilated across": (((1, 1), ((1, 1), (2, 2)), (1, 2), 24, (2, 24, 8, 13), (24, 1, 3, 3)), True),
    "dilated": (((1, 1), ((2, 2), (2, 2)), (2, 2), 24, (2, 24, 11, 12), (24, 1, 3, 3)), False),
    "wide": (((1, 1), ((2, 2), (2, 2)), (1, 1), 80, (2, 80, 9, 13), (80, 1, 5, 5)), True),
    "a column": (((1, 1), ((1, 1), (0, 0)), (1, 1), 20, (2, 20, 9, 5), (20, 1, 3, 1)), False),
    "a line": (((1, 1), ((0, 0), (1, 1)), (1, 1), 20, (2, 20, 9, 5), (20, 1, 1, 3)), False),
    "one image's point": (((1, 1), ONE, (1, 1), 32, (1, 32, 2, 2), (32, 1, 3, 3)), True),
    "far outside": (((1, 1), ((4, 4), (5, 5)), (1, 1), 17, (2, 17, 4, 5), (17, 1, 3, 3)), False),
}


@pytest.fixture(autouse=True)
def _outside_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill what lies around and between elements with nan, so that a wrong read is seen."""
    monkeypatch.setattr(native_kernels, "CANARY", 0xFF)


def weight_gradient(geometry: Geometry, dtype: str) -> tuple[Op, Kernel]:
    """The operator, and its kernel on images whose channels lie last."""
    forward = operators(geometry)[0][0]
    y = forward.infer(*(TensorType(dtype, shape) for shape in geometry[4:]))
    assert isinstance(y, TensorType)
    op, _, strides = operators(geometry)[2]
    types = [TensorType(dtype, geometry[4]), y]
    return op, kernel_of(op, types, [TensorType(dtype, geometry[5])], strides)


def parts(kernel: Kernel, target: Target) -> list[contraction.Tiled]:
    """What a kernel becomes."""
    found = match(kernel)
    assert found is not None
    return contraction.tiled_parts(found, target)


def forced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every product that may be one become sums of taps."""
    choose = tap_tiling.choose_tap_sums

    def cheap(product: Product, target: Target) -> tap_tiling.TapTiling | None:
        found = choose(product, target)
        if found is not None:
            found.cost = 0.0
        return found

    monkeypatch.setattr(contraction, "choose_tap_sums", cheap)


def arrays_of(kernel: Kernel, dtype: str, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    found = [rng.standard_normal(buffer.shape).astype(dtype) for buffer in kernel.buffers]
    found[-1][...] = np.nan
    return found


def every_cut(native: NativeKernel, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """The result with the shared loop cut into parts of 1, 2, ... iterations."""
    results = []
    for unit in range(1, native.emitted.extent + 1):
        arrays[-1][...] = np.nan
        cut = replace(native, emitted=replace(native.emitted, unit=unit))
        results.append(cut(arrays)[0].copy())
    return results


@pytest.mark.parametrize("name", SHAPES)
def test_a_wide_processor_holds_all_taps(name: str) -> None:
    geometry, shared = SHAPES[name]
    target = Target.named("znver5")
    for part in parts(weight_gradient(geometry, "float32")[1], target):
        if isinstance(part, TapSums):
            assert (part.tiling.kept is not None) == shared
            taps = len(part.tiling.points)
            assert part.tiling.vectors * (taps + 1) < target.registers
    found = parts(weight_gradient(geometry, "float32")[1], target)
    if name in ("plain", "strided", "wide"):
        assert all(isinstance(part, TapSums) for part in found)


@pytest.mark.parametrize(
    ("name", "target"), in_turn(SHAPES, [*TARGETS[1:], "x86-64-v2"], TARGETS[:1])
)
def test_sums_of_taps_are_right_for_every_cut(
    name: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On several sizes of caches: those of a few bytes end strips and groups of channels early."""
    forced(monkeypatch)
    geometry, _ = SHAPES[name]
    whole = Target.named(target)
    machines = [replace(whole, l1_bytes=one, l2_bytes=two) for one, two in SMALL_CACHES]
    for dtype in ("float32", "float64"):
        op, kernel = weight_gradient(geometry, dtype)
        arrays = arrays_of(kernel, dtype)
        want = op.reference(*(array.astype("float64") for array in arrays[:2]))
        for machine in (whole, *machines):
            (native,) = tiled([kernel], machine)
            assert native is not None
            results = every_cut(native, arrays)
            assert close(results[0], want, dtype)
            assert all(np.array_equal(results[0], other) for other in results)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("strip", [1, 20, 30, 1000])
def test_strips_of_any_length_are_right(
    strip: int, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    forced(monkeypatch)
    monkeypatch.setattr(tap_tiling, "STRIP", strip)
    monkeypatch.setattr(tap_tiling, "KEPT_STRIP", strip)
    monkeypatch.setattr(tap_tiling, "KEPT_PART", 100.0 if kept else 0.0)
    for name in ("odd", "no padding", "strided across", "wide"):
        op, kernel = weight_gradient(SHAPES[name][0], "float32")
        for part in parts(kernel, Target.named("znver5")):
            if isinstance(part, TapSums):
                assert (part.tiling.kept is not None) == kept
        arrays = arrays_of(kernel, "float32")
        want = op.reference(*(array.astype("float64") for array in arrays[:2]))
        (native,) = tiled([kernel], Target.host())
        assert native is not None and close(native(arrays)[0], want, "float32")


def test_what_a_tile_keeps_of_a_window() -> None:
    """Two columns a point of dy: windows of three reach one more; of padding there is nothing."""
    (part,) = parts(
        weight_gradient(SHAPES["strided across"][0], "float32")[1], Target.named("znver5")
    )[:1]
    assert isinstance(part, TapSums)
    kept = kept_lines.kept_lines(part.tiling, part.product)
    assert kept is not None
    assert (kept.count, kept.slots, kept.pixel, kept.across) == (3, 4, 33, 2)
    assert (kept.width, kept.first, kept.last) == (11, 1, 11)
    assert kept.lines == ((1, 8), (0, 8), (0, 7))
    assert kept.places == tuple((row, column) for row in range(3) for column in range(3))


def test_threads_take_several_vectors_at_once() -> None:
    """Every piece that a thread claims has several vectors: pixels then are read in long pieces."""
    (part,) = parts(
        weight_gradient(((1, 1), ONE, (1, 1), 512, (1, 512, 7, 7), (512, 1, 3, 3)), "float32")[1],
        Target.named("znver5"),
    )
    assert isinstance(part, TapSums)
    assert part.extent == 32 and part.joined == tap_tiling.CHANNEL_GRAIN


@st.composite
def depthwise(draw: st.DrawFn) -> Geometry:
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    pads = draw(st.tuples(*[st.tuples(st.integers(0, 3), st.integers(0, 3))] * 2))
    strides = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilations = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    size = draw(st.tuples(st.integers(1, 12), st.integers(1, 14)))
    channels, images = draw(st.integers(4, 70)), draw(st.integers(1, 3))
    for side, taps, apart, pad in zip(size, kernel, dilations, pads, strict=True):
        assume(side + sum(pad) > (taps - 1) * apart)
    return (strides, pads, dilations, channels, (images, channels, *size), (channels, 1, *kernel))


@settings(max_examples=60, deadline=None)
@given(geometry=depthwise(), target=st.sampled_from(TARGETS))
def test_any_depthwise_convolution(geometry: Geometry, target: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native_kernels, "CANARY", 0xFF)
        forced(patch)
        op, kernel = weight_gradient(geometry, "float32")
        if match(kernel) is None:
            return
        arrays = arrays_of(kernel, "float32")
        want = op.reference(*(array.astype("float64") for array in arrays[:2]))
        (native,) = tiled([kernel], Target.named(target))
        if native is not None:
            results = every_cut(native, arrays)
            assert close(results[0], want, "float32")
            assert all(np.array_equal(results[0], other) for other in results)
