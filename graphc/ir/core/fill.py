"""Core operators that make values: the same number everywhere, and one-hot classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from graphc.error import need
from graphc.ir.core.elementwise import truncated
from graphc.ir.graph import Graph, Value
from graphc.ir.op import Example, Op, classes, integers, operator
from graphc.ir.types import TensorType


@operator
class Fill(Op):
    """The same number everywhere. It has no inputs: `graph.apply(Fill("float32", (3,), 0.0))`."""

    dtype: str
    shape: tuple[int, ...]
    value: float

    def infer(self) -> TensorType:
        return TensorType(self.dtype, self.shape)

    def reference(self) -> Any:
        return np.full(self.shape, self.value, self.dtype)

    def gradient(self, dy: Value, y: Value) -> tuple[()]:
        return ()

    def kernel(self, k: Any, y: Any) -> None:
        i = k.each(*self.shape)
        y[*i] = k.number(self.value, self.dtype)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls("float32", (2, 3, 4, 5), 0.5))
        yield Example(cls("float64", (), -1.0))
        yield Example(cls("int64", (4,), 3.0))


def fill_like(value: Value, number: float) -> Value:
    """A value of the same type as `value`, holding `number` everywhere, in the same graph."""
    return fill(value.graph, value.type, number)


def fill(graph: Graph, type: TensorType, number: float) -> Value:
    """A value of the given type holding `number` everywhere."""
    return graph.apply(Fill(type.dtype, type.shape, float(number)))[0]


@operator
class OneHot(Op):
    """1 at [..., label, ...] along a new axis of `extent` classes, 0 elsewhere.

    A label is truncated to a whole number; one outside 0 .. extent - 1 gives zeros only, which is
    what an ignored label needs. The result has the label's dtype where `dtype` is empty.
    """

    axis: int
    extent: int
    dtype: str = ""

    def infer(self, label: TensorType) -> TensorType:
        need(
            0 <= self.axis <= label.rank,
            f"one_hot: axis {self.axis} cannot be added to {label}",
        )
        shape = (*label.shape[: self.axis], self.extent, *label.shape[self.axis :])
        return TensorType(self.dtype or label.dtype, shape)

    def reference(self, label: np.ndarray) -> Any:
        whole = label if label.dtype.kind != "f" else truncated(label, "int64")
        steps = np.arange(self.extent).reshape(-1, *([1] * (label.ndim - self.axis)))
        return (np.expand_dims(whole, self.axis) == steps).astype(self.dtype or label.dtype)

    def gradient(self, dy: Value, y: Value, label: Value) -> None:
        return None

    def kernel(self, k: Any, label: Any, y: Any) -> None:
        i = k.each(*label.shape)
        whole = k.let(k.cast(label[*i], "int64"))
        c = k.axis(self.extent)
        here = k.equal(whole, c)
        one, zero = k.number(1, y.dtype), k.number(0, y.dtype)
        y[*i[: self.axis], c, *i[self.axis :]] = k.select(here, one, zero)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(1, 5), classes(5, 2, 3, 4))
        yield Example(cls(1, 4), classes(6, 8))
        yield Example(cls(0, 3, "float64"), integers("int64", 5))
