"""THE operator table: every operator and every example it gives goes through the same tests.

The reference is compared with `infer`; the kernel, interpreted and compiled, with the reference;
the gradient with central differences in float64. A new operator is tested by giving examples.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from native_kernels import NativeKernel, compile_kernels

import graphc.ops
from graphc.codegen.llvm.target import Target
from graphc.ir.graph import Graph, Value
from graphc.ir.op import REGISTRY, Example, Op
from graphc.ir.printer import print_op
from graphc.ir.reader import parse_op
from graphc.ir.reference import run
from graphc.ir.types import TensorType
from graphc.ir.verify import verify
from graphc.kernel.build import kernel_of
from graphc.kernel.facts import may_overwrite
from graphc.kernel.interp import interpret
from graphc.kernel.lang import Kernel
from graphc.passes.backward import backward
from graphc.passes.expand import expand

for module in pkgutil.iter_modules(graphc.ops.__path__):
    importlib.import_module(f"graphc.ops.{module.name}")

# float32 has 24 bits, so one operation errs by 6e-8 of its result; sums over some hundred products
# and the vector functions' 4 ulp stay well below this share of the largest element.
TOLERANCE = {"float32": 2e-5, "float64": 1e-12}
DTYPES = ["float32", "float64"]

# Only gradients make these, and there is no second order.
MADE_BY_GRADIENTS = {"lrn_quotient"}


def cases() -> list[object]:
    found = []
    for name in sorted(REGISTRY):
        for number, example in enumerate(REGISTRY[name].examples()):
            found.append(pytest.param(example, id=f"{name}-{number}"))
    return found


CASES = cases()
KERNELS = [case for case in CASES if type(case.values[0].op).kernel is not Op.kernel]
EXPANDED = [case for case in CASES if case not in KERNELS]


def generator(example: Example) -> np.random.Generator:
    """A generator of its own for each example, the same in every run."""
    return np.random.default_rng(zlib.crc32(str(example.op).encode()))


def draw(example: Example, dtype: str) -> list[np.ndarray]:
    """The example's inputs; reals in the given dtype."""
    rng = generator(example)
    arrays = [np.asarray(sample.draw(rng)) for sample in example.inputs]
    return [array.astype(dtype) if array.dtype.kind == "f" else array for array in arrays]


def has_images(example: Example) -> bool:
    """Whether an input or output has four axes, so that its layout can be channels-last."""
    arrays = draw(example, "float32")
    return any(type.rank == 4 for type in (*types_of(arrays), *inferred(example.op, arrays)))


def types_of(arrays: Sequence[np.ndarray]) -> list[TensorType]:
    return [TensorType(str(array.dtype), array.shape) for array in arrays]


def inferred(op: Op, arrays: Sequence[np.ndarray]) -> tuple[TensorType, ...]:
    types = op.infer(*types_of(arrays))
    return types if isinstance(types, tuple) else (types,)


def expected(op: Op, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    found = op.reference(*(array.copy() for array in arrays))
    return [np.asarray(part) for part in (found if isinstance(found, tuple) else (found,))]


def poison(type: TensorType) -> np.ndarray:
    """An array whose every element is wrong until somebody writes it."""
    value = np.nan if type.is_real else np.iinfo(type.dtype).max
    return np.full(type.shape, value, type.dtype)


def assert_close(got: np.ndarray, wanted: np.ndarray, what: str) -> None:
    assert got.shape == wanted.shape, what
    assert got.dtype == wanted.dtype, what
    finite = np.abs(wanted[np.isfinite(wanted)])
    scale = max(1e-30, finite.max()) if finite.size else 1.0
    limit = TOLERANCE.get(str(wanted.dtype), 0.0) * scale
    np.testing.assert_allclose(got, wanted, rtol=0, atol=limit, err_msg=what)


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_every_operator_has_doc_and_examples(name: str):
    assert (REGISTRY[name].__doc__ or "").strip()
    assert list(REGISTRY[name].examples())


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_only_gradients_go_without_a_gradient(name: str):
    op = REGISTRY[name]
    made_by_gradients = "gradient" in name or name in MADE_BY_GRADIENTS
    assert op.gradient is not Op.gradient or op.gradient_stops or made_by_gradients


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("example", CASES)
def test_reference_has_the_inferred_types(example: Example, dtype: str):
    arrays = draw(example, dtype)
    found = expected(example.op, arrays)
    assert tuple(types_of(found)) == inferred(example.op, arrays)


@pytest.mark.parametrize("example", CASES)
def test_text_round_trip(example: Example):
    assert parse_op(print_op(example.op)) == example.op


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("example", EXPANDED)
def test_graph_written_out_is_the_reference(example: Example, dtype: str):
    arrays = draw(example, dtype)
    graph = Graph()
    for number, held in enumerate(types_of(arrays)):
        graph.input(f"x{number}", held)
    made = graph.apply(example.op, *graph.inputs())
    graph.outputs = {f"y{number}": value for number, value in enumerate(made)}
    written = expand(graph)
    verify(written)
    assert all(type(node.op).kernel is not Op.kernel for node in written.nodes)
    results = run(written, {f"x{number}": array for number, array in enumerate(arrays)})
    for number, wanted in enumerate(expected(example.op, arrays)):
        assert_close(results[written.outputs[f"y{number}"]], wanted, f"output {number}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("example", KERNELS)
def test_interpreted_kernel_is_the_reference(example: Example, dtype: str):
    arrays = draw(example, dtype)
    outputs = inferred(example.op, arrays)
    kernel = kernel_of(example.op, types_of(arrays), outputs)
    results = [poison(type) for type in outputs]
    assert interpret(kernel, [*arrays, *results]) == []
    for number, wanted in enumerate(expected(example.op, arrays)):
        assert_close(results[number], wanted, f"output {number} of {example.op}")


# -- sharing memory -------------------------------------------------------------------------------


def kernel_and_arrays(example: Example, dtype: str, layout: str) -> tuple[Kernel, list[np.ndarray]]:
    """The kernel with the given strides for rank 4, and its inputs, then poisoned outputs."""
    arrays = draw(example, dtype)
    outputs = inferred(example.op, arrays)
    types = [*types_of(arrays), *outputs]
    strides = [channels_last(t) if layout == "channels_last" else None for t in types]
    kernel = kernel_of(example.op, types_of(arrays), outputs, strides)
    return kernel, [*arrays, *(poison(type) for type in outputs)]


def channels_last(type: TensorType) -> tuple[int, ...] | None:
    """Strides of N,C,H,W stored as N,H,W,C; None for other ranks."""
    if type.rank != 4:
        return None
    _, c, h, w = type.shape
    return (h * w * c, 1, w * c, c)


def overwritable(kernel: Kernel) -> list[tuple[int, int]]:
    """(input, output) pairs that may share memory."""
    return [
        (i, j)
        for i in range(len(kernel.inputs))
        for j in range(len(kernel.outputs))
        if may_overwrite(kernel, i, j) is None
    ]


# The unkind schedules go one element at a time, so only small examples are tried with them.
SMALL = 600


@pytest.mark.parametrize("example", KERNELS)
def test_in_place_is_the_same_under_any_schedule(example: Example):
    kernel, arrays = kernel_and_arrays(example, "float64", "row_major")
    if sum(array.size for array in arrays) > SMALL:
        pytest.skip("too large to be interpreted element by element")
    count = len(kernel.inputs)
    for source, output in overwritable(kernel):
        actual = [array.copy() for array in arrays]
        actual[count + output] = actual[source]
        assert interpret(kernel, actual, np.random.default_rng(source)) == []
        for number, wanted in enumerate(expected(example.op, arrays[:count])):
            what = f"output {number} of {example.op} with output {output} in input {source}"
            assert_close(actual[count + number], wanted, what)


# -- machine code ---------------------------------------------------------------------------------


@functools.cache
def compiled(dtype: str, layout: str) -> dict[int, NativeKernel | Exception]:
    """Every example's kernel, compiled together; by the example's place among KERNELS."""
    chosen = {}
    for number, case in enumerate(KERNELS):
        kernel, _ = kernel_and_arrays(case.values[0], dtype, layout)
        if layout == "row_major" or any(len(buffer.shape) == 4 for buffer in kernel.buffers):
            chosen[number] = kernel
    made = compile_kernels(list(chosen.values()), Target.host())
    return dict(zip(chosen, made, strict=True))


NATIVE = [
    pytest.param(dtype, layout, number, id=f"{case.id}-{dtype}-{layout}")
    for number, case in enumerate(KERNELS)
    for dtype in DTYPES
    for layout in ("row_major", "channels_last")
    if layout == "row_major" or has_images(case.values[0])
]


@pytest.mark.parametrize(("dtype", "layout", "number"), NATIVE)
def test_machine_code_is_the_reference(dtype: str, layout: str, number: int):
    """Apart, and in place wherever the kernel allows it."""
    example = KERNELS[number].values[0]
    native = compiled(dtype, layout)[number]
    if isinstance(native, Exception):
        raise native
    kernel, arrays = kernel_and_arrays(example, dtype, layout)
    wanted = expected(example.op, arrays[: len(kernel.inputs)])
    apart = native(arrays)
    for position, part in enumerate(wanted):
        assert_close(apart[position], part, f"output {position} of {example.op}")
    for source, output in overwritable(kernel):
        again = native(arrays, {output: source})
        for position, part in enumerate(apart):
            np.testing.assert_array_equal(again[position], part, f"in place of input {source}")


# -- gradients ------------------------------------------------------------------------------------


def weighted(example: Example, arrays: list[np.ndarray]) -> tuple[Graph, list[Value], list[int]]:
    """A graph whose losses are the operator's real outputs, each times a random array."""
    graph = Graph()
    values = [
        graph.input(f"x{number}", TensorType(str(array.dtype), array.shape))
        for number, array in enumerate(arrays)
    ]
    rng = generator(example)
    for number, value in enumerate(graph.apply(example.op, *values)[: example.op.results]):
        if not value.type.is_real:
            continue
        graph.constants[f"w{number}"] = rng.uniform(0.5, 1.5, value.shape)
        weight = graph.input(f"w{number}", replace(value.type, dtype="float64"), "constant")
        graph.losses.append((value * weight, 1.0))
    wanted = [n for n, sample in enumerate(example.inputs) if sample.differentiable]
    return graph, values, wanted


def loss_at(example: Example, graph: Graph, arrays: list[np.ndarray]) -> float:
    """The sum of the weighted outputs, straight from the operator's reference."""
    found = expected(example.op, arrays)
    weights = graph.constants
    return float(
        sum((part * weights[f"w{n}"]).sum() for n, part in enumerate(found) if f"w{n}" in weights)
    )


def differences(example: Example, graph: Graph, arrays: list[np.ndarray], which: int) -> np.ndarray:
    """Central differences at up to 40 elements of input `which`, nan at the others."""
    result = np.full(arrays[which].shape, np.nan)
    size = result.size
    picked = np.linspace(0, size - 1, min(size, 40)).astype(int) if size else []
    for flat in picked:
        index = np.unravel_index(flat, result.shape)
        step = 1e-5 * max(1.0, abs(float(arrays[which][index])))
        sides = []
        for sign in (1, -1):
            moved = [array.copy() for array in arrays]
            moved[which][index] += sign * step
            sides.append(loss_at(example, graph, moved))
        result[index] = (sides[0] - sides[1]) / (2 * step)
    return result


def is_differentiable(example: Example) -> bool:
    own = type(example.op).gradient is not Op.gradient and not example.op.gradient_stops
    return own and any(sample.differentiable for sample in example.inputs)


DIFFERENTIABLE = [case for case in CASES if is_differentiable(case.values[0])]


@pytest.mark.parametrize("example", DIFFERENTIABLE)
def test_gradient_is_the_slope(example: Example):
    arrays = draw(example, "float64")
    graph, values, wanted = weighted(example, arrays)
    if not graph.losses:
        pytest.skip("no output is real")
    made = backward(graph, [values[n].name for n in wanted])
    verify(made)
    results = run(made, {value.name: array for value, array in zip(values, arrays, strict=True)})
    for number in wanted:
        got = results[made.outputs[f"x{number}.diff"]]
        slope = differences(example, graph, arrays, number)
        known = ~np.isnan(slope)
        # Differences of a sum of terms lose digits in proportion to the sum.
        noise = 1e-10 * abs(loss_at(example, graph, arrays))
        scale = max(np.abs(slope[known]).max(initial=0.0), noise * 1e4, 1e-6)
        error = np.abs(got - slope)[known].max(initial=0.0)
        assert error <= 2e-6 * scale, f"gradient of input {number}: {error / scale:.2g} of {scale}"
