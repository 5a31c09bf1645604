"""A last layer and its loss in blocks of classes: the same numbers, and never all scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc
from graphc import dagnn
from graphc.bench.loss import GRADIENT_ERROR, exact
from graphc.error import NetError
from graphc.ir.graph import Graph, Value
from graphc.ir.types import TensorType
from graphc.ops.last_layer import FEWEST_CLASSES, MOST_BLOCKS, LinearSoftmaxLogLoss, block_classes
from graphc.ops.linear import AddBias, MatMul
from graphc.ops.loss import SoftmaxLogLoss
from graphc.passes.blockwise import blockwise
from graphc.passes.pipeline import compile_graph
from graphc.plan.planner import plan

ROWS, WIDTH, CLASSES = 4096, 4, 600
LINEAR = """layer { name: "fc" type: "InnerProduct" bottom: "%s" top: "fc"
  inner_product_param { num_output: 600 %s weight_filler { type: "xavier" }
    bias_filler { type: "gaussian" } } }"""
CONV = """layer { name: "fc" type: "Convolution" bottom: "x" top: "fc"
  convolution_param { num_output: 600 kernel_size: %d %s weight_filler { type: "xavier" } } }"""
LOSS = """layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss"
  %s }"""


def text(layer: str, loss: str = "", x: str = "dim: 4096 dim: 4", label: str = "dim: 4096") -> str:
    head = (
        "force_backward: true\n"
        'layer { name: "in" type: "Input" top: "x" top: "label"'
        f" input_param {{ shape {{ {x} }} shape {{ {label} }} }} }}\n"
    )
    return head + layer + "\n" + LOSS % loss


PIXELS = {"x": "dim: 2 dim: 4 dim: 32 dim: 64", "label": "dim: 2 dim: 1 dim: 32 dim: 64"}
# what a last layer can look like: the net, and whether it is found
NETS: dict[str, str] = {
    "inner product": text(LINEAR % ("x", "")),
    "without bias": text(LINEAR % ("x", "bias_term: false")),
    "transposed weights": text(LINEAR % ("x", "transpose: true")),
    "a label to ignore": text(LINEAR % ("x", ""), "loss_param { ignore_label: 3 }"),
    "divided by nothing": text(
        LINEAR % ("x", ""), "loss_param { normalization: NONE ignore_label: 0 } loss_weight: 0.25"
    ),
    "another axis": text(
        LINEAR % ("x", "axis: 2"),
        "softmax_param { axis: 2 }",
        "dim: 64 dim: 64 dim: 4",
        "dim: 64 dim: 64",
    ),
    "a 1x1 convolution": text(CONV % (1, ""), **PIXELS),
    "a 1x1 convolution without bias": text(CONV % (1, "bias_term: false"), **PIXELS),
}


def run(net: graphc.Net, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {name: blob.shape for name, blob in net.blobs.items() if name in net.inputs}
    x = rng.standard_normal(shapes["x"])
    label = rng.integers(0, CLASSES, shapes["label"])
    label.flat[:40] = 3
    label.flat[40:80] = 0
    net.clear_param_diffs()
    found = net.forward_backward({"x": x, "label": label}, wrt=["x", "fc/0"])
    if "fc/1" in net.compilation().caffe.parameters:
        found |= net.forward_backward(wrt=["fc/1"])
    return {**found, "loss": np.asarray(net.loss)}


def operators(net: graphc.Net) -> set[str]:
    return {node.op.op_name for node in net.compilation().graph.nodes}


def remarks(net: graphc.Net) -> str:
    return "\n".join(remark.sentence for remark in net.compilation().remarks)


@pytest.mark.parametrize("name", NETS)
def test_blocks_give_what_the_whole_gives(name: str):
    options: dict[str, Any] = {"phase": "TRAIN", "dtype": "float64", "threads": 1, "seed": 1}
    whole, blocks = (
        graphc.Net(NETS[name], blockwise_loss=asked, **options) for asked in (False, True)
    )
    wanted, got = run(whole), run(blocks)
    assert "block_mass" in operators(blocks) and "softmax_log_loss" not in operators(blocks)
    assert got.keys() == wanted.keys()
    for key, array in wanted.items():
        assert np.abs(array).max() > 0
        np.testing.assert_allclose(got[key], array, rtol=0, atol=1e-13 * np.abs(array).max())
    scores = ROWS * CLASSES * 8
    assert "instead of 18.8 MiB" in remarks(blocks)
    assert whole.compilation().program.arena_bytes >= scores
    block = ROWS * block_classes(ROWS, CLASSES, 8) * 8
    small = 20 * ROWS * 8 + 2 * ROWS * WIDTH * 8
    assert blocks.compilation().program.arena_bytes <= block + small


@pytest.mark.parametrize("name", ["inner product", "a label to ignore", "a 1x1 convolution"])
def test_blocks_on_cuda_give_what_they_give_on_the_processor(name: str):
    options: dict[str, Any] = {"phase": "TRAIN", "blockwise_loss": True, "seed": 1}
    nets = [graphc.Net(NETS[name], target=t, **options) for t in ("cpu", "cuda-emulator")]
    wanted, got = (run(net) for net in nets)
    assert all("block_mass" in operators(net) for net in nets)
    assert got.keys() == wanted.keys()
    for key, array in wanted.items():
        assert np.abs(array).max() > 0
        np.testing.assert_allclose(got[key], array, rtol=0, atol=3e-6 * np.abs(array).max())


def test_threads_and_repetition_give_the_same_bits():
    one, two = (
        graphc.Net(NETS["inner product"], phase="TRAIN", blockwise_loss=True, threads=n, seed=1)
        for n in (1, 2)
    )
    first, second, third = run(one), run(two), run(two)
    for key in first:
        np.testing.assert_array_equal(second[key], third[key])
        scale = np.abs(first[key]).max()
        np.testing.assert_allclose(first[key], second[key], rtol=0, atol=1e-5 * scale)


FLATTEN = 'layer { name: "f" type: "Flatten" bottom: "fc" top: "f" }'
DROPOUT = 'layer { name: "d" type: "Dropout" bottom: "fc" top: "f" }'
SPLIT = 'layer { name: "p" type: "Split" bottom: "fc" top: "f" }'
RESHAPE = """layer { name: "f" type: "Reshape" bottom: "fc" top: "f"
  reshape_param { shape { %s } } }"""
ONE = {"x": "dim: 4096 dim: 4 dim: 1 dim: 1"}  # a map of one position
CROSSED = {
    "a flatten": text(CONV % (1, "") + FLATTEN, **ONE),
    "a reshape to less": text(CONV % (1, "") + RESHAPE % "dim: 0 dim: -1", **ONE),
    "a reshape to more": text(
        LINEAR % ("x", "") + RESHAPE % "dim: 0 dim: 0 dim: 1 dim: 1", label="dim: 4096"
    ),
    "a reshape that moves the axis": text(
        LINEAR % ("x", "") + RESHAPE % "dim: 64 dim: 64 dim: 600",
        "softmax_param { axis: 2 }",
        label="dim: 64 dim: 64",
    ),
    "a dropout": text(LINEAR % ("x", "") + DROPOUT),
    "a dropout behind a convolution": text(CONV % (1, "") + DROPOUT, **PIXELS),
    "a split": text(LINEAR % ("x", "") + SPLIT),
}
CROSSED = {
    name: net.replace('bottom: "fc" bottom: "label"', 'bottom: "f" bottom: "label"')
    for name, net in CROSSED.items()
}


@pytest.mark.parametrize("name", CROSSED)
def test_what_changes_nothing_between_layer_and_loss_hides_nothing(name: str):
    options: dict[str, Any] = {"phase": "TEST", "dtype": "float64", "threads": 1, "seed": 1}
    nets = [graphc.Net(CROSSED[name], blockwise_loss=asked, **options) for asked in (False, True)]
    wanted, got = (run(net) for net in nets)
    assert "block_mass" in operators(nets[1]) and "softmax_log_loss" not in operators(nets[1])
    for key, array in wanted.items():
        assert np.abs(array).max() > 0
        np.testing.assert_allclose(got[key], array, rtol=0, atol=1e-13 * np.abs(array).max())
    sizes = [net.compilation().program.arena_bytes for net in nets]
    assert sizes[1] < sizes[0] / 2


ACCURACY = (
    'layer { name: "accuracy" type: "Accuracy" bottom: "fc" bottom: "label" top: "accuracy" }'
)
REFUSED = {
    "another reader": (NETS["inner product"] + ACCURACY, {}, "stored anyway"),
    "a blob that is kept": (NETS["inner product"], {"keep": ["fc"]}, "stored anyway"),
    "a small net": (
        text(LINEAR % ("x", ""), "", "dim: 2 dim: 4", "dim: 2"),
        {},
        "no more than a block would",
    ),
    "a larger kernel": (
        text(CONV % (3, "pad: 1 bias_term: false"), **PIXELS),
        {},
        "no last layer is followed",
    ),
    "no loss on scores": (NETS["inner product"], {"fuse": False}, "no last layer is followed"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_says_why_and_changes_nothing(name: str):
    net, options, why = REFUSED[name]
    asked = graphc.Net(net, phase="TRAIN", blockwise_loss=True, seed=1, threads=1, **options)
    plain = graphc.Net(net, phase="TRAIN", seed=1, threads=1, **options)
    got, wanted = run(asked), run(plain)
    assert "block_mass" not in operators(asked)
    assert why in remarks(asked)
    for key, array in wanted.items():
        np.testing.assert_array_equal(got[key], array)


def test_a_wanted_gradient_of_the_scores_is_not_passed_by():
    net = graphc.Net(NETS["inner product"], phase="TRAIN", blockwise_loss=True, threads=1)
    net.forward(x=np.ones((ROWS, WIDTH)), label=np.zeros(ROWS))
    assert np.abs(net.backward(wrt=["fc"])["fc"]).max() > 0
    assert "not fused: the gradient of blob 'fc' is asked for" in remarks(net)


@pytest.mark.parametrize("label", [CLASSES, -1, np.inf])
def test_a_label_that_is_no_class_is_an_error(label: float):
    net = graphc.Net(NETS["inner product"], phase="TRAIN", blockwise_loss=True, threads=1)
    labels = np.zeros(ROWS)
    labels[17] = label
    with pytest.raises(NetError, match="label"):
        net.forward(x=np.ones((ROWS, WIDTH)), label=labels)


# -- exactness ------------------------------------------------------------------------------------


def through_identity(rows: int, count: int, blocked: bool) -> Graph:
    """The mean loss of scores that a product with the identity leaves as they are."""
    graph = Graph()
    x = graph.input("x", TensorType("float32", (rows, rows)))
    w = graph.input("w", TensorType("float32", (count, rows)))
    label = graph.input("label", TensorType("float32", (rows,)))
    if blocked:
        loss, *_ = LinearSoftmaxLogLoss(floor=0.0, block=48)(x, w, label)
    else:
        loss = SoftmaxLogLoss(1, 0.0)(MatMul(False, True)(x, w), label)
    graph.losses.append((loss, 1.0 / rows))
    graph.outputs["loss"] = loss
    return graph


@pytest.mark.parametrize("spread", [1.0, 10.0, 100.0, 1e3, 1e4])
@pytest.mark.parametrize("masked", [0, 100])
def test_gradient_is_exact_however_far_apart_the_scores_are(spread: float, masked: int):
    from graphc.codegen.llvm.jit import load
    from graphc.codegen.llvm.object import compile_program

    rows, count = 40, 1000
    made = compile_graph(through_identity(rows, count, True), wrt=["w"]).graph
    executable = load(compile_program(plan(made)))
    arrays = executable.bind_new()
    rng = np.random.default_rng(int(spread))
    scores = (rng.standard_normal((rows, count)) * spread).astype(np.float32)
    scores[:, :masked] = -1e30  # whole blocks far below all others
    label = rng.integers(masked, count, rows)
    label[:10] = scores[:10].argmax(1)  # and some where the label has the largest score
    arrays["x"][...], arrays["w"][...], arrays["label"][...] = np.eye(rows), scores.T, label
    executable.call("both")
    loss, gradient = exact(scores, label.astype(np.float32), 1)
    assert arrays["loss"].mean() == pytest.approx(loss, rel=1e-6)
    off = np.abs(arrays["w.diff"].T - gradient).max()
    assert off <= GRADIENT_ERROR * np.abs(gradient).max()


# -- the pass -------------------------------------------------------------------------------------


def linear(rows: int, count: int) -> Graph:
    graph = Graph()
    x = graph.input("x", TensorType("float32", (rows, 8)))
    w = graph.input("w", TensorType("float32", (count, 8)), "parameter")
    b = graph.input("b", TensorType("float32", (count,)), "parameter")
    label = graph.input("label", TensorType("float32", (rows,)))
    scores: Value = AddBias(1)(MatMul(False, True)(x, w), b)
    graph.blobs["scores"] = scores
    graph.losses.append((SoftmaxLogLoss()(scores, label), 1.0))
    graph.outputs["loss"] = graph.losses[0][0]
    return graph


def test_scores_are_held_in_blocks_where_they_are_many_and_the_graph_given_stays():
    for rows, count, possible in ((4096, 1000, True), (4, 10, False)):
        graph = linear(rows, count)
        before = [node.op.op_name for node in graph.nodes]
        made = blockwise(graph)
        assert any(node.op.op_name == "linear_softmax_log_loss" for node in made.nodes) == possible
        assert [node.op.op_name for node in graph.nodes] == before
        assert not graph.remarks


def test_memory_of_many_classes_is_that_of_a_block():
    made = compile_graph(linear(512, 131072), wrt=["x", "w", "b"], blockwise_loss=True).graph
    program = plan(made)
    assert program.arena_bytes <= 6 << 20
    assert program.arena_bytes <= 1.01 * program.memory.bound_of_order
    kernels = {step.kernel for step in program.steps}
    assert len(program.steps) > 400 and len(kernels) < 20


@pytest.mark.parametrize(("rows", "count"), [(1, 10), (512, 131072), (100_000, 1000), (1, 1 << 24)])
def test_blocks_are_neither_many_nor_narrow(rows: int, count: int):
    size = block_classes(rows, count)
    assert min(count, FEWEST_CLASSES) <= size <= count
    assert -(-count // size) <= MOST_BLOCKS


# -- MatConvNet -----------------------------------------------------------------------------------


def test_dagnn_takes_the_switch():
    found = []
    for asked in (False, True):
        net = dagnn.DagNet()
        net.blockwise_loss = asked
        net.add_layer("fc", dagnn.Conv(size=(1, 1, 4, CLASSES)), "x", "scores", ["w", "b"])
        net.add_layer("loss", dagnn.Loss(loss="softmaxlog"), ["scores", "label"], "objective")
        rng = np.random.default_rng(3)
        net.params["w"].value = rng.standard_normal((1, 1, 4, CLASSES)).astype(np.float32)
        net.params["b"].value = rng.standard_normal((CLASSES,)).astype(np.float32)
        x = rng.standard_normal((1, 1, 4, ROWS)).astype(np.float32)
        label = rng.integers(0, CLASSES + 1, (1, 1, 1, ROWS)).astype(np.float32)
        net.eval({"x": x, "label": label}, {"objective": 1})
        found.append([net.params["w"].der, net.params["b"].der])
        (compiled,) = net._compiled.values()
        names = {node.op.op_name for node in compiled.call.graph.nodes}
        assert ("block_mass" in names) == asked
    for whole, blocks in zip(*found, strict=True):
        scale = np.abs(whole).max()
        np.testing.assert_allclose(blocks, whole, rtol=0, atol=2e-5 * scale)
