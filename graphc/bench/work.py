"""How much work a step is: floating-point operations, and bytes that must move."""

from __future__ import annotations

import math
from dataclasses import dataclass

from graphc.ir.types import DTYPES
from graphc.kernel.contraction import match
from graphc.kernel.work import flops_of, product_flops_of
from graphc.plan.program import Program, Step


@dataclass(frozen=True)
class Work:
    """products: operations of the contraction, if it is one. flops: all on reals. bytes: moved."""

    products: int
    flops: int
    bytes: int


def work_of(program: Program, step: Step) -> Work:
    """What a step must do; operations as `graphc.kernel.work` counts them."""
    return Work(product_flops_of(step.kernel), flops_of(step.kernel), moved_bytes(program, step))


def moved_bytes(program: Program, step: Step) -> int:
    """Every buffer once: what is read from memory and written to it at least."""
    total = 0
    seen: set[tuple[int, int, tuple[int, ...]]] = set()
    for name in _touched(step):
        place = program.buffers[name]
        key = (place.slot, place.offset, place.shape)
        if key not in seen:
            seen.add(key)
            total += math.prod(place.shape) * DTYPES[place.dtype]
    return total


def _touched(step: Step) -> list[str]:
    """The arrays in memory: not what stays in caches, nor weights that are read transformed."""
    way, contraction = step.kernel.winograd, match(step.kernel)
    if way is None or contraction is None:
        return list(step.arguments)
    unread = {way.work}
    if way.filters is not None:
        unread.add(contraction.right.buffer.name)
    pairs = zip(step.kernel.buffers, step.arguments, strict=True)
    return [name for buffer, name in pairs if buffer.name not in unread]
