"""Layers of a net run as a net of their own, on the blobs as they are now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from graphc import driver
from graphc.arrays import assign
from graphc.blob_values import BlobValues
from graphc.call_arguments import unknown
from graphc.compilations import Compilations, keeping
from graphc.driver import Compilation, Signature
from graphc.error import need
from graphc.net_arrays import NetArrays
from graphc.net_calls import NetCalls
from graphc.runtime.cpu import aligned_zeros, refuse_nan
from graphc.runtime.host_arrays import Arrays


class NetParts:
    """Runs parts of one net. The loss stays that of the last whole pass."""

    def __init__(
        self, compilations: Compilations, arrays: NetArrays, calls: NetCalls, values: BlobValues
    ):
        self.compilations, self.arrays = compilations, arrays
        self.calls, self.values = calls, values

    def forward(
        self,
        start: str | None,
        end: str | None,
        blobs: Sequence[str],
        inputs: Mapping[str, Any],
    ) -> dict[str, np.ndarray]:
        """Run layers `start` to `end`; returns their outputs and `blobs`.

        What they read from outside is taken from `inputs`, else from the net's blobs.
        """
        whole = self.compilations.front()
        shapes = {name: value.shape for name, value in whole.graph.blobs.items() if ":" not in name}
        base = driver.with_shapes(self.compilations.base, shapes)
        base = self._keeping_its_own(replace(base, only=(start, end)))
        for name in blobs:
            known = self.compilations.front_of(base).graph.blobs
            need(name in known, f"blob '{name}' lies outside of {_between(start, end)}")
        made = self.compilations.compiled(keeping(base, blobs))
        for name in inputs:
            need(name in made.caffe.inputs, unknown("input of this part", name, made.caffe.inputs))
        part = self.arrays.table()
        dtype = self.arrays.dtype
        values = made.caffe.graph.values
        part.update({n: aligned_zeros(values[n].shape, dtype) for n in made.caffe.inputs})
        for name, target in part.items():
            given = inputs[name] if name in inputs else self.values.data(name)
            assign(target, given, f"blob '{name}'")
        refuse_nan(part)
        self._run(made, part)
        if start is None:
            # Backward can run the whole net again from its inputs, to the same values.
            self.calls.adopt(made)
        elif set(inputs) - set(self.arrays.inputs):
            self.calls.began_inside = start
        last = list(made.caffe.layer_tops)[-1]
        wanted = [*made.caffe.graph.outputs, *made.caffe.layer_tops[last], *blobs]
        return {name: self.values.read(made, name) for name in driver.names(wanted)}

    def _keeping_its_own(self, part: Signature) -> Signature:
        """The signature without what the net keeps elsewhere, and without gradients."""
        made = self.compilations.front_of(part).graph.blobs
        return replace(part, keep=tuple(name for name in part.keep if name in made))

    def value(self, name: str) -> np.ndarray:
        """A copy of a blob for the inputs as they are, or an input itself. States stay."""
        if name in self.arrays.inputs:
            return self.arrays.inputs[name]
        tops = self.compilations.front().layer_tops
        makers = [layer for layer, names in tops.items() if name in names]
        value = np.array(self.forward(None, makers[-1], (name,), {})[name])
        self.arrays.restore_states()
        return value

    def _run(self, made: Compilation, part: Arrays) -> None:
        arrays = self.arrays
        noted, before = arrays.noted(), set(arrays.outputs)
        whole = made.signature.only[0] is None
        hidden = () if whole else [name for name in arrays.outputs if name not in self.values.names]
        losses = {name: arrays.outputs.pop(name) for name in hidden}
        arrays.note_states(made)
        try:
            self.calls.run_whole(made, "forward", part)
        finally:
            arrays.outputs.update(losses)
            self.calls.left_by_parts |= set(arrays.outputs) - before
            if not whole:
                arrays.note_again(noted)
        for name in set(part) & set(arrays.inputs):
            arrays.inputs[name][...] = part[name]


def _between(start: str | None, end: str | None) -> str:
    """The part of a net from layer `start` to layer `end`, in words."""
    ends = [f"from layer '{start}'"] * (start is not None) + [f"to layer '{end}'"] * (
        end is not None
    )
    return f"the part {' '.join(ends)}"
