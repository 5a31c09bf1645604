"""Joins of equal kernels, made once: deep nets repeat a block many times.

What a join gives depends on which arguments are the same array, not on what the arrays are called.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import Any

from graphc.kernel import inline as into
from graphc.kernel import join as once
from graphc.kernel.contraction import KERNELS_REMEMBERED
from graphc.kernel.join import Joined
from graphc.kernel.lang import Kernel


def join(
    first: Kernel,
    first_actuals: Sequence[str],
    second: Kernel,
    second_actuals: Sequence[str],
    drop: Collection[str] = (),
) -> Joined | str:
    """`graphc.kernel.join.join`, remembered."""
    pair = _Pair(first, first_actuals, second, second_actuals)
    made = pair.made(once.join, frozenset(pair.short(drop)))
    # Once more where it fails, for a reason in the names that people know.
    return made or once.join(first, first_actuals, second, second_actuals, drop)


def join_siblings(
    first: Kernel,
    first_actuals: Sequence[str],
    second: Kernel,
    second_actuals: Sequence[str],
) -> Joined | str:
    """`graphc.kernel.join.join_siblings`, remembered."""
    made = _Pair(first, first_actuals, second, second_actuals).made(once.join_siblings)
    return made or once.join_siblings(first, first_actuals, second, second_actuals)


def inline(
    maker: Kernel,
    maker_actuals: Sequence[str],
    reader: Kernel,
    reader_actuals: Sequence[str],
    name: str,
) -> Joined | None:
    """`graphc.kernel.inline.inline`, remembered."""
    pair = _Pair(maker, maker_actuals, reader, reader_actuals)
    return pair.made(into.inline, pair.formal[name])


class _Pair:
    """Two kernels, and short names for their arrays by order of appearance."""

    def __init__(
        self,
        first: Kernel,
        first_actuals: Sequence[str],
        second: Kernel,
        second_actuals: Sequence[str],
    ):
        self.actual = list(dict.fromkeys([*first_actuals, *second_actuals]))
        self.formal = {name: f"v{number}" for number, name in enumerate(self.actual)}
        self.kernels = (first, self.short(first_actuals), second, self.short(second_actuals))

    def short(self, names: Collection[str]) -> tuple[str, ...]:
        return tuple(self.formal[name] for name in names)

    def made(self, make: Callable[..., Joined | str | None], *more: Any) -> Joined | None:
        """What `make` gives of the two, by their arrays' own names; None where it gives none."""
        found = _remembered(make, *self.kernels, *more)
        if found is None:
            return None
        kernel, names = found
        return kernel, tuple(self.actual[int(name[1:])] for name in names)


@lru_cache(3 * KERNELS_REMEMBERED)
def _remembered(make: Callable[..., Joined | str | None], *pair: Any) -> Joined | None:
    made = make(*pair)
    return None if isinstance(made, str) else made
