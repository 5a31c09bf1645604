"""Caffe's solver states (`.solverstate`, `.solverstate.h5`): what training needs to go on.

A state is the iteration, the name of the weight file that belongs to it, the number of steps the
rate has taken, and the method's history: one array for each parameter of the net in its order, then
(AdaDelta, Adam) a second set.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphc.error import NetError, need
from graphc.frontends.caffe import schema, wire
from graphc.frontends.caffe.caffemodel import LARGEST_FILE, damaged, read_file, read_stored
from graphc.frontends.caffe.caffemodel_writer import (
    blob_parts,
    enclosed,
    number_field,
    string_field,
)
from graphc.frontends.caffe.hdf5 import hdf5_library, is_hdf5, reading_hdf5, stored_reals
from graphc.frontends.hdf5_dataset import read_dataset
from graphc.whole_file import write_parts

FloatArray = NDArray[np.floating]


@dataclass
class SolverState:
    """What a file holds. `learned_net` is the weight file's name as it was given when writing."""

    iteration: int
    learned_net: str = ""
    current_step: int = 0
    history: Sequence[FloatArray] = field(default_factory=list)


def read_solverstate(path: str | Path) -> SolverState:
    """Read a state in either format. Raises NetError for a file that is none, or is damaged."""
    if is_hdf5(path):
        return _read_hdf5(path)
    data = read_file(path)
    state = SolverState(-1)
    history: list[FloatArray] = []
    names = {f.number: f.name for f in schema.descriptor("SolverState").fields}
    try:
        for number, _, payload in wire.fields(data):
            name = names.get(number)
            if name == "iter" and isinstance(payload, int):
                state.iteration = payload
            elif name == "current_step" and isinstance(payload, int):
                state.current_step = payload
            elif name == "learned_net" and isinstance(payload, memoryview):
                state.learned_net = bytes(payload).decode("utf-8", "replace")
            elif name == "history" and isinstance(payload, memoryview):
                what = f"history {len(history)}"
                history.append(read_stored(payload, what, str(path)).values)
    except wire.WireError as error:
        raise damaged(path, data, error) from None
    if not 0 <= state.iteration < 1 << 31:
        raise NetError(f"'{path}' tells no iteration: is it a solverstate?")
    state.history = history
    return state


def write_solverstate(path: str | Path, state: SolverState) -> None:
    """Write a state, in HDF5 where the path ends in `.h5`. The file is there whole or not at all.

    Raises NetError where it cannot be written, or would be larger than protobuf allows.
    """
    if Path(path).suffix == ".h5":
        _write_hdf5(path, state)
        return
    parts: list[bytes | memoryview] = [
        number_field("SolverState", "iter", state.iteration),
        string_field("SolverState", "learned_net", state.learned_net),
    ]
    number = schema.field_number("SolverState", "history")
    for array in state.history:
        parts += enclosed(number, blob_parts(array))
    parts.append(number_field("SolverState", "current_step", state.current_step))
    size = sum(len(part) for part in parts)
    if size > LARGEST_FILE:
        raise NetError(
            f"the state needs {size} bytes; a solverstate can have {LARGEST_FILE}:"
            " write it in HDF5 (snapshot_format: HDF5)"
        )
    write_parts(path, parts)


# -- HDF5 -----------------------------------------------------------------------------------------


def _read_hdf5(path: str | Path) -> SolverState:
    with reading_hdf5(path, "a solver state") as file:
        missing = [name for name in ("iter", "history") if name not in file]
        if missing:
            raise NetError(f"'{path}' has no '{missing[0]}': is it a solverstate.h5?")
        try:
            return SolverState(
                _whole(file["iter"]),
                _text(file["learned_net"]) if "learned_net" in file else "",
                _whole(file["current_step"]) if "current_step" in file else 0,
                _history(file["history"]),
            )
        except NetError as error:
            raise NetError(f"'{path}': {error}") from None


def _history(group: Any) -> list[FloatArray]:
    need(hasattr(group, "keys"), "'history' is no group")
    arrays = []
    for number in range(len(group)):
        array = read_dataset(group[str(number)])
        need(array.dtype.kind in "fiu", f"history {number} holds {array.dtype}, not numbers")
        arrays.append(stored_reals(array))
    return arrays


def _whole(item: Any) -> int:
    found = read_dataset(item).reshape(-1)
    need(
        found.size and found.dtype.kind in "iu" and 0 <= found[0] < 1 << 31,
        f"'{item.name}' is no whole number of steps",
    )
    return int(found[0])


def _text(item: Any) -> str:
    value = read_dataset(item)[()]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _write_hdf5(path: str | Path, state: SolverState) -> None:
    h5py = hdf5_library()
    held = io.BytesIO()
    with h5py.File(held, "w") as file:
        file.create_dataset("iter", data=np.array([state.iteration], "<i4"))
        if state.learned_net:
            # Caffe reads it into a buffer of the stored size, so the final zero must be stored.
            text = state.learned_net.encode() + b"\0"
            kind = h5py.h5t.C_S1.copy()
            kind.set_size(len(text))
            kind.set_strpad(h5py.h5t.STR_NULLTERM)
            space = h5py.h5s.create(h5py.h5s.SCALAR)
            made = h5py.h5d.create(file.id, b"learned_net", kind, space)
            made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array(text, f"S{len(text)}"), kind)
        file.create_dataset("current_step", data=np.array([state.current_step], "<i4"))
        history = file.create_group("history")
        for index, array in enumerate(state.history):
            history.create_dataset(str(index), data=stored_reals(array))
    write_parts(path, [held.getbuffer()])
