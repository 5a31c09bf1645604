"""Plans of nets: what is joined, shared, kept and copied, and what it costs."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from plan_nets import (
    NetBuilder,
    caffenet,
    check_program,
    expected,
    random_arrays,
    run_program,
    small_net,
)

from graphc.error import NetError
from graphc.ir.core.axes import Broadcast, Sum
from graphc.ir.core.elementwise import Cast, Shift
from graphc.ir.graph import Graph, Origin
from graphc.ir.types import TensorType
from graphc.ops.moments import StandardizeGradientSums
from graphc.ops.shape import Concat, Slice
from graphc.plan.explain import explain, memory_rows, memory_table
from graphc.plan.interpret import make_slots, run_interpreted, view
from graphc.plan.layout import channels_last, strides_of
from graphc.plan.planner import plan
from graphc.plan.program import Program
from graphc.plan.text import print_program


def layers(program: Program, backward: bool = False) -> list[str]:
    return [step.layer for step in program.steps if step.backward == backward]


def sentences(program: Program, subject: str) -> str:
    return "\n".join(remark.sentence for remark in explain(program, subject))


@pytest.fixture(scope="module")
def trained() -> Graph:
    net = small_net()
    return net.gradients(["data", *net.parameters], ["fc"], net.parameters)


# -- right -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", ["all", "reuse"])
@pytest.mark.parametrize("join", [True, False])
@pytest.mark.parametrize("apart", [True, False])
def test_a_small_net_gives_the_reference(trained: Graph, memory, join, apart) -> None:
    check_program(plan(trained, memory=memory, join=join), trained, apart)


def test_all_modes_agree_bit_for_bit(trained: Graph) -> None:
    programs = [plan(trained), plan(trained, memory="all"), plan(trained, keep=["conv2"])]
    first, *others = [run_program(p, trained, random_arrays(trained)) for p in programs]
    for other in others:
        for name in first.keys() & other.keys():
            np.testing.assert_array_equal(first[name], other[name], err_msg=name)


def test_kept_blobs_survive_and_others_say_who_overwrote_them() -> None:
    graph = small_net().gradients(["data"], ["fc"], keep=["conv1", "conv2.diff"])
    program = plan(graph, keep=["conv1", "conv2.diff"])
    assert {"conv1", "conv2.diff"} <= set(program.readable)
    check_program(program, graph)
    loose = plan(small_net().gradients(["data"], ["fc"]))
    assert "conv2" in loose.readable_forward
    assert "has been overwritten by" in loose.overwritten["conv2"]
    assert "keep='conv2'" in loose.overwritten["conv2"]


def test_what_stands_after_forward_alone_can_be_read_then() -> None:
    graph = small_net().gradients(["data"], ["fc"])
    program = plan(graph)
    arrays = random_arrays(graph)
    slots = make_slots(program, arrays)
    run_interpreted(program, slots, end=program.forward_steps)
    wanted = expected(graph, arrays)
    assert len(program.readable_forward) > 2
    for blob, name in program.readable_forward.items():
        found = view(program.buffers[name], slots)
        np.testing.assert_allclose(found, wanted[f"blob {blob}"], rtol=1e-9, err_msg=blob)


def test_memory_all_keeps_every_blob(trained: Graph) -> None:
    program = plan(trained, memory="all")
    assert not program.overwritten
    assert program.memory.peak >= program.memory.naive


def test_keeping_an_unknown_blob_is_refused(trained: Graph) -> None:
    with pytest.raises(NetError, match=r"no blob 'conv22'; did you mean 'conv2'"):
        plan(trained, keep=["conv22"])


# -- layout ----------------------------------------------------------------------------------------


def test_images_are_channels_last_and_weights_packed_for_their_reader(trained: Graph) -> None:
    program = plan(trained)
    conv1 = next(step for step in program.steps if step.kernel.name.startswith("conv"))
    data, weights, *_, result = conv1.kernel.buffers
    assert data.strides == (243, 1, 27, 3)
    assert result.strides == (324, 1, 36, 4)
    assert weights.strides[0] == 1, "the output channels of the weights are neighbours"
    back = next(s for s in program.steps if s.kernel.name.startswith("conv_data_gradient"))
    assert back.kernel.buffers[1].strides[1] == 1, "the data gradient wants the input channels so"
    user = [b for b in program.buffers.values() if program.slots[b.slot].role == "parameter"]
    assert all(buffer.strides == TensorType("float32", buffer.shape).strides() for buffer in user)


def test_long_rows_of_packed_weights_have_a_gap_behind_them() -> None:
    net = NetBuilder("wide")
    x = net.input("data", 1, 3, 7, 7)
    net.graph.outputs["y"] = net.conv(net.conv(x, "narrow", 4, 3), "wide", 256, 3)
    program = plan(net.graph)
    packed = [s.kernel.buffers[1] for s in program.steps if s.kernel.name.startswith("conv")]
    assert [b.strides for b in packed] == [(1, 4, 36, 12), (1, 272, 3264, 1088)]
    check_program(program, net.graph)


def test_an_input_is_turned_once_in_a_pass() -> None:
    net = NetBuilder("two readers")
    x = net.input("data", 2, 3, 5, 5)
    net.graph.outputs["a"] = net.conv(x, "conv1", 4, 3)
    net.graph.outputs["b"] = net.conv(x, "conv2", 4, 3)
    program = plan(net.graph)
    copies = [s for s in program.steps if s.kind == "copy" and s.arguments[0] == "data"]
    assert len(copies) == 1
    check_program(program, net.graph)


def test_images_that_are_summed_up_together_lie_alike() -> None:
    """A gradient that the user gives lies in his order; read beside an image, it is turned."""
    net = NetBuilder("sums")
    y = net.conv(net.input("data", 2, 3, 7, 7), "conv", 8, 3)
    given = net.input("given", *y.shape)
    net.layer("norm", "norm")
    sums = StandardizeGradientSums((0, 2, 3))(y, given, net.input("mean", 8))
    net.graph.outputs.update({f"sum{n}": value for n, value in enumerate(sums)})
    program = plan(net.graph)
    (step,) = [s for s in program.steps if "standardize" in s.kernel.name]
    first, second = (b for b in step.kernel.inputs if len(b.shape) == 4)
    assert first.strides == second.strides == strides_of(y.shape, channels_last(4))
    check_program(program, net.graph)


@pytest.mark.parametrize(("side", "apart"), [(64, True), (4, False)])
def test_a_large_copy_to_another_layout_is_a_step_of_its_own(side: int, apart: bool) -> None:
    net = NetBuilder("edges")
    x = net.relu(net.input("data", 2, 64, side, side), "relu", "relu")
    net.graph.outputs["y"] = net.relu(net.conv(x, "conv", 64, 1), "last", "y")
    program = plan(net.graph)
    kinds = [
        step.kind for step in program.steps if "copy" in step.kind and "data" in step.arguments
    ]
    assert kinds == (["copy"] if apart else ["copy, ReLU"])
    check_program(program, net.graph)


def test_a_net_without_windows_stays_row_major_and_copies_nothing() -> None:
    net = NetBuilder("plain")
    x = net.input("data", 2, 3, 4, 5)
    net.graph.outputs["y"] = net.relu(x + x, "relu", "y")
    program = plan(net.graph)
    assert [step.kind for step in program.steps] != []
    assert not any("copy" in step.kind for step in program.steps)
    assert program.arena_bytes == 0, "the one sweep writes straight into the output"


# -- views -----------------------------------------------------------------------------------------


def test_concat_and_slice_cost_no_step() -> None:
    net = NetBuilder("branches")
    x = net.input("data", 2, 3, 6, 6)
    left, right = net.conv(x, "conv1", 4, 1), net.conv(x, "conv2", 2, 3, pad=1)
    net.layer("cat", "Concat")
    both = net.blob("cat", Concat(1)(left, right))
    net.layer("cut", "Slice")
    first, second = Slice(1, (3,))(both)
    net.graph.outputs["conv3"] = net.conv(first + second, "conv3", 2, 3)
    graph = net.gradients(["data", *net.parameters], ["conv3"])
    program = plan(graph)
    assert not any("concat" in s.kernel.name or "slice" in s.kernel.name for s in program.steps)
    cat = program.buffers[program.readable.get("cat", "cat")]
    parts = [b for b in program.buffers.values() if b.slot == 0 and b.strides == cat.strides]
    assert {b.offset - cat.offset for b in parts if b.first <= cat.last} >= {0, 4 * 8}
    check_program(program, graph)
    check_program(plan(graph, memory="all"), graph)


def test_a_part_of_two_concatenations_is_copied_into_one() -> None:
    net = NetBuilder("shared part")
    x = net.input("data", 2, 3)
    y = net.blob("y", x * 2.0)
    net.graph.outputs["a"] = Concat(1)(y, y)
    net.graph.outputs["b"] = Concat(0)(y, x)
    program = plan(net.graph)
    check_program(program, net.graph)


def test_a_flatten_of_one_pixel_is_free() -> None:
    net = NetBuilder("pixel")
    x = net.pool(net.conv(net.input("data", 2, 3, 5, 5), "conv1", 4, 3), "pool1", 3, 1)
    net.graph.outputs["fc"] = net.inner_product(x, "fc", 2)
    program = plan(net.graph)
    assert not any(s.kind == "copy" and s.arguments[0].startswith("pool1") for s in program.steps)
    check_program(program, net.graph)


# -- states ----------------------------------------------------------------------------------------


def test_a_counter_that_forward_renews_is_held_for_backward() -> None:
    """Dropout's counter: both passes of one call must see the same number."""
    graph = Graph("counter")
    counter = graph.input("counter", TensorType("int64", ()), "state")
    x = graph.input("x", TensorType("float64", (3,)))
    key = Broadcast((3,), (0,))(Cast("float64")(counter))
    graph.outputs["y"] = x * key
    graph.origin = Origin("late", backward=True)
    again = Broadcast((3,), (0,))(Cast("float64")(counter))
    graph.outputs["dx"] = graph.outputs["y"] * again
    graph.origin = Origin("count")
    graph.updates["counter"] = Shift(1.0)(counter)
    for memory in ("all", "reuse"):
        for apart in (True, False):
            check_program(plan(graph, memory=memory), graph, apart)


def test_states_that_change_places_are_read_before_they_change() -> None:
    graph = Graph("swap")
    a, b = (graph.input(n, TensorType("float64", (3,)), "state") for n in "ab")
    graph.updates = {"a": b, "b": a}
    check_program(plan(graph), graph)


def test_a_new_state_is_written_over_the_old_one_after_its_last_reader() -> None:
    graph = Graph("running mean")
    x = graph.input("x", TensorType("float64", (4,)))
    old = graph.input("mean", TensorType("float64", (4,)), "state")
    new = old * 0.9 + x * 0.1
    graph.updates["mean"] = new
    graph.outputs["y"] = x + old
    graph.outputs["z"] = Sum((0,))(old * 3.0)
    program = plan(graph)
    assert not any(step.kind == "copy" for step in program.steps)
    check_program(program, graph)


def test_gradients_of_parameters_add_up_in_place(trained: Graph) -> None:
    program = plan(trained)
    for name in ("conv1/0.diff", "conv2/1.diff", "fc/0.diff"):
        slot = next(i for i, s in enumerate(program.slots) if s.name == name)
        writers = [
            step
            for step in program.steps
            if any(
                program.buffers[a].slot == slot for a in step.arguments[len(step.kernel.inputs) :]
            )
        ]
        assert len(writers) == 1
        assert not writers[0].kind.startswith("copy")


# -- joining and sharing ---------------------------------------------------------------------------


def test_bias_and_relu_ride_behind_the_convolution(trained: Graph) -> None:
    program = plan(trained)
    joined = [s for s in program.steps if s.layer == "conv2, relu2"]
    assert [s.kernel.name for s in joined if not s.backward] == ["conv+add_bias+relu"], "grouped"


def test_a_window_computes_what_stands_before_it_alone() -> None:
    net = NetBuilder("first")
    x = net.relu(net.input("data", 2, 3, 7, 7), "relu1", "relu1")
    net.graph.outputs["y"] = net.pool(x, "pool1")
    program = plan(net.graph)
    assert "relu" not in [step.kernel.name for step in program.steps]
    assert "is not read by pool1" in sentences(program, "blob:relu1")
    check_program(program, net.graph)
    check_program(plan(net.graph, keep=["relu1"]), net.graph)


def test_in_place_or_not_is_explained() -> None:
    net = NetBuilder("chain")
    x = net.pool(net.conv(net.input("data", 1, 2, 6, 6), "conv1", 2, 3), "pool1", 2, 1)
    net.graph.outputs["y"] = net.relu(net.norm(x, "norm1"), "relu2", "y")
    free = plan(net.graph, join=False)
    assert "overwrites conv1" in sentences(free, "blob:relu1") or "overwrites" in sentences(
        free, "blob:conv1"
    )
    graph = net.gradients(["data"], ["y"])
    held = plan(graph, join=False)
    text = "\n".join(map(str, held.remarks))
    assert "still reads it" in text
    assert "is not overwritten by norm1" in text


def test_explain_knows_its_names(trained: Graph) -> None:
    program = plan(trained)
    assert explain(program, "conv1/0")
    with pytest.raises(NetError, match="did you mean 'pool1'"):
        explain(program, "pool9")


def test_the_memory_table_and_the_text_show_everything(trained: Graph) -> None:
    program = plan(trained)
    table, text = memory_table(program), print_program(program)
    for row in memory_rows(program):
        assert row.name in table
    for number in (program.memory.peak, program.memory.bound_of_order, program.memory.naive):
        assert f"{number:,} bytes" in table
    assert text.count("\n  kernel ") == 0
    assert "conv2, relu2 (Convolution, ReLU)" in text
    assert str(program.slots[1].type) in text


# -- costs -----------------------------------------------------------------------------------------


def test_caffenet_stays_within_its_memory() -> None:
    for batch, jobs in ((16, ("saliency", "train", "both")), (64, ("train",))):
        for job in jobs:
            net = caffenet(batch)
            wrt = {"saliency": ["data"], "train": net.parameters}.get(
                job, ["data", *net.parameters]
            )
            graph = net.gradients(wrt, ["fc8"], net.parameters)
            seconds = math.inf
            for _ in range(2):  # into one of them may fall a collection of all tests' garbage
                start = time.process_time()
                program = plan(graph)
                seconds = min(seconds, time.process_time() - start)
            report = program.memory
            assert report.peak <= 1.05 * report.bound_of_order
            assert report.bound_of_any_order <= report.bound_of_order
            assert seconds < 2.0, "0.1 s on an idle machine"
            if batch == 64:
                beyond = report.peak + report.slots["input"] + report.slots["output"]
                assert beyond <= 200 * 2**20


def test_an_empty_net_has_an_empty_plan() -> None:
    graph = Graph("nothing")
    x = graph.input("data", TensorType("float32", (2,)))
    graph.blobs["data"] = graph.outputs["data"] = x
    program = plan(graph)
    found = run_program(program, graph, {"data": np.ones(2, np.float32)})
    np.testing.assert_array_equal(found["output data"], np.ones(2, np.float32))
    assert expected(graph, {"data": np.ones(2, np.float32)})["output data"].sum() == 2
