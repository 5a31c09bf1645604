"""Where things are kept on disk between processes.

A file holds a digest of its content and the content. It lies in a folder that only its owner may
change (it may be executable code), arrives there by a rename, and is ignored where the digest does
not fit. Files that were not used for long go when the folder grows past a limit.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from pathlib import Path

ENVIRONMENT = "GRAPHC_CACHE"
LARGEST_BYTES = 2**29
_DIGEST_BYTES = 32


def folder() -> Path:
    """$GRAPHC_CACHE, or graphc in the user's cache folder; it need not exist.

    The latter is $XDG_CACHE_HOME, which counts where it is absolute, or ~/.cache.
    """
    chosen = os.environ.get(ENVIRONMENT, "")
    if chosen:
        return Path(chosen)
    users = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (users if users.is_absolute() else Path.home() / ".cache") / "graphc"


def is_private(place: Path) -> bool:
    """Whether nobody but this user can have put anything into a folder."""
    status = place.stat()
    own = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    return own and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def read(name: str) -> bytes | None:
    """The content kept under a name; None where there is none or it is broken."""
    place = folder() / name
    try:
        if not is_private(place.parent):
            return None
        data = place.read_bytes()
        os.utime(place)
    except OSError:
        return None
    digest, content = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    return content if hashlib.sha256(content).digest() == digest else None


def write(name: str, content: bytes) -> None:
    """Keep a content. A folder that cannot be used does no harm: the cache only saves time."""
    with contextlib.suppress(OSError):
        place = folder()
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not is_private(place):
            return
        handle, temporary = tempfile.mkstemp(dir=place, prefix="writing-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(content).digest() + content)
            os.replace(temporary, place / name)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise
        _trim(place)


def _trim(place: Path) -> None:
    """Remove what was not used for longest once the folder has grown too large."""
    files = [(entry.stat(), entry) for entry in place.iterdir()]
    total = sum(status.st_size for status, _ in files)
    if total <= LARGEST_BYTES:
        return
    for status, entry in sorted(files, key=lambda pair: pair[0].st_mtime):
        entry.unlink(missing_ok=True)
        total -= status.st_size
        if total <= LARGEST_BYTES // 2:
            return
