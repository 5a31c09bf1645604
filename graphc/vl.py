"""MatConvNet's functions, each in a pair: the value, and with `dzdy` the derivatives.

    from graphc import vl

    y = vl.conv(x, w, None, stride=2)
    dx, dw, _ = vl.conv(x, w, None, stride=2, dzdy=p)

Arrays are H x W x C x N, float32 or float64, all of one type in a call; axes of extent 1 at the end
may be left out of arguments, results have all four. None or an empty array stands for MATLAB's [].
Without dzdy a function returns its value. With it, it returns the tuple of the derivatives of
sum(dzdy * value), in the order of the inputs that have one, each in its input's shape; None for an
input that is missing. dzdy is like the value, or one number that stands for all elements.

Every function raises NetError for arguments that it does not have, arrays of two types or without
real numbers, an empty x, shapes that do not fit each other, and options that mean nothing.

Each function is compiled once for every set of shapes and options; the machine code is kept.
Options have MATLAB's names, the formulas are those of the MatConvNet function that is named first.
Where they differ from it, `graphc.frontends.matconvnet.functions` and `.losses` say so.
"""

# ruff: noqa: N803 (options have MATLAB's names)

from __future__ import annotations

from typing import Any

import numpy as np

from graphc.call_arguments import explained
from graphc.error import need
from graphc.frontends.matconvnet import functions, losses
from graphc.frontends.matconvnet.array import dropout_mask, four_axes, is_missing, real_kind
from graphc.function_call import FunctionCall

VERSIONS = ("beta25", "master")


# -- layers with filters --------------------------------------------------------------------------


@explained
def conv(
    x: Any,
    w: Any,
    b: Any = None,
    *,
    dzdy: Any = None,
    stride: Any = 1,
    pad: Any = 0,
    dilate: Any = 1,
) -> Any:
    """vl_nnconv: cross-correlation of x with filters w, fh x fw x C/groups x K, plus biases b.

    The output has floor((H + top + bottom - ((fh - 1) dilate + 1)) / stride) + 1 rows. With w
    empty the data is padded and subsampled, and the biases added. stride is one number or
    [vertical horizontal], pad one or [top bottom left right]. Returns y, or (dx, dw, db). Raises
    NetError where the depth of w does not divide C, or the output would be empty.
    """
    options = {"stride": stride, "pad": pad, "dilate": dilate}
    return FunctionCall.of({"x": x, "w": w, "b": b}).run(functions.conv, dzdy, options)


@explained
def convt(
    x: Any,
    w: Any,
    b: Any = None,
    *,
    dzdy: Any = None,
    upsample: Any = 1,
    crop: Any = 0,
    numGroups: int = 1,
) -> Any:
    """vl_nnconvt: convolution transpose with filters fh x fw x K x D, D the channels of x.

    The output has upsample (H - 1) + fh - top - bottom rows and K numGroups channels; crop is
    [top bottom left right]. Returns y, or (dx, dw, db). Raises NetError where crop leaves nothing.
    """
    options = {"upsample": upsample, "crop": crop, "numGroups": numGroups}
    return FunctionCall.of({"x": x, "w": w, "b": b}).run(functions.convt, dzdy, options)


# -- windows and shapes ---------------------------------------------------------------------------


@explained
def pool(
    x: Any,
    pool: Any,
    *,
    dzdy: Any = None,
    stride: Any = 1,
    pad: Any = 0,
    method: str = "max",
) -> Any:
    """vl_nnpool: the max or avg of windows of pool = [vertical horizontal] elements.

    The output has floor((H + top + bottom - ph) / stride) + 1 rows; what pad adds never counts.
    Returns y, or (dx,). Raises NetError where a window does not fit, or is no larger than the pad.
    """
    options = {"pool": pool, "stride": stride, "pad": pad, "method": method}
    return FunctionCall.of({"x": x}).run(functions.pool, dzdy, options)


@explained
def crop(x: Any, crop: Any, *, dzdy: Any = None) -> Any:
    """vl_nncrop: x without [top bottom left right] of its rows and columns.

    Returns y, or (dx,). Raises NetError where nothing is left.
    """
    return FunctionCall.of({"x": x}).run(functions.crop, dzdy, {"crop": crop})


@explained
def concat(*xs: Any, dim: int = 3, dzdy: Any = None) -> Any:
    """vl_nnconcat: the inputs one after the other along dimension dim, 1 (H) to 4 (N).

    Returns y, or (dx1, ...). Raises NetError where they differ along another dimension.
    """
    if len(xs) == 1 and isinstance(xs[0], (list, tuple)):
        xs = tuple(xs[0])
    need(xs, "concat needs an input")
    inputs = {f"x{number}": x for number, x in enumerate(xs, 1)}
    return FunctionCall.of(inputs).run(functions.concat, dzdy, {"dim": dim})


@explained
def bilinearsampler(x: Any, grid: Any, *, dzdy: Any = None) -> Any:
    """vl_nnbilinearsampler: x at points of grid, 2 x Ho x Wo x No, between its pixels.

    grid holds (vertical, horizontal) from -1 to 1, the centres of the outer pixels; before the
    first x is 0, and it goes over to 0 within a pixel past the last. No is a multiple of N. Returns
    y, Ho x Wo x C x No, or (dx, dgrid).
    """
    return FunctionCall.of({"x": x, "grid": grid}).run(functions.bilinearsampler, dzdy, {})


@explained
def roipool(
    x: Any,
    rois: Any,
    *,
    dzdy: Any = None,
    subdivisions: Any = 1,
    method: str = "max",
    transform: Any = 1.0,
) -> Any:
    """vl_nnroipool: regions of images, each pooled into subdivisions [sh sw] by max or avg.

    rois is 5 x R with columns of image, u0, v0, u1, v1, all from 1; transform scales the corners by
    one number or [horizontal vertical], or maps them by a 2 x 3 matrix. Returns y, sh x sw x C x R,
    or (dx,).
    """
    need(np.ndim(rois) >= 1 and np.shape(rois)[0] == 5, "rois must have five rows")
    options = {"subdivisions": subdivisions, "method": method, "transform": transform}
    dtype = real_kind({"x": x})
    rows = np.asarray(rois, dtype).reshape(5, -1, order="F")
    made = FunctionCall.of({"x": x})
    made.add("rois", rows.T, rows.shape)
    return made.run(functions.roipool, dzdy, options)


# -- normalisers ----------------------------------------------------------------------------------


@explained
def normalize(x: Any, param: Any = (5, 1, 0.0001 / 5, 0.75), *, dzdy: Any = None) -> Any:
    """vl_nnnormalize: x (kappa + alpha sum of x^2)^-beta over N neighbouring channels.

    param is [N kappa alpha beta]; alpha is not divided by N. Returns y, or (dx,).
    """
    return FunctionCall.of({"x": x}).run(functions.normalize, dzdy, {"param": param})


@explained
def spnorm(x: Any, param: Any, *, dzdy: Any = None) -> Any:
    """vl_nnspnorm: x (1 + alpha mean of x^2)^-beta, the mean over a window of ph x pw.

    param is [ph pw alpha beta]. Returns y, or (dx,).
    """
    return FunctionCall.of({"x": x}).run(functions.spnorm, dzdy, {"param": param})


@explained
def noffset(x: Any, param: Any, *, dzdy: Any = None) -> Any:
    """vl_nnnoffset: x - a L^b with L = max(sum of x^2 over channels, 1e-8), param [a b].

    Returns y, or (dx,).
    """
    return FunctionCall.of({"x": x}).run(functions.noffset, dzdy, {"param": param})


@explained
def normalizelp(
    x: Any, *, dzdy: Any = None, p: Any = 2, epsilon: float = 0.01, spatial: bool = False
) -> Any:
    """vl_nnnormalizelp: x / (sum of x^p + epsilon)^(1/p) over channels, or space where `spatial`.

    p is even. Returns y, or (dx,).
    """
    options = {"p": p, "epsilon": epsilon, "spatial": bool(spatial)}
    return FunctionCall.of({"x": x}).run(functions.normalizelp, dzdy, options)


@explained
def bnorm(
    x: Any, g: Any, b: Any, moments: Any = None, *, dzdy: Any = None, epsilon: float = 1e-4
) -> Any:
    """vl_nnbnorm: batch normalisation, g (x - mu) / sigma + b for each channel.

    mu is the mean over H, W and N, sigma = sqrt(variance + epsilon) with the biased variance.
    moments, C x 2, holds [mu sigma], where sigma has epsilon inside; without them the batch's are
    used. Returns y, or (dx, dg, db, dmoments): dmoments are the moments used. With given moments
    dx is MatConvNet's, which keeps the terms through mu and sigma.
    """
    inputs = {"x": x, "g": g, "b": b}
    if is_missing(moments):
        made = FunctionCall.of(inputs)
    else:
        made = FunctionCall.of({**inputs, "moments": moments}, fixed=("moments",))
    return made.run(functions.bnorm, dzdy, {"epsilon": epsilon}, ("moments",))


# -- element by element ---------------------------------------------------------------------------


@explained
def softmax(x: Any, *, dzdy: Any = None) -> Any:
    """vl_nnsoftmax: exp(x) / sum of exp(x), along channels. Returns y, or (dx,)."""
    return FunctionCall.of({"x": x}).run(functions.softmax, dzdy, {})


@explained
def sigmoid(x: Any, *, dzdy: Any = None) -> Any:
    """vl_nnsigmoid: 1 / (1 + exp(-x)). Returns y, or (dx,)."""
    return FunctionCall.of({"x": x}).run(functions.sigmoid, dzdy, {})


@explained
def relu(x: Any, *, dzdy: Any = None, leak: float = 0.0) -> Any:
    """vl_nnrelu: x where x > 0, else leak x; the derivative at 0 is leak. Returns y, or (dx,)."""
    return FunctionCall.of({"x": x}).run(functions.relu, dzdy, {"leak": leak})


@explained
def dropout(x: Any, mask: Any = None, *, dzdy: Any = None, rate: float = 0.5) -> Any:
    """vl_nndropout: mask * x. Returns y, or (dx,).

    Without a mask one is drawn with numpy's global generator, 0 with probability rate and else
    1 / (1 - rate), and (y, mask) is returned. Raises NetError for dzdy without a mask.
    """
    if is_missing(mask):
        need(dzdy is None, "the derivative of dropout needs the mask of the forward call")
        mask = dropout_mask(np.shape(x), rate, real_kind({"x": x}))
        return _masked(x, mask, None), mask
    return _masked(x, mask, dzdy)


def _masked(x: Any, mask: Any, dzdy: Any) -> Any:
    need(np.shape(x) == np.shape(mask), "the dropout mask must have the size of x")
    made = FunctionCall.of({"x": x, "mask": mask}, fixed=("mask",))
    return made.run(functions.dropout, dzdy, {})


# -- distances and losses -------------------------------------------------------------------------


@explained
def pdist(
    x: Any,
    x0: Any,
    p: float = 2,
    *,
    instanceWeights: Any = None,
    dzdy: Any = None,
    noRoot: bool = False,
    epsilon: float = 1e-6,
    aggregate: bool = False,
) -> Any:
    """vl_nnpdist: the p-distance of x and x0 along channels, (sum of |x - x0|^p)^(1/p).

    noRoot leaves the root away, aggregate adds all distances up; epsilon is the least that a
    derivative divides by.
    x0 may be 1 x 1 x C x N; dx0 has the size of x then, too, as in MatConvNet. instanceWeights has
    one weight for each distance. Returns y, or (dx, dx0).
    """
    options = {"p": p, "noRoot": bool(noRoot), "epsilon": epsilon, "aggregate": bool(aggregate)}
    shape = four_axes(x, "x").shape
    target = four_axes(x0, "x0")
    if target.shape != shape and target.shape == (1, 1, *shape[2:]):
        x0 = np.broadcast_to(target, shape)
    made = FunctionCall.of({"x": x, "x0": x0})
    if not is_missing(instanceWeights):
        weights = four_axes(instanceWeights, "instanceWeights")
        turned = losses.laid_out(weights, "log", shape, "instanceWeights")
        made.add("weights", turned, weights.shape)
    return made.run(functions.pdist, dzdy, options)


@explained
def loss(
    x: Any,
    c: Any,
    *,
    dzdy: Any = None,
    loss: str = "softmaxlog",
    instanceWeights: Any = None,
    topK: int = 5,
    threshold: float = 0.0,
    normalise: bool | None = None,
    version: str = "beta25",
) -> Any:
    """vl_nnloss: the sum of a loss over all positions and images. Returns y, or (dx,).

    Labels c count classes from 1, or are -1 and +1 for the binary losses; there are N, or one for
    each position; 0 means ignored. The sum is divided by the number of images where `normalise`,
    which is the default of version "master" alone. topK is for "topkerror", threshold for
    "binaryerror". Raises NetError for a label that is none of these.
    """
    need(version in VERSIONS, f"version is one of {', '.join(VERSIONS)}, not '{version}'")
    kind = losses.loss_kind(loss)
    divide = version == "master" if normalise is None else bool(normalise)
    options = {"loss": kind, "topK": topK, "threshold": threshold, "normalise": divide}
    return _loss(x, c, instanceWeights, dzdy, options)


@explained
def softmaxloss(x: Any, c: Any, *, dzdy: Any = None, version: str = "beta25") -> Any:
    """vl_nnsoftmaxloss: the sum of -log softmax(x)[c]; a second channel of c holds weights.

    Version "master" always divides by the number of images. Returns y, or (dx,).
    """
    need(version in VERSIONS, f"version is one of {', '.join(VERSIONS)}, not '{version}'")
    labels, weights = four_axes(c, "c"), None
    if labels.shape[2] == 2 and labels.size != four_axes(x, "x").shape[3]:
        labels, weights = labels[:, :, :1], labels[:, :, 1:]
    return _loss(x, labels, weights, dzdy, {"loss": "softmaxlog", "normalise": version == "master"})


def _loss(x: Any, c: Any, weights: Any, dzdy: Any, options: dict[str, Any]) -> Any:
    shape, kind = four_axes(x, "x").shape, options["loss"]
    labels = four_axes(c, "c")
    losses.check_labels(labels, kind, shape[2])
    made = FunctionCall.of({"x": x})
    turned = losses.laid_out(labels, kind, shape, "labels")
    made.add("c", turned, labels.shape)
    if not is_missing(weights):
        given = four_axes(weights, "instanceWeights")
        turned = losses.laid_out(given, kind, shape, "instanceWeights")
        made.add("weights", turned, given.shape)
    return made.run(losses.loss, dzdy, options)
