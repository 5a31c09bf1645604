"""How each operator is written in torch.

A translation gets `emit`, which adds calls to the module, the node, and its operator. It returns
the value of the node's first output, or a tuple of all.
"""

from __future__ import annotations

import math
import operator as python
from collections.abc import Callable
from typing import Any, Protocol

from graphc.error import NetError
from graphc.ir.graph import Node, Value

Pads = tuple[tuple[int, int], ...]
Translation = Callable[["Emit", Node, Any], Any]
TRANSLATIONS: dict[str, Translation] = {}


class Emit(Protocol):
    """What a translation may ask for; see `graphc.bench.torch_rival`."""

    torch: Any
    functional: Any
    masked: bool

    def call(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """A call of a torch function."""

    def of(self, value: Value) -> Any:
        """A translated value."""

    def mask(self, node: Node) -> Any:
        """The input that holds a dropout's mask."""

    def buffer(self, tensor: Any) -> Any:
        """A tensor that the module owns."""

    def producer(self, value: Value) -> Node | None:
        """The node that makes a value."""

    def alone(self, value: Value) -> bool:
        """Whether one node alone reads a value."""


def translates(*names: str) -> Callable[[Translation], Translation]:
    """Enter a translation for the operators of these names."""

    def enter(function: Translation) -> Translation:
        TRANSLATIONS.update(dict.fromkeys(names, function))
        return function

    return enter


def _arguments(emit: Emit, node: Node) -> list[Any]:
    return [emit.of(value) for value in node.inputs]


def _made_by(emit: Emit, value: Value, *names: str) -> Node | None:
    """The node that makes `value`, where it is one of these operators and nobody else reads it."""
    node = emit.producer(value)
    return node if node and node.op.op_name in names and emit.alone(value) else None


# -- convolutions and products --------------------------------------------------------------------


def _even(emit: Emit, x: Any, pads: Pads, filled: float = 0.0) -> tuple[Any, list[int]]:
    """The image and the padding that torch's functions take: one number an axis, or padded here."""
    if all(before == after for before, after in pads):
        return x, [before for before, _ in pads]
    flat = [side for pair in reversed(pads) for side in pair]
    return emit.call(emit.functional.pad, x, flat, "constant", filled), [0] * len(pads)


def _convolution(emit: Emit, node: Node, bias: Any) -> Any:
    op: Any = node.op
    x, w = _arguments(emit, node)
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
    first, second = _arguments(emit, node)
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
    a, b = _arguments(emit, node)
    if op.left_transposed:
        a = emit.call(emit.torch.t, a)
    if op.right_transposed:
        b = emit.call(emit.torch.t, b)
    return emit.call(emit.torch.mm, a, b)


def _spread(emit: Emit, node: Node, op: Any) -> tuple[Any, Any]:
    """(x, the smaller operand with extents 1 where it is repeated)."""
    x, b = _arguments(emit, node)
    extra = len(node.inputs[0].shape) - op.axis - len(node.inputs[1].shape)
    if extra:
        b = emit.call(emit.torch.reshape, b, [*node.inputs[1].shape, *[1] * extra])
    return x, b


@translates("add_bias")
def _add_bias(emit: Emit, node: Node, op: Any) -> Any:
    x, b = node.inputs
    if op.axis == 1 and len(b.shape) == 1:
        conv = _made_by(emit, x, "conv")
        if conv:
            return _convolution(emit, conv, emit.of(b))
        product = _made_by(emit, x, "mat_mul")
        if product and not product.op.left_transposed and product.op.right_transposed:  # type: ignore[attr-defined]
            return emit.call(emit.functional.linear, *_arguments(emit, product), emit.of(b))
        normal = _normalised(emit, x)
        if normal:
            return _batch_norm(emit, *normal, emit.of(b))
    return emit.call(python.add, *_spread(emit, node, op))


@translates("scale")
def _scale(emit: Emit, node: Node, op: Any) -> Any:
    return emit.call(python.mul, *_spread(emit, node, op))


# -- batch normalisation --------------------------------------------------------------------------


def _normalised(emit: Emit, value: Value) -> tuple[Node, Any] | None:
    """(the standardisation, the factor) of `scale(standardize(x))`, where that is what it is."""
    scale = _made_by(emit, value, "scale")
    if not scale or scale.op.axis != 1 or len(scale.inputs[1].shape) != 1:  # type: ignore[attr-defined]
        return None
    standard = _made_by(emit, scale.inputs[0], "standardize")
    return (standard, emit.of(scale.inputs[1])) if standard else None


def _batch_norm(emit: Emit, standard: Node, factor: Any, shift: Any) -> Any:
    x, mean, inverse = standard.inputs
    deviation = emit.producer(inverse)
    channels_stay = tuple(standard.op.axes) == (0, *range(2, len(x.shape)))  # type: ignore[attr-defined]
    if not channels_stay or deviation is None or deviation.op.op_name != "inverse_deviation":
        plain = _standardized(emit, standard)
        places = [-1, *[1] * (len(x.shape) - 2)]
        if factor is not None:
            plain = emit.call(python.mul, plain, emit.call(emit.torch.reshape, factor, places))
            plain = emit.call(python.add, plain, emit.call(emit.torch.reshape, shift, places))
        return plain
    (variance,) = deviation.inputs
    epsilon = deviation.op.epsilon  # type: ignore[attr-defined]
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
    x, mean, inverse = _arguments(emit, node)
    shape = [
        1 if axis in node.op.axes else extent  # type: ignore[attr-defined]
        for axis, extent in enumerate(node.inputs[0].shape)
    ]
    reshape = emit.torch.reshape
    centred = emit.call(python.sub, x, emit.call(reshape, mean, shape))
    return emit.call(python.mul, centred, emit.call(reshape, inverse, shape))


@translates("moments")
def _moments(emit: Emit, node: Node, op: Any) -> Any:
    (x,) = _arguments(emit, node)
    axes = list(op.axes)
    mean = emit.call(emit.torch.mean, x, axes)
    return mean, emit.call(emit.torch.var, x, axes, correction=0)


@translates("inverse_deviation")
def _inverse_deviation(emit: Emit, node: Node, op: Any) -> Any:
    (x,) = _arguments(emit, node)
    return emit.call(emit.torch.rsqrt, emit.call(python.add, x, op.epsilon))


# -- neurons and other maps -----------------------------------------------------------------------

_OVERWRITABLE = ("conv", "add_bias", "add", "mat_mul", "standardize")


@translates("relu")
def _relu(emit: Emit, node: Node, op: Any) -> Any:
    (x,) = _arguments(emit, node)
    inplace = _made_by(emit, node.inputs[0], *_OVERWRITABLE) is not None
    if op.negative_slope:
        return emit.call(emit.functional.leaky_relu, x, op.negative_slope, inplace)
    return emit.call(emit.functional.relu, x, inplace)


def _plain(name: str, *path: str) -> None:
    """An operator without fields whose torch function is torch.<path>."""

    def translation(emit: Emit, node: Node, op: Any) -> Any:
        found = emit.torch
        for step in path:
            found = getattr(found, step)
        return emit.call(found, *_arguments(emit, node))

    translates(name)(translation)


_plain("sigmoid", "sigmoid")
_plain("tanh", "tanh")
_plain("abs", "abs")
_plain("softplus", "nn", "functional", "softplus")
_plain("prelu", "prelu")


@translates("elu")
def _elu(emit: Emit, node: Node, op: Any) -> Any:
    return emit.call(emit.functional.elu, *_arguments(emit, node), op.alpha)


@translates("clip")
def _clip(emit: Emit, node: Node, op: Any) -> Any:
    return emit.call(emit.torch.clamp, *_arguments(emit, node), op.low, op.high)


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
    (x,) = _arguments(emit, node)
    if op.op_name == "exp":
        line = _line(emit, x, rate * op.scale, rate * op.shift)
        return emit.call(emit.torch.exp, line)
    natural = emit.call(emit.torch.log, _line(emit, x, op.scale, op.shift))
    return _line(emit, natural, 1 / rate, 0.0)


def _folded(name: str, function: Callable[[Emit], Callable[..., Any]]) -> None:
    """An operator of two or more inputs that torch takes two at a time."""

    def translation(emit: Emit, node: Node, op: Any) -> Any:
        first, *others = _arguments(emit, node)
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
    a, b = _arguments(emit, node)
    quotient = emit.call(python.truediv, a, b)
    return emit.call(emit.torch.where, emit.call(python.eq, b, 0.0), 0.0, quotient)


@translates("shift")
def _shift(emit: Emit, node: Node, op: Any) -> Any:
    return emit.call(python.add, *_arguments(emit, node), op.amount)


@translates("times")
def _times(emit: Emit, node: Node, op: Any) -> Any:
    return emit.call(python.mul, *_arguments(emit, node), op.factor)


@translates("copy")
def _copy(emit: Emit, node: Node, op: Any) -> Any:
    return emit.of(node.inputs[0])


@translates("stop_gradient")
def _stop_gradient(emit: Emit, node: Node, op: Any) -> Any:
    return emit.call(emit.torch.detach, *_arguments(emit, node))


@translates("cast")
def _cast(emit: Emit, node: Node, op: Any) -> Any:
    return emit.call(_as_type, *_arguments(emit, node), getattr(emit.torch, op.dtype))


def _as_type(x: Any, dtype: Any) -> Any:
    return x.to(dtype)


@translates("dropout")
def _dropout(emit: Emit, node: Node, op: Any) -> Any:
    x = emit.of(node.inputs[0])
    if emit.masked:
        return emit.call(python.mul, x, emit.mask(node))
    return emit.call(emit.functional.dropout, x, op.ratio, True)


@translates("dropout_masked")
def _dropout_masked(emit: Emit, node: Node, op: Any) -> Any:
    kept = emit.call(python.mul, *_arguments(emit, node))
    return emit.call(python.mul, kept, 1 / (1 - op.ratio))


# -- windows and channels -------------------------------------------------------------------------


def _pooled(extent: int, size: int, stride: int, pad: int, ceil: bool) -> int:
    """torch's number of windows along an axis."""
    room = extent + 2 * pad - size
    count = (-(-room // stride) if ceil else room // stride) + 1
    if ceil and (count - 1) * stride >= extent + pad:
        count -= 1
    return count


def _rounding(node: Node, op: Any) -> bool | None:
    """Whether torch must round the number of windows up; None where neither way gives ours."""
    if any(b != a or 2 * b > s for (b, a), s in zip(op.pads, op.size, strict=True)):
        return None
    extents = node.inputs[0].shape[2:]
    for ceil in (False, True):
        counts = tuple(
            _pooled(extent, size, stride, before, ceil)
            for extent, size, stride, (before, _) in zip(
                extents, op.size, op.strides, op.pads, strict=True
            )
        )
        if counts == op.output:
            return ceil
    return None


@translates("max_pool")
def _max_pool(emit: Emit, node: Node, op: Any) -> Any:
    (x,) = _arguments(emit, node)
    function = getattr(emit.functional, f"max_pool{len(op.size)}d")
    ceil = _rounding(node, op)
    if ceil is not None:
        pads = [before for before, _ in op.pads]
        return emit.call(function, x, list(op.size), list(op.strides), pads, ceil_mode=ceil)
    # Written out: padded with what never wins, as far as the last window reaches.
    sides = tuple(
        (before, max(0, (count - 1) * stride + size - extent - before))
        for extent, count, size, stride, (before, _) in zip(
            node.inputs[0].shape[2:], op.output, op.size, op.strides, op.pads, strict=True
        )
    )
    flat = [side for pair in reversed(sides) for side in pair]
    image = emit.call(emit.functional.pad, x, flat, "constant", -math.inf)
    return emit.call(function, image, list(op.size), list(op.strides))


@translates("avg_pool")
def _avg_pool(emit: Emit, node: Node, op: Any) -> Any:
    ceil = _rounding(node, op)
    if ceil is None:
        raise NetError(
            f"the torch rival cannot run avg_pool with padding {op.pads} and {op.output} windows"
            f" (layer '{node.origin.layer}')"
        )
    function = getattr(emit.functional, f"avg_pool{len(op.size)}d")
    pads = [before for before, _ in op.pads]
    (x,) = _arguments(emit, node)
    return emit.call(function, x, list(op.size), list(op.strides), pads, ceil, op.count_padding)


@translates("lrn")
def _lrn(emit: Emit, node: Node, op: Any) -> Any:
    (x,) = _arguments(emit, node)
    return emit.call(emit.functional.local_response_norm, x, op.size, op.alpha, op.beta, op.k)


# -- losses and scores ----------------------------------------------------------------------------


@translates("softmax")
def _softmax(emit: Emit, node: Node, op: Any) -> Any:
    return emit.call(emit.functional.softmax, *_arguments(emit, node), op.axis)


@translates("softmax_log_loss")
def _softmax_log_loss(emit: Emit, node: Node, op: Any) -> Any:
    if op.axis != 1:
        raise NetError(f"the torch rival takes classes along axis 1, not {op.axis}")
    scores, label = _arguments(emit, node)
    whole = emit.call(_as_type, label, emit.torch.int64)
    ignored = -100 if op.ignore_label is None else op.ignore_label
    return emit.call(
        emit.functional.cross_entropy, scores, whole, ignore_index=ignored, reduction="none"
    )


@translates("sigmoid_log_loss")
def _sigmoid_log_loss(emit: Emit, node: Node, op: Any) -> Any:
    if op.ignore_label is not None:
        raise NetError("the torch rival knows no sigmoid loss that ignores a label")
    return emit.call(
        emit.functional.binary_cross_entropy_with_logits,
        *_arguments(emit, node),
        reduction="none",
    )


@translates("correct")
def _correct(emit: Emit, node: Node, op: Any) -> Any:
    if op.ignore_label is not None:
        raise NetError("the torch rival knows no accuracy that ignores a label")
    return emit.call(_hits, *_arguments(emit, node), op.top_k, op.axis)


def _hits(scores: Any, label: Any, count: int, axis: int) -> Any:
    import torch

    best = torch.topk(scores.detach(), count, dim=axis).indices
    hit = best == label.to(torch.int64).unsqueeze(axis)
    return hit.any(axis).to(scores.dtype)


# -- shapes ---------------------------------------------------------------------------------------


@translates("view")
def _view(emit: Emit, node: Node, op: Any) -> Any:
    return emit.call(emit.torch.reshape, *_arguments(emit, node), list(op.shape))


@translates("transpose")
def _transpose(emit: Emit, node: Node, op: Any) -> Any:
    return emit.call(emit.torch.permute, *_arguments(emit, node), list(op.permutation))


@translates("concat")
def _concat(emit: Emit, node: Node, op: Any) -> Any:
    return emit.call(emit.torch.cat, _arguments(emit, node), op.axis)


@translates("slice")
def _slice(emit: Emit, node: Node, op: Any) -> Any:
    sizes = [value.shape[op.axis] for value in node.outputs]
    parts = emit.call(emit.torch.split, *_arguments(emit, node), sizes, op.axis)
    found = [emit.call(python.getitem, parts, number) for number in range(len(sizes))]
    return found[0] if len(found) == 1 else tuple(found)


@translates("crop")
def _crop(emit: Emit, node: Node, op: Any) -> Any:
    (x,) = _arguments(emit, node)
    for axis, (offset, extent) in enumerate(zip(op.offsets, op.shape, strict=True)):
        if extent != node.inputs[0].shape[axis]:
            x = emit.call(emit.torch.narrow, x, axis, offset, extent)
    return x


@translates("sum", "mean")
def _sum(emit: Emit, node: Node, op: Any) -> Any:
    if not op.axes:
        return emit.of(node.inputs[0])
    keep = getattr(op, "keep", False)
    function = emit.torch.sum if op.op_name == "sum" else emit.torch.mean
    return emit.call(function, *_arguments(emit, node), list(op.axes), keep)


@translates("broadcast")
def _broadcast(emit: Emit, node: Node, op: Any) -> Any:
    places = [1 if axis in op.axes else extent for axis, extent in enumerate(op.shape)]
    flat = emit.call(emit.torch.reshape, *_arguments(emit, node), places)
    return emit.call(emit.torch.broadcast_to, flat, list(op.shape))


@translates("fill")
def _fill(emit: Emit, node: Node, op: Any) -> Any:
    dtype = getattr(emit.torch, op.dtype)
    value = op.value if op.dtype.startswith("float") else int(op.value)
    return emit.call(emit.torch.full, list(op.shape), value, dtype=dtype)
