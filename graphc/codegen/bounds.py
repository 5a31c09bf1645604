"""Between which values an expression must lie, from what is known of its parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

from graphc.kernel.lang import INDEX

Range: TypeAlias = tuple[int, int] | None
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


def call_bounds(function: str, dtype: str, args: Sequence[tuple[str, Range]]) -> Range:
    """Bounds of a function's result of type `dtype`; `args` are the arguments' types and bounds.

    Only int64, where nothing as small as an index can wrap around.
    """
    if function == "random_bits":
        return (0, 2**16 - 1)
    if dtype != INDEX or (function != "cast" and args[0][0] != INDEX):
        return None
    if function == "cast":
        return args[0][1]
    found = _arithmetic_bounds(function, [bounds for _, bounds in args])
    if found is None or found[0] < _INT64_MIN or found[1] > _INT64_MAX:
        return None
    return found


def _arithmetic_bounds(function: str, bounds: list[Range]) -> Range:
    if function in ("max", "min") and any(b is not None for b in bounds):
        return _clamped(function, bounds)
    if function == "mod" and bounds[1] is not None and bounds[1][0] > 0:
        return (0, bounds[1][1] - 1)
    if any(b is None for b in bounds):
        return None
    (low, high), *rest = [b for b in bounds if b is not None]
    if function == "neg":
        return (-high, -low)
    if not rest:
        return None
    other_low, other_high = rest[0]
    if function == "add":
        return (low + other_low, high + other_high)
    if function == "sub":
        return (low - other_high, high - other_low)
    if function == "mul" or (function == "floordiv" and other_low > 0):
        pairs = [(a, b) for a in (low, high) for b in (other_low, other_high)]
        corners = [a * b if function == "mul" else a // b for a, b in pairs]
        return (min(corners), max(corners))
    return None


def _clamped(function: str, bounds: list[Range]) -> Range:
    pick = max if function == "max" else min
    lows = [_INT64_MIN if b is None else b[0] for b in bounds]
    highs = [_INT64_MAX if b is None else b[1] for b in bounds]
    return (pick(lows), pick(highs))


def call_least(function: str, args: Sequence[float], is_square: bool) -> float:
    """What a real function's result is never below, unless it is nan; -inf where nothing is known.

    `args` are those of the arguments. is_square: both arguments are the same value.
    """
    if function == "add":
        return sum(args)
    if function == "mul":
        return 0.0 if is_square or min(args) >= 0 else -math.inf
    if function == "max":
        return max(args)
    if function == "min":
        return min(args)
    if function == "select":
        return min(args[1:])
    return 0.0 if function in ("exp", "abs", "sqrt", "sigmoid") else -math.inf
