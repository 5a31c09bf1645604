"""What a kernel computes, as a short text: equal kernels are emitted once, and cached."""

from __future__ import annotations

import hashlib

from graphc.kernel.lang import Call, Check, Expr, Fold, Kernel, Let, Load


def fingerprint(kernel: Kernel) -> str:
    """A text hash of all that a kernel computes: equal for kernels that differ in name only."""
    head = (kernel.inputs, kernel.outputs, kernel.each, kernel.winograd, kernel.unread)
    lines = [repr(head)]
    numbers: dict[int, int] = {}
    keep: list[Expr] = []

    def number(expr: Expr) -> int:
        known = numbers.get(id(expr))
        if known is not None:
            return known
        if isinstance(expr, Load):
            text = f"load {expr.buffer.name} {[number(i) for i in expr.index]}"
        elif isinstance(expr, Call):
            text = f"{expr.function} {expr.dtype} {[number(a) for a in expr.args]}"
        else:
            text = repr(expr)
        lines.append(text)
        keep.append(expr)
        numbers[id(expr)] = len(lines)
        return len(lines)

    for statement in kernel.body:
        if isinstance(statement, Let):
            text = f"let {statement.local} {number(statement.value)}"
        elif isinstance(statement, Check):
            text = f"check {number(statement.condition)} {number(statement.value)}"
        elif isinstance(statement, Fold):
            values = [number(v) for v in statement.values]
            where = number(statement.where) if statement.where is not None else 0
            text = f"{statement.kind} {statement.locals} {values} {statement.axes} {where}"
        else:
            index = [number(i) for i in statement.index]
            where = number(statement.where) if statement.where is not None else 0
            value = number(statement.value)
            text = f"{statement.mode} {statement.buffer.name} {index} {value}"
            text += f" {statement.axes} {where}"
        lines.append(text)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
