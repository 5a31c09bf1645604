"""Reverse-mode differentiation: adds to a graph the nodes that compute gradients.

The walk goes over the nodes from last to first. A value is *wanted* if it is one of `wrt` or
depends on one, and is real. When a node's turn comes, all readers of its outputs have had theirs,
so the gradients of its outputs are complete; its operator's `gradient` gives those of its inputs.

**The order of additions is fixed.** Where a value is read several times, its gradient is
(((seed of a loss + given gradient) + last reader's) + the reader's before) + ... : in the order in
which the walk meets the readers, a node that reads a value twice adding by input position. Memory
modes and threads cannot change it, so results agree bit for bit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from graphc.error import Diagnostic, NetError, did_you_mean, need
from graphc.ir.core.fill import fill, fill_like
from graphc.ir.graph import Graph, Node, Origin, Role, Value
from graphc.passes.clean import name_after_blobs, without_dead

STAGE = "backward"


def backward(
    graph: Graph,
    wrt: Sequence[str | Value],
    given: Sequence[str] = (),
    accumulate: frozenset[str] = frozenset(),
    known: Collection[str] = (),
) -> Graph:
    """The same graph with gradients.

    Args:
        graph: the forward pass.
        wrt: names (of inputs, parameters or blobs) or values whose gradients are wanted.
        given: blobs to which the caller gives a gradient, by an input `BLOB.diff` of role
            "gradient". It adds to what arrives there from losses and other given gradients.
        known: those out of `given` whose gradient is there before forward: its input has the role
            "input", so that a loss and its gradient may be one sweep.
        accumulate: names out of `wrt` whose gradient is added to a state input `NAME.diff`.

    Each (value, weight) of `graph.losses` seeds the walk with `weight` everywhere. Results are
    `outputs["NAME.diff"]`, or `updates["NAME.diff"]` for `accumulate`; all gradients met on the way
    are in `blobs["BLOB.diff"]`, except those of blobs that are bypassed, and one whose name is in
    `graph.kept` is made too. A wanted value that no gradient arrives at has zeros as output, or no
    update at all, and a remark says why.

    Raises NetError for an unknown name, and where an operator on the way has no gradient.
    """
    for name in given:
        need(name not in accumulate, f"the gradient of '{name}' is both given and accumulated")
    new, mapping = graph.copy()
    wanted_by_name: dict[str, Value] = {}
    for item in wrt:
        name = item if isinstance(item, str) else item.name
        wanted_by_name[name] = named_value(new, item) if isinstance(item, str) else mapping[item]
    kept = {name: named_value(new, name) for name in kept_gradients(new.kept)}
    states = {v: name for name, v in wanted_by_name.items() if name in accumulate}
    walk = _Walk(new, [*wanted_by_name.values(), *kept.values()], states)
    walk.seed(given, known)
    walk.run()
    for name, value in wanted_by_name.items():
        if name not in accumulate:
            walk.output(name, value)
    walk.explain({**kept, **wanted_by_name})
    _enter_blobs(new, walk.gradients, states)
    return without_dead(new, only=lambda node: node.origin.backward)


def kept_gradients(kept: Iterable[str]) -> list[str]:
    """Names out of `kept` whose gradient is meant: conv5 for conv5.diff."""
    return [name[: -len(".diff")] for name in sorted(kept) if name.endswith(".diff")]


def named_value(graph: Graph, name: str, last: bool = False) -> Value:
    """What a user's name stands for: an input, else a blob. Raises NetError with a suggestion.

    Where layers work in place on a net input the name stands for both: `last` asks for the blob.
    """
    found = graph.values.get(name)
    is_input = found is not None and found.role is not None
    if name in graph.blobs and (last or not is_input):
        return graph.blobs[name]
    if found is not None:
        return found
    known = [*(value.name for value in graph.inputs()), *graph.blobs]
    hint = did_you_mean(name, known)
    raise NetError(Diagnostic(f"the net has no blob, input or parameter '{name}'", hint=hint))


class _Walk:
    """The walk's state: which values are wanted, and the gradient of each so far.

    `states` names the values whose gradient is added to a state.
    """

    def __init__(self, graph: Graph, targets: Sequence[Value], states: dict[Value, str]):
        self.graph = graph
        self.states = states
        self.forward = list(graph.nodes)
        self.wanted = wanted_values(graph, targets)
        self.gradients: dict[Value, Value] = {}
        self.cuts: dict[tuple[Node, Value], str] = {}
        self.sources: list[Value] = []

    def seed(self, given: Sequence[str], known: Collection[str]) -> None:
        """Start from the losses' weights and the given gradients."""
        self.graph.origin = Origin(backward=True)
        for value, weight in self.graph.losses:
            self.sources.append(value)
            if value in self.wanted:
                self._add(value, fill_like(value, weight))
        for name in given:
            value = named_value(self.graph, name, last=True)
            need(value.type.is_real, f"'{name}' is {value.type}; it cannot be given a gradient")
            role: Role = "input" if name in known else "gradient"
            arriving = self.graph.input(f"{name}.diff", value.type, role)
            self.sources.append(value)
            if value in self.wanted:
                self._add(value, arriving)
            else:
                self.graph.remark(
                    STAGE, f"blob:{name}", "its given gradient reaches nothing that is asked for"
                )

    def run(self) -> None:
        """Visit every node that has a gradient to pass on."""
        first_reader: dict[Value, Node] = {}
        for node in self.forward:
            for value in node.inputs:
                first_reader.setdefault(value, node)
        for node in reversed(self.forward):
            arrived = [self.gradients.get(value) for value in node.outputs]
            if any(arrived) and any(value in self.wanted for value in node.inputs):
                self._visit(node, arrived)
            # A state is updated as soon as its gradient is complete, so that the gradient dies.
            for value in dict.fromkeys(node.inputs):
                if value in self.states and first_reader[value] is node:
                    self._update(value)
        for value in self.states:
            if value not in first_reader:
                self._update(value)

    def _visit(self, node: Node, arrived: list[Value | None]) -> None:
        layer = node.origin
        self.graph.origin = Origin(layer.layer, layer.kind, layer.span, backward=True)
        found = _gradients_of(node, arrived)
        for value, gradient in zip(node.inputs, found, strict=True):
            if value not in self.wanted:
                continue
            if gradient is None:
                self.cuts[node, value] = f"no gradient flows through {_called(node)} to it"
                continue
            need(
                gradient.type == value.type,
                f"operator '{node.op.op_name}' gives a gradient {gradient.type}"
                f" for its input {value.type}",
            )
            self._add(value, gradient)

    def _add(self, value: Value, gradient: Value) -> None:
        before = self.gradients.get(value)
        self.gradients[value] = gradient if before is None else before + gradient

    def _update(self, value: Value) -> None:
        gradient = self.gradients.get(value)
        if gradient is None:
            return
        diff = f"{self.states[value]}.diff"
        before = self.graph.input(diff, value.type, "state")
        self.graph.updates[diff] = before + gradient

    def output(self, name: str, value: Value) -> None:
        """Make the gradient an output, zeros where there is none."""
        gradient = self.gradients.get(value)
        if gradient is None:
            self.graph.origin = Origin(backward=True)
            gradient = fill(self.graph, value.type, 0.0)
        self.graph.outputs[f"{name}.diff"] = gradient

    def explain(self, asked: dict[str, Value]) -> None:
        """Remark on every gradient that is asked for and does not exist."""
        for name, value in asked.items():
            if value not in self.gradients:
                what = "stays as it is" if value in self.states else "is zero"
                subject = name if value.role == "parameter" else f"blob:{name}"
                self.graph.remark(STAGE, subject, f"its gradient {what}: {self._why(value)}")

    def _why(self, value: Value) -> str:
        """Why no gradient arrives at `value`, in words."""
        if not value.type.is_real:
            return f"it holds {value.type.dtype}, which has no gradient"
        if not self.sources:
            return "there is no loss and no given gradient to start from"
        depending = self.graph.depending(value) | {value}
        if not any(source in depending for source in self.sources):
            return "no loss and no given gradient depends on it"
        reasons = []
        for node in self.forward:
            if node.op.gradient_stops and depending & set(node.inputs):
                reasons.append(f"the path is cut by {_called(node)}")
        reasons += [reason for (_, reader), reason in self.cuts.items() if reader in depending]
        return "; ".join(dict.fromkeys(reasons)) or "every path to a loss goes through integers"


def wanted_values(graph: Graph, targets: Iterable[Value]) -> set[Value]:
    """The real values that a gradient must pass on its way to `targets`, and these."""
    wanted = {value for value in targets if value.type.is_real}
    for node in graph.nodes:
        if not node.op.gradient_stops and any(value in wanted for value in node.inputs):
            wanted |= {value for value in node.outputs if value.type.is_real}
    return wanted


def _called(node: Node) -> str:
    origin = node.origin
    if not origin.layer:
        return f"operator '{node.op.op_name}'"
    return f"layer '{origin.layer}'" + (f" ({origin.kind})" if origin.kind else "")


def _gradients_of(node: Node, arrived: list[Value | None]) -> tuple[Value | None, ...]:
    several = len(node.outputs) != 1
    dy = tuple(arrived) if several else arrived[0]
    y = node.outputs if several else node.outputs[0]
    try:
        found = node.op.gradient(dy, y, *node.inputs)
    except NetError as error:
        raise NetError(
            f"{_called(node)}: a gradient is needed on the way through it: {error}",
            node.origin.span,
        ) from None
    if found is None:
        return (None,) * len(node.inputs)
    parts = (found,) if isinstance(found, Value) else tuple(found)
    need(
        len(parts) == len(node.inputs),
        f"operator '{node.op.op_name}' has {len(node.inputs)} inputs"
        f" but gives {len(parts)} gradients",
    )
    return parts


def _enter_blobs(graph: Graph, gradients: dict[Value, Value], states: dict[Value, str]) -> None:
    """Enter `BLOB.diff` for every blob and input with a gradient, and give the value that name.

    What is added to a state is left out: the user's name stands for the state. So is a blob that
    other readers of an equal value have been given to, or lost to: this gradient is not its own.
    """
    blobs = {name: value for name, value in graph.blobs.items() if name not in graph.bypassed}
    named = {value.name: value for value in graph.inputs()} | blobs
    for name, value in named.items():
        if value in gradients and value not in states:
            graph.blobs[f"{name}.diff"] = gradients[value]
    name_after_blobs(graph)
