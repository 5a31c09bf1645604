"""A kernel that makes only some of its outputs.

Joined sweeps make several arrays at once. Where one of them alone is made again, the others need
not be: their stores go, and what only they needed. That is done for kernels that are all maps,
where each element is computed by itself, so that every number stays what it was, bit for bit.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from graphc.kernel.contraction import KERNELS_REMEMBERED
from graphc.kernel.join import canonical, needed
from graphc.kernel.lang import Check, Fold, Kernel, Load, Store
from graphc.kernel.walk import statement_exprs, walk


@lru_cache(KERNELS_REMEMBERED)
def narrowed(kernel: Kernel, wanted: frozenset[int]) -> tuple[Kernel, tuple[int, ...]] | None:
    """The kernel that makes the outputs at these positions, and which arguments it still takes.

    None where it is no map, or reads what it would not make any more.
    """
    for statement in kernel.body:
        if isinstance(statement, Fold | Check):
            return None
        if isinstance(statement, Store) and (statement.axes or statement.mode == "add"):
            return None
    outputs = [buffer for place, buffer in enumerate(kernel.outputs) if place in wanted]
    gone = set(kernel.outputs) - set(outputs)
    body = [s for s in kernel.body if not (isinstance(s, Store) and s.buffer in gone)]
    body = needed(body)
    parts = (part for s in body for expr in statement_exprs(s) for part in walk(expr))
    read = {part.buffer for part in parts if isinstance(part, Load)}
    if read & gone:
        return None
    kept = [b for b in kernel.buffers if b in outputs or (b in read and b in kernel.inputs)]
    made = replace(
        kernel,
        inputs=tuple(b for b in kernel.inputs if b in kept),
        outputs=tuple(outputs),
        body=tuple(body),
    )
    return canonical(made), tuple(kernel.buffers.index(b) for b in kept)
