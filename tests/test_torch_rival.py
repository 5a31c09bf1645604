"""The rival of `graphc bench` computes what the operators mean; every operator has its word there.

torch is no dependency: without it only the tables are tested.
"""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
from test_operators import CASES, draw, expected, generator, is_differentiable, types_of

from graphc.bench.torch_emit import TRANSLATIONS
from graphc.bench.torch_rival import BEYOND_TORCH, TorchRun, Workload
from graphc.error import NetError
from graphc.ir.graph import Graph
from graphc.ir.op import REGISTRY, Example
from graphc.ir.reference import run
from graphc.ir.types import TensorType
from graphc.ops.elementwise import Map
from graphc.ops.pool import MaxPool, MaxPoolMask
from graphc.ops.rows import TakeRows
from graphc.passes.backward import backward

with_torch = pytest.mark.skipif(
    find_spec("torch") is None, reason="needs torch, which is no dependency"
)

# Made by the backward pass or by a solver, where torch has autograd: no forward graph holds them.
BACKWARD = {
    *(name for name in REGISTRY if "gradient" in name or name.endswith("_update")),
    *("add_rows", "clip_factor", "lrn_quotient", "mass_slope", "weight_decay"),
}


def is_translated(name: str) -> bool:
    return name in TRANSLATIONS or issubclass(REGISTRY[name], Map)


def test_every_forward_operator_is_translated_or_says_why_not():
    missing = {
        name
        for name in REGISTRY
        if not is_translated(name) and name not in BACKWARD and name not in BEYOND_TORCH
    }
    assert missing == set()
    assert {name for name in BEYOND_TORCH if is_translated(name)} == set()


# torch draws dropout by a generator of its own; places of maxima come from torch's own pooling.
UNLIKE = {"dropout", "max_pool_mask"}
EQUAL_NUMBERS = {"arg_max-2"}  # which torch leaves in any order
COMPARED = [
    case
    for case in CASES
    if is_translated(case.values[0].op.op_name)
    and case.values[0].op.op_name not in BACKWARD | UNLIKE
    and case.id not in EQUAL_NUMBERS
]


def workload(example: Example, arrays: list[np.ndarray]) -> Workload:
    """The operator alone, with gradients arriving at its real results,"""
    graph = Graph()
    names = [f"x{number}" for number in range(len(arrays))]
    values = [graph.input(n, held) for n, held in zip(names, types_of(arrays), strict=True)]
    made = graph.apply(example.op, *values)[: example.op.results]
    real = {f"y{number}": value for number, value in enumerate(made) if value.type.is_real}
    graph.outputs = dict(real)
    graph.blobs.update(real)
    wrt, given = [], {}
    if is_differentiable(example) and real:
        rng = generator(example)
        wrt = [n for n, sample in zip(names, example.inputs, strict=True) if sample.differentiable]
        given = {name: rng.uniform(0.5, 1.5, value.shape) for name, value in real.items()}
    return Workload(graph, dict(zip(names, arrays, strict=True)), tuple(wrt), given)


@with_torch
@pytest.mark.parametrize("example", COMPARED if find_spec("torch") else COMPARED[:1])
def test_torch_computes_what_the_operator_means(example: Example):
    arrays = draw(example, "float64")
    work = workload(example, arrays)
    found = TorchRun(work, "eager", 1, double=True).results()
    for number, wanted in enumerate(expected(example.op, arrays)):
        if f"y{number}" in work.graph.outputs:
            np.testing.assert_allclose(found[f"y{number}"], wanted, rtol=1e-9, atol=1e-9)
    if work.wrt:
        made = backward(work.graph, work.wrt, tuple(work.given))
        inputs = dict(work.arrays) | {f"{n}.diff": dy for n, dy in work.given.items()}
        results = run(made, inputs)
        for name in work.wrt:
            wanted = results[made.outputs[f"{name}.diff"]]
            np.testing.assert_allclose(found[f"{name}.diff"], wanted, rtol=1e-8, atol=1e-8)


@with_torch
def test_what_torch_cannot_run_is_refused_with_its_reason():
    graph = Graph()
    example = next(case.values[0] for case in CASES if case.values[0].op.op_name == "roi_max_pool")
    arrays = draw(example, "float32")
    values = [graph.input(f"x{n}", held) for n, held in enumerate(types_of(arrays))]
    graph.outputs = {"y": graph.apply(example.op, *values)[0]}
    inputs = {f"x{n}": array for n, array in enumerate(arrays)}
    with pytest.raises(NetError, match=r"'roi_max_pool'.*: torch has no pooling of regions"):
        TorchRun(Workload(graph, inputs), "eager", 1)


@with_torch
def test_rows_of_a_list_are_its_numbers():
    graph = Graph()
    table, row = np.array([3, 1, 4], "float32"), np.array([2, 0], "float32")
    values = [graph.input(n, held) for n, held in zip("tr", types_of([table, row]), strict=True)]
    graph.outputs = {"y": TakeRows()(*values)}
    found = TorchRun(Workload(graph, {"t": table, "r": row}), "eager", 1).results()
    assert found["y"].tolist() == [4, 3]


@with_torch
def test_places_of_maxima_are_counted_alike():
    graph = Graph()
    x = np.random.default_rng(3).permutation(2 * 3 * 7 * 6).reshape(2, 3, 7, 6).astype("float32")
    windows = {"size": (3, 2), "strides": (2, 2), "pads": ((1, 1), (0, 0))}
    pool = MaxPool(**windows, output=(4, 3))
    y, index = graph.apply(pool, graph.input("x", TensorType("float32", x.shape)))
    graph.outputs = {"y": y, "mask": MaxPoolMask("float32", (7, 6), **windows)(index)}
    found = TorchRun(Workload(graph, {"x": x}), "eager", 1).results()
    wanted = run(graph, {"x": x})
    for name, value in graph.outputs.items():
        np.testing.assert_array_equal(found[name], wanted[value])
