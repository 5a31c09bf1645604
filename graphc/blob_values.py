"""The values and gradients of a net's blobs, from where its last calls have left them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from graphc import driver
from graphc.arrays import checked
from graphc.call_arguments import unknown
from graphc.compilations import Compilations
from graphc.driver import Compilation
from graphc.error import NetError
from graphc.net_arrays import NetArrays
from graphc.net_calls import NetCalls


class BlobValues:
    """Reads the blobs of one net, `names`, and takes the gradients that are given for them."""

    def __init__(self, compilations: Compilations, arrays: NetArrays, calls: NetCalls):
        self.compilations, self.arrays, self.calls = compilations, arrays, calls
        self.names = [name for name in compilations.front().graph.blobs if ":" not in name]

    def shape(self, name: str) -> tuple[int, ...]:
        """The extents; of a reshaped input, the new ones."""
        known = self.compilations.shapes.get(name)
        return known or self.compilations.front().graph.blobs[name].shape

    def data(self, name: str) -> np.ndarray:
        """The array of an input or output, a copy of an inner blob.

        Raises NetError where nothing has run, or the plan has reused the blob's memory.
        """
        return self.arrays.inputs[name] if name in self.arrays.inputs else self.left(name)

    def left(self, name: str) -> np.ndarray:
        """What the last call left in a blob: where layers work in place on a net input, what they
        made of it, while `data` is the array that the next call reads.

        Raises NetError as `data` does.
        """
        blobs = self.compilations.front().graph.blobs
        if name not in blobs:
            raise NetError(unknown("blob", name, self.names))
        if name in self.arrays.inputs and blobs[name].role == "input":
            return self.arrays.inputs[name]
        made = self.calls.ran_forward(f"blob '{name}'")
        return self.arrays.outputs[name] if name in self.arrays.outputs else self.read(made, name)

    def diff(self, name: str) -> np.ndarray:
        """The one gradient array of a blob: what backward left there, or what the user writes.

        Raises NetError where the plan has reused the gradient's memory, or no step makes it.
        """
        made = self.calls.went_back
        inner = f"{name}.diff"
        known = self.calls.known_diffs
        if made is None or name in known or not _has_gradient(made, name):
            return self.own_diff(name)
        assert made.executable is not None
        if inner not in made.executable.bundle.readable:
            raise NetError(f"{_gone(made, inner)}; backward({name}=...) gives one")
        self.own_diff(name)[...] = made.executable.read(inner)
        known.add(name)
        return self.own_diff(name)

    def own_diff(self, name: str) -> np.ndarray:
        """The gradient array of a blob as it is; zeros until somebody writes there."""
        blobs = self.compilations.front().graph.blobs
        if name not in blobs:
            raise NetError(unknown("blob", name, self.names))
        return self.arrays.diff(name, blobs[name].shape)

    def gradient(self, name: str) -> np.ndarray:
        """The gradient array of a blob or a parameter."""
        owner = self.compilations.front().owners.get(name, name)
        if owner in self.arrays.parameters:
            return self.arrays.parameter_diff(owner)
        return self.own_diff(name)

    def leaving(self, layer: str, gradients: Mapping[str, Any]) -> dict[str, Any]:
        """The gradients that backward begins with at a layer: its tops' `.diff`, or those given.

        Raises NetError where `.diff` is not, or no more, the gradient of what the layer makes.
        """
        front = self.compilations.front()
        if layer not in front.layer_tops:
            raise NetError(unknown("layer", layer, front.layer_tops))
        tops = {top: front.made_by(layer, top) for top in front.layer_tops[layer]}
        own = {top: self._of_maker(layer, top, tops[top]) for top in tops if top not in gradients}
        return {tops.get(name, name): array for name, array in {**own, **gradients}.items()}

    def _of_maker(self, layer: str, top: str, made: str) -> np.ndarray:
        """A top's `.diff`, as the gradient of what its layer makes, which is called `made`."""
        if made != top and self.calls.went_back is not None:
            raise NetError(
                f"'{top}' is changed in place behind layer '{layer}', and since the last backward"
                f" pass its .diff belongs to what becomes of it; backward(start='{layer}',"
                f" {top}=...) gives the gradient of what the layer makes"
            )
        if top in self.compilations.front().loss_weights:
            return self.own_diff(top)  # its weight arrives there by itself
        return self.diff(top)

    def give(self, gradients: Mapping[str, Any]) -> None:
        """Copy arrays into the gradients of blobs, all of them or none."""
        numbers = {
            name: checked(array, self.own_diff(name).shape, f"the gradient of '{name}'")
            for name, array in gradients.items()
        }
        for name, array in numbers.items():
            self.own_diff(name)[...] = array

    def read(self, made: Compilation, name: str) -> np.ndarray:
        """A copy of an inner blob from where the program left it; outputs and inputs themselves.

        Raises NetError, naming `keep=`, where the plan has reused its memory.
        """
        if name in self.arrays.outputs and name in made.surface.outputs:
            return self.arrays.outputs[name]
        if name in made.caffe.inputs and made.caffe.graph.blobs[name].role == "input":
            return self.arrays.inputs[name]
        executable = made.executable
        assert executable is not None
        bundle, early = executable.bundle, executable.only_forward
        if name not in (bundle.readable_forward if early else bundle.readable):
            raise NetError(_gone(made, name))
        copy = executable.read(name)
        copy.flags.writeable = False
        return copy


def _has_gradient(made: Compilation, name: str) -> bool:
    """Whether a gradient arrives at a blob, made on its own or not."""
    if f"{name}.diff" in made.surface.blobs:
        return True
    from graphc.passes.backward import named_value, wanted_values

    graph, signature = made.caffe.graph, made.signature
    value = graph.blobs[name]
    if value not in wanted_values(graph, [named_value(graph, other) for other in signature.wrt]):
        return False
    losses = itertools.compress(graph.losses, driver.seeding_losses(made.caffe, signature))
    sources = [value for value, _ in losses]
    sources += [named_value(graph, other, last=True) for other in signature.given]
    return any(value is source or value in graph.reaching(source) for source in sources)


def _gone(made: Compilation, name: str) -> str:
    """Why a blob cannot be read after a call, and what would keep it."""
    assert made.executable is not None
    why = made.executable.bundle.overwritten.get(name)
    if why:
        return why
    said = [
        r.sentence for r in made.remarks if r.subject == f"blob:{name}" and "keep=" in r.sentence
    ]
    return said[-1] if said else f"'{name}' is not computed by this call; keep='{name}' computes it"
