"""What threads share of a product: equal parts, lines of their own, whole lines of results."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from native_kernels import NativeKernel
from test_llvm_contraction import SMALL_CACHES, TARGETS, Shape, close, operators, tiled

from graphc.codegen.llvm.contraction import tiled_parts
from graphc.codegen.llvm.dot_tile import DotProduct
from graphc.codegen.llvm.panel_shape import FEWEST_SHARES
from graphc.codegen.llvm.target import Target
from graphc.codegen.llvm.tiled_product import TiledProduct
from graphc.ir.op import Op
from graphc.ir.types import TensorType
from graphc.kernel.build import Array, Writer, kernel_of
from graphc.kernel.contraction import match
from graphc.kernel.interp import interpret
from graphc.kernel.lang import Buffer, Kernel
from graphc.ops.linear import MatMul


def parts_of(kernel: Kernel) -> list[TiledProduct | DotProduct]:
    """What a kernel becomes on a processor with 32 wide registers."""
    contraction = match(kernel)
    assert contraction is not None
    found = tiled_parts(contraction, Target.named("znver5"))
    assert all(isinstance(part, TiledProduct | DotProduct) for part in found)
    return [part for part in found if isinstance(part, TiledProduct | DotProduct)]


def kernel_on(
    op: Op, dtype: str, shapes: Sequence[Shape], strides: Sequence[Shape | None] | None = None
) -> Kernel:
    """The kernel of an operator that has one result."""
    types = [TensorType(dtype, shape) for shape in shapes]
    made = op.infer(*types)
    assert isinstance(made, TensorType)
    return kernel_of(op, types, [made], strides)


def every_cut(native: NativeKernel, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """The first result with the shared loop cut into parts of 1, 2, ... iterations."""
    results = []
    for unit in range(1, native.emitted.extent + 1):
        cut = replace(native, emitted=replace(native.emitted, unit=unit))
        results.append(cut(arrays)[0].copy())
    return results


# -- results that lie along the rows of tiles ----------------------------------------------------


def scores(dtype: str, images: int, outputs: int, inputs: int) -> Kernel:
    """relu(x w' + bias) - old: what is stored, and all that it reads, lies along the outputs."""
    k = Writer("scores")
    shapes = {
        "x": (images, inputs),
        "w": (outputs, inputs),
        "b": (outputs,),
        "old": (images, outputs),
        "y": (images, outputs),
    }
    listed = [Buffer.of(name, TensorType(dtype, shape)) for name, shape in shapes.items()]
    x, w, b, old, y = (Array(k, buffer) for buffer in listed)
    i, o = k.each(images, outputs)
    t = k.axis(inputs)
    total = k.sum(t, x[i, t] * w[o, t]) + b[o]
    y[i, o] = k.maximum(total, 0.0) * k.cast(i + 2 * o, dtype) - old[i, o]
    return k.finish(listed[:4], listed[4:])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", [(32, 61, 300), (45, 130, 517), (64, 100, 260)])
def test_sums_are_transposed_where_results_lie_along_the_rows(shape: Shape, target: str) -> None:
    rng = np.random.default_rng(0)
    (part,) = parts_of(scores("float32", *shape))
    assert isinstance(part, TiledProduct) and part.tiling.turned
    for dtype in ("float32", "float64"):
        kernel = scores(dtype, *shape)
        arrays = [rng.standard_normal(buffer.shape).astype(dtype) for buffer in kernel.buffers]
        exact = [array.astype("float64") for array in arrays]
        assert not interpret(scores("float64", *shape), exact)
        whole = Target.named(target)
        machines = [replace(whole, l1_bytes=one, l2_bytes=two) for one, two in SMALL_CACHES]
        for machine in (whole, *machines):
            (native,) = tiled([kernel], machine)
            assert native is not None
            arrays[-1][...] = np.nan
            assert close(native(arrays)[0], exact[-1], dtype)


# -- equal parts ---------------------------------------------------------------------------------


def test_panels_of_rows_are_equally_large() -> None:
    (part,) = parts_of(kernel_on(MatMul(False, True), "float32", ((128, 784), (4800, 784))))
    assert isinstance(part, TiledProduct) and part.tiling.row is not None
    tiles = -(-part.product.extents[part.tiling.row] // part.tiling.rows)
    panels = dict(part.shares.counts)["rows"]
    assert part.tiling.panel_rows == -(-tiles // panels) * part.tiling.rows


@pytest.mark.parametrize("inputs", [100, 517])
@pytest.mark.parametrize("target", [name for name in TARGETS if name != "scalar"])
def test_a_block_is_transposed_once_for_all_rows_of_a_thread(target: str, inputs: int) -> None:
    """By few threads: of few blocks many share one, each with rows of its own."""
    kernel = scores("float32", 128, 130, inputs)
    found = match(kernel)
    assert found is not None
    (part,) = tiled_parts(found, Target.named(target))
    assert isinstance(part, TiledProduct) and part.tiling.packing == "turn"
    assert part.tiling.row is not None
    assert part.tiling.panel_rows >= part.product.extents[part.tiling.row]
    assert part.tiling.rows_together is (part.blocks < FEWEST_SHARES)
    (wide,) = tiled_parts(found, Target.named("x86-64-v4"))
    assert isinstance(wide, TiledProduct) and wide.tiling.rows_together
    rng = np.random.default_rng(3)
    arrays = [rng.standard_normal(buffer.shape).astype("float32") for buffer in kernel.buffers]
    exact = [array.astype("float64") for array in arrays]
    assert not interpret(scores("float64", 128, 130, inputs), exact)
    (native,) = tiled([kernel], Target.named(target))
    assert native is not None
    results = every_cut(native, arrays)
    assert close(results[0], exact[-1], "float32")
    assert all(np.array_equal(results[0], other) for other in results)


@pytest.mark.parametrize(("columns", "far"), [(512, True), (300, False)])
def test_rows_of_a_matrix_that_leaves_the_caches_are_stored_in_long_pieces(
    columns: int, far: bool
) -> None:
    """Where a core has few pages at hand; as wide as can be where sums are short."""
    machine = replace(Target.named("x86-64-v4"), l1_bytes=48 << 10, l2_bytes=5 << 18)
    machine = replace(machine, load_slots=1.0)
    widths = []
    for terms, slots in ((64, 100.0), (128, 100.0), (128, 0.0)):
        kernel = kernel_on(MatMul(True, False), "float32", ((terms, 512), (terms, columns)))
        found = match(kernel)
        assert found is not None
        (part,) = tiled_parts(found, replace(machine, stored_piece=slots))
        assert isinstance(part, TiledProduct)
        widths.append(part.tiling.vectors)
    assert (widths[0] > widths[1] > widths[2]) is far
    assert (widths[1] == widths[2]) is not far


def weight_gradient(dtype: str, images: int) -> Kernel:
    """Of a first layer: one channel, 20 outputs."""
    geometry = ((1, 1), ((0, 0), (0, 0)), (1, 1), 1, (images, 1, 28, 28), (20, 1, 5, 5))
    op, _, strides = operators(geometry)[2]
    return kernel_on(op, dtype, (geometry[4], (images, 20, 24, 24)), strides)


def test_threads_share_the_rows_of_the_only_panel() -> None:
    kernel = weight_gradient("float32", 5)
    (part,) = parts_of(kernel)
    assert isinstance(part, TiledProduct)
    assert part.tiling.rows_together and part.shares.extent == 1
    assert part.extent == sum(group.count for group in part.tiling.groups) > 1
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal(buffer.shape).astype("float32") for buffer in kernel.buffers]
    exact = [array.astype("float64") for array in arrays]
    assert not interpret(weight_gradient("float64", 5), exact)
    whole = Target.host()
    for machine in (whole, *(replace(whole, l1_bytes=a, l2_bytes=b) for a, b in SMALL_CACHES)):
        (native,) = tiled([kernel], machine)
        assert native is not None and native.emitted.extent > 1
        results = every_cut(native, arrays)
        assert close(results[0], exact[-1], "float32")
        assert all(np.array_equal(results[0], other) for other in results)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("terms", "columns", "packing"), [(8200, 32, ""), (2100, 128, "copy")])
def test_rows_of_long_sums_are_one_panel(
    terms: int, columns: int, packing: str, target: str
) -> None:
    """What they read of the other matrix is more than a cache holds."""
    types = [TensorType("float32", (terms, size)) for size in (280, columns)]
    op = MatMul(True, False)
    kernel = kernel_of(op, types, [op.infer(*types)])
    (part,) = parts_of(kernel)
    assert isinstance(part, TiledProduct)
    assert part.tiling.rows_together and part.tiling.packing == packing
    rng = np.random.default_rng(4)
    arrays = [rng.standard_normal(buffer.shape).astype("float32") for buffer in kernel.buffers]
    want = op.reference(*(array.astype("float64") for array in arrays[:2]))
    (native,) = tiled([kernel], Target.named(target))
    assert native is not None
    results = every_cut(native, arrays)
    assert close(results[0], want, "float32")
    assert all(np.array_equal(results[0], other) for other in results)


def test_taps_that_lie_side_by_side_are_stored_row_by_row() -> None:
    geometry = ((1, 1), ((0, 0), (0, 0)), (1, 1), 1, (20, 20, 12, 12), (48, 20, 5, 5))
    op, _, strides = operators(geometry)[2]
    shapes = (geometry[4], (20, 48, 8, 8))
    kernel = kernel_on(op, "float32", shapes, strides)
    (part,) = parts_of(kernel)
    assert isinstance(part, TiledProduct)
    assert part.tiling.lines_inside and part.tiling.lines_together
    assert part.tiling.line is not None
    assert part.extent == part.shares.extent * part.product.extents[part.tiling.line]
    rng = np.random.default_rng(3)
    arrays = [rng.standard_normal(buffer.shape).astype("float32") for buffer in kernel.buffers]
    want = op.reference(*(array.astype("float64") for array in arrays[:2]))
    (native,) = tiled([kernel], Target.host())
    assert native is not None
    results = every_cut(native, arrays)
    assert close(results[0], want, "float32")
    assert all(np.array_equal(results[0], other) for other in results)


# -- lines of results ----------------------------------------------------------------------------


def test_channels_apart_from_the_others_are_shared_by_images() -> None:
    """They lie in the lines of the others, which are one thread's then."""
    geometry = ((1, 1), ((0, 0), (0, 0)), (1, 1), 1, (20, 20, 7, 8), (50, 20, 5, 5))
    rng = np.random.default_rng(2)
    for (op, _, strides), shapes in zip(
        operators(geometry)[:2],
        (geometry[4:], ((20, 50, 3, 4), geometry[5])),
        strict=True,
    ):
        kernel = kernel_on(op, "float32", shapes, strides)
        _, rest = parts_of(kernel)
        assert isinstance(rest, DotProduct) and rest.tiling.source is not None
        assert rest.shares.counts[0] == ("panel", -(-20 // rest.tiling.rows))
        arrays = [rng.standard_normal(buffer.shape).astype("float32") for buffer in kernel.buffers]
        (native,) = tiled([kernel], Target.host())
        assert native is not None
        results = [
            replace(native, emitted=replace(native.emitted, unit=unit))(arrays)[0].copy()
            for unit in (native.emitted.extent, *range(1, 40, 7))
        ]
        assert all(np.array_equal(a, b) for a, b in itertools.pairwise(results))
