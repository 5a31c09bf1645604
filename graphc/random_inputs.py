"""Random values that a net's inputs can have: classes for labels, rows of a table for what chooses
among them, normal numbers for the rest."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from graphc.ir.graph import Graph, Node, Value


@dataclass(frozen=True)
class InputKind:
    """What an input's numbers stand for.

    classes: how many classes there are, for a label, or rows, for what chooses one. probability:
    it goes into a logarithm.
    """

    classes: int | None = None
    probability: bool = False


def input_kinds(graph: Graph) -> dict[str, InputKind]:
    """Every net input's kind, read off the operators that it reaches.

    An operator names its inputs in `infer`: `p` holds probabilities, _COUNTS has the others.
    """
    kinds = {value.name: InputKind() for value in graph.inputs("input")}
    for node in graph.nodes:
        names = list(inspect.signature(node.op.infer).parameters)
        for name, value in zip(names, node.inputs, strict=False):
            if name in _COUNTS:
                count = _COUNTS[name](node)
                for source in _sources(graph, value):
                    known = kinds[source].classes
                    kinds[source] = InputKind(classes=min(count, known or count))
            elif name == "p" and value.role == "input":
                kinds[value.name] = InputKind(probability=True)
    return kinds


def _class_count(node: Node) -> int:
    """The extent of the class axis beside a label."""
    fields = node.op.fields()
    for name in ("extent", "count", "classes"):
        if name in fields:
            return int(fields[name])
    if "axis" in fields and fields["axis"] < len(node.inputs[0].shape):
        return max(1, int(node.inputs[0].shape[fields["axis"]]))
    return 2**31


# Inputs that are whole numbers below a count, by what operators call them.
_COUNTS: dict[str, Callable[[Node], int]] = {
    "label": _class_count,
    "row": lambda node: node.inputs[0].shape[0],
    "similar": lambda node: 2,
}


def _sources(graph: Graph, value: Value) -> list[str]:
    found = [value, *graph.reaching(value)]
    return [v.name for v in found if v.role == "input"]


def random_input(value: Value, kind: InputKind, rng: np.random.Generator) -> np.ndarray:
    """An array for an input: classes, numbers in 0.1 .. 1, or the standard normal ones."""
    if kind.classes is not None:
        # A label that nothing bounds but a comparison is 0 or 1.
        count = kind.classes if kind.classes < 2**31 else 2
        return rng.integers(0, count, value.shape).astype(value.type.dtype)
    if kind.probability:
        return rng.uniform(0.1, 1.0, value.shape).astype(value.type.dtype)
    return rng.standard_normal(value.shape).astype(value.type.dtype)
