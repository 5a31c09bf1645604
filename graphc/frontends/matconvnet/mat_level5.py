"""Level 5 .mat files: what MATLAB writes as -v6 and -v7.

A file is a row of elements, each with a type and a length; those of -v7 are compressed one by one.
Every length is checked against what is there before anything is read, so that a file that is cut
short or damaged is refused. The format is described in MathWorks' "MAT-File Format".
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from graphc.error import NetError, need
from graphc.runtime.cpu import physical_memory

_HEADER = 128
_BYTE, _DOUBLE, _MATRIX, _COMPRESSED = 2, 9, 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8"}
_NUMBERS[13] = "u8"
_UNICODE = {16: "utf-8", 17: "utf-16", 18: "utf-32"}
_CELL, _STRUCT, _OBJECT, _CHAR, _SPARSE, _FUNCTION, _OPAQUE = 1, 2, 3, 4, 5, 16, 17
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8"}
_CLASSES[15] = "u8"
_COMPLEX = 0x800
_DEEPEST = 100


def read_level5(content: bytes) -> dict[str, Any]:
    """All variables of a file, as `mat_file` describes them.

    Raises NetError, without the file's name, where the file is damaged.
    """
    mark = bytes(content[126:_HEADER])
    need(mark in (b"IM", b"MI"), "it has no header of a level 5 file, which save -v7 writes")
    reader = _Reader("<" if mark == b"IM" else ">")
    found: dict[str, Any] = {}
    for kind, body in reader.elements(memoryview(content)[_HEADER:], padded=False):
        if kind == _COMPRESSED:
            kind, body = reader.inflated(body)
        if kind == _MATRIX:
            name, value = reader.matrix(body, 0)
            if name and not name.startswith("__"):
                found[name] = value
    return found


@dataclass
class _Reader:
    """Reads elements; `order` is that of the bytes of a number, as numpy writes it."""

    order: str

    # -- elements --

    def elements(self, data: memoryview, padded: bool = True) -> Iterator[tuple[int, memoryview]]:
        """The type and the content of each element that lies in `data`, one after the other."""
        place = 0
        while place < len(data):
            need(place + 8 <= len(data), "it ends within an element's head")
            kind, size = self.integers(data[place : place + 8], "u4")
            start = place + 8
            if kind >> 16:  # of at most 4 bytes, which stand in the head
                kind, size, start = kind & 0xFFFF, kind >> 16, place + 4
                need(size <= 4, f"an element of {size} bytes stands where 4 have room")
                place += 8
            else:
                need(size <= len(data) - start, f"an element of {size} bytes is cut short")
                room = -size % 8 if padded or kind != _COMPRESSED else 0
                place = start + size + room
            yield kind, data[start : start + size]

    def inflated(self, body: memoryview) -> tuple[int, memoryview]:
        """The one element in a compressed one."""
        machine = zlib.decompressobj()
        try:
            head = machine.decompress(body, 8)
            need(len(head) == 8, "a compressed element is empty")
            kind, size = self.integers(memoryview(head), "u4")
            need(size <= physical_memory(), f"a compressed element of {size} bytes is too large")
            rest = machine.decompress(machine.unconsumed_tail, max(1, size))
            more = machine.decompress(machine.unconsumed_tail, 1)  # looks at the checksum, too
        except zlib.error as error:
            raise NetError(f"a compressed element is damaged: {error}") from None
        need(len(rest) == size, "a compressed element is cut short")
        need(machine.eof and not more, "a compressed element does not end where it must")
        return kind, memoryview(rest)

    def integers(self, data: memoryview, kind: str) -> list[int]:
        """Whole numbers of a numpy type, as Python has them."""
        found: list[int] = np.frombuffer(data, self.order + kind).tolist()
        return found

    def numbers(self, element: tuple[int, memoryview], count: int | None = None) -> np.ndarray:
        """The numbers of an element, in a row; NetError unless there are `count`."""
        kind, data = element
        need(kind in _NUMBERS, f"numbers are kept in an element of type {kind}")
        dtype = np.dtype(self.order + _NUMBERS[kind])
        need(len(data) % dtype.itemsize == 0, "a number is cut short")
        found = np.frombuffer(data, dtype)
        need(count in (None, found.size), f"an array of {count} numbers holds {found.size}")
        return found

    # -- arrays --

    def matrix(self, body: memoryview, depth: int) -> tuple[str, Any]:
        """The name and the value of an array of whatever class."""
        need(depth < _DEEPEST, f"arrays lie in each other more than {_DEEPEST} deep")
        if not len(body):
            return "", np.zeros((0, 0))
        parts = self.elements(body)
        flags = self.numbers(_next(parts), 2)
        kind, is_complex = int(flags[0]) & 0xFF, bool(int(flags[0]) & _COMPLEX)
        if kind == _OPAQUE:
            return self.text(_next(parts)), "@object"
        shape = tuple(map(int, self.numbers(_next(parts))))
        need(len(shape) >= 2 and min(shape) >= 0, f"an array has the size {list(shape)}")
        name = self.text(_next(parts))
        if kind in _CLASSES:
            return name, self.real_or_complex(parts, shape, _CLASSES[kind], is_complex)
        readers: dict[int, Callable[[], Any]] = {
            _CELL: lambda: list(self.inner(parts, prod(shape), depth)),
            _STRUCT: lambda: self.struct(parts, prod(shape), depth),
            _OBJECT: lambda: _next(parts) and self.struct(parts, prod(shape), depth),
            _CHAR: lambda: self.lines(_next(parts), shape),
            _SPARSE: lambda: self.sparse(parts, shape, is_complex),
            _FUNCTION: lambda: "@function",  # code is not read
        }
        need(kind in readers, f"an array is of the unknown class {kind}")
        return name, readers[kind]()

    def inner(
        self, parts: Iterator[tuple[int, memoryview]], count: int, depth: int
    ) -> Iterator[Any]:
        """The next `count` arrays, which lie in another."""
        for _ in range(count):
            kind, body = _next(parts)
            need(kind == _MATRIX, f"an element of type {kind} stands where an array must")
            yield self.matrix(body, depth + 1)[1]

    def struct(self, parts: Iterator[tuple[int, memoryview]], count: int, depth: int) -> Any:
        """A dict, or a list of them."""
        (width,) = map(int, self.numbers(_next(parts), 1))
        names = bytes(_next(parts)[1])
        need(width > 0 and len(names) % width == 0, "the names of a struct's fields are damaged")
        fields = [
            names[at : at + width].split(b"\0")[0].decode("latin-1")
            for at in range(0, len(names), width)
        ]
        if not fields:
            return {} if count == 1 else []
        rows = [
            dict(zip(fields, self.inner(parts, len(fields), depth), strict=True))
            for _ in range(count)
        ]
        return rows[0] if count == 1 else rows

    def real_or_complex(
        self,
        parts: Iterator[tuple[int, memoryview]],
        shape: tuple[int, ...],
        dtype: str,
        is_complex: bool,
    ) -> np.ndarray:
        """An array of numbers, which may be kept in a smaller type than its own."""
        count = prod(shape)
        found = self.numbers(_next(parts), count).astype(dtype)
        if is_complex:
            found = found + 1j * self.numbers(_next(parts), count).astype(dtype)
        return found.reshape(shape, order="F")

    def sparse(
        self, parts: Iterator[tuple[int, memoryview]], shape: tuple[int, ...], is_complex: bool
    ) -> np.ndarray:
        """A sparse matrix, with its zeros."""
        need(len(shape) == 2, f"a sparse matrix has the size {list(shape)}")
        need(8 * prod(shape) <= physical_memory(), f"a sparse matrix of {shape} is too large")
        rows = self.numbers(_next(parts)).astype("i8")
        starts = self.numbers(_next(parts), shape[1] + 1).astype("i8")
        counts = np.diff(starts)
        used = int(starts[-1])
        right = starts[0] == 0 and (counts >= 0).all() and used <= rows.size
        rows = rows[:used]
        right = right and bool(((rows >= 0) & (rows < shape[0])).all())
        need(right, "the places of a sparse matrix are damaged")
        stored, data = _next(parts)
        if stored == _DOUBLE and len(data) == used:  # so MATLAB writes logical ones
            stored = _BYTE
        values = self.numbers((stored, data))
        need(values.size >= used, "a sparse matrix is cut short")
        found = np.zeros(shape, "c16" if is_complex else "f8")
        places = (rows, np.repeat(np.arange(shape[1]), counts))
        found[places] = values[:used]
        if is_complex:
            found[places] += 1j * self.numbers(_next(parts))[:used]
        return found

    # -- text --

    def text(self, element: tuple[int, memoryview]) -> str:
        """A name."""
        return bytes(element[1]).decode("latin-1")

    def lines(self, element: tuple[int, memoryview], shape: tuple[int, ...]) -> str | list[str]:
        """A text, or the rows of an array of characters."""
        kind, data = element
        if not prod(shape):
            return ""
        try:
            letters = (
                bytes(data).decode(self.coding(kind), "replace")
                if kind in _UNICODE
                else "".join(map(chr, self.numbers(element).tolist()))
            )
        except (ValueError, TypeError, OverflowError):
            raise NetError("a text is damaged") from None
        if prod(shape[:-1]) == 1:
            return letters.rstrip("\0")  # a letter may take two places of MATLAB's
        need(len(letters) == prod(shape), f"a text of {prod(shape)} letters holds {len(letters)}")
        table = np.array(list(letters)).reshape(shape, order="F").reshape(-1, shape[-1])
        rows = ["".join(row).rstrip("\0") for row in table]
        return rows[0] if len(rows) == 1 else rows

    def coding(self, kind: int) -> str:
        """The coding of an element of letters; the byte order is the file's."""
        end = {"<": "-le", ">": "-be"}[self.order]
        return _UNICODE[kind] + (end if kind != 16 else "")


def _next(parts: Iterator[tuple[int, memoryview]]) -> tuple[int, memoryview]:
    found = next(parts, None)
    if found is None:
        raise NetError("an array is cut short")
    return found
