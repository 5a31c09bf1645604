"""The text of a Graph, which `graphc.ir.reader` reads back to an equal one.

    graph "digits"
    input %data: float32[2, 4]
    parameter %ip/0: float32[3, 4]
    constant %center: float32[3] = [0.5, 0.0, -0.5]
    state %count: int64[]
    %ip: float32[2, 3] = mat_mul(right_transposed=True) %data, %ip/0 @ ip InnerProduct
    %mean: float32[2, 3] = broadcast(shape=(2, 3), axes=(0,)) %center
    %sum: float32[2, 3] = add %ip, %mean
    %next: int64[] = shift(amount=1.0) %count
    blob ip = %ip
    output ip = %sum
    update count = %next
    keep ip
    loss %sum * 0.5

Grammar, one item a line, `#` starts a comment:

    graph     "graph" NAME                            at most once
    input     ROLE VALUE ":" TYPE ["=" DATA]          ROLE: input parameter state gradient constant
    node      [VALUE ":" TYPE {"," VALUE ":" TYPE} "="] OPERATOR ["(" FIELD {"," FIELD} ")"]
              [VALUE {"," VALUE}] ["@" LAYER KIND ["backward"]]
    end       ("output" | "update" | "blob") NAME "=" VALUE
    keep      "keep" NAME
    loss      "loss" VALUE "*" NUMBER
    FIELD     WORD "=" LITERAL      LITERAL: 1, 0.5, inf, True, None, "text", (1, 2), (1,), ()
    VALUE     "%" NAME              NAME: letters, digits and _ . / - : inside; else quoted
    DATA      "[" numbers in row-major order "]", or hex:DIGITS, the bytes of a little-endian array

Places in the user's files are printed as comments, remarks not at all: neither belongs to what a
graph computes.
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

from graphc.error import NetError
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.op import Op

_BARE = re.compile(r"[A-Za-z0-9_./\-]+(:[A-Za-z0-9_./\-]+)*")
_LONGEST_LIST = 64  # elements of a constant that are printed as numbers a person can read


def print_graph(graph: Graph, data: bool = True, places: bool = True) -> str:
    """The text. With `data` False the data of constants is left out: that does not parse back.

    places: whether nodes are followed by their places in the user's files, as comments.
    """
    lines = [f"graph {json.dumps(graph.name)}"]
    for value in graph.inputs():
        shown = f"{value.role} {_typed(value)}"
        if value.name in graph.constants:
            shown += f" = {_data(graph.constants[value.name]) if data else '...'}"
        lines.append(shown)
    lines.extend(print_node(node, places) for node in graph.nodes)
    for word, table in (
        ("blob", graph.blobs),
        ("output", graph.outputs),
        ("update", graph.updates),
    ):
        lines.extend(f"{word} {_name(name)} = {_value(value)}" for name, value in table.items())
    lines.extend(f"keep {_name(name)}" for name in sorted(graph.kept))
    lines.extend(f"loss {_value(value)} * {weight!r}" for value, weight in graph.losses)
    return "\n".join(lines) + "\n"


def print_node(node: Node, places: bool = True) -> str:
    """One node's line."""
    text = ", ".join(_typed(value) for value in node.outputs)
    text += f"{' = ' if text else ''}{print_op(node.op)}"
    if node.inputs:
        text += " " + ", ".join(_value(value) for value in node.inputs)
    origin = node.origin
    if origin.layer or origin.kind or origin.backward:
        text += f" @ {_name(origin.layer)} {_name(origin.kind)}"
        text += " backward" if origin.backward else ""
    return text + (f"  # {origin.span}" if places and origin.span else "")


def print_op(op: Op) -> str:
    """An operator with its fields, `convolution(stride=(4, 4))`."""
    fields = ", ".join(f"{name}={_literal(item)}" for name, item in op.fields().items())
    return f"{op.op_name}({fields})" if fields else op.op_name


def _name(name: str) -> str:
    return name if _BARE.fullmatch(name) else json.dumps(name)


def _value(value: Value) -> str:
    return f"%{_name(value.name)}"


def _typed(value: Value) -> str:
    return f"{_value(value)}: {value.type}"


def _literal(item: Any) -> str:
    if item is None or isinstance(item, (bool, int)):
        return repr(item)
    if isinstance(item, float):
        return repr(float(item))
    if isinstance(item, str):
        return json.dumps(item)
    if isinstance(item, tuple):
        inner = ", ".join(_literal(part) for part in item)
        return f"({inner},)" if len(item) == 1 else f"({inner})"
    raise NetError(f"a field holds {item!r}, which has no text form")


def _data(array: np.ndarray) -> str:
    if array.size <= _LONGEST_LIST:
        return "[" + ", ".join(repr(item) for item in array.ravel().tolist()) + "]"
    return "hex:" + array.astype(array.dtype.newbyteorder("<")).tobytes().hex()
