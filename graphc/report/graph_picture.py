"""A graph as SVG: each box a link that says what it is, for keyboards and screen readers too."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from graphc.ir.graph import Graph
from graphc.report.boxes import Box, Boxes, boxes_of_layers
from graphc.report.graph_layout import HEIGHT, WIDTH, Picture, Point, arrange

_CHARACTERS = 27  # that fit in a box's line

STYLE = """
.net { font: 11px system-ui, sans-serif; --edge: light-dark(#3b6ea8, #78aee6);
  --back: light-dark(#b3631a, #e0a060); --grey: light-dark(#8a94a3, #7c8796); }
.net text { fill: light-dark(#1d2430, #e6e9ee); stroke: none; }
.net .soft { fill: light-dark(#566070, #a7b1bf); }
.net .title { font-weight: 600; }
.net rect { fill: light-dark(#dcebfb, #1d3450); stroke: var(--edge); }
.net .backward rect { fill: light-dark(#fde6cf, #4a3016); stroke: var(--back); }
.net .input rect { fill: light-dark(#e9ecf0, #2a303a); stroke: var(--grey); }
.net .view rect { fill: none; stroke-dasharray: 4 3; }
.net .fused rect { stroke: light-dark(#6b3fa0, #c09af0); stroke-width: 2.5; }
.net .fused .inner { fill: none; stroke-width: 1; }
.net path { fill: none; stroke: var(--grey); stroke-width: 1.2; }
.net path.across { stroke-opacity: 0.35; }
"""


def picture_of(boxes: Boxes, title: str, links: bool = True) -> str:
    """The SVG element. With `links` every box is an anchor, `#` and its key.

    Without, the picture carries its colours with it, to stand alone in a notebook.
    """
    made = arrange(boxes)
    backward = {box.key for box in boxes.boxes if box.backward}
    parts = [
        f'<svg class="net" xmlns="http://www.w3.org/2000/svg" width="{made.width:.0f}"'
        f' height="{made.height:.0f}" viewBox="0 0 {made.width:.0f} {made.height:.0f}"'
        f' role="group" aria-label="{escape(title)}">'
    ]
    if not links:
        parts.append(f"<style>{STYLE}</style>")
    parts.append(
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6"'
        ' markerHeight="6" orient="auto-start-reverse"><path d="M0 0L8 4L0 8z"'
        ' style="fill:var(--grey);stroke:none"/></marker></defs>'
    )
    parts += [
        _edge(edge, points, (edge[0] in backward) != (edge[1] in backward))
        for edge, points in made.routes.items()
    ]
    parts += [_box(box, made, links) for box in boxes.boxes]
    parts.append("</svg>")
    return "".join(parts)


def layers_picture(graph: Graph) -> str:
    """A box for each layer of a graph, as a picture that stands alone."""
    return picture_of(boxes_of_layers(graph), f"The layers of {graph.name}", links=False)


def _edge(edge: tuple[str, str], points: Sequence[Point], across: bool) -> str:
    """A smooth line; those between the two ways are faint, there are so many."""
    (x, y), *rest = points
    text = f"M{x:.0f} {y:.0f}"
    for nx, ny in rest:
        if ny == y:
            text += f"L{nx:.0f} {ny:.0f}"
        else:
            middle = (y + ny) / 2
            text += f"C{x:.0f} {middle:.0f} {nx:.0f} {middle:.0f} {nx:.0f} {ny:.0f}"
        x, y = nx, ny
    kind = ' class="across"' if across else ""
    ends = f'data-from="{edge[0]}" data-to="{edge[1]}"'
    return f'<path{kind} {ends} d="{text}" marker-end="url(#tip)"/>'


def _box(box: Box, made: Picture, links: bool) -> str:
    place = made.places[box.key]
    ways = "backward" if box.backward else "forward"
    kinds = {"input": box.is_input, "view": box.is_view, "fused": box.is_fused}
    words = " ".join([ways, *(kind for kind, is_it in kinds.items() if is_it)])
    spoken = f"{box.title}, {box.subtitle}, {box.shape}, {words}"
    inside = f"<title>{escape(spoken)}</title>"
    inside += f'<rect width="{WIDTH:.0f}" height="{HEIGHT:.0f}" rx="{0 if box.backward else 7}"/>'
    if box.is_fused:
        inside += (
            f'<rect class="inner" x="3.5" y="3.5" width="{WIDTH - 7:.0f}"'
            f' height="{HEIGHT - 7:.0f}" rx="{0 if box.backward else 5}"/>'
        )
    lines = ((18, "title", box.title), (32, "soft", box.subtitle), (46, "soft", box.shape))
    for y, kind, text in lines:
        inside += f'<text class="{kind}" x="10" y="{y}">{escape(_short(text))}</text>'
    at = f'transform="translate({place.x:.0f} {place.y:.0f})"'
    if not links:
        return f'<g class="{words}" {at}>{inside}</g>'
    return (
        f'<a class="{words}" {at} href="#{box.key}" data-box="{box.key}"'
        f' aria-label="{escape(spoken)}">{inside}</a>'
    )


def _short(text: str) -> str:
    return text if len(text) <= _CHARACTERS else text[: _CHARACTERS - 1] + "…"
