"""Makes one loop of two wherever all that a kernel does sees them as one."""

from __future__ import annotations

from graphc.codegen.nodes import FoldNode, KernelNodes, Node, StatementNode, statement_nodes
from graphc.kernel.lang import Axis

Terms = dict[Axis, int]  # an affine function of loop variables


def merge_loops(nodes: KernelNodes) -> None:
    """Make one loop of two wherever every address sees them as one."""
    seen: set[Axis] = set()
    forms: dict[int, list[Terms]] = {}
    for statement in nodes.statements:
        axes, counters = _outside_counters(statement)
        seen |= axes
        forms[id(statement)] = [*(a.terms for a in nodes.addresses(statement)), *counters]
    everything = [terms for found in forms.values() for terms in found]
    while pair := _mergeable(nodes.each, seen, everything, nodes):
        far, near = pair
        nodes.each.remove(far)
        _merge(far, near, everything, nodes)
    for statement in nodes.statements:
        while pair := _mergeable(list(statement.axes), seen, [], nodes):
            far, near = pair
            sharing = [s for s in nodes.statements if far in s.axes or near in s.axes]
            touched = [terms for s in sharing for terms in forms[id(s)]]
            possible = all(_next_to(s, far, near) for s in sharing)
            if not possible or not _as_one(far, near, touched, nodes):
                seen = seen | {far}
                continue
            for other in sharing:
                other.axes = tuple(a for a in other.axes if a != far)
            _merge(far, near, touched, nodes)


def _outside_counters(statement: StatementNode) -> tuple[set[Axis], list[Terms]]:
    """The loop variables that a statement computes with, and the terms of its random counters.

    A counter is made from its terms, as an address is: what it is made of does not count.
    """
    seen: set[Node] = set()
    counters: list[Terms] = []
    stack = list(statement_nodes(statement))
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        stack.extend(node.args)
        if node.op == "random_bits" and node.args[-1].linear is not None:
            stack.pop()
            counters.append(node.args[-1].linear[0])
    return {node.data for node in seen if node.op == "axis"}, counters


def _mergeable(
    axes: list[Axis], seen: set[Axis], forms: list[Terms], nodes: KernelNodes
) -> tuple[Axis, Axis] | None:
    hidden = [axis for axis in axes if axis not in seen]
    for far in hidden:
        for near in hidden:
            if far != near and _as_one(far, near, forms, nodes):
                return far, near
    return None


def _as_one(far: Axis, near: Axis, forms: list[Terms], nodes: KernelNodes) -> bool:
    extent = nodes.extents[near]
    return all(terms.get(far, 0) == terms.get(near, 0) * extent for terms in forms)


def _next_to(statement: StatementNode, far: Axis, near: Axis) -> bool:
    """Whether a statement has both loops, in an order that merging keeps where it matters."""
    if far not in statement.axes or near not in statement.axes:
        return False
    if isinstance(statement, FoldNode) and statement.kind in ("argmax", "argmin"):
        return statement.axes.index(far) + 1 == statement.axes.index(near)
    return True


def _merge(far: Axis, near: Axis, forms: list[Terms], nodes: KernelNodes) -> None:
    nodes.extents[near] *= nodes.extents.pop(far)
    for terms in forms:
        terms.pop(far, None)
