"""NVIDIA's libraries that may be beside the driver: where they are, and calls with checked answers.

They are looked for where the system's loader looks, then in the packages that pip installs them as
(nvidia-cublas-cu12, nvidia-cudnn-cu12 and their likes).
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
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
_PREFIXES = {CUBLASLT: "cublasLt", CUDNN: "cudnn"}  # of all functions
_STATUS_NAMES = {CUBLASLT: "cublasLtGetStatusName", CUDNN: "cudnnGetErrorString"}
_UNSUPPORTED = "NOT_SUPPORTED"  # a part of the name of the status

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
    function = getattr(loaded, f"{_PREFIXES[name]}GetVersion", None)
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

    Raises LibraryError where one is missing or answers with an error.
    """

    def __init__(self, name: str, loaded: ctypes.CDLL, functions: Functions):
        self.name, self.prefix = name, _PREFIXES[name]
        self._loaded = loaded
        for function, types in functions.items():
            found = self._find(function)
            found.restype = ctypes.c_int
            found.argtypes = list(types)
        self._text = self._find(_STATUS_NAMES[name])
        self._text.restype, self._text.argtypes = ctypes.c_char_p, [ctypes.c_int]

    def _find(self, function: str) -> Any:
        try:
            return getattr(self._loaded, function)
        except AttributeError:
            raise LibraryError(f"{self.name}: the library has no function {function}") from None

    @cached_property
    def version(self) -> int:
        """Its number, as the library counts."""
        found = self._find(f"{self.prefix}GetVersion")
        found.restype, found.argtypes = ctypes.c_size_t, []
        return int(found())

    def ask(self, function: str, *arguments: Any) -> None:
        """Call a function. Raises LibraryError with the name of its status."""
        status = getattr(self._loaded, function)(*arguments)
        if status:
            raise LibraryError(f"{self.name}: {function} fails: {self.status_name(status)}")

    def refuses(self, function: str, *arguments: Any) -> bool:
        """Whether a call, which is made, is not supported. Raises LibraryError for other errors."""
        status = getattr(self._loaded, function)(*arguments)
        if status and _UNSUPPORTED not in self.status_name(status):
            raise LibraryError(f"{self.name}: {function} fails: {self.status_name(status)}")
        return bool(status)

    def status_name(self, status: int) -> str:
        """The library's own name for a status."""
        said = self._text(status)
        return said.decode(errors="replace") if said else f"status {status}"

    def made(self, function: str, *arguments: Any) -> ctypes.c_void_p:
        """A handle or descriptor that a function creates."""
        handle = ctypes.c_void_p()
        self.ask(function, ctypes.byref(handle), *arguments)
        return handle

    def owned(self, owner: object, make: str, destroy: str, *arguments: Any) -> ctypes.c_void_p:
        """What `make` creates, destroyed when its owner goes: the answer no longer matters."""
        made = self.made(make, *arguments)
        weakref.finalize(owner, getattr(self._loaded, destroy), made)
        return made


class LibraryAtWork(Library):
    """A library with its handle for the device that is current."""

    def __init__(self, name: str, loaded: ctypes.CDLL, functions: Functions):
        super().__init__(name, loaded, functions)
        self.handle = self.owned(self, f"{self.prefix}Create", f"{self.prefix}Destroy")
