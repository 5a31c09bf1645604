"""A Program as text.

    program caffenet
    slots
      0 arena  56,590,336 bytes
      1 input data: float32[16, 3, 227, 227]
    buffers
      conv1: float32[16, 96, 55, 55] strides (290400, 1, 5280, 96) slot 0 + 0, steps 2..40
    readable after forward
      conv1 in conv1
    forward
      2 conv1, relu1 (Convolution, ReLU): k1 data~channels-last, conv1/0~packed, conv1/1 -> conv1
    backward
      ...
    kernels
      k1 = kernel conv(...)

`needed to 3` behind a buffer's steps says that after step 3 only a reader of the blob has a use for
it. Equal kernels are printed once. A name that holds a space, a comma, a bracket or a quote is
quoted as in JSON. `graphc.plan.reading` reads the text back.
"""

from __future__ import annotations

import json
import re

from graphc.ir.types import row_major
from graphc.kernel.lang import Kernel
from graphc.kernel.text import print_kernel
from graphc.plan.program import Program, ProgramBuffer

_BARE = re.compile(r'[^\s,()"\\]+')
READABLE_SECTIONS = ("readable after forward", "readable after all")


def print_program(program: Program, kernels: bool = True) -> str:
    """Slots, buffers, steps, and the text of the kernels unless `kernels` is false."""
    names: dict[Kernel, str] = {}
    for step in program.steps:
        names.setdefault(step.kernel, f"k{len(names) + 1}")
    lines = [
        f"program {shown_name(program.name)}",
        "slots",
        f"  0 arena  {program.arena_bytes:,} bytes",
    ]
    for number, slot in enumerate(program.slots[1:], 1):
        lines.append(f"  {number} {slot.role} {shown_name(slot.name)}: {slot.type}")
    lines.append("buffers")
    lines += [f"  {_buffer(buffer)}" for buffer in program.buffers.values()]
    for title, blobs in zip(
        READABLE_SECTIONS, (program.readable_forward, program.readable), strict=True
    ):
        if blobs:
            lines.append(title)
        lines += [f"  {shown_name(blob)} in {shown_name(held)}" for blob, held in blobs.items()]
    for position, step in enumerate(program.steps):
        if position == 0 and program.forward_steps:
            lines.append("forward")
        if position == program.forward_steps:
            lines.append("backward")
        count = len(step.kernel.inputs)
        shown = [shown_name(name) for name in step.arguments]
        reads, writes = ", ".join(shown[:count]), ", ".join(shown[count:])
        kind = f" ({step.kind})" if step.kind else ""
        call = f"{names[step.kernel]} {reads} -> {writes}".replace("  ", " ")
        label = ", ".join(map(shown_name, step.layer.split(", "))) if step.layer else "-"
        lines.append(f"  {position} {label}{kind}: {call}")
    if kernels:
        lines.append("kernels")
        for kernel, name in names.items():
            first, *rest = print_kernel(kernel).splitlines()
            lines.append(f"  {name} = {first}")
            lines += [f"  {line}" for line in rest]
    return "\n".join(lines) + "\n"


def shown_name(name: str) -> str:
    """A name as it stands in the text."""
    return name if _BARE.fullmatch(name) else json.dumps(name)


def _buffer(buffer: ProgramBuffer) -> str:
    shape = ", ".join(map(str, buffer.shape))
    text = f"{shown_name(buffer.name)}: {buffer.dtype}[{shape}]"
    if buffer.strides != row_major(buffer.shape):
        text += f" strides ({', '.join(map(str, buffer.strides))})"
    text += f" slot {buffer.slot} + {buffer.offset}, steps {buffer.first}..{buffer.last}"
    return text if buffer.needed == buffer.last else f"{text}, needed to {buffer.needed}"
