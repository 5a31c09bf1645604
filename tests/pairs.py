"""Parameters in pairs, of which the quick tests take enough that each value of both is met."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest


def in_turn(many: Iterable[Any], few: Sequence[Any], always: Iterable[Any] = ()) -> list[Any]:
    """All pairs; each of `many` meets what is `always` met and one of `few`, in turn.

    The other pairs take the marker `long`.
    """
    always, found = list(always), []
    for number, one in enumerate(many):
        for place, other in enumerate([*always, *few]):
            turn = place < len(always) or place - len(always) == number % len(few)
            found.append(pytest.param(one, other, marks=[] if turn else [pytest.mark.long]))
    return found
