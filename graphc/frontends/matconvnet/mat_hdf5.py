"""MATLAB's files of version 7.3: HDF5 in MATLAB's manner.

Every item says its class in the attribute MATLAB_class. Dimensions are stored from last to first.
A cell array holds references into the group `#refs#`; a struct is a group; an array of structs is a
group whose datasets hold references and have no class. An empty array has the attribute
MATLAB_empty, and its dimensions for data. Text is stored as numbers of 16 bits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from graphc.error import NetError, need
from graphc.frontends.hdf5_dataset import read_dataset
from graphc.runtime.cpu import physical_memory

_MOST_LEVELS = 64  # of cells and structs within each other; a file may contain itself
_EMPTY: dict[str, Any] = {"char": "", "cell": [], "struct": []}
_CODE = "function_handle"


def read_hdf5(path: Path) -> dict[str, Any]:
    """All variables of a file. Raises NetError where it cannot be read."""
    try:
        import h5py
    except ImportError:
        raise NetError(f"'{path}' is of version 7.3 and needs h5py: pip install h5py") from None
    try:
        with h5py.File(path, "r") as file:
            reader = _Reader(file)
            return {name: reader.named(file, name, 0) for name in file if name[0] != "#"}
    except NetError as error:
        raise NetError(f"'{path}': {error}") from None
    except Exception as error:
        # h5py raises what the library's parsers happen to raise on a broken file
        raise NetError(f"'{path}' is no .mat file that can be read: {error}") from None


class _Reader:
    def __init__(self, file: Any):
        self.file = file

    def named(self, group: Any, name: str, level: int) -> Any:
        """A member of a group, which must be in this file."""
        link = type(group.get(name, getlink=True)).__name__
        need(link == "HardLink", f"'{name}' is a link to elsewhere, which MATLAB does not write")
        try:
            return self.item(group[name], level)
        except NetError as error:
            raise NetError(f"{name}: {error}") from None

    def item(self, item: Any, level: int) -> Any:
        """A dataset or group as a plain value."""
        need(level < _MOST_LEVELS, f"cells and structs lie in each other {level} levels deep")
        kind = _text(item.attrs.get("MATLAB_class", b""))
        if hasattr(item, "keys"):
            return self.group(item, kind, level)
        if item.attrs.get("MATLAB_empty", 0):
            return _empty(item, kind)
        data = read_dataset(item)
        if kind == "char":
            return _characters(data)
        if item.dtype == object:  # a cell array, or a field of an array of structs
            return [self.item(self.file[reference], level + 1) for reference in data.ravel()]
        return _numbers(np.ascontiguousarray(data), kind)

    def group(self, group: Any, kind: str, level: int) -> Any:
        """A struct, an array of structs, or a sparse matrix."""
        if "MATLAB_sparse" in group.attrs:
            return _sparse(group)
        if kind == _CODE:
            return "@function"  # code is not read
        fields = {name: self.named(group, name, level + 1) for name in group}
        if not fields or not all(_is_column(group[name]) for name in group):
            return fields
        counts = {len(column) for column in fields.values()}
        need(len(counts) == 1, "the fields of an array of structs have different lengths")
        return [{n: column[i] for n, column in fields.items()} for i in range(counts.pop())]


def _is_column(item: Any) -> bool:
    """Whether this is a field of an array of structs: references, and no class."""
    is_dataset = not hasattr(item, "keys")
    return is_dataset and item.dtype == object and "MATLAB_class" not in item.attrs


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _empty(item: Any, kind: str) -> Any:
    if kind in _EMPTY:
        return list(_EMPTY[kind]) if kind != "char" else ""
    shape = tuple(int(extent) for extent in np.ravel(read_dataset(item)))
    shape = shape if 0 in shape and len(shape) > 1 else (0, 0)
    return np.zeros(shape, kind if kind in ("single", "double") else "float64")


def _characters(codes: np.ndarray) -> Any:
    """A row of text as a string, several rows as a list."""
    rows = codes.T if codes.ndim == 2 else codes.reshape(1, -1)
    lines = [row.astype("<u2").tobytes().decode("utf-16-le", "replace") for row in rows]
    return lines[0] if len(lines) == 1 else lines


def _numbers(data: np.ndarray, kind: str) -> np.ndarray:
    if data.dtype.names == ("real", "imag"):
        data = data["real"] + 1j * data["imag"]
    data = data.astype(data.dtype.newbyteorder("="), copy=False)
    return data.T.astype(bool) if kind == "logical" else data.T


def _sparse(group: Any) -> np.ndarray:
    """A sparse matrix with all its zeros."""
    rows = int(group.attrs["MATLAB_sparse"])
    starts = read_dataset(group["jc"]).astype(np.int64) if "jc" in group else np.zeros(1, int)
    columns = len(starts) - 1
    size = rows * columns * 8
    need(0 <= size <= physical_memory(), f"a sparse matrix of {rows} x {columns} is too large")
    whole = np.zeros((rows, columns))
    if "ir" not in group or "data" not in group:
        return whole
    places, values = read_dataset(group["ir"]).astype(np.int64), read_dataset(group["data"])
    counts = np.diff(starts)
    fine = (counts >= 0).all() and counts.sum() == len(places) == len(values)
    fine = fine and ((places >= 0) & (places < rows)).all()
    need(fine, "a sparse matrix's indices do not fit")
    whole[places, np.repeat(np.arange(columns), counts)] = values
    return whole
