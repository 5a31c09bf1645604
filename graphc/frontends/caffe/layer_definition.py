"""One layer of a net definition, with the fields that all layer types share."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from graphc.error import Diagnostic, did_you_mean
from graphc.frontends.caffe.message import Message
from graphc.source import Span

# Layers that weigh their first top with 1 unless told otherwise, and that make up a top of their
# own when none is named.
LOSS_TYPES = frozenset(
    {
        "ContrastiveLoss",
        "EuclideanLoss",
        "HingeLoss",
        "InfogainLoss",
        "MultinomialLogisticLoss",
        "SigmoidCrossEntropyLoss",
        "SoftmaxWithLoss",
    }
)


@dataclass(frozen=True)
class ParamDefinition:
    """What a layer says of one of its parameters.

    A non-empty `name` shares the parameter with every other of that name. The multipliers are
    those of the learning rate and of the weight decay; `gives_lr_mult` and `gives_decay_mult` tell
    a written 1 from the default, since sharers must agree only where they write one.
    """

    span: Span
    name: str = ""
    share_mode: Literal["STRICT", "PERMISSIVE"] = "STRICT"
    lr_mult: float = 1.0
    decay_mult: float = 1.0
    gives_lr_mult: bool = False
    gives_decay_mult: bool = False


@dataclass(frozen=True)
class LayerDefinition:
    """A layer: its name (may be empty or not unique), type, bottoms, tops and shared fields.

    `message` is the parsed layer: `layer.message.get("convolution_param")` gives the fields of its
    type with their defaults and places. `span` is the word that opens it.
    """

    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    params: tuple[ParamDefinition, ...]
    loss_weights: tuple[float, ...]
    propagate_down: tuple[bool, ...]
    phase: Literal["TRAIN", "TEST"]
    message: Message
    span: Span

    @property
    def label(self) -> str:
        """How messages call the layer: by its name, or where it has none by its type and line."""
        if self.name:
            return f"layer '{self.name}'"
        return f"the {self.type or 'nameless'} layer of line {self.span.line}"

    @property
    def blobs(self) -> list[Message]:
        """Parameter values that stand in the definition itself (BlobProto); most often none."""
        return self.message.all("blobs")

    def rate(self, index: int) -> float:
        """What this layer says of the learning rate of its parameter `index`: its lr_mult."""
        return self.params[index].lr_mult if index < len(self.params) else 1.0

    @property
    def top_weights(self) -> tuple[float, ...]:
        """The loss weight of each top, those that a loss layer makes up included."""
        is_loss = self.type in LOSS_TYPES
        given = self.loss_weights or ((1.0,) if is_loss else ())
        return given + (0.0,) * (max(len(self.tops), int(is_loss)) - len(given))

    def bottom_span(self, index: int) -> Span:
        """Where the name of bottom `index` stands."""
        return self.message.span_of("bottom", index)

    def top_span(self, index: int) -> Span:
        """Where the name of top `index` stands."""
        return self.message.span_of("top", index)

    def in_place(self, index: int) -> bool:
        """Whether top `index` has the name of the bottom with that index."""
        return index < len(self.bottoms) and self.tops[index] == self.bottoms[index]

    def mistakes(self, layer_types: Collection[str] | None = None) -> Iterator[Diagnostic]:
        """Errors that can be seen without looking at another layer."""
        if not self.type and "type" in self.message.refused:
            pass  # said where the value stands
        elif not self.type:
            yield Diagnostic(f"{self.label} has no type", self.span)
        elif layer_types is not None and self.type not in layer_types:
            yield Diagnostic(
                f"{self.label}: unknown layer type '{self.type}'",
                self.message.span_of("type"),
                hint=did_you_mean(self.type, layer_types),
            )
        if self.propagate_down and len(self.propagate_down) != len(self.bottoms):
            yield Diagnostic(
                f"{self.label} has {len(self.propagate_down)} propagate_down for "
                f"{len(self.bottoms)} bottoms; give one per bottom or none",
                self.message.name_span_of("propagate_down"),
            )
        yield from self._loss_weight_mistakes()

    def _loss_weight_mistakes(self) -> Iterator[Diagnostic]:
        is_loss = self.type in LOSS_TYPES
        tops = max(len(self.tops), 1) if is_loss else len(self.tops)
        if self.loss_weights and len(self.loss_weights) != tops:
            yield Diagnostic(
                f"{self.label} has {len(self.loss_weights)} loss_weight for {tops} tops; "
                "give one per top or none",
                self.message.name_span_of("loss_weight"),
            )
        if is_loss and tops > 1 and not self.loss_weights:
            yield Diagnostic(
                f"{self.label} has {tops} tops and no loss_weight; a loss with several tops "
                "needs a loss_weight for each",
                self.top_span(1),
            )


def layer_definition(message: Message, phase: Literal["TRAIN", "TEST"]) -> LayerDefinition:
    """The layer that a LayerParameter describes; `phase` is the net's, unless it has its own."""
    return LayerDefinition(
        name=message.get("name"),
        type=message.get("type"),
        bottoms=tuple(message.all("bottom")),
        tops=tuple(message.all("top")),
        params=tuple(_param_definition(spec) for spec in message.all("param")),
        loss_weights=tuple(message.all("loss_weight")),
        propagate_down=tuple(message.all("propagate_down")),
        phase=message.get("phase") if message.has("phase") else phase,
        message=message,
        span=message.span,
    )


def _param_definition(spec: Message) -> ParamDefinition:
    return ParamDefinition(
        span=spec.span,
        name=spec.get("name"),
        share_mode=spec.get("share_mode"),
        lr_mult=spec.get("lr_mult"),
        decay_mult=spec.get("decay_mult"),
        gives_lr_mult=spec.has("lr_mult"),
        gives_decay_mult=spec.has("decay_mult"),
    )
