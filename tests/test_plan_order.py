"""The order of the calls: near the best there is, wherever the best can be found."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from plan_nets import NetBuilder, small_net
from random_nets import DeepNet

from graphc.cli.options import Mode, NetOptions
from graphc.cli.session import open_session
from graphc.ir.graph import Graph
from graphc.plan import order
from graphc.plan.cores import PROCESSOR
from graphc.plan.draft import Draft, DraftStep
from graphc.plan.joining import join_steps
from graphc.plan.liveness import bound_of_any_order
from graphc.plan.lower import lower
from graphc.plan.occupancy import Occupancy, Overwriting
from graphc.plan.search import best_order
from graphc.plan.share import commit_in_place, possible_savings

SAMPLES = Path(__file__).parent.parent / "samples"
MANY = 20_000


def drafted(graph: Graph) -> Draft:
    draft = lower(graph)
    join_steps(draft, PROCESSOR)
    commit_in_place(draft)
    return draft


def by_heuristics(draft: Draft, monkeypatch: pytest.MonkeyPatch) -> int:
    """The peak of the order that is found without the search."""
    monkeypatch.setattr(order, "SEARCHED", 0)
    order.order_steps(draft)
    return Occupancy(draft, Overwriting(draft)).peak


def by_search(draft: Draft) -> int | None:
    """The lowest peak of any order, forward before backward; None where that is not known."""
    forward = [step for step in draft.steps if not step.backward]
    backward = [step for step in draft.steps if step.backward]
    overwriting = Overwriting(draft)
    first = best_order(draft, [], forward, backward, overwriting, MANY)
    second = best_order(draft, forward, backward, [], overwriting, MANY)
    if first is None or second is None:
        return None
    draft.steps = first.steps + second.steps
    draft.check_order()
    peak = Occupancy(draft, overwriting).peak
    assert peak == max(first.peak, second.peak)
    return peak


def tried_one_by_one(draft: Draft, steps: list[DraftStep]) -> int:
    """The same by running through every order."""
    needed = draft.dependencies()
    best = None
    for steps_now in itertools.permutations(steps):
        place = {step: i for i, step in enumerate(steps_now)}
        if any(place[o] > place[s] for s in steps for o in needed[s]):
            continue
        draft.steps = list(steps_now)
        peak = Occupancy(draft, Overwriting(draft)).peak
        best = peak if best is None else min(best, peak)
    assert best is not None
    return best


@pytest.mark.parametrize("seed", range(8))
def test_the_search_finds_the_best_of_all_orders(seed: int) -> None:
    net = NetBuilder("branches", "float32")
    dice = DeepNet(seed).dice
    values = [net.input("x", 64)]
    for number in range(6):
        x = dice.choice(values)
        y = dice.choice(values)
        net.layer(f"layer{number}", "Scale")
        values.append(x + y if dice.random() < 0.6 else x * float(number + 2))
    net.graph.outputs["end"] = values[-1] + values[-2]
    draft = lower(net.graph)
    steps = list(draft.steps)
    if not 3 <= len(steps) <= 7:
        pytest.skip("too few steps are left, or too many to try")
    found = best_order(draft, [], steps, [], Overwriting(draft))
    assert found is not None
    assert found.peak == tried_one_by_one(draft, steps)


def test_the_order_is_near_the_best_on_random_nets(monkeypatch: pytest.MonkeyPatch) -> None:
    known = 0
    for seed in range(25):
        graph, _ = DeepNet(seed).graph(8 + seed % 7)
        best = by_search(drafted(graph))
        if best is None:
            continue
        known += 1
        assert by_heuristics(drafted(graph), monkeypatch) <= 1.05 * best, seed
    assert known >= 15


@pytest.mark.parametrize(
    "name", ["caffenet", "digits", "frozen_trunk", "infogain_unfused", "lenet_train", "regression"]
)
def test_the_order_is_near_the_best_on_the_samples(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = NetOptions(str(SAMPLES / f"{name}.prototxt"), mode=Mode.train)
    graph = open_session(options).lowered().graph
    found = by_heuristics(drafted(graph), monkeypatch)
    best = by_search(drafted(graph))
    draft = drafted(graph)
    least = best or bound_of_any_order(draft, possible_savings(draft))
    assert found <= 1.05 * least


def test_the_planner_takes_the_best_order_of_a_small_net() -> None:
    net = small_net()
    graph = net.gradients(["data", *net.parameters], ["fc"], net.parameters)
    draft = drafted(graph)
    order.order_steps(draft)
    assert Occupancy(draft, Overwriting(draft)).peak == by_search(drafted(graph))
