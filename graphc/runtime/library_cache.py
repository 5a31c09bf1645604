"""What was found when a library was tried against a generated kernel, kept between processes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from graphc.runtime.cache_folder import folder, is_private


@dataclass(frozen=True)
class Finding:
    """The outcome of a trial.

    Attributes:
        taken: whether the library's call runs in place of the kernel.
        algorithm: its number, -1 where none gave the right result.
        workspace_bytes: that the algorithm needs.
        generated, called: seconds of either way, 0 where they were not measured.
        error: the largest difference of the results, as a part of the largest number.
    """

    taken: bool
    algorithm: int = -1
    workspace_bytes: int = 0
    generated: float = 0.0
    called: float = 0.0
    error: float = 0.0


def key(*parts: object) -> str:
    """A name for what a finding depends on."""
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:40]


def read(name: str) -> Finding | None:
    """What was found; None where nothing was, or the file is none of ours."""
    try:
        place = _place(name)
        if not is_private(place.parent):
            return None
        found = json.loads(place.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    kinds = {field.name: type(field.default) for field in fields(Finding)}
    kinds["taken"] = bool
    if not isinstance(found, dict) or found.keys() != kinds.keys():
        return None
    if any(type(found[name]) is not kind for name, kind in kinds.items()):
        return None
    return Finding(**found)


def write(name: str, finding: Finding) -> None:
    """Keep a finding. A folder that cannot be used does no harm: the trial is made again."""
    with contextlib.suppress(OSError):
        place = _place(name)
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not is_private(place.parent):
            return
        handle, temporary = tempfile.mkstemp(dir=place.parent, prefix="writing-")
        try:
            with os.fdopen(handle, "w") as file:
                json.dump(asdict(finding), file)
            os.replace(temporary, place)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise


def _place(name: str) -> Path:
    return folder() / f"library-{name}.json"
