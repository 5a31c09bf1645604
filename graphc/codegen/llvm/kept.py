"""What one sweep keeps for the next in scratch memory, and not where the result will be.

Strips: lanes run along positions and sweeps along an axis. A softmax over maps sweeps the classes
of 64 positions several times. Its rows are short and far apart: where their distance is a multiple
of a page they push each other out of the caches, and what is stored only to be read and stored
again fetches lines for nothing. So that, and what a sweep loads for later ones, goes to a small
array of the thread, which lies densely.

Rows: lanes run along the axis that is swept. There, too, what is stored only to be read and stored
again is kept: a result that goes past the caches is never fetched.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.lanes import CACHE_LINE, TYPES
from graphc.codegen.llvm.loops import whole
from graphc.codegen.llvm.scratch import Scratch
from graphc.codegen.llvm.vector import Values
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
from graphc.ir.types import DTYPES
from graphc.kernel.lang import Axis

MOST_BYTES = 1 << 20  # of each thread; a usual second cache
# Of the cache that cores share, for a thread's strips: sweeps of rows far apart read it from memory
# a few lines at a time, and each anew. Of so many strips at least: else the rows stay there, too.
SHARED_PART = 0.25
LEAST_STRIPS = 8


@dataclass(eq=False)
class Slot:
    """`source` is put away by one sweep; `taken` by later ones, which know it as these nodes."""

    source: Node
    taken: dict[StatementNode, list[Node]] = field(default_factory=dict)


@dataclass
class Kept:
    """Slots by the sweep that fills them. `temporary` stores fill one and do nothing else.

    axis: what is swept. padding: elements behind a row that vectors may touch; 0 for strips.
    """

    axis: Axis | None = None
    padding: int = 0
    slots: dict[StatementNode, Slot] = field(default_factory=dict)
    temporary: set[StoreNode] = field(default_factory=set)

    def begins_lines(self, vector: Axis) -> bool:
        """Whether each row begins a cache line, where its array does."""
        read = (node for s in self.slots.values() for some in s.taken.values() for node in some)
        places = [(n.address, DTYPES[n.dtype]) for n in read if n.address is not None]
        steps = [s * size for a, size in places for x, s in a.terms.items() if x != vector]
        return not any(step % CACHE_LINE for step in steps)

    def bytes(self, lanes: int, nodes: KernelNodes) -> int:
        """Of the arrays of strips: what folds load is there twice, of this strip and the next."""
        size = sum(
            DTYPES[slot.source.dtype] * (2 if isinstance(sweep, FoldNode) else 1)
            for sweep, slot in self.slots.items()
        )
        return size * lanes * nodes.extents[self.axis] if self.axis else 0


def kept_slots(nodes: KernelNodes, vector: Axis, lanes: int, shared_bytes: int = 0) -> Kept:
    """What the sweeps of a kernel in lanes along `vector` should keep.

    shared_bytes: of the cache that cores share; 0: none is known.
    """
    sweeps = [s for s in nodes.statements if isinstance(s, FoldNode | StoreNode) and s.axes]
    axes = {s.axes for s in sweeps}
    if len(sweeps) < 2 or len(axes) != 1 or any(s.guards for s in sweeps):
        return Kept()
    (own,) = axes
    found = Kept(own[0])
    if len(own) != 1:
        return Kept()
    for place, sweep in enumerate(sweeps):
        slot = _slot(sweep, sweeps[place + 1 :], own[0], vector, nodes)
        if slot is not None:
            found.slots[sweep] = slot
            if isinstance(sweep, StoreNode):
                found.temporary.add(sweep)
    size = sum(DTYPES[slot.source.dtype] for slot in found.slots.values())
    most = MOST_BYTES
    if nodes.extents[vector] >= LEAST_STRIPS * lanes:
        most = max(most, int(SHARED_PART * shared_bytes))
    return found if size * lanes * nodes.extents[own[0]] <= most else Kept()


def kept_rows(nodes: KernelNodes, inner: dict[StatementNode, Axis], lanes: int) -> Kept:
    """What the sweeps of a kernel keep whose vectors, of at most `lanes`, run along rows."""
    sweeps = [s for s in nodes.statements if isinstance(s, FoldNode | StoreNode) and s.axes]
    swept = {(s.axes, inner.get(s)) for s in sweeps}
    if len(swept) != 1 or any(s.guards for s in sweeps):
        return Kept()
    ((axes, own),) = swept
    if own is None or axes != (own,):
        return Kept()
    found = Kept(own, lanes)
    for place, sweep in enumerate(sweeps):
        if isinstance(sweep, StoreNode):
            slot = _slot(sweep, sweeps[place + 1 :], own, own, nodes)
            if slot is not None:
                found.slots[sweep] = slot
                found.temporary.add(sweep)
    size = sum(DTYPES[slot.source.dtype] for slot in found.slots.values())
    return found if size * nodes.extents[own] <= MOST_BYTES else Kept()


def _slot(
    sweep: FoldNode | StoreNode,
    later: list[FoldNode | StoreNode],
    own: Axis,
    vector: Axis,
    nodes: KernelNodes,
) -> Slot | None:
    """What one sweep should keep: a store that a later one replaces, or the first load."""
    loads = {s: [n for n in reachable(statement_nodes(s)) if n.address] for s in (sweep, *later)}
    if isinstance(sweep, StoreNode):
        place = sweep.address
        again = [s for s in later if isinstance(s, StoreNode) and _same(s.address, place)]
        if sweep.mode != "set" or not again or again[0].mode != "set":
            return None
        if not _is_row(place, own, vector) or _is_met(place, sweep, again[0], nodes):
            return None
        readers = _readers(place, later[: later.index(again[0]) + 1], loads)
        return Slot(sweep.value, readers) if readers else None
    for load in loads[sweep]:
        assert load.address is not None
        if load.reads & nodes.written or not _is_row(load.address, own, vector):
            continue
        readers = _readers(load.address, later, loads)
        if readers:
            return Slot(load, readers)
    return None


def _readers(
    place: Address,
    statements: list[FoldNode | StoreNode],
    loads: dict[FoldNode | StoreNode, list[Node]],
) -> dict[StatementNode, list[Node]]:
    found: dict[StatementNode, list[Node]] = {}
    for statement in statements:
        same = [n for n in loads[statement] if n.address and _same(n.address, place)]
        if same:
            found[statement] = same
    return found


def _is_met(place: Address, store: StoreNode, again: StoreNode, nodes: KernelNodes) -> bool:
    """Whether anything up to the next store there meets the array in another way: it must be there.

    No sweep only: what has no loop reads or stores single elements of a row.
    """
    first, last = (nodes.statements.index(s) for s in (store, again))
    between = nodes.statements[first + 1 : last + 1]
    addresses = (address for statement in between for address in nodes.addresses(statement))
    return any(a.buffer == place.buffer and not _same(a, place) for a in addresses)


def _same(one: Address, two: Address) -> bool:
    alike = one.terms == two.terms and one.constant == two.constant
    return alike and one.buffer == two.buffer and not one.parts and not two.parts


def _is_row(place: Address, own: Axis, vector: Axis) -> bool:
    """Whether lanes are neighbours, and a sweep goes from row to row."""
    return not place.parts and place.terms.get(vector) == 1 and own in place.terms


class KeptArrays:
    """The arrays in scratch memory: one for each slot, `lanes` elements a place of the axis.

    ahead: the slot whose rows of the next strip are put away while this one is computed; its array
    has two halves.
    """

    def __init__(
        self, scratch: Scratch, kept: Kept, lanes: int, extent: int, ahead: Slot | None = None
    ):
        self.builder = scratch.builder
        self.scratch = scratch
        self.kept = kept
        self.lanes = lanes
        self.extent = extent + kept.padding
        self.ahead = ahead
        self.arrays: dict[Slot, ir.Value] = {}
        last: tuple[Slot, ir.Value] | None = None
        for filler, slot in kept.slots.items():
            # What is read for the last time where the next is made leaves its place to it.
            free = last is not None and list(last[0].taken)[-1] is filler
            fits = last is not None and last[0].source.dtype == slot.source.dtype
            self.arrays[slot] = last[1] if last and free and fits else self._array(slot)
            last = slot, self.arrays[slot]

    def _array(self, slot: Slot) -> ir.Value:
        dtype = slot.source.dtype
        size = self.lanes * self.extent * (2 if slot is self.ahead else 1)
        return self.scratch.array(dtype, size, max(CACHE_LINE, DTYPES[dtype] * self.lanes))

    def take(self, statement: StatementNode, values: Values) -> None:
        """Let what was put away be known in this iteration of a statement's loop."""
        for slot in self.arrays:
            nodes = slot.taken.get(statement, [])
            if slot is self.ahead and self.kept.slots.get(statement) is slot:
                nodes = [slot.source] if self._is_ready(slot, values) else []
            for node in nodes:
                type_ = ir.VectorType(TYPES[node.dtype], values.lanes)
                place = self._place(slot, values)
                loaded = self.builder.load(place, typ=type_, align=self._align(slot))
                values.frame.scopes[values.level(node)].memo[node] = loaded

    def put(self, statement: StatementNode, values: Values) -> None:
        """Put away what later statements need of this one."""
        slot = self.kept.slots.get(statement)
        if slot is not None and not self._is_ready(slot, values):
            self.store(slot, values.wide(slot.source), values)

    def _is_ready(self, slot: Slot, values: Values) -> bool:
        """Whether a slot was filled before: what is ahead is, but for a partial strip."""
        return slot is self.ahead and values.tail is None

    def store(self, slot: Slot, value: ir.Value, values: Values, turned: bool = False) -> None:
        """Put a value away; `turned`: in the other half."""
        self.builder.store(value, self._place(slot, values, turned), align=self._align(slot))

    def _place(self, slot: Slot, values: Values, turned: bool = False) -> ir.Value:
        assert self.kept.axis is not None
        array, b = self.arrays[slot], self.builder
        if self.ahead is not None and array is self.arrays[self.ahead]:
            array = self._half(array, slot, values, turned)
        step = b.mul(values.places[self.kept.axis][1], whole(self.lanes))
        return b.gep(array, [step], source_etype=TYPES[slot.source.dtype])

    def _half(self, array: ir.Value, slot: Slot, values: Values, turned: bool) -> ir.Value:
        """The half for the strip where `values` stand: they take turns."""
        assert values.axis is not None
        level, first = values.places[values.axis]

        def make() -> ir.Value:
            b = self.builder
            number = b.add(b.udiv(first, whole(self.lanes)), whole(int(turned)))
            start = b.mul(b.and_(number, whole(1)), whole(self.lanes * self.extent))
            return b.gep(array, [start], source_etype=TYPES[slot.source.dtype])

        return values.frame.remembered(level, ("half", turned), make)

    def _align(self, slot: Slot) -> int:
        """Bytes at a multiple of which vectors lie: in rows they begin anywhere."""
        return DTYPES[slot.source.dtype] * self.lanes
