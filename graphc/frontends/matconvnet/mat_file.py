"""MATLAB's .mat files as plain Python values.

A struct becomes a dict, an array of structs a list of dicts, a cell array a list, text a string,
numbers a numpy array of the shape MATLAB shows. Files of level 5 are read with scipy, those of
version 7.3, which are HDF5, with h5py; both are imported when a file asks for them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from graphc.error import NetError

_HDF5 = b"\x89HDF\r\n\x1a\n"


def read_mat(path: str | Path) -> dict[str, Any]:
    """All variables of a file. Raises NetError where it cannot be read."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError as error:
        raise NetError(f"cannot read '{path}': {error.strerror}") from None
    is_hdf5 = any(head[at : at + len(_HDF5)] == _HDF5 for at in (0, 512))
    return _read_hdf5(path) if is_hdf5 else _read_level5(path)


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


# -- level 5 --------------------------------------------------------------------------------------


def _read_level5(path: Path) -> dict[str, Any]:
    try:
        from scipy.io import loadmat
    except ImportError:
        raise NetError(f"'{path}' needs scipy to be read: pip install scipy") from None
    try:
        found = loadmat(str(path), struct_as_record=False, squeeze_me=False)
    except Exception as error:
        # scipy raises what its parsers happen to raise on a broken file
        raise NetError(f"'{path}' is no .mat file that can be read: {error}") from None
    return {name: _decoded(v) for name, v in found.items() if not name.startswith("__")}


def _decoded(value: Any) -> Any:
    if hasattr(value, "_fieldnames"):
        return {name: _decoded(getattr(value, name)) for name in value._fieldnames}
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype.kind in "US":
        lines = [str(line) for line in value.ravel()]
        return lines[0] if len(lines) == 1 else lines or ""
    if value.dtype != object:
        return value
    parts = list(value.ravel(order="F"))
    if len(parts) == 1 and hasattr(parts[0], "_fieldnames"):
        return _decoded(parts[0])
    return [_decoded(part) for part in parts]


# -- version 7.3 ----------------------------------------------------------------------------------


def _read_hdf5(path: Path) -> dict[str, Any]:
    try:
        import h5py
    except ImportError:
        raise NetError(f"'{path}' is of version 7.3 and needs h5py: pip install h5py") from None
    try:
        with h5py.File(path, "r") as file:
            names = [name for name in file if not name.startswith("#")]
            return {name: _from_hdf5(file[name], file) for name in names}
    except OSError as error:
        raise NetError(f"'{path}' is no .mat file that can be read: {error}") from None


def _from_hdf5(item: Any, file: Any) -> Any:
    kind = item.attrs.get("MATLAB_class", b"")
    kind = kind.decode() if isinstance(kind, bytes) else str(kind)
    if hasattr(item, "keys"):
        return _struct_from_hdf5(item, file)
    if item.attrs.get("MATLAB_empty", 0):
        return {"char": "", "cell": [], "struct": []}.get(kind, np.zeros((0, 0)))
    data = item[()]
    if kind == "char":
        return "".join(chr(code) for code in data.ravel())
    if item.dtype == object:  # references: a cell array, or a field of an array of structs
        return [_from_hdf5(file[reference], file) for reference in data.ravel()]
    return np.ascontiguousarray(data).T


def _struct_from_hdf5(group: Any, file: Any) -> Any:
    """A struct; an array of structs has, for each field, a dataset of references."""
    fields = {name: group[name] for name in group}
    spread = [
        not hasattr(f, "keys") and f.dtype == object and "MATLAB_class" not in f.attrs
        for f in fields.values()
    ]
    if not fields or not all(spread):
        return {name: _from_hdf5(field, file) for name, field in fields.items()}
    columns = {name: _from_hdf5(field, file) for name, field in fields.items()}
    count = len(next(iter(columns.values())))
    return [{name: column[i] for name, column in columns.items()} for i in range(count)]
