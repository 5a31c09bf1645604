"""The same elements in another shape."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from graphc.error import need
from graphc.ir.graph import Value
from graphc.ir.op import Example, Op, normal, operator
from graphc.ir.types import TensorType


@operator
class View(Op):
    """x's elements in row-major order, in another shape."""

    shape: tuple[int, ...]

    is_view = True

    def infer(self, x: TensorType) -> TensorType:
        y = TensorType(x.dtype, self.shape)
        need(x.size == y.size, f"view: {x} has {x.size} elements, {list(self.shape)} has {y.size}")
        return y

    def reference(self, x: np.ndarray) -> Any:
        return x.reshape(self.shape)

    def gradient(self, dy: Value, y: Value, x: Value) -> Any:
        return View(x.shape)(dy)

    def kernel(self, k: Any, x: Any, y: Any) -> None:
        if 0 in x.shape:
            k.each(0)
            return
        from_x: list[Any] = []
        from_y: list[Any] = []
        for x_part, y_part in matching_parts(x.shape, y.shape):
            finer, coarser = (x_part, y_part) if len(y_part) <= 1 else (y_part, x_part)
            variables = k.each(*finer)
            flat = _flat_index(variables, finer)
            (from_x if finer is x_part else from_y).extend(variables)
            (from_y if finer is x_part else from_x).extend(_split_index(flat, coarser))
        y[*from_y] = x[*from_x]

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls((2, 60)), normal(2, 3, 4, 5))
        yield Example(cls((2, 1, 3, 20)), normal(2, 3, 4, 5))
        yield Example(cls((4, 6, 5)), normal(6, 4, 5))
        yield Example(cls((1, 1)), normal())


def matching_parts(
    left: tuple[int, ...], right: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Cut two shapes of equal, positive size into the shortest runs of equal size, in order.

    (2, 3, 4) and (6, 4) give ((2, 3), (6,)) and ((4,), (4,)).
    """
    i = j = 0
    while i < len(left) or j < len(right):
        i_end, j_end = min(i + 1, len(left)), min(j + 1, len(right))
        while math.prod(left[i:i_end]) != math.prod(right[j:j_end]):
            if math.prod(left[i:i_end]) < math.prod(right[j:j_end]):
                i_end += 1
            else:
                j_end += 1
        yield left[i:i_end], right[j:j_end]
        i, j = i_end, j_end


def _flat_index(variables: list[Any], shape: tuple[int, ...]) -> Any:
    if not variables:
        return 0
    flat = variables[0]
    for variable, extent in zip(variables[1:], shape[1:], strict=True):
        flat = flat * extent + variable
    return flat


def _split_index(flat: Any, shape: tuple[int, ...]) -> list[Any]:
    """Row-major position -> one index per axis."""
    parts: list[Any] = []
    for position, extent in enumerate(shape):
        after = math.prod(shape[position + 1 :])
        if extent == 1:
            parts.append(0)
            continue
        part = flat if after == 1 else flat // after
        parts.append(part if math.prod(shape[:position]) == 1 else part % extent)
    return parts
