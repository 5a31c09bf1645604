"""A tiled product as a loop that threads share: each share is a panel of tiles.

Shares that read the same lines may be joined: a thread that has several of them does them as one.
"""

from __future__ import annotations

from llvmlite import ir

from graphc.codegen.llvm.loops import Count, Frame, whole
from graphc.codegen.llvm.operand import Operands
from graphc.codegen.llvm.packing import packed_items
from graphc.codegen.llvm.panel import Panel
from graphc.codegen.llvm.product import Product
from graphc.codegen.llvm.shares import Part, Shares, each, when
from graphc.codegen.llvm.tiling import Tiling
from graphc.codegen.llvm.vector import Values


class TiledProduct:
    """A product and its tiling.

    extent: the shares of it that may run apart. scratch_items: elements that a share needs besides.
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
        deep = size[tiling.deep] if tiling.deep else 1
        self.sums = 0
        if tiling.chunked:
            together = lines if tiling.lines_together else tiling.lines
            self.sums = together * tiling.panel_rows * deep * tiling.vectors * tiling.lanes
            self.sums *= product.size(tiling.whole_lines) * tiling.wide
        self.scratch_items = self.sums + packed_items(product, tiling)

    def emit(
        self, frame: Frame, values: Values, scratch: ir.Value | None, low: Count, high: Count
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
            first = b.mul(block, whole(tiling.wide * tiling.vectors * tiling.lanes))
            if tiling.wide > 1:
                Panel(self, at, scratch, parts, lines, tiles).emit(first, tiling.vectors, None)
                return

            def run(vectors: int, tail: int | None) -> None:
                Panel(self, at, scratch, parts, lines, tiles).emit(first, vectors, tail)

            same = self.last_vectors == tiling.vectors and self.tail is None
            if self.blocks == 1 or same:
                run(self.last_vectors, self.tail)
                return
            full = b.icmp_signed("<", block, whole(self.blocks - 1))
            when(frame, full, lambda: run(tiling.vectors, None))
            when(frame, b.not_(full), lambda: run(self.last_vectors, self.tail))

        each(frame, *self._whole_shares(b, low, high), share)
        if tiling.streamed:
            b.fence("seq_cst")  # such stores are in no order with those that tell other threads

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
