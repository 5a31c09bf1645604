"""The weight gradient of a convolution by Winograd's algorithm.

For one block of channels and of outputs after another: strips of tiles that fit the second-level
cache are transformed, the windows of the data and the squares of dy, and each point adds products
of matrices, a sum over the strip's tiles, to the block's sums. These are transformed back at last
and go through the kernel's stores. `graphc.kernel.winograd_gradient` has the formula.

What threads share are pairs of blocks. Each thread works in a row of its own of the scratch array.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.function import EmittedKernel, kernel_function
from graphc.codegen.llvm.loops import Carry, Count, whole
from graphc.codegen.llvm.operand import Operands
from graphc.codegen.llvm.shares import each
from graphc.codegen.llvm.target import Target
from graphc.codegen.llvm.tiling import parts
from graphc.codegen.llvm.vector import Values
from graphc.codegen.llvm.winograd import CACHE_PART
from graphc.codegen.llvm.winograd_product import register_tile
from graphc.codegen.llvm.winograd_transform import sandwich
from graphc.codegen.llvm.winograd_windows import Rows, Tiles, load_points
from graphc.codegen.nodes import Nodes, StoreNode
from graphc.kernel import winograd
from graphc.kernel.contraction import Contraction, match
from graphc.kernel.lang import Axis, Kernel
from graphc.kernel.winograd import Geometry
from graphc.kernel.winograd_gradient import Blocks, choose_blocks, gradient_geometry
from graphc.kernel.winograd_matrices import Transform


def emit_winograd_gradient(
    module: ir.Module, kernel: Kernel, target: Target, name: str
) -> EmittedKernel | None:
    """Add `kernel` to `module`; None where it is no weight gradient that is to be done so."""
    if kernel.winograd is None or kernel.winograd.filters is not None:
        return None
    contraction = match(kernel)
    form = None if contraction is None else gradient_geometry(contraction)
    assert contraction is not None and form is not None, "the plan saw a weight gradient"
    schedule = choose_schedule(form, kernel, target)
    function = kernel_function(module, kernel.buffers, name, has_worker=True)
    values = Values.of_kernel(function, kernel, target)
    *_, low, high, _, _, worker = function.args
    _Gradient(contraction, form, schedule, values).emit(low, high, worker)
    values.builder.ret_void()
    sums = schedule.transform.points * form.tiles(schedule.transform.tile) * form.groups
    cost = 2.0 * sums * form.channels.extent * form.outputs.extent
    units = schedule.blocks.shares(form)
    return EmittedKernel(
        function, units, 1, cost, (), 0, 1, schedule.workers, made=(form, schedule)
    )


@dataclass(frozen=True)
class Schedule:
    """How the work is cut: blocks, and a register tile of `rows` outputs and `vectors` vectors.

    workers: threads that have memory to work in.
    """

    transform: Transform
    blocks: Blocks
    lanes: int
    vectors: int
    rows: int
    workers: int


def choose_schedule(form: Geometry, kernel: Kernel, target: Target) -> Schedule:
    """The blocks that the caches hold and that take the threads the least time."""
    assert kernel.winograd is not None
    tile, lanes = kernel.winograd.tile, target.lanes("float32")
    transform = form.transform(tile)
    room = next(b for b in kernel.outputs if b.name == kernel.winograd.work)
    workers, items = room.shape
    cache = min(winograd.WORK_BYTES, int(CACHE_PART * target.l2_bytes))
    blocks = choose_blocks(form, tile, workers, cache)
    assert blocks.items(transform.points) <= items, "the plan made room for them"
    vectors, rows = register_tile(blocks.channels // lanes, blocks.outputs, target.registers)
    return Schedule(transform, blocks, lanes, vectors, rows, workers)


class _Gradient:
    """Emits one function."""

    def __init__(
        self,
        contraction: Contraction,
        form: Geometry,
        schedule: Schedule,
        values: Values,
    ):
        self.form, self.schedule, self.blocks = form, schedule, schedule.blocks
        self.frame, self.builder, self.values = values.frame, values.builder, values
        self.at = Operands(values.frame, values, "float32", schedule.lanes)
        kernel = contraction.kernel
        assert kernel.winograd is not None
        body = replace(kernel, body=contraction.stores, winograd=None)
        statements = Nodes(body).read().statements
        self.stores = [s for s in statements if isinstance(s, StoreNode)]
        steps = {s.address.terms.get(form.channels, 0) for s in self.stores}
        self.stored_along = max(steps, key=abs)
        self.local = contraction.fold.locals[0].name
        self.work = values.bases[kernel.winograd.work]
        room = next(b for b in kernel.outputs if b.name == kernel.winograd.work)
        self.row_items = room.shape[1]
        self.points = schedule.transform.points
        self.tiles = Tiles(self.at, form, schedule.transform)
        self.slab = self.blocks.slab(self.blocks.channels)
        self.dy_slab = self.blocks.slab(self.blocks.outputs)

    # -- shares --

    def emit(self, low: ir.Value, high: ir.Value, worker: ir.Value) -> None:
        """Pairs of blocks low .. high - 1, in the worker's row of the scratch array."""
        b, s = self.builder, self.schedule
        across, down = self.blocks.counts(self.form)
        self.windows = self.at.moved(self.work, b.mul(worker, whole(self.row_items)))
        self.squares = self.at.moved(self.windows, self.points * self.slab)
        self.sums = self.at.moved(self.squares, self.points * self.dy_slab)

        def unit(index: ir.Value) -> None:
            column, rest = b.urem(index, whole(across)), b.udiv(index, whole(across))
            row, self.group = b.urem(rest, whole(down)), b.udiv(rest, whole(down))
            self.first = b.mul(column, whole(self.blocks.channels))
            self.first_output = b.mul(row, whole(self.blocks.outputs))
            self.channels = self._part(self.form.channels, self.first, self.blocks.channels)
            self.outputs = self._part(self.form.outputs, self.first_output, self.blocks.outputs)
            self._clear()
            strip = self.blocks.strip
            self.frame.loop(0, self.form.tiles(s.transform.tile), strip, [], self._strip)
            each(self.frame, 0, self.outputs, self._finish)

        each(self.frame, low, high, unit)

    def _part(self, axis: Axis, first: ir.Value, size: int) -> Count:
        """How much of a block there is."""
        if axis.extent % size == 0:
            return size
        return self.at.smaller(self.builder.sub(whole(axis.extent), first), size)

    def _clear(self) -> None:
        def clear(i: ir.Value, _: Carry) -> Carry:
            self.at.store(self.at.zero, self.at.moved(self.sums, i))
            return []

        end = self.points * self.blocks.plane
        self.frame.loop(0, end, self.schedule.lanes, [], clear)

    # -- strips --

    def _strip(self, first_tile: ir.Value, _: Carry) -> Carry:
        """Add what the tiles from `first_tile` on give."""
        b = self.builder
        left = b.sub(whole(self.form.tiles(self.schedule.transform.tile)), first_tile)
        count = self.at.smaller(left, self.blocks.strip)

        def transform(number: ir.Value) -> None:
            known, corners = self.tiles.place(b.add(first_tile, number))
            if self.form.group is not None:
                known[self.form.group] = self.group
            place = self.at.moved(self.windows, b.mul(number, whole(self.blocks.channels)))
            rows = Rows(place, self.slab)
            self.tiles.transform_window(known, corners, self.first, self.channels, rows)
            place = self.at.moved(self.squares, b.mul(number, whole(self.blocks.outputs)))
            rows = Rows(place, self.dy_slab)
            self.tiles.transform_result(known, corners, self.first_output, self.outputs, rows)

        each(self.frame, 0, count, transform)
        self._look_ahead(first_tile)
        each(self.frame, 0, self.points, lambda p: self._point(p, first_tile, count))
        return []

    def _look_ahead(self, first_tile: ir.Value) -> None:
        """Find what is transformed next: a strip of the same channels, or the next ones' first."""
        b, s = self.builder, self.schedule
        following = b.add(first_tile, whole(self.blocks.strip))
        total = whole(self.form.tiles(s.transform.tile))
        is_last = b.icmp_signed(">=", following, total)
        self.next_tile = b.select(is_last, whole(0), following)
        self.next_count = self.at.smaller(b.sub(total, self.next_tile), self.blocks.strip)
        skip = b.select(is_last, whole(self.blocks.channels), whole(0))
        self.next_channel = b.add(self.first, skip)
        tiles = sum(count for _, count in parts(self.blocks.outputs, s.rows))
        self.fetched_at_once = -(-self.blocks.strip // (tiles * self.points))
        self.slots = tiles

    def _fetch(self, slot: ir.Value) -> None:
        """Ask for a few of the tiles that are transformed next, while sums are computed."""
        b, form, blocks = self.builder, self.form, self.blocks
        low = b.mul(slot, whole(self.fetched_at_once))
        high = self.at.smaller(b.add(low, whole(self.fetched_at_once)), self.next_count)

        def tile(number: ir.Value) -> None:
            known, corners = self.tiles.place(b.add(self.next_tile, number))
            if form.group is not None:
                known[form.group] = self.group
            self.tiles.fetch_window(known, corners, self.next_channel, blocks.channels)
            self.tiles.fetch_result(known, corners, self.first_output, blocks.outputs)

        each(self.frame, low, high, tile)

    def _point(self, point: ir.Value, first_tile: ir.Value, count: ir.Value) -> None:
        """Add one point's products, in register tiles."""
        b, s, blocks = self.builder, self.schedule, self.blocks
        bounds = self.tiles.needing(point, first_tile, count)
        right = self.at.moved(self.windows, b.mul(point, whole(self.slab)))
        left = self.at.moved(self.squares, b.mul(point, whole(self.dy_slab)))
        sums = self.at.moved(self.sums, b.mul(point, whole(blocks.plane)))
        width = s.vectors * s.lanes

        def tiles(above: int, slot: int, rows: int, number: ir.Value) -> None:
            done = b.add(b.mul(point, whole(self.slots)), whole(slot))
            self._fetch(b.add(done, number))
            row = b.add(whole(above), b.mul(number, whole(rows)))
            line = self.at.moved(sums, b.mul(row, whole(blocks.channels)))
            a = self.at.moved(left, row)

            def tile(column: ir.Value) -> None:
                skip = b.mul(column, whole(width))
                self._tile(a, self.at.moved(right, skip), self.at.moved(line, skip), rows, bounds)

            each(self.frame, 0, blocks.channels // width, tile)

        first = slot = 0
        for rows, number in parts(blocks.outputs, s.rows):
            each(self.frame, 0, number, partial(tiles, first, slot, rows))
            first, slot = first + rows * number, slot + number

    def _tile(
        self,
        left: ir.Value,
        right: ir.Value,
        sums: ir.Value,
        rows: int,
        bounds: tuple[ir.Value, ir.Value],
    ) -> None:
        """A register tile's sums over the strip's tiles, added to those so far."""
        b, lanes, vectors = self.builder, self.at.lanes, self.schedule.vectors
        width = self.blocks.channels

        def step(k: ir.Value, carry: Carry) -> Carry:
            line = self.at.moved(right, b.mul(k, whole(width)))
            loaded = [self.at.load(self.at.moved(line, j * lanes)) for j in range(vectors)]
            place, new = self.at.moved(left, b.mul(k, whole(self.blocks.outputs))), []
            for row in range(rows):
                one = self.at.everywhere(self.at.moved(place, row))
                for j, vector in enumerate(loaded):
                    new.append(self.at.math.fma(one, vector, carry[row * vectors + j]))
            return new

        zeros = [self.at.zero] * (rows * vectors)
        found = self.frame.loop(*bounds, 1, zeros, step, running=True)
        for number, value in enumerate(found):
            row, j = divmod(number, vectors)
            place = self.at.moved(sums, row * width + j * lanes)
            self.at.store(b.fadd(self.at.load(place), value), place)

    # -- results --

    def _finish(self, output: ir.Value) -> None:
        """Transform the sums of one output back, and store its weights' gradients."""
        b, blocks, form = self.builder, self.blocks, self.form
        transform = self.schedule.transform
        source = self.at.moved(self.sums, b.mul(output, whole(blocks.channels)))
        matrix = tuple(zip(*transform.filter, strict=True))
        self.values.places[form.outputs] = (self.frame.depth, b.add(self.first_output, output))
        if form.group is not None:
            self.values.places[form.group] = (self.frame.depth, self.group)

        def body(c: ir.Value, some: Count | None, _: Carry) -> Carry:
            rows = Rows(self.at.moved(source, c), blocks.plane)
            grid = load_points(self.at, rows, transform.side)
            made = sandwich(self.at.math, matrix, grid)
            self._store_taps(made, b.add(self.first, c), some)
            return []

        self.frame.lane_loop(0, self.channels, self.schedule.lanes, [], body)
        del self.values.places[form.outputs]
        if form.group is not None:
            del self.values.places[form.group]

    def _store_taps(self, made: list[list[ir.Value]], first: ir.Value, some: Count | None) -> None:
        """Store all taps of a vector of channels, or of `some` of them.

        Where a channel's taps lie side by side, and not a tap's channels, numbers are stored one by
        one: storing lanes apart takes several times as long.
        """
        lanes, size = self.schedule.lanes, range(self.form.taps)
        taps = [(i, j) for i in size for j in size]
        if lanes == 1 or self.stored_along == 1:
            for i, j in taps:
                with self.frame.scope():
                    self._store((i, j), first, some, made[i][j])
            return
        for n, (i, j) in enumerate(taps):
            self.at.store(made[i][j], self.at.moved(self.windows, n * lanes))

        def channel(k: ir.Value) -> None:
            place = self.at.moved(self.windows, k)
            for n, tap in enumerate(taps):
                there = self.at.moved(place, n * lanes)
                value = self.builder.load(there, typ=self.at.element, align=self.at.item)
                with self.frame.scope():
                    self._store(tap, self.builder.add(first, k), None, value, scalar=True)

        each(self.frame, 0, lanes if some is None else some, channel)

    def _store(
        self,
        taps: tuple[int, int],
        first: ir.Value,
        some: Count | None,
        value: ir.Value,
        scalar: bool = False,
    ) -> None:
        """Run the kernel's stores for one tap of a vector of channels, or of one channel."""
        values, form = self.values, self.form
        for side, tap in zip(form.sides, taps, strict=True):
            values.places[side.over] = (self.frame.depth, whole(tap))
        values.locals[self.local] = (self.frame.depth, value)
        if scalar or self.schedule.lanes == 1:
            with values.at_axis(form.channels, first), values.under():
                values.store_all(self.stores)
        else:
            with values.along(form.channels, self.schedule.lanes, first, some), values.under():
                values.store_all(self.stores)
