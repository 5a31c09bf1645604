"""How a kernel's loops run: which are merged, shared among threads, and carried in vector lanes.

Two forms exist. Where an `each` axis suits vectors, the whole body is carried in lanes along it,
folds included. Otherwise `each` loops run one iteration at a time and every statement puts one of
its own axes in lanes. The cheaper form by a count of instructions is taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from graphc.codegen.llvm.kept import Kept, kept_rows, kept_slots
from graphc.codegen.llvm.lanes import CACHE_LINE
from graphc.codegen.llvm.merging import merge_loops
from graphc.codegen.llvm.prices import Prices, weight
from graphc.codegen.llvm.row_batch import is_sweep, made_locals
from graphc.codegen.llvm.running_sum import running_sum
from graphc.codegen.llvm.sweeps import carried_stores, join_spreads, merge_folds
from graphc.codegen.llvm.target import Target
from graphc.codegen.nodes import (
    Address,
    CheckNode,
    FoldNode,
    KernelNodes,
    StatementNode,
    StoreNode,
    reachable,
    statement_nodes,
)
from graphc.codegen.order import ordered_axes, store_stride
from graphc.ir.types import DTYPES, REAL
from graphc.kernel.lang import Axis

FIRST_CACHE = 16 << 10  # bytes of rows that surely stay there
MOST_WASTE = 1.25  # a strip may have so many lanes for each that narrower ones would have
BATCH_WORK = 20  # scalar instructions a row from which on a batch is worth its arrays
# A float sum of more terms is made of parts, and the parts are added in float64.
LONGEST_SUM = 64
FAIR_STRIPS = 16  # so many can be shared by a few threads, though not evenly
PANEL = 0.5  # of the second cache that sums of some columns may take, where rows are walked twice
UNEVEN_ROOM = 0.25  # of the second cache for strips that begin inside of lines
MOST_HELD = 256 << 10  # bytes of each thread that sums of all columns may take
SHARES = 64  # the parallel loop has at least so many iterations, where the kernel has


@dataclass
class Schedule:
    """Decisions about one kernel.

    outer: axes fused into the loop that threads share. loops: further loops, outermost first.
    vector: the `each` axis in lanes. inner: for statements, their own axis in lanes.
    kept: what sweeps keep for later ones in scratch memory.
    batch: iterations of the shared loop whose scalar statements run in lanes (see `row_batch`).
    walk: rows are walked whole (see `row_walk`), `lanes` at a time.
    panel: of so many columns at most before the others; 0: of all.
    made: a store that is not done: what would read it makes it again (see `running_sum`).
    serial: the order of iterations matters; one thread runs them all.
    written_out: no loop of a statement is one: its iterations stand in a row.
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
    walk: bool = False
    made: StoreNode | None = None
    panel: int = 0
    serial: bool = False
    written_out: bool = False
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
    def is_map(self) -> bool:
        """Whether each iteration only makes its own elements."""
        return not any(getattr(statement, "axes", ()) for statement in self.nodes.statements)

    @property
    def unit(self) -> int:
        """A share begins at a multiple of this."""
        if self.batch:
            return self.batch
        return self.lanes if self.vector and not self.outer and not self.serial else 1


def schedule(nodes: KernelNodes, target: Target) -> Schedule:
    """Decide. Merges loops of `nodes` in place."""
    ordered = ordered_axes(nodes)
    if not any(ordered.values()):
        merge_loops(nodes)
    _sort_own_axes(nodes, ordered)
    merge_folds(nodes)
    fixed = {axis for axes in ordered.values() for axis in axes}
    free = [axis for axis in nodes.each if axis not in fixed]
    bound = [axis for axis in nodes.each if axis in fixed]
    free.sort(key=lambda axis: -store_stride(nodes, axis))
    form = Prices(nodes, target, ordered).best(free)
    chosen = Schedule(nodes, [], [], form.vector, form.lanes, form.inner, form.inner_lanes)
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
    if chosen.vector and _walks_rows(chosen, chosen.vector, target):
        chosen.walk, chosen.lanes = True, _walk_lanes(nodes.extents[chosen.vector], target)
        join_spreads(nodes)
    elif chosen.vector:
        _keep_strips(chosen, chosen.vector, target)
        _run_sums(chosen, chosen.vector, target)
    else:
        _join_long_spreads(chosen, target)
        if chosen.outer and not chosen.batch and chosen.inner:
            chosen.kept = kept_rows(nodes, chosen.inner, max(chosen.inner_lanes.values()))
    chosen.cost = operations(nodes)
    return chosen


def _keep_strips(plan: Schedule, vector: Axis, target: Target) -> None:
    """Keep strips of rows that lie far apart, as wide as registers allow: each is fetched once."""
    wide = _strip_lanes(plan.nodes.extents[vector], target)
    kept = kept_slots(plan.nodes, vector, wide, target.l3_bytes)
    if not kept.slots and wide > target.lanes("float32"):
        wide //= 2
        kept = kept_slots(plan.nodes, vector, wide, target.l3_bytes)
        # Narrow strips share too many lines with their neighbours.
        kept = kept if kept.begins_lines(vector) else Kept()
    if kept.slots:
        plan.kept, plan.lanes = kept, wide


def _run_sums(plan: Schedule, columns: Axis, target: Target) -> None:
    """Walk the rows of a softmax of which neither the matrix nor a strip stays in a cache."""
    nodes, lanes = plan.nodes, target.lanes("float32")
    if plan.outer or plan.loops or plan.serial or lanes == 1:
        return
    found = running_sum(nodes, columns)
    if found is None or found.made.value.dtype != "float32":
        return
    locals_ = made_locals(found.statements)
    extent = nodes.extents[columns]
    matrix = nodes.size([columns, *found.made.axes]) * DTYPES["float32"]
    kept = plan.kept.bytes(plan.lanes, nodes) if plan.kept.slots else matrix
    # Strips that begin inside of lines share these with their neighbours.
    room = 1.0 if plan.kept.begins_lines(columns) else UNEVEN_ROOM
    near = kept <= room * target.l2_bytes or matrix <= target.l2_bytes
    if near or "bool" in locals_.values():
        return
    held = extent * (sum(DTYPES[dtype] for dtype in locals_.values()) + 2 * 8)
    panels = math.ceil(held / (PANEL * target.l2_bytes))
    plan.panel = math.ceil(extent / panels / lanes) * lanes if panels > 1 else 0
    nodes.statements, plan.made = found.statements, found.made
    plan.walk, plan.lanes, plan.kept = True, lanes, Kept()
    plan.carried.clear()


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


def _join_long_spreads(plan: Schedule, target: Target) -> None:
    """Find mean and variance in one sweep where the second would miss the first cache.

    Totals must be wider than the data, since large numbers cancel in them.
    """

    def may(first: FoldNode, second: FoldNode) -> bool:
        (value,) = first.values
        long = plan.nodes.size(first.axes) * DTYPES[value.dtype] > target.l1_bytes
        inner = plan.inner.get(first)
        alike = inner is not None and inner == plan.inner.get(second)
        free = not {first, second} & plan.carried.keys()
        return long and alike and free and value.dtype == "float32"

    for joined, first in join_spreads(plan.nodes, may).items():
        plan.inner[joined], plan.inner_lanes[joined] = plan.inner[first], plan.inner_lanes[first]


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
    work = sum(weight(node) for s in others for node in reachable(statement_nodes(s)))
    row = max((nodes.size(s.axes) for s in sweeps), default=0)
    fits = row * DTYPES["float32"] * lanes <= FIRST_CACHE
    return lanes if sweeps and fits and work >= BATCH_WORK else 0


def _walks_rows(plan: Schedule, columns: Axis, target: Target) -> bool:
    """Whether a kernel does no more than to sum up columns that are many and long.

    Where a matrix fits the first cache, it does not matter.
    """
    nodes = plan.nodes
    sweeps = [s for s in nodes.statements if is_sweep(s)]
    if plan.outer or plan.loops or plan.serial or not sweeps:
        return False
    if target.lanes("float32") == 1 or "bool" in made_locals(nodes.statements).values():
        return False
    if not all(isinstance(s, FoldNode) and _is_column(s, columns, nodes) for s in sweeps):
        return False
    size = nodes.extents[columns] * DTYPES["float32"]
    totals = 2 * max(len(s.names) for s in sweeps if isinstance(s, FoldNode))
    held = size * (len(made_locals(nodes.statements)) + totals)
    long = all(nodes.size(s.axes) * size > target.l1_bytes for s in sweeps)
    return long and held <= MOST_HELD


def _walk_lanes(extent: int, target: Target) -> int:
    """Two registers' worth; one where strips are too few to be shared fairly."""
    lanes = target.lanes("float32")
    fair = extent % (2 * lanes) == 0 or extent >= FAIR_STRIPS * lanes
    return 2 * lanes if fair and target.registers >= 32 else lanes


def _is_column(fold: FoldNode, columns: Axis, nodes: KernelNodes) -> bool:
    """Whether a fold is a long sum down the columns of matrices, a loop over their rows."""
    addresses = nodes.addresses(fold)
    plain = not fold.guards and len(fold.axes) == 1 and is_long_sum(fold, nodes)
    in_rows = all(not a.parts and a.terms.get(columns, 0) in (0, 1) for a in addresses)
    written = any(a.buffer.name in nodes.written for a in addresses)
    return plain and in_rows and not written


def is_long_sum(fold: FoldNode, nodes: KernelNodes) -> bool:
    """Whether a fold is a float sum so long that it is made of parts."""
    real = all(value.dtype in REAL for value in fold.values)
    return fold.kind == "sum" and real and nodes.size(fold.axes) > LONGEST_SUM


def _enough(nodes: KernelNodes, axes: list[Axis]) -> int:
    """How many leading axes to fuse so that every thread gets a fair share."""
    for count in range(1, len(axes)):
        if nodes.size(axes[:count]) >= SHARES:
            return count
    return len(axes)


# -- order ------------------------------------------------------------------------------------


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


def operations(nodes: KernelNodes) -> float:
    """Scalar instructions of one whole run, roughly."""
    each = nodes.size(nodes.each)
    total = 0.0
    for statement in nodes.statements:
        ops = 1 + sum(weight(n) for n in reachable(statement_nodes(statement)))
        own = 1 if isinstance(statement, CheckNode) else nodes.size(statement.axes)
        total += each * own * ops
    return total
