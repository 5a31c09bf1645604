"""Texts of the user's files and places in them.

A place prints as editors and compilers print it, `net.prototxt:27:5`, and can show its line with
a caret:

        kernal_size: 11
        ^~~~~~~~~~~
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cached_property

# A longer line (a whole file in one line, a matrix) would bury the message: a part is shown.
LONGEST_EXCERPT = 1000
_AROUND = 60  # characters of such a line on each side of the caret


@dataclass(frozen=True)
class Source:
    """One text and its name: a file's path, or `<text>` for a string that was passed in."""

    name: str
    text: str = field(repr=False)

    @cached_property
    def line_starts(self) -> list[int]:
        """Offsets of the first character of every line."""
        starts = [0]
        starts.extend(match.end() for match in re.finditer("\n", self.text))
        return starts

    def span(self, start: int, end: int | None = None) -> Span:
        """The place from offset `start` up to `end` (one character where no end is given)."""
        return Span(self, start, start + 1 if end is None else end)


@dataclass(frozen=True)
class Span:
    """The characters `start` to `end` of a source."""

    source: Source
    start: int
    end: int

    @property
    def line(self) -> int:
        """Line number, from 1."""
        return bisect_right(self.source.line_starts, self.start)

    @property
    def column(self) -> int:
        """Column number, from 1."""
        return self.start - self.source.line_starts[self.line - 1] + 1

    def text(self) -> str:
        """The characters the span covers."""
        return self.source.text[self.start : self.end]

    def __str__(self) -> str:
        return f"{self.source.name}:{self.line}:{self.column}"

    def excerpt(self) -> str:
        """The line the span starts on, and a caret line under the span."""
        begin = self.source.line_starts[self.line - 1]
        stop = self.source.text.find("\n", begin)
        line = self.source.text[begin : stop if stop >= 0 else None].rstrip("\r")
        first, last = self.start - begin, max(self.end - begin, self.start - begin + 1)
        prefix, left, right = "", 0, len(line)
        if len(line) > LONGEST_EXCERPT:
            left, right = max(0, first - _AROUND), first + _AROUND
            prefix = "..." if left else ""
        shown = prefix + line[left:right].expandtabs(4) + ("..." if right < len(line) else "")
        before = _columns(prefix + line[left:first].expandtabs(4))
        width = max(1, _columns(line[first : min(last, right)].expandtabs(4)))
        return f"    {_printable(shown)}\n    {' ' * before}^{'~' * (width - 1)}"


def _columns(text: str) -> int:
    """How wide a terminal shows a text: signs of East Asia take two columns, accents none."""
    if text.isascii():
        return len(text)
    accents = sum(unicodedata.combining(sign) > 0 for sign in text)
    wide = sum(unicodedata.east_asian_width(sign) in "WF" for sign in text)
    return len(text) - accents + wide


def _printable(line: str) -> str:
    """Characters that would move the caret, or steer a terminal, stand as one sign."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in line)
