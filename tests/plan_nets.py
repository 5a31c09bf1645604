"""Nets built by hand for the tests of the plan, and a run of a program against the reference."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from graphc.ir import reference
from graphc.ir.core.view import View
from graphc.ir.graph import Graph, Origin, Value
from graphc.ir.types import TensorType
from graphc.ops.conv import Conv
from graphc.ops.linear import AddBias, MatMul
from graphc.ops.lrn import Lrn
from graphc.ops.neuron import Relu
from graphc.ops.pool import MaxPool
from graphc.passes.pipeline import compile_graph
from graphc.plan.interpret import make_slots, run_interpreted, view
from graphc.plan.program import Program


def random_arrays(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    """Numbers for all inputs of a graph."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    for value in graph.inputs():
        if value.role == "constant":
            continue
        if value.type.is_real:
            arrays[value.name] = rng.standard_normal(value.shape).astype(value.type.dtype)
        else:
            arrays[value.name] = rng.integers(0, 3, value.shape).astype(value.type.dtype)
    return arrays


def run_program(
    program: Program, graph: Graph, arrays: dict[str, np.ndarray], apart: bool = False
) -> dict[str, np.ndarray]:
    """Outputs, states and readable blobs (`blob NAME`) of a poisoned run.

    With `apart` the two passes run as two calls.
    """
    slots = make_slots(program, {**graph.constants, **arrays})
    if apart:
        run_interpreted(program, slots, end=program.forward_steps)
        run_interpreted(program, slots, first=program.forward_steps)
    else:
        run_interpreted(program, slots)
    found = {
        f"{slot.role} {slot.name}": slots[position]
        for position, slot in enumerate(program.slots)
        if slot.role in ("output", "state")
    }
    for blob, name in program.readable.items():
        found[f"blob {blob}"] = view(program.buffers[name], slots).copy()
    return found


def expected(graph: Graph, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same by the reference."""
    values = reference.run(graph, arrays)
    found = {f"output {name}": values[value] for name, value in graph.outputs.items()}
    for value in graph.inputs("state"):
        new = graph.updates.get(value.name)
        found[f"state {value.name}"] = values[value] if new is None else values[new]
    found.update({f"blob {name}": values[value] for name, value in graph.blobs.items()})
    return found


def check_program(program: Program, graph: Graph, apart: bool = False) -> dict[str, np.ndarray]:
    """Run a float64 program and compare all it gives with the reference; returns what it gave."""
    arrays = random_arrays(graph)
    wanted = expected(graph, arrays)
    found = run_program(program, graph, arrays, apart)
    for name, array in found.items():
        np.testing.assert_allclose(array, wanted[name], rtol=1e-9, atol=1e-9, err_msg=name)
    assert {f"output {name}" for name in graph.outputs} <= set(found)
    return found


class NetBuilder:
    """Builds a chain of layers, with the user's names."""

    def __init__(self, name: str, dtype: str = "float64"):
        self.graph = Graph(name)
        self.dtype = dtype
        self.parameters: list[str] = []

    def type(self, *shape: int) -> TensorType:
        return TensorType(self.dtype, shape)

    def layer(self, name: str, kind: str) -> None:
        self.graph.origin = Origin(name, kind)

    def input(self, name: str, *shape: int) -> Value:
        return self.blob(name, self.graph.input(name, self.type(*shape)))

    def parameter(self, name: str, *shape: int) -> Value:
        self.parameters.append(name)
        return self.graph.input(name, self.type(*shape), "parameter")

    def blob(self, name: str, value: Value) -> Value:
        self.graph.blobs[name] = value
        return value

    def conv(
        self, x: Value, name: str, count: int, size: int, stride: int = 1, pad: int = 0, group=1
    ) -> Value:
        """Convolution with bias, then ReLU in place: the blob's name means the last value."""
        self.layer(name, "Convolution")
        w = self.parameter(f"{name}/0", count, x.shape[1] // group, size, size)
        y = Conv((stride,) * 2, ((pad, pad),) * 2, (1, 1), group)(x, w)
        y = AddBias(1)(y, self.parameter(f"{name}/1", count))
        self.layer(name.replace("conv", "relu"), "ReLU")
        return self.blob(name, Relu()(y))

    def pool(self, x: Value, name: str, size: int = 3, stride: int = 2) -> Value:
        self.layer(name, "Pooling")
        extent = -(-(x.shape[2] - size) // stride) + 1
        y, _ = MaxPool((size,) * 2, (stride,) * 2, ((0, 0),) * 2, (extent,) * 2)(x)
        return self.blob(name, y)

    def norm(self, x: Value, name: str) -> Value:
        self.layer(name, "LRN")
        return self.blob(name, Lrn(5, 1e-4, 0.75, 1.0)(x))

    def inner_product(self, x: Value, name: str, count: int) -> Value:
        self.layer(name, "InnerProduct")
        if x.type.rank > 2:
            x = View((x.shape[0], x.type.size // x.shape[0]))(x)
        y = MatMul(False, True)(x, self.parameter(f"{name}/0", count, x.shape[1]))
        return self.blob(name, AddBias(1)(y, self.parameter(f"{name}/1", count)))

    def relu(self, x: Value, name: str, blob: str) -> Value:
        self.layer(name, "ReLU")
        return self.blob(blob, Relu()(x))

    def gradients(
        self,
        wrt: Iterable[str],
        given: Iterable[str],
        accumulate: Iterable[str] = (),
        keep: Iterable[str] = (),
    ) -> Graph:
        """The graph after all passes."""
        accumulated = frozenset(accumulate)
        return compile_graph(self.graph, list(wrt), list(given), accumulated, keep=keep).graph


def caffenet(batch: int) -> NetBuilder:
    """CaffeNet's shapes, float32."""
    net = NetBuilder("caffenet", "float32")
    x = net.input("data", batch, 3, 227, 227)
    x = net.norm(net.pool(net.conv(x, "conv1", 96, 11, 4), "pool1"), "norm1")
    x = net.norm(net.pool(net.conv(x, "conv2", 256, 5, 1, 2, 2), "pool2"), "norm2")
    x = net.conv(x, "conv3", 384, 3, 1, 1)
    x = net.conv(x, "conv4", 384, 3, 1, 1, 2)
    x = net.pool(net.conv(x, "conv5", 256, 3, 1, 1, 2), "pool5")
    x = net.relu(net.inner_product(x, "fc6", 4096), "relu6", "fc6")
    x = net.relu(net.inner_product(x, "fc7", 4096), "relu7", "fc7")
    net.graph.outputs["fc8"] = net.inner_product(x, "fc8", 1000)
    return net


def small_net() -> NetBuilder:
    """Two convolutions (one grouped), pooling, an inner product: float64, quick to interpret."""
    net = NetBuilder("small")
    x = net.input("data", 2, 3, 9, 9)
    x = net.pool(net.conv(x, "conv1", 4, 3, 1, 1), "pool1")
    x = net.conv(x, "conv2", 6, 3, 1, 1, 2)
    net.graph.outputs["fc"] = net.inner_product(x, "fc", 5)
    return net
