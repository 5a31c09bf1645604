"""What a budget makes of a last layer and its loss: all scores at once, or blocks of classes.

A loss in blocks computes the scores twice, so nobody gets it who has not asked. A budget asks for
it where it cannot be met otherwise, or where running other steps a second time would take longer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from graphc.ir.graph import Graph
from graphc.ir.remark import Remark
from graphc.passes.pipeline import Compiled
from graphc.plan.budget import BudgetError, Memory, shown
from graphc.plan.program import Program
from graphc.plan.rough_time import program_seconds, shown_seconds

STAGE = "recompute"
# How the remark begins that says that a budget chose blocks.
BLOCKS = "the budget asked for the loss in blocks of classes"


@dataclass(frozen=True)
class Attempt:
    """One form of the loss: its graph, and its plan or why the budget is not met."""

    made: Compiled
    program: Program | None = None
    refusal: BudgetError | None = None

    @property
    def repeats(self) -> int:
        """How many steps run a second time."""
        return sum(step.again for step in self.program.steps) if self.program else 0


def lower_within(
    memory: Memory,
    blockwise_loss: bool,
    passes: Callable[[bool], Compiled],
    planned: Callable[[Graph], Program],
) -> tuple[Compiled, Program]:
    """Passes and plan, with the form of the loss that a budget asks for.

    Args:
        memory: a budget in bytes; with any other mode the loss is what the user says.
        blockwise_loss: whether the user asks for blocks.
        passes: takes the forward graph through all passes, in blocks or not.
        planned: plans the result.

    Raises BudgetError where neither form meets the budget: the one that comes closer.
    """
    if blockwise_loss or not isinstance(memory, int):
        made = passes(blockwise_loss)
        return made, planned(made.graph)
    whole = _attempt(passes(False), planned)
    if whole.program and not whole.repeats:
        return whole.made, whole.program
    made = passes(True)
    if _operators(made.graph) == _operators(whole.made.graph):
        return _result(whole)
    return _better(whole, _attempt(made, planned))


def _attempt(made: Compiled, planned: Callable[[Graph], Program]) -> Attempt:
    try:
        return Attempt(made, planned(made.graph))
    except BudgetError as refusal:
        return Attempt(made, refusal=refusal)


def _operators(graph: Graph) -> list[str]:
    return [node.op.op_name for node in graph.nodes]


def _result(attempt: Attempt, sentence: str = "") -> tuple[Compiled, Program]:
    """What was made; `sentence` goes with it as a remark. Raises the refusal if there is one."""
    if attempt.program is None:
        assert attempt.refusal is not None
        raise attempt.refusal
    said = (Remark(STAGE, "net", sentence),) if sentence else ()
    return attempt.made, replace(attempt.program, remarks=(*said, *attempt.program.remarks))


def _better(whole: Attempt, blocks: Attempt) -> tuple[Compiled, Program]:
    """The one that meets the budget; of two the faster by a rough count."""
    if whole.refusal and blocks.refusal:
        raise min(whole.refusal, blocks.refusal, key=lambda refusal: refusal.smallest)
    if whole.refusal:
        return _result(
            blocks,
            f"{BLOCKS}: with all scores held, {shown(whole.refusal.smallest)} would be the least",
        )
    if whole.program is None or blocks.program is None:
        return _result(whole)
    gain = program_seconds(whole.program) - program_seconds(blocks.program)
    if gain <= 0:
        return _result(
            whole,
            "the loss in blocks of classes would meet the budget as well, but take about"
            f" {shown_seconds(-gain)} longer by a rough count",
        )
    return _result(
        blocks,
        f"{BLOCKS}: with all scores held, steps that run a second time would"
        f" be {whole.repeats} instead of {blocks.repeats}, and a call take about"
        f" {shown_seconds(gain)} longer by a rough count",
    )
