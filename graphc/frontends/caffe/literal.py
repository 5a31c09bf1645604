"""Literals of the text format: what a number, a word or a string is worth for a field's type.

The rules are those of protobuf's own reader: whole numbers also in hexadecimal and octal, floats
with an `f` behind, `inf` and `nan`, truth as `true`, `t`, `True` or 1, enum values by name or
number.
"""

from __future__ import annotations

import re
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

from graphc.error import did_you_mean
from graphc.frontends.caffe.tokens import Token, unescape

_WHOLE = re.compile(r"0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*")
_REAL = re.compile(r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[fF]?")
_BOUNDS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_TRUTH = {"true": True, "True": True, "t": True, "false": False, "False": False, "f": False}


class LiteralError(ValueError):
    """A literal that does not suit its field, with a hint and the best guess at what was meant."""

    def __init__(self, message: str, hint: str = "", guess: Any = None):
        super().__init__(message)
        self.hint = hint
        self.guess = guess


def scalar_value(field: FieldDescriptor, token: Token, negative: bool) -> Any:
    """The value of one number or word, with or without a minus sign before it."""
    if field.enum_type is not None:
        return _enum_value(field, field.enum_type, token, negative)
    if field.cpp_type in _BOUNDS:
        return _whole_value(field, token, negative)
    if field.cpp_type in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return _real_value(field, token, negative)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return _truth_value(field, token, negative)
    hint = f'did you mean "{token.text}"?' if token.kind == "word" else ""
    guess = token.text if token.kind == "word" else None
    raise LiteralError(f"'{field.name}' is a string and needs quotes", hint, guess)


def string_value(field: FieldDescriptor, tokens: list[Token]) -> str | bytes:
    """The value of one or more adjacent strings."""
    if field.cpp_type != FieldDescriptor.CPPTYPE_STRING:
        hint = ""
        if field.enum_type is not None:
            hint = "the name of an enum value stands without quotes"
        raise LiteralError(f"'{field.name}' is {_kind(field)}, not a string", hint)
    try:
        content = b"".join(unescape(token.text) for token in tokens)
    except ValueError as error:
        raise LiteralError(f"unknown escape sequence {error} in a string") from None
    if field.type == FieldDescriptor.TYPE_BYTES:
        return content
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise LiteralError(f"the string of '{field.name}' is not UTF-8") from None


def _whole_value(field: FieldDescriptor, token: Token, negative: bool) -> int:
    low, high = _BOUNDS[field.cpp_type]
    sign = "-" if negative else ""
    if not _WHOLE.fullmatch(token.text):
        if token.kind == "number" and _REAL.fullmatch(token.text):
            shown = f"'{field.name}' must be a whole number, not {sign}{_shorten(token.text)}"
            raise LiteralError(shown)
        raise LiteralError(f"'{field.name}' is {_kind(field)}, found {token}")
    if negative and low == 0:
        raise LiteralError(f"'{field.name}' must not be negative")
    value = _whole(token.text)
    value = -value if negative else value
    if not low <= value <= high:
        bound = f"at least {low}" if negative else f"at most {high}"
        shown = sign + _shorten(token.text)
        raise LiteralError(f"{shown} is out of range for '{field.name}' ({bound})")
    return value


def _real_value(field: FieldDescriptor, token: Token, negative: bool) -> float:
    text = token.text
    if token.kind == "word" and text.lower() in ("inf", "infinity", "nan"):
        value = float(text)
    elif token.kind == "number" and _REAL.fullmatch(text):
        if len(text) > 1 and text[0] == "0" and text.isdigit():
            raise LiteralError(f"'{field.name}' needs a decimal number, found {token}")
        value = float(text.rstrip("fF"))
    else:
        raise LiteralError(f"'{field.name}' is a number, found {token}")
    return -value if negative else value


def _truth_value(field: FieldDescriptor, token: Token, negative: bool) -> bool:
    if token.kind == "word" and token.text in _TRUTH and not negative:
        return _TRUTH[token.text]
    if _WHOLE.fullmatch(token.text) and not negative and _whole(token.text) in (0, 1):
        return bool(_whole(token.text))
    hint = did_you_mean(token.text.lower(), ("true", "false"))
    raise LiteralError(f"'{field.name}' is true or false, found {token}", hint)


def _enum_value(field: FieldDescriptor, enum: EnumDescriptor, token: Token, negative: bool) -> str:
    if token.kind == "word" and not negative:
        if token.text in enum.values_by_name:
            return token.text
        names = [value.name for value in enum.values]
        close = did_you_mean(token.text.upper(), names)
        hint = close or f"known values: {', '.join(names)}"
        meant = next((name for name in names if f"'{name}'" in close), None)
        raise LiteralError(f"{enum.name} has no value '{_shorten(token.text)}'", hint, meant)
    if not _WHOLE.fullmatch(token.text):
        raise LiteralError(f"'{field.name}' is {_kind(field)}, found {token}")
    number = -_whole(token.text) if negative else _whole(token.text)
    if not -(2**31) <= number < 2**31 or number not in enum.values_by_number:
        raise LiteralError(f"{enum.name} has no value {'-' * negative}{_shorten(token.text)}")
    return str(enum.values_by_number[number].name)


def _whole(text: str) -> int:
    """The number that a whole literal means, or something beyond every bound."""
    if len(text) > 30:
        return 1 << 100
    if text[:2] in ("0x", "0X"):
        return int(text, 16)
    return int(text, 8 if text[0] == "0" else 10)


def _kind(field: FieldDescriptor) -> str:
    if field.enum_type is not None:
        names = [value.name for value in field.enum_type.values]
        return f"one of {', '.join(names[:6])}{' ...' if len(names) > 6 else ''}"
    if field.cpp_type in _BOUNDS:
        return "a whole number"
    return "true or false" if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL else "a number"


def _shorten(text: str) -> str:
    return text if len(text) <= 40 else text[:40] + "..."
