"""Contractions as tiles in shared memory: convolution, inner product and all their gradients.

The loops of a contraction are sorted by which operand they index. With M the loops of one operand
alone, N those of the other, B those of both (groups) and K the summed ones, it is a batch of matrix
products whose elements are computed where they are loaded (an implicit GEMM): padding and strides
are guards on a load, no matrix of patches is ever stored.

A block computes a tile of M x N. It walks along K in steps; all its threads load a slice of either
operand to shared memory, then every thread adds the products of its own rows and columns, which it
keeps in registers. The epilogue (bias, ReLU, adding another gradient) happens before the store.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from graphc.codegen.cuda.body import Body
from graphc.codegen.cuda.expressions import TYPES
from graphc.codegen.cuda.schedule import Schedule, ordered_axes, read
from graphc.codegen.cuda.text import Names, Text
from graphc.codegen.nodes import FoldNode, KernelNodes, StoreNode
from graphc.ir.types import DTYPES, REAL
from graphc.kernel.contraction import Contraction, Operand, Position, match
from graphc.kernel.lang import Axis, Kernel

SMALLEST_SIDE = 8  # rows or columns below which a tile is mostly empty
SHORTEST_SUM = 8
STEP = 16  # of K that shared memory holds at once
MULTIPROCESSORS = 132  # of an H200: fewer tiles than these leave some without work


@dataclass(frozen=True)
class TileShape:
    """rows x columns of a block's tile; every thread has `each` x `each` of them."""

    rows: int
    columns: int
    each: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.rows * self.columns // self.each**2


SHAPES = (
    TileShape(128, 128, 8),
    TileShape(64, 128, 8),
    TileShape(128, 64, 8),
    TileShape(64, 64, 4),
    TileShape(32, 64, 4),
    TileShape(64, 32, 4),
    TileShape(32, 32, 4),
    TileShape(16, 32, 4),
    TileShape(32, 16, 4),
)


@dataclass(frozen=True)
class Matrices:
    """A contraction as a batch of matrix products: left [rows, over] times right [over, columns].

    Axes run from far to near in memory; the last of `columns` is the nearest in the result.
    """

    left: Operand
    right: Operand
    batch: tuple[Axis, ...]
    rows: tuple[Axis, ...]
    columns: tuple[Axis, ...]
    over: tuple[Axis, ...]

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Rows, columns, and the length of a sum."""
        return size(self.rows), size(self.columns), size(self.over)


@dataclass(frozen=True)
class TiledKernel:
    """How a tiled kernel is launched."""

    grid: int
    threads: int
    shared_bytes: int


def size(axes: Sequence[Axis]) -> int:
    """Points of loops over these axes."""
    return math.prod(axis.extent for axis in axes)


def matrices(contraction: Contraction, nodes: KernelNodes) -> Matrices:
    """Sort the loops. `nodes` are those of its kernel."""
    left, right = contraction.left, contraction.right
    each = [axis for axis in contraction.each if axis.extent > 1]
    stores = [s for s in nodes.statements if isinstance(s, StoreNode)]
    each.sort(key=lambda axis: -abs(stores[0].address.terms.get(axis, 0)))
    rows = tuple(a for a in each if _uses(left, a) and not _uses(right, a))
    columns = tuple(a for a in each if _uses(right, a) and not _uses(left, a))
    batch = tuple(a for a in each if a not in rows and a not in columns)
    if rows and (not columns or each[-1] in rows):
        left, right, rows, columns = right, left, columns, rows
    over = [axis for axis in contraction.over if axis.extent > 1]
    over.sort(key=lambda axis: -(abs(left.stride(axis)) + abs(right.stride(axis))))
    return Matrices(left, right, batch, rows, columns, tuple(over))


def _uses(operand: Operand, axis: Axis) -> bool:
    return any(position.affine.coefficient(axis) for position in operand.index)


def best_shape(made: Matrices) -> TileShape:
    """The tile with the least work: padding counts, and reading little for every product."""
    rows, columns, _ = made.sizes

    def cost(shape: TileShape) -> float:
        tiles = -(-rows // shape.rows) * -(-columns // shape.columns) * size(made.batch)
        waves = -(-tiles // MULTIPROCESSORS)
        loads = 8 * (shape.rows + shape.columns)
        return waves * (shape.rows * shape.columns + loads)

    return min(SHAPES, key=cost)


def emit_contraction(
    text: Text, kernel: Kernel, names: Names, buffers: dict[str, str], head: str
) -> TiledKernel | None:
    """The whole function, or None (and nothing written) where tiles do not suit the kernel."""
    contraction = match(kernel)
    if contraction is None or contraction.fold.values[0].dtype not in REAL:
        return None
    nodes = read(kernel)
    if any(ordered_axes(nodes).values()):
        return None
    made = matrices(contraction, nodes)
    rows, columns, over = made.sizes
    if min(rows, columns) < SMALLEST_SIDE or over < SHORTEST_SUM:
        return None
    if max(rows, columns, over) >= 2**30:
        return None
    return _Tiled(text, names, buffers, nodes, made, contraction).emit(head)


class _Tiled:
    """Writes one tiled kernel."""

    def __init__(
        self,
        text: Text,
        names: Names,
        buffers: dict[str, str],
        nodes: KernelNodes,
        made: Matrices,
        contraction: Contraction,
    ):
        self.text, self.names, self.buffers = text, names, buffers
        self.nodes, self.made, self.contraction = nodes, made, contraction
        self.shape = best_shape(made)
        dtype = contraction.fold.values[0].dtype
        self.kind, self.item = TYPES[dtype], DTYPES[dtype]
        self.zero = "0.0f" if dtype == "float32" else "0.0"
        self.body = Body(text, names, Schedule(nodes, "threads", [], [], own={}), buffers)
        self.body.made.own.update({s: [] for s in nodes.statements})

    def emit(self, head: str) -> TiledKernel:
        """The function."""
        shape, line = self.shape, self.text.line
        rows, columns, over = self.made.sizes
        down, across = -(-rows // shape.rows), -(-columns // shape.columns)
        row_step, column_step = shape.rows + 1, shape.columns + 1
        left_bytes = -(-STEP * row_step * self.item // 16) * 16
        shared_bytes = left_bytes + STEP * column_step * self.item
        line(f"// {rows} x {columns}, sums of {over}, in tiles of {shape.rows} x {shape.columns}")
        line(f'extern "C" __global__ void __launch_bounds__({shape.threads})')
        with self.text.block(head):
            kind = self.kind
            line(f"const Tile<{kind}> left = tile<{kind}>(0, {STEP * row_step});")
            line(f"const Tile<{kind}> right = tile<{kind}>({left_bytes}, {STEP * column_step});")
            line(f"const int column = {_digit('blockIdx.x', 1, across)} * {shape.columns};")
            line(f"const int row = {_digit('blockIdx.x', across, down)} * {shape.rows};")
            if self.made.batch:
                line(f"const int batch = blockIdx.x / {across * down};")
                self.body.decompose("batch", self.made.batch)
            across_threads = shape.columns // shape.each
            line(f"const int x = threadIdx.x % {across_threads};")
            line(f"const int y = threadIdx.x / {across_threads};")
            line(f"{kind} sum[{shape.each}][{shape.each}] = {{}};")
            with self.text.block(f"for (int first = 0; first < {over}; first += {STEP})"):
                self._load(self.made.left, self.made.rows, "row", shape.rows, "left")
                self._load(self.made.right, self.made.columns, "column", shape.columns, "right")
                line("__syncthreads();")
                self._multiply(row_step, column_step)
                line("__syncthreads();")
            self._epilogue()
        tiles = down * across * size(self.made.batch)
        return TiledKernel(tiles, shape.threads, shared_bytes)

    def _load(
        self, operand: Operand, side: tuple[Axis, ...], start: str, length: int, tile: str
    ) -> None:
        """A slice of an operand; neighbouring threads load what lies near in memory."""
        over, count = self.made.over, STEP * length
        line, scope = self.text.line, dict(self.body.axes)
        sums_are_near = _nearness(operand, over) <= _nearness(operand, side)
        total = size(side)
        line("#pragma unroll")
        with self.text.block(
            f"for (int part = threadIdx.x; part < {count}; part += {self.shape.threads})"
        ):
            k_part = f"part % {STEP}" if sums_are_near else f"part / {length}"
            i_part = f"part / {STEP}" if sums_are_near else f"part % {length}"
            line(f"const int k = {k_part}, i = {i_part};")
            line(f"{self.kind} value = {self.zero};")
            with self.text.block(f"if (first + k < {size(over)} && {start} + i < {total})"):
                line(f"const int term = first + k, line = {start} + i;")
                self.body.decompose("term", over)
                self.body.decompose("line", side)
                self._element(operand)
            line(f"{tile}[k * {length + 1} + i] = value;")
        self.body.axes.clear()
        self.body.axes.update(scope)

    def _element(self, operand: Operand) -> None:
        """`value`, if all indices lie inside of the operand and divide."""
        terms: dict[Axis, int] = {}
        constant = 0
        conditions: list[str] = []
        places: list[tuple[str, int]] = []
        strides, extents = operand.buffer.strides, operand.buffer.shape
        for position, stride, extent in zip(operand.index, strides, extents, strict=True):
            if not position.guarded:
                constant += position.affine.constant * stride
                for axis, factor in position.affine.terms:
                    terms[axis] = terms.get(axis, 0) + factor * stride
                continue
            name = self.names.fresh("index")
            self.text.line(f"const int {name} = {self._affine(position)};")
            conditions.append(f"{name} >= 0")
            if position.divisor > 1:
                conditions += [f"{name} % {position.divisor} == 0"]
                name = f"{name} / {position.divisor}"
            conditions.append(f"{name} < {extent}")
            places.append((f"({name})" if "/" in name else name, stride))
        parts = [(self.body.axes[a], s) for a, s in terms.items() if a in self.body.axes and s]
        wide = "(long long)" if _reach(operand) >= 2**31 else ""
        index = " + ".join(
            f"{wide}{name}" if stride == 1 else f"{wide}{name} * {stride}"
            for name, stride in [*parts, *places]
        )
        if constant or not index:
            index = f"{index} + {constant}" if index else f"{constant}"
        load = f"value = {self.buffers[operand.buffer.name]}[{index}];"
        self.text.line(f"if ({' && '.join(conditions)}) {load}" if conditions else load)

    def _affine(self, position: Position) -> str:
        parts = [
            f"{self.body.axes[axis]} * {factor}" if factor != 1 else self.body.axes[axis]
            for axis, factor in position.affine.terms
            if axis in self.body.axes
        ]
        if position.affine.constant or not parts:
            parts.append(str(position.affine.constant))
        return " + ".join(parts).replace("+ -", "- ")

    def _multiply(self, row_step: int, column_step: int) -> None:
        each, line = self.shape.each, self.text.line
        row_gap, column_gap = self.shape.rows // each, self.shape.columns // each
        line("#pragma unroll")
        with self.text.block(f"for (int k = 0; k < {STEP}; ++k)"):
            line(f"{self.kind} a[{each}], b[{each}];")
            line("#pragma unroll")
            with self.text.block(f"for (int i = 0; i < {each}; ++i)"):
                line(f"a[i] = left[k * {row_step} + y + i * {row_gap}];")
                line(f"b[i] = right[k * {column_step} + x + i * {column_gap}];")
            line("#pragma unroll")
            with self.text.block(f"for (int i = 0; i < {each}; ++i)"):
                line("#pragma unroll")
                line(f"for (int j = 0; j < {each}; ++j) sum[i][j] += a[i] * b[j];")

    def _epilogue(self) -> None:
        """Every thread stores its sums."""
        each, line = self.shape.each, self.text.line
        rows, columns, _ = self.made.sizes
        row_gap, column_gap = self.shape.rows // each, self.shape.columns // each
        line("#pragma unroll")
        with self.text.block(f"for (int i = 0; i < {each}; ++i)"):
            line(f"const int m = row + y + i * {row_gap};")
            line(f"if (m >= {rows}) continue;")
            line("#pragma unroll")
            with self.text.block(f"for (int j = 0; j < {each}; ++j)"):
                line(f"const int n = column + x + j * {column_gap};")
                line(f"if (n >= {columns}) continue;")
                self.body.decompose("m", self.made.rows)
                self.body.decompose("n", self.made.columns)
                (local,) = self.contraction.fold.locals
                name = self.body.locals[local.name] = self.names.fresh(local.name)
                line(f"const {self.kind} {name} = sum[i][j];")
                for statement in self.nodes.statements:
                    if not isinstance(statement, FoldNode):
                        self.body.statement(statement)


def _digit(linear: str, inner: int, extent: int) -> str:
    """One digit of a mixed-radix number."""
    if extent == 1:
        return "0"
    return f"{linear} % {extent}" if inner == 1 else f"{linear} / {inner} % {extent}"


def _nearness(operand: Operand, axes: Sequence[Axis]) -> int:
    """The stride along the axis that runs fastest; large where there is none."""
    if not axes:
        return 2**62
    return abs(operand.stride(axes[-1])) or 2**61


def _reach(operand: Operand) -> int:
    """The farthest element that an index may speak of, in elements."""
    shape, strides = operand.buffer.shape, operand.buffer.strides
    return sum(
        max(
            (extent - 1), sum(abs(f) * a.extent for a, f in p.affine.terms) + abs(p.affine.constant)
        )
        * abs(stride)
        for p, extent, stride in zip(operand.index, shape, strides, strict=True)
    )
