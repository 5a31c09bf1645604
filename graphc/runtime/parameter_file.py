"""Parameters in a file that is mapped, not read.

A header of 64 bytes: the words `graphc weights 1`, the file's length and a fingerprint of the
layout, both uint64, then zeros. After it the arrays, little-endian and row-major, each at a
multiple of 64 bytes, in the order of the program's slots. The fingerprint tells files of different
nets apart; files of one net with other values are exchangeable.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from graphc.error import NetError, need
from graphc.runtime.bundle import SlotEntry

MAGIC = b"graphc weights 1"
ALIGNMENT = 64
STORED = ("parameter", "constant", "state")
_HEADER = struct.Struct("<16sQQ32x")


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


def file_bytes(slots: Sequence[SlotEntry]) -> int:
    """The file's length."""
    return _HEADER.size + sum(aligned(slot_bytes(s)) for s in slots if s.role in STORED)


def fingerprint(slots: Sequence[SlotEntry]) -> int:
    """A number that differs between layouts."""
    rows = [(s.name, s.role, s.dtype, s.shape) for s in slots if s.role in STORED]
    return int.from_bytes(hashlib.sha256(repr(rows).encode()).digest()[:8], "little")


def write_parameters(
    file: BinaryIO, slots: Sequence[SlotEntry], arrays: Mapping[str, np.ndarray]
) -> None:
    """Write the file. A state without an array starts at zero.

    Raises NetError where an array is missing or has another shape than its slot.
    """
    file.write(_HEADER.pack(MAGIC, file_bytes(slots), fingerprint(slots)))
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


def map_parameters(path: str | Path, slots: Sequence[SlotEntry]) -> dict[str, np.ndarray]:
    """The arrays of a file by slot name: mapped, read-only; states are copies that can be written.

    Raises NetError where it is no such file, of another net, or cut short.
    """
    try:
        with open(path, "rb") as file:
            header = file.read(_HEADER.size)
        size = Path(path).stat().st_size
    except OSError as error:
        raise NetError(f"cannot read weights '{path}': {error.strerror}") from None
    need(header.startswith(MAGIC), f"'{path}' is not a graphc weights file")
    need(len(header) == _HEADER.size, f"weights '{path}' are cut short")
    _, length, layout = _HEADER.unpack(header)
    need(layout == fingerprint(slots), f"weights '{path}' belong to another net")
    need(size == length, f"weights '{path}' have {size} bytes, {length} were written")
    places = offsets(slots)
    arrays = {}
    for slot in slots:
        if slot.role in STORED:
            array = _mapped(path, slot, places[slot.name])
            arrays[slot.name] = array
    return arrays


def _mapped(path: str | Path, slot: SlotEntry, offset: int) -> np.ndarray:
    if slot_bytes(slot) == 0:
        return np.zeros(slot.shape, slot.dtype)
    return np.memmap(path, slot.dtype, "c" if slot.role == "state" else "r", offset, slot.shape)
