"""Many kernels as the steps of one CUDA program for the emulator: for tests only.

The C++ compiler then runs once for all of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence

import numpy as np
import pytest

from graphc.codegen.cuda.program import compile_cuda
from graphc.codegen.cuda.tile_shape import HOPPER, DeviceClass
from graphc.ir.types import TensorType
from graphc.kernel.lang import Kernel
from graphc.plan.program import MemoryReport, Program, ProgramBuffer, Slot, Step
from graphc.runtime.emulator import EmulatedExecutable, load

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="the CUDA emulator needs a C++ compiler"
)


class KernelTable:
    """Collects steps, every buffer in a slot of its own."""

    def __init__(self, tf32: bool = False, gpu: DeviceClass = HOPPER) -> None:
        self.tf32, self.gpu = tf32, gpu
        self.slots = [Slot("arena", "arena", TensorType("uint8", (0,)))]
        self.buffers: dict[str, ProgramBuffer] = {}
        self.steps: list[Step] = []
        self.contents: dict[str, np.ndarray] = {}
        self._executable: EmulatedExecutable | None = None
        self._results: dict[int, dict[str, np.ndarray]] = {}

    def add(
        self, kernel: Kernel, arrays: Sequence[np.ndarray], in_place: tuple[int, int] | None = None
    ) -> list[str]:
        """A step on these arrays, inputs then outputs; the names of its outputs' buffers.

        in_place: (input, output) that lie in the same memory.
        """
        inputs = len(kernel.inputs)
        names = [f"s{len(self.steps)}.{position}" for position in range(len(kernel.buffers))]
        if in_place is not None:
            source, output = in_place
            names[inputs + output] = names[source]
        for position, name in enumerate(names):
            if name not in self.buffers:
                self._place(name, kernel, position, arrays[position])
        self.steps.append(Step(kernel, tuple(names), kernel.name))
        return names[inputs:]

    def _place(self, name: str, kernel: Kernel, position: int, array: np.ndarray) -> None:
        formal = kernel.buffers[position]
        buffer = ProgramBuffer(
            name, formal.dtype, formal.shape, formal.strides, len(self.slots), 0, 0, 10**6
        )
        count = buffer.span_bytes // np.dtype(formal.dtype).itemsize
        self.slots.append(Slot(name, "state", TensorType(formal.dtype, (count,))))
        self.buffers[name] = buffer
        self.contents[name] = array

    def program(self) -> Program:
        """All steps, every buffer readable."""
        every = {name: name for name in self.buffers}
        return Program(
            name="table",
            slots=tuple(self.slots),
            buffers=self.buffers,
            steps=tuple(self.steps),
            forward_steps=len(self.steps),
            arena_bytes=0,
            memory=MemoryReport(0, 0, 0, 0),
            readable=every,
            overwritten={},
            readable_forward=every,
        )

    def fill(self, executable: EmulatedExecutable) -> None:
        """Put every buffer's contents where it lies."""
        executable.bind_new()
        for name, array in self.contents.items():
            if array.size:
                executable.view(name)[...] = array

    def results(self, seed: int) -> dict[str, np.ndarray]:
        """What every buffer holds after a run; `seed` chooses the order of threads."""
        if self._executable is None:
            self._executable = load(compile_cuda(self.program(), self.tf32, self.gpu))
        if seed not in self._results:
            self.fill(self._executable)
            self._executable.seed = seed
            self._executable.call("forward")
            self._results[seed] = {name: self._executable.read(name) for name in self.buffers}
        return self._results[seed]
