"""One trunk of layers under scores and under losses, and what tests compare."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import graphc

# A convolution, relu and dropout in place, average pooling, an inner product.
TRUNK = """
layer {
  name: "data" type: "Input" top: "data"
  input_param { shape { dim: 4 dim: 3 dim: 6 dim: 6 } }
}
layer {
  name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 5 kernel_size: 3 weight_filler { type: "xavier" } }
}
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer {
  name: "drop" type: "Dropout" bottom: "conv" top: "conv"
  dropout_param { dropout_ratio: 0.4 }
}
layer {
  name: "pool" type: "Pooling" bottom: "conv" top: "pool"
  pooling_param { pool: AVE kernel_size: 2 stride: 2 }
}
layer {
  name: "ip" type: "InnerProduct" bottom: "pool" top: "ip"
  inner_product_param { num_output: 7 weight_filler { type: "xavier" } }
}
"""

SCORES = (
    'force_backward: true name: "scores"'
    + TRUNK
    + 'layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }\n'
)

LOSS = (
    'name: "loss"'
    + TRUNK
    + """
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 4 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
layer { name: "decay" type: "EuclideanLoss" bottom: "ip" bottom: "ip" top: "zero" loss_weight: 3 }
"""
)

RNG = np.random.default_rng(7)

DATA = RNG.standard_normal((4, 3, 6, 6)).astype(np.float32)

SEED = RNG.standard_normal((4, 7)).astype(np.float32)

LABEL = np.array([0, 6, 3, 3])

LEARNED = ("conv/0", "conv/1", "ip/0", "ip/1")


def scores(**options: Any) -> graphc.Net:
    return graphc.Net(SCORES, **options)


def training(**options: Any) -> graphc.Net:
    return graphc.Net(LOSS, phase=graphc.TRAIN, **options)


def parameter(net: graphc.Net, name: str) -> Any:
    layer, _, index = name.rpartition("/")
    return net.params[layer][int(index)]


def slope(value: Callable[[], float], array: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """The gradient of `value` by each element of `array`, by central differences in float64."""
    found = np.zeros(array.shape)
    for place in np.ndindex(array.shape):
        held = array[place]
        array[place] = held + step
        above = value()
        array[place] = held - step
        found[place] = (above - value()) / (2 * step)
        array[place] = held
    return found


def close(got: np.ndarray, wanted: np.ndarray, tolerance: float = 1e-6) -> None:
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())
