"""`graphc summary`: the table of layers."""

from __future__ import annotations

from graphc.cli.options import NetOptions
from graphc.cli.report import busy, print_json, say
from graphc.cli.session import open_session


def summary(options: NetOptions) -> None:
    """Print the layers.

    Type, shape, parameters, operations of a forward pass, and memory of each.
    """
    from dataclasses import asdict

    from graphc.summary import summarise, summary_table

    with busy("planning"):
        found = summarise(open_session(options).lowered())
    if not options.json:
        say(summary_table(found))
        return
    totals = {"parameters": found.parameters, "flops": found.flops, "bytes": found.bytes}
    print_json({**asdict(found), "total": totals})
