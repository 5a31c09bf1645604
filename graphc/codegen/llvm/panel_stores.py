"""What a panel of tiles stores: its sums, as the kernel's stores take them.

Sums come from registers, tile by tile, or wait in memory until the last chunk of the fold is added:

    for each row, for each line: y[row, line, vectors] = max(0, sums[row, line, vectors] + bias)
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.loops import INT64, Carry, Count, whole
from graphc.codegen.llvm.product import Product
from graphc.codegen.llvm.shares import each
from graphc.codegen.llvm.square import transposed
from graphc.codegen.llvm.target import ITEM_BYTES, Target
from graphc.codegen.llvm.tiling import TileGroup, Tiling
from graphc.codegen.nodes import Address, reachable, statement_nodes

if TYPE_CHECKING:
    from graphc.codegen.llvm.panel import Panel

FAR = 8  # times the second-level cache


class PanelStores:
    """The stores of one panel, which says where it stands."""

    def __init__(self, panel: Panel):
        self.panel = panel
        self.product, self.tiling, self.tile = panel.product, panel.tiling, panel.tile
        self.at, self.frame, self.builder = panel.at, panel.frame, panel.builder
        self.deep = panel.deep
        self.far = _far_addresses(self.product, self.tiling, self.at.math.target)

    def store_tile(self, row: ir.Value, sums: Carry) -> None:
        """A tile whose sums are in registers."""
        for number, value in enumerate(sums):
            m, j = divmod(number, self.tile.vectors)
            place = self.builder.add(row, whole(m // self.deep))
            self._store(place, whole(m % self.deep), j, value)

    def is_aligned(self) -> ir.Value:
        """Whether what is stored to begins at a multiple of a vector's size."""
        b = self.builder
        base = self.at.values.bases[self.product.store_nodes()[0].address.buffer.name]
        size = self.tiling.lanes * self.at.item
        rest = b.and_(b.ptrtoint(base, INT64), whole(size - 1))
        return b.icmp_signed("==", rest, whole(0))

    def finish(self, a: ir.Value, b: ir.Value) -> None:
        """All rows of all lines of the panel, from their sums in memory.

        What lies side by side in the result is stored one after another: lines of the caches then
        are met once, which matters most where threads store to different parts of the same ones.
        """
        if self.tiling.turned:
            self.panel.each_line(a, b, self.panel.sums, self._finish_turned, clip=False)
            return
        low, high = self.panel.row_range()

        def each_line(i: ir.Value) -> None:
            self.panel.each_line(a, b, self.panel.sums, partial(self._finish_row, i), clip=False)

        def each_row(_: ir.Value, __: ir.Value, sums: ir.Value) -> None:
            each(self.frame, low, high, lambda i: self._finish_row(i, a, b, sums))

        if self.tiling.lines_inside:
            each(self.frame, low, high, each_line)
        else:
            self.panel.each_line(a, b, self.panel.sums, each_row, clip=False)

    def _finish_row(self, i: ir.Value, _: ir.Value, __: ir.Value, sums: ir.Value) -> None:
        """Store row i of one line."""
        inside = self.builder.sub(i, self.panel.row_range()[0])
        start = self.at.moved(sums, self.builder.mul(inside, whole(self.panel.row_items)))
        for number in range(self.deep * self.tile.vectors):
            m, j = divmod(number, self.tile.vectors)
            value = self.at.load(self.at.moved(start, number * self.tiling.lanes))
            self._store(i, whole(m), j, value)

    def _finish_turned(self, _: ir.Value, __: ir.Value, sums: ir.Value) -> None:
        """A line's rows that are neighbours in the result: squares of sums are transposed."""
        low, high = self.panel.row_range()
        lanes, row_axis = self.tiling.lanes, self.tiling.row
        assert row_axis is not None
        builder, values = self.builder, self.at.values

        def square(first: ir.Value, some: Count | None, _: Carry) -> Carry:
            inside = builder.sub(first, low)
            numbers = [builder.add(inside, whole(k)) for k in range(lanes)]
            if some is not None:
                last = builder.add(inside, builder.sub(whole(some), whole(1)))
                numbers = [self.at.smaller(number, last) for number in numbers]
            starts = [
                self.at.moved(sums, builder.mul(number, whole(self.panel.row_items)))
                for number in numbers
            ]
            for j in range(self.tile.vectors):
                rows = [self.at.load(self.at.moved(start, j * lanes)) for start in starts]
                tail = self.tile.tail if j == self.tile.vectors - 1 else None
                for k, value in enumerate(transposed(builder, rows)[:tail]):
                    point = builder.add(self.panel.first, whole(j * lanes + k))
                    with self.frame.scope():
                        values.locals[self.product.local] = (self.frame.depth, value)
                        with (
                            values.at_axis(self.tiling.vector, point),
                            values.along(row_axis, lanes, first, some, aligned=False),
                        ):
                            self._stores()
            return []

        self.frame.lane_loop(low, high, lanes, [], square)

    def _store(self, row: ir.Value, deep: ir.Value, j: int, value: ir.Value) -> None:
        """Run the kernel's stores for one vector of sums."""
        tiling, values = self.tiling, self.at.values
        with self.frame.scope():
            for axis, place in ((tiling.row, row), (tiling.deep, deep)):
                if axis is not None:
                    values.places[axis] = (self.frame.depth, place)
            values.locals[self.product.local] = (self.frame.depth, value)
            first = self.builder.add(self.panel.first, whole(j * tiling.lanes))
            rest = self.tile.tail if j == self.tile.vectors - 1 else None
            if tiling.lanes == 1:
                with values.at_axis(tiling.vector, first):
                    self._stores()
            else:
                with values.along(tiling.vector, tiling.lanes, first, rest):
                    self._stores()

    def fetch(self, row: ir.Value, group: TileGroup) -> None:
        """Ask for what the tile's stores read of large arrays, while its sums are computed.

        A tile reads little of each row, so that no processor sees by itself what comes next.
        """
        tiling, values = self.tiling, self.at.values
        if not self.far or tiling.lanes == 1:
            return
        for m in range(group.rows * self.deep):
            place = self.builder.add(row, whole(m // self.deep))
            with self.frame.scope():
                for axis, at in ((tiling.row, place), (tiling.deep, whole(m % self.deep))):
                    if axis is not None:
                        values.places[axis] = (self.frame.depth, at)
                with values.along(tiling.vector, tiling.lanes, self.panel.first, None):
                    for address in self.far:
                        for j in range(self.tile.vectors):
                            values.prefetch(address, j * tiling.lanes)

    def _stores(self) -> None:
        self.at.values.store_all(self.product.store_nodes())


def _far_addresses(product: Product, tiling: Tiling, target: Target) -> list[Address]:
    """Where the stores read vectors of arrays that no cache will hold."""
    size = FAR * target.l2_bytes
    nodes = reachable(tuple(n for s in product.store_nodes() for n in statement_nodes(s)))
    found = dict.fromkeys(node.address for node in nodes if node.address is not None)
    return [
        address
        for address in found
        if not address.parts
        and address.terms.get(tiling.vector) == 1
        and math.prod(address.buffer.shape) * ITEM_BYTES[address.buffer.dtype] >= size
    ]
