"""Caffe layers that give, move or reduce data: Input, Reshape, Concat, Reduction and others."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np

from graphc.frontends.caffe.filler import check_filler, fill
from graphc.frontends.caffe.layer import LayerContext, layer
from graphc.ir.core.axes import Broadcast, Mean, Sum
from graphc.ir.core.elementwise import Multiply, Times
from graphc.ir.core.view import View
from graphc.ir.graph import Value
from graphc.ops.accuracy import ArgMax
from graphc.ops.neuron import Abs
from graphc.ops.shape import Concat, Crop, Slice


def axis_of(c: LayerContext, options: Any, x: Value, field: str = "axis") -> int:
    """An axis field, counted from the front; negative ones count from the end.

    Raises NetError where the blob has no such axis.
    """
    axis: int = options.get(field)
    rank = len(x.shape)
    if not -rank <= axis < rank:
        raise c.fail(f"axis {axis} does not exist in a blob of shape {list(x.shape)}", field)
    return axis % rank


def viewed(x: Value, shape: tuple[int, ...]) -> Value:
    """`x` in another shape of the same size; `x` itself where it has it already."""
    return x if x.shape == shape else View(shape)(x)


# -- where data comes from -------------------------------------------------------------------------


def _shapes_for_tops(
    c: LayerContext, shapes: list[tuple[int, ...]], field: str
) -> list[tuple[int, ...]]:
    """One shape serves all tops; else there is one for each."""
    tops = len(c.layer.tops)
    if len(shapes) not in (1, tops):
        raise c.fail(
            f"{len(shapes)} shapes are given for {tops} tops; give one, or one each", field
        )
    return shapes * tops if len(shapes) == 1 else shapes


def _dims(shape: Any) -> tuple[int, ...]:
    return tuple(shape.all("dim"))


def _checked_shape(c: LayerContext, shape: tuple[int, ...], field: str) -> tuple[int, ...]:
    if any(extent < 0 for extent in shape):
        raise c.fail(f"a shape cannot hold a negative extent: {list(shape)}", field)
    return shape


@layer("Input", bottoms=0)
def input_layer(c: LayerContext) -> tuple[Value, ...]:
    """Net inputs; a shape may also come from the caller of the build."""
    given = [_dims(shape) for shape in c.options("input_param").all("shape")]
    if not given:
        for top in c.layer.tops:
            if top not in c.around.shapes:
                raise c.fail(f"no shape is given for the input '{top}'")
        given = [()]
    shapes = _shapes_for_tops(c, given, "input_param")
    return tuple(
        c.input(top, _checked_shape(c, shape, "input_param"))
        for top, shape in zip(c.layer.tops, shapes, strict=True)
    )


@layer("Parameter", bottoms=0)
def parameter(c: LayerContext) -> Value:
    """A learned blob that is a top by itself; its values come from the weights file."""
    shape = _dims(c.options("parameter_param").get("shape"))
    return c.parameter(0, _checked_shape(c, shape, "parameter_param"))


@layer("DummyData", bottoms=0)
def dummy_data(c: LayerContext) -> tuple[Value, ...]:
    """Blobs by fillers: a constant once for all, anything random anew at every pass.

    The random ones are net inputs, which graphc.sources fills where the user does not.
    """
    options = c.options("dummy_data_param")
    shapes = _dummy_shapes(c, options)
    fillers = options.all("data_filler")
    tops = len(c.layer.tops)
    if len(fillers) not in (0, 1, tops):
        raise c.fail(f"{len(fillers)} data_fillers are given for {tops} tops", "dummy_data_param")
    values, drawn = [], []
    for position, shape in enumerate(_shapes_for_tops(c, shapes, "dummy_data_param")):
        filler = fillers[position % len(fillers)] if fillers else None
        if filler is not None:
            check_filler(filler)
        shape = _checked_shape(c, shape, "dummy_data_param")
        if filler is None or filler.get("type") in ("constant", "bilinear"):
            values.append(c.constant("data", fill(shape, filler, np.random.default_rng())))
        else:
            drawn.append(c.layer.tops[position])
            values.append(c.input(drawn[-1], shape))
    if drawn:
        c.serves(drawn)
    return tuple(values)


def _dummy_shapes(c: LayerContext, options: Any) -> list[tuple[int, ...]]:
    """`shape`, or the older num, channels, height and width: each once, or once a top."""
    shapes = [_dims(shape) for shape in options.all("shape")]
    old = {name: options.all(name) for name in ("num", "channels", "height", "width")}
    if not any(old.values()):
        return shapes
    if shapes:
        raise c.fail("give shapes, or num, channels, height and width, not both", "shape")
    tops = len(c.layer.tops)
    for name, extents in old.items():
        if len(extents) not in (1, tops):
            raise c.fail(f"{name} is given {len(extents)} times for {tops} tops", name)
    columns = [extents if len(extents) == tops else extents * tops for extents in old.values()]
    return list(zip(*columns, strict=True))


# -- the same elements in another shape ------------------------------------------------------------


def _not_in_place(c: LayerContext) -> None:
    if c.layer.tops and c.layer.tops[0] in c.layer.bottoms:
        raise c.fail(f"{c.layer.type} cannot work in place; give its top another name")


@layer("Flatten", bottoms=1)
def flatten(c: LayerContext) -> Value:
    """The axes from `axis` to `end_axis` become one."""
    _not_in_place(c)
    (x,) = c.bottoms
    options = c.options("flatten_param")
    first = axis_of(c, options, x)
    last = axis_of(c, options, x, "end_axis")
    if last < first:
        raise c.fail(f"end_axis {last} comes before axis {first}", "flatten_param")
    shape = x.shape
    return viewed(x, (*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :]))


@layer("Reshape", bottoms=1)
def reshape(c: LayerContext) -> Value:
    """A new shape for the span of axes: 0 copies the bottom's extent, one -1 is worked out."""
    _not_in_place(c)
    (x,) = c.bottoms
    options = c.options("reshape_param")
    rank = len(x.shape)
    first, count = options.get("axis"), options.get("num_axes")
    start = first if first >= 0 else rank + first + 1
    stop = rank if count == -1 else start + count
    if not (0 <= start <= stop <= rank) or count < -1:
        raise c.fail(
            f"axis {first} and num_axes {count} do not span axes of {list(x.shape)}",
            "reshape_param",
        )
    dims = list(_dims(options.get("shape")))
    for position, extent in enumerate(dims):
        if extent == 0:
            if start + position >= rank:
                raise c.fail(
                    f"dim {position} is 0, which copies an axis of the bottom,"
                    f" but {list(x.shape)} has no axis {start + position}",
                    "reshape_param",
                )
            dims[position] = x.shape[start + position]
    shape = [*x.shape[:start], *dims, *x.shape[stop:]]
    return viewed(x, _with_inferred(c, x, shape))


def _with_inferred(c: LayerContext, x: Value, shape: list[int]) -> tuple[int, ...]:
    """Replace the one -1, and check the number of elements."""
    unknown = [position for position, extent in enumerate(shape) if extent < 0]
    if len(unknown) > 1 or any(shape[position] != -1 for position in unknown):
        raise c.fail(f"a shape may hold one -1 and no other negative: {shape}", "reshape_param")
    known = math.prod(extent for extent in shape if extent >= 0)
    if unknown:
        if known == 0 or x.type.size % known:
            raise c.fail(
                f"{x.type.size} elements of {list(x.shape)} do not fill {shape}"
                f" for any whole extent in place of -1",
                "reshape_param",
            )
        shape[unknown[0]] = x.type.size // known
    elif known != x.type.size:
        raise c.fail(f"{list(x.shape)} has {x.type.size} elements, {shape} has {known}", "shape")
    return tuple(shape)


@layer("Split", bottoms=1)
def split(c: LayerContext) -> tuple[Value, ...]:
    """Every top is the bottom; the gradients of all readers add up by themselves."""
    _not_in_place(c)
    return tuple(c.bottoms) * len(c.layer.tops)


@layer("Silence")
def silence(c: LayerContext) -> tuple[Value, ...]:
    """Reads blobs so that they are no outputs of the net; their gradients are zero."""
    return ()


# -- joining and cutting ---------------------------------------------------------------------------


def _joint_axis(c: LayerContext, options: Any, x: Value, old_name: str) -> int:
    """`axis`, or the old unsigned field for it; not both."""
    if not options.has(old_name):
        return axis_of(c, options, x)
    if options.has("axis"):
        raise c.fail(f"axis and {old_name} mean the same; give one of them", old_name)
    return axis_of(c, options, x, old_name)


@layer("Concat")
def concat(c: LayerContext) -> Value:
    """The bottoms one after the other along an axis."""
    if not c.bottoms:
        raise c.fail("Concat needs a bottom")
    axis = _joint_axis(c, c.options("concat_param"), c.bottoms[0], "concat_dim")
    if len(c.bottoms) == 1:
        return c.bottoms[0]
    joined: Value = Concat(axis)(*c.bottoms)
    return joined


@layer("Slice", bottoms=1)
def slice_layer(c: LayerContext) -> tuple[Value, ...]:
    """The bottom cut along an axis: at the slice points, else into equal parts."""
    (x,) = c.bottoms
    options = c.options("slice_param")
    axis = _joint_axis(c, options, x, "slice_dim")
    extent, tops = x.shape[axis], len(c.layer.tops)
    points = tuple(options.all("slice_point"))
    if points and len(points) != tops - 1:
        raise c.fail(
            f"{len(points)} slice points make {len(points) + 1} parts, but there are {tops} tops",
            "slice_point",
        )
    if not tops:
        raise c.fail("Slice needs a top")
    if not points and extent % tops:
        raise c.fail(
            f"axis {axis} of {list(x.shape)} does not split evenly into {tops} tops;"
            " give slice points"
        )
    if tops == 1:
        return (x,)
    if any(low >= high for low, high in pairwise((0, *points, extent))) and points:
        raise c.fail(
            f"slice points {list(points)} must rise and lie inside axis {axis} of {list(x.shape)}",
            "slice_point",
        )
    points = points or tuple(part * (extent // tops) for part in range(1, tops))
    parts: tuple[Value, ...] = Slice(axis, points)(x)
    return parts


@layer("Crop", bottoms=2)
def crop(c: LayerContext) -> Value:
    """Bottom 0 cut to the extents of bottom 1 from `axis` on; bottom 1 lends only its shape."""
    x, like = c.bottoms
    options = c.options("crop_param")
    rank = len(x.shape)
    axis = axis_of(c, options, x)
    offsets = options.all("offset")
    if len(like.shape) != rank:
        raise c.fail(f"a blob of shape {list(x.shape)} cannot be cut to {list(like.shape)}")
    if len(offsets) not in (0, 1, rank - axis):
        raise c.fail(
            f"{len(offsets)} offsets are given for {rank - axis} axes; give one, or one each",
            "crop_param",
        )
    spread = offsets if len(offsets) == rank - axis else (offsets or [0]) * (rank - axis)
    starts = (*[0] * axis, *spread)
    shape = x.shape[:axis] + like.shape[axis:]
    for position in range(axis, rank):
        if starts[position] + shape[position] > x.shape[position]:
            raise c.fail(
                f"on axis {position} the crop needs {shape[position]} from {starts[position]} on,"
                f" but the extent is {x.shape[position]}",
                "offset",
            )
    part: Value = Crop(starts, shape)(x)
    return part


@layer("Tile", bottoms=1)
def tile(c: LayerContext) -> Value:
    """Whole blocks repeated along an axis."""
    (x,) = c.bottoms
    options = c.options("tile_param")
    axis = axis_of(c, options, x)
    tiles = options.get("tiles") or 0
    if tiles < 1:
        raise c.fail(f"tiles must be at least 1, not {tiles}", "tile_param")
    head, tail = x.shape[:axis], x.shape[axis:]
    repeated = Broadcast((*head, tiles, *tail), (axis,))(x)
    return viewed(repeated, (*head, tiles * tail[0], *tail[1:]))


# -- reducing --------------------------------------------------------------------------------------


@layer("Reduction", bottoms=1)
def reduction(c: LayerContext) -> Value:
    """All axes from `axis` on become one number: sum, sum of magnitudes or squares, or mean."""
    (x,) = c.bottoms
    options = c.options("reduction_param")
    axes = tuple(range(axis_of(c, options, x), len(x.shape)))
    operation, coeff = options.get("operation"), options.get("coeff")
    if operation == "ASUM":
        x = Abs()(x)
    elif operation == "SUMSQ":
        x = Multiply()(x, x)
    reduced: Value = (Mean(axes) if operation == "MEAN" else Sum(axes))(x)
    return reduced if coeff == 1 else Times(float(coeff))(reduced)


@layer("ArgMax", bottoms=1)
def argmax(c: LayerContext) -> Value:
    """Indices of the largest, along an axis or in everything behind axis 0; see Caffe's shapes."""
    (x,) = c.bottoms
    options = c.options("argmax_param")
    top_k = options.get("top_k")
    along_axis = options.has("axis")
    axis = axis_of(c, options, x) if along_axis else 1
    items = x.shape[0] if x.shape else 1
    flat = x if along_axis else viewed(x, (items, x.type.size // max(items, 1)))
    if not 1 <= top_k <= flat.shape[axis]:
        raise c.fail(f"top_k is {top_k}, but there are {flat.shape[axis]} values", "argmax_param")
    index, value = ArgMax(axis, top_k)(flat)
    if along_axis:
        along_it: Value = value if options.get("out_max_val") else index
        return along_it
    rest = (1,) * max(0, len(x.shape) - 3)
    if not options.get("out_max_val"):
        return viewed(index, (items, 1, top_k, *rest))
    row = (items, 1, top_k, *rest)
    both: Value = Concat(1)(viewed(index, row), viewed(value, row))
    return both
