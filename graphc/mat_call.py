"""A compiled piece of a MatConvNet net: variables in, variables and derivatives out.

Forward and backward are two calls of one program, so a caller may do something between them.
Arrays here are turned to our axes; see `graphc.frontends.matconvnet.array`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphc.frontends.matconvnet.network import PARAMETER, MatLayer, MatNet, build_graph
from graphc.graph_call import USUAL, Choices, GraphCall, compile_graph_call
from graphc.ir.types import TensorType

_KEPT_AT_MOST = 64


@dataclass(frozen=True)
class Piece:
    """What a piece is compiled for.

    Attributes:
        inputs, params: (name, shape) of what is given, on our axes.
        given: variables a derivative is given for.
        known: these derivatives are there before forward, so that a loss makes its gradient.
        values: variables whose value is wanted after the call.
        derivatives: variables whose derivative is wanted.
        wrt: parameters whose derivative is wanted.
    """

    dtype: str
    mode: str
    version: str
    inputs: tuple[tuple[str, tuple[int, ...]], ...]
    params: tuple[tuple[str, tuple[int, ...]], ...]
    given: tuple[str, ...]
    values: tuple[str, ...]
    derivatives: tuple[str, ...]
    wrt: tuple[str, ...]
    known: bool = False


@dataclass
class PieceCall:
    """A compiled piece; `seconds` is what each layer took last: [forward, backward]."""

    piece: Piece
    net: MatNet
    call: GraphCall
    seconds: dict[str, list[float]] = field(default_factory=dict)
    _inputs: dict[str, np.ndarray] = field(default_factory=dict)

    def forward(
        self,
        inputs: Mapping[str, np.ndarray],
        params: Mapping[str, np.ndarray],
        given: Mapping[str, np.ndarray] | None = None,
    ) -> dict[str, np.ndarray]:
        """Values of `piece.values`. `params` are bound as they are: aligned and row-major.

        given: the derivatives, where the piece is for those that are `known`.
        """
        slots = self.call.executable.bundle.slots
        needed = {PARAMETER.format(name): array for name, array in params.items()}
        bound = {s.name: needed[s.name] for s in slots if s.name in needed}
        self.call.executable.bind(bound)
        self.call.put({k: v for k, v in inputs.items() if k not in bound})
        self._give(given or {})
        self._inputs = dict(inputs)
        self.seconds = {layer.name: [0.0, 0.0] for layer in self.net.executed}
        self._run(backward=False)
        return {name: self._value(name) for name in self.piece.values}

    def backward(
        self, given: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Derivatives of `piece.derivatives` and `piece.wrt`, after a forward call."""
        self._give({} if self.piece.known else given)
        self._run(backward=True)
        variables = {name: self._derivative(name) for name in self.piece.derivatives}
        params = {name: self._derivative(PARAMETER.format(name)) for name in self.piece.wrt}
        return variables, params

    def _give(self, given: Mapping[str, np.ndarray]) -> None:
        self.call.put({f"{name}.diff": array for name, array in given.items()})

    def moments(self, layer: str) -> np.ndarray:
        """The moments of the batch that a batch normalising layer saw in the forward call."""
        return self._value(self.net.moments[layer])

    def _run(self, backward: bool) -> None:
        bundle = self.call.executable.bundle
        first = bundle.forward_steps if backward else 0
        steps = bundle.steps[first : None if backward else bundle.forward_steps]
        if not steps:
            return
        what = "backward" if backward else "forward"
        spent = self.call.executable.timed_call(what, self.call.threads).steps
        for step, seconds in zip(steps, spent, strict=True):
            layers = [name for name in step.layer.split(", ") if name in self.seconds]
            for name in layers:
                self.seconds[name][backward] += seconds / len(layers)

    def _value(self, name: str) -> np.ndarray:
        value = self.net.graph.blobs[name]
        if value.role is not None:
            return np.array(self._inputs[value.name])
        return self.call.get(name)

    def _derivative(self, name: str) -> np.ndarray:
        diff = f"{name}.diff"
        if diff in self.call.surface.outputs or diff in self.call.executable.bundle.readable:
            return self.call.get(diff)
        # No gradient arrives: the derivative of a count of errors, for instance.
        value = self.net.graph.blobs[name]
        return np.zeros(value.shape, value.type.dtype)


class CompiledPieces(dict[Hashable, PieceCall]):
    """A net's compiled pieces by what they are for; the oldest goes where there are many."""

    def kept(self, key: Hashable, make: Callable[[], PieceCall]) -> PieceCall:
        """The piece of that key, made where there is none."""
        if key not in self:
            while len(self) >= _KEPT_AT_MOST:
                del self[next(iter(self))]
            self[key] = make()
        return self[key]


def compile_piece(
    name: str, layers: list[MatLayer], piece: Piece, choices: Choices = USUAL
) -> PieceCall:
    """Build and compile layers for one purpose."""
    net, wrt, keep = piece_graph(name, layers, piece)
    known = piece.given if piece.known else ()
    call = compile_graph_call(net.graph, wrt, piece.given, keep, net.callbacks, choices, known)
    return PieceCall(piece, net, call)


def piece_graph(
    name: str, layers: Sequence[MatLayer], piece: Piece
) -> tuple[MatNet, list[str], list[str]]:
    """The forward graph of layers, what to derive for, and what to keep."""
    net = build_graph(
        name,
        layers,
        {v: TensorType(piece.dtype, shape) for v, shape in piece.inputs},
        {p: TensorType(piece.dtype, shape) for p, shape in piece.params},
        piece.mode,
        piece.version,
    )
    graph = net.graph
    wrt = [PARAMETER.format(p) for p in piece.wrt if PARAMETER.format(p) in graph.values]
    inner: list[str] = []
    for variable in piece.derivatives:
        value = graph.blobs[variable]
        (wrt if value.role is not None else inner).append(variable)
    values = [v for v in piece.values if graph.blobs[v].role is None]
    values += net.moments.values() if piece.given else ()
    graph.outputs = {v: graph.blobs[v] for v in values}
    return net, wrt, [*values, *(f"{v}.diff" for v in inner)]
