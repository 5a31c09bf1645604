"""Where a data layer's values come from, and the table of those that graphc reads itself.

@source("HDF5Data")
def hdf5_rows(layer, generator):
    return Hdf5Rows(...)          # or None where there is nothing to read
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from graphc.error import NetError
from graphc.frontends.caffe.layer import DataLayer

Shape = tuple[int, ...]


class Source(Protocol):
    """What fills a data layer's tops, pass by pass."""

    def next(self, shapes: Sequence[Shape]) -> Sequence[np.ndarray]:
        """The next batch, an array for each top; after the last item comes the first again.

        `shapes` are those of the tops: the first extent tells how many items are wanted. Raises
        NetError where nothing, or nothing that fits, can be read.
        """


Maker = Callable[[DataLayer, np.random.Generator], Source | None]

SOURCES: dict[str, Maker] = {}


def source(*types: str) -> Callable[[Maker], Maker]:
    """Enter a maker in the table under the given Caffe type names."""

    def enter(maker: Maker) -> Maker:
        for type in types:
            SOURCES[type] = maker
        return maker

    return enter


def stacked(items: Sequence[np.ndarray]) -> np.ndarray:
    """Items as one array. Raises NetError where they are not alike."""
    shapes = list(dict.fromkeys(item.shape for item in items))
    if len(shapes) > 1:
        first, other = (list(shape) for shape in shapes[:2])
        raise NetError(f"the items of a batch are not alike: {first} and {other}")
    return np.stack(items)


def columns(rows: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """Items, each an array a top, as one array a top."""
    return [stacked(column) for column in zip(*rows, strict=True)]
