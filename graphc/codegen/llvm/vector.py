"""Values of expressions, one number or a vector of lanes, and the places of what they read."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from graphc.codegen.llvm import draws, ir
from graphc.codegen.llvm.casts import cast
from graphc.codegen.llvm.division import by_reciprocal, divide, is_by_one
from graphc.codegen.llvm.lane_access import Lanes
from graphc.codegen.llvm.lanes import (
    CACHE_LINE,
    SUFFIXES,
    TYPES,
    first_lane,
    is_vector,
    lane_numbers,
)
from graphc.codegen.llvm.loops import INT1, INT32, INT64, VOID, Count, Frame, whole
from graphc.codegen.llvm.math import VectorMath
from graphc.codegen.llvm.narrow_lanes import are_narrow, known_lanes, lane_limits, narrow
from graphc.codegen.llvm.pages_ahead import Pages
from graphc.codegen.llvm.square import Neighbours, load_run
from graphc.codegen.llvm.target import Target
from graphc.codegen.nodes import Address, Node, StoreNode
from graphc.ir.types import DTYPES, REAL
from graphc.kernel.lang import Axis, Kernel

if TYPE_CHECKING:
    from graphc.codegen.llvm.row_registers import RowRegisters

__all__ = ["SUFFIXES", "TYPES", "Values"]


class Values:
    """Evaluates nodes where the frame stands.

    axis: the loop variable that lanes run along, its value being that of lane 0. tail: the lanes
    that exist, where not all do. active: those of them where the current guard holds. streamed:
    buffers of which whole vectors are stored past the caches, at multiples of a register's size.
    ranges: the least and largest value of loop variables of which fewer are met than the loop has.
    tops: locals that are the largest value that a node takes along a sweep. masses: those that are
    sums of exponentials of what is below its largest, and so 1 or more, or nan.
    """

    def __init__(self, frame: Frame, math: VectorMath, bases: dict[str, ir.Value]):
        self.frame = frame
        self.math = math
        self.builder = frame.builder
        self.bases = bases
        self.written: frozenset[str] = frozenset()
        self.places: dict[Axis, tuple[int, ir.Value]] = {}
        self.ranges: dict[Axis, tuple[int, int]] = {}
        self.locals: dict[str, tuple[int, ir.Value]] = {}
        self.axis: Axis | None = None
        self.lanes = 1
        self.aligned = True
        self.tail: ir.Value | None = None
        self.active: ir.Value | None = None
        self.streamed: frozenset[str] = frozenset()
        self.tops: dict[str, Node] = {}
        self.masses: frozenset[str] = frozenset()
        self.neighbours: Neighbours | None = None
        self.rows: RowRegisters | None = None
        self.guarded = 0
        self._changing: list[Node] = []

    @classmethod
    def of_kernel(cls, function: ir.Function, kernel: Kernel, target: Target) -> Values:
        """Those in a block that begins a kernel's function, whose first arguments are buffers."""
        builder = ir.IRBuilder(function.append_basic_block())
        names = [buffer.name for buffer in kernel.buffers]
        places: dict[str, ir.Value] = dict(zip(names, function.args[: len(names)], strict=True))
        values = cls(Frame(builder), VectorMath(builder, function.module, target), places)
        values.written = frozenset(buffer.name for buffer in kernel.outputs)
        return values

    # -- where a value belongs --

    def level(self, node: Node) -> int:
        """The scope that a value belongs to: the outermost where all it depends on is known."""
        level = self.guarded if node.risky else 0
        for axis in node.axes:
            if axis in self.places:
                level = max(level, self.places[axis][0])
        for name in node.locals:
            level = max(level, self.locals[name][0])
        if node.reads and node.reads & self.written:
            return self.frame.depth
        return level

    def varies(self, node: Node) -> bool:
        """Whether lanes hold different values of a node."""
        if self.axis is not None and self.axis in node.axes:
            return True
        return any(is_vector(self.locals[name][1]) for name in node.locals)

    @contextlib.contextmanager
    def along(
        self, axis: Axis, lanes: int, first: ir.Value, rest: Count | None, aligned: bool = True
    ) -> Iterator[None]:
        """Lanes along `axis` from `first` on, all of them or only the first `rest`.

        aligned: `first` is a multiple of `lanes`.
        """
        saved = (self.axis, self.lanes, self.aligned, self.tail, self.active)
        self.axis, self.lanes, self.aligned = axis, lanes, aligned
        self.places[axis] = (self.frame.depth, first)
        self.tail = self.active = self.first_lanes(rest) if rest is not None else None
        yield
        self.axis, self.lanes, self.aligned, self.tail, self.active = saved
        del self.places[axis]

    @contextlib.contextmanager
    def at_axis(self, axis: Axis, value: ir.Value) -> Iterator[None]:
        """A loop variable's value inside the innermost scope."""
        self.places[axis] = (self.frame.depth, value)
        yield
        del self.places[axis]

    @contextlib.contextmanager
    def under(self, mask: ir.Value | None = None) -> Iterator[None]:
        """Inside a guard that was just entered; `mask` are the lanes where it holds."""
        saved = (self.guarded, self.active)
        self.guarded = self.frame.depth
        if mask is not None:
            self.active = mask if self.active is None else self.builder.and_(self.active, mask)
        yield
        self.guarded, self.active = saved

    @contextlib.contextmanager
    def between(self, axis: Axis, least: int, largest: int) -> Iterator[None]:
        """Inside a part of a loop; of lanes' axis, where the first of them lies."""
        self.ranges[axis] = (least, largest)
        yield
        del self.ranges[axis]

    def reach(self, axis: Axis) -> tuple[int, int] | None:
        """The least and largest value of a loop variable here, if its loop is cut; lane 0's."""
        if axis in self.ranges:
            return self.ranges[axis]
        value = self.places[axis][1]
        if not isinstance(value, ir.Constant):
            return None
        return int(value.constant), int(value.constant)

    def first_lanes(self, count: Count) -> ir.Value:
        """A mask of the first `count` lanes."""
        if isinstance(count, int):
            bits = [int(lane < count) for lane in range(self.lanes)]
            return ir.Constant(ir.VectorType(INT1, self.lanes), bits)
        b = self.builder
        numbers = lane_numbers(32, self.lanes)
        return b.icmp_signed("<", numbers, self.splat(b.trunc(count, INT32)))

    # -- evaluation --

    def value(self, node: Node) -> ir.Value:
        """The node's value: a scalar, or lanes where they differ."""
        if node.op == "const":
            return self._constant(node, TYPES[node.dtype])
        if node.op == "local":
            return self.locals[node.data][1]
        level = self.level(node)
        memo = self.frame.scopes[level].memo
        found = memo.get(node)
        if found is None:
            with self.frame.at(level):
                found = memo[node] = self._computed(node)
            if node.reads & self.written:
                self._changing.append(node)
        return found

    def wide(self, node: Node) -> ir.Value:
        """The node's value in all lanes, where there are lanes."""
        if self.axis is None:
            return self.value(node)
        if node.op == "const":
            return self._constant(node, ir.VectorType(TYPES[node.dtype], self.lanes))
        value = self.value(node)
        if is_vector(value):
            return value
        level = self.level(node)
        return self.frame.remembered(level, ("wide", self.lanes, node), lambda: self.splat(value))

    def alike(self, *nodes: Node) -> list[ir.Value]:
        """Values of several nodes: all scalar, or all in lanes."""
        if any(self.varies(node) for node in nodes):
            return [self.wide(node) for node in nodes]
        return [self.value(node) for node in nodes]

    def splat(self, scalar: ir.Value) -> ir.Value:
        """A scalar in every lane."""
        if isinstance(scalar, ir.Constant) and not isinstance(scalar.type, ir.PointerType):
            return self.math.constant(scalar.constant, ir.VectorType(scalar.type, self.lanes))
        b, nothing = self.builder, ir.Constant(ir.VectorType(scalar.type, self.lanes), ir.Undefined)
        lane = b.insert_element(nothing, scalar, ir.Constant(INT32, 0))
        return b.shuffle_vector(lane, nothing, first_lane(self.lanes))

    def _constant(self, node: Node, type_: ir.Type) -> ir.Value:
        number = node.data
        if node.dtype not in REAL:
            number = int(number)
        return self.math.constant(number, type_)

    def _computed(self, node: Node) -> ir.Value:
        if node.op == "axis":
            return self._variable(node.data)
        if node.linear is not None and (number := self._known(*node.linear)) is not None:
            return whole(number)
        if self.rows is not None and (found := self.rows.value(self, node)) is not None:
            return found
        if node.op == "load":
            return self.load(node)
        return self._function(node)

    def _known(self, terms: dict[Axis, int], constant: int) -> int | None:
        """constant + sum of terms where all loops are written out: then it is a number."""
        total = constant
        for axis, coefficient in terms.items():
            value = self.places[axis][1]
            if axis == self.axis or not isinstance(value, ir.Constant):
                return None
            total += coefficient * int(value.constant)
        return total

    def _variable(self, axis: Axis) -> ir.Value:
        value = self.places[axis][1]
        if axis != self.axis:
            return value
        return self.builder.add(self.splat(value), lane_numbers(64, self.lanes))

    def _function(self, node: Node) -> ir.Value:
        b, op, args = self.builder, node.op, node.args
        if op == "cast":
            return cast(self, self.value(args[0]), args[0].dtype, node.dtype)
        if op == "random_bits":
            bits = draws.draw(self, node)
            return b.zext(bits, self.like(bits, INT64))
        if op == "select":
            return self._select(*args)
        if op == "div" and is_by_one(self, node):
            return by_reciprocal(self, node)
        if op in ("floordiv", "mod"):
            return divide(self, node)
        if op == "pow" and args[1].op == "const":
            return self.math.pow(self.value(args[0]), float(args[1].data), args[0].least)
        if op == "exp":
            return self.math.exp(self.value(args[0]), self._is_at_most_zero(args[0]))
        if op in _COMPARISONS and draws.can_compare(*args):
            bits = draws.draw(self, args[0])
            return b.icmp_unsigned(_COMPARISONS[op], bits, self.math.like(bits, args[1].data))
        if op in _COMPARISONS and (known := known_lanes(self, node)) is not None:
            return known
        if op in _COMPARISONS and (limits := lane_limits(self, node)) is not None:
            return b.icmp_signed(_COMPARISONS[op], *limits)
        if op in _COMPARISONS and are_narrow(self, args):
            return b.icmp_signed(_COMPARISONS[op], *(narrow(self, node) for node in args))
        values = self.alike(*args)
        if op in _BITS:
            return _BITS[op](b, *values)
        if op == "not":
            return b.xor(values[0], self.math.like(values[0], 1))
        if op in _COMPARISONS:
            return self._compare(_COMPARISONS[op], values, args[0].dtype)
        real = args[0].dtype in REAL
        if op in _ARITHMETIC:
            return _ARITHMETIC[op][0 if real else 1](b, *values)
        if op == "neg":
            return b.fneg(values[0]) if real else b.neg(values[0])
        if args[0].dtype == "uint8" and op in ("min", "max"):
            smaller = b.icmp_unsigned("<", *values)
            first, second = values if op == "min" else reversed(values)
            return b.select(smaller, first, second)
        function: Callable[..., ir.Value] = getattr(self.math, op)
        return function(*values)

    def _is_at_most_zero(self, node: Node) -> bool:
        """Whether a value is one of those whose largest is subtracted from it."""
        if node.op != "sub" or node.args[1].op != "local":
            return False
        top, value = self.tops.get(node.args[1].data), node.args[0]
        return top is value and not value.reads & self.written

    def linear(self, terms: dict[Axis, int], constant: int) -> ir.Value:
        """constant + sum of terms (lane 0's), put where its innermost variable is known."""
        known = sorted(
            (self.places[a][0], a.name, a, c) for a, c in terms.items() if a in self.places and c
        )
        total: ir.Value = whole(constant)
        key: tuple[object, ...] = ("linear", constant)
        for level, name, axis, coefficient in known:
            key = (*key, name, coefficient)
            add = functools.partial(self._plus, total, self.places[axis][1], coefficient)
            total = self.frame.remembered(level, key, add)
        return total

    def _plus(self, total: ir.Value, value: ir.Value, coefficient: int) -> ir.Value:
        return self.builder.add(total, self._times(value, coefficient))

    def _compare(self, relation: str, values: list[ir.Value], dtype: str) -> ir.Value:
        b = self.builder
        if dtype in REAL:
            return b.fcmp_ordered(relation, *values)
        signed = dtype in ("int32", "int64")
        return (b.icmp_signed if signed else b.icmp_unsigned)(relation, *values)

    def _select(self, condition: Node, yes: Node, no: Node) -> ir.Value:
        chosen = self.value(condition)
        both = [self.wide(yes), self.wide(no)] if is_vector(chosen) else self.alike(yes, no)
        return self.builder.select(chosen, *both)

    def like(self, value: ir.Value, scalar: ir.Type) -> ir.Type:
        """The type of one such number, or of as many lanes as `value` has."""
        return ir.VectorType(scalar, value.type.count) if is_vector(value) else scalar

    # -- memory --

    def load(self, node: Node) -> ir.Value:
        """The element, or lanes of elements; lanes that may be out of bounds are not touched."""
        address = node.address
        assert address is not None
        if self.neighbours and self.axis is not None and self.tail is None:
            run = self.neighbours.of(node, self.axis)
            if run:
                known = load_run(self, run, self.axis)
                self.frame.scopes[self.level(node)].memo |= known
                return known[node]
        place, form = self.place(address)
        mask = self.tail if address.inside else self.active
        return Lanes(place, form, address.buffer.dtype, self.lanes, mask).load(self.math)

    def store_all(self, stores: Sequence[StoreNode]) -> None:
        """Stores side by side: everything is read before the first of them is done."""
        for store in stores:
            self.value(store.value)
        for store in stores:
            self.store(store.address, store.value, store.mode)

    def store(self, address: Address, value: Node, mode: str) -> None:
        """A store, or an addition to what is there, in the active lanes."""
        b, dtype = self.builder, address.buffer.dtype
        place, form = self.place(address)
        new = self.value(value) if form == "one" else self.wide(value)
        if form == "one" and (is_vector(new) or self.active is not None):
            place, form, new = self.splat(place), "scattered", self.wide(value)
        there = Lanes(place, form, dtype, self.lanes, self.active)
        if mode == "add":
            old = there.load(self.math)
            new = b.fadd(old, new) if dtype in REAL else b.add(old, new)
        there.store(self.math, new, streamed=address.buffer.name in self.streamed)
        self.forget_stored()

    def forget_stored(self) -> None:
        """Drop values of what stores change: one was done just now."""
        for node in self._changing:
            self.frame.forget(node)
            self.frame.forget(("wide", self.lanes, node))
        self._changing.clear()

    def ready_to_store(self, store: StoreNode) -> Callable[[], None]:
        """A store of lanes whose value and place are computed here, to be done later."""
        name, dtype = store.address.buffer.name, store.address.buffer.dtype
        value = self.wide(store.value)
        there = Lanes(*self.place(store.address), dtype, self.lanes, self.active)
        return functools.partial(there.store, self.math, value, streamed=name in self.streamed)

    def load_row(self, address: Address, lanes: int, some: int) -> ir.Value:
        """A register of `lanes` neighbours from an address on, 0 but for the first `some`."""
        mask: ir.Value | None = None
        if some < lanes:
            bits = [int(lane < some) for lane in range(lanes)]
            mask = ir.Constant(ir.VectorType(INT1, lanes), bits)
        place = self.affine_place(address)
        return Lanes(place, "row", address.buffer.dtype, lanes, mask).load(self.math)

    def prefetch(
        self,
        address: Address,
        distance: int | Pages,
        rather: tuple[ir.Value, Pages] | None = None,
    ) -> None:
        """Fetch the cache lines that lie `distance` elements behind a row of lanes, or pages.

        rather: pages, where a condition holds.
        """
        place, form = self.place(address)
        if form != "row":
            return
        b, element = self.builder, TYPES[address.buffer.dtype]

        def at(elements: int) -> ir.Value:
            return b.gep(place, [whole(elements)], source_etype=element)

        for first in range(0, self.lanes, CACHE_LINE // DTYPES[address.buffer.dtype]):
            if isinstance(distance, Pages):
                there = distance.ahead(b, at(first))
            else:
                there = at(distance + first)
            if rather is not None:
                condition, pages = rather
                there = b.select(condition, pages.ahead(b, at(first)), there)
            self.fetch(there)

    def fetch(self, place: ir.Value, to_write: bool = False, near: int = 3) -> None:
        """Fetch a cache line to use it soon. Any address will do, mapped or not.

        near: 3, into the first cache; 2, into the second.
        """
        hints = [ir.Constant(INT32, hint) for hint in (int(to_write), near, 1)]
        self.math.intrinsic("llvm.prefetch.p0", VOID, place, *hints)

    def remember(self, value: ir.Value, loads: list[Node]) -> None:
        """Let loads, here, of what was stored just now be the value that was stored."""
        for load in loads:
            self.frame.scopes[self.level(load)].memo[load] = value

    def place(self, address: Address) -> tuple[ir.Value, str]:
        """Where elements lie: one place, a row of neighbours from a place on, or scattered ones."""
        element = TYPES[address.buffer.dtype]
        place = self.affine_place(address)
        offsets: ir.Value | None = None
        for node, stride in address.parts:
            part = self.value(node)
            part = self._times(part, stride)
            if is_vector(part):
                offsets = part if offsets is None else self.builder.add(offsets, part)
            else:
                place = self.builder.gep(place, [part], source_etype=element)
        step = address.terms.get(self.axis, 0) if self.axis is not None else 0
        if offsets is None and step == 0:
            return place, "one"
        if offsets is None and step == 1:
            return place, "row"
        if step:
            numbers = lane_numbers(64, self.lanes, step)
            offsets = numbers if offsets is None else self.builder.add(offsets, numbers)
        assert offsets is not None
        pointers = self.builder.gep(place, [offsets], source_etype=element)
        return pointers, "scattered"

    def affine_place(self, address: Address) -> ir.Value:
        """The place that the loop variables point to, put together from the outermost inwards."""
        element = TYPES[address.buffer.dtype]
        terms = sorted(
            (self.places[axis][0], axis.name, axis, stride)
            for axis, stride in address.terms.items()
            if axis in self.places
        )
        place = self.bases[address.buffer.name]
        key: tuple[object, ...] = ("place", address.buffer.name)
        level = 0
        for level, name, axis, stride in terms:
            key = (*key, name, stride)
            move = functools.partial(self._moved, place, axis, stride, element)
            place = self.frame.remembered(level, key, move)
        if address.constant:
            fixed = [whole(address.constant)]
            move = functools.partial(self.builder.gep, place, fixed, source_etype=element)
            place = self.frame.remembered(level, (*key, address.constant), move)
        return place

    def _moved(self, place: ir.Value, axis: Axis, stride: int, element: ir.Type) -> ir.Value:
        offset = self._times(self.places[axis][1], stride)
        return self.builder.gep(place, [offset], source_etype=element)

    def _times(self, value: ir.Value, stride: int) -> ir.Value:
        if stride == 1:
            return value
        if isinstance(value, ir.Constant) and not is_vector(value):
            return whole(int(value.constant) * stride)
        return self.builder.mul(value, self.math.like(value, stride))


_BITS = {"and": ir.IRBuilder.and_, "or": ir.IRBuilder.or_}
_COMPARISONS = {"lt": "<", "le": "<=", "eq": "=="}
_ARITHMETIC = {
    "add": (ir.IRBuilder.fadd, ir.IRBuilder.add),
    "sub": (ir.IRBuilder.fsub, ir.IRBuilder.sub),
    "mul": (ir.IRBuilder.fmul, ir.IRBuilder.mul),
    "div": (ir.IRBuilder.fdiv, ir.IRBuilder.sdiv),
}
