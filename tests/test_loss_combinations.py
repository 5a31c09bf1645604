"""Every way to write a loss that fuses: fused and as written, value and gradient in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc
from graphc import dagnn
from graphc.error import NetError
from graphc.frontends.matconvnet import losses
from graphc.ir.core.view import View
from graphc.ir.graph import Graph, Value
from graphc.ir.types import TensorType
from graphc.ops.neuron import Sigmoid
from graphc.ops.softmax import Softmax
from graphc.passes.pipeline import compile_graph
from graphc.plan.planner import plan

CLASSES = 5
SHAPES = {
    "scores": ((6, CLASSES), 1),
    "maps": ((2, CLASSES, 3, 4), 1),
    "rows": ((2, 3, CLASSES), 2),
}
NORMALISATIONS = ["", "normalization: FULL", "normalization: VALID", "normalization: BATCH_SIZE",
                  "normalization: NONE", "normalize: false"]  # fmt: skip


def caffe(kind: str, shape: str, options: str, **net: Any) -> graphc.Net:
    extents, axis = SHAPES[shape]
    position = (*extents[:axis], *extents[axis + 1 :])
    dims = ["".join(f" dim: {e}" for e in s) for s in (extents, position, (CLASSES, CLASSES))]
    text = (
        'force_backward: true layer { name: "in" type: "Input" top: "x" top: "label" top: "h"'
        f" input_param {{ {' '.join(f'shape {{{d} }}' for d in dims)} }} }}\n"
    )
    if kind == "InfogainLoss on probabilities":
        text += (
            'layer { name: "p" type: "Softmax" bottom: "x" top: "p"'
            f" softmax_param {{ axis: {axis} }} }}\n"
        )
        net["infogain_input"] = "probabilities"
    text += f'layer {{ name: "loss" type: "{kind.split()[0]}" top: "loss" loss_weight: 0.5'
    text += f' bottom: "{"p" if "probabilities" in kind else "x"}" bottom: "label"'
    if "Infogain" in kind:
        text += f' bottom: "h" infogain_loss_param {{ axis: {axis} }}'
    else:
        text += f" softmax_param {{ axis: {axis} }}"
    text += f" loss_param {{ {options} }} }}\n"
    if "Infogain" not in kind:
        text += 'layer { name: "quiet" type: "Silence" bottom: "h" }'
    return graphc.Net(text, phase="TEST", dtype="float64", threads=1, **net)


def result(net: graphc.Net, weights: str) -> tuple[float, np.ndarray]:
    rng = np.random.default_rng(5)
    shape = net.blobs["label"].shape
    label = rng.integers(0, CLASSES, shape)
    label.flat[:3] = 2  # so that some are ignored
    h = rng.uniform(0.1, 2, (CLASSES, CLASSES))
    x = rng.standard_normal(net.blobs["x"].shape) * 3
    if weights == "a weight for each class":
        h = np.diag(np.diag(h))
    found = net.forward_backward({"x": x, "label": label, "h": h}, wrt=["x"])
    return net.loss, found["x"].copy()


@pytest.mark.parametrize("ignore", ["", "ignore_label: 2"])
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("kind", "weights"),
    [
        ("SoftmaxWithLoss", ""),
        ("InfogainLoss", "a matrix"),
        ("InfogainLoss on probabilities", "a matrix"),
        ("InfogainLoss on probabilities", "a weight for each class"),
    ],
)
def test_caffes_losses(kind: str, weights: str, shape: str, normalisation: str, ignore: str):
    if "Infogain" in kind and "normalize" in normalisation:
        pytest.skip("Caffe's InfogainLoss refuses the older field")
    options = f"{normalisation} {ignore}"
    fused, written = (caffe(kind, shape, options, fuse=on) for on in (True, False))
    loss, gradient = result(fused, weights)
    wanted, slope = result(written, weights)
    assert "softmax" not in {n.op.op_name for n in fused.compilation().graph.nodes}
    assert "softmax" in {n.op.op_name for n in written.compilation().graph.nodes}
    assert loss == pytest.approx(wanted, rel=1e-12) and loss > 0
    np.testing.assert_allclose(gradient, slope, rtol=0, atol=1e-13 * np.abs(slope).max())


# -- MatConvNet's words ---------------------------------------------------------------------------

# name: what stands before the loss, the loss's options, the shape of labels, the fused operator
PAIRS: dict[str, tuple[Callable[[], Any], dict[str, Any], str, str]] = {
    "log": (lambda: Softmax(1), {"loss": "log"}, "labels", "softmax_log_loss"),
    "smoothed log": (
        lambda: Softmax(1),
        {"loss": "log", "label_smoothing": 0.2},
        "labels",
        "softmax_smoothed_loss",
    ),
    "binarylog": (Sigmoid, {"loss": "binarylog"}, "signs", "logistic_loss"),
}


def pair(
    name: str, image: bool, weighted: bool, normalise: bool, shown: bool = False
) -> tuple[Graph, dict[str, np.ndarray]]:
    before, options, labels, _ = PAIRS[name]
    shape = (4, CLASSES, 3, 2) if image else (4, CLASSES, 1, 1)
    rng = np.random.default_rng(9)
    graph = Graph()
    x = graph.input("x", TensorType("float64", shape))
    p: Value = before()(x)
    if shown and not image:
        p = View(shape)(View((4, CLASSES))(p))
    per_label = shape if labels == "signs" else (4, *shape[2:])
    c = graph.input("c", TensorType("float64", per_label))
    values = {"x": rng.standard_normal(shape) * 2}
    drawn = rng.integers(-1, 2, per_label) if labels == "signs" else None
    values["c"] = 1.0 * (rng.integers(0, CLASSES + 1, per_label) if drawn is None else drawn)
    weights = None
    if weighted:
        weights = graph.input("w", TensorType("float64", per_label))
        values["w"] = rng.uniform(0, 2, per_label)
    loss = losses.loss(p, c, weights, normalise=normalise, **options)
    graph.losses.append((loss, 1.0))
    graph.outputs["loss"] = loss
    return graph, values


def run(graph: Graph, values: dict[str, np.ndarray], fuse: bool) -> tuple[Any, Any, set[str]]:
    from graphc.codegen.llvm.jit import load
    from graphc.codegen.llvm.object import compile_program

    made = compile_graph(graph, wrt=["x"], fuse=fuse).graph
    executable = load(compile_program(plan(made)))
    arrays = executable.bind_new()
    for name, value in values.items():
        arrays[name][...] = value
    executable.call("both")
    names = {node.op.op_name for node in made.nodes}
    return arrays["loss"].copy(), arrays["x.diff"].copy(), names


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("image", [False, True])
@pytest.mark.parametrize("name", PAIRS)
def test_matconvnets_pairs(name: str, image: bool, weighted: bool, normalise: bool):
    graph, values = pair(name, image, weighted, normalise)
    loss, gradient, names = run(graph, values, True)
    wanted, slope, plain = run(graph, values, False)
    assert PAIRS[name][3] in names and PAIRS[name][3] not in plain
    np.testing.assert_allclose(loss, wanted, rtol=1e-12)
    np.testing.assert_allclose(gradient, slope, rtol=0, atol=1e-12 * np.abs(slope).max())


@pytest.mark.parametrize("name", PAIRS)
def test_a_reshape_between_hides_no_pair(name: str):
    graph, values = pair(name, False, False, False, shown=True)
    assert PAIRS[name][3] in run(graph, values, True)[2]


# -- soft targets and smoothed labels -------------------------------------------------------------


def log_softmax(x: np.ndarray, axis: int) -> np.ndarray:
    below = x - x.max(axis, keepdims=True)
    return below - np.log(np.exp(below).sum(axis, keepdims=True))


def dag(block: dagnn.Block, before: dagnn.Block | None, x: Any, c: Any) -> tuple[Any, Any]:
    net = dagnn.DagNet()
    if before is not None:
        net.add_layer("p", before, "x", "p")
    net.add_layer("loss", block, ["p" if before is not None else "x", "c"], "loss")
    for name in ("x", "loss"):
        net.vars[name].precious = True
    net.eval({"x": x, "c": c}, {"loss": 1})
    return float(np.ravel(net.vars["loss"].value)[0]), net.vars["x"].der


@pytest.mark.parametrize("before", [None, dagnn.SoftMax()])
@pytest.mark.parametrize("smoothing", [0.1, 0.5, 1.0])
def test_smoothed_labels_are_those_of_the_definition(before: Any, smoothing: float):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((3, 2, CLASSES, 4))
    c = rng.integers(0, CLASSES + 1, (3, 2, 1, 4)).astype(float)
    kind = "softmaxlog" if before is None else "log"
    loss, gradient = dag(dagnn.Loss(loss=kind, label_smoothing=smoothing), before, x, c)
    logs = log_softmax(x, 2)
    hot = (np.arange(1, CLASSES + 1)[:, None] == c).astype(float)
    t = ((1 - smoothing) * hot + smoothing / CLASSES) * (c != 0)
    assert loss == pytest.approx(-(t * logs).sum(), rel=1e-12)
    slope = np.exp(logs) * t.sum(2, keepdims=True) - t
    np.testing.assert_allclose(gradient, slope, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("normalise", "images"), [(False, 1), (True, 4)])
@pytest.mark.parametrize("before", [None, dagnn.SoftMax()])
def test_soft_targets_are_those_of_the_definition(before: Any, normalise: bool, images: int):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((3, 2, CLASSES, 4)) * 5
    t = rng.uniform(0, 1, x.shape)
    t[0, 0, :, 0] = 0  # no target at all: no loss
    kind = "softmaxlog" if before is None else "log"
    loss, gradient = dag(dagnn.SoftTargetLoss(loss=kind, normalise=normalise), before, x, t)
    logs = log_softmax(x, 2)
    assert loss == pytest.approx(-(t * logs).sum() / images, rel=1e-12)
    slope = (np.exp(logs) * t.sum(2, keepdims=True) - t) / images
    np.testing.assert_allclose(gradient, slope, rtol=0, atol=1e-13 * np.abs(slope).max())


@pytest.mark.parametrize("spread", [1.0, 100.0, 1e4])
@pytest.mark.parametrize("soft", [False, True])
def test_gradients_are_exact_at_every_spread(soft: bool, spread: float):
    rng = np.random.default_rng(int(spread))
    x = (rng.standard_normal((1, 1, 40, 30)) * spread).astype(np.float32)
    c = rng.integers(1, 41, (1, 1, 1, 30)).astype(np.float32)
    c[..., :10] = x[..., :10].argmax(2)[:, :, None] + 1  # the label wins by far
    t = 0.9 * (np.arange(1, 41)[:, None] == c) + 0.1 / 40
    if soft:
        t = t.astype(np.float32)
        loss, gradient = dag(dagnn.SoftTargetLoss(), None, x, t)
    else:
        loss, gradient = dag(dagnn.Loss(label_smoothing=0.1), None, x, c)
    logs = log_softmax(x.astype(np.float64), 2)
    assert loss == pytest.approx(-(t * logs).sum(dtype=np.float64), rel=1e-6)
    slope = np.exp(logs) * t.sum(2, keepdims=True, dtype=np.float64) - t
    assert np.abs(gradient - slope).max() <= 3e-7 * np.abs(slope).max()


def test_smoothing_of_another_loss_is_refused():
    x, c = np.ones((1, 1, CLASSES, 2)), np.ones((1, 1, 1, 2))
    for block in (dagnn.Loss(loss="mhinge", label_smoothing=0.1), dagnn.Loss(label_smoothing=1.5)):
        with pytest.raises(NetError, match="label_smoothing is from 0 to 1"):
            dag(block, None, x, c)
    with pytest.raises(NetError, match="soft targets are for"):
        dag(dagnn.SoftTargetLoss(loss="hinge"), None, x, x)
    with pytest.raises(NetError, match="a target for each"):
        dag(dagnn.SoftTargetLoss(), None, x, c)


# -- mistakes -------------------------------------------------------------------------------------

TWICE = {
    "Softmax, InfogainLoss": ("Softmax", "InfogainLoss", "softmax"),
    "Softmax, SoftmaxWithLoss": ("Softmax", "SoftmaxWithLoss", "softmax"),
    "Sigmoid, SigmoidCrossEntropyLoss": ("Sigmoid", "SigmoidCrossEntropyLoss", "sigmoid"),
}


@pytest.mark.parametrize("name", TWICE)
def test_an_operator_twice_is_not_merged_and_warned_of(name: str):
    first, second, operator = TWICE[name]
    targets = "dim: 4 dim: 3" if "CrossEntropy" in second else "dim: 4"
    matrix = 'bottom: "h"' if second == "InfogainLoss" else ""
    quiet = "" if matrix else 'layer { name: "quiet" type: "Silence" bottom: "h" }'
    text = f"""
    force_backward: true
    layer {{ name: "in" type: "Input" top: "x" top: "label" top: "h" input_param {{
      shape {{ dim: 4 dim: 3 }} shape {{ {targets} }} shape {{ dim: 3 dim: 3 }} }} }}
    layer {{ name: "p" type: "{first}" bottom: "x" top: "p" }}
    layer {{ name: "loss" type: "{second}" bottom: "p" bottom: "label" {matrix} top: "loss" }}
    {quiet}"""
    made = graphc.Net(text, phase="TEST", threads=1).prepare(wrt=["x"])
    assert operator in {node.op.op_name for node in made.graph.nodes}
    (said,) = [r for r in made.remarks if f"two times {operator} in a row" in r.sentence]
    assert said.sentence.startswith("warning:") and said.subject == "layer:loss"


@pytest.mark.parametrize(("before", "kind"), [(Softmax(1), "softmaxlog"), (Sigmoid(), "logistic")])
def test_matconvnets_mistakes_are_warned_of(before: Any, kind: str):
    graph = Graph()
    x = graph.input("x", TensorType("float64", (4, CLASSES, 1, 1)))
    shape = (4, 1, 1) if kind == "softmaxlog" else (4, CLASSES, 1, 1)
    c = graph.input("c", TensorType("float64", shape))
    graph.outputs["loss"] = losses.loss(before(x), c, loss=kind)
    made = compile_graph(graph).graph
    assert before.op_name in {node.op.op_name for node in made.nodes}
    assert any("in a row" in remark.sentence for remark in made.remarks)
