"""Core operators that work element by element."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from graphc.error import need
from graphc.ir.graph import Value
from graphc.ir.op import Example, Op, Sample, classes, integers, normal, operator
from graphc.ir.types import REAL, TensorType


@operator
class Add(Op):
    """a + b."""

    def infer(self, a: TensorType, b: TensorType) -> TensorType:
        need(a == b, f"add: {a} and {b} differ")
        return a

    def reference(self, a: np.ndarray, b: np.ndarray) -> Any:
        return a + b

    def gradient(self, dy: Value, y: Value, a: Value, b: Value) -> tuple[Value, Value]:
        return dy, dy

    def kernel(self, k: Any, a: Any, b: Any, y: Any) -> None:
        i = k.each(*a.shape)
        y[*i] = a[*i] + b[*i]

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(2, 3, 4, 5), normal(2, 3, 4, 5))
        yield Example(cls(), normal(), normal())


@operator
class Multiply(Op):
    """a * b."""

    def infer(self, a: TensorType, b: TensorType) -> TensorType:
        need(a == b, f"multiply: {a} and {b} differ")
        return a

    def reference(self, a: np.ndarray, b: np.ndarray) -> Any:
        return a * b

    def gradient(self, dy: Value, y: Value, a: Value, b: Value) -> tuple[Value, Value]:
        return dy * b, dy * a

    def kernel(self, k: Any, a: Any, b: Any, y: Any) -> None:
        i = k.each(*a.shape)
        y[*i] = a[*i] * b[*i]

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(2, 3, 4, 5), normal(2, 3, 4, 5))


@operator
class Shift(Op):
    """x + amount."""

    amount: float

    def infer(self, x: TensorType) -> TensorType:
        return x

    def reference(self, x: np.ndarray) -> Any:
        return x + x.dtype.type(self.amount)

    def gradient(self, dy: Value, y: Value, x: Value) -> Any:
        return dy

    def kernel(self, k: Any, x: Any, y: Any) -> None:
        i = k.each(*x.shape)
        y[*i] = x[*i] + self.amount

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(1.5), normal(3, 4))
        yield Example(cls(1.0), integers("int64"))


@operator
class Times(Op):
    """x * factor."""

    factor: float

    def infer(self, x: TensorType) -> TensorType:
        return x

    def reference(self, x: np.ndarray) -> Any:
        return x * x.dtype.type(self.factor)

    def gradient(self, dy: Value, y: Value, x: Value) -> Any:
        return dy * self.factor

    def kernel(self, k: Any, x: Any, y: Any) -> None:
        i = k.each(*x.shape)
        y[*i] = x[*i] * self.factor

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(-0.25), normal(2, 3, 4, 5))


@operator
class Cast(Op):
    """x in another element type; a real becomes an integer by truncation, saturating, nan as 0."""

    dtype: str

    def infer(self, x: TensorType) -> TensorType:
        return TensorType(self.dtype, x.shape)

    def reference(self, x: np.ndarray) -> Any:
        if x.dtype.kind != "f" or self.dtype in REAL:
            return x.astype(self.dtype)
        return truncated(x, self.dtype)

    def gradient(self, dy: Value, y: Value, x: Value) -> Value | None:
        return Cast(x.type.dtype)(dy) if x.type.is_real else None

    def kernel(self, k: Any, x: Any, y: Any) -> None:
        i = k.each(*x.shape)
        y[*i] = k.cast(x[*i], self.dtype)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls("float64"), normal(3, 4))
        yield Example(cls("float64"), integers("int64", 5))
        yield Example(cls("int64"), classes(9, 7))


def truncated(x: np.ndarray, dtype: str) -> np.ndarray:
    """Reals as integers: towards 0, the nearest representable where out of range, nan as 0."""
    limits = np.iinfo(dtype)
    whole = np.trunc(np.where(np.isnan(x), 0, x))
    above, below = whole >= limits.max, whole <= limits.min
    result = np.where(above | below, 0, whole).astype(dtype)
    result[above] = limits.max
    result[below] = limits.min
    return result


@operator
class Copy(Op):
    """x. `clean` removes it; the plan adds one where a value needs memory of its own."""

    is_identity = True

    def infer(self, x: TensorType) -> TensorType:
        return x

    def reference(self, x: np.ndarray) -> Any:
        return x.copy()

    def gradient(self, dy: Value, y: Value, x: Value) -> Any:
        return dy

    def kernel(self, k: Any, x: Any, y: Any) -> None:
        _copy_kernel(k, x, y)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(2, 3, 4, 5))
        yield Example(cls(), integers("int64", 5))


@operator
class StopGradient(Op):
    """x, as a constant in the eyes of `backward`; removed once the gradients are made."""

    is_identity = True
    gradient_stops = True

    def infer(self, x: TensorType) -> TensorType:
        return x

    def reference(self, x: np.ndarray) -> Any:
        return x.copy()

    def gradient(self, dy: Value, y: Value, x: Value) -> None:
        return None

    def kernel(self, k: Any, x: Any, y: Any) -> None:
        _copy_kernel(k, x, y)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        x = normal(3, 4)
        yield Example(cls(), Sample(x.type, x.draw, differentiable=False))


def _copy_kernel(k: Any, x: Any, y: Any) -> None:
    i = k.each(*x.shape)
    y[*i] = x[*i]
