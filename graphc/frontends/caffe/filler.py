"""Starting values of parameters, by Caffe's fillers.

Values are drawn from a numpy Generator, so a seed gives the same ones on every machine; they are
not the ones that Caffe's own generator would draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from graphc.error import Diagnostic, NetError, did_you_mean
from graphc.frontends.caffe.message import Message
from graphc.source import Span

FloatArray = NDArray[np.float32]
Shape = tuple[int, ...]


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
    count / shape[1]; with AVERAGE their mean. Raises NetError for an unknown filler and for
    parameters that make no sense.
    """
    sizes = tuple(int(size) for size in shape)
    if filler is None:
        return np.zeros(sizes, np.float32)
    check_filler(filler)
    if filler.get("type") != "constant" and (not sizes or math.prod(sizes) == 0):
        raise _refused(filler, f"cannot fill a blob of shape {sizes}")
    return _FILLERS[filler.get("type")](sizes, filler, generator).astype(np.float32, copy=False)


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


def is_all_zero(filler: Message | None) -> bool:
    """Whether the filler leaves nothing but zeros, as Caffe's default does."""
    return filler is None or (filler.get("type") == "constant" and filler.get("value") == 0)


def _constant(shape: Shape, filler: Message, generator: np.random.Generator) -> FloatArray:
    return np.full(shape, filler.get("value"), np.float32)


def _uniform(shape: Shape, filler: Message, generator: np.random.Generator) -> FloatArray:
    return _evenly(shape, filler.get("min"), filler.get("max"), generator)


def _gaussian(shape: Shape, filler: Message, generator: np.random.Generator) -> FloatArray:
    std, mean, sparse = filler.get("std"), filler.get("mean"), filler.get("sparse")
    values = _normal(shape, std, generator)
    values += np.float32(mean)
    if sparse < 0:
        return values
    if sparse > shape[0]:
        raise _refused(filler, f"'sparse' {sparse} is more than the {shape[0]} outputs", "sparse")
    kept = generator.random(shape, np.float32) < sparse / shape[0]
    return np.where(kept, values, np.float32(0))


def _positive_unitball(shape: Shape, filler: Message, generator: np.random.Generator) -> FloatArray:
    rows = generator.random((shape[0], math.prod(shape[1:])), np.float32)
    # A row of zeros has no direction; it is one in 2^24 for a single entry.
    rows = np.maximum(rows, np.finfo(np.float32).tiny)
    scaled: FloatArray = rows / rows.sum(axis=1, keepdims=True)
    return scaled.reshape(shape)


def _xavier(shape: Shape, filler: Message, generator: np.random.Generator) -> FloatArray:
    """Glorot and Bengio, Understanding the difficulty of training deep feedforward networks."""
    bound = math.sqrt(3 / _fan(shape, filler))
    return _evenly(shape, -bound, bound, generator)


def _msra(shape: Shape, filler: Message, generator: np.random.Generator) -> FloatArray:
    """He and others, Delving deep into rectifiers, arXiv 1502.01852."""
    return _normal(shape, math.sqrt(2 / _fan(shape, filler)), generator)


def _bilinear(shape: Shape, filler: Message, generator: np.random.Generator) -> FloatArray:
    """With f = ceil(K / 2) and c = (K - 1) / (2 f): (1 - |x/f - c|) (1 - |y/f - c|)."""
    if len(shape) != 4 or shape[2] != shape[3]:
        raise _refused(filler, f"bilinear needs a square 4-d blob, not {shape}")
    factor = math.ceil(shape[3] / 2)
    centre = (shape[3] - 1) / (2 * factor)
    line = 1 - np.abs(np.arange(shape[3]) / factor - centre)
    return np.broadcast_to(np.outer(line, line), shape).astype(np.float32)


_FILLERS: dict[str, Callable[[Shape, Message, np.random.Generator], FloatArray]] = {
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


def _evenly(shape: Shape, low: float, high: float, generator: np.random.Generator) -> FloatArray:
    values: FloatArray = generator.random(shape, np.float32)
    values *= np.float32(high - low)  # in place: a large net spends its start here
    values += np.float32(low)
    return values


def _normal(shape: Shape, std: float, generator: np.random.Generator) -> FloatArray:
    values: FloatArray = generator.standard_normal(shape, np.float32)
    values *= np.float32(std)
    return values


def _refused(filler: Message, message: str, field: str = "type") -> NetError:
    place: Span = filler.span_of(field)
    return NetError(f"filler '{filler.get('type')}': {message}", place)
