"""Run a Graph in numpy, node by node, with the operators' references: the meaning of a Graph.

Everything else (kernels, plan, native code) is compared with this. It is slow and keeps all values.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from graphc.error import NetError, need
from graphc.ir.graph import Graph, Node, Value


def evaluate(graph: Graph, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Results under the user's names: blobs, outputs, and updates (states after the call).

    `inputs` holds an array for every input, by name; constants need none. Where one name stands for
    several things, an update hides an output and an output a blob; they agree in all but updates.

    Raises NetError for a missing, unknown or misshaped array.
    """
    results = run(graph, inputs)
    named = {name: results[value] for name, value in graph.blobs.items()}
    named |= {name: results[value] for name, value in graph.outputs.items()}
    named |= {name: results[value] for name, value in graph.updates.items()}
    return named


def run(graph: Graph, inputs: Mapping[str, np.ndarray]) -> dict[Value, np.ndarray]:
    """The array of every value of the graph. Raises NetError as `evaluate` does."""
    known = {value.name for value in graph.inputs()}
    for name in inputs:
        need(name in known, f"the graph has no input '{name}'")
    results = {value: _input(graph, value, inputs) for value in graph.inputs()}
    for node in graph.nodes:
        arrays = node.op.reference(*(results[value] for value in node.inputs))
        found = arrays if isinstance(arrays, tuple) else (arrays,)
        for value, array in zip(node.outputs, found, strict=True):
            results[value] = _checked(node, value, np.asarray(array))
    return results


def total_loss(graph: Graph, results: Mapping[Value, np.ndarray]) -> float:
    """Sum over the losses of weight times the sum of their elements, in float64."""
    return float(
        sum(weight * results[value].sum(dtype=np.float64) for value, weight in graph.losses)
    )


def _input(graph: Graph, value: Value, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    if value.name in inputs:
        array = np.asarray(inputs[value.name])
    elif value.name in graph.constants:
        array = graph.constants[value.name]
    else:
        raise NetError(f"input '{value.name}' is missing; it needs {value.type}")
    need(
        array.shape == value.shape,
        f"input '{value.name}' has shape {list(array.shape)}; it needs {value.type}",
    )
    return array.astype(value.type.dtype, copy=False)


def _checked(node: Node, value: Value, array: np.ndarray) -> np.ndarray:
    """An operator's author is told where its reference and its `infer` disagree."""
    need(
        array.shape == value.shape and array.dtype == value.type.dtype,
        f"the reference of '{node.op.op_name}' gives {array.dtype}{list(array.shape)}"
        f" where its infer says {value.type}",
    )
    return array
