"""Parameters in a file that is mapped, not read.

A header of 64 bytes: the words `graphc weights 2`, then uint64: the file's length, a fingerprint of
the layout, iterations that training has done, passes done of the next one, and where the table
begins. After it the arrays, little-endian and row-major, each at a multiple of 64 bytes, in the
order of the program's slots. Last the table, by which others can read them: a line of JSON an
array, [name, role, type, shape, offset]. The fingerprint tells files of different nets apart;
files of one net with other values are exchangeable.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import BinaryIO

import numpy as np

from graphc.error import NetError, need
from graphc.runtime.bundle import SlotEntry

MAGIC = b"graphc weights 2"
ALIGNMENT = 64
STORED = ("parameter", "constant", "state")
_ELEMENTS = {"float32": "<f4", "float64": "<f8", "int32": "<i4", "int64": "<i8", "uint8": "u1"}
_HEADER = struct.Struct("<16sQQQQQ8x")


@dataclass(frozen=True)
class Stored:
    """What a file holds: arrays by name, which of them are states, and how far training was.

    `passes` are those of an iteration of several that was not finished.
    """

    arrays: dict[str, np.ndarray]
    states: tuple[str, ...]
    iteration: int
    passes: int

    @classmethod
    def empty(cls) -> Stored:
        """What a net without weights has."""
        return cls({}, (), 0, 0)


def slot_bytes(slot: SlotEntry) -> int:
    """Size of a slot's array."""
    return int(np.prod(slot.shape, dtype=np.int64)) * np.dtype(slot.dtype).itemsize


def aligned(size: int) -> int:
    """`size` rounded up to a multiple of 64."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def offsets(slots: Sequence[SlotEntry]) -> dict[str, int]:
    """Where in the file each stored slot's array begins."""
    places = {}
    end = _HEADER.size
    for slot in slots:
        if slot.role in STORED:
            places[slot.name] = end
            end += aligned(slot_bytes(slot))
    return places


def table_start(slots: Sequence[SlotEntry]) -> int:
    """Where the table begins, behind the last array."""
    return _HEADER.size + sum(aligned(slot_bytes(s)) for s in slots if s.role in STORED)


def file_bytes(slots: Sequence[SlotEntry]) -> int:
    """The file's length."""
    return table_start(slots) + sum(len(line) for line in table_lines(slots))


def table_lines(slots: Sequence[SlotEntry]) -> list[bytes]:
    """The table, in ASCII."""
    places = offsets(slots)
    rows = [(s.name, s.role, s.dtype, s.shape, places[s.name]) for s in slots if s.role in STORED]
    return [json.dumps(row).encode() + b"\n" for row in rows]


def fingerprint(slots: Sequence[SlotEntry]) -> int:
    """A number that differs between layouts."""
    rows = [(s.name, s.role, s.dtype, s.shape) for s in slots if s.role in STORED]
    return int.from_bytes(hashlib.sha256(repr(rows).encode()).digest()[:8], "little")


def write_parameters(
    file: BinaryIO,
    slots: Sequence[SlotEntry],
    arrays: Mapping[str, np.ndarray],
    iteration: int = 0,
    passes: int = 0,
) -> None:
    """Write the file. A state without an array starts at zero.

    Raises NetError where an array is missing or has another shape than its slot.
    """
    numbers = (file_bytes(slots), fingerprint(slots), iteration, passes, table_start(slots))
    file.write(_HEADER.pack(MAGIC, *numbers))
    for slot in slots:
        if slot.role not in STORED:
            continue
        array = arrays.get(slot.name)
        if array is None:
            need(slot.role == "state", f"there are no values for '{slot.name}'")
            array = np.zeros(slot.shape)
        need(
            array.shape == slot.shape,
            f"'{slot.name}' has shape {list(slot.shape)}, not {list(array.shape)}",
        )
        little = np.dtype(slot.dtype).newbyteorder("<")
        file.write(np.ascontiguousarray(array, little).reshape(-1).data)
        file.write(bytes(aligned(slot_bytes(slot)) - slot_bytes(slot)))
    file.writelines(table_lines(slots))


def is_parameter_file(path: str | PathLike[str]) -> bool:
    """Whether a file begins as these do."""
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def read_parameters(path: str | Path) -> Stored:
    """Copies of a file's arrays, found by its own table.

    Raises NetError where it is no such file, or damaged.
    """
    header = _read_header(path)
    data = Path(path).read_bytes()
    arrays, states = {}, []
    try:
        for line in data[header.table :].splitlines():
            name, role, dtype, shape, offset = json.loads(line)
            if role == "state":
                states.append(name)
            kind = np.dtype(_ELEMENTS[dtype])
            count = int(np.prod(shape, dtype=np.int64))
            arrays[name] = np.frombuffer(data, kind, count, offset).reshape(shape).copy()
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise NetError(f"weights '{path}' are damaged: {error}") from None
    return Stored(arrays, tuple(states), header.iteration, header.passes)


def map_parameters(path: str | Path, slots: Sequence[SlotEntry]) -> Stored:
    """A file's arrays by slot name: mapped, read-only; states are copies that can be written.

    Raises NetError where it is no such file, of another net, or cut short.
    """
    header = _read_header(path)
    need(header.layout == fingerprint(slots), f"weights '{path}' belong to another net")
    places = offsets(slots)
    stored = [slot for slot in slots if slot.role in STORED]
    arrays = {slot.name: _mapped(path, slot, places[slot.name]) for slot in stored}
    states = tuple(slot.name for slot in stored if slot.role == "state")
    return Stored(arrays, states, header.iteration, header.passes)


def _mapped(path: str | Path, slot: SlotEntry, offset: int) -> np.ndarray:
    if slot_bytes(slot) == 0:
        return np.zeros(slot.shape, slot.dtype)
    return np.memmap(path, slot.dtype, "c" if slot.role == "state" else "r", offset, slot.shape)


@dataclass(frozen=True)
class _Header:
    layout: int
    iteration: int
    passes: int
    table: int


def _read_header(path: str | Path) -> _Header:
    try:
        with open(path, "rb") as file:
            header = file.read(_HEADER.size)
        size = Path(path).stat().st_size
    except OSError as error:
        raise NetError(f"cannot read weights '{path}': {error.strerror}") from None
    need(header.startswith(MAGIC), f"'{path}' is not a graphc weights file of version 2")
    need(len(header) == _HEADER.size, f"weights '{path}' are cut short")
    _, length, layout, iteration, passes, table = _HEADER.unpack(header)
    need(size == length, f"weights '{path}' have {size} bytes, {length} were written")
    return _Header(layout, iteration, passes, table)
