"""Gradients of whole graphs, against central differences in float64, and the reasons given."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.error import NetError
from graphc.ir.core.axes import Broadcast, Mean, Sum, Transpose
from graphc.ir.core.elementwise import StopGradient
from graphc.ir.core.fill import Fill, OneHot
from graphc.ir.core.view import View
from graphc.ir.graph import Graph, Origin, Value
from graphc.ir.op import Op
from graphc.ir.reference import evaluate, run, total_loss
from graphc.ir.types import TensorType
from graphc.ir.verify import verify
from graphc.passes.backward import backward
from graphc.passes.pipeline import compile_graph


def real(*shape: int) -> TensorType:
    return TensorType("float64", shape)


def random_inputs(graph: Graph, seed: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        v.name: rng.standard_normal(v.shape) if v.type.is_real else rng.integers(0, 3, v.shape)
        for v in graph.inputs()
        if v.role != "constant"
    }


def slope(graph: Graph, inputs: dict[str, np.ndarray], name: str, given: dict[str, np.ndarray]):
    """Central differences of loss + sum of given * blob, by every element of an input."""

    def objective() -> float:
        results = run(graph, inputs)
        extra = sum((results[graph.blobs[b]] * g).sum() for b, g in given.items())
        return total_loss(graph, results) + float(extra)

    result = np.zeros(inputs[name].shape)
    for index in np.ndindex(*result.shape):
        before = inputs[name][index]
        sides = []
        for step in (1e-5, -1e-5):
            inputs[name][index] = before + step
            sides.append(objective())
        inputs[name][index] = before
        result[index] = (sides[0] - sides[1]) / 2e-5
    return result


def check(
    graph: Graph, names: list[str], given: dict[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Gradients right from `backward` and after all passes; returns the latter's results."""
    given = given or {}
    inputs = random_inputs(graph)
    diffs = {f"{name}.diff": array for name, array in given.items()}
    plain = backward(graph, names, list(given))
    verify(plain)
    finished = compile_graph(graph, names, list(given)).graph
    for made in (plain, finished):
        found = evaluate(made, inputs | diffs)
        for name in names:
            wanted = slope(graph, inputs, name, given)
            np.testing.assert_allclose(
                found[f"{name}.diff"], wanted, rtol=0, atol=1e-7 * (1 + abs(wanted).max())
            )
    return found


def two_layers() -> Graph:
    """y = x * w + b with b shared over rows; h = y * y; loss = sum of h."""
    graph = Graph()
    x = graph.input("x", real(3, 4))
    w = graph.input("w", real(3, 4), "parameter")
    b = graph.input("b", real(4), "parameter")
    graph.origin = Origin("scale", "Scale")
    y = x * w + Broadcast((3, 4), (0,))(b)
    graph.origin = Origin("square", "Power")
    h = y * y
    graph.blobs = {"x": x, "y": y, "h": h}
    graph.outputs["h"] = h
    graph.losses.append((Sum((0, 1))(h), 1.0))
    return graph


def test_a_value_read_twice_by_one_node():
    check(two_layers(), ["x", "w", "b"])


def test_fan_out_to_several_readers():
    graph = Graph()
    x = graph.input("x", real(2, 3, 4))
    flat = View((6, 4))(x)
    turned = Transpose((1, 0, 2))(x)
    middle = Mean((0,))(x)
    total = Sum((0, 1))(flat * flat) + Sum((0, 1, 2))(turned * (turned + 0.5))
    other = Sum((0, 1))(middle * -3.0 * middle)
    graph.losses = [(total, 1.0), (other * Sum((0, 1))(middle), 0.5)]
    check(graph, ["x"])


def test_additions_go_from_the_last_reader_to_the_first():
    graph = Graph()
    x = graph.input("x", real(2))
    graph.losses = [(x * factor, 1.0) for factor in (1e30, -1e30, 1.0)]
    found = evaluate(backward(graph, ["x"]), {"x": np.ones(2)})
    # (1.0 + -1e30) + 1e30 is 0; the other way round it would be 1.
    assert found["x.diff"].tolist() == [0.0, 0.0]


def test_weighted_losses_and_a_loss_inside():
    graph = two_layers()
    graph.losses = [(graph.losses[0][0], 0.25), (graph.blobs["y"], -2.0)]
    check(graph, ["x", "b"])


def test_given_gradient_of_an_inner_blob_adds_to_what_arrives():
    graph = two_layers()
    check(graph, ["x", "w"], {"y": np.arange(12.0).reshape(3, 4)})


def test_given_gradient_alone_and_several_of_them():
    graph = two_layers()
    graph.losses = []
    rng = np.random.default_rng(0)
    check(graph, ["x"], {"h": rng.standard_normal((3, 4)), "y": rng.standard_normal((3, 4))})


def test_gradient_of_the_blob_it_is_given_for():
    graph = two_layers()
    graph.losses = []
    made = compile_graph(graph, ["h"], ["h"]).graph
    seed = np.arange(12.0).reshape(3, 4)
    found = evaluate(made, random_inputs(graph) | {"h.diff": seed})
    assert np.array_equal(found["h.diff"], seed)


def test_gradient_of_an_inner_blob_is_an_output_and_a_blob():
    graph = two_layers()
    made = compile_graph(graph, ["y", "x"]).graph
    inputs = random_inputs(graph)
    found = evaluate(made, inputs)
    y = evaluate(graph, inputs)["y"]
    np.testing.assert_allclose(found["y.diff"], 2 * y)
    assert made.blobs["y.diff"] is made.outputs["y.diff"]
    assert "h.diff" not in made.outputs


def test_kept_gradient_is_made_though_it_is_no_output():
    made = compile_graph(two_layers(), ["x"], keep=["y.diff"]).graph
    assert "y.diff" in made.blobs
    assert set(made.outputs) == {"h", "x.diff"}


def test_accumulated_gradients_add_to_a_state():
    graph = two_layers()
    made = compile_graph(graph, ["w", "x"], accumulate=frozenset(["w"])).graph
    assert set(made.updates) == {"w.diff"}
    assert made.values["w.diff"].role == "state"
    inputs = random_inputs(graph)
    before = np.full((3, 4), 10.0)
    found = evaluate(made, inputs | {"w.diff": before})
    np.testing.assert_allclose(found["w.diff"], 10 + slope(graph, inputs, "w", {}), atol=1e-6)


def test_frozen_parameters_cost_nothing():
    graph = two_layers()
    everything = compile_graph(graph, ["x", "w", "b"]).graph
    some = compile_graph(graph, ["x"]).graph
    assert len(some.nodes) < len(everything.nodes)
    makers = {node.op.op_name for node in some.nodes if node.origin.backward}
    assert "sum" not in makers  # only the bias needs one


def test_backward_nodes_carry_the_layer():
    made = backward(two_layers(), ["x"])
    layers = [node.origin.layer for node in made.nodes if node.origin.backward]
    assert "scale" in layers
    assert "square" in layers
    assert layers.index("square") < layers.index("scale")


def remarks(graph: Graph, subject: str) -> str:
    return "\n".join(r.sentence for r in graph.remarks if r.subject == subject)


def cut_graph() -> Graph:
    graph = Graph()
    x = graph.input("x", real(3))
    z = graph.input("z", real(3))
    n = graph.input("n", TensorType("int64", (3,)))
    unread = graph.input("unread", real(2))
    graph.origin = Origin("frozen", "InnerProduct")
    cut = StopGradient()(x * 2.0)
    graph.origin = Origin("hot", "OneHot")
    label = Sum((1,))(OneHot(1, 4)(z))
    graph.origin = Origin()
    hot = Sum((1,))(OneHot(1, 3, "float64")(n))
    graph.losses = [(cut + label + hot, 1.0)]
    graph.outputs["unread2"] = unread * 2.0
    return graph


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("x", "the path is cut by layer 'frozen' (InnerProduct)"),
        ("z", "no gradient flows through layer 'hot' (OneHot)"),
        ("n", "it holds int64, which has no gradient"),
        ("unread", "no loss and no given gradient depends on it"),
    ],
)
def test_no_gradient_is_zero_and_says_why(name: str, reason: str):
    graph = cut_graph()
    made = compile_graph(graph, [name]).graph
    found = evaluate(made, random_inputs(graph))
    assert not found[f"{name}.diff"].any()
    assert reason in remarks(made, f"blob:{name}")


def test_without_seed_every_gradient_is_zero():
    graph = two_layers()
    graph.losses = []
    made = backward(graph, ["x", "w"], accumulate=frozenset(["w"]))
    assert not evaluate(made, random_inputs(graph))["x.diff"].any()
    assert "there is no loss and no given gradient" in remarks(made, "blob:x")
    assert "stays as it is: there is no loss" in remarks(made, "w")
    assert not made.updates


def test_given_gradient_that_leads_nowhere_is_said():
    graph = cut_graph()
    graph.blobs["label"] = graph.values["unread"]
    made = backward(graph, ["x"], ["label"])
    assert "reaches nothing" in remarks(made, "blob:label")


class Rough(Op):
    """An operator without gradient."""

    op_name = "rough"

    def infer(self, x: TensorType) -> TensorType:
        return x

    def fields(self) -> dict[str, object]:
        return {}


def test_a_missing_gradient_names_the_layer():
    graph = Graph()
    x = graph.input("x", real(3))
    graph.origin = Origin("acc", "Argmax")
    y: Value = Rough()(x)
    graph.outputs["y"] = y
    graph.losses.append((y, 1.0))
    with pytest.raises(NetError, match=r"layer 'acc' \(Argmax\): a gradient is needed"):
        backward(graph, ["x"])


@pytest.mark.parametrize(
    ("wrt", "given", "message"),
    [
        (["dada"], [], "no blob, input or parameter 'dada'"),
        (["hh"], [], "did you mean 'h'"),
        (["x"], ["yy"], "no blob, input or parameter 'yy'"),
    ],
)
def test_unknown_names_are_refused(wrt: list[str], given: list[str], message: str):
    with pytest.raises(NetError, match=message):
        backward(two_layers(), wrt, given)


def test_an_integer_cannot_be_given_a_gradient():
    graph = cut_graph()
    with pytest.raises(NetError, match="'n' is int64"):
        backward(graph, ["x"], ["n"])


def test_seeds_vanish_in_the_finished_graph():
    made = compile_graph(two_layers(), ["x"]).graph
    assert not any(isinstance(node.op, Fill) for node in made.nodes)


def test_in_place_on_an_input_a_gradient_is_given_last_and_wanted_first():
    graph = Graph()
    x = graph.input("x", real(3))
    graph.blobs["x"] = x * x
    graph.outputs["x"] = graph.blobs["x"]
    made = compile_graph(graph, ["x"], ["x"]).graph
    found = evaluate(made, {"x": np.array([1.0, 2.0, 3.0]), "x.diff": np.ones(3)})
    assert found["x.diff"].tolist() == [2.0, 4.0, 6.0]


def test_a_state_is_updated_as_soon_as_its_gradient_is_complete():
    graph = two_layers()
    graph.origin = Origin("again", "Scale")
    again = graph.outputs["h"] * graph.values["w"]
    graph.losses.append((Sum((0, 1))(again), 1.0))
    made = backward(graph, ["w", "b"], accumulate=frozenset(["w", "b"]))
    update = made.producer(made.updates["w.diff"])
    assert update is not None
    assert update.origin.layer == "scale"  # where w is read first
    inputs = random_inputs(graph)
    zeros = {"w.diff": np.zeros((3, 4)), "b.diff": np.zeros(4)}
    found = evaluate(made, inputs | zeros)
    np.testing.assert_allclose(found["w.diff"], slope(graph, inputs, "w", {}), rtol=1e-6)
