"""Copies what a chunk has of a product's other operand, a, tile by tile.

In channels-last order the numbers that a tile reads for one term are a few neighbours of a line;
those of the next term lie in a line of another set of the caches, or in another page. Where many
vectors meet each of them, a copy pays in which a tile reads on from the first term to the last:

    block of a tile: [point along y][point along x][row of the tile]

The taps of a window share one copy. Along an axis of the image, fold value i and tap t meet at
point step * i + apart * t, and the copy has a place for every such point of the chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.loops import Carry, Count, whole
from graphc.codegen.llvm.operand import Operands
from graphc.codegen.llvm.packing import Packer
from graphc.codegen.llvm.product import Interval, Product
from graphc.codegen.llvm.tiling import TileGroup, Tiling
from graphc.kernel.lang import Axis


@dataclass(frozen=True)
class Points:
    """Where one fold axis, and the tap that moves a along it, lead in a.

    unit: elements from point to point. step, apart: points from one fold value, one tap, to the
    next. tap, taps: the tap's axis, if there is one, and its extent. first, end: the points that
    exist, where guards say so.
    """

    unit: int
    step: int = 1
    apart: int = 0
    tap: Axis | None = None
    taps: int = 1
    first: int | None = None
    end: int | None = None

    def count(self, values: int) -> int:
        """Points that so many fold values and all taps meet."""
        return self.step * (values - 1) + self.apart * (self.taps - 1) + 1


def taps_of(product: Product, tiling: Tiling) -> list[Axis]:
    """The axes that move a and that every panel covers as a whole, for each chunk."""
    axes = list(tiling.whole_lines)
    if tiling.line is not None and tiling.lines >= product.extents[tiling.line]:
        axes.append(tiling.line)
    return [axis for axis in axes if axis in tiling.a.strides]


def points(product: Product, tiling: Tiling) -> dict[Axis, Points] | None:
    """Those of all fold axes of a chunk; None where guards or taps allow no such copy."""
    a = tiling.a
    taps = taps_of(product, tiling)
    if tiling.line in a.strides and tiling.line not in taps:
        return None
    if any(a.strides.get(axis, 0) < 1 for axis in tiling.inner):
        return None
    found = {axis: Points(a.strides[axis]) for axis in tiling.inner}
    for tap in taps:
        free = [x for x in tiling.inner if found[x].tap is None]
        if not free:
            return None
        along = {axis: _meeting(a.strides[axis], a.strides[tap]) for axis in free}
        axis = min(free, key=lambda x: along[x].step + along[x].apart)
        if along[axis].apart < 1:
            return None
        found[axis] = replace(along[axis], tap=tap, taps=product.extents[tap])
    for guard in product.guards if a.guarded else ():
        guarded = [axis for axis in guard.terms if axis in found]
        if len(guarded) != 1 or not _is_of(guard, guarded[0], found[guarded[0]]):
            return None
        (axis,) = guarded
        if found[axis].first is not None:
            return None
        end = guard.extent - guard.constant
        found[axis] = replace(found[axis], first=-guard.constant, end=end)
    return found


def _meeting(axis: int, tap: int) -> Points:
    """Those of an axis and a tap with these strides."""
    unit = math.gcd(axis, tap)
    return Points(unit, axis // unit, tap // unit)


def _is_of(guard: Interval, axis: Axis, met: Points) -> bool:
    """Whether a guard speaks of nothing but an axis' points."""
    wanted = {axis: met.step, **({met.tap: met.apart} if met.tap else {})}
    return guard.terms == wanted


def _values(product: Product, tiling: Tiling, axis: Axis) -> int:
    """Values of a fold axis in a chunk, at most."""
    return tiling.strip if tiling.strip and axis == tiling.inner[0] else product.extents[axis]


def _found(product: Product, tiling: Tiling) -> dict[Axis, Points]:
    found = points(product, tiling)
    assert found is not None
    return found


def tile_step(product: Product, tiling: Tiling) -> int:
    """Elements for each row of a tile's block: the points of a chunk, and room for a vector."""
    found = _found(product, tiling)
    size = math.prod(met.count(_values(product, tiling, axis)) for axis, met in found.items())
    return size + -(-tiling.lanes // tiling.rows)


def tile_items(product: Product, tiling: Tiling) -> int:
    """Elements of the blocks of all tiles of a panel."""
    tiles = -(-tiling.panel_rows // tiling.rows)
    return tiles * tiling.rows * tile_step(product, tiling)


def with_packed_tiles(product: Product, tiling: Tiling) -> Tiling:
    """The tiling of a panel that reads a from its tiles' blocks, in which rows are neighbours.

    Around a chunk a moves as it lies.
    """
    assert tiling.row is not None
    found = _found(product, tiling)
    copied = {*tiling.inner, *(met.tap for met in found.values())}
    strides = {axis: step for axis, step in tiling.a.strides.items() if axis not in copied}
    strides[tiling.row], step = 1, tiling.rows
    for axis in reversed(tiling.inner):
        met = found[axis]
        strides[axis] = met.step * step
        if met.tap is not None:
            strides[met.tap] = met.apart * step
        step *= met.count(_values(product, tiling, axis))
    return replace(tiling, a=replace(tiling.a, strides=strides, constant=0))


class TilePacker(Packer):
    """Emits the copy of what a chunk has of a: a block for each tile, all of its rows for a point.

    All tiles' rows of one point lie side by side in memory; a vector that reaches beyond a tile's
    rows is overwritten by the next point. each_tile: calls what it is given with each tile of the
    panel and its first row.
    """

    def __init__(
        self,
        at: Operands,
        unpacked: Tiling,
        packed: Tiling,
        product: Product,
        each_tile: Callable[[Callable[[TileGroup, ir.Value], None]], None],
    ):
        super().__init__(at, replace(unpacked, b=unpacked.a, packing="copy"), product, packed.a)
        self.points = _found(product, unpacked)
        self.step = tile_step(product, unpacked)
        self.each_tile = each_tile

    def _loops(
        self,
        axes: list[Axis],
        source: ir.Value,
        target: ir.Value,
        strip: tuple[Count, Count] | None,
    ) -> None:
        axis, *rest = axes
        met, x = self.points[axis], self.at.builder
        low, high = strip or (0, self.product.extents[axis])
        past = met.apart * (met.taps - 1) - met.step + 1
        first = x.mul(whole(low), whole(met.step))
        end = x.add(x.mul(whole(high), whole(met.step)), whole(past))
        if met.first is not None and met.end is not None:
            first, end = self.at.larger(first, met.first), self.at.smaller(end, met.end)
        apart = self.block.strides[axis] // met.step

        def body(i: ir.Value, _: Carry) -> Carry:
            near = self.at.moved(source, x.mul(i, whole(met.unit)))
            far = self.at.moved(target, x.mul(i, whole(apart)))
            if rest:
                self._loops(rest, near, far, None)
            else:
                self._copy(near, far)
            return []

        self.frame.loop(first, end, 1, [], body)

    def _copy(self, source: ir.Value, target: ir.Value) -> None:
        lanes, at, following = self.tiling.lanes, self.at, self._to_next_chunk()

        def tile(group: TileGroup, row: ir.Value) -> None:
            near = at.moved(source, row)
            far = at.moved(target, at.builder.mul(row, whole(self.step)))
            if following:
                at.fetch(at.moved(near, following))
            for first in range(0, group.rows, lanes):
                rest = group.rows - first
                value = at.load(at.moved(near, first), rest if rest < lanes else None)
                at.store(value, at.moved(far, first))

        self.each_tile(tile)
