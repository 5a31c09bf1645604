"""Files that are there whole or not at all."""

from __future__ import annotations

import io
import os
import stat
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from graphc.error import NetError


def write_whole(path: str | Path, fill: Callable[[BinaryIO], None]) -> None:
    """Write what `fill` puts into a file beside the place, then rename it to `path`.

    A link is followed. A device or a pipe is written to, not replaced. Raises NetError where the
    file cannot be written; what was at the place is then still there.
    """
    try:
        if _is_regular(path):
            _replace(Path(os.path.realpath(path)), fill)
            return
        held = io.BytesIO()
        fill(held)
        with open(path, "wb") as file:
            file.write(held.getbuffer())
    except OSError as error:
        raise NetError(f"cannot write '{path}': {error.strerror or error}") from None


def write_parts(path: str | Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write a file of these parts, as `write_whole` does."""
    write_whole(path, lambda file: file.writelines(parts))


def _is_regular(path: str | Path) -> bool:
    """Whether the path is that of a file, or of nothing yet."""
    try:
        kind = os.stat(path).st_mode
    except FileNotFoundError:
        return True
    return stat.S_ISREG(kind)


def _replace(place: Path, fill: Callable[[BinaryIO], None]) -> None:
    """Write beside the place and rename: no one ever sees half of it, even after a crash."""
    handle, temporary = tempfile.mkstemp(dir=place.parent, prefix=".writing-")
    try:
        with os.fdopen(handle, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, place)
    finally:
        with suppress(OSError):
            os.unlink(temporary)
