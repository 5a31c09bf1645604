"""Lanes at a distance: a row's registers, each loaded or made once, and shuffles of neighbours."""

from __future__ import annotations

from collections.abc import Callable

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.lanes import TYPES
from graphc.codegen.llvm.loops import INT32
from graphc.codegen.llvm.row_kernel import DTYPE
from graphc.codegen.llvm.square import joined
from graphc.codegen.llvm.vector import Values
from graphc.codegen.nodes import Address, Node


class RowRegisters:
    """The registers of one row of each buffer, and what is computed of them lane by lane.

    maker: of the row that is made and not loaded, the buffer's name and what makes a register.
    """

    def __init__(self, lanes: int, extent: int, maker: tuple[str, Callable[[int], ir.Value]]):
        self.lanes = lanes
        self.extent = extent
        self.maker = maker
        self.known: dict[object, ir.Value] = {}

    def value(self, values: Values, node: Node) -> ir.Value | None:
        """The lanes of a node that depends on its place in the row and nothing else of it.

        None for all other nodes.
        """
        distance = self._distance(values, node)
        if distance is None:
            return None
        assert values.axis is not None
        first_lane = values.places[values.axis][1]
        assert isinstance(first_lane, ir.Constant)  # rows in registers are written out
        start = int(first_lane.constant) + distance
        found = range(start, start + values.lanes, self.lanes)
        return joined(values.builder, [self._from(values, node, first) for first in found])

    def _from(self, values: Values, node: Node, start: int) -> ir.Value:
        """As many lanes as a register has, the first of them number `start` of the row."""
        place, shift = divmod(start, self.lanes)
        low = self.register(values, node, place)
        if not shift:
            return low
        high = self.register(values, node, place + 1)
        order = [shift + lane for lane in range(self.lanes)]
        mask = ir.Constant(ir.VectorType(INT32, self.lanes), order)
        return values.builder.shuffle_vector(low, high, mask)

    def _distance(self, values: Values, node: Node) -> int | None:
        """How far from the lanes a node's rows are read; None where there is no one distance."""
        if node.op == "mul":
            both = {self._distance(values, factor) for factor in node.args}
            return both.pop() if len(both) == 1 else None
        address = node.address
        if address is None or values.axis is None or address.terms.get(values.axis) != 1:
            return None
        total = address.constant
        for axis, step in address.terms.items():
            place = values.places[axis][1]
            if axis != values.axis and isinstance(place, ir.Constant):
                total += step * int(place.constant)
        return total

    def register(self, values: Values, node: Node, place: int) -> ir.Value:
        """The register number `place` of a row, 0 in lanes beyond its ends."""
        if not 0 <= place * self.lanes < self.extent:
            return values.math.constant(0.0, ir.VectorType(TYPES[DTYPE], self.lanes))
        key = (_key(node), place)
        if key not in self.known:
            self.known[key] = self._made(values, node, place)
        return self.known[key]

    def _made(self, values: Values, node: Node, place: int) -> ir.Value:
        if node.op == "mul":
            return values.builder.fmul(*(self.register(values, n, place) for n in node.args))
        address = node.address
        assert address is not None
        name, make = self.maker
        if address.buffer.name == name:
            return make(place)
        terms = {
            axis: step
            for axis, step in address.terms.items()
            if not isinstance(values.places[axis][1], ir.Constant)
        }
        first = place * self.lanes
        start = Address(address.buffer, terms, first, (), True, frozenset())
        return values.load_row(start, self.lanes, min(self.lanes, self.extent - first))


def _key(node: Node) -> tuple[object, ...]:
    """Equal for nodes that are the same numbers of the same rows, at whatever distance."""
    if node.op == "mul":
        return ("mul", *map(_key, node.args))
    assert node.address is not None
    return (node.address.buffer.name,)
