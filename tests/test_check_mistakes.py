"""Mistakes that people make in gradients and kernels, and the words of `graphc.check` for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from test_cli_options import graphc as command

import graphc
from graphc.dagnn import DagNet, PythonBlock
from graphc.finite_difference import Finding
from graphc.ir.op import REGISTRY, normal
from graphc.ir.types import TensorType
from graphc.verdict import VALUES, verdict

RNG = np.random.default_rng(2)
X = RNG.standard_normal((4, 4, 3, 2))
SCALES = np.array([1.0, 2.0, 3.0]).reshape(1, 1, 3, 1)


def found(forward: Callable[..., Any], backward: Callable[..., Any], *more: np.ndarray) -> Finding:
    """What is said about x in a layer of plain functions."""
    names = ["x", "t"][: 1 + len(more)]
    net = DagNet()
    net.add_layer("own", PythonBlock(forward, backward), names, "y")
    arrays = dict(zip(names, [X, *more], strict=True))
    findings = graphc.check(net, arrays, samples=40)
    return next(f for f in findings if (f.layer, f.name) == ("own", "x"))


def cubes(x: np.ndarray) -> np.ndarray:
    return x**3 + x


MISTAKES = {
    "right": (cubes, lambda dy, x: dy * (3 * x**2 + 1), ""),
    "sign": (cubes, lambda dy, x: -dy * (3 * x**2 + 1), "of the wrong sign everywhere"),
    "factor": (cubes, lambda dy, x: dy * (1.5 * x**2 + 0.5), "2.0 times too small everywhere"),
    "twice": (cubes, lambda dy, x: dy * (6 * x**2 + 2), "2.0 times too large everywhere"),
    "missing term": (cubes, lambda dy, x: dy * 3 * x**2, "wrong everywhere"),
    "forgotten": (cubes, lambda dy, x: 0 * dy, "zero everywhere, though the function changes"),
    "no chain rule": (cubes, lambda dy, x: 3 * x**2 + 1, "wrong everywhere"),
    "a class each": (
        lambda x: x**2 * SCALES,
        lambda dy, x: dy * 2 * x,
        "scaled wrongly along axis 2: 2.0 times too small at 1, 3.0 times too small at 2",
    ),
    "constant": (
        lambda x: (x**2 + x).sum(),
        lambda dy, x: dy * 2 * x,
        "too small by",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_words_for_a_callback(name: str) -> None:
    forward, backward, said = MISTAKES[name]
    if name == "constant":
        block = PythonBlock(forward, backward, lambda size: (1, 1, 1, 1))
        net = DagNet()
        net.add_layer("own", block, "x", "y")
        finding = graphc.check(net, {"x": X}, samples=40)[0]
    else:
        finding = found(forward, backward)
    assert finding.words.startswith(said)
    assert finding.failed == bool(said)


class Product(graphc.Op):
    """x times the transpose of w, element by element."""

    def infer(self, x: TensorType, w: TensorType) -> TensorType:
        return x

    def reference(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        return x * w.T

    def kernel(self, k: Any, x: Any, w: Any, y: Any) -> None:
        i, j = k.each(*x.shape)
        y[i, j] = x[i, j] * w[j, i]

    @classmethod
    def examples(cls) -> Iterator[graphc.Example]:
        yield graphc.Example(cls(), normal(4, 4), normal(4, 4))


def variant(name: str, **methods: Any) -> type[graphc.Op]:
    """An operator like Product with other methods."""
    REGISTRY.pop(name, None)
    made = type(name.title().replace("_", ""), (Product,), {"__doc__": "One.", **methods})
    return graphc.operator(made)


@pytest.fixture(autouse=True)
def forget_operators() -> Iterator[None]:
    known = set(REGISTRY)
    yield
    for name in set(REGISTRY) - known:
        del REGISTRY[name]


def transposed(x: Any) -> Any:
    from graphc.ir.core.axes import Transpose

    return Transpose((1, 0))(x)


def right_gradient(self: Any, dy: Any, y: Any, x: Any, w: Any) -> Any:
    return dy * transposed(w), transposed(dy * x)


def words(cls: type[graphc.Op]) -> dict[tuple[str, str], str]:
    return {(f.what, f.name): f.words for f in graphc.check(cls, samples=40)}


def test_a_right_operator() -> None:
    right = words(variant("right_product", gradient=right_gradient))
    assert right == dict.fromkeys([("value", "y"), ("gradient", "x"), ("gradient", "w")], "")


def test_a_transposed_gradient() -> None:
    def gradient(self: Any, dy: Any, y: Any, x: Any, w: Any) -> Any:
        return dy * transposed(w), dy * x

    told = words(variant("turned_product", gradient=gradient))
    assert told["gradient", "w"] == "transposed: it is right with its last two axes exchanged"
    assert told["gradient", "x"] == ""


REFERENCES = {
    "half": (lambda self, x, w: 2 * x * w.T, "2.0 times too small everywhere"),
    "sign": (lambda self, x, w: -x * w.T, "of the wrong sign everywhere"),
    "offset": (lambda self, x, w: x * w.T + 0.25, "too small by 0.25 everywhere"),
    "rows": (
        lambda self, x, w: x * w.T * np.arange(1, 5)[:, None],
        "scaled wrongly along axis 0: 2.0 times too small at 1, 3.0 times too small at 2,"
        " 4.0 times too small at 3",
    ),
    "one": (
        lambda self, x, w: np.where(np.indices(x.shape).sum(0) == 0, 7.0, x * w.T),
        "times too small at 1 of 16 elements",
    ),
    "nothing": (lambda self, x, w: 0 * x, "not zero everywhere, where the reference is"),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_a_kernel_that_is_not_its_reference(name: str) -> None:
    reference, said = REFERENCES[name]
    cls = variant(f"{name}_product", gradient=right_gradient, reference=reference)
    finding = graphc.check(cls)[0]
    assert (finding.what, finding.name, finding.status) == ("value", "y", "wrong")
    assert said in finding.words
    assert "the value of y is" in str(finding)
    assert "the reference gives" in str(finding)


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        (lambda self, x, w: x[:2], r"the shape \[2, 4\], its kernel \[4, 4\]"),
        (lambda self, x, w: (x, w), "gives 2 arrays, 1 come out"),
        (lambda self, x, w: x.nothing, "raised AttributeError"),
    ],
)
def test_a_reference_that_is_wrong_itself(reference: Any, said: str) -> None:
    cls = variant("odd_product", gradient=right_gradient, reference=reference)
    with pytest.raises(graphc.NetError, match=said):
        graphc.check(cls)


def test_numbers_that_are_not_finite() -> None:
    assert verdict([(np.inf, 1.0)], wording=VALUES) == "not finite, or not there"


FILE = '''
import graphc
from graphc.ir.op import normal


@graphc.operator
class FileSquare(graphc.Op):
    """x^2, whose kernel forgets to square."""

    def infer(self, x):
        return x

    def reference(self, x):
        return x * x

    def gradient(self, dy, y, x):
        return dy

    def kernel(self, k, x, y):
        i, j = k.each(*x.shape)
        y[i, j] = x[i, j]

    @classmethod
    def examples(cls):
        yield graphc.Example(cls(), normal(2, 3))
'''


def test_the_command_says_it_too(tmp_path: Any) -> None:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    result = command("check", path)
    assert result.exit_code == 1, result.output
    assert "y (value)" in result.stdout
    assert "file_square: the value of y is wrong everywhere" in result.stdout
    assert "1 of 2" in result.stdout
