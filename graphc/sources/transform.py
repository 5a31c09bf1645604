"""What Caffe's data layers do to an image on its way in: crop, mirror, mean, scale.

    out = (pixel - mean) * scale

In training a crop lies anywhere, in testing in the middle. `mirror` flips every second image, by
chance, in both phases.
"""

from __future__ import annotations

import numpy as np

from graphc.error import NetError
from graphc.frontends.caffe.caffemodel import read_blob
from graphc.frontends.caffe.layer import DataLayer


class Transform:
    """The transform_param of a layer. Raises NetError for what no image could go through."""

    def __init__(self, layer: DataLayer, generator: np.random.Generator):
        options = layer.options("transform_param")
        self.layer = layer
        self.generator = generator
        self.crop: int = options.get("crop_size")
        self.mirror: bool = options.get("mirror")
        self.scale = np.float32(options.get("scale"))
        self.means = np.array(options.all("mean_value"), np.float32)
        self.mean_image: np.ndarray | None = None
        if options.has("mean_file"):
            if len(self.means):
                raise layer.fail("give mean_file or mean_value, not both")
            mean = read_blob(layer.path(options.get("mean_file")))
            self.mean_image = mean.reshape(mean.shape[-3:])

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """An image [channels, height, width] as float32, cropped if the layer says so."""
        made = self._without_mean(image.astype(np.float32))
        if self.crop:
            top, left = (self._offset(extent) for extent in image.shape[1:])
            made = made[:, top : top + self.crop, left : left + self.crop]
        if self.mirror and self.generator.integers(2):
            made = made[:, :, ::-1]
        return made * self.scale

    def _without_mean(self, image: np.ndarray) -> np.ndarray:
        if self.mean_image is not None:
            self._need(
                self.mean_image.shape == image.shape,
                f"the mean image is {list(self.mean_image.shape)}, an image is {list(image.shape)}",
            )
            return np.asarray(image - self.mean_image)
        if not len(self.means):
            return image
        self._need(
            len(self.means) in (1, len(image)),
            f"there are {len(self.means)} mean_values; an image has {len(image)} channels",
        )
        return np.asarray(image - self.means[:, np.newaxis, np.newaxis])

    def _offset(self, extent: int) -> int:
        spare = extent - self.crop
        self._need(spare >= 0, f"crop_size {self.crop} is more than an image's extent {extent}")
        if self.layer.phase == "TRAIN":
            return int(self.generator.integers(spare + 1))
        return spare // 2

    def _need(self, condition: bool, message: str) -> None:
        if not condition:
            raise NetError(f"layer '{self.layer.definition.name}': {message}")
