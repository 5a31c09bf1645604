"""cuBLASLt and cuDNN on memory of this process, for tests of what calls them."""

from __future__ import annotations

import ctypes
import functools
import subprocess
import tempfile
from pathlib import Path

from graphc.runtime.emulator import compiler

SOURCE = Path(__file__).parent / "stand_in_libraries.cpp"


class StandInLibraries:
    """Both in one shared library, and what a test may tell it."""

    def __init__(self, loaded: ctypes.CDLL):
        self.loaded = loaded
        loaded.stand_in_fail.argtypes = [ctypes.c_char_p, ctypes.c_int]
        loaded.stand_in_wrong.argtypes = [ctypes.c_float]
        loaded.stand_in_time.argtypes = [ctypes.c_double]
        loaded.stand_in_seconds.restype = ctypes.c_double
        loaded.stand_in_calls.argtypes = [ctypes.c_char_p]
        loaded.stand_in_calls.restype = loaded.stand_in_living.restype = ctypes.c_longlong
        loaded.stand_in_complaint.restype = ctypes.c_char_p

    def reset(self) -> None:
        """As it is loaded."""
        self.loaded.stand_in_reset()

    def fail(self, function: str, status: int) -> None:
        """Let a function answer with a status from now on."""
        self.loaded.stand_in_fail(function.encode(), status)

    def be_wrong(self, by: float) -> None:
        """Add a number to every result."""
        self.loaded.stand_in_wrong(by)

    def take(self, seconds: float) -> None:
        """The time of a call."""
        self.loaded.stand_in_time(seconds)

    def seconds(self) -> float:
        """The time of all calls."""
        return float(self.loaded.stand_in_seconds())

    def calls(self, function: str) -> int:
        """How often a function was called."""
        return int(self.loaded.stand_in_calls(function.encode()))

    def living(self) -> int:
        """Handles and descriptors that were not destroyed."""
        return int(self.loaded.stand_in_living())

    @property
    def complaint(self) -> str:
        """What was last wrong with an argument."""
        return str(self.loaded.stand_in_complaint().decode())


@functools.cache
def stand_in_libraries() -> StandInLibraries:
    """The library, built by the C++ compiler."""
    folder = tempfile.mkdtemp(prefix="graphc-")
    place = Path(folder, "libraries.so")
    command = [*compiler(), "-std=c++17", "-O2", "-Wall", "-Werror", "-shared", "-fPIC"]
    subprocess.run([*command, str(SOURCE), "-o", str(place)], check=True)
    return StandInLibraries(ctypes.CDLL(str(place)))
