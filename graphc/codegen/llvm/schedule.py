"""How a kernel's loops run: which are merged, shared among threads, and carried in vector lanes.

Two forms exist. Where an `each` axis suits vectors, the whole body is carried in lanes along it,
folds included. Otherwise `each` loops run one iteration at a time and every statement puts one of
its own axes in lanes. The cheaper form by a count of instructions is taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from graphc.codegen.llvm.kept import Kept, kept_slots
from graphc.codegen.llvm.row_batch import is_sweep, made_locals
from graphc.codegen.llvm.sweeps import carried_stores, merge_folds
from graphc.codegen.llvm.target import Target
from graphc.codegen.nodes import (
    Address,
    CheckNode,
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
HEAVY = frozenset(("exp", "expm1", "log", "log1p", "tanh", "sigmoid", "pow", "random_bits"))
CACHE_LINE = 64
FIRST_CACHE = 16 << 10  # bytes of rows that surely stay there
MOST_WASTE = 1.25  # a strip may have so many lanes for each that narrower ones would have
BATCH_WORK = 20  # scalar instructions a row from which on a batch is worth its arrays
Terms = dict[Axis, int]  # an affine function of loop variables
SHARES = 64  # the parallel loop has at least so many iterations, where the kernel has


@dataclass
class Schedule:
    """Decisions about one kernel.

    outer: axes fused into the loop that threads share. loops: further loops, outermost first.
    vector: the `each` axis in lanes. inner: for statements, their own axis in lanes.
    kept: what sweeps keep for later ones on the stack.
    batch: iterations of the shared loop whose scalar statements run in lanes (see `row_batch`).
    serial: the order of iterations matters; one thread runs them all.
    cost: scalar instructions of a whole run, roughly.
    """

    nodes: KernelNodes
    outer: list[Axis]
    loops: list[Axis]
    vector: Axis | None = None
    lanes: int = 1
    inner: dict[StatementNode, Axis] = field(default_factory=dict)
    inner_lanes: dict[StatementNode, int] = field(default_factory=dict)
    carried: dict[FoldNode, StoreNode] = field(default_factory=dict)
    kept: Kept = field(default_factory=Kept)
    batch: int = 0
    serial: bool = False
    cost: float = 0.0

    @property
    def extent(self) -> int:
        """Iterations of the loop that threads share."""
        if self.serial:
            return 1
        if self.outer:
            return self.nodes.size(self.outer)
        return self.nodes.extents[self.vector] if self.vector else 1

    @property
    def unit(self) -> int:
        """A share begins at a multiple of this."""
        if self.batch:
            return self.batch
        return self.lanes if self.vector and not self.outer and not self.serial else 1


def schedule(nodes: KernelNodes, target: Target) -> Schedule:
    """Decide. Merges loops of `nodes` in place."""
    ordered = _ordered_axes(nodes)
    if not any(ordered.values()):
        merge_loops(nodes)
    _sort_own_axes(nodes, ordered)
    merge_folds(nodes)
    fixed = {axis for axes in ordered.values() for axis in axes}
    free = [axis for axis in nodes.each if axis not in fixed]
    bound = [axis for axis in nodes.each if axis in fixed]
    free.sort(key=lambda axis: -_store_stride(nodes, axis))
    chosen = _Prices(nodes, target, ordered).best(free)
    scalar = [axis for axis in free if axis != chosen.vector]
    if apart := _apart(nodes, chosen.vector):
        scalar.sort(key=lambda axis: -_farthest(apart, axis))
    if bound and not scalar:
        chosen.serial, chosen.loops = chosen.vector is None, bound
    else:
        split = _enough(nodes, scalar)
        chosen.outer, chosen.loops = scalar[:split], scalar[split:] + bound
    _carry_stores(chosen)
    chosen.batch = _batch(chosen, target)
    if chosen.vector:
        # Rows that lie far apart are fetched once, and as wide as registers allow.
        wide = _strip_lanes(nodes.extents[chosen.vector], target)
        chosen.kept = kept_slots(nodes, chosen.vector, wide)
        if chosen.kept.slots:
            chosen.lanes = wide
    chosen.cost = _operations(nodes)
    return chosen


def _strip_lanes(extent: int, target: Target) -> int:
    """Lanes of a strip: four registers' worth, fewer where many of those would be empty."""
    least = target.lanes("float32")
    needed = math.ceil(extent / least) * least
    for lanes in (4 * least, 2 * least):
        if math.ceil(extent / lanes) * lanes <= MOST_WASTE * needed:
            return lanes
    return least


def _carry_stores(plan: Schedule) -> None:
    """Let folds do the stores before them, in as many lanes as suit both."""
    for fold, store in carried_stores(plan.nodes.statements).items():
        if plan.inner.get(fold) != plan.inner.get(store):
            continue
        plan.carried[fold] = store
        if fold in plan.inner_lanes:
            plan.inner_lanes[fold] = min(plan.inner_lanes[fold], plan.inner_lanes[store])


def _batch(plan: Schedule, target: Target) -> int:
    """How many rows go together, so that what is computed once a row is computed in lanes; 0: none.

    Only rows that stay in the first cache from one sweep to the next, and work that is worth it.
    """
    nodes = plan.nodes
    lanes = target.lanes("float32")
    if plan.vector or plan.serial or plan.loops or len(plan.outer) != 1 or lanes == 1:
        return 0
    if nodes.size(plan.outer) < lanes or "bool" in made_locals(nodes.statements).values():
        return 0
    sweeps = [s for s in nodes.statements if is_sweep(s)]
    others = [s for s in nodes.statements if not is_sweep(s)]
    work = sum(_weight(node) for s in others for node in reachable(statement_nodes(s)))
    row = max((nodes.size(s.axes) for s in sweeps), default=0)
    fits = row * DTYPES["float32"] * lanes <= FIRST_CACHE
    return lanes if sweeps and fits and work >= BATCH_WORK else 0


def _enough(nodes: KernelNodes, axes: list[Axis]) -> int:
    """How many leading axes to fuse so that every thread gets a fair share."""
    for count in range(1, len(axes)):
        if nodes.size(axes[:count]) >= SHARES:
            return count
    return len(axes)


# -- order ------------------------------------------------------------------------------------


def _ordered_axes(nodes: KernelNodes) -> dict[StatementNode, frozenset[Axis]]:
    """For every store, the axes along which two iterations may meet in one element of a sum."""
    found: dict[StatementNode, frozenset[Axis]] = {}
    for statement in nodes.statements:
        if not isinstance(statement, StoreNode) or statement.mode != "add":
            continue
        axes = [*nodes.each, *statement.axes]
        if statement.address.parts or not _one_to_one(statement.address, axes, nodes):
            found[statement] = frozenset(axes) - statement.address.alone
        else:
            found[statement] = frozenset()
    return found


def _one_to_one(address: Address, axes: Iterable[Axis], nodes: KernelNodes) -> bool:
    """Whether different iterations reach different elements: strides of a mixed-radix number."""
    reach = 0
    for axis in sorted(axes, key=lambda axis: abs(address.terms.get(axis, 0))):
        stride = abs(address.terms.get(axis, 0))
        if stride <= reach:
            return False
        reach += stride * (nodes.extents[axis] - 1)
    return True


def _sort_own_axes(nodes: KernelNodes, ordered: dict[StatementNode, frozenset[Axis]]) -> None:
    """Let the loops of statements that allow it run from far strides to near ones."""
    for statement in nodes.statements:
        if isinstance(statement, FoldNode) and statement.kind in ("argmax", "argmin"):
            continue
        if isinstance(statement, FoldNode | StoreNode) and not ordered.get(statement):
            addresses = nodes.addresses(statement)
            statement.axes = tuple(
                sorted(statement.axes, key=lambda axis: -_farthest(addresses, axis))
            )


def _farthest(addresses: list[Address], axis: Axis) -> int:
    return max((abs(a.terms.get(axis, 0)) for a in addresses), default=0)


def _apart(nodes: KernelNodes, vector: Axis | None) -> list[Address]:
    """Addresses whose lanes lie in different cache lines.

    The next iteration should find its elements in the same lines: their strides decide the order.
    """
    if vector is None:
        return []
    every = [a for statement in nodes.statements for a in nodes.addresses(statement)]
    return [a for a in every if abs(a.terms.get(vector, 0)) * DTYPES[a.buffer.dtype] >= CACHE_LINE]


def _store_stride(nodes: KernelNodes, axis: Axis) -> int:
    """The stride along `axis` of the store that runs most often."""
    stores = [s for s in nodes.statements if isinstance(s, StoreNode)]
    if not stores:
        return 0
    main = max(stores, key=lambda s: nodes.size(s.axes))
    return abs(main.address.terms.get(axis, 0))


# -- merging ------------------------------------------------------------------------------------


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


# -- lanes ------------------------------------------------------------------------------------


class _Prices:
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
        self.heavy = any(node.op in HEAVY for node in every)
        self.width = target.lanes(_main_dtype(nodes, every))
        self.registers = target.registers
        self.most = 4 if target.registers >= 32 else 2
        self.gather = 1.5 if target.vector_bytes >= 64 else 2.5
        self.scatter = 1.5 if target.vector_bytes >= 64 else 5.0

    def best(self, free: list[Axis]) -> Schedule:
        """The cheapest form, its loops not yet set."""
        inner, price = self._inside()
        best = Schedule(self.nodes, [], [], inner=inner)
        best.inner_lanes = {
            s: self._lanes(self.nodes.extents[axis], s) for s, axis in inner.items()
        }
        for axis in reversed(free) if self.width > 1 else ():
            cost = sum(self._along(s, axis) for s in self.nodes.statements)
            if cost < price:
                price = cost
                lanes = min(self._lanes(self.nodes.extents[axis], s) for s in self.nodes.statements)
                lanes = min(lanes, self._lanes_held(axis))
                best = Schedule(self.nodes, [], [], vector=axis, lanes=lanes)
        return best

    def _lanes(self, extent: int, statement: StatementNode) -> int:
        """Several registers' worth where that wastes nothing: independent chains hide latencies."""
        lanes = self.width
        heavy = any(node.op in HEAVY for node in self.below[statement])
        most = self.width * (self.most // 2 if heavy else self.most)
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
        lanes = self.width * self.most
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
                cost = runs * (groups * self._vector(statement, axis, False) + 8)
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
        return runs * own * groups * self._vector(statement, axis, True)

    def _scalar(self, statement: StatementNode) -> float:
        ops = sum(_weight(node) for node in self.below[statement])
        ops += isinstance(statement, StoreNode)
        own = self.nodes.size(statement.axes)
        return self.nodes.size(self.nodes.each) * own * (ops + 1.5)

    def _vector(self, statement: StatementNode, axis: Axis, whole_body: bool) -> float:
        """Instructions for one register's worth of iterations along `axis`."""
        price = 0.5
        varying = {
            node
            for node in self.below[statement]
            if axis in node.axes or (whole_body and node.locals)
        }
        for node in self.below[statement]:
            if node not in varying:
                price += 0.2 * _weight(node)
            elif node.address is None:
                wide = 2 if node.dtype in ("float64", "int64") and self.width > 2 else 1
                division = self.width if node.op in ("floordiv", "mod") else 1
                price += _weight(node) * (wide if node.op != "axis" else 1) * division
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


def _weight(node: Node) -> float:
    if node.op in ("const", "local", "axis"):
        return 0.0
    return float(WEIGHTS.get(node.op, 1))


def _main_dtype(nodes: KernelNodes, every: set[Node]) -> str:
    """The dtype that decides the number of lanes: float64 where it occurs."""
    dtypes = {node.dtype for node in every}
    dtypes |= {s.address.buffer.dtype for s in nodes.statements if isinstance(s, StoreNode)}
    return "float64" if "float64" in dtypes and "float32" not in dtypes else "float32"


def _operations(nodes: KernelNodes) -> float:
    """Scalar instructions of one whole run."""
    each = nodes.size(nodes.each)
    total = 0.0
    for statement in nodes.statements:
        ops = 1 + sum(_weight(n) for n in reachable(statement_nodes(statement)))
        own = 1 if isinstance(statement, CheckNode) else nodes.size(statement.axes)
        total += each * own * ops
    return total
