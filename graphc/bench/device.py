"""What a GPU can do at most, and what it is: as `graphc.bench.machine` has it for the processor."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

import graphc.ops  # noqa: F401  (enters all operators in the table)
from graphc.bench.machine import Limits, describe_machine, measure_limits
from graphc.codegen.cuda.program import compile_cuda
from graphc.codegen.llvm.jit import load
from graphc.codegen.llvm.object import compile_program
from graphc.ir.core import Sum
from graphc.ir.graph import Graph, Value
from graphc.ir.types import TensorType
from graphc.ops.neuron import Relu
from graphc.passes.pipeline import compile_graph
from graphc.plan.planner import plan
from graphc.plan.program import Program
from graphc.runtime import cuda
from graphc.runtime.cpu import Executable

BLOCK_BYTES = 1 << 30  # of an array: many times the largest cache
_ROW = 4096
_TRIES = 10


def limits_of(target: str, threads: int) -> Limits:
    """The limits of what runs a net."""
    return measure_limits(threads) if target == "cpu" else _measure()


def loaded(program: Program, target: str, tf32: bool = False) -> Executable:
    """A program made into code for a target, ready to be bound."""
    if target == "cpu":
        return load(compile_program(program))
    return cuda.load(compile_cuda(program, tf32))


def describe(target: str) -> dict[str, object]:
    """The machine, and the GPU where that is the target."""
    machine = describe_machine()
    if target != "cpu":
        gpu = cuda.device().Device(0)
        major, minor = gpu.compute_capability()
        machine["gpu"] = f"{gpu.name()} (sm_{major}{minor})"
    return machine


def copier(array: np.ndarray, target: str) -> Callable[[], object]:
    """What copies as many bytes as an array has, from one block of a target's memory to another."""
    if target == "cpu":
        other = np.empty_like(array)
        return lambda: np.copyto(other, array)
    sweep = _sweep(array.nbytes, False)
    return lambda: sweep.call("forward")


def _measure() -> Limits:
    """Copy and read by generated kernels, the GPU's clock beside them; products by data sheet."""
    read, copy = (_seconds(reads) for reads in (True, False))
    products = cuda.peak_products(cuda.device())
    return Limits(0, products, 2 * BLOCK_BYTES / copy, BLOCK_BYTES / read, BLOCK_BYTES)


def _seconds(reads: bool) -> float:
    """The best time of reading a block, or of reading it and writing another one."""
    executable = _sweep(BLOCK_BYTES, reads)
    return min(sum(executable.timed_call("forward").steps) for _ in range(_TRIES))


@cache
def _sweep(size: int, reads: bool) -> Executable:
    graph = Graph("read" if reads else "copy")
    x = graph.input("x", TensorType("float32", (max(1, size // 4 // _ROW), _ROW)))
    y: Value = Sum((1,))(x) if reads else Relu()(x)
    graph.outputs["y"] = y
    executable = loaded(plan(compile_graph(graph).graph), "cuda")
    executable.bind_new()["x"][...] = np.float32(1)
    executable.call("forward")
    return executable
