"""What the pycuda executor asks of pycuda, on memory of this process in place of a GPU's.

Kernels run in the emulator's library, one launch at a time, as the launch plan says. Every transfer
of numbers is noted.
"""

from __future__ import annotations

import ctypes
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from graphc.runtime import emulator
from graphc.runtime.cuda import CudaExecutable
from graphc.runtime.launch import CudaBundle, Launch

LAUNCH_SECONDS = 0.001  # that the clock goes forward by with each launch
ERROR_BYTES = 16
# Where a launch's text looks an argument up: the slot and offset give way to its own address.
_PLACED = re.compile(r"(> b(\d+) = placed<[^(]*>\(slots\[)\d+\], \d+,")


class Allocation:
    """Memory as pycuda.driver.DeviceAllocation; it begins as nans."""

    def __init__(self, size: int):
        self.size = size
        self.raw = np.full(size + 256, 0xFF, np.uint8)
        self.address = self.raw.ctypes.data + -self.raw.ctypes.data % 256

    def __int__(self) -> int:
        return self.address


class Event:
    """As pycuda.driver.Event."""

    def __init__(self, driver: StandIn):
        self.driver = driver

    def record(self, stream: Any) -> None:
        self.seconds = self.driver.seconds + self.driver.library_seconds()

    def time_till(self, other: Event) -> float:
        return 1e3 * (other.seconds - self.seconds)


class StandIn:
    """pycuda.driver as far as the executor uses it.

    Attributes:
        moved: bytes -> how often so many went one way or the other, by "to" and "from".
        seconds: what the GPU's clock shows. library_seconds: what libraries add to it.
        room: bytes that may be allocated.
    """

    class Error(Exception):
        pass

    def __init__(self) -> None:
        self.moved: dict[str, Counter[int]] = {"to": Counter(), "from": Counter()}
        self.seconds = 0.0
        self.library_seconds: Callable[[], float] = lambda: 0.0
        self.room = 2**40
        self.launched: list[str] = []
        self.places: dict[int, int] = {}  # address -> bytes of what is allocated

    class Stream:
        handle = 7

        def synchronize(self) -> None:
            pass

    def Event(self) -> Event:  # noqa: N802  (pycuda's name)
        return Event(self)

    class device_attribute:  # noqa: N801  (pycuda's name)
        CLOCK_RATE = "kHz"
        MULTIPROCESSOR_COUNT = "multiprocessors"

    class Device:
        """A GPU like an H100."""

        def __init__(self, number: int):
            assert number == 0

        def name(self) -> str:
            return "stand-in"

        def compute_capability(self) -> tuple[int, int]:
            return (9, 0)

        def get_attribute(self, name: str) -> int:
            return {"kHz": 1_980_000, "multiprocessors": 132}[name]

    def load(self, bundle: CudaBundle) -> CudaExecutable:
        """As `graphc.runtime.cuda.load`."""
        return CudaExecutable(bundle, self, Module(self, bundle))

    @staticmethod
    def pagelocked_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        assert np.prod(shape) > 0, "the driver allocates nothing of no size"
        return np.full(shape, 0x55, dtype)

    def mem_alloc(self, size: int) -> Allocation:
        assert size > 0, "pycuda cannot allocate nothing"
        if size > self.room:
            raise StandIn.Error("out of memory")
        self.room -= size
        made = Allocation(size)
        self.places[int(made)] = size
        return made

    def memcpy_htod(self, target: Any, array: np.ndarray) -> None:
        assert array.flags.c_contiguous or array.flags.f_contiguous
        self.moved["to"][array.nbytes] += 1
        ctypes.memmove(int(target), array.ctypes.data, array.nbytes)

    def memcpy_htod_async(self, target: Any, array: np.ndarray, stream: Any) -> None:
        self.memcpy_htod(target, array)

    def memcpy_dtoh(self, array: np.ndarray, source: Any) -> None:
        self.moved["from"][array.nbytes] += 1
        ctypes.memmove(array.ctypes.data, int(source), array.nbytes)

    def memcpy_dtoh_async(self, array: np.ndarray, source: Any, stream: Any) -> None:
        self.memcpy_dtoh(array, source)

    def memcpy_dtod(self, target: Any, source: Any, size: int) -> None:
        ctypes.memmove(int(target), int(source), size)

    def memset_d8(self, target: Any, value: int, count: int) -> None:
        ctypes.memset(int(target), value, count)

    def memset_d8_async(self, target: Any, value: int, count: int, stream: Any) -> None:
        ctypes.memset(int(target), value, count)

    def holds(self, address: int) -> bool:
        """Whether an address lies in memory that was allocated."""
        return any(begin <= address < begin + size for begin, size in self.places.items())

    def forget_moves(self) -> None:
        """Count from here on."""
        for counter in self.moved.values():
            counter.clear()

    def largest_moved(self) -> int:
        """Bytes of the largest array that went either way."""
        return max((size for counter in self.moved.values() for size in counter), default=0)


class Module:
    """The kernels of a program."""

    def __init__(self, driver: StandIn, bundle: CudaBundle):
        self.driver, self.bundle = driver, bundle
        text = _PLACED.sub(r"\1\2], 0,", bundle.text)
        self.library = ctypes.CDLL(str(emulator.build(text)))
        # In the order of the text: the steps, then what is beside calls of libraries.
        steps = bundle.libraries.values()
        beside = [one.launch for step in steps for one in (*step.before, step.after) if one]
        self.launches = [*bundle.launches, *beside]

    def get_function(self, name: str) -> Function:
        assert name in self.bundle.text
        return Function(self, name)


class Function:
    """A kernel: its launches must be those of the plan."""

    def __init__(self, module: Module, name: str):
        self.module = module
        self.name = name

    def prepare(self, types: str) -> None:
        self.types = types

    def prepared_async_call(
        self, grid: Any, block: Any, stream: Any, *arguments: int, shared_size: int
    ) -> None:
        module, driver = self.module, self.module.driver
        assert len(arguments) == len(self.types)
        given = (self.name, grid, block, shared_size)
        launches = [*enumerate(module.launches)]
        launches += [(n, launch.follower) for n, launch in launches if launch.follower]
        found = [
            (number, launch)
            for number, launch in launches
            if given
            == (launch.kernel, (launch.grid, 1), (launch.threads, 1, 1), launch.shared_bytes)
            and self._is_meant(number, launch, arguments)
        ]
        assert found, f"no step launches {given} on {arguments}"
        number, launch = found[0]
        driver.launched.append(self.name)
        driver.seconds += LAUNCH_SECONDS
        if launch is module.launches[number].follower:
            assert driver.launched[-2] == module.launches[number].kernel
            return  # the library has run it behind the kernel that it follows
        count = len(launch.places)
        table = (ctypes.c_void_p * count)(*arguments[:count])
        error = arguments[-2] if launch.first_check is not None else 0
        failed = module.library.graphc_run(
            table, number, number + 1, ctypes.c_void_p(error or None), None
        )
        assert failed == 0

    def _is_meant(self, number: int, launch: Launch, arguments: tuple[int, ...]) -> bool:
        """Whether these are the step's arguments, or where a step is tried, memory of a trial's."""
        driver, bundle = self.module.driver, self.module.bundle
        addresses = arguments
        if launch.first_check is not None:
            error, first_check = arguments[-2:]
            addresses = arguments[:-2]
            if first_check != launch.first_check or driver.places.get(error) != ERROR_BYTES:
                return False
        if number in bundle.libraries or number >= len(bundle.launches):
            return all(driver.holds(address) for address in arguments)
        slots: dict[int, int] = {}
        for (slot, offset), address in zip(launch.places, addresses, strict=True):
            size = driver.places.get(address - offset)
            entry = bundle.slots[slot]
            wanted = int(np.prod(entry.shape)) * np.dtype(entry.dtype).itemsize
            if size is None or size < (bundle.arena_bytes if slot == 0 else wanted):
                return False
            if slots.setdefault(slot, address - offset) != address - offset:
                return False
        return True
