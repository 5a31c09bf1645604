"""The Graph: values and operator nodes in single assignment, also as a networkx multigraph.

Every value is made once, by an operator node or as an input, and never changes; what the user's
framework calls an in-place layer makes a new value here. The user's names live in `blobs`.

Edges of `graph.net` run value -> node (key: input position) and node -> value (key: output index),
so any networkx algorithm works on it. It is made when it is first asked for: a program that is
kept on disk starts in less time than networkx takes to be imported. Nodes stand in the order they
were added, which is always a topological order: a node can only be added after its inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from graphc.error import NetError
from graphc.ir.op import REGISTRY, Op
from graphc.ir.remark import Remark, Saving
from graphc.ir.types import TensorType
from graphc.source import Span

if TYPE_CHECKING:
    import networkx as nx

# input: given at each call. parameter: the user's array, learned or loaded. state: read and
# written by a call and committed once at its end. gradient: a gradient the caller gives.
# constant: data that belongs to the definition (an infogain matrix, a filler's blob).
Role = Literal["input", "parameter", "state", "gradient", "constant"]


@dataclass(frozen=True)
class Origin:
    """Where a node comes from: the user's layer, its place, and whether it computes a gradient."""

    layer: str = ""
    kind: str = ""  # the layer type in the user's framework
    span: Span | None = None
    backward: bool = False


@dataclass(eq=False)
class Value:
    """One tensor of one graph. Arithmetic on values adds core operators to their graph."""

    graph: Graph = field(repr=False)
    name: str
    type: TensorType
    role: Role | None = None  # None: made by a node

    @property
    def shape(self) -> tuple[int, ...]:
        """The extents."""
        return self.type.shape

    def __add__(self, other: Value | float) -> Value:
        return _binary("add", "shift", self, other)

    def __radd__(self, other: float) -> Value:
        return _binary("add", "shift", self, other)

    def __sub__(self, other: Value | float) -> Value:
        if isinstance(other, Value):
            return self + -other
        return self + -float(other)

    def __mul__(self, other: Value | float) -> Value:
        return _binary("multiply", "times", self, other)

    def __rmul__(self, other: float) -> Value:
        return _binary("multiply", "times", self, other)

    def __neg__(self) -> Value:
        return self * -1.0

    def __str__(self) -> str:
        return f"%{self.name}"


def _binary(tensor_op: str, number_op: str, left: Value, right: Value | float) -> Value:
    if isinstance(right, Value):
        return left.graph.apply(REGISTRY[tensor_op](), left, right)[0]
    # The operators of numbers, which no room below may import, have one field.
    return left.graph.apply(REGISTRY[number_op](float(right)), left)[0]  # type: ignore[call-arg]


@dataclass(eq=False)
class Node:
    """One operator applied to values."""

    op: Op
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    origin: Origin


class Graph:
    """A net, or a net with its backward pass.

    Attributes:
        outputs: name -> value that a call returns.
        updates: name of a state or parameter-gradient input -> its value after the call.
        blobs: the user's names -> values (an in-place chain's name means its last value).
        losses: (value, weight) pairs whose weighted sums add up to the loss.
        kept: names of blobs that must survive the call.
        bypassed: names of blobs with other readers than the user's layers: passes have let some
            read an equal value instead, so that a gradient made here is not the blob's.
        remarks: why things are as they are.
        constants: data of the inputs whose role is `constant`.
        unchecked: a pattern graph; types are not inferred.
    """

    def __init__(self, name: str = "net", unchecked: bool = False):
        self.name = name
        self.values: dict[str, Value] = {}
        self.nodes: list[Node] = []
        self._makers: dict[Value, Node] = {}
        self._readers: dict[Value, list[tuple[Node, int]]] = {}
        self._net: nx.MultiDiGraph[Any] | None = None
        self.outputs: dict[str, Value] = {}
        self.updates: dict[str, Value] = {}
        self.blobs: dict[str, Value] = {}
        self.losses: list[tuple[Value, float]] = []
        self.kept: set[str] = set()
        self.bypassed: set[str] = set()
        self.remarks: list[Remark] = []
        self.constants: dict[str, np.ndarray] = {}
        self.unchecked = unchecked
        self.origin = Origin()

    # -- building ---------------------------------------------------------------------------

    def input(self, name: str, type: TensorType, role: Role = "input") -> Value:
        """Add an input. Raises NetError where its name is not new."""
        if name in self.values:
            raise NetError(f"two inputs are called '{name}'")
        return self._add_value(name, type, role)

    def apply(
        self, op: Op, *inputs: Value, names: Iterable[str] = (), origin: Origin | None = None
    ) -> tuple[Value, ...]:
        """Add one operator node; its outputs take `names` as far as given (made unique).

        Raises NetError, with the layer's place, where the operator refuses its inputs.
        """
        origin = origin or self.origin
        for value in inputs:
            if value.graph is not self:
                raise NetError(f"value {value} belongs to another graph")
        return self._add_node(op, inputs, self._infer(op, inputs, origin), names, origin)

    def _add_node(
        self,
        op: Op,
        inputs: tuple[Value, ...],
        types: tuple[TensorType, ...],
        names: Iterable[str],
        origin: Origin,
    ) -> tuple[Value, ...]:
        wished = list(names)
        outputs = []
        for position, type in enumerate(types):
            hint = wished[position] if position < len(wished) else origin.layer or op.op_name
            outputs.append(self._add_value(self.fresh(hint), type, None))
        node = Node(op, tuple(inputs), tuple(outputs), origin)
        self.nodes.append(node)
        for position, value in enumerate(inputs):
            self._readers[value].append((node, position))
        for value in outputs:
            self._makers[value] = node
        if self._net is not None:
            _connect(self._net, node)
        return node.outputs

    def _infer(self, op: Op, inputs: tuple[Value, ...], origin: Origin) -> tuple[TensorType, ...]:
        if self.unchecked:
            count = getattr(op, "output_count", 1)
            return (TensorType("float32", ()),) * count
        try:
            types = op.infer(*(value.type for value in inputs))
        except NetError as error:
            if error.diagnostics[0].span is not None or origin.span is None:
                raise
            where = f"layer '{origin.layer}': " if origin.layer else ""
            raise NetError(
                [replace(d, message=where + d.message, span=origin.span) for d in error.diagnostics]
            ) from None
        return types if isinstance(types, tuple) else (types,)

    def _add_value(self, name: str, type: TensorType, role: Role | None) -> Value:
        value = Value(self, name, type, role)
        self.values[name] = value
        self._readers[value] = []
        if self._net is not None:
            self._net.add_node(value)
        return value

    def fresh(self, hint: str) -> str:
        """`hint`, or `hint.1`, `hint.2`, ... : the first that is free."""
        if hint not in self.values:
            return hint
        number = 1
        while f"{hint}.{number}" in self.values:
            number += 1
        return f"{hint}.{number}"

    def rename(self, value: Value, name: str) -> None:
        """Give a value another name. Raises NetError where that is not free."""
        if name == value.name:
            return
        if name in self.values:
            raise NetError(f"a value called '{name}' exists already")
        del self.values[value.name]
        value.name = name
        self.values[name] = value

    def remark(
        self,
        stage: str,
        subject: str,
        sentence: str,
        span: Span | None = None,
        saving: Saving | None = None,
    ) -> None:
        """Say why."""
        self.remarks.append(Remark(stage, subject, sentence, span, saving))

    # -- reading ----------------------------------------------------------------------------

    def inputs(self, *roles: Role) -> list[Value]:
        """Inputs of the given roles (of all, where none is named), in the order they were added."""
        return [v for v in self.values.values() if v.role and (not roles or v.role in roles)]

    @property
    def net(self) -> nx.MultiDiGraph[Any]:
        """Values, nodes and what runs between them, for networkx."""
        if self._net is None:
            import networkx

            self._net = networkx.MultiDiGraph()
            self._net.add_nodes_from(self.values.values())
            for node in self.nodes:
                _connect(self._net, node)
        return self._net

    @property
    def has_net(self) -> bool:
        """Whether somebody has asked for `net`."""
        return self._net is not None

    def producer(self, value: Value) -> Node | None:
        """The node that makes the value; None for an input."""
        return self._makers.get(value)

    def readers(self, value: Value) -> list[tuple[Node, int]]:
        """(node, input position) of every use by a node."""
        return list(self._readers.get(value, ()))

    def ends(self) -> Iterator[Value]:
        """Values somebody outside needs after the call: outputs, updates, losses, kept blobs."""
        yield from self.outputs.values()
        yield from self.updates.values()
        for value, _ in self.losses:
            yield value
        for name in sorted(self.kept):
            if name in self.blobs:
                yield self.blobs[name]

    def reaching(self, value: Value) -> set[Value]:
        """Values that `value` depends on."""
        found: set[Value] = set()
        open_ends = [value]
        while open_ends:
            maker = self._makers.get(open_ends.pop())
            if maker is not None:
                new = set(maker.inputs) - found
                found |= new
                open_ends += new
        return found

    def depending(self, value: Value) -> set[Value]:
        """Values that depend on `value`."""
        import networkx

        return {v for v in networkx.descendants(self.net, value) if isinstance(v, Value)}

    def layer_names(self) -> list[str]:
        """Names of the user's layers, in order."""
        return list(dict.fromkeys(n.origin.layer for n in self.nodes if n.origin.layer))

    # -- copying with changes -----------------------------------------------------------------

    def shell(self) -> tuple[Graph, dict[Value, Value]]:
        """The start of a rewrite: a graph with this one's inputs, remarks and kept names, no nodes.

        Returns it with the map from old to new inputs; `finish` carries outputs over.
        """
        new = Graph(self.name, self.unchecked)
        new.remarks = list(self.remarks)
        new.kept = set(self.kept)
        new.bypassed = set(self.bypassed)
        new.constants = dict(self.constants)
        mapping: dict[Value, Value] = {}
        for value in self.inputs():
            assert value.role
            mapping[value] = new.input(value.name, value.type, value.role)
        return new, mapping

    def repeat(self, node: Node, into: Graph, mapping: dict[Value, Value]) -> None:
        """Apply `node` in another graph, on mapped inputs, keeping its names and origin."""
        inputs = tuple(mapping[v] for v in node.inputs)
        names = [v.name for v in node.outputs]
        if all(new.type == old.type for new, old in zip(inputs, node.inputs, strict=True)):
            types = tuple(v.type for v in node.outputs)  # infer would say the same again
            outputs = into._add_node(node.op, inputs, types, names, node.origin)
        else:
            outputs = into.apply(node.op, *inputs, names=names, origin=node.origin)
        mapping.update(zip(node.outputs, outputs, strict=True))

    def finish(self, new: Graph, mapping: dict[Value, Value]) -> Graph:
        """Carry outputs, updates, blobs and losses over; blobs that have gone are left out."""
        new.outputs = {name: mapping[v] for name, v in self.outputs.items()}
        new.updates = {name: mapping[v] for name, v in self.updates.items()}
        new.blobs = {name: mapping[v] for name, v in self.blobs.items() if v in mapping}
        new.losses = [(mapping[v], weight) for v, weight in self.losses]
        return new

    def copy(self) -> tuple[Graph, dict[Value, Value]]:
        """An equal graph, and the map from this one's values to its."""
        new, mapping = self.shell()
        for node in self.nodes:
            self.repeat(node, new, mapping)
        return self.finish(new, mapping), mapping


def _connect(net: nx.MultiDiGraph[Any], node: Node) -> None:
    """Enter a node and its edges."""
    net.add_node(node)
    for position, value in enumerate(node.inputs):
        net.add_edge(value, node, key=position)
    for position, value in enumerate(node.outputs):
        net.add_edge(node, value, key=position)
