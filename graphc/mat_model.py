"""A MatConvNet net of either kind, read from a .mat file: layers, parameters, sizes.

SimpleNN's chains and DagNN's graphs are both layers that share variables, so what works on files
need not tell them apart. In a chain x1 is the input, x2 what layer 1 makes, and so on; class3 are
the classes of layer 3; l1_1 and l1_2 the weights of layer 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from graphc.dagnn import DagNet
from graphc.error import NetError, did_you_mean, need
from graphc.frontends.matconvnet import losses
from graphc.frontends.matconvnet.array import dropout_mask, four_axes, is_missing
from graphc.frontends.matconvnet.block import Block
from graphc.frontends.matconvnet.blocks import BatchNorm, DropOut
from graphc.frontends.matconvnet.custom import PythonBlock
from graphc.frontends.matconvnet.dagnn import holds_dagnn, net_struct
from graphc.frontends.matconvnet.loss_blocks import L2Loss, Loss
from graphc.frontends.matconvnet.mat_file import listed, plain, read_mat
from graphc.frontends.matconvnet.network import PARAMETER, MatLayer, MatNet, execution_order
from graphc.frontends.matconvnet.simplenn import chain, layer_structs, weight_numbers
from graphc.ir.graph import Graph
from graphc.lowered import Layer, Learning, Lowered
from graphc.mat_call import Piece, piece_graph
from graphc.phase import TEST, Phase
from graphc.runtime.cpu import aligned_zeros
from graphc.simple_net import SimpleNet
from graphc.simple_run import Result

if TYPE_CHECKING:
    from graphc.passes.pipeline import Compiled
    from graphc.plan.program import Program
    from graphc.summary import Summary

Array = np.ndarray
Size = tuple[int, ...]

_COMPARED = "it is no more than what scores are compared with, or a weight"


@dataclass
class MatModel:
    """A net as its file says it.

    Attributes:
        layers: in the order of execution.
        params: parameters by name, H x W x C x N.
        sizes: of inputs H x W x C x N, where the file tells them.
    """

    name: str
    kind: Literal["SimpleNN", "DagNN"]
    layers: list[MatLayer]
    params: dict[str, Array] = field(default_factory=dict)
    learning: dict[str, Learning] = field(default_factory=dict)
    sizes: dict[str, Size] = field(default_factory=dict)
    version: str = "beta25"

    @classmethod
    def load(cls, path: str | Path, version: str = "beta25") -> MatModel:
        """Read a file of either kind. Raises NetError where it holds neither."""
        found = read_mat(path)
        name = Path(path).stem
        if holds_dagnn(found):
            return cls.of_dagnn(DagNet.from_struct(net_struct(found, path), version), name)
        layers, meta = layer_structs(found, path)
        return cls.of_simplenn(SimpleNet(layers, meta, version), name)

    @classmethod
    def of_dagnn(cls, net: DagNet, name: str = "net") -> MatModel:
        """A net of the Python face; parameters without a value are left out."""
        layers = list(net.layers.values())
        ordered = [layers[i] for i in execution_order(layers)]
        params = {n: p.held.T for n, p in net.params.items() if p.held is not None}
        learning = {
            n: Learning(p.learning_rate, p.weight_decay, p.train_method == "gradient")
            for n, p in net.params.items()
        }
        made = cls(name, "DagNN", ordered, params, learning, version=net.version)
        made.sizes = _sizes(net.meta, made.inputs)
        return made

    @classmethod
    def of_simplenn(
        cls,
        net: SimpleNet,
        name: str = "net",
        custom: Callable[[dict[str, Any]], Block] | None = None,
    ) -> MatModel:
        """A chain. Custom layers cannot be in it, unless `custom` makes a block of one."""
        params = {
            f"l{i}_{j}": four_axes(weight, f"weight {j} of layer '{layer['name']}'")
            for i, layer in enumerate(net.layers, 1)
            for j, weight in weight_numbers(layer)
        }
        learning = {
            f"l{i}_{j}": Learning(_rate(layer, "learningRate", j), _rate(layer, "weightDecay", j))
            for i, layer in enumerate(net.layers, 1)
            for j, _ in weight_numbers(layer)
        }
        chained = chain(net.layers, custom)
        made = cls(name, "SimpleNN", chained, params, learning, version=net.version)
        made.sizes = _sizes(net.meta, ["x1"])
        return made

    @classmethod
    def with_classes(cls, net: SimpleNet) -> tuple[MatModel, dict[str, Array]]:
        """A chain of the Python face, and the inputs that its layers hold as their `class`.

        Custom layers are in it, as the user's functions.
        """
        made = cls.of_simplenn(net, custom=custom_block)
        held = {f"class{i}": layer.get("class") for i, layer in enumerate(net.layers, 1)}
        return made, {
            n: np.asarray(a) for n, a in held.items() if n in made.inputs and not is_missing(a)
        }

    # -- its variables --

    @property
    def inputs(self) -> list[str]:
        """Variables that no layer makes."""
        made = {v for layer in self.layers for v in layer.outputs}
        return list(dict.fromkeys(v for la in self.layers for v in la.inputs if v not in made))

    @property
    def outputs(self) -> list[str]:
        """Variables that no layer reads."""
        read = {v for layer in self.layers for v in layer.inputs}
        return [v for layer in self.layers for v in layer.outputs if v not in read]

    @property
    def variables(self) -> list[str]:
        """All of them."""
        return [*self.inputs, *(v for layer in self.layers for v in layer.outputs)]

    @property
    def losses(self) -> list[str]:
        """Losses that nobody reads; those that count errors are left out."""
        ends = self.outputs
        return [
            layer.outputs[0]
            for layer in self.layers
            if layer.outputs[0] in ends
            and isinstance(layer.block, (Loss, L2Loss))
            and getattr(layer.block, "kind", "") not in losses.ERRORS
        ]

    @property
    def labels(self) -> list[str]:
        """Inputs that are no more than what something is compared with, or a weight."""
        readers = [(la, i) for la in self.layers for i in range(len(la.inputs))]
        return [
            name
            for name in self.inputs
            if not any(la.inputs[i] == name and la.block.differentiates(i) for la, i in readers)
        ]

    def input_sizes(self, given: Mapping[str, Size]) -> dict[str, Size]:
        """The size of every input: given, or as the net says; one label for each image.

        Raises NetError where a size is not known, or a name.
        """
        for name in given:
            hint = did_you_mean(name, self.inputs) or f"inputs: {', '.join(self.inputs)}"
            need(name in self.inputs, f"there is no net input '{name}'; {hint}")
        sizes = {**self.sizes, **{name: _four(size) for name, size in given.items()}}
        images = next((size[3] for name, size in sizes.items() if name not in self.labels), 1)
        targets = {la.inputs[1] for la in self.layers if isinstance(la.block, L2Loss)}
        for name in self.inputs:
            if name in sizes:
                continue
            need(
                name in self.labels and name not in targets,
                f"the net does not say the size of input '{name}'; give it, H x W x C x N"
                f" (on the command line with --shape {name}=H,W,C,N)",
            )
            sizes[name] = (1, 1, 1, images)
        return {name: sizes[name] for name in self.inputs}

    def learned(self) -> list[str]:
        """The parameters that have a derivative: all but the moments of batch normalisation."""
        moments = {
            layer.params[2]
            for layer in self.layers
            if isinstance(layer.block, BatchNorm) and len(layer.params) == 3
        }
        return [name for name in self.params if name not in moments]

    def check_labels(self, arrays: Mapping[str, Array], graph: Graph) -> None:
        """Raise NetError where a label is no class of the scores it belongs to."""
        for layer in self.layers:
            if not isinstance(layer.block, Loss) or layer.inputs[1] not in arrays:
                continue
            kind = layer.block.kind
            labels = four_axes(arrays[layer.inputs[1]], f"'{layer.inputs[1]}'")
            try:
                losses.check_labels(labels, kind, graph.blobs[layer.inputs[0]].shape[1])
            except NetError as error:
                raise NetError(f"layer '{layer.name}' (Loss): {error}") from None

    # -- programs --

    def piece(
        self,
        sizes: Mapping[str, Size],
        *,
        dtype: str = "float32",
        mode: str = "test",
        given: Iterable[str] = (),
        values: Iterable[str] = (),
        wrt: Iterable[str] = (),
    ) -> Piece:
        """What a program for these sizes is for; `wrt` names variables and parameters."""
        wanted = list(wrt)
        known = [*self.variables, *self.params]
        for name in (*given, *values, *wanted):
            if name not in known:
                hint = did_you_mean(name, known)
                raise NetError(
                    f"there is no variable or parameter '{name}'" + (f"; {hint}" if hint else "")
                )
        return Piece(
            dtype,
            mode,
            self.version,
            tuple((name, tuple(size)[::-1]) for name, size in sizes.items()),
            tuple((name, array.shape[::-1]) for name, array in self.params.items()),
            tuple(given),
            tuple(values),
            tuple(name for name in wanted if name not in self.params),
            tuple(name for name in wanted if name in self.params),
        )

    def seen(self, forward: Graph, made: Compiled, program: Program, phase: Phase) -> Lowered:
        """What was made of the net's forward graph, for looking inside."""
        return Lowered(
            forward=forward,
            graph=made.graph,
            program=program,
            stages=made.stages,
            layers=tuple(map(_layer, self.layers)),
            owners={name: PARAMETER.format(name) for name in self.params},
            learning={PARAMETER.format(name): held for name, held in self.learning.items()},
            rate_words=("learningRate", "weightDecay"),
            labels=dict.fromkeys(self.labels, _COMPARED),
            phase=phase,
            turned=True,
        )

    def held(self, dtype: str) -> dict[str, Array]:
        """The parameters as programs read them."""
        made = {}
        for name, array in self.params.items():
            made[name] = aligned_zeros(array.shape[::-1], dtype)
            made[name][...] = array.T
        return made


def summary_of(net: SimpleNet | DagNet, sizes: Mapping[str, Size]) -> Summary:
    """The table of layers of a net of the Python face, in test mode.

    Raises NetError where neither the net nor `sizes` say the size of an input.
    """
    from graphc.summary import summarise

    return summarise(_lowered_of(net, sizes))


def picture_of(net: SimpleNet | DagNet) -> str | None:
    """The layers as SVG; None where the net does not say the sizes of its inputs."""
    from graphc.report.graph_picture import layers_picture

    try:
        return layers_picture(_lowered_of(net, {}).forward)
    except NetError:
        return None


def _lowered_of(net: SimpleNet | DagNet, sizes: Mapping[str, Size]) -> Lowered:
    from graphc.graph_lowering import lower_graph

    model = MatModel.of_dagnn(net) if isinstance(net, DagNet) else MatModel.of_simplenn(net)
    piece = model.piece(model.input_sizes(sizes), values=model.outputs)
    built, targets, keep = piece_graph(model.name, model.layers, piece)
    made, program = lower_graph(built.graph, targets, keep=keep)
    return model.seen(built.graph, made, program, TEST)


def _rate(layer: Mapping[str, Any], field: str, number: int) -> float:
    """What a layer of a chain says for its weight of that number; 1 where it says nothing."""
    said = np.ravel(np.asarray(layer.get(field, ()), np.float64))
    return float(said[number - 1]) if len(said) >= number else 1.0


def _layer(layer: MatLayer) -> Layer:
    held = tuple(map(PARAMETER.format, layer.params))
    return Layer(layer.name, layer.kind, layer.inputs, layer.outputs, held)


def dropout_masks(net: MatNet, dtype: str, rng: np.random.Generator) -> dict[str, Array]:
    """A new mask for every dropout layer, by the name of the graph's input that takes it."""
    blocks = {layer.name: layer.block for layer in net.executed}
    made = {}
    for layer, name in net.masks.items():
        block = blocks[layer]
        assert isinstance(block, DropOut)
        made[name] = dropout_mask(net.graph.values[name].shape, float(block.rate), dtype, rng)
    return made


def custom_block(layer: dict[str, Any]) -> Block:
    """A custom layer's functions as a block."""

    def forward(x: Array) -> Any:
        return layer["forward"](layer, Result(x=x), Result()).x

    def backward(dzdy: Array, x: Array) -> Any:
        after = layer["forward"](layer, Result(x=x), Result())
        after.dzdx = dzdy
        return layer["backward"](layer, Result(x=x), after).dzdx

    def size(of_x: Size) -> Size:
        return four_axes(forward(np.zeros(of_x)), f"the output of layer '{layer['name']}'").shape

    return PythonBlock(forward, backward, size)


def _four(size: Iterable[int]) -> Size:
    numbers = tuple(size)
    need(len(numbers) <= 4, f"a size is H x W x C x N, not {' x '.join(map(str, numbers))}")
    return numbers + (1,) * (4 - len(numbers))


def _sizes(meta: Any, inputs: list[str]) -> dict[str, Size]:
    """Sizes of inputs as `meta` tells them: by name, or that of the images."""
    if not isinstance(meta, dict):
        return {}
    found = {}
    for entry in listed(meta.get("inputs")):
        if isinstance(entry, dict) and entry.get("name") in inputs:
            found[str(entry["name"])] = _size(entry.get("size"))
    normalization = meta.get("normalization")
    normalization = normalization if isinstance(normalization, dict) else {}
    images = _size(meta.get("inputSize")) or _size(normalization.get("imageSize"))
    if inputs and images:
        found.setdefault(inputs[0], images)
    return {name: size for name, size in found.items() if size}


def _size(value: Any) -> Size:
    """H x W x C x N of two to four whole numbers, nothing for others."""
    if is_missing(value):
        return ()
    numbers = plain(value)
    fine = isinstance(numbers, list) and 2 <= len(numbers) <= 4
    if not fine or not all(isinstance(n, int) and n > 0 for n in numbers):
        return ()
    return _four(numbers)
