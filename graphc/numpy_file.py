"""Files of numpy's: whatever is wrong with one is an error of ours."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import IO
from zipfile import BadZipFile, ZipFile

import numpy as np

from graphc.error import NetError, need
from graphc.unreadable import unreadable

# numpy reads headers as Python's text and archives as zip files, and raises what those raise.
_DAMAGED = (
    *(ValueError, TypeError, AttributeError, LookupError, EOFError, MemoryError, RuntimeError),
    *(SyntaxError, TokenError, BadZipFile, zlib.error),
)
_ARCHIVE = b"PK"
_DEFLATED = 1032  # zlib makes no more bytes of one
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_array(path: str | Path) -> np.ndarray:
    """A .npy file. Raises NetError for a file that is none; objects are never unpickled."""
    with _reading(path, ".npy"), Path(path).open("rb") as file:
        _need_one(path, file)
        return _array(file, os.fstat(file.fileno()).st_size)


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a .npz file by their names. Raises NetError for a file that is none."""
    found = {}
    with _reading(path, ".npz"), ZipFile(path) as archive:
        for member in archive.infolist():
            most = min(member.file_size, member.compress_size * _DEFLATED)
            with archive.open(member) as file:
                found[member.filename.removesuffix(".npy")] = _array(file, most)
    return found


def array_shape(path: str | Path) -> tuple[int, ...]:
    """The shape that a .npy file says it has. Raises NetError where it cannot be read."""
    with _reading(path, ".npy"), Path(path).open("rb") as file:
        _need_one(path, file)
        return _header(file)[0]


@contextmanager
def _reading(path: str | Path, kind: str) -> Iterator[None]:
    """Where the block cannot read a file, a NetError says so."""
    try:
        yield
    except NetError as error:
        raise NetError(f"'{path}': {error}") from None
    except OSError as error:
        raise unreadable(path, error) from None
    except _DAMAGED as error:
        raise NetError(f"'{path}' is no {kind} file of numbers: {error}") from None


def _need_one(path: str | Path, file: IO[bytes]) -> None:
    archived = file.read(len(_ARCHIVE)) == _ARCHIVE
    need(not archived, "it holds several arrays; a .npy with one is needed")
    file.seek(0)


def _array(file: IO[bytes], size: int) -> np.ndarray:
    """An array of at most `size` bytes: what a header claims beyond that is not allocated."""
    shape, dtype = _header(file)
    claimed = math.prod(shape) * dtype.itemsize
    need(claimed <= size, f"its header claims {claimed} bytes, and it has {size}")
    file.seek(0)
    return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    need(version in _HEADERS, f"its version {version} holds no numbers")
    shape, _, dtype = _HEADERS[version](file)
    need(all(extent >= 0 for extent in shape), f"its shape is {list(shape)}")
    return shape, dtype
