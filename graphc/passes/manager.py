"""Runs passes in order, verifies between them, and keeps what they made for those who ask."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphc.error import NetError
from graphc.ir.graph import Graph
from graphc.ir.verify import verify


@dataclass(frozen=True)
class Pass:
    """One rewrite of a Graph. `name` is what `show --after NAME` calls it."""

    name: str
    sentence: str
    rewrite: Callable[[Graph], Graph]


@dataclass(frozen=True)
class Stage:
    """What one pass did: how long it took, the nodes there are now, the graph if it was kept."""

    name: str
    seconds: float
    nodes: int
    graph: Graph | None
    sentence: str = ""


def run(
    graph: Graph, passes: Sequence[Pass], keep_stages: bool = False
) -> tuple[Graph, list[Stage]]:
    """Run `passes` one after the other; the graph that is given stays as it is.

    Returns the last graph, and a Stage for the start (named "start") and for every pass. Raises
    NetError naming the pass where the verifier refuses what it made.
    """
    verify(graph)
    kept = graph if keep_stages else None
    stages = [Stage("start", 0.0, len(graph.nodes), kept, "the net as the front end built it")]
    for step in passes:
        started = time.perf_counter()
        graph = step.rewrite(graph)
        seconds = time.perf_counter() - started
        try:
            verify(graph)
        except NetError as error:
            raise NetError(f"pass '{step.name}' made a wrong graph: {error}") from error
        kept = graph if keep_stages else None
        stages.append(Stage(step.name, seconds, len(graph.nodes), kept, step.sentence))
    return graph, stages
