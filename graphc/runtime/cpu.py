"""Run a bundle's machine code on arrays."""

from __future__ import annotations

import ctypes
import itertools
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from graphc.error import NetError, did_you_mean, need
from graphc.runtime.bundle import SlotEntry, Tables
from graphc.runtime.host_arrays import Arrays, HostArrays

ALIGNMENT = 64
LARGEST_TEAM = 256  # threads of a call
_LEAST, _MOST = -(2**63), 2**63 - 1  # where float values that are no int64 end up
_PASSES = ("forward", "backward", "both")
_NOT_ENDED = -1  # in place of the number of a failed check, which a call sets to 0 as it begins


class _Timer(ctypes.Structure):
    """What the machine code reads a clock with: a function, its clock, and room for the times.

    room: how many of them a thread has.
    """

    _fields_ = (
        ("function", ctypes.c_void_p),
        ("clock", ctypes.c_int32),
        ("times", ctypes.c_void_p),
        ("room", ctypes.c_int64),
    )


@dataclass(frozen=True)
class StepTimes:
    """Seconds that a call took before its first step ran, and those of each step.

    A step lasts until the next one begins, or the call ends; it begins for a thread when that has
    no others to wait for any more, and these are means over the threads. Where all wait before it
    and behind it, that is the time from its first beginning to its last end.

    Attributes:
        waiting: seconds of each step in which a thread had done its part; means over the threads.
    """

    starting: float
    steps: tuple[float, ...]
    waiting: tuple[float, ...]

    @staticmethod
    def one_by_one(
        numbers: Iterable[int], step: Callable[[int], None], clock: int | None
    ) -> StepTimes:
        """Those of steps that this very thread runs: `step(number)` for each of the numbers."""
        kind = time.CLOCK_MONOTONIC if clock is None else clock
        marks = [time.clock_gettime(kind)]
        for number in numbers:
            step(number)
            marks.append(time.clock_gettime(kind))
        steps = tuple(b - a for a, b in itertools.pairwise(marks))
        return StepTimes(0.0, steps, (0.0,) * len(steps))

    @staticmethod
    def of_team(begun: int, stamps: np.ndarray, ended: int) -> StepTimes:
        """From nanoseconds [thread, step, side], a step's beginning and its end being the sides."""
        if not stamps.shape[1]:
            return StepTimes((ended - begun) / 1e9, (), ())
        behind = np.full((len(stamps), 1), ended)
        following = np.concatenate([stamps[:, 1:, 0], behind], axis=1)
        starting = (stamps[:, 0, 0] - begun).mean() / 1e9
        steps = (following - stamps[..., 0]).mean(axis=0) / 1e9
        waiting = (following - stamps[..., 1]).mean(axis=0) / 1e9
        return StepTimes(float(starting), tuple(steps.tolist()), tuple(waiting.tolist()))


@dataclass(frozen=True)
class Functions:
    """Addresses of the entries by name, and what must live as long as they are called."""

    addresses: Mapping[str, int]
    keep: Any


def aligned_zeros(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """A row-major array of zeros whose first element is at a multiple of 64 bytes.

    Raises NetError where the machine has no memory for it.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    try:
        need(size <= physical_memory(), f"the machine has {physical_memory() / 2**30:.3g} GiB")
        raw = np.zeros(size + ALIGNMENT, np.uint8)
    except (MemoryError, NetError) as error:
        wanted = f"{dtype}{list(shape)} of {size / 2**30:.3g} GiB"
        raise NetError(f"no memory for an array {wanted}: {error}") from None
    skip = -raw.ctypes.data % ALIGNMENT
    return raw[skip : skip + size].view(dtype).reshape(shape)


@cache
def physical_memory() -> int:
    """Bytes of memory that this machine has; beyond it a system may promise and later kill."""
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return sys.maxsize


def usable_cores() -> int:
    """How many threads a call may use well: the cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, min(LARGEST_TEAM, len(os.sched_getaffinity(0))))
    return max(1, min(LARGEST_TEAM, os.cpu_count() or 1))


class WorkingMemory:
    """Bytes for arenas. Programs that never need what they left there at the same time may share
    one: it is as large as the largest of those that have run."""

    def __init__(self) -> None:
        self._bytes = np.zeros(0, np.uint8)
        self._address = 0

    def address(self, size: int) -> int:
        """Where the first `size` bytes lie."""
        if size > self._bytes.size or not self._address:
            self._address = int(self.of(size).ctypes.data)
        return self._address

    def of(self, size: int) -> np.ndarray:
        """The first `size` bytes. What lay there is lost where there were fewer."""
        if size > self._bytes.size:
            self._bytes = np.zeros(0, np.uint8)  # give the old ones back first
            self._bytes = aligned_zeros((size,), "uint8")
            self._address = 0
        return self._bytes[:size]


class Executable:
    """A loaded program. `arena` is its working memory; the user's arrays are bound by slot name.

    A call works on the memory of the bound arrays; bind another one to replace it. Two calls of one
    Executable, or of two that share their working memory, must not run at the same time: who makes
    an Executable sees to that.
    """

    def __init__(self, bundle: Tables, functions: Functions):
        self.bundle = bundle
        self.working_memory = WorkingMemory()
        self.arrays: Arrays = HostArrays()
        self.only_forward = False  # the last call left blobs alive that backward overwrites
        self._functions = functions
        self._numbers = {slot.name: i for i, slot in enumerate(bundle.slots) if i > 0}
        self._table = (ctypes.c_void_p * max(len(bundle.slots), 1))()
        self._error = (ctypes.c_int64 * 2)()
        pass_type = ctypes.CFUNCTYPE(
            ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32, ctypes.c_void_p
        )
        step_type = ctypes.CFUNCTYPE(
            ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_void_p
        )
        self._passes = {name: pass_type(functions.addresses[f"graphc_{name}"]) for name in _PASSES}
        self._step = step_type(functions.addresses["graphc_step"])
        timed_type = ctypes.CFUNCTYPE(
            ctypes.c_int32, *[ctypes.c_void_p, *[ctypes.c_int32] * 3, *[ctypes.c_void_p] * 2]
        )
        self._timed = timed_type(functions.addresses.get("graphc_timed", 0))

    @property
    def decisions(self) -> list[tuple[str, str]]:
        """(layer, sentence) about how steps are run, where that is found out by running them."""
        return []

    @property
    def arena(self) -> np.ndarray:
        """The bytes of the arena, as they are now."""
        return self.working_memory.of(self.bundle.arena_bytes)

    # -- arrays --

    def bind(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Use these arrays for the slots of these names.

        They must have the slot's element type and shape, be row-major, and begin at a multiple of
        64 bytes (see `aligned_zeros`). Those of a column-major bundle have the slot's axes from
        last to first and are in Fortran order. Raises NetError where one is not like this.
        """
        for name, array in arrays.items():
            if self._holds(name, array):
                continue
            if name not in self._numbers:
                hint = did_you_mean(name, self._numbers)
                raise NetError(
                    f"'{self.bundle.name}' has no array '{name}'" + (f"; {hint}" if hint else "")
                )
            number = self._numbers[name]
            _check_array(array, self.bundle.slots[number], self.bundle.column_major)
            self._take(name, array)

    def _holds(self, name: str, array: np.ndarray) -> bool:
        """Whether it is bound already, and still where it was: a view's memory cannot be moved."""
        return self.arrays.get(name) is array and not array.flags.owndata

    def _take(self, name: str, array: np.ndarray) -> None:
        self.arrays[name] = array
        self._table[self._numbers[name]] = array.ctypes.data

    def bind_new(self) -> Arrays:
        """Bind zeros to every slot that has no array yet; all arrays by name.

        Raises NetError where there is no memory for them.
        """
        missing = [s for s in self.bundle.slots[1:] if s.name not in self.arrays]
        self.bind({s.name: self._turned(aligned_zeros(s.shape, s.dtype)) for s in missing})
        return self.arrays

    def share_memory(self, other: Executable) -> None:
        """Use another program's arena, and its arrays by their names; it has all of this one's.

        Raises NetError where its arena is smaller.
        """
        need(other.arena.size >= self.bundle.arena_bytes, "the other program's arena is too small")
        self.working_memory = other.working_memory
        self.bind({name: other.arrays[name] for name in self._numbers})

    def view(self, blob: str) -> np.ndarray:
        """A blob where it lies; what it holds lasts until the next call. NetError if it is gone."""
        table = self.bundle.readable_forward if self.only_forward else self.bundle.readable
        place = table.get(blob)
        if place is None:
            reason = self.bundle.overwritten.get(blob)
            hint = did_you_mean(blob, table)
            raise NetError(
                reason or f"'{self.bundle.name}' has no blob '{blob}'" + (f"; {hint}" * bool(hint))
            )
        slot = self.bundle.slots[place.slot]
        base = self.arena if place.slot == 0 else self.arrays.get(slot.name)
        need(base is not None, f"no array is bound to '{slot.name}'")
        assert base is not None
        dtype = np.dtype(place.dtype)
        flat = base.reshape(-1, order="A").view(np.uint8)[place.offset :]
        count = flat.size // dtype.itemsize
        if 0 in place.shape:
            return self._turned(np.zeros(place.shape, dtype))
        strides = tuple(stride * dtype.itemsize for stride in place.strides)
        whole = flat[: count * dtype.itemsize].view(dtype)
        return self._turned(np.lib.stride_tricks.as_strided(whole, place.shape, strides))

    def read(self, blob: str) -> np.ndarray:
        """A row-major copy of a blob. Raises NetError where it was overwritten, naming by whom."""
        return np.array(self.view(blob), order="C")

    def _turned(self, array: np.ndarray) -> np.ndarray:
        """A slot's array as the user sees it."""
        return array.T if self.bundle.column_major else array

    # -- calls --

    @property
    def has_ended(self) -> bool:
        """Whether a call since `await_end` came to its end, and nothing was refused.

        Python raises KeyboardInterrupt when the native call is over: what it does is done then.
        """
        return self._error[0] == 0

    def await_end(self) -> None:
        """Let `has_ended` be false until a call has ended."""
        self._error[0] = _NOT_ENDED

    def call(self, what: str = "forward", threads: int = 1) -> None:
        """Run `forward`, `backward` or `both`, by `threads` threads.

        Raises NetError for another word, where an array was not bound, and where a check fails.
        """
        if what not in self._passes:
            raise NetError(f"'{what}' is none of {', '.join(self._passes)}")
        self._begin()
        self.only_forward = what == "forward"
        code = self._passes[what](self._table, threads, self._error)
        if code != 0:
            self._report(code)

    def step(self, number: int, threads: int = 1) -> None:
        """Run one step, 0 .. len(bundle.steps) - 1. Raises NetError for others, and as `call`."""
        count = len(self.bundle.steps)
        need(0 <= number < count, f"there is no step {number}; the last is {count - 1}")
        self._begin()
        self._report(self._step(self._table, number, threads, self._error))

    def timed_call(
        self, what: str = "forward", threads: int = 1, clock: int | None = None
    ) -> StepTimes:
        """A call with a clock of `time.clock_gettime` read by each thread around each step.

        `clock` None: CLOCK_MONOTONIC. Raises NetError as `call` does, and where code of this kind
        reads no clock.
        """
        need(bool(self._timed), f"'{self.bundle.name}' cannot be timed step by step")
        self._begin()
        self.only_forward = what == "forward"
        kind = time.CLOCK_MONOTONIC if clock is None else clock
        whole = [range(len(self.bundle.steps))]  # the code itself stops at what a check refused
        parts = whole if what == "both" else self._ranges(what)
        found = [self._timed_part(part, threads, kind) for part in parts]
        return StepTimes(
            sum(times.starting for times in found),
            tuple(second for times in found for second in times.steps),
            tuple(second for times in found for second in times.waiting),
        )

    def _timed_part(self, part: range, threads: int, kind: int) -> StepTimes:
        most = min(max(threads, 1), LARGEST_TEAM)
        stamps = np.zeros((most, len(self.bundle.steps), 2, 2), np.int64)
        room = stamps[0].size // 2
        timer = _Timer(_clock_function(), kind, stamps.ctypes.data, room)
        begun = time.clock_gettime_ns(kind)
        code = self._timed(
            self._table, part.start, part.stop, threads, self._error, ctypes.byref(timer)
        )
        ended = time.clock_gettime_ns(kind)
        self._report(code)
        marks = stamps[:, part] @ (10**9, 1)
        there = marks.any(axis=(1, 2))  # the team may be smaller: threads cost time, too
        return StepTimes.of_team(begun, marks[there], ended)

    def _ranges(self, what: str) -> list[range]:
        """The steps of a pass; backward may not run on what a check of forward refused."""
        middle, last = self.bundle.forward_steps, len(self.bundle.steps)
        parts = {
            "forward": [range(middle)],
            "backward": [range(middle, last)],
            "both": [range(middle), range(middle, last)] if self.bundle.checks else [range(last)],
        }
        need(what in parts, f"'{what}' is none of {', '.join(parts)}")
        return parts[what]

    def _begin(self) -> None:
        self._ready()
        self._table[0] = self.working_memory.address(self.bundle.arena_bytes)

    def _ready(self) -> None:
        if len(self.arrays) < len(self._numbers):
            missing = ", ".join(f"'{name}'" for name in self._numbers if name not in self.arrays)
            raise NetError(f"'{self.bundle.name}' has no array yet for {missing}")

    def _report(self, code: int) -> None:
        if code == 0:
            return
        check = self.bundle.checks[code - 1]
        owner = f"layer '{check.layer}'" if check.layer else f"'{self.bundle.name}'"
        kind = f" ({check.kind})" if check.kind else ""
        found = {_LEAST: "a number below all", _MOST: "a number above all"}
        value = found.get(self._error[1], str(self._error[1]))
        raise NetError(f"{owner}{kind}: {check.message}; found {value}")


def refuse_nan(inputs: Mapping[str, np.ndarray], what: str = "input") -> None:
    """Raise NetError for a nan among the inputs, or `what` they are: here it can still be named."""
    with np.errstate(all="ignore"):
        doubtful = [name for name in inputs if math.isnan(np.add.reduce(inputs[name], axis=None))]
    for name in doubtful:
        array = inputs[name]
        if np.isnan(array).any():
            first = tuple(int(i) for i in np.argwhere(np.isnan(array))[0])
            raise NetError(f"{what} '{name}' holds nan, first at {list(first)}")


@cache
def _clock_function() -> int:
    """The address of the C library's clock_gettime."""
    function = ctypes.CDLL(None).clock_gettime
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _check_array(array: np.ndarray, slot: SlotEntry, column_major: bool) -> None:
    shape = slot.shape[::-1] if column_major else slot.shape
    fits = isinstance(array, np.ndarray) and array.dtype == _dtype(slot.dtype)
    if not fits or array.shape != shape:
        raise NetError(
            f"'{slot.name}' needs an array {slot.dtype}{list(shape)}, not {_shown(array)}"
        )
    if not (array.flags.f_contiguous if column_major else array.flags.c_contiguous):
        order = "column-major" if column_major else "row-major"
        raise NetError(f"the array of '{slot.name}' is not {order}")
    if array.size and array.ctypes.data % ALIGNMENT:
        raise NetError(
            f"the array of '{slot.name}' does not begin at a multiple of {ALIGNMENT} bytes"
        )


@cache
def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype(name)


def _shown(array: object) -> str:
    if isinstance(array, np.ndarray):
        return f"{array.dtype}{list(array.shape)}"
    return type(array).__name__
