"""From a graph to the Program for it, where no definition and no Signature describes it.

A graph whose code was kept on disk runs without this, so nothing of it is imported before it is
needed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from graphc.collector import resting
from graphc.graph_call import USUAL, Choices
from graphc.ir.graph import Graph
from graphc.loss_budget import lower_within
from graphc.passes.pipeline import Compiled, compile_graph
from graphc.plan.planner import plan
from graphc.plan.program import Program


@resting()
def lower_graph(
    graph: Graph,
    wrt: Sequence[str] = (),
    given: Sequence[str] = (),
    keep: Iterable[str] = (),
    has_callbacks: bool = False,
    keep_stages: bool = False,
    choices: Choices = USUAL,
    known: Collection[str] = (),
) -> tuple[Compiled, Program]:
    """All passes and the plan; arguments as for `compile_graph` and `plan`.

    has_callbacks: steps are not joined, so that the user's code stays a step of its own.
    A budget may ask for a loss in blocks by itself.
    """
    kept = list(keep)

    def passes(blockwise: bool) -> Compiled:
        return compile_graph(
            graph,
            wrt=wrt,
            given=given,
            keep=kept,
            keep_stages=keep_stages,
            blockwise_loss=blockwise,
            known=known,
        )

    def planned(made: Graph) -> Program:
        return plan(
            made,
            keep=set(kept),
            memory=choices.memory,
            join=not has_callbacks,
            algorithms=choices.algorithms,
            cores=choices.back_end.cores,
        )

    return lower_within(choices.memory, choices.blockwise_loss, passes, planned)
