"""A contraction as a batch of matrix products, its loops sorted by which operand they index.

With M the loops of one operand alone, N those of the other, B those of both (groups) and K the
summed ones, a contraction is a batch of matrix products whose elements are computed where they are
loaded (an implicit GEMM): padding and strides are guards on a load, no matrix of patches is stored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from graphc.codegen.nodes import KernelNodes, StoreNode
from graphc.kernel.contraction import Contraction, Operand
from graphc.kernel.lang import Axis


@dataclass(frozen=True)
class Matrices:
    """left [rows, over] times right [over, columns], once for every point of `batch`.

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
    over.sort(key=lambda axis: -_nearest(left.stride(axis), right.stride(axis)))
    return Matrices(left, right, batch, rows, columns, tuple(over))


def _nearest(*strides: int) -> int:
    """The shorter way of two operands: one of them may be read along the axis that runs fastest."""
    return min((abs(stride) for stride in strides if stride), default=0)


def _uses(operand: Operand, axis: Axis) -> bool:
    return any(position.affine.coefficient(axis) for position in operand.index)


def nearness(operand: Operand, axes: Sequence[Axis]) -> int:
    """The stride along the axis that runs fastest; large where there is none."""
    if not axes:
        return 2**62
    return abs(operand.stride(axes[-1])) or 2**61


def reach(operand: Operand) -> int:
    """The farthest element that an index may speak of, in elements."""
    shape, strides = operand.buffer.shape, operand.buffer.strides
    return sum(
        max(extent - 1, sum(abs(f) * a.extent for a, f in p.affine.terms) + abs(p.affine.constant))
        * abs(stride)
        for p, extent, stride in zip(operand.index, shape, strides, strict=True)
    )
