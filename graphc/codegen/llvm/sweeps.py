"""Loops of one kernel that become one: less to load, and stored values still at hand.

- Folds of one kind over the same loops that read the same array are one fold with more results,
  also past statements that neither needs.
- A store whose values the fold behind it reads is done inside of that fold's loop, element by
  element; the fold takes the value from its register.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from graphc.codegen.nodes import (
    Address,
    FoldNode,
    KernelNodes,
    LetNode,
    Node,
    StatementNode,
    StoreNode,
    reachable,
    statement_nodes,
)
from graphc.ir.types import REAL

SPREAD = "spread"  # the kind of a fold: a sum, and the squared distances from its mean summed up


def merge_folds(nodes: KernelNodes) -> None:
    """Make one fold of several where the later ones need nothing that comes after the first."""
    merged: list[StatementNode] = []
    for statement in nodes.statements:
        before = _earlier(statement, merged) if isinstance(statement, FoldNode) else None
        if before is not None:
            assert isinstance(statement, FoldNode)
            before.names += statement.names
            before.values += statement.values
        else:
            merged.append(statement)
    nodes.statements = merged


def _earlier(fold: FoldNode, statements: list[StatementNode]) -> FoldNode | None:
    """The last fold like this one that may do its work, too."""
    needed = _locals(fold)
    read = {name for node in statement_nodes(fold) for name in node.reads}
    for before in reversed(statements):
        if isinstance(before, FoldNode) and _are_alike(before, fold):
            return before
        if needed & _made(before) or read & _stored(before):
            return None
    return None


def _made(statement: StatementNode) -> set[str]:
    if isinstance(statement, LetNode):
        return {statement.name}
    return set(statement.names) if isinstance(statement, FoldNode) else set()


def _stored(statement: StatementNode) -> set[str]:
    return {statement.address.buffer.name} if isinstance(statement, StoreNode) else set()


def _are_alike(first: FoldNode, second: FoldNode) -> bool:
    dtypes = {value.dtype in REAL for value in (*first.values, *second.values)}
    return (
        first.kind == second.kind
        and first.kind not in ("argmax", "argmin")
        and first.axes == second.axes
        and first.guards == second.guards
        and len(dtypes) == 1
        and not _locals(second) & set(first.names)
        and bool(_reads(first) & _reads(second))
    )


def _locals(fold: FoldNode) -> set[str]:
    return {name for value in fold.values for name in value.locals}


def _reads(fold: FoldNode) -> set[str]:
    return {name for value in fold.values for name in value.reads}


def join_spreads(
    nodes: KernelNodes, may: Callable[[FoldNode, FoldNode], bool] = lambda first, second: True
) -> dict[FoldNode, FoldNode]:
    """Make one fold of a sum and the sum of squared distances from the mean that it gives.

    `may` is asked for each two of them. Each fold so made, with the first of the two.
    """
    kept: list[StatementNode] = []
    made: dict[FoldNode, FoldNode] = {}
    for statement in nodes.statements:
        first = _summed_before(statement, kept, nodes) if isinstance(statement, FoldNode) else None
        if first is not None:
            assert isinstance(statement, FoldNode)
            if not may(first, statement):
                kept.append(statement)
                continue
            joined = FoldNode(
                SPREAD,
                first.names + statement.names,
                first.values * 2,
                first.axes,
                first.guards,
            )
            kept[kept.index(first)] = joined
            made[joined] = first
        else:
            kept.append(statement)
    nodes.statements = kept
    return made


def _summed_before(
    spread: FoldNode, statements: list[StatementNode], nodes: KernelNodes
) -> FoldNode | None:
    """The fold whose mean `spread` is about, where it is about one."""
    squared = spread.kind == "sum" and len(spread.values) == 1 and spread.values[0].op == "mul"
    distance = spread.values[0].args[0] if squared else None
    if distance is None or distance is not spread.values[0].args[1] or distance.op != "sub":
        return None
    value, middle = distance.args
    means = (s for s in statements if isinstance(s, LetNode) and s.name == middle.data)
    mean = next(means, None) if middle.op == "local" else None
    if mean is None or mean.value.op != "mul":
        return None
    total, share = mean.value.args
    if total.op != "local" or share.op != "const" or not share.data:
        return None
    for fold in statements:
        if isinstance(fold, FoldNode) and fold.names == (total.data,) and fold.kind == "sum":
            alike = fold.axes == spread.axes and not fold.guards and not spread.guards
            whole = math.isclose(share.data * nodes.size(fold.axes), 1.0, rel_tol=1e-6)
            written = value.reads & nodes.written
            return fold if alike and whole and fold.values == (value,) and not written else None
    return None


def carried_stores(statements: Iterable[StatementNode]) -> dict[FoldNode, StoreNode]:
    """The store that each fold can do in its own loop, where there is one right before it."""
    found: dict[FoldNode, StoreNode] = {}
    before: StatementNode | None = None
    for statement in statements:
        if isinstance(before, StoreNode) and isinstance(statement, FoldNode):
            alike = before.axes == statement.axes and before.axes and before.mode == "set"
            if alike and not before.guards and not statement.guards:
                loads = stored_loads(before, statement)
                if loads and all(_is_same(load.address, before.address) for load in loads):
                    found[statement] = before
        before = statement
    return found


def stored_loads(store: StoreNode, reader: StatementNode) -> list[Node]:
    """A statement's loads of the array that the store writes."""
    return [
        node
        for node in reachable(statement_nodes(reader))
        if node.address is not None and node.address.buffer == store.address.buffer
    ]


def _is_same(one: Address | None, two: Address) -> bool:
    return (
        one is not None
        and one.terms == two.terms
        and one.constant == two.constant
        and one.parts == two.parts
    )
