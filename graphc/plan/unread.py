"""Which results nothing in the program reads again: those that are made for the user alone.

Code generation may send such a result past the caches, where what comes next needs them for itself.
"""

from __future__ import annotations

from dataclasses import replace

from graphc.kernel.lang import Kernel
from graphc.plan.draft import Draft, DraftStep

# Smaller ones stay in any core's cache until they are read, and are in nobody's way.
LEAST_BYTES = 1 << 18


def mark_unread(draft: Draft) -> None:
    """Let kernels know which of their large outputs go to the user, and to no other step.

    To be done when no step is added any more.
    """
    read = {draft.arrays[name].storage for step in draft.steps for name in step.reads}
    ends = {
        name
        for name, array in draft.arrays.items()
        if draft.slots[array.storage.slot].role == "output"
        and array.type.bytes >= LEAST_BYTES
        and array.storage not in read
    }
    marked: dict[Kernel, dict[tuple[str, ...], Kernel]] = {}
    for step in draft.steps:
        unread = _unread(step, ends)
        if unread:
            known = marked.setdefault(step.kernel, {})
            step.kernel = known.setdefault(unread, replace(step.kernel, unread=unread))


def _unread(step: DraftStep, ends: set[str]) -> tuple[str, ...]:
    """The formal names of a step's outputs that are among `ends`."""
    outputs = zip(step.kernel.outputs, step.writes, strict=True)
    return tuple(buffer.name for buffer, name in outputs if name in ends)
