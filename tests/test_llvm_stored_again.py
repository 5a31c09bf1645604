"""Kernels that read and replace what they have stored themselves: every value is the latest."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from native_kernels import NativeKernel, compile_kernels
from native_programs import TARGETS, dense, kernel

from graphc.codegen.llvm.target import Target
from graphc.kernel.build import Array, Writer
from graphc.kernel.interp import interpret
from graphc.kernel.lang import Kernel
from graphc.kernel.verify import verify

NAMES = [*TARGETS, "x86-64-v2"] if "x86-64-v3" in TARGETS else list(TARGETS)
ROWS, LENGTH = 5, 40


def guards_read_what_was_stored(k: Writer, x: Array, y: Array, a: Array, b: Array):
    (i,), j = k.each(ROWS), k.axis(LENGTH)
    k.store(y, (i, j), x[i, j])
    first = k.sum(j, x[i, j], y[i, j] < 0.0)
    k.store(y, (i, j), -x[i, j])
    a[i], b[i] = first, k.sum(j, x[i, j] * 2.0, y[i, j] < 0.0)


def one_element_is_read(k: Writer, x: Array, y: Array, a: Array, b: Array):
    (i,), j = k.each(ROWS), k.axis(LENGTH)
    k.store(y, (i, j), x[i, j] * 2.0)
    a[i] = k.let(y[i, 3])
    k.store(y, (i, j), y[i, j] + 1.0)
    b[i] = y[i, 3]


def one_element_is_stored(k: Writer, x: Array, y: Array, a: Array, b: Array):
    (i,), j = k.each(ROWS), k.axis(LENGTH)
    k.store(y, (i, j), x[i, j] * 2.0)
    k.store(y, (i, 3), x[i, 5])
    k.store(y, (i, j), y[i, j] + 1.0)
    a[i], b[i] = y[i, 3], y[i, 4]


def the_row_is_stored_backwards(k: Writer, x: Array, y: Array, a: Array, b: Array):
    (i,), j = k.each(ROWS), k.axis(LENGTH)
    k.store(y, (i, j), x[i, j] * 2.0)
    k.store(y, (i, LENGTH - 1 - j), x[i, j] * 3.0)
    k.store(y, (i, j), y[i, j] + 1.0)
    a[i], b[i] = y[i, 0], y[i, 1]


def a_sum_reads_two_arrays(k: Writer, x: Array, y: Array, z: Array, a: Array, b: Array):
    (i,), j = k.each(ROWS), k.axis(LENGTH)
    k.store(z, (i, j), x[i, j] * 2.0)
    k.store(y, (i, j), x[i, j] * 3.0)
    total = k.sum(j, y[i, j] * z[i, j])
    k.store(z, (i, j), z[i, j] + total)
    a[i], b[i] = total, z[i, 0]


def a_sum_computes_the_same_of_the_new(k: Writer, x: Array, y: Array, a: Array, b: Array):
    (i,), j = k.each(ROWS), k.axis(LENGTH)
    k.store(y, (i, j), x[i, j] * 2.0)
    k.store(y, (i, j), k.tanh(y[i, j]) + 1.0)
    total = k.sum(j, k.tanh(y[i, j]))
    k.store(y, (i, j), y[i, j] + total)
    a[i], b[i] = total, y[i, 0]


def what_was_the_largest_is_exceeded(k: Writer, x: Array, y: Array, a: Array, b: Array):
    (i,), j = k.each(ROWS), k.axis(LENGTH)
    k.store(y, (i, j), x[i, j])
    top = k.max(j, y[i, j])
    k.store(y, (i, j), y[i, j] + 1000.0)
    a[i], b[i] = top, k.sum(j, k.exp(y[i, j] - top))


WRITTEN: list[Callable[..., None]] = [
    guards_read_what_was_stored,
    one_element_is_read,
    one_element_is_stored,
    the_row_is_stored_backwards,
    a_sum_reads_two_arrays,
    a_sum_computes_the_same_of_the_new,
    what_was_the_largest_is_exceeded,
]


@functools.cache
def kernels() -> list[Kernel]:
    """Each of them on arrays of rows, whose lanes run along a row, and of columns."""
    found = []
    for write in WRITTEN:
        for strides in ((LENGTH, 1), (1, ROWS)):
            names = "xyz" if write is a_sum_reads_two_arrays else "xy"
            rows = [replace(dense(name, ROWS, LENGTH), strides=strides) for name in names]
            outputs = [*rows[1:], dense("a", ROWS), dense("b", ROWS)]
            found.append(kernel(write, rows[:1], outputs))
            verify(found[-1])
    return found


@functools.cache
def compiled(target: str) -> list[NativeKernel | Exception]:
    return compile_kernels(kernels(), Target.named(target))


@pytest.mark.parametrize("target", NAMES)
@pytest.mark.parametrize("number", range(2 * len(WRITTEN)))
def test_what_is_read_was_stored_last(number: int, target: str):
    native = compiled(target)[number]
    assert not isinstance(native, Exception), native
    rng = np.random.default_rng(0)
    wanted = [rng.standard_normal(b.shape).astype("f") for b in kernels()[number].buffers]
    got = native([array.copy() for array in wanted])
    interpret(kernels()[number], wanted)
    for found, right in zip(got, wanted[1:], strict=True):
        np.testing.assert_allclose(found, right, rtol=2e-5, atol=2e-5)
