"""The table of a net's layers that people expect: type, shape, parameters, operations, memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

from graphc.bench.work import work_of
from graphc.columns import columns
from graphc.ir.graph import Graph
from graphc.lowered import Layer, Lowered
from graphc.passes.pipeline import compile_graph
from graphc.plan.planner import plan

_HEAD = ("layer", "type", "shape", "parameters", "MFLOP", "KiB")


@dataclass(frozen=True)
class LayerRow:
    """One layer.

    Attributes:
        shapes: of its tops, in the user's order of axes.
        parameters: numbers it holds; one that it shares counts in the layer that made it.
        flops: operations of its forward pass, two for each product and addition of a contraction.
        bytes: of its tops; 0 where it works in place.
    """

    layer: str
    kind: str
    shapes: tuple[tuple[int, ...], ...]
    parameters: int
    flops: int
    bytes: int


@dataclass(frozen=True)
class Summary:
    """All layers.

    Attributes:
        peak: bytes of the arena, with sharing, for what was asked for.
        naive: bytes of all its buffers apart.
        backward: whether that includes gradients.
    """

    name: str
    rows: tuple[LayerRow, ...]
    peak: int
    naive: int
    backward: bool

    @property
    def parameters(self) -> int:
        """Numbers in all parameters."""
        return sum(row.parameters for row in self.rows)

    @property
    def flops(self) -> int:
        """Operations of a forward pass."""
        return sum(row.flops for row in self.rows)

    @property
    def bytes(self) -> int:
        """Bytes of all tops."""
        return sum(row.bytes for row in self.rows)

    def __str__(self) -> str:
        return summary_table(self)


def summarise(made: Lowered) -> Summary:
    """The table. It plans the forward pass once more, each layer apart, to count operations."""
    flops = _flops_by_layer(made.forward)
    seen: set[str] = set()
    rows = []
    for layer in made.layers:
        rows.append(_row(made, layer, flops.get(layer.name, 0), seen))
        seen.update(layer.parameters)
    program = made.program
    return Summary(
        made.graph.name,
        tuple(rows),
        program.memory.peak,
        program.memory.naive,
        program.forward_steps < len(program.steps),
    )


def _row(made: Lowered, layer: Layer, flops: int, seen: set[str]) -> LayerRow:
    graph = made.forward
    tops = [graph.blobs[top] for top in layer.tops if top in graph.blobs]
    own = [graph.values[name] for name in layer.parameters if name in graph.values]
    shapes = tuple(v.shape[::-1] if made.turned else v.shape for v in tops)
    apart = [graph.blobs[t] for t in layer.tops if t in graph.blobs and t not in layer.bottoms]
    return LayerRow(
        layer=layer.name,
        kind=layer.kind,
        shapes=shapes,
        parameters=sum(math.prod(v.shape) for v in own if v.name not in seen),
        flops=flops,
        bytes=sum(value.type.bytes for value in apart),
    )


def _flops_by_layer(forward: Graph) -> dict[str, int]:
    """Operations of every layer's forward pass, as one step follows the other unjoined."""
    graph, _ = forward.copy()
    for value, _weight in graph.losses:
        graph.outputs.setdefault(value.name, value)
    program = plan(compile_graph(graph, fuse=False).graph, join=False)
    found: dict[str, int] = {}
    for step in program.steps:
        found[step.layer] = found.get(step.layer, 0) + work_of(program, step).flops
    return found


def summary_table(summary: Summary) -> str:
    """Rows under a head, then the totals; ends without a line's end."""
    rows = [
        (
            row.layer,
            row.kind,
            ", ".join(" x ".join(map(str, shape)) or "scalar" for shape in row.shapes),
            f"{row.parameters:,}" if row.parameters else "",
            f"{row.flops / 1e6:,.2f}" if row.flops else "",
            f"{row.bytes / 1024:,.1f}" if row.bytes else "",
        )
        for row in summary.rows
    ]
    totals = (
        "total",
        "",
        "",
        f"{summary.parameters:,}",
        f"{summary.flops / 1e6:,.2f}",
        f"{summary.bytes / 1024:,.1f}",
    )
    shown = columns([_HEAD, *rows, totals], numbers=(3, 4, 5))
    rule = "-" * max(map(len, shown))
    what = "forward and backward" if summary.backward else "forward"
    return "\n".join(
        [
            f"{summary.name}: {len(summary.rows)} layers",
            shown[0],
            rule,
            *shown[1:-1],
            rule,
            shown[-1],
            f"memory of {what}: {summary.peak / 2**20:,.2f} MiB in one arena,"
            f" {summary.naive / 2**20:,.2f} MiB without sharing",
        ]
    )
