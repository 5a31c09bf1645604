"""DagNN's blocks: what a layer computes, as graph. Losses are in `loss_blocks`.

A block is made with DagNN's properties, named the Python way: `Conv(size=(3, 3, 16, 32), pad=1)`.
`build` gets the values of the layer's inputs and parameters, with axes [N, C, W, H].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphc.error import need
from graphc.frontends.matconvnet import functions
from graphc.frontends.matconvnet.block import Block, Surroundings
from graphc.frontends.matconvnet.losses import per_position
from graphc.ir.core.view import View
from graphc.ir.graph import Value


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
    """vl_nnroipool of an image and regions; `flatten` makes 1 x 1 x (sh sw C) x R of the output."""

    method: str = "max"
    subdivisions: Any = (6, 6)
    transform: Any = 1.0
    flatten: bool = False

    def build(self, x: list[Value], params: list[Value], around: Surroundings) -> Value:
        need(len(x) == 2, f"it takes images and regions, not {len(x)} inputs")
        need(x[1].type.size % 5 == 0, "the regions must be 5 x R")
        rois: Value = View((x[1].type.size // 5, 5))(x[1])
        options = {"subdivisions": self.subdivisions, "method": self.method}
        y = functions.roipool(x[0], rois, transform=self.transform, **options)
        return View((y.shape[0], y.type.size // y.shape[0], 1, 1))(y) if self.flatten else y


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
        weights = per_position(x[2], x[0], "log", "weights") if len(x) == 3 else None
        return functions.pdist(
            x[0],
            x[1],
            weights,
            p=float(self.p),
            noRoot=bool(self.no_root),
            epsilon=float(self.epsilon),
            aggregate=bool(self.aggregate),
        )
