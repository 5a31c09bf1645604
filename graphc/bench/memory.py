"""How much memory a call takes beyond what is held already, as the system sees it."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


def extra_bytes(run: Callable[[], object]) -> int | None:
    """The peak of resident memory during `run`, less what was resident before; None where the
    system does not tell. Memory that an allocator had kept from before is given back first."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        _CLEAR.write_text(_RESET_PEAK)
        before = _resident("VmRSS")
        run()
        return max(0, _resident("VmHWM") - before)
    except OSError:
        return None


def _resident(entry: str) -> int:
    for line in _STATUS.read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == entry:
            return int(rest.split()[0]) << 10
    raise OSError(f"no {entry}")
