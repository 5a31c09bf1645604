"""`graphc explain`: why things are as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphc.cli.options import NetOptions
from graphc.cli.report import busy, print_json
from graphc.cli.session import open_session

if TYPE_CHECKING:
    from graphc.ir.remark import Remark
    from graphc.lowered import Lowered
    from graphc.plan.program import Program

WHOLE = "net"
ANSWER = "answer"


def explain(
    options: NetOptions,
    subject: Annotated[
        str,
        typer.Argument(
            metavar="[SUBJECT]",
            help="layer:conv1, blob:conv1, a parameter conv1/0, `net` for what concerns the whole,"
            " or nothing for everything.",
        ),
    ] = "",
) -> None:
    """Print why things are as they are.

    What it is, what it costs, whether it is in place, gets a gradient, moves in training; then
    every decision about it, in order.
    """
    with busy("planning"):
        made = open_session(options).lowered()
    remarks = list(dict.fromkeys([*_answers(made, subject), *_remarks(made, subject)]))
    if options.json:
        print_json([_plain(remark) for remark in remarks])
        return
    for remark in remarks:
        if remark.stage == ANSWER:
            typer.echo(f"{remark.sentence}.")
            continue
        place = f"  ({remark.span})" if remark.span else ""
        typer.echo(f"{remark.subject}: {remark.sentence}. [{remark.stage}]{place}")
    if not remarks:
        typer.echo(f"{subject or 'the net'}: nothing had to be decided.")


def _answers(made: Lowered, subject: str) -> list[Remark]:
    """What people ask about such a thing, as remarks without a stage of the compiler."""
    from graphc.answers import answers
    from graphc.ir.remark import Remark

    return [Remark(ANSWER, subject, sentence) for sentence in answers(made, subject)]


def _remarks(made: Lowered, subject: str) -> list[Remark]:
    """Those about the subject; a layer's include those about its tops and parameters."""
    from graphc.plan.explain import explain as remarks_about

    program = made.program
    if subject == WHOLE and WHOLE not in made.graph.blobs:
        return [remark for remark in program.remarks if remark.subject == WHOLE]
    if not subject:
        return list(program.remarks)
    kind, _, layer = subject.rpartition(":")
    if kind == "layer" and layer in made.layer_tops:
        things = [f"blob:{top}" for top in made.layer_tops[layer] if top in program.buffers]
        things += [key for key in made.owners if key.rpartition("/")[0] == layer]
        wanted = {subject, *things}
        wanted |= {f"{thing}.diff" for thing in things} | {f"blob:{thing}" for thing in things}
        found = [remark for remark in program.remarks if wanted & _subjects(remark)]
        return [*found, *_steps(program, layer)]
    if "~" in subject and subject in program.buffers:
        return []  # a copy: what is asked is where it comes from
    return remarks_about(program, subject)


def _subjects(remark: Remark) -> set[str]:
    """A remark on joined layers, `layer:conv1, relu1`, is about each of them."""
    kind, colon, names = remark.subject.rpartition(":")
    return {remark.subject} | {f"{kind}{colon}{name}" for name in names.split(", ")}


def _steps(program: Program, layer: str) -> list[Remark]:
    """In which steps a layer runs, and with whom."""
    remarks = []
    for way, backward in (("forward", False), ("backward", True)):
        parts = []
        for number, step in enumerate(program.steps):
            layers = step.layer.split(", ")
            if step.backward is backward and layer in layers:
                others = ", ".join(f"'{other}'" for other in layers if other != layer)
                parts.append(f"{number} ({step.kernel.name}{f', with {others}' * bool(others)})")
        if parts:
            from graphc.ir.remark import Remark

            sentence = f"runs {way} in step{'s' * (len(parts) > 1)} {', '.join(parts)}"
            remarks.append(Remark("plan", f"layer:{layer}", sentence))
    return remarks


def _plain(remark: Remark) -> dict[str, Any]:
    place = remark.span
    return {
        "stage": remark.stage,
        "subject": remark.subject,
        "sentence": remark.sentence,
        "file": place.source.name if place else None,
        "line": place.line if place else None,
        "column": place.column if place else None,
    }
