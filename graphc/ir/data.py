"""A Graph as dictionaries and lists, for programs that read it as JSON."""

from __future__ import annotations

from typing import Any

from graphc.ir.graph import Graph, Node, Value


def graph_data(graph: Graph) -> dict[str, Any]:
    """Inputs, nodes in order, and what is needed of them; values by their names."""
    return {
        "name": graph.name,
        "inputs": [{"role": value.role, **_value(value)} for value in graph.inputs()],
        "nodes": [_node(node) for node in graph.nodes],
        "blobs": {name: value.name for name, value in graph.blobs.items()},
        "outputs": {name: value.name for name, value in graph.outputs.items()},
        "updates": {name: value.name for name, value in graph.updates.items()},
        "losses": [{"value": value.name, "weight": weight} for value, weight in graph.losses],
        "kept": sorted(graph.kept),
    }


def _value(value: Value) -> dict[str, Any]:
    return {"name": value.name, "dtype": value.type.dtype, "shape": list(value.shape)}


def _node(node: Node) -> dict[str, Any]:
    origin = node.origin
    return {
        "operator": node.op.op_name,
        "fields": {name: _plain(item) for name, item in node.op.fields().items()},
        "inputs": [value.name for value in node.inputs],
        "outputs": [_value(value) for value in node.outputs],
        "layer": origin.layer,
        "type": origin.kind,
        "backward": origin.backward,
        "line": origin.span.line if origin.span else None,
    }


def _plain(item: Any) -> Any:
    """JSON knows no infinity: numbers that are not finite are texts."""
    if isinstance(item, tuple):
        return [_plain(part) for part in item]
    if isinstance(item, float) and not abs(item) < float("inf"):
        return str(item)
    return item
