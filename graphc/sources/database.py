"""Data: images and labels from an LMDB database of Datum records, in the order of their keys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from graphc.frontends.caffe.database import Datum, is_database, read_datums
from graphc.frontends.caffe.layer import DataLayer
from graphc.picture import decoded
from graphc.sources.source import Shape, source, stacked
from graphc.sources.transform import Transform


class DatumRecords:
    """Records of a database through a transform; the second top is their label."""

    def __init__(self, folder: Path, layer: DataLayer, transform: Transform):
        self.folder = folder
        self.layer = layer
        self.transform = transform
        self.last_key: bytes | None = None

    def next(self, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """The next records, from the first again after the last."""
        found, self.last_key = read_datums(self.folder, shapes[0][0], self.last_key)
        if not found:
            raise self.layer.fail(f"the database '{self.folder}' is empty")
        images = stacked([self.transform(self._image(datum)) for datum in found])
        labels = np.array([datum.label for datum in found], np.float32)
        return [images, labels][: len(shapes)]

    def _image(self, datum: Datum) -> np.ndarray:
        if datum.image is not None:
            return datum.image
        options = self.layer.options("transform_param")
        grey = options.get("force_gray")
        return decoded(datum.encoded, f"a record of '{self.folder}'", 1 if grey else 3)


@source("Data")
def datum_records(layer: DataLayer, generator: np.random.Generator) -> DatumRecords | None:
    """The layer's LMDB database, if it is there; graphc reads no LevelDB."""
    options = layer.options("data_param")
    folder = layer.path(options.get("source"))
    if options.get("backend") != "LMDB" or not is_database(folder):
        return None
    return DatumRecords(folder, layer, Transform(layer, generator))
