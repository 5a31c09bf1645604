"""A sum and the sum of squared distances from its mean, in one sweep over memory.

What is summed up is taken in parts, about a number c near the part's elements. With p, a number
near all of them, n elements of a part add

    n (c - p) + sum (x - c)    and    sum (x - c)^2 + (c - p) (n (c - p) + 2 sum (x - c))

to sum (x - p) and sum (x - p)^2 (Chan, Golub, LeVeque, "Algorithms for computing the sample
variance", 1983). Only in these totals large numbers cancel, and they are wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.arithmetic import Arithmetic
from graphc.codegen.llvm.lanes import first_lane, is_vector
from graphc.codegen.llvm.loops import INT32, Carry, PartialSums

WIDE = ir.DoubleType()


def widened(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """A float of any kind, or lanes of them, as the totals are."""
    type_ = ir.VectorType(WIDE, value.type.count) if is_vector(value) else WIDE
    return value if value.type == type_ else builder.fpext(value, type_)


def about_pivot(
    builder: ir.IRBuilder, count: ir.Value, far: ir.Value, rest: ir.Value, square: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """What a part adds to both totals; far is c - p, rest and square are its sums about c."""
    moved = builder.fadd(builder.fmul(count, far), rest)
    return moved, builder.fadd(square, builder.fmul(far, builder.fadd(moved, rest)))


def sum_and_spread(
    m: Arithmetic, count: float, pivot: ir.Value, total: ir.Value, square: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """The sum and the squared distances from the mean, from the totals about the pivot."""
    b = m.builder
    mean_square = b.fmul(b.fmul(total, total), m.like(total, 1.0 / count))
    spread = b.fsub(square, mean_square)
    zero = ir.Constant(spread.type, None)
    spread = b.select(b.fcmp_ordered("<", spread, zero), zero, spread)
    return b.fadd(total, b.fmul(m.like(total, count), pivot)), spread


@dataclass(frozen=True, kw_only=True)
class SpreadParts(PartialSums):
    """Parts of a sweep in lanes: what is carried are both sums, c in each lane, and a count.

    c is the mean of the part before, so that nothing is read twice. Lanes that do not exist are
    given the pivot: they add nothing to the totals about it, and all lanes count alike.
    """

    math: Arithmetic
    pivot: ir.Value
    wide_pivot: ir.Value

    def first(self) -> Carry:
        """Both totals, c, and the number of groups of lanes, before the first part."""
        nothing = ir.Constant(self.wide_pivot.type, None)
        return [nothing, nothing, self.pivot, ir.Constant(self.pivot.type.element, 0.0)]

    def zeros(self, sums: Sequence[ir.Value]) -> Carry:
        """Where the sums of a part begin."""
        _, _, centre, count = sums
        nothing = ir.Constant(centre.type, None)
        return [nothing, nothing, centre, ir.Constant(count.type, 0.0)]

    def one_more(self, value: ir.Value, carry: Carry, active: ir.Value | None) -> Carry:
        """A part's sums with one more group of lanes."""
        b = self.math.builder
        rest, square, centre, count = carry
        if active is not None:
            value = b.select(active, value, self.pivot)
        distance = b.fsub(value, centre)
        square = b.fadd(square, b.fmul(distance, distance))
        return [b.fadd(rest, distance), square, centre, b.fadd(count, self.math.like(count, 1.0))]

    def added(self, builder: ir.IRBuilder, sums: Sequence[ir.Value], part: Carry) -> Carry:
        """The totals with those of a part, and its mean as the next c."""
        total, square, _, before = sums
        rest, squares, centre, count = part
        far = builder.fsub(widened(builder, centre), self.wide_pivot)
        number = everywhere(builder, widened(builder, count), far.type)
        moved, more = about_pivot(
            builder, number, far, widened(builder, rest), widened(builder, squares)
        )
        share = builder.fdiv(self.math.like(count, 1.0), count)
        step = builder.fmul(rest, everywhere(builder, share, rest.type))
        return [
            builder.fadd(total, moved),
            builder.fadd(square, more),
            builder.fadd(centre, step),
            before,
        ]


def everywhere(builder: ir.IRBuilder, number: ir.Value, type_: ir.Type) -> ir.Value:
    """A number in every lane of a type."""
    nothing = ir.Constant(type_, ir.Undefined)
    lane = builder.insert_element(nothing, number, ir.Constant(INT32, 0))
    return builder.shuffle_vector(lane, nothing, first_lane(type_.count))
