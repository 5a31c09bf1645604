"""Random kernels as CUDA C++, run by the emulator, against the interpreter.

Once as they would be scheduled, once with a block for every iteration that has loops to share.
"""

from __future__ import annotations

import functools
from unittest import mock

import numpy as np
import pytest
from cuda_programs import KernelTable, needs_compiler
from test_llvm_random import COUNT, TOLERANCE, contents, kernels, wanted

from graphc.codegen.cuda import schedule

pytestmark = needs_compiler


@functools.cache
def table(row: int) -> tuple[KernelTable, list[list[str]]]:
    """All kernels; loops of `row` iterations are worth a block."""
    made = KernelTable()
    names = [made.add(kernel, contents(kernel, seed)) for seed, kernel in enumerate(kernels())]
    with mock.patch.object(schedule, "ROW", row):
        made.results(0)
    return made, names


@pytest.mark.parametrize("row", [schedule.ROW, 2], ids=["as scheduled", "by blocks"])
@pytest.mark.parametrize("seed", range(COUNT))
def test_random_kernel(seed: int, row: int):
    made, names = table(row)
    for name, right in zip(names[seed], wanted(seed), strict=True):
        in_order, at_random = (made.results(order)[name] for order in (0, 5))
        scale = max(1.0, float(np.abs(right).max(initial=0.0)))
        limit = TOLERANCE[str(right.dtype)] * scale
        np.testing.assert_allclose(in_order, right, rtol=0, atol=limit)
        np.testing.assert_array_equal(at_random, in_order)
