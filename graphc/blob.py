"""What `net.blobs` and `net.params` hold: names, and access to the arrays behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NoReturn, TypeVar

import numpy as np

from graphc.error import NetError, did_you_mean

if TYPE_CHECKING:
    from graphc.blob_values import BlobValues
    from graphc.net_arrays import NetArrays
    from graphc.net_shapes import NetShapes

Entry = TypeVar("Entry")


class Named(dict[str, Entry]):
    """A dict that answers a wrong name with the nearest right one."""

    def __init__(self, kind: str, entries: Mapping[str, Entry]):
        super().__init__(entries)
        self._kind = kind

    def __missing__(self, name: str) -> NoReturn:
        hint = did_you_mean(str(name), self)
        raise NetError(f"there is no {self._kind} '{name}'" + (f"; {hint}" if hint else ""))


class Blob:
    """One named blob of a net."""

    def __init__(self, name: str, values: BlobValues, shapes: NetShapes):
        self.name = name
        self._values, self._shapes = values, shapes

    def __repr__(self) -> str:
        return f"<Blob '{self.name}' {list(self.shape)}>"

    @property
    def shape(self) -> tuple[int, ...]:
        """The extents; of a reshaped input, the new ones at once."""
        return self._values.shape(self.name)

    @property
    def data(self) -> np.ndarray:
        """The value: the array itself for inputs and outputs, a copy for inner blobs.

        Raises NetError before a forward pass has made it, and, naming `keep=`, where the plan has
        reused the blob's memory.
        """
        return self._values.data(self.name)

    @property
    def diff(self) -> np.ndarray:
        """The gradient, in one array that stays: results are written there, and what is written
        into the diff of an output, or of the tops of the layer that `backward(start=)` names, is
        given to backward.

        Raises NetError, naming `keep=`, where backward computed it and the plan has reused its
        memory.
        """
        return self._values.diff(self.name)

    def reshape(self, *shape: int) -> None:
        """Give a net input another shape; `net.reshape()` or the next forward follows suit.

        Raises NetError for a blob that is no net input, and for extents below 0 or not whole.
        """
        self._shapes.ask(self.name, shape)


class ParameterBlob:
    """One parameter array of a layer; `data` and `diff` may be written in place."""

    def __init__(self, name: str, arrays: NetArrays):
        self.name = name
        self._arrays = arrays

    def __repr__(self) -> str:
        return f"<ParameterBlob '{self.name}' {list(self.shape)}>"

    @property
    def data(self) -> np.ndarray:
        """The values."""
        return self._arrays.parameters[self.name]

    @property
    def diff(self) -> np.ndarray:
        """The gradient, added up over backward calls until `clear_param_diffs`."""
        self._arrays.cleared.discard(self.name)
        return self._arrays.parameter_diff(self.name)

    @property
    def shape(self) -> tuple[int, ...]:
        """The extents."""
        return self.data.shape
