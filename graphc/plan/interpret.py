"""Run a Program in numpy on a real block of bytes: the check of a plan.

Before every step all bytes of the arena that the plan calls dead are filled with 0xFF, which reads
as not-a-number in both real types, so a plan that frees too early or places two values on each
other gives itself away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from graphc.error import NetError, need
from graphc.kernel.interp import interpret
from graphc.plan.program import Program, ProgramBuffer

POISON = 0xFF


def make_slots(program: Program, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Arrays for all slots: the arena, copies of the given ones, zeros for outputs and the rest."""
    slots: list[np.ndarray] = [np.full(program.arena_bytes, POISON, np.uint8)]
    for slot in program.slots[1:]:
        fresh = np.zeros(slot.type.shape, slot.type.dtype)
        if slot.role != "output" and slot.name in arrays:
            fresh[...] = arrays[slot.name]
        slots.append(fresh)
    return slots


def view(buffer: ProgramBuffer, slots: Sequence[np.ndarray]) -> np.ndarray:
    """A buffer's elements, as a view of the slot's bytes. NetError where it reaches past them."""
    flat = slots[buffer.slot].reshape(-1).view(np.uint8)
    need(
        buffer.offset + buffer.span_bytes <= flat.nbytes,
        f"buffer '{buffer.name}' reaches past the end of its slot",
    )
    dtype = np.dtype(buffer.dtype)
    strides = tuple(stride * dtype.itemsize for stride in buffer.strides)
    return np.ndarray(buffer.shape, dtype, flat.data, buffer.offset, strides)


def run_interpreted(
    program: Program,
    slots: Sequence[np.ndarray],
    poison: bool = True,
    first: int = 0,
    end: int | None = None,
) -> None:
    """Run steps `first` .. `end` - 1 in place on the slots, which `make_slots` made.

    Raises NetError where a step's check fails, as the native program does.
    """
    arena = [buffer for buffer in program.buffers.values() if buffer.slot == 0]
    for position in range(first, len(program.steps) if end is None else end):
        if poison:
            _poison(arena, slots[0], position)
        step = program.steps[position]
        actual = [view(program.buffers[name], slots) for name in step.arguments]
        for failure in interpret(step.kernel, actual):
            raise NetError(f"{step.layer or step.kernel.name}: {failure.message}: {failure.value}")


def _poison(arena: list[ProgramBuffer], block: np.ndarray, position: int) -> None:
    dead = np.ones(len(block), bool)
    for buffer in arena:
        if buffer.first <= position <= buffer.last and 0 not in buffer.shape:
            mine = np.ndarray(
                buffer.shape,
                np.dtype((np.void, np.dtype(buffer.dtype).itemsize)),
                dead.data,
                buffer.offset,
                tuple(s * np.dtype(buffer.dtype).itemsize for s in buffer.strides),
            )
            mine[...] = np.void(bytes(np.dtype(buffer.dtype).itemsize))
    block[dead] = POISON
