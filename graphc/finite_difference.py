"""Gradients against finite differences: is it the derivative of what is computed?

The number that is derived is the sum of a function's results, each multiplied with a coefficient.
An element x is moved by h both ways, everything in float64:

    slope = (f(x + h) - f(x - h)) / 2h

Where that disagrees with the gradient, half the step decides: at a kink nearby (ReLU, maximum) the
two slopes differ, or the slopes to either side do; then nothing can be said about the element. What
a disagreement looks like, in words, is said by `graphc.verdict`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, Protocol

import numpy as np

from graphc.error import NetError
from graphc.verdict import NOT_DIFFERENTIABLE, verdict

Arrays = dict[str, np.ndarray]
Status = Literal["right", "wrong", "not smooth", "not differentiable", "no gradient"]

_ORACLES = {"gradient": "finite differences give", "value": "the reference gives"}
WHOLE_NET = "(whole net)"
STEP = 1e-5  # relative to the typical element of an array
_ROUNDINGS = 16  # roundings, each of one unit in the last place, that an output may have seen
_DIRECTIONS = 3  # random lines along which a function without slopes is searched for jumps
_HALVINGS = 40
_FAR = 8.0  # how far a line goes, in typical elements of the array


@dataclass(frozen=True)
class Finding:
    """What the check found about one array.

    Attributes:
        layer: the layer that was run, or WHOLE_NET.
        name: the input, blob or parameter that was moved; shape: its extents.
        status: "right", "wrong", "not differentiable" (it changes in jumps alone), "not
            smooth" (a kink is near every element) or "no gradient".
        checked, rough: how many elements were compared, and at how many more a kink is near.
        worst: the index of the largest error among those compared; `gradient` and `difference` are
            the two numbers there, `error` their distance relative to the larger one, or to a
            thousandth of the array's largest gradient where both are smaller.
        reason: why there is no gradient.
        words: what is wrong, as in `2.0 times too small everywhere`.
        what: of a "value" the numbers compared are what a kernel made and what its reference says.
    """

    layer: str
    name: str
    shape: tuple[int, ...]
    status: Status
    checked: int = 0
    rough: int = 0
    worst: tuple[int, ...] | None = None
    gradient: float = 0.0
    difference: float = 0.0
    error: float = 0.0
    reason: str = ""
    words: str = ""
    what: Literal["gradient", "value"] = "gradient"

    @property
    def failed(self) -> bool:
        """Whether something is wrong."""
        return self.status in ("wrong", "not differentiable")

    def __str__(self) -> str:
        subject = f"{self.layer}: the {self.what} of {self.name}"
        if self.status == "no gradient":
            return f"{subject} does not exist" + (f": {self.reason}" if self.reason else "")
        if self.status == "not smooth":
            return f"{subject} was not compared: a kink is near every element"
        if self.status == "right":
            return f"{subject} is right"
        if self.worst is None or self.status == "not differentiable":
            return f"{subject} is {self.words}"
        index = ", ".join(map(str, self.worst))
        return (
            f"{subject} is {self.words}; at [{index}] it is {self.gradient:.9g},"
            f" {_ORACLES[self.what]} {self.difference:.9g} (relative error {self.error:.1e})"
        )


@dataclass(frozen=True)
class Sampling:
    """How much is checked: elements of each array, their choice, and the relative error allowed."""

    elements: int = 12
    tolerance: float = 1e-5
    seed: int = 0
    threads: int = 1


class Function(Protocol):
    """Something that is computed from arrays, with gradients.

    Attributes:
        coefficients: what each of its results is multiplied with.
    """

    coefficients: Arrays

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """What it reads, float64; what is written into them counts in the next call."""

    def forward(self) -> Arrays:
        """The results that `coefficients` name, always with the same random numbers."""

    def gradients(self, names: Sequence[str]) -> Arrays:
        """The gradients of the sum of coefficients times results."""

    def why_none(self, name: str) -> str:
        """Why there is no gradient for `name`; nothing where there is one."""


def check_function(
    function: Function, layer: str, names: Sequence[str], sampling: Sampling
) -> list[Finding]:
    """Compare the gradients of the arrays `names`; findings carry the name `layer`."""
    if not names or not function.coefficients:
        return []
    gradients = function.gradients(names)
    findings = []
    for number, name in enumerate(names):
        reason = function.why_none(name)
        shape = gradients[name].shape
        if reason or name not in function.arrays:
            findings.append(Finding(layer, name, shape, "no gradient", reason=reason))
            continue
        rng = np.random.default_rng([sampling.seed, number])
        findings.append(_check_array(function, layer, name, gradients[name], rng, sampling))
    return findings


@dataclass(frozen=True)
class _Slope:
    """A difference quotient over 2h: the whole, and how much of it rounding may have made."""

    slope: float
    noise: float


def _check_array(
    function: Function,
    layer: str,
    name: str,
    gradient: np.ndarray,
    rng: np.random.Generator,
    sampling: Sampling,
) -> Finding:
    size = gradient.size
    if size == 0:
        return Finding(layer, name, gradient.shape, "right")
    chosen = rng.choice(size, min(sampling.elements, size), replace=False)
    flat = gradient.reshape(-1)
    chosen = np.unique([*chosen, int(np.abs(flat).argmax())])
    noise = _smallest_gradient(function, name)
    floor = max(1e-3 * float(np.abs(flat).max()), noise / max(sampling.tolerance, 1e-12))
    best = Finding(layer, name, gradient.shape, "right")
    pairs: list[tuple[float, float]] = []
    places: list[tuple[int, ...]] = []
    largest = (-1.0, -1.0)
    for index in chosen:
        found = _compare(function, name, int(index), float(flat[index]), floor, sampling)
        if found is None:
            continue
        compared_to, distance = found
        pairs.append((float(flat[index]), compared_to))
        where = tuple(int(i) for i in np.unravel_index(int(index), gradient.shape))
        places.append(where)
        if distance > largest:
            largest = distance
            best = replace(
                best,
                worst=where,
                gradient=float(flat[index]),
                difference=compared_to,
                error=distance[1],
            )
    best = replace(best, checked=len(pairs), rough=len(chosen) - len(pairs))
    if not pairs:
        return replace(best, status="not smooth")
    if not any(slope for _, slope in pairs) and _has_jumps(function, name, rng):
        return replace(best, status="not differentiable", words=NOT_DIFFERENTIABLE)
    if largest[0] <= sampling.tolerance:
        return best
    words = verdict(pairs, floor, sampling.tolerance, places)
    if words.startswith("wrong") and _is_transposed(gradient, pairs, places, sampling.tolerance):
        words = "transposed: it is right with its last two axes exchanged"
    return replace(best, status="wrong", words=words)


def _is_transposed(
    gradient: np.ndarray,
    pairs: list[tuple[float, float]],
    places: list[tuple[int, ...]],
    tolerance: float,
) -> bool:
    """Whether the slopes are those of the gradient with its last two axes exchanged."""
    if gradient.ndim < 2 or gradient.shape[-1] != gradient.shape[-2]:
        return False
    slopes = np.array([slope for _, slope in pairs])
    turned = np.array([gradient.swapaxes(-1, -2)[place] for place in places])
    return bool(np.abs(turned - slopes).max() <= tolerance * np.abs(slopes).max())


def _smallest_gradient(function: Function, name: str) -> float:
    """What rounding alone makes of a gradient that is zero: sums of numbers as large as these."""
    found = function.forward()
    size = sum(float(np.abs(w * found[key]).sum()) for key, w in function.coefficients.items())
    size = size if np.isfinite(size) else 0.0
    return float(_ROUNDINGS * np.finfo(np.float64).eps * size / _typical(function.arrays[name]))


def _typical(array: np.ndarray) -> float:
    """The root of the mean square; 1 for zeros."""
    return float(np.sqrt(np.mean(np.square(array)))) or 1.0


def _has_jumps(function: Function, name: str, rng: np.random.Generator) -> bool:
    """Whether the function jumps somewhere as the array is moved along random lines.

    The largest change on a line is halved in width again and again: a change that is continuous
    shrinks with it, a jump does not.
    """
    array = function.arrays[name]
    start = array.copy()
    typical = _typical(start)

    def at(along: float) -> float:
        array[...] = start + (along * typical) * direction
        found = function.forward()
        return sum(float((w * found[key]).sum()) for key, w in function.coefficients.items())

    try:
        for _ in range(_DIRECTIONS):
            direction = rng.standard_normal(start.shape)
            points = [(along, at(along)) for along in np.linspace(0.0, _FAR, 17)]
            steps = list(pairwise(points))
            (low, low_value), (high, high_value) = max(steps, key=lambda s: abs(s[1][1] - s[0][1]))
            whole = abs(high_value - low_value)
            if not whole or not np.isfinite(whole):
                continue
            for _ in range(_HALVINGS):
                middle = (low + high) / 2
                value = at(middle)
                if abs(value - low_value) >= abs(high_value - value):
                    high, high_value = middle, value
                else:
                    low, low_value = middle, value
            if abs(high_value - low_value) > 1e-4 * whole:
                return True
    except NetError:
        return False  # the line leaves what the function is defined for
    finally:
        array[...] = start
    return False


def _compare(
    function: Function,
    name: str,
    index: int,
    gradient: float,
    floor: float,
    sampling: Sampling,
) -> tuple[float, tuple[float, float]] | None:
    """(difference quotient, its errors as of `_errors`) at one element; None near a kink."""
    flat = function.arrays[name].reshape(-1)
    typical = float(np.sqrt(np.mean(np.square(flat))))
    step = STEP * (max(abs(float(flat[index])), typical) or 1.0)
    near = _slope(function, flat, index, step, -step)
    errors = _errors(gradient, near, floor)
    if errors[0] <= sampling.tolerance:
        return near.slope, errors
    half = _slope(function, flat, index, step / 2, -step / 2)
    bends = [
        abs(
            _slope(function, flat, index, h, 0.0).slope
            - _slope(function, flat, index, 0.0, -h).slope
        )
        for h in (step, step / 2)
    ]
    scale = max(abs(near.slope), abs(half.slope), floor)
    allowed = sampling.tolerance * scale + half.noise
    if abs(near.slope - half.slope) > allowed:
        return None  # a kink lies between the two steps
    if bends[1] > allowed and bends[1] > 0.75 * bends[0]:
        return None  # a smooth bend shrinks with the step, a kink does not
    return half.slope, _errors(gradient, half, floor)


def _slope(function: Function, flat: np.ndarray, index: int, above: float, below: float) -> _Slope:
    """(f(x + above) - f(x + below)) / (above - below), summed over what changed at all."""
    held = flat[index]
    try:
        flat[index] = held + above
        high_at = flat[index]
        high = function.forward()
        flat[index] = held + below
        width = float(high_at - flat[index])
        low = function.forward()
    finally:
        flat[index] = held
    total = noise = 0.0
    for name, weight in function.coefficients.items():
        change = weight * (high[name] - low[name])
        total += float(change.sum())
        moved = change != 0
        noise += float(np.square(weight * high[name])[moved].sum())
    rounding = _ROUNDINGS * np.finfo(np.float64).eps * np.sqrt(noise)
    return _Slope(total / width, rounding / abs(width))


def _errors(gradient: float, found: _Slope, floor: float) -> tuple[float, float]:
    """The distance of both, without what rounding explains and with it, relative to the larger."""
    distance = abs(gradient - found.slope)
    if not np.isfinite(distance):
        return float("inf"), float("inf")
    scale = max(abs(gradient), abs(found.slope), floor)
    if scale == 0:
        return 0.0, 0.0
    return max(0.0, distance - found.noise) / scale, distance / scale
