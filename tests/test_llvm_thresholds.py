"""Choices that depend on sizes: small kernels on the other side of every threshold.

Each constant that code generation compares sizes with is moved until the code of some kernels
changes; those kernels are compiled and compared with the references. Caches are small besides, so
that small arrays are treated like large ones.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import native_kernels
import numpy as np
import pytest
from native_kernels import compile_kernels
from test_llvm_contraction import CONVOLUTIONS, FEW_CHANNELS, Geometry, operators
from test_llvm_winograd import (
    ONE,
    SHAPES,
    TOLERANCE,
    WAYS,
    error,
    forced,
    program_of,
    run_kernel,
    values_of,
    winograd_kernels,
)
from test_llvm_winograd import convolution as winograd_convolution

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.kernel import emit_kernel
from graphc.codegen.llvm.target import Target
from graphc.ir.op import Op
from graphc.ir.types import TensorType
from graphc.kernel.build import kernel_of
from graphc.kernel.lang import Kernel
from graphc.kernel.once import compute_once
from graphc.kernel.winograd_matrices import TRANSFORMS
from graphc.ops.linear import AddBias, MatMul
from graphc.ops.lrn import Lrn, LrnGradient
from graphc.ops.moments import Moments, StandardizeGradientSums
from graphc.ops.neuron import Relu
from graphc.ops.pool import AvgPool, MaxPool
from graphc.ops.softmax import Softmax, SoftmaxGradient
from graphc.plan.layout import channels_last, strides_of
from graphc.plan.program import Program

Shape = tuple[int, ...]
CACHES = 8192, 1024
LARGER = {"next_row": 1 << 16}  # second caches that hold some rows of `pools`

# Constants of the code generator's modules, and numbers that they have where sizes are others.
MOVED: dict[str, dict[str, Sequence[float]]] = {
    "tile_choice": {
        "LONGEST_SUM": [200],
        "MOST_VECTORS": [1],
        "MOST_PIECES": [2],
        "DEEPEST": [1],
        "STREAMED_SUM": [1, 10**9],
        "STREAMED_ROWS": [1, 3],
        "MOST_TAPS": [0],
        "NARROW": [10.0],
        "FAR_NUMBERS": [-0.9],
        "WAITING_SUM": [10**9],
        "SHARED_PART": [0.0],
        "PASS": [50.0],
        "NEAR_LOAD": [50.0],
    },
    "tile_time": {"WAY_BYTES": [64], "CHUNK": [48]},
    "panel_shape": {
        "SHARES": [1],
        "FEWEST_TILES": [1],
        "UNPACKED_ROWS": [5],
        "MOST_SCRATCH": [4096],
        "LEAST_SCRATCH": [1024],
        "LEAST_STRIP": [1, 500],
        "PIECE_BYTES": [100],
        "WAITING_PART": [100.0],
        "FEW_ROWS": [1],
        "FEWEST_SHARES": [1],
    },
    "dot_tiling": {
        "MOST_TILE": [3],
        "MOST_PACKED": [1],
        "MANY_COLUMNS": [1, 100],
        "HALVINGS": [0, 1, 9],
        "FEWEST_SHARES": [1],
        "LEAST_GROUP": [1],
        "LEAST_SHARES": [1],
        "MOST_PARTIAL": [1, 8],
        "COPIED_BYTES": [0],
        "SCRATCH_BYTES": [512],
        "PACKED_PART": [0.01, 10.0],
        "LINE": [0.0, 50.0],
        "FAR_LINE": [0.0, 50.0],
    },
    "tap_tiling": {
        "LONGEST_SUM": [3],
        "STRIP": [1, 1000],
        "KEPT_STRIP": [1],
        "KEPT_PART": [0.0],
        "KEPT_VECTORS": [1],
        "READ_AGAIN": [100.0],
        "MOST_VECTORS": [1],
        "MOST_COLUMNS": [1, 2],
        "MOST_PRODUCTS": [1],
        "CACHE_PART": [100.0],
    },
    "tap_sums": {"LINES_ABOVE": [0]},
    "dot_tile": {"LONGEST_SUM": [16], "MOST_UNROLLED": [1], "AHEAD_BYTES": [64]},
    "window_dot": {
        "STEP": [0, 100],
        "MOST_ROWS": [3],
        "MOST_COLUMNS": [1],
        "MOST_UNROLLED": [1, 9],
        "LONGEST_SUM": [1],
    },
    "contraction": {"GAIN": [0.0, 1e9], "EMPTY_LANES": [0.0, 0.9]},
    "tile": {"NEAR": [0, 100], "AHEAD_BYTES": [64, 10**6]},
    "square": {"FEWEST_NEIGHBOURS": [1]},
    "product": {"MOST_PHASES": [1]},
    "groups": {"MOST_PIECES": [1]},
    "streaming": {"STREAMED_CACHES": [1], "LEAST_VECTORS": [1]},
    "strips": {"LEAST_GROUPS": [1]},
    "schedule": {
        "MOST_WASTE": [10.0],
        "BATCH_WORK": [0],
        "SHARES": [1, 10**9],
        "LONGEST_SUM": [30],
        "MOST_HELD": [0],
        "PANEL": [0.1, 100.0],
        "UNEVEN_ROOM": [100.0],
        "FAIR_STRIPS": [1],
    },
    "row_walk": {"PART": [1, 3, 100], "HOLDING": [0.0, 10.0], "BYTES_AHEAD": [64]},
    "column_sums": {
        "PART": [1, 3, 100],
        "PART_OF_SEVERAL": [1, 3, 100],
        "PART_OF_SHORT": [1, 3, 100],
    },
    "staged_rows": {"STAGED_BYTES": [1, 3000]},
    "kept": {"MOST_BYTES": [0]},
    "next_strip": {"ROWS_AHEAD": [2, 100]},
    "nest": {
        "FEW_ITERATIONS": [0, 30],
        "SHORT_TEXT": [0],
        "PART": [1, 50],
        "PART_OF_ROW": [1],
        "PART_OF_SPREAD": [1, 7],
    },
    "ahead": {"MOST_PLACES": [0], "BYTES_AHEAD": [64, 10**6], "ROW_BYTES_AHEAD": [64]},
    "next_row": {"CACHE_PART": [0.0, 10.0], "LEAST_PIECE": [10**9], "LEAST_READ": [2.0]},
    "row_kernel": {"MOST_REGISTERS": [0]},
    "register_rows": {"REGISTERS_A_PART": [32]},
    "division": {"LARGEST_DIVISOR": [0]},
}

# The same of modules whose code differs for processors that read memory in many places at once.
STREAMS = {
    "load_slots": 2.0,
    "streams": 4,
    "near_pages": 2,
    "stored_piece": 100.0,
    "shared_stores": False,
}
MOVED_IN_STREAMS: dict[str, dict[str, Sequence[float]]] = {
    "row_sums": {"MOST_PARTS": [1], "AHEAD_BYTES": [64], "SUMS_PART": [0.01]},
    "dot_tile": {"STREAM_AHEAD_BYTES": [64]},
    "dot_tiling": {"NEAR_CACHES": [1000]},
    "tile_choice": {
        "PAGE_BYTES": [1 << 20],
        "APART_BYTES": [1 << 20],
        "GUARDED_APART": [9.0],
        "UNREAD_CACHES": [10**9],
    },
    "tile_time": {"CHUNK_BESIDE": [48], "BESIDE": [0.5]},
    "pages_ahead": {"ALONE": [0, 10**9], "LEAST_READ": [2.0]},
}


@dataclass(frozen=True)
class Case:
    """An operator on arrays of these shapes, and the strides of all arrays; None: row-major."""

    op: Op
    shapes: tuple[Shape, ...]
    strides: tuple[Shape | None, ...] | None = None
    unread: bool = False  # the results go to the user alone

    @property
    def types(self) -> list[TensorType]:
        return [TensorType("float32", shape) for shape in self.shapes]

    def kernel(self) -> Kernel:
        made = self.op.infer(*self.types)
        outputs = list(made) if isinstance(made, tuple) else [made]
        kernel = compute_once(kernel_of(self.op, self.types, outputs, self.strides))
        unread = tuple(buffer.name for buffer in kernel.outputs) if self.unread else ()
        return replace(kernel, unread=unread)


def convolutions() -> list[Case]:
    """Some of the tiled ones, with their gradients, as the plan lays them out and as stored."""
    chosen = ("3x3", "groups", "1x1", "long sum", "more phases", "few beyond a vector")
    chosen += ("small groups", "depthwise", "groups that narrow")
    found = [case for name in chosen for case in convolution(CONVOLUTIONS[name])]
    for name in ("3x3", "1x1", "depthwise"):
        found += convolution(CONVOLUTIONS[name], packed=False)
    return list(dict.fromkeys(found))


def windows() -> list[Case]:
    """Data gradients of a few channels."""
    names = "three", "one", "stride 2", "stride 4", "a few rows fit"
    return [convolution(FEW_CHANNELS[name], outputs_last=True)[1] for name in names]


def convolution(geometry: Geometry, outputs_last: bool = False, packed: bool = True) -> list[Case]:
    """One with its data and weight gradient."""
    work = operators(geometry, outputs_last=outputs_last, packed=packed)
    shapes = {"x": geometry[4], "w": geometry[5]}
    made = work[0][0].infer(*(TensorType("float32", shapes[name]) for name in "xw"))
    assert isinstance(made, TensorType)
    shapes["y"] = made.shape
    return [Case(op, tuple(shapes[n] for n in names), tuple(held)) for op, names, held in work]


def products() -> list[Case]:
    """Matrix products of several aspects, each operand as it is and transposed."""
    sizes = (
        (40, 300, 112),
        (3, 1300, 40),
        (200, 3, 64),
        (1, 200, 70),
        (8, 600, 1000),
        (24, 1300, 33),
        (6, 1300, 1100),
        (160, 2, 48),
    )
    return [
        Case(MatMul(left, right), ((k, m) if left else (m, k), (n, k) if right else (k, n)))
        for m, k, n in sizes
        for left in (False, True)
        for right in (False, True)
    ]


@functools.cache
def vectors_and_matrices() -> list[Case]:
    """A vector times a matrix from memory, by its rows and by its columns, and convolutions."""
    sizes = ((1, 300, 200), (1, 37, 1300), (1, 70, 75), (1, 64, 48))
    vectors = [
        Case(MatMul(False, right), ((1, k), (n, k) if right else (k, n)))
        for _, k, n in sizes
        for right in (False, True)
    ]
    wide: Geometry = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1, (2, 128, 26, 26), (24, 128, 3, 3))
    ends = [Case(MatMul(True, False), ((k, 96), (k, 112)), unread=True) for k in (2, 40)]
    return vectors + ends + convolutions() + convolution(wide)[2:]


def maps() -> list[Case]:
    """What runs in loops."""
    image, no_pads = (2, 19, 21, 23), ((0, 0), (0, 0))
    pooled = (2, 19, 10, 11)
    wide = (2, 300, 9, 10)
    last = [strides_of(shape, channels_last(4)) for shape in (image, pooled, wide)]
    return [
        Case(Relu(), ((3, 999),)),
        Case(AddBias(1), ((300, 99), (99,))),
        Case(Lrn(5, 0.5, 0.75, 1.0), ((70, 3, 40),)),
        Case(Relu(), ((64, 64),)),
        Case(Lrn(5, 0.5, 0.75, 1.0), ((2, 7, 1031),)),
        Case(LrnGradient(5, 0.5, 0.75, 1.0), ((2, 7, 61, 60),) * 2),
        Case(Lrn(5, 0.5, 0.75, 1.0), (image,), (last[0], last[0])),
        Case(LrnGradient(5, 0.5, 0.75, 1.0), (image, image), (last[0],) * 3),
        Case(Softmax(1), ((20, 33),)),
        Case(Softmax(1), ((3, 3001),)),
        Case(Softmax(0), ((150, 300),)),
        Case(Softmax(0), ((90, 331),)),
        Case(Softmax(1), ((2, 21, 40, 30),)),
        Case(Softmax(1), ((2, 40, 6, 40),)),
        Case(Softmax(1), ((2, 150, 6, 40),)),
        Case(Softmax(1), ((2, 21, 5, 7),)),
        Case(Softmax(1), ((2, 21, 4, 8),)),
        Case(SoftmaxGradient(1), ((2, 21, 12, 12),) * 2),
        Case(Moments((0, 2, 3)), (image,)),
        Case(Moments((0, 2, 3)), (image,), (last[0], None, None)),
        Case(Moments((0, 2, 3)), ((2, 3, 61, 60),)),
        Case(
            StandardizeGradientSums((0, 2, 3)),
            (image, image, (19,)),
            (last[0], last[0], None, None, None),
        ),
        Case(
            StandardizeGradientSums((0, 2, 3)),
            (wide, wide, (300,)),
            (last[2], last[2], None, None, None),
        ),
        Case(MaxPool((3, 3), (2, 2), no_pads, (10, 11)), (image,), (last[0], last[1], last[1])),
        Case(AvgPool((3, 3), (2, 2), no_pads, (10, 11)), (image,), (last[0], last[1])),
        Case(AvgPool((2, 3), (2, 2), ((1, 0), (1, 1)), (11, 12)), (image,)),
    ]


def pools() -> list[Case]:
    """Windows over images of long rows, with edges and without."""
    found = []
    for op, side in (
        (MaxPool((3, 3), (2, 2), ((0, 0), (0, 0)), (10, 15)), (10, 15)),
        (MaxPool((3, 3), (1, 1), ((1, 1), (1, 1)), (21, 31)), (21, 31)),
        (AvgPool((2, 2), (2, 2), ((0, 0), (0, 0)), (11, 16)), (11, 16)),
    ):
        image, pooled = (2, 40, 21, 31), (2, 40, *side)
        last = [strides_of(shape, channels_last(4)) for shape in (image, pooled)]
        outputs = [last[1]] * (2 if isinstance(op, MaxPool) else 1)
        found.append(Case(op, (image,), (last[0], *outputs)))
    return found


ENOUGH = 2  # kernels whose code depends on a constant
LOOPS = (
    "streaming",
    "strips",
    "schedule",
    "row_walk",
    "column_sums",
    "staged_rows",
    "kept",
    "next_strip",
    "nest",
    "ahead",
    "row_kernel",
    "register_rows",
    "division",
)


@functools.cache
def cases(module: str) -> list[Case]:
    """Where the constants of a module are met."""
    if module == "window_dot":
        return windows()
    if module.startswith("dot"):
        return products() + convolution(CONVOLUTIONS["few beyond a vector"])
    if module == "next_row":
        return pools()
    if module.startswith("tap"):
        names = [name for name in CONVOLUTIONS if name.startswith("depthwise")]
        return [convolution(CONVOLUTIONS[name])[2] for name in names]
    if module in LOOPS:
        return maps()
    found = convolutions() + products()
    random.Random(1).shuffle(found)
    return found


def code(case: Case, target: Target) -> str:
    """LLVM text of a case's kernel."""
    module = ir.Module("thresholds")
    emit_kernel(module, case.kernel(), target, "k")
    return str(module)


@functools.cache
def usual_code(case: Case, target: Target) -> str:
    """The same with all constants as they are."""
    return code(case, target)


def check(cases: list[Case], target: Target) -> None:
    """Compare machine code with the references; buffers begin at lines and beside them."""
    rng = np.random.default_rng(0)
    kernels = [case.kernel() for case in cases]
    for case, kernel, native in zip(cases, kernels, compile_kernels(kernels, target), strict=True):
        if isinstance(native, Exception):
            raise native
        arrays = [rng.standard_normal(shape).astype("float32") for shape in case.shapes]
        made = case.op.reference(*(array.astype("float64") for array in arrays))
        wanted = made if isinstance(made, tuple) else (made,)
        empty = [np.full(b.shape, np.nan if "f" in b.dtype else 9, b.dtype) for b in kernel.outputs]
        for shift in (0, 4):
            for got, want in zip(native([*arrays, *empty], shift=shift), wanted, strict=True):
                largest = np.abs(want).max()
                assert np.abs(got - want).max() <= 3e-5 * largest, f"{case}, shift {shift}"


def each_move(moved: dict[str, dict[str, Sequence[float]]]) -> list[tuple[str, str, float]]:
    """Module, name and number of each."""
    return [
        (m, n, value) for m, names in moved.items() for n, some in names.items() for value in some
    ]


@pytest.mark.parametrize(("module", "name", "value"), each_move(MOVED))
def test_both_sides_of_a_threshold_are_right(
    module: str, name: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = CACHES[0], LARGER.get(module, CACHES[1])
    target = replace(Target.host(), l1_bytes=one, l2_bytes=two, l3_bytes=1 << 20)
    # As where these have no say.
    target = replace(
        target, load_slots=1.0, streams=1, near_pages=0, stored_piece=0.0, shared_stores=True
    )
    check_moved(cases(module), target, module, name, value, monkeypatch)


@pytest.mark.parametrize(("module", "name", "value"), each_move(MOVED_IN_STREAMS))
def test_both_sides_of_a_threshold_are_right_in_streams(
    module: str, name: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = replace(Target.host(), l1_bytes=1024, l2_bytes=8192, l3_bytes=1 << 20, **STREAMS)
    tried = maps() if module == "pages_ahead" else vectors_and_matrices()
    check_moved(tried, target, module, name, value, monkeypatch)


def check_moved(
    tried: list[Case],
    target: Target,
    module: str,
    name: str,
    value: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some kernels' code depends on a constant; it is right where the constant is another."""
    monkeypatch.setattr(native_kernels, "CANARY", 0xFF)
    usual = [usual_code(case, target) for case in tried]
    monkeypatch.setattr(importlib.import_module(f"graphc.codegen.llvm.{module}"), name, value)
    changed = (c for c, text in zip(tried, usual, strict=True) if code(c, target) != text)
    some = list(itertools.islice(changed, ENOUGH))
    if target.lanes("float32") == 16:
        assert some, "no kernel's code depends on it"
    check(some, target)


# Constants of Winograd's convolutions: the plan has them, too, as it makes room for a strip.
WINOGRAD: dict[str, dict[str, Sequence[Any]]] = {
    "codegen.llvm.winograd": {"CACHE_PART": [0.05]},
    "codegen.llvm.winograd_product": {"CHUNK": [7]},
    "kernel.winograd": {
        "MOST_IN_BLOCK": [16],
        "WORK_BYTES": [1],
        "FEWEST_TILES": [5],
        "ENOUGH_TILES": [dict.fromkeys(TRANSFORMS, 1000)],
        "LINE": [48],
    },
    "kernel.winograd_gradient": {
        "MOST_IN_BLOCK": [16],
        "LEAST_IN_BLOCK": [32],
        "LINE": [0, 48],
        "LEAST_STRIP": [50],
        "MOST_STRIP": [1, 10],
    },
}


def depending(module: str, name: str) -> set[str]:
    """Ways of a convolution whose code a constant decides about."""
    gradients = {"weight gradient"}
    if module.endswith("_gradient"):
        return gradients
    return {*WAYS} if name == "WORK_BYTES" else {*WAYS} - gradients


WINOGRAD_CASES = [
    *itertools.product((SHAPES["odd"], SHAPES["groups"], (3, 37, 21, 20, 50, 1, ONE)), WAYS, [3]),
    *itertools.product([(2, 37, 21, 20, 50, 1, ONE)], WAYS, [5]),
]


def winograd_code(program: Program) -> str:
    """LLVM text of the one kernel in a program that is Winograd's."""
    module = ir.Module("thresholds")
    (kernel,) = winograd_kernels(program)
    emit_kernel(module, kernel, Target.host(), "k")
    return str(module)


@functools.cache
def usual_winograd_code(shape: Shape, way: str, taps: int) -> str:
    """The same with all constants as they are."""
    return winograd_code(program_of(winograd_convolution(shape, way, taps)[0], forced(2)))


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [(m, n, v) for m, names in WINOGRAD.items() for n, values in names.items() for v in values],
)
def test_both_sides_of_a_threshold_of_winograds_are_right(
    module: str, name: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_kernels, "CANARY", 0xFF)
    usual = [usual_winograd_code(*case) for case in WINOGRAD_CASES]
    monkeypatch.setattr(importlib.import_module(f"graphc.{module}"), name, value)
    changed: Counter[tuple[str, int]] = Counter()
    for case, text in zip(WINOGRAD_CASES, usual, strict=True):
        graph, reference = winograd_convolution(*case)
        program = program_of(graph, forced(2))
        kind = case[1:]
        if changed[kind] == ENOUGH or winograd_code(program) == text:
            continue
        values = values_of(graph)
        _, got = run_kernel(program, values, Target.host(), np.nan)
        assert error(got, reference(values)) <= TOLERANCE[2], case
        changed[kind] += 1
    if Target.host().lanes("float32") == 16:
        ways = {way for way, _ in changed}
        assert ways >= depending(module, name), "no kernel's code depends on it"
