"""Pooling, sampling, and what moves elements, in torch."""

from __future__ import annotations

import math
import operator as python
from typing import Any

from graphc.bench.torch_emit import Emit, arguments, as_type, translates, written_out
from graphc.error import NetError
from graphc.ir.graph import Node

Sides = tuple[tuple[int, int], ...]

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
    places = emit.alone(node.outputs[1])
    ceil = _rounding(node, op)
    pads = [before for before, _ in op.pads]
    if ceil is None:
        if places:
            raise NetError(
                "the torch rival cannot tell where the maxima of unevenly padded windows are"
                f" (layer '{node.origin.layer}')"
            )
        # Padded with what never wins.
        x = emit.call(emit.functional.pad, x, _flat(_reached(node, op)), "constant", -math.inf)
        ceil, pads = False, [0] * len(pads)
    windows = (list(op.size), list(op.strides), pads)
    found = emit.call(function, x, *windows, ceil_mode=ceil, return_indices=places)
    best = emit.call(python.getitem, found, 0) if places else found
    if op.rectified:
        best = emit.call(emit.functional.relu, best)
    return (best, emit.call(python.getitem, found, 1)) if places else best


def _flat(sides: Sides) -> list[int]:
    """Padding as torch's pad takes it: the last axis first."""
    return [side for pair in reversed(sides) for side in pair]


def _reached(node: Node, op: Any) -> Sides:
    """Padding before and behind each axis, as far as the last window reaches."""
    return tuple(
        (before, max(0, (count - 1) * stride + size - extent - before))
        for extent, count, size, stride, (before, _) in zip(
            node.inputs[0].shape[2:], op.output, op.size, op.strides, op.pads, strict=True
        )
    )


@translates("max_pool_mask")
def _max_pool_mask(emit: Emit, node: Node, op: Any) -> Any:
    return emit.call(as_type, *arguments(emit, node), getattr(emit.torch, op.dtype))


@translates("avg_pool")
def _avg_pool(emit: Emit, node: Node, op: Any) -> Any:
    (x,) = arguments(emit, node)
    function = getattr(emit.functional, f"avg_pool{len(op.size)}d")
    ceil = _rounding(node, op)
    if ceil is not None:
        pads = [before for before, _ in op.pads]
        return emit.call(function, x, list(op.size), list(op.strides), pads, ceil, op.count_padding)
    image = emit.call(emit.functional.pad, x, _flat(_reached(node, op)))
    mean = emit.call(function, image, list(op.size), list(op.strides))
    share = emit.buffer(_counted(emit.torch, node, op))
    return emit.call(python.truediv, emit.call(python.mul, mean, math.prod(op.size)), share)


def _counted(torch: Any, node: Node, op: Any) -> Any:
    """By how many elements each window's sum is divided."""
    pad = torch.nn.functional.pad
    inside = torch.ones((1, 1, *node.inputs[0].shape[2:]))
    known = op.pads if op.count_padding else tuple((0, 0) for _ in op.pads)
    inside = pad(inside, _flat(known), "constant", 1.0)
    missing = tuple(
        (before - b, after - a)
        for (before, after), (b, a) in zip(_reached(node, op), known, strict=True)
    )
    function = getattr(torch.nn.functional, f"avg_pool{len(op.size)}d")
    share = function(pad(inside, _flat(missing)), list(op.size), list(op.strides))
    return torch.round(share * math.prod(op.size))


@translates("lrn")
def _lrn(emit: Emit, node: Node, op: Any) -> Any:
    (x,) = arguments(emit, node)
    function, shape = emit.functional.local_response_norm, node.inputs[0].shape
    if len(shape) > 2:
        return emit.call(function, x, op.size, op.alpha, op.beta, op.k)
    image = emit.call(emit.torch.unsqueeze, x, -1)
    found = emit.call(function, image, op.size, op.alpha, op.beta, op.k)
    return emit.call(emit.torch.squeeze, found, -1)


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


@translates("embed")
def _embed(emit: Emit, node: Node, op: Any) -> Any:
    sides = tuple(
        (offset, extent - offset - own)
        for offset, extent, own in zip(op.offsets, op.shape, node.inputs[0].shape, strict=True)
    )
    return emit.call(emit.functional.pad, *arguments(emit, node), _flat(sides))


# -- windows laid out, rows chosen by number -------------------------------------------------------


@translates("unfold")
def _unfold(emit: Emit, node: Node, op: Any) -> Any:
    (x,) = arguments(emit, node)
    image = emit.call(emit.functional.pad, _planar(emit, op, x), _flat(op.pads))
    rows = emit.call(emit.functional.unfold, image, *_planar_windows(op))
    return emit.call(emit.torch.reshape, rows, list(node.outputs[0].shape))


@translates("fold")
def _fold(emit: Emit, node: Node, op: Any) -> Any:
    (y,) = arguments(emit, node)
    reached = [b + extent + a for extent, (b, a) in zip(op.extents, op.pads, strict=True)]
    ones = [1] * (2 - len(reached))
    rows = emit.call(emit.torch.flatten, _planar(emit, op, y), 2)
    image = emit.call(emit.functional.fold, rows, [*ones, *reached], *_planar_windows(op))
    cropped = _flat(tuple((-before, -after) for before, after in op.pads))
    inside = emit.call(emit.functional.pad, image, cropped)
    return emit.call(emit.torch.reshape, inside, list(node.outputs[0].shape))


def _planar(emit: Emit, op: Any, x: Any) -> Any:
    """As an image: torch lays out windows of two axes. Raises NetError for more."""
    if len(op.size) > 2:
        raise NetError(f"the torch rival cannot run {op.op_name} of {len(op.size)} axes")
    return x if len(op.size) == 2 else emit.call(emit.torch.unsqueeze, x, 2)


def _planar_windows(op: Any) -> tuple[list[int], list[int], int, list[int]]:
    """(size, dilations, no padding, strides), with an axis of 1 before where there is one."""
    ones = [1] * (2 - len(op.size))
    return [*ones, *op.size], [*ones, *op.dilations], 0, [*ones, *op.strides]


@written_out("take_rows")
def _take_rows(torch: Any, op: Any, table: Any, row: Any) -> Any:
    number = row.to(torch.int64)
    found = torch.nn.functional.embedding(number, table.reshape(table.shape[0], -1))
    return found.reshape(*number.shape, *table.shape[1:])


@written_out("nonzeros_before")
def _nonzeros_before(torch: Any, op: Any, x: Any) -> Any:
    there = (x != 0).to(x.dtype)
    return torch.cumsum(there, 0) - there


@translates("nonzero_rows")
def _nonzero_rows(emit: Emit, node: Node, op: Any) -> Any:
    return emit.call(_numbers_of_nonzeros, emit.of(node.inputs[0]))


def _numbers_of_nonzeros(x: Any) -> Any:
    return x.nonzero().flatten().to(x.dtype)


@written_out("bilinear_sampler")
def _bilinear_sampler(torch: Any, op: Any, x: Any, grid: Any) -> Any:
    images = x.repeat_interleave(grid.shape[0] // x.shape[0], 0)
    sample = torch.nn.functional.grid_sample
    found = sample(images, grid, "bilinear", "zeros", align_corners=True)
    return found * (grid >= -1).all(-1).unsqueeze(1)
