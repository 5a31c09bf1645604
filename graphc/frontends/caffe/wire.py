"""Protocol buffers' binary form: fields of a message as they lie in the file.

A weight file is one message of hundreds of megabytes, nearly all of it runs of floats. Walking
over it by hand leaves these runs where they are, so that numpy takes them without a copy through
Python numbers, and tells what is wrong with a damaged file.
https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

Payload = int | memoryview


class WireError(ValueError):
    """Bytes that are no message."""


def fields(data: memoryview, outer: int = 0) -> Iterator[tuple[int, int, Payload]]:
    """(field number, wire type, payload) of each field of a message.

    The payload of a VARINT is a whole number (unsigned), any other the field's bytes. `outer` is
    the offset of `data` in its file, for messages. Raises WireError where the bytes end early or
    mean nothing.
    """
    at = 0
    while at < len(data):
        start = at
        key, at = _varint(data, at, outer)
        number, kind = key >> 3, key & 7
        payload: Payload
        if number == 0:
            raise WireError(f"a field without a number at byte {outer + start}")
        if kind == VARINT:
            payload, at = _varint(data, at, outer)
        elif kind == BYTES:
            size, at = _varint(data, at, outer)
            payload, at = _take(data, at, size, outer)
        elif kind in (FIXED32, FIXED64):
            payload, at = _take(data, at, 4 if kind == FIXED32 else 8, outer)
        else:
            raise WireError(f"unknown kind of field ({kind}) at byte {outer + start}")
        yield number, kind, payload


def signed(value: int) -> int:
    """A varint's 64 bits read as a signed number."""
    return value - (1 << 64) if value >= 1 << 63 else value


def varints(data: memoryview) -> list[int]:
    """A packed run of varints, each read as a signed number."""
    values = []
    at = 0
    while at < len(data):
        value, at = _varint(data, at, 0)
        values.append(signed(value))
    return values


def encode_varint(value: int) -> bytes:
    """A whole number, not negative, in seven bits a byte."""
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def header(number: int, size: int) -> bytes:
    """What stands before `size` bytes of field `number`."""
    return encode_varint(number << 3 | BYTES) + encode_varint(size)


def _varint(data: memoryview, at: int, outer: int) -> tuple[int, int]:
    value = 0
    for i in range(10):
        if at + i >= len(data):
            raise WireError(f"the data end inside a number at byte {outer + at}")
        byte = data[at + i]
        value |= (byte & 127) << 7 * i
        if byte < 128:
            return value & (1 << 64) - 1, at + i + 1
    raise WireError(f"a number of more than 10 bytes at byte {outer + at}")


def _take(data: memoryview, at: int, size: int, outer: int) -> tuple[memoryview, int]:
    if size > len(data) - at:
        raise WireError(
            f"a field at byte {outer + at} should have {size} bytes, only {len(data) - at} follow"
        )
    return data[at : at + size], at + size
