"""What Caffe and MatConvNet would have taken for a net: their rules, applied to its layers.

MatConvNet's rules are those of its two wrappers, with conserveMemory on or off; what they hold is
counted after every layer, as a recorder in MatConvNet itself counts it, so arrays that live only
while a layer runs are left out in its favour. Caffe holds every blob and, where it runs backward,
every blob's gradient, and what its layers keep for themselves. Parameters count in neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from graphc.ir.graph import Graph, Value


@dataclass(frozen=True)
class Layer:
    """One layer as frameworks see it: blobs in, blobs out, by name."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    precious: bool = False

    @property
    def is_relu(self) -> bool:
        """Whether MatConvNet's short circuit applies."""
        return self.kind in ("ReLU", "relu", "dagnn.ReLU")


@dataclass(frozen=True)
class Held:
    """What is held after a layer: names of values and of derivatives, and how much that is."""

    layer: str
    values: frozenset[str]
    derivatives: frozenset[str]
    size: int


def layers_of(graph: Graph) -> tuple[list[Layer], dict[str, int]]:
    """The layers of a front end's graph, and the bytes of every value that passes between them."""
    order = graph.layer_names()
    made: dict[Value, str] = {v: node.origin.layer for node in graph.nodes for v in node.outputs}
    inputs: dict[str, dict[Value, None]] = {name: {} for name in order}
    outputs: dict[str, dict[Value, None]] = {name: {} for name in order}
    kinds: dict[str, str] = {}
    for node in graph.nodes:
        layer = node.origin.layer
        kinds.setdefault(layer, node.origin.kind)
        for value in node.inputs:
            if made.get(value) != layer and value.role in (None, "input") and value.type.is_real:
                inputs.setdefault(layer, {})[value] = None
                if value in made:
                    outputs[made[value]][value] = None
    for value in (*graph.outputs.values(), *(value for value, _ in graph.losses)):
        if value in made:
            outputs[made[value]][value] = None
    found = [
        Layer(
            name,
            kinds.get(name, ""),
            tuple(v.name for v in inputs[name]),
            tuple(v.name for v in outputs[name]),
        )
        for name in order
    ]
    sizes = {
        v.name: v.type.bytes for group in (inputs, outputs) for vs in group.values() for v in vs
    }
    return found, sizes


# -- MatConvNet ------------------------------------------------------------------------------------


class DagMemory:
    """DagNN's rules: which values and derivatives it holds after each layer.

    sizes: of every variable, in any unit; results are in the same. no_gradient: inputs that get no
    derivative, such as labels.
    """

    def __init__(
        self, layers: Sequence[Layer], sizes: Mapping[str, int], no_gradient: Iterable[str] = ()
    ):
        self.layers, self.sizes = layers, sizes
        self.no_gradient = set(no_gradient)
        self.last_reader = {name: layer for layer in layers for name in layer.inputs}
        made = {name for layer in layers for name in layer.outputs}
        self.given = {name for layer in layers for name in layer.inputs} - made

    def trace(self, backward: bool, conserve: bool) -> list[Held]:
        """What is held after each layer of a call, in order."""
        values, derivatives = set(self.given), set[str]()
        steps: list[Held] = []
        for layer in self.layers:
            for name in layer.inputs if conserve else ():
                last = self.last_reader[name] is layer
                if last and not layer.precious and (not backward or layer.is_relu):
                    values.discard(name)
            values |= set(layer.outputs)
            steps.append(self.held(layer, values, derivatives))
        if backward:
            ends = {name for layer in self.layers for name in layer.outputs}
            derivatives |= {name for name in ends if name not in self.last_reader}
            for layer in reversed(self.layers):
                if conserve:
                    values -= set(layer.outputs)
                    derivatives -= set(layer.outputs)
                derivatives |= set(layer.inputs) - self.no_gradient
                steps.append(self.held(layer, values, derivatives))
        return steps

    def held(self, layer: Layer, values: set[str], derivatives: set[str]) -> Held:
        """What is held while this layer runs, and its bytes."""
        size = sum(self.sizes[name] for name in (*values, *derivatives))
        return Held(layer.name, frozenset(values), frozenset(derivatives), size)

    def peak(self, backward: bool, conserve: bool) -> int:
        """The largest of the trace."""
        return max((step.size for step in self.trace(backward, conserve)), default=0)


def chain_peak(
    layers: Sequence[Layer], sizes: Sequence[int], backward: bool, conserve: bool
) -> int:
    """The same for SimpleNN, where layer i goes from x[i] to x[i + 1]; `sizes` are those of x.

    The largest sum of values, derivatives and dropout masks, before and after each layer's freeing.
    """
    count = len(layers)
    values, derivatives, masks = {0}, set[int](), set[int]()
    peak = 0

    def look() -> None:
        nonlocal peak
        held = sum(sizes[i] for i in (*values, *derivatives)) + sum(sizes[i] for i in masks)
        peak = max(peak, held)

    for i, layer in enumerate(layers):
        values.add(i + 1)
        if layer.kind == "dropout":
            masks.add(i + 1)
        look()
        before = layers[i - 1] if i else None
        stays = before and (before.precious or before.kind in ("loss", "softmaxloss"))
        if conserve and not backward and not stays:
            values.discard(i)
        look()
    if backward:
        derivatives.add(count)
        for i in range(count - 1, -1, -1):
            derivatives.add(i)
            look()
            if conserve and not layers[i].precious and i != count - 1:
                values.discard(i + 1)
                derivatives.discard(i + 1)
            look()
    return peak


# -- Caffe -----------------------------------------------------------------------------------------


def caffe_bytes(graph: Graph, in_place: Iterable[str], backward: bool) -> int:
    """What Caffe's blobs take: data, gradients where it runs backward, and what layers keep.

    in_place: layers whose top is their bottom. A blob with several readers has a gradient for each,
    which a Split layer adds up; max pooling keeps an int a place, LRN a scale, dropout a mask.
    """
    layers, sizes = layers_of(graph)
    own = set(in_place)
    total = 0
    for layer in layers:
        size = sum(sizes[name] for name in layer.outputs)
        if layer.kind in ("Pooling", "LRN", "Dropout"):
            total += size
        if layer.name not in own:
            total += size * (2 if backward else 1)
    readers: dict[str, int] = {}
    for layer in layers:
        for name in layer.inputs:
            readers[name] = readers.get(name, 0) + 1
    made = {name for layer in layers for name in layer.outputs}
    total += sum(sizes[name] for name in readers if name not in made)
    if backward:
        total += sum(sizes[name] * count for name, count in readers.items() if count > 1)
    return total
