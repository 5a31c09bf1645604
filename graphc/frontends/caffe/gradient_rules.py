"""Which bottoms of Caffe's layers get gradients: what force_backward reaches, what has none."""

from __future__ import annotations

from dataclasses import dataclass

from graphc.error import Diagnostic
from graphc.frontends.caffe.layer_definition import LOSS_TYPES, LayerDefinition
from graphc.ir.graph import Graph, Value

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


@dataclass(frozen=True)
class Refusal:
    """A gradient that is asked for where there is none.

    It counts where force_backward asks (`forced`), or where a loss depends on the layer's `tops`.
    """

    layer: LayerDefinition
    position: int
    forced: bool
    tops: tuple[Value, ...]

    def diagnostic(self, graph: Graph) -> Diagnostic | None:
        """The error for a backward pass; None where nothing needs the gradient."""
        layer, blob = self.layer, self.layer.bottoms[self.position]
        reason = "force_backward asks for one"
        if not self.forced:
            losses = [value for value, _ in graph.losses]
            if not any({loss, *graph.reaching(loss)} & set(self.tops) for loss in losses):
                return None
            reason = "what is learned below it needs one"
        return Diagnostic(
            f"{layer.label} ({layer.type}) has no gradient for its bottom '{blob}', and {reason}",
            layer.bottom_span(self.position),
        )
