"""Which steps must wait until all threads have finished the steps before."""

from __future__ import annotations

from collections.abc import Sequence

from graphc.plan.program import Program

Names = tuple[str, ...]
_Bytes = tuple[int, int, int]  # slot, first byte, past the last byte


def waits(
    program: Program, touched: Sequence[tuple[Names, Names]], shared: Sequence[bool]
) -> list[bool]:
    """For each step whether all threads must have finished the steps before it.

    Between two steps that touch the same bytes, one of them writing, there is always a wait, unless
    thread 0 alone runs both. `touched`: what each step reads and what it writes, by name.
    """
    flags: list[bool] = []
    since: list[tuple[list[_Bytes], list[_Bytes], bool]] = []
    for names, parallel in zip(touched, shared, strict=True):
        reads, writes = (_bytes(program, some) for some in names)
        wait = any(
            (parallel or other_parallel)
            and (
                _meet(writes, other_reads)
                or _meet(writes, other_writes)
                or _meet(reads, other_writes)
            )
            for other_reads, other_writes, other_parallel in since
        )
        if wait:
            since = []
        since.append((reads, writes, parallel))
        flags.append(wait)
    return flags


def _bytes(program: Program, names: Names) -> list[_Bytes]:
    places = [program.buffers[name] for name in names]
    return [(p.slot, p.offset, p.offset + p.span_bytes) for p in places]


def _meet(left: Sequence[_Bytes], right: Sequence[_Bytes]) -> bool:
    return any(a[0] == b[0] and a[1] < b[2] and b[1] < a[2] for a in left for b in right)
