"""`graphc plan`: where every value lies, and how much memory that is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphc.cli.options import NetOptions
from graphc.cli.report import busy, print_json
from graphc.cli.session import open_session
from graphc.error import NetError

if TYPE_CHECKING:
    from graphc.plan.program import Program


def plan(
    options: NetOptions,
    *,
    svg: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw the timeline: calls along x, the arena along y."),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option(help="Every way to plan side by side, and what others would have used."),
    ] = False,
) -> None:
    """Print the memory table, what was saved, what holds the peak, and every sharing refused.

    It is that of forward and backward, if a gradient is defined.
    """
    if compare:
        from graphc.cli.compare_memory import compare_modes

        compare_modes(options)
        return
    with busy("planning"):
        program = open_session(options).lowered().program
    if svg is not None:
        _draw(program, svg)
    if options.json:
        print_json(_plain(program))
    else:
        _print(program)


def _draw(program: Program, path: Path) -> None:
    from graphc.plan.timeline import timeline_svg

    try:
        path.write_text(timeline_svg(program), "utf-8")
    except OSError as error:
        raise NetError(f"cannot write '{path}': {error.strerror}") from None


def _print(program: Program) -> None:
    from graphc.plan.explain import memory_table, savings_table
    from graphc.plan.peak import peak_text, refusals

    typer.echo(memory_table(program))
    typer.echo(savings_table(program))
    typer.echo(peak_text(program))
    said = refusals(program)
    typer.echo(f"refused sharing ({len(said)})" if said else "no sharing was refused")
    for sentence in said:
        typer.echo(f"  {sentence}")


def _plain(program: Program) -> dict[str, Any]:
    from dataclasses import asdict

    from graphc.plan.explain import memory_rows
    from graphc.plan.peak import peak_holders, refusals

    peak, holders = peak_holders(program)
    return {
        "name": program.name,
        "steps": len(program.steps),
        "forward_steps": program.forward_steps,
        "memory": asdict(program.memory),
        "buffers": [asdict(row) for row in memory_rows(program)],
        "peak": {"step": peak, "holders": [asdict(holder) for holder in holders]},
        "refused": refusals(program),
    }
