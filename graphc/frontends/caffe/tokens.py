"""The words of protobuf's text format, each with its place.

Text pasted from a web page is read too: no-break spaces and their kin count as white space (and
are counted, for one warning), typographic quotes are reported and then taken as quotes.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from graphc.error import Diagnostic
from graphc.source import Source

Kind = Literal["word", "number", "string", "mark", "end"]
Report = Callable[[Diagnostic], None]

_WHITE = re.compile(r"(?:[ \t\r\n\f\v]+|#[^\n]*)*")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NUMBER = re.compile(r"\.?[0-9](?:[eE][+-]|[A-Za-z0-9_.])*")
_STRING = re.compile(r'"(?:[^"\\\n]+|\\[^\n])*(")?' + r"|'(?:[^'\\\n]+|\\[^\n])*(')?")
_BRACE = re.compile(r"[{}]")
_MARKS = frozenset("{}<>[]:,;-/")
_TYPOGRAPHIC = {"“": '”“"', "”": '”"', "„": '“”"', "«": "»", "‘": "’'", "’": "’'"}

_ESCAPE = re.compile(
    rb"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.)|$)",
    re.DOTALL,
)
_SIMPLE = dict(zip(b"ntrabfv\\'\"?", b"\n\t\r\a\b\f\v\\'\"?", strict=True))

_FORMAT_CHARACTERS = frozenset("\u200b\u200c\u200d\u2060\ufeff\u180e\u00ad\u200e\u200f")


@dataclass(frozen=True)
class Token:
    """One word: its kind, its text as it stands in the file, and its offsets there.

    `indent` is the number of characters before the first word of its line, `leads` says whether
    that is this word.
    """

    kind: Kind
    text: str
    start: int
    end: int
    indent: int = 0
    leads: bool = False

    def __str__(self) -> str:
        if self.kind == "end":
            return "the end of the text"
        shown = self.text if len(self.text) <= 40 else self.text[:40] + "..."
        return f"the string {shown}" if self.kind == "string" else f"'{shown}'"


def is_odd_space(character: str) -> bool:
    """Whether a character looks like white space, or like nothing, and is none of the format's."""
    if character in _FORMAT_CHARACTERS or character in "\x1c\x1d\x1e\x1f\x85":
        return True
    return ord(character) > 127 and character.isspace()


class Lexer:
    """Cuts a source into tokens. `report` takes the errors; the odd spaces are counted here."""

    def __init__(self, source: Source, report: Report):
        self.source = source
        self.report = report
        self.odd_spaces: dict[str, int] = {}
        self.first_odd_space = -1

    def warning(self) -> Diagnostic | None:
        """The one warning about characters that only look like spaces, where there are any."""
        if not self.odd_spaces:
            return None
        kinds = " and ".join(
            f"{count} character{'s' * (count > 1)} U+{ord(character):04X} "
            f"({_character_name(character)})"
            for character, count in self.odd_spaces.items()
        )
        return Diagnostic(
            f"{kinds} taken as white space; the first is here",
            self.source.span(self.first_odd_space),
            "warning",
        )

    def tokens(self) -> Iterator[Token]:
        """All tokens; the last one is of kind `end`."""
        text = self.source.text
        at = 0
        indent = 0
        leads = True
        while True:
            before = at
            at = self._skip_white(at)
            line_break = text.rfind("\n", before, at)
            if line_break >= 0 or before == 0:
                indent = at - line_break - 1
                leads = True
            if at >= len(text):
                yield Token("end", "", at, at, indent, leads)
                return
            found = self._word(at)
            if found is None:
                at = self._skip_garbage(at)
            else:
                kind, word, end = found
                yield Token(kind, word, at, end, indent, leads)
                at = end
                leads = False

    def _skip_white(self, at: int) -> int:
        text = self.source.text
        while True:
            match = _WHITE.match(text, at)
            at = match.end() if match else at
            if at >= len(text) or text[at] < "\x1c" or not is_odd_space(text[at]):
                return at
            if not self.odd_spaces:
                self.first_odd_space = at
            self.odd_spaces[text[at]] = self.odd_spaces.get(text[at], 0) + 1
            at += 1

    def _word(self, at: int) -> tuple[Kind, str, int] | None:
        """Kind, text and end of the word that starts at `at`."""
        text = self.source.text
        character = text[at]
        if match := _WORD.match(text, at):
            return "word", match.group(), match.end()
        if match := _NUMBER.match(text, at):
            return "number", match.group(), match.end()
        if character in _MARKS:
            return "mark", character, at + 1
        if character in "\"'":
            return self._string(at)
        if character in _TYPOGRAPHIC:
            return self._typographic_string(at)
        return None

    def _string(self, at: int) -> tuple[Kind, str, int]:
        text = self.source.text
        match = _STRING.match(text, at)
        end = match.end() if match else at + 1
        if match is None or not (match.group(1) or match.group(2)):
            # A brace in it more likely closes something than belongs to it.
            brace = _BRACE.search(text, at, end)
            end = brace.start() if brace else end
            place = self.source.span(at, end)
            self.report(Diagnostic("this string has no closing quote on its line", place))
            return "string", text[at:end].rstrip("\r\\ ") + text[at], end
        return "string", match.group(), end

    def _typographic_string(self, at: int) -> tuple[Kind, str, int]:
        """A string between the quotes that word processors make."""
        text = self.source.text
        quote = text[at]
        line_end = text.find("\n", at)
        line_end = len(text) if line_end < 0 else line_end
        ends = [i for mark in _TYPOGRAPHIC[quote] if (i := text.find(mark, at + 1, line_end)) >= 0]
        end = min(ends) + 1 if ends else line_end
        content = text[at + 1 : end - 1 if ends else end].replace('"', "'").replace("\\", "/")
        plain = f'"{content}"'
        self.report(
            Diagnostic(
                f"the quote {quote} (U+{ord(quote):04X}) is not one of the plain quotes \" and '",
                self.source.span(at, end),
                hint=f"did you mean {plain if len(plain) < 60 else 'a plain quote'}?",
            )
        )
        return "string", plain, end

    def _skip_garbage(self, at: int) -> int:
        """Report a run of characters that start no word at all, and step over it."""
        text = self.source.text
        end = at + 1
        while end < len(text) and not (text[end].isspace() or self._starts_token(text[end])):
            end += 1
        names = [_show_character(c) for c in text[at : min(end, at + 4)]]
        more = " ..." if end - at > 4 else ""
        self.report(
            Diagnostic(
                f"unexpected character{'s' * (end - at > 1)} {' '.join(names)}{more}",
                self.source.span(at, end),
            )
        )
        return end

    @staticmethod
    def _starts_token(character: str) -> bool:
        if character.isascii():
            return character.isalnum() or character in "_.\"'#" or character in _MARKS
        return character in _TYPOGRAPHIC or is_odd_space(character)


def unescape(literal: str) -> bytes:
    """The bytes that a quoted literal stands for. ValueError names an escape that means nothing."""

    def replace(match: re.Match[bytes]) -> bytes:
        octal, hexadecimal, short, long, other = match.groups()
        if octal:
            return bytes([int(octal, 8) & 0xFF])
        if hexadecimal:
            return bytes([int(hexadecimal, 16)])
        if short or long:
            return _code_point(int(short or long, 16))
        if other and other[0] in _SIMPLE:
            return bytes([_SIMPLE[other[0]]])
        raise ValueError(match.group().decode("utf-8", "replace"))

    return _ESCAPE.sub(replace, literal[1:-1].encode("utf-8", "surrogatepass"))


def _code_point(code: int) -> bytes:
    if code > 0x10FFFF or 0xD800 <= code < 0xE000:
        raise ValueError(f"\\U{code:08x}")
    return chr(code).encode()


def _character_name(character: str) -> str:
    return unicodedata.name(character, "control character").lower()


def _show_character(character: str) -> str:
    code = f"U+{ord(character):04X}"
    return f"'{character}' ({code})" if character.isprintable() else code
