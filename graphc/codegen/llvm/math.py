"""Vector functions, emitted inline: no call to a mathematics library is ever made.

    math = VectorMath(builder, module, target)
    y = math.exp(x)                       # x: float, double, or a vector of either

Largest errors measured, in units in the last place, with and without FMA, on 40000 numbers of
every kind (tests/test_vector_math.py), the float32 functions of one number on every 61st too:

              exp  expm1  log  log1p  tanh  sigmoid  rsqrt  pow
    float32   1.2  1.7    0.9  0.9    1.3   1.8      1.5    0.6 (constant y: 3.2)
    float64   1.1  1.8    0.8  0.9    1.2   1.6      1.5    77 (constant y up to 8: 3.4)

The worst constant exponent is -3. 77 units, a relative error of
1.7e-14, come where x**y is near the ends of the range.

Zeros, denormals, infinities and nans are right everywhere, and no lane disturbs another.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from graphc.codegen.llvm import exponential, ir, logarithm, power
from graphc.codegen.llvm.arithmetic import Arithmetic


class VectorMath(Arithmetic):
    """All functions as methods: real values of one type in, one value of that type out.

    max, min, abs and sign take integers as well. The arithmetic ones (fma, sqrt, rsqrt, abs, max,
    min, floor, round, sign, copysign, polynomial, constant) come from `Arithmetic`.
    """

    def exp(self, x: ir.Value, at_most_zero: bool = False) -> ir.Value:
        """e**x. `at_most_zero` promises x <= 0 or nan and saves an instruction."""
        return exponential.exp(self, x, at_most_zero)

    def expm1(self, x: ir.Value) -> ir.Value:
        """e**x - 1, relatively right near 0."""
        return exponential.expm1(self, x)

    def sigmoid(self, x: ir.Value) -> ir.Value:
        """1 / (1 + e**-x), relatively right at both ends."""
        return exponential.sigmoid(self, x)

    def tanh(self, x: ir.Value) -> ir.Value:
        """Hyperbolic tangent."""
        return exponential.tanh(self, x)

    def log(self, x: ir.Value) -> ir.Value:
        """Natural logarithm: -inf of 0, nan below."""
        return logarithm.log(self, x)

    def log1p(self, x: ir.Value) -> ir.Value:
        """log(1 + x), relatively right near 0."""
        return logarithm.log1p(self, x)

    def pow(self, x: ir.Value, y: ir.Value | float, at_least: float = -math.inf) -> ir.Value:
        """x ** y. A number, or a constant of this module's making, takes the ways of pow_const.

        `at_least` promises that x is not below it, or nan.
        """
        number = exponent_number(y)
        if number is None:
            assert isinstance(y, ir.Value)
            return power.pow(self, x, y)
        return self.pow_const(x, number, at_least)

    def pow_const(self, x: ir.Value, y: float, at_least: float = -math.inf) -> ir.Value:
        """x ** y for a number y; `at_least` as for `pow`."""
        return power.pow_const(self, x, float(y), at_least)


def exponent_number(y: ir.Value | float) -> float | None:
    """The number that y holds in all lanes, if it is known here."""
    if isinstance(y, int | float):
        return float(y)
    if isinstance(y, ir.Constant) and isinstance(y.constant, int | float):
        return float(y.constant)
    return None


# The kernel language's functions of reals that are emitted here, by name.
FUNCTIONS: dict[str, Callable[..., ir.Value]] = {
    "exp": VectorMath.exp,
    "expm1": VectorMath.expm1,
    "log": VectorMath.log,
    "log1p": VectorMath.log1p,
    "tanh": VectorMath.tanh,
    "sigmoid": VectorMath.sigmoid,
    "pow": VectorMath.pow,
    "sqrt": VectorMath.sqrt,
    "rsqrt": VectorMath.rsqrt,
    "abs": VectorMath.abs,
    "max": VectorMath.max,
    "min": VectorMath.min,
    "floor": VectorMath.floor,
    "round": VectorMath.round,
    "sign": VectorMath.sign,
    "fma": VectorMath.fma,
}
