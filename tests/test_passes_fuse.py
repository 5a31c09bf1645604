"""Fusion: what is found, what is left alone and why, and that the meaning stays."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from graphc.error import NetError
from graphc.ir.core.axes import Sum
from graphc.ir.core.elementwise import Multiply
from graphc.ir.graph import Graph, Origin, Value
from graphc.ir.op import REGISTRY, Op, operator
from graphc.ir.reference import evaluate
from graphc.ir.types import TensorType
from graphc.ir.verify import verify
from graphc.ops.loss import MultinomialLogLoss, SoftmaxLogLoss
from graphc.ops.softmax import Softmax
from graphc.passes.backward import backward
from graphc.passes.fuse import fuse
from graphc.passes.pattern import rules, rules_of
from graphc.passes.pipeline import compile_graph


def pair(axis: int = 1, own_axis: int = 1) -> Graph:
    """prob = softmax(scores); loss = sum of log losses of prob."""
    graph = Graph()
    x = graph.input("scores", TensorType("float64", (4, 5, 4)))
    shape = [4, 5, 4]
    del shape[own_axis]
    label = graph.input("label", TensorType("float64", tuple(shape)))
    graph.origin = Origin("prob", "Softmax")
    prob: Value = Softmax(axis)(x)
    graph.rename(prob, "prob")
    graph.origin = Origin("loss", "MultinomialLogisticLoss")
    rows = MultinomialLogLoss(own_axis, 1e-12)(prob, label)
    graph.blobs = {"prob": prob, "rows": rows}
    graph.losses = [(Sum((0, 1))(rows), 1.0)]
    graph.outputs["loss"] = graph.losses[0][0]
    return graph


def inputs(graph: Graph) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(11)
    label = graph.values["label"].shape
    return {
        "scores": rng.standard_normal((4, 5, 4)) * 3,
        "label": rng.integers(0, 4, label).astype(float),
    }


def names(graph: Graph) -> list[str]:
    return [node.op.op_name for node in graph.nodes]


def sentences(graph: Graph, subject: str) -> str:
    return "\n".join(r.sentence for r in graph.remarks if r.subject == subject)


@operator
class TestTwice(Op):
    """factor * x * x, in two forms; only for these tests."""

    __test__ = False
    factor: float
    spare: int = 7

    def equals(self, x: Value) -> list[Value]:
        times = REGISTRY["times"](self.factor)
        return [times(Multiply()(x, x)), Multiply()(times(x), x)]

    def infer(self, x: TensorType) -> TensorType:
        return x

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self.factor * x * x)

    @classmethod
    def examples(cls) -> Iterator[object]:
        yield from ()


REGISTRY.pop("test_twice")


@pytest.fixture
def twice() -> Iterator[None]:
    REGISTRY["test_twice"] = TestTwice
    yield
    REGISTRY.pop("test_twice")


def test_the_pair_fuses_with_its_fields_and_means_the_same():
    graph = pair()
    made = compile_graph(graph).graph
    assert names(made) == ["softmax_log_loss", "sum"]
    op = made.nodes[0].op
    assert op == SoftmaxLogLoss(axis=1, floor=1e-12)
    assert made.nodes[0].origin.layer == "loss"
    before, after = evaluate(graph, inputs(graph)), evaluate(made, inputs(graph))
    np.testing.assert_allclose(after["loss"], before["loss"], rtol=1e-12)
    assert "softmax and multinomial_log_loss fused into softmax_log_loss" in sentences(
        made, "layer:loss"
    )


def test_fields_must_agree():
    made = compile_graph(pair(axis=2, own_axis=1)).graph
    assert names(made) == ["softmax", "multinomial_log_loss", "sum"]


def test_no_fuse_leaves_the_pair():
    made = compile_graph(pair(), fuse=False).graph
    assert names(made) == ["softmax", "multinomial_log_loss", "sum"]


def test_a_softmax_with_another_reader_stays_for_it_and_the_loss_fuses():
    graph = pair()
    graph.outputs["prob"] = graph.blobs["prob"]
    made = compile_graph(graph, ["scores"]).graph
    assert "softmax_log_loss" in names(made)
    assert "multinomial_log_loss" not in names(made)
    assert names(made).count("softmax") == 1
    assert "%prob stays for its other readers" in sentences(made, "layer:loss")
    arrays = inputs(graph)
    unfused = evaluate(backward(graph, ["scores"]), arrays)
    found = evaluate(made, arrays)
    for name in ("prob", "loss", "scores.diff"):
        np.testing.assert_allclose(found[name], unfused[name], rtol=1e-9, atol=1e-13)


def test_a_given_gradient_of_the_softmax_adds_to_the_fused_one():
    graph = pair()
    made = compile_graph(graph, ["scores"], ["prob"]).graph
    assert "softmax_log_loss" in names(made)
    arrays = inputs(graph) | {"prob.diff": np.random.default_rng(1).standard_normal((4, 5, 4))}
    unfused = evaluate(backward(graph, ["scores"], ["prob"]), arrays)
    found = evaluate(made, arrays)
    np.testing.assert_allclose(found["scores.diff"], unfused["scores.diff"], atol=1e-12)


@pytest.mark.parametrize("how", ["wrt", "keep"])
def test_no_fusion_where_the_inner_gradient_is_asked_for(how: str):
    graph = pair()
    wrt = ["prob"] if how == "wrt" else ["scores"]
    keep = ["prob.diff"] if how == "keep" else []
    made = compile_graph(graph, wrt, keep=keep).graph
    assert "multinomial_log_loss" in names(made)
    assert "not fused: the gradient of blob 'prob' is asked for" in sentences(made, "layer:loss")
    expected = evaluate(backward(graph, ["prob"]), inputs(graph))["prob.diff"]
    np.testing.assert_allclose(evaluate(made, inputs(graph))["prob.diff"], expected)


def test_two_softmaxes_in_a_row_stay_and_are_warned_of():
    graph = Graph()
    x = graph.input("scores", TensorType("float64", (4, 5)))
    label = graph.input("label", TensorType("float64", (4,)))
    graph.origin = Origin("prob", "Softmax")
    prob = Softmax(1)(x)
    graph.origin = Origin("loss", "SoftmaxWithLoss")
    graph.outputs["loss"] = SoftmaxLogLoss(1)(prob, label)
    made = compile_graph(graph).graph
    assert names(made) == ["softmax", "softmax_log_loss"]
    assert "two times softmax in a row" in sentences(made, "layer:loss")
    assert "two times" not in sentences(compile_graph(pair()).graph, "layer:loss")


@pytest.mark.parametrize("form", [0, 1, 2])
@pytest.mark.usefixtures("twice")
def test_several_forms_and_both_orders_of_a_product(form: int):
    graph = Graph()
    x = graph.input("x", TensorType("float64", (3,)))
    forms = [(x * x) * 4.0, (x * 4.0) * x, x * (x * 4.0)]
    graph.outputs["y"] = forms[form]
    made = compile_graph(graph).graph
    assert [node.op for node in made.nodes] == [TestTwice(4.0)]
    assert evaluate(made, {"x": np.full(3, 3.0)})["y"].tolist() == [36.0] * 3


@pytest.mark.usefixtures("twice")
def test_one_variable_stands_for_one_value():
    graph = Graph()
    x, z = (graph.input(name, TensorType("float64", (3,))) for name in "xz")
    graph.outputs["y"] = (x * z) * 4.0
    assert names(fuse(graph)) == ["multiply", "times"]


def test_fusing_does_not_change_the_graph_it_is_given():
    graph = pair()
    before = names(graph)
    verify(fuse(graph))
    assert names(graph) == before


def test_larger_rules_come_first():
    sizes = [rule.size for rule in rules()]
    assert sizes
    assert sizes == sorted(sizes, reverse=True)


class Broken(TestTwice):
    """`equals` that computes with a field."""

    op_name = "broken"

    def equals(self, x: Value) -> Value:
        return REGISTRY["times"](self.factor + 1)(x)


class Forgetful(TestTwice):
    """`equals` that leaves a field out."""

    op_name = "forgetful"

    def equals(self, x: Value) -> Value:
        return Multiply()(x, x)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (Broken, "'equals' of operator 'broken' is no pattern"),
        (Forgetful, "does not use the field 'factor'"),
    ],
)
def test_a_wrong_equals_is_reported(made: type[Op], message: str):
    with pytest.raises(NetError, match=message):
        rules_of(made)
