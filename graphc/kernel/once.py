"""Computes costly values once: what a fold and a later store both compute is kept in the result.

A softmax and the gradient of its loss sweep a row three times: the largest score, the sum of the
exponentials, and the result, which is made of the same exponentials. There the exponential is
stored where the result will be and read back, while the row is in cache:

    top = max r x[i, r]                          top = max r x[i, r]
    mass = sum r exp(x[i, r] - top)        =>    y[i, r] = exp(x[i, r] - top) for r
    y[i, r] = exp(x[i, r] - top) / mass          mass = sum r y[i, r]
                                                 y[i, r] = y[i, r] / mass for r

Every number stays what it was, bit for bit. What a kernel may overwrite stays, too: single elements
that are read later are read before the first store, and where that is not enough nothing is done.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from graphc.kernel.contraction import match
from graphc.kernel.facts import may_overwrite, needs_old, reads, writes
from graphc.kernel.join import canonical
from graphc.kernel.lang import (
    Axis,
    Call,
    Expr,
    Fold,
    Kernel,
    Let,
    Load,
    Local,
    Statement,
    Store,
    Var,
)
from graphc.kernel.walk import axes_of, rebuild, rebuild_statement, statement_exprs, walk

# Functions that cost more than a store and a load of a row that lies in cache.
COSTLY = frozenset(("exp", "expm1", "log", "log1p", "tanh", "sigmoid", "pow"))


def compute_once(kernel: Kernel) -> Kernel:
    """The kernel with costly values kept in its results; itself where there are none to keep."""
    folds = any(isinstance(s, Fold) for s in kernel.body)
    if not folds or match(kernel) is not None:
        return kernel
    for position, statement in enumerate(kernel.body):
        if not isinstance(statement, Store) or not _is_free(kernel, statement):
            continue
        for place, fold in enumerate(kernel.body[:position]):
            if isinstance(fold, Fold) and fold.where is None:
                value = _common(fold, statement)
                made = None if value is None else _kept(kernel, place, position, value)
                if made is not None:
                    return compute_once(made)
    return kernel


def _is_free(kernel: Kernel, store: Store) -> bool:
    """Whether nothing but this store touches its buffer, so that it may hold other values first."""
    alone = len(writes(kernel, store.buffer)) == 1 and not reads(kernel, store.buffer)
    return alone and store.where is None and store.mode == "set" and bool(store.axes)


def _common(fold: Fold, store: Store) -> Expr | None:
    """The largest costly value that both compute, in the loops of the store."""
    loops = _as_loops(fold.axes, store.axes)
    if loops is None:
        return None
    wanted = set(_costly(store.value))
    for value in fold.values:
        for part in _costly(rebuild(value, loops)):
            if part in wanted and part.dtype == store.buffer.dtype:
                return part
    return None


def _as_loops(old: tuple[Axis, ...], new: tuple[Axis, ...]) -> dict[Expr, Expr] | None:
    """Loop variables of one statement as those of another that runs alike; None if it does not."""
    if [a.extent for a in old] != [a.extent for a in new]:
        return None
    return {Var(a): Var(b) for a, b in zip(old, new, strict=True)}


def _in_loops(store: Store, axes: tuple[Axis, ...]) -> Store:
    """The store with the loops of another statement, which run alike."""
    loops = _as_loops(store.axes, axes) or {}
    made = rebuild_statement(store, loops)
    assert isinstance(made, Store)
    return replace(made, axes=axes)


def _costly(expr: Expr) -> Iterator[Expr]:
    """Costly calls in an expression, the outermost first."""
    return (part for part in walk(expr) if isinstance(part, Call) and part.function in COSTLY)


def _kept(kernel: Kernel, place: int, position: int, value: Expr) -> Kernel | None:
    """The kernel with `value` stored before statement `place`, where the store at `position` does.

    None where that would cost more than it saves: another array to keep apart.
    """
    store = old = kernel.body[position]
    assert isinstance(store, Store) and isinstance(old, Store)
    before = kernel.body[:place]
    known = {local for s in before for local in _locals(s)}
    if any(isinstance(part, Local) and part not in known for part in walk(value)):
        return None
    fold = kernel.body[place]
    assert isinstance(fold, Fold)
    store = _in_loops(store, fold.axes)
    value = rebuild(value, _as_loops(old.axes, fold.axes) or {})
    keep = Store(store.buffer, store.index, value, store.axes)
    kept = Load(store.buffer, store.index)
    early: dict[Expr, Expr] = {}
    after: list[Statement] = []
    held = value  # what the result holds: the kept value, and from the store on the store's own
    for statement in kernel.body[place:]:
        is_store = statement is old
        if is_store:
            statement = store
        loops = _as_loops(store.axes, getattr(statement, "axes", ()))
        change: dict[Expr, Expr] = {}
        if loops is not None:
            change[rebuild(held, loops)] = rebuild(kept, loops)
        changed = rebuild_statement(statement, change)
        for load in _fixed_loads(kernel, changed, known):
            early.setdefault(load, Local(f"{store.buffer.name}@{len(early)}", load.dtype))
        after.append(rebuild_statement(changed, early))
        if is_store:
            held = store.value
    first = [Let(local, load) for load, local in early.items() if isinstance(local, Local)]
    made = canonical(replace(kernel, body=(*before, *first, keep, *after)))
    return made if _is_no_worse(kernel, made, store) else None


def _is_no_worse(old: Kernel, new: Kernel, store: Store) -> bool:
    """Whether the result may still lie wherever it might before."""
    output = old.outputs.index(store.buffer)
    if needs_old(new, new.outputs[output]):
        return False
    return all(
        may_overwrite(new, place, output) is None
        for place in range(len(old.inputs))
        if may_overwrite(old, place, output) is None
    )


def _locals(statement: Statement) -> tuple[Local, ...]:
    if isinstance(statement, Let):
        return (statement.local,)
    return statement.locals if isinstance(statement, Fold) else ()


def _fixed_loads(kernel: Kernel, statement: Statement, known: set[Local]) -> list[Load]:
    """Loads of one element of an input a whole iteration, whose place is known already."""
    if getattr(statement, "where", None) is not None:
        return []
    own = set(getattr(statement, "axes", ()))
    return [
        part
        for expr in statement_exprs(statement)
        for part in walk(expr)
        if isinstance(part, Load)
        and part.buffer in kernel.inputs
        and not any(own & axes_of(index) for index in part.index)
        and all(inner in known for i in part.index for inner in walk(i) if isinstance(inner, Local))
    ]
