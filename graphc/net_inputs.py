"""What goes into a net: what the user sets, and what its data layers serve."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from graphc.arrays import checked
from graphc.call_arguments import unknown
from graphc.error import NetError
from graphc.frontends.caffe.definition import NetDefinition
from graphc.frontends.caffe.network import CaffeNet
from graphc.net_arrays import NetArrays
from graphc.net_calls import NetCalls
from graphc.sources.feeds import Feeds
from graphc.sources.memory import image_rows


class NetInputs:
    """Fills the input arrays of one net.

    Attributes:
        feeds: what data layers serve.
    """

    def __init__(
        self,
        definition: NetDefinition,
        front: CaffeNet,
        arrays: NetArrays,
        calls: NetCalls,
        seed: int,
    ):
        """`seed` is of what data layers draw."""
        self.definition, self.arrays, self.calls = definition, arrays, calls
        self.feeds = Feeds(front.data_layers, seed)

    def put(self, inputs: Mapping[str, Any]) -> None:
        """Copy arrays in, all or none. Raises NetError for an unknown name or a wrong shape."""
        held = self.arrays.inputs
        numbers: dict[str, np.ndarray] = {}
        for name, array in inputs.items():
            if name not in held:
                raise NetError(unknown("net input", name, held))
            numbers[name] = checked(array, held.bound(name).shape, f"input '{name}'")
        for name, array in numbers.items():
            held[name][...] = array
        if inputs:
            self.calls.is_current = False
            self.feeds.note_given(inputs)

    def serve_images(self, data: Any, labels: Any) -> None:
        """Let the MemoryData layer serve these. Raises NetError where the net has none."""
        layer = next((d for d in self.definition.layers if d.type == "MemoryData"), None)
        if layer is None:
            raise NetError("the net has no MemoryData layer")
        shape = self.arrays.inputs[layer.tops[0]].shape
        self.feeds.put(layer.tops, image_rows(layer.name, shape, data, labels))

    def fill(self, given: Iterable[str] = ()) -> None:
        """Let the data layers serve the next batch; the user has set the inputs of `given`."""
        self.feeds.note_given(given)
        self.feeds.fill(self.arrays.inputs)
