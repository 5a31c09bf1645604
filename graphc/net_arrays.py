"""The arrays that a net and its native programs share.

Every slot of a program is one of these arrays, found by the slot's role and name. They belong to
the net, not to a program: programs for other gradients or shapes work on the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from graphc.driver import Compilation, parameter_types
from graphc.error import NetError
from graphc.frontends.caffe.layer import COUNTER
from graphc.frontends.caffe.network import CaffeNet
from graphc.runtime.bundle import SlotEntry
from graphc.runtime.cpu import aligned_zeros
from graphc.runtime.host_arrays import Arrays, HostArrays

# Seeds are this far apart in the dropout counter, which each call raises by 1.
SEED_STEP = 1_000_003


class NetArrays:
    """All arrays of one net.

    Attributes:
        inputs: net inputs by name.
        parameters: by owner name, `conv1/0`; batch norm's statistics are among them.
        parameter_diffs: their gradients, made when first asked for.
        cleared: the parameters whose gradients the next backward pass overwrites.
        diffs: gradients of blobs: what backward leaves there, or what the user gives.
        outputs: results of calls that are no gradients.
        states: what the net remembers between calls: dropout's counter, recurrent states.
        table: makes such tables.
        extra: inputs of programs that are not the net's, such as a solver's rate.
    """

    def __init__(
        self, net: CaffeNet, dtype: str, seed: int, table: Callable[[], Arrays] = HostArrays
    ):
        """`table` makes the tables that suit the net's back end."""
        self.dtype, self.table = dtype, table
        values = net.graph.values
        self.inputs, self.parameters = table(), table()
        self.inputs.update({n: aligned_zeros(values[n].shape, dtype) for n in net.inputs})
        types = parameter_types(net).items()
        self.parameters.update({name: aligned_zeros(type.shape, dtype) for name, type in types})
        self.parameter_diffs, self.diffs, self.outputs = table(), table(), table()
        self.cleared = set(self.parameters)
        self.states, self.extra = table(), table()
        self.states[COUNTER] = aligned_zeros((), "int64")
        self.states[COUNTER][...] = seed * SEED_STEP
        self._constants = table()
        # What puts states back to how the last forward pass found them.
        self._before: dict[str, Callable[[], None]] = {}

    def place(self, slot: SlotEntry, made: Compilation, inputs: Arrays) -> tuple[Arrays, str]:
        """The table and the name of a program's slot, whose array is made where there is none.

        `inputs` are those of the call.
        """
        name = slot.name
        if slot.role == "input":
            return (self.extra if name in self.extra else inputs), name
        if name in self.parameters:
            return self.parameters, name
        if slot.role == "constant":
            return self._with_constant(slot, made), name
        base = name.removesuffix(".diff")
        is_diff = base != name
        if slot.role == "gradient" or (is_diff and base in made.caffe.graph.blobs):
            return self._with(self.diffs, base, slot.shape, self.dtype), base
        if is_diff and base in self.parameters:
            return self._with(self.parameter_diffs, base, slot.shape, self.dtype), base
        table = self.states if slot.role == "state" else self.outputs
        return self._with(table, name, slot.shape, slot.dtype), name

    def diff(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The gradient array of a blob; zeros until somebody writes there."""
        return self._with(self.diffs, name, shape, self.dtype)[name]

    def parameter_diff(self, name: str) -> np.ndarray:
        """The gradient array of a parameter."""
        shape = self.parameters.bound(name).shape
        return self._with(self.parameter_diffs, name, shape, self.dtype)[name]

    def clear_parameter_diffs(self) -> None:
        """Zeros everywhere, and no adding up in the next backward pass."""
        self.cleared = set(self.parameters)
        for name in self.parameter_diffs:
            self.parameter_diffs.zero(name)

    def state(self, name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """An array of the states; zeros where there was none of that shape."""
        return self._with(self.states, name, shape, dtype)[name]

    def _with(self, table: Arrays, name: str, shape: tuple[int, ...], dtype: str) -> Arrays:
        """The table, an array of zeros put there if it has none of that name and shape."""
        if name not in table or table.bound(name).shape != shape:
            table[name] = aligned_zeros(shape, dtype)
        return table

    def _with_constant(self, slot: SlotEntry, made: Compilation) -> Arrays:
        if slot.name not in self._constants:
            self._constants[slot.name] = aligned_zeros(slot.shape, slot.dtype)
            self._constants[slot.name][...] = made.surface.constants[slot.name]
        return self._constants

    # -- states --

    def note_states(self, made: Compilation) -> None:
        """Note what a call will renew, so that the same pass can be run once more."""
        self._before = self.as_they_are(made)

    def as_they_are(self, made: Compilation) -> dict[str, Callable[[], None]]:
        """For each state that a call will renew what puts it back to what it is now."""
        found = {}
        for name in made.caffe.graph.updates:
            type = made.caffe.graph.values[name].type
            table = self.parameters if name in self.parameters else self.states
            self._with(table, name, type.shape, type.dtype)
            found[name] = table.noted(name)
        return found

    def restore_states(self) -> None:
        """Put back what `note_states` noted."""
        for put_back in self._before.values():
            put_back()

    def noted(self) -> dict[str, Callable[[], None]]:
        """What `note_states` noted, for `note_again`."""
        return self._before

    def note_again(self, noted: dict[str, Callable[[], None]]) -> None:
        """Make `restore_states` put this back."""
        self._before = noted

    # -- shapes --

    def reshape(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """New arrays for inputs whose shape has changed; all, or none where memory ends."""
        changed = [name for name in self.inputs if self.inputs.bound(name).shape != shapes[name]]
        new = {name: aligned_zeros(shapes[name], self.dtype) for name in changed}
        self.inputs.update(new)
        self.outputs.clear()

    def check_parameters(self, net: CaffeNet) -> None:
        """Raise NetError where `net`, the same net for other inputs, needs other parameters."""
        for name, type in parameter_types(net).items():
            old = self.parameters.bound(name).shape
            if type.shape != old:
                raise NetError(
                    f"reshaping would change parameter '{name}' from {list(old)}"
                    f" to {list(type.shape)}"
                )
