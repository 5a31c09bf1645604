"""Puts fused operators in the place of the graphs that they say they equal.

The rules are in `graphc.passes.pattern`. Of several matches at one value the largest wins. A value
inside the match that has other readers stays for them: the fused operator reads the pattern's
inputs and needs nothing in between.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from graphc.error import NetError
from graphc.ir.core.view import View
from graphc.ir.graph import Graph, Node, Origin, Value
from graphc.ir.op import Op, lookup
from graphc.ir.types import TensorType
from graphc.passes.pattern import Match, Rule, Viewed, matches, rules

STAGE = "fuse"


@dataclass(frozen=True)
class _Fusion:
    op: Op
    inputs: tuple[Value | Viewed, ...]
    inside: tuple[Value, ...]


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
    item: Value | Viewed, new: Graph, mapping: dict[Value, Value], origin: Origin
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
        for match in matches(rule, root):
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


def _fusion_of(rule: Rule, match: Match, root: Value) -> _Fusion:
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
