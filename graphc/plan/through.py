"""Values that their readers compute instead of reading them.

After batch normalisation and Scale, backward would read the normalised image, the image before it,
and three gradients that differ by a factor for each channel: five large arrays that are all cheap
functions of two. So a value is not read back where

- it is made element by element, with nothing costly, from small arrays and from one of its size, or
  from several where that moves no more bytes than before;
- those are read in backward by others anyway, so that no more is live;
- the reader is no tiled product, which wants its operands in memory.

A value of forward is replaced so in backward only: within forward, joining does as well. But where
nothing stands before a value that it could join (it is made of what the user gives), the windows
behind it may compute it in forward, too.

Nothing in this rule depends on what the user keeps, so every memory mode runs the same kernels.
"""

from __future__ import annotations

from graphc.ir.remark import Saving
from graphc.kernel.inline import cheap_value
from graphc.kernel.lang import Fold, Kernel
from graphc.plan.alike import inline
from graphc.plan.draft import Draft, DraftStep, Storage
from graphc.plan.early import CHANGING

# Another input is small if it is at most this part of the value, such as a number for a channel.
SMALL = 1 / 8
# A kernel with more arrays than this gains nothing: they no longer share the caches' ways.
MOST_ARGUMENTS = 12
THROUGH = "a value that its readers compute"


def read_through(draft: Draft) -> None:
    """Replace reads of cheap values, from the first step to the last."""
    readers, writers = draft.readers(), draft.writers()
    seen: dict[str, int] = {}
    for array in draft.arrays.values():
        for source in array.sources:
            seen[source] = seen.get(source, 0) + 1
    updated = {draft.arrays[commit.arguments[1]].storage for commit in draft.commits}
    survivors = draft.survivors()
    for step in list(draft.steps):
        if len(step.writes) != 1 or not step.reads or step.is_copy:
            continue
        name = step.writes[0]
        if seen.get(name) != 1 or draft.arrays[name].storage.slot:
            continue
        large = _large_inputs(draft, step, updated)
        late = [reader for reader in readers[name] if reader.backward]
        if large is None or cheap_value(step.kernel) is None:
            continue
        if _stands_first(draft, step, large, writers):
            windows = [r for r in readers[name] if not r.backward and _has_fold(r.kernel)]
            _replace(draft, step, name, windows, readers, survivors)
            late = [reader for reader in late if reader in readers.get(name, ())]
        if not late or step not in draft.steps:
            continue
        if len(late) * len(large) > len(large) + 1 + len(late):
            continue
        if all(_lives_anyway(draft, step, one, readers, late) for one in large):
            _replace(draft, step, name, late, readers, survivors)


def _large_inputs(draft: Draft, step: DraftStep, updated: set[Storage]) -> list[str] | None:
    """Inputs that are not small beside the value; None if one is larger, or changes meanwhile."""
    arrays = draft.arrays
    value = arrays[step.writes[0]].type
    names = list(dict.fromkeys(step.reads))
    for name in names:
        storage = arrays[name].storage
        changes = not step.backward and draft.slots[storage.slot].role in CHANGING
        if storage in updated or changes or arrays[name].type.bytes > value.bytes:
            return None
    return [name for name in names if arrays[name].type.size > SMALL * value.size]


def _stands_first(
    draft: Draft, step: DraftStep, large: list[str], writers: dict[str, DraftStep]
) -> bool:
    """Whether a value of forward is made of one array of the user's, or a copy of it."""
    if step.backward or len(large) != 1:
        return False
    maker = writers.get(large[0])
    given = maker.reads[0] if maker is not None and maker.is_copy else large[0]
    return given not in writers and bool(draft.arrays[given].storage.slot)


def _has_fold(kernel: Kernel) -> bool:
    return any(isinstance(statement, Fold) for statement in kernel.body)


def _lives_anyway(
    draft: Draft,
    step: DraftStep,
    large: str,
    readers: dict[str, list[DraftStep]],
    late: list[DraftStep],
) -> bool:
    """Whether somebody else reads a large input in backward, or it is the user's."""
    sources = draft.arrays[large].sources
    if not sources:
        return bool(draft.arrays[large].storage.slot)
    others = {r for source in sources for r in readers[source] if r.backward}
    return bool(others - {step, *late})


def _replace(
    draft: Draft,
    step: DraftStep,
    name: str,
    late: list[DraftStep],
    readers: dict[str, list[DraftStep]],
    survivors: set[str],
) -> None:
    """Let readers in `late` compute what `step` makes; it goes where nobody else needs it."""
    done: list[DraftStep] = []
    for reader in late:
        if reader.is_copy or len({*reader.arguments, *step.arguments}) > MOST_ARGUMENTS:
            continue
        made = inline(step.kernel, step.arguments, reader.kernel, reader.arguments, name)
        if made is None:
            continue
        reader.kernel, reader.arguments = made
        done.append(reader)
        readers[name].remove(reader)
        for source in draft.sources(step.reads):
            if reader not in readers[source]:
                readers[source].append(reader)
    if not done:
        return
    labels = ", ".join(dict.fromkeys(reader.pass_label for reader in done))
    made_of = " and ".join(dict.fromkeys(step.reads))
    goes = not readers[name] and name not in survivors
    draft.remark(
        "through",
        f"blob:{name}",
        f"{name} is not read by {labels}: computing it from {made_of} costs less than a load",
        Saving(THROUGH, draft.arrays[name].type.bytes) if goes else None,
    )
    if goes:
        for source in draft.sources(step.reads):
            readers[source].remove(step)
        _drop(draft, step, name, f"{labels} compute it from {made_of}")


def _drop(draft: Draft, step: DraftStep, name: str, why: str) -> None:
    """Take out the step and the array that it makes; blobs that were there are gone."""
    draft.steps.remove(step)
    del draft.arrays[name]
    for blob, array in list(draft.blobs.items()):
        if array == name:
            del draft.blobs[blob]
            draft.gone[blob] = f"'{blob}' is not stored: {why}; keep='{blob}' keeps it"
