"""Python layers: the user's class, called in the middle of a native program."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc
from graphc.error import NetError

MODULE = '''
import caffe
import numpy as np


class Cube(caffe.Layer):
    """param_str * x^3, and the phase as a second top if there is one."""

    made = 0

    def setup(self, bottom, top):
        Cube.made += 1
        self.factor = float(self.param_str or 1)

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)
        if len(top) > 1:
            top[1].reshape(1)

    def forward(self, bottom, top):
        top[0].data[...] = self.factor * bottom[0].data ** 3
        if len(top) > 1:
            top[1].data[...] = self.phase

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = self.factor * 3 * bottom[0].data ** 2 * top[0].diff


class Distance(caffe.Layer):
    """Half the squared distance, as in Caffe's example of a loss; no gradient for the label."""

    def setup(self, bottom, top):
        if len(bottom) != 2:
            raise Exception("Need two inputs to compute distance.")

    def reshape(self, bottom, top):
        self.diff = np.zeros_like(bottom[0].data)
        top[0].reshape(1)

    def forward(self, bottom, top):
        self.diff[...] = bottom[0].data - bottom[1].data
        top[0].data[...] = np.sum(self.diff**2) / bottom[0].num / 2.0

    def backward(self, top, propagate_down, bottom):
        if propagate_down[1]:
            raise Exception("Layer cannot backpropagate to label inputs.")
        if propagate_down[0]:
            bottom[0].diff[...] = self.diff / bottom[0].num


class Count:
    """Data: the number of the call."""

    def setup(self, bottom, top):
        self.calls = 0

    def reshape(self, bottom, top):
        top[0].reshape(2, 3)

    def forward(self, bottom, top):
        self.calls += 1
        top[0].data[...] = self.calls
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "layers_for_tests.py").write_text(MODULE)
    return tmp_path


def make(folder: Path, text: str, **options: Any) -> graphc.Net:
    path = folder / "net.prototxt"
    path.write_text(text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", graphc.NetWarning)
        return graphc.Net(path, threads=1, **options)


def given(name: str, *extents: int) -> str:
    dims = " ".join(f"dim: {extent}" for extent in extents)
    return (
        f'layer {{ name: "{name}" type: "Input" top: "{name}"'
        f" input_param {{ shape {{ {dims} }} }} }}\n"
    )


def python(name: str, kind: str, bottoms: str, tops: str, rest: str = "", text: str = "") -> str:
    bottom = " ".join(f'bottom: "{b}"' for b in bottoms.split())
    top = " ".join(f'top: "{t}"' for t in tops.split())
    return (
        f'layer {{ name: "{name}" type: "Python" {bottom} {top} {rest} python_param'
        f' {{ module: "layers_for_tests" layer: "{kind}" param_str: "{text}" }} }}\n'
    )


CONV = (
    'layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param'
    ' { num_output: 4 kernel_size: 3 weight_filler { type: "gaussian" std: 0.3 } } }\n'
)
RELU = 'layer { name: "r" type: "ReLU" bottom: "y" top: "r" }\n'


def test_in_the_middle_of_native_layers(folder: Path):
    """Values and gradients are those of a Power layer in its place."""
    start = "force_backward: true\n" + given("x", 2, 3, 6, 6) + CONV
    cube = make(folder, start + python("p", "Cube", "c", "y", text="0.5") + RELU)
    power = 'layer { name: "p" type: "Power" bottom: "c" top: "y" power_param { power: 3 } }\n'
    half = 'layer { name: "h" type: "Power" bottom: "y" top: "y" power_param { scale: 0.5 } }\n'
    native = make(folder, start + power + half + RELU)
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 3, 6, 6)), rng.standard_normal((2, 4, 4, 4))
    results = []
    for net in (cube, native):
        net.params["c"][0].data[...] = np.random.default_rng(1).standard_normal((4, 3, 3, 3)) / 5
        out = net.forward(x=x)["r"].copy()
        results.append((out, net.backward(r=dy)["x"].copy(), net.params["c"][0].diff.copy()))
    for got, wanted in zip(*results, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())
    both = cube.forward_backward({"x": x}, {"r": dy})["x"]
    np.testing.assert_allclose(both, results[0][1], atol=1e-6)


def test_as_a_loss(folder: Path):
    text = (
        given("x", 4, 3)
        + given("t", 4, 3)
        + 'layer { name: "f" type: "InnerProduct" bottom: "x" top: "f" inner_product_param'
        ' { num_output: 3 weight_filler { type: "xavier" } } }\n'
    )
    ours = make(folder, text + python("l", "Distance", "f t", "l", "loss_weight: 1"))
    loss = 'layer { name: "l" type: "EuclideanLoss" bottom: "f" bottom: "t" top: "l" }'
    native = make(folder, text + loss)
    rng = np.random.default_rng(2)
    x, t = rng.standard_normal((2, 4, 3))
    for net in (ours, native):
        net.forward(x=x, t=t)
        net.backward()
    assert ours.loss == pytest.approx(native.loss, rel=1e-5)
    np.testing.assert_allclose(
        ours.params["f"][0].diff, native.params["f"][0].diff, rtol=1e-4, atol=1e-6
    )


def test_without_bottoms_it_is_called_once_a_pass(folder: Path):
    net = make(folder, python("d", "Count", "", "y") + RELU)
    for number in (1, 2, 3):
        np.testing.assert_array_equal(net.forward()["r"], np.full((2, 3), number))


def test_the_object_is_set_up_once_and_knows_the_phase(folder: Path):
    net = make(folder, given("x", 2, 3) + python("p", "Cube", "x", "y phase"), phase=graphc.TRAIN)
    assert net.forward(x=np.ones((2, 3)))["phase"] == 0
    net.blobs["x"].reshape(5, 3)
    assert net.forward(x=np.full((5, 3), 2))["y"].shape == (5, 3)
    held = net.front().python_layers["p"].made
    assert type(held).made == 1
    assert "caffe" not in sys.modules


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (python("p", "Cube", "x", "y", text="three"), "Cube.setup raised ValueError: .*three"),
        (python("p", "Distance", "x", "y"), "setup raised Exception: Need two inputs"),
        (python("p", "Square", "x", "y"), "module 'layers_for_tests' has no class 'Square'"),
        (
            python("p", "Cube", "x", "y").replace("layers_for_tests", "no_such_module"),
            "cannot load module 'no_such_module'",
        ),
        (python("p", "Cube", "x", ""), "needs a top"),
    ],
)
def test_what_is_wrong_is_said(folder: Path, layer: str, message: str):
    with pytest.raises(NetError, match=message) as raised:
        make(folder, given("x", 2, 3) + layer)
    assert "layer 'p'" in str(raised.value)


def test_an_error_in_the_middle_of_a_call(folder: Path):
    net = make(folder, "force_backward: true\n" + python("d", "Count", "", "y") + RELU)
    net.front().python_layers["d"].made.forward = lambda bottom, top: 1 / 0
    with pytest.raises(NetError, match=r"layer 'd': .*Count.forward raised ZeroDivisionError"):
        net.forward()


# -- parameters ------------------------------------------------------------------------------------

LEARNED = '''
import caffe
import numpy as np


class Linear(caffe.Layer):
    """An inner product with its own weight and bias."""

    def setup(self, bottom, top):
        outputs = int(self.param_str)
        self.blobs.add_blob(outputs, bottom[0].channels)
        self.blobs.add_blob(outputs)
        self.blobs[0].data[...] = np.linspace(-1, 1, self.blobs[0].count).reshape(outputs, -1)

    def reshape(self, bottom, top):
        top[0].reshape(bottom[0].num, self.blobs[1].count)

    def forward(self, bottom, top):
        top[0].data[...] = bottom[0].data @ self.blobs[0].data.T + self.blobs[1].data

    def backward(self, top, propagate_down, bottom):
        assert len(propagate_down) == len(bottom) == 1
        self.blobs[0].diff[...] += top[0].diff.T @ bottom[0].data
        self.blobs[1].diff[...] += top[0].diff.sum(axis=0)
        if propagate_down[0]:
            bottom[0].diff[...] = top[0].diff @ self.blobs[0].data


class Counter(caffe.Layer):
    """Counts its calls in a blob that nobody learns."""

    def setup(self, bottom, top):
        self.blobs.add_blob()

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        self.blobs[0].data[...] += 1
        top[0].data[...] = bottom[0].data

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = top[0].diff
'''
DATA = given("x", 5, 4) + given("t", 5, 3)
LOSS = 'layer { name: "l" type: "EuclideanLoss" bottom: "y" bottom: "t" top: "l" }\n'
RATES = "param { lr_mult: 2 } param { lr_mult: 3 decay_mult: 0 }"


def ours(rest: str = "", name: str = "f") -> str:
    return DATA + python(name, "Linear", "x", "y", rest, "3") + LOSS


def native(rest: str = "") -> str:
    return (
        f'{DATA}layer {{ name: "f" type: "InnerProduct" bottom: "x" top: "y" {rest}'
        " inner_product_param { num_output: 3 } }\n" + LOSS
    )


@pytest.fixture
def learning(folder: Path) -> Path:
    path = folder / "layers_for_tests.py"
    path.write_text(LEARNED)
    return folder


def batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    return {"x": rng.standard_normal((5, 4)), "t": rng.standard_normal((5, 3))}


def test_blobs_of_the_layer_are_parameters_of_the_net(learning: Path):
    net, twin = make(learning, ours()), make(learning, native())
    weight = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(net.params["f"][0].data, weight)
    twin.params["f"][0].data[...] = weight
    for one in (net, twin):
        for _ in range(2):  # gradients add up
            one.forward(**batch())
            one.backward()
    assert net.loss == pytest.approx(twin.loss, rel=1e-6)
    for index in (0, 1):
        got, wanted = (one.params["f"][index].diff for one in (net, twin))
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    net.params["f"][1].data[...] = 100
    assert net.forward(**batch())["l"] > 1000
    gradient = net.backward(wrt=["x"])["x"]
    np.testing.assert_allclose(gradient, (net.blobs["y"].diff @ weight), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["SGD", "Adam"])
def test_a_solver_updates_them(learning: Path, method: str):
    made = []
    for text in (ours(RATES), native(RATES)):
        settings = 'base_lr: 0.05 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.1 iter_size: 2'
        path = learning / "solver.prototxt"
        path.write_text(f'{settings} type: "{method}" net_param {{ {text} }}')
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", graphc.NetWarning)
            made.append(graphc.Solver(path, threads=1))
    mine, twin = made
    twin.net.params["f"][0].data[...] = mine.net.params["f"][0].data
    before = mine.net.params["f"][0].data.copy()
    losses = [[one.step(feed=batch) for _ in range(3)] for one in made]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert (mine.net.params["f"][0].data != before).any()
    for index in (0, 1):
        got, wanted = (one.net.params["f"][index].data for one in made)
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("ending", ["caffemodel", "caffemodel.h5"])
def test_weight_files_hold_them(learning: Path, ending: str):
    net = make(learning, ours())
    net.params["f"][1].data[...] = [4, 5, 6]
    net.save(learning / f"w.{ending}")
    other = make(learning, native(), weights=learning / f"w.{ending}")
    np.testing.assert_array_equal(other.params["f"][1].data, [4, 5, 6])
    back = make(learning, ours(), weights=learning / f"w.{ending}")
    results = [one.forward(**batch())["l"] for one in (other, back)]
    np.testing.assert_allclose(*results, rtol=1e-6)


def test_rates_and_sharing_are_as_for_other_layers(learning: Path):
    net = make(learning, ours(RATES))
    rates = {name: (p.lr_mult, p.decay_mult) for name, p in net.front().parameters.items()}
    assert rates == {"f/0": (2, 1), "f/1": (3, 0)}
    with pytest.raises(NetError, match="3 param messages, but the layer has 2"):
        make(learning, ours("param {} param {} param {}"))
    shared = 'param { name: "w" } param { name: "b" }'
    two = DATA + "".join(
        python(name, "Linear", "x", top, shared, "3") for name, top in (("f", "y"), ("g", "z"))
    )
    net = make(learning, two + LOSS + LOSS.replace('"y"', '"z"').replace('"l"', '"m"'))
    assert list(net.front().parameters) == ["f/0", "f/1"]
    net.forward(**batch())
    net.backward()
    single = make(learning, ours())
    single.forward(**batch())
    single.backward()
    wanted = 2 * single.params["f"][0].diff
    np.testing.assert_allclose(net.params["g"][0].diff, wanted, rtol=1e-5)


def test_a_layer_may_keep_numbers_in_a_blob(learning: Path):
    text = given("x", 2, 3) + python("p", "Counter", "x", "y", "param { lr_mult: 0 }") + RELU
    net = make(learning, "force_backward: true\n" + text)
    for _ in range(3):
        net.forward(x=np.ones((2, 3)))
    assert net.params["p"][0].data == 3
