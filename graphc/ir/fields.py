"""Whether a text gives an operator the fields it has, of their types, and as many inputs."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Mapping
from typing import Any

from graphc.error import did_you_mean
from graphc.ir.op import Op


def wrong_fields(operator: type[Op], given: Mapping[str, Any]) -> tuple[str, str] | None:
    """(what is wrong, a hint) about the fields of an operator; None where all is well."""
    name = operator.op_name
    fields = {f.name: f for f in dataclasses.fields(operator)}
    known = ", ".join(fields) or "none"
    for field in given:
        if field not in fields:
            hint = did_you_mean(field, fields)
            return f"'{name}' has no field '{field}'; its fields are {known}", hint
    for field, entry in fields.items():
        has_default = entry.default is not dataclasses.MISSING
        if field not in given and not has_default and entry.default_factory is dataclasses.MISSING:
            return f"'{name}' needs the field '{field}'; its fields are {known}", ""
    hints = typing.get_type_hints(operator)
    for field, value in given.items():
        if not _fits(value, hints[field]):
            wanted = getattr(hints[field], "__name__", "")
            shown = wanted if isinstance(hints[field], type) and wanted else str(hints[field])
            shown = str(hints[field]) if typing.get_args(hints[field]) else shown
            return f"field '{field}' of '{name}' is of type {shown}, not {value!r}", ""
    return None


def wrong_count(op: Op, given: int) -> str:
    """What is wrong with so many inputs of an operator; empty where it takes them."""
    taken = inspect.signature(op.infer).parameters.values()
    if any(one.kind is one.VAR_POSITIONAL for one in taken):
        return ""
    most = len(taken)
    least = sum(one.default is one.empty for one in taken)
    if least <= given <= most:
        return ""
    names = " and ".join(one.name for one in taken) or "none"
    needed = f"{most}" if least == most else f"{least} to {most}"
    inputs = "input" if needed == "1" else "inputs"
    return f"'{op.op_name}' takes {needed} {inputs} ({names}), not {given}"


def _fits(value: Any, wanted: Any) -> bool:
    """Whether a literal has the type of a field; a whole number will do for a real one."""
    if wanted is Any:
        return True
    origin, parts = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, part) for part in parts)
    if origin is typing.Literal:
        return value in parts
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(parts) == 2 and parts[1] is Ellipsis:
            return all(_fits(item, parts[0]) for item in value)
        pairs = zip(value, parts, strict=False)
        return len(value) == len(parts) and all(_fits(item, part) for item, part in pairs)
    if wanted is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, wanted) if isinstance(wanted, type) else True
