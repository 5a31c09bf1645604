"""The benchmark of a last layer and its loss: all scores at once, or blocks of classes.

    whole      an inner product, then the fused softmax loss: three products, all scores held
    blocks     one operator that holds a block of classes at a time: four products

Nothing is timed before loss and gradients have been compared with float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from graphc.bench.loss import LOSS_ERROR, Measured, interleaved, timed
from graphc.bench.torch_loss import Torch
from graphc.codegen.llvm.jit import load
from graphc.codegen.llvm.object import compile_program
from graphc.error import need
from graphc.ir.core.axes import Sum
from graphc.ir.core.elementwise import Times
from graphc.ir.graph import Graph, Value
from graphc.ir.types import TensorType
from graphc.ops.linear import MatMul
from graphc.ops.loss import SoftmaxLogLoss
from graphc.passes.pipeline import compile_graph
from graphc.plan.permission import allowed
from graphc.plan.planner import plan

# Largest error of a gradient, as a part of its largest element: products of float32 are in it.
GRADIENT_ERROR = 2e-5
PRODUCTS = {"whole": 3, "blocks": 4}
# Scores that are held at once while results are compared with float64.
CHECKED_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class LayerSize:
    """x of shape [batch, width], weights of shape [classes, width]."""

    batch: int
    classes: int
    width: int

    def __post_init__(self) -> None:
        need(self.width >= 1, f"the width is at least 1, not {self.width}")

    @property
    def product_flops(self) -> int:
        """Operations of one product."""
        return 2 * self.batch * self.classes * self.width


@dataclass(frozen=True)
class LastLayerReport:
    """What was measured.

    checked: the largest error of a gradient, by form. timings: their `memory` is what a call needs
    beside the arrays of x, labels, weights and their gradients; of torch, by how much its process
    grows in a call.
    """

    size: LayerSize
    checked: dict[str, float]
    timings: list[Measured]

    def rate(self, timing: Measured) -> float:
        """Operations a second, of the products that the form computes."""
        products = PRODUCTS.get(timing.name, PRODUCTS["whole"])
        return products * self.size.product_flops / timing.seconds

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "size": asdict(self.size),
            "gradient_error": self.checked,
            "times": [
                {
                    "name": row.name,
                    "seconds": row.seconds,
                    "best_seconds": row.best,
                    "spread": row.spread,
                    "operations_per_second": self.rate(row),
                    "part_of_whole": row.seconds / self.timings[0].seconds,
                    "memory": row.memory,
                }
                for row in self.timings
            ],
        }


class Form:
    """A compiled form with arrays of its own."""

    def __init__(self, size: LayerSize, name: str, threads: int):
        self.name, self.threads = name, threads
        made = compile_graph(
            layer_graph(size), wrt=["x", "w"], blockwise_loss=name == "blocks"
        ).graph
        program = plan(made, algorithms=allowed(threads=threads))
        self.executable = load(compile_program(program))
        self.arrays: Mapping[str, np.ndarray] = self.executable.bind_new()
        self.timing = Measured(name, 0, program.arena_bytes)

    def run(self) -> None:
        """Loss and gradients in one call."""
        self.executable.call("both", self.threads)


def layer_graph(size: LayerSize) -> Graph:
    """The mean loss of scores x w' for `label`."""
    graph = Graph("last_layer")
    x = graph.input("x", TensorType("float32", (size.batch, size.width)))
    w = graph.input("w", TensorType("float32", (size.classes, size.width)), "parameter")
    label = graph.input("label", TensorType("float32", (size.batch,)))
    each = SoftmaxLogLoss(1, 0.0)(MatMul(False, True)(x, w), label)
    mean: Value = Times(1 / size.batch)(Sum((0,))(each))
    graph.outputs["loss"] = mean
    graph.losses.append((mean, 1.0))
    return graph


def draw_layer(size: LayerSize, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs whose scores are normally distributed with deviation 1."""
    rng = np.random.default_rng(seed)
    scale = np.float32(1 / np.sqrt(size.width))
    return {
        "x": rng.standard_normal((size.batch, size.width), np.float32),
        "w": rng.standard_normal((size.classes, size.width), np.float32) * scale,
        "label": rng.integers(0, size.classes, size.batch).astype(np.float32),
    }


def exact_layer(arrays: Mapping[str, np.ndarray]) -> tuple[float, np.ndarray, np.ndarray]:
    """The mean loss and the gradients of x and w in float64, some rows at a time."""
    x, w = arrays["x"].astype(np.float64), arrays["w"].astype(np.float64)
    label = arrays["label"].astype(np.int64)
    loss, dx, dw = 0.0, np.empty_like(x), np.zeros_like(w)
    block = max(1, CHECKED_AT_ONCE // len(w))
    for first in range(0, len(x), block):
        rows = slice(first, first + block)
        scores = x[rows] @ w.T
        place = np.arange(len(scores)), label[rows]
        scores -= scores.max(1, keepdims=True)
        own = scores[place]
        mass = np.exp(scores, out=scores)
        total = mass.sum(1, keepdims=True)
        loss += float((np.log(total[:, 0]) - own).sum())
        mass /= total
        mass[place] -= 1
        dx[rows] = mass @ w
        dw += mass.T @ x[rows]
    return loss / len(x), dx / len(x), dw / len(x)


def check_layer(
    form: Form, inputs: Mapping[str, np.ndarray], wanted: tuple[float, np.ndarray, np.ndarray]
) -> float:
    """Run and compare with float64; the largest gradient error, a part of the largest element.

    Raises NetError where a result is wrong.
    """
    for name, array in inputs.items():
        form.arrays[name][...] = array
    form.run()
    loss, *gradients = wanted
    off = abs(float(form.arrays["loss"]) - loss) / max(1.0, abs(loss))
    need(off <= LOSS_ERROR, f"{form.name}: the loss is wrong by {off:.1e}")
    worst = 0.0
    for name, gradient in zip(("x", "w"), gradients, strict=True):
        error = np.abs(form.arrays[f"{name}.diff"] - gradient).max() / np.abs(gradient).max()
        right = bool(error <= GRADIENT_ERROR)  # nan is not
        need(right, f"{form.name}: the gradient of {name} is wrong by {error:.1e}")
        worst = max(worst, float(error))
    return worst


def bench_last_layer(
    size: LayerSize, repeats: int = 7, threads: int = 1, torch: bool = False, python: str = ""
) -> LastLayerReport:
    """Check, then time in turns. torch: also PyTorch's linear and cross_entropy.

    Raises NetError where a result is wrong: then nothing has been timed.
    """
    inputs = draw_layer(size)
    forms = [Form(size, name, threads) for name in PRODUCTS]
    wanted = exact_layer(inputs)
    checked = {form.name: check_layer(form, inputs, wanted) for form in forms}
    timings = [form.timing for form in forms]
    work = {form.name: timed(form.run) for form in forms}
    rival = None
    if torch:
        rival = Torch(inputs["x"], inputs["label"], 1, threads, python, inputs["w"])
    try:
        for name in rival.forms if rival else ():
            assert rival is not None
            timings.append(Measured(f"torch {name}", 0, rival.growth(name)))
            work[f"torch {name}"] = partial(rival.run, name)
        runs = interleaved(work, repeats)
    finally:
        if rival is not None:
            rival.close()
    for timing in timings:
        timing.runs = runs[timing.name]
    for name, loss in rival.losses.items() if rival else ():
        right = abs(loss - wanted[0]) <= 1e-5 * max(1.0, abs(wanted[0]))
        need(right, f"torch {name} finds a loss of {loss}, not {wanted[0]}")
    return LastLayerReport(size, checked, timings)
