"""What is wrong with a gradient, in words.

verdict([(1.0, 2.0), (3.0, 6.0)])  ->  "2.0 times too small everywhere"
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Said of a function that changes in jumps alone, an arg-max for instance, whatever its gradient.
NOT_DIFFERENTIABLE = "zero almost everywhere and wrong at jumps: not differentiable"

Pair = tuple[float, float]
Index = tuple[int, ...]


@dataclass(frozen=True)
class Wording:
    """How zeros in the wrong place are called."""

    missing: str
    extra: str
    infinite: str


GRADIENTS = Wording(
    "though the function changes there",
    "though the function does not change there",
    "not finite, or that of a function which is not",
)
VALUES = Wording("where the reference is not", "where the reference is", "not finite, or not there")


def verdict(
    pairs: Sequence[Pair],
    floor: float = 0.0,
    tolerance: float = 1e-5,
    places: Sequence[Index] = (),
    wording: Wording = GRADIENTS,
) -> str:
    """The difference between a gradient and the slopes, for (gradient, slope) at some elements.

    Numbers up to `floor` count as zero, relative errors up to `tolerance` as right. `places` are
    the indices of the pairs. The text goes on from "the gradient is".
    """
    if not all(math.isfinite(number) for pair in pairs for number in pair):
        return wording.infinite
    wrong = [pair for pair in pairs if not _agree(*pair, floor, tolerance)]
    where = (
        "everywhere"
        if len(_telling(pairs, floor)) == len(_telling(wrong, floor))
        else (f"at {len(wrong)} of {len(pairs)} elements")
    )
    if all(gradient == 0 for gradient, _ in wrong):
        return f"zero {where}, {wording.missing}"
    if all(abs(slope) <= floor for _, slope in wrong):
        return f"not zero {where}, {wording.extra}"
    ratio = _common([slope / gradient for gradient, slope in wrong if gradient], tolerance)
    if ratio is not None and all(gradient for gradient, _ in wrong):
        return f"{_by_factor(ratio)} {where}"
    offset = _common([gradient - slope for gradient, slope in wrong], tolerance)
    if offset is not None and len(wrong) > 1:
        return f"too {'large' if offset > 0 else 'small'} by {_shown(abs(offset))} {where}"
    return _by_axis(pairs, floor, tolerance, places) or f"wrong {where}"


def _by_axis(pairs: Sequence[Pair], floor: float, tolerance: float, places: Sequence[Index]) -> str:
    """The axis along which a factor changes, where it is the same across all others."""
    axes = len(places[0]) if places else 0
    for axis in range(axes if axes > 1 else 0):
        groups: dict[int, list[Pair]] = {}
        for place, pair in zip(places, pairs, strict=True):
            if max(map(abs, pair)) > floor:
                groups.setdefault(place[axis], []).append(pair)
        if sum(len(group) > 1 for group in groups.values()) < 2:
            continue
        if not all(gradient for group in groups.values() for gradient, _ in group):
            continue
        ratios = {
            index: _common([slope / gradient for gradient, slope in group], tolerance)
            for index, group in groups.items()
        }
        if all(ratio for ratio in ratios.values()):
            shown = [
                f"{_by_factor(ratio)} at {index}"
                for index, ratio in sorted(ratios.items())
                if ratio and abs(ratio - 1) > 100 * tolerance
            ]
            more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
            return f"scaled wrongly along axis {axis}: {', '.join(shown[:3])}{more}"
    return ""


def _agree(gradient: float, slope: float, floor: float, tolerance: float) -> bool:
    return abs(gradient - slope) <= tolerance * max(abs(gradient), abs(slope), floor)


def _telling(pairs: Sequence[Pair], floor: float) -> list[Pair]:
    """The elements at which anything happens: two zeros agree with every explanation."""
    return [pair for pair in pairs if max(map(abs, pair)) > floor]


def _common(numbers: Sequence[float], tolerance: float) -> float | None:
    """The number that all of them are, but for the errors of finite differences."""
    if not numbers:
        return None
    middle = sorted(numbers)[len(numbers) // 2]
    slack = max(100 * tolerance, 1e-3) * abs(middle)
    return middle if all(abs(number - middle) <= slack for number in numbers) else None


def _by_factor(ratio: float) -> str:
    """For slope / gradient."""
    size = abs(ratio)
    same = abs(size - 1) < 1e-3
    scaled = (
        f"{_shown(size)} times too small" if size > 1 else f"{_shown(1 / size)} times too large"
    )
    if ratio > 0:
        return scaled
    return "of the wrong sign" if same else f"of the wrong sign and {scaled}"


def _shown(number: float) -> str:
    """Three digits, and a point where it would look like a count."""
    text = f"{number:.3g}"
    return text if "." in text or "e" in text else f"{text}.0"
