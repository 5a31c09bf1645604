"""Run a CUDA program on a GPU, through pycuda.

The program's memory is on the device: one allocation for the arena, one for each of the user's
arrays, which programs share. A call copies there what Python may have changed, launches the steps
on one stream, and copies back what Python still looks at (graphc.runtime.cuda_arrays says how that
is known); from its second time on it replays the captured graph of all this. pycuda is imported
when the first program is loaded, and only here.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphc.error import NetError, need
from graphc.runtime.bundle import Place
from graphc.runtime.cpu import Executable, StepTimes, WorkingMemory
from graphc.runtime.cuda_arrays import DeviceArrays, Resident, resident
from graphc.runtime.cuda_events import Events, make_events
from graphc.runtime.cuda_graph import GraphCapture
from graphc.runtime.launch import FREE_SHARED_BYTES, CudaBundle, Launch
from graphc.runtime.library_steps import LibrarySteps
from graphc.runtime.nvcc import NOWHERE, nvcc_path
from graphc.runtime.parameter_file import slot_bytes

COMPILER_OPTIONS = ("-std=c++17",)
_ERROR_BYTES = 16
_NO_MEMORY = "the GPU has no {size} GiB for {name}"
_EACH_TIME = ("input", "gradient")  # roles of slots that have new numbers in most calls


Issue = Callable[[range, list[Resident], list[Resident]], None]


@functools.cache
def device() -> Any:
    """pycuda's driver module, the first GPU's primary context being current.

    Raises NetError where pycuda, the driver or a GPU is missing.
    """
    try:
        import pycuda.driver as driver
    except ImportError as error:
        if "libcuda" in str(error):
            raise NetError(
                f"target 'cuda' needs NVIDIA's driver, which pycuda does not find ({error})."
                " Target 'cuda-emulator' runs the same code on the processor, for tests"
            ) from None
        raise NetError(
            f"target 'cuda' needs pycuda ({error}); pip install 'graphc[cuda]'. Target"
            " 'cuda-emulator' runs the same code on the processor, for tests"
        ) from None
    try:
        driver.init()
        need(driver.Device.count() > 0, "target 'cuda' needs a GPU, and the driver knows none")
        context = driver.Device(0).retain_primary_context()
        context.push()
    except driver.Error as error:
        raise NetError(f"target 'cuda' cannot use the GPU: {error}") from None
    atexit.register(context.pop)  # pycuda aborts a process that ends with a context in use
    return driver


def peak_products(driver: Any) -> float:
    """Float32 operations a second that the GPU's data sheet promises, an fma being two."""
    gpu, names = driver.Device(0), driver.device_attribute
    lanes = 64 if gpu.compute_capability() == (8, 0) else 128  # of a multiprocessor
    hertz = 1e3 * int(gpu.get_attribute(names.CLOCK_RATE))
    return 2.0 * lanes * int(gpu.get_attribute(names.MULTIPROCESSOR_COUNT)) * hertz


def load(bundle: CudaBundle) -> CudaExecutable:
    """Compile the text for the GPU at hand and load it. Raises NetError for what is missing."""
    driver = device()
    from pycuda import compiler

    nvcc = nvcc_path()
    if nvcc is None:
        raise NetError(f"target 'cuda' needs nvcc of the CUDA toolkit, which is {NOWHERE}")
    options = list(COMPILER_OPTIONS)
    try:
        code = compiler.compile(bundle.text, nvcc=nvcc, no_extern_c=True, options=options)
        module = driver.module_from_buffer(code)
    except (driver.Error, driver.CompileError) as error:
        raise NetError(f"nvcc refuses the text of '{bundle.name}': {error}") from None
    return CudaExecutable(bundle, driver, module)


@dataclass(frozen=True)
class Traffic:
    """What steps need of the user's arrays as they begin, and what they leave there."""

    needed: tuple[str, ...]
    written: tuple[str, ...]


class CudaExecutable(Executable):
    """A program on the GPU, used as one on the CPU is.

    `arena` is a copy on the host, brought up to date for the blobs that are read.
    """

    bundle: CudaBundle
    arrays: DeviceArrays

    def __init__(self, bundle: CudaBundle, driver: Any, module: Any):
        # What the class for processors keeps, without its machine code.
        self.bundle = bundle
        self.working_memory = WorkingMemory()
        self.arrays = DeviceArrays()
        self.only_forward = False
        self._numbers = {slot.name: i for i, slot in enumerate(bundle.slots) if i > 0}
        self._error = (ctypes.c_int64 * 2)()
        # The device's side.
        self._driver = driver
        self._module = module
        self._stream = driver.Stream()
        self._graphs = GraphCapture(self._stream)
        self._events: dict[tuple[int, int], Events] = {}
        self._addresses: list[int] = []
        with self._refusals(_NO_MEMORY):
            self._arena_memory = driver.mem_alloc(max(bundle.arena_bytes, _ERROR_BYTES))
            self._error_memory = driver.mem_alloc(_ERROR_BYTES)
            self._words = driver.pagelocked_empty((2,), np.dtype(np.int64))
        self._functions_by_name = self._prepare()
        self._libraries = LibrarySteps(bundle, driver, self._stream, self._launch)
        self._traffic = functools.cache(self._find_traffic)

    def _prepare(self) -> dict[str, Any]:
        """Every kernel, its types of arguments noted."""
        functions: dict[str, Any] = {}
        followers = [launch.follower for launch in self.bundle.launches if launch.follower]
        steps = self.bundle.libraries.values()
        beside = [one.launch for step in steps for one in (*step.before, step.after) if one]
        for launch in (*self.bundle.launches, *followers, *beside):
            if launch.kernel not in functions:
                function = self._module.get_function(launch.kernel)
                tail = "" if launch.first_check is None else "Pi"
                function.prepare("P" * len(launch.places) + tail)
                if launch.shared_bytes > FREE_SHARED_BYTES:
                    attribute = self._driver.function_attribute.MAX_DYNAMIC_SHARED_SIZE_BYTES
                    function.set_attribute(attribute, launch.shared_bytes)
                functions[launch.kernel] = function
        return functions

    def _find_traffic(self, first: int, last: int) -> Traffic:
        slots = self.bundle.slots
        needed: dict[str, None] = {}
        written: dict[str, None] = {}
        for launch in self.bundle.launches[first:last]:
            names = [slots[slot].name if slot else "" for slot, _ in launch.places]
            needed.update(dict.fromkeys(n for n in names[: launch.inputs] if n not in written))
            written.update(dict.fromkeys(names[launch.inputs :]))
        # A step may write a part of a state, or add to it; an output it writes whole.
        roles = {slot.name: slot.role for slot in slots}
        needed.update(dict.fromkeys(n for n in written if n and roles[n] != "output"))
        needed.pop("", None)
        written.pop("", None)
        return Traffic(tuple(needed), tuple(written))

    # -- arrays --

    def _holds(self, name: str, array: np.ndarray) -> bool:
        return False  # `_take` sees whether its numbers are on the device

    def _take(self, name: str, array: np.ndarray) -> None:
        if name not in self.arrays or self.arrays.held(name) is not resident(array):
            self.arrays[name] = array
            self._addresses = []

    def _allocate(self) -> None:
        """Memory for all arrays; what was captured for other memory is forgotten."""
        self._graphs.forget()
        with self._refusals(_NO_MEMORY):
            held = [self.arrays.held(slot.name) for slot in self.bundle.slots[1:]]
            for array in held:
                array.allocate(self._driver)
        self._addresses = [int(self._arena_memory), *(int(array.memory) for array in held)]

    # -- calls --

    def call(self, what: str = "forward", threads: int = 1) -> None:
        """Run `forward`, `backward` or `both`. Raises NetError where a check fails."""
        ranges = self._ranges(what)
        self._ready()
        self.only_forward = what == "forward"
        for part in ranges:
            self.await_end()  # the part before has told of its own
            self._run(part, self._issue)

    def step(self, number: int, threads: int = 1) -> None:
        """Run one step."""
        count = len(self.bundle.launches)
        need(0 <= number < count, f"there is no step {number}; the last is {count - 1}")
        self._ready()
        self._run(range(number, number + 1), self._issue)

    def timed_call(
        self, what: str = "forward", threads: int = 1, clock: int | None = None
    ) -> StepTimes:
        """A call with the GPU's clock read before and after each step.

        What the processor saw of the call and is no step, copies above all, is its start.
        """
        need(clock in (None, time.CLOCK_MONOTONIC), "the steps of a GPU are timed by its own clock")
        ranges = self._ranges(what)
        self._ready()
        self.only_forward = what == "forward"
        begun = time.perf_counter()
        steps: list[float] = []
        for part in ranges:
            self._run(part, self._issue_timed)
            steps += self._events[part.start, part.stop].seconds()
        spent = time.perf_counter() - begun
        idle = (0.0,) * len(steps)
        return StepTimes(max(0.0, spent - sum(steps)), tuple(steps), idle)

    def _run(self, part: range, issue: Issue) -> None:
        """Steps, with the arrays they need sent before them, and those looked at fetched after."""
        if not self._addresses:
            self._allocate()
        traffic = self._traffic(part.start, part.stop)
        held = self.arrays.held
        going = [name for name in traffic.needed if held(name).must_go]
        staged = [name for name in going if self._goes_often(name)]
        back = [name for name in traffic.written if held(name).is_lent]
        sent, fetched = [held(name) for name in staged], [held(name) for name in back]
        with self._refusals("{name} fails on the GPU"):
            if self._libraries.decide(part):
                self._graphs.forget()
            for name in set(going) - set(staged):
                held(name).send()
            for array in sent:
                array.stage()
            for array in fetched:
                array.allocate_staging()
            key = (issue.__name__, part.start, part.stop, tuple(staged), tuple(back))
            self._graphs.run(key, lambda: issue(part, sent, fetched))
            self._stream.synchronize()
        for name in going:
            held(name).was_sent()
        for name in traffic.written:
            held(name).unstage() if name in back else held(name).was_written()
        self._error[0], self._error[1] = int(self._words[0]), int(self._words[1])
        self._report(int(self._words[0]))

    def _goes_often(self, name: str) -> bool:
        role = self.bundle.slots[self._numbers[name]].role
        return role in _EACH_TIME or self.arrays.held(name).is_lent

    def _issue(self, part: range, sent: list[Resident], fetched: list[Resident]) -> None:
        """Copies, launches and copies back, between page-locked memory and the device's."""
        self._issue_sending(sent)
        for number in part:
            self._issue_step(number)
        self._issue_fetching(fetched)

    def _issue_timed(self, part: range, sent: list[Resident], fetched: list[Resident]) -> None:
        """The same with an event before each step, and one after the last."""
        key = (part.start, part.stop)
        if key not in self._events:
            count = len(part) + 1
            self._events[key] = make_events(self._graphs, self._driver, self._stream, count)
        events = self._events[key]
        self._issue_sending(sent)
        for place, number in enumerate(part):
            events.record(place)
            self._issue_step(number)
        events.record(len(part))
        self._issue_fetching(fetched)

    def _issue_sending(self, sent: list[Resident]) -> None:
        for array in sent:
            array.issue_send(self._stream)
        self._driver.memset_d8_async(self._error_memory, 0, _ERROR_BYTES, self._stream)

    def _issue_fetching(self, fetched: list[Resident]) -> None:
        for array in fetched:
            array.issue_fetch(self._stream)
        self._driver.memcpy_dtoh_async(self._words, self._error_memory, self._stream)

    def _issue_step(self, number: int) -> None:
        launch = self.bundle.launches[number]
        arguments = [self._addresses[slot] + offset for slot, offset in launch.places]
        if number in self._libraries:
            self._libraries.run(number, arguments)
        else:
            self._launch(launch, arguments)

    def _launch(self, launch: Launch, arguments: Sequence[int]) -> None:
        """A kernel, and the one that follows it, on arguments at these addresses."""
        if launch.grid == 0:
            return
        check: list[int] = []
        if launch.first_check is not None:
            check = [int(self._error_memory), launch.first_check]
        self._functions_by_name[launch.kernel].prepared_async_call(
            (launch.grid, 1),
            (launch.threads, 1, 1),
            self._stream,
            *arguments,
            *check,
            shared_size=launch.shared_bytes,
        )
        if launch.follower is not None:
            self._launch(launch.follower, arguments)

    @contextlib.contextmanager
    def _refusals(self, what: str) -> Iterator[None]:
        """What the driver refuses as a NetError."""
        try:
            yield
        except self._driver.Error as error:
            slots = self.bundle.slots[1:]
            size = self.bundle.arena_bytes + sum(slot_bytes(slot) for slot in slots)
            said = what.format(name=f"'{self.bundle.name}'", size=f"{size / 2**30:.3g}")
            raise NetError(f"{said}: {error}") from None

    @property
    def decisions(self) -> list[tuple[str, str]]:
        """(layer, sentence) about what a library does; on the whole net where there is no layer."""
        size = self._libraries.memory_bytes
        own = [("", f"library steps have {size} bytes of their own")] if size else []
        return [*self._libraries.decisions, *own]

    # -- blobs --

    def view(self, blob: str) -> np.ndarray:
        """A copy of a blob, on the host. NetError if it is gone."""
        table = self.bundle.readable_forward if self.only_forward else self.bundle.readable
        place = table.get(blob)
        if place is not None and place.slot == 0:
            size = _span(place)
            if size:
                part = self.arena[place.offset : place.offset + size]
                self._driver.memcpy_dtoh(part, int(self._arena_memory) + place.offset)
        return super().view(blob)


def _span(place: Place) -> int:
    """Bytes from the first to past the last element."""
    if 0 in place.shape:
        return 0
    reach = sum((e - 1) * s for e, s in zip(place.shape, place.strides, strict=True))
    return int((reach + 1) * np.dtype(place.dtype).itemsize)
