"""Definitions as text: a parsed message printed again, and old definitions in the current form.

    print(upgraded_text("lenet_v0.prototxt"))

Comments are not part of a message, so they are lost.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from graphc.error import NetError
from graphc.frontends.caffe.definition import need_net
from graphc.frontends.caffe.message import Message
from graphc.frontends.caffe.prototxt import parse, read_source
from graphc.frontends.caffe.upgrade import upgrade
from graphc.source import Source

_WIDTH = 90
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def print_message(message: Message) -> str:
    """The message as prototxt, which reads back as the same fields and values.

    Messages that hold no others stand on one line where they fit.
    """
    return "".join(f"{line}\n" for line in _lines(message, 0))


def upgraded_text(text: str | Path | Source) -> str:
    """A net definition of any of Caffe's formats, printed in the current one.

    `text` is a path, or the text itself where it holds a newline or `{`. Include and exclude rules
    stay as they are. Raises NetError with every mistake that keeps it from being read.
    """
    source = read_source(text)
    parsed = parse(source)
    if parsed.errors:
        need_net(source, parsed.errors[0].span)
        raise NetError(parsed.errors)
    upgraded = upgrade(parsed.message)
    if upgraded.errors:
        raise NetError(upgraded.errors)
    return print_message(upgraded.message)


def _lines(message: Message, depth: int) -> list[str]:
    indent = "  " * depth
    lines: list[str] = []
    for given in message:
        description = message.descriptor.fields_by_name[given.name]
        if description.message_type is None:
            lines.append(f"{indent}{given.name}: {_scalar(description, given.value)}")
            continue
        short = _one_line(given.name, given.value)
        if short is not None and len(indent) + len(short) <= _WIDTH:
            lines.append(indent + short)
        else:
            inner = _lines(given.value, depth + 1)
            lines += [f"{indent}{given.name} {{", *inner, f"{indent}}}"]
    return lines


def _one_line(name: str, message: Message) -> str | None:
    """`name { a: 1 b: 2 }`, or None where the message holds another one."""
    parts = []
    for given in message:
        description = message.descriptor.fields_by_name[given.name]
        if description.message_type is not None:
            return None
        parts.append(f"{given.name}: {_scalar(description, given.value)}")
    return " ".join([f"{name} {{", *parts, "}"])


def _scalar(description: FieldDescriptor, value: Any) -> str:
    if description.enum_type is not None:
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _real(value)
    if isinstance(value, bytes):
        return '"' + "".join(_byte(byte) for byte in value) + '"'
    if isinstance(value, str):
        return '"' + "".join(_character(letter) for letter in value) + '"'
    return str(value)


def _real(value: float) -> str:
    """The shortest digits that read back as the number."""
    if not math.isfinite(value):
        return str(value)
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def _character(letter: str) -> str:
    if letter in _ESCAPES:
        return _ESCAPES[letter]
    return letter if letter.isprintable() else "".join(_byte(b) for b in letter.encode())


def _byte(byte: int) -> str:
    letter = chr(byte)
    if letter in _ESCAPES:
        return _ESCAPES[letter]
    return letter if 32 <= byte < 127 else f"\\{byte:03o}"
