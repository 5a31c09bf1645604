"""Operators for images against formulas that share no code with them, and their Caffe layers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal, special

from graphc.error import NetError
from graphc.frontends.caffe.definition import read_net
from graphc.frontends.caffe.network import CaffeNet, build
from graphc.graph_call import compile_graph_call
from graphc.ir.graph import Graph
from graphc.ir.op import Op
from graphc.ir.reference import run
from graphc.ir.types import TensorType
from graphc.kernel.build import kernel_of
from graphc.kernel.contraction import match
from graphc.kernel.interp import interpret
from graphc.kernel.lang import Expr, Local, call
from graphc.ops.conv import Conv, ConvDataGradient, ConvWeightGradient
from graphc.ops.elementwise import MapGradient, Maximum, Product
from graphc.ops.linear import AddBias, MatMul
from graphc.ops.lrn import Lrn
from graphc.ops.neuron import (
    Abs,
    Clip,
    Elu,
    Exp,
    Log,
    Power,
    Prelu,
    Relu,
    Sigmoid,
    Swish,
    Tanh,
    Threshold,
)
from graphc.ops.pool import AvgPool, MaxPool, MaxPoolMask, pooled_extent
from graphc.ops.scalar import derivative, evaluate
from graphc.ops.softplus import Softplus

NO_PADS = ((0, 0), (0, 0))
RNG = np.random.default_rng


def by_kernel(op: Op, *arrays: np.ndarray) -> list[np.ndarray]:
    """The operator's outputs, computed by its interpreted kernel."""
    types = [TensorType(str(array.dtype), array.shape) for array in arrays]
    inferred = op.infer(*types)
    outputs = inferred if isinstance(inferred, tuple) else (inferred,)
    results = [np.full(type.shape, 99, type.dtype) for type in outputs]
    assert not interpret(kernel_of(op, types, outputs), [*arrays, *results])
    return results


def gradients(op: Op, dy: np.ndarray, *arrays: np.ndarray) -> list[np.ndarray]:
    """Gradients of all inputs for output 0's gradient dy."""
    graph = Graph()
    values = [graph.input(f"x{i}", TensorType(str(a.dtype), a.shape)) for i, a in enumerate(arrays)]
    outputs = graph.apply(op, *values)
    arrived = graph.input("dy", outputs[0].type, "gradient")
    single = len(outputs) == 1
    made = op.gradient(
        arrived if single else (arrived, *[None] * (len(outputs) - 1)),
        outputs[0] if single else outputs,
        *values,
    )
    found = made if isinstance(made, tuple) else (made,)
    results = run(graph, {"dy": dy, **{f"x{i}": a for i, a in enumerate(arrays)}})
    return [results[value] for value in found]


def reads(op: Op, *shapes: tuple[int, ...]) -> set[str]:
    """Which forward values the gradient reads: x0, x1, ... and y0, y1, ..."""
    graph = Graph()
    values = [graph.input(f"x{i}", TensorType("float64", s)) for i, s in enumerate(shapes)]
    outputs = graph.apply(op, *values, names=[f"y{i}" for i in range(9)])
    arrived = graph.input("dy", outputs[0].type, "gradient")
    count = len(graph.nodes)
    single = len(outputs) == 1
    op.gradient(
        arrived if single else (arrived, *[None] * (len(outputs) - 1)),
        outputs[0] if single else outputs,
        *values,
    )
    forward = {*values, *outputs}
    return {v.name for node in graph.nodes[count:] for v in node.inputs if v in forward}


# -- elementwise ----------------------------------------------------------------------------------

X = Local("x", "float64")
Y = Local("y", "float64")


@pytest.mark.parametrize(
    "expr",
    [
        X + Y * 2.0 - 1.0,
        X * Y * X,
        X / (Y + 3.0),
        Y / X,
        -X / X + Y,
        call("pow", X, 2.5),
        call("pow", X, Y),
        call("pow", call("exp", X), -0.75),
        call("exp", X * Y),
        call("expm1", X * X),
        call("log", X + Y),
        call("log1p", X * Y),
        call("sqrt", X * 3.0),
        call("tanh", X - Y),
        call("sigmoid", 2.0 * X),
        call("abs", Y - X),
        call("min", X * X, Y),
        call("max", X * X, Y),
        call("select", X < Y, X * Y, call("exp", X)),
        call("floor", X) * X,
        call("sign", X) * X,
    ],
)
def test_derivative_is_the_slope(expr: Expr):
    x, y = RNG(3).uniform(0.3, 1.7, (2, 50))
    step = 1e-6
    for by, change in ((X, (step, 0)), (Y, (0, step))):
        found = evaluate(derivative(expr, by), {X: x, Y: y})
        above = evaluate(expr, {X: x + change[0], Y: y + change[1]})
        below = evaluate(expr, {X: x - change[0], Y: y - change[1]})
        np.testing.assert_allclose(found, (above - below) / (2 * step), rtol=1e-6, atol=1e-8)


FORMULAS = [
    (Relu(), lambda x: np.where(x > 0, x, 0)),
    (Relu(0.25), lambda x: np.where(x > 0, x, x / 4)),
    (Elu(0.5), lambda x: np.where(x > 0, x, 0.5 * (np.exp(x) - 1))),
    (Sigmoid(), special.expit),
    (Tanh(), np.tanh),
    (Abs(), np.abs),
    (Power(3.0, 2.0, -1.0), lambda x: (2 * x - 1) ** 3),
    (Power(-2.0), lambda x: 1 / x**2),
    (Power(0.0, 2.0, 5.0), np.ones_like),
    (Power(2.0, 0.0, 3.0), lambda x: np.full_like(x, 9)),
    (Exp(2.0, 3.0, -1.0), lambda x: 2 ** (3 * x - 1)),
    (Exp(), np.exp),
    (Log(10.0, 0.1, 9.0), lambda x: np.log10(0.1 * x + 9)),
    (Softplus(), lambda x: np.logaddexp(0, x)),
    (Clip(-1.0, 0.5), lambda x: np.clip(x, -1, 0.5)),
    (Swish(1.5), lambda x: x * special.expit(1.5 * x)),
    (Threshold(0.5), lambda x: (x > 0.5).astype(float)),
]


@pytest.mark.parametrize(("op", "formula"), FORMULAS, ids=lambda part: str(part)[:20])
def test_neurons_are_their_formulas(op: Op, formula):
    x = np.concatenate([RNG(0).uniform(-4, 4, 60), [-80.0, 80.0, 0.5, -1.0]])
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(op.reference(x), formula(x), rtol=1e-12, atol=1e-300)
        np.testing.assert_allclose(by_kernel(op, x)[0], formula(x), rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize(
    ("op", "at", "slope"),
    [
        (Relu(), 0.0, 0.0),
        (Relu(0.1), 0.0, 0.1),
        (Elu(0.7), 0.0, 0.7),
        (Abs(), 0.0, 0.0),
        (Clip(-1.0, 2.0), -1.0, 1.0),
        (Clip(-1.0, 2.0), 2.0, 1.0),
        (Power(2.0, 0.0, 1.0), 3.0, 0.0),
        (Power(0.0), 0.0, 0.0),
        (Power(2.0), 0.0, 0.0),
    ],
)
def test_derivatives_at_kinks(op: Op, at: float, slope: float):
    assert gradients(op, np.array([1.0]), np.array([at]))[0] == slope


def test_gradients_through_the_output_leave_the_input_free():
    for op in (Relu(), Relu(0.1), Sigmoid(), Tanh(), Elu(), Exp()):
        assert reads(op, (3,)) == {"y0"}, op
    for op in (Relu(-0.1), Elu(-1.0), Softplus(), Power(2.0)):
        assert reads(op, (3,)) == {"x0"}, op
    assert reads(Power(1.0, 3.0), (3,)) == set()
    assert reads(AddBias(1), (2, 3), (3,)) == set()


def test_prelu_gives_the_slope_its_gradient():
    x, slope = np.array([2.0, -3.0, 0.0]), np.array([0.1, 0.2, 0.3])
    dx, dslope = gradients(Prelu(), np.ones(3), x, slope)
    np.testing.assert_array_equal(dx, [1, 0.2, 0.3])
    np.testing.assert_array_equal(dslope, [0, -3, 0])


def test_maximum_sends_a_tie_where_caffe_does():
    a = np.array([1.0, 1.0, 1.0, 0.0, 2.0])
    b = np.array([1.0, 1.0, 0.0, 1.0, 1.0])
    c = np.array([0.0, 1.0, 1.0, 1.0, 3.0])
    wins = gradients(Maximum(), np.ones(5), a, b, c)
    np.testing.assert_array_equal(wins[0], [0, 0, 1, 0, 0])
    np.testing.assert_array_equal(wins[1], [1, 1, 0, 1, 0])
    np.testing.assert_array_equal(wins[2], [0, 0, 0, 0, 1])


def test_product_gradients_with_a_zero():
    parts = [np.array([0.0]), np.array([3.0]), np.array([5.0])]
    assert [float(g[0]) for g in gradients(Product(), np.ones(1), *parts)] == [15, 0, 0]
    with np.errstate(invalid="ignore"):
        divided = gradients(Product(divide=True), np.ones(1), *parts)
    assert np.isnan(divided[0]).all()


def test_a_map_gradient_of_something_else_is_refused():
    with pytest.raises(NetError, match="not an elementwise operator"):
        MapGradient("mat_mul", (), 0, 1).infer(TensorType("float32", (2,)))


# -- convolution ----------------------------------------------------------------------------------


def test_convolution_is_scipys_correlation():
    x, w = RNG(1).standard_normal((2, 3, 7, 8)), RNG(2).standard_normal((4, 3, 3, 2))
    wanted = np.array([[signal.correlate(i, k, "valid")[0] for k in w] for i in x])
    op = Conv((1, 1), NO_PADS, (1, 1))
    np.testing.assert_allclose(op.reference(x, w), wanted, atol=1e-12)
    np.testing.assert_allclose(by_kernel(op, x, w)[0], wanted, atol=1e-12)
    strided = Conv((2, 3), ((1, 0), (0, 2)), (1, 1))
    around = np.pad(x, ((0, 0), (0, 0), (1, 0), (0, 2)))
    full = np.array([[signal.correlate(i, k, "valid")[0] for k in w] for i in around])
    np.testing.assert_allclose(strided.reference(x, w), full[:, :, ::2, ::3], atol=1e-12)


def test_sobel_kernel_is_its_two_passes():
    x = RNG(4).standard_normal((1, 1, 6, 5))
    smooth, slope = np.array([1.0, 2.0, 1.0]), np.array([-1.0, 0.0, 1.0])
    once = Conv((1, 1), NO_PADS, (1, 1)).reference(x, np.outer(smooth, slope)[None, None])
    down = Conv((1, 1), NO_PADS, (1, 1)).reference(x, smooth.reshape(1, 1, 3, 1))
    twice = Conv((1, 1), NO_PADS, (1, 1)).reference(down, slope.reshape(1, 1, 1, 3))
    np.testing.assert_allclose(once, twice, atol=1e-12)


@st.composite
def geometries(draw: st.DrawFn) -> tuple[Conv, tuple[int, ...], tuple[int, ...]]:
    rank = draw(st.integers(0, 3))
    per_axis = st.tuples(
        st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(0, 2),
        st.integers(0, 2), st.integers(0, 3),
    )  # fmt: skip
    axes = [draw(per_axis) for _ in range(rank)]
    groups = draw(st.integers(1, 2))
    extents = [
        max(1, dilation * (size - 1) + 1 - before - after) + more
        for size, _, dilation, before, after, more in axes
    ]
    op = Conv(
        tuple(axis[1] for axis in axes),
        tuple((axis[3], axis[4]) for axis in axes),
        tuple(axis[2] for axis in axes),
        groups,
    )
    kernel = [axis[0] for axis in axes]
    return op, (2, 2 * groups, *extents), (3 * groups, 2, *kernel)


@settings(max_examples=60, deadline=None)
@given(geometries())
def test_the_three_convolutions_are_adjoint(case):
    """<Conv(x, w), dy> = <x, ConvDataGradient(dy, w)> = <w, ConvWeightGradient(x, dy)>."""
    op, x_shape, w_shape = case
    x, w = RNG(5).standard_normal(x_shape), RNG(6).standard_normal(w_shape)
    y = op.reference(x, w)
    dy = RNG(7).standard_normal(y.shape)
    fields = op.strides, op.pads, op.dilations, op.groups
    to_data = ConvDataGradient(x_shape[2:], *fields)
    to_weights = ConvWeightGradient(w_shape[2:], *fields)
    inner = float((y * dy).sum())
    for product in (
        x * to_data.reference(dy, w),
        w * to_weights.reference(x, dy),
        x * by_kernel(to_data, dy, w)[0],
        w * by_kernel(to_weights, x, dy)[0],
        dy * by_kernel(op, x, w)[0],
    ):
        np.testing.assert_allclose(float(product.sum()), inner, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("cls", [Conv, ConvDataGradient, ConvWeightGradient, MatMul])
def test_all_of_them_are_contractions(cls: type[Op]):
    for example in cls.examples():
        types = [sample.type for sample in example.inputs]
        output = example.op.infer(*types)
        assert isinstance(output, TensorType)
        assert match(kernel_of(example.op, types, [output])) is not None, example.op


@pytest.mark.parametrize(
    ("op", "x", "w", "sentence"),
    [
        (Conv((1, 1), NO_PADS, (1, 1)), (1, 3, 4, 4), (2, 3, 5, 5), "does not fit"),
        (Conv((1, 1), NO_PADS, (1, 1)), (1, 3, 4, 4), (2, 2, 3, 3), "2 channels a group"),
        (Conv((1, 1), NO_PADS, (1, 1), 2), (1, 3, 4, 4), (2, 2, 3, 3), "into 2 groups"),
        (Conv((0, 1), NO_PADS, (1, 1)), (1, 3, 4, 4), (2, 3, 3, 3), "strides"),
        (Conv((1,), NO_PADS, (1, 1)), (1, 3, 4, 4), (2, 3, 3, 3), "strides"),
        (Conv((1, 1), ((0, -1), (0, 0)), (1, 1)), (1, 3, 4, 4), (2, 3, 3, 3), "pads"),
        (Conv((1, 1), NO_PADS, (1, 1)), (1, 3, 4, 4), (2, 3, 3), "number of axes"),
        (MatMul(), (2, 3), (4, 5), "sums over 3 elements of one, 4 of the other"),
        (AddBias(1), (2, 3), (2,), "does not match"),
    ],
)
def test_misfitting_operands_are_refused(op: Op, x, w, sentence: str):
    with pytest.raises(NetError, match=sentence):
        op.infer(TensorType("float32", x), TensorType("float32", w))


@pytest.mark.parametrize("op", [Exp(0.0), Exp(-2.0), Log(0.0), Log(-2.0), Log(1.0)], ids=str)
def test_bases_without_a_logarithm_are_refused(op: Op):
    with pytest.raises(NetError, match="base"):
        op.infer(TensorType("float32", (2,)))


@pytest.mark.parametrize("cls", [Conv, ConvDataGradient, ConvWeightGradient, MatMul])
@pytest.mark.parametrize("kinds", [("float32", "float64"), ("int32", "int32")])
def test_operands_of_two_types_or_without_reals_are_refused(cls: type[Op], kinds):
    for example in cls.examples():
        shapes = [sample.type.shape for sample in example.inputs]
        with pytest.raises(NetError, match=cls.op_name):
            example.op.infer(*map(TensorType, kinds, shapes))


# -- pooling --------------------------------------------------------------------------------------


def images(rows: list[list[float]]) -> np.ndarray:
    return np.array(rows, float)[None, None]


@pytest.mark.parametrize("compute", ["reference", "kernel"])
def test_max_pooling_finds_values_and_places(compute: str):
    x = images([[1, 2, 5, 2, 3], [9, 4, 1, 4, 8], [1, 2, 5, 2, 3]])
    op = MaxPool((2, 2), (1, 1), NO_PADS, (2, 4))
    y, index = op.reference(x) if compute == "reference" else by_kernel(op, x)
    np.testing.assert_array_equal(y[0, 0], [[9, 5, 5, 8], [9, 5, 5, 8]])
    mask = MaxPoolMask("float64", (3, 5), (2, 2), (1, 1), NO_PADS)
    places = mask.reference(index) if compute == "reference" else by_kernel(mask, index)[0]
    np.testing.assert_array_equal(places[0, 0], [[5, 2, 2, 9], [5, 12, 12, 9]])


def test_pooling_windows_are_clipped_to_the_image():
    x = images([[1, 2, 4], [2, 3, 2], [4, 2, 1]])
    pads = ((2, 2), (2, 2))
    y, _ = MaxPool((3, 3), (2, 2), pads, (3, 3)).reference(x)
    np.testing.assert_array_equal(y[0, 0], [[1, 4, 4], [4, 4, 4], [4, 4, 1]])


def test_average_pooling_counts_the_padding_or_not():
    x, pads = np.full((1, 1, 3, 3), 2.0), ((1, 1), (1, 1))
    edge, corner = 4 / 3, 8 / 9
    wanted = [[corner, edge, corner], [edge, 2, edge], [corner, edge, corner]]
    op = AvgPool((3, 3), (1, 1), pads, (3, 3))
    np.testing.assert_allclose(op.reference(x)[0, 0], wanted)
    np.testing.assert_allclose(by_kernel(op, x)[0][0, 0], wanted)
    without = AvgPool((3, 3), (1, 1), pads, (3, 3), count_padding=False)
    np.testing.assert_allclose(by_kernel(without, x)[0][0, 0], np.full((3, 3), 2.0))


def test_what_ceil_adds_never_counts():
    x = images([[1, 2, 3, 4, 5]])
    op = AvgPool((1, 2), (1, 2), NO_PADS, (1, 3))
    np.testing.assert_array_equal(op.reference(x)[0, 0, 0], [1.5, 3.5, 5])
    np.testing.assert_array_equal(by_kernel(op, x)[0][0, 0, 0], [1.5, 3.5, 5])


def test_the_first_of_equal_elements_gets_the_gradient():
    x = np.ones((1, 1, 3, 3))
    (dx,) = gradients(MaxPool((2, 2), (1, 1), NO_PADS, (2, 2)), np.ones((1, 1, 2, 2)), x)
    np.testing.assert_array_equal(dx[0, 0], [[1, 1, 0], [1, 1, 0], [0, 0, 0]])
    assert reads(MaxPool((2, 2), (1, 1), NO_PADS, (2, 2)), (1, 1, 3, 3)) == {"y1"}


@pytest.mark.parametrize("compute", ["reference", "kernel", "native"])
@pytest.mark.parametrize("shape", [(1, 1, 5, 4), (2, 9, 5, 4), (1, 2, 1, 40)])
def test_of_windows_that_are_all_minus_infinity_the_first_element_wins(compute: str, shape):
    """Of those in the image: a position in the padding would lose the gradient."""
    size, strides, pads = (3, 3), (2, 1), ((1, 1), (2, 2))
    output = tuple(
        pooled_extent(extent, 3, stride, pad)
        for extent, stride, pad in zip(shape[2:], strides, pads, strict=True)
    )
    op = MaxPool(size, strides, pads, output)
    x = np.full(shape, -np.inf, np.float32)
    x[..., -1, -1] = 7
    if compute == "native":
        graph = Graph()
        y, index = op(graph.input("x", TensorType("float32", shape)))
        graph.outputs.update(y=y, index=index)
        found = compile_graph_call(graph)({"x": x})
        best, position = found["y"], found["index"]
    else:
        best, position = op.reference(x) if compute == "reference" else by_kernel(op, x)
    for at in np.ndindex(*output):
        start = [i * s - before for i, s, (before, _) in zip(at, strides, pads, strict=True)]
        first = [max(-begin, 0) for begin in start]
        last = [e - 1 - begin for e, begin in zip(shape[2:], start, strict=True)]
        has_seven = all(tap < 3 for tap in last)
        tap = last if has_seven else first
        assert (best[(..., *at)] == (7 if has_seven else -np.inf)).all()
        assert (position[(..., *at)] == tap[0] * 3 + tap[1]).all()


def test_large_windows_index_in_32_bits():
    op = MaxPool((20, 20), (1, 1), NO_PADS, (1, 1))
    x = np.zeros((1, 1, 20, 20))
    x[0, 0, 19, 18] = 1
    for index in (op.reference(x)[1], by_kernel(op, x)[1]):
        assert index.dtype == np.int32
        assert index.item() == 19 * 20 + 18


@pytest.mark.parametrize(
    ("extent", "size", "stride", "pad", "ceil", "count"),
    [
        (6, 3, 2, 0, True, 3),
        (5, 3, 2, 0, True, 2),
        (6, 3, 2, 1, True, 4),
        (5, 3, 2, 1, True, 3),
        (6, 3, 2, 0, False, 2),
        (55, 3, 2, 0, True, 27),
        (2, 3, 2, 0, True, 1),
        (2, 3, 1, 0, True, 0),
        (4, 2, 3, 1, True, 2),
    ],
)
def test_pooled_extent(extent: int, size: int, stride: int, pad: int, ceil: bool, count: int):
    assert pooled_extent(extent, size, stride, (pad, pad), ceil) == count


def test_a_window_outside_the_image_is_refused():
    x = TensorType("float32", (1, 1, 4, 4))
    for op in (MaxPool, AvgPool):
        with pytest.raises(NetError, match="starting at 4 lies wholly outside"):
            op((1, 1), (2, 2), NO_PADS, (3, 3)).infer(x)


# -- response normalisation -----------------------------------------------------------------------


def test_lrn_is_its_definition():
    x = RNG(8).standard_normal((2, 6, 2, 3))
    wanted = np.empty_like(x)
    for channel in range(6):
        near = x[:, max(0, channel - 1) : channel + 2]
        scale = 2.0 + 0.5 / 3 * (near**2).sum(1)
        wanted[:, channel] = x[:, channel] * scale**-0.75
    op = Lrn(3, 0.5, 0.75, 2.0)
    np.testing.assert_allclose(op.reference(x), wanted, rtol=1e-12)
    np.testing.assert_allclose(by_kernel(op, x)[0], wanted, rtol=1e-12)
    assert reads(op, x.shape) == {"x0"}


# -- Caffe's layers -------------------------------------------------------------------------------


def net_of(body: str, *shapes: str, tops: int = 1) -> CaffeNet:
    """A net of one layer `l` that reads inputs a, b, ... of the given shapes."""
    names = "abcd"[: len(shapes)]
    text = "".join(
        f'layer {{ name: "{n}" type: "Input" top: "{n}" input_param {{ shape {{ '
        + " ".join(f"dim: {extent}" for extent in shape.split())
        + " } } }\n"
        for n, shape in zip(names, shapes, strict=True)
    )
    text += 'layer { name: "l" ' + " ".join(f'bottom: "{n}"' for n in names)
    text += " " + " ".join(f'top: "y{i}"' for i in range(tops)) + " " + body + " }\n"
    return build(read_net(text), phase="TEST")


IMAGE = "2 4 6 5"


@pytest.mark.parametrize(
    ("body", "shape", "top", "parameters"),
    [
        ("num_output: 6 kernel_size: 3", IMAGE, (2, 6, 4, 3), [(6, 4, 3, 3), (6,)]),
        ("num_output: 6 kernel_h: 3 kernel_w: 1 pad_h: 1", IMAGE, (2, 6, 6, 5), [(6, 4, 3, 1), 6]),
        ("num_output: 6 kernel_size: 3 kernel_size: 2", IMAGE, (2, 6, 4, 4), [(6, 4, 3, 2), 6]),
        ("num_output: 6 kernel_size: 1 group: 2", IMAGE, (2, 6, 6, 5), [(6, 2, 1, 1), 6]),
        ("num_output: 6 kernel_size: 2 dilation: 3", IMAGE, (2, 6, 3, 2), [(6, 4, 2, 2), 6]),
        ("num_output: 2 kernel_size: 2 bias_term: false", IMAGE, (2, 2, 5, 4), [(2, 4, 2, 2)]),
        ("num_output: 3 kernel_size: 2 axis: 2", IMAGE, (2, 4, 3, 4), [(3, 6, 2), 3]),
        ("num_output: 3 kernel_size: 2 axis: -2", IMAGE, (2, 4, 3, 4), [(3, 6, 2), 3]),
        ("num_output: 3 kernel_size: 2", "2 4 3 3 3", (2, 3, 2, 2, 2), [(3, 4, 2, 2, 2), 3]),
    ],
)
def test_convolution_layer(body: str, shape: str, top, parameters):
    net = net_of(f'type: "Convolution" convolution_param {{ {body} }}', shape)
    assert net.graph.blobs["y0"].shape == top
    wanted = [(p,) if isinstance(p, int) else p for p in parameters]
    assert [p.type.shape for p in net.parameters.values()] == wanted


def test_deconvolution_layer():
    body = 'type: "Deconvolution" convolution_param { num_output: 6 kernel_size: 4 stride: 2 pad: 1'
    net = net_of(body + " group: 2 }", "1 4 5 3")
    assert net.graph.blobs["y0"].shape == (1, 6, 10, 6)
    assert net.parameters["l/0"].type.shape == (4, 3, 4, 4)


@pytest.mark.parametrize(
    ("options", "top", "weights"),
    [
        ("num_output: 7", (2, 7), (7, 120)),
        ("num_output: 7 axis: 2", (2, 4, 7), (7, 30)),
        ("num_output: 7 axis: -1 transpose: true", (2, 4, 6, 7), (5, 7)),
        ("num_output: 7 axis: 0", (7,), (7, 240)),
    ],
)
def test_inner_product_layer(options: str, top, weights):
    net = net_of(f'type: "InnerProduct" inner_product_param {{ {options} }}', IMAGE)
    assert net.graph.blobs["y0"].shape == top
    assert net.parameters["l/0"].type.shape == weights


def test_pooling_layer_rounds_up_or_down():
    up = net_of('type: "Pooling" pooling_param { kernel_size: 3 stride: 2 }', IMAGE)
    assert up.graph.blobs["y0"].shape == (2, 4, 3, 2)
    options = "{ kernel_size: 3 stride: 2 round_mode: FLOOR }"
    down = net_of(f'type: "Pooling" pooling_param {options}', IMAGE, tops=2)
    assert down.graph.blobs["y1"].shape == (2, 4, 2, 2)
    whole = net_of('type: "Pooling" pooling_param { global_pooling: true pool: AVE }', IMAGE)
    assert whole.graph.blobs["y0"].shape == (2, 4, 1, 1)


@pytest.mark.parametrize(
    ("body", "shapes", "wanted"),
    [
        ('"Scale"', (IMAGE,), {"l/0": (4,)}),
        ('"Scale" scale_param { bias_term: true }', (IMAGE,), {"l/0": (4,), "l/1": (4,)}),
        ('"Scale" scale_param { axis: 2 num_axes: -1 }', (IMAGE,), {"l/0": (6, 5)}),
        ('"Scale" scale_param { num_axes: 0 }', (IMAGE,), {"l/0": ()}),
        ('"Scale" scale_param { axis: 1 bias_term: true }', (IMAGE, "4 6"), {"l/0": (4, 6)}),
        ('"Bias" bias_param { axis: 0 num_axes: 2 }', (IMAGE,), {"l/0": (2, 4)}),
        ('"Bias" bias_param { axis: -1 }', (IMAGE, "5"), {}),
        ('"PReLU"', (IMAGE,), {"l/0": (4,)}),
        ('"PReLU" prelu_param { channel_shared: true }', (IMAGE,), {"l/0": ()}),
    ],
)
def test_learned_factors(body: str, shapes, wanted):
    net = net_of(f"type: {body}", *shapes)
    assert {name: p.type.shape for name, p in net.parameters.items()} == wanted
    assert net.graph.blobs["y0"].shape == (2, 4, 6, 5)


def test_default_fillers_of_learned_factors():
    for kind, value in (("Scale", 1.0), ("Bias", 0.0), ("PReLU", 0.25)):
        filler = net_of(f'type: "{kind}"', IMAGE).parameters["l/0"].filler
        assert (filler.get("type"), filler.get("value")) == ("constant", value)


def convolution(options: str) -> str:
    return f'type: "Convolution" convolution_param {{ {options} }}'


def pooling(options: str) -> str:
    return f'type: "Pooling" pooling_param {{ {options} }}'


def eltwise(options: str) -> str:
    return f'type: "Eltwise" eltwise_param {{ {options} }}'


ONE, TWO = (IMAGE,), (IMAGE, IMAGE)
REFUSED = [
    (convolution("kernel_size: 3"), ONE, "num_output must be given"),
    (convolution("num_output: 2"), ONE, "kernel_size is missing"),
    (convolution("num_output: 2 kernel_h: 3"), ONE, "give both kernel_h and kernel_w"),
    (convolution("num_output: 2 kernel_size: 0"), ONE, "kernel must be at least 1"),
    (convolution("num_output: 2 kernel_size: 2 stride: 0"), ONE, "stride must be at least 1"),
    (convolution("num_output: 2 kernel_size: 2 stride_h: 2"), ONE, "stride_h and stride_w"),
    (convolution("num_output: 2 kernel_size: 2 kernel_h: 2"), ONE, "not both"),
    (convolution("num_output: 2 kernel_size: [2, 2, 2]"), ONE, "given 3 times"),
    (convolution("num_output: 2 kernel_h: 2 kernel_w: 2"), ("2 3 8",), "for 2 spatial axes"),
    (convolution("num_output: 2 kernel_size: 3 group: 3"), ONE, "4 channels cannot be split"),
    (convolution("num_output: 3 kernel_size: 3 group: 2"), ONE, "num_output 3 cannot be split"),
    (convolution("num_output: 3 kernel_size: 3 group: 0"), ONE, "group must be at least 1"),
    (convolution("num_output: 3 kernel_size: 9"), ONE, "does not fit"),
    (convolution("num_output: 3 kernel_size: 3 axis: 4"), ONE, "axis 4 does not exist"),
    (convolution("num_output: 3 kernel_size: 3"), TWO, "one top for each bottom"),
    (convolution("num_output: 3 kernel_size: 3"), (), "at least 1 bottom"),
    (pooling(""), ONE, "kernel_size must be given"),
    (pooling("kernel_size: 2 kernel_h: 2 kernel_w: 2"), ONE, "not both"),
    (pooling("kernel_h: 2"), ONE, "belong together"),
    (pooling("kernel_size: 2 pad_w: 1"), ONE, "belong together"),
    (pooling("kernel_size: 2 stride: 0"), ONE, "stride must be at least 1"),
    (pooling("kernel_size: 2 pad: 2"), ONE, "must be smaller than the kernel"),
    (pooling("global_pooling: true kernel_size: 2"), ONE, "takes the whole image"),
    (pooling("global_pooling: true stride: 2"), ONE, "pad 0 and stride 1"),
    (pooling("kernel_size: 2 pool: STOCHASTIC"), ONE, "GPU side only"),
    (pooling("kernel_size: 1 stride: 2"), ("1 1 4 4",), "lies wholly outside"),
    (pooling("kernel_size: 7"), ("1 1 4 4",), "do not fit"),
    (pooling("kernel_size: 2"), ("2 3 4",), "takes a bottom of 4 axes"),
    ('type: "LRN" lrn_param { local_size: 4 }', ONE, "must be odd"),
    ('type: "LRN"', ("2 3",), "takes a bottom of 4 axes"),
    ('type: "InnerProduct"', ONE, "num_output must be given"),
    ('type: "InnerProduct" inner_product_param { num_output: 1 }', TWO, "1 bottom"),
    (eltwise("operation: PROD coeff: 1 coeff: 2"), TWO, "a product takes none"),
    (eltwise("coeff: 1"), TWO, "1 coeff for 2 bottoms"),
    (eltwise(""), ONE, "at least 2 bottoms"),
    (eltwise(""), (IMAGE, "2 4 6 6"), "must have one shape"),
    ('type: "Scale" scale_param { axis: 2 num_axes: 3 }', ONE, "num_axes 3 from axis 2"),
    ('type: "Scale" scale_param { num_axes: -2 }', ONE, "at least -1"),
    ('type: "Bias"', (IMAGE, "3"), "does not match"),
    ('type: "PReLU"', ("5",), "at least 2 axes"),
    ('type: "Exp" exp_param { base: 0 }', ONE, "base must be above 0"),
    ('type: "Log" log_param { base: -2 }', ONE, "base must be above 0"),
    ('type: "Log" log_param { base: 1 }', ONE, "base 1"),
]


@pytest.mark.parametrize(("body", "shapes", "sentence"), REFUSED)
def test_bad_layers_are_refused_with_a_place(body: str, shapes, sentence: str):
    with pytest.raises(NetError, match=sentence) as caught:
        net_of(body, *shapes)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.span is not None
    assert "layer 'l'" in diagnostic.message


def test_absval_in_place_is_refused():
    text = 'layer { name: "a" type: "Input" top: "a" input_param { shape { dim: 3 } } }\n'
    text += 'layer { name: "l" type: "AbsVal" bottom: "a" top: "a" }\n'
    with pytest.raises(NetError, match="in place"):
        build(read_net(text), phase="TEST")
