"""The weight gradient of a Winograd convolution, by the same matrices.

With y = A' [ sum over channels of (G w G') * (B' d B) ] A, what y's gradient dy gives to w is

    dw = G' [ sum over tiles of (A dy A') * (B' d B) ] G        (' transposes, * is elementwise)

It needs as many multiplications a tile as the convolution. Here the sums are over tiles,
of all images; they are made for one block of channels and of outputs after another, and a block's
windows are transformed once for each block of the others.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from graphc.kernel import winograd
from graphc.kernel.contraction import Contraction, Operand
from graphc.kernel.lang import Axis
from graphc.kernel.winograd import (
    FEWEST_CHANNELS,
    LINE,
    UNIT_ROUNDOFF,
    Geometry,
    Side,
    direct_work,
)
from graphc.kernel.winograd_matrices import TAPS

MOST_IN_BLOCK = 64  # channels, and outputs
LEAST_IN_BLOCK = 16
LEAST_STRIP, MOST_STRIP = 8, 32  # tiles that are transformed before their products are summed up


def gradient_geometry(contraction: Contraction) -> Geometry | None:
    """The convolution whose weight gradient a contraction is; its `weights` are dy.

    None where it is none of this form. A side's `each` is a pixel of dy, which is summed over, its
    `over` a tap, which the result has.
    """
    for data, dy in (
        (contraction.left, contraction.right),
        (contraction.right, contraction.left),
    ):
        form = _form(contraction, data, dy)
        if form is not None:
            return form
    return None


def _form(contraction: Contraction, data: Operand, dy: Operand) -> Geometry | None:
    if data.buffer.dtype != "float32" or dy.buffer.dtype != "float32":
        return None
    if any(position.divisor > 1 for position in (*data.index, *dy.index)):
        return None
    if any(position.guarded for position in dy.index):
        return None
    sides = list(_sides(contraction, data, dy))
    if len(sides) != 2 or sides[0].taps != sides[1].taps:
        return None
    down, across = sorted(sides, key=lambda side: -data.stride(side.each))
    used = {axis for side in sides for axis in (side.each, side.over)}
    met, known = _axes(data), _axes(dy)
    free = [axis for axis in contraction.each if axis.extent > 1 and axis not in used]
    channels = [axis for axis in free if axis in met and axis not in known]
    outputs = [axis for axis in free if axis in known and axis not in met]
    groups = [axis for axis in free if axis in known and axis in met]
    outer = tuple(a for a in contraction.over if a.extent > 1 and a not in used)
    if len(channels) != 1 or len(outputs) != 1 or len(groups) > 1:
        return None
    if not set(outer) <= met & known:
        return None
    group = groups[0] if groups else None
    return Geometry(data, dy, (down, across), outer, group, outputs[0], channels[0])


def _axes(operand: Operand) -> set[Axis]:
    return {a for position in operand.index for a, _ in position.affine.terms if a.extent > 1}


def _sides(contraction: Contraction, data: Operand, dy: Operand) -> Iterator[Side]:
    """The data's indices that are a pixel of dy and a tap, which nothing else uses."""
    both = [position.affine for position in (*data.index, *dy.index)]
    for number, position in enumerate(data.index):
        form = position.affine
        pixels = [a for a, c in form.terms if a in contraction.over and c == 1]
        taps = [a for a, c in form.terms if a in contraction.each and c == 1 and a.extent in TAPS]
        if len(form.terms) != 2 or len(pixels) != 1 or len(taps) != 1:
            continue
        uses = [sum(f.coefficient(axis) != 0 for f in both) for axis in (pixels[0], taps[0])]
        alone = [
            p.affine
            for p in dy.index
            if p.affine.terms == ((pixels[0], 1),) and not p.affine.constant
        ]
        if uses == [2, 1] and len(alone) == 1:
            extent = data.buffer.shape[number]
            yield Side(pixels[0], taps[0], number, form.constant, False, extent)


def is_possible(form: Geometry) -> bool:
    """Whether the generated code covers it."""
    return form.data.stride(form.channels) == 1 and form.weights.stride(form.outputs) == 1


# -- how the work is cut --------------------------------------------------------------------------


@dataclass(frozen=True)
class Blocks:
    """Channels and outputs of a block, all alike but the last; tiles of a strip."""

    channels: int
    outputs: int
    strip: int

    def counts(self, form: Geometry) -> tuple[int, int]:
        """How many blocks of channels there are, and of outputs."""
        return (
            -(-form.channels.extent // self.channels),
            -(-form.outputs.extent // self.outputs),
        )

    def shares(self, form: Geometry) -> int:
        """Pairs of blocks, of all groups."""
        return form.groups * math.prod(self.counts(form))

    def items(self, points: int) -> int:
        """Elements that a block's windows, its part of dy, and its sums take."""
        slabs = self.slab(self.channels) + self.slab(self.outputs)
        return points * (slabs + self.plane)

    def slab(self, width: int) -> int:
        """Elements from what a strip has of a point and `width` channels to the next point's.

        An odd line keeps the points off one cache set.
        """
        return self.strip * width + LINE

    @property
    def plane(self) -> int:
        """Elements from one point's sums to the next's."""
        return self.channels * self.outputs + LINE


def choose_blocks(form: Geometry, tile: int, workers: int, cache_bytes: int) -> Blocks:
    """The blocks that take `workers` threads the least time, in a cache of so many bytes.

    The strip does not depend on the threads: neither does then in which order sums are added.
    """
    points = form.transform(tile).points
    strip = _strip(form, points, tile, cache_bytes)

    def time(blocks: Blocks) -> float:
        rounds = -(-blocks.shares(form) // workers)
        return rounds * _share_work(form, tile, blocks)

    found = [
        Blocks(channels, outputs, strip)
        for channels, outputs in itertools.product(_sizes(form.channels), _sizes(form.outputs))
    ]
    least = min(found, key=lambda blocks: blocks.items(points))
    fitting = [b for b in found if 4 * b.items(points) <= cache_bytes] or [least]
    return min(fitting, key=time)


def _strip(form: Geometry, points: int, tile: int, cache_bytes: int) -> int:
    """As many tiles as a cache holds of the largest blocks, all strips about as long."""
    width = max(_sizes(form.channels)) + max(_sizes(form.outputs))
    fits = cache_bytes // 4 * 2 // 3 // points // width  # the rest is for sums
    most = max(LEAST_STRIP, min(MOST_STRIP, fits))
    tiles = form.tiles(tile)
    return -(-tiles // -(-tiles // most))


def _sizes(axis: Axis) -> list[int]:
    """What may be a block of an axis: its parts, in whole vectors."""
    fewest = -(-axis.extent // MOST_IN_BLOCK)
    most = -(-axis.extent // LEAST_IN_BLOCK)
    found = {-(-axis.extent // count) for count in range(fewest, most + 1)}
    return sorted({-(-size // LEAST_IN_BLOCK) * LEAST_IN_BLOCK for size in found})


def work_shape(form: Geometry, tile: int, threads: int) -> tuple[int, int]:
    """How many of the threads can work at once, and elements for each of them."""
    points = form.transform(tile).points
    sizes = [_sizes(form.channels), _sizes(form.outputs)]
    smallest = Blocks(min(sizes[0]), min(sizes[1]), 1)
    workers = min(threads, smallest.shares(form))
    return workers, choose_blocks(form, tile, workers, winograd.WORK_BYTES).items(points)


# -- what it costs, and how exact it is -----------------------------------------------------------

# Slots of an instruction for one lane; a core has two a cycle. Fitted to the 3x3 convolutions of
# VGG-16, GoogLeNet and ResNet-50.
_POINTS_EFFICIENCY = 0.93
_INPUT_SLOTS = {(2, 3): 250.0, (4, 3): 700.0, (2, 5): 160.0}  # by tile and taps
_RESULT_SLOTS = {(2, 3): 200.0, (4, 3): 600.0, (2, 5): 400.0}
_OUTPUT_SLOTS = {(2, 3): 450.0, (4, 3): 800.0, (2, 5): 360.0}


def _share_work(form: Geometry, tile: int, blocks: Blocks) -> float:
    transform, kind = form.transform(tile), (tile, form.taps)
    needed = [transform.side * side.tiles(tile) - side.partial(tile) for side in form.sides]
    sums = form.images * math.prod(needed) * blocks.channels * blocks.outputs
    transforms = blocks.channels * _INPUT_SLOTS[kind] + blocks.outputs * _RESULT_SLOTS[kind]
    output = blocks.channels * blocks.outputs * _OUTPUT_SLOTS[kind]
    return sums / _POINTS_EFFICIENCY + form.tiles(tile) * transforms + output


def gradient_work(form: Geometry, tile: int) -> float:
    """Modelled slots of all blocks, transforms included."""
    blocks = choose_blocks(form, tile, 1, winograd.WORK_BYTES)
    return blocks.shares(form) * _share_work(form, tile, blocks)


def gradient_speedup(form: Geometry, tile: int) -> float:
    """How many times faster than the direct sum, by the model; 0 where lanes would be empty."""
    if min(form.channels.extent, form.outputs.extent) < FEWEST_CHANNELS:
        return 0.0
    return direct_work(form) / gradient_work(form, tile)


def gradient_error_bound(form: Geometry, tile: int) -> float:
    """The largest rounding error there can be, as a part of pixels * max |x| * max |dy|.

    As `winograd.error_bound`, with the matrices' roles of a gradient. tile 0: of the direct sum.
    """
    pixels = form.images * math.prod(side.result for side in form.sides)
    if tile == 0:
        return pixels * UNIT_ROUNDOFF
    transform = form.transform(tile)
    turned = [list(zip(*m, strict=True)) for m in (transform.output, transform.filter)]
    inputs, result, output = transform.input, turned[0], turned[1]
    sizes = [[sum(map(abs, row)) for row in matrix] for matrix in (inputs, result)]
    growth: float = max(
        sum(abs(f) * i * r for f, i, r in zip(row, *sizes, strict=True)) for row in output
    )
    terms: int = sum(
        2 * max(sum(f != 0 for f in row) for row in m) for m in (inputs, result, output)
    )
    tiles = form.tiles(tile)
    return growth * growth * tiles / pixels * (tiles + terms) * UNIT_ROUNDOFF
