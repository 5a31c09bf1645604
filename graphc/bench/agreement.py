"""Whether a rival computes what we compute: before that is known nothing is timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from graphc.error import NetError

if TYPE_CHECKING:
    from graphc.bench.net import Call

Results = Mapping[str, np.ndarray]

# The norm of a difference, as a part of the norm of the result. A ReLU whose input is 0 but for
# rounding, or a maximum with a near tie, switches a whole element of a gradient: among n elements
# that changes the norm by about 1 / sqrt(n).
TOLERANCE = 1e-4
GRADIENT_TOLERANCE = 1e-2
TF32_FACTOR = 50  # where we multiply numbers of 10 bits, and the rival is checked with 23
# In a deep net so many elements switch that two right float32 results are further apart than that.
# Then both are held against the rival's float64 result. Errors of this many times the rival's
# would take four times as many switched elements.
SWITCHED = 2.0


def disagreement(call: Call, theirs: Results, exact: Callable[[], Results] | None = None) -> float:
    """The largest relative difference of any result, in the 2-norm.

    exact: makes the float64 results, which decide where a difference is large. Raises NetError
    past TOLERANCE, of gradients past GRADIENT_TOLERANCE, where our result is also more than
    SWITCHED times as far from the exact one as theirs. Runs the call once, with its states as
    they are; they are put back afterwards.
    """
    arrays = call.executable.arrays
    states = [s.name for s in call.executable.bundle.slots if s.role == "state"]
    before = {name: arrays[name].copy() for name in states}
    call.run()
    worst = 0.0
    wrong = ""
    for key, other in theirs.items():
        own = _result(arrays, key, states, before)
        if own is None:
            continue
        error = relative_difference(own, other)
        allowed = GRADIENT_TOLERANCE if key.endswith(".diff") else TOLERANCE
        allowed *= TF32_FACTOR if call.tf32 else 1
        if not error <= allowed and not wrong:
            wrong = _verdict(key, own, other, exact() if exact else {}, allowed)
        worst = max(worst, error)
    for key, values in before.items():
        arrays[key][...] = values
    if wrong:
        raise NetError(wrong)
    return worst


def _verdict(key: str, own: np.ndarray, other: np.ndarray, exact: Results, allowed: float) -> str:
    """What is wrong with a result that differs by more than is allowed; "": torch errs as much."""
    said = (
        f"torch and graphc disagree on '{key}': the relative difference is"
        f" {relative_difference(own, other):.2g}, more than {allowed:g}"
    )
    if key in exact:
        ours, theirs = (relative_difference(exact[key], found) for found in (own, other))
        if ours <= SWITCHED * theirs:
            return ""
        said += f" (from a float64 result graphc's is {ours:.2g} away, torch's {theirs:.2g})"
    return f"{said}; nothing was timed"


def _result(arrays: Results, key: str, states: Sequence[str], before: Results) -> np.ndarray | None:
    """A result of the call; of a gradient that adds up, what this call has added."""
    found = arrays.get(f"{key}~out", arrays.get(key))
    return found - before[key] if found is not None and key in states else found


def relative_difference(own: np.ndarray, other: np.ndarray) -> float:
    """The norm of the difference, as a part of the norm of `own`."""
    exact = own.astype(np.float64)
    difference = float(np.linalg.norm(exact - other))
    size = float(np.linalg.norm(exact))
    return difference / size if size else difference
