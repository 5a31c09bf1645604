"""The command `graphc`: reads arguments, calls the compiler, prints. One file a verb.

A verb imports what it needs when it runs, so that `graphc --help` is there at once. Results go to
stdout, everything else to stderr. Exit codes: 0 fine, 1 a check failed, 2 wrong usage, 3 bad input.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from graphc import __version__
from graphc.cli.bench import bench
from graphc.cli.bench_net import net, ops
from graphc.cli.check import check
from graphc.cli.compile import compile
from graphc.cli.convert import convert, upgrade
from graphc.cli.doctor import doctor
from graphc.cli.explain import explain
from graphc.cli.gradient import grad
from graphc.cli.inspect import inspect
from graphc.cli.options import verb
from graphc.cli.plan import plan
from graphc.cli.profile import profile
from graphc.cli.report import note, open_streams
from graphc.cli.run import run
from graphc.cli.show import show
from graphc.cli.summary import summary
from graphc.cli.train import train
from graphc.cli.usage import Verb, Verbs

INTERNAL_ERROR = 70  # the exit code of a fault in graphc itself
VERBS = (
    *(run, grad, train, compile, show, summary, plan, explain, inspect, check, doctor),
    *(profile, convert, upgrade),
)

app = typer.Typer(
    name="graphc",
    cls=Verbs,
    help="Compiles neural-network definitions, and their backward pass, into native programs.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for function in VERBS:
    app.command(cls=Verb)(verb(function))
bench.command(cls=Verb)(verb(net))
bench.command(cls=Verb)(verb(ops))
app.add_typer(bench, name="bench")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"graphc {__version__}")
        raise typer.Exit()


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and stop."
        ),
    ] = False,
) -> None:
    """Compiles neural-network definitions, and their backward pass, into native programs."""


def main() -> None:
    """The entry point. A fault of ours is one line too; GRAPHC_TRACEBACK=1 shows where it is."""
    open_streams()
    try:
        app()
    except Exception as error:
        if os.environ.get("GRAPHC_TRACEBACK"):
            raise
        kind = type(error).__name__
        note(
            f"graphc: internal error: {kind}: {error!s}\n"
            "this is a fault in graphc; GRAPHC_TRACEBACK=1 shows where"
        )
        sys.exit(INTERNAL_ERROR)
