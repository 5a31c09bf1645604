"""How many floating-point operations a kernel is.

Contractions are counted as textbooks do: two operations for each product of a weight and a place
where its window stands. So a convolution and its two gradients are equal work, padding counts, and
what a strided data gradient leaves out does not. An algorithm that needs fewer products (Winograd)
is counted by the products it replaces.
"""

from __future__ import annotations

import math

from graphc.kernel.contraction import Contraction, Operand, match
from graphc.kernel.lang import Axis, Call, Check, Expr, Fold, Kernel, Let, Store
from graphc.kernel.walk import walk


def product_flops_of(kernel: Kernel) -> int:
    """Operations of the contraction that the kernel is; 0 if it is none."""
    found = match(kernel)
    return product_flops(found) if found else 0


def flops_of(kernel: Kernel) -> int:
    """All operations on reals."""
    found = match(kernel)
    return product_flops(found) + _epilogue_flops(found) if found else _flops(kernel)


def product_flops(contraction: Contraction) -> int:
    """Two for each product, counted as the head of this file says."""
    extents = {axis: axis.extent for axis in (*contraction.each, *contraction.over)}
    for operand in (contraction.left, contraction.right):
        extents.update(_windows(operand, contraction))
    return 2 * math.prod(extents.values())


def _windows(operand: Operand, contraction: Contraction) -> dict[Axis, int]:
    """For data gradients: along an axis of the image, the windows of dy and not the image's places.

    Such an index is (place - tap * dilation + before) / stride, inside dy.
    """
    found = {}
    for position, extent in zip(operand.index, operand.buffer.shape, strict=True):
        terms = position.affine.terms
        places = [axis for axis, c in terms if axis in contraction.each and c == 1]
        taps = [c for axis, c in terms if axis in contraction.over]
        gradient = position.divisor > 1 or any(c < 0 for c in taps)
        if position.guarded and gradient and len(places) == 1:
            found[places[0]] = extent
    return found


def _epilogue_flops(contraction: Contraction) -> int:
    count = sum(_operations(store.value) for store in contraction.stores)
    return count * math.prod(axis.extent for axis in contraction.each)


def _flops(kernel: Kernel) -> int:
    """Every function of reals counts one, a fold's step one more."""
    total = 0
    for statement in kernel.body:
        axes: tuple[Axis, ...] = ()
        count = 0
        match statement:
            case Fold():
                axes = statement.axes
                count = sum(map(_operations, statement.values)) + 1
            case Store():
                axes, count = statement.axes, _operations(statement.value)
            case Let():
                count = _operations(statement.value)
            case Check():
                continue
        total += count * math.prod(axis.extent for axis in axes)
    return total * math.prod(axis.extent for axis in kernel.each)


_REAL = ("float32", "float64")


def _operations(value: Expr) -> int:
    return sum(1 for part in walk(value) if isinstance(part, Call) and part.dtype in _REAL)
