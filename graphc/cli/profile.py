"""`graphc profile`: where a net's time goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphc.cli.bench_net import (
    ClockName,
    ClockOption,
    decisions_json,
    limits_json,
    limits_line,
    open_call,
    print_decisions,
)
from graphc.cli.options import (
    LibrariesName,
    LibrariesOption,
    NetOptions,
    TargetName,
    TargetOption,
)
from graphc.cli.report import busy, note, print_json, say, shown_seconds, table

if TYPE_CHECKING:
    from graphc.bench.profile import LayerProfile, Profile


def profile(
    options: NetOptions,
    *,
    steps: Annotated[
        bool, typer.Option("--steps", help="A line for each step instead of each layer.")
    ] = False,
    seconds: Annotated[float, typer.Option(min=0, help="Time for the measurement.")] = 3.0,
    clock: ClockOption = ClockName.wall,
    target: TargetOption = TargetName.cpu,
    libraries: LibrariesOption = LibrariesName.auto,
) -> None:
    """Measure where a net's time goes.

    Time, operations, bytes and how near to the machine's limits, forward beside backward. With
    several threads also waits: the part of their time that threads spent waiting for each other.
    """
    from graphc.bench.profile import CLOSE
    from graphc.bench.profile import profile as measure

    with busy("compiling"):
        call = open_call(options, target.value, libraries.value)
    with busy("measuring"):
        found = measure(call, seconds, clock.value)
    if not found.is_close:
        note(
            f"warning: the steps together took {100 * found.difference:+.1f} % of the whole call,"
            f" more than {100 * CLOSE:.0f} %: the machine is busy, or the call is so short that"
            " reading the clock shows"
        )
    if options.json:
        print_json({**_as_json(call.name, found), "libraries": decisions_json(call)})
        return
    say(limits_line(found.limits))
    say(_step_table(found) if steps else _layer_table(found))
    say(
        f"steps {shown_seconds(found.total - found.starting)}, starting"
        f" {shown_seconds(found.starting)}, a call without clocks"
        f" {shown_seconds(found.unprofiled)} ({100 * found.difference:+.1f} %)"
    )
    if found.limits.threads > 1:
        say(f"threads waited for each other {100 * found.waiting:.1f} % of the steps' time")
    print_decisions(call)


def _layer_table(found: Profile) -> str:
    rows = []
    waits = found.limits.threads > 1
    for name, (forward, backward) in found.layers().items():
        spent = sum(part.seconds for part in (forward, backward) if part)
        rows.append(
            (
                name or "(the net)",
                f"{100 * spent / found.total:.1f} %",
                *_columns(forward, waits),
                *_columns(backward, waits),
            )
        )
    own = ("time", "GFLOP", "MB", "roofline", *["waits"] * waits)
    head = (
        "layer",
        "share",
        *own,
        *(f"backward {word}" if word == "time" else word for word in own),
    )
    return table(head, rows, numbers=range(1, len(head)))


def _columns(part: LayerProfile | None, waits: bool) -> tuple[str, ...]:
    if part is None:
        return ("",) * (4 + waits)
    columns = (
        shown_seconds(part.seconds),
        f"{part.flops / 1e9:.3f}",
        f"{part.bytes / 1e6:.2f}",
        f"{100 * part.roofline:.0f} %",
    )
    return (*columns, f"{100 * part.waiting:.0f} %") if waits else columns


def _step_table(found: Profile) -> str:
    waits = found.limits.threads > 1
    rows = [
        (
            str(step.number),
            ", ".join(step.layers),
            step.kernel,
            "backward" if step.backward else "forward",
            shown_seconds(step.seconds),
            f"{100 * step.seconds / found.total:.1f} %",
            f"{step.work.flops / 1e9:.3f}",
            f"{step.work.bytes / 1e6:.2f}",
            f"{100 * step.roofline:.0f} %",
            *[f"{100 * step.waiting:.0f} %"] * waits,
        )
        for step in sorted(found.steps, key=lambda step: -step.seconds)
    ]
    own = ("time", "share", "GFLOP", "MB", "roofline", *["waits"] * waits)
    head = ("step", "layers", "kernel", "", *own)
    return table(head, rows, numbers=(0, *range(4, len(head))))


def _as_json(name: str, found: Profile) -> dict[str, Any]:
    return {
        "net": name,
        "limits": limits_json(found.limits),
        "starting": found.starting,
        "total": found.total,
        "unprofiled": found.unprofiled,
        "difference": found.difference,
        "is_close": found.is_close,
        "rounds": found.rounds,
        "waiting": found.waiting,
        "steps": [
            {
                "number": step.number,
                "layers": list(step.layers),
                "kernel": step.kernel,
                "kind": step.kind,
                "backward": step.backward,
                "seconds": step.seconds,
                "flops": step.work.flops,
                "bytes": step.work.bytes,
                "roofline": step.roofline,
                "waiting": step.waiting,
            }
            for step in sorted(found.steps, key=lambda step: -step.seconds)
        ],
        "layers": {
            name: {"forward": _part_json(forward), "backward": _part_json(backward)}
            for name, (forward, backward) in found.layers().items()
        },
    }


def _part_json(part: LayerProfile | None) -> dict[str, Any] | None:
    if part is None:
        return None
    return {
        "seconds": part.seconds,
        "flops": part.flops,
        "bytes": part.bytes,
        "roofline": part.roofline,
        "waiting": part.waiting,
    }
