"""Everything `graphc bench loss` finds out, in the order in which it must be found out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from graphc.bench.device import copier
from graphc.bench.last_layer import LastLayerReport, LayerSize, bench_last_layer
from graphc.bench.loss import (
    FORMS,
    Candidate,
    Error,
    Measured,
    Size,
    check,
    draw,
    errors,
    interleaved,
    timed,
)
from graphc.bench.loss_training import Curve, train
from graphc.bench.torch_loss import Torch
from graphc.error import need

Progress = Callable[[int, int, str], None]
COPY = "copy"


@dataclass(frozen=True)
class LossReport:
    """What was measured.

    checked: the largest gradient error of each timed form, compared with float64 before any time
    was taken. copy: a plain copy of the scores to another array, by numpy or a kernel, between the
    other runs.
    last_layer: the loss through the layer that makes the scores, if a width was given.
    refusals: forms of the rival that cannot run, and why.
    """

    size: Size
    threads: int
    checked: dict[str, float]
    timings: list[Measured]
    rival: str
    copy: Measured
    errors: list[Error]
    curves: list[Curve]
    last_layer: LastLayerReport | None = None
    refusals: dict[str, str] = field(default_factory=dict)

    def rate(self, timing: Measured) -> float:
        """Effective bytes a second: the scores read once and the gradient written once."""
        return self.size.bytes / timing.seconds

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        rows = [*self.timings, self.copy]
        return {
            "size": asdict(self.size),
            "threads": self.threads,
            "gradient_error": self.checked,
            "rival": self.rival,
            "refusals": self.refusals,
            "times": [
                {
                    "name": row.name,
                    "seconds": row.seconds,
                    "best_seconds": row.best,
                    "spread": row.spread,
                    "effective_bytes_per_second": self.rate(row),
                    "part_of_copy": self.copy.seconds / row.seconds,
                    "bytes_moved": row.bytes or None,
                    "memory": row.memory or None,
                }
                for row in rows
            ],
            "errors": [asdict(error) for error in self.errors],
            "training": [asdict(curve) for curve in self.curves],
            "last_layer": self.last_layer.as_json() if self.last_layer else None,
        }


def bench_loss(
    size: Size,
    repeats: int = 15,
    threads: int = 1,
    torch: bool = False,
    python: str = "",
    steps: int = 120,
    width: int = 0,
    target: str = "cpu",
    progress: Progress = lambda done, total, label: None,
) -> LossReport:
    """Check, then time in turns, then the errors over the spread of scores, then the training.

    torch: also run PyTorch's cross_entropy, in the Python named (None: this one). width: of the
    layer that makes the scores, to measure it with its loss, too; 0: not. target: what computes the
    loss; the training of the small net is the processor's.
    Raises NetError where a result is wrong: then nothing has been timed.
    """
    need(repeats >= 1, f"there is at least one run, not {repeats}")
    need(not width or target == "cpu", "a last layer is measured on the processor")
    need(not width or size.axis == 1, "a last layer has its classes along axis 1")
    stages = 5 if width else 4
    progress(0, stages, "right results")
    x, label = draw(size, 1.0)
    candidates = [Candidate(size, form, threads, target) for form in FORMS[:2]]
    checked = {c.name: check(c, x, label, size.axis) for c in candidates}
    rival = Torch(x, label, size.axis, threads, python, target=target) if torch else None
    progress(1, stages, "times")
    try:
        timings, copy = _timings(size, candidates, rival, copier(x, target), repeats)
    finally:
        if rival is not None:
            rival.close()
    progress(2, stages, "errors")
    found = errors(size, target=target)
    progress(3, stages, "training")
    curves = [train(form, steps) for form in FORMS[:2]]
    layer = None
    if width:
        progress(4, stages, "through the last layer")
        layer_size = LayerSize(size.batch, size.classes, width)
        layer = bench_last_layer(layer_size, repeats, threads, torch, python)
    progress(stages, stages, "")
    version = f"torch {rival.version}" if rival else ""
    refusals = rival.refusals if rival else {}
    return LossReport(
        size, threads, checked, timings, version, copy, found, curves, layer, refusals
    )


def _timings(
    size: Size,
    candidates: list[Candidate],
    rival: Torch | None,
    copy_once: Callable[[], object],
    repeats: int,
) -> tuple[list[Measured], Measured]:
    copy = Measured(COPY, size.bytes, size.bytes)
    work = {c.name: timed(c.run) for c in candidates}
    work[COPY] = timed(copy_once)
    timings = [c.timing for c in candidates]
    for form in rival.forms if rival else ():
        timings.append(Measured(f"torch {form}", 0, 0))
        work[f"torch {form}"] = _rival_run(rival, form)
    runs = interleaved(work, repeats)
    for timing in (*timings, copy):
        timing.runs = runs[timing.name]
    _check_rival(rival, candidates[0].loss)
    return timings, copy


def _rival_run(rival: Torch | None, form: str) -> Callable[[], float]:
    assert rival is not None
    return lambda: rival.run(form)


def _check_rival(rival: Torch | None, loss: float) -> None:
    for form, theirs in rival.losses.items() if rival else ():
        need(
            abs(theirs - loss) <= 1e-5 * max(1.0, abs(loss)),
            f"torch {form} finds a loss of {theirs}, not {loss}: they do not compute the same",
        )
