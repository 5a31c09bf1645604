"""Calls out of the net into the user's own code, such as Caffe's Python layers.

Machine code cannot do what these operators stand for: whoever runs the program stops at their steps
and calls the user's code on the arrays there (graphc.host_calls). Their kernels only tell the
planner what a call touches. A kernel writes all outputs with zeros before it reads any input, so
that no output is put into the memory of an input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from graphc.error import need
from graphc.ir.core.fill import fill_like
from graphc.ir.graph import Value
from graphc.ir.op import Example, Op, normal, operator
from graphc.ir.types import TensorType
from graphc.kernel.build import Array, Writer


def _touch(k: Writer, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
    """Zeros into every output; then every input is read, and nothing added."""
    for output in outputs:
        k.store(output, tuple(k.axes(*output.shape)), 0.0)
    for output in outputs:
        for read in inputs:
            if 0 in (*output.shape, *read.shape):
                continue
            first = read[(0,) * read.rank]
            nothing = k.select(k.equal(first, first), k.number(0.0, output.dtype), 0.0)
            k.add(output, (0,) * output.rank, nothing)


@operator
class HostCall(Op):
    """The user's forward function of `layer`: any inputs -> arrays of `shapes`.

    They hold `dtype`, or what the first input holds where it is empty. The value of the operator is
    what its native step leaves: zeros.
    """

    layer: str
    shapes: tuple[tuple[int, ...], ...]
    dtype: str = ""

    has_effect = True

    @property
    def output_count(self) -> int:
        """The number of arrays it makes."""
        return len(self.shapes)

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        need(self.dtype or inputs, f"{self.op_name} needs an input or a dtype")
        dtype = self.dtype or inputs[0].dtype
        need(all(x.dtype == dtype for x in inputs), f"{self.op_name}: inputs must hold {dtype}")
        return tuple(TensorType(dtype, shape) for shape in self.shapes)

    def reference(self, *inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        dtype = self.dtype or inputs[0].dtype
        return tuple(np.zeros(shape, dtype) for shape in self.shapes)

    def gradient(self, dy: Any, y: Any, *inputs: Value) -> tuple[Value, ...]:
        tops = y if isinstance(y, tuple) else (y,)
        arrived = dy if isinstance(dy, tuple) else (dy,)
        diffs = [
            fill_like(top, 0.0) if diff is None else diff
            for top, diff in zip(tops, arrived, strict=True)
        ]
        found = HostGradient(self.layer, len(tops))(*diffs, *tops, *inputs)
        return found if isinstance(found, tuple) else (found,)

    def kernel(self, k: Writer, *buffers: Array) -> None:
        count = len(buffers) - len(self.shapes)
        _touch(k, buffers[:count], buffers[count:])

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls("layer", ((2, 3), ())), normal(4), normal(2, 2))
        yield Example(cls("layer", ((2, 3),), "float32"))


@operator
class HostGradient(Op):
    """The user's backward function of `layer`.

    Inputs: the gradients of its `tops` outputs, those outputs, the forward inputs. Outputs: a
    gradient for each forward input. What the native step leaves is zeros.
    """

    layer: str
    tops: int

    has_effect = True

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        diffs, tops = inputs[: self.tops], inputs[self.tops : 2 * self.tops]
        need(diffs == tops, f"{self.op_name}: the gradients are not like the outputs")
        return tuple(inputs[2 * self.tops :])

    def reference(self, *inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(np.zeros_like(x) for x in inputs[2 * self.tops :])

    def kernel(self, k: Writer, *buffers: Array) -> None:
        count = (len(buffers) + 2 * self.tops) // 2
        _touch(k, buffers[:count], buffers[count:])

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls("layer", 1), normal(3), normal(3), normal(4), normal(2, 2))
