"""The own loops of a fold or store: written out, clipped by guards, or in lanes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.lanes import TYPES
from graphc.codegen.llvm.loops import INT1, INT64, Carry, Count, Frame, PartialSums, whole
from graphc.codegen.llvm.narrow_lanes import is_everywhere
from graphc.codegen.llvm.schedule import Schedule
from graphc.codegen.llvm.streaming import before_aligned
from graphc.codegen.llvm.sweeps import SPREAD
from graphc.codegen.llvm.vector import Values
from graphc.codegen.nodes import (
    Address,
    FoldNode,
    Node,
    StatementNode,
    StoreNode,
    reachable,
    statement_nodes,
)
from graphc.ir.types import DTYPES
from graphc.kernel.lang import Axis

# Loops of so few iterations are written out, if their bodies together are no longer than that: a
# processor foresees the end of such short loops badly.
FEW_ITERATIONS = 9
SHORT_TEXT = 150
# Of a long sum so many float32 numbers at most are added one after another in each lane: beside a
# 1, as a softmax has, each of them loses up to 2**-24. Rows that lie in a cache are summed up
# sooner than parts are converted, so theirs are longer. Of distances from a number near by there
# may be more, since these are small.
PART = 8
PART_OF_ROW = 16
PART_OF_SPREAD = 64


@dataclass
class Clip:
    """A guard as a bound of one loop: coefficient * axis + rest <= 0."""

    coefficient: int
    terms: dict[Axis, int]
    constant: int


def clip_of(guard: Node, axis: Axis, lane_axis: Axis | None) -> Clip | None:
    """The guard as a bound of the loop over `axis`; None where it is none for all lanes alike."""
    if guard.op not in ("lt", "le") or guard.args[0].dtype != "int64":
        return None
    left, right = guard.args[0].linear, guard.args[1].linear
    if left is None or right is None:
        return None
    terms = dict(left[0])
    for other, coefficient in right[0].items():
        terms[other] = terms.get(other, 0) - coefficient
    coefficient = terms.pop(axis, 0)
    if coefficient == 0 or (lane_axis and lane_axis != axis and terms.get(lane_axis, 0)):
        return None
    constant = left[1] - right[1] + (1 if guard.op == "lt" else 0)
    return Clip(coefficient, {a: c for a, c in terms.items() if c}, constant)


class Nest:
    """The own loops of a fold or store: clipped by guards, the innermost perhaps in lanes."""

    def __init__(
        self,
        values: Values,
        plan: Schedule,
        statement: FoldNode | StoreNode,
        inner: Axis | None,
        lanes: int,
        in_parts: bool,
    ):
        self.values = values
        self.plan = plan
        self.frame: Frame = values.frame
        self.builder = values.builder
        self.inner = inner
        self.lanes = lanes
        self.axes = [a for a in statement.axes if a != inner] + ([inner] if inner else [])
        self.parts = self._parts(statement) if in_parts else {}
        lane_axis = inner or values.axis
        self.clips: dict[int, list[Clip]] = {}
        self.guards: dict[int, list[Node]] = {}
        for guard in statement.guards:
            place = max((self.axes.index(a) + 1 for a in guard.axes if a in self.axes), default=0)
            clip = clip_of(guard, self.axes[place - 1], lane_axis) if place else None
            if clip is not None:
                self.clips.setdefault(place - 1, []).append(clip)
            else:
                self.guards.setdefault(place, []).append(guard)
        self.needs_branch = _reads_one_place(statement, lane_axis)
        self.written_out = False
        self.aligned: Address | None = None
        self.is_short = self._is_short(statement)

    def _parts(self, fold: FoldNode | StoreNode) -> dict[int, PartialSums]:
        """The one loop whose iterations are added up in parts; loops inside belong to a part."""
        assert isinstance(fold, FoldNode)
        dtypes = [value.dtype for value in fold.values]
        counts = [
            math.ceil(self.plan.nodes.extents[a] / (self.lanes if a == self.inner else 1))
            for a in self.axes
        ]
        terms = PART_OF_ROW if self.inner else PART
        if fold.kind == SPREAD:
            terms = PART_OF_SPREAD
        if "float32" not in dtypes:
            terms = math.isqrt(math.prod(counts))
        place, inside = len(counts) - 1, 1
        while place > 0 and counts[place] * inside < terms:
            inside *= counts[place]
            place -= 1
        elements = tuple(TYPES[dtype] for dtype in dtypes)
        return {place: PartialSums(max(1, terms // inside), elements)}

    def _is_short(self, statement: FoldNode | StoreNode) -> bool:
        """Whether the loops should be written out where all their iterations are run."""
        count = self.plan.nodes.size(self.axes)
        clips = [clip for found in self.clips.values() for clip in found]
        # Guards that are bounds hold for all iterations where these are written out.
        others = {guard for found in self.guards.values() for guard in found}
        bounds = set(statement.guards) - others
        body = len(reachable(tuple(n for n in statement_nodes(statement) if n not in bounds)))
        by_own = any(axis in clip.terms for clip in clips for axis in self.axes)
        few = 1 < count <= FEW_ITERATIONS and count * body <= SHORT_TEXT
        return (few or self.plan.written_out) and self.inner is None and not by_own

    def run(
        self,
        carry: Carry,
        leaf: Callable[[Carry], Carry],
        before_loops: Callable[[], None] | None = None,
    ) -> Carry:
        """All loops around `leaf`; `before_loops` is done wherever they are loops."""

        def loops(c: Carry) -> Carry:
            if before_loops is not None:
                before_loops()
            return self._guarded(0, c, leaf)

        if not self.is_short:
            return loops(carry)
        if not self.clips:
            return self._written_out(carry, leaf)
        # At the edges guards leave out some iterations: there the loops stay.
        everything = self._runs_everything()

        def inside(c: Carry) -> Carry:
            with self.values.under():
                return self._written_out(c, leaf)

        carry = self.frame.guard(everything, carry, inside)
        edge = self.builder.not_(everything)
        return self.frame.guard(edge, carry, loops)

    def _written_out(self, carry: Carry, leaf: Callable[[Carry], Carry]) -> Carry:
        self.written_out = True
        result = self._guarded(0, carry, leaf)
        self.written_out = False
        return result

    def _runs_everything(self) -> ir.Value:
        """Whether no guard that is a bound leaves out an iteration; known where its loops are."""
        level, key = 0, []
        for place, clips in self.clips.items():
            for clip in clips:
                terms = sorted((axis.name, factor) for axis, factor in clip.terms.items())
                extent = self.plan.nodes.extents[self.axes[place]]
                key.append((extent, clip.coefficient, clip.constant, *terms))
                level = max([level, *(self.values.places[axis][0] for axis in clip.terms)])
        return self.frame.remembered(level, ("everything", *key), self._all_full)

    def _all_full(self) -> ir.Value:
        b, extents = self.builder, self.plan.nodes.extents
        everything: ir.Value = ir.Constant(INT1, 1)
        for place in self.clips:
            start, stop = self._range(place, self.axes[place])
            full = whole(extents[self.axes[place]])
            for holds in (
                b.icmp_signed("==", whole(start), whole(0)),
                b.icmp_signed("==", whole(stop), full),
            ):
                everything = b.and_(everything, holds)
        return everything

    def _guarded(self, place: int, carry: Carry, leaf: Callable[[Carry], Carry]) -> Carry:
        """The guards that are known before loop `place`, then that loop."""
        v, b = self.values, self.builder
        guards = self.guards.get(place, [])
        alike = [g for g in guards if not v.varies(g)]
        masks = [g for g in guards if v.varies(g)]

        def inside(c: Carry) -> Carry:
            return self._masked(masks, place, c, leaf)

        if not alike:
            return inside(carry)
        condition = v.value(alike[0])
        for guard in alike[1:]:
            condition = b.and_(condition, v.value(guard))

        def then(c: Carry) -> Carry:
            with v.under():
                return inside(c)

        return self.frame.guard(condition, carry, then)

    def _masked(
        self, masks: list[Node], place: int, carry: Carry, leaf: Callable[[Carry], Carry]
    ) -> Carry:
        v, b = self.values, self.builder
        found = [v.value(guard) for guard in masks]
        if any(is_everywhere(mask, 0) for mask in found):
            return carry
        found = [mask for mask in found if not is_everywhere(mask, 1)]
        if not found:
            with v.under():
                return self._loop(place, carry, leaf)
        mask = found[0]
        for other in found[1:]:
            mask = b.and_(mask, other)

        def then(c: Carry) -> Carry:
            with v.under(mask):
                return self._loop(place, c, leaf)

        if isinstance(mask, ir.Constant):
            with self.frame.written_out():
                return then(carry)
        if not self.needs_branch:
            with self.frame.scope():
                return then(carry)
        bits = b.bitcast(mask, ir.IntType(v.lanes))
        return self.frame.guard(b.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0)), carry, then)

    def _loop(self, place: int, carry: Carry, leaf: Callable[[Carry], Carry]) -> Carry:
        if place == len(self.axes):
            return leaf(carry)
        axis, v = self.axes[place], self.values
        if self.written_out:
            for number in range(self.plan.nodes.extents[axis]):
                with self.frame.written_out(), v.at_axis(axis, whole(number)):
                    carry = self._guarded(place + 1, carry, leaf)
            return carry
        start, stop = self._range(place, axis)
        clipped = place in self.clips

        def once(c: Carry) -> Carry:
            if not clipped:
                return self._guarded(place + 1, c, leaf)
            with v.under():
                return self._guarded(place + 1, c, leaf)

        def lanes(i: ir.Value, rest: Count | None, c: Carry) -> Carry:
            with v.along(axis, self.lanes, i, rest, aligned=start == 0):
                return once(c)

        def single(i: ir.Value, c: Carry) -> Carry:
            with v.at_axis(axis, i):
                return once(c)

        parts = self.parts.get(place)
        if axis == self.inner:
            if self.aligned is not None:
                start = self._first_lanes(axis, self.aligned, carry, lanes)
                return self.frame.lane_loop(start, stop, self.lanes, carry, lanes)
            return self.frame.lane_loop(start, stop, self.lanes, carry, lanes, parts)
        return self.frame.chunked(start, stop, 1, carry, single, parts)

    def _first_lanes(
        self,
        axis: Axis,
        address: Address,
        carry: Carry,
        body: Callable[[ir.Value, Count | None, Carry], Carry],
    ) -> ir.Value:
        """A part of a vector of a store, so that the next ones are aligned; where those begin.

        The line at the row's end is not written whole: it is fetched meanwhile.
        """
        last = whole(self.plan.nodes.extents[axis] - 1)
        with self.frame.written_out(), self.values.at_axis(axis, last):
            self.values.fetch(self.values.affine_place(address), to_write=True)
        with self.frame.written_out(), self.values.at_axis(axis, whole(0)):
            place, _ = self.values.place(address)
        size = self.values.math.target.vector_bytes
        some = before_aligned(self.builder, place, DTYPES[address.buffer.dtype], size)
        any_ = self.builder.icmp_unsigned("!=", some, whole(0))
        self.frame.guard(any_, carry, lambda c: body(whole(0), some, c))
        return some

    def _range(self, place: int, axis: Axis) -> tuple[Count, Count]:
        """Where the loop begins and ends, clipped by the guards that are its bounds."""
        b = self.builder
        extent = self.plan.nodes.extents[axis]
        start: Count = 0
        stop: Count = extent
        for clip in self.clips.get(place, []):
            if not clip.terms:
                bound = _bound(clip)
                if clip.coefficient > 0 and isinstance(stop, int):
                    stop = min(stop, bound)
                    continue
                if clip.coefficient < 0 and isinstance(start, int):
                    start = max(start, bound)
                    continue
            limit = self._limit(clip)
            if clip.coefficient > 0:
                stop = b.select(b.icmp_signed("<", limit, whole(stop)), limit, whole(stop))
            else:
                start = b.select(b.icmp_signed(">", limit, whole(start)), limit, whole(start))
        if isinstance(start, int) and isinstance(stop, int):
            return start, max(start, stop)
        stop = b.select(b.icmp_signed(">", whole(stop), whole(start)), whole(stop), whole(start))
        return start, stop

    def _limit(self, clip: Clip) -> ir.Value:
        """The first iteration after the bound, or the first inside where it is a lower one."""
        b, size = self.builder, abs(clip.coefficient)
        if clip.coefficient > 0:
            # c k + r <= 0: k < floor(-r / c) + 1
            negated = {axis: -c for axis, c in clip.terms.items()}
            return b.add(_floor(b, self.values.linear(negated, -clip.constant), size), whole(1))
        # r <= c k: k >= ceil(r / c)
        return _floor(b, self.values.linear(clip.terms, clip.constant + size - 1), size)


def _bound(clip: Clip) -> int:
    if clip.coefficient > 0:
        return -clip.constant // clip.coefficient + 1
    return -(-clip.constant // -clip.coefficient)


def _floor(b: ir.IRBuilder, value: ir.Value, by: int) -> ir.Value:
    """value / by, rounded down."""
    if by == 1:
        return value
    if by & (by - 1) == 0:
        return b.ashr(value, whole(by.bit_length() - 1))
    quotient = b.sdiv(value, whole(by))
    remainder = b.sub(value, b.mul(quotient, whole(by)))
    return b.sub(quotient, b.zext(b.icmp_signed("<", remainder, whole(0)), INT64))


def _reads_one_place(statement: StatementNode, lane_axis: Axis | None) -> bool:
    """Whether a load that may leave its buffer is the same for all lanes, so that no mask helps."""
    for node in reachable(statement_nodes(statement)):
        if node.address is not None and not node.address.inside:
            computed = any(lane_axis in part.axes or part.locals for part, _ in node.address.parts)
            if not (lane_axis and node.address.terms.get(lane_axis, 0)) and not computed:
                return True
    return False
