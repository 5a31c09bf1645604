"""`graphc inspect`: everything about a net in one HTML file."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphc.cli.options import NetOptions
from graphc.cli.report import busy, need_writable, note, print_json
from graphc.cli.session import open_session
from graphc.error import NetError
from graphc.whole_file import write_parts

if TYPE_CHECKING:
    from graphc.bench.profile import Profile

_UNTOLD = ("net", "json")  # options that say nothing of what was compiled


def inspect(
    options: NetOptions,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="PATH", help="Write the report there.")
    ] = None,
    *,
    profile: Annotated[
        bool, typer.Option("--profile", help="Measure every step, on random inputs.")
    ] = False,
    seconds: Annotated[float, typer.Option(min=0, help="Time for the measurement.")] = 3.0,
    code: Annotated[
        bool, typer.Option("--code/--no-code", help="Show kernels as LLVM, assembly and CUDA.")
    ] = True,
) -> None:
    """Write a report of every stage.

    One HTML file that needs no network: the graph, what each pass changed, memory over time, the
    kernels in every language, who gets a gradient and why not. --json prints the same as data.
    """
    if output is None and not options.json:
        raise typer.BadParameter("name a file for the report, or ask for --json", param_hint="-o")
    need_writable(output)
    from graphc import __version__
    from graphc.report.facts import as_json, collect

    with busy("compiling"):
        made = open_session(options).lowered(stages=True)
    measured = _measure(options, seconds, len(made.program.steps)) if profile else None
    with busy("printing kernels"):
        facts = collect(made, _told(options), _files(options), measured, code, version=__version__)
    if options.json:
        print_json(as_json(facts))
    if output is not None:
        from graphc.report.page import page

        text = page(facts).encode()
        write_parts(output, [text])
        note(f"wrote {output}: {len(text) / 1e6:.2f} MB")


def _measure(options: NetOptions, seconds: float, steps: int) -> Profile:
    """Times of the same program's steps."""
    from graphc.bench.profile import profile
    from graphc.cli.bench_net import open_call

    with busy("measuring"):
        found = profile(open_call(options), seconds)
    if len(found.steps) != steps:
        raise NetError("--profile ran another program; name --mode to say which one is meant")
    return found


def _told(options: NetOptions) -> dict[str, Any]:
    """The options that differ from their defaults; paths without their folders."""
    told: dict[str, Any] = {}
    for field in fields(options):
        value = getattr(options, field.name)
        if field.name in _UNTOLD or value == field.default:
            continue
        if field.name == "weights" and not value.startswith("random:"):
            value = Path(value).name
        if field.name == "diff":
            value = [_bare(word) for word in value]
        told[field.name] = getattr(value, "value", value)
    return told


def _bare(word: str) -> str:
    name, sign, value = word.partition("=")
    return f"{name}{sign}{Path(value).name if sign else ''}"


def _files(options: NetOptions) -> list[Path]:
    named = [options.net]
    if options.weights and not options.weights.startswith("random:"):
        named.append(options.weights)
    return [Path(name) for name in named if Path(name).is_file()]
