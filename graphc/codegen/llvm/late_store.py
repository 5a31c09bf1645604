"""The last sweep of a strip of positions goes into the middle sweep of the next strip.

A softmax over maps ends with a sweep that only multiplies and stores: it waits for memory, while
the sweep of the exponentials computes. So each strip leaves its results to the next one,

    for each strip: for each row: store the result of the strip before; exponentials of this one

and only the last strip of a row of positions stores its own. What the store needs of its strip
waits in scratch memory, a number a lane. The half of the strips' array that holds the exponentials
is free for the strip after the next from row to row (see `next_strip`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.kept import KeptArrays
from graphc.codegen.llvm.lanes import TYPES, is_vector
from graphc.codegen.llvm.loops import Carry, whole
from graphc.codegen.llvm.next_strip import NextStrip
from graphc.codegen.llvm.row_batch import made_locals
from graphc.codegen.llvm.schedule import Schedule
from graphc.codegen.llvm.shares import when
from graphc.codegen.llvm.vector import Values
from graphc.codegen.nodes import KernelNodes, StoreNode, reachable, statement_nodes
from graphc.ir.types import DTYPES


def late_store(plan: Schedule) -> StoreNode | None:
    """The store that may wait for the next strip: the last statement, which nobody reads.

    Of what the strip keeps it may read what the middle sweep makes, and what is copied ahead: these
    wait for it.
    """
    store = plan.nodes.statements[-1]
    if not isinstance(store, StoreNode) or store.guards or store.mode != "set":
        return None
    if len(plan.carried) != 1 or len(plan.kept.slots) != 2:
        return None
    ((middle, made),) = plan.carried.items()
    slot = plan.kept.slots.get(made)
    if slot is None or store not in slot.taken or store.axes != middle.axes:
        return None
    if _is_met_elsewhere(store, plan) or "bool" in _needed(store, plan.nodes).values():
        return None
    return store


def _is_met_elsewhere(store: StoreNode, plan: Schedule) -> bool:
    """Whether anything but what is kept meets the array that is stored."""
    readers = [some for slot in plan.kept.slots.values() for some in slot.taken.values()]
    taken = {node for some in readers for node in some}
    name = store.address.buffer.name
    stores = [s for s in plan.nodes.statements if isinstance(s, StoreNode) and s is not store]
    if any(s.address.buffer.name == name and s not in plan.kept.temporary for s in stores):
        return True
    loads = (n for s in plan.nodes.statements for n in reachable(statement_nodes(s)))
    met = (n.address for n in loads if n.address is not None and n not in taken)
    return any(address.buffer.name == name for address in met)


def _needed(store: StoreNode, nodes: KernelNodes) -> dict[str, str]:
    """The locals that a store reads, with their dtypes."""
    read = {name for node in statement_nodes(store) for name in node.locals}
    return {name: d for name, d in made_locals(nodes.statements).items() if name in read}


class LateStore:
    """`store` of the strip before, done where the next strip's middle sweep stands."""

    def __init__(
        self,
        values: Values,
        kept: KeptArrays,
        strips: NextStrip,
        plan: Schedule,
        store: StoreNode,
    ):
        assert plan.kept.axis is not None
        self.values = values
        self.frame = values.frame
        self.kept = kept
        self.strips = strips
        self.axis = plan.kept.axis
        self.store = store
        self.dtypes = _needed(store, plan.nodes)
        self.arrays = {
            name: kept.scratch.array(dtype, plan.lanes, DTYPES[dtype] * plan.lanes)
            for name, dtype in self.dtypes.items()
        }
        self.level = 0
        self.before: ir.Value | None = None
        self.locals: dict[str, tuple[int, ir.Value]] = {}
        self.is_later: ir.Value | None = None

    def put_off(self, now: Callable[[], None]) -> None:
        """Instead of the store: keep what it needs; `now` does it, where no strip follows."""
        v, b = self.values, self.values.builder
        assert v.axis is not None
        for name, dtype in self.dtypes.items():
            value = v.locals[name][1]
            wide = value if is_vector(value) else v.splat(value)
            b.store(wide, self.arrays[name], align=DTYPES[dtype] * v.lanes)
        end = b.add(v.places[v.axis][1], whole(2 * v.lanes))
        when(self.frame, b.icmp_signed(">", end, whole(self.strips.stop)), now)

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        """Around the middle sweep: what the strip before has kept."""
        v, b = self.values, self.values.builder
        assert v.axis is not None
        first = v.places[v.axis][1]
        self.is_later = b.icmp_signed("!=", first, whole(self.strips.first))
        with self.frame.scope():
            self.level = self.frame.depth
            self.before = b.sub(first, whole(v.lanes))
            for name, dtype in self.dtypes.items():
                type_ = ir.VectorType(TYPES[dtype], v.lanes)
                loaded = b.load(self.arrays[name], typ=type_, align=DTYPES[dtype] * v.lanes)
                self.locals[name] = self.level, loaded
            yield

    def row(self, store: Callable[[], None]) -> None:
        """In a row of that sweep: `store` stores the result of the strip before."""
        v = self.values
        assert v.axis is not None and self.before is not None and self.is_later is not None
        lanes, before = v.axis, (self.level, self.before)
        here = {self.axis: v.places[self.axis], lanes: v.places[lanes]}
        known = dict(v.locals)

        def inside(carry: Carry) -> Carry:
            # Nothing that is known of this strip has a place so far inside.
            v.places |= {self.axis: (self.frame.depth, here[self.axis][1]), lanes: before}
            v.locals.update(self.locals)
            with v.under():
                self.kept.take(self.store, v)
                store()
            return carry

        self.frame.guard(self.is_later, [], inside)
        v.places |= here
        v.locals = known
