"""A graph as something that finite differences can check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphc.finite_difference import Arrays
from graphc.graph_call import compile_graph_call
from graphc.ir.graph import Graph


class GraphFunction:
    """A float64 graph, compiled, as a `graphc.finite_difference.Function`.

    Args:
        graph: the forward pass; `moved` are inputs of it, `results` blobs.
        moved: what there are gradients for; nothing: there is no backward pass.
        results: what counts, each multiplied with random coefficients.
        callbacks: the user's Python code, by layer name, for a graph that calls it.
    """

    def __init__(
        self,
        graph: Graph,
        moved: Sequence[str],
        results: Sequence[str],
        values: Mapping[str, np.ndarray],
        seed: int = 0,
        callbacks: Mapping[str, Any] | None = None,
    ):
        given = results if moved else ()
        self.call = compile_graph_call(graph, moved, given, results, callbacks=callbacks)
        self.moved = tuple(moved)
        self.arrays: Mapping[str, np.ndarray] = self.call.arrays
        self.call.put(values)
        rng = np.random.default_rng([seed, 1])
        self.coefficients: Arrays = {
            name: rng.standard_normal(graph.blobs[name].shape) for name in results
        }

    def forward(self) -> Arrays:
        """The results for what the arrays hold."""
        self.call.executable.call("forward", self.call.threads)
        return {name: self.call.executable.read(name) for name in self.coefficients}

    def gradients(self, names: Sequence[str]) -> Arrays:
        """What the backward pass computes; zeros where nothing arrives, or is `moved`."""
        if not self.moved:
            return {name: np.zeros_like(self.arrays[name]) for name in names}
        self.call.put({f"{name}.diff": array for name, array in self.coefficients.items()})
        self.call.executable.call("both", self.call.threads)
        return {name: self.call.arrays[f"{name}.diff"].copy() for name in names}

    def why_none(self, name: str) -> str:
        """The backward pass's reason where the way to an array is cut on purpose."""
        for remark in self.call.graph.remarks:
            about = remark.subject in (name, f"blob:{name}")
            if remark.stage == "backward" and about and "is cut by" in remark.sentence:
                return remark.sentence
        return ""
