"""The products of Winograd's points: for each point, tiles by channels times channels by outputs.

A register tile is rows of tiles by vectors of outputs. While its sums run over the channels, one
fetch a step asks for the rows of the next register tile, and one for a part of the filters that
come next: both lie in the second-level cache by then, where a miss costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.loops import Carry, Count, whole
from graphc.codegen.llvm.operand import Operands
from graphc.codegen.llvm.shares import each

CHUNK = 128  # channels that are added up one after another, no float32 sum being longer


@dataclass(frozen=True)
class PointSizes:
    """Elements: channels, outputs of a block, from a tile's channels to the next one's (pitch).

    rows, vectors: of a register tile. groups: register tiles of a whole strip, one below the other.
    """

    channels: int
    block: int
    pitch: int
    rows: int
    vectors: int
    groups: int


def register_tile(vectors: int, most_rows: int, registers: int) -> tuple[int, int]:
    """(vectors, rows) with the most multiplications for each load, of so many at most."""
    found = [
        (v, min(most_rows, (registers - v - 1) // v))
        for v in range(1, vectors + 1)
        if vectors % v == 0 and 2 * v + 1 <= registers
    ]
    return max(found, key=lambda size: size[0] * size[1] / (size[0] + size[1]))


class PointProduct:
    """Emits products[tile, output] = sum over channels of windows[tile, channel] * filters."""

    def __init__(self, at: Operands, sizes: PointSizes):
        self.at, self.sizes = at, sizes
        self.frame, self.builder = at.frame, at.builder
        self.width = sizes.vectors * at.lanes
        chunks = -(-sizes.channels // CHUNK)
        self.chunk = -(-sizes.channels // chunks)
        self.parts = sizes.groups * (sizes.block // self.width)

    def emit(
        self,
        windows: ir.Value,
        filters: ir.Value,
        products: ir.Value,
        groups: tuple[ir.Value, ir.Value],
        before: Callable[[ir.Value], None],
    ) -> None:
        """For tiles rows * groups[0] .. rows * groups[1] - 1 of the strip.

        before: emits what is to be done before the first sums of each of these groups.
        """
        channels = self.sizes.channels
        self.following = self.at.moved(filters, channels * self.sizes.block)
        self._rows(windows, filters, products, groups, (0, min(self.chunk, channels)), before)

        def chunk(first: ir.Value, _: Carry) -> Carry:
            end = self.at.smaller(self.builder.add(first, whole(self.chunk)), channels)
            self._rows(windows, filters, products, groups, (first, end), None)
            return []

        self.frame.loop(self.chunk, channels, self.chunk, [], chunk)

    def _rows(
        self,
        windows: ir.Value,
        filters: ir.Value,
        products: ir.Value,
        groups: tuple[ir.Value, ir.Value],
        chunk: tuple[Count, Count],
        before: Callable[[ir.Value], None] | None,
    ) -> None:
        """One chunk: the first one's sums are stored, the others' added."""
        b, sizes = self.builder, self.sizes

        def rows(i: ir.Value) -> None:
            if before is not None:
                before(i)
            a = self.at.moved(windows, b.mul(i, whole(sizes.rows * sizes.pitch)))
            c = self.at.moved(products, b.mul(i, whole(sizes.rows * sizes.block)))

            def columns(j: ir.Value) -> None:
                skip = b.mul(j, whole(self.width))
                part = b.add(b.mul(i, whole(sizes.block // self.width)), j)
                size = sizes.channels * sizes.block // self.parts
                ahead = self.at.moved(self.following, b.mul(part, whole(size)))
                sums = self._sums(a, self.at.moved(filters, skip), ahead, chunk)
                target = self.at.moved(c, skip)
                for number, value in enumerate(sums):
                    row, vector = divmod(number, sizes.vectors)
                    place = self.at.moved(target, row * sizes.block + vector * self.at.lanes)
                    if chunk[0] != 0:
                        value = b.fadd(self.at.load(place), value)
                    self.at.store(value, place)

            each(self.frame, 0, sizes.block // self.width, columns)

        each(self.frame, *groups, rows)

    def _sums(
        self, a: ir.Value, filters: ir.Value, ahead: ir.Value, chunk: tuple[Count, Count]
    ) -> Carry:
        """A register tile's sums over one chunk of the channels."""
        b, sizes, lanes = self.builder, self.sizes, self.at.lanes
        step = -(-sizes.block // self.parts)  # fetched of the filters for each channel

        def channel(k: ir.Value, sums: Carry) -> Carry:
            line = self.at.moved(filters, b.mul(k, whole(sizes.block)))
            right = [self.at.load(self.at.moved(line, j * lanes)) for j in range(sizes.vectors)]
            below = self.at.moved(a, sizes.rows * sizes.pitch)
            self.at.fetch(self.at.moved(below, b.mul(k, whole(sizes.rows))))
            self.at.fetch(self.at.moved(ahead, b.mul(k, whole(step))))
            left, new = self.at.moved(a, k), []
            for row in range(sizes.rows):
                one = self.at.everywhere(self.at.moved(left, row * sizes.pitch))
                for j, vector in enumerate(right):
                    new.append(self.at.math.fma(one, vector, sums[row * sizes.vectors + j]))
            return new

        zeros = [self.at.zero] * (sizes.rows * sizes.vectors)
        return self.frame.loop(*chunk, 1, zeros, channel, running=True)
