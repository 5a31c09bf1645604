"""An elementwise operator that torch has no function for: its expression, call by call.

max(sub(1.0, x), 0.0)   becomes   torch.clamp(1.0 - x, min=0.0)
"""

from __future__ import annotations

import operator as python
from collections.abc import Callable, Mapping
from typing import Any

from graphc.bench.torch_emit import Emit, arguments
from graphc.error import NetError
from graphc.ir.graph import Node
from graphc.kernel.build import Writer
from graphc.kernel.lang import Call, Const, Expr, Local

# Functions of the kernel language that Python's operators stand for, with numbers on either side.
_OPERATORS: dict[str, Callable[..., Any]] = {
    "add": python.add,
    "sub": python.sub,
    "mul": python.mul,
    "div": python.truediv,
    "floordiv": python.floordiv,
    "mod": python.mod,
    "neg": python.neg,
    "pow": python.pow,
    "lt": python.lt,
    "le": python.le,
    "eq": python.eq,
    "and": python.and_,
    "or": python.or_,
    "not": python.invert,
}

# Those that torch calls the same, of one tensor.
_SAME = ("abs", "sign", "exp", "log", "log1p", "expm1", "sqrt", "tanh", "sigmoid", "floor", "round")


def translate_map(emit: Emit, node: Node, op: Any) -> Any:
    """The value of an elementwise operator (`graphc.ops.elementwise.Map`).

    Raises NetError for a function that torch has not.
    """
    names = [Local(f"x{n}", value.type.dtype) for n, value in enumerate(node.inputs)]
    values: dict[Expr, Any] = dict(zip(names, arguments(emit, node), strict=True))
    return _Translation(emit, values).of(op.scalar(Writer(op.op_name), *names))


class _Translation:
    """The values of an expression's parts. A number stays a number where torch takes one."""

    def __init__(self, emit: Emit, values: Mapping[Expr, Any]):
        self._emit = emit
        self._values = values
        self._known = dict(values)

    def of(self, expr: Expr) -> Any:
        """A value; equal parts are computed once."""
        if expr not in self._known:
            self._known[expr] = self._made(expr)
        return self._known[expr]

    def _made(self, expr: Expr) -> Any:
        if isinstance(expr, Const):
            return expr.value
        if not isinstance(expr, Call):
            raise NetError("an elementwise expression holds numbers, its inputs and functions only")
        torch, call = self._emit.torch, self._emit.call
        parts = [self.of(argument) for argument in expr.args]
        if expr.function in _OPERATORS:
            return call(_OPERATORS[expr.function], *parts)
        if expr.function in _SAME:
            return call(getattr(torch, expr.function), *parts)
        if expr.function in ("max", "min"):
            return self._limited(expr, parts)
        if expr.function == "select":
            return call(torch.where, parts[0], self._tensor(expr.args[1]), parts[2])
        raise NetError(f"the torch rival has no function '{expr.function}'")

    def _limited(self, expr: Call, parts: list[Any]) -> Any:
        torch, call = self._emit.torch, self._emit.call
        for number, other in (expr.args, expr.args[::-1]):
            if isinstance(number, Const):
                side = {"max": "min", "min": "max"}[expr.function]
                return call(torch.clamp, self.of(other), **{side: number.value})
        return call(torch.maximum if expr.function == "max" else torch.minimum, *parts)

    def _tensor(self, expr: Expr) -> Any:
        """A tensor, so that a choice between two numbers has the inputs' type."""
        if not isinstance(expr, Const):
            return self.of(expr)
        return self._emit.call(
            self._emit.torch.full_like, next(iter(self._values.values())), expr.value
        )
