"""Dropout in training: elements are dropped at random, the others grow so that the mean stays.

The random bits are a pure function of (counter, stream, element), so the gradient draws the same
mask again instead of keeping it, and every back end draws the same mask for the same call.
Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR 2014;
scaled at training time, as Caffe does.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from graphc.error import need
from graphc.ir.graph import Value
from graphc.ir.op import Example, Op, Sample, counter, normal, operator
from graphc.ir.types import TensorType
from graphc.kernel.build import Array, Writer
from graphc.kernel.philox import DRAW_BITS, random_bits


def _need_ratio(ratio: float) -> None:
    need(0 <= ratio < 1, f"a dropout ratio must be at least 0 and less than 1, not {ratio:g}")


def _scale(ratio: float) -> float:
    return 1 / (1 - ratio)


def _channels_last(rank: int) -> tuple[int, ...]:
    """The axes of a tensor in the order in which its elements are counted, outermost first."""
    return (0, *range(2, rank), 1) if rank > 1 else tuple(range(rank))


@operator
class Dropout(Op):
    """x / (1 - ratio) where an element is kept, else 0; each is kept with probability 1 - ratio.

    Element e is kept where random_bits(counter, stream, e) < (1 - ratio) 2**16. Elements are
    counted with axis 1, the channels, innermost, as images lie inside a net. `counter` is a scalar
    int64 that changes from call to call; `stream` tells a net's layers apart. The gradient is this
    operator too.
    """

    ratio: float
    stream: int

    def infer(self, x: TensorType, counter: TensorType) -> TensorType:
        _need_ratio(self.ratio)
        need(x.is_real, f"only reals can be dropped, not {x}")
        need(
            counter == TensorType("int64", ()),
            f"the dropout counter must be int64[], not {counter}",
        )
        return x

    def _bound(self) -> int:
        """The least number that drops; the ratio is rounded down to a multiple of 2**-16."""
        return math.ceil((1 - self.ratio) * (1 << DRAW_BITS))

    def reference(self, x: np.ndarray, counter: np.ndarray) -> np.ndarray:
        order = _channels_last(x.ndim)
        counted = np.arange(x.size, dtype=np.uint64).reshape([x.shape[axis] for axis in order])
        element = counted.transpose(np.argsort(order))
        kept = random_bits(int(counter), self.stream, element) < self._bound()
        return np.asarray(np.where(kept, x * x.dtype.type(_scale(self.ratio)), 0), x.dtype)

    def gradient(self, dy: Value, y: Value, x: Value, counter: Value) -> tuple[Value, None]:
        return self(dy, counter), None

    def kernel(self, k: Writer, x: Array, counter: Array, y: Array) -> None:
        at = k.each(*x.shape)
        element = k.number(0, "int64")
        for axis in _channels_last(len(x.shape)):
            element = element * x.shape[axis] + at[axis]
        kept = k.random_bits(counter[()], self.stream, element) < self._bound()
        y[*at] = k.select(kept, x[*at] * _scale(self.ratio), 0.0)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(ratio=0.5, stream=1), normal(4, 7), counter(3))
        yield Example(cls(ratio=0.2, stream=2), normal(2, 3, 4, 5), counter(2**40 + 1))
        yield Example(cls(ratio=0.5, stream=3), normal(9), counter(5))


@operator
class DropoutMasked(Op):
    """x mask / (1 - ratio): dropout whose 0/1 mask somebody else drew."""

    ratio: float

    def infer(self, x: TensorType, mask: TensorType) -> TensorType:
        _need_ratio(self.ratio)
        need(x == mask, f"the dropout mask {mask} must be like what it masks, {x}")
        return x

    def reference(self, x: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return np.asarray(x * mask * x.dtype.type(_scale(self.ratio)))

    def gradient(self, dy: Value, y: Value, x: Value, mask: Value) -> tuple[Value, None]:
        return self(dy, mask), None

    def kernel(self, k: Writer, x: Array, mask: Array, y: Array) -> None:
        at = k.each(*x.shape)
        y[*at] = x[*at] * mask[*at] * _scale(self.ratio)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(ratio=0.3), normal(4, 7), _mask(4, 7))
        yield Example(cls(ratio=0.5), normal(2, 3, 4, 5), _mask(2, 3, 4, 5))


def _mask(*shape: int) -> Sample:
    drawn = normal(*shape)
    return dataclasses.replace(
        drawn, draw=lambda rng: (drawn.draw(rng) > 0).astype(np.float64), differentiable=False
    )
