"""Remarks: why each decision fell as it did. Every stage adds its own; `explain` reads them."""

from __future__ import annotations

from dataclasses import dataclass

from graphc.source import Span


@dataclass(frozen=True)
class Remark:
    """One sentence about one thing.

    `stage` is the pass or stage that decided (`fuse`, `share`, `backward`), `subject` the name the
    user knows (a layer `layer:conv1`, a blob `blob:conv1`, a parameter `conv1/0`).
    """

    stage: str
    subject: str
    sentence: str
    span: Span | None = None

    def __str__(self) -> str:
        return f"{self.subject}: {self.sentence} [{self.stage}]"
