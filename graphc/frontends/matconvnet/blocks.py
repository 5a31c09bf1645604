"""DagNN's blocks: what a layer computes, as graph.

A block is made with DagNN's properties, named the Python way: `Conv(size=(3, 3, 16, 32), pad=1)`.
`build` gets the values of the layer's inputs and parameters, with axes [N, C, W, H].
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from graphc.error import NetError, did_you_mean, need
from graphc.frontends.matconvnet import functions, losses
from graphc.frontends.matconvnet.mat_file import listed, plain
from graphc.ir.core import Broadcast, View
from graphc.ir.graph import Graph, Value


@dataclass
class Surroundings:
    """What a block may ask for while it is built.

    Attributes:
        masks: dropout layers -> the input that holds their mask.
        moments: batch normalising layers -> their batch's moments [1, 1, 2, C].
        callbacks: layers that are the user's Python code -> that code.
    """

    graph: Graph
    mode: str
    version: str
    layer: str = ""
    masks: dict[str, str] = field(default_factory=dict)
    moments: dict[str, Value] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(default_factory=dict)

    @property
    def testing(self) -> bool:
        """Whether random and batch-dependent layers work as they do after training."""
        return self.mode == "test"

    def mask(self, like: Value) -> Value:
        """The input that holds this layer's dropout mask."""
        name = f"mask/{self.layer}"
        self.masks[self.layer] = name
        return self.graph.input(name, like.type)


@dataclass
class Block:
    """Base of all blocks."""

    learned: ClassVar[tuple[int, ...]] = (0,)  # the inputs that have a derivative
    has_several: ClassVar[bool] = False  # any number of inputs, each with a derivative

    def build(self, x: list[Value], params: list[Value], around: Surroundings) -> Value:
        """The output. Raises NetError with one sentence on what does not fit."""
        raise NotImplementedError

    def differentiates(self, position: int) -> bool:
        """Whether the input at that position has a derivative."""
        return self.has_several or position in self.learned

    def param_shapes(self) -> list[tuple[int, ...]]:
        """Sizes of the parameters in MATLAB's order, for `init_params`."""
        return []


def _need_params(params: list[Value], least: int, most: int) -> list[Value | None]:
    need(
        least <= len(params) <= most,
        f"it takes {least} to {most} parameters, {len(params)} are given",
    )
    return [*params, *[None] * (most - len(params))]


@dataclass
class Conv(Block):
    """vl_nnconv with filters of `size` fh x fw x C x K, and biases where has_bias."""

    size: Any = (0, 0, 0, 0)
    has_bias: bool = True
    stride: Any = 1
    pad: Any = 0
    dilate: Any = 1

    def build(self, x: list[Value], params: list[Value], around: Surroundings) -> Value:
        w, b = _need_params(params, 1, 2)
        options = {"stride": self.stride, "pad": _four(self.pad), "dilate": self.dilate}
        return functions.conv(x[0], w, b, **options)

    def param_shapes(self) -> list[tuple[int, ...]]:
        size = tuple(int(n) for n in np.ravel(self.size))
        size += (1,) * (4 - len(size))
        return [size, (size[3], 1, 1, 1)] if self.has_bias else [size]


@dataclass
class ConvTranspose(Block):
    """vl_nnconvt with filters of `size` fh x fw x K x D."""

    size: Any = (0, 0, 0, 0)
    has_bias: bool = True
    upsample: Any = 1
    crop: Any = 0
    num_groups: int = 1

    def build(self, x: list[Value], params: list[Value], around: Surroundings) -> Value:
        w, b = _need_params(params, 1, 2)
        assert w is not None
        options = {"upsample": self.upsample, "crop": _four(self.crop)}
        return functions.convt(x[0], w, b, numGroups=int(self.num_groups), **options)

    def param_shapes(self) -> list[tuple[int, ...]]:
        size = tuple(int(n) for n in np.ravel(self.size))
        size += (1,) * (4 - len(size))
        return [size, (size[2] * int(self.num_groups), 1, 1, 1)] if self.has_bias else [size]


def _four(value: Any) -> Any:
    """DagNN takes [vertical horizontal] as well."""
    numbers = list(np.ravel(value))
    return [numbers[0], numbers[0], numbers[1], numbers[1]] if len(numbers) == 2 else value


@dataclass
class Pooling(Block):
    """vl_nnpool."""

    pool_size: Any = (1, 1)
    method: str = "max"
    stride: Any = 1
    pad: Any = 0

    def build(self, x: list[Value], params: list[Value], around: Surroundings) -> Value:
        options = {"stride": self.stride, "pad": _four(self.pad), "method": self.method}
        return functions.pool(x[0], pool=self.pool_size, **options)


@dataclass
class ReLU(Block):
    """vl_nnrelu. use_short_circuit lets the input go before the backward pass, which uses y."""

    leak: float = 0.0
    use_short_circuit: bool = True

    def build(self, x: list[Value], params: list[Value], around: Surroundings) -> Value:
        return functions.relu(x[0], leak=float(self.leak))


@dataclass
class Sigmoid(Block):
    """vl_nnsigmoid."""

    def build(self, x: list[Value], params: list[Value], around: Surroundings) -> Value:
        return functions.sigmoid(x[0])


@dataclass
class SoftMax(Block):
    """vl_nnsoftmax."""

    def build(self, x: list[Value], params: list[Value], around: Surroundings) -> Value:
        return functions.softmax(x[0])


@dataclass
class DropOut(Block):
    """vl_nndropout with a new mask for every call, or the last one where frozen; the identity in
    test mode, forward and backward."""

    rate: float = 0.5
    frozen: bool = False

    def build(self, x: list[Value], params: list[Value], around: Surroundings) -> Value:
        return x[0] if around.testing else functions.dropout(x[0], around.mask(x[0]))


@dataclass
class LRN(Block):
    """vl_nnnormalize, param [N kappa alpha beta]."""

    param: Any = (5, 1, 0.0001 / 5, 0.75)

    def build(self, x: list[Value], params: list[Value], around: Surroundings) -> Value:
        return functions.normalize(x[0], param=self.param)


@dataclass
class SpatialNorm(Block):
    """vl_nnspnorm, param [ph pw alpha beta]."""

    param: Any = (2, 2, 10, 2)

    def build(self, x: list[Value], params: list[Value], around: Surroundings) -> Value:
        return functions.spnorm(x[0], param=self.param)


@dataclass
class NormOffset(Block):
    """vl_nnnoffset, param [a b]."""

    param: Any = (1, 0.5)

    def build(self, x: list[Value], params: list[Value], around: Surroundings) -> Value:
        return functions.noffset(x[0], param=self.param)


@dataclass
class BatchNorm(Block):
    """vl_nnbnorm; the parameters are multipliers, biases and moments [mu sigma].

    In test mode the third parameter holds the moments, and derivatives are those of what is
    computed then: the moments are constants. (MatConvNet's DagNN fails there for lack of moments;
    its SimpleNN differentiates with the batch's.)
    """

    num_channels: int = 0
    epsilon: float = 1e-5

    def build(self, x: list[Value], params: list[Value], around: Surroundings) -> Value:
        need(len(params) in (2, 3), f"it takes 3 parameters, {len(params)} are given")
        options: dict[str, Any] = {"epsilon": float(self.epsilon), "assume": False}
        if around.testing:
            need(len(params) == 3, "in test mode its third parameter, the moments, is needed")
            return functions.bnorm(x[0], params[0], params[1], params[2], **options)[0]
        y, moments = functions.bnorm(x[0], params[0], params[1], **options)
        around.moments[around.layer] = moments
        return y

    def param_shapes(self) -> list[tuple[int, ...]]:
        channels = int(self.num_channels)
        return [(channels, 1, 1, 1), (channels, 1, 1, 1), (channels, 2, 1, 1)]


@dataclass
class Scale(Block):
    """x .* s (+ b); s and b are further inputs, then parameters, repeated where of size 1."""

    size: Any = ()
    has_bias: bool = True
    has_several: ClassVar[bool] = True

    def build(self, x: list[Value], params: list[Value], around: Surroundings) -> Value:
        given = [*x, *params]
        need(len(given) in (2, 3), f"it takes an array, a scale and maybe a bias, not {len(given)}")
        return functions.scale(*given)

    def param_shapes(self) -> list[tuple[int, ...]]:
        size = tuple(int(n) for n in np.ravel(self.size))
        if not size:
            return []
        size += (1,) * (4 - len(size))
        return [size, size] if self.has_bias else [size]


@dataclass
class Sum(Block):
    """The sum of all inputs."""

    has_several: ClassVar[bool] = True

    def build(self, x: list[Value], params: list[Value], around: Surroundings) -> Value:
        total = x[0]
        for other in x[1:]:
            need(
                other.shape == total.shape,
                f"arrays of {functions.shown(total.shape)} and {functions.shown(other.shape)}"
                " cannot be added",
            )
            total = total + other
        return total


@dataclass
class Concat(Block):
    """vl_nnconcat."""

    dim: int = 3
    has_several: ClassVar[bool] = True

    def build(self, x: list[Value], params: list[Value], around: Surroundings) -> Value:
        return functions.concat(*x, dim=int(self.dim))


@dataclass
class Crop(Block):
    """The first input cut to the height and width of the second, from `crop` [top left] on."""

    crop: Any = (0, 0)

    def build(self, x: list[Value], params: list[Value], around: Surroundings) -> Value:
        need(len(x) == 2, f"it takes 2 inputs, not {len(x)}")
        top, left = (int(n) for n in np.broadcast_to(np.ravel(self.crop), 2))
        (w, h), (wanted_w, wanted_h) = x[0].shape[2:], x[1].shape[2:]
        margins = [top, h - top - wanted_h, left, w - left - wanted_w]
        need(
            min(margins) >= 0,
            f"{wanted_h} x {wanted_w} from {top}, {left} on do not fit into {h} x {w}",
        )
        return functions.crop(x[0], crop=margins)


@dataclass
class BilinearSampler(Block):
    """vl_nnbilinearsampler of an image and a grid."""

    learned: ClassVar[tuple[int, ...]] = (0, 1)

    def build(self, x: list[Value], params: list[Value], around: Surroundings) -> Value:
        need(len(x) == 2, f"it takes images and a grid, not {len(x)} inputs")
        return functions.bilinearsampler(x[0], x[1])


@dataclass
class ROIPooling(Block):
    """vl_nnroipool of an image and regions."""

    method: str = "max"
    subdivisions: Any = (6, 6)
    transform: Any = 1.0

    def build(self, x: list[Value], params: list[Value], around: Surroundings) -> Value:
        need(len(x) == 2, f"it takes images and regions, not {len(x)} inputs")
        need(x[1].type.size % 5 == 0, "the regions must be 5 x R")
        rois: Value = View((x[1].type.size // 5, 5))(x[1])
        options = {"subdivisions": self.subdivisions, "method": self.method}
        return functions.roipool(x[0], rois, transform=self.transform, **options)


@dataclass
class PDist(Block):
    """vl_nnpdist of two inputs, with weights where there is a third."""

    p: float = 2
    aggregate: bool = True
    no_root: bool = False
    epsilon: float = 1e-6
    learned: ClassVar[tuple[int, ...]] = (0, 1)

    def build(self, x: list[Value], params: list[Value], around: Surroundings) -> Value:
        need(len(x) in (2, 3), f"it takes 2 or 3 inputs, not {len(x)}")
        weights = per_position(x[2], x[0], "log") if len(x) == 3 else None
        return functions.pdist(
            x[0],
            x[1],
            weights,
            p=float(self.p),
            noRoot=bool(self.no_root),
            epsilon=float(self.epsilon),
            aggregate=bool(self.aggregate),
        )


@dataclass
class Loss(Block):
    """vl_nnloss of a prediction and labels, with weights where there is a third input.

    average: the mean of the loss per position since `reset`; num_averaged: how many positions.
    normalise: divide by the number of images (None: as the net's version does).
    """

    loss: str = "softmaxlog"
    ignore_average: bool = False
    top_k: int = 5
    threshold: float = 0.0
    normalise: bool | None = None
    average: float = 0.0
    num_averaged: int = 0

    def build(self, x: list[Value], params: list[Value], around: Surroundings) -> Value:
        need(len(x) in (2, 3), f"it takes a prediction, labels and maybe weights, not {len(x)}")
        kind = losses.loss_kind(self.loss)
        labels = per_position(x[1], x[0], kind)
        weights = per_position(x[2], x[0], kind) if len(x) == 3 else None
        divide = around.version == "master" if self.normalise is None else self.normalise
        return losses.loss(
            x[0],
            labels,
            weights,
            loss=kind,
            topK=int(self.top_k),
            threshold=float(self.threshold),
            normalise=bool(divide),
        )

    def accumulate(self, value: float, prediction: tuple[int, ...], divided: bool) -> None:
        """Take a loss of a prediction H x W x C x N into the mean."""
        if self.ignore_average:
            return
        positions = prediction[0] * prediction[1] * prediction[3]
        total = value * prediction[3] if divided else value
        count = self.num_averaged + positions
        self.average = (self.num_averaged * self.average + total) / max(count, 1)
        self.num_averaged = count

    def reset(self) -> None:
        """Forget the mean."""
        self.average, self.num_averaged = 0.0, 0


@dataclass
class L2Loss(Block):
    """(x - t)^2 element by element, its derivative 2 (x - t); t is reshaped to the size of x.

    The target has no derivative.
    """

    def build(self, x: list[Value], params: list[Value], around: Surroundings) -> Value:
        need(len(x) == 2, f"it takes a prediction and a target, not {len(x)} inputs")
        return functions.l2loss(x[0], x[1])


def per_position(given: Value, x: Value, kind: str) -> Value:
    """Labels or weights [N, W, H], or [N, C, W, H] for attributes, from any form they may have.

    There may be one for each image, or one for each position (or attribute).
    """
    n, c, w, h = x.shape
    by_attribute = kind in losses.ATTRIBUTES
    whole = (n, c, w, h) if by_attribute else (n, w, h)
    if given.type.size == n and not (by_attribute and c > 1):
        return _wide(View((n,))(given), whole)
    need(
        given.shape == (n, c if by_attribute else 1, w, h),
        f"labels or weights of {functions.shown(given.shape)} do not fit scores of"
        f" {functions.shown(x.shape)}",
    )
    flat: Value = View(whole)(given)
    return flat


def _wide(per_image: Value, shape: tuple[int, ...]) -> Value:
    wide: Value = Broadcast(shape, tuple(range(1, len(shape))))(per_image)
    return wide


BLOCKS: dict[str, type[Block]] = {
    cls.__name__: cls
    for cls in (
        Conv, ConvTranspose, Pooling, ReLU, Sigmoid, SoftMax, DropOut, LRN, SpatialNorm, NormOffset,
        BatchNorm, Scale, Sum, Concat, Crop, BilinearSampler, ROIPooling, PDist, Loss, L2Loss,
    )
}  # fmt: skip


def block_from_struct(layer: str, kind: str, properties: dict[str, Any]) -> Block:
    """A block as a file holds it: `dagnn.Conv` and its properties. Raises NetError for others."""
    name = kind.removeprefix("dagnn.")
    if name not in BLOCKS:
        hint = did_you_mean(name, BLOCKS)
        raise NetError(
            f"layer '{layer}' has the block '{kind}', which is not known here"
            + (f"; {hint}" if hint else "")
        )
    cls = BLOCKS[name]
    known = {f.name for f in dataclasses.fields(cls)}
    found: dict[str, Any] = {}
    for key, value in properties.items():
        short = snake_case(key)
        if short in known:
            found[short] = plain(value)
    if cls is Loss:
        found.update(_loss_options(layer, listed(properties.get("opts"))))
    return cls(**found)


def _loss_options(layer: str, options: list[Any]) -> dict[str, Any]:
    """Names and values that dagnn.Loss hands on to vl_nnloss."""
    known = {"topk": "top_k", "threshold": "threshold", "normalise": "normalise", "loss": "loss"}
    found = {}
    for name, value in zip(options[::2], options[1::2], strict=False):
        key = str(name).lower()
        need(key in known, f"layer '{layer}': the loss option '{name}' is not known here")
        found[known[key]] = plain(value)
    return found


def snake_case(name: str) -> str:
    """poolSize -> pool_size."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
