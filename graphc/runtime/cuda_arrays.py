"""Arrays that live on a GPU and are the user's numpy arrays as well.

Numbers move only when somebody can tell the difference. An array that Python still references is
the same on both sides before and after each call; one that it has let go stays on the GPU until
somebody reads it, which brings it home. A step of training so moves no parameters.

Whether Python references an array is read off the count of references to its memory: a table keeps
one view of it and gives out others, and every slice of those refers to the memory too.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from graphc.runtime.host_arrays import Arrays

_SMALLEST_ALLOCATION = 16


def _references(view: np.ndarray) -> int:
    """How many references the owner of a view's memory has, as this line counts them."""
    return sys.getrefcount(view.base)


_ONE_VIEW = _references(np.zeros(1).view())


class Resident:
    """An array with its copy on the GPU.

    Attributes:
        memory: the GPU's, once `allocate` was called.
        array: the host's memory as it is; for looking at its shape, and for binding.
    """

    def __init__(self, array: np.ndarray):
        self.array = array.view()
        # Else it is memory of something that may hand it out in other ways than as a view.
        self._can_tell = type(self.array.base) is np.ndarray and self.array.base.base is None
        self._given: weakref.ref[np.ndarray] | None = None
        self._host_may_be_newer = True
        self._host_is_old = False
        self._driver: Any = None
        self._staged: np.ndarray | None = None
        self.memory: Any = None

    def allocate(self, driver: Any) -> None:
        """Give it memory on the GPU. Raises what the driver raises."""
        if self.memory is None:
            self.memory = driver.mem_alloc(max(self.array.nbytes, _SMALLEST_ALLOCATION))
            self._driver = driver

    # -- the host's side --

    def give(self) -> np.ndarray:
        """The array for a reader who may also write: brought home, and looked at again later."""
        self.bring_home()
        self._host_may_be_newer = True
        given = self._given() if self._given is not None else None
        if given is None:
            given = self.array.view()
            self._given = weakref.ref(given)
        return given

    def bring_home(self) -> None:
        """Make the host's numbers those of the last call."""
        if self._host_is_old:
            if self.array.nbytes:
                self._driver.memcpy_dtoh(self.array, self.memory)
            self._host_is_old = False

    def noted(self) -> Callable[[], None]:
        """What puts back the numbers of now, kept on the side that has them."""
        if not self._host_is_old:
            numbers = self.array.copy()
            return lambda: self._put(numbers)
        driver, size = self._driver, self.array.nbytes
        kept = driver.mem_alloc(max(size, _SMALLEST_ALLOCATION))
        driver.memcpy_dtod(kept, self.memory, size)

        def put_back() -> None:
            driver.memcpy_dtod(self.memory, kept, size)
            self.was_written()

        return put_back

    def zero(self) -> None:
        """Make all numbers 0, on the GPU where nobody would see it here."""
        if self.memory is None or self.is_lent:
            self._put(0)
        else:
            self._driver.memset_d8(self.memory, 0, self.array.nbytes)
            self.was_written()

    def _put(self, numbers: np.ndarray | int) -> None:
        self.array[...] = numbers
        self._host_is_old = False
        self._host_may_be_newer = True

    @property
    def is_lent(self) -> bool:
        """Whether somebody may still look at the array, or write to it."""
        return not self._can_tell or _references(self.array) != _ONE_VIEW

    # -- a call's side --

    @property
    def must_go(self) -> bool:
        """Whether the next call needs the host's numbers."""
        return self._host_may_be_newer

    def send(self) -> None:
        """Copy to the GPU at once."""
        if self.array.nbytes:
            self._driver.memcpy_htod(self.memory, self.array)

    def stage(self) -> None:
        """Copy to page-locked memory, from where `issue_send` takes it."""
        self._page_locked()[...] = self.array

    def issue_send(self, stream: Any) -> None:
        """Copy on a stream, from page-locked memory."""
        if self.array.nbytes:
            self._driver.memcpy_htod_async(self.memory, self._page_locked(), stream)

    def issue_fetch(self, stream: Any) -> None:
        """Copy back on a stream, to page-locked memory."""
        if self.array.nbytes:
            self._driver.memcpy_dtoh_async(self._page_locked(), self.memory, stream)

    def unstage(self) -> None:
        """Copy from page-locked memory."""
        self.array[...] = self._page_locked()
        self._host_is_old = False

    def was_sent(self) -> None:
        """The GPU has the host's numbers; they may change again while the array is lent."""
        self._host_may_be_newer = self.is_lent

    def was_written(self) -> None:
        """A call has made new numbers on the GPU."""
        self._host_is_old = True
        self._host_may_be_newer = False

    def allocate_staging(self) -> None:
        """Page-locked memory of its size; not allowed while a stream is captured."""
        self._page_locked()

    def _page_locked(self) -> np.ndarray:
        if self.array.nbytes == 0:
            return self.array
        if self._staged is None:
            self._staged = self._driver.pagelocked_empty(self.array.shape, self.array.dtype)
        return self._staged


_Key = tuple[int, str, tuple[int, ...]]
_residents: weakref.WeakValueDictionary[_Key, Resident] = weakref.WeakValueDictionary()


def resident(array: np.ndarray) -> Resident:
    """The one Resident of an array's memory, as long as some table holds it."""
    key = (array.ctypes.data, array.dtype.str, array.shape)
    found = _residents.get(key)
    if found is None:
        found = _residents[key] = Resident(array)
    return found


class DeviceArrays(Arrays):
    """Arrays by name, some of them newer on the GPU: whoever reads one here sees the last call's.

    Tables that hold the same memory, of several nets and programs, hold the same Resident.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray] | None = None):
        self._held: dict[str, Resident] = {}
        self.update(arrays or {})

    def __getitem__(self, name: str) -> np.ndarray:
        return self._held[name].give()

    def __setitem__(self, name: str, array: np.ndarray) -> None:
        self._held[name] = resident(array)

    def __delitem__(self, name: str) -> None:
        del self._held[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, name: object) -> bool:
        return name in self._held

    def bound(self, name: str) -> np.ndarray:
        """See `Arrays`."""
        return self._held[name].array

    def noted(self, name: str) -> Callable[[], None]:
        """See `Arrays`."""
        return self._held[name].noted()

    def zero(self, name: str) -> None:
        """See `Arrays`."""
        self._held[name].zero()

    def held(self, name: str) -> Resident:
        """What stands behind a name."""
        return self._held[name]
