"""Rows that registers hold: windows along the lanes' axis meet their neighbours by shuffles.

A window sum across the channels of a pixel reads five times what lies beside it, and the gradient
of a normalisation needs such sums of what another kernel has just computed from such sums. Where
rows are short (the channels of a pixel, channels last) each is loaded once into registers, a
window's terms are computed once in each lane, and lanes at a distance are one shuffle of two
neighbouring registers. A kernel whose rows only the next one reads is run inside of it, row by row:
what it makes never leaves the registers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.ahead import is_far_row
from graphc.codegen.llvm.chained_steps import Chain
from graphc.codegen.llvm.function import EmittedKernel, kernel_function
from graphc.codegen.llvm.loops import INT32, Carry, Frame, whole
from graphc.codegen.llvm.math import VectorMath
from graphc.codegen.llvm.pages_ahead import is_walk, pages_of
from graphc.codegen.llvm.row_kernel import RowKernel, follows, meets_neighbours, row_kernel
from graphc.codegen.llvm.row_registers import RowRegisters
from graphc.codegen.llvm.schedule import Schedule, operations
from graphc.codegen.llvm.scratch import Scratch
from graphc.codegen.llvm.shares import when
from graphc.codegen.llvm.statements import Statements
from graphc.codegen.llvm.streaming import are_aligned, streams_of
from graphc.codegen.llvm.target import Target
from graphc.codegen.llvm.vector import Values
from graphc.codegen.nodes import Address, StoreNode, reachable, statement_nodes
from graphc.kernel.lang import Kernel

# A target's registers over this are those in which one part of a row is computed at a time.
REGISTERS_A_PART = 8


def emit_register_rows(
    module: ir.Module, kernel: Kernel, target: Target, name: str
) -> EmittedKernel | None:
    """The emitter for one kernel whose windows move along short rows."""
    form = row_kernel(kernel, target)
    if form is None or not meets_neighbours(form):
        return None
    buffers = [buffer.name for buffer in kernel.buffers]
    return _Sweep(module, [form], buffers, target, name).emit()


def emit_row_chain(
    module: ir.Module, chain: Chain, target: Target, name: str
) -> EmittedKernel | None:
    """Two kernels in one sweep over rows; None where they are no such.

    The function gets what the chain reads and writes, in that order.
    """
    first, second = (row_kernel(kernel, target) for kernel in chain.kernels())
    if first is None or second is None or not follows(first, second, chain.link):
        return None
    buffers = [*chain.reads, *chain.writes]
    return _Sweep(module, [first, second], buffers, target, name, chain.link).emit()


@dataclass(frozen=True)
class Sweep:
    """What was decided: the kernels, what the second gets from the first in registers, if so.

    groups: the parts of a row. streamed: names of the results that go past the caches. pages: in so
    many at once lines of what is read are asked for.
    """

    forms: Sequence[RowKernel]
    link: str
    groups: list[range]
    streamed: frozenset[str]
    pages: int = 0


class _Sweep:
    """One loop over rows; in each, the kernels' statements for all registers of the row."""

    def __init__(
        self,
        module: ir.Module,
        forms: Sequence[RowKernel],
        buffers: Sequence[str],
        target: Target,
        name: str,
        link: str = "",
    ):
        self.function = kernel_function(module, buffers, name)
        self.builder = ir.IRBuilder(self.function.append_basic_block())
        self.frame = Frame(self.builder)
        self.target = target
        self.forms = forms
        self.last = forms[-1]
        *places, self.low, self.high, error, scratch = self.function.args
        self.scratch = Scratch(self.builder, scratch)
        math_ = VectorMath(self.builder, module, target)
        bases: dict[str, ir.Value] = dict(zip(buffers, places, strict=True))
        self.plans = [_schedule(form) for form in forms]
        streams = streams_of(self.plans[-1], target)
        self.streamed = frozenset() if streams.uneven else streams.buffers
        self.values = [Values(self.frame, math_, bases) for _ in forms]
        self.pages = pages_of(self.last.nodes.kernel, target)
        self.ahead = [_walked(form, link, target) if self.pages else [] for form in forms]
        self.link = link
        self.groups = _groups(self.last, target)
        self.made: dict[int, ir.Value] = {}
        self.statements = [
            Statements(self.frame, values, plan, error, self.scratch)
            for values, plan in zip(self.values, self.plans, strict=True)
        ]

    def emit(self) -> EmittedKernel:
        """The whole function; twice, where stores may go past the caches if arrays are aligned."""
        b, final = self.builder, self.values[-1]
        if self.streamed:
            places = [final.bases[name] for name in sorted(self.streamed)]
            aligned = are_aligned(b, places, self.target.vector_bytes)
            final.streamed = self.streamed
            when(self.frame, aligned, self._everything)
            final.streamed = frozenset()
            when(self.frame, b.not_(aligned), self._everything)
            b.fence("seq_cst")  # such stores are in no order with those that tell other threads
        else:
            self._everything()
        b.ret_void()
        cost = sum(operations(form.nodes) for form in self.forms)
        pages = self.pages.count if self.pages and any(self.ahead) else 0
        made = Sweep(self.forms, self.link, self.groups, self.streamed, pages)
        return EmittedKernel(
            self.function, self.last.rows, 1, cost, (), self.scratch.bytes, grain=1, made=made
        )

    def _everything(self) -> None:
        self.frame.loop(self.low, self.high, 1, [], self._row)

    def _row(self, number: ir.Value, carry: Carry) -> Carry:
        self.made.clear()
        rows = RowRegisters(self.last.lanes, self.last.extent, (self.link, self._register))
        digits = self._digits(number)
        for form, values in zip(self.forms, self.values, strict=True):
            values.rows = rows
            for axis, value in zip(form.others, digits, strict=True):
                values.places[axis] = (self.frame.depth, value)
        form, values, statements = self.last, self.values[-1], self.statements[-1]
        done: list[Callable[[], None]] = []
        for group in self.groups:
            self._ask_ahead(group)
            with self.frame.written_out(), self._along(form, values, group):
                for statement in form.nodes.statements:
                    if isinstance(statement, StoreNode):
                        done.append(values.ready_to_store(statement))
                    else:
                        statements.emit(statement)
        for store in done:
            store()
        return carry

    def _ask_ahead(self, group: range) -> None:
        """Ask for lines of all that is read, as many as a part of a row has."""
        for form, values, ahead in zip(self.forms, self.values, self.ahead, strict=True):
            for address in ahead:
                assert self.pages is not None
                with self.frame.written_out(), self._along(form, values, group):
                    values.prefetch(address, self.pages)

    def _digits(self, number: ir.Value) -> list[ir.Value]:
        """The number of a row taken apart into its loops' variables."""
        digits: list[ir.Value] = []
        for axis in reversed(self.last.others[1:]):
            extent = whole(self.last.nodes.extents[axis])
            digits.append(self.builder.urem(number, extent))
            number = self.builder.udiv(number, extent)
        return [number, *reversed(digits)]

    def _along(
        self, form: RowKernel, values: Values, group: range
    ) -> contextlib.AbstractContextManager[None]:
        """Lanes along a part of a row, of which some may lie beyond its end."""
        rest = form.extent - group.start
        tail = rest if rest < len(group) else None
        return values.along(form.vector, len(group), whole(group.start), tail)

    def _register(self, place: int) -> ir.Value:
        """A register of the row that the first kernel makes for the second."""
        if place not in self.made:
            first = place * self.last.lanes
            self._make(next(group for group in self.groups if first in group))
        return self.made[place]

    def _make(self, group: range) -> None:
        """A part of that row, and the registers that it consists of."""
        form, values, statements = self.forms[0], self.values[0], self.statements[0]
        with self.frame.written_out(), self._along(form, values, group):
            for statement in form.nodes.statements:
                if not isinstance(statement, StoreNode):
                    statements.emit(statement)
            made = values.wide(form.stores[0].value)
            if values.tail is not None:
                nothing = values.math.constant(0.0, made.type)
                made = self.builder.select(values.tail, made, nothing)
        for lane in range(0, len(group), form.lanes):
            order = [lane + number for number in range(form.lanes)]
            mask = ir.Constant(ir.VectorType(INT32, form.lanes), order)
            place = (group.start + lane) // form.lanes
            self.made[place] = self.builder.shuffle_vector(made, made, mask)


def _groups(form: RowKernel, target: Target) -> list[range]:
    """A row in parts of one, two or four registers: independent sums hide each other's latencies.

    As many as let a part's intermediate values stay in registers.
    """
    groups, first, size = [], 0, max(1, target.registers // REGISTERS_A_PART)
    while first < form.extent:
        while size > 1 and first + (size - 1) * form.lanes >= form.extent:
            size //= 2
        groups.append(range(first, first + size * form.lanes))
        first += size * form.lanes
    return groups


def _walked(form: RowKernel, link: str, target: Target) -> list[Address]:
    """Where rows of what a kernel reads from far away begin, one address for each array."""
    axes = [*form.others, form.vector]
    found: dict[str, Address] = {}
    for statement in form.nodes.statements:
        for node in reachable(statement_nodes(statement)):
            if node.address is None or node.address.buffer.name == link:
                continue
            terms = {axis: step for axis, step in node.address.terms.items() if axis in axes}
            row = replace(node.address, terms=terms, constant=0)
            if is_far_row(row, form.vector, target) and is_walk(row, axes, form.nodes):
                found[row.buffer.name] = row
    return list(found.values())


def _schedule(form: RowKernel) -> Schedule:
    return Schedule(form.nodes, form.others, [], form.vector, form.lanes, written_out=True)
