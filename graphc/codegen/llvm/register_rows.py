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
from dataclasses import dataclass

from llvmlite import ir

from graphc.codegen.llvm.chained_steps import Chain
from graphc.codegen.llvm.function import EmittedKernel
from graphc.codegen.llvm.lanes import TYPES
from graphc.codegen.llvm.loops import INT32, INT64, POINTER, VOID, Carry, Frame, whole
from graphc.codegen.llvm.math import VectorMath
from graphc.codegen.llvm.merging import merge_loops
from graphc.codegen.llvm.nest import FEW_ITERATIONS
from graphc.codegen.llvm.schedule import Schedule, operations
from graphc.codegen.llvm.shares import when
from graphc.codegen.llvm.square import joined
from graphc.codegen.llvm.statements import Statements
from graphc.codegen.llvm.streaming import are_aligned, streams_of
from graphc.codegen.llvm.sweeps import merge_folds
from graphc.codegen.llvm.target import Target
from graphc.codegen.llvm.vector import Values
from graphc.codegen.nodes import (
    Address,
    FoldNode,
    KernelNodes,
    LetNode,
    Node,
    Nodes,
    StatementNode,
    StoreNode,
    reachable,
    statement_nodes,
)
from graphc.codegen.order import ordered_axes, store_stride
from graphc.kernel.lang import Axis, Kernel

# Rows of more registers than this are loops: the text would be too long.
MOST_REGISTERS = 32
# A target's registers over this are those in which one part of a row is computed at a time.
REGISTERS_A_PART = 8
DTYPE = "float32"


@dataclass
class RowKernel:
    """A kernel in lanes along rows.

    others: the loops over rows, outermost first. lanes: of a register.
    """

    nodes: KernelNodes
    vector: Axis
    others: list[Axis]
    lanes: int

    @property
    def extent(self) -> int:
        """Elements of a row."""
        return self.nodes.extents[self.vector]

    @property
    def rows(self) -> int:
        """How many there are."""
        return self.nodes.size(self.others)

    @property
    def stores(self) -> list[StoreNode]:
        """What it stores."""
        return [s for s in self.nodes.statements if isinstance(s, StoreNode)]

    def base(self, address: Address) -> Address | None:
        """Where the row begins that an address moves along; None where it moves along none."""
        if address.parts or address.terms.get(self.vector) != 1 or address.buffer.dtype != DTYPE:
            return None
        terms = {axis: step for axis, step in address.terms.items() if axis in self.others}
        return Address(address.buffer, terms, 0, (), True, frozenset())

    def distances(self, statement: StatementNode, address: Address) -> range:
        """How far from its lane a statement reads, along its own loops."""
        low = high = address.constant
        for axis in statement.axes:
            reach = address.terms.get(axis, 0) * (self.nodes.extents[axis] - 1)
            low, high = low + min(reach, 0), high + max(reach, 0)
        return range(low, high + 1)


def row_kernel(kernel: Kernel, target: Target) -> RowKernel | None:
    """The kernel as one over rows in registers, where it is one whose windows move along them."""
    lanes = target.lanes(DTYPE)
    nodes = Nodes(kernel).read()
    if lanes == 1 or any(ordered_axes(nodes).values()):
        return None
    merge_loops(nodes)
    merge_folds(nodes)
    vector = [axis for axis in nodes.each if store_stride(nodes, axis) == 1]
    if len(vector) != 1 or nodes.extents[vector[0]] > MOST_REGISTERS * lanes:
        return None
    others = [axis for axis in nodes.each if axis != vector[0]]
    others.sort(key=lambda axis: -store_stride(nodes, axis))
    found = RowKernel(nodes, vector[0], others, lanes)
    return found if others and all(_fits(found, s) for s in nodes.statements) else None


def _fits(form: RowKernel, statement: StatementNode) -> bool:
    """Whether a statement runs in lanes of one row, its loops written out."""
    if isinstance(statement, StoreNode):
        if statement.axes or statement.guards or statement.mode != "set":
            return False
        if statement.address.constant or not _is_row(form, statement, statement.address):
            return False
    elif isinstance(statement, FoldNode):
        few = form.nodes.size(statement.axes) <= FEW_ITERATIONS
        if not few or statement.kind in ("argmax", "argmin"):
            return False
        if not all(_is_known(form, guard) for guard in statement.guards):
            return False
    elif not isinstance(statement, LetNode):
        return False
    for node in reachable(statement_nodes(statement)):
        address = node.address
        if node.op in ("random_bits", "axis") and not isinstance(statement, FoldNode):
            return False
        if address is None or (not address.terms and not address.parts):
            continue
        if address.buffer.name in form.nodes.written or not _is_row(form, statement, address):
            return False
    return True


def _is_known(form: RowKernel, guard: Node) -> bool:
    """Whether a guard says of each lane, wherever the row is, whether it holds."""
    alone = not guard.locals and not guard.reads and not guard.axes & set(form.others)
    return alone and form.vector in guard.axes and guard.op in ("lt", "le")


def _is_row(form: RowKernel, statement: StatementNode, address: Address) -> bool:
    """Whether an address moves along a row of its buffer, and never beyond the rows beside it."""
    base, extent = form.base(address), form.extent
    if base is None:
        return False
    near = all(abs(distance) < extent for distance in form.distances(statement, address))
    sides = zip(address.buffer.shape, address.buffer.strides, strict=True)
    whole_row = (extent, 1) in sides
    apart = all(abs(step) >= extent for step in base.terms.values())
    own = {*statement.axes, form.vector, *form.others}
    return near and whole_row and apart and set(address.terms) <= own


def meets_neighbours(form: RowKernel) -> bool:
    """Whether a window reads at a distance from its lane: else registers save nothing."""
    return any(
        len(form.distances(s, address)) > 1
        for s in form.nodes.statements
        if isinstance(s, FoldNode)
        for address in form.nodes.addresses(s)
        if form.base(address) is not None
    )


class RegisterRows:
    """The registers of one row of each buffer, and what is computed of them lane by lane.

    maker: of the row that is made and not loaded, the buffer's name and what makes a register.
    """

    def __init__(self, lanes: int, extent: int, maker: tuple[str, Callable[[int], ir.Value]]):
        self.lanes = lanes
        self.extent = extent
        self.maker = maker
        self.known: dict[object, ir.Value] = {}

    def value(self, values: Values, node: Node) -> ir.Value | None:
        """The lanes of a node that depends on its place in the row and nothing else of it.

        None for all other nodes.
        """
        distance = self._distance(values, node)
        if distance is None:
            return None
        assert values.axis is not None
        start = int(values.places[values.axis][1].constant) + distance
        found = range(start, start + values.lanes, self.lanes)
        return joined(values.builder, [self._from(values, node, first) for first in found])

    def _from(self, values: Values, node: Node, start: int) -> ir.Value:
        """As many lanes as a register has, the first of them number `start` of the row."""
        place, shift = divmod(start, self.lanes)
        low = self.register(values, node, place)
        if not shift:
            return low
        high = self.register(values, node, place + 1)
        order = [shift + lane for lane in range(self.lanes)]
        mask = ir.Constant(ir.VectorType(INT32, self.lanes), order)
        return values.builder.shuffle_vector(low, high, mask)

    def _distance(self, values: Values, node: Node) -> int | None:
        """How far from the lanes a node's rows are read; None where there is no one distance."""
        if node.op == "mul":
            both = {self._distance(values, factor) for factor in node.args}
            return both.pop() if len(both) == 1 else None
        address = node.address
        if address is None or values.axis is None or address.terms.get(values.axis) != 1:
            return None
        total = address.constant
        for axis, step in address.terms.items():
            place = values.places[axis][1]
            if axis != values.axis and isinstance(place, ir.Constant):
                total += step * int(place.constant)
        return total

    def register(self, values: Values, node: Node, place: int) -> ir.Value:
        """The register number `place` of a row, 0 in lanes beyond its ends."""
        if not 0 <= place * self.lanes < self.extent:
            return values.math.constant(0.0, ir.VectorType(TYPES[DTYPE], self.lanes))
        key = (_key(node), place)
        if key not in self.known:
            self.known[key] = self._made(values, node, place)
        return self.known[key]

    def _made(self, values: Values, node: Node, place: int) -> ir.Value:
        if node.op == "mul":
            return values.builder.fmul(*(self.register(values, n, place) for n in node.args))
        address = node.address
        assert address is not None
        name, make = self.maker
        if address.buffer.name == name:
            return make(place)
        terms = {
            axis: step
            for axis, step in address.terms.items()
            if not isinstance(values.places[axis][1], ir.Constant)
        }
        first = place * self.lanes
        start = Address(address.buffer, terms, first, (), True, frozenset())
        return values.load_row(start, self.lanes, min(self.lanes, self.extent - first))


def _key(node: Node) -> tuple[object, ...]:
    """Equal for nodes that are the same numbers of the same rows, at whatever distance."""
    if node.op == "mul":
        return ("mul", *map(_key, node.args))
    assert node.address is not None
    return (node.address.buffer.name,)


# -- the function -------------------------------------------------------------------------------


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
    if first is None or second is None or not _follow(first, second, chain.link):
        return None
    buffers = [*chain.reads, *chain.writes]
    return _Sweep(module, [first, second], buffers, target, name, chain.link).emit()


def _follow(first: RowKernel, second: RowKernel, link: str) -> bool:
    """Whether the second makes, row by row, something of the first's rows and their neighbours."""
    loops = [[form.nodes.extents[axis] for axis in form.others] for form in (first, second)]
    if loops[0] != loops[1] or first.extent != second.extent or len(first.stores) != 1:
        return False
    if first.stores[0].address.buffer.name != link or not meets_neighbours(second):
        return False
    steps: dict[str, set[tuple[int, ...]]] = {}
    for form in (first, second):
        for statement in form.nodes.statements:
            for address in form.nodes.addresses(statement):
                if form.base(address) is not None:
                    found = tuple(address.terms.get(axis, 0) for axis in form.others)
                    steps.setdefault(address.buffer.name, set()).add(found)
    return all(len(found) == 1 for found in steps.values())


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
        parameters = [POINTER] * len(buffers) + [INT64, INT64, POINTER]
        self.function = ir.Function(module, ir.FunctionType(VOID, parameters), name)
        self.function.linkage = "internal"
        self.function.attributes.add("nounwind")
        self.builder = ir.IRBuilder(self.function.append_basic_block())
        self.frame = Frame(self.builder)
        self.target = target
        self.forms = forms
        self.last = forms[-1]
        *places, self.low, self.high, error = self.function.args
        math_ = VectorMath(self.builder, module, target)
        bases = dict(zip(buffers, places, strict=True))
        self.plans = [_schedule(form) for form in forms]
        streams = streams_of(self.plans[-1], target)
        self.streamed = frozenset() if streams.uneven else streams.buffers
        self.values = [Values(self.frame, math_, bases) for _ in forms]
        self.link = link
        self.groups = _groups(self.last, target)
        self.made: dict[int, ir.Value] = {}
        self.statements = [
            Statements(self.frame, values, plan, error)
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
        return EmittedKernel(self.function, self.last.rows, 1, cost, ())

    def _everything(self) -> None:
        self.frame.loop(self.low, self.high, 1, [], self._row)

    def _row(self, number: ir.Value, carry: Carry) -> Carry:
        self.made.clear()
        rows = RegisterRows(self.last.lanes, self.last.extent, (self.link, self._register))
        digits = self._digits(number)
        for form, values in zip(self.forms, self.values, strict=True):
            values.rows = rows
            for axis, value in zip(form.others, digits, strict=True):
                values.places[axis] = (self.frame.depth, value)
        form, values, statements = self.last, self.values[-1], self.statements[-1]
        done: list[Callable[[], None]] = []
        for group in self.groups:
            with self.frame.written_out(), self._along(form, values, group):
                for statement in form.nodes.statements:
                    if isinstance(statement, StoreNode):
                        done.append(values.ready_to_store(statement))
                    else:
                        statements.emit(statement)
        for store in done:
            store()
        return carry

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


def _schedule(form: RowKernel) -> Schedule:
    return Schedule(form.nodes, form.others, [], form.vector, form.lanes, written_out=True)
