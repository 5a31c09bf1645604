"""Options of Caffe's layers, against plain numpy and finite differences in float64."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import caffe_formulas as formulas
import numpy as np
import pytest

import graphc

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """A layer with options and the shapes of its bottoms; `meaning` makes tops of all its arrays.

    The arrays are the bottoms, then the parameters. `given` are bottoms with special values, which
    get no gradient; nothing gets one where `derives` is false.
    """

    kind: str
    options: str
    shapes: Sequence[Shape]
    meaning: Callable[..., Any]
    given: tuple[tuple[int, Any], ...] = ()
    derives: bool = True


def _broadcast(factor: np.ndarray, x: np.ndarray, axis: int) -> np.ndarray:
    """The factor, matched from `axis` on."""
    return factor.reshape((1,) * axis + factor.shape + (1,) * (x.ndim - axis - factor.ndim))


def _scale(axis: int, count: int) -> Case:
    def meaning(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
        return x * _broadcast(w, x, axis % 4) + _broadcast(b, x, axis % 4)

    options = f"scale_param {{ axis: {axis} num_axes: {count} bias_term: true }}"
    return Case("Scale", options, [(2, 3, 4, 5)], meaning)


def _reduction(operation: str, axis: int, reduce: Callable[..., np.ndarray]) -> Case:
    def meaning(x: np.ndarray) -> np.ndarray:
        return -2.5 * reduce(x.reshape(*x.shape[: axis % 3], -1))

    options = f"reduction_param {{ operation: {operation} axis: {axis} coeff: -2.5 }}"
    return Case("Reduction", options, [(2, 3, 4)], meaning)


def _pooling(
    method: str, extents: Shape, kernel: Shape, stride: Shape, pad: Shape, mode: str
) -> Case:
    options = " ".join(
        f"{name}_{side}: {number}"
        for name, pair in (("kernel", kernel), ("stride", stride), ("pad", pad))
        for side, number in zip("hw", pair, strict=True)
    )

    def meaning(x: np.ndarray) -> Any:
        return formulas.pooled(x, kernel, stride, pad, method.split()[0], mode == "CEIL")[
            : 1 + masked
        ]

    masked = method == "MAX with mask"
    text = f"pooling_param {{ pool: {method.split()[0]} round_mode: {mode} {options} }}"
    return Case("Pooling", text, [(2, 3, *extents)], meaning, derives=not masked)


def _mvn(shape: Shape, across: bool, variance: bool) -> Case:
    options = f"across_channels: {str(across).lower()} normalize_variance: {str(variance).lower()}"
    return Case(
        "MVN",
        f"mvn_param {{ {options} }}",
        [shape],
        lambda x: formulas.standardised(x, across, variance),
    )


def _argmax(shape: Shape, axis: int | None, count: int, values: bool) -> Case:
    along = "" if axis is None else f"axis: {axis}"
    options = f"argmax_param {{ top_k: {count} out_max_val: {str(values).lower()} {along} }}"
    ties = np.round(np.random.default_rng(5).standard_normal(shape) * 1.5)
    return Case(
        "ArgMax",
        options,
        [shape],
        lambda x: formulas.largest(x, axis, count, values),
        ((0, ties),),
        derives=False,
    )


def _accuracy(top_k: int, ignored: int | None) -> Case:
    ignoring = "" if ignored is None else f"ignore_label: {ignored}"
    rng = np.random.default_rng(6)
    scores, labels = np.round(rng.standard_normal((3, 4, 2, 2))), rng.integers(0, 4, (3, 2, 2))
    return Case(
        "Accuracy",
        f"accuracy_param {{ top_k: {top_k} {ignoring} }}",
        [scores.shape, labels.shape],
        lambda x, label: formulas.accuracy(x, label, top_k, ignored),
        ((0, scores), (1, labels)),
        derives=False,
    )


MARKS = np.array([[0, 0], [1, 1], [1, 0], [1, 1]])


def _lstm(x: Any, cont: Any, static: Any, *rest: Any) -> Any:
    """Bottoms: x, cont, a static input, perhaps first states; W_x, b, W_static, W_h."""
    *states, from_x, bias, from_static, recurrent = rest
    drive = x.reshape(*x.shape[:2], -1) @ from_x.T + bias
    drive = drive + static.reshape(len(static), -1) @ from_static.T
    first = [state[0] for state in states] or [np.zeros((x.shape[1], recurrent.shape[1]))] * 2
    made = formulas.lstm(x, cont, drive, recurrent, *first)
    return made if states else made[:1]


def _rnn(x: Any, cont: Any, static: Any, *rest: Any) -> Any:
    """W_xh, b_h, W_static, W_hh, W_ho, b_o behind the bottoms."""
    *states, from_x, bias, from_static, recurrent, leaving, last = rest
    drive = x @ from_x.T + bias + static @ from_static.T
    first = states[0][0] if states else np.zeros((x.shape[1], len(recurrent)))
    made = formulas.rnn(cont, drive, recurrent, leaving, last, first)
    return made if states else made[:1]


def _convolution(kind: str, formula: Callable[..., np.ndarray]) -> Case:
    """Three spatial axes, two groups, two bottoms; every option another along each axis."""
    options = (
        "num_output: 6 group: 2 kernel_size: 3 kernel_size: 2 kernel_size: 2 stride: 2 stride: 1"
        " stride: 3 pad: 1 pad: 0 pad: 1 dilation: 1 dilation: 2 dilation: 2"
    )

    def meaning(a: np.ndarray, b: np.ndarray, w: np.ndarray, bias: np.ndarray) -> list[np.ndarray]:
        return [formula(x, w, bias, (2, 1, 3), (1, 0, 1), (1, 2, 2), 2) for x in (a, b)]

    shape = (2, 4, 5, 6, 4)
    return Case(kind, f"convolution_param {{ {options} }}", [shape, shape], meaning)


def _conv_of_leading_axes(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    y = formulas.correlation(x.reshape(4, 3, 7, 6), w, b, (1, 1), (0, 0), (1, 1))
    return y.reshape(2, 2, *y.shape[1:])


WINDOWS = [
    ((5, 6), (3, 2), (2, 1), (1, 1), "CEIL"),
    ((5, 6), (3, 2), (2, 3), (1, 0), "FLOOR"),
    ((7, 7), (3, 3), (2, 2), (2, 2), "FLOOR"),
    ((4, 9), (1, 3), (2, 2), (0, 1), "CEIL"),
    ((8, 8), (2, 2), (3, 3), (1, 1), "CEIL"),
]
REDUCTIONS: dict[str, Callable[..., np.ndarray]] = {
    "SUM": lambda x: x.sum(-1),
    "ASUM": lambda x: np.abs(x).sum(-1),
    "SUMSQ": lambda x: (x**2).sum(-1),
    "MEAN": lambda x: x.mean(-1),
}
RECURRENT = "recurrent_param { num_output: 3 }"
EXPOSED = "recurrent_param { num_output: 3 expose_hidden: true }"

CASES = {
    "convolution": _convolution("Convolution", formulas.correlation),
    "deconvolution": _convolution("Deconvolution", formulas.spreading),
    "convolution axis": Case(
        "Convolution",
        "convolution_param { num_output: 4 kernel_size: 3 axis: -3 }",
        [(2, 2, 3, 7, 6)],
        _conv_of_leading_axes,
    ),
    "convolution 1-d": Case(
        "Convolution",
        "convolution_param { num_output: 4 kernel_size: 3 stride: 2 pad: 2 dilation: 3 }",
        [(2, 3, 11)],
        lambda x, w, b: formulas.correlation(x, w, b, (2,), (2,), (3,)),
    ),
    "deconvolution depthwise": Case(
        "Deconvolution",
        "convolution_param { num_output: 3 group: 3 kernel_size: 4 stride: 2 pad: 1 }",
        [(2, 3, 4, 5)],
        lambda x, w, b: formulas.spreading(x, w, b, (2, 2), (1, 1), (1, 1), 3),
    ),
    "inner product": Case(
        "InnerProduct",
        "inner_product_param { num_output: 6 axis: -2 transpose: true }",
        [(2, 3, 4, 5)],
        lambda x, w, b: x.reshape(2, 3, 20) @ w + b,
    ),
    **{
        f"prelu {shape} {shared}": Case(
            "PReLU",
            f"prelu_param {{ channel_shared: {shared} }}",
            [shape],
            lambda x, w: np.where(x > 0, x, x * _broadcast(w, x, 1 if w.ndim else 0)),
        )
        for shape in ((3, 4), (2, 3, 4, 2, 2))
        for shared in ("true", "false")
    },
    **{
        f"scale {axis} {count}": _scale(axis, count)
        for axis, count in ((0, 1), (-2, 2), (1, -1), (0, -1), (-1, 1), (0, 2))
    },
    "scale by a number": Case("Scale", "", [(2, 3), ()], lambda x, w: x * w),
    "scale by bottom": Case(
        "Scale",
        "scale_param { axis: 1 bias_term: true }",
        [(2, 3, 4), (3,)],
        lambda x, w, b: x * _broadcast(w, x, 1) + _broadcast(b, x, 1),
    ),
    "bias by a number": Case("Bias", "", [(2, 3), ()], lambda x, b: x + b),
    "lstm": Case("LSTM", RECURRENT, [(4, 2, 3), (4, 2), (2, 2, 2)], _lstm, ((1, MARKS),)),
    "lstm exposed": Case(
        "LSTM",
        EXPOSED,
        [(4, 2, 3), (4, 2), (2, 5), (1, 2, 3), (1, 2, 3)],
        _lstm,
        ((1, MARKS + (MARKS == 0)),),
    ),
    "rnn": Case("RNN", RECURRENT, [(4, 2, 3), (4, 2), (2, 2)], _rnn, ((1, MARKS),)),
    "rnn exposed": Case(
        "RNN", EXPOSED, [(4, 2, 3), (4, 2), (2, 2), (1, 2, 3)], _rnn, ((1, MARKS),)
    ),
    "reshape inside": Case(
        "Reshape",
        "reshape_param { shape { dim: 4 dim: -1 } axis: -2 num_axes: 1 }",
        [(2, 3, 20)],
        lambda x: x.reshape(2, 3, 4, 5),
    ),
    "reshape inserts": Case(
        "Reshape",
        "reshape_param { shape { dim: 1 dim: 1 } axis: 1 num_axes: 0 }",
        [(2, 3, 4)],
        lambda x: x.reshape(2, 1, 1, 3, 4),
    ),
    "reshape appends": Case(
        "Reshape",
        "reshape_param { shape { dim: 1 } axis: -1 num_axes: 0 }",
        [(2, 3, 4)],
        lambda x: x.reshape(2, 3, 4, 1),
    ),
    "reshape copies": Case(
        "Reshape",
        "reshape_param { shape { dim: 0 dim: -1 dim: 2 } }",
        [(2, 3, 4)],
        lambda x: x.reshape(2, 6, 2),
    ),
    "flatten": Case(
        "Flatten",
        "flatten_param { axis: -3 end_axis: -2 }",
        [(2, 3, 4, 5)],
        lambda x: x.reshape(2, 12, 5),
    ),
    "tile": Case(
        "Tile", "tile_param { axis: -2 tiles: 3 }", [(2, 3, 4)], lambda x: np.tile(x, (1, 3, 1))
    ),
    **{
        f"pooling {method} {number}": _pooling(method, *WINDOWS[number])
        for method in ("MAX", "MAX with mask", "AVE")
        for number in range(len(WINDOWS))
    },
    **{
        f"pyramid {method}": Case(
            "SPP",
            f"spp_param {{ pyramid_height: 3 pool: {method} }}",
            [(2, 3, 9, 8)],
            lambda x, method=method: formulas.pyramid(x, 3, method),
        )
        for method in ("MAX", "AVE")
    },
    **{
        f"reduction {operation} {axis}": _reduction(operation, axis, reduce)
        for operation, reduce in REDUCTIONS.items()
        for axis in (0, -1, -2)
    },
    "eltwise sum": Case(
        "Eltwise",
        "eltwise_param { coeff: 0 coeff: -1.5 coeff: 2 }",
        [(2, 3)] * 3,
        lambda a, b, c: -1.5 * b + 2 * c,
    ),
    "eltwise product": Case(
        "Eltwise",
        "eltwise_param { operation: PROD }",
        [(2, 3)] * 4,
        lambda a, b, c, d: a * b * c * d,
    ),
    **{
        f"mvn {len(shape)} {across} {variance}": _mvn(shape, across, variance)
        for shape in ((2, 3, 4, 5), (2, 3, 4))
        for across in (False, True)
        for variance in (False, True)
    },
    **{
        f"argmax {shape} {axis} {count} {values}": _argmax(shape, axis, count, values)
        for shape, axis in (
            ((2, 4, 3, 2), None),
            ((2, 4, 3, 2), 1),
            ((2, 4, 3, 2), -2),
            ((3, 5), None),
        )
        for count in (1, 3)
        for values in (False, True)
    },
    **{
        f"accuracy {top_k} {ignored}": _accuracy(top_k, ignored)
        for top_k in (1, 2)
        for ignored in (None, 1, 255)
    },
    "crop": Case(
        "Crop",
        "crop_param { axis: -3 offset: 1 offset: 2 offset: 0 }",
        [(2, 5, 6, 7), (2, 3, 4, 5)],
        lambda x, like: x[:, 1:4, 2:6, 0:5],
        ((1, 0.0),),
    ),
    "slice": Case(
        "Slice",
        "slice_param { axis: -2 slice_point: 1 slice_point: 4 }",
        [(2, 7, 3)],
        lambda x: [x[:, :1], x[:, 1:4], x[:, 4:]],
    ),
}


def layer_text(case: Case, tops: int) -> str:
    lines = ["force_backward: true"] if case.derives else []
    names = [f"x{number}" for number in range(len(case.shapes))]
    for name, shape in zip(names, case.shapes, strict=True):
        dims = " ".join(f"dim: {extent}" for extent in shape)
        lines.append(
            f'layer {{ name: "{name}" type: "Input" top: "{name}"'
            f" input_param {{ shape {{ {dims} }} }} }}"
        )
    bottom = " ".join(f'bottom: "{name}"' for name in names)
    top = " ".join(f'top: "y{number}"' for number in range(tops))
    lines.append(f'layer {{ name: "l" type: "{case.kind}" {bottom} {top} {case.options} }}\n')
    return "\n".join(lines)


def tops_of(case: Case) -> int:
    """How many tops the layer has: one, unless the text needs more."""
    if case.kind in ("Convolution", "Deconvolution"):
        return len(case.shapes)
    if case.options == EXPOSED:
        return len(case.shapes) - 2
    return {"Slice": 3, "Accuracy": 2, "Pooling": 1 if case.derives else 2}.get(case.kind, 1)


@pytest.mark.parametrize("name", CASES)
def test_options_mean_what_the_formulas_say(name: str) -> None:
    case, rng = CASES[name], np.random.default_rng(0)
    tops = tops_of(case)
    arrays = [np.asarray(rng.standard_normal(shape)) for shape in case.shapes]
    for number, values in case.given:
        arrays[number][...] = values
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", graphc.NetWarning)
        net = graphc.Net(layer_text(case, tops), dtype="float64", threads=1)
    parameters = []
    for blob in net.params.get("l", []):
        parameters.append(np.asarray(0.5 * rng.standard_normal(blob.shape)))
        blob.data[...] = parameters[-1]
    results = net.forward(**{f"x{number}": array for number, array in enumerate(arrays)})
    wanted = listed(case.meaning(*arrays, *parameters))
    assert len(wanted) == tops
    for number, array in enumerate(wanted):
        assert results[f"y{number}"].shape == array.shape
        np.testing.assert_allclose(results[f"y{number}"], array, rtol=1e-9, atol=1e-9)
    if case.derives:
        seeds = [rng.standard_normal(array.shape) for array in wanted]
        compare_gradients(net, case, arrays, parameters, seeds)


def listed(made: Any) -> list[np.ndarray]:
    return list(made) if isinstance(made, (list, tuple)) else [made]


def compare_gradients(
    net: graphc.Net,
    case: Case,
    arrays: list[np.ndarray],
    parameters: list[np.ndarray],
    seeds: list[np.ndarray],
) -> None:
    """Against central differences, at a few elements of every array."""
    found = net.backward(**{f"y{number}": seed for number, seed in enumerate(seeds)})

    def total() -> float:
        tops = listed(case.meaning(*arrays, *parameters))
        return sum(float((top * seed).sum()) for top, seed in zip(tops, seeds, strict=True))

    constant = {number for number, _ in case.given}
    moved = [(a, found[f"x{n}"]) for n, a in enumerate(arrays) if n not in constant]
    moved += [(a, net.params["l"][n].diff) for n, a in enumerate(parameters)]
    rng, step = np.random.default_rng(1), 1e-5
    for array, gradient in moved:
        for place in {tuple(rng.integers(array.shape)) for _ in range(6)}:
            value = array[place]
            array[place] = value + step
            above = total()
            array[place] = value - step
            slope = (above - total()) / (2 * step)
            array[place] = value
            assert gradient[place] == pytest.approx(slope, rel=1e-5, abs=1e-6)
