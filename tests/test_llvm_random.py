"""Random kernels, compiled for several targets, against the interpreter."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from llvmlite import binding
from native_kernels import NativeKernel, compile_kernels
from native_programs import TARGETS
from random_chains import Chain, exact_contents

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.kernel import emit_kernel
from graphc.codegen.llvm.target import Target
from graphc.ir.types import row_major
from graphc.kernel.build import Array, Writer
from graphc.kernel.interp import interpret
from graphc.kernel.lang import INDEX, Buffer, Expr, Kernel, Var, call
from graphc.kernel.verify import verify

COUNT = 120
TOLERANCE = {"float32": 3e-5, "float64": 1e-11}
NAMES = [*TARGETS, "x86-64-v2"] if "x86-64-v3" in TARGETS else list(TARGETS)
EXTENTS = (1, 2, 3, 5, 8, 15, 16, 17, 31, 33, 70)


class Random:
    """Draws one kernel: up to three `each` axes, folds with guards, and stores in every form."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self.writer = Writer(f"random{seed}")
        self.dtype = str(self.rng.choice(["float32", "float32", "float64"]))
        self.inputs: list[Buffer] = []
        self.outputs: list[Buffer] = []

    def kernel(self) -> Kernel:
        k, rng = self.writer, self.rng
        extents = [self.extent() for _ in range(rng.integers(0, 4))]
        self.each = k.each(*extents)
        self.locals: list[Expr] = []
        for _ in range(rng.integers(1, 4)):
            self.fold()
        if self.chance(0.3):
            label = self.input("int64" if self.chance(0.5) else "uint8", self.each)
            self.locals.append(self.real(label))
            self.locals.append(self.looked_up(label))
        for _ in range(rng.integers(1, 3)):
            self.store()
        if self.chance(0.3):
            self.scatter()
        kernel = k.finish(self.inputs, self.outputs)
        verify(kernel)
        return kernel

    # -- parts --

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def extent(self) -> int:
        return int(self.rng.choice(EXTENTS[: int(self.rng.integers(4, len(EXTENTS)))]))

    def buffer(self, dtype: str, shape: tuple[int, ...]) -> Buffer:
        """Dense in a random order of axes, at times with gaps."""
        order = list(range(len(shape)))
        if self.chance(0.5):
            self.rng.shuffle(order)
        gap = 2 if self.chance(0.15) else 1
        strides = [0] * len(shape)
        for position, stride in zip(order, row_major(tuple(shape[p] for p in order)), strict=True):
            strides[position] = stride * gap
        name = f"b{len(self.inputs) + len(self.outputs)}"
        return Buffer(name, dtype, shape, tuple(strides))

    def input(self, dtype: str, index: list[Var]) -> Expr:
        buffer = self.buffer(dtype, tuple(v.axis.extent for v in index))
        self.inputs.append(buffer)
        return Array(self.writer, buffer)[tuple(index)]

    def real(self, value: Expr) -> Expr:
        return self.writer.cast(value, self.dtype)

    def looked_up(self, label: Expr) -> Expr:
        """A row chosen by data."""
        k = self.writer
        extent = self.extent()
        index = call("mod", k.cast(label, INDEX), extent)
        buffer = self.buffer(self.dtype, (extent,))
        self.inputs.append(buffer)
        return Array(k, buffer)[k.let(index)]

    def subset(self, axes: list[Var]) -> list[Var]:
        return [v for v in axes if self.chance(0.7)]

    def value(self, axes: list[Var]) -> Expr:
        """An expression of loads over some of `axes` and of earlier results."""
        k = self.writer
        value = self.input(self.dtype, self.subset(axes))
        for _ in range(self.rng.integers(0, 4)):
            kind = int(self.rng.integers(0, 9))
            other: Expr = k.number(float(self.rng.uniform(-2, 2)), self.dtype)
            if self.locals and self.chance(0.5):
                other = self.locals[int(self.rng.integers(len(self.locals)))]
            elif self.chance(0.5):
                other = self.input(self.dtype, self.subset(axes))
            value = [
                lambda v, o: v + o,
                lambda v, o: v - o,
                lambda v, o: v * o,
                k.maximum,
                k.minimum,
                lambda v, o: k.select(v < o, o, v * 0.5),
                lambda v, o: k.tanh(v) + o,
                lambda v, o: k.exp(k.minimum(v, 1.0)) - o,
                lambda v, o: call("round", v) + k.abs(o),
            ][kind](value, other)
        if axes and self.chance(0.2):
            axis = axes[int(self.rng.integers(len(axes)))]
            value = value + self.real(call("floordiv", axis - 3, 2) + axis % 3)
        return value

    def guarded(self, axes: list[Var], own: list[Var]) -> tuple[Expr, Expr | None]:
        """A value and a guard: perhaps a window that leaves its buffer."""
        k = self.writer
        if own and axes and self.chance(0.5):
            outer, inner = axes[int(self.rng.integers(len(axes)))], own[-1]
            stride, pad = int(self.rng.integers(1, 3)), int(self.rng.integers(0, 3))
            place = outer * stride + inner - pad
            extent = max(1, outer.axis.extent * stride + inner.axis.extent - 2 - 2 * pad)
            buffer = self.buffer(self.dtype, (extent,))
            self.inputs.append(buffer)
            return Array(k, buffer)[place] * self.value(axes + own), k.within(place, extent)
        where: Expr | None = None
        every = axes + own
        if every and self.chance(0.4):
            first = every[int(self.rng.integers(len(every)))]
            where = first * 2 < first.axis.extent
            if self.chance(0.4):
                where = where | k.equal(first % 3, 0)
            if self.chance(0.3):
                where = where & (self.input("uint8", self.subset(every)) < 200)
        return self.value(every), where

    def fold(self) -> None:
        k = self.writer
        own = k.axes(*(self.extent() for _ in range(self.rng.integers(1, 3))))
        value, where = self.guarded(self.each, own)
        kind = str(self.rng.choice(["sum", "max", "min", "product", "argmax", "argmin"]))
        if kind in ("argmax", "argmin"):
            companion = own[0] * 7 + own[-1]
            best, place = getattr(k, kind)(own, call("round", value), companion, where)
            self.locals.append(k.select(k.abs(best) < 1e30, best, 0.0))
            self.locals.append(self.real(place))
            return
        if kind == "product":
            value = k.tanh(value) + 1.0
        result = getattr(k, kind)(own, value, where)
        if kind in ("max", "min"):
            result = k.select(k.abs(result) < 1e30, result, 0.0)
        self.locals.append(result)

    def store(self) -> None:
        k = self.writer
        own = k.axes(*(self.extent() for _ in range(self.rng.integers(0, 3))))
        index = self.each + own
        if self.chance(0.3):
            self.rng.shuffle(index)
        output = self.buffer(self.dtype, tuple(v.axis.extent for v in index))
        self.outputs.append(output)
        value, where = self.value(index), None
        if index and self.chance(0.3):
            where = index[0] * 3 <= index[0].axis.extent + 1
        mode = "add" if self.chance(0.3) else "set"
        k.store(Array(k, output), tuple(index), value, where, mode)

    def scatter(self) -> None:
        """Additions at a place that data chooses, beside an axis that keeps them apart."""
        k = self.writer
        extent, own = self.extent() + 1, k.axes(self.extent())
        label = call("mod", k.cast(self.input("uint8", self.each), INDEX), extent)
        output = self.buffer(self.dtype, (extent, own[0].axis.extent))
        self.outputs.append(output)
        k.add(Array(k, output), (label, own[0]), self.value(self.each + own))


def contents(kernel: Kernel, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    arrays = []
    for buffer in kernel.buffers:
        if buffer.dtype in ("float32", "float64"):
            arrays.append(rng.uniform(-2, 2, buffer.shape).astype(buffer.dtype))
        else:
            arrays.append(rng.integers(0, 255, buffer.shape).astype(buffer.dtype))
    return arrays


@functools.cache
def kernels() -> list[Kernel]:
    return [Random(seed).kernel() for seed in range(COUNT)]


@functools.cache
def compiled(target: str) -> list[NativeKernel | Exception]:
    return compile_kernels(kernels(), Target.named(target))


@functools.cache
def wanted(seed: int) -> list[np.ndarray]:
    kernel = kernels()[seed]
    arrays = contents(kernel, seed)
    assert interpret(kernel, arrays) == []
    return arrays[len(kernel.inputs) :]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("seed", range(COUNT))
def test_random_kernel(seed: int, target: str):
    native = compiled(target)[seed]
    if isinstance(native, Exception):
        raise native
    kernel = kernels()[seed]
    for got, right in zip(native(contents(kernel, seed)), wanted(seed), strict=True):
        scale = max(1.0, float(np.abs(right).max(initial=0.0)))
        np.testing.assert_allclose(got, right, rtol=0, atol=TOLERANCE[str(right.dtype)] * scale)


CHAINS = 40


@functools.cache
def chains(count: int) -> list[Kernel]:
    return [Chain(seed).kernel() for seed in range(count)]


@pytest.mark.parametrize("target", NAMES)
@pytest.mark.parametrize("count", [CHAINS, pytest.param(1000, marks=pytest.mark.long)])
def test_chains_of_statements_read_what_they_stored(count: int, target: str):
    kernels = chains(count)
    for seed, native in enumerate(compile_kernels(kernels, Target.named(target))):
        assert not isinstance(native, Exception), (seed, native)
        wanted = exact_contents(kernels[seed], seed)
        assert interpret(kernels[seed], wanted) == []
        got = native(exact_contents(kernels[seed], seed))
        for found, right in zip(got, wanted[len(kernels[seed].inputs) :], strict=True):
            np.testing.assert_array_equal(found, right, f"chain {seed}")


@pytest.mark.parametrize("name", ["neoverse-n1", "apple-m1", "x86-64", "x86-64-v2", "x86-64-v4"])
def test_other_machines_get_code(name: str):
    """LLVM finds instructions for all that is emitted, also where nothing here can run it."""
    target = Target.named(name)
    module = ir.Module(name)
    module.triple = target.triple
    machine = target.machine(position_independent=True)
    for number, kernel in enumerate(kernels()[:20]):
        emit_kernel(module, kernel, target, f"k{number}")
    parsed = binding.parse_assembly(str(module))
    parsed.verify()
    assert machine.emit_object(parsed)
