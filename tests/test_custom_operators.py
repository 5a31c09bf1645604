"""Operators and callbacks of the user's own, and what `graphc.check` says about their gradients."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_cli_options import graphc

import graphc as package
from graphc.dagnn import Block, Conv, DagNet, PythonBlock
from graphc.error import NetError
from graphc.finite_difference import Finding
from graphc.ir.core.elementwise import Times
from graphc.ir.op import REGISTRY, classes, normal
from graphc.ir.types import TensorType
from graphc.simple_net import Result, SimpleNet
from graphc.verdict import verdict

JUMPS = "zero almost everywhere and wrong at jumps: not differentiable"
RNG = np.random.default_rng(11)
ROOT = Path(__file__).resolve().parent.parent


@package.operator
class SmoothDistance(package.Op):
    """sqrt((x - t)^2 + width^2): a kernel, and nothing about its gradient."""

    width: float = 1.0

    def infer(self, x: TensorType, t: TensorType) -> TensorType:
        return x

    def kernel(self, k: Any, x: Any, t: Any, y: Any) -> None:
        i = k.each(*x.shape)
        d = k.let(x[*i] - t[*i])
        y[*i] = k.sqrt(d * d + self.width * self.width)

    @classmethod
    def examples(cls) -> Iterator[package.Example]:
        yield package.Example(cls(), normal(2, 3), normal(2, 3))
        yield package.Example(cls(0.5), normal(4), normal(4))


@package.operator
class ForgottenFactor(package.Op):
    """(x - t)^2, whose derivative lacks the factor 2."""

    def infer(self, x: TensorType, t: TensorType) -> TensorType:
        return x

    def gradient(self, dy: Any, y: Any, x: Any, t: Any) -> Any:
        d = dy * (x + Times(-1.0)(t))
        return d, Times(-1.0)(d)

    def kernel(self, k: Any, x: Any, t: Any, y: Any) -> None:
        i = k.each(*x.shape)
        d = k.let(x[*i] - t[*i])
        y[*i] = d * d

    @classmethod
    def examples(cls) -> Iterator[package.Example]:
        yield package.Example(cls(), normal(2, 3), normal(2, 3))


@package.operator
class Misses(package.Op):
    """1 for each row whose largest score is not at its label."""

    def infer(self, x: TensorType, label: TensorType) -> TensorType:
        return label

    def kernel(self, k: Any, x: Any, label: Any, y: Any) -> None:
        (n,) = k.each(x.shape[0])
        c = k.axis(x.shape[1])
        _, found = k.argmax(c, x[n, c], k.cast(c, x.dtype))
        y[n] = k.select(k.equal(found, label[n]), k.number(0.0, x.dtype), 1.0)

    @classmethod
    def examples(cls) -> Iterator[package.Example]:
        yield package.Example(cls(), normal(5, 3), classes(3, 5))


@package.operator
class Neighbours(package.Op):
    """x[i] + x[i - 1], round about: not elementwise."""

    def infer(self, x: TensorType) -> TensorType:
        return x

    def kernel(self, k: Any, x: Any, y: Any) -> None:
        (i,) = k.each(x.shape[0])
        y[i] = x[i] + x[(i + (x.shape[0] - 1)) % x.shape[0]]

    @classmethod
    def examples(cls) -> Iterator[package.Example]:
        yield package.Example(cls(), normal(5))


# In the table only while this file's tests run: others walk the whole table.
OWN = {
    name: REGISTRY.pop(name)
    for name in ("smooth_distance", "forgotten_factor", "misses", "neighbours")
}


@pytest.fixture(autouse=True)
def own_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, kind in OWN.items():
        monkeypatch.setitem(REGISTRY, name, kind)


def words(findings: list[Finding]) -> dict[str, str]:
    return {finding.name: finding.words or finding.status for finding in findings}


# -- operators ------------------------------------------------------------------------------------


def test_a_gradient_is_derived_from_an_elementwise_kernel() -> None:
    x, t = RNG.standard_normal((2, 3, 4, 5)), RNG.standard_normal((2, 3, 4, 5))
    dy = RNG.standard_normal(x.shape)
    net = DagNet()
    net.conserve_memory = False
    net.add_layer("distance", SmoothDistance(0.5), ("x", "t"), "y")
    net.eval({"x": x, "t": t}, {"y": dy})
    y = np.sqrt((x - t) ** 2 + 0.25)
    np.testing.assert_allclose(net.vars["y"].value, y, rtol=1e-12)
    np.testing.assert_allclose(net.vars["x"].der, dy * (x - t) / y, rtol=1e-12)
    np.testing.assert_allclose(net.vars["t"].der, -dy * (x - t) / y, rtol=1e-12)


def test_a_block_may_apply_operators() -> None:
    class Halved(Block):
        def build(self, x: Any, params: Any, around: Any) -> Any:
            return Times(0.5)(SmoothDistance()(x[0], x[1]))

    net = DagNet()
    net.add_layer("fc", Conv(size=(1, 1, 3, 2)), "input", "prediction", ("f", "b"))
    net.add_layer("loss", Halved(), ("prediction", "label"), "objective")
    net.init_params(seed=1)
    x = RNG.standard_normal((1, 1, 3, 4)).astype("float32")
    t = RNG.standard_normal((1, 1, 2, 4)).astype("float32")
    net.eval({"input": x, "label": t}, {"objective": 1})
    prediction = np.einsum("hwco,hwcn->on", net.params["f"].value, x)
    d = prediction - t[0, 0]
    slope = 0.5 * d / np.sqrt(d**2 + 1)
    expected = np.einsum("on,hwcn->hwco", slope, x)
    np.testing.assert_allclose(net.params["f"].der, expected, rtol=1e-4, atol=1e-5)


def test_a_kernel_that_is_not_elementwise_needs_its_gradient() -> None:
    net = DagNet()
    net.add_layer("sum", Neighbours(), "x", "y")
    x = np.zeros((1, 1, 1, 5))
    with pytest.raises(NetError, match="has 4 axes, an index has 1"):
        net.eval({"x": x})
    (finding,) = package.check(Neighbours)
    assert finding.status == "no gradient"
    assert "not at the place it writes" in finding.reason


def test_operators_cannot_take_a_name_that_is_there() -> None:
    with pytest.raises(NetError, match="two operators are called 'relu'"):

        @package.operator
        class Relu(package.Op):
            """Another one."""


def test_a_method_that_is_missing_is_named() -> None:
    @package.operator
    class Nothing(package.Op):
        """Says nothing."""

    try:
        net = DagNet()
        net.add_layer("a", Nothing(), "x", "y")
        with pytest.raises(NetError, match=r"layer 'a'.*'nothing' does not say its 'infer'"):
            net.eval({"x": np.zeros((1, 1, 1, 1))})
        with pytest.raises(NetError, match="gives no examples"):
            package.check(Nothing)
    finally:
        del REGISTRY["nothing"]


# -- Python callbacks -----------------------------------------------------------------------------


def test_python_functions_in_the_middle_of_a_net() -> None:
    net = DagNet()
    net.conserve_memory = False
    net.add_layer("fc", Conv(size=(1, 1, 3, 2), has_bias=False), "x", "a", "f")
    cube = PythonBlock(lambda a: a**3, lambda dy, a: dy * 3 * a**2)
    net.add_layer("cube", cube, "a", "b")
    pick = PythonBlock(
        lambda b, w: (b * w).sum(axis=2, keepdims=True),
        lambda dy, b, w: (dy * w, (dy * b).sum(axis=(0, 1, 3), keepdims=True)),
        size=lambda b, w: (*b[:2], 1, b[3]),
    )
    net.add_layer("pick", pick, "b", "c", "w")
    net.init_params(seed=2)
    net.params["f"].value = net.params["f"].value.astype("float64")
    net.params["w"].value = RNG.standard_normal((1, 1, 2, 1))
    x = RNG.standard_normal((2, 3, 3, 4))
    net.eval({"x": x}, {"c": 1})
    a = np.einsum("hwcn,co->hwon", x, net.params["f"].value[0, 0])
    w = net.params["w"].value
    np.testing.assert_allclose(net.vars["c"].value, (a**3 * w).sum(2, keepdims=True), rtol=1e-10)
    np.testing.assert_allclose(net.vars["a"].der, 3 * a**2 * w, rtol=1e-10)
    np.testing.assert_allclose(net.params["w"].der, (a**3).sum((0, 1, 3), keepdims=True), rtol=1e-9)
    assert not any(finding.failed for finding in package.check(net, {"x": x}))


def test_what_callbacks_do_wrong_is_told_with_the_layer() -> None:
    def broken(x: np.ndarray) -> np.ndarray:
        raise KeyError("lost")

    for forward, said in [
        (broken, "layer 'mine' .*forward raised KeyError: 'lost'"),
        (lambda x: x[:1], "layer 'mine' .*has the size"),
        (lambda x: "text", "layer 'mine' .*must be an array of real numbers"),
    ]:
        net = DagNet()
        net.add_layer("mine", PythonBlock(forward), "x", "y")
        with pytest.raises(NetError, match=said):
            net.eval({"x": np.ones((2, 2, 1, 1))})
    net = DagNet()
    net.add_layer("mine", PythonBlock(lambda x: x), "x", "y")
    with pytest.raises(NetError, match="no function 'backward'"):
        net.eval({"x": np.ones((2, 2, 1, 1))}, {"y": 1})


# -- check ----------------------------------------------------------------------------------------


def test_check_says_what_is_wrong_with_an_operator() -> None:
    assert words(package.check(SmoothDistance)) == {"x": "right", "t": "right"}
    found = package.check(ForgottenFactor)
    assert words(found) == dict.fromkeys(("x", "t"), "2.0 times too small everywhere")
    assert "the gradient of x is 2.0 times too small everywhere; at [" in str(found[0])
    assert words(package.check(Misses)) == {"x": JUMPS}
    given = [RNG.standard_normal((2, 2)), RNG.standard_normal((2, 2))]
    assert words(package.check(SmoothDistance(3.0), given)) == {"x": "right", "t": "right"}


def test_check_says_what_is_wrong_in_a_dagnn_net() -> None:
    net = DagNet()
    net.add_layer("fc", Conv(size=(1, 1, 3, 2)), "input", "prediction", ("f", "b"))
    net.add_layer("loss", ForgottenFactor(), ("prediction", "label"), "objective")
    net.init_params(seed=1)
    x, t = RNG.standard_normal((1, 1, 3, 4)), RNG.standard_normal((1, 1, 2, 4))
    found = {(f.layer, f.name): f for f in package.check(net, {"input": x, "label": t})}
    assert found["fc", "f"].status == "right"
    assert found["loss", "prediction"].words == "2.0 times too small everywhere"
    assert found["(whole net)", "f"].words == "2.0 times too small everywhere"


def test_check_says_what_is_wrong_in_a_custom_layer() -> None:
    target = RNG.standard_normal((2, 2, 3, 2))

    def square(layer: Any, before: Result, after: Result) -> Result:
        after.x = np.sum((before.x - target) ** 2)
        return after

    def half(layer: Any, before: Result, after: Result) -> Result:
        before.dzdx = after.dzdx * (before.x - target)
        return before

    def errors(layer: Any, before: Result, after: Result) -> Result:
        after.x = np.sum(before.x.argmax(axis=2) != target.argmax(axis=2))
        return after

    def nothing(layer: Any, before: Result, after: Result) -> Result:
        before.dzdx = np.zeros_like(before.x)
        return before

    first = {"type": "sigmoid", "name": "first"}
    for forward, backward, said in [
        (square, half, "2.0 times too small everywhere"),
        (errors, nothing, JUMPS),
    ]:
        last = {"type": "custom", "name": "loss", "forward": forward, "backward": backward}
        found = package.check(SimpleNet([first, last]), RNG.standard_normal((2, 2, 3, 2)))
        told = {f.layer: f.words for f in found}
        assert told == {"first": "", "loss": said, "(whole net)": said}


LAYERS = '''
import numpy as np


class Half:
    """The squared distance with half its gradient."""

    def setup(self, bottom, top): pass
    def reshape(self, bottom, top): top[0].reshape()
    def forward(self, bottom, top):
        top[0].data[...] = ((bottom[0].data - bottom[1].data) ** 2).sum()
    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = top[0].diff * (bottom[0].data - bottom[1].data)
        bottom[1].diff[...] = -bottom[0].diff


class Errors(Half):
    def forward(self, bottom, top):
        top[0].data[...] = (bottom[0].data.argmax(1) != bottom[1].data.argmax(1)).sum()
    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = bottom[1].diff[...] = 0
'''

NET = """
force_backward: true
input: "x" input_shape { dim: 4 dim: 3 }
input: "t" input_shape { dim: 4 dim: 3 }
layer { name: "act" type: "TanH" bottom: "x" top: "act" }
layer { name: "loss" type: "Python" bottom: "act" bottom: "t" top: "loss" loss_weight: 1
  python_param { module: "mine" layer: "NAME" } }
"""


@pytest.mark.parametrize(
    ("name", "said"), [("Half", "2.0 times too small everywhere"), ("Errors", JUMPS)]
)
def test_check_says_what_is_wrong_in_a_python_layer(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "mine.py").write_text(LAYERS)
    (tmp_path / "net.prototxt").write_text(NET.replace("NAME", name))
    result = graphc("check", tmp_path / "net.prototxt", "--json")
    assert result.exit_code == 1, result.output
    rows = {(r["layer"], r["name"]): r for r in json.loads(result.stdout)["findings"]}
    assert rows["act", "x"]["status"] == "right"
    assert rows["loss", "act"]["words"] == said
    assert rows["(whole net)", "x"]["words"] == said
    text = graphc("check", tmp_path / "net.prototxt")
    assert f"loss: the gradient of act is {said}" in text.stdout


OPERATORS = '''
import graphc
from graphc.ir.op import normal


@graphc.operator
class UserCube(graphc.Map):
    """x^3."""

    def scalar(self, k, x):
        return x * x * x
WRONG
    @classmethod
    def examples(cls):
        yield graphc.Example(cls(), normal(2, 3))
'''
WRONG = """
    def derivative(self, k, wrt, y, x):
        return x * x * -3.0
"""


def test_check_of_a_file_of_operators(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    try:
        path.write_text(OPERATORS.replace("WRONG", ""))
        right = graphc("check", path)
        assert right.exit_code == 0, right.output
        path.write_text(OPERATORS.replace("WRONG", WRONG))
        wrong = graphc("check", path)
        assert wrong.exit_code == 1, wrong.output
        assert "user_cube: the gradient of x is of the wrong sign everywhere" in wrong.stdout
    finally:
        REGISTRY.pop("user_cube", None)
    path.write_text("nothing = 1\n")
    empty = graphc("check", path)
    assert empty.exit_code == 3
    assert "defines no operator" in empty.stderr
    path.write_text("import nothing_like_that\n")
    assert "ModuleNotFoundError" in graphc("check", path).stderr
    assert graphc("check", tmp_path / "absent.py").exit_code == 3


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([(1, 2), (3, 6), (0, 0)], "2.0 times too small everywhere"),
        ([(3, 1), (6, 2)], "3.0 times too large everywhere"),
        ([(1, -1), (-2, 2)], "of the wrong sign everywhere"),
        ([(1, -4), (-2, 8)], "of the wrong sign and 4.0 times too small everywhere"),
        ([(1, 1), (2, 4), (1, 2)], "2.0 times too small at 2 of 3 elements"),
        ([(0, 1), (0, 3)], "zero everywhere, though the function changes there"),
        ([(2, 0), (1, 0)], "not zero everywhere, though the function does not change there"),
        ([(2, 1), (5, 4)], "too large by 1.0 everywhere"),
        ([(1, 2), (1, 5), (2, -1)], "wrong everywhere"),
        ([(float("nan"), 1)], "not finite, or that of a function which is not"),
    ],
)
def test_verdicts(pairs: list[tuple[float, float]], said: str) -> None:
    assert verdict(pairs) == said


def test_a_kink_is_no_jump() -> None:
    class Dead(Block):
        def build(self, x: Any, params: Any, around: Any) -> Any:
            return REGISTRY["relu"]()(x[0])

    net = DagNet()
    net.add_layer("relu", Dead(), "x", "y")
    x = -1 - RNG.random((2, 2, 1, 1))
    assert {f.status for f in package.check(net, {"x": x})} == {"right"}


# -- what the README shows ------------------------------------------------------------------------


def test_the_readme_shows_a_real_operator() -> None:
    readme = (ROOT / "README.md").read_text()
    (path,) = re.findall(r"^is `(graphc/ops/\w+\.py)`, whole:$", readme, re.MULTILINE)
    assert f"```python\n{(ROOT / path).read_text()}```" in readme


def test_the_readme_operator_of_ones_own_works() -> None:
    readme = (ROOT / "README.md").read_text()
    (text,) = re.findall(r"```python\n(import graphc\nfrom .*?)```", readme, re.DOTALL)
    scope: dict[str, Any] = {"__name__": "readme"}
    try:
        exec(text, scope)
        net = scope["net"]
        x, t = RNG.standard_normal((1, 1, 2, 3)), RNG.standard_normal((1, 1, 2, 3))
        net.eval({"prediction": x, "label": t}, {"objective": 1})
        np.testing.assert_allclose(net.vars["prediction"].der, 2 * (x - t), rtol=1e-12)
    finally:
        REGISTRY.pop("squared", None)
