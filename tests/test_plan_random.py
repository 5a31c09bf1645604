"""Random graphs through the planner: every mode gives the reference, on poisoned memory."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plan_nets import NetBuilder, check_program

from graphc.ir.core.axes import Broadcast, Sum, Transpose
from graphc.ir.core.elementwise import Add, Multiply, Shift, StopGradient, Times
from graphc.ir.core.fill import fill_like
from graphc.ir.core.view import View
from graphc.ir.graph import Graph, Value
from graphc.ops.conv import Conv
from graphc.ops.neuron import Relu
from graphc.ops.pool import MaxPool
from graphc.ops.shape import Concat, Slice
from graphc.passes.pipeline import compile_graph
from graphc.plan import unread
from graphc.plan.explain import memory_rows
from graphc.plan.planner import plan

KINDS = (
    *("add", "multiply", "times", "relu", "sum", "spread", "view", "turn"),
    *("fill", "concat", "slice", "conv", "max_pool", "twice", "stop"),
)
SHAPES = ((2, 4, 3, 3), (2, 4, 1, 1), (2, 36), (4, 2), (8,))


def grow(draw: st.DrawFn, net: NetBuilder, pool: list[Value], number: int) -> None:
    """Apply one randomly drawn operator to values drawn from the pool, old ones included."""
    x = pool[draw(st.integers(0, len(pool) - 1))]
    alike = [value for value in pool if value.type == x.type]
    other = alike[draw(st.integers(0, len(alike) - 1))]
    kind = draw(st.sampled_from(KINDS))
    net.layer(f"layer{number}", kind)
    made: list[Value] = []
    if kind == "add":
        made = [Add()(x, other)]
    elif kind == "multiply":
        made = [Multiply()(x, other)]
    elif kind == "times":
        made = [Shift(0.5)(Times(-0.25)(x))]
    elif kind == "relu":
        made = [Relu()(x)]
    elif kind == "sum":
        made = [Sum((x.type.rank - 1,))(x)] if x.type.rank > 1 else []
    elif kind == "spread":
        made = [Broadcast((3, *x.shape), (0,))(x)] if x.type.rank < 4 else []
    elif kind == "view":
        made = [View((x.shape[0], x.type.size // x.shape[0]))(x)]
    elif kind == "turn":
        made = [Transpose(tuple(reversed(range(x.type.rank))))(x)]
    elif kind == "fill":
        made = [Add()(x, fill_like(x, 0.75))]
    elif kind == "concat":
        made = [Concat(draw(st.integers(0, x.type.rank - 1)))(x, other, x)]
    elif kind == "slice":
        axis = draw(st.integers(0, x.type.rank - 1))
        made = list(Slice(axis, (1,))(x)) if x.shape[axis] > 1 else []
    elif kind == "conv" and x.type.rank == 4:
        group = 2 if x.shape[1] % 2 == 0 else 1
        w = net.parameter(f"w{number}", 4, x.shape[1] // group, 3, 3)
        made = [Conv((1, 1), ((1, 1), (1, 1)), (1, 1), group)(x, w)]
    elif kind == "max_pool" and x.type.rank == 4 and min(x.shape[2:]) > 1:
        made = list(MaxPool((2, 2), (1, 1), ((0, 0),) * 2, tuple(e - 1 for e in x.shape[2:]))(x))
        made = made[:1]
    elif kind == "twice":
        made = [x + x]
    elif kind == "stop":
        made = [StopGradient()(x)]
    for position, value in enumerate(made):
        if value.type.size <= 2000:
            pool.append(net.blob(f"blob{number}.{position}", value))


@st.composite
def nets(draw: st.DrawFn) -> tuple[Graph, list[str]]:
    """A graph with its backward pass, and the names of blobs to keep."""
    net = NetBuilder("random")
    pool = [net.input(f"in{i}", *shape) for i, shape in enumerate(SHAPES)]
    for number in range(draw(st.integers(8, 24))):
        grow(draw, net, pool, number)
    made = [name for name in net.graph.blobs if name.startswith("blob")]
    if not made:
        made = ["in0"]
    ends = draw(st.lists(st.sampled_from(made), min_size=1, max_size=3, unique=True))
    for name in ends:
        net.graph.outputs[name] = net.graph.blobs[name]
    wrt = ["in0", "in1", *net.parameters]
    accumulate = draw(st.sets(st.sampled_from(net.parameters))) if net.parameters else set()
    keep = draw(st.lists(st.sampled_from(made), max_size=2, unique=True))
    graph = compile_graph(net.graph, wrt, ends, frozenset(accumulate), keep=keep).graph
    return graph, keep


@settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(nets())
def test_every_mode_gives_the_reference(drawn: tuple[Graph, list[str]]) -> None:
    graph, keep = drawn
    apart = plan(graph, memory="all", join=False)
    everything = plan(graph, memory="all")
    reuse = plan(graph, keep=keep)
    kept = [name for name in keep if name in graph.blobs]
    assert set(kept) <= set(reuse.readable)
    alone = plan(graph, keep=keep, join=False)
    found = [
        check_program(apart, graph),
        check_program(everything, graph),
        check_program(reuse, graph),
        check_program(alone, graph),
        check_program(reuse, graph, apart=True),
    ]
    for name, array in found[2].items():
        for other in found:
            if name in other:
                np.testing.assert_array_equal(array, other[name], err_msg=name)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(nets())
def test_what_is_called_unread_goes_to_the_user_alone(drawn: tuple[Graph, list[str]]) -> None:
    graph, keep = drawn
    with patch.object(unread, "LEAST_BYTES", 1):
        program = plan(graph, keep=keep)
    read = {
        program.buffers[n].slot for s in program.steps for n in s.arguments[: len(s.kernel.inputs)]
    }
    for step in program.steps:
        writes = step.arguments[len(step.kernel.inputs) :]
        for buffer, name in zip(step.kernel.outputs, writes, strict=True):
            slot = program.buffers[name].slot
            alone = program.slots[slot].role == "output" and slot not in read
            assert (buffer.name in step.kernel.unread) == alone, name


@settings(max_examples=60, deadline=None, derandomize=True)
@given(nets())
def test_the_arena_is_tight_and_the_bounds_hold(
    drawn: tuple[Graph, list[str]],
) -> None:
    graph, keep = drawn
    program = plan(graph, keep=keep)
    report = program.memory
    blocks = sum(buffer.slot == 0 for buffer in program.buffers.values())
    assert report.bound_of_any_order <= report.bound_of_order <= report.peak
    # Small buffers: the padding of each to 64 bytes is the larger part of what is lost.
    assert report.peak <= 1.1 * report.bound_of_order + 64 * blocks
    assert report.peak <= report.naive + 64 * blocks
    for buffer in program.buffers.values():
        assert buffer.slot or buffer.offset + buffer.span_bytes <= program.arena_bytes


def test_the_random_graphs_reach_every_kind() -> None:
    """The generator is worth something only if views, copies, joins and sharing all happen."""
    seen: set[str] = set()

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(nets())
    def look(drawn: tuple[Graph, list[str]]) -> None:
        for join in (True, False):
            program = plan(drawn[0], join=join)
            seen.update(remark.stage for remark in program.remarks)
            seen.update(row.shares.split(" ")[0] for row in memory_rows(program))
            seen.update("joined" for step in program.steps if "+" in step.kernel.name)

    look()
    assert {"layout", "share", "joined", "over", "shows", "part"} <= seen
