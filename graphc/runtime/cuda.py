"""Run a CUDA program on a GPU, through pycuda.

The program's memory is on the device: one allocation for the arena, one for each of the user's
arrays. A call copies the arrays there through page-locked memory, launches the steps on one stream,
and copies back what the call writes; from its second time on it replays the captured graph of all
this. pycuda is imported when the first program is loaded, and only here.
"""

from __future__ import annotations

import ctypes
import functools
import math
import shutil
from typing import Any

import numpy as np

from graphc.error import NetError, need
from graphc.runtime.bundle import Place, SlotEntry
from graphc.runtime.cpu import Executable, aligned_zeros
from graphc.runtime.cuda_graph import GraphCapture
from graphc.runtime.launch import FREE_SHARED_BYTES, CudaBundle, Launch

COMPILER_OPTIONS = ("-std=c++17",)
_ERROR_BYTES = 16
_WRITTEN = ("output", "state")  # roles of slots that a call writes
_SMALLEST_ALLOCATION = 16


@functools.cache
def device() -> Any:
    """pycuda's driver module, the first GPU's primary context being current.

    Raises NetError where pycuda, the driver or a GPU is missing.
    """
    try:
        import pycuda.driver as driver
    except ImportError as error:
        raise NetError(
            f"target 'cuda' needs pycuda ({error}); pip install 'graphc[cuda]', or use"
            " target 'cuda-emulator'"
        ) from None
    try:
        driver.init()
        need(driver.Device.count() > 0, "target 'cuda' needs a GPU, and the driver knows none")
        driver.Device(0).retain_primary_context().push()
    except driver.Error as error:
        raise NetError(f"target 'cuda' cannot use the GPU: {error}") from None
    return driver


def load(bundle: CudaBundle) -> CudaExecutable:
    """Compile the text for the GPU at hand and load it. Raises NetError for what is missing."""
    driver = device()
    from pycuda import compiler

    if shutil.which("nvcc") is None:
        raise NetError("target 'cuda' needs nvcc of the CUDA toolkit; none is in PATH")
    try:
        code = compiler.compile(bundle.text, no_extern_c=True, options=list(COMPILER_OPTIONS))
        module = driver.module_from_buffer(code)
    except (driver.Error, driver.CompileError) as error:
        raise NetError(f"nvcc refuses the text of '{bundle.name}': {error}") from None
    return CudaExecutable(bundle, driver, module)


class CudaExecutable(Executable):
    """A program on the GPU, used as one on the CPU is.

    `arena` is a copy on the host, brought up to date for the blobs that are read.
    """

    bundle: CudaBundle

    def __init__(self, bundle: CudaBundle, driver: Any, module: Any):
        # What the class for processors keeps, without its machine code.
        self.bundle = bundle
        self.arena = aligned_zeros((bundle.arena_bytes,), "uint8")
        self.arrays = {}
        self.only_forward = False
        self._numbers = {slot.name: i for i, slot in enumerate(bundle.slots) if i > 0}
        self._table = (ctypes.c_void_p * max(len(bundle.slots), 1))()
        self._error = (ctypes.c_int64 * 2)()
        # The device's side.
        self._driver = driver
        self._module = module
        self._stream = driver.Stream()
        self._graphs = GraphCapture(self._stream)
        sizes = [bundle.arena_bytes, *(_bytes(slot) for slot in bundle.slots[1:])]
        try:
            self._memory = [driver.mem_alloc(max(n, _SMALLEST_ALLOCATION)) for n in sizes]
            self._error_memory = driver.mem_alloc(_ERROR_BYTES)
            self._staged = {
                slot.name: driver.pagelocked_empty(slot.shape, np.dtype(slot.dtype))
                for slot in bundle.slots[1:]
            }
            self._words = driver.pagelocked_empty((2,), np.dtype(np.int64))
        except driver.Error as error:
            raise NetError(
                f"the GPU has no {sum(sizes) / 2**30:.3g} GiB for '{bundle.name}': {error}"
            ) from None
        self._functions_by_name = self._prepare()

    def _prepare(self) -> dict[str, Any]:
        """Every kernel, its types of arguments noted."""
        functions: dict[str, Any] = {}
        for launch in self.bundle.launches:
            if launch.kernel not in functions:
                function = self._module.get_function(launch.kernel)
                tail = "" if launch.first_check is None else "Pi"
                function.prepare("P" * len(launch.places) + tail)
                if launch.shared_bytes > FREE_SHARED_BYTES:
                    attribute = self._driver.function_attribute.MAX_DYNAMIC_SHARED_SIZE_BYTES
                    function.set_attribute(attribute, launch.shared_bytes)
                functions[launch.kernel] = function
        return functions

    # -- calls --

    def call(self, what: str = "forward", threads: int = 1) -> None:
        """Run `forward`, `backward` or `both`. Raises NetError where a check fails."""
        middle, end = self.bundle.forward_steps, len(self.bundle.launches)
        ranges = {"forward": (0, middle), "backward": (middle, end), "both": (0, end)}
        need(what in ranges, f"'{what}' is none of {', '.join(ranges)}")
        self._ready()
        self.only_forward = what == "forward"
        self._run(*ranges[what])

    def step(self, number: int, threads: int = 1) -> None:
        """Run one step."""
        count = len(self.bundle.launches)
        need(0 <= number < count, f"there is no step {number}; the last is {count - 1}")
        self._ready()
        self._run(number, number + 1)

    def _run(self, first: int, last: int) -> None:
        try:
            for name, staged in self._staged.items():
                staged[...] = self.arrays[name]
            self._graphs.run((first, last), lambda: self._issue(first, last))
            self._stream.synchronize()
        except self._driver.Error as error:
            raise NetError(f"'{self.bundle.name}' fails on the GPU: {error}") from None
        for slot in self._written:
            self.arrays[slot.name][...] = self._staged[slot.name]
        self._error[0], self._error[1] = int(self._words[0]), int(self._words[1])
        self._report(int(self._words[0]))

    @property
    def _written(self) -> list[SlotEntry]:
        return [slot for slot in self.bundle.slots[1:] if slot.role in _WRITTEN]

    def _issue(self, first: int, last: int) -> None:
        """Copies, launches and copies back, between page-locked memory and the device's."""
        driver, stream = self._driver, self._stream
        for name, staged in self._staged.items():
            if staged.nbytes:
                driver.memcpy_htod_async(self._memory[self._numbers[name]], staged, stream)
        driver.memset_d8_async(self._error_memory, 0, _ERROR_BYTES, stream)
        for launch in self.bundle.launches[first:last]:
            self._launch(launch)
        for slot in self._written:
            staged = self._staged[slot.name]
            if staged.nbytes:
                driver.memcpy_dtoh_async(staged, self._memory[self._numbers[slot.name]], stream)
        driver.memcpy_dtoh_async(self._words, self._error_memory, stream)

    def _launch(self, launch: Launch) -> None:
        if launch.grid == 0:
            return
        arguments = [int(self._memory[slot]) + offset for slot, offset in launch.places]
        if launch.first_check is not None:
            arguments += [int(self._error_memory), launch.first_check]
        self._functions_by_name[launch.kernel].prepared_async_call(
            (launch.grid, 1),
            (launch.threads, 1, 1),
            self._stream,
            *arguments,
            shared_size=launch.shared_bytes,
        )

    # -- blobs --

    def view(self, blob: str) -> np.ndarray:
        """A copy of a blob, on the host. NetError if it is gone."""
        table = self.bundle.readable_forward if self.only_forward else self.bundle.readable
        place = table.get(blob)
        if place is not None and place.slot == 0:
            size = _span(place)
            if size:
                part = self.arena[place.offset : place.offset + size]
                self._driver.memcpy_dtoh(part, int(self._memory[0]) + place.offset)
        return super().view(blob)


def _bytes(slot: SlotEntry) -> int:
    return math.prod(slot.shape) * np.dtype(slot.dtype).itemsize


def _span(place: Place) -> int:
    """Bytes from the first to past the last element."""
    if 0 in place.shape:
        return 0
    reach = sum((e - 1) * s for e, s in zip(place.shape, place.strides, strict=True))
    return int((reach + 1) * np.dtype(place.dtype).itemsize)
