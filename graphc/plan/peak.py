"""What lies in a plan's arena at each call, and what holds the most crowded one.

Values that look at the same bytes (a view, a part of a concatenation) are one box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphc.kernel.work import flops_of
from graphc.plan.budget import shown
from graphc.plan.program import Program, ProgramBuffer, Step

# What holds less than this part of the peak is summed up; of what makes a value so many are named.
SMALLEST_NAMED = 1 / 250
MOST_NAMED = 3
MOST_HOLDERS = 16
AGAIN = "a budget can make it again"
_WEIGHTS = "it is as large as the weights"


@dataclass(frozen=True)
class Box:
    """A block of the arena while something needs it: calls `first` to `last`, both included.

    kind: "forward" or "backward" by where it is made, "copy" of something in another layout,
    "again" where it is computed a second time, "kept" where it only waits for the user.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    bytes: int
    first: int
    last: int
    maker: str
    kind: str


@dataclass(frozen=True)
class Holder:
    """A box that is live at the peak, why, and what one could do about it."""

    box: Box
    why: str
    advice: str


def boxes(program: Program) -> list[Box]:
    """All boxes, in the order of the calls that make them; larger ones first."""
    arena = [b for b in program.buffers.values() if b.slot == 0 and b.span_bytes]
    arena.sort(key=lambda b: (b.first, -b.span_bytes, -b.needed, b.name))
    found: list[ProgramBuffer] = []
    for buffer in arena:
        if not any(_covers(other, buffer) for other in found):
            found.append(buffer)
    readers = _last_touch(program)
    return [_box(program, buffer, readers) for buffer in found]


def _covers(outer: ProgramBuffer, inner: ProgramBuffer) -> bool:
    """Whether a buffer only shows, or fills, a part of another at the same time."""
    return inner.lies_in(outer) and outer.first <= inner.first and inner.needed <= outer.needed


def _last_touch(program: Program) -> dict[str, int]:
    return {name: i for i, step in enumerate(program.steps) for name in step.arguments}


def _box(program: Program, buffer: ProgramBuffer, touched: dict[str, int]) -> Box:
    step = program.steps[buffer.first] if program.steps else None
    kind = "backward" if step and step.backward else "forward"
    if step and step.again:
        kind = "again"
    elif step and step.kind.split(", ")[0] == "copy":
        kind = "copy"
    elif buffer.needed == len(program.steps) - 1 and touched.get(buffer.name, -1) < buffer.needed:
        kind = "kept"
    return Box(
        buffer.name,
        buffer.dtype,
        buffer.shape,
        buffer.offset,
        buffer.span_bytes,
        buffer.first,
        buffer.needed,
        step_label(step) if step else "",
        kind,
    )


def step_label(step: Step) -> str:
    """`conv1, relu1`, `conv1, relu1's backward`, or the kernel's name."""
    if not step.layer:
        return step.kernel.name
    return f"{step.layer}'s backward" if step.backward else step.layer


def live_bytes(program: Program) -> list[int]:
    """Bytes of the arena in use at each call; bytes that two boxes share count once."""
    by_step: list[list[tuple[int, int]]] = [[] for _ in program.steps]
    for box in boxes(program):
        for position in range(box.first, min(box.last + 1, len(by_step))):
            by_step[position].append((box.offset, box.offset + box.bytes))
    totals = []
    for intervals in by_step:
        total = reach = 0
        for start, end in sorted(intervals):
            total += max(0, end - max(start, reach))
            reach = max(reach, end)
        totals.append(total)
    return totals


def peak_holders(program: Program) -> tuple[int, list[Holder]]:
    """The most crowded call, and what is live there, the largest first."""
    live = live_bytes(program)
    if not live:
        return 0, []
    peak = live.index(max(live))
    here = [box for box in boxes(program) if box.first <= peak <= box.last]
    here.sort(key=lambda box: (-box.bytes, box.name))
    return peak, [_holder(program, box, peak) for box in here]


def _is_of_weights(program: Program, box: Box) -> bool:
    """Whether it is a parameter in another order, which no batch makes smaller."""
    buffer = program.buffers.get(box.name.partition("~")[0])
    return buffer is not None and program.slots[buffer.slot].role == "parameter"


def _holder(program: Program, box: Box, peak: int) -> Holder:
    step = program.steps[peak]
    if box.name in step.arguments:
        reads = box.name in step.arguments[: len(step.kernel.inputs)]
        why = f"this call {'reads' if reads else 'writes'} it"
        return Holder(box, why, _WEIGHTS if _is_of_weights(program, box) else "a smaller batch")
    later = [s for s in program.steps[peak + 1 : box.last + 1] if box.name in s.arguments]
    if not later:
        if box.kind == "kept":
            return Holder(box, "must survive the call", f"leave out keep='{box.name}'")
        return Holder(box, "a part or a view of it is read later", AGAIN)
    why = f"waits for {step_label(later[0])}"
    if box.kind == "again":
        return Holder(box, why, "a smaller budget may find a later place")
    maker = program.steps[box.first]
    inputs = _named(maker.arguments[: len(maker.kernel.inputs)])
    work = _operations(flops_of(maker.kernel))
    return Holder(box, why, f"{AGAIN} from {inputs}: {work}")


def _operations(count: float) -> str:
    for unit, name in ((1e9, "GFLOP"), (1e6, "MFLOP")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count / 1e3:.3g} kFLOP"


def _named(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def peak_text(program: Program, everything: bool = True) -> str:
    """What holds the peak, as text; the largest alone where not `everything` is asked for."""
    peak, holders = peak_holders(program)
    if not holders:
        return "nothing lies in the arena.\n"
    lines = [
        f"what holds the peak: call {peak}, {step_label(program.steps[peak])}"
        " (a budget is --memory SIZE)"
    ]
    total = sum(holder.box.bytes for holder in holders)
    large = [holder for holder in holders if holder.box.bytes >= SMALLEST_NAMED * total]
    large = large if everything else large[:MOST_HOLDERS]
    width = max(len(holder.box.name) for holder in large)
    for holder in large:
        size = shown(holder.box.bytes)
        lines.append(f"  {holder.box.name:<{width}}  {size:>10}  {holder.why}; {holder.advice}")
    rest = holders[len(large) :]
    if rest:
        size = shown(sum(holder.box.bytes for holder in rest))
        lines.append(f"  {f'{len(rest)} smaller ones':<{width}}  {size:>10}  --json names them")
    return "\n".join(lines) + "\n"
