"""A last layer and its loss as one operator that works in blocks of classes, to save memory.

It takes the place of layer and loss only on request, since it computes the scores twice: four
products instead of three. What it is to replace, an operator's `equals` says; `fuse` finds it.
"""

from __future__ import annotations

from graphc.ir.graph import Graph
from graphc.passes.fuse import fuse, rules

STAGE = "blockwise"


def blockwise(graph: Graph, asked: frozenset[str] = frozenset()) -> Graph:
    """The forward graph with operators that compute again in place of what they equal.

    For use after `fuse`, and before `backward`, which then keeps less. `asked` names blobs whose
    gradient is wanted; they stay. Remarks say what was replaced and what was not, and why.
    """
    made = fuse(graph, asked, rules(recompute=True))
    if not _recomputing(made) and len(made.remarks) == len(graph.remarks):
        made.remark(STAGE, "net", "no last layer is followed by a loss that works in blocks")
    return made


def can_be_blockwise(graph: Graph, asked: frozenset[str] = frozenset()) -> bool:
    """Whether `blockwise` would change the graph, and so lower its memory."""
    return _recomputing(fuse(graph, asked, rules(recompute=True))) > _recomputing(graph)


def _recomputing(graph: Graph) -> int:
    return sum(node.op.recomputes for node in graph.nodes)
