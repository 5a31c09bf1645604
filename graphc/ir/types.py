"""What a value is made of: an element type and a shape.

A type prints as `float32[16, 3, 227, 227]`; a scalar as `float32[]`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from graphc.error import NetError

DTYPES: dict[str, int] = {
    "float32": 4,
    "float64": 8,
    "int32": 4,
    "int64": 8,
    "uint8": 1,
}
REAL = ("float32", "float64")

# One value may not be larger than this: 2**40 bytes is past any machine this runs on, and
# refusing it here gives a sentence instead of an allocation that fails or an offset that wraps.
LARGEST_BYTES = 2**40


@dataclass(frozen=True)
class TensorType:
    """`dtype` is a key of DTYPES; `shape` holds extents of at least 0."""

    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise NetError(f"unknown element type '{self.dtype}'; known are {', '.join(DTYPES)}")
        if any(extent < 0 for extent in self.shape):
            raise NetError(f"a shape cannot hold a negative extent: {list(self.shape)}")
        if self.bytes > LARGEST_BYTES:
            raise NetError(
                f"a blob of shape {list(self.shape)} has {self.size:.3g} elements"
                f" ({self.bytes / 2**30:.3g} GiB); the limit is {LARGEST_BYTES // 2**30} GiB"
            )

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """The memory of the elements."""
        return self.size * DTYPES[self.dtype]

    @property
    def is_real(self) -> bool:
        """Whether a gradient can exist: float32 or float64."""
        return self.dtype in REAL

    def with_shape(self, *shape: int) -> TensorType:
        """The same element type in another shape."""
        return replace(self, shape=tuple(shape))

    def dropping(self, axis: int) -> TensorType:
        """The type without one axis."""
        axis %= max(self.rank, 1)
        return replace(self, shape=self.shape[:axis] + self.shape[axis + 1 :])

    def strides(self) -> tuple[int, ...]:
        """Row-major strides, in elements."""
        return row_major(self.shape)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"

    @staticmethod
    def parse(text: str) -> TensorType:
        """Read what `str` prints. Raises NetError for what it does not."""
        match = re.fullmatch(r"\s*(\w+)\[([\d,\s]*)\]\s*", text)
        if not match:
            raise NetError(f"'{text}' is no type such as float32[2, 3]")
        if re.search(r"\d{19}", text):
            raise NetError(f"an extent in a type of {len(text)} characters is too large")
        extents = [part for part in match[2].split(",") if part.strip()]
        return TensorType(match[1], tuple(int(extent) for extent in extents))


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides in elements of a dense array whose last axis is contiguous."""
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * max(shape[axis + 1], 1)
    return tuple(strides)
