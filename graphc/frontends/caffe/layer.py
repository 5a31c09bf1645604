"""What a Caffe layer's function sees, and the table of all layer types.

A layer function turns bottoms into tops by applying operators:

    @layer("Softmax", bottoms=1)
    def softmax(c):
        return Softmax(axis=c.options("softmax_param").get("axis"))(c.bottoms[0])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from graphc.error import Diagnostic, NetError
from graphc.frontends.caffe.filler import check_filler
from graphc.frontends.caffe.layer_definition import LayerDefinition, ParamDefinition
from graphc.frontends.caffe.message import Message
from graphc.ir.core.elementwise import Add, StopGradient
from graphc.ir.core.fill import Fill
from graphc.ir.core.view import View
from graphc.ir.graph import Graph, Value
from graphc.ir.types import TensorType
from graphc.source import Span

Tops = Value | tuple[Value, ...]
LayerFunction = Callable[["LayerContext"], Tops]

COUNTER = "dropout.counter"


@dataclass(frozen=True)
class LayerType:
    """A layer function, and how many bottoms it takes (None: it says so itself)."""

    build: LayerFunction
    bottoms: tuple[int, int] | None


LAYERS: dict[str, LayerType] = {}


def layer(
    *types: str, bottoms: int | tuple[int, int] | None = None
) -> Callable[[LayerFunction], LayerFunction]:
    """Enter a function in the table under the given Caffe type names."""
    counts = (bottoms, bottoms) if isinstance(bottoms, int) else bottoms

    def enter(function: LayerFunction) -> LayerFunction:
        for type in types:
            LAYERS[type] = LayerType(function, counts)
        return function

    return enter


@dataclass
class Parameter:
    """One learned array: `name` is `conv1/0`, the layer's name and the index there.

    It starts with `initial` where that is given, else as the filler says. `written` are the
    multipliers that the text gives, here or at a layer that shares it.
    """

    name: str
    type: TensorType
    filler: Any  # the FillerParameter node, or None for Caffe's default, constant 0
    lr_mult: float = 1.0
    decay_mult: float = 1.0
    layer: str = ""
    learned: bool = True  # False for batch norm's statistics
    initial: np.ndarray | None = None
    written: set[str] = field(default_factory=set)

    def take_multipliers(self, spec: ParamDefinition) -> str:
        """Take over the multipliers that a `param` writes.

        Returns the first that another layer has written otherwise; empty where they agree.
        """
        for name in ("lr_mult", "decay_mult"):
            if getattr(spec, f"gives_{name}"):
                if name in self.written and getattr(self, name) != getattr(spec, name):
                    return name
                setattr(self, name, getattr(spec, name))
                self.written.add(name)
        return ""


@dataclass(frozen=True)
class Selection:
    """A Filter layer: the tops have as many items as `selector` has numbers other than 0."""

    selector: str
    tops: tuple[str, ...]


@dataclass(frozen=True)
class DataLayer:
    """A layer that may have values of its own for its tops, which are net inputs.

    `tops` are those that it fills: of a DummyData layer not the constant ones.
    """

    definition: LayerDefinition
    tops: tuple[str, ...]
    phase: str
    folder: Path

    def options(self, name: str) -> Any:
        """The layer's parameter message of that name."""
        return self.definition.message.get(name)

    def path(self, relative: str) -> Path:
        """A file named in the definition, relative to its folder."""
        return self.folder / relative

    def fail(self, message: str) -> NetError:
        """The error to raise, at the layer's place."""
        return NetError(f"layer '{self.definition.name}': {message}", self.definition.span)


@dataclass
class Surroundings:
    """What all layers of one net share while the net is built."""

    graph: Graph
    phase: str
    dtype: str
    folder: Path
    fused: bool = True
    infogain_input: str = "scores"  # "probabilities": InfogainLoss as it was before 2017
    masks: frozenset[str] = frozenset()
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    parameters: dict[str, Parameter] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)  # "ip2/0" -> "ip1/0", shared or not
    shared: dict[str, str] = field(default_factory=dict)  # the user's parameter name -> owner
    warnings: list[Diagnostic] = field(default_factory=list)
    selections: list[Selection] = field(default_factory=list)
    python_layers: dict[str, Any] = field(default_factory=dict)  # by name, the user's objects
    data_layers: list[DataLayer] = field(default_factory=list)
    streams: int = 0
    # Names of parameters that some layers share with lr_mult 0, others without.
    partly_frozen: frozenset[str] = frozenset()


class LayerContext:
    """One layer under construction.

    Attributes:
        graph: the graph to build in.
        layer: the definition: name, type, bottoms, tops, params, message.
        bottoms: the values it reads.
        phase: "TRAIN" or "TEST".
        fused: whether losses on scores enter as one operator.
        infogain_input: what InfogainLoss takes, "scores" or "probabilities".
    """

    def __init__(self, around: Surroundings, definition: LayerDefinition, bottoms: list[Value]):
        self.around = around
        self.graph = around.graph
        self.layer = definition
        self.bottoms = bottoms
        self.phase = definition.phase or around.phase
        self.fused = around.fused
        self.infogain_input = around.infogain_input
        self.masks = around.masks
        self.dtype = around.dtype

    def options(self, name: str) -> Any:
        """The layer's parameter message of that name; unset fields give Caffe's defaults."""
        return self.layer.message.get(name)

    def parameter(
        self,
        index: int,
        shape: tuple[int, ...],
        filler: Any = None,
        learned: bool = True,
        initial: np.ndarray | None = None,
    ) -> Value:
        """Parameter `index` of this layer: made, or shared with an earlier layer of the same name.

        Raises NetError where shapes or multipliers of sharing layers disagree.
        """
        if filler is not None:
            check_filler(filler)
        key = f"{self.layer.name}/{index}"
        spec = self.layer.params[index] if index < len(self.layer.params) else None
        shared_name = spec.name if spec else ""
        if spec and shared_name in self.around.shared:
            return self._share(key, self.around.shared[shared_name], tuple(shape), spec)
        type = TensorType(self.dtype, tuple(shape))
        made = Parameter(key, type, filler, layer=self.layer.name, learned=learned, initial=initial)
        if spec:
            made.take_multipliers(spec)
        self.around.parameters[key] = made
        self.around.owners[key] = key
        if shared_name:
            self.around.shared[shared_name] = key
        value = self.graph.input(key, type, "parameter" if learned else "state")
        return self._resting(value, spec) if spec else value

    def _resting(self, value: Value, spec: ParamDefinition) -> Value:
        """A shared parameter as a layer sees it that adds nothing to its gradient: lr_mult 0."""
        if spec.lr_mult != 0 or spec.name not in self.around.partly_frozen:
            return value
        self.remark(
            f"its lr_mult 0 keeps it from adding to the gradient of '{spec.name}', which others do"
        )
        resting: Value = StopGradient()(value)
        return resting

    def statistics(self, index: int, shape: tuple[int, ...]) -> Value:
        """A parameter that calls renew and nobody learns, such as batch norm's averages.

        Where an earlier layer that shares it has renewed it, the value is what that layer left.
        """
        held = self.parameter(index, shape, learned=False)
        owner = self.around.owners[f"{self.layer.name}/{index}"]
        return self.graph.updates.get(owner, held)

    def renew(self, index: int, value: Value) -> None:
        """Let the call leave `value` in the statistics of that index."""
        self.graph.updates[self.around.owners[f"{self.layer.name}/{index}"]] = value

    def state(self, name: str, shape: tuple[int, ...]) -> Value:
        """What the layer remembers from the last call, zeros at first; `remember` changes it."""
        type = TensorType(self.dtype, tuple(shape))
        return self.graph.input(f"{self.layer.name}.{name}", type, "state")

    def remember(self, name: str, value: Value) -> None:
        """Let the call leave `value` in the state of that name."""
        self.graph.updates[f"{self.layer.name}.{name}"] = value

    def _share(self, key: str, owner: str, shape: tuple[int, ...], spec: ParamDefinition) -> Value:
        value = self.graph.values[owner]
        held = self.around.parameters[owner]
        permissive = spec.share_mode == "PERMISSIVE"
        if held.type.shape != shape and not permissive:
            raise self.fail(
                f"cannot share parameter '{spec.name}': {owner} has shape"
                f" {list(held.type.shape)}, {key} needs {list(shape)}"
            )
        if held.type.size != int(np.prod(shape)):
            raise self.fail(
                f"cannot share parameter '{spec.name}': {owner} has {held.type.size} elements,"
                f" {key} needs {int(np.prod(shape))}"
            )
        if what := held.take_multipliers(spec):
            raise self.fail(f"shared parameter '{spec.name}' has a different {what} in {owner}")
        self.around.owners[key] = owner
        return self._resting(value if value.shape == shape else View(shape)(value), spec)

    def constant(self, name: str, array: np.ndarray) -> Value:
        """Data that belongs to the definition, as a value."""
        data = np.ascontiguousarray(array, self.dtype)
        name = self.graph.fresh(f"{self.layer.name}.{name}")
        self.graph.constants[name] = data
        return self.graph.input(name, TensorType(self.dtype, data.shape), "constant")

    def counter(self) -> Value:
        """The state that every random draw of a call depends on; the call adds 1 to it."""
        if COUNTER in self.graph.values:
            return self.graph.values[COUNTER]
        counter = self.graph.input(COUNTER, TensorType("int64", ()), "state")
        (one,) = self.graph.apply(Fill("int64", (), 1.0), names=["one"])
        (following,) = self.graph.apply(Add(), counter, one, names=["dropout.counter.next"])
        self.graph.updates[COUNTER] = following
        return counter

    def stream(self) -> int:
        """A number for this layer's draws that no other layer of the net has."""
        self.around.streams += 1
        return self.around.streams

    def extra_input(self, name: str, type: TensorType) -> Value:
        """An input that the definition does not name, such as an injected dropout mask."""
        return self.graph.input(name, type, "input")

    def input(self, name: str, shape: tuple[int, ...]) -> Value:
        """A net input; the caller of the build may have asked for another shape."""
        wanted = self.around.shapes.get(name, tuple(shape))
        return self.graph.input(name, TensorType(self.dtype, wanted), "input")

    def serves(self, tops: Sequence[str]) -> None:
        """Note that the layer may fill these of its tops, which are net inputs, by itself."""
        folder = self.around.folder
        self.around.data_layers.append(DataLayer(self.layer, tuple(tops), self.phase, folder))

    def fail(self, message: str, field: str | None = None) -> NetError:
        """The error to raise, at the field's place if it is there, else at the layer's."""
        return NetError(f"layer '{self.layer.name}': {message}", self._place(field))

    def warn(self, message: str, field: str | None = None) -> None:
        """Tell the user about something that is allowed and probably not meant."""
        text = f"layer '{self.layer.name}': {message}"
        self.around.warnings.append(Diagnostic(text, self._place(field), "warning"))

    def remark(self, sentence: str) -> None:
        """Note a decision about this layer for those who ask why."""
        self.graph.remark("caffe", f"layer:{self.layer.name}", sentence, self.layer.span)

    def _place(self, field: str | None) -> Span:
        found = None if field is None else _find(self.layer.message, field)
        return found or self.layer.span

    def path(self, relative: str) -> Path:
        """A file named in the definition, relative to the definition's folder."""
        return self.around.folder / relative


def _find(message: Message, field: str) -> Span | None:
    """Where a field of that name stands in the layer or in one of its messages."""
    for given in message:
        if given.name == field:
            return given.span
        if isinstance(given.value, Message):
            inner = _find(given.value, field)
            if inner is not None:
                return inner
    return None
