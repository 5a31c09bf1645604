"""Budgets: values are computed again until a plan fits, and every bit stays the same."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plan_nets import check_program
from random_nets import DeepNet

from graphc.ir.graph import Graph
from graphc.plan.budget import BudgetError
from graphc.plan.planner import plan
from graphc.plan.program import Program


def within(graph: Graph, keep: list[str], budget: int) -> Program:
    """A plan for the budget, or for the least that the error says could be met."""
    try:
        return plan(graph, keep=keep, memory=budget)
    except BudgetError as error:
        assert error.smallest > budget
        return plan(graph, keep=keep, memory=error.smallest)


def repeats(program: Program) -> int:
    return sum("again" in step.kind for step in program.steps)


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.integers(0, 10**6), st.integers(6, 22), st.floats(0, 1))
def test_every_mode_gives_the_same_bits(seed: int, layers: int, part: float) -> None:
    """Fan-out, shared parameters, several losses, states: on memory whose dead bytes are NaN."""
    graph, keep = DeepNet(seed).graph(layers)
    everything, reuse = plan(graph, memory="all"), plan(graph, keep=keep)
    small = within(graph, keep, int(part * reuse.arena_bytes))
    assert small.arena_bytes <= reuse.arena_bytes
    wanted = check_program(everything, graph)
    for program in (reuse, small):
        assert {name for name in keep if name in graph.blobs} <= set(program.readable)
        for apart in (False, True):
            found = check_program(program, graph, apart)
            for name in wanted.keys() & found.keys():
                np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)


def test_budgets_reach_well_below_reuse() -> None:
    """Else the test above would compare plans that are the same."""
    parts = []
    for seed in range(12):
        graph, keep = DeepNet(seed).graph(18)
        reuse, small = plan(graph, keep=keep), within(graph, keep, 0)
        parts.append(small.arena_bytes / reuse.arena_bytes)
        assert (repeats(small) > 0) == (small.arena_bytes < reuse.arena_bytes)
    assert np.median(parts) < 0.8
