"""In which order a kernel's iterations must run, and in which they had better."""

from __future__ import annotations

from graphc.codegen.nodes import Address, KernelNodes, StatementNode, StoreNode
from graphc.kernel.lang import Axis


def ordered_axes(nodes: KernelNodes) -> dict[StatementNode, frozenset[Axis]]:
    """For every store that adds, the loops along which two iterations may meet in one element."""
    found: dict[StatementNode, frozenset[Axis]] = {}
    for statement in nodes.statements:
        if isinstance(statement, StoreNode) and statement.mode == "add":
            axes = [*nodes.each, *statement.axes]
            if not _one_to_one(statement.address, axes, nodes):
                found[statement] = frozenset(axes) - statement.address.alone
    return found


def _one_to_one(address: Address, axes: list[Axis], nodes: KernelNodes) -> bool:
    """Whether no two iterations reach one element: every stride is past the reach of lower ones."""
    if address.parts:
        return False
    reach = 0
    for axis in sorted(axes, key=lambda axis: abs(address.terms.get(axis, 0))):
        stride = abs(address.terms.get(axis, 0))
        if stride <= reach:
            return False
        reach += stride * (nodes.extents[axis] - 1)
    return True


def store_stride(nodes: KernelNodes, axis: Axis) -> int:
    """The stride along an axis of the store that runs most often, in elements."""
    stores = [s for s in nodes.statements if isinstance(s, StoreNode)]
    if not stores:
        return 0
    main = max(stores, key=lambda s: nodes.size(s.axes))
    return abs(main.address.terms.get(axis, 0))
