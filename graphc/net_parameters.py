"""The parameters of a net: their first values, files of them, and sharing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from graphc.blob import Named, ParameterBlob
from graphc.compilations import Compilations
from graphc.error import need
from graphc.net_arrays import NetArrays
from graphc.net_calls import NetCalls
from graphc.weights import load_weights, save_weights, share_parameters, start_parameters


class NetParameters:
    """Works on the parameter arrays of one net."""

    def __init__(self, compilations: Compilations, arrays: NetArrays, calls: NetCalls):
        self.compilations, self.arrays, self.calls = compilations, arrays, calls

    def by_layer(self) -> dict[str, list[ParameterBlob]]:
        """Layer name -> its parameters; those that are shared stand in every layer."""
        lists: dict[str, list[ParameterBlob]] = Named("layer with parameters", {})
        for key, owner in self.compilations.front().owners.items():
            lists.setdefault(key.rpartition("/")[0], []).append(ParameterBlob(owner, self.arrays))
        return lists

    def start(self, seed: int, weights: Any) -> None:
        """Their first values; see `graphc.weights.start_parameters`."""
        start_parameters(self.compilations.front(), self.arrays.parameters, seed, weights)

    def load(self, weights: Any) -> None:
        """Load by layer name; see `graphc.weights.brought`."""
        load_weights(self.compilations.front(), self.arrays.parameters, weights)
        self.calls.is_current = False

    def share(self, other: NetParameters) -> None:
        """Use another net's from now on; errors as for `graphc.Net.share_with`."""
        need(
            self.arrays.dtype == other.arrays.dtype,
            f"a net of {self.arrays.dtype} cannot share with one of {other.arrays.dtype}",
        )
        mine, theirs = self.compilations.front(), other.compilations.front()
        share_parameters(mine, self.arrays.parameters, theirs, other.arrays.parameters)
        self.calls.is_current = False

    def save(self, path: str | Path) -> None:
        """Write them; see `graphc.weights.save_weights`."""
        save_weights(self.compilations.front(), self.arrays.parameters, path)

    def warnings(self, weights: Any) -> Iterator[str]:
        """What looks wrong about their values; `weights` are those that were loaded."""
        for layer, blobs in self.by_layer().items():
            first = blobs[0].data
            if first.ndim > 1 and first.size and not first.any():
                default = "by Caffe's default filler, constant 0"
                where = default if weights is None else "as loaded"
                yield f"layer '{layer}': all its weights are zero ({where})"
