"""A net up to its plan, with what its front end knew of layers and parameters: for looking inside.

Nets of both frameworks, and graphs that were written by hand, look the same from here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from graphc.source import Span

if TYPE_CHECKING:
    from graphc.driver import Compilation
    from graphc.frontends.caffe.definition import NetDefinition
    from graphc.frontends.caffe.layer_definition import LayerDefinition
    from graphc.frontends.caffe.network import CaffeNet
    from graphc.ir.graph import Graph
    from graphc.passes.manager import Stage
    from graphc.plan.program import Program


@dataclass(frozen=True)
class Layer:
    """One layer as the user wrote it; `parameters` are owners, `conv1/0`."""

    name: str
    kind: str
    bottoms: tuple[str, ...] = ()
    tops: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    span: Span | None = None


@dataclass(frozen=True)
class Learning:
    """How a solver treats a parameter. `learned` is False for the statistics of a batch norm."""

    lr_mult: float = 1.0
    decay_mult: float = 1.0
    learned: bool = True


@dataclass(frozen=True)
class Lowered:
    """All of it.

    Attributes:
        forward: the front end's graph, before all passes.
        graph, program, stages: after them.
        layers: in the definition's order.
        owners: every parameter as its layer calls it -> the owner that it uses.
        learning: by owner. rate_words: what the framework calls the two numbers in it.
        labels: inputs that no gradient can reach -> why, for a reader.
        phase: "TRAIN" or "TEST".
        force_backward: whether the definition asks for all gradients.
        turned: shapes are the user's from last to first (MATLAB's order).
    """

    forward: Graph
    graph: Graph
    program: Program
    stages: tuple[Stage, ...]
    layers: tuple[Layer, ...]
    owners: Mapping[str, str]
    learning: Mapping[str, Learning] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    phase: str = "TEST"
    force_backward: bool = False
    turned: bool = False
    rate_words: tuple[str, str] = ("lr_mult", "decay_mult")

    @property
    def layer_tops(self) -> dict[str, tuple[str, ...]]:
        """What each layer makes."""
        return {layer.name: layer.tops for layer in self.layers}

    def called(self, parameter: str) -> str:
        """What the user calls a parameter."""
        names = [name for name, owner in self.owners.items() if owner == parameter]
        return parameter if parameter in names or not names else names[0]

    def layer(self, name: str) -> Layer | None:
        """The layer of that name, if there is one."""
        return next((layer for layer in self.layers if layer.name == name), None)


def of_compilation(made: Compilation) -> Lowered:
    """A Caffe net of the driver's."""
    caffe = made.caffe
    return Lowered(
        forward=caffe.graph,
        graph=made.graph,
        program=made.program,
        stages=made.stages,
        layers=tuple(caffe_layers(caffe)),
        owners=caffe.owners,
        learning={
            name: Learning(held.lr_mult, held.decay_mult, held.learned)
            for name, held in caffe.parameters.items()
        },
        labels=_labels(caffe),
        phase=made.signature.phase,
        force_backward=caffe.definition.force_backward,
    )


def _labels(caffe: CaffeNet) -> dict[str, str]:
    """Inputs whose readers all give them no gradient, as losses do to labels."""
    from graphc.frontends.caffe.gradient_rules import has_gradient

    found = {}
    for name in caffe.inputs:
        readers = [
            (layer, position)
            for layer in caffe.definition.layers
            for position, bottom in enumerate(layer.bottoms)
            if bottom == name
        ]
        if readers and not any(has_gradient(layer, place) for layer, place in readers):
            layer = readers[-1][0]
            found[name] = f"{layer.label} ({layer.type}) gives it none"
    return found


def caffe_layers(caffe: CaffeNet) -> Iterable[Layer]:
    """The layers of a Caffe net under the names that tell them apart."""
    written = _by_unique_name(caffe.definition, caffe.layer_tops)
    for name, tops in caffe.layer_tops.items():
        own = [key for key in caffe.owners if key.rpartition("/")[0] == name]
        definition = written.get(name)
        yield Layer(
            name=name,
            kind=definition.type if definition else "",
            bottoms=tuple(caffe.layer_bottoms.get(name, ())),
            tops=tuple(tops),
            parameters=tuple(caffe.owners[key] for key in own),
            span=definition.span if definition else None,
        )


def _by_unique_name(
    definition: NetDefinition, names: Mapping[str, Sequence[str]]
) -> dict[str, LayerDefinition]:
    """Each layer under the name that the graph has for it; the two lists have one order."""
    if len(definition.layers) == len(names):
        return dict(zip(names, definition.layers, strict=True))
    return {layer.name: layer for layer in definition.layers}
