"""Starting values of parameters, by Caffe's fillers.

Values are drawn from a numpy Generator, so a seed gives the same ones on every machine; they are
not the ones that Caffe's own generator would draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from graphc.error import Diagnostic, NetError, did_you_mean
from graphc.frontends.caffe.message import Message
from graphc.source import Span

FloatArray = NDArray[np.float32]
Shape = tuple[int, ...]
_PART = 1 << 20  # numbers


def fill(
    shape: Sequence[int], filler: Message | None, generator: np.random.Generator
) -> FloatArray:
    """A float32 array of `shape` as `filler` (a FillerParameter) says; without one, zeros.

    constant             value
    uniform              evenly in min .. max
    gaussian             mean and std; with `sparse` s, an entry stays with probability s / shape[0]
    positive_unitball    positive, and the entries of one output sum to 1
    xavier               evenly in +-sqrt(3 / n)
    msra                 normal with std sqrt(2 / n)
    bilinear             the weights that enlarge an image by interpolation

    n is the number of inputs of one output, count / shape[0]; with variance_norm FAN_OUT
    count / shape[1]; with AVERAGE their mean. A single number, such as the slope that all channels
    of a PReLU share, has no axis 0 and is constant, uniform or gaussian.

    Raises NetError for an unknown filler and for parameters that make no sense.
    """
    values: FloatArray = np.zeros(tuple(int(size) for size in shape), np.float32)
    fill_in_place(values, filler, generator)
    return values


def fill_in_place(
    array: NDArray[np.floating], filler: Message | None, generator: np.random.Generator
) -> None:
    """What `fill` says, for an array that is there. Numbers are those of float32."""
    if filler is None:
        array[...] = 0
        return
    check_filler(filler)
    check_fit(array.shape, filler)
    if array.dtype == np.float32 and array.flags.c_contiguous:
        _FILLERS[filler.get("type")](array.astype(np.float32, copy=False), filler, generator)
    else:
        array[...] = fill(array.shape, filler, generator)


def check_filler(filler: Message) -> None:
    """Raise NetError for a filler that no shape could use."""
    kind = filler.get("type")
    if kind not in _FILLERS:
        hint = did_you_mean(kind, _FILLERS) or f"known fillers: {', '.join(_FILLERS)}"
        place = filler.span_of("type")
        raise NetError(Diagnostic(f"unknown filler type '{kind}'", place, hint=hint))
    if kind != "gaussian" and filler.get("sparse") != -1:
        raise _refused(filler, "'sparse' is for the gaussian filler only", "sparse")
    if filler.get("sparse") < -1:
        number = filler.get("sparse")
        message = f"'sparse' must be at least 0, or -1 for none, not {number}"
        raise _refused(filler, message, "sparse")
    if kind == "gaussian" and not filler.get("std") > 0:
        raise _refused(filler, f"'std' must be positive, not {filler.get('std')}", "std")
    if kind == "uniform" and not filler.get("min") <= filler.get("max"):
        low, high = filler.get("min"), filler.get("max")
        raise _refused(filler, f"'min' {low} is above 'max' {high}", "min")


def check_fit(shape: Shape, filler: Message) -> None:
    """Raise NetError for a filler, otherwise right, that cannot fill a blob of this shape."""
    kind, sparse = filler.get("type"), filler.get("sparse")
    # The other fillers, and sparse ones, count outputs along axis 0.
    alone = kind == "uniform" or (kind == "gaussian" and sparse < 0)
    if kind != "constant" and (math.prod(shape) == 0 or not (shape or alone)):
        raise _refused(filler, f"cannot fill a blob of shape {shape}")
    if kind == "bilinear" and (len(shape) != 4 or shape[2] != shape[3]):
        raise _refused(filler, f"bilinear needs a square 4-d blob, not {shape}")
    if kind == "gaussian" and shape and sparse > shape[0]:
        raise _refused(filler, f"'sparse' {sparse} is more than the {shape[0]} outputs", "sparse")


def draws(filler: Message | None) -> bool:
    """Whether the filler takes numbers from the generator."""
    return filler is not None and filler.get("type") not in ("constant", "bilinear")


def _constant(values: FloatArray, filler: Message, generator: np.random.Generator) -> None:
    values[...] = filler.get("value")


def _uniform(values: FloatArray, filler: Message, generator: np.random.Generator) -> None:
    _evenly(values, filler.get("min"), filler.get("max"), generator)


def _gaussian(values: FloatArray, filler: Message, generator: np.random.Generator) -> None:
    std, mean, sparse = filler.get("std"), filler.get("mean"), filler.get("sparse")
    _normal(values, std, generator, mean)
    if sparse < 0:
        return
    values[generator.random(values.shape, np.float32) >= sparse / values.shape[0]] = 0


def _positive_unitball(values: FloatArray, filler: Message, generator: np.random.Generator) -> None:
    rows = values.reshape(values.shape[0], -1)
    generator.random(out=rows, dtype=np.float32)
    # A row of zeros has no direction; it is one in 2^24 for a single entry.
    np.maximum(rows, np.finfo(np.float32).tiny, out=rows)
    rows /= rows.sum(axis=1, keepdims=True)


def _xavier(values: FloatArray, filler: Message, generator: np.random.Generator) -> None:
    """Glorot and Bengio, Understanding the difficulty of training deep feedforward networks."""
    bound = math.sqrt(3 / _fan(values.shape, filler))
    _evenly(values, -bound, bound, generator)


def _msra(values: FloatArray, filler: Message, generator: np.random.Generator) -> None:
    """He and others, Delving deep into rectifiers, arXiv 1502.01852."""
    _normal(values, math.sqrt(2 / _fan(values.shape, filler)), generator)


def _bilinear(values: FloatArray, filler: Message, generator: np.random.Generator) -> None:
    """With f = ceil(K / 2) and c = (K - 1) / (2 f): (1 - |x/f - c|) (1 - |y/f - c|)."""
    shape = values.shape
    factor = math.ceil(shape[3] / 2)
    centre = (shape[3] - 1) / (2 * factor)
    line = 1 - np.abs(np.arange(shape[3]) / factor - centre)
    values[...] = np.outer(line, line)


_FILLERS: dict[str, Callable[[FloatArray, Message, np.random.Generator], None]] = {
    "constant": _constant,
    "uniform": _uniform,
    "gaussian": _gaussian,
    "positive_unitball": _positive_unitball,
    "xavier": _xavier,
    "msra": _msra,
    "bilinear": _bilinear,
}


def _fan(shape: Shape, filler: Message) -> float:
    count = math.prod(shape)
    fan_in = count / shape[0]
    fan_out = count / shape[1] if len(shape) > 1 else count
    norm = filler.get("variance_norm")
    if norm == "AVERAGE":
        return (fan_in + fan_out) / 2
    return fan_out if norm == "FAN_OUT" else fan_in


def _evenly(values: FloatArray, low: float, high: float, generator: np.random.Generator) -> None:
    for part in _parts(values):
        generator.random(out=part, dtype=np.float32)
        part *= np.float32(high - low)
        part += np.float32(low)


def _normal(
    values: FloatArray, std: float, generator: np.random.Generator, mean: float = 0.0
) -> None:
    for part in _parts(values):
        generator.standard_normal(out=part, dtype=np.float32)
        part *= np.float32(std)
        if mean:
            part += np.float32(mean)


def _parts(values: FloatArray) -> Iterator[FloatArray]:
    """Pieces, in order, that stay in a cache while they are worked on: memory of large parameters
    that is touched for the first time is what takes long. Each takes milliseconds, so that a wait
    for a thread that holds Python's lock is short beside it."""
    flat = values.reshape(-1)
    for start in range(0, flat.size, _PART):
        yield flat[start : start + _PART]


def _refused(filler: Message, message: str, field: str = "type") -> NetError:
    place: Span = filler.span_of(field)
    return NetError(f"filler '{filler.get('type')}': {message}", place)
