"""MATLAB's .mat files as plain Python values.

A struct becomes a dict, an array of structs a list of dicts, a cell array a list, text a string,
numbers a numpy array of the shape MATLAB shows. Files of version 7.3, which are HDF5, are read with
h5py, which is imported when a file asks for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from graphc.error import NetError
from graphc.frontends.matconvnet.mat_hdf5 import read_hdf5
from graphc.frontends.matconvnet.mat_level5 import read_level5
from graphc.unreadable import HDF5_MAGIC, looks_like, unreadable


def read_mat(path: str | Path) -> dict[str, Any]:
    """All variables of a file. Raises NetError where it cannot be read."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError as error:
        raise unreadable(path, error) from None
    is_hdf5 = any(head.startswith(HDF5_MAGIC, place) for place in (0, 512))
    return read_hdf5(path) if is_hdf5 else _read_level5(path)


def listed(value: Any) -> list[Any]:
    """A cell array or an array of structs as a list; a single value as a list of one."""
    if value is None:
        return []
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, np.ndarray) and value.size == 0:
        return []
    return [value]


def plain(value: Any) -> Any:
    """Numbers as Python has them: a 1 x 1 array as a number, a row of a few as a list."""
    if isinstance(value, np.ndarray) and value.size <= 16 and value.ndim <= 2:
        numbers = [v.item() for v in value.ravel(order="F")]
        numbers = [int(v) if isinstance(v, float) and v.is_integer() else v for v in numbers]
        return numbers[0] if len(numbers) == 1 else numbers
    return value


def _read_level5(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    try:
        return read_level5(data)
    except NetError as error:
        hint = "" if data.startswith(b"MATLAB") else looks_like(path, data[:200])
        raise NetError(f"'{path}' is no .mat file that can be read: {error}{hint}") from None
