"""The emitter for every kernel: its `each` loops, shared among threads, around its statements."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.ahead import fetched_ahead, pages_asked_for
from graphc.codegen.llvm.function import EmittedKernel, check_messages, kernel_function
from graphc.codegen.llvm.loops import Carry, Count, Frame, whole
from graphc.codegen.llvm.math import VectorMath
from graphc.codegen.llvm.next_row import next_rows
from graphc.codegen.llvm.row_batch import RowBatch
from graphc.codegen.llvm.row_walk import RowWalk
from graphc.codegen.llvm.schedule import Schedule, schedule
from graphc.codegen.llvm.scratch import Scratch
from graphc.codegen.llvm.shares import when
from graphc.codegen.llvm.square import Neighbours
from graphc.codegen.llvm.statements import Statements
from graphc.codegen.llvm.streaming import Streams, are_aligned, before_aligned, streams_of
from graphc.codegen.llvm.strips import Strips, cut_in_strips
from graphc.codegen.llvm.target import Target
from graphc.codegen.llvm.vector import Values
from graphc.codegen.nodes import FoldNode, Node, Nodes, StoreNode, reachable, statement_nodes
from graphc.ir.types import DTYPES
from graphc.kernel.lang import Axis, Kernel
from graphc.kernel.residues import by_residues


def emit_loops(module: ir.Module, kernel: Kernel, target: Target, name: str) -> EmittedKernel:
    """The function `name` of any kernel, in loops and vectors."""
    kernel = by_residues(kernel)
    plan = schedule(Nodes(kernel).read(), target)
    function = kernel_function(module, kernel.buffers, name)
    body = _Body(function, kernel, plan, target)
    body.emit()
    return EmittedKernel(
        function,
        plan.extent,
        plan.unit,
        plan.cost,
        check_messages(kernel),
        body.scratch.bytes,
        grain=int(not plan.walk),
        made=Loops(plan, body.streams, body.strips, body.pages),
    )


@dataclass(frozen=True)
class Loops:
    """What was decided. pages: in which lines of arrays that are walked are asked for."""

    plan: Schedule
    streams: Streams
    strips: Strips | None
    pages: int = 0


class _Body:
    """The `each` loops around the statements."""

    def __init__(self, function: ir.Function, kernel: Kernel, plan: Schedule, target: Target):
        self.builder = ir.IRBuilder(function.append_basic_block())
        self.target = target
        self.streams = streams_of(plan, target)
        self.strips = cut_in_strips(plan, target)
        self.frame = Frame(self.builder)
        math = VectorMath(self.builder, function.module, target)
        names = [buffer.name for buffer in kernel.buffers]
        *buffers, self.low, self.high, error, place = function.args
        self.scratch = Scratch(self.builder, place)
        self.values = Values(self.frame, math, dict(zip(names, buffers, strict=True)))
        self.values.written = plan.nodes.written
        every = (n for s in plan.nodes.statements for n in reachable(statement_nodes(s)))
        self.values.neighbours = Neighbours(every, plan.nodes.written, plan.outer + plan.loops)
        self.plan = plan
        self.statements = Statements(self.frame, self.values, plan, error, self.scratch)
        self.statements.uneven = self.streams.uneven
        self.statements.next_rows = next_rows(plan, target)
        self.ahead = fetched_ahead(plan, target)
        self.batch: RowBatch | None = None
        if plan.batch:
            (axis,) = plan.outer
            self.batch = RowBatch(self.frame, self.values, axis, plan.batch, plan.nodes.statements)
        self.walk: RowWalk | None = None
        if plan.walk:
            uneven = self.streams.uneven
            self.walk = RowWalk(self.frame, self.values, plan, self.scratch, uneven)

    @property
    def pages(self) -> int:
        """In how many pages at once lines are asked for; 0 where in none."""
        found = [*self.ahead, *itertools.chain(*self.statements.ahead.values())]
        return pages_asked_for(found)

    def emit(self) -> None:
        """The whole function; twice, where stores may go past the caches if arrays are aligned."""
        b, values = self.builder, self.values
        streams = self.streams
        if not streams.buffers or streams.uneven:
            values.streamed = streams.buffers
            self._everything()
        else:
            places = [values.bases[name] for name in sorted(streams.buffers)]
            aligned = are_aligned(b, places, self.target.vector_bytes)
            values.streamed = streams.buffers
            when(self.frame, aligned, self._everything)
            values.streamed = frozenset()
            when(self.frame, b.not_(aligned), self._everything)
        if streams.buffers:
            b.fence("seq_cst")  # such stores are in no order with those that tell other threads
        b.ret_void()

    def _everything(self) -> None:
        plan = self.plan
        if 0 in (plan.nodes.extents[axis] for axis in plan.nodes.each):
            pass
        elif self.batch:
            self.batch.emit(self.low, self.high, self.statements.emit)
        elif self.walk:
            self.walk.emit(self.low, self.high, self.statements.emit)
        elif plan.outer:
            self.frame.loop(self.low, self.high, 1, [], self._shared)
        elif plan.vector and not plan.serial:
            self._loops(0)
        else:
            some = self.builder.icmp_signed("<", self.low, self.high)
            self.frame.guard(some, [], lambda _: self._loops(0))

    def _shared(self, i: ir.Value, carry: Carry) -> Carry:
        """One iteration of the shared loop: its number is taken apart into the fused axes."""
        outer, b = self.plan.outer, self.builder
        parts: list[tuple[Axis, ir.Value]] = []
        for axis in reversed(outer[1:]):
            extent = whole(self.plan.nodes.extents[axis])
            parts.append((axis, b.urem(i, extent)))
            i = b.udiv(i, extent)
        parts.append((outer[0], i))
        for axis, value in parts:
            self.values.places[axis] = (self.frame.depth, value)
        return self._loops(0)

    def _loops(self, place: int) -> Carry:
        """The loops that are not shared, from `place` on, then the axis in lanes, then the body."""
        if place < len(self.plan.loops):
            axis = self.plan.loops[place]

            def body(i: ir.Value, _: Carry) -> Carry:
                with self.values.at_axis(axis, i):
                    return self._loops(place + 1)

            return self.frame.loop(0, self.plan.nodes.extents[axis], 1, [], body)
        if self.plan.vector is None:
            return self._statements()
        return self._lanes(self.plan.vector)

    def _lanes(self, axis: Axis) -> Carry:
        uneven = self.streams.uneven

        def body(i: ir.Value, rest: Count | None, carry: Carry) -> Carry:
            with self.values.along(axis, self.plan.lanes, i, rest, aligned=uneven is None):
                return self._statements()

        low: Count = self.low
        high: Count = self.high
        if self.plan.outer:
            low, high = 0, self.plan.nodes.extents[axis]
            if self.strips:
                return self._strip(axis, self.strips, body)
            if uneven is not None:
                low = self._first_lanes(axis, uneven, body)
            elif self._is_guarded(axis):
                return self._peeled(axis, body)
        if self.statements.next is not None:
            self.statements.next.first, self.statements.next.stop = low, high
        if not self.plan.outer and self.plan.nodes.extents[axis] % self.plan.lanes == 0:
            # Shares begin and end at multiples of the lanes: there is no tail.
            return self.frame.loop(
                low, high, self.plan.lanes, [], lambda i, carry: body(i, None, carry)
            )
        return self.frame.lane_loop(low, high, self.plan.lanes, [], body)

    def _is_guarded(self, axis: Axis) -> bool:
        """Whether guards leave out some lanes, as at the ends of a row that windows run along."""
        folds = [s for s in self.plan.nodes.statements if isinstance(s, FoldNode)]
        return any(axis in guard.axes and _is_affine(guard) for s in folds for guard in s.guards)

    def _peeled(self, axis: Axis, body: Callable[[ir.Value, Count | None, Carry], Carry]) -> Carry:
        """A row whose first and last lanes are apart from the others, where guards always hold."""
        lanes, extent = self.plan.lanes, self.plan.nodes.extents[axis]
        last = (extent - 1) // lanes * lanes
        rest = extent - last
        with self.frame.written_out():
            body(whole(0), extent if extent < lanes else None, [])
        if last > lanes:
            with self.values.between(axis, lanes, last - lanes):
                self.frame.loop(lanes, last, lanes, [], lambda i, carry: body(i, None, carry))
        if last > 0:
            with self.frame.written_out():
                body(whole(last), rest if rest < lanes else None, [])
        return []

    def _strip(
        self,
        axis: Axis,
        strips: Strips,
        body: Callable[[ir.Value, Count | None, Carry], Carry],
    ) -> Carry:
        """One strip of a row; the first also does what lies before the first aligned vector."""
        b, extent = self.builder, whole(self.plan.nodes.extents[axis])
        number = self.values.places[strips.axis][1]
        first: ir.Value = whole(0)
        if self.streams.uneven is not None:
            first = self._first_lanes(axis, self.streams.uneven, body, number)
        low = b.add(first, b.mul(number, whole(strips.size)))
        high = b.add(low, whole(strips.size))
        is_last = b.icmp_signed("==", number, whole(strips.axis.extent - 1))
        beyond = b.or_(is_last, b.icmp_signed(">", high, extent))
        high = b.select(beyond, extent, high)
        # What lies before the first aligned vector may reach as far as a short last strip does.
        low = b.select(b.icmp_signed("<", low, high), low, high)
        return self.frame.lane_loop(low, high, self.plan.lanes, [], body)

    def _first_lanes(
        self,
        axis: Axis,
        store: StoreNode,
        body: Callable[[ir.Value, Count | None, Carry], Carry],
        strip: ir.Value | None = None,
    ) -> ir.Value:
        """A part of a vector, so that the next ones are stored aligned; where those begin.

        Only the strip number 0 does that part, where there are strips.
        """
        with self.values.at_axis(axis, whole(0)):
            place, _ = self.values.place(store.address)
        item = DTYPES[store.address.buffer.dtype]
        some = before_aligned(self.builder, place, item, self.target.vector_bytes)
        any_ = self.builder.icmp_unsigned("!=", some, whole(0))
        if strip is not None:
            is_first = self.builder.icmp_unsigned("==", strip, whole(0))
            any_ = self.builder.and_(any_, is_first)
        self.frame.guard(any_, [], lambda carry: body(whole(0), some, carry))
        return some

    def _statements(self) -> Carry:
        for address, distance in self.ahead:
            self.values.prefetch(address, distance)
        for statement in self.plan.nodes.statements:
            self.statements.emit(statement)
        return []


def _is_affine(guard: Node) -> bool:
    return guard.op in ("lt", "le") and all(side.linear is not None for side in guard.args)
