"""The loop that threads share: several loops fused into one, taken apart again inside."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.loops import Frame, whole
from graphc.kernel.lang import Axis

Part = Axis | str  # a loop of the kernel, or a name for one that a schedule made


class Shares:
    """A fused loop of `extent` iterations over parts (name, count), the first the slowest."""

    def __init__(self, counts: Sequence[tuple[Part, int]]):
        self.counts = [(name, count) for name, count in counts if count > 1]
        self.extent = math.prod(count for _, count in self.counts)

    def parts(self, builder: ir.IRBuilder, index: ir.Value) -> dict[Part, ir.Value]:
        """Every part's number in iteration `index`; parts that run once are not there."""
        found: dict[Part, ir.Value] = {}
        for name, count in reversed(self.counts[1:]):
            found[name] = builder.urem(index, whole(count))
            index = builder.udiv(index, whole(count))
        if self.counts:
            found[self.counts[0][0]] = index
        return found


def when(frame: Frame, condition: ir.Value, body: Callable[[], None]) -> None:
    """body() if the condition holds."""

    def run(_: list[ir.Value]) -> list[ir.Value]:
        body()
        return []

    frame.guard(condition, [], run)


def each(
    frame: Frame, low: ir.Value | int, high: ir.Value | int, body: Callable[[ir.Value], None]
) -> None:
    """body(i) for i in low .. high - 1."""

    def run(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        body(i)
        return []

    frame.loop(low, high, 1, [], run)
