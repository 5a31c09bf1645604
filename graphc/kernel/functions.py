"""What each scalar function of the kernel language means, for arrays of numpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from graphc.ir.types import REAL
from graphc.kernel.lang import Call
from graphc.kernel.philox import random_bits


def _sigmoid(x: np.ndarray) -> np.ndarray:
    small = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, x.dtype.type(1), small) / (1 + small))


def _cast(x: np.ndarray, dtype: str) -> np.ndarray:
    if x.dtype.kind != "f" or dtype in REAL or dtype == "bool":
        return x.astype(np.dtype(dtype))
    limits = np.iinfo(np.dtype(dtype))
    whole = np.where(x == x, np.trunc(x), 0).astype(np.float64)
    # The largest int64 is no float64: what reaches it is put in afterwards.
    high = whole >= float(limits.max)
    safe = np.where(high, 0.0, np.maximum(whole, float(limits.min))).astype(np.dtype(dtype))
    return np.where(high, np.array(limits.max, np.dtype(dtype)), safe)


def _random_bits(key: np.ndarray, stream: np.ndarray, counter: np.ndarray) -> np.ndarray:
    # Keys and streams hardly ever differ between elements: one call for each pair that occurs.
    bits = np.zeros(np.broadcast_shapes(key.shape, stream.shape, counter.shape), np.int64)
    keys, streams, counters = (np.broadcast_to(a, bits.shape) for a in (key, stream, counter))
    for one_key in np.unique(key):
        for one_stream in np.unique(stream):
            here = (keys == one_key) & (streams == one_stream)
            bits[here] = random_bits(int(one_key), int(one_stream), counters[here])
    return bits


_FUNCTIONS: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "min": np.fmin,
    "max": np.fmax,
    "neg": np.negative,
    "abs": np.abs,
    "sign": np.sign,
    "floordiv": np.floor_divide,
    "mod": np.mod,
    "exp": np.exp,
    "log": np.log,
    "log1p": np.log1p,
    "expm1": np.expm1,
    "sqrt": np.sqrt,
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "pow": np.power,
    "floor": np.floor,
    "round": np.rint,
    "lt": np.less,
    "le": np.less_equal,
    "eq": np.equal,
    "and": np.logical_and,
    "or": np.logical_or,
    "not": np.logical_not,
    "select": np.where,
    "random_bits": _random_bits,
}


def apply(expr: Call, args: Sequence[np.ndarray]) -> np.ndarray:
    """A call of a scalar function on arrays, or numbers, that go together."""
    if expr.function == "cast":
        return _cast(args[0], expr.dtype)
    result = np.asarray(_FUNCTIONS[expr.function](*args))
    return result if result.dtype == np.dtype(expr.dtype) else result.astype(np.dtype(expr.dtype))
