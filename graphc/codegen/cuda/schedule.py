"""How a kernel is shared among CUDA threads.

Two forms. Either a thread runs whole iterations of `each`, neighbouring threads neighbouring
elements in memory; or a block runs an iteration together, its threads sharing every statement's own
loops, which suits few iterations with long rows.

Stores that add where data says, or where several iterations meet, run in order: the loops along
which iterations may meet stay inside of one thread.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from graphc.codegen.nodes import (
    Address,
    CheckNode,
    FoldNode,
    KernelNodes,
    LetNode,
    Nodes,
    StatementNode,
    StoreNode,
    reachable,
    statement_nodes,
)
from graphc.codegen.order import ordered_axes, store_stride
from graphc.kernel.lang import Axis, Kernel

THREADS = 256  # of a block whose threads work by themselves
ROW = 32  # own loops of fewer iterations are not worth a warp
ENOUGH = 2**15  # iterations that fill a GPU, a thread each
_EXCHANGED = ("float32", "float64", "int32", "int64")  # what lanes can exchange
_LARGEST_BLOCK = 1024


@dataclass
class Schedule:
    """Decisions about one kernel.

    parallel: the axes that are shared, the last one by neighbouring threads (or blocks).
    serial: further `each` axes, loops around the whole body inside of a thread.
    own: for each statement the loops that it runs itself.
    """

    nodes: KernelNodes
    form: Literal["threads", "block"]
    parallel: list[Axis]
    serial: list[Axis]
    threads: int = field(default_factory=lambda: THREADS)
    own: dict[StatementNode, list[Axis]] = field(default_factory=dict)

    @property
    def iterations(self) -> int:
        """Points of the shared loops."""
        return self.nodes.size(self.parallel)


def read(kernel: Kernel) -> KernelNodes:
    """The statements of a kernel."""
    return Nodes(kernel).read()


def schedule(nodes: KernelNodes, alone: bool) -> Schedule:
    """Decide. `alone`: no output shares memory with another argument. Merges loops in place."""
    ordered = ordered_axes(nodes)
    if not any(ordered.values()):
        _merge_each(nodes)
    fixed = {axis for axes in ordered.values() for axis in axes}
    own = {s: _own_order(nodes, s, ordered.get(s, frozenset())) for s in nodes.statements}
    free = [axis for axis in nodes.each if axis not in fixed]
    serial = [axis for axis in nodes.each if axis in fixed]
    lifted = [axis for axis in _lifted(nodes, alone) if axis not in fixed]
    if lifted:
        free += lifted
        own = {s: [a for a in axes if a not in lifted] for s, axes in own.items()}
    free.sort(key=lambda axis: -store_stride(nodes, axis))
    made = Schedule(nodes, "threads", free, serial, own=own)
    if not fixed and _suits_blocks(made):
        longest = max(nodes.size(axes) for axes in own.values())
        most = _LARGEST_BLOCK if made.iterations < 64 else THREADS
        made.form = "block"
        made.threads = 32 * max(1, min(most // 32, math.ceil(longest / 128)))
    return made


def _suits_blocks(made: Schedule) -> bool:
    nodes = made.nodes
    if any(extent == 0 for extent in nodes.extents.values()):
        return False
    folds = [s for s in nodes.statements if isinstance(s, FoldNode)]
    if any(value.dtype not in _EXCHANGED for fold in folds for value in fold.values):
        return False
    longest = max((nodes.size(axes) for axes in made.own.values()), default=1)
    if longest < ROW:
        return False
    if made.iterations < ENOUGH // 8:
        return True
    along = made.parallel[-1] if made.parallel else None
    rows_are_near = along is None or not _unit_stride(nodes, along)
    return rows_are_near and made.iterations < 2**31


def _unit_stride(nodes: KernelNodes, axis: Axis) -> bool:
    return any(
        abs(address.terms.get(axis, 0)) == 1
        for statement in nodes.statements
        for address in nodes.addresses(statement)
    )


def _lifted(nodes: KernelNodes, alone: bool) -> list[Axis]:
    """Own loops of the only store, to be shared like those of `each`.

    What comes before is then computed by every thread again, perhaps after another has stored: no
    element may be read there that the store could reach.
    """
    stores = [s for s in nodes.statements if isinstance(s, StoreNode)]
    if len(stores) != 1 or any(isinstance(s, FoldNode) for s in nodes.statements):
        return []
    before = [s for s in nodes.statements if isinstance(s, LetNode | CheckNode)]
    loads = [a for s in before for a in nodes.addresses(s)]
    if loads and not alone:
        return []
    if any(address.buffer.name in nodes.written for address in loads):
        return []
    return list(stores[0].axes)


# -- order ----------------------------------------------------------------------------------------


def _own_order(
    nodes: KernelNodes, statement: StatementNode, ordered: frozenset[Axis]
) -> list[Axis]:
    """A statement's loops from far strides to near ones, where their order does not matter."""
    axes = list(statement.axes)
    if ordered or (isinstance(statement, FoldNode) and statement.kind in ("argmax", "argmin")):
        return axes
    addresses = nodes.addresses(statement)
    return sorted(
        axes, key=lambda axis: -max((abs(a.terms.get(axis, 0)) for a in addresses), default=0)
    )


# -- merging --------------------------------------------------------------------------------------


def _merge_each(nodes: KernelNodes) -> None:
    """Make one loop of two `each` axes wherever every address sees them as one."""
    seen = {
        node.data
        for statement in nodes.statements
        for node in reachable(statement_nodes(statement))
        if node.op == "axis"
    }
    addresses = [a for s in nodes.statements for a in nodes.addresses(s)]
    while pair := _mergeable([a for a in nodes.each if a not in seen], addresses, nodes):
        far, near = pair
        nodes.each.remove(far)
        nodes.extents[near] *= nodes.extents.pop(far)
        for address in addresses:
            address.terms.pop(far, None)


def _mergeable(
    axes: list[Axis], addresses: list[Address], nodes: KernelNodes
) -> tuple[Axis, Axis] | None:
    for far in axes:
        for near in axes:
            extent = nodes.extents[near]
            if far != near and all(
                a.terms.get(far, 0) == a.terms.get(near, 0) * extent for a in addresses
            ):
                return far, near
    return None
