"""The report as one HTML file that asks nothing of the network.

Without scripts every table and picture is there, one part below the other. The script makes tabs
of the parts, follows links between them, sorts, and unpacks the texts of kernels and passes when
somebody wants to see them.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

from graphc.report import graph_picture
from graphc.report.facts import Facts, operators_of
from graphc.report.kernel_texts import LANGUAGES, TITLES
from graphc.report.packing import packed, packed_kernels
from graphc.report.parts import (
    decisions,
    gradients,
    kernels,
    memory,
    overview,
    passes,
    provenance,
)

_HERE = Path(__file__).parent
MOST = 2_900_000  # characters of a whole file, which a mail still takes
# Before anything is shown: with scripts, parts that are not open take no time to lay out.
_FIRST = 'document.documentElement.className = "js"'
_LEGEND = (
    ("forward", "forward"),
    ("backward", "gradient"),
    ("fused", "several layers, or a loss and its gradient, in one step"),
    ("view", "a view: nothing is computed"),
    ("input", "given at each call"),
)


def page(facts: Facts) -> str:
    """The whole file."""
    style = (_HERE / "page.css").read_text() + graph_picture.STYLE
    script = (_HERE / "page.js").read_text()
    parts: list[tuple[str, str, Callable[[Facts], str]]] = [
        ("overview", "Overview", overview),
        ("graph", "Graph", _graph),
        ("passes", "Passes", passes),
        ("memory", "Memory", memory),
        ("kernels", "Kernels", kernels),
        ("gradients", "Gradients", gradients),
        ("decisions", "Decisions", decisions),
        ("provenance", "Provenance", provenance),
    ]
    tabs = "".join(
        f'<button type="button" role="tab" id="tab-{key}" aria-controls="{key}">{title}</button>'
        for key, title, _ in parts
    )
    panels = "".join(
        f'<section id="{key}" role="tabpanel" aria-labelledby="tab-{key}">'
        f"<h2>{title}</h2>{make(facts)}</section>"
        for key, title, make in parts
    )
    name = escape(facts.name)
    data = _data(facts)
    plain = sum(map(len, (style, script, panels, data)))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(_FIRST, script)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name} - graphc report</title>\n<script>{_FIRST}</script>\n"
        f"<style>{style}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#part/overview">Skip to the report</a>\n'
        f"<header><h1>{name}</h1><p>{escape(_subtitle(facts))}</p>"
        '<button type="button" id="theme" aria-pressed="false">Dark</button></header>\n'
        f'<nav aria-label="Report"><div role="tablist" aria-label="Parts">{tabs}</div></nav>\n'
        f"<main>{panels}</main>\n"
        "<noscript><p>Scripts are off: links between the parts, and the texts of passes and"
        " kernels, need them.</p></noscript>\n"
        f"{data}\n{_code(facts, MOST - plain)}\n<script>{script}</script>\n</body>\n</html>\n"
    )


def _policy(*scripts: str) -> str:
    """Only our own scripts run, nothing is loaded from anywhere."""
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src {allowed}"


def _subtitle(facts: Facts) -> str:
    seen = facts.overview
    way = "forward and backward" if seen["steps"] > seen["forward_steps"] else "forward"
    return f"{way}, phase {seen['phase']}, compiled by graphc {facts.provenance['graphc']}"


def _graph(facts: Facts) -> str:
    legend = "".join(f'<li><i class="key {k}"></i>{escape(text)}</li>' for k, text in _LEGEND)
    picture = graph_picture.picture_of(facts.boxes, f"The graph of {facts.name}")
    return (
        "<p>One box for each step of the program; a layer of many steps, as one that is unrolled"
        " over time, is one box. Forward flows down on the left; gradients flow up on the right,"
        " beside their layers. Arrow keys move between boxes, Enter shows what one is made of.</p>"
        f'<div class="bar"><ul class="legend">{legend}</ul><span class="zoom">'
        '<button type="button" data-zoom="0.8" aria-label="Smaller">-</button>'
        '<button type="button" data-zoom="1.25" aria-label="Larger">+</button>'
        '<button type="button" data-zoom="fit">Fit width</button></span></div>'
        '<div class="split"><div class="canvas" role="region" aria-label="Picture of the graph">'
        f'{picture}</div><aside id="box" aria-live="polite" aria-label="The chosen box">'
        "<p>Choose a box to see its operators, kernel, buffers and the decisions about it.</p>"
        "</aside></div>"
    )


def _data(facts: Facts) -> str:
    """What the script reads; `<` is written so that no name can end the element.

    What a table shows is read from there: the decisions of a deep net are long.
    """
    plain = json.dumps(_facts_for_script(facts), separators=(",", ":"), ensure_ascii=False)
    plain = plain.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    lines = {
        "table": facts.passes.table,
        "passes": [[p.name, p.lines] for p in facts.passes.passes],
    }
    return (
        f'<script type="application/json" id="facts">{plain}</script>\n'
        f'<script type="text/plain" id="lines">{packed(lines)}</script>'
    )


def _code(facts: Facts, budget: int) -> str:
    """The kernels' texts; the longest are cut where all would take more characters."""
    return "\n".join(
        f'<script type="text/plain" id="code-{key}">{text}</script>'
        for key, text in packed_kernels(facts.kernels, budget).items()
    )


def _facts_for_script(facts: Facts) -> dict[str, Any]:
    graph = facts.made.graph
    return {
        "boxes": {
            box.key: {
                "title": box.title,
                "subtitle": box.subtitle,
                "shape": box.shape,
                "layers": box.layers,
                "operators": operators_of(facts, box.nodes),
                "values": [
                    [value.name for value in graph.nodes[place].outputs] for place in box.nodes
                ],
                "steps": box.steps,
            }
            for box in facts.boxes.boxes
        },
        "steps": facts.steps,
        "buffers": [row["name"] for row in facts.memory],
        "kernels": {
            kernel.name: {"name": kernel.kernel, "steps": kernel.steps} for kernel in facts.kernels
        },
        "languages": [[language, TITLES[language]] for language in LANGUAGES],
    }
