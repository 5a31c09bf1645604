"""The picture of `graphc bench loss`: speed, errors, training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from graphc.bench.loss import FORMS, GRADIENT_ERROR, Measured
from graphc.bench.loss_report import LossReport
from graphc.error import NetError

COLOURS = {FORMS[0]: "#1b6ca8", FORMS[1]: "#d1495b", FORMS[2]: "#edae49"}
OTHER = "#8d99ae"
# Errors below this, 0 among them, are drawn here: less would only squeeze the others.
LEAST_ERROR = 1e-10


def need_drawable(path: str | Path) -> None:
    """Raise NetError, before long work, where a picture of that name could not be drawn."""
    formats = _canvas().get_supported_filetypes()
    suffix = Path(path).suffix.removeprefix(".").lower()
    if suffix not in formats:
        raise NetError(f"cannot draw '{path}': a picture is FILE.png, or {', '.join(formats)}")


def _canvas() -> Any:
    """An empty figure's; NetError where matplotlib is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise NetError(
            "--plot needs matplotlib, which is not installed: pip install 'graphc[plot]'"
        ) from None
    return FigureCanvasAgg(Figure(figsize=(13, 4), layout="constrained"))


def draw_report(report: LossReport, path: str | Path) -> None:
    """Write a PNG (or what the suffix says). Raises NetError where matplotlib is missing."""
    figure = _canvas().figure
    speed, error, training = figure.subplots(1, 3)
    for axes in (speed, error, training):
        axes.spines[["top", "right"]].set_visible(False)
    _draw_speed(speed, report)
    _draw_errors(error, report)
    _draw_training(training, report)
    size = report.size
    figure.suptitle(f"softmax loss, forward and backward: {size.batch} x {size.classes}")
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as problem:
        raise NetError(f"cannot write '{path}': {problem}") from None


def _draw_speed(axes: Any, report: LossReport) -> None:
    rows = [*report.timings, report.copy]
    rates = [report.rate(row) / 1e9 for row in rows]
    size = report.size.bytes / 1e9
    ends = [(size / high, size / low) for low, high in (row.quartiles for row in rows)]
    bars = axes.barh(
        [row.name for row in rows],
        rates,
        xerr=[
            [max(0, rate - low) for rate, (low, _) in zip(rates, ends, strict=True)],
            [max(0, high - rate) for rate, (_, high) in zip(rates, ends, strict=True)],
        ],
        color=[COLOURS.get(row.name, OTHER) for row in rows],
        height=0.55,
        error_kw={"capsize": 3, "elinewidth": 1},
    )
    axes.bar_label(
        bars, [_bar_text(row, rate) for row, rate in zip(rows, rates, strict=True)], padding=6
    )
    axes.invert_yaxis()
    axes.set_xlim(0, 1.75 * max(high for _, high in ends))
    axes.set_xlabel("GB/s (scores read once, gradient written once)")
    axes.set_title("speed")


def _bar_text(row: Measured, rate: float) -> str:
    """The rate, and what the program moves and holds where that is known."""
    if not row.bytes:
        return f"{rate:.1f}"
    return f"{rate:.1f}\n{_megabytes(row.bytes)} moved\n{_megabytes(row.memory)} held"


def _megabytes(size: int) -> str:
    """Three digits of small sizes, whole megabytes of large ones."""
    count = size / 1e6
    return f"{count:.3g} MB" if count < 100 else f"{count:,.0f} MB"


def _draw_errors(axes: Any, report: LossReport) -> None:
    for form in FORMS:
        found = [e for e in report.errors if e.name == form]
        spreads = [e.spread for e in found]
        values = [
            max(e.gradient, LEAST_ERROR) if math.isfinite(e.gradient) else math.nan for e in found
        ]
        axes.loglog(spreads, values, "o-", color=COLOURS[form], label=form)
        lost = [e.spread for e in found if not math.isfinite(e.gradient)]
        axes.plot(lost, [2.0] * len(lost), "x", color=COLOURS[form])
    axes.axhline(GRADIENT_ERROR, color=OTHER, linewidth=0.8, linestyle=":")
    axes.text(1e4, GRADIENT_ERROR * 1.3, "what is right", color=OTHER, ha="right", fontsize=8)
    axes.set_xlabel("spread of the scores")
    axes.set_title("error of the gradient (x: inf or nan)")
    axes.legend()


def _draw_training(axes: Any, report: LossReport) -> None:
    for curve in report.curves:
        wrong = [100 * part for part in curve.wrong]
        axes.plot(wrong, color=COLOURS[curve.name], label=curve.name)
    axes.set_xlabel("step")
    axes.set_ylabel("classified wrongly, %")
    axes.set_ylim(0, 100)
    axes.set_title("training of the same small net")
    axes.legend()
