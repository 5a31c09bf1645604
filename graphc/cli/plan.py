"""`graphc plan`: where every value lies, and how much memory that is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphc.cli.options import NetOptions
from graphc.cli.report import busy, print_json, say
from graphc.cli.session import need_no_gradients, open_session, open_solver
from graphc.whole_file import write_parts

if TYPE_CHECKING:
    from graphc.plan.program import Program

# A longer memory table is cut down to the largest buffers.
MOST_ROWS = 40


def plan(
    options: NetOptions,
    *,
    svg: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw the timeline: calls along x, the arena along y."),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare", help="Every way to plan side by side, and what others would have used."
        ),
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="List every buffer, and every sharing refused.")
    ] = False,
    solver: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="A solver's prototxt: plan its step, which changes the parameters, too. The net"
            " is NET, whichever the solver names.",
        ),
    ] = None,
) -> None:
    """Print the memory table, what was saved, what holds the peak, and why sharing was refused.

    It is that of forward and backward, if a gradient is defined. Of a large net it lists the
    largest buffers; --all lists the others, too.
    """
    if compare:
        if solver is not None:
            raise typer.BadParameter("--compare is about nets; leave --solver out")
        from graphc.cli.compare_memory import compare_modes

        compare_modes(options)
        return
    with busy("planning"):
        program = _planned(options, solver)
    if svg is not None:
        _draw(program, svg)
    if options.json:
        print_json(_plain(program))
    else:
        _print(program, everything)


def _planned(options: NetOptions, solver: str | None) -> Program:
    """Of the net, or of the pass in which a solver changes its parameters."""
    if solver is None:
        return open_session(options).lowered().program
    need_no_gradients(options)
    step, *_ = open_solver(options, solver).net.lowered_steps()
    return step.program


def _draw(program: Program, path: Path) -> None:
    from graphc.plan.timeline import timeline_svg

    picture = timeline_svg(program).encode()
    write_parts(path, [picture])


def _print(program: Program, everything: bool) -> None:
    from graphc.plan.explain import memory_table, savings_table
    from graphc.plan.peak import peak_text
    from graphc.plan.refused import refusal_text

    say(memory_table(program, None if everything else MOST_ROWS))
    say(savings_table(program))
    say(peak_text(program, everything))
    say(refusal_text(program, everything), end="")


def _plain(program: Program) -> dict[str, Any]:
    from dataclasses import asdict

    from graphc.plan.explain import memory_rows
    from graphc.plan.peak import peak_holders
    from graphc.plan.refused import refusals, refused_rows

    peak, holders = peak_holders(program)
    return {
        "name": program.name,
        "steps": len(program.steps),
        "forward_steps": program.forward_steps,
        "memory": asdict(program.memory),
        "buffers": [asdict(row) for row in memory_rows(program)],
        "peak": {"step": peak, "holders": [asdict(holder) for holder in holders]},
        "refused": refusals(program),
        "refused_by_reason": [asdict(row) for row in refused_rows(program)],
    }
