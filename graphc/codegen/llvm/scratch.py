"""Memory that a thread works in while it runs a kernel: too much for the stack of any caller.

A thread that somebody else made may have little stack: 512 KiB on macOS, 128 KiB with musl. What
the caller's thread works in lies behind the arena's planned bytes; the threads that a call makes
have it on their own stacks, which are made large enough (see `crew`).
"""

from __future__ import annotations

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.lanes import CACHE_LINE, TYPES
from graphc.codegen.llvm.loops import whole
from graphc.ir.types import DTYPES

ALIGNMENT = 512  # bytes; where a thread's memory begins: at the widest strip of vectors


def behind_arena(scratch_bytes: int) -> int:
    """How many bytes an arena has behind the planned ones."""
    return scratch_bytes + ALIGNMENT - 1 if scratch_bytes else 0


class Scratch:
    """Hands out what a kernel's function gets as its last argument; `bytes`: so much until now."""

    def __init__(self, builder: ir.IRBuilder, place: ir.Value):
        self.builder = builder
        self.place = place
        self.bytes = 0

    def array(self, dtype: str, items: int, alignment: int = CACHE_LINE) -> ir.Value:
        """Room for so many elements, where the builder stands."""
        assert alignment <= ALIGNMENT
        start = -(-self.bytes // alignment) * alignment
        self.bytes = start + items * DTYPES[dtype]
        return self.builder.gep(self.place, [whole(start)], source_etype=TYPES["uint8"])
