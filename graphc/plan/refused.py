"""Every sharing of bytes that was refused, and how often each kind of reason spoke against it."""

from __future__ import annotations

from dataclasses import dataclass

from graphc.ir.remark import Remark
from graphc.plan.budget import shown
from graphc.plan.program import Program

# How many arrays a row names.
NAMED = 3


@dataclass(frozen=True)
class RefusedRow:
    """One kind of reason: how often, bytes of all the arrays, and the largest with their bytes."""

    reason: str
    count: int
    bytes: int
    largest: tuple[tuple[str, int], ...]


def refusals(program: Program) -> list[str]:
    """Every sharing that was refused, with its reason, each once."""
    return [remark.sentence for remark in _refused(program)]


def refused_rows(program: Program) -> list[RefusedRow]:
    """The kinds of reasons, the one that cost most first."""
    found: dict[str, list[tuple[str, int]]] = {}
    for remark in _refused(program):
        if remark.refusal is not None:
            name = remark.subject.removeprefix("blob:")
            found.setdefault(remark.refusal.reason, []).append((name, remark.refusal.bytes))
    rows = []
    for reason, arrays in found.items():
        largest = sorted(dict(arrays).items(), key=lambda array: (-array[1], array[0]))
        total = sum(size for _, size in arrays)
        rows.append(RefusedRow(reason, len(arrays), total, tuple(largest[:NAMED])))
    return sorted(rows, key=lambda row: (-row.bytes, row.reason))


def refusal_text(program: Program, everything: bool = False) -> str:
    """The kinds of reasons, or each refusal, as text."""
    said = refusals(program)
    if not said:
        return "no sharing was refused\n"
    if everything:
        return "\n".join([f"refused sharing ({len(said)})", *(f"  {one}" for one in said)]) + "\n"
    rows = refused_rows(program)
    width = max(len(row.reason) for row in rows)
    lines = [f"refused sharing ({len(said)}), by reason; --all lists each"]
    for row in rows:
        named = ", ".join(f"{name} ({shown(size)})" for name, size in row.largest)
        more = ", ..." if row.count > len(row.largest) else ""
        lines.append(
            f"  {row.reason:<{width}}  {row.count:>4}  {shown(row.bytes):>10}  {named}{more}"
        )
    return "\n".join(lines) + "\n"


def _refused(program: Program) -> list[Remark]:
    refused = [remark for remark in program.remarks if remark.refusal is not None]
    return list({remark.sentence: remark for remark in reversed(refused)}.values())[::-1]
