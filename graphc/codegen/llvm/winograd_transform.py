"""The transforms of Winograd's convolution on vectors of channels: matrix . grid . matrix'."""

from __future__ import annotations

from collections.abc import Sequence

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.math import VectorMath
from graphc.kernel.winograd_matrices import Matrix

Grid = list[list[ir.Value]]


def sandwich(math: VectorMath, matrix: Matrix, grid: Grid) -> Grid:
    """matrix . grid . matrix': columns first, then rows."""
    turned = zip(*grid, strict=True)
    columns = [[combined(math, row, column) for row in matrix] for column in turned]
    lines = [list(line) for line in zip(*columns, strict=True)]
    return [[combined(math, row, line) for row in matrix] for line in lines]


def combined(math: VectorMath, factors: Sequence[float], values: Sequence[ir.Value]) -> ir.Value:
    """sum of factor * value, beginning with a factor of 1 where there is one."""
    terms = [(f, v) for f, v in zip(factors, values, strict=True) if f]
    terms.sort(key=lambda term: term[0] != 1)
    (factor, total), *rest = terms
    b = math.builder
    if factor != 1:
        total = b.fmul(total, math.constant(factor, total.type))
    for factor, value in rest:
        if factor in (1, -1):
            total = (b.fadd if factor == 1 else b.fsub)(total, value)
        else:
            total = math.fma(value, math.constant(factor, value.type), total)
    return total
