"""Remarks: why each decision fell as it did. Every stage adds its own; `explain` reads them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from graphc.source import Span


@dataclass(frozen=True)
class Saving:
    """What a decision about memory saved: bytes of an array that is not made, or not kept.

    `choice` says the kind of decision, `graphc.plan.savings` lists them.
    """

    choice: str
    bytes: int


@dataclass(frozen=True)
class Refusal:
    """What could not be saved: bytes of an array that needs a place of its own.

    `reason` says the kind of reason, `graphc.plan.share` lists them.
    """

    reason: str
    bytes: int


@dataclass(frozen=True)
class Remark:
    """One sentence about one thing.

    `stage` is the pass or stage that decided (`fuse`, `share`, `backward`), `subject` the name the
    user knows (a layer `layer:conv1`, a blob `blob:conv1`, a parameter `conv1/0`). `facts` are the
    sentence's numbers by name, for programs.
    """

    stage: str
    subject: str
    sentence: str
    span: Span | None = None
    saving: Saving | None = None
    refusal: Refusal | None = None
    facts: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        return f"{self.subject}: {self.sentence} [{self.stage}]"


_NUMBERS = re.compile(r"\.\d+\b")  # that tell apart the values of one layer


def without_repeats(remarks: Iterable[Remark]) -> list[tuple[Remark, int]]:
    """Remarks that differ in numbers of values alone, as those of unrolled layers: the first of
    each, and how many more there are.
    """
    alike: dict[tuple[str, ...], list[Remark]] = {}
    for remark in remarks:
        key = (remark.stage, remark.subject, remark.sentence)
        alike.setdefault(tuple(_NUMBERS.sub(".", words) for words in key), []).append(remark)
    return [(first, len(rest)) for first, *rest in alike.values()]
