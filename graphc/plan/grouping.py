"""Gives an elementwise kernel the loops of a grouped producer, so that the two can be joined.

A grouped convolution runs over (group, channel of the group) and stores at `group * 128 + channel`;
what follows it runs over all channels in one loop. Splitting that loop changes no arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from graphc.kernel.affine import affine
from graphc.kernel.lang import Axis, Expr, Kernel, Load, Store, Var
from graphc.kernel.walk import loads, rebuild_statement


def regrouped(
    producer: Kernel, made: Sequence[str], consumer: Kernel, read: Sequence[str]
) -> Kernel:
    """The consumer with those of its loops split that the producer runs in two; itself if none.

    `made` and `read` name the arrays that the producer writes and the consumer reads, in the order
    of the kernels' outputs and inputs.
    """
    for output, name in zip(producer.outputs, made, strict=True):
        for statement in producer.body:
            if not isinstance(statement, Store) or statement.buffer != output or name not in read:
                continue
            if any(_two_digits(place, producer) for place in statement.index):
                there = loads(consumer, (read.index(name),))
                consumer = _split_like(producer, statement, consumer, there)
    return consumer


def _split_like(producer: Kernel, store: Store, consumer: Kernel, read: Sequence[Load]) -> Kernel:
    """The consumer with the loop split along which its loads walk what the store made in two."""
    for place, expr in enumerate(store.index):
        pair = _two_digits(expr, producer)
        if pair is None:
            continue
        whole = {load.index[place] for load in read}
        if len(whole) != 1:
            continue
        variable = whole.pop()
        extent = pair[0].extent * pair[1].extent
        if not isinstance(variable, Var) or variable.axis not in consumer.each:
            continue
        if variable.axis.extent == extent:
            consumer = _split(consumer, variable.axis, pair)
    return consumer


def _two_digits(expr: Expr, kernel: Kernel) -> tuple[Axis, Axis] | None:
    """(group, member) where the index is group * members + member of two parallel loops."""
    form = affine(expr)
    if form is None or form.constant or len(form.terms) != 2:
        return None
    (outer, factor), (inner, one) = sorted(form.terms, key=lambda term: -term[1])
    inside = outer in kernel.each and inner in kernel.each
    return (outer, inner) if inside and one == 1 and factor == inner.extent else None


def _split(kernel: Kernel, axis: Axis, like: tuple[Axis, Axis]) -> Kernel:
    group, member = Axis(f"{axis.name}g", like[0].extent), Axis(f"{axis.name}m", like[1].extent)
    change: dict[Expr, Expr] = {Var(axis): Var(group) * member.extent + Var(member)}
    each: list[Axis] = []
    for old in kernel.each:
        each.extend((group, member) if old == axis else (old,))
    body = tuple(rebuild_statement(statement, change) for statement in kernel.body)
    return replace(kernel, each=tuple(each), body=body)
