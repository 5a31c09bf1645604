"""Neighbouring loops of one kernel that become one: less to load, and stored values still at hand.

- Folds of one kind over the same loops that read the same array are one fold with more results.
- A store whose values the fold behind it reads is done inside of that fold's loop, element by
  element; the fold takes the value from its register.
"""

from __future__ import annotations

from collections.abc import Iterable

from graphc.codegen.nodes import (
    Address,
    FoldNode,
    KernelNodes,
    Node,
    StatementNode,
    StoreNode,
    reachable,
    statement_nodes,
)
from graphc.ir.types import REAL


def merge_folds(nodes: KernelNodes) -> None:
    """Make one fold of neighbours where neither needs the other's result."""
    merged: list[StatementNode] = []
    for statement in nodes.statements:
        before = merged[-1] if merged else None
        if (
            isinstance(statement, FoldNode)
            and isinstance(before, FoldNode)
            and _are_alike(before, statement)
        ):
            before.names += statement.names
            before.values += statement.values
        else:
            merged.append(statement)
    nodes.statements = merged


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


def stored_loads(store: StoreNode, fold: FoldNode) -> list[Node]:
    """The fold's loads of the array that the store writes."""
    return [
        node
        for node in reachable(statement_nodes(fold))
        if node.address is not None and node.address.buffer == store.address.buffer
    ]


def _is_same(one: Address | None, two: Address) -> bool:
    return (
        one is not None
        and one.terms == two.terms
        and one.constant == two.constant
        and one.parts == two.parts
    )
