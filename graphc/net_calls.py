"""The calls of a net: what ran last on its arrays, and what of it still holds."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from graphc.driver import Compilation, Signature
from graphc.error import NetError
from graphc.net_arrays import NetArrays
from graphc.runtime.cpu import Executable, refuse_nan
from graphc.runtime.host_arrays import Arrays


@dataclass(frozen=True)
class _Binding:
    """What an executable is bound to: (table, name, the array there) of every slot."""

    executable: Executable
    rows: list[tuple[Arrays, str, np.ndarray]]

    @property
    def holds(self) -> bool:
        """Whether the tables still have these arrays, where they were."""
        for table, name, array in self.rows:
            if name not in table or table.bound(name) is not array:
                return False
        return True


class NetCalls:
    """Runs a net's programs, and knows what they have left.

    Attributes:
        threads: how many a call uses.
        active: what ran forward last; None where nothing of it can be read.
        is_current: whether it ran on the inputs and parameters as they are.
        has_ended: whether the last forward pass came to its end, be it that control-C was raised
            behind it.
        began_inside: the layer that a forward pass began at, with given blobs.
        went_back: what ran backward since then.
        known_diffs: the blobs whose array of gradients holds what that has left.
        left_by_parts: names in the arrays' outputs that only parts of the net have written, since
            the whole net ran.
    """

    def __init__(self, arrays: NetArrays, threads: int):
        self.arrays, self.threads = arrays, threads
        self.known_diffs: set[str] = set()
        self.has_ended = False
        self.left_by_parts: set[str] = set()
        self._bindings: dict[int, _Binding] = {}  # by the executable's id
        self._arena_is_spent = False  # backward has overwritten what forward left for it
        self.forget()

    def forget(self) -> None:
        """Nothing can be read any more: the arrays have changed."""
        self.active: Compilation | None = None
        self.went_back: Compilation | None = None
        self.is_current = False
        self.began_inside = ""

    def ran_forward(self, what: str) -> Compilation:
        """What ran last. Raises NetError where nothing did; `what` is what was asked for."""
        if self.active is None:
            raise NetError(f"{what} is known after a forward pass")
        return self.active

    def serving(self, signature: Signature) -> Compilation | None:
        """What ran last, where it serves this signature and only keeps more blobs."""
        made = self.active
        if made is None or not set(signature.keep) <= set(made.signature.keep):
            return None
        return made if replace(made.signature, keep=signature.keep) == signature else None

    def forward(self, made: Compilation, which: str = "forward") -> None:
        """A forward pass, or `both`. Raises NetError for a NaN among inputs, or a wrong label."""
        refuse_nan(self.arrays.inputs)
        self.forget()
        self.arrays.note_states(made)
        if self.left_by_parts:
            self._drop_parts(made)
        self.run_whole(made, which)
        self.adopt(made)
        self._arena_is_spent = False

    def run_whole(self, made: Compilation, which: str, inputs: Arrays | None = None) -> None:
        """`run`, and put the states back if it is refused, or interrupted before its end."""
        executable = made.executable
        assert executable is not None
        executable.await_end()
        self.has_ended = False
        try:
            self.run(made, which, inputs)
        except BaseException:  # KeyboardInterrupt among them
            self.has_ended = executable.has_ended
            if not self.has_ended:
                self.arrays.restore_states()
            raise
        self.has_ended = True

    def _drop_parts(self, made: Compilation) -> None:
        """Forget what parts have left, for their blobs get other values now."""
        for name in self.left_by_parts - {*made.surface.outputs}:
            if name in self.arrays.outputs:
                del self.arrays.outputs[name]
        self.left_by_parts.clear()

    def adopt(self, made: Compilation) -> None:
        """Let `made` be what ran forward last, on the inputs as they are."""
        self.active, self.went_back = made, None
        self.is_current = True
        self.began_inside = ""

    def backward(self, made: Compilation) -> None:
        """A backward pass, and before it a forward pass where the last one does not serve.

        That one starts from the held inputs, with the same random numbers. Raises NetError for a
        NaN among the gradients that are given.
        """
        self._refuse_nan_given(made)
        if not self.is_current:
            self.forward(made)
        elif made is not self.active or self._arena_is_spent:
            self._forward_again(made)
        self._arena_is_spent = made.signature.memory != "all"
        self.went_back = None
        self.run(made, "backward")
        self._note_backward(made)

    def _forward_again(self, made: Compilation) -> None:
        """The last forward pass once more; layers that only this one runs leave no states."""
        left = self.arrays.as_they_are(made)
        self.arrays.restore_states()
        try:
            self.forward(made)
        finally:
            for put_back in left.values():
                put_back()

    def both(self, made: Compilation) -> None:
        """Forward and backward in one native call. Raises NetError as `forward`, `backward` do."""
        self._refuse_nan_given(made)
        self.forward(made, "both")
        self._arena_is_spent = made.signature.memory != "all"
        self._note_backward(made)

    def _refuse_nan_given(self, made: Compilation) -> None:
        """Where nobody has written a gradient yet it is zeros."""
        diffs = self.arrays.diffs
        given = {name: diffs[name] for name in made.signature.given if name in diffs}
        refuse_nan(given, "the gradient of")

    def run(self, made: Compilation, which: str, inputs: Arrays | None = None) -> None:
        """One native call on the net's arrays; `inputs` stand in for those of the net."""
        executable = made.executable
        assert executable is not None
        binding = self._bindings.get(id(executable))
        if binding is None or inputs is not None or not binding.holds:
            self._bind(made, executable, inputs)
        executable.call(which, self.threads)

    def _bind(self, made: Compilation, executable: Executable, inputs: Arrays | None) -> None:
        """Bind every slot, and note to what; looking again is most of a small call's time."""
        self._bindings.pop(id(executable), None)
        own = self.arrays.inputs if inputs is None else inputs
        rows, bound = [], {}
        for slot in executable.bundle.slots:
            if slot.role != "arena":
                table, name = self.arrays.place(slot, made, own)
                bound[slot.name] = table.bound(name)
                rows.append((table, name, bound[slot.name]))
        executable.bind(bound)
        # An array that owns its memory may move it.
        if inputs is None and not any(array.flags.owndata for array in bound.values()):
            self._bindings[id(executable)] = _Binding(executable, rows)

    def _note_backward(self, made: Compilation) -> None:
        signature = made.signature
        self.went_back = made
        self.known_diffs = {*signature.wrt, *signature.given}
        self.arrays.cleared -= set(signature.wrt)
        for name in signature.given:  # was also asked for, in an array of its own
            if f"{name}.diff~out" in self.arrays.outputs and name in signature.wrt:
                shape = made.caffe.graph.blobs[name].shape
                self.arrays.diff(name, shape)[...] = self.arrays.outputs[f"{name}.diff~out"]
