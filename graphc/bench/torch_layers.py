"""Pooling, losses, and what moves elements, in torch."""

from __future__ import annotations

import math
import operator as python
from typing import Any

from graphc.bench.torch_emit import Emit, arguments, as_type, translates
from graphc.error import NetError
from graphc.ir.graph import Node

# -- windows and channels --------------------------------------------------------------------------


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
    (x,) = arguments(emit, node)
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
    (x,) = arguments(emit, node)
    return emit.call(function, x, list(op.size), list(op.strides), pads, ceil, op.count_padding)


@translates("lrn")
def _lrn(emit: Emit, node: Node, op: Any) -> Any:
    (x,) = arguments(emit, node)
    return emit.call(emit.functional.local_response_norm, x, op.size, op.alpha, op.beta, op.k)


# -- losses and scores -----------------------------------------------------------------------------


@translates("softmax")
def _softmax(emit: Emit, node: Node, op: Any) -> Any:
    return emit.call(emit.functional.softmax, *arguments(emit, node), op.axis)


@translates("softmax_log_loss")
def _softmax_log_loss(emit: Emit, node: Node, op: Any) -> Any:
    if op.axis != 1:
        raise NetError(f"the torch rival takes classes along axis 1, not {op.axis}")
    scores, label = arguments(emit, node)
    whole = emit.call(as_type, label, emit.torch.int64)
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
        *arguments(emit, node),
        reduction="none",
    )


@translates("correct")
def _correct(emit: Emit, node: Node, op: Any) -> Any:
    if op.ignore_label is not None:
        raise NetError("the torch rival knows no accuracy that ignores a label")
    return emit.call(_hits, *arguments(emit, node), op.top_k, op.axis)


def _hits(scores: Any, label: Any, count: int, axis: int) -> Any:
    import torch

    best = torch.topk(scores.detach(), count, dim=axis).indices
    hit = best == label.to(torch.int64).unsqueeze(axis)
    return hit.any(axis).to(scores.dtype)


# -- shapes ----------------------------------------------------------------------------------------


@translates("view")
def _view(emit: Emit, node: Node, op: Any) -> Any:
    return emit.call(emit.torch.reshape, *arguments(emit, node), list(op.shape))


@translates("transpose")
def _transpose(emit: Emit, node: Node, op: Any) -> Any:
    return emit.call(emit.torch.permute, *arguments(emit, node), list(op.permutation))


@translates("concat")
def _concat(emit: Emit, node: Node, op: Any) -> Any:
    return emit.call(emit.torch.cat, arguments(emit, node), op.axis)


@translates("slice")
def _slice(emit: Emit, node: Node, op: Any) -> Any:
    sizes = [value.shape[op.axis] for value in node.outputs]
    parts = emit.call(emit.torch.split, *arguments(emit, node), sizes, op.axis)
    found = [emit.call(python.getitem, parts, number) for number in range(len(sizes))]
    return found[0] if len(found) == 1 else tuple(found)


@translates("crop")
def _crop(emit: Emit, node: Node, op: Any) -> Any:
    (x,) = arguments(emit, node)
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
    return emit.call(function, *arguments(emit, node), list(op.axes), keep)


@translates("broadcast")
def _broadcast(emit: Emit, node: Node, op: Any) -> Any:
    places = [1 if axis in op.axes else extent for axis, extent in enumerate(op.shape)]
    flat = emit.call(emit.torch.reshape, *arguments(emit, node), places)
    return emit.call(emit.torch.broadcast_to, flat, list(op.shape))


@translates("fill")
def _fill(emit: Emit, node: Node, op: Any) -> Any:
    dtype = getattr(emit.torch, op.dtype)
    value = op.value if op.dtype.startswith("float") else int(op.value)
    return emit.call(emit.torch.full, list(op.shape), value, dtype=dtype)
