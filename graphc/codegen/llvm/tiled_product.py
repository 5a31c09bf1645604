"""A tiled product as a loop that threads share: each share is a panel of tiles.

Shares that read the same lines may be joined: a thread that has several of them does them as one.
"""

from __future__ import annotations

from collections.abc import Callable

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.loops import Count, Frame, whole
from graphc.codegen.llvm.operand import Operands
from graphc.codegen.llvm.packed_tiles import tile_items
from graphc.codegen.llvm.packing import packed_items, row_step
from graphc.codegen.llvm.panel import Panel
from graphc.codegen.llvm.product import Product
from graphc.codegen.llvm.shares import Part, Shares, each, when
from graphc.codegen.llvm.tiling import Tiling
from graphc.codegen.llvm.vector import Values


class TiledProduct:
    """A product and its tiling.

    extent: the shares of it that may run apart. scratch_items: elements that a share needs besides.
    grain: shares that read the same, or lie side by side, and are best done as one.
    """

    def __init__(self, product: Product, tiling: Tiling):
        self.product = product
        self.tiling = tiling
        size = product.extents
        vectors = -(-size[tiling.vector] // tiling.lanes)
        self.blocks = -(-vectors // tiling.vectors)
        self.last_vectors = vectors - (self.blocks - 1) * tiling.vectors
        self.tail = size[tiling.vector] % tiling.lanes or None
        rows = size[tiling.row] if tiling.row else 1
        lines = size[tiling.line] if tiling.line else 1
        counts: list[tuple[Part, int]] = [(axis, size[axis]) for axis in tiling.outer]
        self.joined = 1  # shares that may be done as one, the last of which may be shorter
        if tiling.lines_together:
            self.joined = lines
        elif tiling.rows_together:
            self.joined = sum(group.count for group in tiling.groups)
        else:
            counts.append(("lines", -(-lines // tiling.lines)))
        counts.append(("rows", -(-rows // tiling.panel_rows)))
        groups = -(-self.blocks // tiling.wide)
        counts.insert(0 if tiling.vectors_outside else len(counts), ("block", groups))
        self.shares = Shares(counts)
        self.extent = self.shares.extent * self.joined
        self.grain = self.extent if tiling.beside > 1 else self.joined
        deep = size[tiling.deep] if tiling.deep else 1
        self.sums = 0
        if tiling.chunked:
            together = lines if tiling.lines_together else tiling.lines
            self.sums = together * tiling.panel_rows * deep * tiling.vectors * tiling.lanes
            beside = min(tiling.beside, groups)
            self.sums *= product.size(tiling.whole_lines) * tiling.wide * beside
        self.scratch_items = self.sums + packed_items(product, tiling)
        if tiling.packs_tiles:
            self.scratch_items += tile_items(product, tiling)
        self.scratch_items += rows * row_step(tiling)  # of a, where those are packed

    def emit(
        self, frame: Frame, values: Values, scratch: ir.Value, low: Count, high: Count
    ) -> None:
        """Shares low .. high - 1."""
        b, tiling = frame.builder, self.tiling
        at = Operands(frame, values, tiling.a.buffer.dtype, tiling.lanes)

        def share(index: ir.Value) -> None:
            parts = self.shares.parts(b, index)
            lines, tiles = self._lines(at, parts), None
            if self.joined > 1:
                own = self._own(at, index, low, high)
                lines, tiles = (lines, own) if tiling.rows_together else (own, None)
            block = parts.get("block", whole(0))
            first = b.mul(block, whole(tiling.vectors * tiling.lanes))

            def run(vectors: int, tail: int | None) -> None:
                Panel(self, at, scratch, parts, lines, tiles).emit(first, vectors, tail)

            same = self.last_vectors == tiling.vectors and self.tail is None
            if self.blocks == 1 or same:
                run(self.last_vectors, self.tail)
                return
            full = b.icmp_signed("<", block, whole(self.blocks - 1))
            when(frame, full, lambda: run(tiling.vectors, None))
            when(frame, b.not_(full), lambda: run(self.last_vectors, self.tail))

        def beside(first: ir.Value, end: ir.Value) -> None:
            panel = Panel(self, at, scratch, {}, (0, 1), None, (first, end))
            panel.emit(b.mul(first, whole(tiling.vectors * tiling.lanes)), tiling.vectors, None)

        if tiling.beside > 1 or tiling.wide > 1:
            self._runs(at, low, high, beside)
        else:
            each(frame, *self._whole_shares(b, low, high), share)
        if tiling.streamed:
            b.fence("seq_cst")  # such stores are in no order with those that tell other threads

    def _runs(
        self,
        at: Operands,
        low: Count,
        high: Count,
        body: Callable[[ir.Value, ir.Value], None],
    ) -> None:
        """body(first block, end) for equal parts of shares low .. high - 1, of few enough each."""
        b, tiling = at.builder, self.tiling
        count = b.sub(whole(high), whole(low))
        runs = b.udiv(b.add(count, whole(tiling.beside - 1)), whole(tiling.beside))
        runs = at.larger(runs, 1)
        length = b.udiv(b.add(count, b.sub(runs, whole(1))), runs)

        def run(number: ir.Value) -> None:
            first = b.add(whole(low), b.mul(number, length))
            end = at.smaller(b.add(first, length), high)
            blocks = [b.mul(place, whole(tiling.wide)) for place in (first, end)]
            body(blocks[0], at.smaller(blocks[1], self.blocks))

        each(at.frame, 0, runs, run)

    def _whole_shares(self, b: ir.IRBuilder, low: Count, high: Count) -> tuple[Count, Count]:
        """The shares of which low .. high - 1 are parts."""
        if self.joined == 1:
            return low, high
        end = b.add(whole(high), whole(self.joined - 1))
        return b.udiv(whole(low), whole(self.joined)), b.udiv(end, whole(self.joined))

    def _own(
        self, at: Operands, share: ir.Value, low: Count, high: Count
    ) -> tuple[ir.Value, ir.Value]:
        """Which of the shares that are joined here are a thread's own: lines, or tiles of rows.

        They read the same, which then comes from memory once.
        """
        b = at.builder
        begin = b.mul(share, whole(self.joined))
        first, end = b.sub(whole(low), begin), b.sub(whole(high), begin)
        return at.larger(first, 0), at.smaller(end, self.joined)

    def _lines(self, at: Operands, parts: dict[Part, ir.Value]) -> tuple[Count, Count]:
        """The lines of a panel."""
        b, tiling = at.builder, self.tiling
        extent = self.product.extents[tiling.line] if tiling.line else 1
        if tiling.lines >= extent:
            return 0, extent
        number = parts.get("lines", whole(0))
        first = b.mul(number, whole(tiling.lines))
        return first, at.smaller(b.add(first, whole(tiling.lines)), extent)
