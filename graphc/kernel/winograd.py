"""Winograd's convolution: fewer multiplications for windows that move by one pixel.

F(m x m, 3x3) computes an m x m tile of the result from a window d of m + 2 by m + 2 pixels as

    A' [ sum over channels of (G w G') * (B' d B) ] A        (' transposes, * is elementwise)

with (m + 2)^2 multiplications a channel where the direct sum has 9 m^2; F(2 x 2, 5x5) has 49 in
place of 100. `graphc.kernel.winograd_matrices` has the matrices. For a data gradient the same holds
with the window's taps reversed and the channels' roles exchanged.

`geometry` reads off a contraction whether it has this form, `filter_kernel` is the kernel of
G w G', `speedup` compares its work with the direct sum's, and `error_bound` the rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from graphc.kernel.affine import Affine
from graphc.kernel.build import Array, Writer
from graphc.kernel.contraction import KERNELS_REMEMBERED, Contraction, Operand
from graphc.kernel.lang import Axis, Buffer, Expr, Kernel, call, constant
from graphc.kernel.winograd_matrices import TAPS, TRANSFORMS, Transform

MOST_IN_BLOCK = 64  # output channels whose filters lie together
LEAST_IN_BLOCK = 16
LINE = 16  # elements of a line of the caches
UNIT_ROUNDOFF = 2.0**-24

# -- which contractions have the form -------------------------------------------------------------


@dataclass(frozen=True)
class Side:
    """One direction of the image: pixel `each` of the result meets tap `over` at each +- over.

    first: the first pixel that a window meets is `each` + first. reversed: taps run backwards.
    position: which index of the data this is. extent: pixels of the data, result: of the result.
    """

    each: Axis
    over: Axis
    position: int
    first: int
    reversed: bool
    extent: int

    @property
    def result(self) -> int:
        """Pixels of the result."""
        return self.each.extent

    @property
    def taps(self) -> int:
        """Pixels that a result's pixel meets."""
        return self.over.extent

    @property
    def meetings(self) -> int:
        """How many pairs of a result's pixel and a tap meet a pixel of the data, not padding."""
        starts = [self.first + tap for tap in range(self.taps)]
        return sum(max(0, min(self.result, self.extent - s) - max(0, -s)) for s in starts)

    def tiles(self, tile: int) -> int:
        """Tiles that cover the result."""
        return -(-self.result // tile)

    def partial(self, tile: int) -> int:
        """How many of them, none or the last, reach beyond it."""
        return int(self.result % tile != 0)


@dataclass(frozen=True)
class Geometry:
    """A convolution of square windows, of TAPS pixels, that move by one pixel.

    sides: down and across. outer: the images, and what else of `each` the weights do not know.
    group: the groups' axis, None: one group. outputs, channels: one group's.
    """

    data: Operand
    weights: Operand
    sides: tuple[Side, Side]
    outer: tuple[Axis, ...]
    group: Axis | None
    outputs: Axis
    channels: Axis

    @property
    def groups(self) -> int:
        """How many there are."""
        return self.group.extent if self.group else 1

    @property
    def taps(self) -> int:
        """Pixels of a window along one side."""
        return self.sides[0].taps

    def tilings(self, allowed: Iterable[int]) -> list[int]:
        """Those of some tiles for which there are matrices."""
        return [tile for tile in allowed if (tile, self.taps) in TRANSFORMS]

    def transform(self, tile: int) -> Transform:
        """The matrices for tiles of that size."""
        return TRANSFORMS[tile, self.taps]

    @property
    def images(self) -> int:
        """How many there are."""
        return math.prod(axis.extent for axis in self.outer)

    def tiles(self, tile: int) -> int:
        """Tiles of one group's result."""
        return self.images * math.prod(side.tiles(tile) for side in self.sides)

    @property
    def block(self) -> int:
        """Output channels whose filters lie together: all alike, a multiple of LEAST_IN_BLOCK."""
        blocks = -(-self.outputs.extent // MOST_IN_BLOCK)
        part = -(-self.outputs.extent // blocks)
        return -(-part // LEAST_IN_BLOCK) * LEAST_IN_BLOCK

    @property
    def blocks(self) -> int:
        """Blocks of output channels in a group."""
        return -(-self.outputs.extent // self.block)


def geometry(contraction: Contraction) -> Geometry | None:
    """The convolution that a contraction is, or None where it is none of this form."""
    data, weights = contraction.left, contraction.right
    if data.buffer.dtype != "float32" or weights.buffer.dtype != "float32":
        return None
    if any(position.divisor > 1 for position in (*data.index, *weights.index)):
        return None
    sides = _sides(contraction)
    if len(sides) != 2 or sides[0].taps != sides[1].taps:
        return None
    down, across = sorted(sides, key=lambda side: -data.stride(side.each))
    taps = {side.over for side in sides}
    channels = [a for a in contraction.over if a not in taps and a.extent > 1]
    free = [a for a in contraction.each if a.extent > 1 and a not in (down.each, across.each)]
    known, met = _axes(weights), _axes(data)
    outputs = [a for a in free if a in known and a not in met]
    groups = [a for a in free if a in known and a in met]
    outer = tuple(a for a in contraction.each if a in free and a not in known)
    if len(channels) != 1 or len(outputs) != 1 or len(groups) > 1:
        return None
    if not set(outer) <= met or channels[0] not in known & met:
        return None
    group = groups[0] if groups else None
    return Geometry(data, weights, (down, across), outer, group, outputs[0], channels[0])


def _axes(operand: Operand) -> set[Axis]:
    return {axis for position in operand.index for axis, _ in position.affine.terms}


def _sides(contraction: Contraction) -> list[Side]:
    """The data's indices that are a pixel and a tap, the tap being a weight's index."""
    found = []
    taps = [
        position.affine.terms[0][0]
        for position in contraction.right.index
        if len(position.affine.terms) == 1
        and position.affine.terms[0][1] == 1
        and position.affine.constant == 0
    ]
    for number, position in enumerate(contraction.left.index):
        each = [a for a, c in position.affine.terms if a in contraction.each and c == 1]
        over = [a for a in contraction.over if position.affine.coefficient(a) in (1, -1)]
        if len(position.affine.terms) != 2 or len(each) != 1 or len(over) != 1:
            continue
        tap, uses = over[0], _uses(contraction, over[0])
        if tap.extent not in TAPS or tap not in taps or uses != 2:
            continue
        backwards = position.affine.coefficient(tap) < 0
        first = position.affine.constant - (tap.extent - 1 if backwards else 0)
        extent = contraction.left.buffer.shape[number]
        if not _alone(contraction, each[0]):
            continue
        found.append(Side(each[0], tap, number, first, backwards, extent))
    return found


def _uses(contraction: Contraction, axis: Axis) -> int:
    positions = (*contraction.left.index, *contraction.right.index)
    return sum(position.affine.coefficient(axis) != 0 for position in positions)


def _alone(contraction: Contraction, axis: Axis) -> bool:
    return _uses(contraction, axis) == 1


# -- the tiles of a group, in the order in which they are worked on --------------------------------


@dataclass(frozen=True)
class Region:
    """Tiles of all images: `rows` by `columns` of each, from `row` and `column` on."""

    row: int
    rows: int
    column: int
    columns: int


def regions(form: Geometry, tile: int) -> tuple[Region, Region, Region, Region]:
    """The right edge, what lies within, the lower edge, the corner; any of them may be empty.

    Only the last of a tile's lines needs the last line of points (see TRANSFORMS). A tile that
    reaches beyond the result has no such line: so whole columns of points need no tiles of the
    right edge and the corner, whole lines no tiles of the lower edge and the corner, and what each
    point does need is a run of tiles in this order.
    """
    down, across = form.sides
    lower, right = down.partial(tile), across.partial(tile)
    rows, columns = down.tiles(tile) - lower, across.tiles(tile) - right
    return (
        Region(0, rows, columns, right),
        Region(0, rows, 0, columns),
        Region(rows, lower, 0, columns),
        Region(rows, lower, columns, right),
    )


# -- the filters ----------------------------------------------------------------------------------


def filter_shape(form: Geometry, tile: int) -> tuple[int, ...]:
    """Of the transformed weights: group, block, point, channel, output of the block.

    One channel more than there are: points then do not meet in one set of a cache.
    """
    points = form.transform(tile).points
    return (form.groups, form.blocks, points, form.channels.extent + 1, form.block)


@lru_cache(KERNELS_REMEMBERED)
def filter_kernel(form: Geometry, tile: int, source: Buffer, target: Buffer) -> Kernel:
    """target[g, b, p, c, o] = (G w G')[p] for output o of block b, from `source`, the weights.

    What lies beyond a group's last output is left as it is.
    """
    transform = form.transform(tile)
    k = Writer("winograd_filter")
    g, b, c, o = k.each(form.groups, form.blocks, form.channels.extent, form.block)
    output: Expr = call("add", call("mul", b, form.block), o) if form.blocks > 1 else o
    inside = None
    if form.blocks * form.block != form.outputs.extent:
        inside = call("lt", output, form.outputs.extent)
        output = call("min", output, form.outputs.extent - 1)
    weights, filters = Array(k, source), Array(k, target)

    def tap(i: int, j: int) -> Expr:
        known: dict[Axis, Expr] = {form.outputs: output, form.channels: c}
        if form.group is not None:
            known[form.group] = g
        for side, at in zip(form.sides, (i, j), strict=True):
            known[side.over] = constant(form.taps - 1 - at if side.reversed else at, "int64")
        index = tuple(_place(position.affine, known) for position in form.weights.index)
        return weights[index]

    taps = [[k.let(tap(i, j)) for j in range(form.taps)] for i in range(form.taps)]
    half = [
        [k.let(_combined(row, column)) for column in zip(*taps, strict=True)]
        for row in transform.filter
    ]
    for p in range(transform.side):
        for q in range(transform.side):
            value = _combined(transform.filter[q], half[p])
            place = (g, b, p * transform.side + q, c, o)
            k.store(filters, place, value, inside)
    return k.finish((source,), (target,))


def _place(form: Affine, known: dict[Axis, Expr]) -> Expr:
    total: Expr = constant(form.constant, "int64")
    for axis, factor in form.terms:
        if axis.extent > 1:
            total = call("add", total, call("mul", known[axis], factor))
    return total


def _combined(factors: Sequence[float], values: Sequence[Expr]) -> Expr:
    """sum of factor * value, without what is 0."""
    pairs = [(f, v) for f, v in zip(factors, values, strict=True) if f]
    terms = [v if f == 1 else call("mul", v, float(f)) for f, v in pairs]
    total = terms[0]
    for term in terms[1:]:
        total = call("add", total, term)
    return total


# -- memory to work in ----------------------------------------------------------------------------

WORK_BYTES = 768 << 10  # what a thread works in; it should stay in its second-level cache
FEWEST_TILES = 12  # of a strip: the largest register tile has no more rows
# Of a strip, though caches may not hold it, by tile and taps: each strip reads all filters, and
# with many channels that takes longer than its own rows (512 channels at 7x7: 1.3 times as fast
# with 72 as with 18). With 49 points a tile, fewer fit.
ENOUGH_TILES = {(2, 3): 72, (4, 3): 72, (2, 5): 36}


def enough_tiles(form: Geometry, tile: int) -> int:
    """Tiles of a strip, even where the caches do not hold so many."""
    return ENOUGH_TILES[tile, form.taps]


def pitch(form: Geometry) -> int:
    """Elements from one tile's channels to the next's; an odd line keeps them off one cache set."""
    return (-(-form.channels.extent // LINE) | 1) * LINE


def items_per_tile(form: Geometry, tile: int) -> int:
    """Elements that a tile of a strip takes: its channels and its products, transformed."""
    return form.transform(tile).points * (pitch(form) + form.block)


def work_shape(form: Geometry, tile: int, threads: int) -> tuple[int, int]:
    """How many of the threads can work at once, and elements for each of them."""
    each = items_per_tile(form, tile)
    tiles = min(max(enough_tiles(form, tile), WORK_BYTES // 4 // each), form.tiles(tile))
    tiles = max(FEWEST_TILES, -(-tiles // FEWEST_TILES) * FEWEST_TILES)
    strips = -(-form.tiles(tile) // FEWEST_TILES)
    workers = min(threads, form.groups * strips * form.blocks)
    return workers, tiles * each


# -- what it costs, and how exact it is -----------------------------------------------------------


# Slots of an instruction for one lane; a core has two a cycle. Fitted to forward and data gradient
# of the 3x3 convolutions of CaffeNet, VGG-16, GoogLeNet and ResNet-50 at batch 1 and 8; all but
# the sums are bound by memory. Direct and transformed sums are tiles of the same kind.
_DIRECT_EFFICIENCY = 0.9
_POINTS_EFFICIENCY = 0.88
_INPUT_SLOTS = {(2, 3): 200.0, (4, 3): 700.0, (2, 5): 400.0}  # by tile and taps
_OUTPUT_SLOTS = {(2, 3): 100.0, (4, 3): 500.0, (2, 5): 230.0}
_FILTER_SLOTS = {(2, 3): 400.0, (4, 3): 800.0, (2, 5): 450.0}
_PACKING_SLOTS = 440.0  # of the direct sum's weights
_READING_SLOTS = 8.0  # of one point of a filter, in each strip
FEWEST_CHANNELS = 16  # fewer leave most of a transform's lanes empty


def direct_work(form: Geometry) -> float:
    """Modelled slots of the direct sum, which leaves out padding."""
    meetings = form.images * math.prod(side.meetings for side in form.sides)
    sums = meetings * form.outputs.extent * form.channels.extent
    packing = form.outputs.extent * form.channels.extent * _PACKING_SLOTS
    return form.groups * (sums / _DIRECT_EFFICIENCY + packing)


def winograd_work(form: Geometry, tile: int) -> float:
    """Modelled slots of F(tile x tile), transforms included."""
    tiles, channels = form.tiles(tile), form.channels.extent
    outputs = form.blocks * form.block
    transform, kind = form.transform(tile), (tile, form.taps)
    needed = [transform.side * side.tiles(tile) - side.partial(tile) for side in form.sides]
    sums = form.images * math.prod(needed) * channels * outputs / _POINTS_EFFICIENCY
    transforms = tiles * (channels * _INPUT_SLOTS[kind] + outputs * _OUTPUT_SLOTS[kind])
    strips = -(
        -tiles // max(enough_tiles(form, tile), WORK_BYTES // 4 // items_per_tile(form, tile))
    )
    reading = strips * transform.points * _READING_SLOTS
    filters = channels * outputs * (_FILTER_SLOTS[kind] + reading)
    return form.groups * (sums + transforms + filters)


def is_possible(form: Geometry) -> bool:
    """Whether the generated code covers it, and lanes are used at all."""
    return form.data.stride(form.channels) == 1 and form.outputs.extent >= 2


def speedup(form: Geometry, tile: int) -> float:
    """How many times faster than the direct sum, by the model; 0 where lanes would be empty."""
    if min(form.channels.extent, form.outputs.extent) < FEWEST_CHANNELS:
        return 0.0
    return direct_work(form) / winograd_work(form, tile)


def error_bound(form: Geometry, tile: int) -> float:
    """The largest rounding error there can be, as a part of taps * channels * max |x| * max |w|.

    Each of three products of matrices, and the sum over channels, rounds once a term; what they
    round grows by the matrices' absolute sums. tile 0: of the direct sum.
    """
    channels = form.channels.extent
    if tile == 0:
        return form.taps**2 * channels * UNIT_ROUNDOFF
    transform = form.transform(tile)
    inputs = [sum(map(abs, row)) for row in transform.input]
    filters = [sum(map(abs, row)) for row in transform.filter]
    growth = max(
        sum(abs(f) * i * g for f, i, g in zip(row, inputs, filters, strict=True))
        for row in transform.output
    )
    matrices = (transform.input, transform.filter, transform.output)
    terms = sum(2 * max(sum(f != 0 for f in row) for row in matrix) for matrix in matrices)
    return growth**2 / form.taps**2 * (channels + terms) * UNIT_ROUNDOFF
