"""NVIDIA's libraries that may be beside the driver: where they are, and calls with checked answers.

They are looked for where the system's loader looks, then in the packages that pip installs them as
(nvidia-cublas-cu12, nvidia-cudnn-cu12 and their likes).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from graphc.error import NetError
from graphc.runtime.library_call import CUBLASLT, CUDNN

# Names of files, the newest first, and folders of pip's packages that hold them.
FILES = {
    CUBLASLT: ("libcublasLt.so.13", "libcublasLt.so.12"),
    CUDNN: ("libcudnn.so.9",),
}
_FOLDERS = ("cu13/lib", "cublas/lib", "cudnn/lib")
PACKAGES = {CUBLASLT: "nvidia-cublas-cu12", CUDNN: "nvidia-cudnn-cu12"}
_VERSIONS = {CUBLASLT: "cublasLtGetVersion", CUDNN: "cudnnGetVersion"}

# name -> the types of its arguments. All answer with a status, 0 being success.
Functions = Mapping[str, Sequence[Any]]


class LibraryError(NetError):
    """A library refuses a call."""


def open_library(name: str) -> ctypes.CDLL | None:
    """The shared library; None where it is not installed, or does not load."""
    if os.name != "posix":
        return None
    for file in FILES[name]:
        for place in (file, *_packaged(file)):
            try:
                return ctypes.CDLL(place)
            except OSError:
                continue
    return None


def library_version(name: str) -> str:
    """`12.9.3` and where it is; empty where the library is not installed. Needs no GPU."""
    loaded = open_library(name)
    if loaded is None:
        return ""
    function = getattr(loaded, _VERSIONS[name], None)
    if function is None:
        return f"{loaded._name}: tells no version"
    function.restype, function.argtypes = ctypes.c_size_t, []
    number = int(function())
    return f"{number // 10000}.{number // 100 % 100}.{number % 100} ({loaded._name})"


def packages() -> list[Path]:
    """The folders in which pip keeps NVIDIA's libraries."""
    spec = find_spec("nvidia")
    return [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []


def _packaged(file: str) -> Iterator[str]:
    for package in packages():
        for folder in _FOLDERS:
            place = package / folder / file
            if place.is_file():
                yield str(place)


class Library:
    """A loaded library's functions, by name.

    Raises LibraryError where one is missing or answers with an error; `text` names a status.
    """

    def __init__(self, name: str, loaded: ctypes.CDLL, functions: Functions, text: str):
        self.name = name
        self._loaded = loaded
        for function, types in functions.items():
            found = self._find(function)
            found.restype = ctypes.c_int
            found.argtypes = list(types)
        self._text = self._find(text)
        self._text.restype, self._text.argtypes = ctypes.c_char_p, [ctypes.c_int]

    def _find(self, function: str) -> Any:
        try:
            return getattr(self._loaded, function)
        except AttributeError:
            raise LibraryError(f"{self.name}: the library has no function {function}") from None

    def number(self, function: str) -> int:
        """What a function without arguments answers, a size."""
        found = self._find(function)
        found.restype, found.argtypes = ctypes.c_size_t, []
        return int(found())

    def ask(self, function: str, *arguments: Any) -> None:
        """Call a function. Raises LibraryError with the name of its status."""
        status = getattr(self._loaded, function)(*arguments)
        if status:
            raise LibraryError(f"{self.name}: {function} fails: {self.status_name(status)}")

    def status_name(self, status: int) -> str:
        """The library's own name for a status."""
        said = self._text(status)
        return said.decode(errors="replace") if said else f"status {status}"

    def made(self, function: str, *arguments: Any) -> ctypes.c_void_p:
        """A handle or descriptor that a function creates."""
        handle = ctypes.c_void_p()
        self.ask(function, ctypes.byref(handle), *arguments)
        return handle

    def drop(self, function: str, handle: ctypes.c_void_p) -> None:
        """Destroy it; what the library says no longer matters."""
        getattr(self._loaded, function)(handle)
