"""Moves loops of `each` into the store of a map.

    each n:8 c:96 i:3025                       each c:96
      y[n, c, i] = mul(x[n, c, i], f[c])  =>     y[n, c, i] = mul(x[n, c, i], f[c]) for n:8 i:3025

What is left in `each` may then be shared with a kernel that sums up along the loops that were
moved: the form in which a softmax is written.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from graphc.kernel.affine import affine
from graphc.kernel.lang import Axis, Expr, Kernel, Let, Store
from graphc.kernel.verify import determines
from graphc.kernel.walk import axes_of, rebuild_statement


def with_loops_in_store(kernel: Kernel, kept: Collection[Axis]) -> Kernel | str:
    """The map with `each` cut down to the `kept` axes, or a sentence that says why not.

    A local that changes along the other axes is computed where the store reads it.
    """
    *lets, store = kernel.body
    if not all(isinstance(s, Let) for s in lets) or not isinstance(store, Store) or store.axes:
        return f"'{kernel.name}' does more than to make one element in each iteration"
    if store.mode != "set" or not determines([affine(i) for i in store.index], kernel.each):
        return f"'{kernel.name}' may store an element of {store.buffer.name} twice"
    moved = tuple(axis for axis in kernel.each if axis not in kept)
    known: dict[Expr, Expr] = {}
    stay: list[Let] = []
    for statement in lets:
        changed = rebuild_statement(statement, known)
        assert isinstance(changed, Let)
        if axes_of(changed.value) & set(moved):
            known[changed.local] = changed.value
        else:
            stay.append(changed)
    last = rebuild_statement(store, known)
    assert isinstance(last, Store)
    each = tuple(axis for axis in kernel.each if axis in kept)
    return replace(kernel, each=each, body=(*stay, replace(last, axes=moved)))
