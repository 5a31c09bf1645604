"""Contractions in tiles: sizes around those of the tiles, both layouts, against the reference."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
from cuda_programs import KernelTable, needs_compiler
from native_programs import Assembly
from test_operators import assert_close, expected, kernel_and_arrays, kernel_of

from graphc.codegen.cuda.kernel import emit_kernel
from graphc.codegen.cuda.matrices import matrices
from graphc.codegen.cuda.program import compile_cuda
from graphc.codegen.cuda.schedule import read
from graphc.codegen.cuda.tile_shape import HOPPER, TENSOR_TILES, THREAD_TILES, best_shape
from graphc.codegen.cuda.tiles import Choice
from graphc.ir.op import Example, normal
from graphc.ir.types import TensorType
from graphc.kernel.contraction import match
from graphc.kernel.lang import Kernel
from graphc.ops.conv import Conv, ConvDataGradient, ConvWeightGradient
from graphc.ops.linear import MatMul
from graphc.runtime.emulator import load

pytestmark = needs_compiler

# ((strides, pads, dilations, groups), shape of x, shape of w)
GEOMETRIES = (
    (((1, 1), ((1, 1), (1, 1)), (1, 1), 1), (2, 9, 11, 10), (33, 9, 3, 3)),
    (((2, 2), ((2, 2), (2, 2)), (1, 1), 2), (3, 16, 13, 9), (40, 8, 5, 5)),
    (((4, 4), ((0, 0), (0, 0)), (1, 1), 1), (2, 8, 23, 23), (16, 8, 7, 7)),
    (((1, 2), ((3, 0), (0, 1)), (2, 1), 1), (2, 12, 9, 12), (17, 12, 2, 3)),
    (((1, 1), ((0, 0), (0, 0)), (1, 1), 1), (2, 65, 8, 8), (130, 65, 1, 1)),
)
PRODUCTS = ((16, 16, 16), (17, 31, 33), (64, 64, 64), (65, 129, 40), (8, 300, 70), (200, 9, 11))


def examples() -> list[Example]:
    found = []
    for geometry, x, w in GEOMETRIES:
        y = Conv(*geometry).infer(TensorType("float64", x), TensorType("float64", w)).shape
        found.append(Example(Conv(*geometry), normal(*x), normal(*w)))
        found.append(Example(ConvDataGradient(x[2:], *geometry), normal(*y), normal(*w)))
        found.append(Example(ConvWeightGradient(w[2:], *geometry), normal(*x), normal(*y)))
    for number, (m, n, k) in enumerate(PRODUCTS):
        left, right = bool(number & 1), bool(number & 2)
        a, b = (k, m) if left else (m, k), (n, k) if right else (k, n)
        found.append(Example(MatMul(left, right), normal(*a), normal(*b)))
    return found


EXAMPLES = examples()
CHANNELS_OF_FOUR = Example(
    Conv((1, 1), ((1, 1), (1, 1)), (1, 1), 1), normal(2, 12, 11, 10), normal(40, 12, 3, 3)
)
EXAMPLES.append(CHANNELS_OF_FOUR)
RUNS = [
    pytest.param(number, dtype, layout, id=f"{example.op.op_name}-{number}-{dtype}-{layout}")
    for number, example in enumerate(EXAMPLES)
    for dtype in ("float32", "float64")
    for layout in ("row_major", "channels_last")
    if layout == "row_major" or not isinstance(example.op, MatMul)
]
TENSOR_RUNS = [run for run in RUNS if run.values[1] == "float32"]


@functools.cache
def table(tf32: bool = False) -> tuple[KernelTable, dict[tuple[int, str, str], list[str]]]:
    made, names = KernelTable(tf32=tf32), {}
    for run in TENSOR_RUNS if tf32 else RUNS:
        number, dtype, layout = run.values
        kernel, arrays = kernel_and_arrays(EXAMPLES[number], dtype, layout)
        names[number, dtype, layout] = made.add(kernel, arrays)
    return made, names


@pytest.mark.parametrize(("number", "dtype", "layout"), RUNS)
@pytest.mark.parametrize("seed", [0, 9])
def test_tiles_are_the_reference(number: int, dtype: str, layout: str, seed: int):
    kernel, arrays = kernel_and_arrays(EXAMPLES[number], dtype, layout)
    made, names = table()
    (wanted,) = expected(EXAMPLES[number].op, arrays[:2])
    (name,) = names[number, dtype, layout]
    assert "in tiles of" in emit_kernel(kernel, "k", alone=True).text
    assert_close(made.results(seed)[name], wanted, str(EXAMPLES[number].op))


@pytest.mark.parametrize(("number", "dtype", "layout"), TENSOR_RUNS)
@pytest.mark.parametrize("seed", [0, 9])
def test_tensor_cores_round_to_tf32(number: int, dtype: str, layout: str, seed: int):
    """Each factor is wrong by 2**-11 of itself at most, so a sum by 2**-10 of its magnitudes."""
    kernel, arrays = kernel_and_arrays(EXAMPLES[number], dtype, layout)
    op = EXAMPLES[number].op
    (wanted,) = expected(op, [a.astype("float64") for a in arrays[:2]])
    (magnitudes,) = expected(op, [np.abs(a.astype("float64")) for a in arrays[:2]])
    made, names = table(tf32=True)
    (name,) = names[number, dtype, layout]
    assert "tensor cores" in emit_kernel(kernel, "k", alone=True, choice=Choice(True)).text
    error = np.abs(made.results(seed)[name] - wanted)
    assert (error <= 1.01 * 2**-10 * magnitudes).all()
    assert error.max() > 2**-17 * magnitudes.max()  # they were rounded, not multiplied exactly


# -- sums in parts --------------------------------------------------------------------------------

ONE = replace(HOPPER, multiprocessors=1)  # every tile is work for all of it
PLAIN, GROUPS = GEOMETRIES[0][0], ((1, 1), ((1, 1), (1, 1)), (1, 1), 2)
LONG = [
    Example(MatMul(False, True), normal(16, 5000), normal(16, 5000)),
    Example(MatMul(False, False), normal(40, 2050), normal(2050, 33)),
    Example(ConvWeightGradient((3, 3), *PLAIN), normal(2, 12, 20, 20), normal(2, 24, 20, 20)),
    Example(ConvWeightGradient((3, 3), *GROUPS), normal(4, 16, 20, 20), normal(4, 48, 20, 20)),
]


@functools.cache
def long_table(tf32: bool) -> tuple[KernelTable, list[str]]:
    made, names = KernelTable(tf32), []
    for example in LONG:
        names += made.add(*kernel_and_arrays(example, "float32", "row_major"))
    return made, names


@pytest.mark.parametrize("tf32", [False, True], ids=["float32", "tf32"])
@pytest.mark.parametrize("number", range(len(LONG)))
def test_sums_in_parts_are_the_reference_in_any_order(number: int, tf32: bool):
    kernel, arrays = kernel_and_arrays(LONG[number], "float32", "row_major")
    emitted = emit_kernel(kernel, "k", alone=True, choice=Choice(tf32))
    assert tf32 or emitted.summing is not None
    assert "atomic" not in emitted.text
    operands = [a.astype("float64") for a in arrays[:2]]
    (wanted,) = expected(LONG[number].op, operands)
    (magnitudes,) = expected(LONG[number].op, [np.abs(a) for a in operands])
    made, names = long_table(tf32)
    one, other = (made.results(seed)[names[number]] for seed in (0, 77))
    limit = 1.01 * 2**-10 if tf32 else 2**-20
    assert (np.abs(one - wanted) <= limit * magnitudes).all()
    np.testing.assert_array_equal(one, other)


def long_product(rows: int, over: int) -> Kernel:
    types = [TensorType("float32", (rows, over))] * 2
    product = MatMul(False, True)
    return kernel_of(product, types, [product.infer(*types)])


def test_parts_are_chosen_by_shape():
    """Few tiles and a long sum; never where the GPU has work without, and never an empty part."""
    for rows, over, is_split in ((16, 5000, True), (16, 200, False), (4096, 5000, False)):
        kernel = long_product(rows, over)
        for gpu, may in ((HOPPER, True), (ONE, False)):
            emitted = emit_kernel(kernel, "k", alone=True, choice=Choice(gpu=gpu))
            assert (emitted.summing is not None) == (is_split and may), (rows, over)
            assert bool(emitted.scratch_bytes) == bool(emitted.why) == (is_split and may)
    for over in range(100, 6000, 37):
        kernel = long_product(16, over)
        made = matrices(match(kernel), read(kernel))
        _, split = best_shape(made, THREAD_TILES, 4, HOPPER)
        assert (split.parts - 1) * split.each < split.turns <= split.parts * split.each


def test_an_epilogue_comes_once_and_after_all_parts():
    """A product that is added to what its output holds, in place, and goes through a ReLU."""

    def layer(k, a, b, c, y):
        i, j = k.each(24, 40)
        s = k.axis(3000)
        y[i, j] = k.maximum(k.sum(s, a[i, s] * b[s, j]) + c[i, j], 0.0)

    made = Assembly("epilogue")
    made.user("a", 24, 3000)
    made.user("b", 3000, 40)
    made.user("c", 24, 40, role="state")
    made.step(layer, ["a", "b", "c"], ["c"])
    bundle = compile_cuda(made.program())
    (launch,) = bundle.launches
    assert launch.follower is not None and launch.follower.places[-1][0] == 0
    executable = load(bundle)
    rng = np.random.default_rng(0)
    arrays = executable.bind_new()
    for name in ("a", "b", "c"):
        arrays[name][...] = rng.standard_normal(arrays[name].shape)
    wanted = np.maximum(arrays["a"].astype("f8") @ arrays["b"] + arrays["c"], 0)
    executable.call("both")
    np.testing.assert_allclose(arrays["c"], wanted, atol=2e-4)


@pytest.mark.parametrize("tf32", [False, True], ids=["float32", "tf32"])
def test_long_sums_go_in_two_levels(tf32: bool):
    """Numbers of one sign: a plain float32 sum of 40000 is wrong by 1e-5 and more.

    Their values are multiples of 2**-8 below 2, which tf32 holds exactly.
    """
    rng = np.random.default_rng(0)
    a, b = (rng.integers(1, 512, (16, 40000)).astype(np.float32) / 256 for _ in range(2))
    product = Example(MatMul(False, True), normal(*a.shape), normal(*b.shape))
    kernel, arrays = kernel_and_arrays(product, "float32", "row_major")
    arrays[0][...], arrays[1][...] = a, b
    table = KernelTable(tf32, ONE)
    (name,) = table.add(kernel, arrays)
    wanted = a.astype(np.float64) @ b.T.astype(np.float64)
    error = np.abs(table.results(0)[name] / wanted - 1).max()
    plain = np.zeros((16, 16), np.float32)
    for k in range(40000):
        plain += np.outer(a[:, k], b[:, k])
    assert error < 1e-6 < np.abs(plain / wanted - 1).max()


def test_four_at_once_where_channels_are_near():
    """A slice is copied by 16 bytes where it is aligned, and by 4 where it may not be."""
    kernel, _ = kernel_and_arrays(CHANNELS_OF_FOUR, "float32", "channels_last")
    every = frozenset(buffer.name for buffer in kernel.buffers)
    aligned = emit_kernel(kernel, "k", alone=True, choice=Choice(True, every)).text
    assert aligned.count("copy_async<4>") == 2
    assert "copy_async<4>" not in emit_kernel(kernel, "k", alone=True, choice=Choice(True)).text


def test_a_kernel_that_is_made_again_has_the_same_text():
    """Its loops are equal to the first one's, and no more than that."""
    texts = []
    for _ in range(2):
        kernel, _ = kernel_and_arrays(CHANNELS_OF_FOUR, "float32", "channels_last")
        every = frozenset(buffer.name for buffer in kernel.buffers)
        texts.append(emit_kernel(kernel, "k", alone=True, choice=Choice(True, every)).text)
    assert texts[0] == texts[1]
    assert "put(" in texts[0] and texts[0].count("copy_async<4>") == 2


def test_every_point_is_in_one_loop():
    """Rows, columns, groups and the sum's loops are all loops of the contraction, each once."""
    for example in EXAMPLES:
        kernel, _ = kernel_and_arrays(example, "float32", "channels_last")
        contraction = match(kernel)
        made = matrices(contraction, read(kernel))
        sorted_loops = sorted([*made.batch, *made.rows, *made.columns, *made.over], key=str)
        loops = [a for a in (*contraction.each, *contraction.over) if a.extent > 1]
        assert sorted_loops == sorted(loops, key=str)


def test_tiles_fit_a_block():
    for shape in (*THREAD_TILES, *TENSOR_TILES):
        assert shape.threads % 32 == 0 and shape.threads <= 256
    for shape in THREAD_TILES:
        assert shape.rows % shape.each == shape.columns % shape.each == 0
    for shape in TENSOR_TILES:
        assert shape.rows % shape.warp_rows == shape.columns % shape.warp_columns == 0
        assert shape.warp_rows % 16 == shape.warp_columns % 8 == 0
