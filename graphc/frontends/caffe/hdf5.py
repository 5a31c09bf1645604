"""Weights in HDF5 (`.caffemodel.h5`), as Caffe lays them out.

The group `data` has a group for each layer, and that a dataset `0`, `1`, ... for each parameter. A
parameter that layers share is there only in the layer that made it.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphc.error import NetError
from graphc.frontends.hdf5_dataset import is_dataset, read_dataset
from graphc.unreadable import HDF5_MAGIC, unreadable
from graphc.whole_file import write_parts

FloatArray = NDArray[np.floating]
Layers = dict[str, dict[int, FloatArray]]


def hdf5_library() -> Any:
    """The module h5py, which is installed only where it was asked for; else NetError."""
    try:
        import h5py
    except ImportError:
        raise NetError("HDF5 files need h5py: pip install 'graphc[data]'") from None
    return h5py


def is_hdf5(path: str | Path) -> bool:
    """Whether the file begins as HDF5 files do. False for one that cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return file.read(len(HDF5_MAGIC)) == HDF5_MAGIC
    except OSError:
        return False


@contextmanager
def reading_hdf5(path: str | Path, what: str = "HDF5") -> Iterator[Any]:
    """The open file; whatever is wrong with it is a NetError that calls it `what`.

    h5py raises nearly everything for damaged files, dangling links and shapes past all memory.
    """
    try:
        with hdf5_library().File(path, "r") as file:
            yield file
    except NetError:
        raise
    except FileNotFoundError as error:
        raise unreadable(path, FileNotFoundError(error.errno, os.strerror(errno.ENOENT))) from None
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, MemoryError) as error:
        raise NetError(f"cannot read '{path}' as {what}: {error}") from None


def read_hdf5_weights(path: str | Path) -> Layers:
    """Layer name -> parameter index -> values as `stored_reals`. Layers without any are left out.

    Raises NetError for a file that cannot be read, or that holds no group `data`.
    """
    found: Layers = {}
    with reading_hdf5(path) as file:
        if not hasattr(file.get("data"), "visititems"):
            raise NetError(f"'{path}' has no group 'data': is it a caffemodel.h5?")
        file["data"].visititems(lambda name, item: _gather(found, name, item, str(path)))
    return found


def _gather(found: Layers, name: str | bytes, item: Any, path: str) -> None:
    """Take one dataset `LAYER/INDEX`; a layer's name may itself hold slashes."""
    if not is_dataset(item):
        return
    if isinstance(name, bytes):
        raise NetError(f"'{path}': the name {name!r} is not UTF-8")
    layer, _, index = name.rpartition("/")
    if not layer or not index.isdigit():
        raise NetError(f"'{path}': '{name}' is no parameter of a layer; 'LAYER/0' would be")
    if item.dtype.kind not in "fiu":
        raise NetError(f"'{path}': parameter '{name}' holds {item.dtype}, not numbers")
    found.setdefault(layer, {})[int(index)] = _numbers(item, path)


def stored_reals(array: np.ndarray) -> FloatArray:
    """Numbers in float64 where they are so, else in float32."""
    return np.asarray(array, np.float64 if array.dtype == np.float64 else np.float32)


def _numbers(item: Any, path: str) -> FloatArray:
    try:
        return stored_reals(read_dataset(item))
    except NetError as error:
        raise NetError(f"'{path}': {error}") from None


def write_hdf5_weights(
    path: str | Path, layers: Mapping[str, Mapping[int, NDArray[np.floating]]]
) -> None:
    """Write a `.caffemodel.h5`, whole or not at all: each layer's parameters, as `stored_reals`.

    Raises NetError if the file cannot be written, or for a layer name that HDF5 has no place for.
    """
    held = io.BytesIO()
    with hdf5_library().File(held, "w") as file:
        data = file.create_group("data")
        for layer, arrays in layers.items():
            if not layer.strip("/.") or "\0" in layer:
                raise NetError(f"a layer called '{layer}' cannot be stored in HDF5")
            group = data.require_group(layer)
            for index, array in arrays.items():
                group.create_dataset(str(index), data=stored_reals(array))
    write_parts(path, [held.getbuffer()])


def hdf5_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """The shape of every data set at the top of a file. NetError for one that cannot be read."""
    with reading_hdf5(path) as file:
        return {name: item.shape or () for name, item in file.items() if is_dataset(item)}


def read_hdf5_arrays(path: str | Path, names: Sequence[str]) -> list[FloatArray]:
    """The data sets of these names, in float32. NetError where one is missing or no numbers."""
    arrays = []
    with reading_hdf5(path) as file:
        for name in names:
            item = file.get(name)
            if not is_dataset(item) or item.dtype.kind not in "fiu":
                raise NetError(f"'{path}' has no data set '{name}' of numbers")
            arrays.append(np.asarray(_numbers(item, str(path)), np.float32))
    return arrays
