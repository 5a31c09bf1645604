"""What the data layers of a net bring, pass by pass, where the user does not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from graphc.arrays import checked
from graphc.frontends.caffe.layer import DataLayer
from graphc.sources import (  # noqa: F401  (each enters its source in the table)
    database,
    dummy,
    hdf5,
    images,
)
from graphc.sources.source import SOURCES, Source


class Feeds:
    """The sources of one net's data layers.

    Before a pass, each source fills its tops with the next batch, unless the user has given a value
    for one of them since the last pass.
    """

    def __init__(self, layers: Iterable[DataLayer], seed: int):
        self._sources: dict[tuple[str, ...], Source] = {}
        self._given: set[str] = set()
        for number, layer in enumerate(layers):
            made = SOURCES[layer.definition.type](layer, np.random.default_rng((seed, number)))
            if made is not None:
                self._sources[layer.tops] = made

    @property
    def tops(self) -> list[str]:
        """The net inputs that are filled."""
        return [top for tops in self._sources for top in tops]

    def put(self, tops: Sequence[str], source: Source) -> None:
        """Let a source fill these net inputs from now on."""
        self._sources[tuple(tops)] = source

    def note_given(self, names: Iterable[str]) -> None:
        """The user has given values for these inputs, for one pass."""
        self._given.update(names)

    def fill(self, inputs: Mapping[str, np.ndarray]) -> None:
        """Put the next batch of every source into its inputs. NetError where one does not fit."""
        batches: dict[str, np.ndarray] = {}
        for tops, source in self._sources.items():
            if self._given.isdisjoint(tops):
                arrays = source.next([inputs[top].shape for top in tops])
                batches.update(zip(tops, arrays, strict=True))
        for top, array in batches.items():
            inputs[top][...] = checked(array, inputs[top].shape, f"the data of '{top}'")
        self._given.clear()
