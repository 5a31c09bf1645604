"""Winograd's convolutions: against float64, the direct sum, and what Caffe and MatConvNet gave."""

from __future__ import annotations

import ctypes
import itertools
import json
import mmap
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import native_kernels
import numpy as np
import pytest
import test_caffe_cases
import test_matconvnet_functions
from hypothesis import given, settings
from hypothesis import strategies as st
from native_kernels import Memory, NativeKernel, compile_kernels
from pairs import in_turn
from test_llvm_contraction import TARGETS

import graphc
from graphc import driver
from graphc.codegen.fingerprint import fingerprint
from graphc.codegen.llvm.jit import load
from graphc.codegen.llvm.object import compile_program
from graphc.codegen.llvm.target import Target
from graphc.error import NetError
from graphc.frontends.caffe.definition import read_net
from graphc.ir.graph import Graph
from graphc.ir.types import TensorType
from graphc.kernel.contraction import match
from graphc.kernel.lang import Kernel
from graphc.kernel.reading import parse_kernel
from graphc.kernel.text import print_kernel
from graphc.kernel.verify import verify
from graphc.kernel.winograd import error_bound, geometry, speedup
from graphc.kernel.winograd_gradient import gradient_error_bound, gradient_geometry
from graphc.kernel.winograd_matrices import TILES, TRANSFORMS
from graphc.ops.conv import Conv, ConvDataGradient, ConvWeightGradient
from graphc.ops.linear import AddBias
from graphc.ops.neuron import Relu
from graphc.passes.pipeline import compile_graph
from graphc.plan.interpret import make_slots, run_interpreted
from graphc.plan.permission import DIRECT, ENVIRONMENT, Algorithms, allowed
from graphc.plan.planner import plan
from graphc.plan.program import Program

# images, channels, height, width, outputs, groups, padding (before, after) down and across
Shape = tuple[int, int, int, int, int, int, tuple[tuple[int, int], tuple[int, int]]]
ONE = ((1, 1), (1, 1))
SHAPES: dict[str, Shape] = {
    "even": (2, 16, 8, 8, 32, 1, ONE),
    "odd": (1, 20, 7, 9, 70, 1, ONE),
    "groups": (2, 32, 13, 13, 48, 2, ONE),
    "few channels": (3, 5, 6, 5, 3, 1, ((0, 0), (0, 0))),
    "wide padding": (1, 17, 5, 6, 33, 1, ((2, 3), (4, 2))),
    "one line": (1, 19, 3, 40, 16, 1, ((0, 0), (1, 1))),
    "smaller than a window": (2, 16, 2, 2, 130, 1, ((1, 1), (1, 2))),
}
F32 = "float32"
WAYS = ("forward", "data gradient", "weight gradient")
KINDS = pytest.mark.parametrize(("tile", "taps"), TRANSFORMS)


def forced(tile: int, threads: int = 2) -> Algorithms:
    return Algorithms((tile,), forced=True, threads=threads)


def convolution(shape: Shape, way: str, taps: int = 3) -> tuple[Graph, Any]:
    """A graph x, w (and b) -> y, and the same in numpy; w of a weight gradient is dy.

    More taps than 3 get so much more padding that the result's size stays what it is.
    """
    n, channels, height, width, outputs, groups, pads = shape
    more = (taps - 3) // 2
    down, across = ((before + more, after + more) for before, after in pads)
    pads = (down, across)
    fields = ((1, 1), pads, (1, 1), groups)
    forward = Conv(*fields)
    x = TensorType(F32, (n, channels, height, width))
    w = TensorType(F32, (outputs, channels // groups, taps, taps))
    graph = Graph("convolution")
    op: Any = forward
    if way == "data gradient":
        made = forward.infer(x, w)
        assert isinstance(made, TensorType)
        x, op = made, ConvDataGradient((height, width), *fields)
    if way == "weight gradient":
        made = forward.infer(x, w)
        assert isinstance(made, TensorType)
        w, op = made, ConvWeightGradient((taps, taps), *fields)
    weights = graph.input("w", w, "input" if way == "weight gradient" else "parameter")
    y = op(graph.input("x", x), weights)
    if way == "forward":
        bias = graph.input("b", TensorType(F32, (outputs,)), "parameter")
        y = Relu()(AddBias()(y, bias))
    graph.outputs["y"] = graph.blobs["y"] = y

    def reference(arrays: dict[str, np.ndarray]) -> np.ndarray:
        exact = {name: array.astype(np.float64) for name, array in arrays.items()}
        made: np.ndarray = op.reference(exact["x"], exact["w"])
        if way == "forward":
            made = np.maximum(made + exact["b"][:, None, None], 0)
        return made

    return graph, reference


def program_of(graph: Graph, algorithms: Algorithms) -> Program:
    return plan(compile_graph(graph).graph, memory="all", algorithms=algorithms)


def values_of(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {v.name: rng.standard_normal(v.shape).astype(F32) for v in graph.inputs()}


def result(program: Program, values: dict[str, np.ndarray], threads: int = 1) -> np.ndarray:
    executable = load(compile_program(program))
    for name, array in executable.bind_new().items():
        if name in values:
            array[...] = values[name]
    executable.arena[...] = 0xFF
    executable.call("both", threads)
    return np.array(executable.arrays["y"])


def winograd_kernels(program: Program) -> list[Kernel]:
    return [step.kernel for step in program.steps if step.kernel.winograd is not None]


def compiled(kernels: Sequence[Kernel], target: Target) -> list[NativeKernel]:
    made = compile_kernels(kernels, target)
    native = [kernel for kernel in made if not isinstance(kernel, Exception)]
    assert len(native) == len(kernels), made
    return native


def run_kernel(
    program: Program, values: dict[str, np.ndarray], target: Target, blank: float
) -> tuple[str, np.ndarray]:
    """The name of the one Winograd kernel and its result, its filters made first; by themselves."""
    (kernel,) = winograd_kernels(program)
    makers = [s.kernel for s in program.steps if s.kernel.name == "winograd_filter"]
    *first, last = compiled([*makers, kernel], target)
    known = [values[v] for v in ("x", "w", "b") if v in values]
    for maker, native in zip(makers, first, strict=True):
        known += native([values["w"], np.full(maker.outputs[0].shape, blank, F32)])
    got, _ = last([*known, *(np.full(b.shape, blank, F32) for b in kernel.outputs)])
    return kernel.name, got


def error(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.abs(got - want).max() / np.abs(want).max())


# -- right results ---------------------------------------------------------------------------------

TOLERANCE = {2: 1e-6, 4: 2e-5}  # of the largest value


@pytest.mark.parametrize(
    ("kind", "target"), in_turn(itertools.product(WAYS, TRANSFORMS), TARGETS[1:], TARGETS[:1])
)
def test_every_shape_on_every_target(
    kind: tuple[str, tuple[int, int]], target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernel by kernel, between margins of nan that must not be read nor written."""
    way, (tile, taps) = kind
    monkeypatch.setattr(native_kernels, "CANARY", 0xFF)
    for shape in SHAPES.values():
        graph, reference = convolution(shape, way, taps)
        values = values_of(graph)
        program = program_of(graph, forced(tile))
        name, got = run_kernel(program, values, Target.named(target), np.nan)
        assert error(got, reference(values)) <= TOLERANCE[tile], f"{shape} {name}"


@pytest.mark.parametrize("taps", [3, 5])
@pytest.mark.parametrize("way", WAYS)
def test_small_caches_cut_the_work_in_small_pieces(way: str, taps: int) -> None:
    for shape in ((3, 37, 9, 8, 50, 1, ONE), SHAPES["groups"]):
        graph, reference = convolution(shape, way, taps)
        values = values_of(graph)
        small = replace(Target.host(), l2_bytes=16 << 10)
        _, got = run_kernel(program_of(graph, forced(2)), values, small, np.nan)
        assert error(got, reference(values)) <= TOLERANCE[2]


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    groups = draw(st.integers(1, 3))
    channels, outputs = (groups * draw(st.integers(2, 40)) for _ in range(2))
    height, width = draw(st.integers(1, 14)), draw(st.integers(1, 14))
    before = [draw(st.integers(max(0, 3 - size), 3)) for size in (height, width)]
    down, across = ((pad, draw(st.integers(0, 3))) for pad in before)
    images = draw(st.integers(1, 3))
    return images, channels, height, width, outputs, groups, (down, across)


@settings(max_examples=25, deadline=None)
@given(shapes(), st.sampled_from(WAYS), st.sampled_from(list(TRANSFORMS)))
def test_shapes_drawn_at_random(shape: Shape, way: str, kind: tuple[int, int]) -> None:
    tile, taps = kind
    graph, reference = convolution(shape, way, taps)
    values = values_of(graph)
    program = program_of(graph, forced(tile))
    got = result(program, values, threads=2)
    assert error(got, reference(values)) <= TOLERANCE[tile]


@pytest.mark.parametrize("way", ["forward", "data gradient"])
def test_two_by_two_errs_less_than_the_direct_sum(way: str) -> None:
    for shape in ((4, 96, 13, 13, 64, 1, ONE), (1, 256, 7, 7, 128, 1, ONE)):
        graph, reference = convolution(shape, way)
        values = values_of(graph)
        want = reference(values)
        errors = {
            tile: error(result(program_of(graph, algorithms), values), want)
            for tile, algorithms in ((0, DIRECT), (2, forced(2)), (4, forced(4)))
        }
        assert errors[2] < errors[0], errors
        assert errors[4] < 2e-5, errors


@pytest.mark.parametrize("way", ["forward", "data gradient"])
def test_five_taps_err_less_than_the_direct_sum(way: str) -> None:
    for shape in ((4, 96, 13, 13, 64, 2, ONE), (1, 48, 27, 27, 128, 1, ONE)):
        graph, reference = convolution(shape, way, taps=5)
        values = values_of(graph)
        want = reference(values)
        direct, pieces = (
            error(result(program_of(graph, algorithms), values), want)
            for algorithms in (DIRECT, forced(2))
        )
        assert pieces < direct, (shape, pieces, direct)


@KINDS
def test_errors_keep_within_the_bound(tile: int, taps: int) -> None:
    """Numbers of one size and many signs: the bound is far off, and must be above."""
    graph, reference = convolution(SHAPES["even"], "data gradient", taps)
    values = {name: np.sign(array) / 3 for name, array in values_of(graph).items()}
    (kernel,) = winograd_kernels(program_of(graph, forced(tile)))
    contraction = match(kernel)
    assert contraction is not None
    form = geometry(contraction)
    assert form is not None
    largest = taps**2 * form.channels.extent / 9  # every |x| and |w| is 1 / 3
    got = result(program_of(graph, forced(tile)), values)
    exact = reference({name: array.astype(F32) for name, array in values.items()})
    assert 0 < np.abs(got - exact).max() <= error_bound(form, tile) * largest


def test_a_weight_gradient_errs_little() -> None:
    """In parts of the results' size; 6e-8 is what rounding each result alone does at most."""
    for shape in ((4, 32, 28, 28, 32, 1, ONE), (8, 64, 13, 13, 48, 1, ONE)):
        graph, reference = convolution(shape, "weight gradient")
        values = values_of(graph)
        want = reference(values)
        scale = np.sqrt(np.mean(want**2))
        errors = {
            tile: float(np.sqrt(np.mean((made - want) ** 2)) / scale)
            for tile, algorithms in ((0, DIRECT), (2, forced(2)), (4, forced(4)))
            for made in [result(program_of(graph, algorithms), values)]
        }
        assert errors[0] < 2.7e-7, errors
        assert errors[2] < min(2.7e-7, 1.3 * errors[0]), errors
        assert errors[4] < 1e-5, errors


@KINDS
def test_errors_of_a_weight_gradient_keep_within_the_bound(tile: int, taps: int) -> None:
    graph, reference = convolution(SHAPES["even"], "weight gradient", taps)
    values = {name: np.sign(array) / 3 for name, array in values_of(graph).items()}
    (kernel,) = winograd_kernels(program_of(graph, forced(tile)))
    contraction = match(kernel)
    assert contraction is not None
    form = gradient_geometry(contraction)
    assert form is not None
    pixels = form.images * form.sides[0].result * form.sides[1].result
    got = result(program_of(graph, forced(tile)), values)
    exact = reference({name: array.astype(F32) for name, array in values.items()})
    assert 0 < np.abs(got - exact).max() <= gradient_error_bound(form, tile) * pixels / 9


def test_the_matrices_make_a_weight_gradient() -> None:
    rng = np.random.default_rng(0)
    for (tile, _), transform in TRANSFORMS.items():
        d, dy = (rng.standard_normal((size, size)) for size in (transform.window, tile))
        b, g, a = (np.array(m) for m in (transform.input, transform.filter, transform.output))
        got = g.T @ ((a.T @ dy @ a) * (b @ d @ b.T)) @ g
        windows = np.lib.stride_tricks.sliding_window_view(d, (tile, tile))
        assert np.allclose(got, np.einsum("ijyx,yx->ij", windows, dy), rtol=0, atol=1e-12)


def test_the_matrices_make_a_convolution() -> None:
    rng = np.random.default_rng(0)
    for (_, taps), transform in TRANSFORMS.items():
        d, w = (rng.standard_normal((size, size)) for size in (transform.window, taps))
        b, g, a = (np.array(m) for m in (transform.input, transform.filter, transform.output))
        got = a @ ((g @ w @ g.T) * (b @ d @ b.T)) @ a.T
        windows = np.lib.stride_tricks.sliding_window_view(d, (taps, taps))
        assert np.allclose(got, np.einsum("yxij,ij->yx", windows, w), rtol=0, atol=1e-13)


def test_only_the_last_pixel_needs_the_last_point() -> None:
    """What `Tiles.needing` leaves out where a tile reaches beyond the result."""
    for transform in TRANSFORMS.values():
        assert [row[-1] != 0 for row in transform.output] == [False] * (transform.tile - 1) + [True]


@pytest.mark.parametrize("taps", [3, 5])
@pytest.mark.parametrize("way", WAYS)
def test_results_do_not_depend_on_threads_or_the_run(way: str, taps: int) -> None:
    graph, _ = convolution((3, 40, 13, 11, 150, 1, ONE), way, taps)
    values = values_of(graph)
    made = [
        result(program_of(graph, forced(2, planned)), values, used)
        for planned, used in ((1, 1), (2, 1), (2, 2), (3, 3), (16, 2), (2, 5), (2, 2))
    ]
    assert all(other.tobytes() == made[0].tobytes() for other in made)


class _AtAPageEnd(Memory):
    """A buffer that ends where memory that may not be touched begins."""

    def __init__(self, buffer: Any, contents: np.ndarray, at_end: bool = True):
        dtype = np.dtype(buffer.dtype)
        reach = sum((e - 1) * s for e, s in zip(buffer.shape, buffer.strides, strict=True))
        span = (reach + 1) * dtype.itemsize
        page = mmap.PAGESIZE
        size = -(-span // page) * page
        self.pages = mmap.mmap(-1, size + 2 * page)
        begin = ctypes.addressof(ctypes.c_char.from_buffer(self.pages))
        library = ctypes.CDLL(None, use_errno=True)
        for guard in (begin, begin + page + size):
            assert library.mprotect(ctypes.c_void_p(guard), page, 0) == 0
        self.start = page + (size - span if at_end else 0)
        self.place = begin + self.start
        strides = tuple(s * dtype.itemsize for s in buffer.strides)
        self.array = np.ndarray(buffer.shape, dtype, self.pages, self.start, strides)
        self.array[...] = contents

    @property
    def address(self) -> int:
        return self.place

    def check_margins(self) -> None:
        """A touch would have ended the process."""


@pytest.mark.skipif(os.name != "posix", reason="pages are guarded by mprotect")
@pytest.mark.parametrize("at_end", [True, False])
@pytest.mark.parametrize(
    ("tile", "taps"), [(2, 3), (2, 5), pytest.param(4, 3, marks=pytest.mark.long)]
)
def test_nothing_beyond_the_arrays_is_touched(
    tile: int, taps: int, at_end: bool, monkeypatch: pytest.MonkeyPatch
) -> None:

    def memory(buffer: Any, array: np.ndarray, *_: int, **alignment: int) -> _AtAPageEnd:
        return _AtAPageEnd(buffer, array, at_end=at_end)

    monkeypatch.setattr(native_kernels, "Memory", memory)
    for way in WAYS:
        for shape in SHAPES.values():
            graph, reference = convolution(shape, way, taps)
            values = values_of(graph)
            program = program_of(graph, forced(tile))
            _, got = run_kernel(program, values, Target.host(), 0.0)
            assert error(got, reference(values)) <= TOLERANCE[tile]


# -- reference cases -------------------------------------------------------------------------------


def _caffe_cases(folder: str) -> list[str]:
    found = []
    for name in test_caffe_cases.cases():
        if not name.startswith(folder):
            continue
        with np.load(test_caffe_cases.FOLDER / f"{name}.npz", allow_pickle=False) as file:
            kinds = {kind for _, kind in json.loads(str(file["meta"]))["layers"]}
        if kinds & {"Convolution", "Deconvolution"}:
            found.append(name)
    return found


@pytest.mark.parametrize(
    ("folder", "tile", "threads"),
    [
        ("layers/", 2, 1),
        ("layers/", 4, 2),
        pytest.param("", 2, 1, marks=pytest.mark.long),
        pytest.param("", 2, 2, marks=pytest.mark.long),
        pytest.param("", 4, 2, marks=pytest.mark.long),
    ],
)
def test_what_caffe_gave(
    folder: str, tile: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At their own tolerances, each convolution that can be Winograd's being so."""
    monkeypatch.setenv(ENVIRONMENT, str(tile))
    plain, used = graphc.Net, 0

    def with_threads(*args: Any, **options: Any) -> graphc.Net:
        made.append(plain(*args, **{**options, "threads": threads}))
        return made[-1]

    monkeypatch.setattr(graphc, "Net", with_threads)
    for name in _caffe_cases(folder):
        made: list[graphc.Net] = []
        try:
            test_caffe_cases.test_it_computes_what_caffe_computed(name)
        except pytest.skip.Exception:
            continue
        used += any(winograd_kernels(net.compilation().program) for net in made)
    assert used >= 1


@pytest.mark.parametrize("tile", TILES)
def test_what_matconvnet_gave(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, str(tile))
    names = [n for n in test_matconvnet_functions.block_cases() if "conv" in n]
    assert names
    for name in names:
        test_matconvnet_functions.test_it_computes_what_matconvnet_computed(name, F32)


# -- what is chosen --------------------------------------------------------------------------------


def test_the_interpreter_runs_the_plain_sum() -> None:
    for way in WAYS:
        graph, reference = convolution(SHAPES["groups"], way)
        values = values_of(graph)
        program = program_of(graph, forced(2))
        slots = make_slots(program, values)
        run_interpreted(program, slots)
        number = next(i for i, slot in enumerate(program.slots) if slot.role == "output")
        assert error(slots[number], reference(values)) < 1e-6


def test_the_text_of_a_kernel_names_the_way() -> None:
    graph, _ = convolution(SHAPES["odd"], "forward")
    (kernel,) = winograd_kernels(program_of(graph, forced(2)))
    text = print_kernel(kernel)
    assert kernel.name == "winograd2.conv+add_bias+relu"
    assert text.splitlines()[0].endswith("winograd 2 a5 a4")
    verify(kernel)
    verify(parse_kernel(text))
    assert print_kernel(parse_kernel(text)) == text
    graph_of_weights, _ = convolution(SHAPES["odd"], "weight gradient")
    (gradient,) = winograd_kernels(program_of(graph_of_weights, forced(2)))
    text = print_kernel(gradient)
    assert gradient.name == "winograd2.conv_weight_gradient"
    assert text.splitlines()[0].endswith("winograd 2 a3")
    verify(gradient)
    assert print_kernel(parse_kernel(text)) == text
    (other,) = winograd_kernels(program_of(graph, forced(4)))
    assert fingerprint(other) != fingerprint(kernel)


NET = """
name: "two"
input: "data" input_shape {{ dim: 4 dim: {channels} dim: 28 dim: 28 }}
layer {{ name: "c" type: "Convolution" bottom: "data" top: "c"
  convolution_param {{ num_output: 128 kernel_size: {size} pad: {pad} stride: {stride} }} }}
"""


def net_text(channels: int = 128, stride: int = 1, size: int = 3) -> str:
    return NET.format(channels=channels, stride=stride, size=size, pad=size // 2)


def lowered(
    channels: int = 128, stride: int = 1, size: int = 3, **options: Any
) -> driver.Compilation:
    definition = read_net(net_text(channels, stride, size))
    signature = driver.Signature(given=("c",), wrt=("data",), **options)
    return driver.lower(definition, signature)


def sentences(made: driver.Compilation) -> list[str]:
    return [r.sentence for r in made.program.remarks if r.stage == "algorithm"]


def test_it_is_taken_where_it_wins_and_the_plan_says_why() -> None:
    made = lowered()
    forward, backward = sentences(made)
    assert len(winograd_kernels(made.program)) == 2
    assert "conv+add_bias (forward) is Winograd's F(2x2, 3x3)" in forward
    assert "conv_data_gradient (backward) is Winograd's F(2x2, 3x3)" in backward
    assert "rounding is within" in forward
    direct = lowered(channels=3)
    assert not winograd_kernels(direct.program)
    assert all("few channels" in sentence for sentence in sentences(direct))
    assert not winograd_kernels(lowered(stride=2).program)
    for sentence in sentences(lowered(stride=2)):
        assert "is a direct sum of 1,152 products; Winograd's forms need 3x3 or 5x5" in sentence
        # 9 taps and 128 channels, each sum rounded once a product.
        assert "rounding is within 6.9e-05 of the largest sum possible" in sentence
    assert len(sentences(lowered(stride=2))) == 2


def test_five_taps_have_matrices_for_tiles_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    forward, backward = sentences(lowered(size=5))
    assert "conv+add_bias (forward) is Winograd's F(2x2, 5x5)" in forward
    assert "conv_data_gradient (backward) is Winograd's F(2x2, 5x5)" in backward
    fast = lowered(size=5, fast_math=("winograd4",))
    assert [k.winograd.tile for k in winograd_kernels(fast.program) if k.winograd] == [2, 2]
    monkeypatch.setenv(ENVIRONMENT, "4")
    direct = lowered(size=5)
    assert not winograd_kernels(direct.program)
    assert all("no matrices of Winograd's for 5x5 windows" in s for s in sentences(direct))
    assert not winograd_kernels(lowered(size=7).program)


def test_why_a_sum_stays_direct() -> None:
    exact, double = sentences(lowered(exact=True)), sentences(lowered(dtype="float64"))
    assert all("for the CPU, where exact sums are not asked for" in s for s in exact)
    assert all("float32" in s and "1.3e-13" in s for s in double)
    assert len(exact) == len(double) == 2


def test_exact_and_fast_math() -> None:
    assert not winograd_kernels(lowered(exact=True).program)
    kernels = winograd_kernels(lowered(fast_math=("winograd4",)).program)
    assert [k.winograd.tile for k in kernels if k.winograd] == [4, 4]
    assert not winograd_kernels(lowered(dtype="float64").program)
    assert not winograd_kernels(lowered(target="cuda").program)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fast_math": ("winograd44",)}, "did you mean 'winograd4'"),
        ({"fast_math": ("winograd4",), "exact": True}, "exclude each other"),
    ],
)
def test_contradictions_are_refused(options: Any, message: str) -> None:
    with pytest.raises(NetError, match=message):
        allowed(**options)
    with pytest.raises(NetError, match=message):
        graphc.Net(net_text(channels=16), **options)


def test_an_unknown_word_of_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "3")
    with pytest.raises(NetError, match="GRAPHC_WINOGRAD is one of 0, 2, 4"):
        allowed()


def test_the_model_prefers_what_wins() -> None:
    """Many pixels and channels are worth the transforms; a few tiles do not pay for the filters."""
    found: Sequence[tuple[Shape, bool]] = [
        ((8, 256, 56, 56, 256, 1, ONE), True),
        ((8, 64, 56, 56, 64, 1, ONE), True),
        ((1, 512, 4, 4, 512, 1, ONE), False),
    ]
    for shape, wins in found:
        graph, _ = convolution(shape, "forward")
        (kernel,) = winograd_kernels(program_of(graph, forced(2)))
        contraction = match(kernel)
        assert contraction is not None
        form = geometry(contraction)
        assert form is not None
        assert (speedup(form, 2) > 1.1) is wins, shape


def test_weights_that_are_trained_are_transformed_before_they_change(tmp_path: Path) -> None:
    """Momentum in the same call writes the weights that the data gradient still reads."""
    text = net_text(channels=32) + (
        'layer { name: "d" type: "Convolution" bottom: "c" top: "d"'
        " convolution_param { num_output: 32 kernel_size: 3 pad: 1 } }\n"
        'layer { name: "l" type: "EuclideanLoss" bottom: "d" bottom: "data" top: "l" }'
    )
    losses = {}
    for exact in (True, False):
        net = graphc.Net(text, weights="random:1", phase=graphc.TRAIN, exact=exact, threads=2)
        net.set_inputs({"data": np.random.default_rng(0).standard_normal((4, 32, 28, 28))})
        net.forward_backward()
        losses[exact] = [net.loss, *(b.diff.copy() for p in net.params.values() for b in p)]
    for one, other in zip(losses[True], losses[False], strict=True):
        assert error(np.asarray(other), np.asarray(one)) < 1e-5
