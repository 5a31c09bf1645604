"""The arrays that a net and its native programs share.

Every slot of a program is one of these arrays, found by the slot's role and name. They belong to
the net, not to a program: programs for other gradients or shapes work on the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from graphc.driver import Compilation, parameter_types
from graphc.error import NetError
from graphc.frontends.caffe.layer import COUNTER
from graphc.frontends.caffe.network import CaffeNet
from graphc.runtime.bundle import SlotEntry
from graphc.runtime.cpu import aligned_zeros

# Seeds are this far apart in the dropout counter, which each call raises by 1.
SEED_STEP = 1_000_003


class NetArrays:
    """All arrays of one net.

    Attributes:
        inputs: net inputs by name.
        parameters: by owner name, `conv1/0`; batch norm's statistics are among them.
        parameter_diffs: their gradients, made when first asked for.
        diffs: gradients of blobs: what backward leaves there, or what the user gives.
        outputs: results of calls that are no gradients.
        states: what the net remembers between calls: dropout's counter, recurrent states.
        extra: inputs of programs that are not the net's, such as a solver's rate.
    """

    def __init__(self, net: CaffeNet, dtype: str, seed: int):
        self.dtype = dtype
        values = net.graph.values
        self.inputs = {name: aligned_zeros(values[name].shape, dtype) for name in net.inputs}
        self.parameters = {
            name: aligned_zeros(type.shape, dtype) for name, type in parameter_types(net).items()
        }
        self.parameter_diffs: dict[str, np.ndarray] = {}
        self.diffs: dict[str, np.ndarray] = {}
        self.outputs: dict[str, np.ndarray] = {}
        self.states: dict[str, np.ndarray] = {COUNTER: aligned_zeros((), "int64")}
        self.states[COUNTER][...] = seed * SEED_STEP
        self.extra: dict[str, np.ndarray] = {}
        self._constants: dict[str, np.ndarray] = {}
        self._before: dict[str, np.ndarray] = {}  # states as the last forward pass found them

    def of(
        self, slot: SlotEntry, made: Compilation, inputs: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """The array behind one slot of a program; `inputs` are those of the call."""
        if slot.role == "input":
            return self.extra[slot.name] if slot.name in self.extra else inputs[slot.name]
        if slot.name in self.parameters:
            return self.parameters[slot.name]
        if slot.role == "constant":
            return self._constant(slot, made)
        base = slot.name.removesuffix(".diff")
        is_diff = base != slot.name
        if slot.role == "gradient" or (is_diff and base in made.caffe.graph.blobs):
            return self.diff(base, slot.shape)
        if is_diff and base in self.parameters:
            return self.parameter_diff(base)
        table = self.states if slot.role == "state" else self.outputs
        return self._held(table, slot.name, slot.shape, slot.dtype)

    def diff(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The gradient array of a blob; zeros until somebody writes there."""
        return self._held(self.diffs, name, shape, self.dtype)

    def parameter_diff(self, name: str) -> np.ndarray:
        """The gradient array of a parameter."""
        shape = self.parameters[name].shape
        return self._held(self.parameter_diffs, name, shape, self.dtype)

    def _held(
        self, table: dict[str, np.ndarray], name: str, shape: tuple[int, ...], dtype: str
    ) -> np.ndarray:
        """The array of that name; made, of zeros, where there is none or it has another shape."""
        held = table.get(name)
        if held is None or held.shape != shape:
            held = aligned_zeros(shape, dtype)
            table[name] = held
        return held

    def _constant(self, slot: SlotEntry, made: Compilation) -> np.ndarray:
        if slot.name not in self._constants:
            held = self._held(self._constants, slot.name, slot.shape, slot.dtype)
            held[...] = made.graph.constants[slot.name]
        return self._constants[slot.name]

    # -- states --

    def note_states(self, made: Compilation) -> None:
        """Copy what a call will renew, so that the same pass can be run once more."""
        self._before = {}
        held = {**self.parameters, **self.states}
        for name in made.caffe.graph.updates:
            type = made.graph.values[name].type
            array = held.get(name)
            fits = array is not None and array.shape == type.shape
            self._before[name] = np.array(array) if fits else np.zeros(type.shape, type.dtype)

    def restore_states(self) -> None:
        """Put back what `note_states` copied."""
        for name, value in self._before.items():
            if name in self.parameters:
                self.parameters[name][...] = value
            else:
                self._held(self.states, name, value.shape, str(value.dtype))[...] = value

    def noted(self) -> dict[str, np.ndarray]:
        """What `note_states` copied, for `note_again`."""
        return self._before

    def note_again(self, noted: dict[str, np.ndarray]) -> None:
        """Make `restore_states` put this back."""
        self._before = noted

    # -- shapes --

    def reshape(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """New arrays for inputs whose shape has changed; all, or none where memory ends."""
        changed = [name for name, array in self.inputs.items() if array.shape != shapes[name]]
        new = {name: aligned_zeros(shapes[name], self.dtype) for name in changed}
        self.inputs.update(new)
        self.outputs.clear()

    def check_parameters(self, net: CaffeNet) -> None:
        """Raise NetError where `net`, the same net for other inputs, needs other parameters."""
        for name, type in parameter_types(net).items():
            old = self.parameters[name].shape
            if type.shape != old:
                raise NetError(
                    f"reshaping would change parameter '{name}' from {list(old)}"
                    f" to {list(type.shape)}"
                )
