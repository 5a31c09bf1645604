"""`graphc train`: a solver definition, from the first iteration to the last."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphc.cli.options import (
    ExactOption,
    FastMathOption,
    JsonOption,
    LibrariesName,
    LibrariesOption,
    MemoryOption,
    RunTargetName,
    RunTargetOption,
    ThreadsOption,
    fast_math_words,
)
from graphc.cli.report import need_writable, note, print_json, progress, say, shown_seconds
from graphc.error import NetError

if TYPE_CHECKING:
    import numpy as np

    from graphc.solver import Solver
    from graphc.training_event import Event, Progress, TestResult

_STOPS = (signal.SIGINT, signal.SIGTERM)
_MOST_NUMBERS = 10  # of an output, on a line


def train(
    solver: Annotated[str, typer.Argument(metavar="SOLVER", help="A solver's prototxt.")],
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|random:SEED",
            help="Start from a .caffemodel. Else as the definition says.",
        ),
    ] = None,
    snapshot: Annotated[
        str | None, typer.Option(metavar="STATE", help="Go on from a .solverstate.")
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="So many, in place of up to max_iter.")
    ] = None,
    memory: MemoryOption = "reuse",
    threads: ThreadsOption = None,
    exact: ExactOption = False,
    fast_math: FastMathOption = None,
    target: RunTargetOption = RunTargetName.cpu,
    libraries: LibrariesOption = LibrariesName.auto,
    json: JsonOption = False,
) -> None:
    """Train a net on what its data layers read, as the solver says.

    Tests and snapshots come as defined. SIGINT (control-C) or SIGTERM ends it after the iteration
    at work, with a snapshot to go on from; a second one ends it at once.
    """
    from graphc.frontends.caffe.layer import LAYERS
    from graphc.frontends.caffe.solver import read_solver
    from graphc.solver import Solver

    if weights and snapshot:
        raise typer.BadParameter("go on from a --snapshot or start from --weights, not both")
    read_solver(solver, layer_types=LAYERS).need_steps()
    made = Solver(
        solver,
        weights=weights,
        threads=threads,
        memory=memory,
        target=target.value,
        exact=exact,
        fast_math=fast_math_words(exact, fast_math),
        libraries=libraries.value,
    )
    _need_data(made)
    need_writable(str(made.snapshot_path()))
    if snapshot:
        made.restore(snapshot)
    first = made.iter
    last = made.definition.max_iter if iterations is None else first + iterations
    report = _Report(as_json=json)
    started = time.perf_counter()
    with _stopping(made) as stopped_by, progress("training") as step:
        made.listeners += [report.note, lambda event: step(made.iter - first, last - first, "")]
        made.solve(until=last)
        if stopped_by and report.snapshots[-1:] != [str(made.snapshot_path())]:
            made.snapshot()
    seconds = time.perf_counter() - started
    loss = made.smoothed_loss if made.iter > first else None
    report.end(made.iter, loss, stopped_by, seconds)


def _need_data(solver: Solver) -> None:
    """Raise NetError where nothing gives an input its values."""
    for net in (solver.net, *solver.test_nets):
        idle = [name for name in net.inputs if name not in net.feeds.tops]
        if idle:
            raise NetError(
                f"nothing gives values for '{idle[0]}' in phase {net.definition.phase}: the command"
                " trains nets whose data layers find their files; graphc.Solver in Python takes"
                " arrays"
            )


@contextlib.contextmanager
def _stopping(solver: Solver) -> Iterator[list[str]]:
    """The first signal stops the solver, and its name is in the list; the second ends us."""
    names: list[str] = []

    def stop(number: int, frame: object) -> None:
        names.append(signal.Signals(number).name)
        solver.stop()
        for one, former in before.items():
            signal.signal(one, former)

    before: dict[signal.Signals, Any] = {one: signal.signal(one, stop) for one in _STOPS}
    try:
        yield names
    finally:
        for one, former in before.items():
            signal.signal(one, former)


@dataclass
class _Report:
    """Prints events as they come, and keeps those that JSON tells in the end."""

    as_json: bool
    tests: list[dict[str, Any]] = field(default_factory=list)
    snapshots: list[str] = field(default_factory=list)
    has_warned: bool = False

    def note(self, event: Event) -> None:
        """One event of the solver's."""
        from graphc.training_event import Progress, SnapshotWritten, TestResult

        if isinstance(event, Progress):
            self._progress(event)
        elif isinstance(event, TestResult):
            self._test(event)
        elif isinstance(event, SnapshotWritten):
            self.snapshots.append(str(event.path))
            self._print(lambda: f"snapshot {event.path}")

    def _progress(self, event: Progress) -> None:
        if not math.isfinite(event.loss) and not self.has_warned:
            self.has_warned = True
            note(f"warning: the loss is {event.loss} at iteration {event.iteration}")
        if event.outputs:
            self._print(
                lambda: (
                    f"iteration {event.iteration}  loss {event.loss:.6g}"
                    f"  rate {event.rate:.6g}  {_shown(event.outputs)}"
                )
            )

    def _test(self, event: TestResult) -> None:
        self.tests.append(
            {
                "iteration": event.iteration,
                "net": event.number,
                "scores": {name: array.tolist() for name, array in event.scores.items()},
                "loss": event.loss,
            }
        )
        loss = "" if event.loss is None else f"  loss {event.loss:.6g}"
        self._print(
            lambda: (
                f"test {event.number} at iteration {event.iteration}{loss}  {_shown(event.scores)}"
            )
        )

    def end(
        self, iterations: int, loss: float | None, stopped_by: list[str], seconds: float
    ) -> None:
        """The last line, or all as JSON. `loss`: None where no iteration was run."""
        if self.as_json:
            print_json(
                {
                    "iterations": iterations,
                    "loss": loss,
                    "stopped": bool(stopped_by),
                    "tests": self.tests,
                    "snapshots": self.snapshots,
                    "seconds": seconds,
                }
            )
            return
        how = f"stopped by {stopped_by[0]} after" if stopped_by else "trained"
        shown = "" if loss is None else f", loss {loss:.6g}"
        say(f"{how} {iterations} iterations in {shown_seconds(seconds)}{shown}")

    def _print(self, line: Callable[[], str]) -> None:
        if not self.as_json:
            say(line())


def _shown(arrays: Mapping[str, np.ndarray]) -> str:
    """`accuracy 0.98  loss 0.05`; of long outputs the first numbers."""
    parts = []
    for name, array in arrays.items():
        numbers = array.reshape(-1)
        more = " ..." if numbers.size > _MOST_NUMBERS else ""
        parts.append(f"{name} {' '.join(f'{x:.6g}' for x in numbers[:_MOST_NUMBERS])}{more}")
    return "  ".join(parts)
