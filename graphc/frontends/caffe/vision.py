"""Caffe's layers for images: convolution, deconvolution, inner product, pooling and LRN.

Each function turns the layer's bottoms into its tops with operators of graphc.ops, and refuses what
Caffe refuses. Caffe's own defaults come from the schema; those that live in its code are here.
"""

from __future__ import annotations

from math import prod
from typing import Any

from graphc.frontends.caffe.layer import LayerContext, layer
from graphc.frontends.caffe.message import Message
from graphc.frontends.caffe.neurons import given_filler, same_shapes
from graphc.frontends.caffe.shapes import axis_of, viewed
from graphc.ir.graph import Value
from graphc.ops.conv import Conv, ConvDataGradient
from graphc.ops.linear import AddBias, MatMul
from graphc.ops.lrn import Lrn
from graphc.ops.neuron import Power
from graphc.ops.pool import AvgPool, MaxPool, MaxPoolMask, pooled_extent
from graphc.ops.shape import Concat
from graphc.ops.unfold import Unfold
from graphc.ops.window import reach

Extents = tuple[int, ...]


def _outputs(c: LayerContext, options: Message) -> int:
    count: int = options.get("num_output")
    if count < 1:
        raise c.fail("num_output must be given and be at least 1", "num_output")
    return count


# -- convolution ----------------------------------------------------------------------------------


def _per_axis(
    c: LayerContext, options: Message, axes: int, field: str, short: str, default: int | None
) -> Extents:
    """One number per spatial axis from `field` (once, or once an axis) or `short`_h and _w."""
    names = (f"{short}_h", f"{short}_w")
    given: list[int] = options.all(field)
    if field != "dilation" and any(options.has(name) for name in names):
        if axes != 2:
            raise c.fail(f"{names[0]} and {names[1]} are for 2 spatial axes, not {axes}", names[0])
        if given:
            raise c.fail(f"give either {field} or {names[0]} and {names[1]}, not both", field)
        return tuple(options.get(name) if options.has(name) else 0 for name in names)
    if not given and default is None and axes:
        raise c.fail(f"{field} is missing", field)
    if not given:
        return (default or 0,) * axes
    if len(given) not in (1, axes):
        raise c.fail(
            f"{field} is given {len(given)} times; once, or once for each of the {axes} spatial"
            " axes is right",
            field,
        )
    return tuple(given) * axes if len(given) == 1 else tuple(given)


def _at_least_one(c: LayerContext, options: Message, numbers: Extents, name: str) -> None:
    if all(number >= 1 for number in numbers):
        return
    fields = (name, f"{name}_size", f"{name}_h", f"{name}_w")
    place = next((given.name for given in options if given.name in fields), None)
    hint = f" (give both {name}_h and {name}_w)" if place in (f"{name}_h", f"{name}_w") else ""
    raise c.fail(
        f"{name} must be at least 1 along every spatial axis, not {list(numbers)}{hint}", place
    )


class _Windows:
    """Where the windows of a convolution or an Im2col layer lie, for bottoms of one shape."""

    def __init__(self, c: LayerContext):
        options = c.options("convolution_param")
        same_shapes(c)
        if len(c.layer.tops) != len(c.bottoms):
            raise c.fail(
                f"{c.layer.type} gives one top for each bottom, but has {len(c.bottoms)} bottoms"
                f" and {len(c.layer.tops)} tops"
            )
        shape = c.bottoms[0].shape
        axis = axis_of(c, options, c.bottoms[0])
        axes = len(shape) - axis - 1
        self.outer = shape[:axis]
        self.channels = shape[axis]
        self.extents = shape[axis + 1 :]
        self.kernel = _per_axis(c, options, axes, "kernel_size", "kernel", None)
        self.strides = _per_axis(c, options, axes, "stride", "stride", 1)
        self.pads = _per_axis(c, options, axes, "pad", "pad", 0)
        self.dilations = _per_axis(c, options, axes, "dilation", "dilation", 1) if axes else ()
        _at_least_one(c, options, self.kernel, "kernel")
        _at_least_one(c, options, self.strides, "stride")
        _at_least_one(c, options, self.dilations, "dilation")

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The padding before and after, along each spatial axis."""
        return tuple((pad, pad) for pad in self.pads)


class _Geometry(_Windows):
    """A convolution layer's options."""

    def __init__(self, c: LayerContext):
        super().__init__(c)
        options = c.options("convolution_param")
        self.outputs = _outputs(c, options)
        self.groups: int = options.get("group")
        self._check_groups(c)

    def _check_groups(self, c: LayerContext) -> None:
        if self.groups < 1:
            raise c.fail("group must be at least 1", "group")
        if self.channels % self.groups:
            raise c.fail(
                f"the bottom's {self.channels} channels cannot be split into {self.groups} groups",
                "group",
            )
        if self.outputs % self.groups:
            raise c.fail(
                f"num_output {self.outputs} cannot be split into {self.groups} groups",
                "num_output",
            )

    @property
    def fields(self) -> tuple[Extents, tuple[tuple[int, int], ...], Extents, int]:
        """What the operators want to know."""
        return self.strides, self.pairs, self.dilations, self.groups

    def apply(self, c: LayerContext, op: Any, weights: Value, bias: Value | None) -> Any:
        """`op` on every bottom, its leading axes taken for one while it works."""
        tops = []
        for bottom in c.bottoms:
            y = op(viewed(bottom, (prod(self.outer), self.channels, *self.extents)), weights)
            if bias is not None:
                y = AddBias(1)(y, bias)
            tops.append(viewed(y, (*self.outer, *y.shape[1:])))
        return tuple(tops)


def _bias(c: LayerContext, options: Message, outputs: int, index: int = 1) -> Value | None:
    if not options.get("bias_term"):
        return None
    return c.parameter(index, (outputs,), given_filler(options, "bias_filler"))


@layer("Convolution")
def convolution(c: LayerContext) -> Any:
    """Cross-correlation; all bottoms share the weights [out, in / group, *kernel]."""
    _need_bottoms(c, 1)
    options = c.options("convolution_param")
    geometry = _Geometry(c)
    shape = (geometry.outputs, geometry.channels // geometry.groups, *geometry.kernel)
    weights = c.parameter(0, shape, given_filler(options, "weight_filler"))
    bias = _bias(c, options, geometry.outputs)
    return geometry.apply(c, Conv(*geometry.fields), weights, bias)


@layer("Deconvolution")
def deconvolution(c: LayerContext) -> Any:
    """The data gradient of a convolution, run forward; weights [in, out / group, *kernel]."""
    _need_bottoms(c, 1)
    options = c.options("convolution_param")
    geometry = _Geometry(c)
    extents = []
    for axis, extent in enumerate(geometry.extents):
        span = reach(geometry.kernel[axis], geometry.dilations[axis])
        extents.append(geometry.strides[axis] * (extent - 1) + span - 2 * geometry.pads[axis])
    if any(extent < 1 for extent in extents):
        raise c.fail(f"padding {list(geometry.pads)} leaves nothing: the top would be {extents}")
    shape = (geometry.channels, geometry.outputs // geometry.groups, *geometry.kernel)
    weights = c.parameter(0, shape, given_filler(options, "weight_filler"))
    bias = _bias(c, options, geometry.outputs)
    op = ConvDataGradient(tuple(extents), *geometry.fields)
    return geometry.apply(c, op, weights, bias)


def _need_bottoms(c: LayerContext, least: int) -> None:
    if len(c.bottoms) < least:
        raise c.fail(f"{c.layer.type} takes at least {least} bottoms, not {len(c.bottoms)}")


@layer("Im2col")
def im2col(c: LayerContext) -> tuple[Value, ...]:
    """The windows of a convolution, each tap a channel of its own."""
    _need_bottoms(c, 1)
    at = _Windows(c)
    op = Unfold(at.kernel, at.strides, at.pairs, at.dilations)
    tops = []
    for bottom in c.bottoms:
        y = op(viewed(bottom, (prod(at.outer), at.channels, *at.extents)))
        tops.append(viewed(y, (*at.outer, *y.shape[1:])))
    return tuple(tops)


@layer("InnerProduct", bottoms=1)
def inner_product(c: LayerContext) -> Value:
    """A matrix product with everything from `axis` on taken for one axis."""
    options = c.options("inner_product_param")
    outputs = _outputs(c, options)
    x = c.bottoms[0]
    axis = axis_of(c, options, x)
    outer, inner = x.shape[:axis], prod(x.shape[axis:])
    transposed = options.get("transpose")
    shape = (inner, outputs) if transposed else (outputs, inner)
    weights = c.parameter(0, shape, given_filler(options, "weight_filler"))
    bias = _bias(c, options, outputs)
    rows = prod(outer)
    y: Value = MatMul(False, not transposed)(viewed(x, (rows, inner)), weights)
    if bias is not None:
        y = AddBias(1)(y, bias)
    return viewed(y, (*outer, outputs))


# -- pooling and normalisation --------------------------------------------------------------------


def _pair(c: LayerContext, options: Message, field: str, short: str, default: int) -> Extents:
    """A pooling option along height and width: `field`, or both of `short`_h and `short`_w."""
    names = (f"{short}_h", f"{short}_w")
    given = [options.has(name) for name in names]
    if not any(given):
        return (options.get(field) if options.has(field) else default,) * 2
    if options.has(field):
        raise c.fail(f"give either {field} or {names[0]} and {names[1]}, not both", field)
    if not all(given):
        raise c.fail(f"{names[0]} and {names[1]} belong together", names[given.index(True)])
    return tuple(options.get(name) for name in names)


def _need_four_axes(c: LayerContext) -> Value:
    x = c.bottoms[0]
    if len(x.shape) != 4:
        raise c.fail(
            f"{c.layer.type} takes a bottom of 4 axes (images, channels, height, width),"
            f" not {list(x.shape)}"
        )
    return x


def _pooling_window(c: LayerContext, options: Message, extents: Extents) -> Extents:
    """The window's height and width."""
    if not options.get("global_pooling"):
        size = _pair(c, options, "kernel_size", "kernel", 0)
        if any(number < 1 for number in size):
            raise c.fail("kernel_size must be given and be at least 1", "kernel_size")
        return size
    for field in ("kernel_size", "kernel_h", "kernel_w"):
        if options.has(field):
            raise c.fail(f"global_pooling takes the whole image, so it has no {field}", field)
    return extents


@layer("Pooling", bottoms=1)
def pooling(c: LayerContext) -> Any:
    """Largest or mean element of sliding windows, with Caffe's rounding and divisor."""
    options = c.options("pooling_param")
    x = _need_four_axes(c)
    extents = x.shape[2:]
    size = _pooling_window(c, options, extents)
    pads = _pair(c, options, "pad", "pad", 0)
    strides = _pair(c, options, "stride", "stride", 1)
    if any(stride < 1 for stride in strides):
        raise c.fail("stride must be at least 1", "stride")
    if options.get("global_pooling") and (pads != (0, 0) or strides != (1, 1)):
        raise c.fail("global_pooling needs pad 0 and stride 1", "global_pooling")
    if any(pad and pad >= width for pad, width in zip(pads, size, strict=True)):
        raise c.fail(
            f"pad {list(pads)} must be smaller than the kernel, which is {list(size)}", "pad"
        )
    ceil = options.get("round_mode") == "CEIL"
    both = tuple((pad, pad) for pad in pads)
    padded = any(pads)
    output = tuple(
        pooled_extent(*along, ceil, padded)
        for along in zip(extents, size, strides, both, strict=True)
    )
    method = options.get("pool")
    if method == "AVE":
        return AvgPool(size, strides, both, output)(x)
    if method != "MAX":
        raise c.fail(f"pooling method {method} exists on Caffe's GPU side only", "pool")
    y, index = MaxPool(size, strides, both, output)(x)
    if len(c.layer.tops) < 2:
        return y
    return y, MaxPoolMask(x.type.dtype, extents, size, strides, both)(index)


@layer("SPP", bottoms=1)
def spatial_pyramid_pooling(c: LayerContext) -> Value:
    """Pooling into 1, 2 x 2, 4 x 4, ... bins, joined from coarse to fine (arXiv 1406.4729).

    A pyramid of one level is that level's pooling, with its four axes.
    """
    options = c.options("spp_param")
    x = _need_four_axes(c)
    height: int = options.get("pyramid_height")
    if not 1 <= height <= 30:
        raise c.fail("pyramid_height must be given, from 1 to 30", "pyramid_height")
    levels = [_pyramid_level(c, options.get("pool"), x, 2**level) for level in range(height)]
    if height == 1:
        return levels[0]
    joined: Value = Concat(1)(*(viewed(y, (x.shape[0], prod(y.shape[1:]))) for y in levels))
    return joined


def _pyramid_level(c: LayerContext, method: str, x: Value, bins: int) -> Value:
    """`x` pooled into bins x bins windows that lie side by side, padded to be of one size."""
    extents = x.shape[2:]
    size = tuple(-(-extent // bins) for extent in extents)
    pads = tuple((s * bins - extent + 1) // 2 for s, extent in zip(size, extents, strict=True))
    if any(pad >= s for pad, s in zip(pads, size, strict=True)):
        raise c.fail(
            f"an image of {list(extents)} is too small for {bins} x {bins} bins: windows of"
            f" {list(size)} would need a padding of {list(pads)}",
            "pyramid_height",
        )
    both = tuple((pad, pad) for pad in pads)
    padded = any(pads)
    output = tuple(
        pooled_extent(*along, is_padded=padded)
        for along in zip(extents, size, size, both, strict=True)
    )
    if method == "AVE":
        mean: Value = AvgPool(size, size, both, output)(x)
        return mean
    if method != "MAX":
        raise c.fail(f"pooling method {method} exists on Caffe's GPU side only", "pool")
    largest: Value = MaxPool(size, size, both, output)(x)[0]
    return largest


@layer("LRN", bottoms=1)
def lrn(c: LayerContext) -> Value:
    """Response normalisation across channels, or within one over a square of neighbours."""
    options = c.options("lrn_param")
    x = _need_four_axes(c)
    size: int = options.get("local_size")
    alpha, beta = options.get("alpha"), options.get("beta")
    if size % 2 == 0:
        raise c.fail(f"local_size must be odd, not {size}", "local_size")
    if options.get("norm_region") == "ACROSS_CHANNELS":
        across: Value = Lrn(size, alpha, beta, options.get("k"))(x)
        return across
    half = (size - 1) // 2
    pads = ((half, half), (half, half))
    mean = AvgPool((size, size), (1, 1), pads, x.shape[2:])(Power(2.0)(x))
    within: Value = x * Power(-beta, alpha, 1.0)(mean)
    return within
