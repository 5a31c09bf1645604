"""Whole nets through the CUDA launch plan, run by the emulator, against the native program."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_programs import needs_compiler

import graphc
from graphc.error import NetError

pytestmark = needs_compiler

# Both sides compute in float32 and add in different orders; gradients pass a few layers.
TOLERANCE = 5e-5

LENET = """
name: "LeNet"
layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 6 dim: 1 dim: 28 dim: 28 } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 6 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 20 kernel_size: 5 weight_filler { type: "xavier" } } }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
  pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "conv2" type: "Convolution" bottom: "pool1" top: "conv2"
  convolution_param { num_output: 50 kernel_size: 5 weight_filler { type: "xavier" } } }
layer { name: "pool2" type: "Pooling" bottom: "conv2" top: "pool2"
  pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "ip1" type: "InnerProduct" bottom: "pool2" top: "ip1"
  inner_product_param { num_output: 100 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "drop1" type: "Dropout" bottom: "ip1" top: "ip1" }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip2" bottom: "label" top: "accuracy" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
"""

INCEPTION = """
name: "inception"
force_backward: true
layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 2 dim: 24 dim: 9 dim: 9 } } }
layer { name: "one" type: "Convolution" bottom: "data" top: "one"
  convolution_param { num_output: 16 kernel_size: 1 bias_term: false
    weight_filler { type: "xavier" } } }
layer { name: "norm" type: "BatchNorm" bottom: "one" top: "norm" }
layer { name: "scale" type: "Scale" bottom: "norm" top: "norm" scale_param { bias_term: true } }
layer { name: "relu" type: "ReLU" bottom: "norm" top: "norm" }
layer { name: "reduce" type: "Convolution" bottom: "data" top: "reduce"
  convolution_param { num_output: 12 kernel_size: 1 weight_filler { type: "xavier" } } }
layer { name: "three" type: "Convolution" bottom: "reduce" top: "three"
  convolution_param { num_output: 20 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "pool" type: "Pooling" bottom: "data" top: "pool"
  pooling_param { pool: MAX kernel_size: 3 stride: 1 pad: 1 } }
layer { name: "proj" type: "Convolution" bottom: "pool" top: "proj"
  convolution_param { num_output: 8 kernel_size: 1 weight_filler { type: "xavier" } } }
layer { name: "all" type: "Concat" bottom: "norm" bottom: "three" bottom: "proj" top: "all" }
layer { name: "mean" type: "Pooling" bottom: "all" top: "mean"
  pooling_param { pool: AVE global_pooling: true } }
layer { name: "prelu" type: "PReLU" bottom: "mean" top: "mean" }
layer { name: "target" type: "Input" top: "target"
  input_param { shape { dim: 2 dim: 44 dim: 1 dim: 1 } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "mean" bottom: "target" top: "loss" }
"""

INFOGAIN = """
name: "infogain"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 40 dim: 30 } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 40 } } }
layer { name: "gain" type: "Input" top: "gain"
  input_param { shape { dim: 1 dim: 1 dim: 70 dim: 70 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 70 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "InfogainLoss" bottom: "ip" bottom: "label" bottom: "gain" top: "loss" }
"""

CAFFENET = """
name: "small CaffeNet"
layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 2 dim: 3 dim: 67 dim: 67 } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 2 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 24 kernel_size: 11 stride: 4 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
  pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
layer { name: "norm1" type: "LRN" bottom: "pool1" top: "norm1"
  lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 } }
layer { name: "conv2" type: "Convolution" bottom: "norm1" top: "conv2"
  convolution_param { num_output: 32 pad: 2 kernel_size: 5 group: 2
    weight_filler { type: "xavier" } } }
layer { name: "relu2" type: "ReLU" bottom: "conv2" top: "conv2" }
layer { name: "pool2" type: "Pooling" bottom: "conv2" top: "pool2"
  pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
layer { name: "conv3" type: "Convolution" bottom: "pool2" top: "conv3"
  convolution_param { num_output: 48 pad: 1 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu3" type: "ReLU" bottom: "conv3" top: "conv3" }
layer { name: "fc6" type: "InnerProduct" bottom: "conv3" top: "fc6"
  inner_product_param { num_output: 64 weight_filler { type: "xavier" } } }
layer { name: "relu6" type: "ReLU" bottom: "fc6" top: "fc6" }
layer { name: "drop6" type: "Dropout" bottom: "fc6" top: "fc6"
  dropout_param { dropout_ratio: 0.5 } }
layer { name: "fc8" type: "InnerProduct" bottom: "fc6" top: "fc8"
  inner_product_param { num_output: 100 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc8" bottom: "label" top: "loss" }
"""

CLASSES = {"LeNet": 10, "infogain": 70, "small CaffeNet": 100}


def fill(net: graphc.Net, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for name in net.inputs:
        array = net.blobs[name].data
        if name == "label":
            array[...] = rng.integers(0, CLASSES[net.name], array.shape)
        else:
            array[...] = rng.standard_normal(array.shape)


def everything(net: graphc.Net) -> dict[str, np.ndarray]:
    """Two steps' worth of outputs and gradients; those of parameters add up."""
    found: dict[str, np.ndarray] = {}
    for turn in range(2):
        fill(net, turn)
        forward = net.forward()
        gradients = net.backward()
        for kind, arrays in (("output", forward), ("gradient", gradients)):
            found.update({f"{kind} {name} {turn}": a.copy() for name, a in arrays.items()})
    for layer, blobs in net.params.items():
        for place, blob in enumerate(blobs):
            found[f"{layer}/{place}.diff"] = blob.diff.copy()
            found[f"{layer}/{place}"] = blob.data.copy()
    return found


def assert_same(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert list(got) == list(wanted)
    for name, array in wanted.items():
        scale = max(1e-30, float(np.abs(array).max()))
        np.testing.assert_allclose(got[name], array, rtol=0, atol=TOLERANCE * scale, err_msg=name)


@pytest.mark.parametrize("text", [LENET, INCEPTION, INFOGAIN, CAFFENET])
def test_nets_are_what_they_are_on_the_processor(text: str):
    phase = graphc.TEST if text is INFOGAIN else graphc.TRAIN
    wanted = everything(graphc.Net(text, phase=phase, seed=3))
    net = graphc.Net(text, phase=phase, seed=3, target="cuda-emulator")
    assert_same(everything(net), wanted)


def test_tensor_cores_where_they_are_allowed():
    """A net of products alone, where rounding moves no maximum.

    What meets in a product is wrong by 2**-11 of itself each; the scores' error reaches the
    gradients through the softmax, so that another product's worth of it may be in them.
    """
    options = {"phase": graphc.TEST, "seed": 3}
    wanted = everything(graphc.Net(INFOGAIN, **options))
    rounded = everything(
        graphc.Net(INFOGAIN, **options, target="cuda-emulator", fast_math=["tf32"])
    )
    errors = [
        float(np.linalg.norm(rounded[name] - array) / np.linalg.norm(array))
        for name, array in wanted.items()
        if array.any()
    ]
    assert 2**-20 < max(errors) < 2**-9
    unused = everything(graphc.Net(INFOGAIN, **options, fast_math=["tf32"]))
    for name, array in wanted.items():
        np.testing.assert_array_equal(unused[name], array, name)


def run_in_order(text: str, seed: int) -> list[np.ndarray]:
    """Gradients of one step with the threads in a given order."""
    net = graphc.Net(text, phase=graphc.TRAIN, seed=3, target="cuda-emulator")
    fill(net, 1)
    net.clear_param_diffs()
    made = net.prepare()
    made.executable.seed = seed
    net.forward()
    net.backward()
    assert net.compilation() is made
    return [blob.diff.copy() for blobs in net.params.values() for blob in blobs]


@pytest.mark.parametrize("text", [LENET, CAFFENET])
def test_order_of_threads_changes_no_bit(text: str):
    for one, other in zip(run_in_order(text, 0), run_in_order(text, 1234), strict=True):
        assert np.abs(one).max() > 0
        np.testing.assert_array_equal(one, other)


def test_a_sum_in_parts_is_explained():
    """conv1's 20 x 25 weights get their gradients from 6 x 24 x 24 places."""
    net = graphc.Net(LENET, phase=graphc.TRAIN, target="cuda-emulator")
    found = [r for r in net.prepare().remarks if r.stage == "cuda"]
    assert any(r.subject == "layer:conv1" and "sums of 3456 in" in r.sentence for r in found)
    assert not any(r.stage == "cuda" for r in graphc.Net(LENET).prepare().remarks)


def test_wrong_label_is_named():
    net = graphc.Net(LENET, phase=graphc.TRAIN, target="cuda-emulator")
    fill(net, 0)
    net.blobs["label"].data[3] = 10
    with pytest.raises(NetError, match=r"layer '(loss|accuracy)'.*found 10"):
        net.forward()


def test_an_input_that_is_an_output_too():
    """In place on an input, and a gradient both given for a blob and asked for."""
    text = """force_backward: true
    layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
    layer { name: "a" type: "Power" bottom: "x" top: "x" power_param { scale: 2 shift: 1 } }
    layer { name: "b" type: "Power" bottom: "x" top: "y" power_param { power: 2 } }
    layer { name: "c" type: "Input" top: "unread" input_param { shape { dim: 2 } } }
    """
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    for net in (graphc.Net(text), graphc.Net(text, target="cuda-emulator")):
        found = net.forward(x=x, unread=[3, 4], blobs=["x"])
        assert_same(found, {"unread": np.array([3.0, 4.0]), "y": (2 * x + 1) ** 2, "x": 2 * x + 1})
        gradients = net.backward(y=x, x=x, wrt=["x", "y"])
        assert_same(gradients, {"x": 2 * (2 * x * (2 * x + 1) + x), "y": x})


def test_unknown_target_is_refused():
    with pytest.raises(NetError, match="target is one of cpu, cuda, cuda-emulator, not 'gpu'"):
        graphc.Net(LENET, target="gpu")
