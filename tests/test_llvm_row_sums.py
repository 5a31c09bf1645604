"""Far matrices that are met by one row: read in several streams where that is fastest."""

from __future__ import annotations

from dataclasses import replace

import native_kernels
import numpy as np
import pytest
from test_llvm_contraction import Geometry, close, operators, tiled

from graphc.codegen.llvm.contraction import tiled_parts
from graphc.codegen.llvm.dot_tile import DotProduct
from graphc.codegen.llvm.row_sums import RowSums
from graphc.codegen.llvm.target import Target
from graphc.codegen.llvm.tiled_product import TiledProduct
from graphc.ir.types import TensorType
from graphc.kernel.build import kernel_of
from graphc.kernel.contraction import match
from graphc.kernel.lang import Kernel
from graphc.ops.linear import MatMul

SHAPES = [(48, 64), (50, 300), (37, 1100), (16, 77)]  # rows and columns of the matrix


@pytest.fixture(autouse=True)
def _outside_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill what lies around and between elements with nan, so that a wrong read is seen."""
    monkeypatch.setattr(native_kernels, "CANARY", 0xFF)


def small(name: str, streams: int = 4) -> Target:
    """A target whose caches hold next to nothing, and which likes streams."""
    return replace(Target.named(name), l1_bytes=1024, l2_bytes=2048, streams=streams)


def product(shapes: tuple[tuple[int, int], tuple[int, int]], turned: bool, dtype: str) -> Kernel:
    op = MatMul(False, turned)
    types = [TensorType(dtype, shape) for shape in shapes]
    return kernel_of(op, types, [op.infer(*types)])


def check(kernel: Kernel, target: Target, dtype: str, turned: bool) -> None:
    """All cuts of the shared loop give the reference's product, with the same bits."""
    rng = np.random.default_rng(4)
    arrays = [rng.standard_normal(b.shape).astype(dtype) for b in kernel.buffers]
    right = arrays[1].astype("float64")
    wanted = arrays[0].astype("float64") @ (right.T if turned else right)
    (native,) = tiled([kernel], target)
    assert native is not None
    first = None
    for unit in {1, 3, native.emitted.extent}:
        arrays[-1][...] = np.nan
        (got,) = replace(native, emitted=replace(native.emitted, unit=unit))(arrays)
        assert close(got, wanted, dtype)
        first = got.copy() if first is None else first
        assert np.array_equal(got, first)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["host", "x86-64", "x86-64-v3"])
def test_rows_of_a_far_matrix_are_summed_in_streams(
    shape: tuple[int, int], dtype: str, name: str
) -> None:
    kernel = product(((1, shape[0]), shape), False, dtype)
    target = small(name)
    found = match(kernel)
    assert found is not None
    (part,) = tiled_parts(found, target)
    assert isinstance(part, RowSums) and part.tiling.streams == 4
    (one,) = tiled_parts(found, replace(target, streams=1))
    assert isinstance(one, TiledProduct)
    check(kernel, target, dtype, False)


@pytest.mark.parametrize("columns", [64, 65, 37])
@pytest.mark.parametrize("name", ["host", "x86-64-v3"])
def test_dots_with_one_row_are_read_in_streams(columns: int, name: str) -> None:
    kernel = product(((1, 333), (columns, 333)), True, "float32")
    found = match(kernel)
    assert found is not None
    near = {"l2_bytes": 1 << 16}  # a far one is read as it lies
    for streams, cache, wanted in ((16, near, 16), (1, near, 1), (16, {}, 1)):
        target = replace(small(name, streams), **cache)
        (part,) = tiled_parts(found, target)
        assert isinstance(part, DotProduct) and part.tiling.columns == wanted
        check(kernel, target, "float32", True)


def test_near_matrices_and_few_rows_keep_their_tiles() -> None:
    for shapes, target in (
        (((1, 48), (48, 64)), Target.named("x86-64-v4")),  # it stays in a cache
        (((1, 3), (3, 5000)), small("x86-64-v4")),
        (((2, 48), (48, 64)), small("x86-64-v4")),
    ):
        found = match(product(shapes, False, "float32"))
        assert found is not None
        assert not any(isinstance(part, RowSums) for part in tiled_parts(found, target))


# -- pages ---------------------------------------------------------------------------------------


def forward(pages: int, channels: int = 512) -> TiledProduct:
    """A 3x3 convolution of 8 images of 14x14 to 512 channels, on a processor with AVX-512."""
    geometry = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1, (8, channels, 14, 14), (512, channels, 3, 3))
    op, names, strides = operators(geometry)[0]
    shapes = {"x": geometry[4], "w": geometry[5]}
    types = [TensorType("float32", shapes[name]) for name in names]
    found = match(kernel_of(op, types, [op.infer(*types)], strides))
    assert found is not None
    target = replace(Target.named("x86-64-v4"), l2_bytes=5 << 18, near_pages=pages)
    (part,) = tiled_parts(found, target)
    assert isinstance(part, TiledProduct)
    return part


def test_weights_in_many_pages_are_copied_for_several_images() -> None:
    near, far = forward(0).tiling, forward(48).tiling
    assert far.packing == "copy" and far.whole_lines and far.lines > 1
    assert far.line in far.a.strides and far.line not in far.b.strides
    assert not near.packing and not near.whole_lines
    assert not forward(48, 2048).tiling.packing  # the copy would leave the cache


ONE = ((1, 1), (1, 1))
COPIED: dict[str, Geometry] = {
    "short sums": ((1, 1), ONE, (1, 1), 1, (9, 24, 5, 7), (192, 24, 3, 3)),
    "long sums": ((1, 1), ONE, (1, 1), 1, (9, 140, 4, 5), (144, 140, 3, 3)),
    "groups": ((1, 1), ONE, (1, 1), 2, (8, 280, 4, 5), (320, 140, 3, 3)),
    "strided": ((2, 2), ONE, (1, 1), 1, (9, 140, 7, 6), (144, 140, 3, 3)),
}


@pytest.mark.parametrize("name", COPIED)
def test_copies_for_several_images_are_right(name: str) -> None:
    geometry = COPIED[name]
    target, wide = (
        replace(Target.named(machine), l2_bytes=1 << 18, near_pages=1)
        for machine in ("host", "x86-64-v4")
    )
    rng = np.random.default_rng(2)
    y = operators(geometry)[0][0].infer(*(TensorType("float32", s) for s in geometry[4:]))
    assert isinstance(y, TensorType)
    shapes = {"x": geometry[4], "w": geometry[5], "y": y.shape}
    copied = False
    for op, names, strides in operators(geometry):
        types = [TensorType("float32", shapes[n]) for n in names]
        kernel = kernel_of(op, types, [op.infer(*types)], strides)
        found = match(kernel)
        assert found is not None
        for part in tiled_parts(found, wide):
            if isinstance(part, TiledProduct) and part.tiling.packing == "copy":
                copied = copied or part.tiling.lines > 1
        (native,) = tiled([kernel], target)
        assert native is not None
        arrays = [rng.standard_normal(b.shape).astype("float32") for b in kernel.buffers]
        wanted = op.reference(*(array.astype("float64") for array in arrays[:-1]))
        for unit in (1, 2, native.emitted.extent):
            cut = replace(native, emitted=replace(native.emitted, unit=unit))
            assert close(cut(arrays)[0], wanted, "float32")
    assert copied
