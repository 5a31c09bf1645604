"""Rows of words in columns, for people: each row is one line, whatever its words hold."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from graphc.error import visible


def columns(rows: Sequence[Sequence[str]], numbers: Collection[int] = ()) -> list[str]:
    """One line a row, columns as wide as needed; those of `numbers` are set to the right.

    Names of the user's may hold a line's end or worse: no word makes a second line.
    """
    lines = [[visible(word, ends="") for word in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            word.rjust(width) if i in numbers else word.ljust(width)
            for i, (word, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
