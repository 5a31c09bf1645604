"""A step run both ways on memory of its own: do the results agree, and which way is faster?

The memory holds random numbers, at the alignment that the arguments have in the program, so that a
trial neither waits for a user's data nor changes any.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphc.runtime.cuda_graph import GraphCapture
from graphc.runtime.launch import LIBRARY_MEMORY, Launch, LibraryStep, Reference

ALIGNMENT = 256  # bytes; what the driver allocates is aligned to it
# The largest difference of results, as a part of the largest number. Both ways add up float32 in
# different orders; tensor cores round each factor to 10 bits after the point as well.
TOLERANCES = {"float32": 5e-5, "tf32": 4e-3, "float64": 1e-12}
ENOUGH_SECONDS = 0.005  # of the runs between two looks at the clock
MOST_RUNS = 20
LOOKS = 5
_BLOCK = 2**18 + 7  # random numbers that repeat

Issue = Callable[[], None]
Start = Callable[[Launch, Sequence[int]], None]


def rounded_up(size: int) -> int:
    """Bytes up to the next array in memory that several share."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def run_library(
    step: LibraryStep,
    prepared: Any,
    start: Start,
    arguments: Sequence[int],
    memory: int,
    stream: int,
) -> None:
    """Put a library step on a stream. memory: its own arrays and, behind them, the workspace."""

    def address(reference: Reference) -> int:
        own = reference.argument == LIBRARY_MEMORY
        return (memory if own else arguments[reference.argument]) + reference.offset

    for beside in step.before:
        start(beside.launch, [address(reference) for reference in beside.arguments])
    workspace = memory + rounded_up(step.memory_bytes)
    prepared.run([address(reference) for reference in step.operands], workspace, stream)
    if step.after is not None:
        start(step.after.launch, [address(reference) for reference in step.after.arguments])


class Trial:
    """A step's arguments on memory of their own. Raises what the driver raises: it may have none.

    offsets: where each argument begins in the program. room: bytes of workspace.
    """

    def __init__(
        self, driver: Any, step: LibraryStep, launch: Launch, offsets: Sequence[int], room: int
    ):
        self._driver, self._step, self._inputs = driver, step, launch.inputs
        sizes = [rounded_up(a.bytes + ALIGNMENT) for a in step.arguments]
        begins = list(itertools.accumulate(sizes, initial=0))
        self._block = driver.mem_alloc(begins[-1] + rounded_up(step.memory_bytes) + room + 1)
        base = int(self._block)
        self.arguments = [
            base + begin + offset % ALIGNMENT
            for begin, offset in zip(begins, offsets, strict=False)
        ]
        self.memory = base + begins[-1]
        self._fill(range(len(step.arguments)))

    def _fill(self, places: range) -> None:
        """Random numbers, the same at each call; whole numbers are 0."""
        for place in places:
            argument = self._step.arguments[place]
            if not argument.bytes:
                continue
            if argument.dtype in ("float32", "float64"):
                count = argument.bytes // np.dtype(argument.dtype).itemsize
                numbers = np.resize(np.roll(_random(argument.dtype), 31 * place), count)
                self._driver.memcpy_htod(self.arguments[place], numbers)
            else:
                self._driver.memset_d8(self.arguments[place], 0, argument.bytes)

    def results(self, issue: Issue) -> list[np.ndarray]:
        """What a run leaves in the outputs."""
        outputs = range(self._inputs, len(self._step.arguments))
        self._fill(outputs)
        issue()
        found = []
        for place in outputs:
            argument = self._step.arguments[place]
            count = argument.bytes // np.dtype(argument.dtype).itemsize
            array = np.empty(count, argument.dtype)
            if count:
                self._driver.memcpy_dtoh(array, self.arguments[place])
            found.append(array)
        return found

    def seconds(self, stream: Any, issue: Issue) -> float:
        """The time of a run on the GPU, its clock being read around several."""
        runs = min(MOST_RUNS, max(1, int(ENOUGH_SECONDS / max(self._look(stream, issue), 1e-9))))

        def several() -> None:
            for _ in range(runs):
                issue()

        graphs = GraphCapture(stream)
        spent = [self._look(stream, lambda: graphs.run("runs", several)) for _ in range(LOOKS)]
        graphs.forget()
        return min(spent) / runs

    def _look(self, stream: Any, issue: Issue) -> float:
        begin, end = self._driver.Event(), self._driver.Event()
        begin.record(stream)
        issue()
        end.record(stream)
        stream.synchronize()
        return float(begin.time_till(end)) / 1e3


def difference(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
    """The largest, as a part of the largest number of its array; infinite where nans differ."""
    worst = 0.0
    for a, b in zip(one, other, strict=True):
        finite = np.isfinite(a)
        if not np.array_equal(a[~finite], b[~finite], equal_nan=a.dtype.kind == "f"):
            return float("inf")
        gap = np.abs(np.subtract(a[finite], b[finite], dtype=np.float64)).max(initial=0)
        worst = max(worst, float(gap) / max(float(np.abs(a[finite]).max(initial=0)), 1e-30))
        if np.isnan(worst):
            return float("inf")
    return worst


@functools.cache
def _random(dtype: str) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(_BLOCK).astype(dtype)
