"""A convolution by Winograd's algorithm: strips of tiles that fit the second-level cache.

A strip's windows are transformed to [point][tile][channel]; then, for one block of output channels
after another, each point is a product of matrices in register tiles, and the products of a tile are
transformed back and go through the kernel's stores. Windows that reach over the image's edge read
zeros there; pixels of a tile beyond the result are not stored. `graphc.kernel.winograd` has the
formula.

What threads share are runs of strips and blocks; a strip's windows are transformed by each thread
that has a block of it. A run works in the row of the scratch array that has the number of the
thread's first run, so two threads never meet, and one thread alone keeps to one row.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import partial

from llvmlite import ir

from graphc.codegen.llvm.function import EmittedKernel, kernel_function
from graphc.codegen.llvm.loops import Carry, Count, Frame, whole
from graphc.codegen.llvm.math import VectorMath
from graphc.codegen.llvm.operand import Operands
from graphc.codegen.llvm.shares import each, when
from graphc.codegen.llvm.target import Target
from graphc.codegen.llvm.vector import Values
from graphc.codegen.llvm.winograd_product import PointProduct, PointSizes
from graphc.codegen.llvm.winograd_transform import sandwich
from graphc.codegen.nodes import KernelNodes, Nodes, StoreNode
from graphc.kernel import winograd
from graphc.kernel.contraction import Contraction, match
from graphc.kernel.lang import Axis, Kernel
from graphc.kernel.winograd import TRANSFORMS, Geometry, Side, Transform

CACHE_PART = 0.8  # of the second-level cache, for what a strip works in


def emit_winograd(
    module: ir.Module, kernel: Kernel, target: Target, name: str
) -> EmittedKernel | None:
    """Add `kernel` to `module`; None where it is no convolution that is to be done so."""
    if kernel.winograd is None:
        return None
    contraction = match(kernel)
    form = None if contraction is None else winograd.geometry(contraction)
    assert contraction is not None and form is not None, "the plan saw a convolution"
    schedule = choose_schedule(form, kernel, target)
    function = kernel_function(module, kernel, name)
    builder = ir.IRBuilder(function.append_basic_block())
    frame = Frame(builder)
    *buffers, low, high, _ = function.args
    names = [buffer.name for buffer in kernel.buffers]
    places = dict(zip(names, buffers, strict=True))
    values = Values(frame, VectorMath(builder, module, target), places)
    values.written = frozenset(b.name for b in kernel.outputs)
    _Convolution(contraction, form, schedule, frame, values).emit(low, high)
    builder.ret_void()
    sums = schedule.transform.points * form.tiles(schedule.tile) * form.groups
    cost = 2.0 * sums * form.channels.extent * form.outputs.extent
    return EmittedKernel(function, schedule.shares, 1, cost, ())


@dataclass(frozen=True)
class Schedule:
    """How the work is cut.

    lanes, vectors, rows: of a register tile. strip: tiles of a strip, strips: how many a group
    has. shares: what threads divide among themselves.
    """

    tile: int
    lanes: int
    vectors: int
    rows: int
    strip: int
    strips: int
    shares: int

    @property
    def transform(self) -> Transform:
        """The matrices."""
        return TRANSFORMS[self.tile]


def choose_schedule(form: Geometry, kernel: Kernel, target: Target) -> Schedule:
    """The largest strips that the caches hold."""
    assert kernel.winograd is not None
    tile, lanes = kernel.winograd.tile, target.lanes("float32")
    vectors, rows = _register_tile(form.block // lanes, target.registers)
    room = next(b for b in kernel.outputs if b.name == kernel.winograd.work)
    workers, items = room.shape
    each_tile = winograd.items_per_tile(form, tile)
    fits = max(winograd.ENOUGH_TILES, int(CACHE_PART * target.l2_bytes) // 4 // each_tile)
    fits = min(fits, items // each_tile)
    strip = max(rows, fits // rows * rows)
    tiles = form.tiles(tile)
    strips = -(-tiles // strip)
    strip = -(-tiles // strips // rows) * rows  # all about as long
    strips = -(-tiles // strip)
    shares = min(workers, form.groups * strips * form.blocks)
    return Schedule(tile, lanes, vectors, rows, strip, strips, shares)


def _register_tile(vectors: int, registers: int) -> tuple[int, int]:
    """(vectors, rows) with the most multiplications for each load."""
    found = [
        (v, min(winograd.FEWEST_TILES, (registers - v - 1) // v))
        for v in range(1, vectors + 1)
        if vectors % v == 0 and 2 * v + 1 <= registers
    ]
    return max(found, key=lambda size: size[0] * size[1] / (size[0] + size[1]))


class _Convolution:
    """Emits one function."""

    def __init__(
        self,
        contraction: Contraction,
        form: Geometry,
        schedule: Schedule,
        frame: Frame,
        values: Values,
    ):
        self.form, self.schedule = form, schedule
        self.frame, self.builder, self.values = frame, frame.builder, values
        self.at = Operands(frame, values, "float32", schedule.lanes)
        kernel = contraction.kernel
        assert kernel.winograd is not None
        body = replace(kernel, body=contraction.stores, winograd=None)
        self.stores: KernelNodes = Nodes(body).read()
        self.local = contraction.fold.locals[0].name
        self.filters = values.bases[kernel.winograd.filters]
        self.work = values.bases[kernel.winograd.work]
        room = next(b for b in kernel.outputs if b.name == kernel.winograd.work)
        self.row_items = room.shape[1]
        self.pitch = winograd.pitch(form)
        self.points = schedule.transform.points
        self.regions = winograd.regions(form, schedule.tile)
        sizes = [form.images * region.rows * region.columns for region in self.regions]
        self.starts = list(itertools.accumulate(sizes, initial=0))
        self.plane = schedule.strip * self.pitch  # from one point's rows to the next's
        self.block_plane = schedule.strip * form.block

    # -- shares --

    def emit(self, low: ir.Value, high: ir.Value) -> None:
        """Shares low .. high - 1."""
        b, s = self.builder, self.schedule
        units = self.form.groups * s.strips * self.form.blocks
        mine = self.at.moved(self.work, b.mul(low, whole(self.row_items)))
        self.windows, self.products = mine, self.at.moved(mine, self.points * self.plane)
        first, last = (b.udiv(b.mul(share, whole(units)), whole(s.shares)) for share in (low, high))

        def unit(index: ir.Value) -> None:
            block = b.urem(index, whole(self.form.blocks))
            strip = b.udiv(index, whole(self.form.blocks))
            self.group = b.udiv(strip, whole(s.strips))
            number = b.urem(strip, whole(s.strips))
            self.first_tile = b.mul(number, whole(s.strip))
            left = b.sub(whole(self.form.tiles(s.tile)), self.first_tile)
            self.count = self.at.smaller(left, s.strip)
            new = b.or_(b.icmp_unsigned("==", block, whole(0)), b.icmp_unsigned("==", index, first))
            when(self.frame, new, self._transform_windows)
            self._block(block)

        each(self.frame, first, last, unit)

    # -- tiles --

    def _tile_place(self, number: ir.Value) -> tuple[dict[Axis, ir.Value], list[ir.Value]]:
        """The outer axes' values of a tile of the strip, and its first pixel down and across."""
        b, tile = self.builder, self.schedule.tile
        place = b.add(self.first_tile, number)
        found: list[ir.Value] = []
        for region, start in zip(self.regions, self.starts, strict=False):
            if not region.rows * region.columns:
                continue
            rest = b.sub(place, whole(start))
            column = b.add(b.urem(rest, whole(region.columns)), whole(region.column))
            rest = b.udiv(rest, whole(region.columns))
            row = b.add(b.urem(rest, whole(region.rows)), whole(region.row))
            here = [row, column, b.udiv(rest, whole(region.rows))]
            begun = b.icmp_unsigned(">=", place, whole(start))
            pairs = zip(here, found, strict=False)
            found = [b.select(begun, new, old) for new, old in pairs] if found else here
        corners, rest = [b.mul(at, whole(tile)) for at in found[:2]], found[2]
        known: dict[Axis, ir.Value] = {}
        for axis in reversed(self.form.outer):
            known[axis] = b.urem(rest, whole(axis.extent))
            rest = b.udiv(rest, whole(axis.extent))
        if self.form.group is not None:
            known[self.form.group] = self.group
        return known, corners

    # -- windows --

    def _transform_windows(self) -> None:
        each(self.frame, 0, self.count, self._transform_window)

    def _transform_window(self, number: ir.Value) -> None:
        b, data = self.builder, self.form.data
        known, corners = self._tile_place(number)
        start = self.at.moved(
            self.values.bases[data.buffer.name],
            data.constant,
        )
        for axis, value in known.items():
            start = self.at.moved(start, b.mul(value, whole(data.stride(axis))))
        tops = []
        for side, corner in zip(self.form.sides, corners, strict=True):
            start = self.at.moved(start, b.mul(corner, whole(data.stride(side.each))))
            if side.reversed:
                start = self.at.moved(start, -2 * data.buffer.strides[side.position])
            tops.append(b.add(corner, whole(side.first)))
        target = self.at.moved(self.windows, b.mul(number, whole(self.pitch)))
        down, across = self.form.sides
        interior = b.and_(self._all_inside(down, tops[0]), self._all_inside(across, tops[1]))
        when(self.frame, interior, lambda: self._channels(start, target, None))
        edge = b.not_(interior)
        when(self.frame, edge, lambda: self._channels(start, target, self._masks(tops)))

    def _all_inside(self, side: Side, top: ir.Value) -> ir.Value:
        b = self.builder
        reach = side.extent - self.schedule.transform.window
        low = b.icmp_signed(">=", top, whole(0))
        return b.and_(low, b.icmp_signed("<=", top, whole(reach)))

    def _masks(self, tops: list[ir.Value]) -> list[list[ir.Value]]:
        """For each line, and for each column, of the window whether it is in the image."""
        b = self.builder
        return [
            [
                b.icmp_unsigned("<", b.add(top, whole(i)), whole(side.extent))
                for i in range(self.schedule.transform.window)
            ]
            for side, top in zip(self.form.sides, tops, strict=True)
        ]

    def _channels(
        self, start: ir.Value, target: ir.Value, masks: list[list[ir.Value]] | None
    ) -> None:
        """Transform one window for all channels."""
        steps = [self.form.data.buffer.strides[side.position] for side in self.form.sides]
        safe = self.values.bases[self.form.data.buffer.name]
        window = self.schedule.transform.window

        def body(c: ir.Value, some: Count | None, _: Carry) -> Carry:
            place = self.at.moved(start, c)
            safe_place = self.at.moved(safe, c)
            grid = []
            for i in range(window):
                line = []
                for j in range(window):
                    pixel = self.at.moved(place, i * steps[0] + j * steps[1])
                    if masks is None:
                        line.append(self.at.load(pixel, some))
                        continue
                    inside = self.builder.and_(masks[0][i], masks[1][j])
                    pixel = self.builder.select(inside, pixel, safe_place)
                    value = self.at.load(pixel, some)
                    line.append(self.builder.select(inside, value, self.at.zero))
                grid.append(line)
            made = sandwich(self.at.math, self.schedule.transform.input, grid)
            for point, value in enumerate(v for line in made for v in line):
                there = self.builder.add(c, whole(point * self.plane))
                self.at.store(value, self.at.moved(target, there))
            return []

        self.frame.lane_loop(0, self.form.channels.extent, self.schedule.lanes, [], body)

    # -- products --

    def _block(self, block: ir.Value) -> None:
        """One block of output channels for the whole strip."""
        b, form, s = self.builder, self.form, self.schedule
        number = b.add(b.mul(self.group, whole(form.blocks)), block)
        *_, lines, width = winograd.filter_shape(form, s.tile)
        size = lines * width
        filters = self.at.moved(self.filters, b.mul(number, whole(self.points * size)))
        groups = s.strip // s.rows
        sizes = PointSizes(form.channels.extent, form.block, self.pitch, s.rows, s.vectors, groups)
        product = PointProduct(self.at, sizes)

        def point(p: ir.Value) -> None:
            product.emit(
                self.at.moved(self.windows, b.mul(p, whole(self.plane))),
                self.at.moved(filters, b.mul(p, whole(size))),
                self.at.moved(self.products, b.mul(p, whole(self.block_plane))),
                self._needed(p),
            )

        each(self.frame, 0, self.points, point)
        each(self.frame, 0, self.count, lambda t: self._finish(t, block))

    def _needed(self, point: ir.Value) -> tuple[ir.Value, ir.Value]:
        """The register tiles, of those of the strip, that have tiles which need a point's sums."""
        b, s, window = self.builder, self.schedule, self.schedule.transform.window
        line, column = b.udiv(point, whole(window)), b.urem(point, whole(window))
        lowest, rightmost = (b.icmp_unsigned("==", at, whole(window - 1)) for at in (line, column))
        _, inner, lower, corner, end = self.starts
        low = b.select(rightmost, whole(inner), whole(0))
        high = b.select(rightmost, whole(corner), whole(end))
        high = b.select(lowest, whole(lower), high)
        low = self.at.larger(b.sub(low, self.first_tile), 0)
        high = self.at.smaller(b.sub(high, self.first_tile), self.count)
        return b.udiv(low, whole(s.rows)), b.sdiv(b.add(high, whole(s.rows - 1)), whole(s.rows))

    # -- results --

    def _finish(self, number: ir.Value, block: ir.Value) -> None:
        """Transform a tile's products back and store its pixels."""
        b, form = self.builder, self.form
        known, corners = self._tile_place(number)
        source = self.at.moved(self.products, b.mul(number, whole(form.block)))
        first = b.mul(block, whole(form.block))
        stop: Count = form.block
        if form.outputs.extent % form.block:
            stop = self.at.smaller(b.sub(whole(form.outputs.extent), first), form.block)
        for axis, value in known.items():
            self.values.places[axis] = (self.frame.depth, value)
        window = self.schedule.transform.window

        def body(o: ir.Value, some: Count | None, _: Carry) -> Carry:
            place = self.at.moved(source, o)
            grid = [
                [
                    self.at.load(self.at.moved(place, (i * window + j) * self.block_plane))
                    for j in range(window)
                ]
                for i in range(window)
            ]
            made = sandwich(self.at.math, self.schedule.transform.output, grid)
            for i, line in enumerate(made):
                for j, value in enumerate(line):
                    self._pixel((i, j), corners, b.add(first, o), some, value)
            return []

        self.frame.lane_loop(0, stop, self.schedule.lanes, [], body)
        for axis in known:
            del self.values.places[axis]

    def _pixel(
        self,
        offsets: tuple[int, int],
        corners: list[ir.Value],
        first: ir.Value,
        some: Count | None,
        value: ir.Value,
    ) -> None:
        """Run the kernel's stores for one pixel, if the result has it."""
        b, tile = self.builder, self.schedule.tile
        places, missing = [], []
        for side, corner, offset in zip(self.form.sides, corners, offsets, strict=True):
            places.append(b.add(corner, whole(offset)))
            if offset > (side.result - 1) % tile:
                missing.append(b.icmp_signed("<", places[-1], whole(side.result)))
        store = partial(self._store, places, first, some, value)
        if not missing:
            with self.frame.scope():
                store()
        elif len(missing) == 1:
            when(self.frame, missing[0], store)
        else:
            when(self.frame, b.and_(*missing), store)

    def _store(
        self, places: list[ir.Value], first: ir.Value, some: Count | None, value: ir.Value
    ) -> None:
        values, form = self.values, self.form
        for side, place in zip(form.sides, places, strict=True):
            values.places[side.each] = (self.frame.depth, place)
        values.locals[self.local] = (self.frame.depth, value)
        stores = [s for s in self.stores.statements if isinstance(s, StoreNode)]
        if self.schedule.lanes == 1:
            with values.at_axis(form.outputs, first), values.under():
                values.store_all(stores)
        else:
            with values.along(form.outputs, self.schedule.lanes, first, some), values.under():
                values.store_all(stores)
