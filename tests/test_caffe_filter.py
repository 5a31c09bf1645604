"""Filter: how many items pass depends on the data, from call to call."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import graphc
from graphc.error import NetError

START = (
    "force_backward: true\n"
    'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 5 dim: 3 } } }\n'
)
SELECTOR = 'layer { name: "s" type: "Input" top: "s" input_param { shape { dim: 5 } } }\n'
FILTER = 'layer { name: "f" type: "Filter" bottom: "x" bottom: "s" top: "y" propagate_down: true'
AFTER = ' propagate_down: false }\nlayer { name: "a" type: "Power" bottom: "y" top: "z"' + (
    " power_param { scale: 2 } }\n"
)
X = np.arange(15, dtype=np.float32).reshape(5, 3)


def make(text: str, **options: object) -> graphc.Net:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", graphc.NetWarning)
        return graphc.Net(text, threads=1, **options)


@pytest.fixture
def net() -> graphc.Net:
    # No gradient is asked of the selector, which has none.
    return make((START + SELECTOR + FILTER + AFTER).replace("force_backward: true\n", ""))


def test_every_call_lets_its_own_number_pass(net: graphc.Net):
    assert net.blobs["z"].shape == (5, 3)
    for selector in ([1, 0, 1, 1, 0], [0, 0, 0, 0, 2], [1, 1, 1, 1, 1], [0, 1, 0, -1, 0]):
        z = net.forward(x=X, s=selector)["z"]
        np.testing.assert_array_equal(z, 2 * X[np.array(selector) != 0])
        assert net.blobs["y"].shape == z.shape


def test_no_item_at_all(net: graphc.Net):
    assert net.forward(x=X, s=np.zeros(5))["z"].shape == (0, 3)
    np.testing.assert_array_equal(net.forward(s=np.ones(5))["z"], 2 * X)


def test_gradient_goes_to_the_items_that_passed(net: graphc.Net):
    for selector in (np.array([1, 0, 1, 0, 0]), np.array([0, 1, 1, 0, 1])):
        count = int(selector.sum())
        net.forward(x=X, s=selector)
        dz = np.arange(3 * count).reshape(count, 3) + 1.0
        dx = net.backward(z=dz, wrt=["x"])["x"]
        wanted = np.zeros((5, 3))
        wanted[selector != 0] = 2 * dz
        np.testing.assert_array_equal(dx, wanted)


def test_a_selector_that_the_net_computes():
    """And what comes before it is not counted twice by batch norm's statistics."""
    text = START + (
        'layer { name: "bn" type: "BatchNorm" bottom: "x" top: "b" }\n'
        'layer { name: "r" type: "Reduction" bottom: "b" top: "r"'
        " reduction_param { axis: 1 } }\n"
        'layer { name: "t" type: "Threshold" bottom: "r" top: "s" }\n' + FILTER + AFTER
    )
    net = make(text.replace("force_backward: true\n", ""), phase=graphc.TRAIN)
    for call in (1, 2):
        z = net.forward(x=X * (-1) ** call)["z"]
        positive = (X - X.mean(0)).sum(1) * (-1) ** call > 1e-4
        np.testing.assert_allclose(z, 2 * X[positive] * (-1) ** call)
        weight = 1 if call == 1 else 1.999
        np.testing.assert_allclose(net.params["bn"][2].data, [weight], rtol=1e-6)


def test_shapes_are_checked():
    with pytest.raises(NetError, match="one number an item"):
        make(START + SELECTOR.replace("dim: 5", "dim: 5 dim: 2") + FILTER + AFTER)
    with pytest.raises(NetError, match="must have 4 items"):
        make(START + SELECTOR.replace("dim: 5", "dim: 4") + FILTER + AFTER)
    with pytest.raises(NetError, match="1 bottoms and 1 tops"):
        make(START + 'layer { name: "f" type: "Filter" bottom: "x" top: "y" }')
