"""Steps that run a second time, just before what they make is read again.

Only the pure part is repeated: the same kernel on the same values, so every bit is the same. What a
step writes besides (an output of the user's, a new state) goes to a scratch place. A step that
reads a state which has been renewed meanwhile reads the held old one; if there is none it is not
repeated. So dropout draws the same mask, by the same counter. A small parameter, which the user may
change between forward and backward, is held for a step of forward that backward repeats.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from graphc.ir.remark import Saving
from graphc.kernel.lang import Kernel
from graphc.kernel.narrow import narrowed
from graphc.plan.draft import Array, Draft, DraftStep, Storage
from graphc.plan.lower import copy_kernel
from graphc.plan.occupancy import Occupancy, Overwriting
from graphc.plan.rough_time import kernel_seconds, shown_seconds

# A parameter of at most so many bytes is held: a number for each channel.
SMALL = 1 << 15
AGAIN = "a value computed again"


@dataclass(frozen=True)
class Repeat:
    """A way to take bytes off: what is made again before step `before`, and what it costs.

    gain: bytes over a target that it takes off, summed over steps. after: the step after which
    `storages[0]` waits. longer: whether some of what it is made from has to stay longer.
    """

    storages: tuple[Storage, ...]
    steps: tuple[int, ...]
    after: int
    before: int
    gain: int
    seconds: float
    longer: bool


class Repeater:
    """Repeats steps of an ordered draft, which stays usable all the time."""

    def __init__(self, draft: Draft, forward_steps: int, overwriting: Overwriting):
        self.draft = draft
        self.forward_steps = forward_steps
        self.overwriting = overwriting
        self.costs: dict[Kernel, float] = {}
        self.seconds = 0.0
        self.count = 0
        self.holds = set(draft.held.values())
        self.clones: dict[DraftStep, DraftStep] = {}
        self.held_parameters: dict[str, str] = {}
        self.refused: set[tuple[Storage, DraftStep]] = set()

    def occupancy(self) -> Occupancy:
        """What is live at each step as the draft stands."""
        return Occupancy(self.draft, self.overwriting)

    def repeatable(self, now: Occupancy, storage: Storage, before: int) -> bool:
        """Whether all of a value can be made again before that step."""
        written = now.written[storage]
        return written[-1] < before and all(
            self.inputs(now, position, before, storage) is not None for position in written
        )

    def inputs(
        self, now: Occupancy, position: int, before: int, made: Storage
    ) -> list[Storage] | None:
        """Arena storages that a step reads to make one again; None where that cannot be."""
        step = self.draft.steps[position]
        if step.has_effect or self.holds & set(step.writes):
            return None
        wanted = [name for name in step.writes if self.storage(name) is made]
        kernel, names = self.narrowed(step, wanted)
        found: list[Storage] = []
        for name in names[: len(kernel.inputs)]:
            source = self.source(now, name, before)
            if source is None:
                return None
            if not source.slot:
                found.append(source)
        return list(dict.fromkeys(found))

    def source(self, now: Occupancy, name: str, before: int) -> Storage | None:
        """What holds an argument's value just before step `before`; None where nothing does."""
        array = self.draft.arrays[name]
        is_old = array.storage.slot and not array.sources  # what it held before the call
        if is_old and now.renewed.get(array.storage, before) < before:
            held = self.draft.held.get(name)
            return self.draft.arrays[held].storage if held else None
        return array.storage

    def making(self, now: Occupancy, storage: Storage) -> float:
        """The time of the steps that write a value, in seconds."""
        steps = {position: self.draft.steps[position] for position in now.written[storage]}
        return sum(map(self.cost, steps.values()))

    def cost(self, step: DraftStep) -> float:
        """A rough time of a step, in seconds: enough to choose by."""
        if step.kernel not in self.costs:
            moved = sum(self.draft.arrays[name].type.bytes for name in set(step.arguments))
            self.costs[step.kernel] = kernel_seconds(step.kernel, moved)
        return self.costs[step.kernel]

    # -- applying --

    def apply(self, repeat: Repeat) -> Callable[[], None]:
        """Run the steps again before the reader; it and all later readers take the new values.

        Returns what takes that back.
        """
        undo = self.undo()
        draft, steps = self.draft, self.draft.steps
        reader = steps[repeat.before]
        new = {old: Storage(f"{old.name}~again", old.bytes) for old in repeat.storages}
        renamed = {
            name: self.again(array, new[array.storage])
            for name, array in list(draft.arrays.items())
            if array.storage in new and array.sources
        }
        for made in renamed.values():
            array = draft.arrays[made]
            array.sources = frozenset(renamed[source] for source in array.sources)
        clones = [self.repeated(steps[p], renamed, repeat.before, reader) for p in repeat.steps]
        for step in steps[repeat.before :]:
            if not renamed.keys().isdisjoint(step.arguments):
                step.arguments = tuple(renamed.get(name, name) for name in step.arguments)
        steps[repeat.before : repeat.before] = clones
        if repeat.before < self.forward_steps:
            self.forward_steps += len(clones)
        self.count += len(clones)
        self.seconds += repeat.seconds
        return undo

    def again(self, array: Array, storage: Storage) -> str:
        """A new array like this one, in `storage`; returns its name."""
        name = f"{array.name}~again"
        return self.draft.array(
            name, array.type, array.strides, storage, array.offset, array.sources
        ).name

    def repeated(
        self, step: DraftStep, renamed: dict[str, str], before: int, reader: DraftStep
    ) -> DraftStep:
        """A step once more: on new arrays where it writes, scratch ones where nobody reads them."""
        kernel, names = self.narrowed(step, renamed)
        inputs = len(kernel.inputs)
        arguments = []
        for place, name in enumerate(names):
            if name in renamed:
                arguments.append(renamed[name])
            elif place >= inputs:
                arguments.append(self.scratch(self.draft.arrays[name]))
            else:
                arguments.append(self.held(name, before))
        clone = DraftStep(
            kernel,
            tuple(arguments),
            layers=step.layers,
            kinds=(*(kind for kind in step.kinds if kind != "again"), "again"),
            backward=reader.backward,
            is_copy=step.is_copy,
        )
        self.clones[clone] = step
        given = {s for s in map(self.storage, clone.reads) if s.slot}
        for later in self.draft.steps[before:] if given else ():
            if not given.isdisjoint(map(self.storage, later.writes)):
                later.after.add(clone)
        return clone

    def narrowed(self, step: DraftStep, wanted: Collection[str]) -> tuple[Kernel, tuple[str, ...]]:
        """The step's kernel and arguments, without outputs that are not wanted if they can go."""
        places = frozenset(i for i, name in enumerate(step.writes) if name in wanted)
        made = narrowed(step.kernel, places) if 0 < len(places) < len(step.writes) else None
        if made is None:
            return step.kernel, step.arguments
        kernel, kept = made
        return kernel, tuple(step.arguments[place] for place in kept)

    def storage(self, name: str) -> Storage:
        """The storage of an array."""
        return self.draft.arrays[name].storage

    def held(self, name: str, before: int) -> str:
        """The array to read in place of a user's that has been renewed by then."""
        array = self.draft.arrays[name]
        if not array.storage.slot or array.sources:
            return name
        done = self.draft.steps[:before]
        renewed = any(self.storage(w) is array.storage for step in done for w in step.writes)
        return self.draft.held[name] if renewed else name

    def scratch(self, array: Array) -> str:
        """A new array like this one in a storage of its own; returns its name."""
        reach = sum((e - 1) * s for e, s in zip(array.type.shape, array.strides, strict=True))
        size = (reach + 1) * array.item_bytes if array.type.size else 0
        name = self.draft.fresh(f"{array.name}~scratch")
        return self.draft.array(name, array.type, array.strides, Storage(name, size)).name

    def undo(self) -> Callable[[], None]:
        """What brings the draft back to how it is now."""
        before = [(step, step.arguments, set(step.after)) for step in self.draft.steps]
        figures = self.forward_steps, self.count, self.seconds
        arrays, remarks = dict(self.draft.arrays), len(self.draft.remarks)
        refused, held = set(self.refused), dict(self.held_parameters)

        def back() -> None:
            self.draft.steps = [step for step, _, _ in before]
            for step, arguments, after in before:
                step.arguments, step.after = arguments, after
            self.forward_steps, self.count, self.seconds = figures
            self.draft.arrays = dict(arrays)
            self.refused, self.held_parameters = set(refused), dict(held)
            del self.draft.remarks[remarks:]

        return back

    def hold_parameters(self) -> None:
        """Let what backward repeats of forward read small parameters as they were in forward."""
        held = self.held_parameters
        for clone in self.draft.steps:
            original = self.clones.get(clone)
            if original is None or original.backward or not clone.backward:
                continue
            for name in dict.fromkeys(clone.reads):
                if name not in held and self.is_small_parameter(name):
                    held[name] = self.hold(name)
            inputs = [held.get(name, name) for name in clone.reads]
            clone.arguments = (*inputs, *clone.writes)

    def is_small_parameter(self, name: str) -> bool:
        """Whether it is a user's parameter, as a call finds it, that may be held: see SMALL."""
        array = self.draft.arrays[name]
        role = self.draft.slots[array.storage.slot].role
        return role == "parameter" and not array.sources and array.type.bytes <= SMALL

    def hold(self, name: str) -> str:
        """Copy a parameter before its first reader; returns the name of the copy."""
        draft, array = self.draft, self.draft.arrays[name]
        first = next(i for i, step in enumerate(draft.steps) if name in step.reads)
        copied = draft.array(f"{name}~held", array.type)
        step = DraftStep(
            copy_kernel(array.type, array.strides, copied.strides),
            (name, copied.name),
            layers=draft.steps[first].layers[:1],
            kinds=("copy",),
            is_copy=True,
        )
        draft.steps.insert(first, step)
        self.forward_steps += 1
        return copied.name

    def note(self, repeat: Repeat, reader: DraftStep) -> None:
        """Say what was done and why."""
        first, *others = repeat.storages
        chain = f", with {', '.join(s.name for s in others)}" if others else ""
        self.draft.remark(
            "recompute",
            f"blob:{first.name}",
            f"{first.name} is computed again before {reader.pass_label}{chain}, in about"
            f" {shown_seconds(repeat.seconds)}, and does not wait for"
            f" {repeat.before - repeat.after - 1} steps",
            Saving(AGAIN, first.bytes),
        )


def over_target(live: np.ndarray, target: int) -> int:
    """Bytes above the target, summed over steps."""
    return int(np.maximum(live - target, 0).sum())
