"""MatConvNet's functions, each in a pair: the value, and with `dzdy` the derivatives.

    from graphc import vl

    y = vl.conv(x, w, None, stride=2)
    dx, dw, _ = vl.conv(x, w, None, stride=2, dzdy=p)

Arrays are H x W x C x N, float32 or float64, all of one type in a call; axes of extent 1 at the end
may be left out of arguments, results have all four. None or an empty array stands for MATLAB's [].
Without dzdy a function returns its value. With it, it returns the tuple of the derivatives of
sum(dzdy * value), in the order of the inputs that have one, each in its input's shape; None for an
input that is missing. dzdy is like the value, or one number that stands for all elements.

Each function is compiled once for every set of shapes and options; the machine code is kept.
Options have MATLAB's names. The formulas, and where they differ from MatConvNet's, are in
`graphc.frontends.matconvnet.functions` and `.losses`.
"""

# ruff: noqa: N803 (options have MATLAB's names)

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from graphc.call_arguments import explained
from graphc.error import need
from graphc.frontends.matconvnet import functions, losses
from graphc.frontends.matconvnet.array import dropout_mask, four_axes, is_missing, real_kind
from graphc.graph_call import GraphCall, compile_graph_call
from graphc.ir.graph import Graph, Value
from graphc.ir.types import TensorType

Array = np.ndarray
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
    empty the data is padded and subsampled, and the biases added. Returns y, or (dx, dw, db).
    """
    options = {"stride": stride, "pad": pad, "dilate": dilate}
    return _call(functions.conv, {"x": x, "w": w, "b": b}, dzdy, options)


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

    Returns y, or (dx, dw, db).
    """
    options = {"upsample": upsample, "crop": crop, "numGroups": numGroups}
    return _call(functions.convt, {"x": x, "w": w, "b": b}, dzdy, options)


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
    """vl_nnpool: max or avg over windows. Returns y, or (dx,)."""
    options = {"pool": pool, "stride": stride, "pad": pad, "method": method}
    return _call(functions.pool, {"x": x}, dzdy, options)


@explained
def crop(x: Any, crop: Any, *, dzdy: Any = None) -> Any:
    """vl_nncrop: x without [top bottom left right]. Returns y, or (dx,)."""
    return _call(functions.crop, {"x": x}, dzdy, {"crop": crop})


@explained
def concat(*xs: Any, dim: int = 3, dzdy: Any = None) -> Any:
    """vl_nnconcat: the inputs one after the other along dimension dim. Returns y, or (dx1, ...)."""
    if len(xs) == 1 and isinstance(xs[0], (list, tuple)):
        xs = tuple(xs[0])
    need(xs, "concat needs an input")
    inputs = {f"x{number}": x for number, x in enumerate(xs, 1)}
    return _call(functions.concat, inputs, dzdy, {"dim": dim})


@explained
def bilinearsampler(x: Any, grid: Any, *, dzdy: Any = None) -> Any:
    """vl_nnbilinearsampler: x at points of grid, 2 x Ho x Wo x No. Returns y, or (dx, dgrid)."""
    return _call(functions.bilinearsampler, {"x": x, "grid": grid}, dzdy, {})


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
    """vl_nnroipool: the regions of rois, 5 x R, pooled into subdivisions. Returns y, or (dx,)."""
    need(np.ndim(rois) >= 1 and np.shape(rois)[0] == 5, "rois must have five rows")
    options = {"subdivisions": subdivisions, "method": method, "transform": transform}
    dtype = real_kind({"x": x})
    rows = np.asarray(rois, dtype).reshape(5, -1, order="F")
    made = _prepare({"x": x})
    made.add("rois", rows.T, rows.shape, differentiable=False)
    return made.run(functions.roipool, dzdy, options)


# -- normalisers ----------------------------------------------------------------------------------


@explained
def normalize(x: Any, param: Any = (5, 1, 0.0001 / 5, 0.75), *, dzdy: Any = None) -> Any:
    """vl_nnnormalize: local response normalisation, param [N kappa alpha beta].

    Returns y, or (dx,).
    """
    return _call(functions.normalize, {"x": x}, dzdy, {"param": param})


@explained
def spnorm(x: Any, param: Any, *, dzdy: Any = None) -> Any:
    """vl_nnspnorm: spatial normalisation, param [ph pw alpha beta]. Returns y, or (dx,)."""
    return _call(functions.spnorm, {"x": x}, dzdy, {"param": param})


@explained
def noffset(x: Any, param: Any, *, dzdy: Any = None) -> Any:
    """vl_nnnoffset: x minus a power of its squared norm, param [a b]. Returns y, or (dx,)."""
    return _call(functions.noffset, {"x": x}, dzdy, {"param": param})


@explained
def normalizelp(
    x: Any, *, dzdy: Any = None, p: Any = 2, epsilon: float = 0.01, spatial: bool = False
) -> Any:
    """vl_nnnormalizelp: x over its p-norm along channels, or over space. Returns y, or (dx,)."""
    options = {"p": p, "epsilon": epsilon, "spatial": bool(spatial)}
    return _call(functions.normalizelp, {"x": x}, dzdy, options)


@explained
def bnorm(
    x: Any, g: Any, b: Any, moments: Any = None, *, dzdy: Any = None, epsilon: float = 1e-4
) -> Any:
    """vl_nnbnorm: batch normalisation with multipliers g and biases b.

    moments, C x 2, holds [mu sigma], where sigma has epsilon inside; without them the batch's are
    used. Returns y, or (dx, dg, db, dmoments): dmoments are the moments used. With given moments
    dx is MatConvNet's, which keeps the terms through mu and sigma.
    """
    inputs = {"x": x, "g": g, "b": b}
    if is_missing(moments):
        return _call(functions.bnorm, inputs, dzdy, {"epsilon": epsilon}, extra=("moments",))
    made = _prepare({**inputs, "moments": moments})
    made.differentiable.remove("moments")
    return made.run(functions.bnorm, dzdy, {"epsilon": epsilon}, ("moments",))


# -- element by element ---------------------------------------------------------------------------


@explained
def softmax(x: Any, *, dzdy: Any = None) -> Any:
    """vl_nnsoftmax, along channels. Returns y, or (dx,)."""
    return _call(functions.softmax, {"x": x}, dzdy, {})


@explained
def sigmoid(x: Any, *, dzdy: Any = None) -> Any:
    """vl_nnsigmoid. Returns y, or (dx,)."""
    return _call(functions.sigmoid, {"x": x}, dzdy, {})


@explained
def relu(x: Any, *, dzdy: Any = None, leak: float = 0.0) -> Any:
    """vl_nnrelu. Returns y, or (dx,)."""
    return _call(functions.relu, {"x": x}, dzdy, {"leak": leak})


@explained
def dropout(x: Any, mask: Any = None, *, dzdy: Any = None, rate: float = 0.5) -> Any:
    """vl_nndropout: mask * x. Returns y, or (dx,).

    Without a mask one is drawn with numpy's global generator, 0 with probability rate and else
    1 / (1 - rate), and (y, mask) is returned.
    """
    if is_missing(mask):
        need(dzdy is None, "the derivative of dropout needs the mask of the forward call")
        mask = dropout_mask(np.shape(x), rate, real_kind({"x": x}))
        return _masked(x, mask, None), mask
    return _masked(x, mask, dzdy)


def _masked(x: Any, mask: Any, dzdy: Any) -> Any:
    need(np.shape(x) == np.shape(mask), "the dropout mask must have the size of x")
    made = _prepare({"x": x, "mask": mask})
    made.differentiable.remove("mask")
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
    """vl_nnpdist: the p-distance of x and x0 along channels.

    x0 may be 1 x 1 x C x N; dx0 has the size of x then, too, as in MatConvNet. instanceWeights has
    one weight for each distance. Returns y, or (dx, dx0).
    """
    options = {"p": p, "noRoot": bool(noRoot), "epsilon": epsilon, "aggregate": bool(aggregate)}
    shape = four_axes(x, "x").shape
    target = four_axes(x0, "x0")
    if target.shape != shape and target.shape == (1, 1, *shape[2:]):
        x0 = np.broadcast_to(target, shape)
    made = _prepare({"x": x, "x0": x0})
    if not is_missing(instanceWeights):
        weights = four_axes(instanceWeights, "instanceWeights")
        turned = losses.laid_out(weights, "log", shape, "instanceWeights")
        made.add("weights", turned, weights.shape, differentiable=False)
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
    which is the default of version "master" alone.
    """
    need(version in VERSIONS, f"version is one of {', '.join(VERSIONS)}, not '{version}'")
    kind = losses.loss_kind(loss)
    divide = version == "master" if normalise is None else bool(normalise)
    options = {"loss": kind, "topK": topK, "threshold": threshold, "normalise": divide}
    return _loss(x, c, instanceWeights, dzdy, options)


@explained
def softmaxloss(x: Any, c: Any, *, dzdy: Any = None, version: str = "beta25") -> Any:
    """vl_nnsoftmaxloss: loss "softmaxlog"; a second channel of c holds weights.

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
    made = _prepare({"x": x})
    turned = losses.laid_out(labels, kind, shape, "labels")
    made.add("c", turned, labels.shape, differentiable=False)
    if not is_missing(weights):
        given = four_axes(weights, "instanceWeights")
        turned = losses.laid_out(given, kind, shape, "instanceWeights")
        made.add("weights", turned, given.shape, differentiable=False)
    return made.run(losses.loss, dzdy, options)


# -- how a function runs --------------------------------------------------------------------------


@dataclass
class _Prepared:
    """The inputs of one call, turned to our axes."""

    dtype: str
    arrays: dict[str, Array | None]  # in the order of the function's arguments
    shapes: dict[str, tuple[int, ...]]  # as given
    differentiable: list[str]

    def add(self, name: str, turned: Array, shape: tuple[int, ...], differentiable: bool) -> None:
        """One more input."""
        self.arrays[name] = turned
        self.shapes[name] = shape
        if differentiable:
            self.differentiable.append(name)

    def run(
        self,
        function: Callable[..., Any],
        dzdy: Any,
        options: dict[str, Any],
        extra: Sequence[str] = (),
    ) -> Any:
        """The value, or the derivatives and the function's further results named in `extra`."""
        types = tuple(
            (name, None if array is None else array.shape) for name, array in self.arrays.items()
        )
        wrt = (
            ()
            if dzdy is None
            else tuple(name for name in self.differentiable if self.arrays[name] is not None)
        )
        key = tuple(sorted((name, _frozen(value)) for name, value in options.items()))
        made = _compiled(function, self.dtype, types, key, wrt, dzdy is not None, tuple(extra))
        inputs = {name: array for name, array in self.arrays.items() if array is not None}
        if dzdy is None:
            return made.call(inputs)["y"].T
        inputs["y.diff"] = _projection(dzdy, made.shape, self.dtype)
        found = made.call(inputs)
        derivatives = [self._derivative(name, found) for name in self.differentiable]
        return (*derivatives, *(found[name].T for name in extra))

    def _derivative(self, name: str, found: dict[str, Array]) -> Array | None:
        if self.arrays[name] is not None:
            return found[f"{name}.diff"].T.reshape(self.shapes[name], order="F")
        empty = self.shapes[name]
        return np.zeros(empty, self.dtype) if empty else None


def _prepare(arrays: dict[str, Any]) -> _Prepared:
    """Arrays of one type, turned to our axes."""
    given = {name: array for name, array in arrays.items() if not is_missing(array)}
    dtype = real_kind(given)
    prepared = _Prepared(dtype, {}, {}, [])
    for name, array in arrays.items():
        prepared.shapes[name] = () if array is None else np.shape(array)
        prepared.differentiable.append(name)
        prepared.arrays[name] = (
            four_axes(array, name).astype(dtype, copy=False).T if name in given else None
        )
    need(prepared.arrays.get("x", True) is not None, "x is empty")
    return prepared


def _call(
    function: Callable[..., Any],
    arrays: dict[str, Any],
    dzdy: Any,
    options: dict[str, Any],
    extra: Sequence[str] = (),
) -> Any:
    return _prepare(arrays).run(function, dzdy, options, extra)


def _projection(dzdy: Any, shape: tuple[int, ...], dtype: str) -> Array:
    """dzdy turned to our axes; one number stands for all elements."""
    given = four_axes(dzdy, "dzdy")
    need(
        given.size == 1 or given.T.shape == shape,
        f"dzdy of {functions.shown(given.T.shape)} does not fit a value of"
        f" {functions.shown(shape)}",
    )
    return np.broadcast_to(given.astype(dtype).T, shape)


def _frozen(value: Any) -> Any:
    """An option as something that can be a key: nested tuples for arrays and lists."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(part) for part in value)
    return value.item() if isinstance(value, np.generic) else value


@dataclass(frozen=True)
class _Compiled:
    call: GraphCall
    shape: tuple[int, ...]  # of the value, on our axes


@lru_cache(maxsize=512)
def _compiled(
    function: Callable[..., Any],
    dtype: str,
    types: tuple[tuple[str, tuple[int, ...] | None], ...],
    options: tuple[tuple[str, Any], ...],
    wrt: tuple[str, ...],
    backward: bool,
    extra: tuple[str, ...],
) -> _Compiled:
    graph = Graph(function.__name__)
    arguments: list[Value | None] = [
        None if shape is None else graph.input(name, TensorType(dtype, shape))
        for name, shape in types
    ]
    result = function(*arguments, **dict(options))
    y, *others = result if isinstance(result, tuple) else (result,)
    graph.blobs["y"] = y
    if not backward:
        graph.outputs["y"] = y
        return _Compiled(compile_graph_call(graph), y.shape)
    graph.outputs.update(zip(extra, others, strict=False))
    return _Compiled(compile_graph_call(graph, wrt, ("y",), known=("y",)), y.shape)
