"""`graphc show`: a net in any of its forms."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from graphc.cli.options import NetOptions
from graphc.cli.report import busy, print_json
from graphc.cli.session import Lowered, open_session
from graphc.error import NetError, did_you_mean

if TYPE_CHECKING:
    from graphc.ir.graph import Graph
    from graphc.plan.program import Program


class Form(StrEnum):
    """The forms a net goes through, and `dot`, the graph for graphviz."""

    graph = "graph"
    kernel = "kernel"
    program = "program"
    llvm = "llvm"
    asm = "asm"
    cuda = "cuda"
    dot = "dot"


def show(
    options: NetOptions,
    form: Annotated[Form, typer.Option("--as", help="Which form of it.")] = Form.graph,
    after: Annotated[
        str | None,
        typer.Option(metavar="PASS", help="The graph after this pass; `start` is before all."),
    ] = None,
) -> None:
    """Print the net in one of its forms.

    It has its gradients, if any are defined; --mode infer leaves them out.
    """
    if after is not None and form not in (Form.graph, Form.dot):
        raise typer.BadParameter(
            f"a graph is what stands after a pass, not --as {form.value}", param_hint="--after"
        )
    if form is Form.cuda:
        options = replace(options, exact=True, fast_math=None)  # it has direct sums alone
    with busy("compiling"):
        made = open_session(options).lowered(stages=after is not None)
        text = _text(made, form, after)
    if options.json:
        print_json({"as": form.value, "after": after, "text": text})
    else:
        typer.echo(text, nl=not text.endswith("\n"))


def _text(made: Lowered, form: Form, after: str | None) -> str:
    if form is Form.graph:
        from graphc.ir.text import print_graph

        return print_graph(_graph(made, after), data=False)
    if form is Form.dot:
        from graphc.cli.dot import print_dot

        return print_dot(_graph(made, after))
    if form is Form.kernel:
        return _kernels(made.program)
    if form is Form.program:
        from graphc.plan.text import print_program

        return print_program(made.program, kernels=False)
    if form is Form.cuda:
        from graphc.codegen.cuda.program import cuda_text

        return cuda_text(made.program)
    from graphc.codegen.llvm.object import assembly_text, llvm_text

    return llvm_text(made.program) if form is Form.llvm else assembly_text(made.program)


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
