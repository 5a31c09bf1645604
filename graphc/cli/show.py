"""`graphc show`: a net in any of its forms."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from graphc.cli.options import NetOptions, fast_math_words
from graphc.cli.report import busy, print_json, say
from graphc.cli.session import open_session
from graphc.error import NetError, did_you_mean

if TYPE_CHECKING:
    from graphc.ir.graph import Graph
    from graphc.lowered import Lowered
    from graphc.plan.program import Program


class Form(StrEnum):
    """The forms a net goes through; `dot` is the graph for graphviz, `json` as data."""

    graph = "graph"
    kernel = "kernel"
    program = "program"
    llvm = "llvm"
    asm = "asm"
    cuda = "cuda"
    ptx = "ptx"
    dot = "dot"
    json = "json"


def show(
    options: NetOptions,
    form: Annotated[Form, typer.Option("--as", help="Which form of it.")] = Form.graph,
    after: Annotated[
        str | None,
        typer.Option(metavar="PASS", help="As it is after this pass; `start` is before all."),
    ] = None,
    diff_passes: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="PASS PASS", help="The lines that differ after these two passes."),
    ] = None,
) -> None:
    """Print the net in one of its forms.

    It has its gradients, if any are defined; --mode infer leaves them out. Graphs and programs
    read back: `graphc run net.ir` runs a graph that was written to a file.
    """
    if after is not None and diff_passes is not None:
        raise typer.BadParameter("--after and --diff-passes ask for two things")
    tf32 = "tf32" in fast_math_words(options.exact, options.fast_math)
    if form in (Form.cuda, Form.ptx):
        options = replace(options, exact=True, fast_math=None)  # it has direct sums alone
    with busy("compiling"):
        made = open_session(options).lowered(stages=bool(after or diff_passes))
        if diff_passes is not None:
            text = _difference(made, form, *diff_passes, tf32)
        else:
            text = _text(made, form, after, tf32)
    if options.json:
        asked = {"after": after, "passes": diff_passes}
        print_json({"as": form.value, **asked, "text": text})
    elif diff_passes is not None:
        _echo_coloured(text)
    else:
        say(text, end="" if text.endswith("\n") else "\n")


def _difference(made: Lowered, form: Form, first: str, second: str, tf32: bool) -> str:
    """A unified diff of two passes' texts; empty where they are the same."""
    import difflib

    texts = (_text(made, form, name, tf32) for name in (first, second))
    old, new = (text.splitlines(keepends=True) for text in texts)
    return "".join(difflib.unified_diff(old, new, f"after {first}", f"after {second}"))


_COLOURS = {"+": "green", "-": "red", "@": "cyan"}


def _echo_coloured(text: str) -> None:
    """A diff; colours are left out by typer where nobody sees them."""
    for line in text.splitlines():
        say(line, colour=_COLOURS.get(line[:1]), bold=line.startswith(("+++", "---")))


def _text(made: Lowered, form: Form, after: str | None, tf32: bool) -> str:
    if form in (Form.graph, Form.dot, Form.json):
        return _graph_text(_graph(made, after), form)
    program = _program(made, after)
    if form is Form.kernel:
        return _kernels(program)
    if form is Form.program:
        from graphc.plan.text import print_program

        return print_program(program)
    if form in (Form.cuda, Form.ptx):
        from graphc.codegen.cuda.program import cuda_text

        text = cuda_text(program, tf32)
        return text if form is Form.cuda else _ptx(text)
    from graphc.codegen.llvm.object import assembly_text, llvm_text

    return llvm_text(program) if form is Form.llvm else assembly_text(program)


def _graph_text(graph: Graph, form: Form) -> str:
    if form is Form.dot:
        from graphc.cli.dot import print_dot

        return print_dot(graph)
    if form is Form.json:
        import json

        from graphc.ir.data import graph_data

        return json.dumps(graph_data(graph), indent=1) + "\n"
    from graphc.ir.printer import print_graph

    return print_graph(graph)


def _ptx(text: str) -> str:
    """What nvcc makes of a CUDA text. Raises NetError where there is no nvcc."""
    import tempfile
    from pathlib import Path

    from graphc.codegen.cuda.compiler import save

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "net.ptx")
        save(text, path, "ptx")
        return path.read_text()


def _program(made: Lowered, after: str | None) -> Program:
    """The program, or what would become of the graph as it is after a pass."""
    if after is None:
        return made.program
    from graphc.plan.planner import plan

    return plan(_graph(made, after))


def _graph(made: Lowered, after: str | None) -> Graph:
    """The graph after a pass, or the last one."""
    if after is None:
        return made.graph
    names = [stage.name for stage in made.stages]
    for stage in reversed(made.stages):
        if stage.name == after and stage.graph is not None:
            return stage.graph
    hint = did_you_mean(after, names)
    raise NetError(
        f"there is no pass '{after}'; the passes are {', '.join(names)}"
        + (f"; {hint}" if hint else "")
    )


def _kernels(program: Program) -> str:
    """Every kernel once, under the steps that run it."""
    from graphc.kernel.lang import Kernel
    from graphc.kernel.text import print_kernel

    users: dict[Kernel, list[str]] = {}
    for number, step in enumerate(program.steps):
        way = " backward" if step.backward else ""
        users.setdefault(step.kernel, []).append(f"{number} {step.layer or 'net'}{way}")
    parts = [
        f"# step{'s' * (len(steps) > 1)} {', '.join(steps)}\n{print_kernel(kernel)}"
        for kernel, steps in users.items()
    ]
    return "\n".join(parts)
