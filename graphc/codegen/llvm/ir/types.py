"""LLVM's types. There is one object of each, so that types are compared by `is` or `==` alike."""

from __future__ import annotations

import ctypes
import struct
from typing import ClassVar

_DOUBLE, _BITS = struct.Struct("<d"), struct.Struct("<Q")


class Type:
    """A type, and how LLVM writes it and its constants.

    element, count: of a vector. width: of an integer, in bits. null: its constant of zeros.
    """

    __slots__ = ("count", "element", "null", "text", "width")
    count: int
    element: Type
    null: str
    text: str
    width: int

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return self.text

    def number(self, value: float) -> str:
        """A constant of this type as LLVM writes it."""
        raise TypeError(f"{self} has no numbers")


class _Single(Type):
    """A type of which there is one."""

    __slots__ = ()
    name: ClassVar[str]
    zeros: ClassVar[str] = ""
    only: ClassVar[dict[str, Type]] = {}

    def __new__(cls) -> _Single:
        found = _Single.only.get(cls.name)
        if found is None:
            found = super().__new__(cls)
            found.text, found.null = cls.name, cls.zeros
            found = _Single.only.setdefault(cls.name, found)
        assert isinstance(found, cls)
        return found


class VoidType(_Single):
    """What a function without a result has."""

    __slots__ = ()
    name = "void"


class PointerType(_Single):
    """An address."""

    __slots__ = ()
    name, zeros = "ptr", "null"


class DoubleType(_Single):
    """64-bit numbers. Constants are their bits, which say all there is."""

    __slots__ = ()
    name, zeros = "double", "0.0"

    def number(self, value: float) -> str:
        """The bits of the number."""
        return f"0x{_BITS.unpack(_DOUBLE.pack(value))[0]:x}"


class FloatType(_Single):
    """32-bit numbers; LLVM writes the bits of the 64-bit number of the same value."""

    __slots__ = ()
    name, zeros = "float", "0.0"

    def number(self, value: float) -> str:
        """The bits of the nearest number of 32 bits, infinite beyond their range."""
        return f"0x{_BITS.unpack(_DOUBLE.pack(ctypes.c_float(value).value))[0]:x}"


class IntType(Type):
    """Integers of `width` bits."""

    __slots__ = ()
    _all: ClassVar[dict[int, IntType]] = {}

    def __new__(cls, width: int) -> IntType:
        found = cls._all.get(width)
        if found is None:
            found = super().__new__(cls)
            found.text, found.null, found.width = f"i{width}", "0", width
            found = cls._all.setdefault(width, found)
        return found

    def number(self, value: float) -> str:
        """A whole number."""
        return str(int(value))


class VectorType(Type):
    """`count` lanes of `element`."""

    __slots__ = ()
    _all: ClassVar[dict[tuple[Type, int], VectorType]] = {}

    def __new__(cls, element: Type, count: int) -> VectorType:
        found = cls._all.get((element, count))
        if found is None:
            found = super().__new__(cls)
            found.text, found.null = f"<{count} x {element}>", "zeroinitializer"
            found.element, found.count = element, count
            found = cls._all.setdefault((element, count), found)
        return found


class ArrayType(Type):
    """`count` elements in a row in memory."""

    __slots__ = ()

    def __init__(self, element: Type, count: int):
        self.text = f"[{count} x {element}]"
        self.element, self.count = element, count


class FunctionType:
    """What a function gives and takes."""

    def __init__(self, result: Type, arguments: list[Type]):
        self.result, self.arguments = result, arguments
