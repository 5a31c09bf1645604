"""Elementwise operators: a class says one scalar expression, `Map` gives all the rest.

    @operator
    class Softplus(Map):
        \"\"\"log(1 + e^x).\"\"\"

        def scalar(self, k, x):
            return k.maximum(x, 0.0) + k.log1p(k.exp(-k.abs(x)))

The gradient is one operator for all of them, `MapGradient`: dy times the derivative of the
expression, found symbolically. A class that can say its derivative better, or through its output y
(so that x need not be kept until the backward pass), overrides `derivative`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from graphc.error import NetError, need
from graphc.ir.op import Example, Op, away_from_zero, distinct, lookup, normal, operator, positive
from graphc.ir.types import TensorType
from graphc.kernel.build import Array, Writer
from graphc.kernel.lang import Expr, Local
from graphc.kernel.walk import rebuild, walk
from graphc.ops import scalar as scalars


class Map(Op):
    """y[i] = scalar(x0[i], x1[i], ...) at every index i; all inputs have one type."""

    def scalar(self, k: Writer, *x: Any, **named: Any) -> Expr:
        """The expression, in the words of `k` that make expressions (no folds, no lets).

        The inputs come in order; so wide a type lets a class give each a name.
        """
        raise NotImplementedError

    def derivative(self, k: Writer, wrt: int, y: Expr, *x: Expr) -> Expr:
        """d scalar / d x[wrt], written with y, the operator's own result, or with x."""
        inputs = [Local(f"x{position}", value.dtype) for position, value in enumerate(x)]
        found = scalars.derivative(self.scalar(k, *inputs), inputs[wrt])
        return rebuild(found, dict(zip(inputs, x, strict=True)))

    def infer(self, *inputs: TensorType) -> TensorType:
        need(inputs, f"{self.op_name} needs an input")
        need(
            all(other == inputs[0] for other in inputs) and inputs[0].is_real,
            f"{self.op_name} needs real inputs of one shape and type,"
            f" not {', '.join(map(str, inputs))}",
        )
        return inputs[0]

    def reference(self, *inputs: np.ndarray) -> np.ndarray:
        names = [Local(f"x{position}", str(x.dtype)) for position, x in enumerate(inputs)]
        result = scalars.evaluate(self.scalar(Writer(self.op_name), *names), _named(names, inputs))
        return np.asarray(np.broadcast_to(result, inputs[0].shape), inputs[0].dtype)

    def viewed(self, old: tuple[int, ...], new: tuple[int, ...]) -> Op | None:
        return self

    def gradient(self, dy: Any, y: Any, *inputs: Any) -> tuple[Any, ...]:
        made = []
        for wrt in range(len(inputs)):
            part = MapGradient(self.op_name, tuple(self.fields().values()), wrt, len(inputs))
            available = (y, *inputs)
            made.append(part(dy, *(available[position] for position in part.reads())))
        return tuple(made)

    def kernel(self, k: Writer, *buffers: Array) -> None:
        *inputs, result = buffers
        i = tuple(k.each(*result.shape))
        names = [Local(f"input{position}", x.dtype) for position, x in enumerate(inputs)]
        expr = self.scalar(k, *names)
        uses = [part for part in walk(expr) if part in names]
        values: dict[Expr, Expr] = {
            name: k.let(x[i]) if uses.count(name) > 1 else x[i]
            for name, x in zip(names, inputs, strict=True)
        }
        result[i] = rebuild(expr, values)


def _named(names: list[Local], arrays: tuple[np.ndarray, ...]) -> dict[Local, np.ndarray]:
    return dict(zip(names, arrays, strict=True))


class SlopeOfMap(Map):
    """dy times `slope`: the base of gradients that come from differentiating an expression.

    Inputs: dy, then what the slope reads of the values it may, in that order.
    """

    of: str

    def slope(self, k: Writer, dtype: str) -> tuple[Expr, list[Local]]:
        """The derivative, and the names in it of all values that it may read."""
        raise NotImplementedError

    def reads(self) -> tuple[int, ...]:
        """Positions of the values that the slope reads."""
        expr, names = self.slope(Writer(self.of), "float64")
        parts = set(walk(expr))
        return tuple(position for position, name in enumerate(names) if name in parts)

    def scalar(self, k: Writer, *x: Expr) -> Expr:
        dy, *given = x
        expr, names = self.slope(k, dy.dtype)
        values: dict[Expr, Expr] = dict(
            zip((names[position] for position in self.reads()), given, strict=True)
        )
        return dy * rebuild(expr, values)

    def infer(self, *inputs: TensorType) -> TensorType:
        wanted = 1 + len(self.reads())
        need(
            len(inputs) == wanted,
            f"the gradient of {self.of} takes {wanted} inputs here, not {len(inputs)}",
        )
        return super().infer(*inputs)


@operator
class MapGradient(SlopeOfMap):
    """dy * d scalar / d x[wrt] of the elementwise operator `of` with those `fields`.

    Inputs: dy, then what the derivative reads among y and the `count` inputs, in that order.
    """

    of: str
    fields_of: tuple[Any, ...]
    wrt: int
    count: int

    def operator(self) -> Map:
        """The operator this is a gradient of. Raises NetError where it is not elementwise."""
        made = lookup(self.of)(*self.fields_of)
        if not isinstance(made, Map):
            raise NetError(f"'{self.of}' is not an elementwise operator")
        return made

    def slope(self, k: Writer, dtype: str) -> tuple[Expr, list[Local]]:
        """The names are those of y, then of the inputs."""
        names = _forward_names(self.count, dtype)
        return self.operator().derivative(k, self.wrt, names[0], *names[1:]), names

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls("relu", (0.1,), 0, 1), normal(2, 3), away_from_zero(2, 3))
        yield Example(cls("power", (3.0, 2.0, 1.0), 0, 1), normal(5), positive(5))
        yield Example(cls("product", (False,), 1, 3), normal(4), normal(4), normal(4))
        yield Example(cls("sigmoid", (), 0, 1), normal(2, 3), normal(2, 3))


def _forward_names(count: int, dtype: str) -> list[Local]:
    return [Local("y", dtype), *(Local(f"x{position}", dtype) for position in range(count))]


@operator
class Product(Map):
    """The product of any number of inputs.

    Where `divide` is set the gradient is dy * y / x, as Caffe computes it with
    `stable_prod_grad: false`: not a number where x is 0. Otherwise it is dy times all the others.
    """

    divide: bool = False

    def scalar(self, k: Writer, *x: Expr) -> Expr:
        return _product(k, x)

    def derivative(self, k: Writer, wrt: int, y: Expr, *x: Expr) -> Expr:
        if self.divide:
            return y / x[wrt]
        others = x[:wrt] + x[wrt + 1 :]
        return _product(k, others) if others else k.number(1.0, y.dtype)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(2, 3), normal(2, 3))
        yield Example(cls(), normal(4), normal(4), normal(4))
        yield Example(cls(divide=True), away_from_zero(4), away_from_zero(4))


def _product(k: Writer, x: tuple[Expr, ...]) -> Expr:
    result = x[0]
    for factor in x[1:]:
        result = result * factor
    return result


@operator
class Maximum(Map):
    """The largest of any number of inputs.

    The gradient goes to one of them, by Caffe's rule for ties: between inputs 0 and 1 a tie goes to
    1; a later input must be strictly greater.
    """

    def scalar(self, k: Writer, *x: Expr) -> Expr:
        result = x[0]
        for other in x[1:]:
            result = k.maximum(result, other)
        return result

    def derivative(self, k: Writer, wrt: int, y: Expr, *x: Expr) -> Expr:
        one, zero = k.number(1.0, y.dtype), k.number(0.0, y.dtype)
        wins: Expr | None = None
        for position, other in enumerate(x):
            if position == wrt:
                continue
            takes_ties = (position, wrt) == (0, 1) or (position > wrt and (position, wrt) != (1, 0))
            beats = other <= x[wrt] if takes_ties else other < x[wrt]
            wins = beats if wins is None else wins & beats
        return one if wins is None else k.select(wins, one, zero)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), distinct(2, 3), normal(2, 3, scale=0.01))
        yield Example(cls(), distinct(4), normal(4, scale=0.01), normal(4, scale=1e-4))
