"""Gradients that are made in the forward pass, in the sweep that makes the loss.

THE RULE. A step of backward joins a step of forward where

- both sweep the same array (the scores) for one layer, with the same parallel loops, or they begin
  with the same folds, which are then done once;
- it waits for nothing that backward makes and for nothing that the user gives or may change
  between the passes, but for fills and small steps (a normaliser) that may come forward with it;
- all others that read the scores have read them by then, so that it may write over the scores and
  the pass needs no more memory than before.

That is the gradient of a net's loss: it depends on forward values and constants alone. A call of
forward makes it too, at the price of one more pass over rows that lie in cache. What the user keeps
plays no part in the rule, so every memory mode joins the same steps and gives the same bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from graphc.kernel.facts import may_overwrite, reads
from graphc.kernel.lang import Fold, Kernel
from graphc.plan.alike import join_siblings
from graphc.plan.draft import Draft, DraftStep, merged, same_sweep

# A step may come forward with a gradient if it makes at most this part of the gradient's bytes:
# a number for each position, not for each class.
SMALL = 1 / 2
# What the user may change between forward and backward.
CHANGING = ("gradient", "state", "parameter")


@dataclass(frozen=True)
class _Early:
    """A gradient with the small steps it needs, and the readers that must come before it."""

    gradient: DraftStep
    makers: list[DraftStep]
    readers: list[DraftStep]


def make_early_gradients(draft: Draft) -> None:
    """Join gradients into forward steps that sweep the same scores, those of one layer first."""
    graph = _Graph(draft)
    for one_layer in (True, False):
        for first in [step for step in draft.steps if not step.backward]:
            scores = max(first.reads, key=lambda name: draft.arrays[name].type.size, default=None)
            late = graph.late_readers.get(scores or "", [])
            if scores is None or not late or not _sweeps(first, scores):
                continue
            if _join_gradient(graph, first, scores, one_layer):
                graph = _Graph(draft)


class _Graph:
    """Who waits for whom in a draft, until its steps change."""

    def __init__(self, draft: Draft):
        self.draft = draft
        self.needed, self.writers = draft.dependencies(), draft.writers()
        self.place = {step: position for position, step in enumerate(draft.steps)}
        self.late_readers: dict[str, list[DraftStep]] = {}
        for step in draft.steps:
            if step.backward and not step.is_copy:
                for name in dict.fromkeys(step.reads):
                    self.late_readers.setdefault(name, []).append(step)


def _sweeps(step: DraftStep, name: str) -> bool:
    """Whether a step reads about as many elements of an array as it has."""
    kernel = step.kernel
    buffer = kernel.inputs[step.reads.index(name)]
    each = math.prod(axis.extent for axis in kernel.each)
    own = [math.prod(axis.extent for axis in access.own) for access in reads(kernel, buffer)]
    return not step.is_copy and each * max(own, default=0) >= math.prod(buffer.shape)


def _join_gradient(graph: _Graph, first: DraftStep, scores: str, one_layer: bool) -> bool:
    for second in graph.late_readers[scores]:
        if not same_sweep(first.kernel, second.kernel):
            continue
        if one_layer != bool(set(first.layers) & set(second.layers)):
            continue
        own, second.arguments = second.arguments, _with_copies_of_forward(graph, first, second)
        if _joined(graph, first, second, scores, one_layer, own):
            return True
        second.arguments = own
    return False


def _with_copies_of_forward(graph: _Graph, first: DraftStep, second: DraftStep) -> tuple[str, ...]:
    """The gradient's arguments, with copies that the loss reads in place of their like.

    An array of the user's that is read in another order, as labels beside a convolution's scores,
    is copied in each pass.
    """
    copies = {
        (maker.reads, maker.kernel): name
        for name in first.reads
        if (maker := graph.writers.get(name)) is not None and maker.is_copy
    }
    found = []
    for name in second.arguments:
        maker = graph.writers.get(name)
        if maker is not None and maker.is_copy and name not in second.writes:
            given = graph.draft.arrays[maker.reads[0]].storage.slot
            if given and not _changes(graph.draft, maker.reads[0]):
                name = copies.get((maker.reads, maker.kernel), name)
        found.append(name)
    return tuple(found)


def _forget_copies(draft: Draft, names: tuple[str, ...]) -> None:
    """Drop copies among these that nobody reads any more."""
    readers, writers = draft.readers(), draft.writers()
    for name in dict.fromkeys(names):
        maker = writers.get(name)
        if maker is not None and maker.is_copy and not readers.get(name):
            draft.steps.remove(maker)
            del draft.arrays[name]


def _joined(
    graph: _Graph,
    first: DraftStep,
    second: DraftStep,
    scores: str,
    one_layer: bool,
    copies: tuple[str, ...],
) -> bool:
    """Join the gradient `second` into `first` where that can be; it needs no `copies` then."""
    draft = graph.draft
    made = join_siblings(first.kernel, first.arguments, second.kernel, second.arguments)
    if isinstance(made, str) or not (one_layer or _saves(first.kernel, second.kernel, made[0])):
        return False
    early = _early(graph, first, second, scores)
    if isinstance(early, str):
        said = f"{second.pass_label} is not made in forward, with the loss: {early}"
        draft.remark("join", f"layer:{second.label}", said)
        return False
    _put(draft, first, early, merged(first, second, *made))
    _forget_copies(draft, copies)
    own = set(second.layers)
    part = any(other.backward and own & set(other.layers) for other in draft.steps)
    draft.remark(
        "join",
        f"layer:{second.label}",
        f"{'a part of ' * part}{second.pass_label} is made in forward, in one sweep over"
        f" {scores} with the loss",
    )
    return True


def _saves(first: Kernel, second: Kernel, made: Kernel) -> bool:
    """Whether the joined kernel has a fold less than both."""
    counts = [sum(isinstance(s, Fold) for s in k.body) for k in (first, second, made)]
    return counts[2] < counts[0] + counts[1]


def _early(graph: _Graph, first: DraftStep, second: DraftStep, scores: str) -> _Early | str:
    """What must come before the joined step, or why the gradient cannot be early."""
    draft, needed, writers, place = graph.draft, graph.needed, graph.writers, graph.place
    done = set(draft.steps[: place[first]])
    size = sum(draft.arrays[name].type.bytes for name in second.writes)
    makers: list[DraftStep] = []
    waiting = [second]
    while waiting:
        step = waiting.pop()
        if step.after - done:
            return f"{step.label} waits for other steps"
        changing = [n for n in step.reads if _changes(draft, n)]
        if changing:
            return f"{changing[0]} may change between the passes"
        for name in sorted(draft.sources(step.reads)):
            maker = writers[name]
            if maker in done or maker in makers:
                continue
            if maker is first or first in _ancestors(maker, needed):
                return f"it needs {name}, which is made from the loss"
            made = sum(draft.arrays[written].type.bytes for written in maker.writes)
            if maker.reads and made > SMALL * size:
                return f"it needs {name}, which is made later"
            makers.append(maker)
            waiting.append(maker)
    readers = _late_readers(draft, first, second, scores, done, needed)
    if isinstance(readers, str):
        return readers
    return _Early(second, sorted(makers, key=place.__getitem__), readers)


def _ancestors(step: DraftStep, needed: dict[DraftStep, set[DraftStep]]) -> set[DraftStep]:
    found: set[DraftStep] = set()
    waiting = [step]
    while waiting:
        for other in needed[waiting.pop()] - found:
            found.add(other)
            waiting.append(other)
    return found


def _changes(draft: Draft, name: str) -> bool:
    storage = draft.arrays[name].storage
    return draft.slots[storage.slot].role in CHANGING


def _late_readers(
    draft: Draft,
    first: DraftStep,
    second: DraftStep,
    scores: str,
    done: set[DraftStep],
    needed: dict[DraftStep, set[DraftStep]],
) -> list[DraftStep] | str:
    """Readers of the scores behind the loss, if all of them can come before it."""
    if draft.arrays[scores].storage.slot:
        return []  # nobody writes over what is the user's
    if all(may_overwrite(second.kernel, second.reads.index(scores), n) for n in _outputs(second)):
        return "it could not be written over the scores"
    storage = draft.arrays[scores].storage
    late: list[DraftStep] = []
    for step in draft.steps:
        if step in done or step in (first, second):
            continue
        if any(draft.arrays[name].storage is storage for name in step.reads):
            if step.backward or not needed[step] <= done | set(late):
                return f"{step.pass_label} still needs {scores}"
            late.append(step)
    return late


def _outputs(step: DraftStep) -> range:
    return range(len(step.writes))


def _put(draft: Draft, first: DraftStep, early: _Early, step: DraftStep) -> None:
    """Put the joined step where the loss was, and before it what has to come before it."""
    step.backward = False
    moved = [*early.makers, *early.readers]
    for other in moved:
        other.backward = False
    gone = {first, early.gradient}
    steps: list[DraftStep] = []
    for old in draft.steps:
        if old is first:
            steps += [*moved, step]
        elif old not in moved and old is not early.gradient:
            steps.append(old)
    for other in steps:
        if other.after & gone:
            other.after = (other.after - gone) | {step}
    draft.steps = steps
    draft.check_order()
