"""Rows in batches: what a kernel computes once a row is done for many rows in lanes.

A kernel that sweeps rows with its lanes along a row has scalar statements between the sweeps: the
logarithm of a loss, the quotient that scales its gradient. One row at a time they take longer than
a short row itself. So the iterations of the loop over rows go in batches, and each batch runs the
statements in stretches:

    for each row: its sweeps            what they find goes to small arrays on the stack
    scalar statements, rows in lanes    their results, too
    for each row: the next sweeps ...

That is an order in which parallel iterations may run anyway.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from itertools import groupby

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.lanes import TYPES
from graphc.codegen.llvm.loops import Carry, Frame, whole
from graphc.codegen.llvm.vector import Values
from graphc.codegen.nodes import FoldNode, LetNode, StatementNode, StoreNode, statement_nodes
from graphc.ir.types import DTYPES
from graphc.kernel.lang import Axis

Emit = Callable[[StatementNode], None]


def is_sweep(statement: StatementNode) -> bool:
    """Whether a statement has loops of its own in each row."""
    return isinstance(statement, FoldNode | StoreNode) and bool(statement.axes)


def made_locals(statements: Iterable[StatementNode]) -> dict[str, str]:
    """Names that statements give to values, with their dtypes."""
    made: dict[str, str] = {}
    for statement in statements:
        if isinstance(statement, LetNode):
            made[statement.name] = statement.value.dtype
        elif isinstance(statement, FoldNode):
            made |= {n: v.dtype for n, v in zip(statement.names, statement.values, strict=True)}
    return made


class RowBatch:
    """Emits the statements of `rows` iterations of the loop over `axis` at a time."""

    def __init__(
        self, frame: Frame, values: Values, axis: Axis, rows: int, statements: list[StatementNode]
    ):
        self.frame = frame
        self.values = values
        self.builder = frame.builder
        self.axis = axis
        self.rows = rows
        self.stretches = [(sweep, list(some)) for sweep, some in groupby(statements, is_sweep)]
        self.dtypes = made_locals(statements)
        self.arrays = {name: self._array(dtype) for name, dtype in self.dtypes.items()}

    def _array(self, dtype: str) -> ir.Value:
        return self.builder.alloca(ir.ArrayType(TYPES[dtype], self.rows), self._align(dtype))

    def _align(self, dtype: str) -> int:
        """Bytes at a multiple of which an array lies."""
        return DTYPES[dtype] * self.rows

    def emit(self, low: ir.Value, high: ir.Value, emit: Emit) -> None:
        """The iterations low .. high; `emit` emits one statement where the frame stands."""
        self.frame.loop(low, high, self.rows, [], lambda i, _: self._batch(i, high, emit))

    def _batch(self, first: ir.Value, high: ir.Value, emit: Emit) -> Carry:
        b = self.builder
        left = b.sub(high, first)
        count = b.select(b.icmp_signed("<", left, whole(self.rows)), left, whole(self.rows))
        for sweep, statements in self.stretches:
            if sweep:
                row = functools.partial(self._row, first, statements, emit)
                self.frame.loop(0, count, 1, [], row)
            else:
                with self.values.along(self.axis, self.rows, first, count):
                    self._scalars(statements, emit)
        return []

    def _row(
        self,
        first: ir.Value,
        statements: list[StatementNode],
        emit: Emit,
        row: ir.Value,
        carry: Carry,
    ) -> Carry:
        v, b = self.values, self.builder
        with v.at_axis(self.axis, b.add(first, row)):
            for name in self._needed(statements):
                place = self._place(name, row)
                dtype = self.dtypes[name]
                loaded = b.load(place, typ=TYPES[dtype], align=DTYPES[dtype])
                v.locals[name] = (self.frame.depth, loaded)
            for statement in statements:
                emit(statement)
            for name, dtype in made_locals(statements).items():
                b.store(v.locals[name][1], self._place(name, row), align=DTYPES[dtype])
        return carry

    def _scalars(self, statements: list[StatementNode], emit: Emit) -> None:
        v, b = self.values, self.builder
        for name in self._needed(statements):
            type_ = ir.VectorType(TYPES[self.dtypes[name]], self.rows)
            loaded = b.load(self.arrays[name], typ=type_, align=self._align(self.dtypes[name]))
            v.locals[name] = (self.frame.depth, loaded)
        for statement in statements:
            emit(statement)
        for name in made_locals(statements):
            value = v.locals[name][1]
            wide = value if isinstance(value.type, ir.VectorType) else v.splat(value)
            b.store(wide, self.arrays[name], align=self._align(self.dtypes[name]))

    def _needed(self, statements: list[StatementNode]) -> list[str]:
        """What statements read that others made, in order."""
        own = made_locals(statements)
        read = {n for s in statements for node in statement_nodes(s) for n in node.locals}
        return [name for name in self.dtypes if name in read and name not in own]

    def _place(self, name: str, row: ir.Value) -> ir.Value:
        return self.builder.gep(self.arrays[name], [row], source_etype=TYPES[self.dtypes[name]])
