"""A Graph in the dot language of graphviz: `graphc show NET --as dot | dot -Tsvg`."""

from __future__ import annotations

import json

from graphc.ir.graph import Graph, Node
from graphc.ir.printer import print_op

_INPUT_SHAPES = {"input": "ellipse", "parameter": "note", "constant": "note"}


def print_dot(graph: Graph) -> str:
    """Boxes are operators (grey ones compute gradients), the other shapes are inputs; edges carry
    values with their types."""
    numbers = {node: f"n{i}" for i, node in enumerate(graph.nodes)}
    lines = [f"digraph {json.dumps(graph.name)} {{", '  node [fontname="sans-serif"];']
    for number, value in enumerate(graph.inputs()):
        shape = _INPUT_SHAPES.get(str(value.role), "cds")
        lines.append(f"  i{number} [shape={shape}, label={_text(value.name, str(value.type))}];")
        for node, _ in graph.readers(value):
            lines.append(f"  i{number} -> {numbers[node]};")
    for node, name in numbers.items():
        lines.append(f"  {name} [shape=box{_style(node)}, label={_label(node)}];")
        for value in node.outputs:
            edge = _text(value.name, str(value.type))
            for reader, _ in graph.readers(value):
                lines.append(f"  {name} -> {numbers[reader]} [label={edge}];")
    for number, (output, value) in enumerate(graph.outputs.items()):
        lines.append(f"  o{number} [shape=ellipse, style=bold, label={_text(output)}];")
        maker = graph.producer(value)
        source = numbers[maker] if maker else f"i{graph.inputs().index(value)}"
        lines.append(f"  {source} -> o{number} [label={_text(str(value.type))}];")
    return "\n".join([*lines, "}"]) + "\n"


def _style(node: Node) -> str:
    return ", style=filled, fillcolor=gray90" if node.origin.backward else ""


def _label(node: Node) -> str:
    return _text(*filter(None, (node.origin.layer, print_op(node.op))))


def _text(*lines: str) -> str:
    """Lines as one quoted string of dot."""
    escaped = [line.replace("\\", "\\\\").replace('"', '\\"') for line in lines]
    return '"' + "\\n".join(escaped) + '"'
