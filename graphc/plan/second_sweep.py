"""Lets a map go over what a reduction has just read, while that is near.

Batch normalisation sums up an image to find a channel's mean and variance, and then needs the image
once more. Two steps read it from memory twice. Where a channel lies in long pieces, the map can
follow the sum channel by channel instead: what it reads it finds in the core's caches.

    for each channel: sum; for each channel: map    =>    for each channel: sum, then map

That pays where

- the map reads the reduction's results only at the index that the reduction keeps;
- what both read is too much for the caches, but what belongs to one kept index is not;
- it lies in pieces so long that going from one to the next costs nothing;
- there are enough kept indices for every core, which may find little else to share.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from graphc.kernel.affine import affine
from graphc.kernel.lang import Axis, Expr, Fold, Kernel
from graphc.kernel.store_loops import with_loops_in_store
from graphc.kernel.walk import axes_of, loads
from graphc.plan.budget import shown
from graphc.plan.cores import Cores
from graphc.plan.draft import Draft, DraftStep


@dataclass(frozen=True)
class SecondSweep:
    """The map in the form in which it can follow the reduction; `near` is what it finds near."""

    kernel: Kernel
    near: str


def second_sweep(
    draft: Draft, producer: DraftStep, consumer: DraftStep, cores: Cores
) -> SecondSweep | str | None:
    """The map `consumer` as a second sweep of `producer`, or why not; None: nobody would ask."""
    folds = [s for s in producer.kernel.body if isinstance(s, Fold)]
    if not cores.near_bytes or not folds or _has_fold(consumer.kernel):
        return None
    kept = _kept_axes(producer, consumer)
    moved = [axis for axis in consumer.kernel.each if axis not in kept]
    count = math.prod(axis.extent for axis in kept)
    again = _read_again(draft, producer, consumer)
    if math.prod(axis.extent for axis in moved) == 1 or not again:
        return None
    size = sum(draft.arrays[name].type.bytes for name in again)
    names, each_time = " and ".join(again), f"{shown(size // count)} at a time"
    if size < cores.far_bytes:
        return f"the caches still hold {names} ({shown(size)}) when it begins"
    if count < cores.shares:
        return f"{count} sums, each with its part of the map, are too few to share among threads"
    if size > count * cores.near_bytes:
        return f"of {names} {each_time} are too much to stay near"
    for name in again:
        run = _run(consumer, name, moved) * draft.arrays[name].item_bytes
        if run < cores.run_bytes:
            return f"what belongs to one sum lies in pieces of {run} bytes in {name}"
    made = with_loops_in_store(consumer.kernel, kept)
    return made if isinstance(made, str) else SecondSweep(made, f"{names}, {each_time}")


def _has_fold(kernel: Kernel) -> bool:
    return any(isinstance(statement, Fold) for statement in kernel.body)


def _places(step: DraftStep, names: Iterable[str]) -> list[int]:
    """The inputs as which a step reads some arrays."""
    wanted = set(names)
    return [place for place, name in enumerate(step.reads) if name in wanted]


def _kept_axes(producer: DraftStep, consumer: DraftStep) -> set[Axis]:
    """The consumer's loops along which it reads other results of the producer."""
    read = loads(consumer.kernel, _places(consumer, producer.writes))
    indices: list[Expr] = [index for load in read for index in load.index]
    return {axis for index in indices for axis in axes_of(index) if axis.extent != 1}


def _read_again(draft: Draft, producer: DraftStep, consumer: DraftStep) -> list[str]:
    """The arrays that both read, of which the consumer meets another element each time."""
    count = math.prod(axis.extent for axis in consumer.kernel.each)
    both = [name for name in dict.fromkeys(consumer.reads) if name in producer.reads]
    return [name for name in both if draft.arrays[name].type.size == count]


def _run(consumer: DraftStep, name: str, moved: list[Axis]) -> int:
    """How many elements of an array lie one behind the other along the moved loops."""
    (load, *_) = loads(consumer.kernel, _places(consumer, [name]))
    steps: dict[Axis, int] = {}
    for index, stride in zip(load.index, load.buffer.strides, strict=True):
        form = affine(index)
        for axis, factor in form.terms if form else ():
            steps[axis] = steps.get(axis, 0) + factor * stride
    run, left = 1, [axis for axis in moved if axis.extent != 1]
    while near := next((axis for axis in left if steps.get(axis) == run), None):
        run *= near.extent
        left.remove(near)
    return run
