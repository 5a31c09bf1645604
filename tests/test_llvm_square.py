"""Loads of neighbours: runs read whole and transposed give what gathers gave, and touch no more."""

from __future__ import annotations

import native_kernels
import numpy as np
import pytest
from native_kernels import compile_kernels
from test_llvm_contraction import TARGETS

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.kernel import emit_kernel
from graphc.codegen.llvm.target import Target
from graphc.ir.types import row_major
from graphc.kernel.build import Array, Writer
from graphc.kernel.lang import Buffer, Kernel, call


def _buffer(name: str, *shape: int, strides: tuple[int, ...] = ()) -> Buffer:
    return Buffer(name, "float32", shape, strides or row_major(shape))


def _weighted(source: Buffer, columns: tuple[int, ...], target: Buffer) -> Kernel:
    """target[i, j] = sum over n of (n + 1) * source[i, j, columns[n]]."""
    k = Writer("weighted")
    i, j = k.each(*target.shape)
    x = Array(k, source)
    total = x[i, j, columns[0]]
    for number, column in enumerate(columns[1:], 2):
        total = call("add", total, call("mul", x[i, j, column], float(number)))
    k.store(Array(k, target), (i, j), total)
    return k.finish((source,), (target,))


CASES = {
    "without gaps": ((3, 37, 9), (), tuple(range(9))),
    "backwards": ((2, 64, 9), (), tuple(reversed(range(9)))),
    "gaps": ((2, 33, 23), (), (1, 4, 5, 11, 17, 21)),
    "lanes far apart": ((40, 32, 9), (9, 360, 1), tuple(range(9))),
    "three only": ((2, 48, 7), (), (0, 3, 6)),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", CASES)
def test_sums_of_neighbours_are_right_and_use_nothing_around_them(
    case: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies around the array is nan, and so would a result be that used it."""
    monkeypatch.setattr(native_kernels, "CANARY", 0xFF)
    shape, strides, columns = CASES[case]
    source, y = _buffer("x", *shape, strides=strides), _buffer("y", *shape[:2])
    (native,) = compile_kernels([_weighted(source, columns, y)], Target.named(target))
    assert not isinstance(native, Exception), native
    x = np.random.default_rng(0).integers(-99, 99, shape).astype("float32")
    (got,) = native([x, np.zeros(y.shape, "float32")])
    want = sum(n * x[..., column] for n, column in enumerate(columns, 1))
    assert np.array_equal(got, want)


def test_runs_take_the_place_of_gathers_where_they_are_worth_it() -> None:
    for case, gathers in (("backwards", False), ("three only", True)):
        shape, strides, columns = CASES[case]
        source, y = _buffer("x", *shape, strides=strides), _buffer("y", *shape[:2])
        module = ir.Module("text")
        emit_kernel(module, _weighted(source, columns, y), Target.named("x86-64-v4"), "k")
        assert ("masked.gather" in str(module)) is gathers, case
