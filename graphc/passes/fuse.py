"""Finds the graphs that operators say they equal, and puts those operators in their place.

Every operator whose `equals` returns something is a rule. `equals` is called once with pattern
variables: its inputs are inputs of a pattern graph, its fields are `Wild`s. So

    def equals(self, x, label):
        return LogLoss(floor=self.floor)(Softmax(axis=self.axis)(x), label)

becomes a tree of two nodes that matches any such pair, whatever their fields, and hands the fields
it met to the fused operator. The same variable met twice must stand for the same thing.

Of several matches at one value the largest wins. A value inside the match that has other readers
stays for them: the fused operator reads the pattern's inputs and needs nothing in between.

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
from graphc.ir.graph import Graph, Node, Origin, Value
from graphc.ir.op import REGISTRY, Op, lookup
from graphc.ir.types import TensorType

STAGE = "fuse"


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
class _Viewed:
    """`value` in the shape of `type`: what an operator reads once a View is moved before it."""

    value: Value
    type: TensorType


@dataclass(frozen=True)
class _Match:
    """What the pattern's values and fields stand for in the graph; `crossed`: what Views show."""

    values: dict[Value, Value | _Viewed]
    fields: dict[str, Any]
    crossed: tuple[Value, ...] = ()


@dataclass(frozen=True)
class _Fusion:
    op: Op
    inputs: tuple[Value | _Viewed, ...]
    inside: tuple[Value, ...]


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


def _matches(rule: Rule, value: Value) -> Iterator[_Match]:
    """All ways in which the rule's pattern is `value`."""
    yield from _match_value(rule.root, value, _Match({}, {}))


def _match_value(pattern: Value, value: Value | _Viewed, known: _Match) -> Iterator[_Match]:
    if pattern in known.values:
        if known.values[pattern] == value:
            yield known
        return
    start = dataclasses.replace(known, values=known.values | {pattern: value})
    wanted = pattern.graph.producer(pattern)
    if wanted is None:
        yield start
        return
    if isinstance(value, _Viewed):
        return
    node = value.graph.producer(value)
    if node is None:
        return
    if isinstance(node.op, View):
        yield from _match_through_view(wanted, node, start)
    if wanted.outputs.index(pattern) == node.outputs.index(value):
        yield from _match_node(wanted, node.op, node.inputs, start)


def _match_node(
    wanted: Node, op: Op, inputs: Sequence[Value | _Viewed], known: _Match
) -> Iterator[_Match]:
    if type(op) is not type(wanted.op) or len(wanted.inputs) != len(inputs):
        return
    fields = _match_fields(wanted.op, op, known.fields)
    if fields is None:
        return
    start = dataclasses.replace(known, fields=fields)
    yield from _match_inputs(wanted.inputs, inputs, start)
    if isinstance(op, Add | Multiply):
        yield from _match_inputs(wanted.inputs, inputs[::-1], start)


def _match_through_view(wanted: Node, view: Node, known: _Match) -> Iterator[_Match]:
    """Matches of an operator before `view` that could stand behind it."""
    source, shown = view.inputs[0], view.outputs[0]
    node = source.graph.producer(source)
    if node is None or len(node.inputs) != 1 or len(node.outputs) != 1:
        return
    moved = node.op.viewed(source.shape, shown.shape)
    if moved is not None:
        argument = _Viewed(node.inputs[0], TensorType(node.inputs[0].type.dtype, shown.shape))
        start = dataclasses.replace(known, crossed=(*known.crossed, source))
        yield from _match_node(wanted, moved, (argument,), start)


def _match_inputs(
    patterns: Sequence[Value], values: Sequence[Value | _Viewed], known: _Match
) -> Iterator[_Match]:
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


# -- rewriting ------------------------------------------------------------------------------------


def fuse(
    graph: Graph, asked: frozenset[str] = frozenset(), known: list[Rule] | None = None
) -> Graph:
    """The graph with every match replaced, until there is none; what is left over may be dead.

    `asked` names blobs whose gradient is wanted: a match is left alone where one of them is inside
    it, since the gradient would pass it by. `known`: the rules, if not all that cost nothing.
    """
    known = rules() if known is None else known
    inner = sorted(name for name in asked if name in graph.blobs)
    protected = {graph.blobs[name].name: name for name in inner}
    graph, _ = graph.copy()
    for _ in range(len(graph.nodes) + 1):
        new = _once(graph, known, protected)
        if new is None:
            break
        graph = new
    _warn_repetitions(graph, known)
    return graph


def _once(graph: Graph, known: list[Rule], protected: dict[str, str]) -> Graph | None:
    """One sweep; None where nothing matched. Remarks go to `graph` first, so none is lost."""
    new, mapping = graph.shell()
    changed = False
    for node in graph.nodes:
        fusion = _fusion_at(graph, node, known, protected)
        if fusion is None:
            graph.repeat(node, new, mapping)
            continue
        outputs = new.apply(
            fusion.op,
            *(_argument(item, new, mapping, node.origin) for item in fusion.inputs),
            names=[value.name for value in node.outputs],
            origin=node.origin,
        )
        # A fused operator may give more than the one it stands for, for its own gradient.
        mapping[node.outputs[0]] = outputs[0]
        new.bypassed.update(n for n, value in graph.blobs.items() if value in fusion.inside)
        _explain(graph, node, fusion)
        changed = True
    new.remarks = list(graph.remarks)
    return graph.finish(new, mapping) if changed else None


def _argument(
    item: Value | _Viewed, new: Graph, mapping: dict[Value, Value], origin: Origin
) -> Value:
    if isinstance(item, Value):
        return mapping[item]
    (made,) = new.apply(View(item.type.shape), mapping[item.value], origin=origin)
    return made


def _fusion_at(
    graph: Graph, node: Node, known: list[Rule], protected: dict[str, str]
) -> _Fusion | None:
    if len(node.outputs) != 1:
        return None
    root = node.outputs[0]
    for rule in known:
        if type(rule.root_op) is not type(node.op):
            continue
        for match in _matches(rule, root):
            fusion = _fusion_of(rule, match, root)
            stopped = next((v for v in fusion.inside if v.name in protected), None)
            if stopped is not None:
                blob = protected[stopped.name]
                _say_once(graph, node, f"not fused: the gradient of blob '{blob}' is asked for")
                continue
            refusal = _refusal(fusion, root)
            if refusal is None:
                return fusion
            _say_once(graph, node, f"not fused into {rule.made.op_name}: {refusal}")
    return None


def _fusion_of(rule: Rule, match: _Match, root: Value) -> _Fusion:
    fields = {f.name for f in dataclasses.fields(rule.made)}
    met = {name: item for name, item in match.fields.items() if name in fields}
    op = rule.made(**{**met, **dict(rule.fixed)})
    inside = tuple(
        value
        for pattern, value in match.values.items()
        if pattern not in rule.inputs and value is not root and isinstance(value, Value)
    )
    inside = (*inside, *match.crossed)
    return _Fusion(op, tuple(match.values[value] for value in rule.inputs), inside)


def _refusal(fusion: _Fusion, root: Value) -> str | None:
    """Why the fused operator should not stand where `root` is; None where it should."""
    inputs = [value.type for value in fusion.inputs]
    try:
        types = fusion.op.infer(*inputs)
    except NetError as error:
        return str(error)
    type = types[0] if isinstance(types, tuple) else types
    if type != root.type:
        return f"it would give {type} instead of {root.type}"
    return _no_saving(fusion, root, inputs) if fusion.op.recomputes else None


def _no_saving(fusion: _Fusion, root: Value, inputs: list[TensorType]) -> str | None:
    """Why an operator that computes again would save no memory; None where it does."""
    for value in _staying(root.graph, fusion, root):
        return f"{value.name} is stored anyway, since others read it"
    largest = max(fusion.inside, key=lambda value: value.type.bytes)
    needed = fusion.op.scratch_bytes(*inputs)
    if largest.type.bytes <= needed:
        return f"{largest.name} takes {_shown(largest.type.bytes)}, no more than a block would"
    return None


def _shown(size: int) -> str:
    return f"{size / 2**20:.1f} MiB" if size >= 1 << 20 else f"{size:,} bytes"


# -- remarks --------------------------------------------------------------------------------------


def _subject(node: Node) -> str:
    return f"layer:{node.origin.layer}" if node.origin.layer else str(node.outputs[0])


def _say_once(graph: Graph, node: Node, sentence: str) -> None:
    subject = _subject(node)
    if not any(r.subject == subject and r.sentence == sentence for r in graph.remarks):
        graph.remark(STAGE, subject, sentence, node.origin.span)


def _staying(graph: Graph, fusion: _Fusion, root: Value) -> list[Value]:
    """Values inside a match that somebody else needs as well."""
    own, ends = {*fusion.inside, root}, set(graph.ends())
    return [
        value
        for value in fusion.inside
        if value in ends or any(not own & set(reader.outputs) for reader, _ in graph.readers(value))
    ]


def _explain(graph: Graph, node: Node, fusion: _Fusion) -> None:
    makers = [graph.producer(value) for value in fusion.inside]
    names = [maker.op.op_name for maker in reversed(makers) if maker]
    parts = " and ".join([*names, node.op.op_name])
    sentence = f"{parts} fused into {fusion.op.op_name}"
    staying = _staying(graph, fusion, node.outputs[0])
    if staying:
        sentence += f"; {', '.join(map(str, staying))} stays for its other readers"
    if fusion.op.recomputes:
        inputs = [value.type for value in fusion.inputs]
        largest = max(value.type.bytes for value in fusion.inside)
        sentence += (
            f", which holds {_shown(fusion.op.scratch_bytes(*inputs))} at a time instead of"
            f" {_shown(largest)}, and computes it again in backward"
        )
    _say_once(graph, node, sentence)


def _warn_repetitions(graph: Graph, known: list[Rule]) -> None:
    """Say where a once-only operator feeds itself, or an operator that contains it already."""
    contains: dict[type[Op], set[tuple[int, type[Op]]]] = {}
    for rule in known:
        for position, value in enumerate(rule.inputs):
            for reader, _ in value.graph.readers(value):
                contains.setdefault(rule.made, set()).add((position, type(reader.op)))
    for node in graph.nodes:
        inside = set(contains.get(type(node.op), ()))
        inside.add((0, type(node.op)))
        if node.op.begins_with:
            inside.add((0, lookup(node.op.begins_with)))
        for position, value in enumerate(node.inputs):
            maker = graph.producer(value)
            while maker is not None and isinstance(maker.op, View):
                maker = graph.producer(maker.inputs[0])
            if maker is None or not maker.op.once_only or (position, type(maker.op)) not in inside:
                continue
            name = maker.op.op_name
            _say_once(
                graph,
                node,
                f"warning: two times {name} in a row: {node.op.op_name} applies {name} itself,"
                f" and {value} is the result of {name} already",
            )
