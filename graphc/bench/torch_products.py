"""Convolutions, matrix products and batch normalisation in torch."""

from __future__ import annotations

import operator as python
from typing import Any

from graphc.bench.torch_emit import Emit, arguments, made_by, translates
from graphc.error import NetError
from graphc.ir.graph import Node, Value

Pads = tuple[tuple[int, int], ...]

# -- convolutions and products ---------------------------------------------------------------------


def _even(emit: Emit, x: Any, pads: Pads, filled: float = 0.0) -> tuple[Any, list[int]]:
    """The image and the padding that torch's functions take: one number an axis, or padded here."""
    if all(before == after for before, after in pads):
        return x, [before for before, _ in pads]
    flat = [side for pair in reversed(pads) for side in pair]
    return emit.call(emit.functional.pad, x, flat, "constant", filled), [0] * len(pads)


def _convolution(emit: Emit, node: Node, bias: Any) -> Any:
    op: Any = node.op
    x, w = arguments(emit, node)
    x, pads = _even(emit, x, op.pads)
    function = getattr(emit.functional, f"conv{len(op.strides)}d")
    return emit.call(function, x, w, bias, list(op.strides), pads, list(op.dilations), op.groups)


@translates("conv")
def _conv(emit: Emit, node: Node, op: Any) -> Any:
    return _convolution(emit, node, None)


@translates("conv_data_gradient", "conv_weight_gradient")
def _conv_gradient(emit: Emit, node: Node, op: Any) -> Any:
    """One of the gradients, by the call that autograd makes for it."""
    if any(before != after for before, after in op.pads):
        raise NetError(f"the torch rival cannot run {op.op_name} with uneven padding {op.pads}")
    first, second = arguments(emit, node)
    data = op.op_name == "conv_data_gradient"
    return emit.call(
        _one_gradient,
        first,
        second,
        list(node.outputs[0].shape),
        list(op.strides),
        [before for before, _ in op.pads],
        list(op.dilations),
        op.groups,
        data,
    )


def _one_gradient(
    first: Any,
    second: Any,
    shape: list[int],
    strides: list[int],
    pads: list[int],
    dilations: list[int],
    groups: int,
    data: bool,
) -> Any:
    import torch

    last = first.dim() == 4 and first.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    like = torch.empty(shape, dtype=first.dtype, memory_format=layout)
    dy, x, w = (first, like, second) if data else (second, first, like)
    found = torch.ops.aten.convolution_backward(
        dy,
        x,
        w,
        None,
        strides,
        pads,
        dilations,
        False,
        [0] * len(pads),
        groups,
        [data, not data, False],
    )
    return found[0] if data else found[1]


@translates("mat_mul")
def _mat_mul(emit: Emit, node: Node, op: Any) -> Any:
    a, b = arguments(emit, node)
    if op.left_transposed:
        a = emit.call(emit.torch.t, a)
    if op.right_transposed:
        b = emit.call(emit.torch.t, b)
    return emit.call(emit.torch.mm, a, b)


def _spread(emit: Emit, node: Node, op: Any) -> tuple[Any, Any]:
    """(x, the smaller operand with extents 1 where it is repeated)."""
    x, b = arguments(emit, node)
    extra = len(node.inputs[0].shape) - op.axis - len(node.inputs[1].shape)
    if extra:
        b = emit.call(emit.torch.reshape, b, [*node.inputs[1].shape, *[1] * extra])
    return x, b


def _op(node: Node) -> Any:
    """A node's operator, when its name has told which fields it has."""
    return node.op


@translates("add_bias")
def _add_bias(emit: Emit, node: Node, op: Any) -> Any:
    x, b = node.inputs
    if op.axis == 1 and len(b.shape) == 1:
        conv = made_by(emit, x, "conv")
        if conv:
            return _convolution(emit, conv, emit.of(b))
        product = made_by(emit, x, "mat_mul")
        if product and not _op(product).left_transposed and _op(product).right_transposed:
            return emit.call(emit.functional.linear, *arguments(emit, product), emit.of(b))
        normal = _normalised(emit, x)
        if normal:
            return _batch_norm(emit, *normal, emit.of(b))
    return emit.call(python.add, *_spread(emit, node, op))


@translates("scale")
def _scale(emit: Emit, node: Node, op: Any) -> Any:
    return emit.call(python.mul, *_spread(emit, node, op))


# -- batch normalisation ---------------------------------------------------------------------------


def _normalised(emit: Emit, value: Value) -> tuple[Node, Any] | None:
    """(the standardisation, the factor) of `scale(standardize(x))`, where that is what it is."""
    scale = made_by(emit, value, "scale")
    if not scale or _op(scale).axis != 1 or len(scale.inputs[1].shape) != 1:
        return None
    standard = made_by(emit, scale.inputs[0], "standardize")
    return (standard, emit.of(scale.inputs[1])) if standard else None


def _batch_norm(emit: Emit, standard: Node, factor: Any, shift: Any) -> Any:
    x, mean, inverse = standard.inputs
    deviation = emit.producer(inverse)
    channels_stay = tuple(_op(standard).axes) == (0, *range(2, len(x.shape)))
    if not channels_stay or deviation is None or deviation.op.op_name != "inverse_deviation":
        plain = _standardized(emit, standard)
        places = [-1, *[1] * (len(x.shape) - 2)]
        if factor is not None:
            plain = emit.call(python.mul, plain, emit.call(emit.torch.reshape, factor, places))
            plain = emit.call(python.add, plain, emit.call(emit.torch.reshape, shift, places))
        return plain
    (variance,) = deviation.inputs
    epsilon = _op(deviation).epsilon
    moments = emit.producer(mean)
    if moments is not None and moments.op.op_name == "moments" and moments.inputs[0] is x:
        # The running moments are kept as torch's own layer keeps them: work that we do too.
        running = [emit.buffer(emit.torch.zeros(x.shape[1])) for _ in range(2)]
        return emit.call(
            emit.functional.batch_norm, emit.of(x), *running, factor, shift, True, 0.1, epsilon
        )
    known = (emit.of(mean), emit.of(variance))
    return emit.call(
        emit.functional.batch_norm, emit.of(x), *known, factor, shift, False, 0.0, epsilon
    )


@translates("standardize")
def _standardize(emit: Emit, node: Node, op: Any) -> Any:
    return _batch_norm(emit, node, None, None)


def _standardized(emit: Emit, node: Node) -> Any:
    x, mean, inverse = arguments(emit, node)
    shape = [
        1 if axis in _op(node).axes else extent for axis, extent in enumerate(node.inputs[0].shape)
    ]
    reshape = emit.torch.reshape
    centred = emit.call(python.sub, x, emit.call(reshape, mean, shape))
    return emit.call(python.mul, centred, emit.call(reshape, inverse, shape))


@translates("moments")
def _moments(emit: Emit, node: Node, op: Any) -> Any:
    (x,) = arguments(emit, node)
    axes = list(op.axes)
    mean = emit.call(emit.torch.mean, x, axes)
    return mean, emit.call(emit.torch.var, x, axes, correction=0)


@translates("inverse_deviation")
def _inverse_deviation(emit: Emit, node: Node, op: Any) -> Any:
    (x,) = arguments(emit, node)
    return emit.call(emit.torch.rsqrt, emit.call(python.add, x, op.epsilon))


@translates("batch_moments")
def _batch_moments(emit: Emit, node: Node, op: Any) -> Any:
    (x,) = arguments(emit, node)
    axes = [axis for axis in range(len(node.inputs[0].shape)) if axis != 1]
    mean = emit.call(emit.torch.mean, x, axes)
    variance = emit.call(emit.torch.var, x, axes, correction=0)
    return mean, emit.call(emit.torch.sqrt, emit.call(python.add, variance, op.epsilon))


@translates("channel_normalize")
def _channel_normalize(emit: Emit, node: Node, op: Any) -> Any:
    """MatConvNet's batch normalisation, which knows a deviation and not a variance."""
    x, factor, shift, mean, deviation = arguments(emit, node)
    moments = emit.producer(node.inputs[3])
    batch_norm = emit.functional.batch_norm
    if (
        moments is not None
        and moments.op.op_name == "batch_moments"
        and moments.inputs[0] is node.inputs[0]
    ):
        epsilon = _op(moments).epsilon
        return emit.call(batch_norm, x, None, None, factor, shift, True, 0.0, epsilon)
    # x * slope + offset, one sweep over the image, with a gradient for all of them.
    places = [-1, *[1] * (len(node.inputs[0].shape) - 2)]
    slope = emit.call(python.truediv, factor, deviation)
    offset = emit.call(python.sub, shift, emit.call(python.mul, mean, slope))
    slope, offset = (emit.call(emit.torch.reshape, v, places) for v in (slope, offset))
    return emit.call(emit.torch.addcmul, offset, x, slope)
