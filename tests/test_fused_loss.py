"""Softmax and its loss in float32, with scores far apart: fused it is exact, as written it is not.

The measure is the same formula in float64: d loss / d score = (softmax - onehot) / N.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc

IMAGES, CLASSES = 64, 10
INPUTS = f"""
force_backward: true
input: "score" input: "label"
input_shape {{ dim: {IMAGES} dim: {CLASSES} }} input_shape {{ dim: {IMAGES} }}
"""
AS_ONE_LAYER = (
    INPUTS
    + 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss" }\n'
)
AS_A_PAIR = (
    INPUTS
    + """
layer { name: "prob" type: "Softmax" bottom: "score" top: "prob" }
layer { name: "loss" type: "MultinomialLogisticLoss" bottom: "prob" bottom: "label" top: "loss" }
"""
)
APART = [1.0, 30.0, 100.0, 1e3, 1e4]


def problem(apart: float, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Scores that reach from shift - apart / 2 to shift + apart / 2 in every image, and labels."""
    rng = np.random.default_rng(int(apart))
    scores = rng.uniform(-0.5, 0.5, (IMAGES, CLASSES))
    scores -= scores.min(axis=1, keepdims=True)
    scores *= apart / scores.max(axis=1, keepdims=True)
    return (scores + shift - apart / 2).astype(np.float32), rng.integers(0, CLASSES, IMAGES)


def exact(scores: np.ndarray, label: np.ndarray) -> tuple[float, np.ndarray]:
    """Loss and gradient in float64."""
    scores = scores.astype(np.float64)
    below = scores - scores.max(axis=1, keepdims=True)
    mass = np.exp(below).sum(axis=1, keepdims=True)
    losses = np.log(mass[:, 0]) - below[np.arange(IMAGES), label]
    return float(losses.mean()), (np.exp(below) / mass - np.eye(CLASSES)[label]) / IMAGES


def run(
    text: str, scores: np.ndarray, label: np.ndarray, **options: Any
) -> tuple[float, np.ndarray]:
    net = graphc.Net(text, **options)
    found = net.forward_backward({"score": scores, "label": label}, wrt=["score"])
    return net.loss, found["score"]


def error(gradient: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference, relative to the largest element."""
    return float(np.abs(gradient - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("shift", [0.0, 1e4, -1e4])
@pytest.mark.parametrize("apart", APART)
@pytest.mark.parametrize("text", [AS_ONE_LAYER, AS_A_PAIR], ids=["one layer", "a pair"])
def test_the_fused_gradient_is_exact(text: str, apart: float, shift: float) -> None:
    scores, label = problem(apart, shift)
    wanted = exact(scores, label)[1]
    loss, gradient = run(text, scores, label)
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()
    assert error(gradient, wanted) <= 1e-6


@pytest.mark.parametrize("apart", [1.0, 30.0])
def test_the_fused_loss_is_right_where_nothing_is_capped(apart: float) -> None:
    scores, label = problem(apart)
    assert run(AS_ONE_LAYER, scores, label)[0] == pytest.approx(exact(scores, label)[0], rel=1e-6)


def test_the_pair_is_found() -> None:
    kernels = {}
    for fuse in (True, False):
        net = graphc.Net(AS_A_PAIR, fuse=fuse)
        net.forward()
        kernels[fuse] = "+".join(step.kernel.name for step in net.compilation().program.steps)
    assert "softmax_log_loss" in kernels[True]
    assert "multinomial" not in kernels[True]
    assert "multinomial_log_loss" in kernels[False]


def test_what_the_unfused_pair_does() -> None:
    """Where the label's probability underflows to 0, all that the loss says is multiplied by 0.

    Such an image teaches nothing, and it is the one that is most wrong: fused, its gradient is as
    large as a gradient can be.
    """
    scores, label = problem(1e4)
    wanted = exact(scores, label)[1]
    behind = scores.max(axis=1) - scores[np.arange(IMAGES), label]
    lost = behind > 110  # e**-110 is no float32
    assert lost.sum() > IMAGES / 2
    unfused = run(AS_A_PAIR, scores, label, fuse=False)[1]
    fused = run(AS_A_PAIR, scores, label)[1]
    assert not unfused[lost].any()
    assert np.abs(fused[lost]).max(axis=1).min() > 0.5 / IMAGES
    assert error(unfused, wanted) > 0.9
    assert error(fused, wanted) <= 1e-6


def test_fused_and_unfused_agree_where_float32_suffices() -> None:
    scores, label = problem(10)
    fused = run(AS_A_PAIR, scores, label)
    unfused = run(AS_A_PAIR, scores, label, fuse=False)
    assert fused[0] == pytest.approx(unfused[0], rel=1e-6)
    assert error(unfused[1], fused[1]) < 1e-5


def test_the_softmax_stays_for_another_reader() -> None:
    """A net that also shows the probabilities still gets the exact loss gradient."""
    text = AS_A_PAIR + 'layer { name: "top" type: "Flatten" bottom: "prob" top: "shown" }\n'
    scores, label = problem(1e4)
    net = graphc.Net(text)
    # "shown" is an output without a loss: its gradient is given, here as zero
    found = net.forward_backward({"score": scores, "label": label}, wrt=["score"])["score"]
    assert error(found, exact(scores, label)[1]) <= 1e-6
    np.testing.assert_allclose(net.blobs["shown"].data.sum(axis=1), 1, rtol=1e-6)


def test_equal_scores_and_ties() -> None:
    scores = np.zeros((IMAGES, CLASSES), np.float32)
    label = np.arange(IMAGES) % CLASSES
    for shift in (0, 1e4, -1e38):
        loss, gradient = run(AS_ONE_LAYER, scores + np.float32(shift), label)
        assert loss == pytest.approx(np.log(CLASSES), rel=1e-6)
        assert error(gradient, exact(scores, label)[1]) <= 1e-6
