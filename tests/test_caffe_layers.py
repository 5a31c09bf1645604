"""Layers that the recorded cases reach only in part, against numpy."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import graphc
from graphc.error import NetError


def make(*layers: str, **options: Any) -> graphc.Net:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", graphc.NetWarning)
        return graphc.Net("\n".join(layers) + "\n", threads=1, **options)


def given(name: str, *extents: int) -> str:
    dims = " ".join(f"dim: {extent}" for extent in extents)
    return (
        f'layer {{ name: "{name}" type: "Input" top: "{name}"'
        f" input_param {{ shape {{ {dims} }} }} }}"
    )


def layer(kind: str, bottoms: str = "x", rest: str = "") -> str:
    bottom = " ".join(f'bottom: "{name}"' for name in bottoms.split())
    return f'layer {{ name: "l" type: "{kind}" {bottom} top: "y" {rest} }}'


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


# -- SPP -------------------------------------------------------------------------------------------


def pyramid(height: int, method: str = "MAX") -> str:
    return layer("SPP", rest=f"spp_param {{ pyramid_height: {height} pool: {method} }}")


def test_a_pyramid_of_one_level_keeps_four_axes():
    x = drawn(2, 3, 5, 7)
    y = make(given("x", 2, 3, 5, 7), pyramid(1)).forward(x=x)["y"]
    np.testing.assert_array_equal(y, x.max((2, 3), keepdims=True))


@pytest.mark.parametrize(("method", "reduce"), [("MAX", np.max), ("AVE", np.mean)])
def test_levels_go_from_coarse_to_fine(method: str, reduce: Any):
    x = drawn(2, 3, 4, 8)
    y = make(given("x", 2, 3, 4, 8), pyramid(3, method)).forward(x=x)["y"]
    wanted = []
    for bins in (1, 2, 4):
        cells = x.reshape(2, 3, bins, 4 // bins, bins, 8 // bins)
        wanted.append(reduce(cells, axis=(3, 5)).reshape(2, -1))
    np.testing.assert_allclose(y, np.concatenate(wanted, 1), atol=1e-6)


def test_an_image_too_small_for_the_pyramid_is_refused():
    with pytest.raises(NetError, match="too small for 4 x 4 bins"):
        make(given("x", 1, 1, 5, 5), pyramid(3))


# -- tops ------------------------------------------------------------------------------------------


def test_a_layer_that_makes_something_needs_a_top():
    start = given("x", 2, 3) + given("t", 2)
    with pytest.raises(NetError, match="layer 'r': ReLU needs a top"):
        make(start, 'layer { name: "r" type: "ReLU" bottom: "x" }')
    loss = 'layer { name: "l" type: "SoftmaxWithLoss" bottom: "x" bottom: "t" }\n'
    make(start, loss, 'layer { name: "s" type: "Silence" bottom: "x" }')


# -- pooling ---------------------------------------------------------------------------------------


def test_padding_along_one_axis_drops_late_windows_along_both():
    """Caffe looks at both paddings before it drops windows that start behind the image."""
    rest = "pooling_param { kernel_h: 1 kernel_w: 3 stride: 2 pad_h: 0 pad_w: 1 METHOD }"
    x = drawn(2, 3, 4, 5)
    for method, reduce in (("MAX", np.max), ("AVE", np.sum)):
        option = rest.replace("METHOD", f"pool: {method}")
        y = make(given("x", *x.shape), layer("Pooling", rest=option)).forward(x=x)["y"]
        columns = [x[:, :, ::2, max(0, start) : start + 3] for start in (-1, 1, 3)]
        wanted = np.stack([reduce(part, axis=3) for part in columns], axis=3)
        np.testing.assert_allclose(y, wanted if method == "MAX" else wanted / 3, rtol=1e-5)


# -- MVN and BatchNorm -----------------------------------------------------------------------------


@pytest.mark.parametrize("across", [False, True])
def test_mvn_of_few_axes(across: bool):
    x = drawn(4, 3)
    option = f"mvn_param {{ across_channels: {str(across).lower()} }}"
    y = make(given("x", 4, 3), layer("MVN", rest=option)).forward(x=x)["y"]
    wanted = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True) if across else 0 * x
    np.testing.assert_allclose(y, wanted, atol=1e-5)


def test_batch_norm_of_one_axis_has_one_channel():
    x = drawn(7)
    net = make(given("x", 7), layer("BatchNorm"), phase=graphc.TRAIN)
    np.testing.assert_allclose(net.forward(x=x)["y"], (x - x.mean()) / x.std(), atol=1e-4)
    assert net.params["l"][0].shape == (1,)


def test_random_weights_give_batch_norm_moments_and_scale_its_factor():
    scale = 'layer { name: "s" type: "Scale" bottom: "y" top: "z" }'
    net = make(given("x", 2, 3), layer("BatchNorm"), scale, weights="random:1")
    x = drawn(2, 3)
    np.testing.assert_allclose(net.forward(x=x)["z"], x, rtol=1e-4)


# -- rows ------------------------------------------------------------------------------------------


def embedding(bias: str = "true") -> str:
    return layer("Embed", rest=f"embed_param {{ input_dim: 5 num_output: 3 bias_term: {bias} }}")


def test_embed_keeps_the_axes_of_the_index():
    net = make(given("x", 2, 4), embedding())
    net.params["l"][0].data[...] = table = drawn(5, 3)
    net.params["l"][1].data[...] = bias = drawn(3)
    index = np.array([[0, 1, 2, 3], [4, 4, 0, 1]])
    np.testing.assert_allclose(net.forward(x=index)["y"], table[index] + bias, atol=1e-6)


@pytest.mark.parametrize("number", [5, -1])
def test_a_row_number_outside_the_table_is_refused(number: int):
    net = make(given("x", 2), embedding("false"))
    with pytest.raises(NetError, match=f"row number is not within 0 .. 4; found {number}"):
        net.forward(x=[0, number])


def test_rows_that_come_several_times_add_up_their_gradients():
    net = make(given("x", 3, 2), given("i", 4), layer("BatchReindex", "x i"))
    net.forward(x=drawn(3, 2), i=[2, 0, 2, 2])
    dy = drawn(4, 2)
    dx = net.backward(y=dy, wrt=["x"])["x"]
    np.testing.assert_allclose(dx, [dy[1], [0, 0], dy[0] + dy[2] + dy[3]], atol=1e-6)


# -- Im2col ----------------------------------------------------------------------------------------


def test_im2col_is_half_of_a_convolution():
    window = "convolution_param { kernel_size: 3 kernel_size: 2 stride: 2 pad: 1 dilation: 1 OUT }"
    x = drawn(2, 3, 7, 6)
    columns = make(given("x", 2, 3, 7, 6), layer("Im2col", rest=window.replace("OUT", ""))).forward(
        x=x
    )["y"]
    conv = make(
        given("x", 2, 3, 7, 6),
        layer("Convolution", rest=window.replace("OUT", "num_output: 4 bias_term: false")),
    )
    conv.params["l"][0].data[...] = weights = drawn(4, 3, 3, 2)
    wanted = conv.forward(x=x)["y"]
    made = np.einsum("ok,nkhw->nohw", weights.reshape(4, -1), columns)
    np.testing.assert_allclose(made, wanted, atol=1e-5)


def test_im2col_of_one_spatial_axis():
    x = drawn(1, 2, 5)
    option = "convolution_param { kernel_size: 3 }"
    y = make(given("x", 1, 2, 5), layer("Im2col", rest=option)).forward(x=x)["y"]
    wanted = np.lib.stride_tricks.sliding_window_view(x[0], 3, axis=1)
    np.testing.assert_array_equal(y[0].reshape(2, 3, 3), wanted.transpose(0, 2, 1))


# -- one step of an LSTM ---------------------------------------------------------------------------


def test_lstm_unit_checks_its_bottoms():
    with pytest.raises(NetError, match=r"gates \[1, N, 4 H\]"):
        make(given("x", 1, 2, 3), given("g", 1, 2, 9), given("k", 1, 2), layer("LSTMUnit", "x g k"))
