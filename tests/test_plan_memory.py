"""What deep nets take, beside the bounds; maps that are made again; what the choices saved."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import deep_nets
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plan_nets import NetBuilder, check_program, random_arrays
from random_nets import DeepNet

import graphc
from graphc.ir.graph import Graph
from graphc.ops.conv import Conv
from graphc.ops.linear import AddBias, Scale
from graphc.ops.moments import InverseDeviation, Moments, Standardize
from graphc.ops.neuron import Relu
from graphc.passes.blockwise import BLOCKS
from graphc.plan import cheap
from graphc.plan.explain import explain, savings_table
from graphc.plan.interpret import make_slots, run_interpreted
from graphc.plan.planner import plan
from graphc.plan.program import Program
from graphc.plan.repeat import AGAIN
from graphc.plan.rough_time import shown_seconds
from graphc.training_step import CONSUMED

SAMPLES = Path(__file__).parent.parent / "samples"
DEEP = {
    "resnet": deep_nets.resnet,
    "googlenet": deep_nets.googlenet,
    "densenet": deep_nets.densenet,
}
# What torch 2.13 takes for a step of the ResNet-like net at batch 16: the growth of the process's
# resident memory, at its most (VmHWM, set back before the run, less VmRSS before it), during one
# forward and backward pass that comes after a warm one, by graphc.bench.memory.extra_bytes.
# Float32, on the processor, loss and gradients of all parameters. This is its channels-last form;
# the plain eager one takes 1726 MiB. Parameters and their gradients come on top for both nets.
TORCH_RESNET = 1553 << 20


def planned(source: object) -> Program:
    net = graphc.Net(source, phase=graphc.TRAIN, threads=2)
    return net.compilations.planned(net.compilations.default()).program


@pytest.fixture(scope="module", params=DEEP)
def deep(request: pytest.FixtureRequest) -> Iterator[tuple[str, Program]]:
    yield request.param, planned(DEEP[request.param](16))


def is_tight(program: Program) -> bool:
    """Within 1.01 of the bound of its order, and within 1.05 of that of any order."""
    report = program.memory
    assert report.bound_of_any_order <= report.bound_of_order <= report.peak
    near = report.bound_of_order <= 1.05 * report.bound_of_any_order
    return near and report.peak <= 1.01 * report.bound_of_order


@pytest.mark.long
def test_deep_nets_are_packed_tightly_in_a_good_order(deep: tuple[str, Program]) -> None:
    name, program = deep
    assert is_tight(program)
    if name == "resnet":
        assert program.arena_bytes <= 0.6 * TORCH_RESNET


@pytest.mark.parametrize(
    "name",
    sorted(p.stem for p in SAMPLES.glob("*.prototxt") if not p.stem.endswith("solver")),
)
@pytest.mark.filterwarnings("ignore::graphc.error.NetWarning")
def test_samples_are_packed_tightly_in_a_good_order(name: str) -> None:
    assert is_tight(planned(SAMPLES / f"{name}.prototxt"))


def made_again(graph: Graph, keep: list[str]) -> Program:
    """The plan of "reuse" where every cheap map is made again that lowers the peak."""
    with (
        mock.patch.object(cheap, "LEAST_PEAK", 0),
        mock.patch.object(cheap, "WORTH", 0.0),
        mock.patch.object(cheap, "MOST_TIME", 10.0),
    ):
        return plan(graph, keep=keep)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.integers(0, 10**6), st.integers(6, 22))
def test_maps_made_again_give_the_same_bits(seed: int, layers: int) -> None:
    """Fan-out, shared parameters, several losses, states: on memory whose dead bytes are NaN."""
    graph, keep = DeepNet(seed).graph(layers)
    program = made_again(graph, keep)
    wanted = check_program(plan(graph, memory="all"), graph)
    for apart in (False, True):
        found = check_program(program, graph, apart)
        for name in wanted.keys() & found.keys():
            np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)


def test_the_random_nets_above_make_maps_again() -> None:
    """Else the test before this one compared plans that were the same."""
    graphs = [DeepNet(seed).graph(18) for seed in range(20)]
    again = [sum(s.again for s in made_again(*drawn).steps) for drawn in graphs]
    assert sum(count > 0 for count in again) >= 4, again


def residual(width: int = 4) -> Graph:
    """Convolution, batch normalisation, Scale and ReLU, three times."""
    net = NetBuilder("residual")
    x = net.input("data", 2, width, 6, 6)
    for number in range(3):
        net.layer(f"conv{number}", "Convolution")
        w = net.parameter(f"w{number}", width, width, 3, 3)
        y = net.blob(f"conv{number}", Conv((1, 1), ((1, 1), (1, 1)), (1, 1), 1)(x, w))
        net.layer(f"bn{number}", "BatchNorm")
        mean, variance = Moments((0, 2, 3))(y)
        y = Standardize((0, 2, 3))(y, mean, InverseDeviation(1e-3)(variance))
        net.layer(f"scale{number}", "Scale")
        y = Scale(1)(y, net.parameter(f"g{number}", width))
        y = AddBias(1)(y, net.parameter(f"b{number}", width))
        net.layer(f"relu{number}", "ReLU")
        x = net.blob(f"relu{number}", Relu()(y))
    net.graph.outputs["relu2"] = x
    return net.gradients(["data", *net.parameters], ["relu2"])


def test_a_map_is_made_again_from_the_parameters_of_forward() -> None:
    """They may change between the two passes; what forward made must not."""
    graph = residual()
    programs = [plan(graph, memory="all"), made_again(graph, [])]
    assert any(step.again for step in programs[1].steps)
    found = []
    for program in programs:
        slots = make_slots(program, {**graph.constants, **random_arrays(graph)})
        run_interpreted(program, slots, end=program.forward_steps)
        for place, slot in enumerate(program.slots):
            if slot.name in ("g0", "b0", "g1"):
                slots[place][...] = 3.0
        run_interpreted(program, slots, first=program.forward_steps)
        names = enumerate(program.slots)
        found.append({s.name: slots[place] for place, s in names if s.role == "output"})
    for name, array in found[0].items():
        np.testing.assert_array_equal(found[1][name], array, err_msg=name)


def test_what_is_made_again_is_explained() -> None:
    program = made_again(residual(), [])
    said = [r.sentence for r in explain(program, "relu0") if r.stage == "recompute"]
    assert any("is computed again before" in sentence for sentence in said)
    whole = [r.sentence for r in program.remarks if (r.stage, r.subject) == ("recompute", "net")]
    assert len(whole) == 1
    assert "of a call by a rough count" in whole[0]


def test_what_is_made_again_is_explained_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a residual net as people have it, by the rule as it stands but for its least peak."""
    monkeypatch.setattr(cheap, "LEAST_PEAK", 1 << 20)
    program = planned(deep_nets.resnet(2, 64, (1, 1), 16))
    again = {row.choice: row for row in program.memory.saved}[AGAIN]
    said = [r for r in program.remarks if r.saving and r.saving.choice == AGAIN]
    assert 0 < again.count == len(said) == len({remark.subject for remark in said})
    for remark in said:
        name = remark.subject.removeprefix("blob:")
        assert remark in explain(program, remark.subject)
        (place,) = [
            i
            for i, s in enumerate(program.steps)
            if f"{name}~again" in s.arguments[len(s.kernel.inputs) :]
        ]
        (reader, *_) = [s for s in program.steps[place + 1 :] if f"{name}~again" in s.arguments]
        assert remark.sentence.startswith(
            f"{name} is computed again before {reader.layer}'s backward, in about "
        )
        assert remark.saving and remark.saving.bytes == program.buffers[name].span_bytes


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.4e-4, "0.24 ms"), (0.4821, "480 ms"), (0.996, "1 s"), (3.94, "3.9 s")]
)
def test_rough_times_are_short(seconds: float, text: str) -> None:
    assert shown_seconds(seconds) == text


def test_small_nets_make_nothing_again() -> None:
    assert not any(step.again for step in plan(residual()).steps)


def test_the_plan_says_what_each_choice_saved() -> None:
    program = planned(SAMPLES / "lenet_train.prototxt")
    rows = {row.choice: row for row in program.memory.saved}
    pools = [b for b in program.buffers.values() if b.dtype == "uint8"]
    index = rows["an index of one byte instead of four"]
    assert (index.count, index.bytes) == (2, 3 * sum(b.span_bytes for b in pools))
    freed = rows["a value that backward does not read"]
    assert freed.count == 3
    conv1, conv2, ip1 = 64 * 20 * 24 * 24 * 4, 64 * 50 * 8 * 8 * 4, 64 * 500 * 4
    assert freed.bytes == conv1 + conv2 + ip1
    assert freed.without is not None
    assert freed.without > program.memory.bound_of_order
    table = savings_table(program)
    assert all(choice in table for choice in rows)
    text = " ".join(r.sentence for r in explain(program, "conv1"))
    assert (
        "conv1 is not kept for backward: the gradient of pool1 (Pooling) reads its output" in text
    )


def steps_of(folder: Path, more: str = "") -> list[Program]:
    """What an iteration of a solver runs on the digits."""
    definition = folder / "solver.prototxt"
    definition.write_text(
        f'net: "{SAMPLES / "digits_train.prototxt"}"\nbase_lr: 0.1 lr_policy: "fixed"'
        f" momentum: 0.9 max_iter: 3 random_seed: 1 {more}"
    )
    solver = graphc.Solver(definition)
    return [made.program for made in solver.net.lowered_steps()]


def test_gradients_that_an_update_uses_up_take_no_slots(tmp_path: Path) -> None:
    (program,) = steps_of(tmp_path)
    rows = {row.choice: row for row in program.memory.saved}
    learned = [slot for slot in program.slots[1:] if slot.name.endswith(".history1")]
    size = sum(slot.type.bytes for slot in learned)
    assert (rows[CONSUMED].count, rows[CONSUMED].bytes) == (len(learned), size)
    plain = planned(SAMPLES / "digits_train.prototxt")
    results = {slot.name for slot in plain.slots[1:] if slot.role == "output"}
    left = {slot.name for slot in program.slots[1:] if slot.role == "output"}
    gone = sum(
        plain_slot.type.bytes for plain_slot in plain.slots[1:] if plain_slot.name in results - left
    )
    assert gone == size
    assert "conv1/0: its gradient is used up by the update" in "\n".join(
        map(str, explain(program, "conv1/0"))
    )


def test_gradients_that_several_passes_add_up_save_nothing(tmp_path: Path) -> None:
    first, _ = steps_of(tmp_path, "iter_size: 2")
    assert {slot.name for slot in first.slots[1:]} >= {"conv1/0.diff"}
    assert CONSUMED not in {row.choice for row in first.memory.saved}


def test_scores_that_are_never_held_whole_are_a_saving() -> None:
    source = """
        layer { name: "in" type: "Input" top: "x" top: "label"
          input_param { shape { dim: 512 dim: 8 } shape { dim: 512 } } }
        layer { name: "fc" type: "InnerProduct" bottom: "x" top: "fc"
          inner_product_param { num_output: 6000 weight_filler { type: "xavier" } } }
        layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }"""
    scores = 512 * 6000 * 4
    net = graphc.Net(source, phase=graphc.TRAIN, blockwise_loss=True, threads=1)
    program = net.compilations.planned(net.compilations.default()).program
    rows = {row.choice: row for row in program.memory.saved}
    assert (rows[BLOCKS].count, rows[BLOCKS].bytes) == (1, scores)
    whole = planned(source)
    assert BLOCKS not in {row.choice for row in whole.memory.saved}
    assert scores <= whole.arena_bytes and program.arena_bytes < scores / 2
    assert f"{BLOCKS}  " in savings_table(program)


def test_taking_a_choice_back_never_needs_less(deep_small: Program) -> None:
    report = deep_small.memory
    assert len(report.saved) >= 5
    for row in report.saved:
        assert row.count > 0
        assert row.bytes > 0
        assert row.without is None or row.without >= report.bound_of_order


@pytest.fixture(scope="module")
def deep_small() -> Program:
    return planned(deep_nets.googlenet(1, 64))
