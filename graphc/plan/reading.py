"""Reads the text of a Program back: what `graphc.plan.text` prints.

The text holds what a program does and where its bytes lie. It does not hold what was said about it:
remarks, bounds of memory, and by what a blob was overwritten are empty in what is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from graphc.error import Diagnostic, NetError
from graphc.ir.types import DTYPES, TensorType, row_major
from graphc.kernel.lang import Kernel
from graphc.kernel.reading import parse_kernel
from graphc.plan.program import MemoryReport, Program, ProgramBuffer, Slot, Step
from graphc.plan.text import READABLE_SECTIONS
from graphc.source import Source, Span

_NAME = r'(?:"(?:[^"\\]|\\.)*"|[^\s,()"\\]+)'
_NAMES = rf"{_NAME}(?:, {_NAME})*"
_PROGRAM = re.compile(rf"program (?P<name>{_NAME})")
_ARENA = re.compile(r"  0 arena  (?P<bytes>[\d,]+) bytes")
_SLOT = re.compile(rf"  (?P<number>\d+) (?P<role>\w+) (?P<name>{_NAME}): (?P<type>\w+\[[\d, ]*\])")
_BUFFER = re.compile(
    rf"  (?P<name>{_NAME}): (?P<type>\w+\[[\d, ]*\])(?: strides \((?P<strides>[\d, ]*)\))?"
    r" slot (?P<slot>\d+) \+ (?P<offset>\d+), steps (?P<first>\d+)\.\.(?P<last>\d+)"
    r"(?:, needed to (?P<needed>\d+))?"
)
_READABLE = re.compile(rf"  (?P<blob>{_NAME}) in (?P<buffer>{_NAME})")
_STEP = re.compile(
    rf"  (?P<number>\d+) (?P<layer>{_NAMES})(?: \((?P<kind>[^()]*)\))?: (?P<kernel>k\d+)"
    rf"(?: (?P<reads>{_NAMES}))? -> (?P<writes>{_NAMES})"
)
_KERNEL = re.compile(r"  (?P<name>k\d+) = (?P<head>kernel .*)")
_ROLES = ("input", "output", "parameter", "constant", "gradient", "state")
_SECTIONS = ("slots", "buffers", *READABLE_SECTIONS, "forward", "backward", "kernels")


@dataclass
class _StepLine:
    """A step before its kernel is known."""

    found: re.Match[str]
    backward: bool
    span: Span


@dataclass
class _Reader:
    source: Source
    name: str = ""
    arena_bytes: int = 0
    slots: list[Slot] = field(default_factory=list)
    buffers: dict[str, ProgramBuffer] = field(default_factory=dict)
    readable: tuple[dict[str, str], dict[str, str]] = field(default_factory=lambda: ({}, {}))
    steps: list[_StepLine] = field(default_factory=list)
    kernels: dict[str, list[tuple[str, Span]]] = field(default_factory=dict)


def parse_program(text: str, name: str = "<program>") -> Program:
    """The program that `print_program` prints so, with its kernels.

    Raises NetError with line and caret for what is not in that form, and for steps, buffers and
    kernels that do not fit each other.
    """
    reader = _Reader(Source(name, text))
    section = ""
    for line, span in _lines(reader.source):
        if line in _SECTIONS:
            section = line
        elif not section:
            reader.name = _unquoted(_match(_PROGRAM, line, span, "program NAME")["name"])
        else:
            _read(reader, section, line, span)
    return _program(reader)


def _lines(source: Source) -> Iterator[tuple[str, Span]]:
    start = 0
    for line in source.text.split("\n"):
        if line.strip():
            yield line.rstrip(), source.span(start, start + max(len(line), 1))
        start += len(line) + 1


def _match(pattern: re.Pattern[str], line: str, span: Span, form: str) -> re.Match[str]:
    found = pattern.fullmatch(line)
    if found is None:
        raise NetError(Diagnostic(f"expected a line like '{form}'", span))
    return found


def _read(reader: _Reader, section: str, line: str, span: Span) -> None:
    if section == "slots":
        _read_slot(reader, line, span)
    elif section == "buffers":
        _read_buffer(reader, line, span)
    elif section in READABLE_SECTIONS:
        held = _match(_READABLE, line, span, "conv1 in conv1")
        buffer = _unquoted(held["buffer"])
        if buffer not in reader.buffers:
            raise NetError(Diagnostic(f"there is no buffer '{buffer}'", span))
        reader.readable[READABLE_SECTIONS.index(section)][_unquoted(held["blob"])] = buffer
    elif section in ("forward", "backward"):
        found = _match(_STEP, line, span, "0 conv1 (Convolution): k1 data, conv1/0 -> conv1")
        if int(found["number"]) != len(reader.steps):
            raise NetError(Diagnostic(f"expected step {len(reader.steps)}", span))
        reader.steps.append(_StepLine(found, section == "backward", span))
    else:
        found_head = _KERNEL.fullmatch(line)
        if found_head:
            reader.kernels[found_head["name"]] = [(found_head["head"], span)]
        elif reader.kernels:
            reader.kernels[list(reader.kernels)[-1]].append((line, span))
        else:
            raise NetError(Diagnostic("expected a line like 'k1 = kernel copy(...)'", span))


def _read_slot(reader: _Reader, line: str, span: Span) -> None:
    if not reader.slots:
        found = _match(_ARENA, line, span, "0 arena  1,024 bytes")
        reader.arena_bytes = int(found["bytes"].replace(",", ""))
        reader.slots.append(Slot("arena", "arena", TensorType("uint8", (0,))))
        return
    found = _match(_SLOT, line, span, "1 input data: float32[2, 3]")
    if int(found["number"]) != len(reader.slots):
        raise NetError(Diagnostic(f"expected slot {len(reader.slots)}", span))
    if found["role"] not in _ROLES:
        raise NetError(Diagnostic(f"a slot's role is one of {', '.join(_ROLES)}", span))
    kind = _type(found["type"], span)
    # The role is one of _ROLES, as has just been seen.
    slot = Slot(_unquoted(found["name"]), found["role"], kind)  # type: ignore[arg-type]
    reader.slots.append(slot)


def _read_buffer(reader: _Reader, line: str, span: Span) -> None:
    form = "conv1: float32[2, 3] slot 0 + 64, steps 0..3"
    found = _match(_BUFFER, line, span, form)
    type = _type(found["type"], span)
    strides = row_major(type.shape) if found["strides"] is None else _whole(found["strides"])
    buffer = ProgramBuffer(
        name=_unquoted(found["name"]),
        dtype=type.dtype,
        shape=type.shape,
        strides=strides,
        slot=int(found["slot"]),
        offset=int(found["offset"]),
        first=int(found["first"]),
        last=int(found["last"]),
        needed=int(found["needed"] or found["last"]),
    )
    if len(strides) != type.rank:
        raise NetError(Diagnostic(f"{type} needs {type.rank} strides", span))
    if buffer.slot >= len(reader.slots):
        raise NetError(Diagnostic(f"there is no slot {buffer.slot}", span))
    _need_inside(reader, buffer, span)
    reader.buffers[buffer.name] = buffer


def _need_inside(reader: _Reader, buffer: ProgramBuffer, span: Span) -> None:
    """A buffer beyond its slot would be memory of somebody else."""
    held = reader.slots[buffer.slot].type.bytes if buffer.slot else reader.arena_bytes
    end = buffer.offset + buffer.span_bytes
    if end > held or buffer.offset % DTYPES[buffer.dtype]:
        raise NetError(
            Diagnostic(f"it ends at byte {end}, its slot holds {held}; offsets are aligned", span)
        )


def _type(text: str, span: Span) -> TensorType:
    try:
        return TensorType.parse(text)
    except NetError as error:
        raise NetError(Diagnostic(str(error), span)) from None


def _whole(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part.strip())


def _unquoted(name: str) -> str:
    return str(json.loads(name)) if name.startswith('"') else name


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(_unquoted(name) for name in re.findall(_NAME, text or ""))


def _program(reader: _Reader) -> Program:
    kernels = {name: _kernel(lines) for name, lines in reader.kernels.items()}
    steps = tuple(_step(reader, kernels, line) for line in reader.steps)
    slots: dict[str, int] = {}
    for slot in reader.slots[1:]:
        slots[slot.role] = slots.get(slot.role, 0) + slot.type.bytes
    return Program(
        name=reader.name,
        slots=tuple(reader.slots),
        buffers=reader.buffers,
        steps=steps,
        forward_steps=sum(not line.backward for line in reader.steps),
        arena_bytes=reader.arena_bytes,
        memory=MemoryReport(reader.arena_bytes, 0, 0, 0, slots),
        readable=reader.readable[1],
        overwritten={},
        readable_forward=reader.readable[0],
    )


def _kernel(lines: list[tuple[str, Span]]) -> Kernel:
    text = "\n".join([lines[0][0], *(line.strip() for line, _ in lines[1:])])
    try:
        return parse_kernel(text)
    except NetError as error:
        number = re.match(r"kernel text, line (\d+): ", str(error))
        place = int(number[1]) - 1 if number else 0
        said = str(error).partition(": ")[2] if number else str(error)
        raise NetError(Diagnostic(said, lines[place][1])) from None


def _step(reader: _Reader, kernels: dict[str, Kernel], line: _StepLine) -> Step:
    found = line.found
    if found["kernel"] not in kernels:
        raise NetError(Diagnostic(f"there is no kernel {found['kernel']}", line.span))
    kernel = kernels[found["kernel"]]
    reads, writes = _names(found["reads"]), _names(found["writes"])
    if (len(reads), len(writes)) != (len(kernel.inputs), len(kernel.outputs)):
        takes = f"{len(kernel.inputs)} inputs and {len(kernel.outputs)} outputs"
        raise NetError(Diagnostic(f"{found['kernel']} takes {takes}", line.span))
    for name, formal in zip((*reads, *writes), kernel.buffers, strict=True):
        buffer = reader.buffers.get(name)
        if buffer is None:
            raise NetError(Diagnostic(f"there is no buffer '{name}'", line.span))
        given = (buffer.dtype, buffer.shape, buffer.strides)
        if given != (formal.dtype, formal.shape, formal.strides):
            said = f"'{name}' has not the type and strides that {found['kernel']} takes"
            raise NetError(Diagnostic(said, line.span))
    layer = ", ".join(_names(found["layer"])) if found["layer"] != "-" else ""
    return Step(kernel, (*reads, *writes), layer, found["kind"] or "", line.backward)
