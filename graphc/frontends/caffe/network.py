"""A Caffe definition as a Graph: names, in-place chains, loss weights, sharing, who gets gradients.

Caffe's rules kept here, each where it is used:
- an in-place layer makes a new value; the blob's name goes to the last one, the earlier ones are
  called `BLOB:LAYER` after the layer that made them;
- net outputs are the blobs that nobody reads;
- a loss layer's first top has weight 1 unless the definition says otherwise;
- who gets gradients by default follows lr_mult, propagate_down and force_backward.

Different on purpose: a gradient that reaches a loss blob from a layer that reads it is added to the
loss weight (Caffe overwrites one with the other).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path

from graphc.error import Diagnostic, NetError, did_you_mean
from graphc.frontends.caffe import data as _data  # noqa: F401  (all of these enter their layers)
from graphc.frontends.caffe import losses as _losses  # noqa: F401
from graphc.frontends.caffe import normalisation as _normalisation  # noqa: F401
from graphc.frontends.caffe import python_layer as _python_layer  # noqa: F401
from graphc.frontends.caffe import recurrent as _recurrent  # noqa: F401
from graphc.frontends.caffe import rows as _rows  # noqa: F401
from graphc.frontends.caffe import shapes as _shapes  # noqa: F401
from graphc.frontends.caffe import vision as _vision  # noqa: F401
from graphc.frontends.caffe.definition import NetDefinition
from graphc.frontends.caffe.gradient_rules import BackwardRule
from graphc.frontends.caffe.layer import (
    LAYERS,
    DataLayer,
    LayerContext,
    Parameter,
    Selection,
    Surroundings,
)
from graphc.frontends.caffe.layer_definition import LOSS_TYPES, LayerDefinition
from graphc.frontends.caffe.python_layer import PythonLayer
from graphc.ir.core.elementwise import Copy, StopGradient
from graphc.ir.graph import Graph, Origin, Value


@dataclass(repr=False)
class CaffeNet:
    """A definition built for one phase and one set of shapes.

    Attributes:
        graph: the forward graph; `graph.outputs` are the net's outputs, alphabetically.
        inputs: names of the net inputs, in order.
        parameters: owner name `conv1/0` -> Parameter, in net order.
        owners: every `LAYER/INDEX` -> the owner it uses (itself, unless shared).
        default_wrt: names Caffe's rule computes gradients for: inputs, then parameters.
        seeds: outputs that a gradient is given for by default (those without a loss weight).
        layer_tops, layer_bottoms: blob names per layer.
        selections: the Filter layers, whose tops' extents depend on data.
        python_layers: by layer name, the objects of Python layers.
        data_layers: layers that may fill net inputs from files or at random.
        refusals: why Caffe's default backward pass cannot be run; empty where it can.
    """

    graph: Graph
    definition: NetDefinition
    inputs: list[str]
    parameters: dict[str, Parameter]
    owners: dict[str, str]
    default_wrt: list[str] = field(default_factory=list)
    seeds: list[str] = field(default_factory=list)
    layer_tops: dict[str, list[str]] = field(default_factory=dict)
    layer_bottoms: dict[str, list[str]] = field(default_factory=dict)
    warnings: list[Diagnostic] = field(default_factory=list)
    refusals: list[Diagnostic] = field(default_factory=list)
    python_layers: dict[str, PythonLayer] = field(default_factory=dict)
    selections: list[Selection] = field(default_factory=list)
    data_layers: list[DataLayer] = field(default_factory=list)

    def __repr__(self) -> str:
        counts = f"{len(self.layer_tops)} layers, {len(self.parameters)} parameters"
        return f"<CaffeNet '{self.graph.name}': {counts}>"

    @property
    def loss_weights(self) -> dict[str, float]:
        """The loss weight of each output that has one."""
        weights = {id(value): weight for value, weight in self.graph.losses}
        outputs = self.graph.outputs.items()
        return {name: weights[id(value)] for name, value in outputs if id(value) in weights}

    def losses_up_to(self, layer: str) -> list[bool]:
        """For each loss of the graph whether this layer or one before it makes it."""
        names = list(self.layer_tops)
        later = set(names[names.index(layer) + 1 :])
        makers = [self.graph.producer(value) for value, _ in self.graph.losses]
        return [maker is None or maker.origin.layer not in later for maker in makers]

    def made_by(self, layer: str, top: str) -> str:
        """A layer's top as it leaves it: another name where a later layer works on it in place."""
        earlier = f"{top}:{layer}"
        return earlier if earlier in self.graph.blobs else top


def build(
    definition: NetDefinition,
    *,
    phase: str,
    dtype: str = "float32",
    shapes: dict[str, tuple[int, ...]] | None = None,
    fused: bool = True,
    infogain_input: str = "scores",
    masks: Iterable[str] = (),
    only: tuple[str | None, str | None] = (None, None),
) -> CaffeNet:
    """Build the graph of a definition.

    infogain_input="probabilities" takes InfogainLoss as Caffe had it before 2017, on probabilities.
    shapes replaces input shapes by blob name; masks names Dropout layers whose 0/1 mask is an input
    `mask/LAYER`; only = (first, last) builds just the layers between these two, with what they read
    from outside as inputs (their shapes must then be in `shapes`).
    Raises NetError with everything that is wrong in the definition.
    """
    around = Surroundings(
        Graph(definition.name or "net"),
        phase,
        dtype,
        _folder(definition),
        fused,
        infogain_input,
        frozenset(masks),
        dict(shapes or {}),
        partly_frozen=_partly_frozen(definition),
    )
    builder = _Builder(definition, around)
    return builder.run(_selected(definition, *only))


def _partly_frozen(definition: NetDefinition) -> frozenset[str]:
    """Names of parameters to whose gradient some sharers add and others, with lr_mult 0, do not."""
    if definition.force_backward:
        return frozenset()
    specs = [spec for layer in definition.layers for spec in layer.params if spec.name]
    moving = {spec.name for spec in specs if spec.lr_mult != 0}
    return frozenset(spec.name for spec in specs if spec.lr_mult == 0 and spec.name in moving)


def _selected(
    definition: NetDefinition, first: str | None, last: str | None
) -> list[LayerDefinition]:
    layers = _with_unique_names(definition.layers)
    names = [layer.name for layer in layers]
    for name in (first, last):
        if name is not None and name not in names:
            hint = did_you_mean(str(name), names)
            raise NetError(f"there is no layer '{name}'; {hint}".rstrip("; "))
    start = 0 if first is None else names.index(first)
    stop = len(names) if last is None else names.index(last) + 1
    if start >= stop:
        raise NetError(f"layer '{first}' comes after layer '{last}'")
    return layers[start:stop]


def _with_unique_names(layers: Sequence[LayerDefinition]) -> list[LayerDefinition]:
    """Caffe lets layers share a name or have none; here `name`, `name.2`, ... tell them apart."""
    seen: Counter[str] = Counter()
    named = []
    for layer in layers:
        name = layer.name or layer.type.lower()
        seen[name] += 1
        unique = name if seen[name] == 1 else f"{name}.{seen[name]}"
        named.append(replace(layer, name=unique))
    return named


def _folder(definition: NetDefinition) -> Path:
    """Where paths in the definition start: its file's folder, or the working folder for a text."""
    path = Path(definition.source.name)
    return path.parent if path.is_file() else Path()


class _Builder:
    def __init__(self, definition: NetDefinition, around: Surroundings):
        self.definition = definition
        self.around = around
        self.graph = around.graph
        self.errors: list[Diagnostic] = []
        self.broken: set[str] = set()
        self.read: set[str] = set()
        self.weighted: set[str] = set()
        self.rule = BackwardRule(definition.force_backward)
        self.wanted: dict[str, None] = {}  # parameters that get a gradient, in order
        self.net = CaffeNet(self.graph, definition, [], self.around.parameters, self.around.owners)

    def run(self, layers: list[LayerDefinition]) -> CaffeNet:
        whole = len(layers) == len(self.definition.layers)
        for definition in layers:
            if not whole:
                self._open_bottoms(definition)
            self._add(definition)
        named = _with_unique_names(self.definition.layers)
        unknown = self.around.masks - {d.name for d in named}
        for name in sorted(unknown):
            self.errors.append(Diagnostic(f"a mask is given for '{name}', which is no layer"))
        if self.errors:
            raise NetError(self.errors)
        self._finish()
        return self.net

    def _open_bottoms(self, definition: LayerDefinition) -> None:
        """In a part of a net: what it reads from outside becomes an input."""
        for name in definition.bottoms:
            if name in self.graph.blobs or name in self.broken:
                continue
            if name not in self.around.shapes:
                raise NetError(f"no shape is known for blob '{name}', which the part reads")
            context = LayerContext(self.around, definition, [])
            self.graph.blobs[name] = context.input(name, ())
            self.rule.add_input(name)

    # -- one layer --

    def _add(self, definition: LayerDefinition) -> None:
        """Add one layer; a layer that fails breaks its tops, so one mistake is reported once."""
        self.net.layer_tops[definition.name] = list(definition.tops)
        self.net.layer_bottoms[definition.name] = list(definition.bottoms)
        if any(name in self.broken for name in definition.bottoms):
            self.broken.update(definition.tops)
            return
        try:
            values = self._call(definition)
            weights = self._weights(definition, len(values))
        except NetError as error:
            self.errors.extend(_placed(error, definition))
            self.broken.update(definition.tops)
            return
        self._name_tops(definition, values)
        self._note_gradients(definition)
        for value, weight in zip(values, weights, strict=False):
            if weight:
                self.graph.losses.append((value, weight))
        self.weighted.update(
            top for top, weight in zip(definition.tops, weights, strict=False) if weight
        )

    def _call(self, definition: LayerDefinition) -> tuple[Value, ...]:
        type = LAYERS.get(definition.type)
        context = LayerContext(self.around, definition, [])
        if type is None:
            hint = did_you_mean(definition.type, LAYERS)
            raise NetError(
                Diagnostic(
                    f"layer '{definition.name}' has unknown type '{definition.type}'",
                    definition.message.span_of("type"),
                    hint=hint,
                )
            )
        if type.bottoms is not None:
            least, most = type.bottoms
            if not least <= len(definition.bottoms) <= most:
                count = str(least) if least == most else f"{least} to {most}"
                raise context.fail(
                    f"{definition.type} takes {count} bottoms, not {len(definition.bottoms)}"
                )
        for position, name in enumerate(definition.bottoms):
            context.bottoms.append(self._bottom(definition, position, name))
        origin = Origin(definition.name, definition.type, definition.span)
        self.graph.origin = origin
        tops = type.build(context)
        values = tops if isinstance(tops, tuple) else (tops,)
        if len(definition.tops) > len(values):
            raise context.fail(
                f"{definition.type} has {len(values)} tops, not {len(definition.tops)}"
            )
        if values and not definition.tops and definition.type not in LOSS_TYPES:
            raise context.fail(f"{definition.type} needs a top")
        owned = len(list(self._own_parameters(definition)))
        if len(definition.params) > owned:
            raise context.fail(
                f"{len(definition.params)} param messages, but the layer has {owned} parameters"
            )
        self._warn_softmax_twice(definition)
        return self._apart(definition, values)

    def _apart(self, definition: LayerDefinition, values: tuple[Value, ...]) -> tuple[Value, ...]:
        """The tops; what another blob is already, as a Split's are, becomes a value of its own.

        Blobs that are equal differ in their gradients.
        """
        taken = set(self.graph.blobs.values())
        made: list[Value] = []
        for name, value in zip_longest(definition.tops, values):
            in_place = name is not None and self.graph.blobs.get(name) is value
            made.append(Copy()(value) if value in taken and not in_place else value)
            taken.add(made[-1])
        return tuple(made)

    def _warn_softmax_twice(self, definition: LayerDefinition) -> None:
        """A loss with its own softmax, fed with probabilities, trains badly and says nothing."""
        takes_scores = definition.type == "SoftmaxWithLoss" or (
            definition.type == "InfogainLoss" and self.around.infogain_input == "scores"
        )
        if not takes_scores or not definition.bottoms:
            return
        maker = self.graph.blobs[definition.bottoms[0]]
        node = self.graph.producer(maker)
        while node is not None and node.op.is_identity:
            node = self.graph.producer(node.inputs[0])
        if node is not None and node.origin.kind == "Softmax":
            context = LayerContext(self.around, definition, [])
            context.warn(
                f"its input '{definition.bottoms[0]}' is a softmax already, and {definition.type}"
                " takes scores: two softmaxes in a row; remove the layer"
                f" '{node.origin.layer}' or feed its bottom to the loss"
            )

    def _bottom(self, definition: LayerDefinition, position: int, name: str) -> Value:
        self.read.add(name)
        value = self.graph.blobs[name]
        cut = definition.propagate_down and not definition.propagate_down[position]
        if not cut or self.definition.force_backward:
            return value
        self.graph.remark(
            "caffe",
            f"layer:{definition.name}",
            f"propagate_down: false at '{definition.name}' cuts the gradient of '{name}'",
            definition.span,
        )
        self.graph.origin = Origin(definition.name, definition.type, definition.span)
        stopped: Value = StopGradient()(value)
        return stopped

    def _weights(self, definition: LayerDefinition, tops: int) -> list[float]:
        if definition.loss_weights:
            weights = list(definition.loss_weights)
            for top, weight in zip(definition.tops, weights, strict=False):
                self.graph.remark(
                    "caffe",
                    f"blob:{top}",
                    f"its loss weight {weight:g} is the loss_weight of layer '{definition.name}'",
                    definition.span,
                )
            return weights + [0.0] * (tops - len(weights))
        if definition.type not in LOSS_TYPES:
            return [0.0] * tops
        subject = f"blob:{definition.tops[0]}" if definition.tops else f"layer:{definition.name}"
        self.graph.remark(
            "caffe",
            subject,
            f"its loss weight 1 is the default of {definition.type} layers",
            definition.span,
        )
        return [1.0] + [0.0] * (tops - 1)

    # -- names --

    def _name_tops(self, definition: LayerDefinition, values: tuple[Value, ...]) -> None:
        for name, value in zip(definition.tops, values, strict=False):
            held = self.graph.blobs.get(name)
            if held is not None and held is not value:
                self._retire(name, held, definition)
            free = name not in self.graph.values and value not in self.graph.blobs.values()
            if value.role is None and free:
                self.graph.rename(value, name)
            self.graph.blobs[name] = value
            self.read.discard(name)

    def _retire(self, name: str, held: Value, definition: LayerDefinition) -> None:
        """An in-place layer takes the blob's name; the earlier value is named after its maker."""
        node = self.graph.producer(held)
        maker = node.origin.layer if node else "input"
        earlier = f"{name}:{maker}"
        if held.name == name and held.role is None:
            self.graph.rename(held, self.graph.fresh(earlier))
        self.graph.blobs[earlier] = held
        self.graph.remark(
            "caffe",
            f"blob:{name}",
            f"layer '{definition.name}' works in place: '{name}' is its output,"
            f" what it reads is '{earlier}'",
            definition.span,
        )

    # -- gradients --

    def _note_gradients(self, definition: LayerDefinition) -> None:
        """Tell the rule of the layer, and note which of its parameters want a gradient."""
        learns = False
        for index, held in self._own_parameters(definition):
            # Caffe asks the definition alone: statistics without a written rate count, too.
            is_moving = definition.rate(index) != 0
            learns = learns or is_moving
            if held.learned and (is_moving or self.definition.force_backward):
                self.wanted[held.name] = None
        blobs = self.graph.blobs
        inputs = [name for name in definition.tops if blobs[name].role == "input"]
        self.rule.add(definition, inputs, learns)

    def _own_parameters(self, definition: LayerDefinition) -> Iterator[tuple[int, Parameter]]:
        """The layer's parameters by index; a shared one is the owner's."""
        for key, owner in self.around.owners.items():
            layer, _, index = key.rpartition("/")
            if layer == definition.name:
                yield int(index), self.around.parameters[owner]

    def _finish(self) -> None:
        graph = self.graph
        graph.origin = Origin()
        net = self.net
        net.python_layers = self.around.python_layers
        net.selections = self.around.selections
        net.data_layers = self.around.data_layers
        self.rule.finish()
        net.inputs = [v.name for v in graph.inputs("input")]
        produced = [top for layer, tops in net.layer_tops.items() for top in tops]
        loose = {name for name in produced if name not in self.read}
        graph.outputs = {name: graph.blobs[name] for name in sorted(loose)}
        net.warnings = list(self.definition.warnings) + self.around.warnings
        net.seeds = [name for name in graph.outputs if name not in self.weighted]
        if graph.losses or self.definition.force_backward:
            inputs = [name for name in net.inputs if self.rule.has_input_gradient(name)]
            net.default_wrt = [*inputs, *self.wanted]
        if not self.definition.force_backward:
            net.seeds = []
        net.refusals = list(self.rule.refusals())
        self._remark_frozen()

    def _remark_frozen(self) -> None:
        for name, held in self.around.parameters.items():
            if held.lr_mult == 0 and name not in self.net.default_wrt:
                self.graph.remark(
                    "caffe",
                    name,
                    "it gets no gradient: its lr_mult is 0 and force_backward is not set",
                )
        if not self.graph.losses and not self.definition.force_backward:
            self.graph.remark(
                "caffe",
                "net",
                "nothing gets a gradient by default: there is no loss and no force_backward",
            )


def _placed(error: NetError, definition: LayerDefinition) -> list[Diagnostic]:
    """Errors that know no place get the layer's."""
    return [
        d
        if d.span is not None
        else replace(d, span=definition.span, message=f"layer '{definition.name}': {d.message}")
        for d in error.diagnostics
    ]
