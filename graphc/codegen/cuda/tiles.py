"""A product in tiles: what all kinds of tiles have in common.

A block computes a tile of rows x columns. It walks along the sum in steps; slices of either operand
are copied to shared memory some steps ahead of their use, then the block adds their products to
sums that stay in registers: each thread those of its own rows and columns, or each warp by tensor
cores where tf32 is allowed. The epilogue (bias, ReLU, adding another gradient) happens before the
store. A long sum with few tiles goes in parts: each leaves its sums in scratch memory, and a second
kernel adds them up in their order, with the epilogue.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from graphc.codegen.cuda.body import Body
from graphc.codegen.cuda.expressions import TYPES, literal
from graphc.codegen.cuda.fours import comes_together
from graphc.codegen.cuda.matrices import Matrices, size
from graphc.codegen.cuda.schedule import Schedule
from graphc.codegen.cuda.staging import Layout, Staging, layout
from graphc.codegen.cuda.text import Names, Text
from graphc.codegen.cuda.tile_shape import (
    HOPPER,
    DeviceClass,
    Split,
    TensorTile,
    ThreadTile,
    tile_count,
)
from graphc.codegen.nodes import FoldNode, KernelNodes, StatementNode, StoreNode
from graphc.ir.types import DTYPES
from graphc.kernel.contraction import Contraction
from graphc.kernel.lang import Axis

LONG_SUM = 4096  # from here on float32 sums go in two levels: a plain one loses digits
# The same where products are rounded to tf32, whose error is larger than that of such a sum. The
# upper level takes so many registers that only half as many threads are at work.
LONG_ROUNDED_SUM = 1 << 15
TURNS = 64  # of the lower level


SUMMING_THREADS = 256  # of a block that adds up parts
MOST_SUMMING_BLOCKS = 4096

# The head of a function: what its name ends with, and its last arguments beside the kernel's own.
Head = Callable[[str, tuple[str, ...]], str]


@dataclass(frozen=True)
class TiledKernel:
    """How a tiled kernel is launched.

    scratch_bytes: of memory for the sums of parts; 0 where the sum is whole. Then `summing_grid`
    blocks of a second kernel, whose name ends with SUMMING, follow. why: a sentence about it.
    """

    grid: int
    threads: int
    shared_bytes: int
    scratch_bytes: int = 0
    summing_grid: int = 0
    why: str = ""


PAIR = 2  # neighbours in the result that a thread has of a tensor core's sums
SUMMING = "_sum"
PARTS = "parts"  # the argument that is the scratch memory


@dataclass(frozen=True)
class Choice:
    """What a program allows its contractions.

    tf32: tensor cores, which round float32 numbers to 10 bits after the point.
    aligned: the names of the kernel's buffers that always begin at a multiple of 16 bytes.
    gpu: whose sizes decide about tiles.
    """

    tf32: bool = False
    aligned: frozenset[str] = frozenset()
    gpu: DeviceClass = HOPPER


class Tiles(ABC):
    """Writes one tiled kernel; how a slice is multiplied is the subclasses'."""

    shape: ThreadTile | TensorTile
    split: Split
    odd_rows: bool

    def __init__(
        self,
        text: Text,
        names: Names,
        buffers: dict[str, str],
        nodes: KernelNodes,
        made: Matrices,
        contraction: Contraction,
        choice: Choice,
    ):
        self.text, self.names, self.buffers = text, names, buffers
        self.nodes, self.made, self.contraction = nodes, made, contraction
        self.aligned, self.gpu = choice.aligned, choice.gpu
        dtype = contraction.fold.values[0].dtype
        self.kind, self.item, self.zero = TYPES[dtype], DTYPES[dtype], literal(0, dtype)
        self.body = self._new_body()
        self.choose()
        self.left = self._layout("left", self.shape.rows)
        self.right = self._layout("right", self.shape.columns)

    def _new_body(self) -> Body:
        nodes = self.nodes
        own: dict[StatementNode, list[Axis]] = {statement: [] for statement in nodes.statements}
        made = Schedule(nodes, "threads", [], [], own=own)
        return Body(self.text, self.names, made, self.buffers)

    @abstractmethod
    def choose(self) -> None:
        """Set `shape`, `split` and `odd_rows`."""

    @abstractmethod
    def sums(self) -> None:
        """Declare what a thread needs to know of itself, and its sums."""

    @abstractmethod
    def multiply(self) -> None:
        """Add the products of the slices that begin at left[at] and right[bt]."""

    @abstractmethod
    def each_sum(self) -> None:
        """Loops over a thread's sums, `self.store_one` inside."""

    def declare_sums(self, *extents: int) -> None:
        """The array of a thread's sums, and that of the upper level where there is one."""
        self.extents = extents
        shape = "".join(f"[{extent}]" for extent in extents)
        self.text.line(f"{self.kind} sum{shape} = {{}};")
        if self.is_long:
            self.text.line(f"{self.kind} total{shape} = {{}};")

    @property
    def longest_sum(self) -> int:
        """From here on a sum goes in two levels."""
        return LONG_SUM

    @property
    def is_long(self) -> bool:
        """Whether sums go in two levels."""
        return self.split.each * self.shape.step >= self.longest_sum and self.item == 4

    @property
    def bounds(self) -> str:
        """What the compiler is told about launches: threads, and blocks of a multiprocessor."""
        return str(self.shape.threads)

    @property
    def result(self) -> str:
        """The array that holds the whole sums at the end."""
        return "total" if self.is_long else "sum"

    def _end_level(self, turns: int | str) -> None:
        """Now and then what was summed goes to the upper level."""
        line = self.text.line
        with (
            self.text.block(f"if (turn % {TURNS} == {TURNS - 1} || turn == {turns} - 1)"),
            contextlib.ExitStack() as stack,
        ):
            names = "ijk"[: len(self.extents)]
            for name, extent in zip(names, self.extents, strict=True):
                stack.enter_context(self.text.unrolled(name, extent))
            place = "".join(f"[{name}]" for name in names)
            line(f"total{place} += sum{place};")
            line(f"sum{place} = {self.zero};")

    def _layout(self, name: str, length: int) -> Layout:
        operand = self.made.left if name == "left" else self.made.right
        side = self.made.rows if name == "left" else self.made.columns
        aligned = operand.buffer.name in self.aligned
        step = self.shape.step
        return layout(operand, side, self.made.over, length, step, aligned, self.odd_rows)

    def emit(self, head: Head) -> TiledKernel:
        """The function; two of them where the sum goes in parts."""
        shape, line, split = self.shape, self.text.line, self.split
        rows, columns, over = self.made.sizes
        left_count, right_count = (shape.stages * side.count for side in (self.left, self.right))
        left_bytes = -(-left_count * self.item // 16) * 16
        line(f"// {rows} x {columns}, sums of {over}, in tiles of {self.shown()}")
        if split.parts > 1:
            line(f"// {self._why()}")
        line(f'extern "C" __global__ void __launch_bounds__({self.bounds})')
        with self.text.block(head("", self._scratch(""))):
            kind = self.kind
            line(f"const Tile<{kind}> left = tile<{kind}>(0, {left_count});")
            line(f"const Tile<{kind}> right = tile<{kind}>({left_bytes}, {right_count});")
            self._place()
            self._stage()
            self.sums()
            self._walk()
            self.each_sum()
        grid, shared_bytes = self.tiles * split.parts, left_bytes + right_count * self.item
        if split.parts == 1:
            return TiledKernel(grid, shape.threads, shared_bytes)
        summing = self._emit_summing(head)
        scratch = split.parts * self.outputs * self.item
        return TiledKernel(grid, shape.threads, shared_bytes, scratch, summing, self._why())

    @property
    def tiles(self) -> int:
        """Of the result."""
        return tile_count(self.made, self.shape)

    @property
    def outputs(self) -> int:
        """Elements of the result."""
        rows, columns, _ = self.made.sizes
        return rows * columns * size(self.made.batch)

    def _why(self) -> str:
        return (
            f"sums of {self.made.sizes[2]} in {self.split.parts} parts, as {self.tiles} tiles are"
            f" work for few of the {self.gpu.multiprocessors} multiprocessors of {self.gpu.name}"
        )

    def _scratch(self, constant: str) -> tuple[str, ...]:
        return (f"Buffer<{constant}{self.kind}> {PARTS}",) if self.split.parts > 1 else ()

    def _place(self) -> None:
        """Which tile of which batch the block computes, and which part of the sum."""
        shape, line, made = self.shape, self.text.line, self.made
        rows, columns, _ = made.sizes
        down, across = -(-rows // shape.rows), -(-columns // shape.columns)
        line(f"const int column = {_digit('blockIdx.x', 1, across)} * {shape.columns};")
        line(f"const int row = {_digit('blockIdx.x', across, down)} * {shape.rows};")
        if self.split.parts > 1:
            line(f"const int part = blockIdx.x / {self.tiles};")
        if made.batch:
            wrapped = f" % {size(made.batch)}" if self.split.parts > 1 else ""
            line(f"const int batch = blockIdx.x / {across * down}{wrapped};")
            self.body.decompose("batch", made.batch)

    def _emit_summing(self, head: Head) -> int:
        """The function that adds up the parts, a thread an element; its grid."""
        line, outputs = self.text.line, self.outputs
        rows, columns, _ = self.made.sizes
        grid = min(-(-outputs // SUMMING_THREADS), MOST_SUMMING_BLOCKS)
        line()
        line(f'extern "C" __global__ void __launch_bounds__({SUMMING_THREADS})')
        step = f"{grid * SUMMING_THREADS}"
        first = f"blockIdx.x * {SUMMING_THREADS} + threadIdx.x"
        self.body = self._new_body()
        with (
            self.text.block(head(SUMMING, self._scratch("const "))),
            self.text.block(f"for (int at = {first}; at < {outputs}; at += {step})"),
        ):
            line(f"const int n = at % {columns};")
            line(f"const int m = at / {columns} % {rows};")
            if self.made.batch:
                line(f"const int batch = at / {rows * columns};")
                self.body.decompose("batch", self.made.batch)
            line(f"{self.kind} sum = {self.zero};")
            head_of_loop = f"for (int part = 0; part < {self.split.parts}; ++part)"
            line(f"{head_of_loop} sum += {PARTS}[part * {outputs} + at];")
            self._store("sum")
        return grid

    def shown(self) -> str:
        """The tile, for the comment."""
        return f"{self.shape.rows} x {self.shape.columns}"

    def _stage(self) -> None:
        made, shape = self.made, self.shape
        for name, operand, side, start, length, placed in (
            ("left", made.left, made.rows, "row", shape.rows, self.left),
            ("right", made.right, made.columns, "column", shape.columns, self.right),
        ):
            staging = Staging(
                self.text,
                self.body,
                name,
                operand,
                side,
                made.over,
                start,
                length,
                shape.step,
                shape.threads,
                placed,
                self.buffers[operand.buffer.name],
            )
            staging.before()
            staging.copies()

    def _walk(self) -> None:
        """Along the sum: while one slice is multiplied the next ones are on their way."""
        line, ahead, step, split = (
            self.text.line,
            self.shape.stages - 1,
            self.shape.step,
            self.split,
        )
        turns, start = str(split.turns), ""
        if split.parts > 1:
            rest = split.turns - (split.parts - 1) * split.each
            line(f"const int turns = part < {split.parts - 1} ? {split.each} : {rest};")
            line(f"const int start = part * {split.each * step};")
            turns, start = "turns", "start + "
        for slot in range(ahead):
            if split.parts > 1 or slot < split.turns:
                guard = "" if split.parts == 1 or slot == 0 else f"if ({slot} < turns) "
                line(f"{guard}copy_left({slot}, {start}{slot * step});")
                line(f"{guard}copy_right({slot}, {start}{slot * step});")
            line("end_of_copies();")
        with self.text.block(f"for (int turn = 0; turn < {turns}; ++turn)"):
            line(f"wait_for_copies<{ahead - 1}>();")
            line("__syncthreads();  // the slice is whole, and nobody reads the one before it")
            with self.text.block(f"if (turn + {ahead} < {turns})"):
                line(f"const int slot = (turn + {ahead}) % {self.shape.stages};")
                line(f"copy_left(slot, {start}(turn + {ahead}) * {step});")
                line(f"copy_right(slot, {start}(turn + {ahead}) * {step});")
            line("end_of_copies();")
            line(f"const int at = turn % {self.shape.stages} * {self.left.count};")
            line(f"const int bt = turn % {self.shape.stages} * {self.right.count};")
            self.multiply()
            if self.is_long:
                self._end_level(turns)

    def store_one(self, value: str) -> None:
        """Element (m, n), whose sum is `value`: stored, or what this part has of it noted."""
        if self.split.parts == 1:
            self._store(value)
            return
        self.text.line(f"{PARTS}[{self._noted()}] = {value};")

    def _noted(self) -> str:
        """Where a part notes element (m, n)."""
        rows, columns, _ = self.made.sizes
        place = f"part * {self.outputs} + m * {columns} + n"
        return place + (f" + batch * {rows * columns}" if self.made.batch else "")

    def _store(self, value: str) -> None:
        """The epilogue of element (m, n)."""
        self.body.decompose("m", self.made.rows)
        self.body.decompose("n", self.made.columns)
        self._end_with(value)

    def _end_with(self, value: str) -> None:
        """The statements behind the sum, which is `value`, for the axes' present names."""
        (local,) = self.contraction.fold.locals
        name = self.body.locals[local.name] = self.names.fresh(local.name)
        self.text.line(f"const {self.kind} {name} = {value};")
        self.body.lets_and_stores(s for s in self.nodes.statements if not isinstance(s, FoldNode))

    # -- two columns at once --

    @property
    def is_paired(self) -> bool:
        """Whether two neighbouring columns, from even ones on, can be stored at once."""
        columns = self.made.columns
        if self.item != 4 or not columns or columns[-1].extent % PAIR:
            return False
        if self.split.parts > 1:
            return True
        stores = [s for s in self.nodes.statements if isinstance(s, StoreNode)]
        return all(
            s.mode != "add" and comes_together(s.address, columns[-1], self.aligned, PAIR)
            for s in stores
        )

    def store_pair(self, value: Callable[[str], str]) -> None:
        """As `store_one` for elements (m, n) and (m, n + 1), n being even."""
        line = self.text.line
        if self.split.parts > 1:
            line(f"const Two both = {{{{{value('0')}, {value('1')}}}}};")
            line(f"put({PARTS}, {self._noted()}, both);")
            return
        body = self.body
        body.decompose("m", self.made.rows)
        body.decompose("n", self.made.columns)
        stores = [s.address for s in self.nodes.statements if isinstance(s, StoreNode)]
        places = [", ".join(body.scalars.corner(address)) for address in stores]
        names = [self.names.fresh(f"{address.buffer.name}_2") for address in stores]
        for name in names:
            line(f"Two {name};")
        with self.text.unrolled("lane", PAIR):
            line("const int each = n + lane;")
            body.decompose("each", self.made.columns)
            body.scalars.lanes = {
                id(address): f"{name}[lane]" for address, name in zip(stores, names, strict=True)
            }
            self._end_with(value("lane"))
            body.scalars.lanes = {}
        for place, name in zip(places, names, strict=True):
            line(f"put({place}, {name});")


def _digit(linear: str, inner: int, extent: int) -> str:
    """One digit of a mixed-radix number."""
    if extent == 1:
        return "0"
    return f"{linear} % {extent}" if inner == 1 else f"{linear} / {inner} % {extent}"
