"""Compile kernels one by one into machine code and call them on numpy arrays: for tests only.

Arrays are copied into memory whose alignment and strides are those the kernel was written for, with
a margin on both sides, so that a write past the end is seen.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import llvmlite.binding as llvm
import numpy as np

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.kernel import EmittedKernel, emit_kernel
from graphc.codegen.llvm.scratch import ALIGNMENT
from graphc.codegen.llvm.target import Target
from graphc.kernel.lang import Buffer, Kernel

MARGIN = 256
CANARY = 0xA5


class Memory:
    """Bytes for one buffer, between two margins, `shift` bytes from a multiple of `alignment`."""

    def __init__(self, buffer: Buffer, contents: np.ndarray, shift: int = 0, alignment: int = 64):
        dtype = np.dtype(buffer.dtype)
        reach = sum((e - 1) * s for e, s in zip(buffer.shape, buffer.strides, strict=True))
        span = 0 if 0 in buffer.shape else (reach + 1) * dtype.itemsize
        self.raw = np.full(span + 2 * MARGIN + alignment + shift, CANARY, np.uint8)
        self.start = MARGIN + -(self.raw.ctypes.data + MARGIN) % alignment + shift
        self.end = self.start + span
        strides = tuple(s * dtype.itemsize for s in buffer.strides)
        self.array = np.ndarray(buffer.shape, dtype, self.raw.data, self.start, strides)
        self.array[...] = contents

    @property
    def address(self) -> int:
        return self.raw.ctypes.data + self.start

    def check_margins(self) -> None:
        outside = np.concatenate([self.raw[: self.start], self.raw[self.end :]])
        assert (outside == CANARY).all(), "the kernel wrote outside a buffer"


def _scratch(size: int) -> Memory:
    """Memory for a thread to work in."""
    bytes_ = Buffer("scratch", "uint8", (size,), (1,))
    return Memory(bytes_, np.full(size, CANARY, np.uint8), alignment=ALIGNMENT)


@dataclass
class NativeKernel:
    """One compiled kernel."""

    kernel: Kernel
    emitted: EmittedKernel
    address: int
    engine: llvm.ExecutionEngine

    def __call__(
        self,
        arrays: Sequence[np.ndarray],
        shared: dict[int, int] | None = None,
        shift: int = 0,
    ) -> list[np.ndarray]:
        """Run on `arrays` (inputs, then what outputs hold before); returns the outputs.

        `shared` maps an output's position to the input in whose memory it lies. `shift`: bytes
        from a multiple of 64 to where buffers begin. The work is done in two shares, the later
        first, as threads may.
        """
        memories = [
            Memory(b, array, shift) for b, array in zip(self.kernel.buffers, arrays, strict=True)
        ]
        count = len(self.kernel.inputs)
        for output, source in (shared or {}).items():
            memories[count + output] = memories[source]
        error = (ctypes.c_int64 * 2)()
        types = [ctypes.c_void_p] * len(memories) + [ctypes.c_int64] * 2 + [ctypes.c_void_p] * 2
        worker = [0] * bool(self.emitted.workers)
        types += [ctypes.c_int64] * len(worker)
        function = ctypes.CFUNCTYPE(None, *types)(self.address)
        scratch = _scratch(self.emitted.scratch_bytes)
        middle = self.emitted.extent // 2 // self.emitted.unit * self.emitted.unit
        for low, high in ((middle, self.emitted.extent), (0, middle)):
            places = *(m.address for m in memories), low, high, ctypes.addressof(error)
            function(*places, scratch.address, *worker)
        for memory in (*memories, scratch):
            memory.check_margins()
        assert error[0] == 0, f"check {error[0]} failed with the number {error[1]}"
        return [memory.array for memory in memories[count:]]


def compile_kernels(kernels: Sequence[Kernel], target: Target) -> list[NativeKernel | Exception]:
    """All kernels in one module; an exception in the place of each that could not be emitted."""
    module = ir.Module("kernels")
    module.triple = target.triple
    found: list[EmittedKernel | Exception] = []
    for number, kernel in enumerate(kernels):
        try:
            emitted = emit_kernel(module, kernel, target, f"k{number}")
            emitted.function.linkage = "external"
            found.append(emitted)
        except Exception as error:
            found.append(error)
            module.globals.pop(f"k{number}", None)
    machine = target.machine()
    parsed = llvm.parse_assembly(str(module))
    engine = llvm.create_mcjit_compiler(parsed, machine)
    engine.finalize_object()
    return [
        item
        if isinstance(item, Exception)
        else NativeKernel(kernel, item, engine.get_function_address(f"k{number}"), engine)
        for number, (kernel, item) in enumerate(zip(kernels, found, strict=True))
    ]
