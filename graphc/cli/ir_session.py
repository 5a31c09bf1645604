"""A graph written as text, `net.ir`, with the command's options: it runs as it is written."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import typer

import graphc.ops  # noqa: F401  (enters all operators in the table)
from graphc.cli.axes import CAFFE
from graphc.cli.names import Known, given_names, need_known
from graphc.cli.options import Mode, NetOptions
from graphc.cli.session import Results, choices_of
from graphc.compilation_cache import Surface
from graphc.error import NetError, did_you_mean, need
from graphc.frontends.caffe.caffemodel import read_weights
from graphc.graph_call import Choices, GraphCall, compile_graph_call
from graphc.graph_lowering import lower_graph
from graphc.ir.graph import Graph
from graphc.ir.reader import parse_graph
from graphc.ir.verify import verify
from graphc.lowered import Layer, Lowered
from graphc.numpy_file import read_arrays
from graphc.passes.manager import Stage
from graphc.plan.planner import plan
from graphc.plan.program import Program
from graphc.runtime.cpu import usable_cores
from graphc.unreadable import unreadable

if TYPE_CHECKING:
    from graphc.artifact import Contents
    from graphc.bench.net import Call

Arrays = Mapping[str, np.ndarray]
_STORED = re.compile(r".+/\d+")  # LAYER/POSITION: what a file of weights calls its arrays


class IrSession:
    """See `graphc.cli.session.Session`. No pass runs unless a gradient is asked for."""

    axes = CAFFE

    def __init__(
        self,
        options: NetOptions,
        sources: Mapping[str, str],
        target: str = "cpu",
        libraries: str = "auto",
    ):
        self.options, self.target, self.libraries = options, target, libraries
        self.graph: Graph = _read(options)
        need_known(Known.of_graph(self.graph), options, sources)
        self.inputs = [v.name for v in self.graph.inputs("input", "gradient")]
        self.filled: list[str] = []
        self.outputs = list(self.graph.outputs)

    def targets(self) -> tuple[list[str], list[str]]:
        """What --diff and --wrt say, else from the losses; without --wrt there are none."""
        given, wrt = given_names(self.options), list(self.options.wrt or ())
        if self.options.mode is Mode.infer and (given or wrt):
            raise typer.BadParameter("--mode infer has no gradients; leave --diff and --wrt out")
        asked = self.options.mode in (Mode.grad, Mode.train)
        if not wrt and (asked or given):
            wrt = [v.name for v in self.graph.inputs("input") if v.type.is_real]
            if self.options.mode is Mode.train:
                wrt += [v.name for v in self.graph.inputs("parameter")]
        need(
            not wrt or given or self.graph.losses,
            "there is no gradient to start from: the graph has no loss; give one with"
            f" --diff BLOB=one-hot:K (the blobs are {', '.join(list(self.graph.blobs)[:5])})",
        )
        return given, wrt

    def forward(self, arrays: Arrays, kept: Sequence[str]) -> Results:
        """Everything that the text says."""
        started = time.perf_counter()
        program = self._planned(kept)
        executable = self._choices.loaded(program)
        call = GraphCall(executable, Surface.of(self.graph), lambda: (self.graph, program))
        return self._run(call, arrays, [*self.outputs, *kept], started)

    def gradients(self, arrays: Arrays, seeds: Arrays, wrt: Sequence[str]) -> Results:
        """The text as a forward pass, and its backward pass."""
        started = time.perf_counter()
        call = compile_graph_call(self.graph, wrt, list(seeds), choices=self._choices)
        given = {f"{name}.diff": array for name, array in seeds.items()}
        found = self._run(call, {**arrays, **given}, [f"{name}.diff" for name in wrt], started)
        plain = {name.removesuffix(".diff"): array for name, array in found.arrays.items()}
        return Results(plain, found.outputs, found.loss, found.seconds)

    def _run(
        self, call: GraphCall, arrays: Arrays, wanted: Sequence[str], started: float
    ) -> Results:
        compiled = time.perf_counter()
        call.threads = self.options.threads or usable_cores()
        call.put(_parameters(self.graph, self.options))
        for name, array in arrays.items():
            shape = self.graph.values[name].shape if name in self.graph.values else array.shape
            fits = array.shape == shape
            need(fits, f"'{name}' needs shape {list(shape)}, not {list(array.shape)}")
        outputs = call(arrays)
        found = {name: outputs[name] if name in outputs else call.get(name) for name in wanted}
        seconds = {"compile": compiled - started, "run": time.perf_counter() - compiled}
        shown = {name: outputs[name] for name in self.outputs}
        return Results(found, shown, self._loss(outputs), seconds)

    def _loss(self, outputs: Arrays) -> float | None:
        """The weighted sum of the losses, where the text makes them outputs."""
        names = {value: name for name, value in self.graph.outputs.items()}
        if not self.graph.losses or any(value not in names for value, _ in self.graph.losses):
            return None
        return sum(w * float(outputs[names[value]].sum()) for value, w in self.graph.losses)

    def _planned(self, keep: Sequence[str]) -> Program:
        """The plan of the text as it is written."""
        choices = self._choices
        return plan(
            self.graph,
            keep=set(keep),
            memory=choices.memory,
            algorithms=choices.algorithms,
            cores=choices.back_end.cores,
        )

    @property
    def _choices(self) -> Choices:
        return choices_of(self.options, self.target, self.libraries)

    def lowered(self, stages: bool = False) -> Lowered:
        """The plan of the graph as it is written; with its backward pass if one is asked for.

        Weights that are named must fit, though no plan depends on them.
        """
        if self.options.weights is not None:
            _parameters(self.graph, self.options)
        given, wrt = self.targets()
        keep = list(self.options.keep or ())
        held = {name: name for v in self.graph.inputs("parameter") if (name := v.name)}
        if wrt:
            choices = self._choices
            compiled, program = lower_graph(
                self.graph, wrt, given, keep, keep_stages=stages, choices=choices
            )
            graph, made = compiled.graph, compiled.stages
        else:
            graph = self.graph
            program = self._planned(keep)
            made = (Stage("start", 0.0, len(graph.nodes), graph, "the graph as it is written"),)
        layers = tuple(_layers(self.graph))
        return Lowered(self.graph, graph, program, made, layers, held)

    def contents(self) -> Contents:
        """Raises NetError: a file needs to know what a definition says of its inputs."""
        raise self._no("compile")

    def held(self) -> dict[str, np.ndarray]:
        """The parameters."""
        return _parameters(self.graph, self.options)

    def bench_call(self) -> Call:
        """Raises NetError."""
        raise self._no("bench and profile")

    def _no(self, verb: str) -> NetError:
        net = self.options.net
        return NetError(f"'{net}' is a graph's text; {verb} takes a definition or a .mat")


def _read(options: NetOptions) -> Graph:
    for option, is_given in {
        "--phase": options.phase is not None,
        "--shape": bool(options.shape),
        "--level": options.level != 0,
        "--stage": bool(options.stage),
        "--no-fuse": not options.fuse,
    }.items():
        need(not is_given, f"{option} is for definitions; '{options.net}' is a graph already")
    try:
        text = Path(options.net).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise unreadable(options.net, error) from None
    except UnicodeDecodeError:
        raise NetError(f"'{options.net}' is no text in UTF-8") from None
    graph = parse_graph(text, options.net)
    verify(graph)
    need(graph.nodes or graph.outputs, f"'{options.net}' holds no graph")
    calls = [node.origin.layer for node in graph.nodes if node.op.op_name.startswith("host_call")]
    need(not calls, f"layer '{calls[0] if calls else ''}' is Python code, which a text cannot hold")
    return graph


def _layers(graph: Graph) -> list[Layer]:
    """The layers that the text names, with the blobs that they make."""
    found = []
    for name in graph.layer_names():
        nodes = [n for n in graph.nodes if n.origin.layer == name and not n.origin.backward]
        made = {value for node in nodes for value in node.outputs}
        read = dict.fromkeys(value for node in nodes for value in node.inputs)
        found.append(
            Layer(
                name,
                nodes[0].origin.kind if nodes else "",
                tops=tuple(n for n, v in graph.blobs.items() if v in made and ":" not in n),
                parameters=tuple(v.name for v in read if v.role == "parameter"),
            )
        )
    return found


# -- parameters ------------------------------------------------------------------------------------


def _parameters(graph: Graph, options: NetOptions) -> dict[str, np.ndarray]:
    """Values of all parameters, from --weights: a .npz, a .caffemodel, or random:SEED.

    A state under a parameter's name, `bn/0`, is stored beside them: a statistic. Every other
    state (what a recurrent layer carries, a counter) starts at zero in every call.
    """
    statistics = [v for v in graph.inputs("state") if _STORED.fullmatch(v.name)]
    values = [*graph.inputs("parameter"), *statistics]
    source = options.weights
    if not values and source is None:
        return {}
    need(
        source,
        f"the graph has {len(values)} parameters and a text holds none of their values; add"
        " --weights FILE.npz, FILE.caffemodel or random:SEED",
    )
    assert source is not None
    match = re.fullmatch(r"random:(\d+)", source)
    if match:
        rng = np.random.default_rng(int(match[1]))
        return {v.name: _drawn(v.shape, rng) for v in values}
    shapes = {v.name: v.shape for v in values}
    if Path(source).suffix == ".npz":
        return _of_npz(source, shapes)
    return _of_caffemodel(source, shapes)


def _drawn(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Normal numbers that keep the size of what they are multiplied with.

    A vector may be a scale or a variance, which its name does not tell: numbers around 1 leave
    alive and finite whatever they scale or divide.
    """
    if len(shape) < 2:
        return rng.uniform(0.5, 1.5, shape)
    scale = np.sqrt(2.0 / max(1, int(np.prod(shape[1:]))))
    return np.asarray(rng.standard_normal(shape) * scale)


def _of_npz(path: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    found = read_arrays(path)
    for name, shape in shapes.items():
        hint = did_you_mean(name, found)
        need(name in found, f"'{path}' has no '{name}'" + (f"; {hint}" if hint else ""))
        have = list(found[name].shape)
        need(have == list(shape), f"'{path}': '{name}' has shape {have}, not {list(shape)}")
    return {name: found[name] for name in shapes}


def _of_caffemodel(path: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    stored = read_weights(Path(path))
    layers: dict[str, list[str]] = {}
    for name in shapes:
        layers.setdefault(name.rpartition("/")[0], []).append(name)
    made: dict[str, np.ndarray] = {}
    for layer, names in layers.items():
        names.sort(key=lambda name: int(name.rpartition("/")[2] or 0))
        arrays = stored.fitted(layer, [shapes[name] for name in names])
        made.update(zip(names, arrays, strict=True))
    return made
