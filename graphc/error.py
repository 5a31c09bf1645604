"""The one exception class, and the diagnostics it carries.

A diagnostic prints as compilers print theirs:

    net.prototxt:27:5: error: ConvolutionParameter has no field 'kernal_size'
        kernal_size: 11
        ^~~~~~~~~~~
    did you mean 'kernel_size'?
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from graphc.source import Span


@dataclass(frozen=True)
class Diagnostic:
    """One message about one place: a sentence without a final full stop, perhaps a hint."""

    message: str
    span: Span | None = None
    severity: Literal["error", "warning"] = "error"
    hint: str = ""

    def __str__(self) -> str:
        place = f"{self.span}: " if self.span else ""
        parts = [visible(f"{place}{self.severity}: {self.message}")]
        excerpt = self.span.excerpt() if self.span else ""
        if excerpt:
            parts.append(excerpt)
        if self.hint:
            parts.append(visible(self.hint))
        return "\n".join(parts)

    def as_json(self) -> dict[str, object]:
        """The same as plain data, for programs."""
        place = self.span
        return {
            "severity": self.severity,
            "message": self.message,
            "hint": self.hint,
            "file": place.source.name if place else None,
            "line": place.line if place else None,
            "column": place.column if place else None,
        }


class NetError(ValueError):
    """What graphc raises for every refusal; `diagnostics` holds, and the text prints, all of it."""

    def __init__(self, problems: str | Diagnostic | Iterable[Diagnostic], span: Span | None = None):
        if isinstance(problems, str):
            found: Sequence[Diagnostic] = [Diagnostic(problems, span)]
        elif isinstance(problems, Diagnostic):
            found = [problems]
        else:
            found = list(problems)
        self.diagnostics = tuple(found)
        super().__init__("\n".join(_plain(d) for d in self.diagnostics))


def _plain(diagnostic: Diagnostic) -> str:
    """The text of a diagnostic; without a place it needs no `error:`, the exception says so."""
    if diagnostic.span is None and diagnostic.severity == "error":
        return "\n".join(visible(part) for part in (diagnostic.message, diagnostic.hint) if part)
    return str(diagnostic)


def visible(text: str, ends: str = "\n") -> str:
    """The text with `\\x1b` and the like for what would steer a terminal; lines stay lines.

    Names in the user's files may hold any character. `ends`: which of those may stay.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or letter in ends else ascii(letter)[1:-1] for letter in text
    )


def need(condition: object, message: str) -> None:
    """Raise NetError(message) unless `condition` holds."""
    if not condition:
        raise NetError(message)


def did_you_mean(word: str, known: Iterable[str], closeness: float = 0.6) -> str:
    """`did you mean 'kernel_size'?`, or nothing where no known word is close.

    Small and large letters count as the same: RELU is ReLU, not ELU. `closeness`: from 0, any word
    will do, to 1, only the word itself.
    """
    words = {other.casefold(): other for other in known}
    close = difflib.get_close_matches(word.casefold(), words, n=1, cutoff=closeness)
    return f"did you mean '{words[close[0]]}'?" if close else ""


class NetWarning(UserWarning):
    """Something that is allowed and probably not meant."""

    def __str__(self) -> str:
        return visible(super().__str__())
