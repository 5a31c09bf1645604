"""A reader that computes what it reads: an elementwise kernel written into the kernel behind it.

Unlike `join`, which merges whole sweeps, this works for any reader, at whatever elements it reads,
for as many readers as there are: each computes the value where it needs it, and nobody stores it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from graphc.kernel.affine import affine
from graphc.kernel.contraction import KERNELS_REMEMBERED, match
from graphc.kernel.join import Joined, canonical
from graphc.kernel.lang import Buffer, Call, Const, Expr, Kernel, Let, Load, Statement, Store, Var
from graphc.kernel.walk import rebuild, rebuild_statement, statement_exprs, walk

# Functions that are not computed twice to save a load and a store.
COSTLY = frozenset(
    ("exp", "log", "log1p", "expm1", "tanh", "sigmoid", "pow", "sqrt", "div", "random_bits")
)
# Past this many parts an expression costs more than the load that it replaces.
MOST_PARTS = 24


@lru_cache(KERNELS_REMEMBERED)
def cheap_value(kernel: Kernel) -> Expr | None:
    """What each iteration stores, where that is all a kernel does, at its own place, and cheap."""
    known: dict[Expr, Expr] = {}
    *lets, store = kernel.body
    for statement in lets:
        if not isinstance(statement, Let):
            return None
        known[statement.local] = rebuild(statement.value, known)
    if not isinstance(store, Store) or store.axes or store.where or store.mode == "add":
        return None
    if _places(store, kernel) is None:
        return None
    value = rebuild(store.value, known)
    parts = list(walk(value))
    if len(parts) > MOST_PARTS:
        return None
    if any(isinstance(part, Call) and part.function in COSTLY for part in parts):
        return None
    return value


def _places(store: Store, kernel: Kernel) -> list[Expr | None] | None:
    """For each index of a store its loop variable, None for extent 1; None if it is otherwise."""
    places: list[Expr | None] = []
    for index, extent in zip(store.index, store.buffer.shape, strict=True):
        if isinstance(index, Var) and index.axis.extent == extent and index not in places:
            places.append(index)
        elif extent == 1 and affine(index) is not None:
            places.append(index if isinstance(index, Var) else None)
        else:
            return None
    loops = {Var(axis) for axis in kernel.each if axis.extent != 1}
    return places if loops <= set(places) else None


def inline(
    maker: Kernel,
    maker_actuals: Sequence[str],
    reader: Kernel,
    reader_actuals: Sequence[str],
    name: str,
) -> Joined | None:
    """The reader with the maker's value in place of its loads of the array `name`.

    The actuals name the arrays passed as buffers. None where the maker is not cheap, or where an
    array would be seen in two layouts, or where a tiled product would begin or end to be one.
    """
    value = cheap_value(maker)
    if value is None or match(reader) is not None:
        return None
    first = _named(maker, maker_actuals)
    second = _named(reader, reader_actuals)
    seen: dict[str, Buffer] = {}
    for buffer in (*first.values(), *second.values()):
        if seen.setdefault(buffer.name, buffer) != buffer:
            return None
    store = maker.body[-1]
    assert isinstance(store, Store)
    places = _places(store, maker)
    assert places is not None
    target = seen[name]
    body = tuple(_with_buffers(statement, second) for statement in reader.body)
    change: dict[Expr, Expr] = {}
    for statement in body:
        for top in statement_exprs(statement):
            for load in walk(top):
                if isinstance(load, Load) and load.buffer == target:
                    change[load] = _value_at(value, first, places, load.index)
    body = tuple(rebuild_statement(statement, change) for statement in body)
    inputs = [second[b] for b in reader.inputs if second[b] != target]
    inputs += [first[b] for b in maker.inputs]
    outputs = tuple(second[b] for b in reader.outputs)
    if set(inputs) & set(outputs):
        return None
    made = replace(
        reader,
        inputs=tuple(dict.fromkeys(inputs)),
        outputs=outputs,
        body=body,
    )
    if match(made) is not None:
        return None
    return canonical(made), tuple(b.name for b in made.buffers)


def _named(kernel: Kernel, actuals: Sequence[str]) -> dict[Buffer, Buffer]:
    return {b: replace(b, name=n) for b, n in zip(kernel.buffers, actuals, strict=True)}


def _with_buffers(statement: Statement, buffers: dict[Buffer, Buffer]) -> Statement:
    loads: dict[Expr, Expr] = {
        load: Load(buffers[load.buffer], load.index)
        for top in statement_exprs(statement)
        for load in walk(top)
        if isinstance(load, Load)
    }
    made = rebuild_statement(statement, loads)
    return replace(made, buffer=buffers[made.buffer]) if isinstance(made, Store) else made


def _value_at(
    value: Expr,
    buffers: dict[Buffer, Buffer],
    places: Sequence[Expr | None],
    index: Sequence[Expr],
) -> Expr:
    """The maker's value for the element at `index`."""
    loops: dict[Expr, Expr] = {
        place: at for place, at in zip(places, index, strict=True) if place is not None
    }
    change = dict(loops)
    for part in walk(value):
        if isinstance(part, Load):
            at = tuple(rebuild(i, loops) for i in part.index)
            change[part] = Load(buffers[part.buffer], at)
        if isinstance(part, Var) and part not in change:
            change[part] = Const(0, part.dtype)
    return rebuild(value, change)
