"""Loops over a product: where guards let them run, and the places of operands inside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.loops import Count, whole
from graphc.codegen.llvm.operand import Operands
from graphc.codegen.llvm.product import Factor, Interval, Product, Stepped
from graphc.kernel.lang import Axis


class FoldLoops:
    """What all tiles know of a product's loops.

    open: the loops around, with their variables. inner_b: b as the loops of a chunk find it. clips:
    the guards that bound loops.
    """

    def __init__(
        self,
        at: Operands,
        product: Product,
        a: Factor,
        b: Factor,
        inner_b: Factor,
        clips: list[Interval],
    ):
        self.at = at
        self.frame = at.frame
        self.builder = at.builder
        self.product = product
        self.a = a
        self.b = b
        self.inner_b = inner_b
        self.clips = clips
        self.open: dict[Axis, ir.Value] = {}

    def place(self, axis: Axis, value: ir.Value) -> None:
        """Set a loop's variable, here and for the stores."""
        self.open[axis] = value
        self.at.values.places[axis] = (self.frame.depth, value)

    @contextmanager
    def opened(self, axis: Axis, value: ir.Value) -> Iterator[None]:
        """A loop's variable inside its body."""
        self.place(axis, value)
        yield
        del self.open[axis], self.at.values.places[axis]

    def clipped(self, axis: Axis, low: Count, high: Count) -> tuple[Count, Count]:
        """The part of low .. high where guards hold that speak of `axis` and open loops only."""
        for guard in self.clips:
            others = [other for other in guard.terms if other != axis]
            if axis in guard.terms and all(other in self.open for other in others):
                low, high = self._clip(guard, axis, low, high)
        return low, high

    def _clip(self, guard: Interval, axis: Axis, low: Count, high: Count) -> tuple[Count, Count]:
        b, coefficient = self.builder, guard.terms[axis]
        rest: ir.Value = whole(guard.constant)
        for other, factor in guard.terms.items():
            if other != axis:
                rest = b.add(rest, b.mul(self.open[other], whole(factor)))
        left = b.sub(whole(guard.extent - 1), rest)  # up to the largest index
        if coefficient == 0:
            inside = b.icmp_unsigned("<", rest, whole(guard.extent))
            return low, b.select(inside, whole(high), whole(low))
        size = abs(coefficient)
        below, above = self._floor(rest, size), self._floor(left, size)
        if coefficient < 0:
            below, above = above, below
        return (
            self.at.larger(whole(low), b.neg(below)),
            self.at.smaller(whole(high), b.add(above, whole(1))),
        )

    def _floor(self, value: ir.Value, divisor: int) -> ir.Value:
        b = self.builder
        if divisor == 1:
            return value
        quotient = b.sdiv(value, whole(divisor))
        rest = b.sub(value, b.mul(quotient, whole(divisor)))
        return b.sub(quotient, b.zext(b.icmp_signed("<", rest, whole(0)), value.type))

    def starts(self, axis: Axis, low: Count) -> tuple[Count, int]:
        """Where a fold loop from `low` on really starts, and its step."""
        step = self.product.stepped.get(axis)
        if step is None:
            return low, 1
        # over * k = -(constant + each * i) modulo the divisor, and k >= low.
        b, inverse = self.builder, pow(step.over, -1, step.divisor)
        wanted = b.mul(self._known(step), whole(-inverse))
        ahead = b.srem(b.sub(wanted, whole(low)), whole(step.divisor))
        negative = b.icmp_signed("<", ahead, whole(0))
        ahead = b.select(negative, b.add(ahead, whole(step.divisor)), ahead)
        return b.add(whole(low), ahead), step.divisor

    def _known(self, step: Stepped) -> ir.Value:
        if step.each_axis not in self.product.extents:  # one position, no loop
            return whole(step.constant)
        b = self.builder
        moved = b.mul(self.open[step.each_axis], whole(step.each))
        return b.add(moved, whole(step.constant))

    def both(
        self, a: ir.Value, b: ir.Value, axis: Axis, i: Count, inside: bool = True
    ) -> tuple[ir.Value, ir.Value]:
        """The operands' places `i` steps on along a loop; `inside` a chunk, b may be packed."""
        a = self.at.along(a, self.a, axis, i)
        b = self.at.along(b, self.inner_b if inside else self.b, axis, i)
        step = self.product.stepped.get(axis)
        if step is None:
            return a, b
        numerator = self.builder.add(
            self._known(step), self.builder.mul(whole(i), whole(step.over))
        )
        items = self.builder.sdiv(numerator, whole(step.divisor))
        items = self.builder.mul(items, whole(step.stride))
        if step in self.a.stepped:
            return self.at.moved(a, items), b
        return a, self.at.moved(b, items)
