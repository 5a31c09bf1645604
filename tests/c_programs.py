"""Compiled nets at work: C compilers, programs, and C libraries seen from Python."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "samples"
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
COMPILER = shutil.which("cc") or shutil.which("gcc")
STRICT = ["-Wall", "-Wextra", "-pedantic", "-Werror"]

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")


def run(program: Path, *words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a program in its folder, with no environment: no Python is found from there."""
    command = [str(program), *map(str, words)]
    done = subprocess.run(
        command, cwd=program.parent, env={}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == code, (command, done.returncode, done.stdout, done.stderr)
    return done


def compiled(folder: Path, *words: object, compiler: str | None = COMPILER) -> None:
    """Run the C compiler; it must have nothing to say."""
    assert compiler is not None
    command = [compiler, *map(str, words)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, ""), command


class Library:
    """A compiled net's C interface from Python, by ctypes."""

    def __init__(self, path: Path, prefix: str, real: type = ctypes.c_float):
        self.real = real
        self.prefix = prefix
        self.dll = ctypes.CDLL(str(path))
        integer, text, pointer = ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p
        code = ctypes.POINTER(ctypes.c_int)
        shape = ctypes.POINTER(ctypes.c_int64)
        self._declare(pointer, text, code, names=["create"])
        self._declare(None, pointer, names=["destroy"])
        self._declare(integer, pointer, integer, names=["forward", "backward"])
        self._declare(text, integer, names=["error_text"])
        self._declare(ctypes.c_int64, names=["arena_bytes"])
        self._declare(integer, pointer, integer, pointer, names=["bind_parameter"])
        number = ctypes.c_int64
        self._declare(integer, pointer, integer, names=["step"])
        self._declare(number, pointer, names=["iteration"])
        self._declare(integer, pointer, number, names=["set_iteration"])
        self._declare(ctypes.c_double, pointer, names=["loss", "learning_rate"])
        self._declare(integer, pointer, text, names=["save"])
        for kind in ("input", "output", "parameter", "history", "given", "gradient"):
            self._declare(integer, names=[f"{kind}_count"])
            self._declare(integer, text, names=[f"{kind}_index"])
            self._declare(text, integer, names=[f"{kind}_name"])
            self._declare(integer, integer, names=[f"{kind}_rank"])
            self._declare(shape, integer, names=[f"{kind}_shape"])
            self._declare(ctypes.c_int64, integer, names=[f"{kind}_size"])
            self._declare(pointer, pointer, integer, names=[kind])

    def _declare(self, result, *arguments, names: list[str]) -> None:
        for name in names:
            function = getattr(self.dll, f"{self.prefix}_{name}", None)
            if function is None:  # of another mode
                continue
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)

    def arrays(self, net: int, kind: str) -> dict[str, np.ndarray]:
        found = {}
        for i in range(getattr(self, f"{kind}_count")()):
            shape = getattr(self, f"{kind}_shape")(i)[: getattr(self, f"{kind}_rank")(i)]
            size = getattr(self, f"{kind}_size")(i)
            place = getattr(self, kind)(net, i)
            assert place % 64 == 0
            name = getattr(self, f"{kind}_name")(i).decode()
            assert getattr(self, f"{kind}_index")(name.encode()) == i
            flat = (self.real * size).from_address(place)
            found[name] = np.frombuffer(flat, np.dtype(self.real)).reshape(shape)
        return found
