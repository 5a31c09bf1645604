"""A budget asks for the loss in blocks of classes where that is the way, or the cheaper way."""

from __future__ import annotations

import numpy as np
import pytest

import graphc
from graphc.error import NetError
from graphc.graph_call import Choices
from graphc.graph_lowering import lower_graph
from graphc.ir.graph import Graph
from graphc.ir.types import TensorType
from graphc.loss_budget import BLOCKS
from graphc.ops.linear import AddBias, MatMul
from graphc.ops.loss import SoftmaxLogLoss
from graphc.plan.budget import BudgetError
from graphc.plan.program import Program

ROWS, CLASSES = 4096, 600
INPUT = """layer { name: "in" type: "Input" top: "x" top: "label"
  input_param { shape { dim: 4096 dim: %d } shape { dim: 4096 } } }"""
LINEAR = """layer { name: "%s" type: "InnerProduct" bottom: "%s" top: "%s"
  inner_product_param { num_output: %d weight_filler { type: "xavier" } } }"""
RELU = 'layer { name: "relu_%s" type: "ReLU" bottom: "%s" top: "%s" }'
LOSS = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }'
MIB = 1 << 20


def chain(first: int, hidden: tuple[int, ...], end: str = LOSS) -> str:
    """Inner products from `first` numbers a row over hidden ones to 600 scores."""
    lines, bottom = [INPUT % first], "x"
    for number, width in enumerate(hidden):
        lines.append(LINEAR % (f"h{number}", bottom, f"h{number}", width))
        bottom = f"h{number}"
        lines.append(RELU % (bottom, bottom, bottom))
    return "\n".join([*lines, LINEAR % ("fc", bottom, "fc", CLASSES), end])


def trained(source: str, memory: int | str) -> tuple[graphc.Net, dict[str, np.ndarray]]:
    net = graphc.Net(source, phase=graphc.TRAIN, memory=memory, threads=1, seed=1)
    rng = np.random.default_rng(0)
    x = rng.standard_normal(net.blobs["x"].shape)
    label = rng.integers(0, CLASSES, ROWS)
    net.clear_param_diffs()
    net.forward_backward({"x": x, "label": label})
    found = {f"{n}/{i}": b.diff.copy() for n, bs in net.params.items() for i, b in enumerate(bs)}
    return net, {**found, "loss": np.asarray(net.loss)}


def said(program: Program) -> list[str]:
    return [r.sentence for r in program.remarks if r.stage == "recompute" and r.subject == "net"]


def in_blocks(net: graphc.Net) -> bool:
    return any(node.op.op_name == "block_mass" for node in net.compilation().graph.nodes)


def test_a_budget_below_the_scores_asks_for_blocks() -> None:
    source = chain(4, (16,))
    plain, wanted = trained(source, "reuse")
    small, found = trained(source, 6 * MIB)
    assert plain.compilation().program.arena_bytes >= ROWS * CLASSES * 4
    assert small.compilation().program.arena_bytes <= 6 * MIB
    assert in_blocks(small) and not in_blocks(plain)
    asked = said(small.compilation().program)
    assert asked[0].startswith(BLOCKS) and "MiB would be the least" in asked[0]
    assert not small.compilation().signature.blockwise_loss
    for key, array in wanted.items():
        np.testing.assert_allclose(found[key], array, rtol=0, atol=2e-5 * np.abs(array).max())
    with pytest.raises(NetError, match="fc"):
        _ = small.blobs["fc"].data


def test_a_budget_that_is_met_asks_for_nothing() -> None:
    source = chain(4, (16,))
    size = trained(source, "reuse")[0].compilation().program.arena_bytes
    net, _ = trained(source, size)
    assert not in_blocks(net)
    assert len(said(net.compilation().program)) == 1


def test_the_cheaper_of_blocks_and_repeated_steps_is_taken() -> None:
    dear, cheap = chain(2048, (64, 4)), chain(16, (64, 64, 64))
    for source, blocks in ((dear, True), (cheap, False)):
        whole, wanted = trained(source, "reuse")
        budget = whole.compilation().program.arena_bytes - MIB // 2
        net, found = trained(source, budget)
        assert in_blocks(net) == blocks
        assert net.compilation().program.arena_bytes <= budget
        repeats = sum(step.again for step in net.compilation().program.steps)
        first = said(net.compilation().program)[0]
        if blocks:
            assert first.startswith(BLOCKS) and repeats == 0
            assert "steps that run a second time would be 1 instead of 0" in first
        else:
            assert "would meet the budget as well, but take about" in first and repeats
            for key, array in wanted.items():
                np.testing.assert_array_equal(found[key], array)


def test_what_neither_can_meet_says_the_least_of_both() -> None:
    source = chain(4, (16,))
    with pytest.raises(BudgetError, match="the least that could be met") as caught:
        trained(source, 1000)
    assert caught.value.smallest < 6 * MIB
    net, _ = trained(source, caught.value.smallest)
    assert in_blocks(net)


def test_a_layer_that_others_read_keeps_its_scores() -> None:
    accuracy = LOSS + (
        '\nlayer { name: "accuracy" type: "Accuracy" bottom: "fc" bottom: "label" top: "accuracy" }'
    )
    with pytest.raises(BudgetError) as caught:
        trained(chain(4, (16,), accuracy), 6 * MIB)
    assert caught.value.smallest >= ROWS * CLASSES * 4


def test_graphs_of_all_kinds_get_blocks() -> None:
    graph = Graph()
    x = graph.input("x", TensorType("float32", (ROWS, 8)))
    w = graph.input("w", TensorType("float32", (CLASSES, 8)), "parameter")
    b = graph.input("b", TensorType("float32", (CLASSES,)), "parameter")
    label = graph.input("label", TensorType("float32", (ROWS,)))
    scores = AddBias(1)(MatMul(False, True)(x, w), b)
    graph.losses.append((SoftmaxLogLoss()(scores, label), 1.0))
    graph.outputs["loss"] = graph.losses[0][0]
    made, program = lower_graph(graph, ["w", "b"], choices=Choices(6 * MIB))
    assert program.arena_bytes <= 6 * MIB
    assert any(node.op.op_name == "block_mass" for node in made.graph.nodes)
    assert said(program)[0].startswith(BLOCKS)
