"""Training as Caffe does it: `graphc.Solver`.

    solver = graphc.Solver("solver.prototxt")
    for images, labels in batches:
        solver.net.set_inputs({"data": images, "label": labels})
        loss = solver.step()
    solver.snapshot()

Where the net's data layers read their own files, all of it is

    graphc.Solver("solver.prototxt").solve()

A snapshot is two files, PREFIX_iter_N.caffemodel and PREFIX_iter_N.solverstate (or .h5 of both),
which Caffe reads, and the other way round.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from graphc.call_arguments import explained
from graphc.error import NetError, NetWarning, need
from graphc.frontends.caffe.definition import NetDefinition
from graphc.frontends.caffe.layer import LAYERS
from graphc.frontends.caffe.solver import SolverDefinition, read_solver
from graphc.frontends.caffe.solverstate import SolverState, read_solverstate, write_solverstate
from graphc.net import Net
from graphc.plan.budget import Memory
from graphc.runtime.cpu import aligned_zeros
from graphc.runtime.parameter_file import is_parameter_file, read_parameters
from graphc.runtime.turn import Turn, one_thread_at_a_time
from graphc.training_event import Event, Progress, SnapshotWritten, TestResult
from graphc.training_net import TrainingNet

_INSTEAD = "make a Solver for each thread; stop() is for any thread"

Feed = Callable[[], Mapping[str, Any]]


class Solver:
    """A solver definition at work.

    Args:
        source: a path of a solver prototxt, or its text (which holds a newline or `{`).
        weights: what the net starts from, as in `graphc.Net`; the definition's own `weights` and
            fillers otherwise.
        keep, threads, memory, dtype, shapes: as in `graphc.Net`.
        fuse, blockwise_loss, infogain_input, target, exact, fast_math, libraries: the same, for
            test nets too.
        net: what to train, in place of the net that the definition names.
        seed: of fillers and dropout, where the definition has no random_seed.
    Attributes:
        net: the net in its training phase; a `graphc.Net` with a `step()` besides.
        test_nets: the nets that it is tested with, which share the parameters of `net`.
        definition: what the text says.
        listeners: functions that are called with each event (graphc.training_event).
    Raises:
        NetError: with everything that is wrong in the definition, or for a wrong argument.
        BudgetError: a NetError, at the first step, where a budget for `memory` is too small.
    """

    @explained
    def __init__(
        self,
        source: str | Path,
        weights: Any = None,
        keep: Iterable[str] = (),
        threads: int | None = None,
        memory: Memory | str = "reuse",
        dtype: str = "float32",
        shapes: Mapping[str, Sequence[int]] | None = None,
        net: NetDefinition | None = None,
        seed: int | None = None,
        fuse: bool = True,
        blockwise_loss: bool = False,
        infogain_input: str = "scores",
        target: str = "cpu",
        exact: bool = False,
        fast_math: Sequence[str] = (),
        libraries: str = "auto",
    ):
        need(
            isinstance(source, (str, PathLike)),
            f"a solver is a path or a text, not {type(source).__name__}",
        )
        self._turn = Turn("Solver", _INSTEAD)
        definition = read_solver(source, layer_types=LAYERS, net=net)
        if definition.seed is None:
            definition = replace(definition, seed=seed)
        self.definition: SolverDefinition = definition
        for warning in self.definition.warnings:
            warnings.warn(str(warning), NetWarning, stacklevel=2)
        shared: dict[str, Any] = {
            "threads": threads,
            "dtype": dtype,
            "fuse": fuse,
            "blockwise_loss": blockwise_loss,
            "infogain_input": infogain_input,
            "target": target,
            "exact": exact,
            "fast_math": fast_math,
            "libraries": libraries,
        }
        named: list[Any] = [definition.folder / name for name in definition.weights]
        first, *others = [weights] if weights is not None else named or [None]
        self.net = TrainingNet(
            self.definition, weights=first, keep=keep, memory=memory, shapes=shapes, **shared
        )
        for path in others:
            self.net.copy_from(path)
        self.net._advance = self.step
        self.test_nets = [self._test_net(test.net, shared) for test in self.definition.tests]
        self.listeners: list[Callable[[Event], None]] = []
        self._losses: deque[float] = deque(maxlen=self.definition.average_loss)
        self._stop = False
        self._iteration = 0
        self._rate_steps = 0  # how often the rate has been lowered, for multistep

    @property
    def iter(self) -> int:
        """Iterations done."""
        return self._iteration

    @property
    def learning_rate(self) -> float:
        """The rate of the next iteration. Raises NetError where the policy has none."""
        return self._next_rate()[0]

    @property
    def smoothed_loss(self) -> float:
        """The mean loss of the last iterations, as many as average_loss says; nan before any."""
        return float(np.mean(self._losses)) if self._losses else math.nan

    @one_thread_at_a_time
    def step(self, n: int = 1, feed: Feed | None = None) -> float:
        """Run `n` iterations, each on what the net's inputs hold or its data layers bring.

        Tests and snapshots come in between, as the definition says.

        Args:
            feed: called before each forward pass (iter_size times an iteration) for the values of
                net inputs by name.
        Returns:
            The loss of the last iteration, before its update; the mean of its passes.
        Raises:
            NetError: for another `n`; where the policy has no rate for an iteration, or `feed` or
                a data layer brings what does not fit; where a snapshot cannot be written.
            BudgetError: a NetError, where the budget for `memory` cannot be met.
        """
        whole = isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n >= 0
        need(whole, f"the number of iterations is a whole number of at least 0, not {n!r}")
        try:
            return self._run(n, feed)
        finally:
            self._stop = False

    @one_thread_at_a_time
    def solve(
        self,
        resume: str | Path | None = None,
        feed: Feed | None = None,
        until: int | None = None,
    ) -> float:
        """Train to the end: up to max_iter, then a snapshot and a test where they are due.

        Args:
            resume: a snapshot to go on from.
            feed: as for `step`.
            until: the number of iterations to be done in the end, in place of max_iter.
        Returns:
            The smoothed loss of the last iterations.
        Raises:
            NetError: where the definition has no max_iter and `until` is None; as `restore` and
                `step` do.
        """
        definition = self.definition
        if resume is not None:
            self.restore(resume)
        last = definition.max_iter if until is None else until
        if last == 0:
            raise NetError("the solver has no max_iter to train up to", definition.message.span)
        try:
            self._run(max(0, last - self._iteration), feed)
        finally:
            stopped, self._stop = self._stop, False
        written = definition.snapshot and self._iteration % definition.snapshot == 0
        if definition.snapshot_at_end and (not written or stopped):
            self.snapshot()
        if stopped:
            return self.smoothed_loss
        if definition.display and self._iteration % definition.display == 0:
            self._show_once_more(feed)
        if self._is_test_due():
            self.test_all()
        return self.smoothed_loss

    def stop(self) -> None:
        """Let `step` or `solve`, which runs in another thread or was interrupted, end soon.

        The iteration at work is finished; `solve` then writes its snapshot.
        """
        self._stop = True

    @one_thread_at_a_time
    def test_all(self) -> list[TestResult]:
        """Run every test net, in the definition's order; see `test`."""
        return [self.test(number) for number in range(len(self.test_nets))]

    @one_thread_at_a_time
    def test(self, number: int = 0) -> TestResult:
        """Run a test net as often as its test_iter says; the mean of each of its outputs.

        Raises NetError where there is no test net of that number, counted from 0.
        """
        need(
            isinstance(number, (int, np.integer)) and 0 <= number < len(self.test_nets),
            f"there are {len(self.test_nets)} test nets; there is none of number {number!r}",
        )
        net, passes = self.test_nets[number], self.definition.tests[number].passes
        net.prepare(wrt=())  # nothing is kept for a backward pass
        sums: dict[str, np.ndarray] = {}
        loss, done = 0.0, 0
        while done < passes and not self._stop:
            for name, array in net.forward().items():
                sums[name] = sums.get(name, 0.0) + np.asarray(array, np.float64)
            loss += net.loss
            done += 1
        scores = {name: np.asarray(total / done) for name, total in sums.items()}
        mean = loss / done if done and self.definition.test_loss else None
        weights = net.front().loss_weights
        result = TestResult(self._iteration, number, scores, weights, mean)
        if done == passes:
            self._tell(result)
        return result

    @one_thread_at_a_time
    def snapshot(self) -> Path:
        """Write the parameters and the solver's state; returns the path of the state.

        Each file is written beside its place and renamed, the state last: whenever the process is
        killed, every file under its final name is whole, and so is what a state names. Raises
        NetError where one cannot be written.
        """
        learned = self._snapshot_name("caffemodel")
        path = self.snapshot_path()
        self.net.save(self.definition.folder / learned)
        histories = self.net.histories()
        write_solverstate(path, SolverState(self.iter, learned, self._rate_steps, histories))
        self._tell(SnapshotWritten(self.iter, path))
        return path

    def snapshot_path(self) -> Path:
        """Where the state of a snapshot made now goes."""
        return self.definition.folder / self._snapshot_name("solverstate")

    def _snapshot_name(self, kind: str) -> str:
        suffix = ".h5" if self.definition.hdf5 else ""
        return f"{self.definition.snapshot_prefix}_iter_{self._iteration}.{kind}{suffix}"

    @one_thread_at_a_time
    def restore(self, path: str | Path) -> None:
        """Go on from a snapshot: a .solverstate or .solverstate.h5, by Caffe or by graphc.

        Or from the .weights file that a compiled step of training (`graphc compile --solver`) has
        written; it holds all that is needed.
        The weight file that it names is looked for beside it, then where its name leads from the
        solver's folder and from the working folder. Raises NetError, and changes nothing, where
        something is missing or belongs to another net or method.
        """
        need(isinstance(path, (str, PathLike)), f"a path is needed, not {type(path).__name__}")
        if is_parameter_file(path):
            self._restore_compiled(Path(path))
            return
        state = read_solverstate(path)
        histories = self.net.histories()
        if len(state.history) != len(histories):
            raise NetError(
                f"'{path}' holds {len(state.history)} histories; {self.definition.method} needs"
                f" {len(histories)} for this net: is it the state of another solver?"
            )
        for number, (held, new) in enumerate(zip(histories, state.history, strict=True)):
            if _trimmed(held.shape) != _trimmed(new.shape):
                raise NetError(
                    f"history {number} in '{path}' has shape {list(new.shape)},"
                    f" this net's has {list(held.shape)}"
                )
        if state.learned_net:
            self.net.copy_from(self._weight_file(Path(path), state.learned_net))
        for held, new in zip(histories, state.history, strict=True):
            held[...] = new.reshape(held.shape)
        self._iteration = state.iteration
        self._rate_steps = state.current_step
        self.net.continue_random_numbers(state.iteration * self.definition.iter_size)

    # -- inside -----------------------------------------------------------------------------

    def _restore_compiled(self, path: Path) -> None:
        """Go on from what a compiled step has written."""
        stored = read_parameters(path)
        need(
            stored.passes == 0,
            f"'{path}' was written between the passes of an iteration; save after all"
            f" {self.definition.iter_size}",
        )
        arrays = self.net.arrays
        held = self.net.values()
        for name in self.net.lasting():
            found = stored.arrays.get(name)
            if found is None or found.shape != held[name].shape:
                shape = "nothing" if found is None else f"shape {list(found.shape)}"
                raise NetError(
                    f"'{path}' holds {shape} for '{name}', {list(held[name].shape)} is needed: is"
                    " it of another net or method?"
                )
        self.net.copy_from(path)
        for name in stored.states:
            if name not in arrays.parameters and not name.endswith(".diff"):
                found = stored.arrays[name]
                state = arrays.states.get(name)
                if state is None or state.shape != found.shape:
                    state = arrays.states[name] = aligned_zeros(found.shape, str(found.dtype))
                state[...] = found
        self._iteration = stored.iteration
        self._rate_steps = self.definition.rates.steps_before(stored.iteration)

    def _test_net(self, definition: NetDefinition, options: Mapping[str, Any]) -> Net:
        made = Net(definition, phase=definition.phase, **options)
        made.share_with(self.net)
        return made

    def _run(self, n: int, feed: Feed | None) -> float:
        """Iterations with the tests before them, until `stop`; the loss of the last one."""
        self._losses.clear()
        loss = 0.0
        for _ in range(n):
            if self._is_test_due() and (self._iteration or self.definition.test_initialization):
                self.test_all()
            if self._stop:
                break
            loss = self._iterate(feed)
        return loss

    def _is_test_due(self) -> bool:
        every = self.definition.test_interval
        return bool(every) and self._iteration % every == 0

    def _tell(self, event: Event) -> None:
        for listener in self.listeners:
            listener(event)

    def _show_once_more(self, feed: Feed | None) -> None:
        """What the parameters at the end make of one more batch, as Caffe shows it."""
        self.net.set_inputs(feed() if feed is not None else {})
        outputs = self.net.look()
        self._losses.append(self.net.loss)
        self._tell(Progress(self._iteration, self.smoothed_loss, self.learning_rate, outputs))

    def _next_rate(self) -> tuple[float, int]:
        self.definition.need_steps()
        return self.definition.rates.at(self._iteration, self._rate_steps)

    def _iterate(self, feed: Feed | None) -> float:
        rate, steps = self._next_rate()
        passes = self.definition.iter_size
        total = 0.0
        for number in range(passes):
            if feed is not None:
                self.net.set_inputs(feed())
            if number < passes - 1:
                self.net.add_gradients(first=number == 0)
            else:
                self._update(rate, steps)
            total += self.net.loss
        self._losses.append(total / passes)
        self._report(rate)
        every = self.definition.snapshot
        if every and self._iteration % every == 0:
            self.snapshot()
        return total / passes

    def _update(self, rate: float, steps: int) -> None:
        """Change the parameters and count the iteration, which control-C may not part."""
        done = self.net.updates
        try:
            self.net.update(rate, self._iteration)
        finally:
            if self.net.updates > done:
                self._rate_steps = steps
                self._iteration += 1

    def _report(self, rate: float) -> None:
        """Tell of the iteration that was just counted."""
        if self.listeners:
            number = self._iteration - 1
            shown = self.definition.display and number % self.definition.display == 0
            names = self.net.outputs if shown else ()
            outputs = {name: np.array(self.net.blobs[name].data) for name in names}
            self._tell(Progress(number, self.smoothed_loss, rate, outputs))

    def _weight_file(self, state: Path, name: str) -> Path:
        tried = [state.parent / Path(name).name, self.definition.folder / name, Path(name)]
        for path in tried:
            if path.is_file():
                return path
        raise NetError(f"'{state}' needs its weight file '{name}', which is not there")


def _trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape without leading ones, which old files add."""
    extents = list(shape)
    while extents and extents[0] == 1:
        extents.pop(0)
    return tuple(extents)
