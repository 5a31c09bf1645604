"""`graphc plan`: where every value lies, and how much memory that is."""

from __future__ import annotations

import typer

from graphc.cli.options import NetOptions
from graphc.cli.report import busy, print_json
from graphc.cli.session import open_session


def plan(options: NetOptions) -> None:
    """Print the memory table.

    It is that of forward and backward, if a gradient is defined.
    """
    from dataclasses import asdict

    from graphc.plan.explain import memory_rows, memory_table

    with busy("planning"):
        program = open_session(options).lowered().program
    if not options.json:
        typer.echo(memory_table(program), nl=False)
        return
    print_json(
        {
            "name": program.name,
            "steps": len(program.steps),
            "forward_steps": program.forward_steps,
            "memory": asdict(program.memory),
            "buffers": [asdict(row) for row in memory_rows(program)],
        }
    )
