"""Folds, stores and checks of one kernel as loops: the general way, for every kernel."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.ahead import folded_ahead
from graphc.codegen.llvm.casts import cast
from graphc.codegen.llvm.kept import KeptArrays
from graphc.codegen.llvm.lanes import TYPES, is_vector
from graphc.codegen.llvm.late_store import LateStore, late_store
from graphc.codegen.llvm.loops import (
    INT1,
    INT32,
    INT64,
    Carry,
    Frame,
    whole,
)
from graphc.codegen.llvm.nest import Nest
from graphc.codegen.llvm.next_row import Share
from graphc.codegen.llvm.next_strip import NextStrip
from graphc.codegen.llvm.running_sum import RUNNING
from graphc.codegen.llvm.schedule import Schedule, is_long_sum
from graphc.codegen.llvm.scratch import Scratch
from graphc.codegen.llvm.spread import SpreadParts, everywhere, sum_and_spread, widened
from graphc.codegen.llvm.sweeps import SPREAD, stored_loads
from graphc.codegen.llvm.vector import Values
from graphc.codegen.nodes import (
    CheckNode,
    FoldNode,
    LetNode,
    Node,
    StatementNode,
    StoreNode,
    reachable,
)
from graphc.ir.types import REAL
from graphc.kernel.lang import Axis

_LIMITS = {"int32": 2**31, "int64": 2**63}


class Statements:
    """Emits the statements of a schedule's body where the frame stands."""

    def __init__(
        self, frame: Frame, values: Values, plan: Schedule, error: ir.Value, scratch: Scratch
    ):
        self.frame = frame
        self.values = values
        self.plan = plan
        self.error = error
        self.builder = frame.builder
        self.math = values.math
        self.carried = set(plan.carried.values())
        self.ahead = folded_ahead(plan, values.math.target)
        self.next_rows: dict[FoldNode, list[Share]] = {}
        self.uneven: StoreNode | None = None
        values.tops = _tops(plan.nodes.statements)
        values.masses = frozenset(_masses(plan.nodes.statements, values.tops))
        extent = plan.nodes.extents[plan.kept.axis] if plan.kept.axis else 0
        ahead = next((slot for s, slot in plan.kept.slots.items() if isinstance(s, FoldNode)), None)
        ahead = ahead if plan.vector and plan.carried else None
        self.kept = KeptArrays(scratch, plan.kept, plan.lanes, extent, ahead)
        self.next = NextStrip(values, self.kept, ahead, extent) if ahead else None
        late = late_store(plan)
        self.late: LateStore | None = None
        if self.next and late:
            self.late = LateStore(values, self.kept, self.next, plan, late)

    def emit(self, statement: StatementNode) -> None:
        """One statement."""
        if isinstance(statement, LetNode):
            level = self.values.level(statement.value)
            self.values.locals[statement.name] = (level, self.values.value(statement.value))
        elif isinstance(statement, FoldNode):
            self._fold(statement)
        elif isinstance(statement, StoreNode):
            late = self.late if self.values.tail is None else None
            if late is not None and statement is late.store:
                late.put_off(lambda: self._store(statement))
            elif statement not in self.carried:
                self._store(statement)
        else:
            self._check(statement)

    # -- folds --

    def _fold(self, fold: FoldNode) -> None:
        if fold.kind == SPREAD:
            self._spread(fold)
            return
        inner = self.plan.inner.get(fold)
        v = self.values
        lanes = self.plan.inner_lanes[fold] if inner else v.lanes
        varying = v.axis is not None and any(v.varies(n) for n in (*fold.values, *fold.guards))
        in_lanes = inner is not None or varying
        summed = is_long_sum(fold, self.plan.nodes)
        start = [
            self._start(fold, position, lanes if in_lanes else 0, "float64" if summed else "")
            for position in range(len(fold.values))
        ]
        nest = Nest(v, self.plan, fold, inner, lanes, summed)
        if self.next and v.tail is None and self.plan.kept.slots.get(fold) is self.next.slot:
            self.next.begin()

        store = self.plan.carried.get(fold)
        late = self.late if store is not None and v.tail is None else None
        met = itertools.count()

        def leaf(carry: Carry) -> Carry:
            if late is not None:
                late.row(lambda: self._store_one(late.store))
            if store is not None:
                self._store_carried(store, fold)
            else:
                self.kept.take(fold, v)
                self._fetch_rows(fold)
            if nest.written_out:
                self._fetch_next_row(fold, next(met))
            combined = self._combined(fold, carry, in_lanes)
            self.kept.put(fold, v)
            return combined

        with late.around() if late else contextlib.nullcontext():
            results = nest.run(start, leaf, lambda: self._fetch_next_row(fold))
        for name, value, node in zip(fold.names, results, fold.values, strict=True):
            if inner is not None:
                value = self._across(fold.kind, value, node.dtype)
            if summed and node.dtype != "float64":
                value = cast(v, value, "float64", node.dtype)
            v.locals[name] = (self.frame.depth, value)

    def _store_carried(self, store: StoreNode, fold: FoldNode) -> None:
        """Store what the fold carries along, and know it where the fold would load it."""
        v = self.values
        self._fetch_next(store)
        self.kept.take(store, v)
        value = v.wide(store.value)  # of what was there before it is stored
        self._store_one(store)
        self.kept.take(fold, v)
        v.remember(value, stored_loads(store, fold))

    def _spread(self, fold: FoldNode) -> None:
        """A sum and the spread about its mean, in lanes along an own axis (see `spread`)."""
        v, b, m = self.values, self.builder, self.math
        inner, lanes = self.plan.inner[fold], self.plan.inner_lanes[fold]
        node = fold.values[0]
        pivot = self._first_mean(fold, inner, lanes)
        wide_pivot = widened(b, pivot)
        nest = Nest(v, self.plan, fold, inner, lanes, True)
        ((place, part),) = nest.parts.items()
        parts = SpreadParts(part.length, math=m, pivot=pivot, wide_pivot=wide_pivot)
        nest.parts[place] = parts

        def leaf(carry: Carry) -> Carry:
            self._fetch_rows(fold)
            return parts.one_more(v.wide(node), carry, v.active)

        total, square, *_ = nest.run(parts.first(), leaf)
        sums = [self._across("sum", wide, "float64") for wide in (total, square)]
        middle = b.extract_element(wide_pivot, ir.Constant(INT32, 0))
        count = float(self.plan.nodes.size(fold.axes))
        for name, wide in zip(fold.names, sum_and_spread(m, count, middle, *sums), strict=True):
            found = wide if node.dtype == "float64" else cast(v, wide, "float64", node.dtype)
            v.locals[name] = (self.frame.depth, found)

    def _first_mean(self, fold: FoldNode, inner: Axis, lanes: int) -> ir.Value:
        """The mean of what a fold meets first, in all lanes: no outlier alone decides it."""
        v, b, extent = self.values, self.builder, self.plan.nodes.extents[inner]
        with contextlib.ExitStack() as inside:
            inside.enter_context(self.frame.written_out())
            for axis in fold.axes:
                if axis != inner:
                    inside.enter_context(v.at_axis(axis, whole(0)))
            rest = extent if extent < lanes else None
            inside.enter_context(v.along(inner, lanes, whole(0), rest))
            first = v.wide(fold.values[0])
            if v.active is not None:
                first = b.select(v.active, first, ir.Constant(first.type, None))
            total = self._across("sum", first, fold.values[0].dtype)
            mean = b.fmul(total, self.math.like(total, 1 / min(extent, lanes)))
            return everywhere(b, mean, first.type)

    def _fetch_next_row(self, fold: FoldNode, element: int | None = None) -> None:
        """A window's share, or what belongs to the reading of one of its elements."""
        count = self.plan.nodes.size(fold.axes)
        for share in self.next_rows.get(fold, ()):
            some = range(share.lines) if element is None else share.part(element, count)
            share.fetch(self.values, some)

    def _fetch_rows(self, fold: FoldNode) -> None:
        for address, distance in self.ahead.get(fold, ()):
            self.values.prefetch(address, distance)

    def _fetch_next(self, store: StoreNode) -> None:
        """Have the next iteration's elements fetched while this one computes.

        A processor fetches ahead within a page only, and rows begin new pages.
        """
        if self.plan.vector:
            self._fetch_strips(store)
            return
        rows = [*self.plan.outer, *self.plan.loops]
        addresses = [n.address for n in reachable((store.value,)) if n.address is not None]
        for address in dict.fromkeys(addresses):
            if rows and address.terms.get(rows[-1], 0):
                self.values.prefetch(address, address.terms[rows[-1]])

    def _fetch_strips(self, sweep: StoreNode) -> None:
        """The same of the next positions' strip, and what this strip's results will lie over."""
        v, plan = self.values, self.plan
        if not plan.kept.slots:
            return
        if self.next and v.tail is None:
            self.next.row()
        for store in plan.nodes.statements:
            if not isinstance(store, StoreNode) or store in plan.kept.temporary:
                continue
            if store.axes == sweep.axes and store.address.buffer.name not in v.streamed:
                v.prefetch(store.address, 0)

    def _start(self, fold: FoldNode, position: int, lanes: int, wider: str) -> ir.Value:
        dtype = wider or fold.values[position].dtype
        number: float = 0
        if fold.kind == "prod":
            number = 1
        elif fold.kind in ("max", "min") or (fold.kind != "sum" and position == 0):
            number = _lowest(dtype) if fold.kind in ("max", "argmax") else _highest(dtype)
        type_ = TYPES[dtype]
        return self.math.constant(number, ir.VectorType(type_, lanes) if lanes else type_)

    def _combined(self, fold: FoldNode, carry: Carry, in_lanes: bool) -> Carry:
        """The accumulators after one more iteration."""
        v, b = self.values, self.builder
        values = [v.wide(n) if in_lanes else v.value(n) for n in fold.values]
        mask = v.active if in_lanes else None
        if fold.kind in ("argmax", "argmin"):
            better = self._better(fold.kind, values[0], carry[0], fold.values[0].dtype)
            if mask is not None:
                better = b.and_(better, mask)
            return [b.select(better, new, old) for new, old in zip(values, carry, strict=True)]
        new = []
        for node, value, old in zip(fold.values, values, carry, strict=True):
            result = self._joined(fold.kind, old, value, node.dtype)
            new.append(result if mask is None else b.select(mask, result, old))
        return new

    def _better(self, kind: str, key: ir.Value, best: ir.Value, dtype: str) -> ir.Value:
        relation = ">" if kind in ("argmax", "max") else "<"
        if dtype in REAL:
            return self.builder.fcmp_ordered(relation, key, best)
        compare = self.builder.icmp_unsigned if dtype == "uint8" else self.builder.icmp_signed
        return compare(relation, key, best)

    def _joined(self, kind: str, old: ir.Value, value: ir.Value, dtype: str) -> ir.Value:
        b, real = self.builder, dtype in REAL
        if kind == "sum":
            if isinstance(old, ir.Constant) and old.constant == 0 and old.type == value.type:
                return value  # the first of a sum that is written out
            return b.fadd(old, value) if real else b.add(old, value)
        if kind == "prod":
            return b.fmul(old, value) if real else b.mul(old, value)
        # A nan compares false and is passed over.
        return b.select(self._better(kind, value, old, dtype), value, old)

    def _across(self, kind: str, value: ir.Value, dtype: str) -> ir.Value:
        """All lanes joined into one number: halves with halves, always in the same order."""
        b = self.builder
        while is_vector(value):
            half = value.type.count // 2
            if half == 0:
                break
            nothing = ir.Constant(value.type, ir.Undefined)
            masks = [
                ir.Constant(ir.VectorType(INT32, half), list(range(first, first + half)))
                for first in (0, half)
            ]
            low, high = (b.shuffle_vector(value, nothing, mask) for mask in masks)
            value = self._joined(kind, low, high, dtype)
            if half == 1:
                return b.extract_element(value, ir.Constant(INT32, 0))
        return value

    # -- stores and checks --

    def _store(self, store: StoreNode) -> None:
        inner = self.plan.inner.get(store)
        lanes = self.plan.inner_lanes[store] if inner else self.values.lanes

        def leaf(carry: Carry) -> Carry:
            self.kept.take(store, self.values)
            self._store_one(store)
            return carry

        if inner and store is self.uneven:
            # One register at a time: what is left at a row's end is less than a line.
            lanes = self.math.target.lanes(store.address.buffer.dtype)
            nest = Nest(self.values, self.plan, store, inner, lanes, False)
            nest.aligned = store.address
        else:
            nest = Nest(self.values, self.plan, store, inner, lanes, False)
        nest.run([], leaf)

    def _store_one(self, store: StoreNode) -> None:
        """One iteration's store, to the array or to where it is kept for a later one."""
        if store in self.plan.kept.temporary:
            self.kept.put(store, self.values)
            self.values.forget_stored()
        else:
            self.values.store(store.address, store.value, store.mode)

    def _check(self, check: CheckNode) -> None:
        v, b = self.values, self.builder
        holds = v.value(check.condition)
        bad = b.xor(holds, self.math.like(holds, 1))
        if not is_vector(bad):
            self.frame.guard(bad, [], lambda _: self._report(check, v.value(check.value)))
            return
        if v.active is not None:
            bad = b.and_(bad, v.active)
        bits = b.bitcast(bad, ir.IntType(v.lanes))
        some = b.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0))
        values = v.wide(check.value)

        def report(_: Carry) -> Carry:
            zero_is_fine = ir.Constant(INT1, 0)
            lane = self.math.intrinsic(f"llvm.cttz.i{v.lanes}", bits.type, bits, zero_is_fine)
            return self._report(check, b.extract_element(values, _resized(b, lane, INT32)))

        self.frame.guard(some, [], report)

    def _report(self, check: CheckNode, value: ir.Value) -> Carry:
        b, dtype = self.builder, check.value.dtype
        if dtype != "int64":
            value = cast(self.values, value, dtype, "int64")
        second = b.gep(self.error, [whole(1)], source_etype=INT64)
        b.store(value, second, align=8)
        b.store(whole(check.number), self.error, align=8)
        return []


def _tops(statements: list[StatementNode]) -> dict[str, Node]:
    """Locals that are the largest value of a node along whole axes."""
    found: dict[str, Node] = {}
    for s in statements:
        if isinstance(s, FoldNode) and s.kind in ("max", RUNNING) and not s.guards:
            largest = 1 if s.kind == RUNNING else len(s.names)
            found.update(zip(s.names[:largest], s.values[:largest], strict=True))
    return found


def _masses(statements: list[StatementNode], tops: dict[str, Node]) -> Iterator[str]:
    """Locals that are sums of e**(x - the largest x): one of the terms is 1."""
    whole = {name: s.axes for s in statements if isinstance(s, FoldNode) for name in s.names}
    for s in statements:
        if not isinstance(s, FoldNode) or s.kind != "sum" or s.guards:
            continue
        for name, value in zip(s.names, s.values, strict=True):
            below = value.args[0] if value.op == "exp" else value
            if below.op != "sub" or below.args[1].op != "local":
                continue
            top = below.args[1].data
            if value.op == "exp" and tops.get(top) is below.args[0] and whole[top] == s.axes:
                yield name


def _resized(b: ir.IRBuilder, value: ir.Value, type_: ir.IntType) -> ir.Value:
    if value.type.width == type_.width:
        return value
    return (b.trunc if value.type.width > type_.width else b.zext)(value, type_)


def _lowest(dtype: str) -> float:
    return -math.inf if dtype in REAL else -_LIMITS.get(dtype, 0)


def _highest(dtype: str) -> float:
    return math.inf if dtype in REAL else _LIMITS.get(dtype, 256) - 1
