"""Operators that memory bounds, for machines whose caches hold next to nothing.

What goes past the caches, in strips or ahead of its use depends on sizes: with caches of a few
hundred bytes small arrays take every one of those ways, on every width of vectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from native_kernels import compile_kernels
from native_programs import TARGETS, dense, kernel

from graphc.codegen.llvm.target import Target
from graphc.ir.op import Op
from graphc.ir.types import TensorType
from graphc.kernel.build import Array, Writer, kernel_of
from graphc.kernel.interp import interpret
from graphc.kernel.lang import Kernel, Load
from graphc.kernel.residues import by_residues
from graphc.kernel.verify import verify
from graphc.kernel.walk import statement_exprs, walk
from graphc.ops.lrn import Lrn, LrnGradient, LrnQuotient
from graphc.ops.moments import InverseDeviation, Moments, Standardize, StandardizeGradientSums
from graphc.ops.neuron import Elu, Relu, Sigmoid
from graphc.ops.pool import AvgPool, AvgPoolGradient, MaxPool, MaxPoolGradient, pooled_extent
from graphc.ops.softmax import Softmax
from graphc.plan.layout import channels_last, strides_of

SEEDS = range(12)
NAMES = [*TARGETS, "x86-64-v2"] if "x86-64-v3" in TARGETS else list(TARGETS)


def small(name: str) -> Target:
    """Arrays of 2 KiB go past its caches; rows of windows longer than 128 bytes are cut."""
    return replace(Target.named(name), l1_bytes=256, l2_bytes=128)


def real(*shape: int) -> TensorType:
    return TensorType("float32", shape)


Case = tuple[Op, list[np.ndarray]]


def cases(seed: int) -> Iterator[Case]:
    """Every operator with its inputs, at sizes that `seed` draws."""
    rng = np.random.default_rng(seed)
    n, c = int(rng.integers(1, 3)), int(rng.choice([1, 3, 8, 16, 17, 32, 48, 96]))
    sides = tuple(int(side) for side in rng.integers(4, 14, 2))
    shape = (n, c, *sides)
    x, dy = (rng.standard_normal(shape).astype("f") for _ in range(2))
    size = tuple(int(k) for k in rng.integers(1, 4, 2))
    strides = tuple(int(s) for s in rng.integers(1, 4, 2))
    pads = tuple((int(rng.integers(0, k)), int(rng.integers(0, k))) for k in size)
    hangs = all(s <= k for s, k in zip(strides, size, strict=True)) and bool(rng.integers(2))
    fields = zip(sides, size, strides, pads, strict=True)
    output = tuple(pooled_extent(*field, ceil=hangs, is_padded=True) for field in fields)
    small_dy = rng.standard_normal((n, c, *output)).astype("f")
    index = rng.integers(0, size[0] * size[1] + 1, small_dy.shape).astype("uint8")
    counted = bool(rng.integers(2))
    yield MaxPool(size, strides, pads, output), [x]
    yield MaxPool(size, strides, pads, output, rectified=True), [x]
    yield MaxPoolGradient(sides, size, strides, pads), [small_dy, index]
    yield AvgPool(size, strides, pads, output, counted), [x]
    yield AvgPoolGradient(sides, size, strides, pads, counted), [small_dy]
    window = int(rng.choice([1, 3, 5])), 0.5, 0.75, 1.0
    yield Lrn(*window), [x]
    yield LrnQuotient(*window), [dy, x]
    yield LrnGradient(*window), [dy, x]
    yield Relu(), [x]
    yield Sigmoid(), [x]
    yield Elu(), [x]
    yield Softmax(), [x]
    mean, spread = Moments((0, 2, 3)).reference(x)
    yield Moments((0, 2, 3)), [x * 3 + 2]
    yield StandardizeGradientSums((0, 2, 3)), [dy, x, mean]
    yield Standardize((0, 2, 3)), [x, mean, InverseDeviation(1e-5).reference(spread)]


def in_layout(op: Op, arrays: list[np.ndarray], last: bool) -> Kernel:
    types = [TensorType(str(a.dtype), a.shape) for a in arrays]
    made = op.infer(*types)
    outputs = list(made) if isinstance(made, tuple) else [made]
    order = channels_last(4)
    images = [strides_of(t.shape, order) if last and t.rank == 4 else None for t in types + outputs]
    return kernel_of(op, types, outputs, images)


def wanted(op: Op, arrays: list[np.ndarray]) -> list[np.ndarray]:
    wide = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in arrays]
    found = op.reference(*wide)
    return list(found) if isinstance(found, tuple) else [found]


@pytest.mark.parametrize("last", [False, True], ids=["row-major", "channels-last"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", SEEDS)
def test_every_way_past_the_caches_gives_the_same(seed: int, name: str, last: bool) -> None:
    every = list(cases(seed))
    kernels = [in_layout(op, arrays, last) for op, arrays in every]
    for (op, arrays), native in zip(every, compile_kernels(kernels, small(name)), strict=True):
        assert not isinstance(native, Exception), native
        right = wanted(op, arrays)
        empty = [np.full(b.shape, 77, b.dtype) for b in native.kernel.outputs]
        for shift in (0, 4):
            for got, value in zip(native([*arrays, *empty], shift=shift), right, strict=True):
                scale = max(1.0, float(np.abs(value).max()))
                np.testing.assert_allclose(got, value, rtol=0, atol=4e-6 * scale, err_msg=str(op))


def divided(kernel: Kernel) -> bool:
    parts = (part for s in kernel.body for e in statement_exprs(s) for part in walk(e))
    loads = [part for part in parts if isinstance(part, Load)]
    inner = (part for load in loads for index in load.index for part in walk(index))
    return any(getattr(part, "function", "") in ("floordiv", "mod") for part in inner)


@pytest.mark.parametrize("seed", SEEDS)
def test_residues_of_divided_loops_compute_the_same(seed: int) -> None:
    """Bit for bit, and by the rules of the language; no quotient is left where lanes are."""
    for op, arrays in cases(seed):
        kernel = in_layout(op, arrays, last=True)
        made = by_residues(kernel)
        verify(made)
        results = []
        for version in (kernel, made):
            outputs = [np.full(b.shape, 77, b.dtype) for b in version.outputs]
            assert interpret(version, [*arrays, *outputs]) == []
            results.append(outputs)
        for before, after in zip(*results, strict=True):
            np.testing.assert_array_equal(before, after, err_msg=str(op))
        assert not divided(made) or arrays[0].shape[1] == 1, op


def test_a_loop_is_not_divided_where_the_order_counts() -> None:
    """What is loaded once, before stores that may lie over it, must not be loaded behind them."""

    def one(k, x, y, z):
        i, c = k.each(5, 16)
        taken = k.let(x[i, c] * 2.0)
        y[i, c] = x[i // 2, c] + 1.0
        if z is not None:
            z[i, c] = taken
        else:
            k.add(y, (i, c), taken)

    x, y, z = (dense(name, 5, 16) for name in "xyz")
    for outputs in ([y, z], [y, y]):
        k = Writer("one")
        one(k, Array(k, x), Array(k, y), Array(k, z) if z in outputs else None)
        made = k.finish([x], list(dict.fromkeys(outputs)))
        assert by_residues(made) is made
    alone = kernel(_shifted, [x], [y])
    assert by_residues(alone) is not alone


def _shifted(k: Writer, x: Array, y: Array) -> None:
    i, c = k.each(5, 16)
    taken = k.let(x[i, c] * 2.0)
    y[i, c] = x[i // 2, c] + taken


def whole_numbers(k: Writer, x: Array, y: Array) -> None:
    i, j = *k.each(x.shape[0]), k.axis(x.shape[1])
    k.store(y, (i, j), k.cast(k.abs(x[i, j]) * 20.0, "uint8"))


@pytest.mark.parametrize("target", NAMES)
def test_bytes_in_rows_that_begin_anywhere(target: str):
    made = kernel(whole_numbers, [dense("x", 9, 1001)], [dense("y", 9, 1001, dtype="uint8")])
    (native,) = compile_kernels([made], small(target))
    assert not isinstance(native, Exception), native
    x = np.random.default_rng(0).standard_normal((9, 1001)).astype("f")
    (y,) = native([x, np.zeros(x.shape, "uint8")])
    np.testing.assert_array_equal(y, (np.abs(x) * np.float32(20)).astype("uint8"))
