"""Copies a chunk of a product's vector operand into a dense block that every tile then reads.

Rows of memory that lie a power of two apart share few sets of the caches; and weights stored
[output, k] have no vectors along the outputs at all until they are transposed.
"""

from __future__ import annotations

from dataclasses import replace

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.loops import Carry, Count, whole
from graphc.codegen.llvm.operand import LINE_BYTES, Operands
from graphc.codegen.llvm.product import Factor, Product
from graphc.codegen.llvm.square import transposed
from graphc.codegen.llvm.tiling import Tiling
from graphc.kernel.lang import Axis


def _extents(product: Product, tiling: Tiling) -> list[int]:
    """Points of each inner fold loop in a chunk, the last rounded up to whole vectors."""
    extents = [product.extents[axis] for axis in tiling.inner]
    if tiling.strip:
        extents[0] = tiling.strip
    extents[-1] = -(-extents[-1] // tiling.lanes) * tiling.lanes
    return extents


def packed_factor(product: Product, tiling: Tiling) -> Factor:
    """b as the inner fold loops find it in its block."""
    strides: dict[Axis, int] = {}
    step = tiling.vectors * tiling.lanes
    for axis, extent in reversed(list(zip(tiling.inner, _extents(product, tiling), strict=True))):
        strides[axis] = step
        step *= extent
    return replace(tiling.b, strides=strides, constant=0)


def packed_items(product: Product, tiling: Tiling) -> int:
    """Elements of the block; 0 where b is read as it lies."""
    if not tiling.packing:
        return 0
    items = tiling.vectors * tiling.lanes
    for extent in _extents(product, tiling):
        items *= extent
    return items


def row_step(tiling: Tiling) -> int:
    """Elements from row to row of a's dense copy in a wide panel; 0 where a is read as it lies."""
    along = tiling.a.strides.get(tiling.inner[0]) if tiling.reads_pieces else 0
    if tiling.lanes == 1 or along != 1:
        return 0
    return -(-tiling.strip // tiling.lanes) * tiling.lanes


def with_packed_rows(tiling: Tiling) -> Tiling:
    """The tiling of a wide panel that reads a from its dense copy."""
    assert tiling.row is not None
    strides = {tiling.row: row_step(tiling), tiling.inner[0]: 1}
    return replace(tiling, a=replace(tiling.a, strides=strides, constant=0))


def pack_rows(
    at: Operands, tiling: Tiling, source: ir.Value, block: ir.Value, strip: tuple[Count, Count]
) -> ir.Value:
    """Copy a strip of all rows of a from `source` on; the place where point 0 of it would lie.

    Rows that lie a power of two apart share few sets of the first-level cache.
    """
    low, high = strip
    step = row_step(tiling)
    block = at.moved(block, at.builder.mul(whole(low), whole(-1)))

    def vectors(i: ir.Value, some: Count | None, carry: Carry) -> Carry:
        for row in range(sum(group.rows * group.count for group in tiling.groups)):
            value = at.load(at.along(at.moved(source, i), tiling.a, tiling.row, row), some)
            at.store(value, at.moved(at.moved(block, i), row * step))
        return carry

    at.frame.lane_loop(low, high, tiling.lanes, [], vectors)
    return block


class Packer:
    """Emits the copy of one block."""

    def __init__(self, at: Operands, tiling: Tiling, product: Product, block: Factor):
        self.at = at
        self.frame = at.frame
        self.tiling = tiling
        self.product = product
        self.block = block
        self.lanes = tiling.lanes

    def pack(
        self,
        source: ir.Value,
        target: ir.Value,
        strip: tuple[Count, Count] | None,
        vectors: int,
        tail: int | None,
    ) -> None:
        """Copy all points of the inner fold loops (the first from `strip`), `vectors` vectors each.

        tail: elements that exist of the last vector, None for all; the others become 0.
        """
        self.vectors, self.tail = vectors, tail
        self._loops(self.tiling.inner, source, target, strip)

    def _loops(
        self,
        axes: list[Axis],
        source: ir.Value,
        target: ir.Value,
        strip: tuple[Count, Count] | None,
    ) -> None:
        axis, *rest = axes
        low, high = strip or (0, self.product.extents[axis])

        def at(i: ir.Value) -> tuple[ir.Value, ir.Value]:
            return (
                self.at.along(source, self.tiling.b, axis, i),
                self.at.along(target, self.block, axis, i),
            )

        def body(i: ir.Value, _: Carry) -> Carry:
            if rest:
                self._loops(rest, *at(i), None)
            else:
                self._copy(*at(i))
            return []

        def turn(i: ir.Value, some: Count | None, _: Carry) -> Carry:
            self._turn(*at(i), some)
            return []

        if rest or self.tiling.packing == "copy":
            self.frame.loop(low, high, 1, [], body)
        else:
            self.frame.lane_loop(low, high, self.lanes, [], turn)

    def _copy(self, source: ir.Value, target: ir.Value) -> None:
        following = self._to_next_chunk()
        for j in range(self.vectors):
            tail = self.tail if j == self.vectors - 1 else None
            if following and j * self.lanes * self.at.item % LINE_BYTES == 0:
                self.at.fetch(self.at.moved(source, following + j * self.lanes))
            value = self.at.load(self.at.moved(source, j * self.lanes), tail)
            self.at.store(value, self.at.moved(target, j * self.lanes))

    def _to_next_chunk(self) -> int:
        """Elements from a place to where the next chunk finds its like; 0: there is none."""
        tiling = self.tiling
        if not tiling.chunked:
            return 0
        axis, count = (tiling.inner[0], tiling.strip) if tiling.strip else (tiling.chunks[-1], 1)
        return count * tiling.b.strides.get(axis, 0)

    def _turn(self, source: ir.Value, target: ir.Value, some: Count | None) -> None:
        """`lanes` points of the fold (or `some`), for all vectors: squares, transposed."""
        step = self.tiling.b.strides[self.tiling.vector]
        for j in range(self.vectors):
            last = self.tail is not None and j == self.vectors - 1
            count = self.tail if self.tail is not None and last else self.lanes
            rows = [
                self.at.load(self.at.moved(source, (j * self.lanes + row) * step), some)
                for row in range(count)
            ]
            rows += [self.at.zero] * (self.lanes - count)
            for k, value in enumerate(transposed(self.at.builder, rows)):
                items = (k * self.tiling.vectors + j) * self.lanes
                self.at.store(value, self.at.moved(target, items))
