"""Who gets gradients by default: Caffe's rule for layers, bottoms and shared parameters."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import graphc
from graphc.error import NetError


def given(name: str, *shape: int) -> str:
    dims = " ".join(f"dim: {extent}" for extent in shape)
    return (
        f'layer {{ name: "{name}" type: "Input" top: "{name}"'
        f" input_param {{ shape {{ {dims} }} }} }}\n"
    )


def linear(name: str, bottom: str, rest: str = "") -> str:
    return (
        f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}" {rest}'
        " inner_product_param { num_output: 3 bias_term: false"
        ' weight_filler { type: "gaussian" } } }\n'
    )


def layer(kind: str, name: str, bottoms: str, rest: str = "") -> str:
    reads = " ".join(f'bottom: "{bottom}"' for bottom in bottoms.split())
    return f'layer {{ name: "{name}" type: "{kind}" {reads} top: "{name}" {rest} }}\n'


DOWN = "propagate_down: true"
CUT = "propagate_down: false"
LOSS = layer("EuclideanLoss", "loss", "y t")

SLICE = (
    'layer { name: "s" type: "Slice" bottom: "z" top: "a" top: "b"'
    " slice_param { axis: 1 slice_point: 1 } }\n"
)

# Every net reads x, t and u; which of them get a gradient without force_backward.
NETS = {
    "a layer with a parameter": (linear("y", "x", DOWN) + LOSS, "x"),
    "no parameter in the layer": (layer("ReLU", "r", "x", DOWN) + linear("y", "r") + LOSS, ""),
    "no parameter at all": (layer("ReLU", "y", "x", DOWN) + LOSS, ""),
    "a frozen layer": (linear("y", "x", DOWN + " param { lr_mult: 0 }") + LOSS, ""),
    "the other bottom needs one": (
        linear("z", "u") + layer("Eltwise", "y", "z x", f"{DOWN} {DOWN}") + LOSS,
        "x",
    ),
    "the other bottom needs one, which is cut": (
        linear("z", "u") + layer("Eltwise", "y", "z x", f"{CUT} {DOWN}") + LOSS,
        "x",
    ),
    "what is learned lies further below": (
        linear("z", "u")
        + layer("ReLU", "r", "z", CUT)
        + layer("Eltwise", "y", "r x", f"{DOWN} {DOWN}")
        + LOSS,
        "x",
    ),
    "all tops are cut": (
        linear("z", "x", DOWN)
        + SLICE
        + linear("c", "a", CUT)
        + linear("d", "b", CUT)
        + layer("Eltwise", "y", "c d")
        + LOSS,
        "",
    ),
    "two readers": (
        linear("z", "x", DOWN) + layer("Eltwise", "y", "z x", f"{DOWN} {DOWN}") + LOSS,
        "",
    ),
    "no loss above": (linear("z", "x", DOWN) + linear("y", "u") + LOSS, ""),
    "cut off from the loss": (linear("z", "x", DOWN) + linear("y", "z", CUT) + LOSS, ""),
    "a weight on the blob that is cut": (
        linear("z", "x", DOWN + " loss_weight: 1") + linear("y", "z", CUT) + LOSS,
        "x",
    ),
    "the loss itself, of inputs": (
        layer("EuclideanLoss", "loss", "x t", f"{DOWN} {DOWN}") + linear("y", "u"),
        "",
    ),
    "the loss itself": (linear("y", "x") + LOSS.replace("top", f"{DOWN} {DOWN} top"), "t"),
}


def make(text: str) -> graphc.Net:
    inputs = given("x", 2, 3) + given("t", 2, 3) + given("u", 2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", graphc.NetWarning)
        return graphc.Net(inputs + text, dtype="float64", threads=1)


@pytest.mark.parametrize("name", NETS)
def test_propagate_down_makes_no_other_layer_run(name: str) -> None:
    text, wanted = NETS[name]
    net = make(text)
    net.forward(**{i: np.random.default_rng(0).standard_normal((2, 3)) for i in net.inputs})
    gradients = net.backward()
    assert list(gradients) == wanted.split()
    assert all(gradient.any() for gradient in gradients.values())


def test_a_top_that_nobody_reads_is_not_cut() -> None:
    """Its layer runs backward, although nothing comes from its other top: the gradient is 0."""
    net = make(linear("z", "x", DOWN) + SLICE + linear("y", "b", CUT) + LOSS)
    net.forward()
    gradients = net.backward()
    assert list(gradients) == ["x"]
    assert not gradients["x"].any()


def test_a_label_is_refused_only_where_its_layer_runs() -> None:
    loss = layer("SoftmaxWithLoss", "loss", "y l", f"{DOWN} {DOWN}")
    resting = make(given("l", 2) + layer("ReLU", "y", "x") + loss)
    resting.forward()
    assert resting.backward() == {}
    running = make(given("l", 2) + linear("y", "x") + loss)
    running.forward()
    with pytest.raises(NetError, match="no gradient for its bottom 'l', and propagate_down asks"):
        running.backward()


# -- shared parameters -----------------------------------------------------------------------------


def twins(first: str, second: str) -> str:
    return (
        linear("z", "x", f'param {{ name: "w" {first} }}')
        + linear("y", "z", f'param {{ name: "w" {second} }}')
        + LOSS
    )


@pytest.mark.parametrize("what", ["lr_mult", "decay_mult"])
def test_a_multiplier_may_be_written_at_any_sharer(what: str) -> None:
    for text in (twins("", f"{what}: 2"), twins(f"{what}: 2", ""), twins(*[f"{what}: 2"] * 2)):
        assert getattr(make(text).front().parameters["z/0"], what) == 2
    for other in (1, 3):
        with pytest.raises(NetError, match=f"different {what} in z/0"):
            make(twins(f"{what}: {other}", f"{what}: 2"))
    third = linear("v", "u", f'param {{ name: "w" {what}: 3 }}')
    with pytest.raises(NetError, match=f"different {what} in z/0"):
        make(twins("", f"{what}: 2") + third)


def test_a_sharer_with_rate_zero_adds_nothing() -> None:
    """Each layer asks its own lr_mult whether to compute; the solver asks the common one."""
    x, t, w = np.random.default_rng(1).standard_normal((3, 3, 3))
    x, t = x[:2], t[:2]
    z = x @ w.T
    dy = (z @ w.T - t) / 2
    parts = {"first": (dy @ w).T @ x, "second": dy.T @ z}
    for first, second, wanted in (
        ("", "", parts["first"] + parts["second"]),
        ("lr_mult: 0", "", parts["second"]),
        ("", "lr_mult: 0", parts["first"]),
        ("lr_mult: 0", "lr_mult: 0", 0 * w),
    ):
        net = make(twins(first, second))
        net.params["z"][0].data[...] = w
        net.forward(x=x, t=t)
        net.backward()
        np.testing.assert_allclose(net.params["z"][0].diff, wanted, atol=1e-12)
        assert net.front().parameters["z/0"].lr_mult == (0 if first + second else 1)


def test_a_name_with_a_slash_is_no_part_of_another_layer() -> None:
    text = linear("a", "x") + linear("a/b", "a") + layer("EuclideanLoss", "loss", "a/b t")
    assert make(text).front().default_wrt == ["a/0", "a/b/0"]
    with pytest.raises(NetError, match="2 param messages, but the layer has 1"):
        make(text.replace('top: "a" ', 'top: "a" param { } param { } '))


@pytest.mark.parametrize("kind", ["BatchNorm", "MVN"])
@pytest.mark.parametrize("size", [1e-3, 1e12, 1e15, 1e18])
def test_normalisation_has_a_gradient_at_any_deviation(kind: str, size: float) -> None:
    """A power of the deviation would leave float32's range long before the gradient does."""
    text = given("x", 3, 2, 5, 4) + layer(kind, "y", "x")
    nets = [
        graphc.Net(text, phase=graphc.TRAIN, dtype=d, threads=1) for d in ("float32", "float64")
    ]
    rng = np.random.default_rng(1)
    x = np.float32(rng.standard_normal((3, 2, 5, 4)) * size)
    dy = np.float32(rng.standard_normal(x.shape))
    found, wanted = (_gradient_of_x(net, x, dy) for net in nets)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())


def _gradient_of_x(net: graphc.Net, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    net.forward(x=x)
    return net.backward(y=dy, wrt=["x"])["x"].astype(np.float64)
