"""Files of version 7.3 with all the attributes that MATLAB itself writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

HEADER = (
    b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon Jan  1 00:00:00 2018 HDF5 schema 1.00"
)
CLASSES = {"f4": "single", "f8": "double", "u1": "uint8", "i4": "int32", "u4": "uint32"}


class Structs(list[dict[str, Any]]):
    """An array of structs, where a list is a cell array."""


class Function:
    """A function handle."""


class Sparse:
    """A sparse matrix."""

    def __init__(self, whole: np.ndarray):
        self.whole = whole


def write(path: Path, variables: dict[str, Any]) -> None:
    """Cells as references, text as codes, axes reversed, a header in the first 512 bytes."""
    with h5py.File(path, "w", userblock_size=512) as file:
        writer = _Writer(file)
        for name, value in variables.items():
            writer.put(file, name, value)
    data = bytearray(path.read_bytes())
    data[:128] = HEADER.ljust(116) + bytes(8) + b"\x00\x02IM"
    path.write_bytes(data)


class _Writer:
    def __init__(self, file: h5py.File):
        self.store = file.create_group("#refs#")
        self.count = 0

    def reference(self, value: Any) -> h5py.Reference:
        self.count += 1
        made = self.put(self.store, f"r{self.count}", value)
        made.attrs["H5PATH"] = np.bytes_("/net")
        return made.ref

    def references(self, group: h5py.Group, name: str, values: list[Any]) -> h5py.Dataset:
        refs = [self.reference(value) for value in values]
        made = group.create_dataset(name, (len(refs), 1), dtype=h5py.ref_dtype)
        for i, reference in enumerate(refs):
            made[i, 0] = reference
        return made

    def put(self, group: h5py.Group, name: str, value: Any) -> Any:
        made, kind = self.made(group, name, value)
        if kind:
            made.attrs["MATLAB_class"] = np.bytes_(kind)
        return made

    def made(self, group: h5py.Group, name: str, value: Any) -> tuple[Any, str]:
        """(the item, its class)."""
        if isinstance(value, Structs) and value:
            made = group.create_group(name)
            for key in value[0]:
                self.references(made, key, [struct[key] for struct in value])
            return made, "struct"
        if isinstance(value, dict):
            made = group.create_group(name)
            for key, part in value.items():
                self.put(made, key, part)
            return made, "struct"
        if isinstance(value, Function):
            made = group.create_group(name)
            self.put(made, "function_handle", {"function": "sin", "type": "simple"})
            made.attrs["MATLAB_object_decode"] = np.int32(1)
            return made, "function_handle"
        if isinstance(value, Sparse):
            return self.sparse(group, name, value.whole), "double"
        if isinstance(value, list) and value:
            return self.references(group, name, value), "cell"
        if isinstance(value, str) and value:
            made = group.create_dataset(name, data=np.array([[ord(c)] for c in value], np.uint16))
            made.attrs["MATLAB_int_decode"] = np.int32(2)
            return made, "char"
        return self.array(group, name, value)

    def array(self, group: h5py.Group, name: str, value: Any) -> tuple[Any, str]:
        names = {str: "char", list: "cell", Structs: "struct"}
        array = np.atleast_2d(np.asarray(0.0 if isinstance(value, str) else value))
        if type(value) in names or array.size == 0:
            shape = (0, 0) if type(value) in names else array.shape
            made = group.create_dataset(name, data=np.array(shape, np.uint64))
            made.attrs["MATLAB_empty"] = np.uint8(1)
            return made, names.get(type(value), "double")
        if array.dtype == bool:
            made = group.create_dataset(name, data=array.T.astype(np.uint8))
            made.attrs["MATLAB_int_decode"] = np.int32(1)
            return made, "logical"
        made = group.create_dataset(name, data=array.T)
        return made, CLASSES[array.dtype.str[1:]]

    def sparse(self, group: h5py.Group, name: str, whole: np.ndarray) -> h5py.Group:
        made = group.create_group(name)
        made.attrs["MATLAB_sparse"] = np.uint64(whole.shape[0])
        _, rows = np.nonzero(whole.T)
        starts = np.concatenate([[0], np.cumsum((whole != 0).sum(axis=0))])
        made.create_dataset("jc", data=starts.astype(np.uint64))
        made.create_dataset("ir", data=rows.astype(np.uint64))
        made.create_dataset("data", data=whole.T[whole.T != 0])
        return made
