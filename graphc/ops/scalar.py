"""Scalar expressions of the kernel language: their derivatives, and their values in numpy.

An elementwise operator is written as one expression (graphc.ops.elementwise.Map). Its gradient is
`derivative` of that expression, its reference `evaluate`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from graphc.error import NetError
from graphc.ir.types import REAL
from graphc.kernel.functions import apply
from graphc.kernel.lang import Call, Const, Expr, Local, call, constant

Array = np.ndarray


def derivative(expr: Expr, by: Local) -> Expr:
    """d expr / d by. Conditions count as constants, so at a kink the branch taken decides.

    Raises NetError for a function that has no derivative here.
    """
    found = _derivative(expr, by)
    return constant(0, expr.dtype) if found is None else found


def _derivative(expr: Expr, by: Local) -> Expr | None:
    """The derivative, None where it is zero everywhere."""
    if expr == by:
        return constant(1, expr.dtype)
    if not isinstance(expr, Call) or expr.dtype not in REAL:
        return None
    if expr.function == "select":
        return _of_select(expr.args[0], expr.args[1], expr.args[2], by)
    inner = [_derivative(argument, by) for argument in expr.args]
    if all(part is None for part in inner):
        return None
    if len(inner) == 1:
        assert inner[0] is not None
        return _of_function(expr, expr.args[0], inner[0])
    return _of_pair(expr, expr.args[0], expr.args[1], inner[0], inner[1], by)


def _of_select(condition: Expr, yes: Expr, no: Expr, by: Local) -> Expr | None:
    changes = [_derivative(yes, by), _derivative(no, by)]
    if changes == [None, None]:
        return None
    zero = constant(0, yes.dtype)
    return call("select", condition, *(zero if part is None else part for part in changes))


def _of_function(y: Call, x: Expr, dx: Expr) -> Expr | None:
    """Chain rule for a function of one argument."""
    rules: dict[str, Callable[[], Expr]] = {
        "neg": lambda: -dx,
        "abs": lambda: _times(call("sign", x), dx),
        "exp": lambda: _times(y, dx),
        "expm1": lambda: _times(call("exp", x), dx),
        "log": lambda: dx / x,
        "log1p": lambda: dx / (x + 1.0),
        "sqrt": lambda: _times(0.5 / y, dx),
        "tanh": lambda: _times(1.0 - y * y, dx),
        "sigmoid": lambda: _times(y * (1.0 - y), dx),
        "cast": lambda: call("cast", dx, dtype=y.dtype),
    }
    if y.function in ("sign", "floor", "round"):
        return None
    if y.function not in rules:
        raise NetError(f"the scalar function '{y.function}' has no derivative")
    return rules[y.function]()


def _of_pair(
    y: Call, left: Expr, right: Expr, dleft: Expr | None, dright: Expr | None, by: Local
) -> Expr | None:
    """Chain rule for a function of two arguments; at least one of them changes."""
    match y.function:
        case "add":
            return _sum(dleft, dright)
        case "sub":
            return _sum(dleft, None if dright is None else -dright)
        case "mul":
            return _sum(_product(dleft, right), _product(dright, left))
        case "div":
            from_right = None if dright is None else -_times(y / right, dright)
            return _sum(None if dleft is None else dleft / right, from_right)
        case "max":
            return _of_select(right < left, left, right, by)
        case "min":
            return _of_select(left < right, left, right, by)
        case "pow":
            from_base = _product(dleft, right * _power(left, right - 1.0))
            return _sum(from_base, _product(dright, y * call("log", left)))
    raise NetError(f"the scalar function '{y.function}' has no derivative")


def _power(base: Expr, exponent: Expr) -> Expr:
    """base ** exponent; the exponent is folded where it is a difference of constants."""
    match exponent:
        case Call("sub", (Const() as a, Const() as b)):
            return call("pow", base, constant(a.value - b.value, base.dtype))
    return call("pow", base, exponent)


def _times(factor: Expr, dx: Expr) -> Expr:
    return factor if dx == constant(1, dx.dtype) else factor * dx


def _product(dx: Expr | None, factor: Expr) -> Expr | None:
    return None if dx is None else _times(factor, dx)


def _sum(left: Expr | None, right: Expr | None) -> Expr | None:
    if left is None or right is None:
        return right if left is None else left
    return left + right


def evaluate(expr: Expr, values: Mapping[Local, Array]) -> Array:
    """The expression with arrays (of one shape) for its locals."""
    if isinstance(expr, Local):
        return values[expr]
    if isinstance(expr, Const):
        return np.asarray(expr.value, expr.dtype)
    if not isinstance(expr, Call):
        raise NetError("an elementwise expression may hold numbers, its inputs and functions only")
    arguments = [evaluate(argument, values) for argument in expr.args]
    with np.errstate(all="ignore"):
        return apply(expr, arguments)
