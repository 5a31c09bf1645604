"""The tiles of a Winograd convolution: where they lie, and their windows, transformed.

Windows that reach over the image's edge read zeros there.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.loops import Carry, Count, whole
from graphc.codegen.llvm.operand import LINE_BYTES, Operands
from graphc.codegen.llvm.shares import when
from graphc.codegen.llvm.winograd_transform import Grid, sandwich
from graphc.kernel import winograd
from graphc.kernel.contraction import Operand
from graphc.kernel.lang import Axis
from graphc.kernel.winograd import Geometry, Side
from graphc.kernel.winograd_matrices import Matrix, Transform

Corners = list[ir.Value]  # a tile's first pixel, down and across


@dataclass(frozen=True)
class Rows:
    """Where transformed numbers lie: a tile's first point, and elements to the next point's."""

    place: ir.Value
    plane: int


def load_points(at: Operands, rows: Rows, side: int) -> Grid:
    """All points of a tile, or of a sum of tiles, as the matrices find them: a vector of each."""
    lines = range(side)
    return [
        [at.load(at.moved(rows.place, (i * side + j) * rows.plane)) for j in lines] for i in lines
    ]


class Tiles:
    """All tiles of one group, in the order of `graphc.kernel.winograd.regions`."""

    def __init__(self, at: Operands, form: Geometry, transform: Transform):
        self.at, self.frame, self.builder = at, at.frame, at.builder
        self.form, self.transform = form, transform
        self.regions = winograd.regions(form, transform.tile)
        sizes = [form.images * region.rows * region.columns for region in self.regions]
        self.starts = list(itertools.accumulate(sizes, initial=0))

    def place(self, number: ir.Value) -> tuple[dict[Axis, ir.Value], Corners]:
        """The outer axes' values of a tile, and its first pixel."""
        b, tile = self.builder, self.transform.tile
        found: list[ir.Value] = []
        for region, start in zip(self.regions, self.starts, strict=False):
            if not region.rows * region.columns:
                continue
            rest = b.sub(number, whole(start))
            column = b.add(b.urem(rest, whole(region.columns)), whole(region.column))
            rest = b.udiv(rest, whole(region.columns))
            row = b.add(b.urem(rest, whole(region.rows)), whole(region.row))
            here = [row, column, b.udiv(rest, whole(region.rows))]
            begun = b.icmp_unsigned(">=", number, whole(start))
            pairs = zip(here, found, strict=False)
            found = [b.select(begun, new, old) for new, old in pairs] if found else here
        corners, rest = [b.mul(at, whole(tile)) for at in found[:2]], found[2]
        known: dict[Axis, ir.Value] = {}
        for axis in reversed(self.form.outer):
            known[axis] = b.urem(rest, whole(axis.extent))
            rest = b.udiv(rest, whole(axis.extent))
        return known, corners

    def needing(
        self, point: ir.Value, first: ir.Value, count: ir.Value
    ) -> tuple[ir.Value, ir.Value]:
        """Which tiles, of `count` from tile `first` on, have a use for a point: low, high."""
        b, side = self.builder, self.transform.side
        line, column = b.udiv(point, whole(side)), b.urem(point, whole(side))
        lowest, rightmost = (b.icmp_unsigned("==", at, whole(side - 1)) for at in (line, column))
        _, inner, lower, corner, end = self.starts
        low = b.select(rightmost, whole(inner), whole(0))
        high = b.select(rightmost, whole(corner), whole(end))
        high = b.select(lowest, whole(lower), high)
        return (
            self.at.larger(b.sub(low, first), 0),
            self.at.smaller(b.sub(high, first), count),
        )

    # -- windows of the data --

    def transform_window(
        self,
        known: dict[Axis, ir.Value],
        corners: Corners,
        first: ir.Value,
        channels: Count,
        target: Rows,
    ) -> None:
        """The window of a tile: `channels` channels from `first` on."""
        b, data = self.builder, self.form.data
        start = self.at.moved(self._window(known, corners), first)
        pairs = zip(self.form.sides, corners, strict=True)
        tops = [b.add(corner, whole(side.first)) for side, corner in pairs]
        window = self.transform.window
        down, across = self.form.sides
        steps = [data.buffer.strides[side.position] for side in self.form.sides]
        extents = [side.extent for side in self.form.sides]
        interior = b.and_(self._all_inside(down, tops[0]), self._all_inside(across, tops[1]))

        def run(masks: list[list[ir.Value]] | None) -> None:
            self._transform(
                data, start, steps, window, self.transform.input, masks, channels, target
            )

        when(self.frame, interior, lambda: run(None))
        when(self.frame, b.not_(interior), lambda: run(self._masks(tops, extents, window)))

    def _window(self, known: dict[Axis, ir.Value], corners: Corners) -> ir.Value:
        """Where a tile's window begins."""
        data = self.form.data
        start = self._start(data, known)
        for side, corner in zip(self.form.sides, corners, strict=True):
            step = whole(data.stride(side.each))
            start = self.at.moved(start, self.builder.mul(corner, step))
            if side.reversed:
                back = (side.taps - 1) * data.buffer.strides[side.position]
                start = self.at.moved(start, -back)
        return start

    def fetch_window(
        self, known: dict[Axis, ir.Value], corners: Corners, first: ir.Value, channels: int
    ) -> None:
        """Ask for what a window has that those before it have not: its last square."""
        start = self.at.moved(self._window(known, corners), first)
        steps = [self.form.data.buffer.strides[side.position] for side in self.form.sides]
        reach = self.transform.window - self.transform.tile
        self._fetch(self.at.moved(start, reach * sum(steps)), steps, channels)

    def _fetch(self, start: ir.Value, steps: Sequence[int], channels: int) -> None:
        tile = range(self.transform.tile)
        for i, j in itertools.product(tile, tile):
            for c in range(0, channels, LINE_BYTES // self.at.item):
                self.at.fetch(self.at.moved(start, i * steps[0] + j * steps[1] + c))

    def _start(self, operand: Operand, known: dict[Axis, ir.Value]) -> ir.Value:
        start = self.at.moved(self.at.values.bases[operand.buffer.name], operand.constant)
        for axis, value in known.items():
            start = self.at.moved(start, self.builder.mul(value, whole(operand.stride(axis))))
        return start

    def _all_inside(self, side: Side, top: ir.Value) -> ir.Value:
        b = self.builder
        reach = side.extent - self.transform.window
        low = b.icmp_signed(">=", top, whole(0))
        return b.and_(low, b.icmp_signed("<=", top, whole(reach)))

    def _masks(
        self, tops: Sequence[ir.Value], extents: Sequence[int], size: int
    ) -> list[list[ir.Value]]:
        """For each line, and for each column, of a square whether it is in the image."""
        b = self.builder
        return [
            [b.icmp_unsigned("<", b.add(top, whole(i)), whole(extent)) for i in range(size)]
            for extent, top in zip(extents, tops, strict=True)
        ]

    # -- tiles of the result's gradient --

    def transform_result(
        self,
        known: dict[Axis, ir.Value],
        corners: Corners,
        first: ir.Value,
        outputs: Count,
        target: Rows,
    ) -> None:
        """A tile of what lies where the result does, `form.weights` of a weight gradient."""
        b, result, tile = self.builder, self.form.weights, self.transform.tile
        start, steps = self._square(known, corners)
        start = self.at.moved(start, first)
        extents = [side.result for side in self.form.sides]
        matrix = tuple(zip(*self.transform.output, strict=True))
        inside = [
            b.icmp_unsigned("<=", corner, whole(extent - tile))
            if extent >= tile
            else ir.Constant(ir.IntType(1), 0)
            for corner, extent in zip(corners, extents, strict=True)
        ]
        interior = b.and_(*inside)

        def run(masks: list[list[ir.Value]] | None) -> None:
            self._transform(result, start, steps, tile, matrix, masks, outputs, target)

        when(self.frame, interior, lambda: run(None))
        when(self.frame, b.not_(interior), lambda: run(self._masks(corners, extents, tile)))

    def _square(self, known: dict[Axis, ir.Value], corners: Corners) -> tuple[ir.Value, list[int]]:
        """Where a tile's square begins, and elements to the next pixel down and across."""
        result = self.form.weights
        start = self._start(result, known)
        steps = [result.stride(side.each) for side in self.form.sides]
        for corner, step in zip(corners, steps, strict=True):
            start = self.at.moved(start, self.builder.mul(corner, whole(step)))
        return start, steps

    def fetch_result(
        self, known: dict[Axis, ir.Value], corners: Corners, first: ir.Value, outputs: int
    ) -> None:
        """Ask for what `transform_result` reads."""
        start, steps = self._square(known, corners)
        self._fetch(self.at.moved(start, first), steps, outputs)

    # -- both --

    def _transform(
        self,
        operand: Operand,
        start: ir.Value,
        steps: Sequence[int],
        size: int,
        matrix: Matrix,
        masks: list[list[ir.Value]] | None,
        channels: Count,
        target: Rows,
    ) -> None:
        """matrix . square . matrix' for all channels; a square is of `size` by `size` pixels."""
        safe = self.at.values.bases[operand.buffer.name]

        def pixel(c: ir.Value, i: int, j: int, some: Count | None) -> ir.Value:
            place = self.at.moved(self.at.moved(start, c), i * steps[0] + j * steps[1])
            if masks is None:
                return self.at.load(place, some)
            inside = self.builder.and_(masks[0][i], masks[1][j])
            place = self.builder.select(inside, place, self.at.moved(safe, c))
            return self.builder.select(inside, self.at.load(place, some), self.at.zero)

        def body(c: ir.Value, some: Count | None, _: Carry) -> Carry:
            grid: Grid = [[pixel(c, i, j, some) for j in range(size)] for i in range(size)]
            made = sandwich(self.at.math, matrix, grid)
            for point, value in enumerate(v for line in made for v in line):
                there = self.builder.add(c, whole(point * target.plane))
                self.at.store(value, self.at.moved(target.place, there))
            return []

        if self.at.lanes == 1:
            self.frame.loop(0, channels, 1, [], lambda c, carry: body(c, None, carry))
        else:
            self.frame.lane_loop(0, channels, self.at.lanes, [], body)
