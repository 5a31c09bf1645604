"""How much memory a plan may take: "all", "reuse", or a budget in bytes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from graphc.error import NetError

if TYPE_CHECKING:
    from graphc.plan.draft import Draft
    from graphc.plan.occupancy import Occupancy

# "reuse" lets values share bytes, "all" gives each its own; a number is a budget of the arena.
Memory = Literal["all", "reuse"] | int

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
# How many of the arrays that are live at the peak an error names.
NAMED = 5


class BudgetError(NetError):
    """A budget that cannot be met; `smallest` is the size of arena that was reached, in bytes."""

    def __init__(self, budget: int, smallest: int, reason: str):
        super().__init__(
            f"memory: {shown(budget)} are not enough, even with values computed twice: the least"
            f" that could be met is {smallest} bytes ({shown(smallest)}). {reason}"
        )
        self.smallest = smallest


def memory_mode(given: object) -> Memory:
    """A mode by name, or bytes: an int, or a text such as "200MiB", "1.5 GB" or "800000".

    Raises NetError for anything else.
    """
    if given in ("all", "reuse"):
        return given
    if isinstance(given, int) and not isinstance(given, bool) and given >= 0:
        return given
    if isinstance(given, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]*)\s*", given)
        if found and found[2].lower() in _UNITS:
            return int(float(found[1]) * _UNITS[found[2].lower()])
    raise NetError(
        f"memory: 'all', 'reuse' or a budget such as 200MiB or a number of bytes, not {given!r}"
    )


def shown(size: int) -> str:
    """Bytes as people read them."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:.4g} {name}"
    return f"{size} bytes"


def cannot_be_met(draft: Draft, now: Occupancy, budget: int, smallest: int) -> BudgetError:
    """The error that says what could be met, and what stands in the way of less."""
    position = int(now.live.argmax()) if now.count else 0
    held = now.at(position)
    names = ", ".join(f"{one.name} ({shown(one.bytes)})" for one in held[:NAMED])
    more = f" and {len(held) - NAMED} more" if len(held) > NAMED else ""
    kept = sorted({one.name for one in held if one in now.pinned})
    keep = f"; {', '.join(kept)} must survive the call" if kept else ""
    label = draft.steps[position].pass_label if draft.steps else "the call"
    return BudgetError(
        budget,
        smallest,
        f"Then {label} needs {names}{more} at once{keep}. A smaller batch needs less",
    )
