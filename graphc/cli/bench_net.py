"""`graphc bench net` and `graphc bench ops`: against the machine's limits, and against a rival."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphc.cli.bench import Rival
from graphc.cli.options import (
    ExactOption,
    FastMathOption,
    JsonOption,
    LibrariesName,
    LibrariesOption,
    NetOptions,
    TargetName,
    TargetOption,
    fast_math_words,
)
from graphc.cli.report import busy, note, print_json, progress, say, shown_seconds, table
from graphc.cli.session import open_session
from graphc.error import NetError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from graphc.bench.contest import Timing
    from graphc.bench.machine import Limits
    from graphc.bench.net import Call, NetReport
    from graphc.bench.operators import RowReport


class ClockName(StrEnum):
    """What time is counted."""

    wall = "wall"
    cpu = "cpu"


RivalOption = Annotated[
    Rival | None, typer.Option(help="Also run this library: eager, channels-last and compiled.")
]
ClockOption = Annotated[
    ClockName,
    typer.Option(
        help="wall, or cpu: the time for which the thread had a core; for one thread on a machine"
        " that others use."
    ),
]
Seconds = Annotated[float, typer.Option(min=0, help="Time for the measurement.")]


def net(
    options: NetOptions,
    *,
    rival: RivalOption = None,
    seconds: Seconds = 10.0,
    clock: ClockOption = ClockName.wall,
    target: TargetOption = TargetName.cpu,
    libraries: LibrariesOption = LibrariesName.auto,
) -> None:
    """Measure a net.

    Its speed, in all and against the machine's limits; with --rival against another library, which
    runs the same graph. Results are compared before anything is timed.
    """
    from graphc.bench.device import describe
    from graphc.bench.net import bench_net
    from graphc.bench.torch_rival import VARIANTS, import_torch

    if rival:
        import_torch()
    with busy("compiling"):
        call = open_call(options, target.value, libraries.value)
    machine = describe(target.value)
    with busy("measuring"):
        report = bench_net(call, VARIANTS if rival else (), seconds, clock.value)
    _note_left_out([report.refusals])
    if options.json:
        print_json({**_net_json(call, report, machine), "clock": clock.value})
        return
    say(machine_line(machine))
    _print_net(call, report)


def open_call(options: NetOptions, target: str = "cpu", libraries: str = "auto") -> Call:
    """The net of the options, compiled for a target and run once on random inputs."""
    return open_session(options, target=target, libraries=libraries).bench_call()


def limits_json(limits: Limits) -> dict[str, Any]:
    """The limits in operations and bytes a second."""
    return {
        "threads": limits.threads,
        "fma_flops": limits.fma,
        "copy_bytes": limits.copy,
        "read_bytes": limits.read,
        "write_bytes": limits.write,
    }


def limits_line(limits: Limits) -> str:
    """The limits in a sentence."""
    threads = "1 thread" if limits.threads == 1 else f"{limits.threads} threads"
    who = f"limits with {threads}" if limits.threads else "limits of the GPU"
    return (
        f"{who}: {limits.fma / 1e9:.0f} GFLOP/s, copy {limits.copy / 1e9:.1f} GB/s,"
        f" read {limits.read / 1e9:.1f} GB/s, write {limits.write / 1e9:.1f} GB/s"
    )


def machine_line(machine: dict[str, Any]) -> str:
    """The machine in a line."""
    plural = "s" * (machine["cores"] != 1)
    gpu = f"; {machine['gpu']}" if "gpu" in machine else ""
    return (
        f"{machine['processor']} ({machine['target']}, {machine['vector_bits']} bits),"
        f" {machine['cores']} core{plural}, {machine['system']}{gpu}"
    )


def _timing_json(timing: Timing) -> dict[str, Any]:
    return {**asdict(timing), "spread": timing.spread}


def _net_json(call: Call, report: NetReport, machine: dict[str, Any]) -> dict[str, Any]:
    return {
        "net": call.name,
        "inputs": {name: list(shape) for name, shape in call.inputs.items()},
        "gradients": list(call.wrt),
        "machine": machine,
        "limits": limits_json(report.limits),
        "flops": report.products,
        "bytes": report.bytes,
        "results": [
            {
                "name": found.name,
                "seconds": _timing_json(found.timing),
                "gflops": found.flops / 1e9,
                "of_fma": found.flops / report.limits.fma,
                "gbytes": found.bytes / 1e9,
                "of_copy": found.bytes / report.limits.copy,
                "memory": found.memory,
                "difference": found.error,
            }
            for found in report.figures
        ],
        "refusals": report.refusals,
        "ratio": report.ratio,
        "libraries": decisions_json(call),
    }


def _note_left_out(refusals: Iterable[Mapping[str, str]]) -> None:
    """A line for each reason that variants of the rival were left out for, of a net or of rows."""
    left: dict[str, dict[str, int]] = {}
    for row in refusals:
        for variant, why in row.items():
            counts = left.setdefault(why, {})
            counts[variant] = counts.get(variant, 0) + 1
    for why, counts in left.items():
        rows = max(counts.values())
        where = f" of {rows} rows" if rows > 1 else ""
        note(f"torch {', '.join(counts)} left out{where}: {why}")


def decisions_json(call: Call) -> list[dict[str, str]]:
    """How steps run that a library of the GPU's could do as well."""
    return [{"layer": layer, "decision": said} for layer, said in call.executable.decisions]


def print_decisions(call: Call) -> None:
    """The same for people."""
    for layer, said in call.executable.decisions:
        say(f"{layer or call.name}: {said}")


def _print_net(call: Call, report: NetReport) -> None:
    say(limits_line(report.limits))
    what = f"forward and {len(call.wrt)} gradients" if call.wrt else "forward"
    say(
        f"{call.name}: {what}, {report.products / 1e9:.2f} GFLOP,"
        f" {report.bytes / 1e6:.1f} MB moved at least\n"
    )
    rows = [
        (
            found.name,
            shown_seconds(found.timing.median),
            f"{100 * found.timing.spread:.0f} %",
            f"{found.flops / 1e9:.1f}",
            f"{100 * found.flops / report.limits.fma:.0f} %",
            f"{found.bytes / 1e9:.1f}",
            f"{100 * found.bytes / report.limits.copy:.0f} %",
            f"{found.memory / 2**20:.1f}" if found.memory is not None else "",
            f"{found.error:.1e}" if found.error is not None else "",
        )
        for found in report.figures
    ]
    head = ("", "median", "spread", "GFLOP/s", "of FMA", "GB/s", "of copy", "MiB", "difference")
    say(table(head, rows, numbers=range(1, 9)))
    say("GB/s: of the bytes that graphc's steps touch; MiB: graphc's planned, others' seen")
    print_decisions(call)
    if report.ratio is not None:
        say(f"graphc runs at {report.ratio:.2f} times the speed of the best rival")


def ops(
    *,
    rival: RivalOption = None,
    full: Annotated[
        bool, typer.Option("--full", help="All shapes of real nets; takes minutes.")
    ] = False,
    seconds: Annotated[float, typer.Option(min=0, help="Time for each row.")] = 0.5,
    threads: Annotated[int, typer.Option(min=1, max=256, help="Threads of a call.")] = 1,
    clock: ClockOption = ClockName.wall,
    target: TargetOption = TargetName.cpu,
    libraries: LibrariesOption = LibrariesName.auto,
    exact: ExactOption = False,
    fast_math: FastMathOption = None,
    match: Annotated[str, typer.Option(metavar="TEXT", help="Only rows whose name has this.")] = "",
    json: JsonOption = False,
) -> None:
    """Measure single operators.

    Convolutions of well-known nets and their gradients, inner products, and what is bound by
    memory, as they run inside a net.
    """
    from graphc.back_ends import back_end
    from graphc.bench.device import describe, limits_of
    from graphc.bench.operator_table import table as operator_table
    from graphc.bench.operators import Setup, bench_row
    from graphc.bench.torch_rival import VARIANTS, import_torch

    if rival:
        import_torch()
    rows = [row for row in operator_table(full, target.value) if match in row.name]
    if not rows:
        raise NetError(f"no row of the table has '{match}' in its name")
    words = fast_math_words(exact, fast_math)
    algorithms = back_end(target.value).algorithms(exact, words, threads)
    setup = Setup(threads, algorithms, target.value, "tf32" in words, libraries.value)
    limits = limits_of(target.value, threads)
    machine = describe(target.value)
    found = []
    with progress("measuring") as step:
        for number, row in enumerate(rows):
            step(number, len(rows), row.name)
            found.append(bench_row(row, setup, VARIANTS if rival else (), seconds, clock.value))
    limits = limits.better(limits_of(target.value, threads))
    _note_left_out([row.refusals for row in found])
    if json:
        print_json({"machine": machine, "clock": clock.value, **_rows_json(found, limits)})
        return
    say(machine_line(machine))
    say(limits_line(limits) + "\n")
    _print_rows(found, limits)


def _rows_json(found: list[RowReport], limits: Limits) -> dict[str, Any]:
    return {
        "limits": limits_json(limits),
        "rows": [_row_json(row, limits) for row in found],
        "median_ratio": _median_ratio(found),
    }


def _row_json(row: RowReport, limits: Limits) -> dict[str, Any]:
    seconds = row.timing.median
    return {
        "name": row.name,
        "way": row.way,
        "seconds": _timing_json(row.timing),
        "flops": row.products,
        "bytes": row.bytes,
        "of_fma": row.products / seconds / limits.fma,
        "of_copy": row.bytes / seconds / limits.copy,
        "of_read": row.bytes / seconds / limits.read,
        "of_write": row.bytes / seconds / limits.write,
        "memory": row.memory,
        "rivals": {name: _timing_json(timing) for name, timing in row.rivals.items()},
        "differences": row.errors,
        "refusals": row.refusals,
        "ratio": row.ratio,
        "libraries": list(row.decisions),
    }


def _print_rows(found: list[RowReport], limits: Limits) -> None:
    lines = []
    for row in found:
        seconds = row.timing.median
        best = min(row.rivals, key=lambda name: row.rivals[name].median, default="")
        lines.append(
            (
                row.name,
                row.way,
                shown_seconds(seconds),
                f"{100 * row.timing.spread:.0f} %",
                f"{100 * row.products / seconds / limits.fma:.0f} %" if row.products else "",
                f"{100 * row.bytes / seconds / getattr(limits, row.memory):.0f} % {row.memory}",
                shown_seconds(row.rivals[best].median) if best else "",
                best,
                f"{row.ratio:.2f}" if row.ratio is not None else "",
            )
        )
    head = ("", "", "median", "spread", "of FMA", "of memory", "rival", "", "ratio")
    say(table(head, lines, numbers=(2, 3, 4, 5, 6, 8)))
    say("above 100 % of memory: the data was in a cache")
    for row in found:
        for said in row.decisions:
            say(f"{row.name}, {row.way}: {said}")
    ratio = _median_ratio(found)
    if ratio is not None:
        say(f"median ratio {ratio:.2f}: the rival's time over graphc's")


def _median_ratio(found: list[RowReport]) -> float | None:
    import statistics

    ratios = [row.ratio for row in found if row.ratio is not None]
    return statistics.median(ratios) if ratios else None
