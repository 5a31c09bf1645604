"""Make one kernel of two: a consumer takes its producer's values, siblings share a sweep.

`join` merges a producer into its consumer where every iteration of the consumer reads only what
the same iteration of the producer stored. What is then read is the stored value itself; the store
goes where nobody else needs it. So bias, ReLU and the add of another gradient ride behind a
convolution's sum in registers, and chains of elementwise operators become one loop.
`join_siblings` puts two kernels that read the same things side by side in one sweep (a loss and its
gradient); sums and other locals that both compute are computed once.

Both give the kernel and the actual names of its formal arguments, or a sentence that says why not.
Formal arguments that get the same actual become one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from graphc.kernel.contraction import match
from graphc.kernel.facts import covers
from graphc.kernel.lang import (
    INDEX,
    Axis,
    Buffer,
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
    affine,
    rebuild,
    rebuild_statement,
    statement_exprs,
    walk,
)
from graphc.kernel.text import print_expr
from graphc.kernel.verify import determines

Joined = tuple[Kernel, tuple[str, ...]]

# Functions too slow to be computed again at every place that reads the value.
_COSTLY = {"exp", "log", "log1p", "expm1", "tanh", "sigmoid", "pow", "sqrt", "div", "random_bits"}


class _RefusalError(Exception):
    """Why two kernels stay two; never leaves this file."""


def join(
    first: Kernel,
    first_actuals: Sequence[str],
    second: Kernel,
    second_actuals: Sequence[str],
    drop: Collection[str] = (),
) -> Joined | str:
    """`second` merged into `first`, which stores what it reads; outputs in `drop` are not stored.

    The actuals name the arrays passed as the kernels' buffers, in order; `drop` names outputs of
    `first` that nobody but `second` reads.
    """
    try:
        one, two = _part(first, first_actuals), _part(second, second_actuals)
        links = [name for name in one.outputs if name in two.inputs]
        if not links:
            raise _RefusalError(f"'{second.name}' reads nothing that '{first.name}' stores")
        for name in drop:
            if name not in links:
                raise _RefusalError(f"{name} is not read by '{second.name}', it cannot be dropped")
        _apart(one, two)
        if _fills(one) and set(one.outputs) <= set(drop):
            two = _filled(one, two)
            one = _Part(replace(one.kernel, each=two.kernel.each, body=()))
        else:
            one, two = _naming(one, links), _alongside(one, two, links)
            two = _taking(one, two, links, drop)
        return _merged(first, second, one, two, drop)
    except _RefusalError as refusal:
        return str(refusal)


def join_siblings(
    first: Kernel,
    first_actuals: Sequence[str],
    second: Kernel,
    second_actuals: Sequence[str],
) -> Joined | str:
    """Both kernels in one sweep: they share inputs, and neither reads what the other stores."""
    try:
        one, two = _part(first, first_actuals), _part(second, second_actuals)
        _apart(one, two)
        for name in one.outputs:
            if name in two.inputs:
                raise _RefusalError(f"'{second.name}' reads {name}, which '{first.name}' stores")
        shared = [name for name in one.inputs if name in two.inputs]
        if not shared:
            raise _RefusalError(f"'{first.name}' and '{second.name}' share no input")
        two = _alongside(one, two, shared)
        return _merged(first, second, one, two, ())
    except _RefusalError as refusal:
        return str(refusal)


# -- one kernel with its buffers named by what is passed ----------------------------------------


@dataclass(frozen=True)
class _Part:
    """A kernel whose buffers bear the names of the actual arrays."""

    kernel: Kernel

    @property
    def inputs(self) -> dict[str, Buffer]:
        return {b.name: b for b in self.kernel.inputs}

    @property
    def outputs(self) -> dict[str, Buffer]:
        return {b.name: b for b in self.kernel.outputs}


def _part(kernel: Kernel, actuals: Sequence[str]) -> _Part:
    if len(actuals) != len(kernel.buffers):
        raise _RefusalError(
            f"kernel '{kernel.name}' has {len(kernel.buffers)} arguments, not {len(actuals)}"
        )
    named = {b: replace(b, name=n) for b, n in zip(kernel.buffers, actuals, strict=True)}
    seen: dict[str, Buffer] = {}
    for buffer in named.values():
        if seen.setdefault(buffer.name, buffer) != buffer:
            raise _RefusalError(f"'{kernel.name}' sees {buffer.name} in two layouts")
    renamed = _renamed(kernel, named, {}, {})
    inputs = tuple(dict.fromkeys(renamed.inputs))
    outputs = tuple(dict.fromkeys(renamed.outputs))
    for buffer in outputs:
        if buffer in inputs or len(outputs) < len(kernel.outputs):
            raise _RefusalError(f"'{kernel.name}' gets {buffer.name} twice and stores to it")
    return _Part(replace(renamed, inputs=inputs, outputs=outputs))


def _apart(one: _Part, two: _Part) -> None:
    """What would depend on the order of the two, other than by links."""
    for name in two.outputs:
        if name in one.outputs:
            raise _RefusalError(f"both store {name}")
        if name in one.inputs:
            raise _RefusalError(
                f"'{two.kernel.name}' stores {name}, which '{one.kernel.name}' reads"
            )
    known = {**one.inputs, **one.outputs}
    for name, buffer in {**two.inputs, **two.outputs}.items():
        if known.get(name, buffer) != buffer:
            raise _RefusalError(f"they see {name} in two layouts")


def _renamed(
    kernel: Kernel, buffers: dict[Buffer, Buffer], axes: dict[Axis, Axis], names: dict[str, str]
) -> Kernel:
    """The kernel with other buffers, axes and names of locals; what is not named stays."""

    def expr(old: Expr) -> Expr:
        if isinstance(old, Var):
            return replace(old, axis=axes.get(old.axis, old.axis))
        if isinstance(old, Local):
            return local(old)
        if isinstance(old, Load):
            return Load(buffers.get(old.buffer, old.buffer), tuple(map(expr, old.index)))
        if isinstance(old, Call):
            return replace(old, args=tuple(map(expr, old.args)))
        return old

    def local(old: Local) -> Local:
        return replace(old, name=names.get(old.name, old.name))

    def loops(old: tuple[Axis, ...]) -> tuple[Axis, ...]:
        return tuple(axes.get(axis, axis) for axis in old)

    def statement(old: Statement) -> Statement:
        if isinstance(old, Let):
            return Let(local(old.local), expr(old.value))
        if isinstance(old, Check):
            return replace(old, condition=expr(old.condition), value=expr(old.value))
        guard = None if old.where is None else expr(old.where)
        if isinstance(old, Fold):
            values = tuple(map(expr, old.values))
            return Fold(old.kind, tuple(map(local, old.locals)), values, loops(old.axes), guard)
        index, target = tuple(map(expr, old.index)), buffers.get(old.buffer, old.buffer)
        return Store(target, index, expr(old.value), loops(old.axes), guard, old.mode)

    return Kernel(
        kernel.name,
        tuple(buffers.get(b, b) for b in kernel.inputs),
        tuple(buffers.get(b, b) for b in kernel.outputs),
        loops(kernel.each),
        tuple(map(statement, kernel.body)),
    )


# -- the same iterations ------------------------------------------------------------------------


def _alongside(one: _Part, two: _Part, shared: Sequence[str]) -> _Part:
    """`two` with the loop variables of `one`, matched through the indices of `shared` arrays."""
    mark = {axis: replace(axis, name=f"{axis.name}'") for axis in _all_axes(two.kernel)}
    names = {local.name: f"{local.name}'" for local in _all_locals(two.kernel)}
    two = _Part(_renamed(two.kernel, {}, mark, names))
    match_ = _matched(one, two, shared)
    if match_ is None:
        match_ = _by_place(one.kernel, two.kernel)
    missing = [a for a in two.kernel.each if a not in match_ and a.extent != 1]
    idle = [a for a in one.kernel.each if a not in match_.values() and a.extent != 1]
    if missing or idle:
        shown = [" x ".join(str(a.extent) for a in p.kernel.each) or "1" for p in (one, two)]
        raise _RefusalError(
            f"'{one.kernel.name}' and '{two.kernel.name}' run over different iterations:"
            f" {shown[0]} and {shown[1]}"
        )
    order = [match_[a] for a in two.kernel.each if a.extent != 1]
    kept = order == [a for a in one.kernel.each if a in order]
    if not kept and any(_is_ordered(s) for s in two.kernel.body):
        raise _RefusalError(f"'{two.kernel.name}' adds in the order of its own loops")
    return _Part(_renamed(_without_single_loops(two.kernel, match_), {}, match_, {}))


def _without_single_loops(kernel: Kernel, kept: Collection[Axis]) -> Kernel:
    """The kernel without those loops of extent 1 that are not in `kept`."""
    gone: dict[Expr, Expr] = {
        Var(a): Const(0, INDEX) for a in kernel.each if a.extent == 1 and a not in kept
    }
    each = tuple(a for a in kernel.each if Var(a) not in gone)
    return replace(kernel, each=each, body=tuple(rebuild_statement(s, gone) for s in kernel.body))


def _is_ordered(statement: Statement) -> bool:
    """Whether the order of `each` matters for the bits of the result: sums at a data index."""
    return (
        isinstance(statement, Store)
        and statement.mode == "add"
        and any(affine(i) is None for i in statement.index)
    )


def _all_axes(kernel: Kernel) -> list[Axis]:
    own = [axis for s in kernel.body for axis in getattr(s, "axes", ())]
    return list(dict.fromkeys((*kernel.each, *own)))


def _all_locals(kernel: Kernel) -> Iterator[Local]:
    for statement in kernel.body:
        if isinstance(statement, Let):
            yield statement.local
        elif isinstance(statement, Fold):
            yield from statement.locals


def _places(kernel: Kernel, name: str) -> Iterator[tuple[Expr, ...]]:
    """Every index with which an array is read or stored."""
    for statement in kernel.body:
        if isinstance(statement, Store) and statement.buffer.name == name:
            yield statement.index
        for expr in statement_exprs(statement):
            for part in walk(expr):
                if isinstance(part, Load) and part.buffer.name == name:
                    yield part.index


def _matched(one: _Part, two: _Part, shared: Sequence[str]) -> dict[Axis, Axis] | None:
    """Loops of `two` that walk the shared arrays as loops of `one` do; None where they disagree."""
    found: dict[Axis, Axis] = {}
    for name in shared:
        for left in _places(one.kernel, name):
            for right in _places(two.kernel, name):
                for a, b in _same_walk(left, right):
                    if a not in one.kernel.each or b not in two.kernel.each:
                        continue
                    if found.setdefault(b, a) != a:
                        return None
    if len(set(found.values())) < len(found):
        return None
    return found if all(b in found or b.extent == 1 for b in two.kernel.each) else None


def _same_walk(left: Sequence[Expr], right: Sequence[Expr]) -> Iterator[tuple[Axis, Axis]]:
    """Axes that stand alone, and alike, at the same place of both indices."""
    for a, b in zip(map(affine, left), map(affine, right), strict=True):
        if a is None or b is None or len(a.terms) != 1 or len(b.terms) != 1:
            continue
        (first, factor), (second, same) = a.terms[0], b.terms[0]
        if factor == same and a.constant == b.constant and first.extent == second.extent:
            yield first, second


def _by_place(one: Kernel, two: Kernel) -> dict[Axis, Axis]:
    """Loops paired in order, where the extents agree."""
    left = [a for a in one.each if a.extent != 1]
    right = [a for a in two.each if a.extent != 1]
    if [a.extent for a in left] != [a.extent for a in right]:
        return {}
    return dict(zip(right, left, strict=True))


# -- values instead of loads --------------------------------------------------------------------


def _fills(one: _Part) -> bool:
    """Whether a kernel does nothing but set whole arrays to constants."""
    return all(
        isinstance(s, Store) and isinstance(s.value, Const) and covers(s) for s in one.kernel.body
    )


def _filled(one: _Part, two: _Part) -> _Part:
    """`two` with constants for what it reads of arrays that `one` fills, wherever it reads."""
    values = {s.buffer.name: s.value for s in one.kernel.body if isinstance(s, Store)}
    body = [
        rebuild_statement(
            s, {load: value for name, value in values.items() for load in _loads(s, name)}
        )
        for s in two.kernel.body
    ]
    return _Part(replace(two.kernel, body=tuple(body)))


def _naming(one: _Part, links: Sequence[str]) -> _Part:
    """`one` with a local for each value that it stores to `links` outside loops of a store."""
    body: list[Statement] = []
    for statement in one.kernel.body:
        if (
            isinstance(statement, Store)
            and statement.buffer.name in links
            and not statement.axes
            and statement.where is None
            and not isinstance(statement.value, Local | Const)
        ):
            local = Local(f"{statement.buffer.name}#", statement.value.dtype)
            body.append(Let(local, statement.value))
            statement = replace(statement, value=local)
        body.append(statement)
    return _Part(replace(one.kernel, body=tuple(body)))


def _taking(one: _Part, two: _Part, links: Sequence[str], drop: Collection[str]) -> _Part:
    """`two` with its loads of linked arrays replaced by what `one` stores there."""
    body = list(two.kernel.body)
    for name in links:
        store = _only_store(one, name)
        for position, statement in enumerate(body):
            change: dict[Expr, Expr] = {}
            for load in _loads(statement, name):
                value = _value_at(one.kernel, store, load, statement, two.kernel.name)
                if store.axes and _repeats(store, statement, body, name):
                    if name in drop:
                        raise _RefusalError(
                            f"{print_expr(load)} would be computed again at every use"
                        )
                    continue  # read back what this iteration has just stored
                change[load] = value
            body[position] = rebuild_statement(statement, change)
    return _Part(replace(two.kernel, body=tuple(body)))


def _only_store(one: _Part, name: str) -> Store:
    stores = [s for s in one.kernel.body if isinstance(s, Store) and s.buffer.name == name]
    store = stores[0]
    if len(stores) > 1 or store.mode == "add" or store.where is not None:
        raise _RefusalError(f"'{one.kernel.name}' stores {name} in parts")
    if not determines([affine(i) for i in store.index], (*one.kernel.each, *store.axes)):
        raise _RefusalError(f"'{one.kernel.name}' may store an element of {name} twice")
    if any(isinstance(p, Load) and p.buffer.name in one.outputs for p in walk(store.value)):
        raise _RefusalError(f"{name} is computed from what '{one.kernel.name}' stores elsewhere")
    return store


def _loads(statement: Statement, name: str) -> list[Load]:
    found = [
        part
        for expr in statement_exprs(statement)
        for part in walk(expr)
        if isinstance(part, Load) and part.buffer.name == name
    ]
    return list(dict.fromkeys(found))


def _value_at(
    producer: Kernel, store: Store, load: Load, statement: Statement, reader: str
) -> Expr:
    """The value that the same iteration stored at the element that `load` reads."""
    own = getattr(statement, "axes", ())
    walks = dict(_same_walk(store.index, load.index))
    change: dict[Expr, Expr] = {
        Var(a): Var(b) for a, b in walks.items() if a in store.axes and b in own
    }
    lost = [a for a in store.axes if Var(a) not in change and a.extent != 1]
    index = tuple(rebuild(i, change) for i in store.index)
    if lost or not _same_element(index, load.index):
        raise _RefusalError(
            f"'{reader}' reads {print_expr(load)}, but an iteration of '{producer.name}' stores"
            f" {print_expr(Load(store.buffer, store.index))}"
        )
    for axis in store.axes:
        if Var(axis) not in change:
            change[Var(axis)] = Const(0, INDEX)
    return rebuild(store.value, change)


def _same_element(left: Sequence[Expr], right: Sequence[Expr]) -> bool:
    for a, b in zip(left, right, strict=True):
        one, two = affine(a), affine(b)
        if one is None or two is None:
            return False
        terms = [{t for t in form.terms if t[0].extent != 1} for form in (one, two)]
        if terms[0] != terms[1] or one.constant != two.constant:
            return False
    return True


def _repeats(store: Store, statement: Statement, body: Sequence[Statement], name: str) -> bool:
    """Whether putting the value where it is read computes something costly more than once."""
    calls = [part for part in walk(store.value) if getattr(part, "function", "") in _COSTLY]
    own = getattr(statement, "axes", ())
    more = sum(len(_loads(s, name)) for s in body) > 1 or len(own) > len(store.axes)
    return bool(calls) and more


# -- one kernel ---------------------------------------------------------------------------------


def _merged(first: Kernel, second: Kernel, one: _Part, two: _Part, drop: Collection[str]) -> Joined:
    body = [s for s in one.kernel.body if not (isinstance(s, Store) and s.buffer.name in drop)]
    outputs = [b for b in one.kernel.outputs if b.name not in drop]
    outputs += two.kernel.outputs
    body = _needed(_shared((*body, *two.kernel.body), outputs))
    read = {load.buffer for s in body for e in statement_exprs(s) for load in _all_loads(e)}
    inputs = dict.fromkeys((*one.kernel.inputs, *two.kernel.inputs))
    kernel = Kernel(
        f"{first.name}+{second.name}",
        tuple(b for b in inputs if b in read and b not in outputs),
        tuple(outputs),
        one.kernel.each,
        tuple(body),
    )
    for contraction in (first, second):
        if match(contraction) is not None and match(kernel) is None:
            raise _RefusalError(f"the contraction in '{contraction.name}' would be lost")
    return canonical(kernel), tuple(b.name for b in kernel.buffers)


def _all_loads(expr: Expr) -> list[Load]:
    return [part for part in walk(expr) if isinstance(part, Load)]


def _shared(body: Sequence[Statement], outputs: Sequence[Buffer]) -> list[Statement]:
    """The statements without those that repeat an earlier one; checks count too."""
    seen: dict[object, Statement] = {}
    change: dict[Expr, Expr] = {}
    kept: list[Statement] = []
    for old in body:
        statement = rebuild_statement(old, change)
        stored = any(
            load.buffer in outputs for e in statement_exprs(statement) for load in _all_loads(e)
        )
        if isinstance(statement, Store) or stored:
            kept.append(statement)
            continue
        key = _key(statement)
        known = seen.setdefault(key, statement)
        if known is statement:
            kept.append(statement)
        elif isinstance(statement, Let) and isinstance(known, Let):
            change[statement.local] = known.local
        elif isinstance(statement, Fold) and isinstance(known, Fold):
            change.update(zip(statement.locals, known.locals, strict=True))
    return kept


def _key(statement: Let | Fold | Check) -> object:
    """Equal for statements that compute the same, whatever their loops and results are called."""
    if isinstance(statement, Let):
        return statement.value
    if isinstance(statement, Check):
        return statement.condition, statement.message, statement.value
    loops: dict[Expr, Expr] = {
        Var(a): Var(Axis(f"#{n}", a.extent)) for n, a in enumerate(statement.axes)
    }
    plain = rebuild_statement(statement, loops)
    assert isinstance(plain, Fold)
    return plain.kind, plain.values, plain.where, tuple(a.extent for a in plain.axes)


def _needed(body: Sequence[Statement]) -> list[Statement]:
    """The statements whose results are used, directly or not, by a store or a check."""
    used: set[Expr] = set()
    kept: list[Statement] = []
    for statement in reversed(body):
        results: tuple[Local, ...] = ()
        if isinstance(statement, Let):
            results = (statement.local,)
        elif isinstance(statement, Fold):
            results = statement.locals
        if results and not used & set(results):
            continue
        kept.append(statement)
        parts = (part for expr in statement_exprs(statement) for part in walk(expr))
        used |= {part for part in parts if isinstance(part, Local)}
    return kept[::-1]


def canonical(kernel: Kernel) -> Kernel:
    """The kernel with names by order of appearance: equal work becomes equal text."""
    buffers = {b: replace(b, name=f"a{n}") for n, b in enumerate(kernel.buffers)}
    axes: dict[Axis, Axis] = {}
    for axis in _all_axes(kernel):
        letter = "i" if axis in kernel.each else "r"
        axes[axis] = replace(axis, name=f"{letter}{len(axes) + 1}")
    names = {local.name: f"t{n}" for n, local in enumerate(_all_locals(kernel), 1)}
    return _renamed(kernel, buffers, axes, names)
