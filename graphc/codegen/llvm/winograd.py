"""A convolution by Winograd's algorithm: strips of tiles that fit the second-level cache.

A strip's windows are transformed to [point][tile][channel]; then, for one block of output channels
after another, each point is a product of matrices in register tiles, and the products of a tile are
transformed back and go through the kernel's stores. Windows that reach over the image's edge read
zeros there; pixels of a tile beyond the result are not stored. `graphc.kernel.winograd` has the
formula.

What threads share are the blocks of all strips; a strip's windows are transformed by each thread
that has a block of it. Each thread works in a row of its own of the scratch array.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import partial

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.function import EmittedKernel, kernel_function
from graphc.codegen.llvm.loops import Carry, Count, whole
from graphc.codegen.llvm.operand import LINE_BYTES, Operands
from graphc.codegen.llvm.shares import each, when
from graphc.codegen.llvm.target import Target
from graphc.codegen.llvm.vector import Values
from graphc.codegen.llvm.winograd_product import PointProduct, PointSizes, register_tile
from graphc.codegen.llvm.winograd_transform import sandwich
from graphc.codegen.llvm.winograd_windows import Rows, Tiles, load_points
from graphc.codegen.nodes import (
    Address,
    KernelNodes,
    Nodes,
    StoreNode,
    reachable,
    statement_nodes,
)
from graphc.kernel import winograd
from graphc.kernel.contraction import Contraction, match
from graphc.kernel.lang import Axis, Kernel
from graphc.kernel.winograd import Geometry
from graphc.kernel.winograd_matrices import Transform

CACHE_PART = 0.8  # of the second-level cache, for what a strip works in


def emit_winograd(
    module: ir.Module, kernel: Kernel, target: Target, name: str
) -> EmittedKernel | None:
    """Add `kernel` to `module`; None where it is no convolution that is to be done so."""
    if kernel.winograd is None or kernel.winograd.filters is None:
        return None
    contraction = match(kernel)
    form = None if contraction is None else winograd.geometry(contraction)
    assert contraction is not None and form is not None, "the plan saw a convolution"
    schedule = choose_schedule(form, kernel, target)
    function = kernel_function(module, kernel.buffers, name, has_worker=True)
    values = Values.of_kernel(function, kernel, target)
    *_, low, high, _, _, worker = function.args
    _Convolution(contraction, form, schedule, values).emit(low, high, worker)
    values.builder.ret_void()
    sums = schedule.transform.points * form.tiles(schedule.tile) * form.groups
    cost = 2.0 * sums * form.channels.extent * form.outputs.extent
    units = form.groups * schedule.strips * form.blocks
    workers = schedule.workers
    return EmittedKernel(
        function, units, 1, cost, (), 0, form.blocks, workers, made=(form, schedule)
    )


@dataclass(frozen=True)
class Schedule:
    """How the work is cut.

    lanes, vectors, rows: of a register tile. strip: tiles of a strip, strips: how many a group
    has. workers: threads that have memory to work in.
    """

    transform: Transform
    lanes: int
    vectors: int
    rows: int
    strip: int
    strips: int
    workers: int

    @property
    def tile(self) -> int:
        """Pixels of a tile along one side."""
        return self.transform.tile


def choose_schedule(form: Geometry, kernel: Kernel, target: Target) -> Schedule:
    """The largest strips that the caches hold."""
    assert kernel.winograd is not None
    tile, lanes = kernel.winograd.tile, target.lanes("float32")
    vectors, rows = register_tile(form.block // lanes, winograd.FEWEST_TILES, target.registers)
    room = next(b for b in kernel.outputs if b.name == kernel.winograd.work)
    workers, items = room.shape
    each_tile = winograd.items_per_tile(form, tile)
    fits = int(CACHE_PART * target.l2_bytes) // 4 // each_tile
    fits = min(max(winograd.enough_tiles(form, tile), fits), items // each_tile)
    strip = max(rows, fits // rows * rows)
    tiles = form.tiles(tile)
    strips = -(-tiles // strip)
    strip = -(-tiles // strips // rows) * rows  # all about as long
    strips = -(-tiles // strip)
    return Schedule(form.transform(tile), lanes, vectors, rows, strip, strips, workers)


class _Convolution:
    """Emits one function."""

    def __init__(
        self,
        contraction: Contraction,
        form: Geometry,
        schedule: Schedule,
        values: Values,
    ):
        self.form, self.schedule = form, schedule
        self.frame, self.builder, self.values = values.frame, values.builder, values
        self.at = Operands(values.frame, values, "float32", schedule.lanes)
        kernel = contraction.kernel
        assert kernel.winograd is not None
        body = replace(kernel, body=contraction.stores, winograd=None)
        self.stores: KernelNodes = Nodes(body).read()
        self.local = contraction.fold.locals[0].name
        self.met = self._rows_met() if schedule.lanes > 1 else []
        assert kernel.winograd.filters is not None
        self.filters = values.bases[kernel.winograd.filters]
        self.work = values.bases[kernel.winograd.work]
        room = next(b for b in kernel.outputs if b.name == kernel.winograd.work)
        self.row_items = room.shape[1]
        self.pitch = winograd.pitch(form)
        self.points = schedule.transform.points
        self.tiles = Tiles(self.at, form, schedule.transform)
        self.plane = schedule.strip * self.pitch  # from one point's rows to the next's
        self.block_plane = schedule.strip * form.block

    def _rows_met(self) -> list[Address]:
        """Where the stores read or write rows of outputs of a pixel."""
        stores = [s for s in self.stores.statements if isinstance(s, StoreNode)]
        nodes = reachable(tuple(n for s in stores for n in statement_nodes(s)))
        found = [n.address for n in nodes if n.address is not None] + [s.address for s in stores]
        across = self.form.sides[1].each
        rows = [a for a in found if a.terms.get(self.form.outputs) == 1 and across in a.terms]
        return list({id(a): a for a in rows if not a.parts}.values())

    # -- shares --

    def emit(self, low: ir.Value, high: ir.Value, worker: ir.Value) -> None:
        """Blocks low .. high - 1 of all strips, in the worker's row of the scratch array."""
        b, s = self.builder, self.schedule
        mine = self.at.moved(self.work, b.mul(worker, whole(self.row_items)))
        self.windows, self.products = mine, self.at.moved(mine, self.points * self.plane)

        def unit(index: ir.Value) -> None:
            block = b.urem(index, whole(self.form.blocks))
            strip = b.udiv(index, whole(self.form.blocks))
            self.group = b.udiv(strip, whole(s.strips))
            number = b.urem(strip, whole(s.strips))
            self.first_tile = b.mul(number, whole(s.strip))
            left = b.sub(whole(self.form.tiles(s.tile)), self.first_tile)
            self.count = self.at.smaller(left, s.strip)
            new = b.or_(b.icmp_unsigned("==", block, whole(0)), b.icmp_unsigned("==", index, low))
            when(self.frame, new, self._transform_windows)
            self._look_ahead(block)
            self._block(block)

        each(self.frame, low, high, unit)

    # -- tiles --

    def _tile_place(self, number: ir.Value) -> tuple[dict[Axis, ir.Value], list[ir.Value]]:
        """The outer axes' values of a tile of the strip, and its first pixel down and across."""
        known, corners = self.tiles.place(self.builder.add(self.first_tile, number))
        if self.form.group is not None:
            known[self.form.group] = self.group
        return known, corners

    def _transform_windows(self) -> None:
        each(self.frame, 0, self.count, self._transform_window)

    def _transform_window(self, number: ir.Value) -> None:
        known, corners = self._tile_place(number)
        target = self.at.moved(self.windows, self.builder.mul(number, whole(self.pitch)))
        channels = self.form.channels.extent
        rows = Rows(target, self.plane)
        self.tiles.transform_window(known, corners, whole(0), channels, rows)

    def _look_ahead(self, block: ir.Value) -> None:
        """Find how many tiles are transformed after this block: none, or those of a strip."""
        b, s = self.builder, self.schedule
        left = b.sub(whole(self.form.tiles(s.tile) - s.strip), self.first_tile)
        is_last = b.icmp_unsigned("==", block, whole(self.form.blocks - 1))
        self.next_count = b.select(is_last, self.at.smaller(left, s.strip), whole(0))

    def _fetch(self, slot: ir.Value, block: ir.Value) -> None:
        """While sums are computed, ask for one tile of what is read and written after them.

        First for the windows of the next strip, then for this one's part of the result.
        """
        b = self.builder

        def window() -> None:
            known, corners = self._tile_place(b.add(whole(self.schedule.strip), slot))
            self.tiles.fetch_window(known, corners, whole(0), self.form.channels.extent)

        when(self.frame, b.icmp_signed("<", slot, self.next_count), window)
        if self.met:
            number = b.sub(slot, whole(self.schedule.strip))
            inside = b.icmp_unsigned("<", number, self.count)
            when(self.frame, inside, lambda: self._fetch_result(number, block))

    def _fetch_result(self, number: ir.Value, block: ir.Value) -> None:
        b, form, values, lanes = self.builder, self.form, self.values, self.schedule.lanes
        known, corners = self._tile_place(number)
        first = b.mul(block, whole(form.block))
        for offsets in itertools.product(range(self.schedule.tile), repeat=2):
            with self.frame.scope():
                pairs = zip(corners, offsets, strict=True)
                self._set_places(known, [b.add(corner, whole(o)) for corner, o in pairs])
                with values.along(form.outputs, lanes, first, None):
                    for address in self.met:
                        for o in range(0, form.block, max(lanes, LINE_BYTES // self.at.item)):
                            values.prefetch(address, o)

    def _set_places(self, known: dict[Axis, ir.Value], pixel: list[ir.Value]) -> None:
        """The loop variables of the kernel's stores, but for the outputs'."""
        sides = zip((side.each for side in self.form.sides), pixel, strict=True)
        for axis, value in (*known.items(), *sides):
            self.values.places[axis] = (self.frame.depth, value)

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
                lambda group: self._fetch(b.add(b.mul(p, whole(groups)), group), block),
            )

        each(self.frame, 0, self.points, point)
        each(self.frame, 0, self.count, lambda t: self._finish(t, block))

    def _needed(self, point: ir.Value) -> tuple[ir.Value, ir.Value]:
        """The register tiles, of those of the strip, that have tiles which need a point's sums."""
        b, rows = self.builder, self.schedule.rows
        low, high = self.tiles.needing(point, self.first_tile, self.count)
        return b.udiv(low, whole(rows)), b.sdiv(b.add(high, whole(rows - 1)), whole(rows))

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
        transform = self.schedule.transform

        def body(o: ir.Value, some: Count | None, _: Carry) -> Carry:
            rows = Rows(self.at.moved(source, o), self.block_plane)
            grid = load_points(self.at, rows, transform.side)
            made = sandwich(self.at.math, transform.output, grid)
            for i, line in enumerate(made):
                for j, value in enumerate(line):
                    self._pixel((i, j), known, corners, b.add(first, o), some, value)
            return []

        self.frame.lane_loop(0, stop, self.schedule.lanes, [], body)

    def _pixel(
        self,
        offsets: tuple[int, int],
        known: dict[Axis, ir.Value],
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
        store = partial(self._store, known, places, first, some, value)
        if not missing:
            with self.frame.scope():
                store()
        elif len(missing) == 1:
            when(self.frame, missing[0], store)
        else:
            when(self.frame, b.and_(*missing), store)

    def _store(
        self,
        known: dict[Axis, ir.Value],
        places: list[ir.Value],
        first: ir.Value,
        some: Count | None,
        value: ir.Value,
    ) -> None:
        values, form = self.values, self.form
        self._set_places(known, places)
        values.locals[self.local] = (self.frame.depth, value)
        stores = [s for s in self.stores.statements if isinstance(s, StoreNode)]
        if self.schedule.lanes == 1:
            with values.at_axis(form.outputs, first), values.under():
                values.store_all(stores)
        else:
            with values.along(form.outputs, self.schedule.lanes, first, some), values.under():
                values.store_all(stores)
