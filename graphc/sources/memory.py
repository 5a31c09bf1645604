"""MemoryData: arrays that the program gives, served in batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphc.arrays import real_numbers
from graphc.error import need
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


def image_rows(name: str, shape: Shape, data: Any, labels: Any) -> ArrayRows:
    """Images and their labels for the layer `name`, whose first top has this shape.

    Raises NetError unless their number is a multiple of the batch.
    """
    images, numbers = real_numbers(data, "data"), real_numbers(labels, "labels")
    batch, *extents = shape
    need(
        list(images.shape[1:]) == extents and len(images) and len(images) % batch == 0,
        f"'{name}' serves images [N, {', '.join(map(str, extents))}], N a multiple of {batch};"
        f" data of shape {list(images.shape)} were given",
    )
    need(
        numbers.size == len(images),
        f"there are {len(images)} images and {numbers.size} labels",
    )
    return ArrayRows([images, numbers.reshape(-1)])
