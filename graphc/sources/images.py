"""ImageData: the picture files of a list, each with its label."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from graphc.error import NetError
from graphc.frontends.caffe.layer import DataLayer
from graphc.frontends.caffe.listed_files import listed_pictures
from graphc.picture import pixels, read_picture, resized
from graphc.sources.source import Shape, columns, source
from graphc.sources.transform import Transform


class ListedPictures:
    """Pictures in the order of the list, or shuffled anew each time around.

    A picture is stretched bilinearly to new_height and new_width; Pillow averages where it shrinks,
    OpenCV, which Caffe uses, does not.
    """

    def __init__(self, layer: DataLayer, listed: Path, generator: np.random.Generator):
        options = layer.options("image_data_param")
        self.transform = Transform(layer, generator)
        self.folder: str = options.get("root_folder")
        self.layer = layer
        self.extents = (options.get("new_height"), options.get("new_width"))
        self.channels = 3 if options.get("is_color") else 1
        self.generator = generator if options.get("shuffle") else None
        try:
            self.entries = list(listed_pictures(listed))
        except NetError as error:
            raise layer.fail(str(error)) from None
        self.order = np.arange(0)
        self.position = 0

    def next(self, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """The next pictures."""
        return columns([self._next_entry()[: len(shapes)] for _ in range(shapes[0][0])])

    def _next_entry(self) -> tuple[np.ndarray, np.ndarray]:
        if self.position == len(self.order):
            count = len(self.entries)
            drawn = self.generator
            self.order = np.arange(count) if drawn is None else drawn.permutation(count)
            self.position = 0
        name, label = self.entries[self.order[self.position]]
        self.position += 1
        picture = read_picture(self.layer.path(self.folder + name), self.channels)
        if all(self.extents):
            picture = resized(picture, *self.extents)
        return self.transform(pixels(picture)), np.array(label, np.float32)


@source("ImageData")
def pictures(layer: DataLayer, generator: np.random.Generator) -> ListedPictures | None:
    """The pictures of the layer's list, if there is one."""
    listed = layer.path(layer.options("image_data_param").get("source"))
    return ListedPictures(layer, listed, generator) if listed.is_file() else None
