"""The loss and its gradient in one sweep: which steps are joined, where the gradient lies, bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc
from graphc.bench.loss import GRADIENT_ERROR, SPREADS, Candidate, Size, error_of, exact
from graphc.codegen.llvm.nest import PART, PART_OF_ROW
from graphc.frontends.matconvnet import losses
from graphc.ir.core.axes import Sum
from graphc.ir.core.elementwise import Times
from graphc.ir.graph import Graph, Value
from graphc.ir.types import TensorType
from graphc.kernel.build import kernel_of
from graphc.kernel.facts import may_overwrite
from graphc.kernel.interp import interpret
from graphc.kernel.lang import Call, Fold, Kernel, Store
from graphc.kernel.once import COSTLY, compute_once
from graphc.kernel.reading import parse_kernel
from graphc.kernel.verify import verify
from graphc.kernel.walk import statement_exprs, walk
from graphc.ops.infogain import SoftmaxInfogainLossGradient
from graphc.ops.loss import SoftmaxLogLossGradient
from graphc.ops.softmax import Softmax
from graphc.passes.pipeline import compile_graph
from graphc.plan.planner import plan

BATCH, CLASSES = 12, 40
HEAD = f"""
layer {{ name: "in" type: "Input" top: "x" top: "label"
  input_param {{ shape {{ dim: {BATCH} dim: 30 }} shape {{ dim: {BATCH} }} }} }}
layer {{ name: "hidden" type: "InnerProduct" bottom: "x" top: "hidden"
  inner_product_param {{ num_output: 20 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "act" type: "ReLU" bottom: "hidden" top: "hidden" }}
layer {{ name: "fc" type: "InnerProduct" bottom: "hidden" top: "fc"
  inner_product_param {{ num_output: {CLASSES} weight_filler {{ type: "xavier" }} }} }}
"""
LOSS = 'layer { name: "loss" bottom: "fc" bottom: "label" top: "loss" type: "SoftmaxWithLoss" %s }'
ACCURACY = 'layer { name: "acc" type: "Accuracy" bottom: "fc" bottom: "label" top: "acc" }'
WRT = ("hidden/0", "hidden/1", "fc/0", "fc/1", "x")


def net(text: str, **options: Any) -> graphc.Net:
    options.setdefault("threads", 1)
    return graphc.Net(HEAD + text, phase="TRAIN", seed=3, **options)


def inputs(seed: int = 0, spread: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((BATCH, 30)).astype(np.float32) * np.float32(spread)
    return {"x": x, "label": rng.integers(0, CLASSES, BATCH)}


@pytest.mark.parametrize(
    "text",
    [
        LOSS % "",
        LOSS % "loss_param { ignore_label: 3 }",
        LOSS % "loss_param { normalization: NONE }" + ACCURACY,
        LOSS % "loss_weight: 0.25",
        'layer { name: "p" type: "Softmax" bottom: "fc" top: "p" }'
        'layer { name: "loss" type: "MultinomialLogisticLoss" bottom: "p" bottom: "label"'
        ' top: "loss" }',
        'layer { name: "loss" type: "HingeLoss" bottom: "fc" bottom: "label" top: "loss" }',
    ],
)
def test_one_forward_step_makes_loss_and_gradient_over_the_scores(text: str) -> None:
    made = net(text).prepare(wrt=WRT)
    program = made.program
    (step,) = [s for s in program.steps if "fc.diff" in s.arguments[len(s.kernel.inputs) :]]
    assert not step.backward
    assert "fc" in step.arguments, "it reads the scores"
    assert len(step.kernel.outputs) == 2, "it makes the losses and the gradient"
    assert not any(s.backward and "loss" in s.layer for s in program.steps)
    scores, gradient = program.buffers["fc"], program.buffers["fc.diff"]
    assert (scores.slot, scores.offset) == (gradient.slot, gradient.offset)
    remarks = [r.sentence for r in made.remarks if r.stage == "join"]
    assert any("is made in forward, in one sweep over fc" in said for said in remarks)


MAPS = f"""
layer {{ name: "in" type: "Input" top: "x" top: "label" input_param {{
  shape {{ dim: 4 dim: 3 dim: 8 dim: 16 }} shape {{ dim: 4 dim: 8 dim: 16 }} }} }}
layer {{ name: "matrix" type: "DummyData" top: "h" dummy_data_param {{
  shape {{ dim: {CLASSES} dim: {CLASSES} }} data_filler {{ type: "xavier" }} }} }}
layer {{ name: "fc" type: "Convolution" bottom: "x" top: "fc"
  convolution_param {{ num_output: {CLASSES} kernel_size: 1 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" bottom: "fc" bottom: "label" top: "loss" %s }}
"""


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (MAPS % 'type: "SoftmaxWithLoss"', "softmax_log_loss"),
        (MAPS % 'type: "InfogainLoss" bottom: "h"', "softmax_infogain_loss"),
    ],
)
def test_maps_and_their_gradient_are_one_sweep(text: str, kind: str) -> None:
    made = graphc.Net(text, phase="TRAIN", seed=3, threads=1).prepare()
    names = [step.kernel.name for step in made.program.steps]
    (sweep,) = [name for name in names if kind in name]
    assert f"{kind}+{kind}_gradient" in sweep
    scores, gradient = made.program.buffers["fc"], made.program.buffers["fc.diff"]
    assert (scores.slot, scores.offset) == (gradient.slot, gradient.offset)


def _matconvnet(kind: str) -> Graph:
    graph = Graph(kind)
    places = TensorType("float32", (6, 4, 5))
    scores = graph.input("x", TensorType("float32", (6, 7, 4, 5)))
    x = Times(0.5)(scores)
    if kind == "soft targets":
        targets = graph.input("t", TensorType("float32", (6, 7, 4, 5)))
        value: Value = Sum((0, 1, 2))(losses.soft_target(x, targets, "softmaxlog"))
    else:
        weights = graph.input("w", places) if kind == "weights" else None
        smoothing = 0.1 if kind == "smoothing" else 0.0
        label = graph.input("c", places)
        value = losses.loss(x, label, weights, loss="softmaxlog", label_smoothing=smoothing)
    graph.outputs["loss"] = value
    graph.losses.append((value, 1.0))
    return graph


@pytest.mark.parametrize("kind", ["labels", "weights", "smoothing", "soft targets"])
def test_matconvnets_losses_and_their_gradients_are_one_sweep(kind: str) -> None:
    program = plan(compile_graph(_matconvnet(kind), wrt=["x"]).graph)
    sweeps = [step.kernel for step in program.steps if "softmax" in step.kernel.name]
    assert len(sweeps) == 1 and "loss+" in sweeps[0].name and "_gradient" in sweeps[0].name
    assert not any("softmax" in s.kernel.name for s in program.steps if s.backward)


SIGMOID = """
layer {{ name: "in" type: "Input" top: "x" top: "label"
  input_param {{ shape {{ {x} }} shape {{ {label} }} }} }}
layer {{ name: "fc" type: "{kind}" bottom: "x" top: "fc" {layer} }}
layer {{ name: "loss" type: "SigmoidCrossEntropyLoss" bottom: "fc" bottom: "label" top: "loss"
  loss_param {{ {more} }} }}
"""
MANY = {"x": "dim: 64 dim: 32", "label": "dim: 64 dim: 50", "kind": "InnerProduct"}
MAP = {"x": "dim: 4 dim: 8 dim: 12 dim: 14", "label": "dim: 4 dim: 5 dim: 12 dim: 14"}
SIGMOIDS = {
    "inner product": (MANY, "inner_product_param { num_output: 50 weight_filler {"),
    "convolution": (MAP, "convolution_param { num_output: 5 kernel_size: 3 pad: 1 weight_filler {"),
    "1x1 convolution": (MAP, "convolution_param { num_output: 5 kernel_size: 1 weight_filler {"),
}


@pytest.mark.parametrize("more", ["", "ignore_label: 1"])
@pytest.mark.parametrize("name", SIGMOIDS)
def test_sigmoid_losses_ride_with_their_gradient_behind_the_product(name: str, more: str) -> None:
    """Scores are in registers there: nobody stores them, and nobody reads them again."""
    shapes, layer = SIGMOIDS[name]
    layer += ' type: "xavier" } }'
    text = SIGMOID.format(**{"kind": "Convolution", **shapes}, layer=layer, more=more)
    rng = np.random.default_rng(1)
    nets = [graphc.Net(text, phase="TRAIN", seed=2, threads=2, **o) for o in ({}, {"keep": ["fc"]})]
    given = {"x": rng.standard_normal(nets[0].blobs["x"].shape).astype(np.float32)}
    given["label"] = rng.integers(0, 2, nets[0].blobs["label"].shape).astype(np.float32)
    results = [net.forward_backward(given, wrt=["x", "fc/0", "fc"]) for net in nets]
    for key, array in results[1].items():
        np.testing.assert_array_equal(results[0][key], array, err_msg=key)
    scores = nets[1].blobs["fc"].data.astype(np.float64)
    wanted = 1 / (1 + np.exp(-scores)) - given["label"]
    wanted[(given["label"] == 1) & bool(more)] = 0
    wanted /= len(scores)  # Caffe's default for this loss
    np.testing.assert_allclose(results[0]["fc"], wanted, rtol=0, atol=3e-7 * abs(wanted).max())
    made = graphc.Net(text, phase="TRAIN", threads=2).prepare()
    program = made.program
    assert "fc" not in program.buffers
    (sweep,) = [s for s in program.steps if "sigmoid_log_loss" in s.kernel.name]
    assert not sweep.backward and {"fc", "loss"} <= set(sweep.layer.split(", "))
    assert "loss+" in sweep.kernel.name and "_gradient" in sweep.kernel.name
    assert sum("label" in s.arguments for s in program.steps) == 1, "labels are read once"


def test_it_needs_no_more_memory() -> None:
    """Scores and gradient share bytes, so the last layer costs one array of scores."""
    made = net(LOSS % "" + ACCURACY).prepare(wrt=WRT)
    everything = net(LOSS % "" + ACCURACY, memory="all").prepare(wrt=WRT)
    scores = 4 * BATCH * CLASSES
    assert made.program.memory.peak <= everything.program.memory.peak - scores


def test_no_probabilities_are_stored() -> None:
    made = net(LOSS % "").prepare(wrt=WRT)
    sized = [b for b in made.program.buffers.values() if b.shape == (BATCH, CLASSES)]
    assert {b.name for b in sized} == {"fc", "fc.diff"}


def test_a_given_gradient_of_the_loss_comes_too_late() -> None:
    made = net(LOSS % "").prepare(wrt=WRT, given=["loss"])
    (step,) = [s for s in made.program.steps if "fc.diff" in s.arguments[len(s.kernel.inputs) :]]
    assert step.backward
    said = [r.sentence for r in made.remarks if "is not made in forward" in r.sentence]
    assert said and "may change between the passes" in said[0]


def test_scores_with_a_reader_in_backward_are_not_overwritten_early() -> None:
    """A second use of the scores whose gradient reads them again."""
    text = LOSS % "" + (
        'layer { name: "s" type: "Sigmoid" bottom: "fc" top: "s" }'
        'layer { name: "square" type: "EuclideanLoss" bottom: "s" bottom: "fc" top: "square" }'
    )
    for options in ({}, {"memory": "all"}):
        one = net(text, **options)
        found = one.forward_backward(inputs(), wrt=list(WRT))
        again = net(text, fuse=False, memory="all").forward_backward(inputs(), wrt=list(WRT))
        for name in WRT:
            np.testing.assert_allclose(found[name], again[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("text", [LOSS % "", LOSS % "loss_param { ignore_label: 3 }" + ACCURACY])
def test_modes_and_passes_agree_bit_for_bit(text: str) -> None:
    results = []
    for memory in ("reuse", "all"):
        for apart in (False, True):
            one = net(text, memory=memory)
            if apart:
                one.forward(**inputs())
                found = one.backward(wrt=list(WRT))
            else:
                found = one.forward_backward(inputs(), wrt=list(WRT))
            results.append({"loss": one.loss, **{k: v.copy() for k, v in found.items()}})
    for other in results[1:]:
        for name, value in results[0].items():
            np.testing.assert_array_equal(value, other[name], err_msg=name)


def test_forward_alone_finds_the_same_loss() -> None:
    one, other = net(LOSS % ""), net(LOSS % "")
    one.forward_backward(inputs(), wrt=list(WRT))
    other.prepare(wrt=())
    other.forward(**inputs())
    assert one.loss == other.loss


def test_two_calls_of_backward_agree() -> None:
    one = net(LOSS % "")
    one.forward(**inputs())
    first = one.backward(wrt=["x"])["x"].copy()
    np.testing.assert_array_equal(one.backward(wrt=["x"])["x"], first)


@pytest.mark.parametrize("classes", [2, 10, 33, 1000, 2600])
@pytest.mark.parametrize("axis", [0, 1])
def test_the_gradient_is_right_at_every_spread(classes: int, axis: int) -> None:
    size = Size(37, classes, axis)
    candidate = Candidate(size, "fused")
    for spread in SPREADS:
        found = error_of(candidate, size, spread)
        assert found.gradient <= GRADIENT_ERROR, found
        assert found.loss <= 1e-6, found
        assert found.bad == 0 and found.stuck == 0


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize(("batch", "classes"), [(512, 1000), (64, 32000)])
def test_long_sums_lose_nothing(batch: int, classes: int, spread: float) -> None:
    """Where one score wins, small exponentials are added to 1, each with an error of its own."""
    size = Size(batch, classes)
    candidate = Candidate(size, "fused")
    for seed in range(3):
        found = error_of(candidate, size, spread, seed)
        assert found.gradient <= GRADIENT_ERROR, found


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("small", [3e-8, 5.9e-8, 9e-8, 1.7e-7])
def test_terms_too_small_beside_the_largest_are_not_lost(axis: int, small: float) -> None:
    """Each rounds the same way where it is added to a 1: all of a part's are lost, or doubled.

    That is (terms of a part - 1) 2**-24; the rest is four roundings: of dy, the sum, the quotient
    and the product.
    """
    size = Size(70, 3000, axis)
    x = np.full(size.shape, np.float32(np.log(small)))
    label = np.zeros(size.batch, np.float32)
    for number in range(size.batch):
        x[number, number] = 0.0
    candidate = Candidate(size, "fused")
    candidate.put(x, label)
    candidate.run()
    gradient = exact(x, label, axis)[1]
    terms = PART if axis == 0 else PART_OF_ROW
    error = np.abs(candidate.gradient - gradient).max() / np.abs(gradient).max()
    assert error <= (terms - 1 + 4) * 2.0**-24


def test_the_float64_reference_against_differences() -> None:
    rng = np.random.default_rng(5)
    x, label = rng.standard_normal((4, 6)) * 3, rng.integers(0, 6, 4)
    _, gradient = exact(x, label, 1)
    step = 1e-5
    for place in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[place] += step
        down[place] -= step
        slope = (exact(up, label, 1)[0] - exact(down, label, 1)[0]) / (2 * step)
        assert abs(slope - gradient[place]) < 1e-9


# -- values computed once -------------------------------------------------------------------------


def _kernels() -> list[Kernel]:
    x, label = TensorType("float32", (5, 7)), TensorType("float32", (5,))
    image, labels = TensorType("float32", (2, 3, 4)), TensorType("float32", (2, 4))
    matrix = TensorType("float32", (7, 7))
    return [
        kernel_of(Softmax(), [x], [x]),
        kernel_of(SoftmaxLogLossGradient(), [x, label, label], [x]),
        kernel_of(SoftmaxLogLossGradient(1, 2), [image, labels, labels], [image]),
        kernel_of(SoftmaxInfogainLossGradient(), [x, label, matrix, label], [x]),
    ]


def _costly(kernel: Kernel) -> int:
    """Costly functions inside of loops of statements."""
    return sum(
        isinstance(part, Call) and part.function in COSTLY
        for s in kernel.body
        if isinstance(s, Fold | Store) and s.axes
        for e in statement_exprs(s)
        for part in walk(e)
    )


@pytest.mark.parametrize("number", range(4))
def test_exponentials_are_computed_once_and_stay_the_same(number: int) -> None:
    old = _kernels()[number]
    new = compute_once(old)
    verify(new)
    assert _costly(old) > 1
    assert _costly(new) == 1
    assert may_overwrite(old, 0, 0) is None
    assert may_overwrite(new, 0, 0) is None, "it still may lie over the scores"
    rng = np.random.default_rng(1)
    arrays = []
    for buffer in old.inputs:
        drawn = (
            rng.standard_normal(buffer.shape) if len(buffer.shape) > 1 else rng.integers(0, 3, 5)
        )
        arrays.append(drawn.astype(np.float32))
    if number == 2:
        arrays[1] = rng.integers(0, 3, (2, 4)).astype(np.float32)
    results = []
    for kernel in (old, new):
        out = np.full(kernel.outputs[0].shape, np.nan, np.float32)
        interpret(kernel, [*(a.copy() for a in arrays), out])
        results.append(out)
    np.testing.assert_array_equal(*results)
    over = arrays[0].copy()
    interpret(new, [over, *arrays[1:], over])
    np.testing.assert_array_equal(over, results[0])


def test_nothing_changes_where_the_result_could_no_longer_lie_over_the_input() -> None:
    kernel = parse_kernel(
        """kernel f(x: float32[4, 9], y: float32[4, 9]) each i:4
        t = sum r:9 exp(x[i, r])
        y[i, r] = div(exp(x[i, r]), add(t, x[i, r])) for r:9"""
    )
    assert may_overwrite(kernel, 0, 0) is None
    assert compute_once(kernel) == kernel
