"""DagNN's losses as blocks."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from graphc.error import NetError, NetWarning, did_you_mean, need
from graphc.frontends.matconvnet import functions, losses
from graphc.frontends.matconvnet.array import four_axes, is_missing
from graphc.frontends.matconvnet.block import Block, Surroundings
from graphc.frontends.matconvnet.mat_file import plain
from graphc.ir.graph import Value

# The options of vl_nnloss -> the fields of Loss. MatConvNet reads classWeights and ignores them.
_OPTIONS = {
    "loss": "loss",
    "topK": "top_k",
    "threshold": "threshold",
    "normalise": "normalise",
    "instanceWeights": "instance_weights",
    "classWeights": "",
}


@dataclass
class Loss(Block):
    """vl_nnloss of a prediction and labels, with weights where there is a third input.

    opts: options of vl_nnloss by MATLAB's names, which win over the fields: a mapping, or names and
    values by turns; `opts={"instanceWeights": w}` has a weight for each image or position.
    average: the mean of the loss per position since `reset`; num_averaged: how many positions.
    normalise: divide by the number of images (None: as the net's version does).
    label_smoothing: ours, not MatConvNet's; for log and softmaxlog, the part of a label's weight
    that goes to all classes alike.
    """

    loss: str = "softmaxlog"
    ignore_average: bool = False
    top_k: int = 5
    threshold: float = 0.0
    normalise: bool | None = None
    instance_weights: Any = None
    opts: Any = ()
    label_smoothing: float = 0.0
    average: float = 0.0
    num_averaged: int = 0

    def settled(self) -> Loss:
        """The block with its `opts` in the fields."""
        return replace(self, opts=(), **_options(self.opts))

    def vl_options(self) -> dict[str, Any]:
        """What vl_nnloss is called with besides the loss, by MATLAB's names, defaults left out."""
        chosen, usual = self.settled(), Loss()
        named = {name: getattr(chosen, own) for name, own in _OPTIONS.items() if own}
        del named["loss"]
        default = {name: getattr(usual, _OPTIONS[name]) for name in named}
        return {n: v for n, v in named.items() if not (v is None or v is default[n])}

    @property
    def kind(self) -> str:
        """The loss, one that is known."""
        return losses.loss_kind(self.settled().loss)

    def divides(self, version: str) -> bool:
        """Whether the loss is divided by the number of images."""
        chosen = self.settled().normalise
        return version == "master" if chosen is None else bool(chosen)

    def own_weights(self, scores: tuple[int, ...], dtype: str) -> np.ndarray | None:
        """The instance weights that the block holds, for scores H x W x C x N; on our axes."""
        given = self.settled().instance_weights
        if is_missing(given):
            return None
        weights = four_axes(given, "instanceWeights").astype(dtype)
        return losses.laid_out(weights, self.kind, scores, "instanceWeights")

    def build(self, x: list[Value], params: list[Value], around: Surroundings) -> Value:
        need(len(x) in (2, 3), f"it takes a prediction, labels and maybe weights, not {len(x)}")
        chosen, kind = self.settled(), self.kind
        labels = losses.per_position(x[1], x[0], kind)
        weights = losses.per_position(x[2], x[0], kind, "weights") if len(x) == 3 else None
        own = self.own_weights(x[0].shape[::-1], x[0].type.dtype)
        if own is not None:
            need(weights is None, "it has weights in its third input and in instanceWeights")
            weights = around.instance_weights(own)
        return losses.loss(
            x[0],
            labels,
            weights,
            loss=kind,
            topK=int(chosen.top_k),
            threshold=float(chosen.threshold),
            normalise=self.divides(around.version),
            label_smoothing=float(chosen.label_smoothing),
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
class SoftTargetLoss(Block):
    """-sum of t log p over classes, positions and images; t has the size of the prediction.

    Ours, not MatConvNet's. loss: "softmaxlog" for a prediction of scores, "log" for one of
    probabilities. The targets have no derivative. normalise: divide by the number of images.
    """

    loss: str = "softmaxlog"
    normalise: bool = False

    def build(self, x: list[Value], params: list[Value], around: Surroundings) -> Value:
        need(len(x) == 2, f"it takes a prediction and targets, not {len(x)} inputs")
        value = functions.total(losses.soft_target(x[0], x[1], self.loss))
        count = x[0].shape[0]
        return value * (1.0 / count) if self.normalise and count > 1 else value


@dataclass
class L2Loss(Block):
    """(x - t)^2 element by element, its derivative 2 (x - t); t is reshaped to the size of x.

    The target has no derivative. half_gradient gives x - t for the derivative, as a version of this
    block that many users have does; a check of gradients finds it 2 times too small.
    """

    half_gradient: bool = False

    def build(self, x: list[Value], params: list[Value], around: Surroundings) -> Value:
        need(len(x) == 2, f"it takes a prediction and a target, not {len(x)} inputs")
        return functions.l2loss(x[0], x[1], halfGradient=bool(self.half_gradient))


def _options(given: Any) -> dict[str, Any]:
    """Options of vl_nnloss as fields of a Loss; letters may be small or large, as in MATLAB."""
    if isinstance(given, Mapping):
        named = dict(given)
    else:
        words = list(given)
        need(len(words) % 2 == 0, "opts are {name: value}, or names and values by turns")
        named = dict(zip(map(str, words[::2]), words[1::2], strict=True))
    known = {name.lower(): name for name in _OPTIONS}
    found = {}
    for name, value in named.items():
        if str(name).lower() not in known:
            hint = did_you_mean(str(name), _OPTIONS) or f"there are {', '.join(_OPTIONS)}"
            raise NetError(f"the loss option '{name}' is not known here; {hint}")
        option = known[str(name).lower()]
        if option == "classWeights":
            warnings.warn("classWeights have no effect, as in MatConvNet", NetWarning, stacklevel=4)
        elif option == "instanceWeights":
            found[_OPTIONS[option]] = value
        else:
            found[_OPTIONS[option]] = plain(value)
    return found
