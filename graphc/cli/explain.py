"""`graphc explain`: why things are as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphc.cli.options import NetOptions
from graphc.cli.report import busy, print_json
from graphc.cli.session import lowered

if TYPE_CHECKING:
    from graphc.ir.remark import Remark

WHOLE = "net"


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
    """Print every remark about a layer, blob or parameter, the latest decision last."""
    from graphc.plan.explain import explain as remarks_about

    with busy("planning"):
        program = lowered(options).program
    if subject == WHOLE:
        remarks = [remark for remark in program.remarks if remark.subject == WHOLE]
    elif subject:
        remarks = remarks_about(program, subject)
    else:
        remarks = list(program.remarks)
    remarks = list(dict.fromkeys(remarks))
    if options.json:
        print_json([_plain(remark) for remark in remarks])
        return
    for remark in remarks:
        place = f"  ({remark.span})" if remark.span else ""
        typer.echo(f"{remark.subject}: {remark.sentence}. [{remark.stage}]{place}")
    if not remarks:
        typer.echo(f"{subject or 'the net'}: nothing had to be decided.")


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
