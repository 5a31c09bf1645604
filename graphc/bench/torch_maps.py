"""Neurons and other functions of single elements in torch."""

from __future__ import annotations

import math
import operator as python
from collections.abc import Callable
from typing import Any

from graphc.bench.torch_emit import Emit, arguments, as_type, made_by, translates, written_out
from graphc.bench.torch_scalars import translate_map
from graphc.ir.graph import Node

_OVERWRITABLE = ("conv", "add_bias", "add", "mat_mul", "standardize")


@translates("relu")
def _relu(emit: Emit, node: Node, op: Any) -> Any:
    (x,) = arguments(emit, node)
    inplace = made_by(emit, node.inputs[0], *_OVERWRITABLE) is not None
    if op.negative_slope:
        return emit.call(emit.functional.leaky_relu, x, op.negative_slope, inplace)
    return emit.call(emit.functional.relu, x, inplace)


def _plain(name: str, *path: str) -> None:
    """An operator without fields whose torch function is torch.<path>."""

    def translation(emit: Emit, node: Node, op: Any) -> Any:
        found = emit.torch
        for step in path:
            found = getattr(found, step)
        return emit.call(found, *arguments(emit, node))

    translates(name)(translation)


_plain("sigmoid", "sigmoid")
_plain("tanh", "tanh")
_plain("abs", "abs")
_plain("softplus", "nn", "functional", "softplus")


@translates("prelu")
def _prelu(emit: Emit, node: Node, op: Any) -> Any:
    """torch's function takes one slope a channel, which the graph repeats over the image."""
    x, slopes = node.inputs
    repeated = emit.producer(slopes)
    others = tuple(axis for axis in range(len(x.shape)) if axis != 1)
    if repeated is not None and repeated.op.op_name == "broadcast" and len(x.shape) > 1:
        source = repeated.inputs[0]
        by_channel = repeated.op.fields()["axes"] == others
        if by_channel or source.type.size == 1:
            flat = emit.call(emit.torch.flatten, emit.of(source))
            return emit.call(emit.torch.prelu, emit.of(x), flat)
    return translate_map(emit, node, op)


@translates("elu")
def _elu(emit: Emit, node: Node, op: Any) -> Any:
    return emit.call(emit.functional.elu, *arguments(emit, node), op.alpha)


@translates("clip")
def _clip(emit: Emit, node: Node, op: Any) -> Any:
    return emit.call(emit.torch.clamp, *arguments(emit, node), op.low, op.high)


def _line(emit: Emit, x: Any, scale: float, shift: float) -> Any:
    if scale != 1:
        x = emit.call(python.mul, x, scale)
    return emit.call(python.add, x, shift) if shift else x


@translates("power")
def _power(emit: Emit, node: Node, op: Any) -> Any:
    x = _line(emit, emit.of(node.inputs[0]), op.scale, op.shift)
    return x if op.power == 1 else emit.call(emit.torch.pow, x, op.power)


@translates("exp", "log")
def _exp_or_log(emit: Emit, node: Node, op: Any) -> Any:
    rate = 1.0 if op.base == -1 else math.log(op.base)
    (x,) = arguments(emit, node)
    if op.op_name == "exp":
        line = _line(emit, x, rate * op.scale, rate * op.shift)
        return emit.call(emit.torch.exp, line)
    natural = emit.call(emit.torch.log, _line(emit, x, op.scale, op.shift))
    return _line(emit, natural, 1 / rate, 0.0)


def _folded(name: str, function: Callable[[Emit], Callable[..., Any]]) -> None:
    """An operator of two or more inputs that torch takes two at a time."""

    def translation(emit: Emit, node: Node, op: Any) -> Any:
        first, *others = arguments(emit, node)
        for other in others:
            first = emit.call(function(emit), first, other)
        return first

    translates(name)(translation)


_folded("add", lambda emit: python.add)
_folded("multiply", lambda emit: python.mul)
_folded("product", lambda emit: python.mul)
_folded("quotient", lambda emit: python.truediv)
_folded("maximum", lambda emit: emit.torch.maximum)


@translates("quotient_or_zero")
def _quotient_or_zero(emit: Emit, node: Node, op: Any) -> Any:
    a, b = arguments(emit, node)
    quotient = emit.call(python.truediv, a, b)
    return emit.call(emit.torch.where, emit.call(python.eq, b, 0.0), 0.0, quotient)


@translates("shift")
def _shift(emit: Emit, node: Node, op: Any) -> Any:
    return emit.call(python.add, *arguments(emit, node), op.amount)


@translates("times")
def _times(emit: Emit, node: Node, op: Any) -> Any:
    return emit.call(python.mul, *arguments(emit, node), op.factor)


@translates("copy")
def _copy(emit: Emit, node: Node, op: Any) -> Any:
    return emit.of(node.inputs[0])


_plain("scaled", "mul")


@written_out("sum_of_squares")
def _sum_of_squares(torch: Any, op: Any, x: Any) -> Any:
    return x.square().sum(op.axes) if op.axes else x.square()


@translates("stop_gradient")
def _stop_gradient(emit: Emit, node: Node, op: Any) -> Any:
    return emit.call(emit.torch.detach, *arguments(emit, node))


@translates("cast")
def _cast(emit: Emit, node: Node, op: Any) -> Any:
    return emit.call(as_type, *arguments(emit, node), getattr(emit.torch, op.dtype))


@translates("dropout")
def _dropout(emit: Emit, node: Node, op: Any) -> Any:
    x = emit.of(node.inputs[0])
    if emit.masked:
        return emit.call(python.mul, x, emit.mask(node))
    return emit.call(emit.functional.dropout, x, op.ratio, True)


@translates("dropout_masked")
def _dropout_masked(emit: Emit, node: Node, op: Any) -> Any:
    kept = emit.call(python.mul, *arguments(emit, node))
    return emit.call(python.mul, kept, 1 / (1 - op.ratio))
