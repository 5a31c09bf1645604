"""Which bottoms of Caffe's layers get gradients: what force_backward reaches, what has none."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from graphc.error import Diagnostic
from graphc.frontends.caffe.layer_definition import LOSS_TYPES, LayerDefinition

# Bottoms that force_backward leaves alone; (1,), the label, for losses that are not listed.
_NOT_FORCED = {
    "ContrastiveLoss": (2,),
    "Crop": (1,),
    "EuclideanLoss": (),
    "LSTM": (1,),
    "LSTMUnit": (2,),
    "RNN": (1,),
}

# Bottoms that Caffe's layers cannot pass a gradient to; a backward pass that needs one is refused.
_WITHOUT_GRADIENT = {
    "Accuracy": (0, 1),
    "ArgMax": (0,),
    "BatchReindex": (1,),
    "Embed": (0,),
    "Filter": (-1,),
    "HingeLoss": (1,),
    "InfogainLoss": (1, 2),
    "LSTM": (1,),
    "MultinomialLogisticLoss": (1,),
    "RNN": (1,),
    "SigmoidCrossEntropyLoss": (1,),
    "SoftmaxWithLoss": (1,),
    "Threshold": (0,),
}


def is_forced(layer: LayerDefinition, position: int) -> bool:
    """Whether force_backward makes a gradient of that bottom."""
    default = (1,) if layer.type in LOSS_TYPES else ()
    return position not in _NOT_FORCED.get(layer.type, default)


def has_gradient(layer: LayerDefinition, position: int) -> bool:
    """Whether the layer can pass a gradient to that bottom."""
    without = _WITHOUT_GRADIENT.get(layer.type, ())
    return position not in without and position - len(layer.bottoms) not in without


@dataclass
class _Blob:
    """One value of a blob's name, as the rule sees it.

    `needs`: a parameter that learns lies below it. `readings`: how often layers read it.
    `is_open`: some reader passes a gradient on to it, or a loss weight lies on it.
    `under_loss`: a loss depends on it.
    """

    is_input: bool = False
    needs: bool = False
    readings: int = 0
    is_open: bool = False
    under_loss: bool = False


@dataclass
class _Step:
    """A layer with its blobs; `asked` are the bottoms that are to get a gradient."""

    layer: LayerDefinition
    bottoms: list[_Blob]
    tops: list[_Blob]
    asked: list[bool]
    runs: bool
    has_loss: bool


class BackwardRule:
    """Which layers Caffe runs backward, and which bottoms get a gradient there.

    A layer runs backward where it has a parameter that learns or reads a blob that needs a
    gradient, and a loss lies above it. `propagate_down` decides for one bottom in such a layer and
    makes no other layer run: where a blob has several readers, Caffe's Split layer between them
    runs only if the blob needs a gradient by itself. `force_backward` runs every layer.
    """

    def __init__(self, force: bool):
        self.force = force
        self._latest: dict[str, _Blob] = {}
        self._steps: list[_Step] = []

    def add_input(self, name: str) -> None:
        """A blob that comes from outside of the layers."""
        self._latest[name] = _Blob(is_input=True)

    def add(self, layer: LayerDefinition, inputs: Collection[str], learns: bool) -> None:
        """The next layer; `inputs` are those of its tops that are net inputs.

        `learns`: whether one of its parameters has a rate other than 0.
        """
        bottoms = [self._latest.setdefault(name, _Blob()) for name in layer.bottoms]
        for blob in bottoms:
            blob.readings += 1
        asked = list(layer.propagate_down) or [blob.needs for blob in bottoms]
        runs = learns or any(blob.needs for blob in bottoms)
        weights = layer.top_weights
        tops = [_Blob(name in inputs, runs) for name in layer.tops]
        for blob, weight in zip(tops, weights, strict=False):
            blob.is_open = blob.under_loss = weight != 0
        self._latest.update(zip(layer.tops, tops, strict=True))
        self._steps.append(_Step(layer, bottoms, tops, asked, runs, any(weights)))

    def finish(self) -> None:
        """Look from the losses down: what no loss depends on, or is cut off from, does not run."""
        for step in reversed(self._steps):
            has_loss = step.has_loss or any(blob.under_loss for blob in step.tops)
            closed = [blob.readings > 0 and not blob.is_open for blob in step.tops]
            is_cut = bool(closed) and all(closed)
            if is_cut or not has_loss:
                step.runs = False
                step.asked = [False] * len(step.asked)
            for blob, asked in zip(step.bottoms, step.asked, strict=True):
                blob.is_open = blob.is_open or asked
                blob.under_loss = blob.under_loss or has_loss

    def has_input_gradient(self, name: str) -> bool:
        """Whether the net input of that name gets a gradient. Only after `finish`."""
        return any(
            self._is_computed(step, position) and (self.force or blob.readings == 1)
            for step in self._steps
            for position, blob in enumerate(step.bottoms)
            if blob.is_input and step.layer.bottoms[position] == name
        )

    def _is_computed(self, step: _Step, position: int) -> bool:
        forced = self.force and is_forced(step.layer, position)
        return forced or (step.asked[position] and (step.runs or self.force))

    def refusals(self) -> Iterator[Diagnostic]:
        """Gradients that Caffe's backward pass needs where there are none; after `finish`."""
        for step in self._steps:
            for position, blob in enumerate(step.layer.bottoms):
                if has_gradient(step.layer, position) or not self._is_computed(step, position):
                    continue
                yield Diagnostic(
                    f"{step.layer.label} ({step.layer.type}) has no gradient for its bottom"
                    f" '{blob}', and {self._who_asks(step, position)}",
                    step.layer.bottom_span(position),
                )

    def _who_asks(self, step: _Step, position: int) -> str:
        if self.force and is_forced(step.layer, position):
            return "force_backward asks for one"
        if step.layer.propagate_down:
            return "propagate_down asks for one"
        return "what is learned below it needs one"
