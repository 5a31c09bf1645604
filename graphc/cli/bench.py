"""`graphc bench`: what is gained, measured on this machine."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from graphc.cli.options import JsonOption, TargetName, TargetOption, verb
from graphc.cli.report import need_writable, note, print_json, progress, say, shown_seconds, table
from graphc.cli.usage import Verb, Verbs

if TYPE_CHECKING:
    from graphc.bench.last_layer import LastLayerReport
    from graphc.bench.loss import Error, Measured
    from graphc.bench.loss_report import LossReport
    from graphc.bench.loss_training import Curve

bench = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Measure what is gained, on this machine.",
)
CURVE_POINTS = 7


class Rival(StrEnum):
    """Who else computes the same."""

    torch = "torch"


@bench.command(cls=Verb)
@verb
def loss(
    *,
    classes: Annotated[int, typer.Option(min=2, help="Classes.")] = 1000,
    batch: Annotated[int, typer.Option(min=1, help="Examples.")] = 4096,
    axis: Annotated[
        int, typer.Option(min=0, max=1, help="The axis of the classes: 1 (neighbours) or 0.")
    ] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each; the median counts.")] = 15,
    threads: Annotated[int, typer.Option(min=1, max=256, help="Threads of a call.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the training.")] = 120,
    rival: Annotated[
        Rival | None, typer.Option(help="Also measure this library's loss, eager and compiled.")
    ] = None,
    rival_python: Annotated[
        str, typer.Option(metavar="PATH", help="The Python that has the rival; else this one.")
    ] = "",
    width: Annotated[
        int, typer.Option(min=0, help="Also measure the layer of this width that makes the scores.")
    ] = 0,
    target: TargetOption = TargetName.cpu,
    plot: Annotated[
        str | None, typer.Option(metavar="FILE.png", help="Draw it (needs matplotlib).")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Measure the fused softmax loss.

    It is compared with the two layers that it replaces: time, memory, errors as the scores spread,
    and what a small net learns; with --width also a last layer and its loss, in blocks of classes
    against the whole. Results are compared with float64 before anything is timed.
    """
    from graphc.bench.loss import Size
    from graphc.bench.loss_report import bench_loss

    need_writable(plot)
    if plot is not None:
        from graphc.bench.loss_picture import need_drawable

        need_drawable(plot)
    with progress("measuring") as step:
        report = bench_loss(
            Size(batch, classes, axis),
            repeats=repeats,
            threads=threads,
            torch=rival is Rival.torch,
            python=rival_python,
            steps=steps,
            width=width,
            target=target.value,
            progress=step,
        )
    if plot is not None:
        from graphc.bench.loss_picture import draw_report

        draw_report(report, plot)
    for form, why in report.refusals.items():
        note(f"torch {form} left out: {why}")
    if json:
        print_json(report.as_json())
        return
    _print(report)
    if plot is not None:
        say(f"\nwritten: {plot}")


def _print(report: LossReport) -> None:
    size = report.size
    place = "" if size.axis == 1 else ", classes along axis 0"
    threads = "1 thread" if report.threads == 1 else f"{report.threads} threads"
    say(
        f"softmax loss and its gradient: {size.batch} examples, {size.classes} classes{place},"
        f" float32, {threads}"
    )
    found = ", ".join(f"{name} {error:.1e}" for name, error in report.checked.items())
    say(f"checked against float64; gradient error: {found}\n")
    _print_times(report)
    say("")
    _print_errors(report.errors)
    say("")
    _print_curves(report.curves)
    if report.last_layer:
        say("")
        _print_last_layer(report.last_layer)


def _print_times(report: LossReport) -> None:
    rows = []
    for timing in (*report.timings, report.copy):
        rate = report.rate(timing)
        rows.append(
            (
                timing.name,
                shown_seconds(timing.seconds),
                _spread(timing),
                f"{timing.bytes / 1e6:.1f} MB" if timing.bytes else "",
                f"{timing.memory / 1e6:.1f} MB" if timing.memory else "",
                f"{rate / 1e9:.1f}",
                f"{100 * report.copy.seconds / timing.seconds:.0f} %",
            )
        )
    head = ("", "median", "spread", "moved", "memory", "GB/s", "of copy")
    say(table(head, rows, numbers=range(1, 7)))
    say("GB/s: the scores read once and the gradient written once; spread: of half of the runs")
    fused, *others = report.timings
    speeds = [f"{other.seconds / fused.seconds:.1f} times that of {other.name}" for other in others]
    rival = f" ({report.rival})" if report.rival else ""
    say(f"the speed of fused is {', '.join(speeds)}{rival}")


def _print_errors(errors: list[Error]) -> None:
    rows = [
        (
            f"{error.spread:g}",
            error.name,
            f"{error.loss:.1e}",
            f"{error.gradient:.1e}",
            str(error.bad),
            f"{100 * error.stuck:.0f} %",
        )
        for error in sorted(errors, key=lambda e: e.spread)
    ]
    head = ("spread", "", "loss error", "gradient error", "inf or nan", "no gradient")
    say("errors against float64 as the scores spread")
    say(table(head, rows, numbers=(0, 2, 3, 4, 5)))
    say("no gradient: examples whose label's gradient is 0 and should not be")


def _print_curves(curves: list[Curve]) -> None:
    count = len(curves[0].losses)
    places = sorted({round(i * (count - 1) / (CURVE_POINTS - 1)) for i in range(CURVE_POINTS)})
    rows = [
        (
            curve.name,
            *(f"{curve.losses[p]:.3g} ({100 * curve.wrong[p]:.0f} %)" for p in places),
        )
        for curve in curves
    ]
    say("training of the same small net: loss (classified wrongly) at steps")
    head = ("", *(str(place) for place in places))
    say(table(head, rows, numbers=range(1, len(places) + 1)))


def _spread(timing: Measured) -> str:
    return "" if timing.spread is None else f"{100 * timing.spread:.0f} %"


def _print_last_layer(report: LastLayerReport) -> None:
    whole, *_ = report.timings
    rows = [
        (
            timing.name,
            shown_seconds(timing.seconds),
            _spread(timing),
            f"{timing.memory / 1e6:.1f} MB",
            f"{report.rate(timing) / 1e9:.1f}",
            f"{timing.seconds / whole.seconds:.2f}",
        )
        for timing in report.timings
    ]
    say(f"through a last layer of width {report.size.width}, its gradients included")
    head = ("", "median", "spread", "memory", "GFLOP/s", "of whole")
    say(table(head, rows, numbers=range(1, 6)))
    say("memory: beside inputs, weights, gradients; of a rival, the growth of its process")
