"""Copies that change the layout: square blocks are transposed in registers.

The general loops would gather every element of such a copy by itself. Here a block of as many rows
as a register has lanes is read along the source's neighbours, transposed by shuffles, and written
along the target's neighbours, so that whole cache lines move on both sides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.function import EmittedKernel, kernel_function
from graphc.codegen.llvm.lanes import CACHE_LINE, TYPES
from graphc.codegen.llvm.loops import Carry, Frame, whole
from graphc.codegen.llvm.merging import merge_loops
from graphc.codegen.llvm.shares import when
from graphc.codegen.llvm.square import transposed
from graphc.codegen.llvm.streaming import STREAMED_CACHES, are_aligned
from graphc.codegen.llvm.target import Target
from graphc.codegen.nodes import Address, KernelNodes, Nodes, StoreNode
from graphc.ir.types import DTYPES
from graphc.kernel.lang import Axis, Kernel

CACHE_PART = 0.25  # of the second-level cache, for rows of the target that wait for all their lines
# Instructions for one block are about this many times its elements.
COST = 0.6


@dataclass
class Transposition:
    """Which axes make the blocks.

    chain: axes that are one run of neighbours in the source, outermost first. across: the axis
    of neighbours in the target. others: the rest. size: a block's side. along: blocks of the chain
    that follow each other in the source before the next block of `across`, whose lines lie further
    apart there than in the target: processors foresee what is read of a few pages, not of many.
    streamed: each store is a whole line of a target that no cache holds, and goes past them.
    """

    nodes: KernelNodes
    source: Address
    target: Address
    chain: list[Axis]
    across: Axis
    others: list[Axis]
    size: int
    along: int = 1
    streamed: bool = False

    @property
    def run(self) -> int:
        """Elements of the chain."""
        return self.nodes.size(self.chain)

    @property
    def blocks(self) -> int:
        """Blocks of the chain."""
        return math.ceil(self.run / self.size)


def emit_transpose(
    module: ir.Module, kernel: Kernel, target: Target, name: str
) -> EmittedKernel | None:
    """The emitter for copies between layouts whose neighbours lie along different axes."""
    plan = _plan(kernel, target)
    if plan is None:
        return None
    function = kernel_function(module, kernel.buffers, name)
    _Blocks(function, kernel, plan).emit()
    extent = plan.nodes.size(plan.others) * math.ceil(plan.blocks / plan.along)
    cost = COST * plan.nodes.size(plan.nodes.each)
    return EmittedKernel(function, extent, 1, cost, (), grain=1, made=plan)


@dataclass
class Copy:
    """A kernel that does nothing but copy; its loops are merged where both sides allow it."""

    nodes: KernelNodes
    source: Address
    target: Address


def copy_of(kernel: Kernel) -> Copy | None:
    """What a kernel copies from where to where; None if that is not all it does."""
    if len(kernel.body) != 1:
        return None
    nodes = Nodes(kernel).read()
    store = nodes.statements[0]
    if not isinstance(store, StoreNode) or store.mode != "set" or store.axes or store.guards:
        return None
    source = store.value.address
    if source is None or source.parts or store.address.parts or not source.inside:
        return None
    if kernel.inputs[0].dtype not in ("float32", "float64") or 0 in nodes.extents.values():
        return None
    merge_loops(nodes)
    return Copy(nodes, source, store.address)


def _plan(kernel: Kernel, target: Target) -> Transposition | None:
    copy = copy_of(kernel)
    if copy is None:
        return None
    lanes = target.lanes(copy.source.buffer.dtype)
    plan = _blocks(copy.nodes, copy.source, copy.target, lanes)
    if plan is not None:
        plan.along = _along(plan, target)
        plan.streamed = _is_streamed(plan, target)
    return plan


def _is_streamed(plan: Transposition, target: Target) -> bool:
    """Whether all stores are whole lines, if the target begins at one, of a large array."""
    address, size = plan.target, plan.size
    item = DTYPES[address.buffer.dtype]
    steps = [step for axis, step in address.terms.items() if axis != plan.across]
    even = not any(step % size for step in (*steps, address.constant))
    even = even and plan.nodes.extents[plan.across] % size == 0
    large = math.prod(address.buffer.shape) * item >= STREAMED_CACHES * target.l2_bytes
    return even and large and size * item == CACHE_LINE


def _along(plan: Transposition, target: Target) -> int:
    """How many blocks of the chain to copy before the next of `across`."""
    apart = plan.target.terms[plan.chain[-1]]
    if plan.source.terms[plan.across] <= apart:
        return 1
    rows = plan.size * apart * DTYPES[plan.source.buffer.dtype]
    return max(1, min(plan.blocks, int(target.l2_bytes * CACHE_PART) // rows))


def _blocks(
    nodes: KernelNodes, source: Address, target: Address, lanes: int
) -> Transposition | None:
    across = [a for a in nodes.each if target.terms.get(a) == 1 and source.terms.get(a, 0) > 1]
    chain: list[Axis] = []
    stride = 1
    while found := [a for a in nodes.each if source.terms.get(a) == stride and a not in across]:
        if len(found) > 1:
            return None
        chain.insert(0, found[0])
        stride *= nodes.extents[found[0]]
    if len(across) != 1 or not chain or any(target.terms.get(a, 0) < 2 for a in chain):
        return None
    size = lanes
    while size > min(nodes.size(chain), nodes.extents[across[0]]):
        size //= 2
    if size < 4:
        return None
    others = [a for a in nodes.each if a not in chain and a not in across]
    return Transposition(nodes, source, target, chain, across[0], others, size)


class _Blocks:
    """The loops: blocks of the chain are shared among threads, blocks of `across` run inside.

    The last block of an axis reaches back into the one before it instead of being partial: what is
    copied twice is the same.
    """

    def __init__(self, function: ir.Function, kernel: Kernel, plan: Transposition):
        self.builder = ir.IRBuilder(function.append_basic_block())
        self.frame = Frame(self.builder)
        self.plan = plan
        self.streamed = False
        names = [buffer.name for buffer in kernel.buffers]
        *buffers, self.low, self.high, _, _ = function.args
        bases = dict(zip(names, buffers, strict=True))
        self.source = bases[plan.source.buffer.name]
        self.target = bases[plan.target.buffer.name]
        self.element = TYPES[plan.source.buffer.dtype]
        self.align = DTYPES[plan.source.buffer.dtype]

    def emit(self) -> None:
        """The whole function; twice, where stores go past the caches if the target is aligned."""
        b = self.builder
        if self.plan.streamed:
            aligned = are_aligned(b, [self.target], CACHE_LINE)
            self.streamed = True
            when(self.frame, aligned, self._everything)
            self.streamed = False
            when(self.frame, b.not_(aligned), self._everything)
            b.fence("seq_cst")  # such stores are in no order with those that tell other threads
        else:
            self._everything()
        b.ret_void()

    def _everything(self) -> None:
        self.frame.loop(self.low, self.high, 1, [], self._run_block)

    def _run_block(self, number: ir.Value, carry: Carry) -> Carry:
        """Some blocks of the chain, at one place of the other axes."""
        plan, b = self.plan, self.builder
        shares = whole(math.ceil(plan.blocks / plan.along))
        place, low = b.udiv(number, shares), b.mul(b.urem(number, shares), whole(plan.along))
        source = self._moved(self.source, [whole(plan.source.constant)])
        target = self._moved(self.target, [whole(plan.target.constant)])
        for axis, index in self._digits(place, plan.others):
            source = self._moved(source, [self._times(index, plan.source.terms.get(axis, 0))])
            target = self._moved(target, [self._times(index, plan.target.terms.get(axis, 0))])
        count = math.ceil(plan.nodes.extents[plan.across] / plan.size)
        if plan.along == 1:
            rows = self._rows(target, low)

            def block(i: ir.Value, carry: Carry) -> Carry:
                self._transposed(source, low, rows, i)
                return carry

            return self.frame.loop(0, count, 1, carry, block)
        stop = b.add(low, whole(plan.along))
        over = b.icmp_signed(">", stop, whole(plan.blocks))
        high = b.select(over, whole(plan.blocks), stop)

        def strip(i: ir.Value, carry: Carry) -> Carry:
            def block(k: ir.Value, carry: Carry) -> Carry:
                self._transposed(source, k, self._rows(target, k), i)
                return carry

            return self.frame.loop(low, high, 1, carry, block)

        return self.frame.loop(0, count, 1, carry, strip)

    def _rows(self, target: ir.Value, block: ir.Value) -> list[ir.Value]:
        """Where in the target the rows of a block of the chain begin."""
        first = self._start(block, self.plan.run)
        return [self._row(target, self.builder.add(first, whole(k))) for k in range(self.plan.size)]

    def _row(self, target: ir.Value, index: ir.Value) -> ir.Value:
        """Where in the target the elements at `index` of the chain begin."""
        plan = self.plan
        for axis, digit in self._digits(index, plan.chain):
            target = self._moved(target, [self._times(digit, plan.target.terms[axis])])
        return target

    def _transposed(
        self, source: ir.Value, block: ir.Value, rows: list[ir.Value], number: ir.Value
    ) -> None:
        """Copy one square block: one of the chain, and one of `across`."""
        plan, b, size = self.plan, self.builder, self.plan.size
        type_ = ir.VectorType(self.element, size)
        stride = plan.source.terms[plan.across]
        start = self._start(number, plan.nodes.extents[plan.across])
        source = self._moved(source, [self._start(block, plan.run)])
        lines = []
        for lane in range(size):
            index = self._times(b.add(start, whole(lane)), stride)
            lines.append(b.load(self._moved(source, [index]), typ=type_, align=self.align))
        for row, line in zip(rows, transposed(b, lines), strict=True):
            align = CACHE_LINE if self.streamed else self.align
            b.store(line, self._moved(row, [start]), align=align, past_caches=self.streamed)

    def _start(self, block: ir.Value, extent: int) -> ir.Value:
        """The first index of a block; the last one ends with the axis."""
        b, last = self.builder, whole(extent - self.plan.size)
        start = b.mul(block, whole(self.plan.size))
        return b.select(b.icmp_signed("<", start, last), start, last)

    def _digits(self, index: ir.Value, axes: list[Axis]) -> list[tuple[Axis, ir.Value]]:
        """An index over fused axes, taken apart."""
        b, digits = self.builder, []
        for axis in reversed(axes[1:]):
            extent = whole(self.plan.nodes.extents[axis])
            digits.append((axis, b.urem(index, extent)))
            index = b.udiv(index, extent)
        return [*digits, (axes[0], index)] if axes else []

    def _times(self, value: ir.Value, stride: int) -> ir.Value:
        return value if stride == 1 else self.builder.mul(value, whole(stride))

    def _moved(self, place: ir.Value, offsets: list[ir.Value]) -> ir.Value:
        for offset in offsets:
            place = self.builder.gep(place, [offset], source_etype=self.element)
        return place
