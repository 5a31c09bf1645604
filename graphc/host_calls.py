"""Running a program some of whose steps are the user's own Python code.

The native steps run one by one, and the user's function in place of those that stand for it. The
arrays it sees are views of the program's memory. Such a program is planned without joining steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from graphc.error import NetError
from graphc.frontends.caffe.python_layer import LayerBlob
from graphc.ir.graph import Graph, Node
from graphc.ops.host import HostCall, HostGradient
from graphc.plan.program import Program, Step
from graphc.runtime.cpu import Executable, StepTimes


class Callback(Protocol):
    """The user's code of one layer. Errors that it raises are NetErrors."""

    label: str
    name: str

    def forward(self, bottom: Sequence[LayerBlob], top: Sequence[LayerBlob]) -> None:
        """Fill the tops' data."""

    def backward(
        self, top: Sequence[LayerBlob], wanted: list[bool], bottom: Sequence[LayerBlob]
    ) -> None:
        """Fill the bottoms' diff where wanted."""


class HostedExecutable(Executable):
    """An Executable that calls the user's objects, given by layer name, at their steps."""

    def __init__(
        self, native: Executable, program: Program, graph: Graph, layers: Mapping[str, Callback]
    ):
        super().__init__(native.bundle, native._functions)
        self.program = program
        self.layers = layers
        self.nodes = _nodes(graph)
        self._all_ran = False

    @property
    def has_ended(self) -> bool:
        """As of an Executable; the user's code may be interrupted in its middle."""
        return self._all_ran

    def await_end(self) -> None:
        """As of an Executable."""
        self._all_ran = False

    def call(self, what: str = "forward", threads: int = 1) -> None:
        """Run `forward`, `backward` or `both`. Raises NetError where a check or a layer fails."""
        self.timed_call(what, threads)

    def timed_call(
        self, what: str = "forward", threads: int = 1, clock: int | None = None
    ) -> StepTimes:
        """A call with a clock read before each step."""
        numbers = itertools.chain(*self._ranges(what))
        self.only_forward = what == "forward"
        times = StepTimes.one_by_one(numbers, lambda number: self.step(number, threads), clock)
        self._all_ran = True
        return times

    def step(self, number: int, threads: int = 1) -> None:
        """Run one step: native code, or the user's."""
        step = self.program.steps[number]
        if step.kernel.name == HostCall.op_name:
            self._forward(step)
        elif step.kernel.name == HostGradient.op_name:
            self._backward(step)
        else:
            super().step(number, threads)

    def _forward(self, step: Step) -> None:
        node = self._node(step, HostCall)
        layer = self.layers[step.layer]
        arrays = [self._array(name) for name in step.arguments]
        count = len(node.outputs)
        bottom = [_blob(data) for data in arrays[: len(arrays) - count]]
        top = [_blob(data) for data in arrays[len(arrays) - count :]]
        layer.forward(bottom, top)
        _keep(arrays[len(arrays) - count :], [blob.data for blob in top], layer)

    def _backward(self, step: Step) -> None:
        node = self._node(step, HostGradient)
        layer = self.layers[step.layer]
        arrays = [self._array(name) for name in step.arguments]
        count = len(node.outputs)
        tops = (len(node.inputs) - count) // 2
        top = [_blob(data, diff) for diff, data in zip(arrays[:tops], arrays[tops:], strict=False)]
        results = arrays[len(arrays) - count :]
        for result in results:
            result[...] = 0
        given = arrays[2 * tops : 2 * tops + count]
        bottom = [_blob(data, diff) for data, diff in zip(given, results, strict=True)]
        layer.backward(top, _wanted(node), bottom)
        _keep(results, [blob.diff for blob in bottom], layer)

    def _node(self, step: Step, kind: type[HostCall] | type[HostGradient]) -> Node:
        return self.nodes[step.layer, kind.op_name]

    def _array(self, name: str) -> np.ndarray:
        """A buffer of the program where it lies."""
        buffer = self.program.buffers[name]
        slot = self.bundle.slots[buffer.slot]
        base = self.arena if buffer.slot == 0 else self.arrays[slot.name]
        dtype = np.dtype(buffer.dtype)
        flat = base.reshape(-1).view(np.uint8)[buffer.offset :]
        if 0 in buffer.shape:
            return np.zeros(buffer.shape, dtype)
        strides = tuple(stride * dtype.itemsize for stride in buffer.strides)
        return np.ndarray(buffer.shape, dtype, flat.data, 0, strides)


def _nodes(graph: Graph) -> dict[tuple[str, str], Node]:
    """The nodes that are the user's code, by layer and operator."""
    return {
        (node.origin.layer, node.op.op_name): node
        for node in graph.nodes
        if isinstance(node.op, (HostCall, HostGradient))
    }


def _wanted(node: Node) -> list[bool]:
    """For each bottom whether anybody needs its gradient."""
    graph = node.outputs[0].graph
    ends = set(graph.ends())
    return [bool(graph.readers(value)) or value in ends for value in node.outputs]


def _blob(data: np.ndarray, diff: np.ndarray | None = None) -> LayerBlob:
    blob = LayerBlob((), str(data.dtype))
    blob.data = data
    blob.diff = np.zeros(data.shape, data.dtype) if diff is None else diff
    return blob


def _keep(places: Iterable[np.ndarray], made: Iterable[np.ndarray], layer: Callback) -> None:
    """Where the user set `blob.data = array` instead of writing into it, copy the array over."""
    for place, array in zip(places, made, strict=True):
        if array is place:
            continue
        if np.shape(array) != place.shape:
            raise NetError(
                f"{layer.label}: {layer.name} made an array of shape {list(np.shape(array))}"
                f" where {list(place.shape)} belongs"
            )
        place[...] = array
