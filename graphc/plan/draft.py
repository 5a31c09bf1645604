"""A program while it is being planned: steps on arrays whose place in memory is still open.

An array is a strided window of a storage; several arrays may look at one storage (a flatten and
what it flattens, the parts of a concatenation). Storages of slot 0 will lie in the arena; the
others are the user's arrays. Every element of a storage is written by one step only, so what a step
depends on can be read off the arrays' sources.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from graphc.error import NetError
from graphc.ir.remark import Refusal, Remark, Saving
from graphc.ir.types import DTYPES, TensorType, row_major
from graphc.kernel.lang import Kernel
from graphc.plan.program import Slot


@dataclass(eq=False)
class Storage:
    """A block of bytes: to be placed in the arena (slot 0), or the whole of a user's slot."""

    name: str
    bytes: int
    slot: int = 0


@dataclass(eq=False)
class Array:
    """A window of a storage. `offset` counts bytes, `strides` elements.

    `sources` names the arrays that steps write and that this one sees: itself where a step writes
    it, those of the other array where it is a view. Empty for what the user's slot held before.
    """

    name: str
    type: TensorType
    strides: tuple[int, ...]
    storage: Storage
    offset: int = 0
    sources: frozenset[str] = frozenset()

    @property
    def is_whole(self) -> bool:
        """Whether it covers its storage, byte for byte."""
        return self.offset == 0 and self.type.bytes == self.storage.bytes

    @property
    def item_bytes(self) -> int:
        """Bytes of one element."""
        return DTYPES[self.type.dtype]


@dataclass(eq=False)
class DraftStep:
    """One kernel on arrays. `after` holds steps that must run before, though no data flows."""

    kernel: Kernel
    arguments: tuple[str, ...]
    layers: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    backward: bool = False
    is_copy: bool = False
    has_effect: bool = False
    after: set[DraftStep] = field(default_factory=set)

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the arrays it reads, in order."""
        return self.arguments[: len(self.kernel.inputs)]

    @property
    def writes(self) -> tuple[str, ...]:
        """Names of the arrays it writes, in order."""
        return self.arguments[len(self.kernel.inputs) :]

    @property
    def label(self) -> str:
        """What remarks call it: the user's layers, or what is written."""
        if self.layers:
            return ", ".join(self.layers)
        return f"the {self.kernel.name} that makes {', '.join(self.writes)}"

    @property
    def pass_label(self) -> str:
        """The label, with the pass where it is the backward one."""
        return f"{self.label}'s backward" if self.backward and self.layers else self.label


@dataclass(eq=False)
class Draft:
    """What lowering makes and the later stages rework.

    Attributes:
        slots: the user's arrays; entry 0 is the arena.
        arrays: by name.
        steps: in an order that respects what they depend on.
        kept: names of arrays whose bytes must survive the call.
        commits: copies into a state's slot that end the call, by name of the array they copy.
        held: states that forward renews -> the array that holds the old one for backward.
        blobs: the user's blob names -> the array that holds the value.
        gone: the names of blobs that no array holds any more -> why, and what keeps them.
    """

    name: str
    slots: list[Slot]
    arrays: dict[str, Array] = field(default_factory=dict)
    steps: list[DraftStep] = field(default_factory=list)
    kept: set[str] = field(default_factory=set)
    commits: list[DraftStep] = field(default_factory=list)
    held: dict[str, str] = field(default_factory=dict)
    blobs: dict[str, str] = field(default_factory=dict)
    gone: dict[str, str] = field(default_factory=dict)
    remarks: list[Remark] = field(default_factory=list)

    def fresh(self, hint: str) -> str:
        """A name no array has yet."""
        if hint not in self.arrays:
            return hint
        number = 2
        while f"{hint}.{number}" in self.arrays:
            number += 1
        return f"{hint}.{number}"

    def array(
        self,
        hint: str,
        type: TensorType,
        strides: tuple[int, ...] | None = None,
        storage: Storage | None = None,
        offset: int = 0,
        sources: frozenset[str] | None = None,
    ) -> Array:
        """Enter a new array; its name is `hint`, or like it.

        Unless it is said otherwise it lies row-major in a storage of its own, of just its bytes,
        and is one that a step writes.
        """
        name = self.fresh(hint)
        made = Array(
            name,
            type,
            row_major(type.shape) if strides is None else strides,
            storage or Storage(name, type.bytes),
            offset,
            frozenset({name}) if sources is None else sources,
        )
        self.arrays[name] = made
        return made

    def remark(
        self,
        stage: str,
        subject: str,
        sentence: str,
        saving: Saving | None = None,
        refusal: Refusal | None = None,
    ) -> None:
        """Say why, and what it saved, or did not, if it is about memory."""
        self.remarks.append(Remark(stage, subject, sentence, saving=saving, refusal=refusal))

    def writers(self) -> dict[str, DraftStep]:
        """The step that writes each array."""
        return {name: step for step in self.steps for name in step.writes}

    def readers(self) -> dict[str, list[DraftStep]]:
        """Steps that read what each written array holds, through whichever view, in order."""
        found: dict[str, list[DraftStep]] = {name: [] for name in self.writers()}
        for step in self.steps:
            for source in sorted(self.sources(step.reads)):
                found[source].append(step)
        return found

    def sources(self, names: Iterable[str]) -> set[str]:
        """Written arrays that the named ones see."""
        seen: set[str] = set()
        for name in names:
            seen |= self.arrays[name].sources
        return seen

    def dependencies(self) -> dict[DraftStep, set[DraftStep]]:
        """For each step the steps that must run before it."""
        writers = self.writers()
        return {
            step: {writers[source] for source in self.sources(step.reads)} | step.after
            for step in self.steps
        }

    def survivors(self) -> set[str]:
        """Written arrays that must not be lost by the end of the call."""
        return self.sources(name for name in self.kept if name in self.arrays)

    def check_order(self) -> None:
        """Raise NetError where a step stands before one it depends on: a fault of the planner."""
        done: set[DraftStep] = set()
        needed = self.dependencies()
        for step in self.steps:
            missing = needed[step] - done
            if missing:
                first = min(other.label for other in missing)
                raise NetError(f"the plan runs {step.label} before {first}")
            done.add(step)


def merged(
    first: DraftStep, second: DraftStep, kernel: Kernel, arguments: tuple[str, ...]
) -> DraftStep:
    """One step for two, in the pass of the second."""
    return DraftStep(
        kernel,
        arguments,
        layers=tuple(dict.fromkeys((*first.layers, *second.layers))),
        kinds=tuple(dict.fromkeys((*first.kinds, *second.kinds))),
        backward=second.backward,
        has_effect=first.has_effect or second.has_effect,
        after=(first.after | second.after) - {first, second},
    )


def same_sweep(one: Kernel, two: Kernel) -> bool:
    """Whether both run as many parallel iterations along as many loops."""
    first, second = (sorted(a.extent for a in k.each if a.extent != 1) for k in (one, two))
    return first == second
