"""Kernel expressions as interned nodes: each distinct value once, with what is asked about it.

Two equal subexpressions are the same node, so that a dictionary keyed by nodes is the elimination
of common subexpressions. An address is kept as flat affine terms in elements (buffer strides
applied) plus data-dependent parts, so that loops can be merged and strides be read off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from graphc.codegen.bounds import Range, call_bounds, call_least
from graphc.ir.types import REAL
from graphc.kernel.lang import (
    INDEX,
    Axis,
    Buffer,
    Call,
    Check,
    Const,
    Expr,
    Fold,
    Kernel,
    Let,
    Load,
    Local,
    Store,
    Var,
)

Linear: TypeAlias = tuple[dict[Axis, int], int] | None
NOTHING: frozenset[Any] = frozenset()
WHOLE = ("int64", "int32", "uint8")


@dataclass(eq=False)
class Address:
    """An element of a buffer: constant + sum of stride * axis + sum of stride * (a computed index).

    inside: every index lies within the buffer whatever the loop variables and data are, even where
    a guard does not hold.
    """

    buffer: Buffer
    terms: dict[Axis, int]
    constant: int
    parts: tuple[tuple[Node, int], ...]
    inside: bool
    alone: frozenset[Axis]  # axes that are the only variable of an index: they tell elements apart


@dataclass(eq=False)
class Node:
    """One scalar value. `op` is const, axis, local, load or a function of the kernel language.

    axes, locals, reads: loop variables, locals and buffers it depends on, through its arguments.
    risky: it holds a load that may leave its buffer where a guard does not hold.
    bounds: the least and the largest value, for integers where they are known.
    linear: (terms, constant) where it is an affine function of loop variables.
    least: what a real value is never below, unless it is nan.
    """

    op: str
    dtype: str
    args: tuple[Node, ...] = ()
    data: Any = None
    address: Address | None = None
    axes: frozenset[Axis] = NOTHING
    locals: frozenset[str] = NOTHING
    reads: frozenset[str] = NOTHING
    risky: bool = False
    bounds: Range = None
    linear: Linear = None
    least: float = -math.inf

    __hash__ = object.__hash__


@dataclass(eq=False)
class LetNode:
    """local = value."""

    name: str
    value: Node
    axes: tuple[Axis, ...] = ()


@dataclass(eq=False)
class FoldNode:
    """A fold; guards are the conjuncts of its `where`."""

    kind: str
    names: tuple[str, ...]
    values: tuple[Node, ...]
    axes: tuple[Axis, ...]
    guards: tuple[Node, ...]


@dataclass(eq=False)
class StoreNode:
    """A store; guards are the conjuncts of its `where`."""

    address: Address
    value: Node
    axes: tuple[Axis, ...]
    guards: tuple[Node, ...]
    mode: str


@dataclass(eq=False)
class CheckNode:
    """A check with its number inside the kernel, from 1."""

    condition: Node
    value: Node
    number: int
    axes: tuple[Axis, ...] = ()


StatementNode = LetNode | FoldNode | StoreNode | CheckNode


@dataclass(eq=False)
class KernelNodes:
    """A kernel's statements over nodes. `extents` holds all loops but those that run once."""

    kernel: Kernel
    each: list[Axis]
    statements: list[StatementNode]
    extents: dict[Axis, int]
    written: frozenset[str] = field(default=NOTHING)

    def addresses(self, statement: StatementNode) -> list[Address]:
        """The loads of a statement and where it stores."""
        found = [n.address for n in reachable(statement_nodes(statement)) if n.address]
        if isinstance(statement, StoreNode):
            found.append(statement.address)
        return found

    def size(self, axes: tuple[Axis, ...] | list[Axis]) -> int:
        """How often loops over `axes` run their body."""
        count = 1
        for axis in axes:
            count *= self.extents.get(axis, 1)
        return count


def statement_nodes(statement: StatementNode) -> tuple[Node, ...]:
    """The outermost nodes of a statement, the computed parts of a store's address included."""
    if isinstance(statement, LetNode):
        return (statement.value,)
    if isinstance(statement, CheckNode):
        return (statement.condition, statement.value)
    if isinstance(statement, FoldNode):
        return statement.values + statement.guards
    parts = tuple(node for node, _ in statement.address.parts)
    return (*parts, statement.value, *statement.guards)


def reachable(roots: tuple[Node, ...]) -> list[Node]:
    """Every node below `roots`, once, address parts included."""
    seen: dict[Node, None] = {}
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen[node] = None
        stack.extend(node.args)
    return list(seen)


class Nodes:
    """Turns expressions of one kernel into nodes."""

    def __init__(self, kernel: Kernel):
        self.kernel = kernel
        self._by_identity: dict[int, tuple[Expr, Node]] = {}
        self._by_structure: dict[tuple[Any, ...], Node] = {}
        self._local_bounds: dict[str, Range] = {}
        self._local_least: dict[str, float] = {}

    def read(self) -> KernelNodes:
        """The kernel's statements."""
        checks = 0
        statements: list[StatementNode] = []
        axes = list(self.kernel.each)
        for statement in self.kernel.body:
            if isinstance(statement, Let):
                value = self.node(statement.value)
                self._local_bounds[statement.local.name] = value.bounds
                self._local_least[statement.local.name] = value.least
                statements.append(LetNode(statement.local.name, value))
            elif isinstance(statement, Check):
                checks += 1
                condition, value = self.node(statement.condition), self.node(statement.value)
                statements.append(CheckNode(condition, value, checks))
            elif isinstance(statement, Fold):
                statements.append(self._fold(statement))
                axes.extend(statement.axes)
            else:
                statements.append(self._store(statement))
                axes.extend(statement.axes)
        extents = {axis: axis.extent for axis in axes if axis.extent != 1}
        for made in statements:
            if isinstance(made, FoldNode | StoreNode):
                made.axes = tuple(a for a in made.axes if a in extents)
        written = frozenset(s.address.buffer.name for s in statements if isinstance(s, StoreNode))
        each = [a for a in self.kernel.each if a in extents]
        return KernelNodes(self.kernel, each, statements, extents, written)

    def _fold(self, fold: Fold) -> FoldNode:
        values = tuple(self.node(v) for v in fold.values)
        names = tuple(local.name for local in fold.locals)
        if fold.kind in ("argmax", "argmin") and values[1].bounds is not None:
            low, high = values[1].bounds
            self._local_bounds[names[1]] = (min(low, 0), max(high, 0))
        if fold.kind == "sum":
            least = {n: 0.0 for n, v in zip(names, values, strict=True) if v.least >= 0}
            self._local_least.update(least)
        return FoldNode(fold.kind, names, values, fold.axes, self._guards(fold.where))

    def _store(self, store: Store) -> StoreNode:
        address = self._address(store.buffer, store.index)
        guards = self._guards(store.where)
        return StoreNode(address, self.node(store.value), store.axes, guards, store.mode)

    def _guards(self, where: Expr | None) -> tuple[Node, ...]:
        if where is None:
            return ()
        conjuncts: list[Node] = []
        stack = [self.node(where)]
        while stack:
            node = stack.pop()
            if node.op == "and":
                stack.extend(reversed(node.args))
            elif not (node.op == "const" and node.data) and node not in conjuncts:
                conjuncts.append(node)
        return tuple(conjuncts)

    def node(self, expr: Expr) -> Node:
        """The node of an expression; shared subexpressions are visited once."""
        known = self._by_identity.get(id(expr))
        if known is None:
            known = (expr, self._made(expr))
            self._by_identity[id(expr)] = known
        return known[1]

    def _made(self, expr: Expr) -> Node:
        if isinstance(expr, Const):
            return self._const(expr)
        if isinstance(expr, Var):
            return self._variable(expr.axis)
        if isinstance(expr, Local):
            return self._local(expr)
        if isinstance(expr, Load):
            return self._load(expr)
        if not isinstance(expr, Call):
            raise TypeError(f"not an expression of a kernel: {expr!r}")
        return self._call(expr)

    def _const(self, expr: Const) -> Node:
        whole = expr.dtype in WHOLE
        bounds = (int(expr.value), int(expr.value)) if whole else None
        linear: Linear = ({}, int(expr.value)) if expr.dtype == INDEX else None
        made = Node("const", expr.dtype, data=expr.value, bounds=bounds, linear=linear)
        if expr.dtype in REAL and not math.isnan(expr.value):
            made.least = float(expr.value)
        return self._interned(("const", expr.dtype, repr(expr.value)), made)

    def _local(self, expr: Local) -> Node:
        made = Node(
            "local",
            expr.dtype,
            data=expr.name,
            locals=frozenset((expr.name,)),
            bounds=self._local_bounds.get(expr.name),
            least=self._local_least.get(expr.name, -math.inf),
        )
        return self._interned(("local", expr.name), made)

    def _call(self, expr: Call) -> Node:
        args = tuple(self.node(a) for a in expr.args)
        key = ("call", expr.function, expr.dtype, *map(id, args))
        if key in self._by_structure:
            return self._by_structure[key]
        node = Node(expr.function, expr.dtype, args)
        _gather(node, args)
        known = [(a.dtype, a.bounds) for a in args]
        node.bounds = call_bounds(expr.function, expr.dtype, known)
        node.linear = _call_linear(expr.function, args)
        if expr.dtype in REAL:
            is_square = args[0] is args[-1]
            node.least = call_least(expr.function, [a.least for a in args], is_square)
        return self._interned(key, node)

    def _variable(self, axis: Axis) -> Node:
        if axis.extent == 1:
            return self.node(_ZERO)
        node = Node(
            "axis",
            INDEX,
            data=axis,
            axes=frozenset((axis,)),
            bounds=(0, max(axis.extent - 1, 0)),
            linear=({axis: 1}, 0),
        )
        return self._interned(("axis", axis), node)

    def _load(self, load: Load) -> Node:
        address = self._address(load.buffer, load.index)
        terms = tuple(sorted((axis.name, stride) for axis, stride in address.terms.items()))
        parts = tuple((id(node), stride) for node, stride in address.parts)
        key = ("load", load.buffer.name, terms, address.constant, parts)
        if key in self._by_structure:
            return self._by_structure[key]
        args = tuple(node for node, _ in address.parts)
        node = Node("load", load.dtype, args, address=address)
        _gather(node, args)
        node.axes |= frozenset(address.terms)
        node.reads |= {load.buffer.name}
        node.risky = node.risky or not address.inside
        if load.dtype == "uint8":
            node.bounds = (0, 255)
        return self._interned(key, node)

    def _address(self, buffer: Buffer, index: tuple[Expr, ...]) -> Address:
        terms: dict[Axis, int] = {}
        parts: dict[Node, int] = {}
        alone: set[Axis] = set()
        constant, inside = 0, True
        for expr, extent, stride in zip(index, buffer.shape, buffer.strides, strict=True):
            node = self.node(expr)
            bounds = node.bounds
            inside = inside and bounds is not None and bounds[0] >= 0 and bounds[1] < extent
            if node.linear is None:
                parts[node] = parts.get(node, 0) + stride
                continue
            constant += node.linear[1] * stride
            for axis, coefficient in node.linear[0].items():
                terms[axis] = terms.get(axis, 0) + coefficient * stride
            if len(node.linear[0]) == 1:
                alone.update(node.linear[0])
        kept = {axis: stride for axis, stride in terms.items() if stride}
        found = tuple((node, stride) for node, stride in parts.items() if stride)
        return Address(buffer, kept, constant, found, inside, frozenset(alone))

    def _interned(self, key: tuple[Any, ...], node: Node) -> Node:
        return self._by_structure.setdefault(key, node)


_ZERO = Const(0, INDEX)


def _gather(node: Node, args: tuple[Node, ...]) -> None:
    for arg in args:
        node.axes |= arg.axes
        node.locals |= arg.locals
        node.reads |= arg.reads
        node.risky = node.risky or arg.risky


def _call_linear(function: str, args: tuple[Node, ...]) -> tuple[dict[Axis, int], int] | None:
    if function not in ("add", "sub", "mul", "neg") or args[0].dtype != INDEX:
        return None
    forms = [a.linear for a in args]
    if any(f is None for f in forms):
        return None
    first = forms[0]
    assert first is not None
    if function == "neg":
        return _sum(({}, 0), first, -1)
    second = forms[1]
    assert second is not None
    if function == "mul":
        if first[0] and second[0]:
            return None
        scaled, factor = (first, second[1]) if not second[0] else (second, first[1])
        return _sum(({}, 0), scaled, factor)
    return _sum(first, second, 1 if function == "add" else -1)


def _sum(
    left: tuple[dict[Axis, int], int], right: tuple[dict[Axis, int], int], factor: int
) -> tuple[dict[Axis, int], int]:
    terms = dict(left[0])
    for axis, coefficient in right[0].items():
        terms[axis] = terms.get(axis, 0) + factor * coefficient
    return {a: c for a, c in terms.items() if c}, left[1] + factor * right[1]
