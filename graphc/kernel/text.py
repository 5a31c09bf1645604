"""Kernels as text for people, which `graphc.kernel.reading` reads back.

    kernel softmax(x: float32[2, 5, 9], y: float32[2, 5, 9]) each o:2 i:9
      top = max c:5 x[o, c, i]
      mass = sum c:5 exp(sub(x[o, c, i], top))
      y[o, c, i] = div(exp(sub(x[o, c, i], top)), mass) for c:5

A buffer is an output where a statement stores to it. `strides (45, 1, 5)` after a type says that it
does not lie in row-major order. `winograd 2 v u` ends the first line of a convolution that may be
run as Winograd's, in tiles of 2x2, with the memory v and the filters u; a weight gradient has no
filters. `unread y` ends it where nothing else in the program reads y. Guards follow `where`; `+=`
adds; a check reads `check CONDITION, "message", VALUE`. A number is an int64, with a point a
float32; others name their type: `1.0:float64`. The name of a type converts: `int64(x[o])`.
"""

from __future__ import annotations

import json

from graphc.ir.types import TensorType, row_major
from graphc.kernel.lang import (
    BOOL,
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
    Var,
)

# Words that cannot be names of buffers, axes or locals.
RESERVED = (
    *("for", "where", "each", "winograd", "unread", "check", "strides"),
    *("true", "false", "inf", "nan"),
)


def print_kernel(kernel: Kernel) -> str:
    """The kernel as text, ending in a newline."""
    formals = ", ".join(print_buffer(buffer) for buffer in kernel.buffers)
    each = f" each {_axes(kernel.each)}" if kernel.each else ""
    way = ""
    if kernel.winograd is not None:
        form = kernel.winograd
        way = f" winograd {form.tile} {form.work} {form.filters or ''}".rstrip()
    if kernel.unread:
        way += f" unread {' '.join(kernel.unread)}"
    lines = [f"kernel {kernel.name}({formals}){each}{way}"]
    lines += [f"  {print_statement(statement)}" for statement in kernel.body]
    return "\n".join(lines) + "\n"


def print_buffer(buffer: Buffer) -> str:
    """`x: float32[2, 5]`, and its strides where they are not row-major."""
    text = f"{buffer.name}: {TensorType(buffer.dtype, buffer.shape)}"
    if buffer.strides != row_major(buffer.shape):
        text += f" strides ({', '.join(map(str, buffer.strides))})"
    return text


def print_statement(statement: Statement) -> str:
    """One statement on one line."""
    if isinstance(statement, Let):
        return f"{statement.local.name} = {print_expr(statement.value)}"
    if isinstance(statement, Check):
        condition, value = print_expr(statement.condition), print_expr(statement.value)
        return f"check {condition}, {json.dumps(statement.message)}, {value}"
    guard = "" if statement.where is None else f" where {print_expr(statement.where)}"
    axes = _axes(statement.axes)
    if isinstance(statement, Fold):
        names = ", ".join(local.name for local in statement.locals)
        values = ", ".join(map(print_expr, statement.values))
        over = f" {axes}" if axes else ""
        return f"{names} = {statement.kind}{over} {values}{guard}"
    sign = "+=" if statement.mode == "add" else "="
    place = print_expr(Load(statement.buffer, statement.index))
    loops = f" for {axes}" if axes else ""
    return f"{place} {sign} {print_expr(statement.value)}{loops}{guard}"


def print_expr(expr: Expr) -> str:
    """An expression; functions are written before their arguments."""
    if isinstance(expr, Const):
        return _number(expr)
    if isinstance(expr, Var):
        return expr.axis.name
    if isinstance(expr, Local):
        return expr.name
    if isinstance(expr, Load):
        return f"{expr.buffer.name}[{', '.join(map(print_expr, expr.index))}]"
    assert isinstance(expr, Call)
    function = expr.dtype if expr.function == "cast" else expr.function
    return f"{function}({', '.join(map(print_expr, expr.args))})"


def _axes(axes: tuple[Axis, ...]) -> str:
    return " ".join(f"{axis.name}:{axis.extent}" for axis in axes)


def _number(const: Const) -> str:
    if const.dtype == BOOL:
        return "true" if const.value else "false"
    text = repr(const.value)
    return text if const.dtype in (INDEX, "float32") else f"{text}:{const.dtype}"
