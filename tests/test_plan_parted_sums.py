"""Sums with few results are made of parts, which threads share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from plan_nets import check_program, small_net

import graphc
from graphc.ir.graph import Graph
from graphc.plan import parted_sums
from graphc.plan.explain import explain
from graphc.plan.permission import DIRECT, allowed
from graphc.plan.planner import plan
from graphc.plan.program import Program

NET = """
name: "bias"
layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 11 dim: 2 dim: 43 dim: 41 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 20 kernel_size: 3 } }
"""
DY = np.random.default_rng(0).standard_normal((11, 20, 41, 39)).astype("float32") + 0.5


@pytest.fixture(scope="module")
def trained() -> Graph:
    net = small_net()
    return net.gradients(["data", *net.parameters], ["fc"], net.parameters)


def kernels(program: Program) -> list[str]:
    return [step.kernel.name for step in program.steps]


@pytest.mark.parametrize("memory", ["all", "reuse"])
def test_a_net_with_parted_sums_gives_the_reference(
    trained: Graph, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = kernels(plan(trained, memory=memory))
    assert "sum_parts" not in usual  # its sums are short
    monkeypatch.setattr(parted_sums, "LEAST_BYTES", 0)
    monkeypatch.setattr(parted_sums, "FEWEST_PARTS", 2)
    program = plan(trained, memory=memory)
    made = kernels(program)
    assert made.count("sum_parts") == 2
    assert sorted(name for name in made if name != "sum_parts") == sorted(usual)
    check_program(program, trained, True)
    assert kernels(plan(trained, memory=memory, algorithms=DIRECT)) == usual


def bias_gradient(threads: int) -> tuple[np.ndarray, Program]:
    net = graphc.Net(NET, weights="random:1", threads=threads)
    found = net.forward_backward({"data": np.ones((11, 2, 43, 41))}, {"conv": DY}, wrt=["conv/1"])
    made = net.prepare(wrt=("conv/1",), given=("conv",))
    return found["conv/1"].copy(), made.program


def test_the_gradient_of_a_bias_is_made_of_parts() -> None:
    alone, program = bias_gradient(1)
    assert kernels(program).count("sum_parts") == 1
    assert "is made of 11 parts" in "\n".join(r.sentence for r in explain(program, "layer:conv"))
    exact = DY.astype("float64").sum(axis=(0, 2, 3))
    np.testing.assert_allclose(alone, exact, rtol=1e-6)
    for threads in (2, 3, 5):
        assert bias_gradient(threads)[0].tobytes() == alone.tobytes()


@pytest.mark.parametrize(
    ("name", "value"), [("LEAST_BYTES", 10**9), ("FEWEST_PARTS", 12), ("FEWEST_LINES", 1)]
)
def test_other_sums_stay_whole(name: str, value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parted_sums, name, value)
    found, program = bias_gradient(2)
    assert "sum_parts" not in kernels(program)
    np.testing.assert_allclose(found, DY.astype("float64").sum(axis=(0, 2, 3)), rtol=1e-6)


def test_exact_nets_have_them_too() -> None:
    assert allowed(exact=True).parted_sums and allowed().parted_sums
    assert not allowed(exact=True).winograd and not DIRECT.parted_sums
