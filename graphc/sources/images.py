"""ImageData: the picture files of a list, each with its label."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from graphc.frontends.caffe.layer import DataLayer
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
        self.entries = _entries(layer, listed)
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


def _entries(layer: DataLayer, listed: Path) -> list[tuple[str, int]]:
    """The lines `FILE LABEL` of a list; a file's name may hold spaces."""
    entries = []
    try:
        lines = listed.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise layer.fail(f"cannot read the list of pictures '{listed}': {error}") from None
    for number, line in enumerate(lines, start=1):
        name, _, label = line.strip().rpartition(" ")
        if not line.strip():
            continue
        if not name or not label.lstrip("-").isdecimal():
            raise layer.fail(f"{listed}:{number}: '{line[:80]}' is not a file and its label")
        entries.append((name, int(label)))
    if not entries:
        raise layer.fail(f"the list '{listed}' names no picture")
    return entries


@source("ImageData")
def listed_pictures(layer: DataLayer, generator: np.random.Generator) -> ListedPictures | None:
    """The pictures of the layer's list, if there is one."""
    listed = layer.path(layer.options("image_data_param").get("source"))
    return ListedPictures(layer, listed, generator) if listed.is_file() else None
