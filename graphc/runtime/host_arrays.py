"""Tables of the user's arrays, as executables bind them: what any back end's offers, and the one of
back ends that work on the very same memory.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, MutableMapping

import numpy as np


class Arrays(MutableMapping[str, np.ndarray]):
    """Arrays by name. Reading one gives the numbers of the last call, and leave to write."""

    @abstractmethod
    def bound(self, name: str) -> np.ndarray:
        """The memory behind a name, to be bound to a program or asked for its shape: its numbers
        may be older than the last call's.
        """

    @abstractmethod
    def noted(self, name: str) -> Callable[[], None]:
        """What puts back the numbers of now."""

    @abstractmethod
    def zero(self, name: str) -> None:
        """Make all numbers 0."""


class HostArrays(dict[str, np.ndarray], Arrays):
    """Programs work on this memory itself."""

    def bound(self, name: str) -> np.ndarray:
        """See `Arrays`."""
        return self[name]

    def noted(self, name: str) -> Callable[[], None]:
        """See `Arrays`."""
        array = self[name]
        numbers = array.copy()

        def put_back() -> None:
            array[...] = numbers

        return put_back

    def zero(self, name: str) -> None:
        """See `Arrays`."""
        self[name][...] = 0
