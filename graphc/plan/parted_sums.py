"""Sums with few results, made of parts: threads share the parts, where results would be too few.

The gradient of a bias sums up millions of elements into some dozens. Shared by its results, every
thread would read most lines of the array; here a step sums up each image by itself, and the threads
share the images. A second, small step adds up the parts, in their order, whoever made them.
"""

from __future__ import annotations

import math
from dataclasses import replace

from graphc.ir.types import DTYPES, REAL, TensorType, row_major
from graphc.kernel.lang import Buffer, Fold, Kernel, Load, Store, Var
from graphc.kernel.walk import statement_exprs, walk
from graphc.plan.draft import Draft, DraftStep

LINE_BYTES = 64
FEWEST_LINES = 8  # of results: with more of them, threads share few lines
FEWEST_PARTS = 8
LEAST_BYTES = 256 << 10  # of the results' terms: what is less, one thread has summed up soon


def part_sums(draft: Draft) -> None:
    """Let long sums with few results be made of parts, and say why."""
    for step in list(draft.steps):
        fold = _long_sum(step.kernel)
        if fold is not None:
            _part(draft, step, fold)


def _long_sum(kernel: Kernel) -> Fold | None:
    """The sum that is all a kernel does, where it should be made of parts."""
    if len(kernel.body) != 2:
        return None
    fold, store = kernel.body
    if not isinstance(fold, Fold) or not isinstance(store, Store):
        return None
    (value, *others), (axis, *rest) = fold.values, fold.axes
    results = math.prod(a.extent for a in kernel.each)
    terms = math.prod(a.extent for a in fold.axes)
    plain = fold.kind == "sum" and fold.where is None and not others and store.where is None
    if not plain or not rest or store.axes or not isinstance(value, Load):
        return None
    item = DTYPES[value.buffer.dtype]
    few = results * item < FEWEST_LINES * LINE_BYTES
    long = results * terms * item >= LEAST_BYTES and axis.extent >= FEWEST_PARTS
    outside = value.buffer.strides[0] == max(value.buffer.strides)
    is_first = value.index[0] == Var(axis)
    real = value.buffer.dtype in REAL and fold.locals[0].dtype == value.buffer.dtype
    return fold if few and long and outside and is_first and real else None


def _part(draft: Draft, step: DraftStep, fold: Fold) -> None:
    kernel, axis = step.kernel, fold.axes[0]
    (local,), (value,) = fold.locals, fold.values
    assert isinstance(value, Load)
    buffer = _parts_buffer(kernel, fold)
    parts = draft.array(f"{step.writes[0]}~parts", TensorType(buffer.dtype, buffer.shape)).name
    index = tuple(Var(a) for a in (axis, *kernel.each))
    first = replace(
        kernel,
        name="sum_parts",
        inputs=(value.buffer,),
        outputs=(buffer,),
        each=(axis, *kernel.each),
        body=(replace(fold, axes=fold.axes[1:]), Store(buffer, index, local)),
    )
    store = kernel.body[1]
    loads = [part for expr in statement_exprs(store) for part in walk(expr)]
    still = {load.buffer for load in loads if isinstance(load, Load)}
    places = [n for n, other in enumerate(kernel.inputs) if other in still]
    second = replace(
        kernel,
        inputs=(*(kernel.inputs[n] for n in places), buffer),
        body=(replace(fold, values=(Load(buffer, index),), axes=(axis,)), store),
    )
    draft.remark(
        "algorithm",
        f"layer:{step.label}",
        f"{kernel.name} is made of {axis.extent} parts, which threads share; its few results they"
        " could not share well",
    )
    maker = DraftStep(
        first,
        (step.reads[kernel.inputs.index(value.buffer)], parts),
        layers=step.layers,
        kinds=step.kinds,
        backward=step.backward,
        after=set(step.after),
    )
    draft.steps.insert(draft.steps.index(step), maker)
    for later in draft.steps:
        if step in later.after:
            later.after.add(maker)
    step.arguments = (*(step.reads[n] for n in places), parts, *step.writes)
    step.kernel = second


def _parts_buffer(kernel: Kernel, fold: Fold) -> Buffer:
    """What the parts lie in: [part, result], of a name that the kernel has not."""
    shape = (fold.axes[0].extent, *(a.extent for a in kernel.each))
    return Buffer(kernel.free_name(), fold.locals[0].dtype, shape, row_major(shape))
