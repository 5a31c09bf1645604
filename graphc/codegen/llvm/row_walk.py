"""Sums down columns that walk whole rows.

In a channels-last image the sums of one channel meet one element of each row. Lanes along the
channels take a strip of a row, go down all rows, and come back for the next strip: each strip
misses all caches again, and fetches of a few lines from every page are slow. Here some rows at a
time are walked from end to end,

    for some rows: for each strip: add up these rows in registers; add the part to the strip's total

and the totals of all columns wait in scratch memory. The parts are those in which long sums are
made anyway, so the numbers stay what they were. Statements between the sums run strip by strip.
What they and the sums make for others goes to arrays there, too.

Where registers hold the sums of a whole short row, all strips of a row are added up before the next
row: memory is read from end to end, and totals are met once in many rows.

The columns of a softmax are walked in the same way (see `running_sum`), and what is stored of them
row by row.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.ahead import is_far_row
from graphc.codegen.llvm.column_sums import (
    PART,
    WIDE,
    RunningSums,
    ShortRowSums,
    SpreadSums,
    Sums,
)
from graphc.codegen.llvm.lanes import TYPES
from graphc.codegen.llvm.loops import INT32, INT64, Carry, Count, Frame, whole
from graphc.codegen.llvm.pages_ahead import is_walk, pages_of
from graphc.codegen.llvm.row_batch import Emit, is_sweep, made_locals
from graphc.codegen.llvm.running_sum import RUNNING
from graphc.codegen.llvm.schedule import Schedule
from graphc.codegen.llvm.scratch import Scratch
from graphc.codegen.llvm.staged_rows import StagedRows
from graphc.codegen.llvm.sweeps import SPREAD, stored_loads
from graphc.codegen.llvm.target import PAGE_BYTES
from graphc.codegen.llvm.vector import Values
from graphc.codegen.nodes import (
    Address,
    FoldNode,
    LetNode,
    Node,
    StatementNode,
    StoreNode,
    reachable,
    statement_nodes,
)
from graphc.ir.types import DTYPES
from graphc.kernel.lang import Axis

BYTES_AHEAD = 8192  # of all arrays together
HOLDING = 0.5  # of the registers
NARROW = "int32"  # what whole numbers are kept as that fit it


class RowWalk:
    """Emits all statements for a share of the columns; `strip` lanes at a time where it sums up.

    uneven: the store whose rows begin anywhere and go past the caches (see `staged_rows`).
    """

    def __init__(
        self,
        frame: Frame,
        values: Values,
        plan: Schedule,
        scratch: Scratch,
        uneven: StoreNode | None = None,
    ):
        assert plan.vector is not None
        self.frame = frame
        self.values = values
        self.builder = frame.builder
        self.scratch = scratch
        self.axis: Axis = plan.vector
        self.lanes = plan.lanes
        self.target = values.math.target
        self.extent = plan.nodes.extents[plan.vector]
        self.nodes = plan.nodes
        self.extents = plan.nodes.extents
        self.made = plan.made
        self.uneven = uneven
        self.panel = plan.panel or self.extent
        statements = plan.nodes.statements
        self.stretches = [(sweep, list(some)) for sweep, some in groupby(statements, is_sweep)]
        self.dtypes = made_locals(statements)
        self.narrow = narrow_locals(statements)
        self.dtypes |= dict.fromkeys(self.narrow, NARROW)
        self.arrays = {name: self._array(dtype) for name, dtype in self.dtypes.items()}
        most = max(len(s.names) for s in statements if isinstance(s, FoldNode) and s.axes)
        self.totals = [self._array(WIDE) for _ in range(most)]
        self.pivot = self._array(WIDE)

    def _array(self, dtype: str) -> ir.Value:
        size = math.ceil(self.extent / self.lanes) * self.lanes
        return self.scratch.array(dtype, size)

    def emit(self, low: ir.Value, high: ir.Value, emit: Emit) -> None:
        """The columns low .. high; `emit` emits one statement where the frame stands."""
        b = self.builder
        ends = b.icmp_signed("==", high, whole(self.extent))
        self.has_all = b.and_(b.icmp_signed("==", low, whole(0)), ends)
        if self.panel >= self.extent:
            self._panel(low, high, emit)
            return

        def panel(first: ir.Value, carry: Carry) -> Carry:
            stop = self.builder.add(first, whole(self.panel))
            is_last = self.builder.icmp_signed(">", stop, high)
            self._panel(first, self.builder.select(is_last, high, stop), emit)
            return carry

        self.frame.loop(low, high, self.panel, [], panel)

    def _panel(self, low: ir.Value, high: ir.Value, emit: Emit) -> None:
        for sweep, statements in self.stretches:
            if sweep:
                for statement in statements:
                    if isinstance(statement, StoreNode):
                        self._store(statement, low, high)
                    else:
                        assert isinstance(statement, FoldNode)
                        self._fold(statement, low, high)
            else:
                self.over_strips(low, high, partial(self._scalars, statements, emit))

    def over_strips(self, low: ir.Value, high: ir.Value, body: Callable[[], None]) -> None:
        """body() for the columns, some lanes at a time."""

        def strip(i: ir.Value, rest: Count | None, carry: Carry) -> Carry:
            with self.values.along(self.axis, self.lanes, i, rest):
                body()
            return carry

        if self.extent % self.lanes:
            self.frame.lane_loop(low, high, self.lanes, [], strip)
        else:  # a share begins and ends at multiples of the lanes: there is no tail
            self.frame.loop(low, high, self.lanes, [], lambda i, c: strip(i, None, c))

    # -- statements between the sums --

    def _scalars(self, statements: list[StatementNode], emit: Emit) -> None:
        v = self.values
        self.take(statements)
        for statement in statements:
            emit(statement)
        for name in made_locals(statements):
            value = v.locals[name][1]
            wide = value if isinstance(value.type, ir.VectorType) else v.splat(value)
            if name in self.narrow:
                wide = self.builder.trunc(wide, ir.VectorType(INT32, v.lanes))
            self.put(self.arrays[name], wide, self.dtypes[name])

    def take(self, statements: Sequence[StatementNode]) -> None:
        """Load what statements read that others made."""
        own = made_locals(statements)
        read = {n for s in statements for node in statement_nodes(s) for n in node.locals}
        for name, dtype in self.dtypes.items():
            if name in read and name not in own:
                value = self.get(self.arrays[name], dtype)
                if name in self.narrow:
                    value = self.builder.sext(value, ir.VectorType(INT64, self.values.lanes))
                self.values.locals[name] = (self.frame.depth, value)

    def get(self, array: ir.Value, dtype: str) -> ir.Value:
        """The strip of one of these arrays."""
        type_ = ir.VectorType(TYPES[dtype], self.values.lanes)
        return self.builder.load(self._place(array, dtype), typ=type_, align=DTYPES[dtype])

    def put(self, array: ir.Value, value: ir.Value, dtype: str) -> None:
        """Set the strip of one of these arrays."""
        self.builder.store(value, self._place(array, dtype), align=DTYPES[dtype])

    def _place(self, array: ir.Value, dtype: str) -> ir.Value:
        column = self.values.places[self.axis][1]
        return self.builder.gep(array, [column], source_etype=TYPES[dtype])

    # -- sums --

    def _fold(self, fold: FoldNode, low: ir.Value, high: ir.Value) -> None:
        (rows,) = fold.axes
        sums = self._sums(fold, rows)

        def part(count: int, first: ir.Value, carry: Carry) -> Carry:
            sums.add_rows(first, count, low, high)
            return carry

        self.over_strips(low, high, sums.begin)
        self.parts(rows, sums.part, part)
        self.over_strips(low, high, sums.end)

    def _sums(self, fold: FoldNode, rows: Axis) -> Sums:
        """How a fold is added up along `rows`."""
        if fold.kind == SPREAD:
            return SpreadSums(self, fold, rows)
        if fold.kind == RUNNING:
            return RunningSums(self, fold, rows)
        items = sum(DTYPES[node.dtype] for node in fold.values)
        held = math.ceil(self.extent / self.lanes) * self.lanes * items
        fits = held <= HOLDING * self.target.registers * self.target.vector_bytes
        return (ShortRowSums if fits else Sums)(self, fold, rows)

    @contextlib.contextmanager
    def strip(self, first: int) -> Iterator[None]:
        """Inside the strip that begins at a column, of a row that is written out."""
        rest = self.extent - first
        tail = rest if rest < self.lanes else None
        with self.frame.written_out(), self.values.along(self.axis, self.lanes, whole(first), tail):
            yield

    # -- stores --

    def _store(self, store: StoreNode, low: ir.Value, high: ir.Value) -> None:
        """Some rows at a time past the caches; into them one by one, as these fetch lines first."""
        (rows,) = store.axes
        read = self.read_rows(store)
        needed = [store, *([self.made] if self.made else [])]

        staged = StagedRows(self, store, PART) if store is self.uneven else None

        def strip(first: ir.Value, count: int) -> None:
            self.take(needed)
            # All is read before the first of it is stored: a processor lets a load wait for a store
            # under way that has the same place in a page, as these have where rows are pages long.
            loads = [node for node in self.read_nodes(store) if node.address in read]
            known: list[list[ir.Value]] = []
            for _ in self.each_row(rows, first, count):
                for address in read:
                    self.ask_ahead(address, rows, 0, len(read))
                known.append([self.values.wide(node) for node in loads])
            for number in self.each_row(rows, first, count):
                for node, value in zip(loads, known[number], strict=True):
                    self.values.remember(value, [node])
                self.make(store)
                if staged is not None:
                    staged.put(number)
                else:
                    self.values.store(store.address, store.value, store.mode)

        def some(count: int, first: ir.Value, carry: Carry) -> Carry:
            if staged is not None:
                staged.begin(first, count, low, high)
            self.over_strips(low, high, partial(strip, first, count))
            if staged is not None:
                staged.end(count, low, high)
            return carry

        streamed = store.address.buffer.name in self.values.streamed
        self.parts(rows, staged.most if staged else PART if streamed else 1, some)

    def parts(self, rows: Axis, size: int, body: Callable[[int, ir.Value, Carry], Carry]) -> None:
        """body(count, first, []) for some rows at a time, for fewer at the end."""
        extent = self.extents[rows]
        whole_parts = extent // size * size
        self.frame.loop(0, whole_parts, size, [], partial(body, size))
        if extent > whole_parts:
            body(extent - whole_parts, whole(whole_parts), [])

    def each_row(self, rows: Axis, first: ir.Value, count: int) -> Iterator[int]:
        """Stands in each of some rows, one after another."""
        for number in range(count):
            row = self.builder.add(first, whole(number)) if number else first
            with self.frame.written_out(), self.values.at_axis(rows, row):
                yield number

    def ask_ahead(self, address: Address, rows: Axis, least: int, arrays: int) -> None:
        """Ask for what comes some rows after a strip of a row, `least` elements at least.

        Or in pages ahead, where this thread has whole rows, short ones; it would ask for lines that
        belong to others. Parts of rows longer than pages are streams enough as they are.
        """
        step, size = address.terms[rows], DTYPES[address.buffer.dtype]
        distance = max(least, step * math.ceil(BYTES_AHEAD / (step * size * arrays)))
        pages = pages_of(self.nodes.kernel, self.target)
        in_order = is_walk(address, [rows, self.axis], self.nodes)
        far = in_order and is_far_row(address, self.axis, self.target)
        if pages is None or not far or PART * step * size > PAGE_BYTES:
            self.values.prefetch(address, distance)
        else:
            self.values.prefetch(address, distance, (self.has_all, pages))

    def read_rows(self, statement: FoldNode | StoreNode) -> list[Address]:
        """The rows of matrices that a statement reads."""
        (rows,) = statement.axes
        found = [node.address for node in self.read_nodes(statement) if node.address]
        return [a for a in found if a.terms.get(rows, 0) and a.terms.get(self.axis, 0)]

    def read_nodes(self, statement: FoldNode | StoreNode) -> list[Node]:
        """What a statement reads, for what is made again for it, too."""
        made = set(stored_loads(self.made, statement)) if self.made else set()
        again = (self.made.value,) if self.made else ()
        nodes = dict.fromkeys(reachable((*statement_nodes(statement), *again)))
        return [node for node in nodes if node.address is not None and node not in made]

    def make(self, statement: StatementNode) -> None:
        """Make again what a statement would load that nobody has stored."""
        if self.made is not None:
            loads = stored_loads(self.made, statement)
            self.values.remember(self.values.wide(self.made.value), loads)


def narrow_locals(statements: Sequence[StatementNode]) -> set[str]:
    """Names of wide whole numbers that are known to fit half their size."""
    lets = [s for s in statements if isinstance(s, LetNode) and s.value.dtype == "int64"]
    return {
        s.name
        for s in lets
        if s.value.bounds and s.value.bounds[0] >= -(2**31) and s.value.bounds[1] < 2**31
    }
