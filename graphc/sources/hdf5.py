"""HDF5Data: the rows of the files in a list, one file after the other, from the start again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from graphc.error import NetError
from graphc.frontends.caffe.hdf5 import read_hdf5_arrays
from graphc.frontends.caffe.layer import DataLayer
from graphc.frontends.caffe.listed_files import hdf5_files
from graphc.sources.source import Shape, columns, source


class Hdf5Rows:
    """Row i of every data set is item i. Shuffled: the files, and the rows within each file."""

    def __init__(
        self,
        files: Sequence[Path],
        tops: Sequence[str],
        generator: np.random.Generator | None,
    ):
        self.files = list(files)
        self.tops = tops
        self.generator = generator  # None: in the order of the files
        self.arrays: list[np.ndarray] = []
        self.rows: np.ndarray = np.arange(0)
        self.row = 0
        self.file = len(self.files)

    def next(self, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """The next rows; a batch may begin in one file and end in another."""
        return columns([self._next_row() for _ in range(shapes[0][0])])

    def _next_row(self) -> list[np.ndarray]:
        if self.row == len(self.rows):
            self._open_next()
        place = self.rows[self.row]
        self.row += 1
        return [array[place] for array in self.arrays]

    def _open_next(self) -> None:
        started = bool(self.arrays)
        self.file += 1
        if self.file >= len(self.files):
            self.file = 0
            if self.generator is not None:
                self.generator.shuffle(self.files)
        if not started or len(self.files) > 1:
            self.arrays = self._read(self.files[self.file])
        count = len(self.arrays[0])
        self.rows = (
            np.arange(count) if self.generator is None else self.generator.permutation(count)
        )
        self.row = 0

    def _read(self, path: Path) -> list[np.ndarray]:
        arrays = read_hdf5_arrays(path, self.tops)
        counts = {array.shape[:1] for array in arrays}
        if len(counts) > 1 or counts in ({()}, {(0,)}):
            shapes = ", ".join(
                f"{top} {list(array.shape)}" for top, array in zip(self.tops, arrays, strict=True)
            )
            raise NetError(f"the data sets of '{path}' must have rows, and as many each: {shapes}")
        return arrays


@source("HDF5Data")
def hdf5_rows(layer: DataLayer, generator: np.random.Generator) -> Hdf5Rows | None:
    """The files of the layer's list, if there is one."""
    options = layer.options("hdf5_data_param")
    listed = layer.path(options.get("source"))
    if not listed.is_file():
        return None
    shuffled = generator if options.get("shuffle") else None
    return Hdf5Rows(hdf5_files(listed), layer.tops, shuffled)
