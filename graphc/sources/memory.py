"""MemoryData: arrays that the program gives, served in batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphc.sources.source import Shape


class ArrayRows:
    """Arrays with as many rows each, a multiple of the batch."""

    def __init__(self, arrays: Sequence[np.ndarray]):
        self.arrays = arrays
        self.position = 0

    def next(self, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """The rows whose turn it is."""
        first, last = self.position, self.position + shapes[0][0]
        self.position = last % len(self.arrays[0])
        return [array[first:last] for array in self.arrays]
