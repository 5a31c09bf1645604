"""The verifier refuses every kind of broken graph; the reference executor refuses wrong inputs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from graphc.error import NetError
from graphc.ir.core.axes import Sum
from graphc.ir.graph import Graph, Value
from graphc.ir.reference import evaluate, run, total_loss
from graphc.ir.types import TensorType
from graphc.ir.verify import verify

PAIR = TensorType("float32", (2,))


def net() -> Graph:
    graph = Graph()
    x = graph.input("x", PAIR)
    n = graph.input("n", TensorType("int64", ()), "state")
    y = (x * 2.0) + x
    graph.outputs["y"] = y
    graph.blobs["y"] = y
    graph.updates["n"] = n + 1
    graph.losses = [(Sum((0,))(y), 0.5)]
    return graph


def swap(graph: Graph) -> None:
    graph.nodes[0], graph.nodes[1] = graph.nodes[1], graph.nodes[0]


def wrong_type(graph: Graph) -> None:
    graph.nodes[0].outputs[0].type = TensorType("float32", (3,))


def stranger(graph: Graph) -> None:
    graph.outputs["z"] = Value(graph, "z", PAIR)


def other_graph(graph: Graph) -> None:
    graph.blobs["z"] = net().values["x"]


def misnamed(graph: Graph) -> None:
    graph.values["x"].name = "q"


def orphan(graph: Graph) -> None:
    graph._add_value("orphan", PAIR, None)


def no_state(graph: Graph) -> None:
    graph.updates["x"] = graph.outputs["y"]


def update_type(graph: Graph) -> None:
    graph.updates["n"] = graph.outputs["y"]


def twice(graph: Graph) -> None:
    graph.nodes.append(graph.nodes[0])


def no_data(graph: Graph) -> None:
    graph.input("c", PAIR, "constant")


def lost_edge(graph: Graph) -> None:
    graph.net.remove_edge(graph.values["x"], graph.nodes[0])


def test_a_right_graph_passes():
    verify(net())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (swap, "before it is made"),
        (wrong_type, "should have the types float32\\[2\\], not float32\\[3\\]"),
        (stranger, "output 'z' is %z, which is not of this graph"),
        (other_graph, "blob 'z' is %x, which is not of this graph"),
        (misnamed, "entered under the name 'x'"),
        (orphan, "neither an input nor made by a node"),
        (no_state, "update 'x' has no state"),
        (update_type, "update 'n' makes float32"),
        (twice, "is made twice"),
        (no_data, "constant %c has no data"),
        (lost_edge, "no edge says so"),
    ],
)
def test_damage_is_found(damage: Callable[[Graph], None], message: str):
    graph = net()
    damage(graph)
    with pytest.raises(NetError, match=message):
        verify(graph)


def test_evaluate_gives_outputs_updates_and_loss():
    graph = net()
    inputs = {"x": np.array([1, 2], np.float32), "n": np.array(4)}
    found = evaluate(graph, inputs)
    assert found["y"].tolist() == [3, 6]
    assert found["n"] == 5
    assert total_loss(graph, run(graph, inputs)) == 4.5


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"x": np.zeros(2)}, "input 'n' is missing"),
        (
            {"x": np.zeros(3), "n": np.array(0)},
            "input 'x' has shape \\[3\\]; it needs float32\\[2\\]",
        ),
        ({"x": np.zeros(2), "n": np.array(0), "z": np.zeros(2)}, "no input 'z'"),
    ],
)
def test_evaluate_refuses_wrong_inputs(inputs: dict[str, np.ndarray], message: str):
    with pytest.raises(NetError, match=message):
        evaluate(net(), inputs)
