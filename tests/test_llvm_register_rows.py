"""Rows in registers: windows along the lanes, and two steps in one sweep over the rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from native_kernels import compile_kernels

import graphc.ops  # noqa: F401  (enters all operators in the table)
from graphc.codegen.llvm import ir
from graphc.codegen.llvm import step_functions as code
from graphc.codegen.llvm.chained_steps import chain_at
from graphc.codegen.llvm.jit import load
from graphc.codegen.llvm.object import compile_program
from graphc.codegen.llvm.program import emit_program, kernel_keys
from graphc.codegen.llvm.register_rows import emit_register_rows
from graphc.codegen.llvm.row_kernel import MOST_REGISTERS
from graphc.codegen.llvm.target import Target
from graphc.ir.graph import Graph
from graphc.ir.op import Op
from graphc.ir.types import TensorType
from graphc.kernel.build import kernel_of
from graphc.kernel.lang import Kernel
from graphc.ops.lrn import Lrn, LrnGradient, LrnQuotient
from graphc.ops.pool import AvgPool
from graphc.passes.pipeline import compile_graph
from graphc.plan.budget import Memory
from graphc.plan.layout import channels_last, strides_of
from graphc.plan.planner import plan
from graphc.plan.program import Program
from graphc.runtime import cache_folder

Shape = tuple[int, ...]
FIELDS = (0.5, 0.75, 1.0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache_folder.ENVIRONMENT, str(tmp_path))


def last(op: Op, *shapes: Shape) -> Kernel:
    """The kernel of an operator on images that lie channels-last."""
    types = [TensorType("float32", shape) for shape in shapes]
    made = op.infer(*types)
    assert isinstance(made, TensorType)
    every = [*shapes, made.shape]
    return kernel_of(op, types, [made], [strides_of(s, channels_last(len(s))) for s in every])


def takes(kernel: Kernel, target: str) -> bool:
    module = ir.Module("rows")
    return emit_register_rows(module, kernel, Target.named(target), "k") is not None


@pytest.mark.parametrize("target", ["host", "scalar"])
@pytest.mark.parametrize("channels", [1, 2, 7, 16, 17, 33, 96, 130, 256])
def test_windows_along_a_row_are_right(channels: int, target: str) -> None:
    shape = (2, channels, 3, 2)
    rng = np.random.default_rng(channels)
    ops: list[tuple[Op, int]] = []
    for size in (1, 3, 5, 9):
        ops += [(Lrn(size, *FIELDS), 1), (LrnQuotient(size, *FIELDS), 2)]
        ops.append((LrnGradient(size, *FIELDS), 2))
    kernels = [last(op, *[shape] * count) for op, count in ops]
    made = compile_kernels(kernels, Target.named(target))
    for (op, count), native in zip(ops, made, strict=True):
        assert not isinstance(native, Exception), native
        arrays = [rng.standard_normal(shape).astype("float32") for _ in range(count)]
        want = op.reference(*(array.astype("float64") for array in arrays))
        for shift in (0, 4):
            (got,) = native([*arrays, np.full(shape, np.nan, "float32")], shift=shift)
            np.testing.assert_allclose(got, want, rtol=0, atol=3e-6, err_msg=f"{op}, {shift}")


def test_only_short_rows_with_windows_are_held() -> None:
    lanes = Target.named("x86-64-v3").lanes("float32")
    longest = MOST_REGISTERS * lanes
    window = Lrn(3, *FIELDS)
    assert takes(last(window, (2, longest, 2, 2)), "x86-64-v3")
    assert not takes(last(window, (2, longest + 1, 2, 2)), "x86-64-v3")
    assert not takes(last(window, (2, 8, 2, 2)), "scalar")
    assert not takes(last(Lrn(1, *FIELDS), (2, 8, 2, 2)), "x86-64-v3")  # meets no neighbour
    assert not takes(last(Lrn(11, *FIELDS), (2, 8, 2, 2)), "x86-64-v3")  # too many to write out
    pooling = AvgPool((3, 3), (1, 1), ((1, 1), (1, 1)), (9, 9))
    assert not takes(last(pooling, (2, 8, 9, 9)), "x86-64-v3")  # its windows meet other rows
    assert not takes(kernel_of(window, *[[TensorType("float32", (2, 8, 9, 9))]] * 2), "x86-64-v3")


# -- two steps in one sweep ---------------------------------------------------------------------


def normalised(shape: Shape, size: int, memory: Memory = "reuse") -> Program:
    """Forward and backward of a normalisation across channels."""
    graph = Graph("normalised")
    y = Lrn(size, *FIELDS)(graph.input("x", TensorType("float32", shape)))
    graph.outputs["y"] = y
    graph.blobs["y"] = y
    return plan(compile_graph(graph, ("x",), ("y",)).graph, memory=memory)


def chains(program: Program) -> list[int]:
    """Where a quotient's step may be one with the step behind it."""
    names = [step.kernel.name for step in program.steps]
    places = [number for number, name in enumerate(names) if name == "lrn_quotient"]
    return [number for number in places if chain_at(program, number) is not None]


def gradient(program: Program, threads: int, target: str = "host") -> np.ndarray:
    executable = load(compile_program(program, Target.named(target)))
    values = dict(zip(("x", "y.diff"), given(program), strict=True))
    for name, array in executable.bind_new().items():
        array[...] = values.get(name, np.nan)
    executable.arena[...] = 255  # nan
    executable.call("both", threads)
    return executable.arrays["x.diff"].copy()


def given(program: Program) -> list[np.ndarray]:
    """x and the gradient of y."""
    (x,) = (slot for slot in program.slots if slot.name == "x")
    rng = np.random.default_rng(5)
    return [rng.standard_normal(x.type.shape).astype("float32") for _ in range(2)]


@pytest.mark.parametrize("memory", ["reuse", "all"])
@pytest.mark.parametrize("target", ["host", "x86-64-v3", "scalar"])
@pytest.mark.parametrize("channels", [5, 96, 130])
def test_a_chain_gives_the_same_bits(
    channels: int, target: str, memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = normalised((3, channels, 9, 11), 5, memory)
    assert chains(program)
    one = [gradient(program, threads, target) for threads in (1, 2, 3)]
    emitted = emit_program(program, Target.named(target), kernel_keys(program))
    monkeypatch.setattr(code, "chain_at", lambda program, number: None)
    monkeypatch.setenv(cache_folder.ENVIRONMENT, str(tmp_path / "apart"))
    apart = emit_program(program, Target.named(target), kernel_keys(program))
    assert emitted.kernels == apart.kernels - (target != "scalar")
    two = gradient(program, 1, target)
    for found in one:
        np.testing.assert_array_equal(found, two)
    x, dy = (array.astype("float64") for array in given(program))
    quotient = LrnQuotient(5, *FIELDS).reference(dy, x)
    want = LrnGradient(5, *FIELDS).reference(x, quotient)
    np.testing.assert_allclose(two, want, rtol=0, atol=3e-6)


def test_a_chain_leaves_alone_what_somebody_else_needs() -> None:
    program = normalised((2, 8, 5, 5), 3)
    (number,) = chains(program)
    link = program.steps[number].arguments[-1]
    assert chain_at(replace(program, readable={**program.readable, "q": link}), number) is None
    assert chain_at(replace(program, forward_steps=number + 1), number) is None
    later = replace(program.buffers[link], needed=number + 2)
    assert chain_at(replace(program, buffers={**program.buffers, link: later}), number) is None


def test_a_chain_stores_over_an_input_only_where_rows_stay_apart() -> None:
    program = normalised((2, 8, 5, 5), 3, "all")
    (number,) = chains(program)
    chain = chain_at(program, number)
    assert chain is not None
    (stored,) = chain.writes
    read = replace(program.buffers[chain.reads[0]], slot=99)
    for shift, possible in ((0, True), (64, False), (-64, False), (1600, True), (-1600, True)):
        moved = replace(read, offset=read.offset + shift)
        buffers = {**program.buffers, chain.reads[0]: read, stored: moved}
        found = chain_at(replace(program, buffers=buffers), number)
        assert (found is not None) == possible, shift
