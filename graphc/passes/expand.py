"""Writes out operators that stand for a graph of smaller ones.

Such an operator says `expanded`. As one node it is found, differentiated and read easily; written
out it is planned and compiled like everything else. Nothing is simplified afterwards: where an
operator computes something twice, it means to.
"""

from __future__ import annotations

from graphc.ir.graph import Graph, Node, Value
from graphc.ir.op import Op
from graphc.passes.clean import name_after_blobs, without_dead

STAGE = "expand"


def expand(graph: Graph) -> Graph:
    """The graph with every such operator written out; the graph itself where there is none."""
    if not any(_may_expand(node) for node in graph.nodes):
        return graph
    new, mapping = graph.shell()
    changed = False
    for node in graph.nodes:
        made = _written_out(node, new, mapping) if _may_expand(node) else None
        if made is None:
            graph.repeat(node, new, mapping)
        else:
            mapping.update(zip(node.outputs, made, strict=True))
            changed = True
    if not changed:
        return graph
    whole = graph.finish(new, mapping)
    name_after_blobs(whole)
    return without_dead(whole)


def _may_expand(node: Node) -> bool:
    return type(node.op).expanded is not Op.expanded


def _written_out(node: Node, new: Graph, mapping: dict[Value, Value]) -> tuple[Value, ...] | None:
    before = new.origin
    new.origin = node.origin
    made = node.op.expanded(*(mapping[value] for value in node.inputs))
    new.origin = before
    return (made,) if isinstance(made, Value) else made
