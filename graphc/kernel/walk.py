"""Going over the expressions of a kernel: their parts, and the same with parts replaced."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from graphc.kernel.lang import (
    Axis,
    Call,
    Check,
    Expr,
    Fold,
    Kernel,
    Let,
    Load,
    Statement,
    Var,
    simplified,
)


def walk(expr: Expr) -> Iterator[Expr]:
    """The expression and all its parts, each before its own parts."""
    waiting = [expr]
    while waiting:
        part = waiting.pop()
        yield part
        children = part.children()
        if children:
            waiting.extend(children[::-1])


def statement_exprs(statement: Statement) -> tuple[Expr, ...]:
    """The top-level expressions of a statement, `where` included."""
    if isinstance(statement, Let):
        return (statement.value,)
    if isinstance(statement, Check):
        return (statement.condition, statement.value)
    guard = () if statement.where is None else (statement.where,)
    if isinstance(statement, Fold):
        return statement.values + guard
    return (*statement.index, statement.value, *guard)


def loads(kernel: Kernel, positions: Iterable[int]) -> list[Load]:
    """A kernel's loads of its inputs at some positions, in order."""
    wanted = {kernel.inputs[position] for position in positions}
    return [
        part
        for statement in kernel.body
        for expr in statement_exprs(statement)
        for part in walk(expr)
        if isinstance(part, Load) and part.buffer in wanted
    ]


def axes_of(expr: Expr) -> set[Axis]:
    """Loop variables an expression uses."""
    return {part.axis for part in walk(expr) if isinstance(part, Var)}


def rebuild(expr: Expr, change: dict[Expr, Expr]) -> Expr:
    """The expression with parts replaced, from the outside in."""
    if expr in change:
        return change[expr]
    if isinstance(expr, Load):
        return Load(expr.buffer, tuple(rebuild(i, change) for i in expr.index))
    if isinstance(expr, Call):
        return simplified(replace(expr, args=tuple(rebuild(a, change) for a in expr.args)))
    return expr


def rebuild_statement(statement: Statement, change: dict[Expr, Expr]) -> Statement:
    """The statement with parts of its expressions replaced; loops and locals stay."""
    if not change:
        return statement
    if isinstance(statement, Let):
        return replace(statement, value=rebuild(statement.value, change))
    if isinstance(statement, Check):
        condition = rebuild(statement.condition, change)
        return replace(statement, condition=condition, value=rebuild(statement.value, change))
    guard = None if statement.where is None else rebuild(statement.where, change)
    if isinstance(statement, Fold):
        values = tuple(rebuild(v, change) for v in statement.values)
        return replace(statement, values=values, where=guard)
    index = tuple(rebuild(i, change) for i in statement.index)
    return replace(statement, index=index, value=rebuild(statement.value, change), where=guard)
