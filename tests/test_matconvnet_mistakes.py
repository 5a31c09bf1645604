"""What people write wrongly in MatConvNet's manner, and the sentence they get."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc
from graphc import DagNet, NetError, SimpleNet, simplenn, vl
from graphc.dagnn import Conv, L2Loss, Pooling, ReLU

X = np.ones((1, 1, 16, 5), "f4")
LABEL = np.zeros((1, 5), "f4")


def regression() -> DagNet:
    """A layer of one output and an L2 loss, as people build them."""
    net = DagNet()
    block = Conv(size=(1, 1, 16, 1), has_bias=True, stride=1, pad=0)
    net.add_layer("fc9", block, "drop8", "prediction", ("conv10f", "conv10b"))
    net.add_layer("l2_loss", L2Loss(), ("prediction", "label"), "objective")
    net.init_params(0)
    return net


def chain(*layers: tuple[str, Any, Any]) -> DagNet:
    net = DagNet()
    for name, block, (given, made) in layers:
        net.add_layer(name, block, given, made)
    return net


def with_value(name: str, value: np.ndarray) -> DagNet:
    net = regression()
    net.params[name].value = value
    return net


def with_attribute(name: str, value: Any) -> DagNet:
    net = regression()
    setattr(net, name, value)
    return net


RUN = {"drop8": X, "label": LABEL}
CIRCLE = (("a", ReLU(), ("x", "y")), ("b", ReLU(), ("y", "x")))

MISTAKES: list[tuple[Callable[[], Any], str]] = [
    (lambda: Conv(sizes=(1, 1, 16, 1)), r"Conv has no argument 'sizes' \(did you mean 'size'\?\)"),
    (lambda: Pooling(poolSize=2), r"'poolSize' \(did you mean 'pool_size'\?\)"),
    (lambda: ReLU(1, 2, 3), "ReLU: too many positional arguments"),
    (lambda: regression().add_layer("fc9", ReLU(), "a", "b"), "there is a layer 'fc9' already"),
    (lambda: regression().add_layer("q", ReLU(), "a", "prediction"), "output of layer 'fc9' too"),
    (lambda: regression().add_layer("q", ReLU, "a", "b"), "not the class ReLU"),
    (lambda: regression().add_layer("q", ReLU()), "missing a required argument: 'inputs'"),
    (lambda: regression().add_layer("q", ReLU(), 3, "b"), "its inputs are a name or several"),
    (lambda: regression().eval({"drop9": X}), "did you mean 'drop8'"),
    (lambda: regression().vars["predicton"], "did you mean 'prediction'"),
    (lambda: regression().params["conv10"], "did you mean 'conv10f'"),
    (lambda: regression().remove_layer("fc8"), "did you mean 'fc9'"),
    (
        lambda: regression().eval({"drop8": X}, {"objective": 1}),
        "'objective', which this call does not compute: there is no value for 'label' of layer",
    ),
    (lambda: regression().eval({"drop8": X[:, :, 1:]}), "depth 16 do not divide the 15 channels"),
    (lambda: regression().eval({"drop8": X, "label": np.ones((3, 3))}), "target has 9 elements"),
    (lambda: regression().eval({"drop8": np.ones((1, 1, 16, 5, 2))}), "has 5 axes"),
    (lambda: regression().eval({"drop8": "abc"}), "must be an array of real numbers"),
    (lambda: regression().eval(None), "inputs are given as {name: array}"),
    (lambda: regression().eval(["drop8"]), "inputs are given as {name: array}"),
    (lambda: regression().eval(RUN, {"objectiv": 1}), "did you mean 'objective'"),
    (lambda: regression().eval(RUN, {"objective": np.ones((2, 2))}), "1 x 1 x 1 x 5"),
    (lambda: with_value("conv10f", np.ones((1, 1, 15, 1), "f4")).eval(RUN), "filters of depth 15"),
    (lambda: with_value("conv10b", np.ones(2, "f4")).eval(RUN), r"layer 'fc9' \(Conv\): .*bias"),
    (lambda: chain(*CIRCLE).eval({"x": X}), "depend on each other in a circle"),
    (lambda: chain(("a", ReLU(leak="a"), ("x", "y"))).eval({"x": X}), r"layer 'a' \(ReLU\)"),
    (lambda: with_attribute("conserveMemory", True), "did you mean 'conserve_memory'"),
    (lambda: with_attribute("mode", "tset").eval(RUN), "mode is one of normal, train, test"),
    (lambda: DagNet(verson="master"), r"DagNet has no argument 'verson' \(did you mean 'version'"),
    (
        lambda: graphc.Net("a.prototxt", weigths="b"),
        r"Net has no argument 'weigths' \(",
    ),
    (lambda: SimpleNet([], metta={}), r"'metta' \(did you mean 'meta'\?\)"),
    (lambda: SimpleNet([{"type": "convv"}, {"type": "rel"}]), r"(?s)'conv'.*'relu'"),
    (lambda: SimpleNet([3]), "a list of dicts"),
    (lambda: SimpleNet(None), "a list of dicts"),
    (lambda: SimpleNet([{"type": "relu", "leak": "a"}]), "'leak' is made of numbers"),
    (lambda: SimpleNet([{"type": "dropout", "rate": [1, 2]}]), "'rate' is one number, not 2"),
    (lambda: SimpleNet([{"type": "pool", "pool": 2, "method": 3}]), "text such as 'max'"),
    (lambda: simplenn(SimpleNet([{"type": "relu"}]), X, conserveMemory=1), "'conserve_memory'"),
    (lambda: simplenn(3, X), "not int"),
    (lambda: vl.conv(X, X, None, strides=2), r"conv has no argument 'strides' \(did you mean"),
    (lambda: vl.conv(X), "missing a required argument: 'w'"),
    (lambda: vl.relu(X, leak="a"), "leak is one number, not 'a'"),
    (lambda: vl.pdist(X, X, p="q"), "p is one number"),
    (lambda: vl.bnorm(X, X[0, 0, :, 0], X[0, 0, :, 0], epsilon="q"), "epsilon is one number"),
    (lambda: vl.convt(X, X, None, numGroups=1.5), "numGroups is made of whole numbers"),
    (lambda: vl.roipool(X, np.ones((5, 1)), transform="a"), "transform has no numbers"),
    (lambda: vl.normalizelp(X, p="a"), "p is one number"),
    (lambda: vl.loss(X, np.ones(5), loss="topkerror", topK="q"), "topK is one number"),
]


@pytest.mark.parametrize("number", range(len(MISTAKES)))
def test_mistakes_are_explained(number: int) -> None:
    made, said = MISTAKES[number]
    with pytest.raises(NetError, match=said):
        made()


def test_what_a_function_of_the_users_raises_is_not_hidden() -> None:
    def forward(x: np.ndarray) -> np.ndarray:
        return x + "a"

    net = DagNet()
    net.add_layer("own", graphc.dagnn.PythonBlock(forward), "x", "y")
    with pytest.raises(NetError, match=r"layer 'own' \(PythonBlock\): forward raised"):
        net.eval({"x": X})


def test_the_issue_in_words() -> None:
    net = regression()
    net.conserve_memory = False
    x = np.random.default_rng(0).standard_normal(X.shape).astype("f4")
    label = np.arange(5, dtype="f4").reshape(1, 5)
    net.eval({"drop8": x, "label": label}, {"objective": 1})
    prediction = net.vars["prediction"].value
    target = label.reshape(prediction.shape)
    np.testing.assert_allclose(net.vars["objective"].value, (prediction - target) ** 2, rtol=1e-5)
    np.testing.assert_allclose(net.vars["prediction"].der, 2 * (prediction - target), rtol=1e-5)
