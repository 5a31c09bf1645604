"""Maps that follow a reduction, an index of its results at a time: where, and that it is right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cuda_programs import needs_compiler
from native_programs import TARGETS
from plan_nets import check_program, expected, random_arrays, run_program

from graphc.back_ends import BACK_ENDS
from graphc.codegen.cuda.program import compile_cuda
from graphc.codegen.llvm import jit
from graphc.codegen.llvm.object import compile_program, llvm_text
from graphc.codegen.llvm.target import Target
from graphc.ir.core.axes import Sum
from graphc.ir.graph import Graph, Value
from graphc.ir.types import TensorType
from graphc.kernel.interp import interpret
from graphc.kernel.lang import Fold, Kernel, Store
from graphc.kernel.reading import parse_kernel
from graphc.kernel.store_loops import with_loops_in_store
from graphc.kernel.text import print_kernel
from graphc.kernel.verify import verify
from graphc.ops.linear import AddBias, Scale
from graphc.ops.moments import InverseDeviation, Moments, Standardize
from graphc.ops.neuron import Relu, Sigmoid
from graphc.passes.pipeline import compile_graph
from graphc.plan.cores import GPU, PROCESSOR, Cores
from graphc.plan.planner import plan
from graphc.plan.program import Program
from graphc.runtime import emulator
from graphc.runtime.cpu import Executable

EVERY = Cores(near_bytes=1 << 30, far_bytes=0, shares=1, run_bytes=0)
IMAGES = ((0, 2, 3), (2, 3), (1, 2, 3))  # batch, instance and layer normalisation
SHAPES = ((3, 4, 5, 7), (2, 3, 1, 1), (1, 5, 6, 6), (4, 2, 9, 17), (5, 1, 1, 33))


def normalised(
    shape: tuple[int, ...], axes: tuple[int, ...] = (0, 2, 3), dtype: str = "float32"
) -> Graph:
    """Normalisation with scale, bias and ReLU."""
    graph = Graph("norm")
    x = graph.input("x", TensorType(dtype, shape))
    mean, variance = Moments(axes)(x)
    y = Standardize(axes)(x, mean, InverseDeviation(1e-3)(variance))
    y = AddBias()(Scale()(y, vector(graph, "factor", x)), vector(graph, "shift", x))
    graph.outputs["y"] = graph.blobs["y"] = Relu()(y)
    return graph


def vector(graph: Graph, name: str, x: Value) -> Value:
    return graph.input(name, TensorType(x.type.dtype, (x.shape[1],)), "parameter")


def trained(graph: Graph) -> Graph:
    return compile_graph(graph, ["x", "factor", "shift"], ["y"]).graph


def sweeps(program: Program) -> list[Kernel]:
    """Kernels that reduce something and then make something as large as they read."""
    kernels = [step.kernel for step in program.steps]
    return [k for k in kernels if any(isinstance(s, Fold) for s in k.body) and has_map(k)]


def has_map(kernel: Kernel) -> bool:
    return any(isinstance(s, Store) and len(s.axes) > 0 for s in kernel.body)


def said(program: Program) -> str:
    return "\n".join(r.sentence for r in program.remarks if r.stage == "join")


# -- kernels --


MAP = """kernel m(x: float32[2, 3, 4], f: float32[3], y: float32[2, 3, 4]) each n:2 c:3 i:4
  a = mul(f[c], 2.0)
  b = mul(x[n, c, i], a)
  d = add(b, b)
  y[n, c, i] = max(d, b)"""


@pytest.mark.parametrize("names", ["c", "n", "i", "nc", "ci", ""])
def test_a_map_with_loops_in_its_store_computes_the_same(names: str) -> None:
    kernel = parse_kernel(MAP)
    made = with_loops_in_store(kernel, [axis for axis in kernel.each if axis.name in names])
    assert isinstance(made, Kernel)
    verify(made)
    rng = np.random.default_rng(1)
    x, f = rng.standard_normal((2, 3, 4)).astype("f"), rng.standard_normal(3).astype("f")
    found = [np.full((2, 3, 4), np.nan, "f") for _ in range(2)]
    for one, y in zip((kernel, made), found, strict=True):
        interpret(one, [x, f, y])
    np.testing.assert_array_equal(*found)


def test_what_does_not_change_along_the_moved_loops_stays_outside() -> None:
    kernel = parse_kernel(MAP)
    made = with_loops_in_store(kernel, kernel.each[1:2])
    assert isinstance(made, Kernel)
    assert "each c:3\n  a = mul(f[c], 2.0)\n  y[n, c, i] = max(" in print_kernel(made)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("y[n, 0] += x[n, c]", "may store an element of y twice"),
        ("y[n, 0] = x[n, c]", "may store an element of y twice"),
        ("y[n, c] = x[n, c]\n  z[n, c] = x[n, c]", "more than to make one element"),
        ("t = sum r:3 x[n, r]\n  y[n, c] = t", "more than to make one element"),
    ],
)
def test_only_maps_can_be_turned(body: str, reason: str) -> None:
    more = ", z: float32[2, 3]" * ("z[" in body)
    head = f"kernel m(x: float32[2, 3], y: float32[2, 3]{more}) each n:2 c:3\n  "
    kernel = parse_kernel(head + body)
    made = with_loops_in_store(kernel, kernel.each[:1])
    assert isinstance(made, str)
    assert reason in made


# -- where --


LARGE = (64, 96, 32, 32)  # 24 MiB


def test_a_batch_norm_in_rows_is_one_sweep_of_memory_each_way() -> None:
    program = plan(trained(normalised(LARGE)))
    assert len(sweeps(program)) == 2
    assert "goes over what" in said(program)
    assert "x, 256 KiB at a time" in said(program)
    forward, backward = sweeps(program)
    assert len(forward.outputs) == 3  # the mean and the factor are for backward
    assert {store.buffer.shape for store in stores(backward)} == {LARGE, (96,)}


def stores(kernel: Kernel) -> list[Store]:
    return [s for s in kernel.body if isinstance(s, Store)]


def test_what_only_the_map_reads_is_not_stored() -> None:
    program = plan(compile_graph(normalised(LARGE)).graph)
    (kernel,) = sweeps(program)
    assert [b.shape for b in kernel.outputs] == [LARGE]
    assert len(program.steps) == 1
    assert "moments is not stored" in said(program)


@pytest.mark.parametrize("axes", IMAGES)
def test_other_normalisations_are_joined_as_well(axes: tuple[int, ...]) -> None:
    program = plan(compile_graph(normalised(LARGE, axes)).graph)
    assert len(sweeps(program)) == 1


@pytest.mark.parametrize(
    ("shape", "axes", "reason"),
    [
        ((8, 96, 32, 32), (0, 2, 3), "the caches still hold x (3 MiB) when it begins"),
        ((512, 16, 32, 32), (0, 2, 3), "16 sums, each with its part of the map, are too few"),
        ((2048, 32, 32, 32), (0, 2, 3), "of x 8 MiB at a time are too much to stay near"),
        ((64, 512, 14, 14), (0, 2, 3), "lies in pieces of 784 bytes in x"),
        ((64, 32, 32, 96), (0, 1, 2), "lies in pieces of 4 bytes in x"),
    ],
)
def test_elsewhere_it_says_why_not(
    shape: tuple[int, ...], axes: tuple[int, ...], reason: str
) -> None:
    graph = Graph("norm")
    x = graph.input("x", TensorType("float32", shape))
    mean, variance = Moments(axes)(x)
    graph.outputs["y"] = Standardize(axes)(x, mean, InverseDeviation(1e-3)(variance))
    program = plan(graph)
    assert not sweeps(program)
    assert len(program.steps) == 2
    assert reason in said(program)


def test_a_map_of_another_array_reads_nothing_again() -> None:
    graph = Graph("other")
    x, z = (graph.input(name, TensorType("float32", LARGE)) for name in "xz")
    mean, variance = Moments((0, 2, 3))(x)
    graph.outputs["y"] = Standardize((0, 2, 3))(z, mean, InverseDeviation(1e-3)(variance))
    program = plan(graph, cores=EVERY)
    assert not sweeps(program)
    assert "goes over" not in said(program)


def test_a_gpu_runs_a_map_by_itself() -> None:
    program = plan(compile_graph(normalised(LARGE)).graph, cores=GPU)
    assert not sweeps(program)
    for name, end in BACK_ENDS.items():
        assert end.cores == (PROCESSOR if name == "cpu" else GPU)


def test_each_limit_alone_decides() -> None:
    graph = compile_graph(normalised((2, 3, 4, 4))).graph
    assert sweeps(plan(graph, cores=EVERY))
    for limits in (
        {"near_bytes": 0},
        {"near_bytes": 127},
        {"far_bytes": 385},
        {"shares": 4},
        {"run_bytes": 65},
    ):
        assert not sweeps(plan(graph, cores=replace(EVERY, **limits))), limits
    close = Cores(near_bytes=128, far_bytes=384, shares=3, run_bytes=64)
    assert sweeps(plan(graph, cores=close))


# -- right --


@pytest.mark.parametrize("memory", ["all", "reuse"])
@pytest.mark.parametrize("axes", IMAGES)
@pytest.mark.parametrize("shape", SHAPES)
def test_joined_programs_give_the_reference(shape, axes, memory) -> None:
    graph = trained(normalised(shape, axes, "float64"))
    program = plan(graph, memory=memory, cores=EVERY)
    check_program(program, graph)
    check_program(program, graph, apart=True)
    if shape == SHAPES[0]:
        assert len(sweeps(program)) == 2


def test_joining_changes_no_bit() -> None:
    graph = trained(normalised((3, 4, 5, 7), dtype="float64"))
    arrays = random_arrays(graph)
    one, two = (run_program(plan(graph, cores=c), graph, arrays) for c in (EVERY, GPU))
    for name in one.keys() & two.keys():
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


def test_the_gradient_may_lie_where_the_gradient_was() -> None:
    graph = Graph("chain")
    x = graph.input("x", TensorType("float64", (3, 4, 5, 7)))
    for _ in range(3):
        mean, variance = Moments((0, 2, 3))(x)
        x = Sigmoid()(Standardize((0, 2, 3))(x, mean, InverseDeviation(1e-3)(variance)))
    graph.outputs["y"] = graph.blobs["y"] = x
    made = compile_graph(graph, ["x"], ["y"]).graph
    joined, apart = (plan(made, cores=cores) for cores in (EVERY, GPU))
    check_program(joined, made)
    assert len(sweeps(joined)) == 6
    assert joined.arena_bytes <= apart.arena_bytes


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("axes", IMAGES)
def test_machine_code_is_right_with_any_number_of_threads(axes, target: str) -> None:
    for shape in SHAPES:
        graph = trained(normalised(shape, axes))
        program = plan(graph, cores=EVERY)
        executable = jit.load(compile_program(program, Target.named(target)))
        compare(executable, graph, threads=(1, 2, 3))


@pytest.mark.parametrize("target", TARGETS)
def test_rows_past_the_caches_are_right(target: str) -> None:
    """Rows that begin anywhere, in several pieces for each sum, of arrays that no cache holds."""
    machine = replace(Target.named(target), l1_bytes=256, l2_bytes=128)
    for shape in ((3, 4, 11, 13), (2, 5, 16, 16), (3, 3, 1, 131)):
        graph = trained(normalised(shape))
        program = plan(graph, cores=EVERY)
        assert len(sweeps(program)) == 2
        assert ("!nontemporal" in llvm_text(program, machine)) == (machine.vector_bytes > 16)
        executable = jit.load(compile_program(program, machine))
        compare(executable, graph, threads=(1, 2, 3))


@needs_compiler
@pytest.mark.parametrize("axes", IMAGES)
def test_cuda_is_right_where_kernels_are_joined(axes) -> None:
    graph = trained(normalised((3, 4, 5, 33), axes))
    program = plan(graph, cores=EVERY)
    assert len(sweeps(program)) == 2
    compare(emulator.load(compile_cuda(program)), graph, threads=(1,))


def compare(executable: Executable, graph: Graph, threads: tuple[int, ...]) -> None:
    """Check all outputs of a run with poisoned memory; each run gives the same bits."""
    arrays = random_arrays(graph)
    wanted = expected(graph, {name: a.astype("float64") for name, a in arrays.items()})
    bound = executable.bind_new()
    for name, array in arrays.items():
        bound[name][...] = array
    for count in threads:
        before = None
        for _ in range(2):
            executable.arena[...] = 0xFF
            for name in graph.outputs:
                bound[name][...] = np.nan
            executable.call("both", count)
            found = {name: np.array(bound[name]) for name in graph.outputs}
            for name, array in found.items():
                right = wanted[f"output {name}"]
                np.testing.assert_allclose(array, right, rtol=2e-4, atol=2e-4, err_msg=name)
                assert before is None or np.array_equal(array, before[name])
            before = found


def test_a_sum_and_a_quotient_are_joined() -> None:
    """Not only normalisation: whatever reads again what was summed up."""
    graph = Graph("share")
    x = graph.input("x", TensorType("float64", (6, 3, 20)))
    total = Sum((1, 2))(x)
    graph.outputs["y"] = Scale(0)(x, total)
    program = plan(graph, cores=EVERY)
    assert len(sweeps(program)) == 1
    check_program(program, graph)
