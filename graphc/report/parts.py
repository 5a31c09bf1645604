"""The parts of the report but the graph, each as HTML. Every word of the user's is escaped."""

from __future__ import annotations

from html import escape
from typing import Any

from graphc.plan.timeline import timeline_svg
from graphc.report.boxes import joined_name
from graphc.report.facts import Facts
from graphc.report.roofline import roofline
from graphc.report.tables import (
    Cell,
    link,
    number,
    shown_bytes,
    shown_flops,
    shown_seconds,
    table,
)

_MOST_FUSED = 12
_STATES = {"computed": "yes", "zero": "yes, zero", "none": "no"}


def overview(facts: Facts) -> str:
    """Totals, memory, what fused, the table of layers."""
    seen = facts.overview
    tiles = [
        ("Parameters", f"{seen['parameters']:,}", "numbers that are learned or loaded"),
        ("Forward", shown_flops(seen["forward_flops"]), _steps(seen["forward_steps"])),
    ]
    if seen["steps"] > seen["forward_steps"]:
        count = seen["steps"] - seen["forward_steps"]
        tiles.append(("Backward", shown_flops(seen["backward_flops"]), _steps(count)))
    tiles.append(("Memory", shown_bytes(seen["peak"]), "the arena that a call works in"))
    tiles.append(
        (
            "Kernels",
            str(seen["kernels"]),
            f"different ones for {seen['steps']} step{'s' * (seen['steps'] != 1)}",
        )
    )
    if seen["seconds"] is not None:
        tiles.append(("Time", shown_seconds(seen["seconds"]), "of one call, measured"))
    shown = "".join(
        f"<div><dt>{name}</dt><dd><b>{escape(value)}</b><span>{escape(text)}</span></dd></div>"
        for name, value, text in tiles
    )
    return f'<dl class="tiles">{shown}</dl>{_memory_bars(seen)}{_fused(facts)}{_layers(facts)}'


def _steps(count: int) -> str:
    return f"in {count} step{'s' * (count != 1)}"


def _memory_bars(seen: dict[str, Any]) -> str:
    bars = (
        ("without sharing", seen["naive"], "every buffer apart"),
        ("the plan", seen["peak"], "buffers share bytes when they are not needed together"),
        ("bound of this order", seen["bound_of_order"], "what is live at one step at most"),
        ("bound of any order", seen["bound_of_any_order"], "no order can do with less"),
    )
    most = max([size for _, size, _ in bars] + [1])
    rows = "".join(
        f"<tr><th scope='row'>{name}</th><td class='number'>{shown_bytes(size)}</td>"
        f"<td class='bar-cell'><span class='meter' style='width:{100 * size / most:.1f}%'></span>"
        f"</td><td>{text}</td></tr>"
        for name, size, text in bars
    )
    return f"<h3>Memory</h3><table class='bars'>{rows}</table>"


def _fused(facts: Facts) -> str:
    said = [r for r in facts.remarks if _is_fusion(r)]
    items = [f"<li>{escape(_subject(r))}: {escape(r['sentence'])}</li>" for r in said]
    for step in facts.overview["fused_steps"]:
        name = joined_name(step["layers"])
        way = "backward " if step["backward"] else ""
        position = step["step"]
        items.append(f"<li>{link(f'step-{position}', name)} run {way}as one step</li>")
    if not items:
        return "<h3>What fused</h3><p>Nothing: every layer is a step of its own.</p>"
    first, rest = "".join(items[:_MOST_FUSED]), "".join(items[_MOST_FUSED:])
    more = (
        f"<details><summary>{len(items) - _MOST_FUSED} more</summary><ul>{rest}</ul></details>"
        if rest
        else ""
    )
    return f"<h3>What fused</h3><ul>{first}</ul>{more}"


def _is_fusion(remark: dict[str, Any]) -> bool:
    words = remark["sentence"]
    return (remark["stage"] == "fuse" and " fused into " in words and "not fused" not in words) or (
        remark["stage"] == "join" and "is made in forward" in words
    )


def _layers(facts: Facts) -> str:
    first_box: dict[str, str] = {}
    for box in facts.boxes.boxes:
        for layer in box.layers:
            first_box.setdefault(layer, box.key)
    rows = []
    for row in facts.summary.rows:
        name = row.layer
        target = first_box.get(name)
        shapes = ", ".join(" x ".join(map(str, shape)) or "scalar" for shape in row.shapes)
        rows.append(
            (
                Cell(html=link(target, name)) if target else Cell(name),
                Cell(row.kind),
                Cell(shapes),
                number(row.parameters),
                number(row.flops, shown_flops(row.flops) if row.flops else ""),
                number(row.bytes, shown_bytes(row.bytes) if row.bytes else ""),
            )
        )
    head = ("Layer", "Type", "Shape", "Parameters", "Forward", "Memory")
    return "<h3>Layers</h3>" + table("layers", "Layers of the net", head, rows)


def passes(facts: Facts) -> str:
    """A button for each pass; the script fills in the text."""
    buttons, rows = [], []
    for position, made in enumerate(facts.passes.passes):
        buttons.append(
            f'<button type="button" aria-pressed="false" data-pass="{position}">'
            f"{escape(made.name)}</button>"
        )
        rows.append(
            (
                Cell(made.name),
                Cell(made.sentence),
                number(made.seconds, shown_seconds(made.seconds) if position else ""),
                number(made.nodes),
                number(made.added, f"+{made.added}" if position else ""),
                number(made.removed, f"-{made.removed}" if position else ""),
            )
        )
    head = ("Pass", "What it does", "Time", "Operators", "Lines in", "Lines out")
    return (
        "<p>The graph in text after each pass. A line that the pass put in begins with +, one that"
        " it took out with -.</p>"
        + table("pass-times", "The passes in order", head, rows, searched=False)
        + f'<div class="bar" role="group" aria-label="Pass">{"".join(buttons)}'
        '<label><input type="checkbox" id="changes"> only what changed</label></div>'
        '<div class="scroll tall" role="region" tabindex="0" aria-label="Text of the graph">'
        '<pre id="ir"></pre></div>'
    )


def memory(facts: Facts) -> str:
    """The arena over time, and the table of buffers."""
    program = facts.made.program
    rows, keys = [], []
    for row in facts.memory:
        keys.append(f"buffer/{row['name']}")
        rows.append(
            (
                Cell(row["name"]),
                Cell(row["type"]),
                number(row["bytes"]),
                number(row["offset"]),
                number(row["first"]),
                number(row["last"]),
                Cell(row["shares"]),
            )
        )
    head = ("Buffer", "Type", "Bytes", "Offset", "First step", "Last step", "Shares")
    return (
        "<p>Each box is a value: as high as it is large, from the step that makes it to the one"
        " that reads it last.</p>"
        f'<div class="scroll">{timeline_svg(program)}</div><p id="buffer" role="status">&nbsp;</p>'
        + table("buffers", "Buffers of the arena", head, rows, keys)
    )


def kernels(facts: Facts) -> str:
    """All steps with what they cost, and a place for a kernel's texts."""
    profiled = bool(facts.steps) and "seconds" in facts.steps[0]
    rows = []
    for step in facts.steps:
        name = step["layer"] or "net"
        row = [
            number(step["step"]),
            Cell(html=link(f"step-{step['step']}", joined_name(name.split(", ")))),
            Cell("backward" if step["backward"] else "forward"),
            Cell(html=link(f"kernel-{step['kernel']}", f"{step['kernel']} {step['kernel_name']}")),
            number(step["flops"], shown_flops(step["flops"]) if step["flops"] else ""),
            number(step["bytes"], shown_bytes(step["bytes"])),
        ]
        if profiled:
            row.append(number(step["seconds"], shown_seconds(step["seconds"])))
            row.append(number(step["roofline"], f"{100 * step['roofline']:.0f} %"))
        rows.append(row)
    head = ["Step", "Layer", "Pass", "Kernel", "Operations", "Bytes moved"]
    said = ""
    if profiled and facts.limits:
        head += ["Time", "Of roofline"]
        said = (
            f"<p>The machine does {facts.limits['fma'] / 1e9:.0f} GFLOP/s and moves"
            f" {facts.limits['copy'] / 1e9:.1f} GB/s. 100 % of the roofline is what these two"
            " allow; above it data came from a cache.</p>"
            f'<div class="scroll">{roofline(facts.steps, facts.limits)}</div>'
        )
    else:
        said = "<p>Times and the roofline need <code>graphc inspect --profile</code>.</p>"
    keys = [f"run-{step['step']}" for step in facts.steps]
    return (
        said
        + table("steps", "Steps of the program", head, rows, keys)
        + '<div id="kernel"><h3 tabindex="-1">Kernel</h3><p>Choose a kernel in the table.</p></div>'
    )


def gradients(facts: Facts) -> str:
    """Inputs and parameters."""
    rows = [
        (
            Cell(row["name"]),
            Cell(row["role"]),
            Cell(" x ".join(map(str, row["shape"])) or "scalar"),
            _factor(row["lr_mult"]),
            _factor(row["decay_mult"]),
            Cell(_STATES[row["state"]]),
            Cell(row["why"]),
        )
        for row in facts.gradients
    ]
    rate, decay = facts.made.rate_words
    head = ("Name", "Role", "Shape", rate, decay, "Gradient", "Why")
    return (
        f"<p>Who gets a gradient, and who does not. {rate} and {decay} are the net's own factors of"
        " the solver's learning rate and weight decay.</p>"
    ) + table("gradient-rows", "Gradients of inputs and parameters", head, rows)


def _factor(value: float | None) -> Cell:
    return Cell() if value is None else number(value, f"{value:g}")


def decisions(facts: Facts) -> str:
    """Every remark."""
    rows = [
        (
            Cell(_subject(r)),
            Cell(r["sentence"] + (f" (and {r['more']} more like this)" if r["more"] else "")),
            Cell(r["stage"]),
            number(r["line"], str(r["line"])) if r["line"] else Cell(),
        )
        for r in facts.remarks
    ]
    return (
        "<p>Why things are as they are, in the order in which they were decided."
        " <code>graphc explain NET NAME</code> prints those about one thing.</p>"
    ) + table(
        "remarks",
        "Decisions of the compiler",
        ("About", "Decision", "Stage", "Line of the file"),
        rows,
    )


def _subject(remark: dict[str, Any]) -> str:
    """`layer:conv1` is the layer conv1."""
    return str(remark["subject"]).replace(":", " ", 1)


def provenance(facts: Facts) -> str:
    """Versions, machine, options, files."""
    rows = []
    for name, value in facts.provenance.items():
        if name in ("options", "files"):
            continue
        rows.append((name, escape(str(value))))
    for name, value in facts.provenance["options"].items():
        rows.append((f"option {name}", escape(_words(value))))
    for file in facts.provenance["files"]:
        rows.append(
            (
                f"file {file['name']}",
                f"{file['bytes']:,} bytes, SHA-256 <code>{file['sha256']}</code>",
            )
        )
    body = "".join(f"<tr><th scope='row'>{escape(n)}</th><td>{v}</td></tr>" for n, v in rows)
    return f'<div class="scroll"><table class="plain">{body}</table></div>'


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
