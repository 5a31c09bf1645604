"""Why the code of a layer's kernels is as it is: how `graphc explain` learns it.

The kernels asked for are emitted as text once more, by the very functions that make a program's,
and what their emitters decided on is told. No machine code is made of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from graphc.codegen.llvm.contraction import ALONE, Tiled, Tiles
from graphc.codegen.llvm.dot_tile import DotProduct
from graphc.codegen.llvm.each import Loops
from graphc.codegen.llvm.form_remarks import (
    copy_remarks,
    dot_remarks,
    row_remarks,
    tap_remarks,
    window_remarks,
    winograd_remarks,
)
from graphc.codegen.llvm.function import EmittedKernel
from graphc.codegen.llvm.interleave import Interleaving
from graphc.codegen.llvm.loop_remarks import loop_remarks, sweep_remarks
from graphc.codegen.llvm.loop_words import Names
from graphc.codegen.llvm.modules import Modules
from graphc.codegen.llvm.program import kernel_keys
from graphc.codegen.llvm.register_rows import Sweep
from graphc.codegen.llvm.row_sums import RowSums
from graphc.codegen.llvm.said import Said, more
from graphc.codegen.llvm.step import WORTH_SHARING, Run
from graphc.codegen.llvm.step_functions import StepFunctions
from graphc.codegen.llvm.tap_sums import TapSums
from graphc.codegen.llvm.target import Target
from graphc.codegen.llvm.tile_remarks import tile_remarks
from graphc.codegen.llvm.tiled_product import TiledProduct
from graphc.codegen.llvm.transpose import Transposition
from graphc.plan.program import Program


@dataclass(frozen=True)
class KernelRemarks:
    """What is told of a kernel that runs at `steps`; arrays are those of the first of them."""

    steps: list[int]
    kernel: str
    backward: bool
    said: list[Said]


def schedule_remarks(
    program: Program,
    steps: Collection[int],
    target: Target | None = None,
    turned: bool = False,
    called: Callable[[str], str] = str,
) -> list[KernelRemarks]:
    """All that is told of the kernels at some steps, in their order.

    `target` None: this machine. turned: the user's shapes are the program's from last to first.
    called: what the user calls an array of the program.
    """
    chosen = target or Target.host()
    found: dict[int, KernelRemarks] = {}
    for numbers, run in _runs(program, steps, chosen):
        emitted = run.kernel
        assert emitted is not None
        if id(emitted) in found:
            found[id(emitted)].steps.extend(numbers)
            continue
        first = program.steps[numbers[-1]]
        names = Names(_arrays(program, numbers), turned, called)
        said = list(_told(emitted, chosen, names))
        found[id(emitted)] = KernelRemarks(numbers, first.kernel.name, first.backward, said)
    return list(found.values())


def _runs(
    program: Program, steps: Collection[int], target: Target
) -> Iterator[tuple[list[int], Run]]:
    """What is done at the steps asked for; two may be one function, which does both."""
    functions = StepFunctions(
        Modules(program.name, target, None), program, target, kernel_keys(program)
    )
    number = 0
    while number < len(program.steps):
        chained = functions.chained(number)
        numbers = [number, number + 1] if chained else [number]
        if chained and not set(steps).isdisjoint(numbers):
            yield numbers, chained[-1]
        elif number in steps:
            yield numbers, functions.alone(number)
        number += len(numbers)


def _arrays(program: Program, numbers: list[int]) -> dict[str, str]:
    """The arrays' names by the kernel's; kernels that are one know them as the program does."""
    if len(numbers) > 1:
        return {}
    step = program.steps[numbers[0]]
    formal = (buffer.name for buffer in step.kernel.buffers)
    return dict(zip(formal, step.arguments, strict=True))


def _told(emitted: EmittedKernel, target: Target, names: Names) -> Iterator[Said]:
    made = emitted.made
    if isinstance(made, Tiles):
        yield from _tiles(made, target, names)
    elif isinstance(made, Loops):
        yield from loop_remarks(made, names, target)
    elif isinstance(made, Sweep):
        yield from sweep_remarks(made, names)
    elif isinstance(made, Transposition | Interleaving):
        yield from copy_remarks(made, names)
    elif isinstance(made, tuple):
        yield from winograd_remarks(made[0], made[1], names)
    if emitted.cost < WORTH_SHARING:
        said = f"one thread does it: {emitted.cost:,.0f} instructions, by the model, are not worth"
        said += f" waking others for, as {WORTH_SHARING:,} are"
        yield Said("threads", said, {"instructions": emitted.cost})


# -- contractions -----------------------------------------------------------------------------


def _tiles(made: Tiles, target: Target, names: Names) -> Iterator[Said]:
    """Every part of a contraction; parts of which the same is told, once."""
    count = len(made.parts)
    yield from _whole(made)
    parts = [list(_part(part, made, target, names)) for part in made.parts]
    told: dict[tuple[str, ...], list[int]] = {}
    for number, said in enumerate(parts):
        told.setdefault(tuple(s.sentence for s in said), []).append(number)
    for numbers in told.values():
        which = [number + 1 for number in numbers]
        label = f"part{'s' * (len(which) > 1)} {', '.join(map(str, which))} of {count}"
        for one in parts[numbers[0]]:
            facts = {**one.facts, "parts": which, "of_parts": count}
            yield Said(one.about, one.sentence, facts, label if count > 1 else "")


def _whole(made: Tiles) -> Iterator[Said]:
    """What the kernel is as a whole, where there was a choice."""
    wholes = made.weighed.wholes
    cost = sum(part.tiling.cost for part in made.parts)
    taken = next((form for form, price in wholes.items() if price == cost), ALONE)
    others = {form: price for form, price in wholes.items() if form != taken}
    if len(made.parts) == 1 and not others and taken == ALONE:
        return
    said = f"it runs {taken}"
    if taken == ALONE and len(made.parts) > 1:
        said = f"it runs as {len(made.parts)} dense products, one a phase of its strides"
    rest = [f"{form} it takes {more(price, cost)}" for form, price in others.items()]
    facts: dict[str, Any] = {"form": taken, "parts": len(made.parts), "costs": dict(wholes)}
    yield Said("whole", "; ".join([said, *rest]), facts)


def _part(part: Tiled, made: Tiles, target: Target, names: Names) -> Iterator[Said]:
    if isinstance(part, TiledProduct):
        found = tile_remarks(part, target, names)
    elif isinstance(part, DotProduct):
        found = dot_remarks(part, names)
    elif isinstance(part, TapSums):
        found = tap_remarks(part, names)
    elif isinstance(part, RowSums):
        found = row_remarks(part, names)
    else:
        found = window_remarks(part, names)
    form = next(found)
    yield form
    yield from _forms(part, form.facts["form"], made)
    yield from found


def _forms(part: Tiled, taken: str, made: Tiles) -> Iterator[Said]:
    """Which other forms a product could have had."""
    costs = [costs for product, costs in made.weighed.products if product is part.product]
    for form, cost in itertools.chain.from_iterable(c.items() for c in costs):
        if form != taken and cost != part.tiling.cost:
            said = f"as {form} it takes {more(cost, part.tiling.cost)}"
            yield Said("instead", said, {"form": form, "cost": cost, "chosen": part.tiling.cost})
