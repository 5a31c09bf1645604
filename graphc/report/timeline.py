"""The arena over time as SVG: a rectangle for each buffer, from its first step to its last."""

from __future__ import annotations

from html import escape

from graphc.plan.explain import memory_rows
from graphc.plan.program import Program

_WIDTH, _HEIGHT = 1100.0, 380.0
_LEFT, _BOTTOM, _TOP = 70.0, 34.0, 16.0


def timeline(program: Program) -> str:
    """The SVG element; each rectangle names its buffer in `data-buffer` and in a title."""
    count = max(len(program.steps), 1)
    peak = max(program.memory.peak, 1)
    column, scale = _WIDTH / count, _HEIGHT / peak
    width, height = _LEFT + _WIDTH + 10, _TOP + _HEIGHT + _BOTTOM
    label = (
        f"Arena of {program.memory.peak:,} bytes over {len(program.steps)} steps;"
        " the table below says the same"
    )
    parts = [
        f'<svg class="timeline" xmlns="http://www.w3.org/2000/svg" role="img"'
        f' viewBox="0 0 {width:.0f} {height:.0f}" aria-label="{escape(label)}">'
    ]
    backward = _LEFT + program.forward_steps * column
    if program.forward_steps < len(program.steps):
        parts.append(
            f'<rect class="ground" x="{backward:.1f}" y="{_TOP}"'
            f' width="{_LEFT + _WIDTH - backward:.1f}" height="{_HEIGHT}"/>'
            f'<text x="{backward + 4:.1f}" y="{_TOP + _HEIGHT + 24:.0f}">backward</text>'
        )
    parts.append(f'<text x="{_LEFT}" y="{_TOP + _HEIGHT + 24:.0f}">forward</text>')
    for row in memory_rows(program):
        if row.shares.startswith(("shows", "part of")):
            continue
        x, y = _LEFT + row.first * column, _TOP + _HEIGHT - (row.offset + row.bytes) * scale
        wide, high = (row.last - row.first + 1) * column, row.bytes * scale
        kind = "backward" if row.first >= program.forward_steps else "forward"
        said = f"{row.name}, {row.type}, {row.bytes:,} bytes, steps {row.first} to {row.last}"
        parts.append(
            f'<rect class="{kind}" data-buffer="{escape(row.name)}" x="{x:.1f}" y="{y:.1f}"'
            f' width="{wide:.1f}" height="{max(high, 0.6):.1f}"><title>{escape(said)}</title>'
            "</rect>"
        )
        if high > 11 and wide > 7 * len(row.name):
            parts.append(
                f'<text x="{x + 4:.1f}" y="{y + high / 2 + 4:.1f}">{escape(row.name)}</text>'
            )
    for part in (0.0, 0.5, 1.0):
        y = _TOP + _HEIGHT * (1 - part)
        parts.append(
            f'<line x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{y:.0f}" y2="{y:.0f}"/>'
            f'<text text-anchor="end" x="{_LEFT - 6}" y="{y + 4:.0f}">{_shown(part * peak)}</text>'
        )
    return "".join([*parts, "</svg>"])


def _shown(size: float) -> str:
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 / 10 else f"{size / 2**10:.1f} KiB"
