"""A Caffe net with the command's options."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from graphc import driver
from graphc.cli.axes import CAFFE
from graphc.cli.names import Known, need_known
from graphc.cli.options import Mode, NetOptions
from graphc.cli.session import (
    Results,
    definition_of,
    forward_signature,
    gradients_of,
    lowered,
    open_net,
)
from graphc.ir.graph import Graph
from graphc.lowered import Lowered, of_compilation
from graphc.net import Net

if TYPE_CHECKING:
    from graphc.artifact import Contents
    from graphc.bench.net import Call

Arrays = Mapping[str, np.ndarray]


class CaffeSession:
    """See `graphc.cli.session.Session`."""

    axes = CAFFE

    def __init__(
        self,
        options: NetOptions,
        sources: Mapping[str, str],
        target: str = "cpu",
        libraries: str = "auto",
    ):
        self.options, self.target, self.libraries = options, target, libraries
        self.sources = sources

    @cached_property
    def net(self) -> Net:
        """The net, its parameters filled or loaded; it has all that the options name."""
        return self._opened(self.options)

    def _opened(self, options: NetOptions) -> Net:
        if options.shape or options.keep:  # a Net refuses these by itself, and the first alone
            front = driver.front(definition_of(options), forward_signature(options))
            need_known(Known.of_caffe(front), options, self.sources)
        net = open_net(options, self.target, self.libraries)
        need_known(Known.of_caffe(net.front()), options, self.sources)
        return net

    @property
    def graph(self) -> Graph:
        """The forward graph."""
        return self.net.front().graph

    @property
    def inputs(self) -> list[str]:
        """Names of the net inputs."""
        return self.net.inputs

    @property
    def filled(self) -> list[str]:
        """Inputs that data layers fill."""
        return self.net.feeds.tops

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs."""
        return self.net.outputs

    def targets(self) -> tuple[list[str], list[str]]:
        """By --mode, --diff and --wrt, else by Caffe's rule."""
        return gradients_of(self.options, self.net.front())

    def forward(self, arrays: Arrays, kept: Sequence[str]) -> Results:
        """The forward pass."""
        infer = self.options.mode in (None, Mode.infer)
        made = self.net.prepare(wrt=()) if infer else self.net.prepare()
        started = time.perf_counter()
        self.net.set_inputs(arrays)
        results = self.net.forward(blobs=list(kept))
        return self._results(results, sum(made.seconds.values()), started)

    def gradients(self, arrays: Arrays, seeds: Arrays, wrt: Sequence[str]) -> Results:
        """Forward and backward."""
        made = self.net.prepare(wrt=list(wrt), given=list(seeds))
        started = time.perf_counter()
        found = self.net.forward_backward(arrays, seeds, wrt=list(wrt))
        return self._results(found, sum(made.seconds.values()), started)

    def _results(self, found: dict[str, np.ndarray], compiled: float, started: float) -> Results:
        seconds = {"compile": compiled, "run": time.perf_counter() - started}
        loss = self.net.loss if self.graph.losses else None
        outputs = {name: np.array(array) for name, array in self.net.results().items()}
        return Results(found, outputs, loss, seconds)

    def lowered(self, stages: bool = False) -> Lowered:
        """All passes and the plan."""
        return of_compilation(lowered(self.options, stages=stages))

    def contents(self) -> Contents:
        """The same for a file."""
        from graphc.artifact import Contents

        return Contents.of(lowered(self.options))

    def held(self) -> dict[str, np.ndarray]:
        """Parameters and states."""
        parameters = {b.name: b.data for blobs in self.net.params.values() for b in blobs}
        return {**parameters, **self.net.arrays.states}

    def bench_call(self) -> Call:
        """Its weights are random:1 where no others are named, so that no filler of zeros makes
        numbers that nobody computes with.
        """
        from graphc.bench.net import prepare

        options = self.options
        filled = replace(options, weights=options.weights or "random:1")
        net = self._opened(filled)
        mode = options.mode or Mode.infer
        given, wrt = gradients_of(replace(options, mode=mode), net.front())
        return prepare(net, wrt, given, options.seed)
