"""MatConvNet's building blocks as graphs.

Values have axes [N, C, W, H] (see `graphc.frontends.matconvnet.array`); options have MATLAB's names
and meanings. Filters fh x fw x C x K are [K, C, fw, fh] here, which is what our convolution takes.
An option or an array that does not fit raises NetError, which names it.
"""

# ruff: noqa: N803 (options have MATLAB's names)

from __future__ import annotations

from typing import Any

import numpy as np

from graphc.error import need
from graphc.frontends.matconvnet.array import margins, numbers_of, pair, real, whole
from graphc.ir.core.axes import Broadcast, Sum
from graphc.ir.core.elementwise import StopGradient
from graphc.ir.core.fill import fill
from graphc.ir.core.view import View
from graphc.ir.graph import Value
from graphc.ir.types import TensorType
from graphc.ops import shape as shapes
from graphc.ops.bnorm import AssumedMoments, BatchMoments, ChannelNormalize
from graphc.ops.conv import Conv, ConvDataGradient
from graphc.ops.linear import AddBias
from graphc.ops.lrn import Lrn
from graphc.ops.neuron import Power, Relu, Sigmoid
from graphc.ops.noffset import FlooredPower
from graphc.ops.pdist import LpNorm
from graphc.ops.pool import AvgPool, MaxPool
from graphc.ops.roipool import IDENTITY, RoiAvgPool, RoiMaxPool
from graphc.ops.sampler import BilinearSampler
from graphc.ops.softmax import Softmax

# The sum of squares below which vl_nnnoffset takes this one.
NOFFSET_FLOOR = 1e-8


# -- layers with filters --------------------------------------------------------------------------


def conv(
    x: Value, w: Value | None, b: Value | None, *, stride: Any = 1, pad: Any = 0, dilate: Any = 1
) -> Value:
    """Cross-correlation; the groups are channels(x) / channels(w).

    Without filters the input is padded and subsampled only. b has one element per filter.
    """
    channels = x.shape[1]
    if w is None:
        w, groups = fill(x.graph, x.type.with_shape(channels, 1, 1, 1), 1.0), channels
    else:
        depth = w.shape[1]
        need(
            depth > 0 and channels % depth == 0,
            f"filters of depth {depth} do not divide the {channels} channels of the data",
        )
        groups = channels // depth
    pads, strides = _pads(pad, "pad"), _turned(stride, "stride")
    y: Value = Conv(strides, pads, _turned(dilate, "dilate"), groups)(x, w)
    return _with_bias(y, b)


def convt(
    x: Value,
    w: Value,
    b: Value | None,
    *,
    upsample: Any = 1,
    crop: Any = 0,
    numGroups: int = 1,
) -> Value:
    """Convolution transpose: filters fh x fw x K x D with D = channels(x); K * numGroups come out.

    The output has upsample * (H - 1) + fh - top - bottom rows.
    """
    strides, pads = _turned(upsample, "upsample"), _pads(crop, "crop")
    extents = tuple(
        stride * (extent - 1) + size - sum(cut)
        for stride, extent, size, cut in zip(strides, x.shape[2:], w.shape[2:], pads, strict=True)
    )
    need(
        min(extents) >= 1,
        f"crop {crop} leaves nothing: the output would be {extents[1]} x {extents[0]}",
    )
    y: Value = ConvDataGradient(extents, strides, pads, (1, 1), whole(numGroups, "numGroups"))(x, w)
    return _with_bias(y, b)


def _turned(value: Any, what: str) -> tuple[int, int]:
    """[vertical horizontal] in the order of our axes, W before H."""
    vertical, horizontal = pair(value, what)
    return horizontal, vertical


def _pads(value: Any, what: str) -> tuple[tuple[int, int], tuple[int, int]]:
    top, bottom, left, right = margins(value, what)
    return (left, right), (top, bottom)


def _with_bias(y: Value, b: Value | None) -> Value:
    if b is None:
        return y
    need(
        b.type.size == y.shape[1],
        f"the biases have {b.type.size} elements for {y.shape[1]} filters",
    )
    biased: Value = AddBias(1)(y, _flat(b))
    return biased


def _flat(b: Value) -> Value:
    flat: Value = b if len(b.shape) == 1 else View((b.type.size,))(b)
    return flat


# -- windows and shapes ---------------------------------------------------------------------------


def pool(x: Value, *, pool: Any = 1, stride: Any = 1, pad: Any = 0, method: str = "max") -> Value:
    """Max or average pooling; the number of windows is rounded down.

    The average is taken over the elements inside the image. Of equal maxima the first in MATLAB's
    order gets the derivative.
    """
    size, strides, pads = _turned(pool, "pool"), _turned(stride, "stride"), _pads(pad, "pad")
    for axis, cut in zip(size, pads, strict=True):
        need(max(cut) < axis, f"pad {pad} must be smaller than the pooling window {pool}")
    room = [e + sum(cut) - s for e, cut, s in zip(x.shape[2:], pads, size, strict=True)]
    need(
        min(room) >= 0,
        f"a pooling window of {size[1]} x {size[0]} does not fit into the padded image of"
        f" {x.shape[3] + sum(pads[1])} x {x.shape[2] + sum(pads[0])}",
    )
    output = tuple(space // stride + 1 for space, stride in zip(room, strides, strict=True))
    need(method in ("max", "avg"), f"the pooling method is max or avg, not '{method}'")
    if method == "avg":
        mean: Value = AvgPool(size, strides, pads, output, count_padding=False)(x)
        return mean
    best: Value = MaxPool(size, strides, pads, output)(x)[0]
    return best


def crop(x: Value, *, crop: Any = 0) -> Value:
    """The image without [top bottom left right] of its border."""
    (left, right), (top, bottom) = _pads(crop, "crop")
    n, c, w, h = x.shape
    need(
        left + right < w and top + bottom < h,
        f"crop {crop} leaves nothing of an image of {h} x {w}",
    )
    shape = (n, c, w - left - right, h - top - bottom)
    cut: Value = shapes.Crop((0, 0, left, top), shape)(x)
    return cut


def concat(*xs: Value, dim: int = 3) -> Value:
    """The inputs one after the other along dimension `dim`, 1 to 4."""
    need(dim in (1, 2, 3, 4), f"dim is 1, 2, 3 or 4, not {dim}")
    joined: Value = shapes.Concat(4 - whole(dim, "dim"))(*xs)
    return joined


def bilinearsampler(x: Value, grid: Value) -> Value:
    """Samples of x at the grid's points, rows (vertical, horizontal) in -1 .. 1; 0 outside."""
    sampled: Value = BilinearSampler()(x, grid)
    return sampled


def roipool(
    x: Value,
    rois: Value,
    *,
    subdivisions: Any = 1,
    method: str = "max",
    transform: Any = 1.0,
) -> Value:
    """Regions (rows of rois: image, u0, v0, u1, v1, from 1) pooled into subdivisions [sh sw].

    transform scales corners, T (u - 1) + 1, by one number or [horizontal vertical], or maps them by
    a 2 x 3 matrix. A single subdivision counts for both directions (MatConvNet reads past its end).
    """
    size = _turned(subdivisions, "subdivisions")
    need(method in ("max", "avg"), f"the pooling method is max or avg, not '{method}'")
    matrix = _corner_transform(transform)
    if method == "avg":
        mean: Value = RoiAvgPool(size, matrix)(x, rois)
        return mean
    best: Value = RoiMaxPool(size, matrix)(x, rois)[0]
    return best


def _corner_transform(transform: Any) -> tuple[float, ...]:
    given = np.asarray([] if transform is None else transform)
    need(given.size == 0 or given.dtype.kind in "fiu", f"transform has no numbers: {transform!r}")
    given = given.astype(np.float64)
    if given.size == 0:
        return IDENTITY
    if given.shape == (2, 3):
        return tuple(float(number) for number in given.ravel())
    need(
        given.size in (1, 2),
        f"transform is one number, two, or a matrix of 2 x 3, not an array of {given.shape}",
    )
    u, v = float(given.flat[0]), float(given.flat[-1])
    return (u, 0.0, 1.0 - u, 0.0, v, 1.0 - v)


# -- normalisers ----------------------------------------------------------------------------------


def normalize(x: Value, *, param: Any = (5, 1, 0.0001 / 5, 0.75)) -> Value:
    """x (kappa + alpha sum of squares)^-beta over neighbouring channels, [N kappa alpha beta].

    Channels k - floor((N - 1) / 2) .. k + ceil((N - 1) / 2). alpha is not divided by N. The power
    is exact, as in MatConvNet's GPU code; its CPU code approximates it to 3e-3.
    """
    window, kappa, alpha, beta = numbers_of(param, 4, "param")
    size = int(window)
    need(size == window and size >= 1, f"param: N must be a whole number above 0, not {window:g}")
    if size % 2:
        odd: Value = Lrn(size, alpha * size, beta, kappa)(x)
        return odd
    n, c, w, h = x.shape
    squares = View((n, 1, c, w * h))(x * x)
    pads = (((size - 1) // 2, size // 2), (0, 0))
    mean = AvgPool((size, 1), (1, 1), pads, (c, w * h))(squares)
    y: Value = x * Power(-beta, alpha * size, kappa)(View(x.shape)(mean))
    return y


def spnorm(x: Value, *, param: Any) -> Value:
    """x (1 + alpha mean of squares)^-beta, the mean over a window; param [ph pw alpha beta].

    MatConvNet's help says sum; the average is what it computes, over the elements inside the image.
    """
    high, wide, alpha, beta = numbers_of(param, 4, "param")
    size = _turned((high, wide), "param [ph pw ...]")
    pads = tuple(((extent - 1) // 2, extent // 2) for extent in size)
    mean = AvgPool(size, (1, 1), pads, x.shape[2:], count_padding=False)(x * x)
    y: Value = x * Power(-beta, alpha, 1.0)(mean)
    return y


def noffset(x: Value, *, param: Any) -> Value:
    """x - a L^b with L = max(sum of squares over channels, 1e-8), param [a b]."""
    a, b = numbers_of(param, 2, "param")
    offset = FlooredPower(b, NOFFSET_FLOOR)(Sum((1,))(x * x))
    y: Value = x - Broadcast(x.shape, (1,))(offset * a)
    return y


def normalizelp(x: Value, *, p: Any = 2, epsilon: float = 0.01, spatial: bool = False) -> Value:
    """x / (sum of x^p + epsilon)^(1/p), over channels, or over space where `spatial`; p is even."""
    p = real(p, "p")
    need(p >= 2 and p % 2 == 0, f"p must be an even whole number, not {p}")
    axes = (2, 3) if spatial else (1,)
    square = x * x
    mass = Sum(axes)(square if p == 2 else Power(p / 2)(square))
    scale = Power(-1.0 / p, 1.0, real(epsilon, "epsilon"))(mass)
    y: Value = x * Broadcast(x.shape, axes)(scale)
    return y


def bnorm(
    x: Value,
    g: Value,
    b: Value,
    moments: Value | None = None,
    *,
    epsilon: float = 1e-4,
    assume: bool = True,
) -> tuple[Value, Value]:
    """Batch normalisation; y, and the moments [mu sigma] as an array [1, 1, 2, C].

    mu and sigma are those of the batch, sigma = sqrt(biased variance + epsilon), or the given ones,
    for which epsilon was counted already. With given moments the derivative of x is MatConvNet's:
    the terms through mu and sigma stay, as if the numbers were the batch's (`assume`); with assume
    off it is the derivative of what is computed.
    """
    for name, vector in (("multipliers", g), ("biases", b)):
        need(
            vector.type.size == x.shape[1],
            f"the {name} have {vector.type.size} elements for {x.shape[1]} channels",
        )
    if moments is None:
        mu, sigma = BatchMoments(real(epsilon, "epsilon"))(x)
    else:
        need(
            moments.type.size == 2 * x.shape[1],
            f"the moments have {moments.type.size} elements, not 2 for each of {x.shape[1]}"
            " channels",
        )
        mu, sigma = _columns(moments)
        if assume:
            mu, sigma = AssumedMoments()(x, mu, sigma)
    y: Value = ChannelNormalize()(x, _flat(g), _flat(b), mu, sigma)
    row = (1, 1, 1, x.shape[1])
    both: Value = shapes.Concat(2)(View(row)(mu), View(row)(sigma))
    return y, both


def _columns(moments: Value) -> tuple[Value, Value]:
    channels = moments.type.size // 2
    mu, sigma = shapes.Slice(0, (channels,))(_flat(moments))
    return mu, sigma


# -- element by element ---------------------------------------------------------------------------


def softmax(x: Value) -> Value:
    """exp(x) / sum of exp(x), along channels."""
    y: Value = Softmax(1)(x)
    return y


def sigmoid(x: Value) -> Value:
    """1 / (1 + exp(-x))."""
    y: Value = Sigmoid()(x)
    return y


def relu(x: Value, *, leak: float = 0.0) -> Value:
    """x where x > 0, else leak * x; the derivative at 0 is leak."""
    y: Value = Relu(real(leak, "leak"))(x)
    return y


def dropout(x: Value, mask: Value) -> Value:
    """mask * x; the mask holds 0 and 1 / (1 - rate)."""
    return x * mask


# -- distances ------------------------------------------------------------------------------------


def pdist(
    x: Value,
    x0: Value,
    weights: Value | None = None,
    *,
    p: float = 2,
    noRoot: bool = False,
    epsilon: float = 1e-6,
    aggregate: bool = False,
) -> Value:
    """(sum over channels of |x - x0|^p)^(1/p); x0 may be 1 x 1 x C x N; weights are per position.

    aggregate sums everything to one number. Where x0 is repeated its gradient is the sum.
    """
    if x0.shape != x.shape and x0.shape == (*x.shape[:2], 1, 1):
        x0 = Broadcast(x.shape, (2, 3))(View(x.shape[:2])(x0))
    need(
        x0.shape == x.shape,
        f"x0 must have the size of x, {shown(x.shape)}, or be 1 x 1 x C x N; it is"
        f" {shown(x0.shape)}",
    )
    distance: Value = LpNorm(real(p, "p"), not noRoot, real(epsilon, "epsilon"))(x - x0)
    if weights is not None:
        distance = distance * weights
    return total(distance) if aggregate else View((x.shape[0], 1, *x.shape[2:]))(distance)


def l2loss(x: Value, t: Value, *, halfGradient: bool = False) -> Value:
    """(x - t)^2, element by element; t is reshaped to the size of x. The derivative is 2 (x - t).

    A version of this block that is widely copied forgets the 2; halfGradient asks for that one.
    """
    need(
        t.type.size == x.type.size,
        f"the target has {t.type.size} elements, the prediction {x.type.size}",
    )
    difference = x - (t if t.shape == x.shape else View(x.shape)(t))
    return difference * (StopGradient()(difference) if halfGradient else difference)


def scale(x: Value, factor: Value, bias: Value | None = None) -> Value:
    """x * factor + bias; both may have extent 1 where x has not."""
    y = x * repeated(factor, x.type)
    return y if bias is None else y + repeated(bias, x.type)


def repeated(value: Value, to: TensorType) -> Value:
    """A value repeated along the axes where it has extent 1 and `to` has not."""
    if value.shape == to.shape:
        return value
    fits = len(value.shape) == to.rank and all(
        e in (1, wanted) for e, wanted in zip(value.shape, to.shape, strict=True)
    )
    need(fits, f"an array of {shown(value.shape)} cannot be repeated to {shown(to.shape)}")
    axes = tuple(a for a, (e, w) in enumerate(zip(value.shape, to.shape, strict=True)) if e != w)
    kept = tuple(e for a, e in enumerate(value.shape) if a not in axes)
    wide: Value = Broadcast(to.shape, axes)(View(kept)(value))
    return wide


def total(x: Value) -> Value:
    """The sum of all elements as a 1 x 1 x 1 x 1 array."""
    whole: Value = View((1, 1, 1, 1))(Sum(tuple(range(len(x.shape))))(x))
    return whole


def shown(shape: tuple[int, ...]) -> str:
    """A shape in MATLAB's order."""
    return " x ".join(str(extent) for extent in reversed(shape))
