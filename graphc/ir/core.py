"""The core operators: the few whose names passes may use.

Shapes must be equal where nothing else is said; nothing is broadcast silently. Whatever a front end
or a gradient needs to spread or add up is written with Broadcast and Sum, so every one of these
gradients is one line.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from graphc.error import need
from graphc.ir.graph import Graph, Value
from graphc.ir.op import Example, Op, Sample, away_from_zero, classes, normal, operator
from graphc.ir.types import REAL, TensorType

# -- element by element ---------------------------------------------------------------------------


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
        return _truncated(x, self.dtype)

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


def _truncated(x: np.ndarray, dtype: str) -> np.ndarray:
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


# -- making values --------------------------------------------------------------------------------


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
        whole = label if label.dtype.kind != "f" else _truncated(label, "int64")
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


# -- shapes ---------------------------------------------------------------------------------------


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


@operator
class Transpose(Op):
    """y's axis i is x's axis permutation[i], as numpy.transpose has it."""

    permutation: tuple[int, ...]

    def infer(self, x: TensorType) -> TensorType:
        need(
            sorted(self.permutation) == list(range(x.rank)),
            f"transpose: {list(self.permutation)} is no permutation of the axes of {x}",
        )
        return x.with_shape(*(x.shape[axis] for axis in self.permutation))

    def reference(self, x: np.ndarray) -> Any:
        return x.transpose(self.permutation)

    def gradient(self, dy: Value, y: Value, x: Value) -> Any:
        inverse = sorted(range(len(self.permutation)), key=self.permutation.__getitem__)
        return Transpose(tuple(inverse))(dy)

    def kernel(self, k: Any, x: Any, y: Any) -> None:
        i = k.each(*y.shape)
        where = dict(zip(self.permutation, i, strict=True))
        y[*i] = x[*(where[axis] for axis in range(x.rank))]

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls((0, 2, 3, 1)), normal(2, 3, 4, 5))
        yield Example(cls((2, 0, 1)), normal(2, 3, 4))


def _check_axes(name: str, axes: tuple[int, ...], rank: int, shown: object) -> None:
    fine = len(set(axes)) == len(axes) and all(0 <= axis < rank for axis in axes)
    need(fine, f"{name}: {list(axes)} are not distinct axes of {shown}")


def _without(items: Any, axes: tuple[int, ...]) -> tuple[Any, ...]:
    return tuple(item for axis, item in enumerate(items) if axis not in axes)


def _sum_kernel(k: Any, x: Any, y: Any, axes: tuple[int, ...], keep: bool, factor: float) -> None:
    kept = iter(k.each(*_without(x.shape, axes)))
    folded = [axis for axis in range(x.rank) if axis in axes]
    over = dict(zip(folded, k.axes(*(x.shape[axis] for axis in folded)), strict=True))
    index = [over[axis] if axis in over else next(kept) for axis in range(x.rank)]
    total = k.sum(list(over.values()), x[*index]) if over else x[*index]
    place = [0 if axis in over else i for axis, i in enumerate(index) if keep or axis not in over]
    y[*place] = total if factor == 1.0 else total * factor


@operator
class Sum(Op):
    """Sum over `axes`, which go, or stay with extent 1 where `keep` is set."""

    axes: tuple[int, ...]
    keep: bool = False

    def infer(self, x: TensorType) -> TensorType:
        _check_axes("sum", self.axes, x.rank, x)
        if self.keep:
            return x.with_shape(*(1 if a in self.axes else e for a, e in enumerate(x.shape)))
        return x.with_shape(*_without(x.shape, self.axes))

    def reference(self, x: np.ndarray) -> Any:
        return np.asarray(x.sum(self.axes, keepdims=self.keep, dtype=x.dtype))

    def gradient(self, dy: Value, y: Value, x: Value) -> Any:
        flat = View(_without(x.shape, self.axes))(dy) if self.keep else dy
        return Broadcast(x.shape, self.axes)(flat)

    def kernel(self, k: Any, x: Any, y: Any) -> None:
        _sum_kernel(k, x, y, self.axes, self.keep, 1.0)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls((0, 2, 3)), normal(2, 3, 4, 5))
        yield Example(cls((1,), keep=True), normal(2, 3, 4, 5))
        yield Example(cls((0, 1)), normal(3, 4))


@operator
class Mean(Op):
    """Mean over `axes`, which go."""

    axes: tuple[int, ...]

    def infer(self, x: TensorType) -> TensorType:
        _check_axes("mean", self.axes, x.rank, x)
        need(self._count(x.shape), f"mean: {x} has no elements along {list(self.axes)}")
        return x.with_shape(*_without(x.shape, self.axes))

    def _count(self, shape: tuple[int, ...]) -> int:
        return math.prod(shape[axis] for axis in self.axes)

    def reference(self, x: np.ndarray) -> Any:
        return np.asarray(x.mean(self.axes, dtype=x.dtype))

    def gradient(self, dy: Value, y: Value, x: Value) -> Any:
        return Broadcast(x.shape, self.axes)(dy * (1.0 / self._count(x.shape)))

    def kernel(self, k: Any, x: Any, y: Any) -> None:
        _sum_kernel(k, x, y, self.axes, False, 1.0 / self._count(x.shape))

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls((2, 3)), normal(2, 3, 4, 5))
        yield Example(cls((0,)), normal(6))


@operator
class Broadcast(Op):
    """x repeated along `axes` of `shape`; x's axes are the others, in order."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]

    def infer(self, x: TensorType) -> TensorType:
        _check_axes("broadcast", self.axes, len(self.shape), list(self.shape))
        expected = _without(self.shape, self.axes)
        need(
            x.shape == expected,
            f"broadcast: {x} is not {list(expected)}, which {list(self.shape)} is"
            f" without axes {list(self.axes)}",
        )
        return x.with_shape(*self.shape)

    def reference(self, x: np.ndarray) -> Any:
        return np.broadcast_to(np.expand_dims(x, self.axes), self.shape).copy()

    def gradient(self, dy: Value, y: Value, x: Value) -> Any:
        return Sum(self.axes)(dy)

    def kernel(self, k: Any, x: Any, y: Any) -> None:
        i = k.each(*self.shape)
        y[*i] = x[*_without(i, self.axes)]

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls((2, 3, 4, 5), (0, 2, 3)), normal(3))
        yield Example(cls((2, 3, 4, 5), (1,)), away_from_zero(2, 4, 5))
        yield Example(cls((2, 3), (0, 1)), normal())


def integers(dtype: str, *shape: int) -> Sample:
    """Whole numbers 0 .. 9 of an integer type; not differentiable."""
    return Sample(
        TensorType(dtype, shape), lambda rng: np.asarray(rng.integers(0, 10, shape), dtype), False
    )
