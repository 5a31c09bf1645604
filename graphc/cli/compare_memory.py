"""`graphc plan --compare`: every way to plan a net side by side, and what others would take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from graphc.cli.options import NetOptions
from graphc.cli.report import print_json, progress, say, table
from graphc.cli.session import open_session
from graphc.loss_budget import BLOCKS
from graphc.lowered import Lowered

if TYPE_CHECKING:
    from graphc.ir.graph import Graph

# Budgets that are tried, as parts of the way from what "reuse" takes down to the least.
PARTS = (1 / 3, 2 / 3)
# How often the net is planned: two modes, what the least is, the budgets, and the least again.
PLANS = 4 + len(PARTS)


@dataclass(frozen=True)
class Mode:
    """One way to plan: bytes of the arena, steps, and how many of them run a second time."""

    memory: str
    bytes: int
    steps: int
    again: int
    note: str = ""


@dataclass(frozen=True)
class Rival:
    """What another framework would take, by its rules."""

    name: str
    bytes: int


def compare_modes(options: NetOptions) -> None:
    """Print the table."""
    with progress("planning") as tell:
        tell(0, PLANS, "reuse")
        made = open_session(replace(options, memory="reuse")).lowered(stages=True)
        options = replace(options, weights=None)  # they have been looked at
        tell(1, PLANS, "all")
        modes = [_mode(replace(options, memory="all")), _counted("reuse", made)]
        modes += _budgets(options, made.program.arena_bytes, tell)
    rivals = _rivals(made)
    if options.json:
        print_json(
            {
                "name": made.program.name,
                "modes": [asdict(mode) for mode in modes],
                "rivals": [asdict(rival) for rival in rivals],
            }
        )
        return
    _print(made, modes, rivals)


def _mode(options: NetOptions) -> Mode:
    return _counted(options.memory, open_session(options).lowered())


def _budgets(options: NetOptions, reuse: int, tell: Callable[[int, int, str], None]) -> list[Mode]:
    """Two budgets and the least that can be met, if that is less than what "reuse" takes."""
    from graphc.plan.budget import BudgetError

    tell(2, PLANS, "the least")
    try:
        return [_mode(replace(options, memory="0"))]
    except BudgetError as error:
        least = error.smallest
    if least >= reuse:
        return []
    found = []
    for place, part in enumerate((*PARTS, 1)):
        size = int(reuse - part * (reuse - least))
        tell(3 + place, PLANS, f"a budget of {_shown(size)}")
        found.append(_mode(replace(options, memory=str(size))))
    return joined([*found[:-1], replace(found[-1], memory=f"the least, {_shown(least)}")])


def joined(budgets: Sequence[Mode]) -> list[Mode]:
    """Those that one plan meets as one: it names all of them."""
    rows: list[Mode] = []
    for budget in budgets:
        if rows and rows[-1].bytes == budget.bytes:
            rows[-1] = replace(rows[-1], memory=f"{rows[-1].memory}; {budget.memory}")
        else:
            rows.append(budget)
    return rows


def _counted(memory: str, made: Lowered) -> Mode:
    program = made.program
    again = sum(step.again for step in program.steps)
    note = ""
    if memory.isdigit():
        remarks = [r for r in program.remarks if r.stage == "recompute"]
        said = [remark.sentence for remark in remarks if remark.subject == "net"]
        note = said[-1].partition("which ")[2] if said else ""
        if any(remark.sentence.startswith(BLOCKS) for remark in remarks):
            note = "; ".join(filter(None, ("the loss in blocks of classes", note)))
        memory = f"budget {_shown(int(memory))}"
    return Mode(memory, program.arena_bytes, len(program.steps), again, note)


def _rivals(made: Lowered) -> list[Rival]:
    from graphc.bench.memory_rules import DagMemory, caffe_bytes, layers_of

    graph = made.stages[0].graph
    if graph is None:
        return []
    layers, sizes = layers_of(graph)
    backward = any(step.backward for step in made.program.steps)
    dag = DagMemory(layers, sizes)
    caffe = caffe_bytes(graph, _in_place(graph), backward)
    return [
        Rival("Caffe: every blob, its gradient", caffe),
        Rival("MatConvNet", dag.peak(backward, conserve=False)),
        Rival("MatConvNet, conserveMemory", dag.peak(backward, conserve=True)),
    ]


def _in_place(graph: Graph) -> list[str]:
    """Layers that write their bottom: their versions of a blob are called BLOB:LAYER."""
    from graphc.bench.memory_rules import layers_of

    blob = {value.name: name.partition(":")[0] for name, value in graph.blobs.items()}

    def blobs(names: tuple[str, ...]) -> set[str]:
        return {blob[name] for name in names if name in blob}

    return [
        layer.name for layer in layers_of(graph)[0] if blobs(layer.inputs) & blobs(layer.outputs)
    ]


def _print(made: Lowered, modes: list[Mode], rivals: list[Rival]) -> None:
    reuse = next(mode.bytes for mode in modes if mode.memory == "reuse")
    rows = [
        (m.memory, _shown(m.bytes), _times(m.bytes, reuse), str(m.again or ""), m.note)
        for m in modes
    ]
    rows += [(r.name, _shown(r.bytes), _times(r.bytes, reuse), "", "by its rules") for r in rivals]
    say(f"{made.program.name}: memory of a call beside the user's arrays")
    say(table(("", "arena", "of reuse", "run twice", ""), rows, (1, 2, 3)))


def _times(size: int, reuse: int) -> str:
    return f"{size / reuse:.2f}x" if reuse else ""


def _shown(size: int) -> str:
    from graphc.plan.budget import shown

    return shown(size)
