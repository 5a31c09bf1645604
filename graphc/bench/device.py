"""What a GPU can do at most, and what it is: as `graphc.bench.machine` has it for the processor."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

import graphc.ops  # noqa: F401  (enters all operators in the table)
from graphc.back_ends import back_end
from graphc.bench.machine import Limits, describe_machine, measure_limits
from graphc.ir.core.axes import Broadcast, Sum
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


def loaded(program: Program, target: str, tf32: bool = False, libraries: str = "off") -> Executable:
    """A program made into code for a target, ready to be bound."""
    end = back_end(target)
    return end.load(end.compile(program, tf32, libraries))


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
    sweep = _sweep(array.nbytes, "copy")
    return lambda: sweep.call("forward")


def _measure() -> Limits:
    """Copy and read by generated kernels, the GPU's clock beside them; products by data sheet."""
    copy, read, write = (_seconds(way) for way in ("copy", "read", "write"))
    products = cuda.peak_products(cuda.device())
    block = BLOCK_BYTES
    return Limits(0, products, 2 * block / copy, block / read, block / write, block)


def _seconds(way: str) -> float:
    """The best time of reading a block, writing one, or both."""
    executable = _sweep(BLOCK_BYTES, way)
    return min(sum(executable.timed_call("forward").steps) for _ in range(_TRIES))


@cache
def _sweep(size: int, way: str) -> Executable:
    graph = Graph(way)
    rows = max(1, size // 4 // _ROW)
    x = graph.input("x", TensorType("float32", (_ROW,) if way == "write" else (rows, _ROW)))
    y: Value
    if way == "read":
        y = Sum((1,))(x)
    elif way == "write":
        y = Broadcast((rows, _ROW), (0,))(x)
    else:
        y = Relu()(x)
    graph.outputs["y"] = y
    executable = loaded(plan(compile_graph(graph).graph), "cuda")
    executable.bind_new()["x"][...] = np.float32(1)
    executable.call("forward")
    return executable
