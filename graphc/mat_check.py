"""The gradients of a MatConvNet net against finite differences: each layer alone, then the whole.

See `graphc.finite_difference`. Dropout has one mask for all calls.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from graphc.finite_difference import WHOLE_NET, Finding, Sampling, check_function
from graphc.frontends.matconvnet.array import four_axes
from graphc.frontends.matconvnet.loss_blocks import Loss
from graphc.frontends.matconvnet.losses import ERRORS
from graphc.frontends.matconvnet.network import PARAMETER, MatLayer, MatNet, build_graph
from graphc.graph_function import GraphFunction
from graphc.ir.types import TensorType
from graphc.mat_call import compile_piece
from graphc.mat_model import MatModel, dropout_masks
from graphc.random_inputs import InputKind, input_kinds, random_input

Array = np.ndarray
Arrays = dict[str, Array]
Progress = Callable[[int, int, str], None]


def check_model(
    model: MatModel,
    inputs: Mapping[str, Any],
    mode: str,
    sampling: Sampling,
    sizes: Mapping[str, Sequence[int]] | None = None,
    progress: Progress = lambda done, total, label: None,
) -> list[Finding]:
    """Check every layer on the values that it gets, then the whole net.

    Args:
        inputs: arrays H x W x C x N by name; the others are drawn.
        sizes: of inputs that are drawn, where the file does not say them.
    Raises NetError where a size is not known.
    """
    return _Check(model, mode, sampling).run(inputs, dict(sizes or {}), progress)


class _Check:
    def __init__(self, model: MatModel, mode: str, sampling: Sampling):
        self.model, self.mode, self.sampling = model, mode, sampling
        self.params = {n: np.asarray(a, np.float64).T for n, a in model.params.items()}
        self.masks: Arrays = {}
        self.learned = model.learned()

    def run(
        self, inputs: Mapping[str, Any], sizes: dict[str, Any], progress: Progress
    ) -> list[Finding]:
        given = {name: four_axes(array, f"'{name}'") for name, array in inputs.items()}
        sizes.update({name: array.shape for name, array in given.items()})
        types = {
            name: TensorType("float64", size[::-1])
            for name, size in self.model.input_sizes(sizes).items()
        }
        whole = self._built(self.model.layers, types)
        rng = np.random.default_rng([self.sampling.seed, 3])
        self.masks = dropout_masks(whole, "float64", rng)
        values = self._inputs(whole, given)
        values.update(self._variables(whole, values))
        findings = []
        total = len(whole.executed) + 1
        for position, layer in enumerate(whole.executed):
            progress(position, total, layer.name)
            findings += self._layer(layer, values)
        progress(total - 1, total, WHOLE_NET)
        ends = [name for name in self.model.outputs if name in whole.graph.blobs]
        counts = {
            layer.outputs[0]
            for layer in whole.executed
            if isinstance(layer.block, Loss) and layer.block.kind in ERRORS
        }
        moved = [name for name in self.model.inputs if name not in self.model.labels]
        results = [name for name in ends if name not in counts]
        findings += self._findings(WHOLE_NET, whole, moved, results, values)
        progress(total, total, "")
        return findings

    def _built(self, layers: Sequence[MatLayer], types: Mapping[str, TensorType]) -> MatNet:
        params = {n: TensorType("float64", a.shape) for n, a in self.params.items()}
        return build_graph("check", layers, types, params, self.mode, self.model.version)

    def _inputs(self, net: MatNet, given: Mapping[str, Array]) -> Arrays:
        rng = np.random.default_rng(self.sampling.seed)
        kinds = input_kinds(net.graph)
        values = {}
        for name in self.model.inputs:
            value = net.graph.values[name]
            if name in given:
                values[name] = given[name].T.astype(np.float64)
                continue
            kind = kinds.get(name, InputKind())
            values[name] = random_input(value, kind, rng) + (kind.classes is not None)
        self.model.check_labels({name: array.T for name, array in values.items()}, net.graph)
        return values

    def _variables(self, net: MatNet, values: Arrays) -> Arrays:
        """What every layer makes."""
        piece = self.model.piece(
            {name: array.shape[::-1] for name, array in values.items()},
            dtype="float64",
            mode=self.mode,
            values=[v for layer in net.executed for v in layer.outputs],
        )
        call = compile_piece(self.model.name, self.model.layers, piece)
        return call.forward({**values, **self.masks}, self.model.held("float64"))

    def _layer(self, layer: MatLayer, values: Arrays) -> list[Finding]:
        types = {name: TensorType("float64", values[name].shape) for name in layer.inputs}
        net = self._built([layer], types)
        moved = [n for i, n in enumerate(layer.inputs) if layer.block.differentiates(i)]
        return self._findings(layer.name, net, moved, list(layer.outputs), values)

    def _findings(
        self, label: str, net: MatNet, moved: list[str], results: list[str], values: Arrays
    ) -> list[Finding]:
        """The findings about variables and parameters; these have their own names again."""
        graph = net.graph
        own = {PARAMETER.format(n): n for n in self.learned if PARAMETER.format(n) in graph.values}
        wrt = [*dict.fromkeys(moved), *own]
        if not wrt or not results:
            return []
        for name in results:
            graph.outputs[name] = graph.blobs[name]
        held = {PARAMETER.format(name): array for name, array in self.params.items()}
        feed = {**values, **self.masks, **held}
        function = GraphFunction(graph, wrt, results, feed, self.sampling.seed, net.callbacks)
        found = check_function(function, label, wrt, self.sampling)
        return [_turned(finding, own) for finding in found]


def _turned(finding: Finding, names: Mapping[str, str]) -> Finding:
    """A finding with the axes and names that the user knows."""
    last = len(finding.shape) - 1
    words = re.sub(r"(?<=along axis )\d+", lambda m: str(last - int(m[0])), finding.words)
    return replace(
        finding,
        name=names.get(finding.name, finding.name),
        shape=finding.shape[::-1],
        worst=None if finding.worst is None else finding.worst[::-1],
        words=words.replace("its last two axes", "its first two axes"),
    )
