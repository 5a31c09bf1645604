"""What of a graph must be computed, and which values must survive the call."""

from __future__ import annotations

from collections.abc import Iterable

from graphc.error import NetError, did_you_mean
from graphc.ir.graph import Graph, Node, Value


def kept_values(graph: Graph, keep: Iterable[str], everything: bool) -> dict[str, Value]:
    """The blobs that must survive the call, by name.

    Raises NetError for a name that the net does not know. A `.diff` of a known blob that this
    program does not compute is no error: another signature of the net may.
    """
    wanted = {*keep, *graph.kept}
    if everything:  # but for the versions that a layer in place leaves behind, `conv1:conv1`
        wanted |= {name for name in graph.blobs if ":" not in name} - set(graph.updates)
    found: dict[str, Value] = {}
    for name in sorted(wanted):
        if name in graph.blobs:
            found[name] = graph.blobs[name]
        elif name.removesuffix(".diff") not in graph.blobs:
            hint = did_you_mean(name, graph.blobs)
            raise NetError(f"keep: the net has no blob '{name}'" + (f"; {hint}" if hint else ""))
    return found


def live_nodes(graph: Graph, ends: Iterable[Value]) -> list[Node]:
    """Nodes that `ends` or an effect need, in the graph's order."""
    needed = set(ends)
    result: list[Node] = []
    for node in reversed(graph.nodes):
        if node.op.has_effect or any(value in needed for value in node.outputs):
            needed.update(node.inputs)
            result.append(node)
    result.reverse()
    return result
