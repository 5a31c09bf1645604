"""The graph after every pass, each line stored once, with marks where it differs from before."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from graphc.ir.printer import print_graph
from graphc.passes.manager import Stage

SAME, ADDED, REMOVED = 0, 1, -1
_PLACE = re.compile(r"  # [^\n]*$", re.MULTILINE)


@dataclass(frozen=True)
class PassText:
    """What a pass made: `lines` are (mark, number of the line in the table of all lines)."""

    name: str
    sentence: str
    seconds: float
    nodes: int
    added: int
    removed: int
    lines: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class PassTexts:
    """All passes, and the table of lines."""

    table: tuple[str, ...]
    passes: tuple[PassText, ...]


def texts_of_passes(stages: Sequence[Stage]) -> PassTexts:
    """The texts of stages whose graphs were kept; places in files are left out."""
    numbers: dict[str, int] = {}
    made = []
    before: list[str] | None = None
    for stage in stages:
        if stage.graph is None:
            continue
        now = _PLACE.sub("", print_graph(stage.graph, data=False)).splitlines()
        marked = marked_lines(now if before is None else before, now)
        made.append(
            PassText(
                name=stage.name,
                sentence=stage.sentence,
                seconds=stage.seconds,
                nodes=stage.nodes,
                added=sum(mark == ADDED for mark, _ in marked),
                removed=sum(mark == REMOVED for mark, _ in marked),
                lines=tuple((mark, numbers.setdefault(t, len(numbers))) for mark, t in marked),
            )
        )
        before = now
    return PassTexts(tuple(numbers), tuple(made))


def marked_lines(before: Sequence[str], after: Sequence[str]) -> list[tuple[int, str]]:
    """The lines of both, in order, each marked: in both, in `after` alone, in `before` alone."""
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    marked: list[tuple[int, str]] = []
    for tag, low, high, start, end in matcher.get_opcodes():
        if tag == "equal":
            marked += [(SAME, line) for line in after[start:end]]
            continue
        marked += [(REMOVED, line) for line in before[low:high]]
        marked += [(ADDED, line) for line in after[start:end]]
    return marked
