"""Who may write over whom.

An output may take the bytes of an input that nobody reads afterwards, if the kernel has read each
element before it writes the same place (`graphc.kernel.facts`). A new state may be written straight
into the user's slot once everybody has read the old one. Every yes and every no leaves a remark.
"""

from __future__ import annotations

from graphc.ir.remark import Refusal, Remark, Saving
from graphc.kernel.facts import may_overwrite
from graphc.plan.draft import Array, Draft, DraftStep, Storage
from graphc.plan.liveness import Span

IN_PLACE = "an output written over an input"
STATE = "a new state written over the old one"

# Kinds of reasons against writing an output over an input.
USERS = "it is an array of the user's"
PART = "it is a part of a larger array"
SURVIVES = "it must survive the call"
NEEDED = "a later step still reads it"
PART_NEEDED = "a later step still reads a part of it"
TAKEN = "another output takes its place"
KERNEL = "its step would read elements that it has written over already"
COPIED_IN = "a new state cannot be written over the old one, and is copied in"

Objection = tuple[str, str]  # the kind of reason, and the reason in full


class Shares:
    """Which storages lie on the same bytes: each set has one root."""

    def __init__(self) -> None:
        self.parent: dict[Storage, Storage] = {}

    def root(self, storage: Storage) -> Storage:
        """The storage whose place this one takes; itself where it shares none."""
        while storage in self.parent:
            storage = self.parent[storage]
        return storage


def share_bytes(draft: Draft, spans: dict[Storage, Span], remarks: list[Remark]) -> Shares:
    """Decide for every step whether an output takes the bytes of one of its inputs, and why."""
    shares = Shares()
    survivors = {draft.arrays[name].storage for name in draft.survivors()}
    readers = draft.readers()
    places = {step: place for place, step in enumerate(draft.steps)}
    for position, step in enumerate(draft.steps):
        taken: set[Storage] = set()
        for target in step.writes:
            for source in dict.fromkeys(step.reads):
                old, new = draft.arrays[source], draft.arrays[target]
                if not _could_match(old, new):
                    continue
                why_not = (
                    _still_needed(old, places, position, spans, survivors, readers)
                    or ((TAKEN, TAKEN) if old.storage in taken else None)
                    or _kernel_objection(draft, step, old, target)
                )
                if why_not:
                    kind, reason = why_not
                    said = f"{old.name} is not overwritten by {step.pass_label}: {reason}"
                    refusal = Refusal(kind, new.type.bytes)
                    remarks.append(Remark("share", f"blob:{old.name}", said, refusal=refusal))
                    continue
                taken.add(old.storage)
                shares.parent[new.storage] = old.storage
                said = (
                    f"{new.name} overwrites {old.name}: {step.pass_label} is its last reader and"
                    " reads each element before it writes it"
                )
                saving = Saving(IN_PLACE, new.type.bytes)
                remarks.append(Remark("share", f"blob:{new.name}", said, saving=saving))
                break
    return shares


def overwritable(draft: Draft, step: DraftStep) -> list[tuple[str, str]]:
    """(output, input) pairs in the arena where the kernel lets one lie in the other's bytes."""
    return [
        (target, source)
        for target in step.writes
        for source in dict.fromkeys(step.reads)
        if not draft.arrays[source].storage.slot
        and _could_match(draft.arrays[source], draft.arrays[target])
        and _kernel_objects(draft, step, draft.arrays[source], target) is None
    ]


def possible_savings(draft: Draft) -> dict[int, int]:
    """For each step the most bytes it could save, in any order, by writing over its inputs."""
    savings: dict[int, int] = {}
    for position, step in enumerate(draft.steps):
        done: set[str] = set()
        for target, source in overwritable(draft, step):
            if not done & {target, source}:
                done |= {target, source}
                saved = draft.arrays[target].type.bytes
                savings[position] = savings.get(position, 0) + saved
    return savings


def _could_match(old: Array, new: Array) -> bool:
    """Whether the two are alike enough for the question to make sense."""
    return (
        new.storage.slot == 0
        and old.storage is not new.storage
        and old.type == new.type
        and old.strides == new.strides
        and new.is_whole
        and new.sources == {new.name}
        and new.type.bytes > 0
    )


def _still_needed(
    old: Array,
    places: dict[DraftStep, int],
    position: int,
    spans: dict[Storage, Span],
    survivors: set[Storage],
    readers: dict[str, list[DraftStep]],
) -> Objection | None:
    if old.storage.slot:
        return USERS, USERS
    if not old.is_whole:
        return PART, f"it is a part of {old.storage.name}"
    if old.storage in survivors:
        return SURVIVES, SURVIVES
    if spans[old.storage][1] == position:
        return None
    for step in readers.get(old.name, ()):
        if places[step] > position:
            return NEEDED, f"{step.pass_label} still reads it"
    return PART_NEEDED, f"a part of {old.storage.name} is still read"


def _kernel_objection(draft: Draft, step: DraftStep, old: Array, target: str) -> Objection | None:
    reason = _kernel_objects(draft, step, old, target)
    return (KERNEL, reason) if reason else None


def _kernel_objects(draft: Draft, step: DraftStep, old: Array, target: str) -> str | None:
    """The kernel's reason against it; it must agree for every argument that sees the old bytes."""
    output = step.writes.index(target)
    for position, name in enumerate(step.reads):
        other = draft.arrays[name]
        if other.storage is not old.storage:
            continue
        if other.type != old.type or other.strides != old.strides or other.offset != old.offset:
            return f"{step.label} reads it in another shape, too"
        reason = may_overwrite(step.kernel, position, output)
        if reason is not None:
            return reason
    return None


# -- states ----------------------------------------------------------------------------------------


def commit_in_place(draft: Draft) -> None:
    """Let steps write new states straight into the user's slots, where that is right."""
    writers = draft.writers()
    for commit in list(draft.commits):
        source, target = commit.arguments
        writer = writers.get(source)
        why_not = _commit_objection(draft, commit, writer)
        state = draft.arrays[target].storage
        if why_not or writer is None:
            said = f"the new {state.name} is copied in: {why_not}"
            draft.remark("share", state.name, said, refusal=Refusal(COPIED_IN, state.bytes))
            continue
        writer.after |= commit.after - {writer}
        old_storage = draft.arrays[source].storage
        for array in draft.arrays.values():
            if array.storage is old_storage:
                array.storage = state
        draft.steps.remove(commit)
        draft.commits.remove(commit)
        del draft.arrays[target]
        _put_after(draft, writer)
        draft.remark(
            "share",
            state.name,
            f"the new {state.name} is written over the old one",
            Saving(STATE, state.bytes),
        )


def _put_after(draft: Draft, writer: DraftStep) -> None:
    """Move a step, and what depends on it, behind all that it has come to wait for."""
    if not writer.after:
        return
    last = max(draft.steps.index(step) for step in writer.after)
    first = draft.steps.index(writer)
    if last < first:
        return
    between = draft.steps[first : last + 1]
    moved = {writer} | _descendants(draft, writer)
    later = [step for step in between if step in moved]
    draft.steps[first : last + 1] = [step for step in between if step not in moved] + later


def _commit_objection(draft: Draft, commit: DraftStep, writer: DraftStep | None) -> str | None:
    """Why the writer of a new state must not write into the state's slot."""
    new, slot = (draft.arrays[name] for name in commit.arguments)
    if writer is None or new.sources != {new.name} or not new.is_whole:
        return "it is a view or a part of another value"
    if new.storage.slot:
        return "it is also an output of its own"
    if new.strides != slot.strides:
        return "it is made in another layout"
    if writer.is_copy:
        return "it is a copy of a state"
    others = commit.after - {writer}
    below = _descendants(draft, writer) if others else set()
    for reader in others:
        if reader in below:
            return f"{reader.pass_label} reads the old one after the new one is made"
    for position, name in enumerate(writer.reads):
        if draft.arrays[name].storage is slot.storage:
            reason = may_overwrite(writer.kernel, position, writer.writes.index(new.name))
            if reason is not None:
                return reason
    return None


def _descendants(draft: Draft, step: DraftStep) -> set[DraftStep]:
    needed = draft.dependencies()
    found = {step}
    for other in draft.steps:
        if needed[other] & found:
            found.add(other)
    return found - {step}
