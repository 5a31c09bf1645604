"""Cleaning keeps the meaning and reaches the canonical form; fusion keeps it too."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.ir.core.axes import Broadcast, Mean, Sum, Transpose
from graphc.ir.core.elementwise import Add, Cast, Copy, Multiply, Shift, StopGradient, Times
from graphc.ir.core.fill import Fill, fill
from graphc.ir.core.view import View
from graphc.ir.graph import Graph, Origin, Value
from graphc.ir.reference import evaluate
from graphc.ir.types import TensorType
from graphc.ir.verify import verify
from graphc.passes.clean import clean, without_dead


def start(*shape: int) -> tuple[Graph, Value]:
    graph = Graph()
    return graph, graph.input("x", TensorType("float64", shape))


def names(graph: Graph) -> list[str]:
    return [node.op.op_name for node in graph.nodes]


def cleaned(graph: Graph, **inputs: np.ndarray) -> Graph:
    """The cleaned graph, verified, and equal in value on `inputs` (random where none is given)."""
    rng = np.random.default_rng(5)
    arrays = {v.name: inputs.get(v.name, rng.standard_normal(v.shape)) for v in graph.inputs()}
    made = clean(graph)
    verify(made)
    before, after = evaluate(graph, arrays), evaluate(made, arrays)
    for name in graph.outputs:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-12, err_msg=name)
    return made


def test_identities_go_and_the_blob_keeps_its_name():
    graph, x = start(2, 3)
    relu, drop = Origin("relu6", "ReLU"), Origin("drop6", "Dropout")
    (first,) = graph.apply(Times(2.0), x, names=["fc6:relu6"], origin=relu)
    (second,) = graph.apply(Copy(), first, names=["fc6"], origin=drop)
    graph.blobs["fc6"] = second
    graph.outputs["fc6"] = second
    made = cleaned(graph)
    assert names(made) == ["times"]
    assert made.blobs["fc6"].name == "fc6"
    assert any(r.subject == "layer:drop6" for r in made.remarks)


def test_stop_gradient_stays_until_it_is_released():
    graph, x = start(3)
    graph.outputs["y"] = StopGradient()(x) * 2.0
    assert names(cleaned(graph)) == ["stop_gradient", "times"]
    assert names(clean(graph, release_stops=True)) == ["times"]


def test_views_join_and_views_of_the_same_shape_go():
    graph, x = start(2, 3, 4)
    graph.outputs["y"] = View((4, 6))(View((24,))(View((6, 4))(x)))
    graph.outputs["z"] = View((2, 3, 4))(View((24,))(x)) * 2.0
    made = cleaned(graph)
    assert names(made) == ["view", "times"]


def test_transposes_join_and_those_that_move_nothing_are_views():
    graph, x = start(2, 3, 1, 4)
    graph.outputs["same"] = Transpose((0, 3, 1, 2))(Transpose((0, 2, 3, 1))(x)) * 3.0
    graph.outputs["one"] = Transpose((2, 0, 1, 3))(x)
    graph.outputs["moved"] = Transpose((1, 0, 2, 3))(Transpose((1, 0, 3, 2))(x))
    made = cleaned(graph)
    assert names(made) == ["times", "view", "view"]


def test_equal_operators_are_computed_once():
    graph, x = start(3)
    graph.outputs["y"] = Sum((0,))(x * 2.0) + Sum((0,))(x * 2.0)
    made = cleaned(graph)
    assert names(made) == ["times", "sum", "add"]


def test_zero_and_minus_zero_are_not_equal():
    graph, x = start(2)
    graph.outputs["plus"] = x * 0.0
    graph.outputs["minus"] = x * -0.0
    made = clean(graph)
    found = evaluate(made, {"x": np.ones(2)})
    assert np.signbit(found["minus"]).all()
    assert not np.signbit(found["plus"]).any()


def test_blobs_whose_gradient_is_asked_for_stay_apart():
    graph, x = start(2, 3)
    for name in ("a", "b"):
        graph.blobs[name] = x * 2.0
    graph.blobs["same"] = Copy()(graph.blobs["a"])
    graph.blobs["flat"] = View((6,))(graph.blobs["same"])
    graph.outputs["y"] = View((3, 2))(graph.blobs["flat"]) * 3.0
    graph.outputs["z"] = graph.blobs["b"] * 3.0
    made = clean(graph)
    assert made.blobs["a"] is made.blobs["b"] is made.blobs["same"]
    assert made.bypassed == {"a", "b", "same", "flat"}
    asked = ["b", "same", "flat"]
    made = clean(graph, alive=asked, apart=asked)
    assert names(made) == ["times", "times", "copy", "view", "view", "times", "times"]
    assert made.producer(made.outputs["z"]).inputs == (made.blobs["b"],)
    assert not made.bypassed
    assert names(clean(made)) == ["times", "view", "times", "times"]


def test_dead_nodes_go_and_kept_blobs_stay():
    graph, x = start(3)
    graph.blobs["a"] = x * 2.0
    graph.blobs["b"] = x * 3.0
    graph.blobs["c"] = x * 4.0
    graph.outputs["y"] = x * 5.0
    graph.kept = {"b"}
    assert set(clean(graph).blobs) == {"b"}
    assert set(clean(graph, alive=["c"]).blobs) == {"b", "c"}


def test_without_dead_drops_only_what_it_may():
    graph, x = start(3)
    graph.outputs["y"] = x * 5.0
    unread = x * 2.0
    assert len(without_dead(graph, only=lambda n: n is not graph.producer(unread)).nodes) == 2
    assert len(without_dead(graph).nodes) == 1


def test_constants_move_through_core_operators():
    graph, x = start(2, 3)
    seed = Broadcast((2, 3), (0, 1))(fill(graph, TensorType("float64", ()), 1.0) * 0.5)
    graph.outputs["y"] = x * seed
    graph.outputs["z"] = x + Transpose((1, 0))(View((3, 2))(seed))
    graph.outputs["n"] = x * Broadcast((2, 3), (0, 1))(Sum((0, 1))(seed))
    made = cleaned(graph)
    assert [node.op for node in made.nodes] == [Times(0.5), Shift(0.5), Times(3.0)]


def test_a_constant_on_either_side_is_a_field():
    for number, (op, name) in ((3.0, (Add(), "shift")), (2.0, (Multiply(), "times"))):
        graph, x = start(2, 3)
        constant = fill(graph, x.type, number)
        graph.outputs["right"] = op(x, constant)
        graph.outputs["left"] = op(constant, x)
        assert names(cleaned(graph)) == [name]


def test_multiplying_by_one_and_adding_zero_go():
    graph, x = start(2)
    one, zero = (fill(graph, x.type, number) for number in (1.0, 0.0))
    graph.outputs["y"] = ((x * one) + zero) * 2.0
    assert names(cleaned(graph)) == ["times"]


def test_sums_and_broadcasts_over_extents_of_one_are_views():
    graph, x = start(3, 1, 2)
    graph.outputs["a"] = Sum((1,))(x)
    graph.outputs["b"] = Broadcast((3, 1, 2, 1), (3,))(x)
    graph.outputs["c"] = Mean((1,))(x)
    made = cleaned(graph)
    assert names(made) == ["view", "view"]  # a and c are the same
    assert made.outputs["a"] is made.outputs["c"]


def test_casts_to_the_same_type_go():
    graph, x = start(3)
    graph.outputs["y"] = Cast("float64")(x) * 2.0
    assert names(cleaned(graph)) == ["times"]


@st.composite
def nets(draw: st.DrawFn) -> Graph:
    """Random graphs in which much can be simplified."""
    graph = Graph()
    pool = [graph.input("x", TensorType("float64", (1, 2, 3)))]
    for _ in range(draw(st.integers(1, 10))):
        pool.append(grow(draw, graph, pool))
    for number in range(draw(st.integers(1, 3))):
        graph.outputs[f"y{number}"] = draw(st.sampled_from(pool))
    return graph


def grow(draw: st.DrawFn, graph: Graph, pool: list[Value]) -> Value:
    x = draw(st.sampled_from(pool))
    other = draw(st.sampled_from([v for v in pool if v.type == x.type]))
    axes = tuple(range(len(x.shape)))
    axis = draw(st.integers(0, len(x.shape) - 1)) if x.shape else 0
    number = draw(st.sampled_from([0.0, 1.0, -0.5, 2.0]))
    choices = [
        Copy()(x),
        Times(number)(x),
        Shift(number)(x),
        Add()(x, other),
        Multiply()(x, other),
        View(x.shape[::-1])(x),
        View((x.type.size,))(x),
        Transpose(draw(st.permutations(axes).map(tuple)))(x),
        Broadcast((1, *x.shape), (0,))(x),
        Broadcast((2, *x.shape), (0,))(x),
        graph.apply(Fill("float64", x.shape, number))[0],
    ]
    if x.shape:
        choices += [Sum((axis,))(x), Sum((axis,), keep=True)(x), Mean((axis,))(x)]
    return draw(st.sampled_from(choices))


@settings(max_examples=80, deadline=None)
@given(nets())
def test_random_graphs_keep_their_meaning(graph: Graph):
    made = cleaned(graph)
    assert names(clean(made)) == names(made)


def test_values_take_the_names_of_their_blobs_even_where_they_trade():
    graph, x = start(3)
    (a,) = graph.apply(Times(2.0), x, names=["b"])
    (b,) = graph.apply(Times(3.0), a, names=["a"])
    (c,) = graph.apply(Times(4.0), b, names=["c"])
    (last,) = graph.apply(Times(5.0), c, names=["relu"])
    graph.blobs = {"a": a, "b": b, "c": last, "x": last}
    graph.outputs["y"] = last
    made = cleaned(graph)
    assert {blob: value.name for blob, value in made.blobs.items()} == {
        "a": "a",
        "b": "b",
        "c": "c",
        "x": "c",
    }
