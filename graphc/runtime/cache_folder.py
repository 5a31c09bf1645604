"""Where things are kept on disk between processes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

ENVIRONMENT = "GRAPHC_CACHE"


def folder() -> Path:
    """$GRAPHC_CACHE, or graphc in the user's cache folder; it need not exist."""
    chosen = os.environ.get(ENVIRONMENT, "")
    return Path(chosen) if chosen else Path.home() / ".cache" / "graphc"


def is_private(place: Path) -> bool:
    """Whether nobody but this user can have put anything into a folder."""
    status = place.stat()
    own = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    return own and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
