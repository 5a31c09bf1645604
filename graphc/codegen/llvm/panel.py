"""A share of a tiled product: a block of vectors for a panel of tiles, sums and stores.

A short sum is done in one tile and stored from registers. A long one is done in chunks of the fold:
each chunk passes over all tiles of a panel, which keeps what it reads of b in the caches, and the
panel's sums wait in memory; this also bounds how many terms are added one after another.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.loops import Carry, Count, whole
from graphc.codegen.llvm.operand import Operands
from graphc.codegen.llvm.packed_tiles import TilePacker, tile_step, with_packed_tiles
from graphc.codegen.llvm.packing import (
    Packer,
    pack_rows,
    packed_items,
    row_step,
    with_packed_rows,
)
from graphc.codegen.llvm.panel_stores import PanelStores
from graphc.codegen.llvm.shares import Part, each, when
from graphc.codegen.llvm.tile import Tile
from graphc.codegen.llvm.tiling import TileGroup
from graphc.kernel.lang import Axis

if TYPE_CHECKING:
    from graphc.codegen.llvm.tiled_product import TiledProduct

Line = Callable[[ir.Value, ir.Value, ir.Value], None]


class Panel:
    """One share: a block of vectors for a panel of rows and lines.

    own_tiles: first and past the last tile of rows, where a thread has not all of the panel's.
    own_blocks: the same of blocks of vectors, where a thread has many, side by side.
    """

    def __init__(
        self,
        whole_product: TiledProduct,
        at: Operands,
        scratch: ir.Value,
        parts: dict[Part, ir.Value],
        lines: tuple[Count, Count],
        own_tiles: tuple[ir.Value, ir.Value] | None = None,
        own_blocks: tuple[ir.Value, ir.Value] | None = None,
    ):
        self.product, self.tiling = whole_product.product, whole_product.tiling
        self.at, self.frame, self.builder = at, at.frame, at.builder
        self.scratch = self.sums = scratch
        self.whole_product = whole_product
        self.packed_from = whole_product.sums
        self.unpacked = self.tiling
        if own_blocks is not None and row_step(self.tiling):
            self.tiling = with_packed_rows(self.tiling)
        elif self.tiling.packs_tiles:
            self.tiling = with_packed_tiles(self.product, self.tiling)
        self.tile = Tile(at, self.product, self.tiling)
        for axis in self.tiling.outer:
            self.tile.place(axis, parts[axis])
        self.lines = lines
        self.own_tiles, self.own_blocks = own_tiles, own_blocks
        self.row_panel = parts.get("rows")
        tiling = self.tiling
        self.row_extent = self.product.extents[tiling.row] if tiling.row else 1
        # Panels cut rows into tiles of one kind; else each group of tiles has a place of its own.
        assert self.row_panel is None or not tiling.fixed
        self.deep = self.tile.deep
        self.stores = PanelStores(self)

    def emit(self, first: ir.Value, vectors: int, tail: int | None) -> None:
        """The share: `vectors` vectors from element `first` on; `tail` of the last one exist."""
        tiling, at = self.tiling, self.at
        self.first = first
        self.tile.vectors, self.tile.tail = vectors, tail
        self.row_items = self.deep * vectors * tiling.lanes
        a, b = at.start(self.unpacked.a), at.start(tiling.b)
        a, b = (at.along(x, f, tiling.vector, first) for x, f in ((a, tiling.a), (b, tiling.b)))
        for axis, value in self.tile.open.items():
            a, b = self.tile.both(a, b, axis, value, inside=False)
        if tiling.chunked:
            self._in_chunks(a, b)
        else:
            self._directly(a, b)

    # -- rows and lines --

    def _row_tiles(self, tile: Callable[[TileGroup, ir.Value], None]) -> None:
        """tile(group, first row) for all tiles of the panel, in order."""
        b, rows = self.builder, self.tiling.panel_rows
        before = 0
        for group in self.tiling.groups:
            if self.own_tiles is not None:
                low, high = (b.sub(place, whole(before)) for place in self.own_tiles)
                low = self.at.larger(low, 0)
                count = b.sub(self.at.smaller(high, group.count), low)
                first = b.add(whole(group.first), b.mul(low, whole(group.rows)))
                self._group(group, first, count, tile)
                before += group.count
            elif self.row_panel is None:
                self._group(group, whole(group.first), group.count, tile)
            elif group.rows == self.tiling.rows:
                first = b.mul(self.row_panel, whole(rows))
                most = rows // group.rows
                left = b.sub(whole(group.count), b.mul(self.row_panel, whole(most)))
                self._group(group, first, self.at.smaller(left, most), tile)
            else:
                last = -(-self.row_extent // rows) - 1
                is_last = b.icmp_signed("==", self.row_panel, whole(last))
                when(self.frame, is_last, partial(tile, group, whole(group.first)))

    def _group(
        self,
        group: TileGroup,
        first: ir.Value,
        count: Count,
        tile: Callable[[TileGroup, ir.Value], None],
    ) -> None:
        b = self.builder
        if isinstance(count, int) and (count == 1 or self.tiling.reads_pieces):
            for number in range(count):  # each tile of a wide panel asks for other lines
                tile(group, b.add(first, whole(number * group.rows)) if number else first)
        else:
            rows = whole(group.rows)
            each(self.frame, 0, count, lambda i: tile(group, b.add(first, b.mul(i, rows))))

    def row_range(self) -> tuple[ir.Value, ir.Value]:
        """The rows of this panel."""
        b, rows = self.builder, self.tiling.panel_rows
        if self.own_tiles is not None:
            low, high = (b.mul(tile, whole(self.tiling.rows)) for tile in self.own_tiles)
            return low, self.at.smaller(high, self.row_extent)
        if self.row_panel is None:
            return whole(0), whole(self.row_extent)
        low = b.mul(self.row_panel, whole(rows))
        return low, self.at.smaller(b.add(low, whole(rows)), self.row_extent)

    def _line_range(self, axis: Axis) -> tuple[Count, Count]:
        """The lines of this panel along an axis."""
        return self.lines if axis == self.tiling.line else (0, self.product.extents[axis])

    def each_line(self, a: ir.Value, b: ir.Value, sums: ir.Value, body: Line, clip: bool) -> None:
        """body(place in a, place in b, place of the sums in memory) for every line of the panel.

        clip: only for those whose guards hold.
        """
        axes = [axis for axis in (self.tiling.line, *self.tiling.whole_lines) if axis is not None]
        self._line_nest(axes, a, b, sums, body, clip)

    def _line_nest(
        self, axes: list[Axis], a: ir.Value, b: ir.Value, sums: ir.Value, body: Line, clip: bool
    ) -> None:
        if not axes:
            body(a, b, sums)
            return
        builder, (axis, *rest) = self.builder, axes
        low, high = start, _ = self._line_range(axis)
        items = whole(self.tiling.panel_rows * self.row_items * self.product.size(rest))
        if clip:
            low, high = self.tile.clipped(axis, low, high)

        def run(i: ir.Value) -> None:
            with self.tile.opened(axis, i):
                place = self.at.moved(sums, builder.mul(builder.sub(i, whole(start)), items))
                self._line_nest(rest, *self.tile.both(a, b, axis, i), place, body, clip)

        each(self.frame, low, high, run)

    # -- sums in registers --

    def _directly(self, a: ir.Value, b: ir.Value) -> None:
        """Every tile has its whole sum in registers, and is stored from there."""
        if self.tiling.packing:
            b = self._packed(b)

        def tile(group: TileGroup, row: ir.Value) -> None:
            start = self.at.along(a, self.tiling.a, self.tiling.row, row)
            self.each_line(start, b, start, partial(one_line, group, row), clip=False)

        def one_line(
            group: TileGroup, row: ir.Value, start: ir.Value, b: ir.Value, _: ir.Value
        ) -> None:
            self.stores.fetch(row, group)
            sums = self.tile.sums(start, b, group)
            if not self.tiling.streamed:
                self.stores.store_tile(row, sums)
                return
            aligned = self.stores.is_aligned()
            self.at.values.streamed = self.at.values.written
            when(self.frame, aligned, lambda: self.stores.store_tile(row, sums))
            self.at.values.streamed = frozenset()
            when(self.frame, self.builder.not_(aligned), lambda: self.stores.store_tile(row, sums))

        self._row_tiles(tile)

    # -- sums in memory --

    def _in_chunks(self, a: ir.Value, b: ir.Value) -> None:
        """Sums over one chunk of the fold after another are added up in memory, then stored."""
        low, high = self._line_range(self.tiling.line) if self.tiling.line else (0, 1)
        lines = self.builder.sub(whole(high), whole(low))
        items = self.tiling.panel_rows * self.row_items * self.product.size(self.tiling.whole_lines)
        used = self.builder.mul(self.builder.mul(lines, self._block_count()), whole(items))

        def clear(i: ir.Value, _: Carry) -> Carry:
            self.at.store(self.at.zero, self.at.moved(self.scratch, i))
            return []

        self.frame.loop(0, used, self.tiling.lanes, [], clear)
        self._chunks(self.tiling.chunks, a, b)
        self._each_block(lambda _: self.stores.finish(a, b))

    def _each_block(self, body: Callable[[ir.Value], None]) -> None:
        """body(number) for every block of vectors of this share, the panel being at that block."""
        product, tiling, b = self.whole_product, self.tiling, self.builder
        if self.own_blocks is None:
            body(whole(0))
            return
        first, width = self.first, tiling.vectors * tiling.lanes
        slot = tiling.panel_rows * self.deep * width * self.product.size(tiling.whole_lines)

        def block(vectors: int, tail: int | None, number: ir.Value) -> None:
            self.tile.vectors, self.tile.tail = vectors, tail
            self.row_items = self.deep * vectors * tiling.lanes
            self.first = b.add(first, b.mul(number, whole(width)))
            self.sums = self.at.moved(self.scratch, b.mul(number, whole(slot)))
            body(number)
            self.first = first

        same = product.last_vectors == tiling.vectors and product.tail is None
        count = self._block_count()
        if same:
            each(self.frame, 0, count, partial(block, tiling.vectors, None))
            return
        left = b.sub(whole(product.blocks - 1), self.own_blocks[0])
        each(self.frame, 0, self.at.smaller(left, count), partial(block, tiling.vectors, None))
        last = b.icmp_signed("<", left, count)
        when(self.frame, last, partial(block, product.last_vectors, product.tail, left))

    def _block_count(self) -> ir.Value:
        """Blocks of vectors of this share."""
        if self.own_blocks is None:
            return whole(1)
        first, end = self.own_blocks
        return self.builder.sub(end, first)

    def _chunks(self, axes: list[Axis], a: ir.Value, b: ir.Value) -> None:
        """The loops over chunks, from the outermost on, then the panel for each."""
        if axes:
            axis, *rest = axes

            def body(i: ir.Value, _: Carry) -> Carry:
                with self.tile.opened(axis, i):
                    self._chunks(rest, *self.tile.both(a, b, axis, i, inside=False))
                return []

            low, high = self.tile.clipped(axis, 0, self.product.extents[axis])
            low, step = self.tile.starts(axis, low)
            self.frame.loop(low, high, step, [], body)
        elif self.tiling.strip:
            extent = self.product.extents[self.tiling.inner[0]]

            def strip(i: ir.Value, _: Carry) -> Carry:
                end = self.builder.add(i, whole(self.tiling.strip))
                self.tile.strip = i, self.at.smaller(end, extent)
                self._chunk(a, b)
                return []

            self.frame.loop(0, extent, self.tiling.strip, [], strip)
        else:
            self._chunk(a, b)

    def _chunk(self, a: ir.Value, b: ir.Value) -> None:
        """One chunk of the fold for all tiles of the panel."""
        if self.tiling.packing and self.own_blocks is None:
            b = self._packed(b)
        if self.unpacked is not self.tiling:
            a = self._packed_rows(a, self.tile.strip)
        self._each_block(partial(self._block_chunk, a, b))

    def _packed_rows(self, a: ir.Value, strip: tuple[Count, Count] | None) -> ir.Value:
        """Make this chunk's dense copy of a. The place where its fold loops at 0 would find it."""
        x, tiling = self.builder, self.tiling
        block = self.at.moved(self.scratch, self.packed_from)
        if not tiling.packs_tiles:
            assert strip is not None
            return pack_rows(self.at, self.unpacked, a, block, strip)
        block = self.at.moved(block, packed_items(self.product, self.unpacked))
        first = x.mul(self.row_range()[0], whole(-tile_step(self.product, self.unpacked)))
        block = self.at.moved(block, first)
        if strip:
            step = tiling.a.strides[tiling.inner[0]]
            block = self.at.moved(block, x.mul(whole(strip[0]), whole(-step)))
        packer = TilePacker(self.at, self.unpacked, tiling, self.product, self._row_tiles)
        packer.pack(a, block, strip, 1, None)
        return block

    def _block_chunk(self, a: ir.Value, b: ir.Value, number: ir.Value) -> None:
        """One chunk of the fold for the tiles of one block of vectors."""
        first_row = self.row_range()[0]
        tiles = sum(group.count for group in self.tiling.groups)
        width = self.tiling.vectors * self.tiling.lanes
        near = b
        if self.own_blocks is not None:
            near = self.at.moved(b, self.builder.mul(number, whole(width)))
            if self.tiling.packing:
                near = self._packed(near)

        def one_line(start: ir.Value, right: ir.Value, sums: ir.Value) -> None:
            numbers = itertools.count()

            def tile(group: TileGroup, row: ir.Value) -> None:
                inside = self.builder.sub(row, first_row)
                if self.tiling.wide > 1:
                    which: Count = next(numbers)
                    if self.tiling.beside == 1:
                        which = self.builder.udiv(inside, whole(self.tiling.rows))
                    self.tile.look_ahead(b, (number, self._block_count()), which, tiles)
                target = self.at.moved(sums, self.builder.mul(inside, whole(self.row_items)))
                place = self._tile_start(start, row)
                for k, value in enumerate(self.tile.sums(place, right, group)):
                    where = self.at.moved(target, k * self.tiling.lanes)
                    self.at.store(self.builder.fadd(self.at.load(where), value), where)

            self._row_tiles(tile)

        self.each_line(a, near, self.sums, one_line, clip=True)

    def _tile_start(self, a: ir.Value, row: ir.Value) -> ir.Value:
        """Where a tile finds its first row."""
        if self.tiling.packs_tiles:
            step = tile_step(self.product, self.unpacked)
            return self.at.moved(a, self.builder.mul(row, whole(step)))
        return self.at.along(a, self.tiling.a, self.tiling.row, row)

    def _packed(self, b: ir.Value) -> ir.Value:
        """Make this chunk's dense block of b. The place where its fold loops at 0 would find it."""
        block = self.at.moved(self.scratch, self.packed_from)
        if self.tile.strip:
            step = self.tile.inner_b.strides[self.tiling.inner[0]]
            skipped = self.builder.mul(whole(self.tile.strip[0]), whole(-step))
            block = self.at.moved(block, skipped)
        packer = Packer(self.at, self.tiling, self.product, self.tile.inner_b)
        packer.pack(b, block, self.tile.strip, self.tile.vectors, self.tile.tail)
        return block
