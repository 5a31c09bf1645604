"""What a solver tells those who listen to it while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Progress:
    """An iteration is done.

    Attributes:
        iteration: its number, from 0.
        loss: mean over the passes of this iteration and, where the definition says average_loss,
            of those before it.
        rate: the learning rate it used.
        outputs: the net's outputs, where the definition's `display` asks for this iteration; else
            empty.
    """

    iteration: int
    loss: float
    rate: float
    outputs: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class TestResult:
    """A test net has run.

    Attributes:
        iteration: how many iterations the parameters have seen.
        number: which of the solver's test nets it was, from 0.
        scores: the mean of each output over the passes.
        weights: the loss weight of those outputs that have one.
        loss: the mean loss, where the definition asks for it by test_compute_loss.
    """

    __test__ = False  # for pytest: it is no test

    iteration: int
    number: int
    scores: Mapping[str, np.ndarray]
    weights: Mapping[str, float]
    loss: float | None


@dataclass(frozen=True)
class SnapshotWritten:
    """A snapshot lies at `path`, the file of its state."""

    iteration: int
    path: Path


Event = Progress | TestResult | SnapshotWritten
