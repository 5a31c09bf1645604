"""Where each step stands under the machine's roofline (Williams, Waterman and Patterson, 2009)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 700.0, 300.0, 70.0, 40.0


def roofline(steps: Sequence[Mapping[str, Any]], limits: Mapping[str, float]) -> str:
    """The SVG element: operations a byte against operations a second, both axes logarithmic."""
    points = [
        (step["flops"] / step["bytes"], step["flops"] / step["seconds"], step)
        for step in steps
        if step.get("seconds") and step["flops"] and step["bytes"]
    ]
    ridge = limits["fma"] / limits["copy"]
    low_x = min([ridge / 100, *(x for x, _, _ in points)])
    high_x = max([ridge * 10, *(x for x, _, _ in points)])
    low_y = min([limits["fma"] / 1e4, *(y for _, y, _ in points)])
    high_y = 2 * max([limits["fma"], *(y for _, y, _ in points)])

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log(x) - math.log(low_x)) / (math.log(high_x) - math.log(low_x))
        up = (math.log(y) - math.log(low_y)) / (math.log(high_y) - math.log(low_y))
        return _LEFT + across * _WIDTH, 10 + (1 - up) * _HEIGHT

    roof = [(low_x, low_x * limits["copy"]), (ridge, limits["fma"]), (high_x, limits["fma"])]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in roof))
    height = _HEIGHT + _BOTTOM + 10
    parts = [
        f'<svg class="roofline" xmlns="http://www.w3.org/2000/svg" role="img"'
        f' viewBox="0 0 {_LEFT + _WIDTH + 10:.0f} {height:.0f}"'
        ' aria-label="Roofline: every step by operations a byte and operations a second; the'
        ' table below says the same">',
        f'<polyline points="{line}"/>',
        f'<text x="{_LEFT}" y="{height - 8:.0f}">operations a byte, {low_x:.2g} to {high_x:.2g}'
        "</text>",
        f'<text x="4" y="24">{high_y / 1e9:.3g}</text><text x="4" y="40">GFLOP/s</text>',
        f'<text x="4" y="{_HEIGHT + 10:.0f}">{low_y / 1e9:.2g}</text>',
    ]
    for x, y, step in points:
        across, down = place(x, y)
        kind = "backward" if step["backward"] else "forward"
        said = (
            f"step {step['step']}, {step['layer'] or 'net'}: {y / 1e9:.1f} GFLOP/s,"
            f" {x:.2g} operations a byte, {100 * step['roofline']:.0f} % of the roofline"
        )
        parts.append(
            f'<circle class="{kind}" cx="{across:.1f}" cy="{down:.1f}" r="4.5">'
            f"<title>{escape(said)}</title></circle>"
        )
    return "".join([*parts, "</svg>"])
