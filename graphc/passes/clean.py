"""Canonical form: what is written in several ways is brought into one, what nobody needs goes.

`fuse` matches patterns literally and the plan gives every node a kernel, so both profit:

- identities go (an inference-time dropout, a split); a StopGradient stays until gradients are made;
- whatever only reshapes is a View; a View of a View is one View; a Transpose of a Transpose is one;
- a Fill moves through the core operators, so that the seed of a loss costs nothing;
- equal operators on equal inputs are computed once (gradients ask again for what forward made);
- nodes that no end depends on are dropped, unless they have an effect.

Values that are equal have gradients of their own: that of each is made by its own readers. So a
blob whose gradient is asked for is neither merged with another value nor passed by.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from graphc.ir.core.axes import Broadcast, Mean, Sum, Transpose
from graphc.ir.core.elementwise import Add, Cast, Multiply, Shift, Times
from graphc.ir.core.fill import Fill
from graphc.ir.core.view import View
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.op import Op
from graphc.ir.types import REAL, TensorType

STAGE = "clean"

# A value that exists already, or an operator and its inputs: what a node may be replaced with.
Simpler = Value | tuple[Op, tuple[Value, ...]]


def clean(
    graph: Graph,
    alive: Iterable[str] = (),
    release_stops: bool = False,
    apart: Iterable[str] = (),
) -> Graph:
    """An equal graph in canonical form.

    `alive` names blobs that somebody will ask for later (a gradient given or wanted there), `apart`
    those whose gradient is wanted. With `release_stops` StopGradient goes too, for use after
    `backward`.
    """
    new = _Sweep(graph, release_stops, apart).run()
    return without_dead(new, alive=[new.blobs[name] for name in alive if name in new.blobs])


def without_dead(
    graph: Graph,
    only: Callable[[Node], bool] = lambda node: True,
    alive: Iterable[Value] = (),
) -> Graph:
    """The graph without the nodes that nobody needs; nodes that `only` refuses stay anyway.

    The graph itself where all stay.
    """
    needed = {*graph.ends(), *alive}
    living = []
    for node in reversed(graph.nodes):
        reached = any(value in needed for value in node.outputs)
        if reached or node.op.has_effect or not only(node):
            living.append(node)
            needed.update(node.inputs)
    if len(living) == len(graph.nodes):
        return graph
    new, mapping = graph.shell()
    for node in reversed(living):
        graph.repeat(node, new, mapping)
    return graph.finish(new, mapping)


class _Sweep:
    """One walk in topological order: every node meets inputs that are in canonical form already."""

    def __init__(self, graph: Graph, release_stops: bool, apart: Iterable[str]):
        self.graph = graph
        self.release_stops = release_stops
        self.new, self.mapping = graph.shell()
        # Values, of both graphs, that keep their readers, and those that have lost some or gained.
        self.apart = {graph.blobs[name] for name in apart if name in graph.blobs}
        self.mixed: set[Value] = set()
        self.computed: dict[tuple[str, tuple[Value, ...]], Node] = {}

    def run(self) -> Graph:
        """The rewritten graph, with nodes in it that may be dead."""
        for node in self.graph.nodes:
            self._visit(node)
        new = self.graph.finish(self.new, self.mapping)
        for name, value in self.graph.blobs.items():
            if value in self.mixed or self.mapping.get(value) in self.mixed:
                new.bypassed.add(name)
        name_after_blobs(new)
        return new

    def _visit(self, node: Node) -> None:
        op, inputs = node.op, tuple(self.mapping[value] for value in node.inputs)
        is_apart = not self.apart.isdisjoint(node.outputs)
        if len(node.outputs) == 1:
            step = self._simpler(op, inputs, node.outputs[0].type)
            while isinstance(step, tuple):
                op, inputs = step
                step = self._simpler(op, inputs, node.outputs[0].type)
            if step is not None and not is_apart:
                self.mapping[node.outputs[0]] = step
                self.mixed.add(node.outputs[0])
                self._remark(node, f"it gives what {step} is and costs nothing")
                return
        self.mapping.update(zip(node.outputs, self._apply(node, op, inputs, is_apart), strict=True))

    def _apply(
        self, node: Node, op: Op, inputs: tuple[Value, ...], is_apart: bool
    ) -> tuple[Value, ...]:
        key = (str(op), inputs)
        before = None if is_apart else self.computed.get(key)
        # A node without inputs is cheaper to make again than to keep in memory.
        if before is not None and inputs and not op.has_effect:
            self._remark(node, f"it computes {before.outputs[0]} again, so that is used")
            self.mixed.update(before.outputs)
            return before.outputs
        names = [value.name for value in node.outputs]
        outputs = self.new.apply(op, *inputs, names=names, origin=node.origin)
        if is_apart:
            self.apart.update(outputs)
        else:
            self.computed[key] = self.new.nodes[-1]
        return outputs

    def _remark(self, node: Node, sentence: str) -> None:
        origin = node.origin
        if origin.layer and not origin.backward:
            self.new.remark(STAGE, f"layer:{origin.layer}", sentence, origin.span)

    def _simpler(self, op: Op, inputs: tuple[Value, ...], type: TensorType) -> Simpler | None:
        """One step towards the canonical form of a node of type `type`; None where it is there."""
        if op.is_identity and (self.release_stops or not op.gradient_stops):
            return inputs[0]
        if op.is_view and not isinstance(op, View):
            return View(type.shape), inputs[:1]
        if isinstance(op, Add | Multiply):
            return self._with_constant(op, inputs)
        if len(inputs) == 1:
            (x,) = inputs
            return _without_work(op, x) or self._joined(op, x) or self._filled(op, x, type)
        return None

    def _source(self, value: Value) -> Op | None:
        node = None if value in self.apart else self.new.producer(value)
        return node.op if node else None

    def _with_constant(self, op: Op, inputs: tuple[Value, ...]) -> Simpler | None:
        """x + constant is a Shift, x * constant is Times."""
        for x, other in (inputs, inputs[::-1]):
            source = self._source(other)
            if isinstance(source, Fill) and source.dtype in REAL:
                scalar = Shift(source.value) if isinstance(op, Add) else Times(source.value)
                return scalar, (x,)
        return None

    def _joined(self, op: Op, x: Value) -> Simpler | None:
        """A View of a View, a Transpose of a Transpose."""
        node = None if x in self.apart else self.new.producer(x)
        if node is None or type(op) is not type(node.op):
            return None
        if not isinstance(op, View | Transpose):
            return None
        self.mixed.add(x)
        if isinstance(op, View):
            return op, node.inputs
        assert isinstance(node.op, Transpose)
        first = node.op.permutation
        return Transpose(tuple(first[axis] for axis in op.permutation)), node.inputs

    def _filled(self, op: Op, x: Value, type: TensorType) -> Simpler | None:
        """A core operator on a Fill is a Fill."""
        source = self._source(x)
        if not isinstance(source, Fill) or not (x.type.is_real and type.is_real):
            return None
        number = source.value
        if isinstance(op, Times):
            number *= op.factor
        elif isinstance(op, Shift):
            number += op.amount
        elif isinstance(op, Sum):
            number *= math.prod(x.shape[axis] for axis in op.axes)
        elif not isinstance(op, View | Transpose | Broadcast | Mean | Cast):
            return None
        return Fill(type.dtype, type.shape, number), ()


def _without_work(op: Op, x: Value) -> Simpler | None:
    """Core operators that change nothing, or nothing but the shape."""
    if isinstance(op, View):
        return x if op.shape == x.shape else None
    if isinstance(op, Times):
        return x if op.factor == 1.0 else None
    if isinstance(op, Shift):
        return x if op.amount == 0.0 else None
    if isinstance(op, Cast):
        return x if op.dtype == x.type.dtype else None
    if isinstance(op, Transpose):
        long = [axis for axis in op.permutation if x.shape[axis] != 1]
        if long == sorted(long):
            return View(tuple(x.shape[axis] for axis in op.permutation)), (x,)
    if isinstance(op, Broadcast) and all(op.shape[axis] == 1 for axis in op.axes):
        return View(op.shape), (x,)
    if isinstance(op, Sum | Mean) and all(x.shape[axis] == 1 for axis in op.axes):
        shape = op.infer(x.type).shape
        return View(shape), (x,)
    return None


def name_after_blobs(graph: Graph) -> None:
    """Give every value the name of its blob (of the first, if it has several), as far as possible.

    An input keeps its name; another value in the way gets a number.
    """
    wanted: dict[Value, str] = {}
    for blob, value in graph.blobs.items():
        holder = graph.values.get(blob)
        free = holder is None or holder.role is None
        if value.role is None and value not in wanted and free:
            wanted[value] = blob
    moving = {value: blob for value, blob in wanted.items() if value.name != blob}
    for value in moving:
        graph.rename(value, graph.fresh("moving"))
    for value, blob in moving.items():
        if blob in graph.values:
            graph.rename(graph.values[blob], graph.fresh(blob))
        graph.rename(value, blob)
