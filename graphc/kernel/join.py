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

from collections.abc import Collection, Sequence
from dataclasses import replace

from graphc.kernel.affine import affine
from graphc.kernel.alongside import (
    Part,
    RefusalError,
    all_axes,
    all_locals,
    alongside,
    apart,
    part_of,
    renamed,
    same_walk,
)
from graphc.kernel.contraction import match
from graphc.kernel.facts import covers
from graphc.kernel.lang import (
    INDEX,
    Axis,
    Buffer,
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
)
from graphc.kernel.text import print_expr
from graphc.kernel.verify import determines
from graphc.kernel.walk import rebuild, rebuild_statement, statement_exprs, walk

Joined = tuple[Kernel, tuple[str, ...]]

# Functions too slow to be computed again at every place that reads the value.
_COSTLY = {"exp", "log", "log1p", "expm1", "tanh", "sigmoid", "pow", "sqrt", "div", "random_bits"}


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
        one, two = part_of(first, first_actuals), part_of(second, second_actuals)
        links = [name for name in one.outputs if name in two.inputs]
        if not links:
            raise RefusalError(f"'{second.name}' reads nothing that '{first.name}' stores")
        for name in drop:
            if name not in links:
                raise RefusalError(f"{name} is not read by '{second.name}', it cannot be dropped")
        apart(one, two)
        if _fills(one) and set(one.outputs) <= set(drop):
            two = _filled(one, two)
            one = Part(replace(one.kernel, each=two.kernel.each, body=()))
        else:
            one, two = _naming(one, links), alongside(one, two, links)
            two = _taking(one, two, links, drop)
        return _merged(first, second, one, two, drop)
    except RefusalError as refusal:
        return str(refusal)


def join_siblings(
    first: Kernel,
    first_actuals: Sequence[str],
    second: Kernel,
    second_actuals: Sequence[str],
) -> Joined | str:
    """Both kernels in one sweep: they share inputs, and neither reads what the other stores."""
    try:
        one, two = part_of(first, first_actuals), part_of(second, second_actuals)
        apart(one, two)
        for name in one.outputs:
            if name in two.inputs:
                raise RefusalError(f"'{second.name}' reads {name}, which '{first.name}' stores")
        shared = [name for name in one.inputs if name in two.inputs]
        if not shared:
            raise RefusalError(f"'{first.name}' and '{second.name}' share no input")
        two = alongside(one, two, shared)
        return _merged(first, second, one, two, ())
    except RefusalError as refusal:
        return str(refusal)


# -- values instead of loads --------------------------------------------------------------------


def _fills(one: Part) -> bool:
    """Whether a kernel does nothing but set whole arrays to constants."""
    return all(
        isinstance(s, Store) and isinstance(s.value, Const) and covers(s) for s in one.kernel.body
    )


def _filled(one: Part, two: Part) -> Part:
    """`two` with constants for what it reads of arrays that `one` fills, wherever it reads."""
    values = {s.buffer.name: s.value for s in one.kernel.body if isinstance(s, Store)}
    body = [
        rebuild_statement(
            s, {load: value for name, value in values.items() for load in _loads(s, name)}
        )
        for s in two.kernel.body
    ]
    return Part(replace(two.kernel, body=tuple(body)))


def _naming(one: Part, links: Sequence[str]) -> Part:
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
    return Part(replace(one.kernel, body=tuple(body)))


def _taking(one: Part, two: Part, links: Sequence[str], drop: Collection[str]) -> Part:
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
                        raise RefusalError(
                            f"{print_expr(load)} would be computed again at every use"
                        )
                    continue  # read back what this iteration has just stored
                change[load] = value
            body[position] = rebuild_statement(statement, change)
    return Part(replace(two.kernel, body=tuple(body)))


def _only_store(one: Part, name: str) -> Store:
    stores = [s for s in one.kernel.body if isinstance(s, Store) and s.buffer.name == name]
    store = stores[0]
    if len(stores) > 1 or store.mode == "add" or store.where is not None:
        raise RefusalError(f"'{one.kernel.name}' stores {name} in parts")
    if not determines([affine(i) for i in store.index], (*one.kernel.each, *store.axes)):
        raise RefusalError(f"'{one.kernel.name}' may store an element of {name} twice")
    if any(isinstance(p, Load) and p.buffer.name in one.outputs for p in walk(store.value)):
        raise RefusalError(f"{name} is computed from what '{one.kernel.name}' stores elsewhere")
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
    walks = dict(same_walk(store.index, load.index))
    change: dict[Expr, Expr] = {
        Var(a): Var(b) for a, b in walks.items() if a in store.axes and b in own
    }
    lost = [a for a in store.axes if Var(a) not in change and a.extent != 1]
    index = tuple(rebuild(i, change) for i in store.index)
    if lost or not _same_element(index, load.index):
        raise RefusalError(
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


def _merged(first: Kernel, second: Kernel, one: Part, two: Part, drop: Collection[str]) -> Joined:
    body = [s for s in one.kernel.body if not (isinstance(s, Store) and s.buffer.name in drop)]
    outputs = [b for b in one.kernel.outputs if b.name not in drop]
    outputs += two.kernel.outputs
    body = needed(without_repeats(_in_like_loops((*body, *two.kernel.body)), outputs))
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
            raise RefusalError(f"the contraction in '{contraction.name}' would be lost")
    return canonical(kernel), tuple(b.name for b in kernel.buffers)


def _all_loads(expr: Expr) -> list[Load]:
    return [part for part in walk(expr) if isinstance(part, Load)]


def _in_like_loops(body: Sequence[Statement]) -> list[Statement]:
    """The statements with one set of loops for all folds of like extents, to be done in one sweep.

    What a fold's own loops are called does not matter.
    """
    known: dict[tuple[int, ...], tuple[Axis, ...]] = {}
    made: list[Statement] = []
    for statement in body:
        if isinstance(statement, Fold):
            axes = known.setdefault(tuple(a.extent for a in statement.axes), statement.axes)
            change: dict[Expr, Expr] = {
                Var(old): Var(new) for old, new in zip(statement.axes, axes, strict=True)
            }
            changed = rebuild_statement(statement, change)
            assert isinstance(changed, Fold)
            statement = replace(changed, axes=axes)
        made.append(statement)
    return made


def without_repeats(body: Sequence[Statement], outputs: Sequence[Buffer]) -> list[Statement]:
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


def needed(body: Sequence[Statement]) -> list[Statement]:
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
    for axis in all_axes(kernel):
        letter = "i" if axis in kernel.each else "r"
        axes[axis] = replace(axis, name=f"{letter}{len(axes) + 1}")
    names = {local.name: f"t{n}" for n, local in enumerate(all_locals(kernel), 1)}
    return renamed(kernel, buffers, axes, names)
