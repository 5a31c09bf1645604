"""Relu behind max pooling: the same values and gradients, and the declared facts it rests on."""

from __future__ import annotations

import numpy as np
import pytest

import graphc.ops  # noqa: F401  (enters all operators in the table)
from graphc.ir.graph import Graph, Origin
from graphc.ir.op import REGISTRY, Example
from graphc.ir.reference import evaluate
from graphc.ir.types import TensorType
from graphc.ops.neuron import Relu
from graphc.ops.pool import MaxPool
from graphc.passes.backward import backward
from graphc.passes.commute import commute

POOL = MaxPool(size=(3, 3), strides=(2, 2), pads=((0, 1), (0, 1)), output=(4, 4))
IMAGE = TensorType("float64", (2, 3, 8, 8))


def net(slope: float = 0.0) -> Graph:
    graph = Graph("net")
    x = graph.input("x", IMAGE)
    (y,) = graph.apply(Relu(slope), x, names=["y"], origin=Origin("relu", "ReLU"))
    z, _ = graph.apply(POOL, y, names=["z"], origin=Origin("pool", "Pooling"))
    graph.blobs = {"x": x, "y": y, "z": z}
    graph.outputs = {"z": z}
    return graph


def operators(graph: Graph) -> list[str]:
    return [node.op.op_name for node in graph.nodes]


def gradients(graph: Graph, x: np.ndarray, dz: np.ndarray) -> dict[str, np.ndarray]:
    return evaluate(backward(graph, wrt=["x"], given=["z"]), {"x": x, "z.diff": dz})


@pytest.mark.parametrize("slope", [0.0, 0.1])
def test_values_and_gradients_stay(slope: float) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(IMAGE.shape) - 0.7  # many windows wholly below zero
    dz = rng.standard_normal((2, 3, 4, 4))
    before = gradients(net(slope), x, dz)
    after = gradients(commute(net(slope)), x, dz)
    assert operators(commute(net(slope))) == (["max_pool", "relu"] if slope else ["max_pool"])
    assert np.array_equal(before["z"], after["z"])
    # A slope other than 0 and 1 multiplies before or after gradients of a pixel are added.
    np.testing.assert_allclose(after["x.diff"], before["x.diff"], rtol=1e-13, atol=0)


def test_backward_no_longer_reads_the_large_image() -> None:
    graph = backward(commute(net()), wrt=["x"], given=["z"])
    large = [v for v in graph.values.values() if v.shape == IMAGE.shape and v.name != "x.diff"]
    late = {v for n in graph.nodes if n.origin.backward for v in n.inputs}
    assert not [v.name for v in large if v in late]
    assert [v.type.dtype for v in late if v.name != "z.diff"] == ["uint8"]


def pooled_first(*extra: str) -> Graph:
    """Relu behind the pooling from the start; `extra` results are outputs too."""
    graph = Graph("net")
    x = graph.input("x", IMAGE)
    p, index = graph.apply(POOL, x, names=["p"], origin=Origin("pool", "Pooling"))
    (z,) = graph.apply(Relu(), p, names=["z"], origin=Origin("relu", "ReLU"))
    graph.blobs = {"x": x, "p": p, "z": z}
    graph.outputs = {"z": z} | {name: {"p": p, "index": index}[name] for name in extra}
    return graph


def test_relu_behind_pooling_is_done_by_it() -> None:
    rng = np.random.default_rng(3)
    x, dz = rng.standard_normal(IMAGE.shape) - 0.7, rng.standard_normal((2, 3, 4, 4))
    made = commute(pooled_first())
    assert operators(made) == ["max_pool"] and made.nodes[0].op.fields()["rectified"]
    before, after = gradients(pooled_first(), x, dz), gradients(made, x, dz)
    assert np.array_equal(before["z"], after["z"])
    assert np.array_equal(before["x.diff"], after["x.diff"])
    sentences = {r.subject: r.sentence for r in made.remarks}
    assert "keep='p'" in sentences["blob:p"] and "pool itself" in sentences["layer:relu"]


@pytest.mark.parametrize("name", ["p", "index"])
def test_relu_stays_where_the_pooled_image_or_its_positions_are_read(name: str) -> None:
    assert operators(commute(pooled_first(name))) == ["max_pool", "relu"]
    assert operators(commute(pooled_first(), ["p"])) == ["max_pool", "relu"]


def test_stays_where_somebody_looks() -> None:
    for change in ("alive", "kept", "output", "reader"):
        graph = net()
        alive = ["y"] if change == "alive" else []
        if change == "kept":
            graph.kept.add("y")
        if change == "output":
            graph.outputs["y"] = graph.blobs["y"]
        if change == "reader":
            graph.outputs["w"] = graph.blobs["y"] * 2.0
        assert operators(commute(graph, alive))[:2] == ["relu", "max_pool"], change


def test_a_falling_function_stays() -> None:
    assert operators(commute(net(-0.5))) == ["relu", "max_pool"]


def test_the_missing_blob_is_explained() -> None:
    sentences = {r.subject: r.sentence for r in commute(net()).remarks}
    assert "keep='y'" in sentences["blob:y"]


def examples(fact: str) -> list[Example]:
    found = []
    for made in REGISTRY.values():
        found += [e for e in made.examples() if getattr(e.op, fact)()]
    return found


@pytest.mark.parametrize("example", examples("keeps_order"), ids=lambda e: str(e.op))
def test_operators_that_keep_order_do(example: Example) -> None:
    """More input, no less output; and no slope where two inputs give one output."""
    x = np.sort(np.random.default_rng(1).standard_normal(200) * 2)
    y = example.op.reference(x)
    assert (np.diff(y) >= 0).all()
    graph = Graph()
    value = graph.input("x", TensorType("float64", x.shape))
    graph.outputs = graph.blobs = {"x": value, "y": example.op(value)}
    slope = evaluate(backward(graph, wrt=["x"], given=["y"]), {"x": x, "y.diff": np.ones(x.shape)})[
        "x.diff"
    ]
    tied = np.r_[False, np.diff(y) == 0] | np.r_[np.diff(y) == 0, False]
    assert not slope[tied].any()


@pytest.mark.parametrize("example", examples("selects"), ids=lambda e: str(e.op))
def test_operators_that_select_do(example: Example) -> None:
    """Any increasing function may be applied before or after, and every result is an element."""
    rng = np.random.default_rng(2)
    (sample,) = example.inputs
    x = sample.draw(rng)

    def bend(a: np.ndarray) -> np.ndarray:
        return np.arctan(a) ** 3 + 2 * a

    chosen = example.op.reference(x)[0]
    assert np.array_equal(example.op.reference(bend(x))[0], bend(chosen))
    assert np.isin(chosen, x).all()


@pytest.mark.parametrize(
    "example",
    [e for e in examples("selects") if e.op.followed_by(Relu())],
    ids=lambda e: str(e.op),
)
def test_operators_that_rectify_do(example: Example) -> None:
    """As relu behind them; further outputs are out of range exactly where that is 0."""
    made = example.op.followed_by(Relu())
    assert made is not None and made.followed_by(Relu(0.1)) is None
    (sample,) = example.inputs
    x = sample.draw(np.random.default_rng(5))
    x -= np.median(x)
    chosen, index = example.op.reference(x)
    rectified, position = made.reference(x)
    assert np.array_equal(rectified, np.maximum(chosen, 0))
    nowhere = int(np.prod(made.fields()["size"]))
    assert np.array_equal(position, np.where(chosen > 0, index, nowhere))
    assert position.dtype == made.infer(TensorType("float64", x.shape))[1].dtype


def test_the_facts_are_declared_somewhere() -> None:
    assert examples("keeps_order") and examples("selects")
