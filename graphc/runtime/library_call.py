"""What a library of NVIDIA's is asked to compute in place of a generated kernel, as plain data.

Strides and leading dimensions count elements. Both calls are direct sums in the precision of the
generated kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CUBLASLT, CUDNN = "cuBLASLt", "cuDNN"

Ending = Literal["", "bias", "relu", "bias+relu", "add"]
Pair = tuple[int, int]
Four = tuple[int, int, int, int]
Way = Literal["forward", "data gradient", "weight gradient"]


@dataclass(frozen=True)
class Matrix:
    """rows x columns as they lie in memory, a column's elements being neighbours.

    leading: from one column to the next. batch: from one matrix to the next.
    """

    rows: int
    columns: int
    leading: int
    batch: int = 0


@dataclass(frozen=True)
class MatrixProduct:
    """d = op(a) op(b), `count` times, in float32 or float64.

    Operands come in the order a, b, d, then the one of `ending`.
    transposed: whether op transposes a, and b. ending: "" is the sum alone, "bias" adds a vector
    with an element a row of d, "relu" takes the maximum with 0, "bias+relu" does one after the
    other, "add" adds a matrix that lies as d does.
    """

    dtype: str
    a: Matrix
    b: Matrix
    d: Matrix
    transposed: tuple[bool, bool]
    count: int = 1
    ending: Ending = ""
    tf32: bool = False

    @property
    def library(self) -> str:
        """Whose call it is."""
        return CUBLASLT


@dataclass(frozen=True)
class Convolution:
    """A convolution in float32, or a gradient of one; operands: two that are read, the result.

    forward: data, weights -> result. data gradient: gradient of the result, weights -> that of the
    data. weight gradient: data, gradient of the result -> that of the weights.

    Attributes:
        data, result: (images, channels, height, width), with strides in the same order, channels
            being neighbours.
        weights: (outputs, channels of a group, height, width), stored as (outputs, height, width,
            channels).
        pads, strides, dilations: down and across; pads are the same on both sides.
    """

    way: Way
    data: Four
    data_strides: Four
    weights: Four
    result: Four
    result_strides: Four
    pads: Pair
    strides: Pair
    dilations: Pair
    groups: int = 1
    tf32: bool = False

    @property
    def library(self) -> str:
        """Whose call it is."""
        return CUDNN


Call = MatrixProduct | Convolution
