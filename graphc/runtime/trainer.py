"""Steps of training from a bundle: `graphc.load` of what `graphc compile --solver` has made."""

from __future__ import annotations

import math
from pathlib import Path
from typing import BinaryIO

import numpy as np

from graphc.error import need
from graphc.runtime.bundle import Bundle, Training
from graphc.runtime.cpu import Executable, refuse_nan
from graphc.runtime.parameter_file import write_parameters
from graphc.runtime.turn import Turn, one_at_a_time
from graphc.whole_file import write_whole


class Trainer:
    """A compiled step of training, with the calls of its C header; it needs no compiler.

        trainer = graphc.load("net.bundle")
        trainer.arrays["data"][...] = images
        loss = trainer.step()

    It changes the same bits as `graphc.Solver` and goes on from where that was.

    Attributes:
        bundle: what it was made of; bundle.training says more about the solver.
        arrays: inputs, outputs, parameters and the solver's state by name; inputs are written, and
            parameters may be.
        iteration: iterations done; it can be set, to go on elsewhere.
    """

    def __init__(
        self,
        whole: Executable,
        training: Training,
        earlier: Executable | None,
        iteration: int = 0,
        passes: int = 0,
    ):
        """`earlier` runs all passes of an iteration but the last; `passes` of one are done."""
        assert isinstance(whole.bundle, Bundle)
        self.bundle: Bundle = whole.bundle
        self.arrays = whole.arrays
        self._whole = whole
        self._turn = Turn("Trainer", "load the bundle once for each thread")
        self._training = training
        self._earlier = earlier
        self._iteration = iteration
        self._passes = passes if passes < training.passes else 0
        if earlier is not None:
            earlier.share_memory(whole)
        roles = {slot.name: slot.role for slot in self.bundle.slots}
        self._inputs = {n: a for n, a in self.arrays.items() if roles[n] == "input"}

    @property
    def iteration(self) -> int:
        """Iterations done."""
        return self._iteration

    @iteration.setter
    def iteration(self, value: int) -> None:
        need(value >= 0, f"a number of iterations is at least 0, not {value}")
        self._iteration = value
        self._passes = 0

    @property
    def learning_rate(self) -> float:
        """The rate of the next change. Raises NetError where the policy has none."""
        rates = self._training.rates
        return rates.at(self._iteration, rates.steps_before(self._iteration))[0]

    @property
    def loss(self) -> float:
        """The loss of the last pass, before its change."""
        rows = self.bundle.losses
        return sum((w * float(self.arrays[name].sum(dtype=np.float64)) for name, w in rows), 0.0)

    @one_at_a_time
    def step(self, threads: int = 1) -> float:
        """One pass, on what the inputs hold; its loss.

        Forward, backward and, in every call of number `bundle.training.passes` (iter_size), the
        change of the parameters by the gradients of all passes since the last. Raises NetError for
        nan, a label out of range, or an iteration without a rate: nothing is changed then, and the
        next call begins the iteration again.
        """
        training = self._training
        rate = self.learning_rate
        states = {name: np.array(self.arrays[name]) for name in self.bundle.renewed}
        is_last = self._passes == training.passes - 1
        called = self._whole if is_last or self._earlier is None else self._earlier
        called.await_end()
        try:
            refuse_nan(self._inputs)
            if called is self._whole:
                self._set_rate(rate)
            else:
                self._clear_sums()
            called.call("both", threads)
        finally:  # control-C is raised behind the call, and finds it counted
            if called.has_ended:
                self._passes = 0 if is_last else self._passes + 1
                self._iteration += is_last
            else:
                self._passes = 0
                for name, array in states.items():
                    self.arrays[name][...] = array
        return self.loss

    @one_at_a_time
    def save(self, path: str | Path) -> None:
        """Write all that training needs to go on, whole or not at all.

        It is a weights file: for this net's compiled forms, for `graphc.Solver.restore` and, as
        weights, for `graphc.Net`. Raises NetError where it cannot be written.
        """

        def fill(file: BinaryIO) -> None:
            slots = self.bundle.slots
            write_parameters(file, slots, self.arrays, self._iteration, self._passes)

        write_whole(path, fill)

    # -- inside -----------------------------------------------------------------------------

    def _set_rate(self, rate: float) -> None:
        """Adam's is corrected, as `graphc.Solver` does it."""
        correction = 1.0
        if self._training.momenta is not None:
            one, two = self._training.momenta
            t = self._iteration + 1
            correction = math.sqrt(1 - two**t) / (1 - one**t)
        if self._training.rate in self.arrays:  # not where nothing learns
            self.arrays[self._training.rate][...] = rate * correction

    def _clear_sums(self) -> None:
        """The first pass starts the sums of gradients afresh."""
        for name in self._training.sums if self._passes == 0 else ():
            self.arrays[name][...] = 0
