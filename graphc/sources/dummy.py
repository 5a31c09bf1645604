"""DummyData whose fillers are random: new numbers at every pass, as Caffe refills them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphc.frontends.caffe.filler import fill
from graphc.frontends.caffe.layer import DataLayer
from graphc.sources.source import Shape, source


class RandomNumbers:
    """Numbers by fillers, one for each top."""

    def __init__(self, fillers: Sequence[Any], generator: np.random.Generator):
        self.fillers = fillers
        self.generator = generator

    def next(self, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """New numbers for every top."""
        return [
            fill(shape, filler, self.generator)
            for shape, filler in zip(shapes, self.fillers, strict=True)
        ]


@source("DummyData")
def random_numbers(layer: DataLayer, generator: np.random.Generator) -> RandomNumbers:
    """The tops that are drawn; those of a constant filler are constants of the net."""
    fillers = layer.options("dummy_data_param").all("data_filler")
    places = [layer.definition.tops.index(top) for top in layer.tops]
    return RandomNumbers([fillers[place % len(fillers)] for place in places], generator)
