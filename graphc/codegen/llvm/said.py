"""What is said about one decision in a kernel's code: a sentence, and its numbers."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Said:
    """`about`: "whole", "form", "instead", "shares", "sum", "operands", "edges", "results", or
    "threads" (why one alone). part: of a kernel that is several products, `part 1 of 2`.
    """

    about: str
    sentence: str
    facts: dict[str, Any] = field(default_factory=dict)
    part: str = ""


def more(cost: float, chosen: float) -> str:
    """`4 % longer` than what was chosen, or `3.1 times as long`; how much that `takes`."""
    ratio = cost / max(chosen, 1e-9)
    if ratio < 0.995:
        return f"{100 * (1 - ratio):.0f} % less, too little to be worth more code"
    if ratio < 1.005:
        return "as long" if cost == chosen else "less than 1 % longer"
    return f"{ratio:.1f} times as long" if ratio >= 2 else f"{100 * (ratio - 1):.0f} % longer"


def listed(words: list[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def many(count: int, word: str) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{count:,} {word}{'s' * (count != 1)}"


def ordinal(number: int) -> str:
    """`2nd`."""
    teens = 10 <= number % 100 < 20
    return f"{number}{'th' if teens else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


def lines(told: Iterable[tuple[str, str]]) -> Iterator[str]:
    """(part, sentence) one below the other, those of a part indented below its name."""
    for part, group in itertools.groupby(told, lambda one: one[0]):
        if part:
            yield f"{part}:"
        for _, sentence in group:
            yield f"{'  ' if part else ''}{sentence}."
