"""Choices of the CUDA back end that depend on sizes: small kernels on the other side of each.

Each constant that code generation compares sizes with is moved until the code of some kernels
changes; those are run by the emulator, in the order of the threads and in a random one, and
compared with the references. The shapes are hostile: one row or column, images of one pixel,
channels that are no multiple of four, groups, dilation.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from cuda_programs import KernelTable, needs_compiler
from native_programs import Assembly
from test_operators import kernel_and_arrays, overwritable

import graphc
from graphc.codegen.cuda import expressions
from graphc.codegen.cuda.kernel import emit_kernel
from graphc.codegen.cuda.program import compile_cuda
from graphc.codegen.cuda.tile_shape import TENSOR_TILES, THREAD_TILES
from graphc.codegen.cuda.tiles import Choice
from graphc.ir.op import Example, Op, normal
from graphc.ir.types import TensorType
from graphc.kernel.build import kernel_of
from graphc.kernel.lang import Kernel
from graphc.ops.conv import Conv, ConvDataGradient, ConvWeightGradient
from graphc.ops.linear import AddBias, MatMul
from graphc.ops.lrn import Lrn
from graphc.ops.moments import Moments
from graphc.ops.neuron import Relu
from graphc.ops.pool import AvgPool, MaxPool
from graphc.ops.softmax import Softmax, SoftmaxGradient
from graphc.runtime.emulator import load

pytestmark = needs_compiler

Shape = tuple[int, ...]
ENOUGH = 2  # kernels whose code depends on a constant
LIMITS = {False: 3e-5, True: 3e-3}  # of the largest value; tf32 has 10 bits after the point


@dataclass(frozen=True)
class Case:
    """An operator on arrays of these shapes."""

    op: Op
    shapes: tuple[Shape, ...]
    layout: str = "row_major"

    def made(self) -> tuple[Kernel, list[np.ndarray]]:
        example = Example(self.op, *(normal(*shape) for shape in self.shapes))
        return kernel_and_arrays(example, "float32", self.layout)

    @property
    def is_product(self) -> bool:
        return isinstance(self.op, (Conv, ConvDataGradient, ConvWeightGradient, MatMul))


def products() -> list[Case]:
    sizes = ((33, 300, 17), (8, 70, 129), (64, 129, 40), (20, 3000, 20))
    return [
        Case(MatMul(left, right), ((k, m) if left else (m, k), (n, k) if right else (k, n)))
        for m, k, n in sizes
        for left in (False, True)
        for right in (False, True)
    ]


# (strides, pads, dilations, groups), shape of x, shape of w
GEOMETRIES = (
    (((1, 1), ((1, 1), (1, 1)), (1, 1), 1), (3, 10, 1, 1), (9, 10, 3, 3)),
    (((1, 1), ((1, 1), (1, 1)), (1, 1), 1), (1, 12, 9, 8), (20, 12, 3, 3)),
    (((2, 1), ((2, 2), (0, 1)), (2, 1), 1), (2, 9, 11, 7), (13, 9, 3, 2)),
    (((1, 1), ((2, 2), (2, 2)), (1, 1), 3), (2, 24, 7, 5), (27, 8, 5, 5)),
    (((3, 2), ((0, 0), (0, 0)), (1, 1), 1), (2, 16, 10, 9), (8, 16, 1, 1)),
    (((1, 1), ((0, 0), (0, 0)), (2, 2), 2), (1, 16, 9, 9), (34, 8, 3, 3)),
)


def convolutions() -> list[Case]:
    found = []
    for geometry, x, w in GEOMETRIES:
        y = Conv(*geometry).infer(TensorType("float32", x), TensorType("float32", w))
        assert isinstance(y, TensorType)
        for layout in ("channels_last", "row_major"):
            found += [
                Case(Conv(*geometry), (x, w), layout),
                Case(ConvDataGradient(x[2:], *geometry), (y.shape, w), layout),
                Case(ConvWeightGradient(w[2:], *geometry), (x, y.shape), layout),
            ]
    return found


def maps() -> list[Case]:
    """What runs by threads and by rows."""
    image, none = (2, 7, 11, 9), ((0, 0), (0, 0))
    rows = [(4, 1), (4, 3), (1, 5), (3, 17), (2, 32), (3, 1000), (2, 1027), (300, 40), (1, 4100)]
    found = [Case(Softmax(1), (shape,)) for shape in rows]
    found += [Case(SoftmaxGradient(1), (shape, shape)) for shape in rows[::2]]
    found += [Case(Relu(), (shape,)) for shape in ((1, 1), (1, 3), (17, 5), (5, 64), (129, 68))]
    found += [
        Case(Softmax(1), (image,), "channels_last"),
        Case(AddBias(1), ((33, 20), (20,))),
        Case(Lrn(5, 0.5, 0.75, 1.0), (image,), "channels_last"),
        Case(Lrn(3, 0.5, 0.75, 1.0), (image,)),
        Case(Moments((0, 2, 3)), (image,)),
        Case(Moments((0, 2, 3)), (image,), "channels_last"),
        Case(Moments((1,)), ((3, 2049),)),
        Case(AvgPool((3, 2), (2, 2), none, (5, 4)), (image,), "channels_last"),
        Case(MaxPool((1, 1), (1, 1), none, (11, 9)), (image,)),
    ]
    return found


MADE: dict[str, Callable[[], list[Case]]] = {
    "products": lambda: products() + convolutions(),
    "maps": maps,
    "all": lambda: products() + convolutions() + maps(),
}
# (module, constant, a value on the other side, whose code, by tensor cores)
MOVED: list[tuple[str, str, Any, str, bool]] = [
    ("schedule", "THREADS", 32, "maps", False),
    ("schedule", "ROW", 2, "maps", False),
    ("schedule", "ROW", 10**9, "maps", False),
    ("schedule", "ENOUGH", 8, "maps", False),
    ("kernel", "MOST_BLOCKS", 1, "maps", False),
    ("kept_rows", "LEAST_BYTES", 0, "maps", False),
    ("kept_rows", "LEAST_BYTES", 10**9, "maps", False),
    ("kept_rows", "MOST_BYTES", 5000, "maps", False),
    ("expressions", "INT_END", 64, "all", False),
    ("expressions", "INT_END", 64, "products", True),
    ("contraction", "SMALLEST_SIDE", 1, "products", False),
    ("contraction", "SMALLEST_SIDE", 10**9, "products", False),
    ("contraction", "SHORTEST_SUM", 1, "products", False),
    ("tile_shape", "LEAST_TURNS", 1, "products", False),
    ("tile_shape", "MOST_PARTS", 1, "products", False),
    ("tile_shape", "MOST_SCRATCH", 0, "products", False),
    ("tiles", "LONG_SUM", 48, "products", False),
    ("tiles", "TURNS", 1, "products", False),
    ("tiles", "MOST_SUMMING_BLOCKS", 1, "products", False),
    ("tile_arithmetic", "LONG_ROUNDED_SUM", 64, "products", True),
    *(("tile_arithmetic", "THREAD_TILES", (tile,), "products", False) for tile in THREAD_TILES),
    *(("tile_arithmetic", "TENSOR_TILES", (tile,), "products", True) for tile in TENSOR_TILES),
]
BESIDE: dict[str, list[tuple[str, str, Any]]] = {  # moved as well, for a constant to be met
    "TURNS": [("tiles", "LONG_SUM", 48)],
}


@functools.cache
def cases(which: str) -> list[Case]:
    found = MADE[which]()
    random.Random(2).shuffle(found)
    return found


def code(case: Case, tf32: bool) -> str:
    """CUDA text of a case's kernel, and how it is launched."""
    kernel, _ = case.made()
    every = frozenset(buffer.name for buffer in kernel.buffers)
    emitted = emit_kernel(kernel, "k", alone=True, choice=Choice(tf32, every))
    return f"{emitted.text} {emitted.grid} {emitted.threads} {emitted.summing}"


def check(chosen: Sequence[Case], tf32: bool) -> None:
    """Compare with the references, also in place wherever a kernel allows it."""
    table = KernelTable(tf32)
    runs = []
    for case in chosen:
        kernel, arrays = case.made()
        for place in (None, *overwritable(kernel)):
            runs.append((case, kernel, arrays, table.add(kernel, arrays, place)))
    for case, kernel, arrays, outputs in runs:
        inputs = [array.astype("float64") for array in arrays[: len(kernel.inputs)]]
        reference = case.op.reference(*inputs)
        wanted = reference if isinstance(reference, tuple) else (reference,)
        for name, want in zip(outputs, wanted, strict=True):
            in_order, at_random = (table.results(seed)[name] for seed in (0, 11))
            limit = LIMITS[tf32 and case.is_product] * np.abs(want).max(initial=1e-30)
            assert np.abs(in_order - want).max(initial=0) <= limit, case
            np.testing.assert_array_equal(at_random, in_order, str(case))


def shown(value: object) -> str:
    if isinstance(value, tuple):
        (tile,) = value
        return f"{tile.rows}x{tile.columns}"
    return str(value)


@pytest.mark.parametrize(
    ("module", "name", "value", "which", "tf32"),
    MOVED,
    ids=[f"{name}-{shown(value)}{'-tf32' * tf32}" for _, name, value, _, tf32 in MOVED],
)
def test_both_sides_of_a_threshold_are_right(
    module: str, name: str, value: Any, which: str, tf32: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = "graphc.codegen.cuda."
    for other, constant, number in BESIDE.get(name, []):
        monkeypatch.setattr(importlib.import_module(place + other), constant, number)
    tried = cases(which)
    usual = [code(case, tf32) for case in tried]
    monkeypatch.setattr(importlib.import_module(place + module), name, value)
    changed = (c for c, text in zip(tried, usual, strict=True) if code(c, tf32) != text)
    some = list(itertools.islice(changed, ENOUGH))
    if isinstance(value, tuple) and not some:
        assert f"in tiles of {shown(value).replace('x', ' x ')}" in usual[0]
        return  # the tile that all have
    assert some, "no kernel's code depends on it"
    check(some, tf32)


def test_hostile_shapes() -> None:
    """With all constants as they are, every case at once, in tiles of the chosen sizes."""
    check(cases("all"), False)


def test_hostile_shapes_by_tensor_cores() -> None:
    check([case for case in cases("products") if case.is_product], True)


# -- arrays that begin beside 16 bytes ------------------------------------------------------------


@pytest.mark.parametrize("tf32", [False, True], ids=["float32", "tf32"])
def test_accesses_of_16_bytes_stay_where_they_are_aligned(tf32: bool) -> None:
    """Arrays at 4, 8 and 12 bytes beside: the emulator refuses wide accesses there."""
    made = Assembly("beside")
    made.user("b", 64, 64)
    shifts = 1, 2, 3
    for shift in shifts:
        made.user(f"a{shift}", 64 * 64 + shift)
        made.user(f"y{shift}", 64, 64, role="output")
        made.user(f"z{shift}", 64 * 64 + shift, role="output")
        made.step(product(shift), [f"a{shift}", "b"], [f"y{shift}"])
        made.step(move(shift), [f"a{shift}"], [f"z{shift}"])
    executable = load(compile_cuda(made.program(), tf32))
    rng = np.random.default_rng(0)
    arrays = executable.bind_new()
    for name in ("b", *(f"a{shift}" for shift in shifts)):
        arrays[name][...] = rng.standard_normal(arrays[name].shape)
    executable.call("both")
    for shift in shifts:
        a = arrays[f"a{shift}"][shift:].astype("float64")
        wanted = a.reshape(64, 64) @ arrays["b"]
        error = np.abs(arrays[f"y{shift}"] - wanted).max()
        assert error <= LIMITS[tf32] * np.abs(wanted).max()
        moved = arrays[f"z{shift}"][shift:]
        np.testing.assert_array_equal(moved, np.maximum(a, 0).astype("float32"))


def product(shift: int) -> Callable[..., None]:
    def write(k: Any, a: Any, b: Any, y: Any) -> None:
        i, j = k.each(64, 64)
        s = k.axis(64)
        y[i, j] = k.sum(s, a[i * 64 + s + shift] * b[s, j])

    return write


def move(shift: int) -> Callable[..., None]:
    def write(k: Any, a: Any, z: Any) -> None:
        (i,) = k.each(64 * 64)
        z[i + shift] = k.maximum(a[i + shift], 0.0)

    return write


def test_all_values_of_an_epilogue_come_before_its_first_store() -> None:
    """y takes the place of c, which z is made of."""

    def layer(k, a, b, c, y, z):
        i, j = k.each(24, 40)
        s = k.axis(100)
        t = k.let(k.sum(s, a[i, s] * b[s, j]))
        y[i, j] = t
        z[i, j] = t + c[i, j]

    for tf32 in (False, True):
        made = Assembly("two stores")
        made.user("a", 24, 100)
        made.user("b", 100, 40)
        made.user("c", 24, 40, role="state")
        made.user("z", 24, 40, role="output")
        made.step(layer, ["a", "b", "c"], ["c", "z"])
        bundle = compile_cuda(made.program(), tf32)
        assert "in tiles of" in bundle.text
        executable = load(bundle)
        rng = np.random.default_rng(0)
        arrays = executable.bind_new()
        for name in ("a", "b", "c"):
            arrays[name][...] = rng.standard_normal(arrays[name].shape)
        before = arrays["c"].astype("float64")
        wanted = arrays["a"].astype("float64") @ arrays["b"]
        executable.call("both")
        limit = LIMITS[tf32] * np.abs(wanted).max()
        assert np.abs(arrays["c"] - wanted).max() <= limit
        assert np.abs(arrays["z"] - wanted - before).max() <= limit


@pytest.mark.parametrize("classes", [700, 1024], ids=["single elements", "by four"])
def test_a_loss_of_long_rows(classes: int) -> None:
    """Its scores are kept, then the exponentials in their place."""
    rng = np.random.default_rng(classes)
    x, label = rng.standard_normal((5, classes)).astype("float32"), rng.integers(0, classes, 5)
    found = []
    for target in ("cpu", "cuda-emulator"):
        net = graphc.Net(LOSS.format(classes=classes), target=target)
        net.forward(x=x, label=label)
        found.append((net.loss, net.backward(wrt=["x"])["x"]))
    (loss, gradient), (other_loss, other) = found
    assert other_loss == pytest.approx(loss, rel=1e-6)
    assert np.abs(other - gradient).max() <= 1e-6 * np.abs(gradient).max()
    made = graphc.Net(LOSS.format(classes=classes)).prepare(wrt=["x"])
    assert f"_row = tile<float>(768, {classes})" in compile_cuda(made.program).text


LOSS = """
layer {{ name: "data" type: "Input" top: "x" top: "label"
  input_param {{ shape {{ dim: 5 dim: {classes} }} shape {{ dim: 5 }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "x" bottom: "label" top: "loss" }}
force_backward: true
"""

# -- beyond 2**31 elements ------------------------------------------------------------------------

FAR = 2**31 + 8  # elements from row to row, of memory that is never touched


@pytest.mark.parametrize(
    ("op", "shapes", "strides"),
    [
        (Relu(), ((3, 40),), ((FAR // 2, 1), (40, 1))),
        (Relu(), ((2, 40),), ((40, 1), (FAR, 1))),
        (Softmax(1), ((2, 1000),), ((FAR, 1), (1000, 1))),
        (MatMul(False, False), ((16, 24), (24, 16)), ((24, 1), (FAR // 16, 1), (16, 1))),
    ],
    ids=["two times half of it", "stored", "rows", "product"],
)
def test_elements_beyond_what_an_int_counts(
    op: Op, shapes: tuple[Shape, ...], strides: tuple[Shape, ...]
) -> None:
    types = [TensorType("float32", shape) for shape in shapes]
    made = op.infer(*types)
    assert isinstance(made, TensorType)
    kernel = kernel_of(op, types, [made], list(strides))
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape).astype("float32") for shape in shapes]
    table = KernelTable()
    empty = np.full(made.shape, np.nan, "float32")
    (name,) = table.add(kernel, [*arrays, empty])
    wanted = op.reference(*(array.astype("float64") for array in arrays))
    assert np.abs(table.results(0)[name] - wanted).max() <= 3e-5 * np.abs(wanted).max()


def test_types_of_counters() -> None:
    assert expressions.counter(2**31 - 1) == "int"
    assert expressions.counter(2**31) == "long long"
    assert not expressions.fits_int((0, 2**31)) and expressions.fits_int((-5, 2**31 - 1))
