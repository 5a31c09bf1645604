"""The products of Winograd's points: for each point, tiles by channels times channels by outputs.

Channels are added up in chunks: a chunk's filters stay in the first-level cache while all rows pass
over them, and no float32 sum has many terms one after another.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from graphc.codegen.llvm.loops import Count, whole
from graphc.codegen.llvm.operand import Operands
from graphc.codegen.llvm.product import Factor, Product
from graphc.codegen.llvm.shares import each
from graphc.codegen.llvm.tile import Tile
from graphc.codegen.llvm.tiling import TileGroup, Tiling
from graphc.codegen.nodes import KernelNodes
from graphc.kernel.lang import Axis, Buffer

CHUNK = 128  # channels


@dataclass(frozen=True)
class PointSizes:
    """Elements: channels, outputs of a block, from a tile's channels to the next one's (pitch).

    rows, vectors: of a register tile. data: a buffer of the elements' type.
    """

    channels: int
    block: int
    pitch: int
    rows: int
    vectors: int
    data: Buffer


class PointProduct:
    """Emits products[tile, output] = sum over channels of windows[tile, channel] * filters."""

    def __init__(self, at: Operands, sizes: PointSizes, stores: KernelNodes):
        self.at, self.sizes = at, sizes
        self.frame, self.builder = at.frame, at.builder
        self.width = sizes.vectors * at.lanes
        row, column = Axis("row", sizes.rows), Axis("column", self.width)
        k = Axis("k", sizes.channels)
        left = Factor(sizes.data, {row: sizes.pitch, k: 1}, 0, False, [])
        right = Factor(sizes.data, {k: sizes.block, column: 1}, 0, False, [])
        extents = {axis: axis.extent for axis in (row, column, k)}
        product = Product([row, column], [k], extents, left, right, [], "", stores)
        tiling = Tiling(
            left, right, column, at.lanes, row, None, sizes.rows, sizes.vectors, None, [], 0.0
        )
        tiling.inner = [k]
        self.tile = Tile(at, product, tiling)
        self.group = TileGroup(0, 1, sizes.rows)
        chunks = -(-sizes.channels // CHUNK)
        self.chunk = -(-sizes.channels // chunks)

    def emit(
        self, windows: ir.Value, filters: ir.Value, products: ir.Value, groups: ir.Value
    ) -> None:
        """For `groups` times `rows` tiles."""
        channels = self.sizes.channels
        self._rows(windows, filters, products, groups, (0, min(self.chunk, channels)))

        def chunk(first: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            end = self.at.smaller(self.builder.add(first, whole(self.chunk)), channels)
            self._rows(windows, filters, products, groups, (first, end))
            return []

        self.frame.loop(self.chunk, channels, self.chunk, [], chunk)

    def _rows(
        self,
        windows: ir.Value,
        filters: ir.Value,
        products: ir.Value,
        groups: ir.Value,
        chunk: tuple[Count, Count],
    ) -> None:
        """One chunk: the first one's sums are stored, the others' added."""
        b, sizes = self.builder, self.sizes

        def rows(i: ir.Value) -> None:
            a = self.at.moved(windows, b.mul(i, whole(sizes.rows * sizes.pitch)))
            c = self.at.moved(products, b.mul(i, whole(sizes.rows * sizes.block)))

            def columns(j: ir.Value) -> None:
                skip = b.mul(j, whole(self.width))
                self.tile.strip = chunk
                sums = self.tile.sums(a, self.at.moved(filters, skip), self.group)
                target = self.at.moved(c, skip)
                for number, value in enumerate(sums):
                    row, vector = divmod(number, sizes.vectors)
                    place = self.at.moved(target, row * sizes.block + vector * self.at.lanes)
                    if chunk[0] != 0:
                        value = b.fadd(self.at.load(place), value)
                    self.at.store(value, place)

            each(self.frame, 0, sizes.block // self.width, columns)

        each(self.frame, 0, groups, rows)
