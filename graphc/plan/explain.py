"""The plan for people: the memory table, and the remarks about one thing."""

from __future__ import annotations

from dataclasses import dataclass

from graphc.columns import columns
from graphc.error import NetError, did_you_mean
from graphc.ir.remark import Remark
from graphc.plan.budget import shown
from graphc.plan.program import Program, ProgramBuffer

# How many of the values that an array holds are named.
MOST_SHOWN = 4


@dataclass(frozen=True)
class MemoryRow:
    """One arena buffer: where its bytes lie, between which steps they must stay, what it shares."""

    name: str
    type: str
    bytes: int
    offset: int
    first: int
    last: int
    shares: str


def memory_rows(program: Program) -> list[MemoryRow]:
    """All buffers of the arena, in the order in which they come to life."""
    writers = {name: i for i, step in enumerate(program.steps) for name in _writes(program, i)}
    arena = [buffer for buffer in program.buffers.values() if buffer.slot == 0]
    arena.sort(key=lambda b: (b.first, b.offset, b.name))
    return [
        MemoryRow(
            name=buffer.name,
            type=f"{buffer.dtype}[{', '.join(map(str, buffer.shape))}]",
            bytes=buffer.span_bytes,
            offset=buffer.offset,
            first=buffer.first,
            last=buffer.last,
            shares=_shares(program, buffer, arena, writers),
        )
        for buffer in arena
    ]


def _writes(program: Program, position: int) -> tuple[str, ...]:
    step = program.steps[position]
    return step.arguments[len(step.kernel.inputs) :]


def _shares(
    program: Program,
    buffer: ProgramBuffer,
    arena: list[ProgramBuffer],
    writers: dict[str, int],
) -> str:
    """`over conv1` where it takes its input's place, `shows conv1` where it is a view."""
    if buffer.name in writers:
        step = program.steps[writers[buffer.name]]
        for name in step.arguments[: len(step.kernel.inputs)]:
            other = program.buffers[name]
            if other.slot == 0 and other.offset == buffer.offset:
                return f"over {name}"
        for other in arena:
            if other.name not in writers and _inside(buffer, other):
                return f"part of {other.name}"
        return ""
    seen = [o.name for o in arena if o.name in writers and _inside(o, buffer)]
    around = [o.name for o in arena if o.name in writers and _inside(buffer, o)]
    held = around or seen
    more = f" and {len(held) - MOST_SHOWN} more" if len(held) > MOST_SHOWN else ""
    return f"shows {', '.join(held[:MOST_SHOWN])}{more}" if held else ""


def _inside(inner: ProgramBuffer, outer: ProgramBuffer) -> bool:
    """Whether one lies within the other's bytes while both are live."""
    return (
        inner.lies_in(outer)
        and inner.first <= outer.last
        and outer.first <= inner.last
        and inner is not outer
    )


def memory_table(program: Program, most: int | None = None) -> str:
    """The arena's buffers, or the largest `most` of them, then the totals, as text.

    The bound of the order is the most that is live at one step; the bound of any order is what no
    order of the steps could do without; the naive sum is what it takes without sharing.
    """
    rows = memory_rows(program)
    small: set[MemoryRow] = set()
    if most is not None and len(rows) > most:
        small = set(sorted(rows, key=lambda row: -row.bytes)[most:])
    head = ("buffer", "type", "bytes", "offset", "steps", "shares")
    cells = [
        (r.name, r.type, f"{r.bytes:,}", f"{r.offset:,}", f"{r.first}..{r.last}", r.shares)
        for r in rows
        if r not in small
    ]
    lines = [f"{program.name}: {len(program.steps)} steps, {program.forward_steps} of them forward"]
    lines += columns([head, *cells], numbers=(2, 3))
    if small:
        largest = shown(max(row.bytes for row in small))
        lines.append(f"and {len(small)} buffers of at most {largest}; --all lists them")
    report = program.memory
    lines.append("")
    totals = [
        ("peak (the arena)", report.peak),
        ("bound of this order", report.bound_of_order),
        ("bound of any order", report.bound_of_any_order),
        ("naive sum of all buffers", report.naive),
        *((f"slots: {role}", size) for role, size in sorted(report.slots.items())),
    ]
    width = max(len(name) for name, _ in totals)
    digits = max(len(f"{size:,}") for _, size in totals)
    for name, size in totals:
        lines.append(f"{name:<{width}}  {size:>{digits},} bytes  {size / 2**20:10.2f} MiB")
    return "\n".join(lines) + "\n"


def savings_table(program: Program) -> str:
    """What each kind of decision saved, as text; empty where nothing was decided."""
    found = program.memory.saved
    if not found:
        return ""
    cells = [("what was saved", "times", "bytes of all", "bound of this order without it")]
    for row in found:
        without = "" if row.without is None else shown(row.without)
        cells.append((row.choice, str(row.count), shown(row.bytes), without))
    return "\n".join(columns(cells, numbers=(1, 2, 3))) + "\n"


def explain(program: Program, subject: str) -> list[Remark]:
    """Every remark about a layer (`layer:conv1`), a blob (`blob:conv1`) or a parameter (`conv1/0`).

    A bare name stands for all of these; a blob's remarks include those of its gradient. Raises
    NetError where the net has nothing of that name.
    """
    names = _subjects(program)
    wanted = {name for name in names if _about(name, subject)}
    if not wanted:
        hint = did_you_mean(_kind(subject)[1], sorted({_kind(name)[1] for name in names}))
        raise NetError(f"the net has no '{subject}'" + (f"; {hint}" if hint else ""))
    return [remark for remark in program.remarks if _about(remark.subject, subject)]


def _about(name: str, subject: str) -> bool:
    """Whether a remark's subject is what was asked for: `blob:conv1:relu1` is about conv1."""
    kind, bare = _kind(name)
    wanted_kind, wanted = _kind(subject)
    if wanted_kind not in ("", kind):
        return False
    names = {part for one in bare.split(", ") for part in (one, one.partition(":")[0])}
    return wanted in names | {one.removesuffix(".diff") for one in names}


def _kind(subject: str) -> tuple[str, str]:
    kind, colon, bare = subject.partition(":")
    return (kind, bare) if colon and kind in ("layer", "blob") else ("", subject)


def _subjects(program: Program) -> set[str]:
    """Everything that can be asked about."""
    names = {remark.subject for remark in program.remarks}
    names |= {f"blob:{name}" for name in (*program.readable, *program.overwritten)}
    names |= {slot.name for slot in program.slots[1:]}
    names |= {f"layer:{layer}" for step in program.steps for layer in step.layer.split(", ")}
    return names
