"""The neurons: elementwise functions of one input, and PReLU.

Those that frameworks run in place (ReLU, Sigmoid, TanH, ELU, Exp) have a gradient that reads the
output, so the input's memory is free as soon as the output is written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from graphc.error import need
from graphc.ir.op import Example, away_from_zero, normal, operator, positive
from graphc.ir.types import TensorType
from graphc.kernel.build import Writer
from graphc.kernel.lang import Expr
from graphc.ops.elementwise import Map


@operator
class Relu(Map):
    """x where x > 0, else negative_slope * x; at 0 the derivative is negative_slope."""

    negative_slope: float = 0.0

    def scalar(self, k: Writer, x: Expr) -> Expr:
        if self.negative_slope == 0:
            return k.maximum(x, 0.0)
        return k.select(x > 0.0, x, x * self.negative_slope)

    def derivative(self, k: Writer, wrt: int, y: Expr, *x: Expr) -> Expr:
        # A slope of at least 0 leaves the sign as it is, so y tells what x was.
        sign = y if self.negative_slope >= 0 else x[0]
        one = k.number(1.0, y.dtype)
        return k.select(sign > 0.0, one, self.negative_slope)

    def keeps_order(self) -> bool:
        return self.negative_slope >= 0

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), away_from_zero(2, 3, 4))
        yield Example(cls(0.1), away_from_zero(7))
        yield Example(cls(-0.5), away_from_zero(3, 5))


@operator
class Prelu(Map):
    """x where x > 0, else slope * x, the slope being the second input."""

    def scalar(self, k: Writer, x: Expr, slope: Expr) -> Expr:
        return k.select(x > 0.0, x, slope * x)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), away_from_zero(2, 3), normal(2, 3))


@operator
class Elu(Map):
    """x where x > 0, else alpha * (e^x - 1) (arXiv 1511.07289)."""

    alpha: float = 1.0

    def scalar(self, k: Writer, x: Expr) -> Expr:
        return k.select(x > 0.0, x, k.expm1(k.minimum(x, 0.0)) * self.alpha)

    def derivative(self, k: Writer, wrt: int, y: Expr, *x: Expr) -> Expr:
        one = k.number(1.0, y.dtype)
        if self.alpha > 0:
            return k.select(y > 0.0, one, y + self.alpha)
        return k.select(x[0] > 0.0, one, k.exp(k.minimum(x[0], 0.0)) * self.alpha)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), away_from_zero(2, 3))
        yield Example(cls(0.3), away_from_zero(2, 3))
        yield Example(cls(-0.5), away_from_zero(5))


@operator
class Sigmoid(Map):
    """1 / (1 + e^-x)."""

    once_only = True

    def scalar(self, k: Writer, x: Expr) -> Expr:
        return k.sigmoid(x)

    def derivative(self, k: Writer, wrt: int, y: Expr, *x: Expr) -> Expr:
        return y * (1.0 - y)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(2, 3, scale=3.0))


@operator
class Tanh(Map):
    """The hyperbolic tangent."""

    def scalar(self, k: Writer, x: Expr) -> Expr:
        return k.tanh(x)

    def derivative(self, k: Writer, wrt: int, y: Expr, *x: Expr) -> Expr:
        return 1.0 - y * y

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(2, 3))


@operator
class Abs(Map):
    """The magnitude; its derivative at 0 is 0."""

    def scalar(self, k: Writer, x: Expr) -> Expr:
        return k.abs(x)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), away_from_zero(2, 3))


@operator
class Power(Map):
    """(shift + scale * x) ** power; where scale or power is 0, a constant with gradient 0."""

    power: float = 1.0
    scale: float = 1.0
    shift: float = 0.0

    def scalar(self, k: Writer, x: Expr) -> Expr:
        if self.power == 0 or self.scale == 0:
            constant = 1.0 if self.power == 0 else _constant_power(self.shift, self.power)
            return k.number(constant, x.dtype)
        return raised(k, line(x, self.scale, self.shift), self.power)

    def derivative(self, k: Writer, wrt: int, y: Expr, *x: Expr) -> Expr:
        if self.power == 0 or self.scale == 0:
            return k.number(0.0, y.dtype)
        if self.power == 1:
            return k.number(self.scale, y.dtype)
        base = line(x[0], self.scale, self.shift)
        return raised(k, base, self.power - 1) * (self.power * self.scale)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(2.0, 0.5, 1.0), normal(2, 3))
        yield Example(cls(3.0), normal(5))
        yield Example(cls(-0.75, 0.3, 1.0), positive(2, 3))
        yield Example(cls(0.5, 2.0), positive(4))
        yield Example(cls(1.0, -2.0, 0.5), normal(4))
        yield Example(cls(0.0, 2.0, 0.5), normal(4))
        yield Example(cls(2.0, 0.0, 3.0), normal(4))


def _constant_power(base: float, power: float) -> float:
    """base ** power as IEEE has it: nan and infinity where Python would raise or turn complex."""
    try:
        result = base**power
    except ZeroDivisionError:
        return math.inf
    return result if isinstance(result, float) else math.nan


def line(x: Expr, scale: float, shift: float) -> Expr:
    """shift + scale * x, without the steps that change nothing."""
    scaled = x if scale == 1 else x * scale
    return scaled if shift == 0 else scaled + shift


def raised(k: Writer, base: Expr, power: float) -> Expr:
    """base ** power, as multiplications and square roots where a few of them do."""
    if power == 1:
        return base
    if power == 2:
        return base * base
    if power == 3:
        return base * base * base
    if power == 0.5:
        return k.sqrt(base)
    if power == -1:
        return 1.0 / base
    return k.power(base, power)


@operator
class Exp(Map):
    """base ** (shift + scale * x); base -1 stands for e, as in Caffe."""

    base: float = -1.0
    scale: float = 1.0
    shift: float = 0.0

    def infer(self, *inputs: TensorType) -> TensorType:
        _need_base(self.base, self.op_name)
        return super().infer(*inputs)

    def scalar(self, k: Writer, x: Expr) -> Expr:
        rate = _log_base(self.base)
        return k.exp(line(x, rate * self.scale, rate * self.shift))

    def derivative(self, k: Writer, wrt: int, y: Expr, *x: Expr) -> Expr:
        return y * (_log_base(self.base) * self.scale)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(2, 3))
        yield Example(cls(2.0, 0.5, 1.0), normal(2, 3))


@operator
class Log(Map):
    """The logarithm to `base` of shift + scale * x; base -1 stands for e, as in Caffe."""

    base: float = -1.0
    scale: float = 1.0
    shift: float = 0.0

    def infer(self, *inputs: TensorType) -> TensorType:
        _need_base(self.base, self.op_name)
        need(self.base != 1, "log cannot have base 1")
        return super().infer(*inputs)

    def scalar(self, k: Writer, x: Expr) -> Expr:
        natural = k.log(line(x, self.scale, self.shift))
        rate = _log_base(self.base)
        return natural if rate == 1 else natural * (1.0 / rate)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), positive(2, 3))
        yield Example(cls(10.0, 0.5, 1.0), positive(2, 3))


def _need_base(base: float, name: str) -> None:
    need(base == -1 or base > 0, f"{name} needs a base above 0 (or -1 for e), not {base:g}")


def _log_base(base: float) -> float:
    return 1.0 if base == -1 else math.log(base)


@operator
class Clip(Map):
    """x limited to low .. high; the gradient passes at both bounds."""

    low: float
    high: float

    def scalar(self, k: Writer, x: Expr) -> Expr:
        return k.maximum(k.minimum(x, self.high), self.low)

    def derivative(self, k: Writer, wrt: int, y: Expr, *x: Expr) -> Expr:
        inside = (x[0] >= self.low) & (x[0] <= self.high)
        return k.select(inside, k.number(1.0, y.dtype), 0.0)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(-0.1, 0.15), away_from_zero(9))


@operator
class Swish(Map):
    """x * sigmoid(beta * x) (arXiv 1710.05941)."""

    beta: float = 1.0

    def scalar(self, k: Writer, x: Expr) -> Expr:
        return x * k.sigmoid(line(x, self.beta, 0.0))

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(2, 3))
        yield Example(cls(1.5), normal(2, 3))


@operator
class Threshold(Map):
    """1 where x > threshold, else 0; it has no gradient."""

    threshold: float = 0.0
    gradient_stops = True

    def scalar(self, k: Writer, x: Expr) -> Expr:
        return k.select(x > self.threshold, k.number(1.0, x.dtype), 0.0)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), away_from_zero(2, 3))
        yield Example(cls(0.5), normal(9))
