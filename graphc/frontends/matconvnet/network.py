"""Layers that share variables, as one Graph: what SimpleNN and DagNN have in common.

Variables are blobs of the graph; parameters are inputs called `params/NAME`, dropout masks
`mask/LAYER`. As in DagNN a layer whose input is missing is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphc.error import NetError
from graphc.frontends.matconvnet.block import Block, Surroundings
from graphc.frontends.matconvnet.blocks import BatchNorm
from graphc.ir.core.elementwise import Copy
from graphc.ir.graph import Graph, Origin, Value
from graphc.ir.types import TensorType

PARAMETER = "params/{}"
MOMENTS = "moments/{}"
MODES = ("normal", "train", "test")  # "train" is another word for "normal"


@dataclass(frozen=True)
class MatLayer:
    """One layer: its block, and the names of its variables and parameters."""

    name: str
    block: Block
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    params: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The block's name."""
        return type(self.block).__name__


@dataclass
class MatNet:
    """Layers as a graph.

    Attributes:
        executed: the layers that have all their inputs.
        masks: dropout layers -> the input that holds the mask.
        moments: batch normalising layers -> the output that holds the batch's moments.
        callbacks: layers that are the user's Python code -> that code.
    """

    graph: Graph
    executed: list[MatLayer] = field(default_factory=list)
    masks: dict[str, str] = field(default_factory=dict)
    moments: dict[str, str] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(default_factory=dict)


def executed(ordered: Iterable[MatLayer], inputs: Iterable[str]) -> list[MatLayer]:
    """The layers that have all their inputs, given those of the net."""
    known = set(inputs)
    run = []
    for layer in ordered:
        if known.issuperset(layer.inputs):
            run.append(layer)
            known.update(layer.outputs)
    return run


def reached(run: Sequence[MatLayer], given: Iterable[str]) -> tuple[list[MatLayer], set[str]]:
    """Layers that a derivative given for these variables passes, and variables that get one."""
    touched = set(given)
    active = []
    for layer in reversed(run):
        if touched.intersection(layer.outputs):
            active.append(layer)
            touched.update(
                name for i, name in enumerate(layer.inputs) if layer.block.differentiates(i)
            )
    return active[::-1], touched


def build_graph(
    name: str,
    layers: Sequence[MatLayer],
    inputs: Mapping[str, TensorType],
    params: Mapping[str, TensorType],
    mode: str,
    version: str,
) -> MatNet:
    """Build the graph of layers, which stand in the order of execution.

    Raises NetError where a block does not fit its inputs, naming the layer.
    """
    graph = Graph(name)
    made = MatNet(graph)
    around = Surroundings(graph, "test" if mode == "test" else "normal", version)
    for variable, type in inputs.items():
        graph.blobs[variable] = graph.input(variable, type)
    for layer in executed(layers, inputs):
        _add(made, layer, params, around)
    made.masks, made.callbacks = around.masks, around.callbacks
    for layer_name, value in around.moments.items():
        made.moments[layer_name] = MOMENTS.format(layer_name)
        graph.blobs[MOMENTS.format(layer_name)] = value
    return made


def _add(
    made: MatNet, layer: MatLayer, params: Mapping[str, TensorType], around: Surroundings
) -> None:
    graph = made.graph
    graph.origin = Origin(layer.name, layer.kind)
    around.layer = layer.name
    if len(layer.outputs) != 1:
        raise _placed(layer, f"it has one output, {len(layer.outputs)} are named")
    try:
        values = [_parameter(graph, name, params) for name in layer.params]
        if isinstance(layer.block, BatchNorm) and not around.testing:
            values = values[:2]  # the moments given are for test mode
        result = layer.block.build([graph.blobs[v] for v in layer.inputs], values, around)
    except NetError as error:
        raise _placed(layer, str(error)) from None
    except (TypeError, ValueError) as error:  # of a field, float("a") for instance
        raise _placed(layer, f"{type(error).__name__}: {error}") from error
    (name,) = layer.outputs
    if name in graph.blobs:
        raise _placed(layer, f"its output '{name}' is made already")
    if result in graph.blobs.values():
        result = Copy()(result)  # variables that are equal differ in their derivatives
    if result.role is None and name not in graph.values:
        graph.rename(result, name)
    graph.blobs[name] = result
    made.executed.append(layer)


def _parameter(graph: Graph, name: str, params: Mapping[str, TensorType]) -> Value:
    key = PARAMETER.format(name)
    if key in graph.values:
        return graph.values[key]
    if name not in params:
        raise NetError(f"its parameter '{name}' has no value")
    return graph.input(key, params[name], "parameter")


def _placed(layer: MatLayer, message: str) -> NetError:
    return NetError(f"layer '{layer.name}' ({layer.kind}): {message}")


def execution_order(layers: Sequence[MatLayer]) -> list[int]:
    """Layer numbers from the farthest to the nearest to a sink, as DagNN runs them.

    Raises NetError where layers depend on each other in a circle.
    """
    makers = {name: i for i, layer in enumerate(layers) for name in layer.outputs}
    before = [{makers[v] for v in layer.inputs if v in makers} for layer in layers]
    distance = [0] * len(layers)
    for _ in range(len(layers) + 1):
        changed = False
        for i, makers_of in enumerate(before):
            for j in makers_of:
                if distance[j] < distance[i] + 1:
                    distance[j], changed = distance[i] + 1, True
        if not changed:
            return sorted(range(len(layers)), key=lambda i: -distance[i])
    raise NetError("the layers depend on each other in a circle")
