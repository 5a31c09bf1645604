"""A graph as boxes that a person can take in: one for each step of its program, or each layer.

A step that does the work of several operators is one box: what was fused stands together.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass

from graphc.ir.graph import Graph, Node, Value
from graphc.plan.program import Program

_MANY_STEPS = 12  # of one layer and way; with more they are one box


@dataclass(frozen=True)
class Box:
    """Some nodes of a graph.

    Attributes:
        key: `step-12`, `view-3` (nodes that cost no step), `layer-5` (several steps) or `input-0`.
        nodes: their positions in `graph.nodes`; none for an input.
        layers: the user's layers in it.
        title, subtitle, shape: what it says.
        backward: whether it computes gradients.
        steps: of the program, that do its work; none for inputs and views.
        is_fused: whether one step does the work of several layers, or of both ways.
    """

    key: str
    nodes: tuple[int, ...]
    layers: tuple[str, ...]
    title: str
    subtitle: str
    shape: str
    backward: bool = False
    steps: tuple[int, ...] = ()
    is_fused: bool = False

    @property
    def is_input(self) -> bool:
        """Whether it stands for what a call is given."""
        return self.key.startswith("input-")

    @property
    def is_view(self) -> bool:
        """Whether no code runs for it."""
        return self.key.startswith("view-")


@dataclass(frozen=True)
class Boxes:
    """Boxes, and (from, to) keys of those between which values pass."""

    boxes: tuple[Box, ...]
    edges: tuple[tuple[str, str], ...]


def boxes_of_steps(graph: Graph, program: Program) -> Boxes:
    """One box for each step that does the work of a node; copies have none.

    A layer that runs as very many steps, as one that is unrolled over time does, is one box.
    """
    steps = steps_of_nodes(graph, program)
    keys = _keys(graph, program, steps)

    def box(key: Hashable, nodes: list[Node], places: list[int]) -> Box:
        ways = {node.origin.backward for node in nodes}
        layers = _layers(nodes)
        own = tuple(sorted({steps[place] for place in places if place in steps}))
        if isinstance(key, _Unrolled):
            name, subtitle = f"layer-{places[0]}", f"{_kinds(nodes)}, {len(own)} steps"
        elif not own:
            operators = " + ".join(node.op.op_name for node in nodes)
            name, subtitle = f"view-{places[0]}", f"{operators}, no code"
        else:
            step = program.steps[own[0]]
            layers = tuple(filter(None, step.layer.split(", "))) or layers
            name = f"step-{own[0]}"
            subtitle = step.kernel.name if ways == {True} else _kinds(nodes)
        title = joined_name(layers) or "net"
        return Box(
            key=name,
            nodes=tuple(places),
            layers=layers,
            title=f"{title}: gradient" if ways == {True} else title,
            subtitle=subtitle + (", and its gradient" if len(ways) == 2 else ""),
            shape=_shown(nodes[-1]),
            backward=ways == {True},
            steps=own,
            is_fused=bool(own) and (len(layers) > 1 or len(ways) == 2),
        )

    return _group(graph, keys.__getitem__, box)


@dataclass(frozen=True)
class _Unrolled:
    """A layer, one way, that runs as very many steps."""

    layer: str
    backward: bool


def _keys(graph: Graph, program: Program, steps: Mapping[int, int]) -> list[Hashable]:
    """What tells the boxes of the nodes apart: their step, or their layer where it is unrolled.

    A step that belongs to several layers stays a box of its own.
    """
    ways = [_Unrolled(node.origin.layer, node.origin.backward) for node in graph.nodes]
    own: dict[_Unrolled, set[int]] = {}
    for place, number in steps.items():
        if program.steps[number].layer == ways[place].layer:
            own.setdefault(ways[place], set()).add(number)
    unrolled = {way for way, found in own.items() if way.layer and len(found) > _MANY_STEPS}
    keys: list[Hashable] = []
    for place, way in enumerate(ways):
        step = steps.get(place)
        if way in unrolled and (step is None or step in own[way]):
            keys.append(way)
        else:
            keys.append(f"view {place}" if step is None else step)
    return keys


def boxes_of_layers(graph: Graph) -> Boxes:
    """One box for each layer and way: no program is needed."""

    def key(place: int) -> Hashable:
        origin = graph.nodes[place].origin
        return (origin.layer, origin.backward) if origin.layer else f"node {place}"

    def box(_: Hashable, nodes: list[Node], places: list[int]) -> Box:
        layers, backward = _layers(nodes), nodes[0].origin.backward
        title = layers[0] if layers else nodes[0].op.op_name
        return Box(
            key=f"layer-{places[0]}",
            nodes=tuple(places),
            layers=layers,
            title=f"{title}: gradient" if backward else title,
            subtitle=_kinds(nodes),
            shape=_shown(nodes[-1]),
            backward=backward,
        )

    return _group(graph, key, box)


def steps_of_nodes(graph: Graph, program: Program) -> dict[int, int]:
    """Position of a node -> the step that does its work; views and what is free have none.

    A value that is stored is known by its name. One that stays in registers belongs to the step of
    its reader, if that step says that it does the layer's work.
    """
    writers: dict[str, int] = {}
    for number, step in enumerate(program.steps):
        for name in step.arguments[len(step.kernel.inputs) :]:
            writers.setdefault(name.partition("~")[0], number)
    outputs = {value: name for name, value in graph.outputs.items()}
    place_of = {node: place for place, node in enumerate(graph.nodes)}
    found: dict[int, int] = {}
    for place in range(len(graph.nodes) - 1, -1, -1):
        node = graph.nodes[place]
        if node.op.is_view or node.op.is_identity:
            continue
        names = [n for v in node.outputs for n in (v.name, outputs.get(v, ""))]
        direct = [writers[name] for name in names if name in writers]
        readers = [place_of[reader] for v in node.outputs for reader, _ in graph.readers(v)]
        steps = direct or [
            found[reader]
            for reader in readers
            if reader in found and _does(program, found[reader], node)
        ]
        if steps:
            found[place] = steps[0]
    return found


def _does(program: Program, number: int, node: Node) -> bool:
    """Whether a step's label names the node's layer."""
    layer = node.origin.layer
    return not layer or layer in program.steps[number].layer.split(", ")


def _group(
    graph: Graph,
    key_of: Callable[[int], Hashable],
    make: Callable[[Hashable, list[Node], list[int]], Box],
) -> Boxes:
    groups: dict[Hashable, list[int]] = {}
    for place in range(len(graph.nodes)):
        groups.setdefault(key_of(place), []).append(place)
    boxes: list[Box] = []
    holder: dict[Value, str] = {}
    for number, value in enumerate(graph.inputs("input", "gradient")):
        if graph.readers(value):
            key = f"input-{number}"
            holder[value] = key
            backward = value.role == "gradient"
            shape = _shape(value)
            boxes.append(Box(key, (), (), value.name, "given", shape, backward))
    made = []
    for group, places in groups.items():
        nodes = [graph.nodes[place] for place in places]
        box = make(group, nodes, places)
        made.append((box, nodes))
        boxes.append(box)
        for node in nodes:
            holder.update(dict.fromkeys(node.outputs, box.key))
    edges = {
        (holder[value], box.key): None
        for box, nodes in made
        for node in nodes
        for value in node.inputs
        if value in holder and holder[value] != box.key
    }
    return Boxes(tuple(boxes), tuple(edges))


def joined_name(layers: Iterable[str]) -> str:
    """`module/conv + relu` of module/conv and module/conv/relu: what names share is said once."""
    first, *others = list(layers) or [""]
    folder = first.rpartition("/")[0]
    shown = [first]
    for name in others:
        for shared in (f"{first}/", f"{folder}/" if folder else ""):
            if shared and name.startswith(shared):
                name = name.removeprefix(shared)
                break
        shown.append(name)
    return " + ".join(shown)


def _layers(nodes: Iterable[Node]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(node.origin.layer for node in nodes if node.origin.layer))


def _kinds(nodes: Iterable[Node]) -> str:
    return " + ".join(dict.fromkeys(node.origin.kind or node.op.op_name for node in nodes))


def _shown(node: Node) -> str:
    return _shape(node.outputs[0]) if node.outputs else ""


def _shape(value: Value) -> str:
    return " x ".join(map(str, value.shape)) or "scalar"
