"""Copies between planes and points: images of two or three channels, whose layout changes.

Channels of a point are too few for a square of registers. But as many registers as there are
channels hold the same elements in both layouts: each result is a shuffle of all of them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.function import EmittedKernel, kernel_function
from graphc.codegen.llvm.lanes import TYPES
from graphc.codegen.llvm.loops import INT32, Carry, Frame, whole
from graphc.codegen.llvm.target import Target
from graphc.codegen.llvm.transpose import Copy, copy_of
from graphc.codegen.nodes import Address
from graphc.ir.types import DTYPES
from graphc.kernel.lang import Axis, Kernel

FEW = (2, 3)
# Instructions for an element, about.
COST = 0.4


@dataclass
class Interleaving:
    """few: the axis of neighbours on the one side. long: that of neighbours on the other.

    to_points: the target has the few side by side, else the source.
    """

    copy: Copy
    few: Axis
    long: Axis
    others: list[Axis]
    to_points: bool
    lanes: int

    @property
    def count(self) -> int:
        """Elements of the few."""
        return self.copy.nodes.extents[self.few]

    @property
    def extent(self) -> int:
        """Elements of the long."""
        return self.copy.nodes.extents[self.long]

    @property
    def blocks(self) -> int:
        """Registers along the long axis."""
        return -(-self.extent // self.lanes)


def emit_interleave(
    module: ir.Module, kernel: Kernel, target: Target, name: str
) -> EmittedKernel | None:
    """The emitter for copies between planes and points of few elements."""
    plan = _plan(kernel, target)
    if plan is None:
        return None
    function = kernel_function(module, kernel.buffers, name)
    _Blocks(function, kernel, plan).emit()
    nodes = plan.copy.nodes
    extent = nodes.size(plan.others) * plan.blocks
    cost = COST * nodes.size(nodes.each)
    return EmittedKernel(function, extent, 1, cost, (), grain=1, made=plan)


def _plan(kernel: Kernel, target: Target) -> Interleaving | None:
    copy = copy_of(kernel)
    if copy is None:
        return None
    lanes = target.lanes(copy.source.buffer.dtype)
    for to_points in (True, False):
        points, planes = copy.target, copy.source
        if not to_points:
            points, planes = planes, points
        found = _axes(copy, points, planes)
        if found is not None and lanes > 1 and copy.nodes.extents[found[1]] >= lanes:
            others = [axis for axis in copy.nodes.each if axis not in found]
            return Interleaving(copy, *found, others, to_points, lanes)
    return None


def _axes(copy: Copy, points: Address, planes: Address) -> tuple[Axis, Axis] | None:
    few = [a for a in copy.nodes.each if points.terms.get(a) == 1 and planes.terms.get(a, 0) > 1]
    long = [a for a in copy.nodes.each if planes.terms.get(a) == 1]
    if len(few) != 1 or len(long) != 1 or copy.nodes.extents[few[0]] not in FEW:
        return None
    return (few[0], long[0]) if points.terms.get(long[0]) == copy.nodes.extents[few[0]] else None


class _Blocks:
    """One loop, shared by threads, over registers' worths of the long axis at all places.

    The last one of a row reaches back into the one before instead of being partial: what is copied
    twice is the same.
    """

    def __init__(self, function: ir.Function, kernel: Kernel, plan: Interleaving):
        self.builder = ir.IRBuilder(function.append_basic_block())
        self.frame = Frame(self.builder)
        self.plan = plan
        names = [buffer.name for buffer in kernel.buffers]
        *buffers, self.low, self.high, _, _ = function.args
        self.bases = dict(zip(names, buffers, strict=True))
        dtype = plan.copy.source.buffer.dtype
        self.element, self.align = TYPES[dtype], DTYPES[dtype]

    def emit(self) -> None:
        """The whole function."""
        self.frame.loop(self.low, self.high, 1, [], self._block)
        self.builder.ret_void()

    def _block(self, number: ir.Value, carry: Carry) -> Carry:
        plan, b = self.plan, self.builder
        place, block = b.udiv(number, whole(plan.blocks)), b.urem(number, whole(plan.blocks))
        first, last = b.mul(block, whole(plan.lanes)), whole(plan.extent - plan.lanes)
        first = b.select(b.icmp_signed("<", first, last), first, last)
        digits = [(plan.long, first)]
        for axis in reversed(plan.others):
            extent = whole(plan.copy.nodes.extents[axis])
            digits.append((axis, b.urem(place, extent)))
            place = b.udiv(place, extent)
        loaded = [
            b.load(there, typ=ir.VectorType(self.element, plan.lanes), align=self.align)
            for there in self._registers(plan.copy.source, digits, not plan.to_points)
        ]
        order = _interleaved if plan.to_points else _apart
        stored = self._registers(plan.copy.target, digits, plan.to_points)
        for number_out, there in enumerate(stored):
            made = self._picked(loaded, order(number_out, plan.lanes, plan.count))
            b.store(made, there, align=self.align)
        return carry

    def _registers(
        self, address: Address, digits: Sequence[tuple[Axis, ir.Value]], points: bool
    ) -> list[ir.Value]:
        """Where the block's registers lie: end to end as points, each in its plane otherwise."""
        offset: ir.Value = whole(address.constant)
        for axis, index in digits:
            stride = address.terms.get(axis, 0)
            offset = self.builder.add(offset, self.builder.mul(index, whole(stride)))
        start = self.builder.gep(
            self.bases[address.buffer.name], [offset], source_etype=self.element
        )
        step = self.plan.lanes if points else address.terms[self.plan.few]
        return [
            self.builder.gep(start, [whole(step * n)], source_etype=self.element)
            for n in range(self.plan.count)
        ]

    def _picked(self, registers: list[ir.Value], order: list[tuple[int, int]]) -> ir.Value:
        """A register whose lanes are the (register, lane) of `order`."""
        lanes = self.plan.lanes

        def joined(one: tuple[int, ir.Value], two: tuple[int, ir.Value]) -> tuple[int, ir.Value]:
            """Lanes of the second where `order` takes them, those of the first elsewhere."""
            first = one[0] == 0  # not in place yet
            places = [
                lanes + lane if register == two[0] else (lane if first else position)
                for position, (register, lane) in enumerate(order)
            ]
            mask = ir.Constant(ir.VectorType(INT32, lanes), places)
            return two[0], self.builder.shuffle_vector(one[1], two[1], mask)

        return functools.reduce(joined, enumerate(registers))[1]


def _interleaved(number: int, lanes: int, count: int) -> list[tuple[int, int]]:
    """Of which plane's register, and lane, the elements of points' register `number` are."""
    return [((number * lanes + i) % count, (number * lanes + i) // count) for i in range(lanes)]


def _apart(number: int, lanes: int, count: int) -> list[tuple[int, int]]:
    """Of which points' register, and lane, the elements of plane `number` are."""
    return [divmod(i * count + number, lanes) for i in range(lanes)]
