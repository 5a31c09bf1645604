"""A last layer and its loss as one operator that works in blocks of classes, to save memory.

It takes the place of layer and loss only on request, since it computes the scores twice: four
products instead of three. What it is to replace, an operator's `equals` says; `fuse` finds it.
"""

from __future__ import annotations

from graphc.ir.graph import Graph
from graphc.ir.remark import Saving
from graphc.passes.clean import without_dead
from graphc.passes.fuse import fuse
from graphc.passes.pattern import rules

STAGE = "blockwise"
NEVER_WHOLE = "is never held whole"
BLOCKS = "scores that are never held whole"


def blockwise(graph: Graph, asked: frozenset[str] = frozenset()) -> Graph:
    """The forward graph with operators that compute again in place of what they equal.

    For use after `fuse`, and before `backward`, which then keeps less. `asked` names blobs whose
    gradient is wanted; they stay. Remarks say what was replaced and what was not, and why.
    """
    made = fuse(graph, asked, rules(recompute=True))
    if _recomputing(made) > _recomputing(graph):
        _note_scores(graph, made)
    if not _recomputing(made) and len(made.remarks) == len(graph.remarks):
        made.remark(STAGE, "net", "no last layer is followed by a loss that works in blocks")
    return made


def _note_scores(graph: Graph, made: Graph) -> None:
    """Say which blobs are not held any more."""
    left = {value.name for node in without_dead(made).nodes for value in node.outputs}
    for name, value in graph.blobs.items():
        if value.role is None and value.name not in left:
            said = f"{name} {NEVER_WHOLE}: layer and loss work in blocks of classes"
            made.remark(STAGE, f"blob:{name}", said, saving=Saving(BLOCKS, value.type.bytes))


def _recomputing(graph: Graph) -> int:
    return sum(node.op.recomputes for node in graph.nodes)
