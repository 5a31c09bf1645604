"""Moves an increasing function behind the choice of a maximum.

    max over window (relu(x))   =   relu(max over window (x))

The right side computes relu on the small image, and its gradient reads the small image too: the
large one, often the largest of a net, need not be kept for backward. Where relu is flat several
elements of a window may tie on the left and differ on the right; the derivative there is 0, so the
gradients agree.

What then stands behind a selection becomes part of it where the operator allows (`followed_by`):
that nothing was selected says where the derivative is 0, and backward reads neither image.
"""

from __future__ import annotations

from collections.abc import Iterable

from graphc.ir.graph import Graph, Node, Value
from graphc.ir.op import Op

STAGE = "commute"


def commute(graph: Graph, alive: Iterable[str] = ()) -> Graph:
    """The graph with order-keeping operators moved behind selections of their elements, or into.

    `alive` names blobs somebody will ask for; they, outputs, losses and kept blobs stay computed.
    """
    names = list(alive)
    moved = _moved_behind(graph, _needed(graph, names))
    return _taken_in(moved, _needed(moved, names))


def _needed(graph: Graph, alive: Iterable[str]) -> set[Value]:
    return {*graph.ends(), *(graph.blobs[name] for name in alive if name in graph.blobs)}


def _moved_behind(graph: Graph, needed: set[Value]) -> Graph:
    moved = {}
    for node in graph.nodes:
        behind = _selection_behind(graph, node, needed)
        if behind is not None:
            moved[behind] = node
    if not moved:
        return graph
    new, mapping = graph.shell()
    skipped = set(moved.values())
    for node in graph.nodes:
        if node in skipped:
            continue
        if node in moved:
            _swap(graph, new, moved[node], node, mapping)
        else:
            graph.repeat(node, new, mapping)
    return graph.finish(new, mapping)


def _selection_behind(graph: Graph, node: Node, needed: set[Value]) -> Node | None:
    """The only reader of an order-keeping node, if it selects elements and hides which."""
    if not node.op.keeps_order() or node.outputs[0] in needed:
        return None
    readers = graph.readers(node.outputs[0])
    if len(readers) != 1:
        return None
    behind = readers[0][0]
    choices = behind.outputs[1:]
    if not behind.op.selects() or any(c in needed or graph.readers(c) for c in choices):
        return None
    return behind if behind.outputs[0].type.size <= node.outputs[0].type.size else None


def _swap(
    graph: Graph, new: Graph, function: Node, selection: Node, mapping: dict[Value, Value]
) -> None:
    blob = function.outputs[0].name
    result = selection.outputs[0].name
    hints = [f"{result}:{selection.origin.layer}", *(v.name for v in selection.outputs[1:])]
    source = mapping[function.inputs[0]]
    made = new.apply(selection.op, source, names=hints, origin=selection.origin)
    (value,) = new.apply(function.op, made[0], names=[result], origin=function.origin)
    mapping[selection.outputs[0]] = value
    mapping.update(zip(selection.outputs[1:], made[1:], strict=True))
    new.remark(
        STAGE,
        f"layer:{function.origin.layer}",
        f"works behind {selection.origin.layer} instead of before it, on {value.type.size:,}"
        f" elements instead of {function.outputs[0].type.size:,}: the values are the same,"
        f" and backward need not keep '{blob}'",
        function.origin.span,
    )
    new.remark(
        STAGE,
        f"blob:{blob}",
        f"'{blob}' is not computed: {function.op.op_name} was moved behind"
        f" {selection.origin.layer}; keep='{blob}' computes it",
        function.origin.span,
    )


# -- into a selection -----------------------------------------------------------------------------


def _taken_in(graph: Graph, needed: set[Value]) -> Graph:
    """The graph with functions that selections can do themselves in them."""
    taken = {}
    for node in graph.nodes:
        found = _selection_before(graph, node, needed)
        if found is not None:
            taken[found[0]] = (node, found[1])
    if not taken:
        return graph
    new, mapping = graph.shell()
    functions = {function for function, _ in taken.values()}
    for node in graph.nodes:
        if node in taken:
            _take_in(graph, new, node, *taken[node], mapping)
        elif node not in functions:
            graph.repeat(node, new, mapping)
    return graph.finish(new, mapping)


def _selection_before(graph: Graph, node: Node, needed: set[Value]) -> tuple[Node, Op] | None:
    """The selection that only `node` reads, and what does the work of both."""
    if len(node.inputs) != 1 or not node.op.keeps_order():
        return None
    before = graph.producer(node.inputs[0])
    if before is None or before.outputs[0] is not node.inputs[0]:
        return None
    made = before.op.followed_by(node.op)
    chosen, *choices = before.outputs
    if made is None or chosen in needed or len(graph.readers(chosen)) != 1:
        return None
    if any(choice in needed or graph.readers(choice) for choice in choices):
        return None
    return before, made


def _take_in(
    graph: Graph,
    new: Graph,
    selection: Node,
    function: Node,
    made: Op,
    mapping: dict[Value, Value],
) -> None:
    gone, result = selection.outputs[0].name, function.outputs[0]
    names = [result.name, *(v.name for v in selection.outputs[1:])]
    outputs = new.apply(made, mapping[selection.inputs[0]], names=names, origin=selection.origin)
    mapping[result] = outputs[0]
    mapping.update(zip(selection.outputs[1:], outputs[1:], strict=True))
    layer = selection.origin.layer
    new.remark(
        STAGE,
        f"layer:{function.origin.layer}",
        f"done by {layer} itself: backward reads only which element of each window it took, if any",
        function.origin.span,
    )
    if selection.outputs[0] in graph.blobs.values():
        new.remark(
            STAGE,
            f"blob:{gone}",
            f"'{gone}' is not computed: {layer} does {function.op.op_name} itself;"
            f" keep='{gone}' computes it",
            function.origin.span,
        )
