"""Softmax, losses, labels, dropout and the shape layers: what the operator table cannot ask.

Expected numbers come from scipy in float64, or are worked out by hand beside the test.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, log_softmax, logsumexp
from scipy.special import softmax as probabilities

from graphc.error import NetError
from graphc.frontends.caffe.definition import read_net
from graphc.frontends.caffe.network import CaffeNet, build
from graphc.ir.graph import Graph
from graphc.ir.op import Op
from graphc.ir.reference import run, total_loss
from graphc.ir.types import TensorType
from graphc.kernel.build import kernel_of
from graphc.kernel.interp import CheckFailure, interpret
from graphc.ops.accuracy import ArgMax, ClassAccuracy, Correct
from graphc.ops.dropout import Dropout
from graphc.ops.infogain import SoftmaxInfogainLoss, SoftmaxInfogainLossGradient
from graphc.ops.loss import (
    SCORE_FLOOR,
    MultinomialLogLoss,
    MultinomialLogLossGradient,
    SoftmaxLogLoss,
    SoftmaxLogLossGradient,
)
from graphc.ops.shape import Slice
from graphc.ops.softmax import Softmax, SoftmaxGradient
from graphc.passes.backward import backward
from graphc.passes.pipeline import compile_graph


def computed(op: Op, *arrays: np.ndarray) -> tuple[np.ndarray, list[CheckFailure]]:
    """The first output of the operator's kernel, interpreted, and the checks that failed."""
    types = [TensorType(str(array.dtype), array.shape) for array in arrays]
    inferred = op.infer(*types)
    outputs = inferred if isinstance(inferred, tuple) else (inferred,)
    results = [np.full(type.shape, np.nan, type.dtype) for type in outputs]
    failures = interpret(kernel_of(op, types, outputs), [*arrays, *results])
    return results[0], failures


def real(values: object, dtype: str = "float32") -> np.ndarray:
    return np.array(values, dtype)


def exact_log_loss(scores: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Loss and gradient of each row in float64, by the odds of the label against all others.

    `-log_softmax` itself is too coarse: where the label wins by 40, float64 rounds it to 0.
    """
    x, rows, own = scores.astype(np.float64), np.arange(len(label)), label.astype(int)
    others = x.copy()
    others[rows, own] = -np.inf
    odds = logsumexp(others, axis=1) - x[rows, own]
    gradient = probabilities(x, axis=1)
    gradient[rows, own] = -expit(odds)
    return np.logaddexp(0, odds), gradient


# -- precision -------------------------------------------------------------------------------------


def far_apart() -> tuple[np.ndarray, np.ndarray]:
    """float32 scores up to 1e4 apart; the label wins by far, loses by far, or neither."""
    rng = np.random.default_rng(4)
    scores = rng.uniform(-1, 1, (60, 7)) * np.repeat([1e4, 300, 30, 1], 15)[:, None]
    label = rng.integers(0, 7, 60)
    label[::3] = scores[::3].argmax(1)
    return scores.astype(np.float32), label.astype(np.float32)


def test_fused_loss_in_float32_agrees_with_float64():
    scores, label = far_apart()
    loss, _ = computed(SoftmaxLogLoss(floor=0.0), scores, label)
    exact, _ = exact_log_loss(scores, label)
    assert np.isfinite(loss).all()
    np.testing.assert_allclose(loss, exact, rtol=1e-6, atol=1e-37)


def test_fused_gradient_in_float32_agrees_with_float64_row_by_row():
    scores, label = far_apart()
    one = np.ones(60, np.float32)
    gradient, _ = computed(SoftmaxLogLossGradient(), scores, label, one)
    _, exact = exact_log_loss(scores, label)
    largest = np.abs(exact).max(1, keepdims=True)
    assert np.isfinite(gradient).all()
    seen = largest[:, 0] > 1e-37  # below, float32 has no normal numbers
    assert seen.sum() > 40
    assert (np.abs(gradient - exact)[seen] <= 1e-6 * largest[seen]).all()


def test_unfused_gradient_vanishes_where_the_label_is_hopeless():
    """In float32 a hopeless label has probability 0: the row that needs it most learns nothing."""
    scores, label = real([[0, 200, 0]]), real([0])
    p, _ = computed(Softmax(), scores)
    dp, _ = computed(MultinomialLogLossGradient(floor=SCORE_FLOOR), p, label, real([1]))
    unfused, _ = computed(SoftmaxGradient(), p, dp)
    fused, _ = computed(SoftmaxLogLossGradient(), scores, label, real([1]))
    np.testing.assert_array_equal(unfused, [[0, 0, 0]])
    np.testing.assert_allclose(fused, [[-1, 1, 0]], atol=1e-7)


def test_floor_caps_the_value_and_not_the_gradient():
    scores, label = real([[0, 500]]), real([0])
    loss, _ = computed(SoftmaxLogLoss(), scores, label)
    np.testing.assert_allclose(loss, [-np.log(SCORE_FLOOR)], rtol=1e-6)
    gradient, _ = computed(SoftmaxLogLossGradient(), scores, label, real([1]))
    np.testing.assert_allclose(gradient, [[-1, 1]], atol=1e-7)


def test_nan_scores_give_nan():
    scores, label = real([[0, np.nan, 1]]), real([0])
    assert np.isnan(computed(SoftmaxLogLoss(), scores, label)[0]).all()
    assert np.isnan(computed(Softmax(), scores)[0]).all()


def test_infogain_with_the_identity_is_the_log_loss_and_as_exact():
    scores, label = far_apart()
    identity = np.eye(7, dtype=np.float32)
    loss, _ = computed(SoftmaxInfogainLoss(floor=0.0), scores, label, identity)
    exact, _ = exact_log_loss(scores, label)
    np.testing.assert_allclose(loss, exact, rtol=1e-6, atol=1e-37)
    one = np.ones(60, np.float32)
    gradient, _ = computed(SoftmaxInfogainLossGradient(), scores, label, identity, one)
    _, wanted = exact_log_loss(scores, label)
    largest = np.abs(wanted).max(1, keepdims=True)
    seen = largest[:, 0] > 1e-37
    assert (np.abs(gradient - wanted)[seen] <= 1e-6 * largest[seen]).all()


def test_infogain_gradient_with_equal_largest_scores():
    matrix = real([[0.5, 0.25, 0], [0, 1, 0], [0, 0, 1]])
    gradient, _ = computed(
        SoftmaxInfogainLossGradient(), real([[3, 3, 3]]), real([0]), matrix, real([1])
    )
    np.testing.assert_allclose(gradient, [[0.25 - 0.5, 0.25 - 0.25, 0.25]], atol=1e-7)


# -- labels ----------------------------------------------------------------------------------------

MATRIX = np.eye(3, dtype=np.float32)


@pytest.mark.parametrize("wrong", [-1, 3, 1e30])
@pytest.mark.parametrize(
    ("op", "more"),
    [
        (SoftmaxLogLoss(), ()),
        (SoftmaxLogLossGradient(), (real([1, 1]),)),
        (MultinomialLogLoss(), ()),
        (SoftmaxInfogainLoss(), (MATRIX,)),
        (Correct(), ()),
    ],
    ids=str,
)
def test_label_out_of_range_is_reported(op: Op, more: tuple[np.ndarray, ...], wrong: float):
    scores, label = real([[0.5, 0.25, 0.25]] * 2), real([1, wrong])
    _, failures = computed(op, scores, label, *more)
    assert [failure.message for failure in failures] == ["label is not within 0 .. 2"]
    if abs(wrong) < 1e6:
        assert failures[0].value == wrong
    with pytest.raises(NetError, match=r"label .* is not within 0 \.\. 2"):
        op.reference(scores, label, *more)


@pytest.mark.parametrize("ignored", [-1, 255, 1])
def test_ignored_labels_are_not_checked_and_weigh_nothing(ignored: int):
    scores, label = real([[1, 2, 3], [4, 4, 4]]), real([ignored, 0])
    loss, failures = computed(SoftmaxLogLoss(ignore_label=ignored), scores, label)
    assert not failures
    np.testing.assert_allclose(loss, [0, np.log(3)], rtol=1e-6)
    gradient, failures = computed(
        SoftmaxLogLossGradient(ignore_label=ignored), scores, label, real([1, 1])
    )
    assert not failures
    np.testing.assert_allclose(gradient, [[0, 0, 0], [-2 / 3, 1 / 3, 1 / 3]], atol=1e-6)


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8"])
def test_labels_may_be_integers(dtype: str):
    loss, _ = computed(SoftmaxLogLoss(), real([[0, 0]]), np.array([1], dtype))
    np.testing.assert_allclose(loss, [np.log(2)], rtol=1e-6)


def test_ties_count_against_the_label():
    scores, label = real([[1, 1, 0], [2, 1, 1]]), real([0, 0])
    assert computed(Correct(), scores, label)[0].tolist() == [0, 1]
    assert computed(Correct(top_k=2), scores, label)[0].tolist() == [1, 1]


def test_class_accuracy_of_absent_and_ignored_classes_is_zero():
    correct, label = real([1, 0, 1, 1]), real([0, 0, 2, 3])
    assert computed(ClassAccuracy(4), correct, label)[0].tolist() == [0.5, 0, 1, 1]
    assert computed(ClassAccuracy(4, 3), correct, label)[0].tolist() == [0.5, 0, 1, 0]


def test_argmax_puts_the_higher_index_first():
    index, _ = computed(ArgMax(axis=1, top_k=3), real([[5, 7, 7, 1, 5]]))
    assert index.tolist() == [[2, 1, 4]]


# -- nets in text ----------------------------------------------------------------------------------


def net_of(text: str, phase: str = "TEST", fused: bool = True) -> CaffeNet:
    return build(read_net(text + "\n", phase=phase), phase=phase, fused=fused)


def entry(top: str, *shape: int) -> str:
    dims = " ".join(f"dim: {extent}" for extent in shape)
    return (
        f'layer {{ name: "{top}" type: "Input" top: "{top}" input_param {{ shape {{ {dims} }} }} }}'
    )


def loss_of(text: str, fused: bool = True, **inputs: np.ndarray) -> float:
    graph = net_of(text, fused=fused).graph
    return total_loss(graph, run(graph, inputs))


def result_of(text: str, x: np.ndarray) -> np.ndarray:
    graph = net_of(
        f"{entry('x', *x.shape)} layer {{ name: 'l' bottom: 'x' top: 'y' {text} }}"
    ).graph
    return run(graph, {"x": x})[graph.blobs["y"]]


# x is [2, 4, 3] with classes on axis 1: 6 positions, 2 before the axis; 2 of the labels are 9.
LABEL = real([[0, 9, 3], [1, 9, 2]])


@pytest.mark.parametrize(
    ("options", "divisor"),
    [
        ("ignore_label: 9", 4),
        ("ignore_label: 9 normalization: VALID", 4),
        ("ignore_label: 9 normalization: FULL", 6),
        ("ignore_label: 9 normalization: BATCH_SIZE", 2),
        ("ignore_label: 9 normalization: NONE", 1),
        ("ignore_label: 9 normalize: true", 4),
        ("ignore_label: 9 normalize: false", 2),
        ("ignore_label: 9 normalize: false normalization: FULL", 6),
    ],
)
@pytest.mark.parametrize("fused", [True, False])
def test_normalisers(options: str, divisor: int, fused: bool):
    x = np.random.default_rng(1).standard_normal((2, 4, 3)).astype(np.float32)
    text = f"""{entry("x", 2, 4, 3)} {entry("label", 2, 3)}
        layer {{ name: "l" type: "SoftmaxWithLoss" bottom: "x" bottom: "label" top: "loss"
                 loss_param {{ {options} }} }}"""
    logs = log_softmax(x.astype(np.float64), axis=1)
    wanted = -(logs[0, 0, 0] + logs[0, 3, 2] + logs[1, 1, 0] + logs[1, 2, 2]) / divisor
    assert loss_of(text, fused, x=x, label=LABEL) == pytest.approx(wanted, rel=1e-6)


def test_loss_is_zero_where_all_labels_are_ignored():
    text = f"""{entry("x", 2, 3)} {entry("label", 2)}
        layer {{ name: "l" type: "SoftmaxWithLoss" bottom: "x" bottom: "label" top: "loss"
                 loss_param {{ ignore_label: 1 }} }}"""
    assert loss_of(text, x=real([[1, 2, 3]] * 2), label=real([1, 1])) == 0


def test_all_behind_axis_0_counts_as_classes_of_a_loss_on_probabilities():
    text = f"""{entry("p", 2, 3, 2, 2)} {entry("label", 2)}
        layer {{ name: "l" type: "MultinomialLogisticLoss" bottom: "p" bottom: "label" top: "a" }}
        """
    p = np.random.default_rng(2).uniform(0.1, 0.9, (2, 3, 2, 2)).astype(np.float32)
    wanted = -(np.log(p[0].ravel()[11]) + np.log(p[1].ravel()[4])) / 2
    assert loss_of(text, p=p, label=real([11, 4])) == pytest.approx(wanted, rel=1e-6)


def test_softmax_before_a_loss_on_probabilities_fuses():
    text = f"""{entry("x", 4, 3)} {entry("label", 4)}
        layer {{ name: "s" type: "Softmax" bottom: "x" top: "p" }}
        layer {{ name: "l" type: "MultinomialLogisticLoss" bottom: "p" bottom: "label" top: "a" }}
        """
    graph = net_of(text).graph
    x, label = real([[0, 200, 0], [1, 2, 3], [0, 0, 0], [5, 0, 0]]), real([0, 2, 1, 0])
    names = {}
    for fuse in (True, False):
        made = compile_graph(graph, ["x"], fuse=fuse).graph
        names[fuse] = {node.op.op_name for node in made.nodes}
        results = run(made, {"x": x, "label": label})
        gradient = results[made.outputs["x.diff"]]
        exact = exact_log_loss(x, label)[1] / 4
        assert np.allclose(gradient[1:], exact[1:], atol=1e-6)
        assert np.allclose(gradient[0], exact[0] if fuse else 0, atol=1e-6)
    assert "softmax_log_loss" in names[True]
    assert "softmax" not in names[True]
    assert {"softmax", "multinomial_log_loss"} <= names[False]


def test_reshape_rules():
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for options, shape in [
        ("shape { dim: 0 dim: -1 }", (2, 12)),
        ("shape { dim: 0 dim: 0 dim: 2 dim: -1 }", (2, 3, 2, 2)),
        ("shape { dim: 4 dim: 3 } axis: 1", (2, 4, 3)),
        ("shape { dim: 12 } axis: 1 num_axes: 2", (2, 12)),
        ("shape { dim: 1 } axis: -1 num_axes: 0", (2, 3, 4, 1)),
        ("shape { dim: 6 } num_axes: 2", (6, 4)),
    ]:
        y = result_of(f"type: 'Reshape' reshape_param {{ {options} }}", x)
        assert y.shape == shape, options
        np.testing.assert_array_equal(y.ravel(), x.ravel())


def test_tile_and_reduction():
    x = np.arange(6, dtype=np.float32).reshape(2, 3) - 2
    tiled = result_of("type: 'Tile' tile_param { axis: 1 tiles: 2 }", x)
    np.testing.assert_array_equal(tiled, np.tile(x, (1, 2)))
    for operation, wanted in [
        ("SUM", x.sum(1)),
        ("ASUM", abs(x).sum(1)),
        ("SUMSQ", (x * x).sum(1)),
        ("MEAN", x.mean(1)),
    ]:
        options = f"operation: {operation} axis: -1 coeff: 3"
        y = result_of(f"type: 'Reduction' reduction_param {{ {options} }}", x)
        np.testing.assert_allclose(y, 3 * wanted, rtol=1e-6)


def test_dropout_in_test_phase_is_no_operator():
    text = f"{entry('x', 3)} layer {{ name: 'd' type: 'Dropout' bottom: 'x' top: 'y' }}"
    assert not compile_graph(net_of(text).graph).graph.nodes
    trained = net_of(text, "TRAIN").graph
    assert "dropout.counter" in trained.updates


TWO = f"{entry('x', 2, 5)} {entry('z', 3, 5)} {entry('label', 2)} {entry('h', 2, 3)}"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("type: 'Softmax' bottom: 'x' softmax_param { axis: 2 }", "axis 2 does not exist"),
        ("type: 'SoftmaxWithLoss' bottom: 'z' bottom: 'label'", "same first extent"),
        ("type: 'SoftmaxWithLoss' bottom: 'x' bottom: 'x'", "holds 10 labels"),
        (
            "type: 'SoftmaxWithLoss' bottom: 'x' bottom: 'label' top: 'p'"
            " loss_weight: 1 loss_weight: 0",
            "has one top",
        ),
        ("type: 'EuclideanLoss' bottom: 'x' bottom: 'label'", "different shapes"),
        ("type: 'InfogainLoss' bottom: 'x' bottom: 'label'", "matrix is needed"),
        ("type: 'InfogainLoss' bottom: 'x' bottom: 'label' bottom: 'h'", "5 x 5 = 25"),
        (
            "type: 'InfogainLoss' bottom: 'x' bottom: 'label' loss_param { normalize: true }",
            "use 'normalization'",
        ),
        ("type: 'Accuracy' bottom: 'x' bottom: 'label' accuracy_param { top_k: 6 }", "5 classes"),
        ("type: 'Slice' bottom: 'x' top: 'b'", "does not split evenly"),
        ("type: 'Slice' bottom: 'x' slice_param { slice_point: 2 }", "2 parts, but there are 1"),
        ("type: 'Slice' bottom: 'x' top: 'b' slice_param { slice_point: 5 }", "must rise"),
        ("type: 'Concat' bottom: 'x' bottom: 'z'", "another extent differs"),
        (
            "type: 'Concat' bottom: 'x' bottom: 'x' concat_param { axis: 1 concat_dim: 1 }",
            "give one of them",
        ),
        ("type: 'Reshape' bottom: 'x' reshape_param { shape { dim: 3 dim: 4 } }", "has 12"),
        ("type: 'Reshape' bottom: 'x' reshape_param { shape { dim: -1 dim: -1 } }", "one -1"),
        ("type: 'Reshape' bottom: 'x' reshape_param { shape { dim: 3 dim: -1 } }", "do not fill"),
        ("type: 'Crop' bottom: 'x' bottom: 'z' crop_param { axis: 0 }", "the extent is 2"),
        ("type: 'Dropout' bottom: 'x' dropout_param { dropout_ratio: 1 }", "less than 1"),
        ("type: 'Tile' bottom: 'x'", "tiles must be at least 1"),
        ("type: 'ArgMax' bottom: 'x' argmax_param { top_k: 6 }", "5 values"),
    ],
)
def test_mistakes_are_explained(body: str, message: str):
    with pytest.raises(NetError) as caught:
        net_of(f"{TWO} layer {{ name: 'l' top: 'a' {body} }}")
    (diagnostic,) = caught.value.diagnostics
    assert message in diagnostic.message
    assert diagnostic.message.startswith("layer 'l': ")
    assert diagnostic.span is not None


# -- dropout and pieces ----------------------------------------------------------------------------


def test_dropout_keeps_its_share_and_its_mean():
    x = np.ones((100, 1000), np.float32)
    y = Dropout(ratio=0.3, stream=1).reference(x, np.array(5))
    kept = (y != 0).mean()
    # Five standard deviations of a share of 1e5 draws.
    assert abs(kept - 0.7) < 5 * np.sqrt(0.3 * 0.7 / x.size)
    np.testing.assert_allclose(y[y != 0], 1 / 0.7, rtol=1e-6)


def test_dropout_depends_on_counter_and_stream_only():
    x = np.ones(1000, np.float32)
    masks = {
        (stream, count): Dropout(0.5, stream).reference(x, np.array(count)) > 0
        for stream in (1, 2)
        for count in (0, 1)
    }
    for key, mask in masks.items():
        again = Dropout(0.5, key[0]).reference(x * 2, np.array(key[1])) > 0
        np.testing.assert_array_equal(mask, again)
        for other, different in masks.items():
            assert other == key or 0.4 < (mask == different).mean() < 0.6


def test_dropout_gradient_uses_the_mask_of_forward():
    graph = Graph()
    x = graph.input("x", TensorType("float32", (50,)))
    counter = graph.input("counter", TensorType("int64", ()), "state")
    graph.losses.append((Dropout(0.5, 3)(x, counter), 1.0))
    made = backward(graph, ["x"])
    results = run(made, {"x": np.ones(50, np.float32), "counter": np.array(8, np.int64)})
    np.testing.assert_array_equal(results[made.outputs["x.diff"]], results[made.losses[0][0]])


def test_slice_without_a_gradient_for_one_part():
    graph = Graph()
    x = graph.input("x", TensorType("float32", (2, 5)))
    first, _ = Slice(1, (2,))(x)
    graph.losses.append((first, 3.0))
    made = backward(graph, ["x"])
    gradient = run(made, {"x": np.zeros((2, 5), np.float32)})[made.outputs["x.diff"]]
    np.testing.assert_array_equal(gradient, [[3, 3, 0, 0, 0]] * 2)
