"""A MatConvNet net, from a .mat file, with the command's options."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import typer

from graphc.cli.axes import MATLAB
from graphc.cli.names import Known, given_names, need_known
from graphc.cli.options import InfogainInput, Mode, NetOptions
from graphc.cli.session import (
    Results,
    choices_of,
    phase_of,
    shapes_of,
)
from graphc.error import need
from graphc.frontends.matconvnet.array import four_axes
from graphc.frontends.matconvnet.network import PARAMETER, MatNet
from graphc.graph_call import compile_graph_call
from graphc.ir.graph import Graph
from graphc.lowered import Lowered
from graphc.mat_call import Piece, PieceCall, compile_piece, piece_graph
from graphc.mat_model import MatModel, Size, dropout_masks
from graphc.numpy_file import array_shape
from graphc.phase import TRAIN
from graphc.random_inputs import input_kinds, random_input
from graphc.runtime.cpu import usable_cores

if TYPE_CHECKING:
    from graphc.artifact import Contents
    from graphc.bench.net import Call
    from graphc.passes.pipeline import Compiled
    from graphc.plan.program import Program

Arrays = Mapping[str, np.ndarray]


class MatSession:
    """See `graphc.cli.session.Session`.

    The size of an input is that of --shape, of a .npy given with --input, or what the file says.
    """

    axes = MATLAB

    def __init__(
        self,
        options: NetOptions,
        sources: Mapping[str, str],
        target: str = "cpu",
        libraries: str = "auto",
    ):
        _need_no_caffe_options(options)
        self.options, self.target, self.libraries = options, target, libraries
        self.model = MatModel.load(options.net)
        need_known(Known.of_model(self.model), options, sources)
        self.mode = "normal" if phase_of(options) == TRAIN else "test"
        self.inputs = self.model.inputs
        self.outputs = self.model.outputs
        self.filled: list[str] = []
        given: dict[str, Size] = {n: array_shape(s) for n, s in sources.items() if _is_npy(s)}
        self.sizes = self.model.input_sizes({**given, **shapes_of(options)})

    @cached_property
    def graph(self) -> Graph:
        """The forward graph, whose axes are MATLAB's from the other end."""
        return piece_graph(self.model.name, self.model.layers, self._piece())[0].graph

    def _piece(
        self, given: Sequence[str] = (), values: Sequence[str] = (), wrt: Sequence[str] = ()
    ) -> Piece:
        return self.model.piece(
            self.sizes,
            dtype=self.options.dtype.value,
            mode=self.mode,
            given=given,
            values=values,
            wrt=wrt,
        )

    def targets(self) -> tuple[list[str], list[str]]:
        """By --mode, --diff and --wrt; else from the losses, to the inputs that are no labels.

        --mode train adds all parameters.
        """
        options, model = self.options, self.model
        given, wrt = given_names(options), list(options.wrt or ())
        if options.mode is Mode.infer:
            if given or wrt:
                raise typer.BadParameter(
                    "--mode infer has no gradients; leave --diff and --wrt out"
                )
            return [], []
        asked = bool(options.mode or given or wrt)
        given = given or model.losses
        if not given:
            outputs = ", ".join(self.outputs[:3])
            need(
                not asked,
                "there is no gradient to start from: the net has no loss; give one with"
                f" --diff NAME=one-hot:K (the outputs are {outputs})",
            )
            return [], []
        if not wrt:
            wrt = [name for name in self.inputs if name not in model.labels]
            if options.mode is Mode.train:
                wrt += model.learned()
        return given, wrt

    def forward(self, arrays: Arrays, kept: Sequence[str]) -> Results:
        """The forward pass."""
        wanted = list(dict.fromkeys([*self.outputs, *kept]))
        started = time.perf_counter()
        call = self._compiled(self._piece((), wanted))
        compiled = time.perf_counter()
        values = self._run(call, arrays)
        return self._results(values, values, started, compiled)

    def gradients(self, arrays: Arrays, seeds: Arrays, wrt: Sequence[str]) -> Results:
        """Forward and backward."""
        started = time.perf_counter()
        piece = self._piece(list(seeds), self.outputs, wrt)
        call = self._compiled(piece)
        compiled = time.perf_counter()
        values = self._run(call, arrays)
        given = {name: self._array(name, array) for name, array in seeds.items()}
        variables, params = call.backward(given)
        found = {**variables, **params}
        return self._results({n: found[n] for n in wrt}, values, started, compiled)

    def _compiled(self, piece: Piece) -> PieceCall:
        choices = choices_of(self.options, self.target, self.libraries)
        return compile_piece(self.model.name, self.model.layers, piece, choices)

    def _run(self, call: PieceCall, arrays: Arrays) -> dict[str, np.ndarray]:
        call.call.threads = self.options.threads or usable_cores()
        feed = {name: self._array(name, array) for name, array in arrays.items()}
        self.model.check_labels(arrays, call.net.graph)
        rng = np.random.default_rng(self.options.seed)
        feed |= dropout_masks(call.net, self.options.dtype.value, rng)
        return call.forward(feed, self.model.held(self.options.dtype.value))

    def _array(self, name: str, array: np.ndarray) -> np.ndarray:
        """The user's array as the program reads it."""
        wanted = self.graph.blobs[name].shape
        turned = four_axes(array, f"'{name}'").T
        need(
            turned.shape == wanted,
            f"'{name}' needs an array of {_shown(wanted[::-1])}, not {_shown(np.shape(array))}",
        )
        return turned.astype(self.options.dtype.value)

    def _results(self, found: Arrays, values: Arrays, started: float, compiled: float) -> Results:
        seconds = {"compile": compiled - started, "run": time.perf_counter() - compiled}
        outputs = {name: values[name].T for name in self.outputs}
        return Results({name: a.T for name, a in found.items()}, outputs, None, seconds)

    def lowered(self, stages: bool = False) -> Lowered:
        """All passes and the plan. Where no --diff says otherwise, gradients start as in a file."""
        given, wrt = self.targets()
        built = self._built(given, wrt)
        losses = self._start_from_losses(built, given)
        made, program = built.lowered([] if losses else given, self.options, stages)
        return self.model.seen(built.net.graph, made, program, phase_of(self.options))

    def contents(self) -> Contents:
        """The same for a file. Parameters keep their names where no variable has the same one.

        Where no --diff says otherwise, gradients start from the losses, with 1.
        """
        from graphc.artifact import Contents

        given, wrt = self.targets()
        built = self._built(given, wrt)
        losses = self._start_from_losses(built, given)
        graph = built.net.graph
        made, program = built.lowered([] if losses else given, self.options)
        names = self._names()
        return Contents(
            program,
            made.graph.constants,
            tuple(graph.outputs),
            tuple(names.get(name, name) for name in built.wrt),
            tuple((name, 1.0) for name in losses),
            column_major=True,
            names=names,
        )

    def _start_from_losses(self, built: _Built, given: Sequence[str]) -> tuple[str, ...]:
        """Without --diff the derivative of each is 1, as a part of the graph; which these are."""
        losses = () if self.options.diff else tuple(given)
        graph = built.net.graph
        graph.losses += [(graph.blobs[name], 1.0) for name in losses]
        return losses

    def held(self) -> dict[str, np.ndarray]:
        """The parameters."""
        names = self._names()
        arrays = self.model.held(self.options.dtype.value)
        return {names[PARAMETER.format(name)]: array for name, array in arrays.items()}

    def bench_call(self) -> Call:
        """The weights are those of the file."""
        from graphc.bench.net import Call

        given, wrt = ([], []) if self.options.mode in (None, Mode.infer) else self.targets()
        built = self._built(given, wrt)
        graph = built.net.graph
        choices = choices_of(self.options, self.target, self.libraries)
        callbacks = built.net.callbacks
        call = compile_graph_call(graph, built.wrt, given, built.keep, callbacks, choices, given)
        rng = np.random.default_rng(self.options.seed)
        inputs = self._random_inputs(built.net, rng)
        seeds = {name: np.ones(graph.blobs[name].shape) for name in given}
        held = self.model.held(self.options.dtype.value)
        call.put({PARAMETER.format(name): array for name, array in held.items()})
        call.put({**inputs, **{f"{name}.diff": array for name, array in seeds.items()}})
        threads = self.options.threads or usable_cores()
        wanted = tuple(built.wrt)
        sizes = {name: self.sizes[name] for name in self.inputs}
        made = Call(
            self.model.name,
            threads,
            graph,
            call.program,
            call.executable,
            sizes,
            wanted,
            seeds,
            self.target,
            "tf32" in choices.fast_math,
        )
        made.run()
        return made

    def _random_inputs(self, net: MatNet, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Arrays for all inputs of the graph; classes count from 1."""
        kinds = input_kinds(net.graph)
        arrays = {}
        for value in net.graph.inputs("input"):
            kind = kinds[value.name]
            arrays[value.name] = random_input(value, kind, rng) + (kind.classes is not None)
        return arrays | dropout_masks(net, self.options.dtype.value, rng)

    def _names(self) -> dict[str, str]:
        """Parameters as graphs call them -> as files do."""
        full = {PARAMETER.format(name): name for name in self.model.params}
        taken = self.model.variables
        return {key: key if name in taken else name for key, name in full.items()}

    def _built(self, given: Sequence[str], wrt: Sequence[str]) -> _Built:
        """The net's graph with what --keep asks for."""
        kept = list(self.options.keep or ())
        values = [*self.outputs, *(name.removesuffix(".diff") for name in kept)]
        piece = self._piece(given, values, wrt)
        net, targets, keep = piece_graph(self.model.name, self.model.layers, piece)
        inner = [name for name in piece.derivatives if name not in targets]
        keep += [name for name in kept if name.endswith(".diff")]
        return _Built(net, [*targets, *inner], keep)


@dataclass
class _Built:
    """A net's graph, what its gradients are wanted of, and what stays readable."""

    net: MatNet
    wrt: list[str]
    keep: list[str]

    def lowered(
        self, given: Sequence[str], options: NetOptions, stages: bool = False
    ) -> tuple[Compiled, Program]:
        """All passes and the plan."""
        from graphc.graph_lowering import lower_graph

        callbacks = bool(self.net.callbacks)
        return lower_graph(
            self.net.graph, self.wrt, given, self.keep, callbacks, stages, choices_of(options)
        )


def _need_no_caffe_options(options: NetOptions) -> None:
    """Raise NetError where an option asks for something that only Caffe's nets have."""
    for option, is_given in {
        "--weights": options.weights is not None,
        "--level": options.level != 0,
        "--stage": bool(options.stage),
        "--infogain-input": options.infogain_input is not InfogainInput.scores,
        "--no-fuse": not options.fuse,
    }.items():
        need(not is_given, f"{option} is for Caffe's nets; '{options.net}' is a MatConvNet net")


def _is_npy(source: str) -> bool:
    return Path(source).suffix == ".npy"


def _shown(size: Sequence[int]) -> str:
    return " x ".join(map(str, size)) or "1"
