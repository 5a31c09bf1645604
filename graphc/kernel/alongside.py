"""Two kernels brought to the same arrays and the same loops, or a reason why they cannot be."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from graphc.kernel.affine import affine
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
)
from graphc.kernel.walk import rebuild_statement, statement_exprs, walk


class RefusalError(Exception):
    """Why two kernels stay two; `graphc.kernel.join` makes a sentence of it."""


# -- one kernel with its buffers named by what is passed ----------------------------------------


@dataclass(frozen=True)
class Part:
    """A kernel whose buffers bear the names of the actual arrays."""

    kernel: Kernel

    @property
    def inputs(self) -> dict[str, Buffer]:
        """What it reads, by name."""
        return {b.name: b for b in self.kernel.inputs}

    @property
    def outputs(self) -> dict[str, Buffer]:
        """What it stores to, by name."""
        return {b.name: b for b in self.kernel.outputs}


def part_of(kernel: Kernel, actuals: Sequence[str]) -> Part:
    """The kernel with `actuals` as the names of its buffers; those of one name become one.

    Raises RefusalError where one array would be seen in two layouts, or read and stored.
    """
    if len(actuals) != len(kernel.buffers):
        raise RefusalError(
            f"kernel '{kernel.name}' has {len(kernel.buffers)} arguments, not {len(actuals)}"
        )
    named = {b: replace(b, name=n) for b, n in zip(kernel.buffers, actuals, strict=True)}
    seen: dict[str, Buffer] = {}
    for buffer in named.values():
        if seen.setdefault(buffer.name, buffer) != buffer:
            raise RefusalError(f"'{kernel.name}' sees {buffer.name} in two layouts")
    made = renamed(kernel, named, {}, {})
    inputs = tuple(dict.fromkeys(made.inputs))
    outputs = tuple(dict.fromkeys(made.outputs))
    for buffer in outputs:
        if buffer in inputs or len(outputs) < len(kernel.outputs):
            raise RefusalError(f"'{kernel.name}' gets {buffer.name} twice and stores to it")
    return Part(replace(made, inputs=inputs, outputs=outputs))


def apart(one: Part, two: Part) -> None:
    """Raise RefusalError where something else than links makes the order of the two matter."""
    for name in two.outputs:
        if name in one.outputs:
            raise RefusalError(f"both store {name}")
        if name in one.inputs:
            raise RefusalError(
                f"'{two.kernel.name}' stores {name}, which '{one.kernel.name}' reads"
            )
    known = {**one.inputs, **one.outputs}
    for name, buffer in {**two.inputs, **two.outputs}.items():
        if known.get(name, buffer) != buffer:
            raise RefusalError(f"they see {name} in two layouts")


def renamed(
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


def alongside(one: Part, two: Part, shared: Sequence[str]) -> Part:
    """`two` with the loop variables of `one`, matched through the indices of `shared` arrays.

    Raises RefusalError where they run over different iterations.
    """
    mark = {axis: replace(axis, name=f"{axis.name}'") for axis in all_axes(two.kernel)}
    names = {local.name: f"{local.name}'" for local in all_locals(two.kernel)}
    two = Part(renamed(two.kernel, {}, mark, names))
    match_ = _matched(one, two, shared)
    if match_ is None:
        match_ = _by_place(one.kernel, two.kernel)
    missing = [a for a in two.kernel.each if a not in match_ and a.extent != 1]
    idle = [a for a in one.kernel.each if a not in match_.values() and a.extent != 1]
    if missing or idle:
        shown = [" x ".join(str(a.extent) for a in p.kernel.each) or "1" for p in (one, two)]
        raise RefusalError(
            f"'{one.kernel.name}' and '{two.kernel.name}' run over different iterations:"
            f" {shown[0]} and {shown[1]}"
        )
    order = [match_[a] for a in two.kernel.each if a.extent != 1]
    kept = order == [a for a in one.kernel.each if a in order]
    if not kept and any(_is_ordered(s) for s in two.kernel.body):
        raise RefusalError(f"'{two.kernel.name}' adds in the order of its own loops")
    return Part(renamed(_without_single_loops(two.kernel, match_), {}, match_, {}))


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


def all_axes(kernel: Kernel) -> list[Axis]:
    """Its loops, and those of its folds and stores."""
    own = [axis for s in kernel.body for axis in getattr(s, "axes", ())]
    return list(dict.fromkeys((*kernel.each, *own)))


def all_locals(kernel: Kernel) -> Iterator[Local]:
    """Every local that is set, in order."""
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


def _matched(one: Part, two: Part, shared: Sequence[str]) -> dict[Axis, Axis] | None:
    """Loops of `two` that walk the shared arrays as loops of `one` do; None where they disagree."""
    found: dict[Axis, Axis] = {}
    for name in shared:
        for left in _places(one.kernel, name):
            for right in _places(two.kernel, name):
                for a, b in same_walk(left, right):
                    if a not in one.kernel.each or b not in two.kernel.each:
                        continue
                    if found.setdefault(b, a) != a:
                        return None
    if len(set(found.values())) < len(found):
        return None
    return found if all(b in found or b.extent == 1 for b in two.kernel.each) else None


def same_walk(left: Sequence[Expr], right: Sequence[Expr]) -> Iterator[tuple[Axis, Axis]]:
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
