"""Weight gradients of large maps: a chunk passes over many blocks of vectors, or over all taps."""

from __future__ import annotations

from dataclasses import replace

import native_kernels
import numpy as np
import pytest
from test_llvm_contraction import Geometry, close, operators, tiled

from graphc.codegen.llvm import panel_shape
from graphc.codegen.llvm.contraction import tiled_parts
from graphc.codegen.llvm.target import Target
from graphc.codegen.llvm.tiled_product import TiledProduct
from graphc.codegen.llvm.tiling import Tiling
from graphc.ir.types import TensorType
from graphc.kernel.build import kernel_of
from graphc.kernel.contraction import match
from graphc.kernel.lang import Kernel

NONE, ONE = ((0, 0), (0, 0)), ((1, 1), (1, 1))
BESIDE: dict[str, Geometry] = {
    "1x1": ((1, 1), NONE, (1, 1), 1, (3, 601, 21, 20), (121, 601, 1, 1)),
    "whole blocks": ((1, 1), NONE, (1, 1), 1, (3, 640, 21, 20), (112, 640, 1, 1)),
    "strided": ((2, 2), NONE, (1, 1), 1, (5, 768, 33, 35), (64, 768, 1, 1)),
    "many rows": ((1, 1), NONE, (1, 1), 1, (2, 768, 26, 26), (130, 768, 1, 1)),
}
TAPS: dict[str, Geometry] = {
    "3x3": ((1, 1), ONE, (1, 1), 1, (2, 32, 30, 29), (40, 32, 3, 3)),
    "strided": ((2, 2), ONE, (1, 1), 1, (2, 48, 53, 54), (50, 48, 3, 3)),
    "5x5": ((1, 1), ((2, 2), (2, 2)), (1, 1), 1, (2, 16, 28, 28), (32, 16, 5, 5)),
}
SMALL = {"l2_bytes": 1 << 18, "near_pages": 4, "load_slots": 2.0}


@pytest.fixture(autouse=True)
def _outside_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill what lies around and between elements with nan, so that a wrong read is seen."""
    monkeypatch.setattr(native_kernels, "CANARY", 0xFF)


def weight_gradient(geometry: Geometry) -> tuple[Kernel, list[np.ndarray], np.ndarray]:
    """Its kernel, the arrays it is given, and what it makes of them."""
    rng = np.random.default_rng(2)
    forward, *_, (op, _, strides) = operators(geometry)
    y = forward[0].infer(*(TensorType("float32", shape) for shape in geometry[4:]))
    assert isinstance(y, TensorType)
    arrays = [rng.standard_normal(shape).astype("float32") for shape in (geometry[4], y.shape)]
    types = [TensorType("float32", array.shape) for array in arrays]
    kernel = kernel_of(op, types, [op.infer(*types)], strides)
    wanted = op.reference(*(array.astype("float64") for array in arrays))
    return kernel, [*arrays, np.full(wanted.shape, np.nan, "float32")], wanted


def tiling_of(kernel: Kernel, target: Target) -> Tiling:
    found = match(kernel)
    assert found is not None
    (part,) = tiled_parts(found, target)
    assert isinstance(part, TiledProduct)
    return part.tiling


def check(geometry: Geometry, target: Target) -> None:
    """All cuts of the shared loop give the reference's gradient."""
    kernel, arrays, wanted = weight_gradient(geometry)
    (native,) = tiled([kernel], target)
    assert native is not None
    for unit in {1, 3, max(1, native.emitted.extent // 2), native.emitted.extent}:
        arrays[-1][...] = np.nan
        (got,) = replace(native, emitted=replace(native.emitted, unit=unit))(arrays)
        assert close(got, wanted, "float32")


@pytest.mark.parametrize("name", ["host", "x86-64-v3", "x86-64"])
@pytest.mark.parametrize("case", BESIDE)
def test_a_chunk_passes_over_many_blocks(case: str, name: str) -> None:
    target = replace(Target.named(name), **SMALL)
    tiling = tiling_of(weight_gradient(BESIDE[case])[0], target)
    assert tiling.beside > 1 and tiling.packs_tiles
    elsewhere = tiling_of(weight_gradient(BESIDE[case])[0], replace(target, near_pages=0))
    assert elsewhere.beside == 1 and not elsewhere.packs_tiles
    check(BESIDE[case], target)


def test_a_chunk_passes_over_many_blocks_and_taps() -> None:
    """Sums of all taps of a block lie between those of the blocks beside it."""
    target = replace(Target.host(), **{**SMALL, "l2_bytes": 1 << 19})
    geometry = ((1, 1), ((0, 0), (1, 1)), (1, 1), 1, (3, 520, 20, 21), (120, 520, 1, 3))
    tiling = tiling_of(weight_gradient(geometry)[0], target)
    if target.lanes("float32") == 16:
        assert tiling.beside > 1 and tiling.packs_tiles and len(tiling.whole_lines) == 1
    check(geometry, target)


@pytest.mark.parametrize(("constant", "value"), [("CHUNK_PART", 0.01), ("BESIDE_PART", 0.2)])
def test_chunks_and_blocks_fit_a_cache(
    constant: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, geometry = replace(Target.host(), **SMALL), BESIDE["many rows"]
    usual = tiling_of(weight_gradient(geometry)[0], target)
    monkeypatch.setattr(panel_shape, constant, value)
    fewer = tiling_of(weight_gradient(geometry)[0], target)
    if constant == "CHUNK_PART":
        assert fewer.strip < usual.strip and fewer.beside == usual.beside
    else:
        assert fewer.beside < usual.beside
    check(geometry, target)


@pytest.mark.parametrize("channels", [(64, 256), (256, 64)])
def test_large_maps_are_read_once(channels: tuple[int, int]) -> None:
    """By one block of all columns, or by many that a chunk passes over."""
    few, many = channels
    geometry = ((1, 1), NONE, (1, 1), 1, (8, few, 56, 56), (many, few, 1, 1))
    kernel = weight_gradient(geometry)[0]
    target = replace(Target.named("x86-64-v4"), l2_bytes=5 << 18, near_pages=48, load_slots=2.0)
    target = replace(target, l1_bytes=48 << 10)
    tiling = tiling_of(kernel, target)
    blocks = -(-tiling.vector.extent // (tiling.vectors * tiling.lanes))
    assert blocks == 1 or tiling.beside == blocks


@pytest.mark.parametrize("name", ["host", "x86-64-v3"])
@pytest.mark.parametrize("case", TAPS)
def test_a_chunk_passes_over_all_taps_of_few_panels(case: str, name: str) -> None:
    target = replace(Target.named(name), l2_bytes=1 << 20, load_slots=2.0)
    tiling = tiling_of(weight_gradient(TAPS[case])[0], target)
    assert len(tiling.whole_lines) == 2
    check(TAPS[case], target)


def test_taps_of_the_operand_in_lanes_are_passed_over_as_well() -> None:
    """Of 192 channels and 64 the rows are those of the gradient, which no tap moves."""
    geometry = ((1, 1), ONE, (1, 1), 1, (8, 64, 56, 56), (192, 64, 3, 3))
    tiling = tiling_of(weight_gradient(geometry)[0], replace(Target.named("x86-64-v4")))
    assert len(tiling.whole_lines) == 2 and tiling.rows_together


# -- groups --------------------------------------------------------------------------------------

GROUPS: dict[str, Geometry] = {
    "eight channels": ((2, 2), ONE, (1, 1), 16, (4, 128, 28, 28), (128, 8, 3, 3)),
    "sixteen channels": ((1, 1), ONE, (1, 1), 8, (4, 128, 14, 14), (128, 16, 3, 3)),
}


@pytest.mark.parametrize("case", GROUPS)
def test_groups_side_by_side_take_turns_on_each_line(case: str) -> None:
    """A copy of one group's weights for all images would read each line once for every group."""
    target = replace(Target.named("x86-64-v4"), near_pages=1)
    geometry = GROUPS[case]
    y = operators(geometry)[0][0].infer(*(TensorType("float32", s) for s in geometry[4:]))
    assert isinstance(y, TensorType)
    shapes = {"x": geometry[4], "w": geometry[5], "y": y.shape}
    for op, names, strides in operators(geometry)[:2]:
        types = [TensorType("float32", shapes[name]) for name in names]
        found = match(kernel_of(op, types, [op.infer(*types)], strides))
        assert found is not None
        for part in tiled_parts(found, target):
            assert isinstance(part, TiledProduct)
            assert part.tiling.packing != "copy" and part.tiling.lines == 1
