"""Softmax and a log loss written as two layers become one, whatever stands between them."""

from __future__ import annotations

import numpy as np
import pytest

import graphc
from graphc.driver import Compilation
from graphc.ir.core.axes import Sum
from graphc.ir.core.view import View
from graphc.ir.graph import Graph, Value
from graphc.ir.reference import run as run_reference
from graphc.ir.types import TensorType
from graphc.ops.loss import MultinomialLogLoss
from graphc.ops.score import NegativeLog, Pick
from graphc.ops.softmax import Softmax
from graphc.passes.pipeline import compile_graph

HEAD = """
force_backward: true
layer { name: "in" type: "Input" top: "x" top: "label"
  input_param { shape { %s } shape { %s } } }
layer { name: "s" type: "Softmax" bottom: "x" top: "s" %s }
"""
LOSS = """
layer { name: "loss" type: "%s" bottom: "%s" bottom: "label" top: "loss" loss_weight: 1 }
"""
IMAGE, FLAT = "dim: 4 dim: 6 dim: 1 dim: 1", "dim: 4 dim: 6"
FLATTEN = 'layer { name: "f" type: "Flatten" bottom: "s" top: "f" }'
DROPOUT = 'layer { name: "d" type: "Dropout" bottom: "s" top: "s" }'
SPLIT = 'layer { name: "p" type: "Split" bottom: "s" top: "a" top: "b" }'


def reshape(*extents: int) -> str:
    dims = " ".join(f"dim: {extent}" for extent in extents)
    return (
        'layer { name: "f" type: "Reshape" bottom: "s" top: "f"'
        f" reshape_param {{ shape {{ {dims} }} }} }}"
    )


# what stands between, the scores' shape, the softmax's parameters, the blob the loss reads
BETWEEN = {
    "nothing": ("", IMAGE, "", "s"),
    "a flatten": (FLATTEN, IMAGE, "", "f"),
    "a reshape to less": (reshape(0, -1), IMAGE, "", "f"),
    "a reshape to more": (reshape(0, 6, 1, 1), FLAT, "", "f"),
    "a reshape that moves the axis": (
        reshape(-1, 6),
        "dim: 2 dim: 2 dim: 6",
        "softmax_param { axis: 2 }",
        "f",
    ),
    "a split": (SPLIT + 'layer { name: "q" type: "Silence" bottom: "b" }', IMAGE, "", "a"),
    "a split with another reader": (
        SPLIT + 'layer { name: "q" type: "Power" bottom: "b" top: "q" }',
        IMAGE,
        "",
        "a",
    ),
    "a dropout": (DROPOUT, IMAGE, "", "s"),
    "a dropout, a split and a flatten": (
        DROPOUT
        + SPLIT
        + 'layer { name: "q" type: "Silence" bottom: "b" }'
        + FLATTEN.replace('"s"', '"a"'),
        IMAGE,
        "",
        "f",
    ),
}


def net(between: str, fuse: bool = True, kind: str = "MultinomialLogisticLoss") -> graphc.Net:
    layers, shape, softmax, last = BETWEEN[between]
    text = HEAD % (shape, "dim: 4", softmax) + layers + LOSS % (kind, last)
    return graphc.Net(text, phase="TEST", threads=1, fuse=fuse)


def operators(made: Compilation) -> set[str]:
    return {node.op.op_name for node in made.graph.nodes}


@pytest.mark.parametrize("between", BETWEEN)
def test_the_pair_is_found(between: str) -> None:
    made = net(between).prepare(wrt=["x"])
    assert "softmax_log_loss" in operators(made)
    assert "multinomial_log_loss" not in operators(made)
    other = "another reader" in between
    assert ("softmax" in operators(made)) == other, "the softmax stays for other readers alone"


@pytest.mark.parametrize("between", BETWEEN)
def test_the_fused_pair_means_the_same(between: str) -> None:
    results = []
    for fuse in (True, False):
        one = net(between, fuse)
        rng = np.random.default_rng(2)
        x = rng.standard_normal(one.blobs["x"].shape).astype(np.float32)
        found = one.forward_backward({"x": x, "label": rng.integers(0, 6, 4)}, wrt=["x"])
        results.append((one.loss, found["x"].copy()))
    (loss, gradient), (other_loss, other_gradient) = results
    assert loss == pytest.approx(other_loss, rel=1e-6)
    np.testing.assert_allclose(gradient, other_gradient, rtol=2e-5, atol=1e-7)


def test_a_reshape_that_mixes_classes_and_positions_hides_nothing() -> None:
    graph = Graph()
    x = graph.input("x", TensorType("float64", (4, 6)))
    label = graph.input("label", TensorType("float64", (8,)))
    mixed = View((8, 3))(Softmax(1)(x))
    graph.outputs["loss"] = Sum((0,))(MultinomialLogLoss(1)(mixed, label))
    made = compile_graph(graph).graph
    assert {"softmax", "multinomial_log_loss"} <= {node.op.op_name for node in made.nodes}


def test_the_gradient_of_a_blob_inside_keeps_the_pair_apart() -> None:
    made = net("a flatten").prepare(wrt=["x", "s"])
    assert "softmax_log_loss" not in operators(made)
    said = [r.sentence for r in made.remarks if r.stage == "fuse"]
    assert any("the gradient of blob 's' is asked for" in sentence for sentence in said)


def test_two_softmaxes_with_a_flatten_between_are_warned_of() -> None:
    made = net("a flatten", kind="SoftmaxWithLoss").prepare(wrt=["x"])
    assert {"softmax", "softmax_log_loss"} <= operators(made)
    said = [r.sentence for r in made.remarks if r.stage == "fuse"]
    assert any("two times softmax in a row" in sentence for sentence in said)


@pytest.mark.parametrize("flat", [False, True])
def test_matconvnets_pair_fuses_without_a_floor(flat: bool) -> None:
    graph = Graph()
    x = graph.input("x", TensorType("float64", (5, 7, 1, 1)))
    p: Value = Softmax(1)(x)
    shape: tuple[int, ...] = (5,) if flat else (5, 1, 1)
    if flat:
        p = View((5, 7))(p)
    label = graph.input("label", TensorType("float64", shape))
    each = NegativeLog(1e-8)(Pick(1, -1, 1.0)(p, label))
    graph.outputs["loss"] = Sum(tuple(range(len(shape))))(each)
    made = compile_graph(graph).graph
    (fused,) = [node.op for node in made.nodes if node.op.op_name == "softmax_log_loss"]
    assert fused.fields() == {"axis": 1, "floor": 0.0, "ignore_label": -1}
    rng = np.random.default_rng(0)
    arrays = {"x": rng.standard_normal((5, 7, 1, 1)), "label": rng.integers(-1, 7, shape) * 1.0}
    before = run_reference(graph, arrays)[graph.outputs["loss"]]
    after = run_reference(made, arrays)[made.outputs["loss"]]
    np.testing.assert_allclose(after, before, rtol=1e-12)
