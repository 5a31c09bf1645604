"""Random nets of some depth: layers on layers, as people build them, and what makes plans hard."""

from __future__ import annotations

import random

from plan_nets import NetBuilder

from graphc.ir.core.axes import Broadcast
from graphc.ir.core.elementwise import Multiply, Shift
from graphc.ir.graph import Graph, Value
from graphc.ir.types import TensorType
from graphc.ops.conv import Conv
from graphc.ops.dropout import Dropout
from graphc.ops.lrn import Lrn
from graphc.ops.moments import InverseDeviation, Moments, Standardize
from graphc.ops.neuron import Relu, Sigmoid
from graphc.ops.shape import Concat, Slice
from graphc.passes.pipeline import compile_graph

CHANNELS = 4
KINDS = (
    *("conv", "conv", "conv", "shared conv", "relu", "relu", "sigmoid", "norm", "batch norm"),
    *("dropout", "add", "multiply", "concat", "slice", "running mean"),
)


class DeepNet:
    """Grows a net from a seed: mostly the newest value is used, sometimes an old one."""

    def __init__(self, seed: int):
        self.dice = random.Random(seed)
        self.net = NetBuilder(f"random {seed}")
        self.values = [self.net.input("data", 2, CHANNELS, 4, 4)]
        self.weights: list[Value] = []
        self.counter: Value | None = None

    def graph(self, layers: int) -> tuple[Graph, list[str]]:
        """The net with its gradients, several losses, and the names of blobs to keep."""
        for number in range(layers):
            self.grow(number)
        net = self.net
        blobs = [name for name in net.graph.blobs if name.startswith("blob")]
        ends = list(dict.fromkeys([blobs[-1], *self.dice.sample(blobs, self.dice.randrange(3))]))
        for name in ends:
            net.graph.outputs[name] = net.graph.blobs[name]
        wrt = [*net.parameters, *(["data"] if self.dice.random() < 0.5 else [])] or ["data"]
        summed = frozenset(name for name in net.parameters if self.dice.random() < 0.3)
        keep = self.dice.sample(blobs, self.dice.choice((0, 0, 1, 2)))
        if self.dice.random() < 0.3:
            keep.append(f"{ends[0]}.diff")
        return compile_graph(net.graph, wrt, ends, summed, keep=keep).graph, keep

    def grow(self, number: int) -> None:
        """One layer more."""
        dice, net = self.dice, self.net
        x = self.values[-1] if dice.random() < 0.8 else dice.choice(self.values)
        kind = dice.choice(KINDS)
        net.layer(f"layer{number}", kind)
        made = getattr(self, kind.replace(" ", "_"))(x, number)
        self.values.append(net.blob(f"blob{number}", made))

    def conv(self, x: Value, number: int) -> Value:
        self.weights.append(self.net.parameter(f"w{number}", CHANNELS, CHANNELS, 3, 3))
        return self.shared_conv(x, number)

    def shared_conv(self, x: Value, number: int) -> Value:
        if not self.weights:
            return self.conv(x, number)
        weights = self.weights[-1] if self.dice.random() < 0.5 else self.dice.choice(self.weights)
        return Conv((1, 1), ((1, 1), (1, 1)), (1, 1), 1)(x, weights) * 0.2

    def relu(self, x: Value, number: int) -> Value:
        return Relu()(x)

    def sigmoid(self, x: Value, number: int) -> Value:
        return Sigmoid()(x)

    def norm(self, x: Value, number: int) -> Value:
        return Lrn(3, 0.1, 0.75, 1.0)(x)

    def batch_norm(self, x: Value, number: int) -> Value:
        mean, variance = Moments((0, 2, 3))(x)
        return Standardize((0, 2, 3))(x, mean, InverseDeviation(1e-3)(variance))

    def dropout(self, x: Value, number: int) -> Value:
        graph = self.net.graph
        if self.counter is None:
            self.counter = graph.input("counter", TensorType("int64", ()), "state")
            graph.updates["counter"] = Shift(1.0)(self.counter)
        return Dropout(0.4, number)(x, self.counter)

    def running_mean(self, x: Value, number: int) -> Value:
        """A state that forward renews."""
        graph = self.net.graph
        mean, _ = Moments((0, 2, 3))(x)
        state = graph.input(f"mean{number}", self.net.type(CHANNELS), "state")
        graph.updates[state.name] = state * 0.9 + mean * 0.1
        return x + Broadcast(x.shape, (0, 2, 3))(state)

    def add(self, x: Value, number: int) -> Value:
        return x + self.dice.choice(self.values)

    def multiply(self, x: Value, number: int) -> Value:
        return Multiply()(x, Sigmoid()(self.dice.choice(self.values)))

    def concat(self, x: Value, number: int) -> Value:
        both = Concat(1)(x, self.dice.choice(self.values))
        weights = self.net.parameter(f"w{number}", CHANNELS, 2 * CHANNELS, 1, 1)
        return Conv((1, 1), ((0, 0), (0, 0)), (1, 1), 1)(both, weights)

    def slice(self, x: Value, number: int) -> Value:
        first, second = Slice(1, (CHANNELS // 2,))(x)
        return Concat(1)(second, Relu()(first))
