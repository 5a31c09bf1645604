"""Kernels over short rows: what `register_rows` can keep in registers, and what follows what."""

from __future__ import annotations

from dataclasses import dataclass

from graphc.codegen.llvm.merging import merge_loops
from graphc.codegen.llvm.nest import FEW_ITERATIONS
from graphc.codegen.llvm.sweeps import merge_folds
from graphc.codegen.llvm.target import Target
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


def follows(first: RowKernel, second: RowKernel, link: str) -> bool:
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
