"""Layers that remember: batch norm's statistics and the recurrent layers' last state."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import graphc
from graphc.error import NetError


def make(text: str, **options: Any) -> graphc.Net:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", graphc.NetWarning)
        return graphc.Net(text, threads=1, **options)


def shape(*extents: int) -> str:
    return "input_param { shape { " + " ".join(f"dim: {e}" for e in extents) + " } }"


def given(name: str, *extents: int) -> str:
    return f'layer {{ name: "{name}" type: "Input" top: "{name}" {shape(*extents)} }}\n'


# -- batch norm ------------------------------------------------------------------------------------

BATCH_NORM = (
    "force_backward: true\n"
    + given("x", 6, 3)
    + 'layer { name: "bn" type: "BatchNorm" bottom: "x" top: "y"'
    " batch_norm_param { moving_average_fraction: 0.5 } }\n"
    'layer { name: "scale" type: "Scale" bottom: "y" top: "z" }\n'
)


def statistics(net: graphc.Net) -> list[np.ndarray]:
    return [blob.data.copy() for blob in net.params["bn"]]


def test_training_renews_the_statistics_once_a_pass():
    net = make(BATCH_NORM, phase=graphc.TRAIN)
    x = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    net.forward(x=x)
    first = statistics(net)
    np.testing.assert_allclose(first[0], x.mean(0), atol=1e-6)
    np.testing.assert_allclose(first[1], x.var(0, ddof=1), atol=1e-6)
    np.testing.assert_array_equal(first[2], [1])
    # Another gradient than before compiles and runs forward again: it must not count as a pass.
    net.backward()
    net.backward(z=np.ones((6, 3)), wrt=["y"])
    for before, after in zip(first, statistics(net), strict=True):
        np.testing.assert_array_equal(before, after)
    net.forward_backward({"x": 2 * x})
    np.testing.assert_allclose(statistics(net)[0], 2.5 * x.mean(0), atol=1e-6)
    np.testing.assert_array_equal(statistics(net)[2], [1.5])


def test_backward_after_a_part_leaves_the_statistics_behind_it():
    """It runs the whole net again, layers behind the part among them, which nobody asked to run."""
    before = (
        'layer { name: "half" type: "Power" bottom: "x" top: "h" power_param { scale: 0.5 } }\n'
    )
    text = BATCH_NORM.replace('layer { name: "bn"', before + 'layer { name: "bn"')
    net = make(text.replace('bottom: "x" top: "y"', 'bottom: "h" top: "y"'), phase=graphc.TRAIN)
    x = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    net.forward(x=x)
    first = statistics(net)
    net.forward(end="half", x=x + 1)
    found = net.backward(start="half", h=np.ones((6, 3)))["x"]
    np.testing.assert_array_equal(found, np.full((6, 3), 0.5))
    for held, now in zip(first, statistics(net), strict=True):
        np.testing.assert_array_equal(held, now)
    net.forward()
    np.testing.assert_allclose(statistics(net)[0], x.mean(0) * 0.75 + 0.5, atol=1e-6)


def test_testing_leaves_the_statistics_alone():
    net = make(BATCH_NORM)
    for blob, values in zip(net.params["bn"], ([2, 4, 6], [8, 8, 8], [2]), strict=True):
        blob.data[...] = values
    y = net.forward(x=np.ones((6, 3), np.float32))["z"]
    np.testing.assert_allclose(y[0], (1 - np.array([1, 2, 3])) / np.sqrt(4 + 1e-5), rtol=1e-5)
    np.testing.assert_array_equal(net.params["bn"][0].data, [2, 4, 6])


def test_shared_statistics_are_renewed_by_each_layer_in_turn():
    share = " ".join(f'param {{ name: "{n}" lr_mult: 0 }}' for n in ("mean", "variance", "weight"))
    layers = "".join(
        f'layer {{ name: "{name}" type: "BatchNorm" bottom: "{bottom}" top: "{name}" {share}'
        " batch_norm_param { moving_average_fraction: 0.5 } }\n"
        for name, bottom in (("bn", "x"), ("other", "z"))
    )
    net = make(given("x", 4, 2) + given("z", 4, 2) + layers, phase=graphc.TRAIN)
    x, z = np.random.default_rng(1).standard_normal((2, 4, 2)).astype(np.float32)
    net.forward(x=x, z=z)
    np.testing.assert_allclose(net.params["bn"][0].data, x.mean(0) / 2 + z.mean(0), atol=1e-6)
    np.testing.assert_array_equal(net.params["other"][2].data, [1.5])


def test_statistics_are_not_learned():
    net = make(BATCH_NORM, phase=graphc.TRAIN)
    net.forward(x=np.ones((6, 3), np.float32))
    assert list(net.backward()) == ["x"]


# -- recurrent layers ------------------------------------------------------------------------------

STEPS, ITEMS, WIDTH, SIZE = 4, 2, 3, 5


def recurrent(kind: str, steps: int, static: bool = False) -> str:
    extra = 'bottom: "s" ' if static else ""
    inputs = given("x", steps, ITEMS, WIDTH) + given("cont", steps, ITEMS)
    return (
        "force_backward: true\n"
        + inputs
        + (given("s", ITEMS, 2) if static else "")
        + f'layer {{ name: "l" type: "{kind}" bottom: "x" bottom: "cont" {extra}top: "y"'
        f" recurrent_param {{ num_output: {SIZE} }} }}\n"
    )


def filled(net: graphc.Net) -> list[np.ndarray]:
    """Random parameters, put into the net."""
    rng = np.random.default_rng(5)
    values = []
    for blob in net.params["l"]:
        values.append(rng.standard_normal(blob.shape).astype(np.float32) / 2)
        blob.data[...] = values[-1]
    return values


def sequence() -> tuple[np.ndarray, np.ndarray]:
    """x, and cont in which a sequence begins in the middle."""
    rng = np.random.default_rng(6)
    cont = np.ones((STEPS, ITEMS), np.float32)
    cont[0] = 0
    cont[2, 1] = 0
    return rng.standard_normal((STEPS, ITEMS, WIDTH)).astype(np.float32), cont


@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_the_last_state_is_where_the_next_call_begins(kind: str):
    x, cont = sequence()
    whole = make(recurrent(kind, STEPS))
    filled(whole)
    wanted = whole.forward(x=x, cont=cont)["y"]
    halves = make(recurrent(kind, STEPS // 2))
    filled(halves)
    made = [
        halves.forward(x=x[part], cont=cont[part])["y"].copy()
        for part in (slice(0, 2), slice(2, 4))
    ]
    np.testing.assert_allclose(np.concatenate(made), wanted, atol=1e-6)
    # cont 0 forgets: the first half again gives the first half's outputs.
    again = halves.forward(x=x[:2], cont=cont[:2])["y"]
    np.testing.assert_array_equal(again, made[0])


@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_backward_reads_the_state_the_call_began_with(kind: str):
    """The second call's gradient, against differences of a call that begins with that state."""
    x, _ = sequence()
    net = make(recurrent(kind, STEPS), dtype="float64")
    filled(net)
    ones = np.ones((STEPS, ITEMS))
    net.forward(x=x, cont=ones)
    weights = net.params["l"][2].data
    loss = {}
    for step in (1e-6, -1e-6, 0.0):  # the last one is what backward is asked about
        other = make(recurrent(kind, STEPS), dtype="float64")
        filled(other)
        other.forward(x=x, cont=ones)
        other.params["l"][2].data[1, 2] += step
        loss[step] = other.forward(x=x, cont=ones)["y"].sum()
    net.forward(x=x, cont=ones)
    net.blobs["y"].diff[...] = 1
    net.backward()
    assert weights.shape == net.params["l"][2].diff.shape
    slope = (loss[1e-6] - loss[-1e-6]) / 2e-6
    np.testing.assert_allclose(net.params["l"][2].diff[1, 2], slope, rtol=1e-6)


def test_another_backward_begins_with_the_same_state():
    x, _ = sequence()
    net = make(recurrent("LSTM", STEPS))
    filled(net)
    ones = np.ones((STEPS, ITEMS))
    net.forward(x=x, cont=ones)
    y = net.forward(x=x, cont=ones)["y"].copy()
    net.backward(y=np.ones_like(y), wrt=["x"])
    np.testing.assert_array_equal(net.blobs["y"].data, y)


def test_static_input_is_seen_by_every_step():
    """Against the formulas, step by step in numpy."""
    x, cont = sequence()
    static = np.random.default_rng(8).standard_normal((ITEMS, 2)).astype(np.float32)
    net = make(recurrent("RNN", STEPS, static=True))
    w_x, b, w_s, w_h, w_o, b_o = filled(net)
    y = net.forward(x=x, cont=cont, s=static)["y"]
    h = np.zeros((ITEMS, SIZE))
    for step in range(STEPS):
        h = np.tanh(x[step] @ w_x.T + b + static @ w_s.T + (cont[step, :, None] * h) @ w_h.T)
        np.testing.assert_allclose(y[step], np.tanh(h @ w_o.T + b_o), atol=1e-5)


def test_recurrent_bottoms_are_checked():
    with pytest.raises(NetError, match="LSTM takes 2 bottoms, or 3 with a static input, not 1"):
        make(
            given("x", 2, 2, 3) + 'layer { name: "l" type: "LSTM" bottom: "x" top: "y"'
            " recurrent_param { num_output: 2 } }"
        )
    with pytest.raises(NetError, match=r"cont \[time, sequences\]"):
        make(recurrent("LSTM", 3).replace(given("cont", 3, ITEMS), given("cont", 3, ITEMS + 1)))
