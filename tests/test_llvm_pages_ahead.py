"""Large arrays whose lines are asked for in several pages ahead at once, where cores like it."""

from __future__ import annotations

import ctypes
from collections import Counter
from dataclasses import replace

import llvmlite.binding as llvm
import native_kernels
import numpy as np
import pytest
from native_kernels import compile_kernels

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.ahead import fetched_ahead
from graphc.codegen.llvm.kernel import emit_kernel
from graphc.codegen.llvm.loops import INT64, POINTER
from graphc.codegen.llvm.next_row import next_rows
from graphc.codegen.llvm.pages_ahead import Pages, most_pages, pages_of
from graphc.codegen.llvm.schedule import schedule
from graphc.codegen.llvm.target import Target
from graphc.codegen.nodes import Nodes
from graphc.ir.op import Op
from graphc.ir.types import TensorType
from graphc.kernel.build import kernel_of
from graphc.kernel.lang import Kernel
from graphc.ops.elementwise import Product
from graphc.ops.linear import AddBias
from graphc.ops.lrn import Lrn, LrnGradient
from graphc.ops.moments import Moments
from graphc.ops.neuron import Elu, Relu
from graphc.ops.pool import AvgPool, MaxPool
from graphc.ops.softmax import Softmax
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
    "rows in lanes": (Softmax(1), ((70, 301),), None),
    "sums of rows": (Moments((0, 2, 3)), (IMAGE,), (LAST, (1,), (1,))),
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
    module = ir.Module("pages")
    emit_kernel(module, kernel, target, "k")
    return str(module)


@pytest.mark.parametrize("count", [2, 8, 16, 64])
def test_every_line_is_asked_for_once_and_in_order(count: int) -> None:
    function = ir.Function(module := ir.Module("m"), ir.FunctionType(INT64, [INT64]), "ahead")
    b = ir.IRBuilder(function.append_basic_block())
    place = b.inttoptr(function.args[0], POINTER)
    b.ret(b.ptrtoint(Pages(count).ahead(b, place), INT64))
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(str(module)), Target.host().machine())
    ahead = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(engine.get_function_address("ahead"))
    first, pages = 5 << 20, 3 * count
    asked = []
    for line in range(first, first + pages * 4096, 64):
        there = ahead(line + 20)
        assert 1 <= there // 4096 - line // 4096 <= count
        assert there % 64 == 0
        asked.append(there)
    times = Counter(asked)
    assert set(times.values()) == {1}
    # All lines of the pages that lie far enough from both ends.
    inner = range(first + count * 4096, first + (pages + 1) * 4096, 64)
    assert times.keys() >= set(inner)
    for page in range(first // 4096 + count, (first >> 12) + pages + 1):
        of_page = [there for there in asked if there >> 12 == page]
        assert of_page == sorted(of_page) and len(of_page) == 64


@pytest.mark.parametrize("target", ["host", "x86-64-v3", "x86-64"])
@pytest.mark.parametrize("name", CASES)
def test_what_is_asked_for_changes_no_result(name: str, target: str) -> None:
    one = replace(Target.named(target), **CACHES, streams=1)
    one = replace(one, l2_bytes=1 << 16) if name in WINDOWS else one
    many = replace(one, streams=16)
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


def ahead_of(
    op: Op, *shapes: Shape, streams: int = 16, strides: tuple[Shape, ...] | None = None
) -> list[int | Pages]:
    """What a map of row-major arrays asks for."""
    types = [TensorType("float32", shape) for shape in shapes]
    kernel = kernel_of(op, types, [op.infer(*types)], strides)
    target = replace(Target.named("x86-64-v4"), streams=streams)
    return [to for _, to in fetched_ahead(schedule(Nodes(kernel).read(), target), target)]


def test_what_is_asked_for_in_pages() -> None:
    large = (32, 290400)
    assert ahead_of(Relu(), large) == [Pages(8)]  # the other eight streams are written
    assert ahead_of(Product(), large, large) == [Pages(8)] * 2
    assert ahead_of(AddBias(1), (32, 96, 55, 55), (96,)) == [Pages(8)]
    assert not any(isinstance(to, Pages) for to in ahead_of(Relu(), large, streams=1))
    assert ahead_of(Relu(), (10, 999)) == []  # it stays in a cache
    image = (32, 96, 54, 56)  # read row by row, but written channels last
    strides = (strides_of(image, channels_last(4)), strides_of(image, (0, 1, 2, 3)))
    assert not any(isinstance(to, Pages) for to in ahead_of(Relu(), image, strides=strides))


def test_memory_is_shared_with_what_is_written() -> None:
    for op, shape, count in (
        (Relu(), (32, 290400), 8),
        (AvgPool((3, 3), (2, 2), NO_PADS, (27, 27)), (32, 96, 55, 55), 16),
    ):
        type_ = TensorType("float32", shape)
        kernel = kernel_of(op, [type_], [op.infer(type_)])
        many = replace(Target.named("x86-64-v4"), streams=16)
        assert pages_of(kernel, many) == Pages(count)
        assert pages_of(kernel, replace(many, streams=1)) is None
    assert most_pages(replace(many, streams=12)) == Pages(8)
    assert most_pages(replace(many, streams=1000)) == Pages(64)


def test_lines_of_the_next_row_are_asked_for_in_pages() -> None:
    kernel, *_ = kernel_and_wanted("windows")
    wide = replace(Target.named("x86-64-v4"), l1_bytes=4096, l2_bytes=1 << 16)
    for streams, pages in ((1, None), (16, Pages(16))):
        target = replace(wide, streams=streams)
        plan = schedule(Nodes(kernel).read(), target)
        assert fetched_ahead(plan, target)
        ((share,),) = next_rows(plan, target).values()
        assert share.pages == pages
