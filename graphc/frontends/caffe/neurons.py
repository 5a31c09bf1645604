"""Caffe's elementwise layers: the neurons, Eltwise, Scale and Bias."""

from __future__ import annotations

from collections.abc import Callable

from graphc.frontends.caffe.layer import LayerContext, layer
from graphc.frontends.caffe.message import Message
from graphc.frontends.caffe.shapes import axis_of
from graphc.ir.core.axes import Broadcast
from graphc.ir.graph import Value
from graphc.ir.op import Op
from graphc.ops.elementwise import Maximum, Product
from graphc.ops.linear import AddBias
from graphc.ops.linear import Scale as ScaleBy
from graphc.ops.neuron import (
    Abs,
    Clip,
    Elu,
    Exp,
    Log,
    Power,
    Prelu,
    Relu,
    Sigmoid,
    Swish,
    Tanh,
    Threshold,
)
from graphc.ops.softplus import Softplus

Shape = tuple[int, ...]


# -- what several layers share --------------------------------------------------------------------


def given_filler(options: Message, name: str) -> Message | None:
    """The filler message of that field, None where the text has none."""
    return options.get(name) if options.has(name) else None


def filler_or_constant(options: Message, name: str, value: float) -> Message:
    """The filler message of that field; where there is none, one that fills in `value`."""
    if options.has(name):
        given: Message = options.get(name)
        return given
    made = Message.empty("FillerParameter", options.span)
    made.add("type", "constant")
    made.add("value", value)
    return made


def same_shapes(c: LayerContext) -> None:
    """Raise unless all bottoms have the first one's shape."""
    first = c.bottoms[0].shape
    for name, bottom in zip(c.layer.bottoms, c.bottoms, strict=True):
        if bottom.shape != first:
            raise c.fail(
                f"all bottoms must have one shape, but '{c.layer.bottoms[0]}' is {list(first)}"
                f" and '{name}' is {list(bottom.shape)}"
            )


def _on_first(c: LayerContext, op: Op) -> Value:
    result: Value = op(c.bottoms[0])
    return result


# -- neurons --------------------------------------------------------------------------------------


@layer("ReLU", bottoms=1)
def relu(c: LayerContext) -> Value:
    """max(x, 0), or a slope below 0."""
    return _on_first(c, Relu(c.options("relu_param").get("negative_slope")))


@layer("Sigmoid", bottoms=1)
def sigmoid(c: LayerContext) -> Value:
    """1 / (1 + e^-x)."""
    return _on_first(c, Sigmoid())


@layer("TanH", bottoms=1)
def tanh(c: LayerContext) -> Value:
    """The hyperbolic tangent."""
    return _on_first(c, Tanh())


@layer("AbsVal", bottoms=1)
def absolute(c: LayerContext) -> Value:
    """The magnitude; Caffe refuses it in place."""
    if c.layer.tops and c.layer.tops[0] == c.layer.bottoms[0]:
        raise c.fail("AbsVal cannot work in place; give its top another name")
    return _on_first(c, Abs())


@layer("Power", bottoms=1)
def power(c: LayerContext) -> Value:
    """(shift + scale x) ^ power."""
    options = c.options("power_param")
    return _on_first(c, Power(options.get("power"), options.get("scale"), options.get("shift")))


@layer("Exp", bottoms=1)
def exp(c: LayerContext) -> Value:
    """base ^ (shift + scale x)."""
    return _on_first(c, _with_base(c, Exp, c.options("exp_param")))


@layer("Log", bottoms=1)
def log(c: LayerContext) -> Value:
    """The logarithm of shift + scale x."""
    return _on_first(c, _with_base(c, Log, c.options("log_param")))


def _with_base(c: LayerContext, op: Callable[[float, float, float], Op], options: Message) -> Op:
    base = options.get("base")
    if base != -1 and base <= 0:
        raise c.fail(f"base must be above 0, or -1 for e, not {base:g}", "base")
    return op(base, options.get("scale"), options.get("shift"))


@layer("BNLL", bottoms=1)
def softplus(c: LayerContext) -> Value:
    """log(1 + e^x)."""
    return _on_first(c, Softplus())


@layer("ELU", bottoms=1)
def elu(c: LayerContext) -> Value:
    """x, or alpha (e^x - 1) below 0."""
    return _on_first(c, Elu(c.options("elu_param").get("alpha")))


@layer("Clip", bottoms=1)
def clip(c: LayerContext) -> Value:
    """x limited to min .. max."""
    options = c.options("clip_param")
    for bound in ("min", "max"):
        if not options.has(bound):
            raise c.fail(f"clip_param needs {bound}", bound)
    return _on_first(c, Clip(options.get("min"), options.get("max")))


@layer("Swish", bottoms=1)
def swish(c: LayerContext) -> Value:
    """x sigmoid(beta x)."""
    return _on_first(c, Swish(c.options("swish_param").get("beta")))


@layer("Threshold", bottoms=1)
def threshold(c: LayerContext) -> Value:
    """1 above the threshold, else 0."""
    return _on_first(c, Threshold(c.options("threshold_param").get("threshold")))


@layer("PReLU", bottoms=1)
def prelu(c: LayerContext) -> Value:
    """x, or a learned slope times x below 0: one slope a channel, or one in all."""
    options = c.options("prelu_param")
    x = c.bottoms[0]
    if len(x.shape) < 2:
        raise c.fail(f"PReLU takes a bottom of at least 2 axes, not {list(x.shape)}")
    shape = () if options.get("channel_shared") else (x.shape[1],)
    slope = c.parameter(0, shape, filler_or_constant(options, "filler", 0.25))
    others = tuple(axis for axis in range(len(x.shape)) if axis != 1 or not shape)
    result: Value = Prelu()(x, Broadcast(x.shape, others)(slope))
    return result


# -- several inputs -------------------------------------------------------------------------------


@layer("Eltwise")
def eltwise(c: LayerContext) -> Value:
    """Sum (with coefficients), product or maximum of bottoms of one shape."""
    options = c.options("eltwise_param")
    operation = options.get("operation")
    coefficients: list[float] = options.all("coeff")
    if len(c.bottoms) < 2:
        raise c.fail(f"Eltwise takes at least 2 bottoms, not {len(c.bottoms)}")
    same_shapes(c)
    if coefficients and operation == "PROD":
        raise c.fail("coeff is for sums; a product takes none", "coeff")
    if coefficients and len(coefficients) != len(c.bottoms):
        raise c.fail(f"{len(coefficients)} coeff for {len(c.bottoms)} bottoms", "coeff")
    if operation == "PROD":
        op: Op = Product(divide=not options.get("stable_prod_grad"))
    elif operation == "MAX":
        op = Maximum()
    else:
        return _weighted_sum(c.bottoms, coefficients or [1.0] * len(c.bottoms))
    result: Value = op(*c.bottoms)
    return result


def _weighted_sum(values: list[Value], coefficients: list[float]) -> Value:
    parts = [
        value if coefficient == 1 else value * float(coefficient)
        for value, coefficient in zip(values, coefficients, strict=True)
    ]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _matching_axis(c: LayerContext, options: Message, shape: Shape) -> int:
    """The axis of bottom 0 from which on bottom 1 (or the parameter) is matched."""
    if not shape:
        return 0
    x = c.bottoms[0]
    axis = axis_of(c, options, x)
    if x.shape[axis : axis + len(shape)] != shape:
        raise c.fail(
            f"bottom 1 of shape {list(shape)} does not match bottom 0, {list(x.shape)},"
            f" from axis {axis} on"
        )
    return axis


def _learned_shape(c: LayerContext, options: Message) -> Shape:
    """The parameter's shape: bottom.shape[axis : axis + num_axes]; -1 means to the end."""
    x = c.bottoms[0]
    count: int = options.get("num_axes")
    if count < -1:
        raise c.fail(f"num_axes must be at least -1, not {count}", "num_axes")
    if count == 0:
        return ()
    axis = axis_of(c, options, x)
    if count == -1:
        return x.shape[axis:]
    if axis + count > len(x.shape):
        raise c.fail(
            f"num_axes {count} from axis {axis} on is more than the bottom's {len(x.shape)} axes",
            "num_axes",
        )
    return x.shape[axis : axis + count]


def _factor(c: LayerContext, options: Message, filled: float) -> tuple[Value, int]:
    """Bottom 1 or the learned parameter 0, and the axis from which on it is matched."""
    if len(c.bottoms) == 2:
        return c.bottoms[1], _matching_axis(c, options, c.bottoms[1].shape)
    shape = _learned_shape(c, options)
    factor = c.parameter(0, shape, filler_or_constant(options, "filler", filled))
    return factor, _matching_axis(c, options, shape)


@layer("Scale", bottoms=(1, 2))
def scale(c: LayerContext) -> Value:
    """Bottom 0 times bottom 1 or a learned factor; then plus a learned bias, if asked for."""
    options = c.options("scale_param")
    factor, axis = _factor(c, options, 1.0)
    y: Value = ScaleBy(axis)(c.bottoms[0], factor)
    if not options.get("bias_term"):
        return y
    bias = c.parameter(2 - len(c.bottoms), factor.shape, given_filler(options, "bias_filler"))
    shifted: Value = AddBias(axis)(y, bias)
    return shifted


@layer("Bias", bottoms=(1, 2))
def bias(c: LayerContext) -> Value:
    """Bottom 0 plus bottom 1 or a learned bias."""
    options = c.options("bias_param")
    addend, axis = _factor(c, options, 0.0)
    result: Value = AddBias(axis)(c.bottoms[0], addend)
    return result
