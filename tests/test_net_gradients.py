"""graphc.Net from the user's side: gradients, of whole nets and of parts of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from trunk_nets import (
    DATA,
    LABEL,
    LEARNED,
    LOSS,
    RNG,
    SEED,
    close,
    parameter,
    scores,
    slope,
    training,
)

import graphc


@pytest.mark.parametrize("name", ["data", "conv/0", "conv/1", "ip/0", "ip/1"])
def test_loss_gradients_match_differences(name: str) -> None:
    net = training(dtype="float64", masks=["drop"])
    net.set_inputs({"mask/drop": RNG.integers(0, 2, (4, 5, 4, 4)), "data": DATA, "label": LABEL})

    def value() -> float:
        net.forward()
        return net.loss

    array = net.blobs["data"].data if name == "data" else parameter(net, name).data
    wanted = slope(value, array)
    net.forward()
    close(net.backward(wrt=[name])[name], wanted, 1e-7)


def test_a_gradient_given_for_an_inner_blob_adds_to_what_arrives() -> None:
    net = training(dtype="float64", masks=["drop"])
    net.set_inputs({"mask/drop": RNG.integers(0, 2, (4, 5, 4, 4)), "label": LABEL})
    pool_seed = RNG.standard_normal((4, 5, 2, 2))

    def value() -> float:
        pool = net.forward(blobs=["pool"])["pool"]
        return net.loss + float((pool * pool_seed).sum())

    net.blobs["data"].data[...] = DATA
    wanted = slope(value, net.blobs["data"].data)
    net.forward()
    close(net.backward(pool=pool_seed, wrt=["data"])["data"], wanted, 1e-7)


def test_gradients_of_several_blobs_at_once() -> None:
    net = scores(dtype="float64", keep=["ip"])
    net.forward(data=DATA)
    found = net.backward(prob=SEED, wrt=["ip", "data", "ip/1"])
    assert list(found) == ["ip", "data", "ip/1"]
    prob = net.blobs["prob"].data
    wanted = prob * (SEED - (SEED * prob).sum(axis=1, keepdims=True))
    close(found["ip"], wanted, 1e-12)
    close(found["ip/1"], wanted.sum(axis=0), 1e-12)


EQUAL_BLOBS = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "left" type: "Split" bottom: "x" top: "left" top: "right" }
layer { name: "drop" type: "Dropout" bottom: "left" top: "drop" }
layer { name: "relu" type: "ReLU" bottom: "drop" top: "relu" }
layer { name: "again" type: "ReLU" bottom: "drop" top: "again" }
layer { name: "joined" type: "Concat" bottom: "again" top: "joined" }
layer { name: "flat" type: "Reshape" bottom: "joined" top: "flat"
  reshape_param { shape { dim: 6 } } }
layer { name: "square" type: "Reshape" bottom: "flat" top: "square"
  reshape_param { shape { dim: 3 dim: 2 } } }
layer { name: "one" type: "Reduction" bottom: "relu" top: "one" loss_weight: 1 }
layer { name: "two" type: "Reduction" bottom: "joined" top: "two" loss_weight: 2 }
layer { name: "four" type: "Reduction" bottom: "flat" top: "four" loss_weight: 4 }
layer { name: "eight" type: "Reduction" bottom: "square" top: "eight" loss_weight: 8 }
layer { name: "sixteen" type: "Reduction" bottom: "right" top: "sixteen" loss_weight: 16 }
layer { name: "more" type: "Reduction" bottom: "x" top: "more" loss_weight: 32 }
"""
# The weights of the losses that each blob leads to, by its own readers alone.
LOSSES_BEHIND = {
    **{"x": 63, "left": 15, "right": 16, "drop": 15, "relu": 1, "again": 14},
    **{"joined": 14, "flat": 12, "square": 8},
}


@pytest.mark.parametrize("asked", [*([name] for name in LOSSES_BEHIND), [*LOSSES_BEHIND]])
def test_equal_blobs_have_gradients_of_their_own(asked: list[str]) -> None:
    for net in (graphc.Net(EQUAL_BLOBS), graphc.Net(EQUAL_BLOBS, memory="all")):
        net.forward(x=np.ones((2, 3)))
        found = net.backward(wrt=asked)
        assert {name: array.tolist() for name, array in found.items()} == {
            name: np.full(net.blobs[name].data.shape, LOSSES_BEHIND[name]).tolist()
            for name in asked
        }


@pytest.mark.parametrize("name", LOSSES_BEHIND)
def test_a_gradient_that_is_read_is_the_blob_s_own_or_refused(name: str) -> None:
    for memory in ("reuse", "all"):
        net = graphc.Net(EQUAL_BLOBS, memory=memory)
        net.forward(x=np.ones((2, 3)))
        net.backward(wrt=["x"])
        try:
            assert (net.blobs[name].diff == LOSSES_BEHIND[name]).all()
        except graphc.NetError as error:
            assert f"keep='{name}.diff'" in str(error)
        net = graphc.Net(EQUAL_BLOBS, memory=memory, keep=[f"{name}.diff"])
        net.forward(x=np.ones((2, 3)))
        net.backward(wrt=["x"])
        assert (net.blobs[name].diff == LOSSES_BEHIND[name]).all()


def test_wrt_names_one_blob() -> None:
    net = scores()
    net.forward(data=DATA)
    assert list(net.backward(prob=SEED, wrt="pool")) == ["pool"]


def test_diffs_come_beside_the_inputs() -> None:
    net = scores()
    net.forward(data=DATA)
    found = net.backward(diffs=["pool"], prob=SEED)
    assert set(found) == {"data", "pool"}
    assert found["pool"].any()


def test_without_wrt_inputs_follow_caffe() -> None:
    net = training()
    net.forward(data=DATA, label=LABEL)
    assert net.backward() == {}  # no force_backward: only parameters get gradients
    assert all(parameter(net, name).diff.any() for name in LEARNED)
    forced = scores()
    forced.forward(data=DATA)
    assert list(forced.backward(prob=SEED)) == ["data"]


def test_parameter_gradients_add_up_until_cleared() -> None:
    net = training(masks=["drop"])
    net.set_inputs({"mask/drop": np.ones((4, 5, 4, 4)), "data": DATA, "label": LABEL})
    net.forward()
    net.backward()
    once = {name: parameter(net, name).diff.copy() for name in LEARNED}
    for times in (2, 3, 4):
        net.forward()
        net.backward()
        for name in LEARNED:
            close(parameter(net, name).diff, times * once[name], 1e-5)
    net.clear_param_diffs()
    assert not any(parameter(net, name).diff.any() for name in LEARNED)
    net.clear_param_diffs()
    net.forward_backward()
    for name in LEARNED:
        np.testing.assert_array_equal(parameter(net, name).diff, once[name])


def test_parameters_that_are_not_asked_for_are_left_alone() -> None:
    net = scores()
    net.forward(data=DATA)
    net.backward(prob=SEED)
    held = {name: parameter(net, name).diff.copy() for name in LEARNED}
    net.backward(prob=SEED, wrt=["data", "ip/1"])
    for name in ("conv/0", "conv/1", "ip/0"):
        np.testing.assert_array_equal(parameter(net, name).diff, held[name])
    close(parameter(net, "ip/1").diff, 2 * held["ip/1"])


def test_blob_gradients_are_overwritten() -> None:
    net = scores()
    net.forward(data=DATA)
    first = net.backward(prob=SEED, wrt=["data", "pool"])
    copies = {name: array.copy() for name, array in first.items()}
    again = net.backward(prob=SEED, wrt=["data", "pool"])
    for name, array in again.items():
        assert array is first[name]
        np.testing.assert_array_equal(array, copies[name])


@pytest.mark.parametrize("memory", ["reuse", "all"])
def test_backward_may_be_called_again_and_again(memory: Any) -> None:
    net = training(memory=memory)
    net.forward(data=DATA, label=LABEL)
    loss = net.loss
    wanted = net.backward(wrt=["data"])["data"].copy()
    for _ in range(3):
        np.testing.assert_array_equal(net.backward(wrt=["data"])["data"], wanted)
    assert net.loss == loss


@pytest.mark.parametrize("memory", ["reuse", "all"])
def test_asked_later_is_as_asked_first(memory: Any) -> None:
    first, later = training(memory=memory), training(memory=memory)
    for net in (first, later):
        net.forward(data=DATA, label=LABEL)
    wanted = {name: a.copy() for name, a in first.backward(wrt=["pool", "ip/0"]).items()}
    later.backward()
    later.backward(wrt=["data"])
    later.clear_param_diffs()
    found = later.backward(wrt=["pool", "ip/0"])
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)
    # and the next forward pass draws what it would have drawn anyway
    losses = []
    for net in (first, later):
        net.forward()
        losses.append(net.loss)
    assert losses[0] == losses[1]


def test_dropout_draws_anew_in_each_forward_pass() -> None:
    net = training(keep=["conv"])
    kept = []
    for _ in range(2):
        net.forward(data=np.ones((4, 3, 6, 6)), label=LABEL)
        kept.append(net.blobs["conv"].data != 0)
    assert not np.array_equal(kept[0], kept[1])
    gradient = net.backward(wrt=["conv"])["conv"]
    assert gradient.any()


def test_backward_of_dropout_uses_the_mask_of_forward() -> None:
    text = """force_backward: true
    layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 50 dim: 40 } } }
    layer { name: "drop" type: "Dropout" bottom: "x" top: "y" dropout_param { dropout_ratio: 0.3 } }
    """
    net = graphc.Net(text, phase=graphc.TRAIN)
    for _ in range(3):
        y = net.forward(x=np.ones((50, 40)))["y"].copy()
        np.testing.assert_array_equal(net.backward(y=np.ones((50, 40)))["x"], y)
        np.testing.assert_array_equal(net.backward(y=np.ones((50, 40)), wrt=["x"])["x"], y)
        assert set(np.unique(y)) == {np.float32(0), np.float32(1) / np.float32(1 - 0.3)}
        assert abs((y == 0).mean() - 0.3) < 0.05


def test_forward_backward_is_both() -> None:
    one, two = training(), training()
    one.forward(data=DATA, label=LABEL)
    wanted = one.backward(wrt=["data", "conv/0"])
    found = two.forward_backward({"data": DATA, "label": LABEL}, wrt=["data", "conv/0"])
    assert list(found) == ["data", "conv/0"]
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)
    assert one.loss == two.loss
    given = scores()
    given.forward(data=DATA)
    wanted = given.backward(prob=SEED)
    found = scores().forward_backward({"data": DATA}, {"prob": SEED})
    np.testing.assert_array_equal(found["data"], wanted["data"])


def test_loss_is_the_weighted_sum() -> None:
    text = LOSS.replace('bottom: "ip" bottom: "ip"', 'bottom: "ip" bottom: "goal"').replace(
        'layer { name: "label"',
        'layer { name: "goal" type: "Input" top: "goal" input_param { shape { dim: 4 dim: 7 } } }\n'
        'layer { name: "label"',
    )
    net = graphc.Net(text, dtype="float64")
    found = net.forward(data=DATA, label=LABEL, goal=SEED)
    assert net.loss == pytest.approx(float(found["loss"] + 3 * found["zero"]), rel=1e-12)
    ip = net.forward(blobs=["ip"])["ip"]
    assert float(found["zero"]) == pytest.approx(((ip - SEED) ** 2).sum() / 8, rel=1e-9)


# -- parts of a net --------------------------------------------------------------------------------


def test_a_part_gives_the_tops_of_its_last_layer() -> None:
    net = scores()
    whole = net.forward(data=DATA, blobs=["pool", "ip"])
    copies = {name: array.copy() for name, array in whole.items()}
    part = net.forward(end="pool", data=DATA)
    assert list(part) == ["pool"]
    np.testing.assert_allclose(part["pool"], copies["pool"], rtol=1e-6)
    rest = net.forward(start="ip", pool=2 * copies["pool"], blobs=["ip"])
    weights, bias = (p.data for p in net.params["ip"])
    close(rest["ip"], 2 * copies["pool"].reshape(4, 20) @ weights.T + bias)
    assert set(rest) == {"ip", "prob"}


def test_a_part_goes_without_what_is_asked_of_other_layers() -> None:
    options = {"keep": ["conv", "pool", "ip", "pool.diff"], "masks": ["drop"], "dtype": "float64"}
    net, whole = training(**options), training(**options)
    given = {"mask/drop": np.ones((4, 5, 4, 4)), "data": DATA, "label": LABEL}
    whole.forward(**given)
    mask = {"mask/drop": given["mask/drop"]}
    net.forward(end="drop", data=DATA, **mask)
    close(net.blobs["conv"].data, whole.blobs["conv"].data, 1e-12)
    net.forward(**given)
    found = net.forward(start="ip")
    assert "conv" not in found
    close(found["loss"], whole.blobs["loss"].data, 1e-12)
    close(net.blobs["ip"].data, whole.blobs["ip"].data, 1e-12)


def test_gradient_ascent_from_a_layer_inside() -> None:
    """forward(end=), write the layer's diff, backward(start=): how people look for features."""
    net, other = scores(), scores()
    seed = RNG.standard_normal((4, 5, 2, 2)).astype(np.float32)
    net.forward(end="pool", data=DATA)
    np.testing.assert_array_equal(net.blobs["pool"].data.shape, (4, 5, 2, 2))
    net.blobs["pool"].diff[...] = seed
    found = net.backward(start="pool")
    other.forward(data=DATA)
    np.testing.assert_array_equal(found["data"], other.backward(pool=seed)["data"])


def test_backward_between_two_layers() -> None:
    net = scores(dtype="float64")
    net.forward(data=DATA)
    found = net.backward(start="ip", end="ip", ip=SEED)
    assert list(found) == ["pool"]
    wanted = (SEED @ net.params["ip"][0].data).reshape(4, 5, 2, 2)
    close(found["pool"], wanted, 1e-12)
    assert not net.params["conv"][0].diff.any()
    close(net.params["ip"][1].diff, SEED.sum(axis=0))


def test_backward_after_given_blobs_is_refused() -> None:
    net = scores()
    net.forward(data=DATA)
    net.forward(start="ip", pool=np.zeros((4, 5, 2, 2)))
    with pytest.raises(graphc.NetError, match="began at layer 'ip'"):
        net.backward(prob=SEED)
    net.forward()
    assert net.backward(prob=SEED)["data"].any()


# -- a backward pass that starts inside ------------------------------------------------------------

CHAIN = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 4 } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 2 } } }
layer { name: "a" type: "InnerProduct" bottom: "x" top: "a"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "sigmoid" type: "Sigmoid" bottom: "a" top: "a" }
layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" loss_weight: 0.5
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "tanh" type: "TanH" bottom: "b" top: "t" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "t" bottom: "label" top: "loss" }
"""


class Chain:
    """The net of that text, run forward, and what its gradients are by hand."""

    def __init__(self, keep: list[str]):
        options: dict[str, Any] = {"phase": graphc.TRAIN, "dtype": "float64", "threads": 1}
        self.net = graphc.Net(CHAIN, "random:3", keep=keep, **options)
        inputs = {"x": RNG.standard_normal((2, 4)), "label": [0, 2]}
        self.a = np.array(self.net.forward(["a"], **inputs)["a"])
        self.first, self.second = (self.net.params[name][0].data for name in "ab")

    def before_sigmoid(self, gradient: np.ndarray) -> np.ndarray:
        """The gradient of x for one of what the first layer makes."""
        return gradient @ self.first

    def behind_sigmoid(self, gradient: np.ndarray) -> np.ndarray:
        return self.before_sigmoid(gradient * self.a * (1 - self.a))

    def behind_b(self, gradient: np.ndarray) -> np.ndarray:
        return self.behind_sigmoid(gradient @ self.second)

    def start(self, layer: str, **gradients: np.ndarray) -> np.ndarray:
        return self.net.backward(start=layer, wrt=["x"], **gradients)["x"]


def test_layers_behind_the_start_take_no_part() -> None:
    """Caffe runs the layers from `start` down: a later loss is in the start's `.diff`, or not."""
    chain = Chain(keep=["t.diff"])
    net = chain.net
    whole = net.backward(wrt=["x"])["x"].copy()
    held = net.blobs["t"].diff.copy()
    assert held.any()
    close(chain.start("tanh"), whole, 1e-12)  # was the loss counted twice
    net.forward()
    net.blobs["t"].diff[...] = 0
    close(chain.start("tanh"), chain.behind_b(np.full((2, 3), 0.5)), 1e-12)
    given = RNG.standard_normal((2, 3))
    assert net.loss
    slope_of_tanh = 1 - np.tanh(chain.a @ chain.second.T) ** 2
    wanted = chain.behind_b(given * slope_of_tanh + 0.5)
    close(chain.start("tanh", t=given), wanted, 1e-12)
    net.forward()
    close(chain.start("loss"), whole, 1e-12)
    close(net.backward(wrt=["x"])["x"], whole, 1e-12)


def test_a_start_whose_gradient_is_gone_is_refused() -> None:
    chain = Chain(keep=[])
    chain.net.backward(wrt=["x", "a/0", "b/0"])
    with pytest.raises(graphc.NetError, match=r"keep='t.diff'.*backward\(t=...\)"):
        chain.start("tanh")


def test_a_start_before_a_layer_in_place() -> None:
    """What is given is the gradient of what the layer makes, not of what becomes of it."""
    chain = Chain(keep=["a.diff"])
    net, given = chain.net, RNG.standard_normal((2, 5))
    net.blobs["a"].diff[...] = given
    close(chain.start("a"), chain.before_sigmoid(given), 1e-12)
    close(chain.start("a", a=2 * given), chain.before_sigmoid(2 * given), 1e-12)
    net.forward()
    close(chain.start("sigmoid"), chain.behind_sigmoid(2 * given), 1e-12)
    whole = net.backward(wrt=["x"])["x"].copy()
    with pytest.raises(graphc.NetError, match="'a' is changed in place behind layer 'a'"):
        chain.start("a")
    assert net.blobs["a"].diff.any()
    close(chain.start("sigmoid"), whole, 1e-12)
    net.forward(end="a")
    net.blobs["a"].diff[...] = given
    close(chain.start("a"), chain.before_sigmoid(given), 1e-12)
