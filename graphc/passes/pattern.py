"""Rules: the graphs that operators say they equal, as patterns, and where they match.

Every operator whose `equals` returns something is a rule. `equals` is called once with pattern
variables: its inputs are inputs of a pattern graph, its fields are `Wild`s. So

    def equals(self, x, label):
        return LogLoss(floor=self.floor)(Softmax(axis=self.axis)(x), label)

becomes a tree of two nodes that matches any such pair, whatever their fields, and hands the fields
it met to the fused operator. The same variable met twice must stand for the same thing.

A View between two operators of a pattern does not hide it where the first operator can be done
after the View as well (`Op.viewed`): the fused operator then reads a View of the pattern's input.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from graphc.error import NetError, need
from graphc.ir.core.elementwise import Add, Multiply
from graphc.ir.core.view import View
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.op import REGISTRY, Op
from graphc.ir.types import TensorType


@dataclass(frozen=True)
class Wild:
    """Stands for the value of a field in a pattern."""

    field: str


@dataclass(frozen=True)
class Rule:
    """One form of one operator: the pattern graph's result and inputs; `size` counts its nodes.

    fixed: fields that the fused operator has whatever the pattern met.
    """

    made: type[Op]
    root: Value
    inputs: tuple[Value, ...]
    size: int
    fixed: tuple[tuple[str, Any], ...] = ()

    @property
    def root_op(self) -> Op:
        """The operator that makes the result."""
        node = self.root.graph.producer(self.root)
        assert node is not None
        return node.op


@dataclass(frozen=True)
class Viewed:
    """`value` in the shape of `type`: what an operator reads once a View is moved before it."""

    value: Value
    type: TensorType


@dataclass(frozen=True)
class Match:
    """What the pattern's values and fields stand for in the graph; `crossed`: what Views show."""

    values: dict[Value, Value | Viewed]
    fields: dict[str, Any]
    crossed: tuple[Value, ...] = ()


def rules(recompute: bool = False) -> list[Rule]:
    """All rules, larger patterns first; among equals, in the order of the operators' names.

    recompute: those of the operators that compute again what they do not keep, instead of those of
    all others. Raises NetError naming the operator whose `equals` is not a pattern.
    """
    made = [REGISTRY[name] for name in sorted(REGISTRY)]
    found = [rule for op in made if op.recomputes == recompute for rule in rules_of(op)]
    return sorted(found, key=lambda rule: -rule.size)


def rules_of(made: type[Op]) -> list[Rule]:
    """The rules of one operator: one a form, none where it equals nothing."""
    if made.equals is Op.equals:
        return []
    parameters = list(inspect.signature(made.equals).parameters.values())[1:]
    names = [parameter.name for parameter in parameters]
    needed = sum(parameter.default is inspect.Parameter.empty for parameter in parameters)
    graph = Graph(made.op_name, unchecked=True)
    inputs = tuple(graph.input(name, TensorType("float32", ())) for name in names)
    try:
        forms = _wild_instance(made).equals(*inputs)
    except (TypeError, AttributeError, NetError) as error:
        raise NetError(f"'equals' of operator '{made.op_name}' is no pattern: {error}") from error
    if forms is None:
        return []
    found = []
    for form in forms if isinstance(forms, list) else [forms]:
        root, fixed = form if isinstance(form, tuple) else (form, {})
        found.append(_rule(made, root, inputs, needed, fixed))
    return found


def _wild_instance(made: type[Op]) -> Op:
    op = object.__new__(made)
    for field in dataclasses.fields(made):
        object.__setattr__(op, field.name, Wild(field.name))
    return op


def _rule(
    made: type[Op],
    root: Any,
    inputs: tuple[Value, ...],
    needed: int,
    fixed: dict[str, Any],
) -> Rule:
    """The rule of one form, which must use the first `needed` inputs and may leave out others."""
    name = made.op_name
    need(isinstance(root, Value), f"'equals' of operator '{name}' must give one value a form")
    graph: Graph = root.graph
    used = graph.reaching(root) | {root}
    while len(inputs) > needed and inputs[-1] not in used:
        inputs = inputs[:-1]
    for value in inputs:
        need(value in used, f"'equals' of operator '{name}' does not use '{value.name}'")
    nodes = [node for node in graph.nodes if any(value in used for value in node.outputs)]
    need(nodes, f"'equals' of operator '{name}' is one of its inputs")
    _require_fields(made, nodes, fixed)
    rule = Rule(made, root, inputs, len(nodes), tuple(fixed.items()))
    need(type(rule.root_op) is not made, f"'equals' of operator '{name}' is that operator itself")
    return rule


def _require_fields(made: type[Op], nodes: list[Node], fixed: dict[str, Any]) -> None:
    bound = set(fixed) | {
        item.field for node in nodes for item in node.op.fields().values() if isinstance(item, Wild)
    }
    for field in dataclasses.fields(made):
        optional = field.default is not dataclasses.MISSING
        need(
            field.name in bound or optional,
            f"'equals' of operator '{made.op_name}' does not use the field '{field.name}'",
        )


# -- matching -------------------------------------------------------------------------------------


def matches(rule: Rule, value: Value) -> Iterator[Match]:
    """All ways in which the rule's pattern is `value`."""
    yield from _match_value(rule.root, value, Match({}, {}))


def _match_value(pattern: Value, value: Value | Viewed, known: Match) -> Iterator[Match]:
    if pattern in known.values:
        if known.values[pattern] == value:
            yield known
        return
    start = dataclasses.replace(known, values=known.values | {pattern: value})
    wanted = pattern.graph.producer(pattern)
    if wanted is None:
        yield start
        return
    if isinstance(value, Viewed):
        return
    node = value.graph.producer(value)
    if node is None:
        return
    if isinstance(node.op, View):
        yield from _match_through_view(wanted, node, start)
    if wanted.outputs.index(pattern) == node.outputs.index(value):
        yield from _match_node(wanted, node.op, node.inputs, start)


def _match_node(
    wanted: Node, op: Op, inputs: Sequence[Value | Viewed], known: Match
) -> Iterator[Match]:
    if type(op) is not type(wanted.op) or len(wanted.inputs) != len(inputs):
        return
    fields = _match_fields(wanted.op, op, known.fields)
    if fields is None:
        return
    start = dataclasses.replace(known, fields=fields)
    yield from _match_inputs(wanted.inputs, inputs, start)
    if isinstance(op, Add | Multiply):
        yield from _match_inputs(wanted.inputs, inputs[::-1], start)


def _match_through_view(wanted: Node, view: Node, known: Match) -> Iterator[Match]:
    """Matches of an operator before `view` that could stand behind it."""
    source, shown = view.inputs[0], view.outputs[0]
    node = source.graph.producer(source)
    if node is None or len(node.inputs) != 1 or len(node.outputs) != 1:
        return
    moved = node.op.viewed(source.shape, shown.shape)
    if moved is not None:
        argument = Viewed(node.inputs[0], TensorType(node.inputs[0].type.dtype, shown.shape))
        start = dataclasses.replace(known, crossed=(*known.crossed, source))
        yield from _match_node(wanted, moved, (argument,), start)


def _match_inputs(
    patterns: Sequence[Value], values: Sequence[Value | Viewed], known: Match
) -> Iterator[Match]:
    if not patterns:
        yield known
        return
    for found in _match_value(patterns[0], values[0], known):
        yield from _match_inputs(patterns[1:], values[1:], found)


def _match_fields(pattern: Op, op: Op, known: dict[str, Any]) -> dict[str, Any] | None:
    fields = dict(known)
    actual = op.fields()
    for name, wanted in pattern.fields().items():
        expected = wanted
        if isinstance(wanted, Wild):
            expected = fields.setdefault(wanted.field, actual[name])
        if expected != actual[name]:
            return None
    return fields
