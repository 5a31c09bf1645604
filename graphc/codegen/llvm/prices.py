"""What a kernel costs in each form it may run in, by a count of instructions."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from graphc.codegen.llvm.lanes import CACHE_LINE
from graphc.codegen.llvm.row_batch import is_sweep
from graphc.codegen.llvm.target import Target
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
from graphc.ir.types import DTYPES
from graphc.kernel.lang import Axis

# Instructions a vector function takes, roughly; every other function counts as one.
WEIGHTS = {
    "exp": 10,
    "expm1": 14,
    "log": 20,
    "log1p": 25,
    "tanh": 16,
    "sigmoid": 14,
    "pow": 40,
    "sqrt": 6,
    "div": 4,
    "floordiv": 8,
    "mod": 8,
    "random_bits": 25,
}
HEAVY = frozenset(("exp", "expm1", "log", "log1p", "tanh", "sigmoid", "pow"))
# Each round of a block waits for the one before: only blocks side by side keep a processor busy.
# Lanes that count on share blocks, which fill a quarter of the registers at most: with more of them
# memory waits meanwhile.
DRAWN = "random_bits"


@dataclass(frozen=True)
class Form:
    """What runs in vector lanes.

    vector: the `each` axis whose iterations do, `lanes` at a time. inner: for statements, their own
    axis, `inner_lanes` at a time.
    """

    vector: Axis | None = None
    lanes: int = 1
    inner: dict[StatementNode, Axis] = field(default_factory=dict)
    inner_lanes: dict[StatementNode, int] = field(default_factory=dict)


class Prices:
    """Counts instructions for every way to use vectors."""

    def __init__(
        self,
        nodes: KernelNodes,
        target: Target,
        ordered: dict[StatementNode, frozenset[Axis]],
    ):
        self.nodes = nodes
        self.ordered = ordered
        self.below = {s: reachable(statement_nodes(s)) for s in nodes.statements}
        every = {node for found in self.below.values() for node in found}
        self.counters = [node.args[-1].linear for node in every if node.op == DRAWN]
        self.width = target.lanes(_main_dtype(nodes, every))
        self.registers = target.registers
        self.most = 4 if target.registers >= 32 else 2
        self.gather = 1.5 if target.vector_bytes >= 64 else 2.5
        self.scatter = 1.5 if target.vector_bytes >= 64 else 5.0

    def best(self, free: list[Axis]) -> Form:
        """The cheapest form, in lanes along one of the `free` axes of `each` or along none."""
        inner, price = self._inside()
        lanes_inside = {s: self._lanes(axis, s) for s, axis in inner.items()}
        best = Form(inner=inner, inner_lanes=lanes_inside)
        for axis in reversed(free) if self.width > 1 else ():
            cost = sum(self._along(s, axis) for s in self.nodes.statements)
            if cost < price:
                price = cost
                lanes = min(self._lanes(axis, s) for s in self.nodes.statements)
                lanes = min(lanes, self._lanes_held(axis))
                best = Form(vector=axis, lanes=lanes)
        return best

    def _most(self, axis: Axis) -> int:
        """Registers' worth of lanes that are good at most along an axis.

        Random bits come of a long chain of instructions, so many chains run side by side: in half
        of the registers, two for the bits of two registers' worth.
        """
        if not self.counters:
            return self.most
        count_on = all(form is not None and form[0].get(axis) == 1 for form in self.counters)
        return self.registers // 2 if count_on else self.most // 2

    def _lanes(self, axis: Axis, statement: StatementNode) -> int:
        """Several registers' worth where that wastes nothing: independent chains hide latencies."""
        lanes, extent = self.width, self.nodes.extents[axis]
        heavy = any(node.op in HEAVY for node in self.below[statement])
        most = self.width * (self.most // 2 if heavy else self._most(axis))
        needed = math.ceil(extent / lanes) * lanes
        while lanes < most:
            wider = 2 * lanes
            if math.ceil(extent / wider) * wider > needed and extent < 8 * wider:
                break
            lanes = wider
        return lanes

    def _lanes_held(self, axis: Axis) -> int:
        """As many lanes as let the values that many statements share stay in registers."""
        statements = self.nodes.statements
        lets = [s.value for s in statements if isinstance(s, LetNode)]
        shared = sum(axis in value.axes or bool(value.locals) for value in lets)
        shared += 2 * bool(self.counters)  # the words of a block
        lanes = self.width * self._most(axis)
        while lanes > self.width and shared * lanes > self.registers * self.width:
            lanes //= 2
        return lanes

    def _inside(self) -> tuple[dict[StatementNode, Axis], float]:
        chosen: dict[StatementNode, Axis] = {}
        total = 0.0
        each = self.nodes.size(self.nodes.each)
        in_batches = len(self.nodes.each) == 1 and any(map(is_sweep, self.nodes.statements))
        for statement in self.nodes.statements:
            price = self._scalar(statement)
            if in_batches and not is_sweep(statement):
                price = min(price, self._along(statement, self.nodes.each[0]))
            for axis in self._own_candidates(statement):
                extent = self.nodes.extents[axis]
                runs = each * self.nodes.size(statement.axes) / max(extent, 1)
                groups = math.ceil(extent / self.width)
                cost = runs * (groups * self._vector(statement, axis, whole_body=False) + 8)
                if cost < price:
                    price, chosen[statement] = cost, axis
            total += price
        return chosen, total

    def _own_candidates(self, statement: StatementNode) -> list[Axis]:
        if self.width == 1:
            return []
        if isinstance(statement, FoldNode) and statement.kind in ("argmax", "argmin"):
            return []
        ordered = self.ordered.get(statement, frozenset())
        return [axis for axis in reversed(statement.axes) if axis not in ordered]

    def _along(self, statement: StatementNode, axis: Axis) -> float:
        """The price of a statement in lanes along an `each` axis."""
        extent = self.nodes.extents[axis]
        runs = self.nodes.size([a for a in self.nodes.each if a != axis])
        groups = math.ceil(extent / self.width)
        own = self.nodes.size(statement.axes)
        return runs * own * groups * self._vector(statement, axis, whole_body=True)

    def _scalar(self, statement: StatementNode) -> float:
        ops = sum(weight(node) for node in self.below[statement])
        ops += isinstance(statement, StoreNode)
        own = self.nodes.size(statement.axes)
        return self.nodes.size(self.nodes.each) * own * (ops + 1.5)

    def _vector(self, statement: StatementNode, axis: Axis, *, whole_body: bool) -> float:
        """Instructions for one register's worth of iterations along `axis`."""
        price = 0.5
        varying = {
            node
            for node in self.below[statement]
            if axis in node.axes or (whole_body and node.locals)
        }
        for node in self.below[statement]:
            if node not in varying:
                price += 0.2 * weight(node)
            elif node.address is None:
                wide = 2 if node.dtype in ("float64", "int64") and self.width > 2 else 1
                division = self.width if node.op in ("floordiv", "mod") else 1
                price += weight(node) * (wide if node.op != "axis" else 1) * division
            else:
                price += self._access(node.address, axis, varying, self.gather)
        if isinstance(statement, StoreNode):
            price += self._access(statement.address, axis, varying, self.scatter)
        return price

    def _access(self, address: Address, axis: Axis, varying: set[Node], each_lane: float) -> float:
        computed = any(node in varying for node, _ in address.parts)
        step = address.terms.get(axis, 0)
        if not computed and step in (0, 1):
            return 1.0
        # Lanes that lie in cache lines of their own take longer to come.
        apart = computed or abs(step) * DTYPES[address.buffer.dtype] >= CACHE_LINE
        return self.width * each_lane * (2.0 if apart else 1.0)


def weight(node: Node) -> float:
    """Instructions that a node takes, roughly."""
    if node.op in ("const", "local", "axis"):
        return 0.0
    return float(WEIGHTS.get(node.op, 1))


def _main_dtype(nodes: KernelNodes, every: set[Node]) -> str:
    """The dtype that decides the number of lanes: float64 where it occurs."""
    dtypes = {node.dtype for node in every}
    dtypes |= {s.address.buffer.dtype for s in nodes.statements if isinstance(s, StoreNode)}
    return "float64" if "float64" in dtypes and "float32" not in dtypes else "float32"
