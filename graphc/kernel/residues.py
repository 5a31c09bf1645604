"""Loops whose index is divided, taken apart by its remainder: one set of statements a residue.

A point i of an image lies under the windows of stride 2 at i // 2 - r, with the tap i % 2 + 2 r. In
a loop over all i every iteration divides, and guards ask which taps there are. Written as i = 2 q +
p, with a statement of its own for each p, quotients are affine, remainders are numbers, and so is
how many windows cover the point.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from math import prod

from graphc.kernel.affine import Affine, affine, bounds
from graphc.kernel.contraction import KERNELS_REMEMBERED
from graphc.kernel.join import canonical
from graphc.kernel.lang import (
    BOOL,
    INDEX,
    Axis,
    Call,
    Check,
    Const,
    Expr,
    Fold,
    Kernel,
    Let,
    Load,
    Local,
    Statement,
    Store,
    Var,
    call,
)
from graphc.kernel.walk import axes_of, rebuild, statement_exprs, walk

# Every statement is written so many times at most.
MOST_COPIES = 16


@lru_cache(KERNELS_REMEMBERED)
def by_residues(kernel: Kernel) -> Kernel:
    """The kernel with divided `each` axes i as divisor * q + p, and its statements once for each p.

    It stays as it is where it checks, draws or adds to what is there: there the order counts; and
    where an axis of neighbours in memory is divided too: lanes run along it, and divide anyway.
    """
    divisors = _divisors(kernel)
    if not divisors or prod(divisors.values()) > MOST_COPIES or _is_ordered(kernel):
        return kernel
    quotients = {
        axis: Axis(f"{axis.name}/{by}", -(-axis.extent // by)) for axis, by in divisors.items()
    }
    body: list[Statement] = []
    for residues in itertools.product(*(range(by) for by in divisors.values())):
        place: dict[Expr, Expr] = {}
        exists: list[Expr] = []
        for (axis, by), residue in zip(divisors.items(), residues, strict=True):
            index = Var(quotients[axis]) * by + residue
            place[Var(axis)] = index
            exists.append(index < axis.extent)
        number = "".join(f".{residue}" for residue in residues)
        body += _Copy(place, exists, number).statements(kernel.body)
    each = tuple(quotients.get(axis, axis) for axis in kernel.each)
    return canonical(replace(kernel, each=each, body=tuple(body)))


def _is_ordered(kernel: Kernel) -> bool:
    """Whether an iteration of several old ones might do things in an order that counts."""
    parts = (part for s in kernel.body for expr in statement_exprs(s) for part in walk(expr))
    drawn = any(isinstance(part, Call) and part.function == "random_bits" for part in parts)
    stores = [s for s in kernel.body if isinstance(s, Store)]
    checks = any(isinstance(s, Check) for s in kernel.body)
    # What a Let loads is loaded later where it is written out: not behind another store.
    lets = (s.value for s in kernel.body if isinstance(s, Let))
    named = any(isinstance(part, Load) for value in lets for part in walk(value))
    adds = any(store.mode == "add" for store in stores)
    return drawn or checks or adds or (named and len(stores) > 1)


def _divisors(kernel: Kernel) -> dict[Axis, int]:
    """The axes to take apart, each with the one number that it is divided by."""
    found: dict[Axis, set[int]] = {}
    near: set[Axis] = set()
    for statement in kernel.body:
        if isinstance(statement, Store):
            near |= _neighbours(Load(statement.buffer, statement.index))
        for top in statement_exprs(statement):
            for part in walk(top):
                if isinstance(part, Load):
                    near |= _neighbours(part)
                elif isinstance(part, Call) and part.function in ("floordiv", "mod"):
                    for axis, by in _divided(part):
                        found.setdefault(axis, set()).add(by)
    if near & set(found):
        return {}
    return {
        axis: min(found[axis])
        for axis in kernel.each
        if len(found.get(axis, ())) == 1 and axis.extent >= min(found[axis])
    }


def _neighbours(load: Load) -> set[Axis]:
    """Axes along which neighbours lie side by side."""
    forms = zip(map(affine, load.index), load.buffer.strides, strict=True)
    terms = [(a, c * stride) for form, stride in forms if form for a, c in form.terms]
    return {axis for axis, step in terms if abs(step) == 1}


def _divided(part: Call) -> Iterator[tuple[Axis, int]]:
    """(axis, divisor) where the other terms of what is divided leave no remainder."""
    form, by = affine(part.args[0]), part.args[1]
    if form is None or not isinstance(by, Const) or by.dtype != INDEX or by.value < 2:
        return
    uneven = [axis for axis, coefficient in form.terms if coefficient % int(by.value)]
    if len(uneven) == 1:
        yield uneven[0], int(by.value)


class _Copy:
    """The statements for one residue of each axis.

    place: the index that each axis's variable becomes. exists: that it lies inside the old loop;
    guards of what reads and stores there, where that is not known. number: ends names of locals.
    """

    def __init__(self, place: dict[Expr, Expr], exists: list[Expr], number: str):
        self.change = dict(place)
        self.number = number
        self.exists = [c for c in map(_simple, exists) if not isinstance(c, Const)]

    def statements(self, body: tuple[Statement, ...]) -> Iterator[Statement]:
        """Their copies. What is only named is written where it is read: guards hold there."""
        for statement in body:
            if isinstance(statement, Let):
                value = self._expr(statement.value)
                if self.exists and any(isinstance(part, Load) for part in walk(value)):
                    self.change[statement.local] = value
                else:
                    yield Let(self._local(statement.local), value)
            elif isinstance(statement, Fold):
                yield self._fold(statement)
            else:
                assert isinstance(statement, Store)
                yield replace(
                    statement,
                    index=tuple(map(self._expr, statement.index)),
                    value=self._expr(statement.value),
                    where=_all(self._guards(statement.where)),
                )

    def _local(self, local: Local) -> Local:
        made = replace(local, name=local.name + self.number)
        self.change[local] = made
        return made

    def _expr(self, expr: Expr) -> Expr:
        return _simple(rebuild(expr, self.change))

    def _guards(self, where: Expr | None) -> list[Expr]:
        """Those of a statement and of its place; what always holds is left out."""
        found = [] if where is None else _conjuncts(self._expr(where))
        return [*found, *self.exists]

    def _fold(self, fold: Fold) -> Fold:
        """The fold; an axis that a guard bounds by a number is that much shorter."""
        values = tuple(map(self._expr, fold.values))
        extents = {axis: axis.extent for axis in fold.axes}
        guards = []
        for guard in self._guards(fold.where):
            bound = _upper_bound(guard, fold.axes)
            if bound is None or bound[1] < 1:
                guards.append(guard)
            else:
                extents[bound[0]] = min(extents[bound[0]], bound[1])
        shorter = {axis: replace(axis, extent=extent) for axis, extent in extents.items()}
        change: dict[Expr, Expr] = {Var(old): Var(new) for old, new in shorter.items()}
        guards = [_simple(rebuild(guard, change)) for guard in guards]
        return replace(
            fold,
            locals=tuple(map(self._local, fold.locals)),
            values=tuple(_simple(rebuild(value, change)) for value in values),
            axes=tuple(shorter.values()),
            where=_all(guards),
        )


def _conjuncts(guard: Expr) -> list[Expr]:
    if isinstance(guard, Call) and guard.function == "and":
        return [part for arg in guard.args for part in _conjuncts(arg)]
    return [guard]


def _all(guards: list[Expr]) -> Expr | None:
    """The guard that holds where all do; None where that is everywhere."""
    asked = [guard for guard in dict.fromkeys(guards) if guard != Const(True, BOOL)]
    whole: Expr | None = None
    for guard in asked:
        whole = guard if whole is None else whole & guard
    return whole


def _difference(guard: Expr) -> Affine | None:
    """left - right of a comparison of whole numbers; one more where equal is not enough."""
    if not isinstance(guard, Call) or guard.function not in ("lt", "le"):
        return None
    if guard.args[0].dtype != INDEX:
        return None
    form = affine(guard.args[0] - guard.args[1])
    if form is None or guard.function == "le":
        return form
    return replace(form, constant=form.constant + 1)


def _upper_bound(guard: Expr, axes: tuple[Axis, ...]) -> tuple[Axis, int] | None:
    """(axis, its first value beyond) of a guard that is an upper bound of one of `axes` alone."""
    form = _difference(guard)
    if form is None or len(form.terms) != 1:
        return None
    ((axis, coefficient),) = form.terms
    if axis not in axes or coefficient < 0:
        return None
    return axis, -form.constant // coefficient + 1


def _simple(expr: Expr) -> Expr:
    """The expression with quotients, remainders and comparisons computed where they are known."""
    if isinstance(expr, Load):
        return Load(expr.buffer, tuple(map(_simple, expr.index)))
    if not isinstance(expr, Call):
        return expr
    made = call(expr.function, *map(_simple, expr.args), dtype=expr.dtype)
    if not isinstance(made, Call):
        return made
    if made.function in ("floordiv", "mod") and made.dtype == INDEX:
        return _known_division(made)
    if made.function == "and":
        left, right = made.args
        if isinstance(left, Const):
            return right if left.value else left
        if isinstance(right, Const):
            return left if right.value else right
    form = _difference(made)
    if form is None or not all(axis.extent for axis in axes_of(made)):
        return made
    low, high = bounds(form)
    return Const(high <= 0, BOOL) if high <= 0 or low > 0 else made


def _known_division(made: Call) -> Expr:
    """A quotient or remainder of what is a multiple of the divisor but for a number."""
    form, by = affine(made.args[0]), made.args[1]
    if form is None or not isinstance(by, Const):
        return made
    divisor = int(by.value)
    if any(coefficient % divisor for _, coefficient in form.terms):
        return made
    if made.function == "mod":
        return Const(form.constant % divisor, INDEX)
    total: Expr = Const(form.constant // divisor, INDEX)
    for axis, coefficient in form.terms:
        total = Var(axis) * (coefficient // divisor) + total
    return total
