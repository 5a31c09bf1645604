"""Every operator's kernel as CUDA C++, run by the emulator, against the operator's reference.

All kernels of one dtype are steps of one program, so that the C++ compiler runs once for them.
"""

from __future__ import annotations

import functools
import shutil

import numpy as np
import pytest
from test_operators import (
    CASES,
    assert_close,
    expected,
    has_images,
    kernel_and_arrays,
    overwritable,
)

from graphc.codegen.cuda.program import compile_cuda
from graphc.ir.types import TensorType
from graphc.kernel.lang import Kernel
from graphc.plan.program import MemoryReport, Program, ProgramBuffer, Slot, Step
from graphc.runtime.emulator import EmulatedExecutable, load

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None, reason="the CUDA emulator needs a C++ compiler"
)

LAYOUTS = ("row_major", "channels_last")


def variants() -> list[tuple[int, str]]:
    """(number of the example, layout)."""
    return [
        (number, layout)
        for number, case in enumerate(CASES)
        for layout in LAYOUTS
        if layout == "row_major" or has_images(case.values[0])
    ]


class Table:
    """Kernels as the steps of one program, each with slots of its own."""

    def __init__(self, dtype: str):
        self.dtype = dtype
        self.slots = [Slot("arena", "arena", TensorType("uint8", (0,)))]
        self.buffers: dict[str, ProgramBuffer] = {}
        self.steps: list[Step] = []
        self.contents: dict[str, np.ndarray] = {}
        self.results: dict[tuple[int, str], list[tuple[int, int, list[str]]]] = {}
        for number, layout in variants():
            self._add(number, layout)

    def _add(self, number: int, layout: str) -> None:
        """Apart, and in place wherever the kernel allows it."""
        kernel, arrays = kernel_and_arrays(CASES[number].values[0], self.dtype, layout)
        inputs = len(kernel.inputs)
        found = []
        for source, output in [(-1, -1), *overwritable(kernel)]:
            names = [
                f"s{len(self.steps)}.{position}"
                for position in range(len(kernel.buffers))
                if output < 0 or position != inputs + output
            ]
            if output >= 0:
                names.insert(inputs + output, names[source])
            for position, name in enumerate(names):
                if name not in self.buffers:
                    self._place(name, kernel, position, arrays[position])
            self.steps.append(Step(kernel, tuple(names), f"example{number}"))
            found.append((source, output, names[inputs:]))
        self.results[number, layout] = found

    def _place(self, name: str, kernel: Kernel, position: int, array: np.ndarray) -> None:
        formal = kernel.buffers[position]
        buffer = ProgramBuffer(
            name, formal.dtype, formal.shape, formal.strides, len(self.slots), 0, 0, 10**6
        )
        count = buffer.span_bytes // np.dtype(formal.dtype).itemsize
        self.slots.append(Slot(name, "input", TensorType(formal.dtype, (count,))))
        self.buffers[name] = buffer
        self.contents[name] = array

    def program(self) -> Program:
        memory = MemoryReport(0, 0, 0, 0)
        every = {name: name for name in self.buffers}
        steps = tuple(self.steps)
        return Program(
            "table", tuple(self.slots), self.buffers, steps, len(steps), 0, memory, every, {}
        )

    def fill(self, executable: EmulatedExecutable) -> None:
        executable.bind_new()
        for name, array in self.contents.items():
            if array.size:
                executable.view(name)[...] = array


@functools.cache
def built(dtype: str) -> tuple[Table, EmulatedExecutable]:
    table = Table(dtype)
    return table, load(compile_cuda(table.program()))


@functools.cache
def results(dtype: str, seed: int) -> dict[str, np.ndarray]:
    """What every buffer holds after a run."""
    table, executable = built(dtype)
    table.fill(executable)
    executable.seed = seed
    executable.call("both")
    return {name: executable.read(name) for name in table.buffers}


RUNS = [
    pytest.param(number, layout, dtype, id=f"{CASES[number].id}-{layout}-{dtype}")
    for dtype in ("float32", "float64")
    for number, layout in variants()
]


@pytest.mark.parametrize(("number", "layout", "dtype"), RUNS)
def test_cuda_kernel_is_the_reference(number: int, layout: str, dtype: str):
    """Apart and in place; in the order of the threads and in a random one."""
    example = CASES[number].values[0]
    table, _ = built(dtype)
    kernel, arrays = kernel_and_arrays(example, dtype, layout)
    wanted = expected(example.op, arrays[: len(kernel.inputs)])
    for source, output, names in table.results[number, layout]:
        for position, part in enumerate(wanted):
            what = f"output {position} of {example.op}, output {output} in input {source}"
            in_order, at_random = (results(dtype, seed)[names[position]] for seed in (0, 77))
            assert_close(in_order, part, what)
            np.testing.assert_array_equal(at_random, in_order, f"{what}, threads at random")
