"""A short training of one small net with the fused and with the unfused loss.

Its inputs are pixels from 0 to 255 that nobody has scaled, so its scores are far apart: the softmax
of the label's class underflows to 0 for many examples. Through the pair of layers these get no
gradient at all, and the net cannot learn from what it gets most wrong. The fused loss gives them
their gradient. Nothing else differs: data, first weights and steps are the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphc.bench.loss import exact, loss_of
from graphc.codegen.llvm.jit import load
from graphc.codegen.llvm.object import compile_program
from graphc.ir.core.axes import Sum
from graphc.ir.core.elementwise import Times
from graphc.ir.graph import Graph, Value
from graphc.ir.types import TensorType
from graphc.ops.linear import AddBias, MatMul
from graphc.ops.neuron import Relu
from graphc.passes.pipeline import compile_graph
from graphc.plan.planner import plan

EXAMPLES, PIXELS, HIDDEN, CLASSES = 256, 64, 32, 10
RATE = 3e-4


@dataclass(frozen=True)
class Curve:
    """One training: the mean loss (of float64) and the part classified wrongly before each step."""

    name: str
    losses: tuple[float, ...]
    wrong: tuple[float, ...]


def train(form: str, steps: int = 120, seed: int = 0) -> Curve:
    """Train by plain gradient descent on the whole set. form: as in `loss_of`."""
    x, label = digits(seed)
    graph = _net(form)
    made = compile_graph(graph, wrt=["w1", "b1", "w2", "b2"], fuse=False, keep=["scores"]).graph
    executable = load(compile_program(plan(made, keep=["scores"])))
    arrays = executable.bind_new()
    rng = np.random.default_rng(seed + 1)
    arrays["x"][...], arrays["label"][...] = x, label
    arrays["w1"][...] = rng.standard_normal((HIDDEN, PIXELS)) * np.sqrt(2 / PIXELS)
    arrays["w2"][...] = rng.standard_normal((CLASSES, HIDDEN)) * np.sqrt(2 / HIDDEN)
    losses, wrong = [], []
    for _ in range(steps):
        executable.call("both")
        scores = executable.read("scores")
        losses.append(exact(scores, label, 1)[0])
        wrong.append(float(np.mean(scores.argmax(1) != label)))
        for name in ("w1", "b1", "w2", "b2"):
            arrays[name][...] -= RATE * arrays[f"{name}.diff"]
    return Curve(form, tuple(losses), tuple(wrong))


def digits(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pixels 0 .. 255 of noisy pictures, one pattern a class, and their labels."""
    rng = np.random.default_rng(seed)
    patterns = rng.uniform(0, 255, (CLASSES, PIXELS))
    label = rng.integers(0, CLASSES, EXAMPLES)
    noisy = patterns[label] + rng.standard_normal((EXAMPLES, PIXELS)) * 40
    return np.clip(noisy, 0, 255).astype(np.float32), label.astype(np.float32)


def _net(form: str) -> Graph:
    graph = Graph("small")

    def parameter(name: str, *shape: int) -> Value:
        return graph.input(name, TensorType("float32", shape), "parameter")

    x = graph.input("x", TensorType("float32", (EXAMPLES, PIXELS)))
    label = graph.input("label", TensorType("float32", (EXAMPLES,)))
    hidden = AddBias(1)(
        MatMul(False, True)(x, parameter("w1", HIDDEN, PIXELS)), parameter("b1", HIDDEN)
    )
    product = MatMul(False, True)(Relu()(hidden), parameter("w2", CLASSES, HIDDEN))
    scores = AddBias(1)(product, parameter("b2", CLASSES))
    graph.blobs["scores"] = scores
    mean = Times(1 / EXAMPLES)(Sum((0,))(loss_of(scores, label, 1, form)))
    graph.outputs["loss"] = mean
    graph.losses.append((mean, 1.0))
    return graph
