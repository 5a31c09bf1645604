"""Joins of equal kernels, made once: deep nets repeat a block many times.

What a join gives depends on which arguments are the same array, not on what the arrays are called.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache

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
    names = _Names(first_actuals, second_actuals)
    made = _joined(
        first,
        names.short(first_actuals),
        second,
        names.short(second_actuals),
        frozenset(names.short(drop)),
    )
    if made is None:  # once more, for a reason in the names that people know
        return once.join(first, first_actuals, second, second_actuals, drop)
    return made[0], names.long(made[1])


def join_siblings(
    first: Kernel,
    first_actuals: Sequence[str],
    second: Kernel,
    second_actuals: Sequence[str],
) -> Joined | str:
    """`graphc.kernel.join.join_siblings`, remembered."""
    names = _Names(first_actuals, second_actuals)
    made = _beside(first, names.short(first_actuals), second, names.short(second_actuals))
    if made is None:
        return once.join_siblings(first, first_actuals, second, second_actuals)
    return made[0], names.long(made[1])


def inline(
    maker: Kernel,
    maker_actuals: Sequence[str],
    reader: Kernel,
    reader_actuals: Sequence[str],
    name: str,
) -> Joined | None:
    """`graphc.kernel.inline.inline`, remembered."""
    names = _Names(maker_actuals, reader_actuals)
    made = _inlined(
        maker,
        names.short(maker_actuals),
        reader,
        names.short(reader_actuals),
        names.formal[name],
    )
    return None if made is None else (made[0], names.long(made[1]))


class _Names:
    """Short names for arrays, by order of appearance."""

    def __init__(self, *actuals: Sequence[str]):
        self.actual = list(dict.fromkeys(name for names in actuals for name in names))
        self.formal = {name: f"v{number}" for number, name in enumerate(self.actual)}

    def short(self, names: Collection[str]) -> tuple[str, ...]:
        return tuple(self.formal[name] for name in names)

    def long(self, names: Collection[str]) -> tuple[str, ...]:
        return tuple(self.actual[int(name[1:])] for name in names)


@lru_cache(KERNELS_REMEMBERED)
def _joined(
    first: Kernel,
    first_actuals: tuple[str, ...],
    second: Kernel,
    second_actuals: tuple[str, ...],
    drop: frozenset[str],
) -> Joined | None:
    made = once.join(first, first_actuals, second, second_actuals, drop)
    return None if isinstance(made, str) else made


@lru_cache(KERNELS_REMEMBERED)
def _beside(
    first: Kernel,
    first_actuals: tuple[str, ...],
    second: Kernel,
    second_actuals: tuple[str, ...],
) -> Joined | None:
    made = once.join_siblings(first, first_actuals, second, second_actuals)
    return None if isinstance(made, str) else made


@lru_cache(KERNELS_REMEMBERED)
def _inlined(
    maker: Kernel,
    maker_actuals: tuple[str, ...],
    reader: Kernel,
    reader_actuals: tuple[str, ...],
    name: str,
) -> Joined | None:
    return into.inline(maker, maker_actuals, reader, reader_actuals, name)
