"""The benchmark of the fused softmax loss: against the pair that it replaces, and against numpy.

    fused      softmax log loss on scores: one sweep makes the loss and the gradient
    unfused    softmax, then the log loss of probabilities: what Caffe's users write as two layers

Nothing is timed before its loss and gradient have been compared with float64. The runs of all
candidates take turns, so that a slow moment of the machine meets each of them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

import graphc.ops  # noqa: F401  (enters all operators in the table)
from graphc.bench.contest import by_turns
from graphc.bench.device import loaded
from graphc.bench.work import moved_bytes
from graphc.error import need
from graphc.ir.core.axes import Sum
from graphc.ir.core.elementwise import Times
from graphc.ir.graph import Graph, Value
from graphc.ir.types import TensorType
from graphc.ops.loss import PROBABILITY_FLOOR, MultinomialLogLoss, SoftmaxLogLoss
from graphc.ops.softmax import Softmax
from graphc.passes.pipeline import compile_graph
from graphc.plan.planner import plan
from graphc.plan.program import Program
from graphc.runtime.cpu import Executable

# Largest error of the gradient, as a part of its largest element, that is still right.
GRADIENT_ERROR = 3e-7
LOSS_ERROR = 1e-6
SPREADS = (1.0, 10.0, 100.0, 1e3, 1e4)
# Errors are those of so many examples, or of fewer whose scores are so many: float64 is slow.
ERROR_EXAMPLES = 256
ERROR_SCORES = 1 << 23


@dataclass(frozen=True)
class Size:
    """A problem: scores of shape [batch, classes], or [classes, batch] where the axis is 0."""

    batch: int = 4096
    classes: int = 1000
    axis: int = 1

    def __post_init__(self) -> None:
        need(self.batch >= 1, f"the batch is at least 1, not {self.batch}")
        need(self.classes >= 2, f"there are at least 2 classes, not {self.classes}")
        need(self.axis in (0, 1), f"the axis of the classes is 0 or 1, not {self.axis}")

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the scores."""
        pair = (self.batch, self.classes)
        return pair if self.axis == 1 else (pair[1], pair[0])

    @property
    def bytes(self) -> int:
        """What must move: scores read once, gradient written once, in float32."""
        return 8 * self.batch * self.classes


# Fewer runs have no quartiles that say anything.
QUARTILE_RUNS = 4


@dataclass
class Measured:
    """Seconds of each run, and what the program needs.

    bytes: moved by all steps, each array counted once a step. memory: arena and arrays.
    """

    name: str
    bytes: int
    memory: int
    runs: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """The median."""
        return statistics.median(self.runs)

    @property
    def best(self) -> float:
        """The fastest run."""
        return min(self.runs)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Seconds between which half of the runs lie; twice the median where there are few."""
        if len(self.runs) < QUARTILE_RUNS:
            return self.seconds, self.seconds
        low, _, high = statistics.quantiles(self.runs, n=4)
        return low, high

    @property
    def spread(self) -> float | None:
        """Half of the runs lie within this part of the median; None where there are few."""
        if len(self.runs) < QUARTILE_RUNS:
            return None
        low, high = self.quartiles
        return (high - low) / self.seconds


@dataclass(frozen=True)
class Error:
    """What a way to compute makes of scores with a given spread.

    loss, gradient: errors relative to the largest loss and to the largest element of the gradient;
    nan where the result is not finite. bad: numbers that are nan or infinite. stuck: the part of
    the examples whose label gets no gradient though float64 gives it one.
    """

    spread: float
    name: str
    loss: float
    gradient: float
    bad: int
    stuck: float


def loss_graph(size: Size, form: str) -> Graph:
    """The mean loss of scores `x` for `label`. form: fused, unfused, or unfused without a floor."""
    graph = Graph(f"loss_{form.replace(' ', '_')}")
    x = graph.input("x", TensorType("float32", size.shape))
    label = graph.input("label", TensorType("float32", (size.batch,)))
    each = loss_of(x, label, size.axis, form)
    mean: Value = Times(1 / size.batch)(Sum((0,))(each))
    graph.outputs["loss"] = mean
    graph.losses.append((mean, 1.0))
    return graph


def loss_of(x: Value, label: Value, axis: int, form: str) -> Value:
    """The loss of every example, in one of the FORMS."""
    if form == "fused":
        fused: Value = SoftmaxLogLoss(axis, 0.0)(x, label)
        return fused
    floor = PROBABILITY_FLOOR if form == "unfused" else 0.0
    unfused: Value = MultinomialLogLoss(axis, floor)(Softmax(axis)(x), label)
    return unfused


FORMS = ("fused", "unfused", "unfused, no floor")


class Candidate:
    """A form compiled for a target, with arrays of its own."""

    def __init__(self, size: Size, form: str, threads: int = 1, target: str = "cpu"):
        self.name = form
        self.threads = threads
        made = compile_graph(loss_graph(size, form), wrt=["x"], fuse=False).graph
        self.program: Program = plan(made)
        self.executable: Executable = loaded(self.program, target)
        self.arrays: Mapping[str, np.ndarray] = self.executable.bind_new()
        self.timing = Measured(form, _moved(self.program), _memory(self.program))

    def put(self, x: np.ndarray, label: np.ndarray) -> None:
        """Copy the inputs in."""
        self.arrays["x"][...] = x
        self.arrays["label"][...] = label

    def run(self) -> None:
        """Loss and gradient in one call."""
        self.executable.call("both", self.threads)

    @property
    def loss(self) -> float:
        """The mean loss of the last run."""
        return float(self.arrays["loss"])

    @property
    def gradient(self) -> np.ndarray:
        """The gradient of the scores of the last run, where it lies."""
        return self.arrays["x.diff"]


def _moved(program: Program) -> int:
    return sum(moved_bytes(program, step) for step in program.steps)


def _memory(program: Program) -> int:
    return program.arena_bytes + sum(program.memory.slots.values())


# -- float64 --------------------------------------------------------------------------------------


def exact(x: np.ndarray, label: np.ndarray, axis: int) -> tuple[float, np.ndarray]:
    """The mean loss and its gradient in float64; the arrays are small."""
    scores = x.astype(np.float64)
    shifted = scores - scores.max(axis, keepdims=True)
    mass = np.exp(shifted)
    total = mass.sum(axis, keepdims=True)
    index = np.expand_dims(label.astype(np.int64), axis)
    own = np.take_along_axis(shifted, index, axis)
    loss = float(np.mean(np.log(total) - own))
    gradient = mass / total
    np.put_along_axis(mass, index, 0.0, axis)  # p - 1 without subtracting: minus all the others
    np.put_along_axis(gradient, index, -mass.sum(axis, keepdims=True) / total, axis)
    return loss, gradient / label.size


def draw(size: Size, spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Normally distributed scores times `spread`, and labels."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(size.shape, np.float32) * np.float32(spread)
    return x, rng.integers(0, size.classes, size.batch).astype(np.float32)


def error_of(candidate: Candidate, size: Size, spread: float, seed: int = 0) -> Error:
    """Run a candidate on scores of that spread and compare with float64."""
    x, label = draw(size, spread, seed)
    candidate.put(x, label)
    candidate.run()
    loss, gradient = exact(x, label, size.axis)
    got = candidate.gradient
    bad = int(np.count_nonzero(~np.isfinite(got))) + int(not np.isfinite(candidate.loss))
    with np.errstate(invalid="ignore"):
        loss_error = abs(candidate.loss - loss) / max(1.0, abs(loss))
        gradient_error = float(np.abs(got - gradient).max() / np.abs(gradient).max())
    index = np.expand_dims(label.astype(np.int64), size.axis)
    none = np.take_along_axis(got, index, size.axis) == 0
    some = np.abs(np.take_along_axis(gradient, index, size.axis)) > np.finfo(np.float32).tiny
    stuck = float(np.mean(none & some))
    return Error(spread, candidate.name, loss_error, gradient_error, bad, stuck)


def errors(size: Size, spreads: Sequence[float] = SPREADS, target: str = "cpu") -> list[Error]:
    """The errors of every form at every spread, on some of the examples."""
    few = min(size.batch, ERROR_EXAMPLES, max(1, ERROR_SCORES // size.classes))
    small = Size(few, size.classes, size.axis)
    found = []
    for form in FORMS:
        candidate = Candidate(small, form, target=target)
        found += [error_of(candidate, small, spread) for spread in spreads]
    return found


def check(candidate: Candidate, x: np.ndarray, label: np.ndarray, axis: int) -> float:
    """Compare a candidate with float64 block by block; the largest gradient error it has.

    Raises NetError where that, or the loss's, is more than what is right.
    """
    candidate.put(x, label)
    candidate.run()
    loss = worst = largest = 0.0
    block = max(1, (1 << 22) // x.shape[axis])
    for first in range(0, label.size, block):
        rows = slice(first, first + block)
        part = x[rows] if axis == 1 else x[:, rows]
        found = candidate.gradient[rows] if axis == 1 else candidate.gradient[:, rows]
        count = label[rows].size
        part_loss, part_gradient = exact(part, label[rows], axis)
        loss += part_loss * count / label.size
        part_gradient *= count / label.size
        worst = max(worst, float(np.abs(found - part_gradient).max()))
        largest = max(largest, float(np.abs(part_gradient).max()))
    off = abs(candidate.loss - loss) / max(1.0, abs(loss))
    need(off <= LOSS_ERROR, f"{candidate.name}: the loss is wrong by {off:.1e}")
    need(
        worst <= GRADIENT_ERROR * largest,
        f"{candidate.name}: the gradient is wrong by {worst / largest:.1e} of its largest element",
    )
    return worst / largest


# -- time -----------------------------------------------------------------------------------------


def interleaved(work: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Seconds of so many runs of each piece of work, by turns, after one to warm up.

    A piece of work gives its own seconds: some of them run in another process.
    """
    for run in work.values():
        run()
    return by_turns(work, lambda rounds: rounds < repeats)


def timed(run: Callable[[], object]) -> Callable[[], float]:
    """The work as one that gives its own seconds."""

    def measure() -> float:
        started = time.perf_counter()
        run()
        return time.perf_counter() - started

    return measure
