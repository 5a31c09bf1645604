"""The statements of a kernel, run by one thread for one iteration."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from graphc.codegen.bounds import Range
from graphc.codegen.cuda.expressions import Scalars, c_type, counter, literal, node_type
from graphc.codegen.cuda.schedule import Schedule
from graphc.codegen.cuda.text import Names, Text
from graphc.codegen.nodes import (
    CheckNode,
    FoldNode,
    LetNode,
    Node,
    StatementNode,
    StoreNode,
    statement_nodes,
)
from graphc.ir.types import REAL
from graphc.kernel.lang import Axis

ARG_FOLDS = ("argmax", "argmin")


class Body:
    """Writes statements; every statement runs its own loops by itself."""

    def __init__(self, text: Text, names: Names, made: Schedule, buffers: dict[str, str]):
        self.text = text
        self.names = names
        self.made = made
        self.axes: dict[Axis, str] = {}
        self.locals: dict[str, str] = {}
        self.scalars = Scalars(text, names, made.nodes.extents, self.axes, self.locals, buffers)

    def all(self) -> None:
        """The whole body of an iteration."""
        with self.loops(self.made.serial):
            for statement in self.made.nodes.statements:
                self.statement(statement)

    def statement(self, statement: StatementNode) -> None:
        """One statement."""
        self.scalars.begin(statement_nodes(statement))
        if isinstance(statement, LetNode):
            self.let(statement)
        elif isinstance(statement, CheckNode):
            self.check(statement)
        elif isinstance(statement, FoldNode):
            self.fold(statement)
        else:
            self.store(statement)

    # -- loops --

    def decompose(self, linear: str, axes: Sequence[Axis]) -> None:
        """Loop variables out of one number; the last axis runs fastest."""
        inner = 1
        for axis in reversed(axes):
            extent = self.made.nodes.extents[axis]
            name = self.axes[axis] = self.names.fresh(axis.name)
            part = linear if inner == 1 else f"{linear} / {inner}"
            if axis != axes[0]:
                part = f"{part} % {extent}"
            kind = counter(extent)
            self.text.line(f"const {kind} {name} = {part};")
            inner *= extent

    @contextlib.contextmanager
    def loops(self, axes: Sequence[Axis]) -> Iterator[None]:
        """Nested loops, the first axis outermost."""
        with contextlib.ExitStack() as stack:
            for axis in axes:
                extent = self.made.nodes.extents[axis]
                name = self.axes[axis] = self.names.fresh(axis.name)
                kind = counter(extent)
                head = f"for ({kind} {name} = 0; {name} < {extent}; ++{name})"
                stack.enter_context(self.text.block(head))
            yield

    @contextlib.contextmanager
    def guarded(self, guards: Sequence[Node]) -> Iterator[None]:
        """What is written inside runs where all guards hold."""
        if not guards:
            yield
            return
        condition = " && ".join(self.scalars.value(guard) for guard in guards)
        with self.text.block(f"if ({condition})"):
            yield

    # -- statements --

    def let(self, let: LetNode) -> None:
        """A scalar."""
        value = self.scalars.value(let.value)
        name = self.locals[let.name] = self.names.fresh(let.name)
        self.text.line(f"const {node_type(let.value)} {name} = {value};")

    def check(self, check: CheckNode) -> None:
        """A condition that must hold."""
        holds = self.scalars.value(check.condition)
        with self.text.block(f"if (!{holds})"):
            value = self.scalars.value(check.value)
            if check.value.dtype in REAL:
                value = f"to_int64({value})"
            self.text.line(f"report(error, first_check + {check.number}, {value});")

    def fold(self, fold: FoldNode) -> None:
        """A reduction, one value after another."""
        self.declare(fold)
        with self.loops(self.made.own[fold]), self.guarded(fold.guards):
            self.update(fold)

    def store(self, store: StoreNode) -> None:
        """An element, or those of the store's own loops."""
        with self.loops(self.made.own[store]), self.guarded(store.guards):
            self.assign(store)

    def lets_and_stores(self, statements: Iterable[StatementNode]) -> None:
        """Scalars, then single elements: all values are there before the first is stored.

        One may lie where the value of another comes from.
        """
        every = list(statements)
        alone = sum(isinstance(statement, StoreNode) for statement in every) == 1
        ready: list[tuple[StoreNode, str]] = []
        for statement in every:
            if not isinstance(statement, StoreNode):
                self.statement(statement)
                continue
            self.scalars.begin(statement_nodes(statement))
            value = self.scalars.value(statement.value)
            if not alone:
                name = self.names.fresh("v")
                self.text.line(f"const {node_type(statement.value)} {name} = {value};")
                value = name
            ready.append((statement, value))
        for store, value in ready:
            self._write(store, value)

    # -- parts --

    def declare(self, fold: FoldNode) -> None:
        """The results of a fold over nothing."""
        for place, (name, value) in enumerate(zip(fold.names, fold.values, strict=True)):
            declared = self.locals[name] = self.names.fresh(name)
            kind = c_type(value.dtype, fold_bounds(fold, place))
            self.text.line(f"{kind} {declared} = {empty(fold, place)};")

    def update(self, fold: FoldNode) -> None:
        """Take one more value in."""
        values = [self.scalars.value(value) for value in fold.values]
        results = [self.locals[name] for name in fold.names]
        if fold.kind in ARG_FOLDS:
            sign = ">" if fold.kind == "argmax" else "<"
            with self.text.block(f"if ({values[0]} {sign} {results[0]})"):
                self.text.line(f"{results[0]} = {values[0]};")
                self.text.line(f"{results[1]} = {values[1]};")
            return
        for result, value, node in zip(results, values, fold.values, strict=True):
            self.text.line(f"{result} = {joined(fold.kind, node, result, value)};")

    def assign(self, store: StoreNode) -> None:
        """Write one element."""
        self._write(store, self.scalars.value(store.value))

    def _write(self, store: StoreNode, value: str) -> None:
        sign = "+=" if store.mode == "add" else "="
        self.text.line(f"{self.scalars.place(store.address)} {sign} {value};")


def fold_bounds(fold: FoldNode, place: int) -> Range:
    """What is known of a fold's result: of a companion that it is one of its values, or 0."""
    bounds = fold.values[place].bounds
    if fold.kind not in ARG_FOLDS or place == 0 or bounds is None:
        return None
    return min(bounds[0], 0), max(bounds[1], 0)


def joined(kind: str, node: Node, left: str, right: str) -> str:
    """Two values of a reduction as one."""
    if kind in ("max", "min"):
        function = "most" if kind == "max" else "least"
        suffix = "" if node.dtype in REAL else f"<{c_type(node.dtype)}>"
        return f"{function}{suffix}({left}, {right})"
    return f"{left} {'+' if kind == 'sum' else '*'} {right}"


def empty(fold: FoldNode, place: int) -> str:
    """The result of a fold over nothing."""
    dtype = fold.values[place].dtype
    if fold.kind == "sum" or (fold.kind in ARG_FOLDS and place == 1):
        return literal(0, dtype)
    if fold.kind == "prod":
        return literal(1, dtype)
    lowest = fold.kind in ("max", "argmax")
    if dtype in REAL:
        return literal(-np.inf if lowest else np.inf, dtype)
    limits = np.iinfo(np.dtype(dtype))
    return literal(int(limits.min if lowest else limits.max), dtype)
