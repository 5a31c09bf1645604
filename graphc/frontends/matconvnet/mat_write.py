"""Plain Python values as .mat files of level 5, which MATLAB and `mat_file` read.

A dict becomes a struct, `Structs` an array of structs, a list with anything but numbers a cell
array, numbers double arrays, None and () the empty array [].
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from graphc.error import NetError
from graphc.whole_file import write_whole


class Structs(list[dict[str, Any]]):
    """Structs that become one array; `fields` are those of every one."""

    def __init__(self, fields: tuple[str, ...], structs: list[dict[str, Any]]):
        super().__init__(structs)
        self.fields = fields


class Cell(list[Any]):
    """Values that become a cell array, whatever they are."""


def write_mat(path: str | Path, variables: Mapping[str, Any]) -> None:
    """Write a file; it takes the place of an old one when it is whole.

    Raises NetError where it cannot be written, or a value has no place in such a file.
    """
    try:
        from scipy.io import savemat
    except ImportError:
        raise NetError(f"'{path}' needs scipy to be written: pip install scipy") from None
    encoded = {name: _encoded(value, name) for name, value in variables.items()}
    try:
        write_whole(path, lambda file: savemat(file, encoded, long_field_names=True, oned_as="row"))
    except NetError:
        raise
    except Exception as error:
        # scipy's own classes: an array past 4 GiB, a name that MATLAB does not take
        raise NetError(f"cannot write '{path}': {error}") from None


def _encoded(value: Any, name: str) -> Any:
    """What scipy writes as MATLAB expects it; `name` is for the message."""
    if isinstance(value, Structs):
        made = np.empty((1, len(value)), [(field, object) for field in value.fields])
        for i, struct in enumerate(value):
            for field in value.fields:
                made[0, i][field] = _encoded(struct.get(field), f"{name}.{field}")
        return made
    if isinstance(value, Mapping):
        return {str(k): _encoded(v, f"{name}.{k}") for k, v in value.items()}
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, (tuple, list)) and not len(value)):
        return np.empty((1, 0), object) if isinstance(value, Cell) else np.zeros((0, 0))
    if isinstance(value, Cell) or (isinstance(value, (tuple, list)) and not _is_numbers(value)):
        cell = np.empty((1, len(value)), object)
        for i, part in enumerate(value):
            cell[0, i] = _encoded(part, f"{name}{{{i + 1}}}")
        return cell
    return _numbers(value, name)


def _is_numbers(value: Any) -> bool:
    return all(isinstance(part, (bool, int, float, np.number)) for part in value)


def _numbers(value: Any, name: str) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "fiubc":
        raise NetError(f"'{name}' is {type(value).__name__}, which has no place in a .mat file")
    if not isinstance(value, np.ndarray) and array.dtype.kind in "iu":
        array = array.astype(np.float64)  # MATLAB's numbers are doubles
    while array.ndim > 2 and array.shape[-1] == 1:
        array = array[..., 0]
    return array
