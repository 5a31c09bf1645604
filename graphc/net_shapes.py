"""The shapes of a net: those asked for, those of its arrays, and what Filter layers let pass."""

from __future__ import annotations

import numpy as np

from graphc.compilations import Compilations
from graphc.error import NetError, need
from graphc.net_arrays import NetArrays
from graphc.net_calls import NetCalls
from graphc.net_parts import NetParts


class NetShapes:
    """Keeps the arrays of one net in the shapes that are asked for."""

    def __init__(
        self, compilations: Compilations, arrays: NetArrays, calls: NetCalls, parts: NetParts
    ):
        self.compilations, self.arrays = compilations, arrays
        self.calls, self.parts = calls, parts
        compilations.settle(self._of_arrays())

    def ask(self, name: str, shape: tuple[int, ...]) -> None:
        """Note another shape for a net input; `follow` adopts it. Raises NetError for a wrong one.

        0 is an extent as well.
        """
        if name not in self.arrays.inputs:
            raise NetError(f"'{name}' is not a net input; only inputs can be reshaped")
        need(
            all(isinstance(e, (int, np.integer)) and e >= 0 for e in shape),
            f"a shape is made of whole numbers of at least 0, not {shape}",
        )
        self.compilations.shapes[name] = tuple(int(e) for e in shape)

    def follow(self) -> bool:
        """Bring arrays to the shapes asked for; whether any changed.

        Raises NetError where the net cannot have them: the old shapes stay.
        """
        shapes = self.compilations.shapes
        if all(array.shape == shapes[name] for name, array in self.arrays.inputs.items()):
            return False
        try:
            self.arrays.check_parameters(self.compilations.front())
            self.arrays.reshape(shapes)
        except NetError:
            self.compilations.shapes = self._of_arrays()
            raise
        self.calls.forget()
        return True

    def count_selected(self) -> bool:
        """Give the tops of Filter layers as many items as their selectors let pass; any change?"""
        changed = False
        front = self.compilations.front
        for place in range(len(front().selections)):
            selection = front().selections[place]
            count = int(np.count_nonzero(self.parts.value(selection.selector)))
            for top in selection.tops:
                shape = front().graph.blobs[top].shape
                if shape[0] != count:
                    self.compilations.shapes[top] = (count, *shape[1:])
                    changed = True
        if changed:
            self.arrays.check_parameters(front())
            self.calls.forget()
        return changed

    def _of_arrays(self) -> dict[str, tuple[int, ...]]:
        return {name: array.shape for name, array in self.arrays.inputs.items()}
