"""Every operator's kernel as CUDA C++, run by the emulator, against the operator's reference."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from cuda_programs import KernelTable, needs_compiler
from test_operators import (
    DTYPES,
    KERNELS,
    assert_close,
    expected,
    has_images,
    kernel_and_arrays,
    overwritable,
)

pytestmark = needs_compiler

LAYOUTS = ("row_major", "channels_last")
VARIANTS = [
    (number, layout)
    for number, case in enumerate(KERNELS)
    for layout in LAYOUTS
    if layout == "row_major" or has_images(case.values[0])
]

# For each variant what its runs are called, and the buffers of their outputs.
Runs = dict[tuple[int, str], dict[str, list[str]]]


@functools.cache
def operators(dtype: str) -> tuple[KernelTable, Runs]:
    """Every operator's examples, apart and in place wherever the kernel allows it."""
    table, runs = KernelTable(), {}
    for number, layout in VARIANTS:
        kernel, arrays = kernel_and_arrays(KERNELS[number].values[0], dtype, layout)
        found = {"apart": table.add(kernel, arrays)}
        for source, output in overwritable(kernel):
            what = f"output {output} in place of input {source}"
            found[what] = table.add(kernel, arrays, (source, output))
        runs[number, layout] = found
    return table, runs


RUNS = [
    pytest.param(number, layout, dtype, id=f"{KERNELS[number].id}-{layout}-{dtype}")
    for dtype in DTYPES
    for number, layout in VARIANTS
]


@pytest.mark.parametrize(("number", "layout", "dtype"), RUNS)
def test_cuda_kernel_is_the_reference(number: int, layout: str, dtype: str):
    """In the order of the threads, and the very same bits in a random one."""
    example = KERNELS[number].values[0]
    table, runs = operators(dtype)
    kernel, arrays = kernel_and_arrays(example, dtype, layout)
    wanted = expected(example.op, arrays[: len(kernel.inputs)])
    for run, names in runs[number, layout].items():
        for position, part in enumerate(wanted):
            what = f"output {position} of {example.op}, {run}"
            in_order, at_random = (table.results(seed)[names[position]] for seed in (0, 77))
            assert_close(in_order, part, what)
            np.testing.assert_array_equal(at_random, in_order, f"{what}, threads at random")
