"""What the warps of generated kernels ask of memory, counted by the emulator.

Without a GPU this stands in for a timing: no bank conflicts where tensor cores are fed, no byte of
global memory moved that nobody asked for, rows of a loss read once and written once.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cuda_programs import KernelTable, needs_compiler
from test_operators import kernel_and_arrays

import graphc
from graphc.codegen.cuda import staging, tile_arithmetic, tiles
from graphc.codegen.cuda.program import compile_cuda
from graphc.codegen.cuda.tile_shape import TensorTile, ThreadTile
from graphc.ir.op import Example, normal
from graphc.ops.conv import Conv, ConvDataGradient, ConvWeightGradient
from graphc.ops.linear import MatMul
from graphc.ops.neuron import Relu
from graphc.ops.softmax import Softmax, SoftmaxGradient
from graphc.runtime.emulator import COUNTING, Traffic, load

pytestmark = needs_compiler

LARGE = {True: TensorTile(128, 128, 64, 32), False: ThreadTile(128, 128, 8)}
GEOMETRY: Any = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
X, W, Y = (1, 32, 8, 8), (64, 32, 3, 3), (1, 64, 8, 8)
PRODUCTS = {
    **{
        f"product {'t' if left else 'n'}{'t' if right else 'n'}": Example(
            MatMul(left, right),
            normal(*((64, 128) if left else (128, 64))),
            normal(*((128, 64) if right else (64, 128))),
        )
        for left, right in ((False, False), (False, True), (True, False))
    },
    "convolution": Example(Conv(*GEOMETRY), normal(*X), normal(*W)),
    "data gradient": Example(ConvDataGradient(X[2:], *GEOMETRY), normal(*Y), normal(*W)),
    "weight gradient": Example(ConvWeightGradient(W[2:], *GEOMETRY), normal(*X), normal(*Y)),
}
MAPS = {
    "softmax": Example(Softmax(1), normal(4, 1000)),
    "softmax gradient": Example(SoftmaxGradient(1), normal(4, 1000), normal(4, 1000)),
    "map": Example(Relu(), normal(64, 64)),
}


def traffic(examples: dict[str, Example], tf32: bool = False) -> dict[str, dict[str, Traffic]]:
    """By example and buffer: `a0`, `a1` ... in the kernel's order, "shared"."""
    table = KernelTable(tf32)
    for example in examples.values():
        table.add(*kernel_and_arrays(example, "float32", "channels_last"))
    bundle = compile_cuda(table.program(), tf32)
    executable = load(bundle, flags=COUNTING)
    table.fill(executable)
    executable.call("forward")
    found = executable.traffic()
    made = {}
    for number, (name, launch) in enumerate(zip(examples, bundle.launches, strict=True)):
        own = {buffer: of for (kernel, buffer), of in found.items() if kernel == launch.kernel}
        made[name] = {b.replace(f"s{number}.", "a"): of for b, of in own.items()}
    return made


@functools.cache
def products(tf32: bool, is_large: bool) -> dict[str, dict[str, Traffic]]:
    with pytest.MonkeyPatch.context() as patch:
        if is_large:
            name = "TENSOR_TILES" if tf32 else "THREAD_TILES"
            patch.setattr(tile_arithmetic, name, (LARGE[tf32],))
        return traffic(PRODUCTS, tf32)


@pytest.mark.parametrize(
    ("tf32", "is_large"),
    [(False, True), (True, True), (True, False)],
    ids=["float32", "tf32", "tf32 in small tiles"],
)
@pytest.mark.parametrize("name", PRODUCTS)
def test_products_ask_for_nothing_twice(name: str, tf32: bool, is_large: bool) -> None:
    """Whole sectors come in and go out; shared memory serves a warp's lanes at once.

    By the threads' own arithmetic copies of single elements may meet in one bank of the 32.
    """
    found = products(tf32, is_large)[name]
    shared = found.pop("shared")
    assert len(found) == 3  # the third is the result, or what parts of sums note
    for buffer, of in found.items():
        assert of.sectors == of.least_sectors > 0, buffer
    assert shared.accesses > 0
    assert shared.goes <= (1 if tf32 else 1.2) * shared.least_goes


def test_rows_are_read_and_written_once() -> None:
    found = traffic(MAPS)
    sector = 32 // 4
    for name, example in MAPS.items():
        _, arrays = kernel_and_arrays(example, "float32", "row_major")
        for place, array in enumerate(arrays):
            of = found[name][f"a{place}"]
            assert of.sectors == of.least_sectors == array.size // sector, (name, place)
        if "shared" in found[name]:
            assert found[name]["shared"].goes == found[name]["shared"].least_goes


def test_a_loss_and_its_gradient_are_one_sweep() -> None:
    """Scores come in once, besides the one at the label; gradients go out once."""
    rows, classes = 4, 1024
    net = graphc.Net(
        f"""layer {{ name: "data" type: "Input" top: "x" top: "label" input_param {{
            shape {{ dim: {rows} dim: {classes} }} shape {{ dim: {rows} }} }} }}
        layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "x" bottom: "label" top: "loss" }}
        force_backward: true"""
    )
    executable = load(compile_cuda(net.prepare(wrt=["x"]).program), flags=COUNTING)
    arrays = executable.bind_new()
    arrays["x"][...] = np.random.default_rng(0).standard_normal((rows, classes))
    executable.call("both")
    found: dict[str, int] = {}
    for (_, buffer), of in executable.traffic().items():
        found[buffer] = found.get(buffer, 0) + of.sectors
    whole = rows * classes * 4 // 32
    assert whole < found["x"] <= whole + 8 * rows  # each of 8 warps looks at the label's score
    assert found["x.diff"] == whole


def test_conflicts_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of 32 words, one under the other: lanes of a fragment meet in one bank."""
    usual = staging.layout

    def without_gaps(*arguments: Any) -> staging.Layout:
        made = usual(*arguments)
        step = arguments[4]
        if not made.sums_are_near:
            return made
        return replace(made, side_step=step, count=made.count // made.side_step * step)

    monkeypatch.setattr(tiles, "layout", without_gaps)
    found = traffic({"product nt": PRODUCTS["product nt"]}, tf32=True)["product nt"]["shared"]
    assert found.goes > 4 * found.least_goes


def test_strangers_in_a_sector_are_seen() -> None:
    """Every other row of four elements: half of each sector is what nobody asked for."""
    from graphc.ir.types import TensorType
    from graphc.kernel.build import kernel_of

    kernel = kernel_of(
        Relu(), [TensorType("float32", (64, 4))], [TensorType("float32", (64, 4))], [(8, 1), (4, 1)]
    )
    table = KernelTable()
    table.add(kernel, [np.ones((64, 4), "float32"), np.ones((64, 4), "float32")])
    executable = load(compile_cuda(table.program()), flags=COUNTING)
    table.fill(executable)
    executable.call("forward")
    by_buffer = {buffer: of for (_, buffer), of in executable.traffic().items()}
    assert by_buffer["s0.0"].sectors == 2 * by_buffer["s0.0"].least_sectors
    assert by_buffer["s0.1"].sectors == by_buffer["s0.1"].least_sectors
