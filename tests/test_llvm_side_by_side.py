"""Maps and rows of large arrays that are walked in several places at once, where cores like it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import native_kernels
import numpy as np
import pytest
from llvmlite import ir
from native_kernels import compile_kernels

from graphc.codegen.llvm.ahead import fetched_ahead
from graphc.codegen.llvm.kernel import emit_kernel
from graphc.codegen.llvm.next_row import PLACES, next_rows
from graphc.codegen.llvm.schedule import schedule
from graphc.codegen.llvm.side_by_side import parts_of_map
from graphc.codegen.llvm.target import Target
from graphc.codegen.nodes import Nodes
from graphc.ir.op import Op
from graphc.ir.types import TensorType
from graphc.kernel.build import kernel_of
from graphc.kernel.lang import Kernel
from graphc.ops.linear import AddBias
from graphc.ops.lrn import Lrn, LrnGradient
from graphc.ops.neuron import Elu, Relu
from graphc.ops.pool import AvgPool, MaxPool
from graphc.plan.layout import channels_last, strides_of

Shape = tuple[int, ...]
CACHES = {"l1_bytes": 4096, "l2_bytes": 8192, "l3_bytes": 1 << 16}
WINDOWS = "windows", "means"  # the next row of these has to fit a cache
IMAGE, POOLED = (3, 40, 21, 31), (3, 40, 10, 15)
LAST, POOLED_LAST = (strides_of(shape, channels_last(4)) for shape in (IMAGE, POOLED))
NO_PADS = ((0, 0), (0, 0))
CASES: dict[str, tuple[Op, tuple[Shape, ...], tuple[Shape, ...] | None]] = {
    "flat": (Relu(), ((7, 1303),), None),
    "whole vectors": (Elu(), ((64, 512),), None),
    "rows": (AddBias(1), ((900, 99), (99,)), None),
    "a tiny last part": (Relu(), ((1, 4099),), None),
    "register rows": (Lrn(5, 0.5, 0.75, 1.0), (IMAGE,), (LAST, LAST)),
    "register rows, gradient": (LrnGradient(5, 0.5, 0.75, 1.0), (IMAGE,) * 2, (LAST,) * 3),
    "windows": (
        MaxPool((3, 3), (2, 2), NO_PADS, (10, 15)),
        (IMAGE,),
        (LAST, POOLED_LAST, POOLED_LAST),
    ),
    "means": (AvgPool((3, 3), (2, 2), NO_PADS, (10, 15)), (IMAGE,), (LAST, POOLED_LAST)),
}


@pytest.fixture(autouse=True)
def _outside_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill what lies around and between elements with nan, so that a wrong read is seen."""
    monkeypatch.setattr(native_kernels, "CANARY", 0xFF)


def kernel_and_wanted(name: str) -> tuple[Kernel, list[np.ndarray], tuple[np.ndarray, ...]]:
    op, shapes, strides = CASES[name]
    rng = np.random.default_rng(3)
    types = [TensorType("float32", shape) for shape in shapes]
    made = op.infer(*types)
    results = list(made) if isinstance(made, tuple) else [made]
    kernel = kernel_of(op, types, results, list(strides) if strides else None)
    arrays = [rng.standard_normal(shape).astype("float32") for shape in shapes]
    wanted = op.reference(*(array.astype("float64") for array in arrays))
    empty = [np.full(b.shape, np.nan if "f" in b.dtype else 9, b.dtype) for b in kernel.outputs]
    return kernel, [*arrays, *empty], wanted if isinstance(wanted, tuple) else (wanted,)


def text(kernel: Kernel, target: Target) -> str:
    module = ir.Module("parts")
    emit_kernel(module, kernel, target, "k")
    return str(module)


@pytest.mark.parametrize("streams", [12, 16])
@pytest.mark.parametrize("target", ["host", "x86-64-v3", "x86-64"])
@pytest.mark.parametrize("name", CASES)
def test_parts_side_by_side_make_what_one_walk_makes(name: str, target: str, streams: int) -> None:
    one = replace(Target.named(target), **CACHES, streams=1)
    one = replace(one, l2_bytes=1 << 16) if name in WINDOWS else one
    many = replace(one, streams=streams)
    kernel, arrays, wanted = kernel_and_wanted(name)
    assert text(kernel, one) != text(kernel, many)
    (native,) = compile_kernels([kernel], many)
    assert not isinstance(native, Exception)
    first = None
    units = {native.emitted.unit, 3 * native.emitted.unit, native.emitted.extent}
    for unit in units:
        cut = replace(native, emitted=replace(native.emitted, unit=unit))
        found = [array.copy() for array in cut(arrays)]
        first = first or found
        for got, want, before in zip(found, wanted, first, strict=True):
            assert np.abs(got - want).max() <= 3e-5 * np.abs(want).max()
            assert np.array_equal(got, before)


def parts(op: Op, shapes: tuple[Shape, ...], edit: Callable[[Target], Target]) -> int:
    types = [TensorType("float32", shape) for shape in shapes]
    kernel = kernel_of(op, types, [op.infer(*types)])
    target = edit(replace(Target.named("x86-64-v4"), streams=16))
    return parts_of_map(schedule(Nodes(kernel).read(), target), target)


def test_what_is_walked_in_parts() -> None:
    large, far = ((32, 290400),), ((4096, 4096),) * 1
    assert parts(Relu(), large, lambda t: t) == 4  # sixteen streams for two arrays, and some over
    assert parts(Relu(), far, lambda t: replace(t, streams=4)) == 1
    assert parts(Relu(), large, lambda t: replace(t, streams=1)) == 1
    assert parts(Relu(), ((10, 999),), lambda t: t) == 1  # it stays in a cache
    assert parts(AddBias(1), ((32, 96, 55, 55), (96,)), lambda t: t) == 1  # rows are long


def test_lines_of_the_next_row_are_fetched_in_several_places() -> None:
    kernel, *_ = kernel_and_wanted("windows")
    wide = replace(Target.named("x86-64-v4"), l1_bytes=4096, l2_bytes=1 << 16, streams=16)
    shares = {}
    for streams in (1, 16):
        target = replace(wide, streams=streams)
        plan = schedule(Nodes(kernel).read(), target)
        assert fetched_ahead(plan, target)
        ((share,),) = next_rows(plan, target).values()
        shares[streams] = share
    assert shares[1].places == 1 and shares[16].places == PLACES
    assert 0 < shares[16].apart * PLACES <= 2 * 31 * 40
