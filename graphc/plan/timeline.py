"""A picture of a plan: calls along x, places in the arena along y, a box for every value.

The picture is SVG text; it needs nothing to be drawn but a browser, follows the reader's light or
dark setting, and says more about a box when the pointer rests on it. It stands in a file of its own
or in a page, so its style touches nothing but itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from graphc.plan.budget import shown
from graphc.plan.peak import Box, boxes, live_bytes
from graphc.plan.program import Program

WIDTH, HEIGHT = 1100, 460
LEFT, TOP, BOTTOM, RIGHT = 78, 92, 46, 18
LETTER = 5.6  # the width of a letter of a box's label

# What a box holds -> (its name in the legend, its colour on light, on dark ground).
COLOURS = {
    "forward": ("made in forward", "#4c8dc9", "#3f7fbd"),
    "backward": ("made in backward", "#d9823b", "#c4722f"),
    "copy": ("copy in another layout", "#8a94a3", "#7b8696"),
    "again": ("computed again", "#4aa57c", "#3d9670"),
    "kept": ("kept for the user", "#a46bb5", "#985fa9"),
}


@dataclass(frozen=True)
class _Scale:
    """From steps and bytes to places in the picture."""

    steps: int
    bytes: int

    def x(self, step: float) -> float:
        return LEFT + step * (WIDTH - LEFT - RIGHT) / max(self.steps, 1)

    def y(self, offset: float) -> float:
        return HEIGHT - BOTTOM - offset * (HEIGHT - TOP - BOTTOM) / max(self.bytes, 1)


def timeline_svg(program: Program) -> str:
    """The timeline of a plan as the text of an SVG element; `data-buffer` names a box's value."""
    scale = _Scale(len(program.steps), program.arena_bytes)
    found = boxes(program)
    said = f"{program.name}: what lies where in the arena, and when"
    parts = [
        f'<svg class="timeline" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        f' width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{escape(said)}">',
        f"<style>{_style()}</style>",
        f'<rect class="ground" width="{WIDTH}" height="{HEIGHT}"/>',
        *_head(program, found),
        *_grid(program, scale),
        *(_box(program, scale, box) for box in found),
        *_marks(program, scale),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _style() -> str:
    rules = {
        "text": "font:11px system-ui,sans-serif;" + _colour("fill", "#333", "#ccc"),
        "path": "fill:none",
        ".title": "font-size:15px;font-weight:600",
        ".label": "font-size:10px;fill:#fff;pointer-events:none",
        ".ground": _colour("fill", "#fff", "#16191d"),
        ".line": _colour("stroke", "#ddd", "#30353b"),
        ".axis": _colour("stroke", "#999", "#666"),
        ".mark": _colour("stroke", "#c0392b", "#ff7b6b"),
        ".pass": "stroke-dasharray:4 3;" + _colour("stroke", "#555", "#aaa"),
        ".box": "stroke-width:.6;" + _colour("stroke", "#fff", "#16191d"),
    }
    rules |= {f".{kind}": _colour("fill", *pair) for kind, (_, *pair) in COLOURS.items()}
    own = "".join(f".timeline {what}{{{how}}}" for what, how in rules.items())
    return f"svg:root{{color-scheme:light dark}}{own}"  # a page has a scheme of its own


def _colour(what: str, light: str, dark: str) -> str:
    """By the reader's setting; the light one in programs that know no settings."""
    return f"{what}:{light};{what}:light-dark({light},{dark})"


def _head(program: Program, found: list[Box]) -> list[str]:
    """The title, the totals and the legend."""
    report = program.memory
    sizes = [report.peak, report.bound_of_order, report.bound_of_any_order, report.naive]
    peak, order, any_order, naive = map(shown, sizes)
    totals = f"arena {peak}; bound of this order {order}, of any {any_order}; not shared {naive}"
    lines = [
        f'<text class="title" x="{LEFT}" y="24">{escape(program.name)}</text>',
        f'<text x="{LEFT}" y="42">{totals}</text>',
    ]
    x = float(LEFT)
    used = {box.kind for box in found}
    for kind, (name, _, _) in COLOURS.items():
        if kind in used:
            lines.append(f'<rect class="{kind}" x="{x:.0f}" y="55" width="11" height="11" rx="2"/>')
            lines.append(f'<text x="{x + 16:.0f}" y="65">{name}</text>')
            x += 40 + 6 * len(name)
    return lines


def _grid(program: Program, scale: _Scale) -> list[str]:
    lines = []
    for offset in _ticks(program.arena_bytes):
        y = scale.y(offset)
        lines.append(f'<path class="line" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        lines.append(
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{shown(offset)}</text>'
        )
    base = HEIGHT - BOTTOM
    lines.append(f'<path class="axis" d="M{LEFT} {TOP}V{base}H{WIDTH - RIGHT}"/>')
    every = next(n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500, 10**9) if scale.steps <= 24 * n)
    for step in range(0, scale.steps, every):
        x = scale.x(step + 0.5)
        lines.append(f'<text x="{x:.1f}" y="{base + 15}" text-anchor="middle">{step}</text>')
    edge = WIDTH - RIGHT
    lines.append(f'<text x="{edge}" y="{base + 32}" text-anchor="end">calls, in order</text>')
    return lines


def _ticks(size: int) -> list[int]:
    """About five round offsets, 0 included."""
    if size <= 0:
        return [0]
    step = 1
    while size / step > 6:
        step *= 2
    return list(range(0, size + 1, step))


def _box(program: Program, scale: _Scale, box: Box) -> str:
    left, right = scale.x(box.first), scale.x(box.last + 1)
    top, bottom = scale.y(box.offset + box.bytes), scale.y(box.offset)
    width, height = right - left, max(bottom - top, 0.4)
    shape = f"{box.dtype}[{', '.join(map(str, box.shape))}]"
    said = (
        f"{box.name}: {shape}, {shown(box.bytes)} at {box.offset:,}\n"
        f"calls {box.first}..{box.last}, made by {box.maker or 'nobody'}"
    )
    drawn = (
        f'<g data-buffer="{escape(box.name)}"><title>{escape(said)}</title>'
        f'<rect class="box {box.kind}" x="{left:.1f}" y="{top:.1f}"'
        f' width="{width:.1f}" height="{height:.1f}"/>'
    )
    room = int((width - 6) / LETTER)
    if height >= 11 and room >= 4:
        name = box.name if len(box.name) <= room else box.name[: room - 1] + "…"
        y = (top + bottom) / 2 + 3.5
        drawn += f'<text class="label" x="{left + 3:.1f}" y="{y:.1f}">{escape(name)}</text>'
    return drawn + "</g>"


def _marks(program: Program, scale: _Scale) -> list[str]:
    """Where backward begins, and which call holds most."""
    lines = []
    base = HEIGHT - BOTTOM
    if 0 < program.forward_steps < len(program.steps):
        x = scale.x(program.forward_steps)
        lines.append(f'<path class="pass" d="M{x:.1f} {TOP - 6}V{base}"/>')
        lines.append(f'<text x="{x - 5:.1f}" y="{TOP - 9}" text-anchor="end">forward</text>')
        lines.append(f'<text x="{x + 5:.1f}" y="{TOP - 9}">backward</text>')
    live = live_bytes(program)
    if any(live):
        step = live.index(max(live))
        x = scale.x(step + 0.5)
        lines.append(f'<path class="mark" d="M{x:.1f} {TOP}V{base + 4}"/>')
        lines.append(
            f'<text x="{x:.1f}" y="{base + 32}" text-anchor="middle">peak: call {step}</text>'
        )
    return lines
