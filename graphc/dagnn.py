"""DagNN: nets as graphs of layers that share variables, in MatConvNet's manner.

    from graphc.dagnn import Conv, DagNet, L2Loss

    net = DagNet()
    net.add_layer("fc", Conv(size=(4, 4, 16, 1)), "input", "prediction", ("fcf", "fcb"))
    net.add_layer("l2", L2Loss(), ("prediction", "label"), "objective")
    net.init_params()
    net.eval({"input": x, "label": t}, {"objective": 1})
    net.vars["prediction"].value, net.params["fcf"].der

A block of the user's own is a dataclass derived from Block; its `build` writes the output in graph
operators, on values with axes [N, C, W, H], and the derivative follows. An operator (made with
`graphc.operator`) will do as a block, and so will PythonBlock(forward, backward): plain functions.

Arrays are H x W x C x N. The whole net, with its backward pass, is compiled into one program for
every combination of input sizes, mode and derivatives asked for.

Right on purpose, where MatConvNet errs: a derivative given for a variable that has readers too is
added to theirs, not overwritten; derivatives of an earlier call are never read (all `der` are
cleared first); ReLU's short circuit never takes a value that another layer needs; in test mode
batch normalisation can be differentiated, its moments being constants.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from graphc.call_arguments import explained
from graphc.error import NetError, NetWarning, did_you_mean, need
from graphc.frontends.matconvnet import losses
from graphc.frontends.matconvnet.array import dropout_mask, four_axes, is_missing, real_kind
from graphc.frontends.matconvnet.block import WEIGHTS, Block
from graphc.frontends.matconvnet.block_struct import block_from_struct, block_struct
from graphc.frontends.matconvnet.blocks import (
    LRN,
    BatchNorm,
    BilinearSampler,
    Concat,
    Conv,
    ConvTranspose,
    Crop,
    DropOut,
    NormOffset,
    PDist,
    Pooling,
    ReLU,
    ROIPooling,
    Scale,
    Sigmoid,
    SoftMax,
    SpatialNorm,
    Sum,
)
from graphc.frontends.matconvnet.custom import OperatorBlock, PythonBlock
from graphc.frontends.matconvnet.dagnn import Parameter, Table, Variable, read_net
from graphc.frontends.matconvnet.loss_blocks import L2Loss, Loss, SoftTargetLoss
from graphc.frontends.matconvnet.mat_file import listed, plain
from graphc.frontends.matconvnet.mat_write import Cell, Structs, write_mat
from graphc.frontends.matconvnet.network import (
    MODES,
    MatLayer,
    executed,
    execution_order,
    reached,
)
from graphc.graph_call import Choices
from graphc.ir.op import Op
from graphc.mat_call import Piece, PieceCall, compile_piece
from graphc.plan.budget import Memory, memory_mode
from graphc.remaining import Remaining, computed, ends
from graphc.summary import Summary

__all__ = [
    "LRN", "BatchNorm", "BilinearSampler", "Block", "Concat", "Conv", "ConvTranspose", "Crop",
    "DagNet", "DropOut", "L2Loss", "Loss", "NormOffset", "OperatorBlock", "PDist", "Parameter",
    "Pooling", "PythonBlock", "ROIPooling", "ReLU", "Scale", "Sigmoid", "SoftMax", "SoftTargetLoss",
    "SpatialNorm", "Sum", "Variable",
]  # fmt: skip

Array = np.ndarray
MOMENTS_RATE = 0.1  # how fast the moments of batch normalisation follow the batches'
_COMPILED_AT_MOST = 64


class DagNet:
    """A net of layers.

    Args:
        version: "beta25", or "master" for losses divided by the number of images.
    Attributes:
        layers: the layers by name; each has `block`, `inputs`, `outputs`, `params`.
        vars, params: variables and parameters by name.
        mode: "normal" (or "train"), or "test".
        conserve_memory: values and derivatives go when nobody needs them any more, see `eval`.
        accumulate: derivatives of parameters are added to what `der` holds.
        parameter_server: gets `push(name, der)` for each derivative unless hold_on.
        blockwise_loss: a 1x1 Conv and the softmaxlog Loss behind it never hold all scores, and
            compute them twice.
        memory: "reuse", "all" to keep every value apart, or a budget for what a call needs beside
            the net's arrays, 200MiB or a number of bytes: some values are then computed twice, and
            a call raises BudgetError where it cannot be met.
        meta: anything; `save` writes it.
    Raises:
        NetError: for another version; a layer, a size or a name that is wrong is told by the method
            that meets it.
    """

    @explained
    def __init__(self, version: str = "beta25") -> None:
        need(version in ("beta25", "master"), f"version is beta25 or master, not '{version}'")
        self.layers: Table[MatLayer] = Table()
        self.vars: Table[Variable] = Table()
        self.params: Table[Parameter] = Table()
        self.meta: Any = {}
        self.mode = "normal"
        self.conserve_memory = True
        self.accumulate = False
        self.parameter_server: Any = None
        self.hold_on = False
        self.blockwise_loss = False
        self.memory = "reuse"
        self.version = version
        self._masks: dict[str, Array] = {}
        self._compiled: dict[tuple[Any, ...], PieceCall] = {}

    @property
    def memory(self) -> Memory:
        """How memory is used; takes texts too. Raises NetError for what is no budget."""
        return self._memory

    @memory.setter
    def memory(self, given: Memory | str) -> None:
        self._memory = memory_mode(given)

    def summary(self, **sizes: tuple[int, ...]) -> Summary:
        """The table of layers; `sizes` of inputs, H x W x C x N, where the net has none."""
        from graphc.mat_model import summary_of

        return summary_of(self, sizes)

    def _repr_svg_(self) -> str | None:
        """The layers as a picture, in a notebook."""
        from graphc.mat_model import picture_of

        return picture_of(self)

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and "_compiled" in self.__dict__ and not hasattr(self, name):
            hint = did_you_mean(name, [n for n in self.__dict__ if n[0] != "_"])
            raise NetError(f"a DagNet has no '{name}'" + (f"; {hint}" if hint else ""))
        super().__setattr__(name, value)

    # -- building ---------------------------------------------------------------------------

    @explained
    def add_layer(
        self,
        name: str,
        block: Block | Op,
        inputs: str | Sequence[str],
        outputs: str | Sequence[str],
        params: str | Sequence[str] = (),
    ) -> None:
        """Add a layer; variables and parameters of new names are made.

        The block may be an operator, applied to the inputs, then the parameters.
        """
        need(name not in self.layers, f"there is a layer '{name}' already")
        if isinstance(block, Op):
            block = OperatorBlock(block)
        need(
            isinstance(block, Block),
            f"layer '{name}': a block is needed, such as Conv(...), not {_shown(block)}",
        )
        layer = MatLayer(
            name,
            block,
            _names(inputs, f"layer '{name}': its inputs"),
            _names(outputs, f"layer '{name}': its outputs"),
            _names(params, f"layer '{name}': its parameters"),
        )
        made = {variable: held.name for held in self.layers.values() for variable in held.outputs}
        for variable in layer.outputs:
            need(
                variable not in made,
                f"layer '{name}': '{variable}' is an output of layer '{made.get(variable)}' too",
            )
        self.layers[name] = layer
        self._follow_layers(layer)

    def remove_layer(self, name: str) -> None:
        """Take a layer out; variables that nobody uses any more go with it."""
        del self.layers[self.layers[name].name]
        used = {v for layer in self.layers.values() for v in (*layer.inputs, *layer.outputs)}
        for variable in [v for v in self.vars if v not in used]:
            del self.vars[variable]
        learned = {p for layer in self.layers.values() for p in layer.params}
        for parameter in [p for p in self.params if p not in learned]:
            del self.params[parameter]

    def _follow_layers(self, layer: MatLayer) -> None:
        for variable in (*layer.inputs, *layer.outputs):
            if variable not in self.vars:
                self.vars[variable] = Variable(variable)
        for position, name in enumerate(layer.params):
            if name not in self.params:
                self.params[name] = Parameter(name)
            if isinstance(layer.block, BatchNorm) and position == 2:
                self.params[name].train_method = "average"
                self.params[name].learning_rate = MOMENTS_RATE

    def init_params(self, seed: int | None = None) -> None:
        """Draw new parameters: normal with deviation sqrt(2 / (fh fw C)) for filters, 0 for biases.

        Batch normalisation begins with multipliers 1, biases 0 and moments 0.
        """
        rng = np.random.default_rng(seed)
        for layer in self.layers.values():
            shapes = layer.block.param_shapes()
            for position, (name, shape) in enumerate(zip(layer.params, shapes, strict=False)):
                first = position == 0
                if isinstance(layer.block, (BatchNorm, Scale)):
                    value = np.full(shape, 1.0 if first else 0.0, "float32")
                elif first:
                    deviation = np.sqrt(2 / max(int(np.prod(shape[:3])), 1))
                    value = (rng.standard_normal(shape) * deviation).astype("float32")
                else:
                    value = np.zeros(shape, "float32")
                self.params[name].value = value

    # -- files ------------------------------------------------------------------------------

    @classmethod
    def load(cls, path: str | Path, version: str = "beta25") -> DagNet:
        """Read a net as DagNN saves it: vars, params, layers, perhaps inside a variable `net`.

        Raises NetError where the file holds none, or a block that is not known.
        """
        return cls.from_struct(read_net(path), version)

    @classmethod
    def from_struct(cls, inner: Mapping[str, Any], version: str = "beta25") -> DagNet:
        """The net of a structure that DagNN saves: vars, params, layers, meta. See `load`."""
        net = cls(version)
        net.meta = inner.get("meta", {})
        problems: list[Any] = []
        for struct in listed(inner["layers"]):
            try:
                net._add_struct(struct)
            except NetError as error:
                problems += error.diagnostics
        if problems:
            raise NetError(problems)
        for struct in listed(inner.get("vars")):
            if struct["name"] in net.vars:
                net.vars[struct["name"]].precious = bool(plain(struct.get("precious", 0)))
        for struct in listed(inner.get("params")):
            net._set_parameter(struct)
        return net

    def save(self, path: str | Path) -> None:
        """Write the net as DagNN's saveobj does: vars, params, layers and meta, for MATLAB too.

        Raises NetError for a block of your own, for a loss that MatConvNet does not have (soft
        targets, smoothed labels), and where the file cannot be written.
        """
        write_mat(path, self.to_struct())

    def to_struct(self) -> dict[str, Any]:
        """The structure that `from_struct` reads."""
        layers = []
        for layer in self.layers.values():
            kind, block = block_struct(layer.name, layer.block)
            names = {key: Cell(getattr(layer, key)) for key in ("inputs", "outputs", "params")}
            layers.append({"name": layer.name, "type": kind, **names, "block": block})
        params = [
            {
                "name": p.name,
                "value": p.value,
                "learningRate": p.learning_rate,
                "weightDecay": p.weight_decay,
            }
            for p in self.params.values()
        ]
        names_only = [{"name": v.name, "precious": v.precious} for v in self.vars.values()]
        return {
            "vars": Structs(("name", "precious"), names_only),
            "params": Structs(("name", "value", "learningRate", "weightDecay"), params),
            "layers": Structs(("name", "type", "inputs", "outputs", "params", "block"), layers),
            "meta": self.meta,
        }

    def _add_struct(self, struct: dict[str, Any]) -> None:
        name, properties = str(struct["name"]), struct.get("block")
        block = block_from_struct(
            name, str(struct.get("type", "")), properties if isinstance(properties, dict) else {}
        )
        self.add_layer(
            name,
            block,
            [str(v) for v in listed(struct.get("inputs"))],
            [str(v) for v in listed(struct.get("outputs"))],
            [str(v) for v in listed(struct.get("params"))],
        )

    def _set_parameter(self, struct: dict[str, Any]) -> None:
        name = str(struct["name"])
        if name not in self.params:
            warnings.warn(f"parameter '{name}' belongs to no layer", NetWarning, stacklevel=4)
            return
        parameter = self.params[name]
        parameter.value = struct.get("value")
        for field, key in (("learning_rate", "learningRate"), ("weight_decay", "weightDecay")):
            if not is_missing(struct.get(key)):
                setattr(parameter, field, float(plain(struct[key])))

    # -- running ----------------------------------------------------------------------------

    @explained
    def eval(
        self,
        inputs: Mapping[str, Any] | Sequence[Any],
        der_outputs: Mapping[str, Any] | Sequence[Any] | None = None,
    ) -> None:
        """Run the net on inputs by name; with derivatives of outputs, run it backward, too.

        A derivative is like its variable, or one number for all elements. A layer without all its
        inputs is left out. With conserve_memory on there remain, forward only: the values of
        precious variables and of those nobody reads; with derivatives: the values and derivatives
        of the net's inputs and of precious variables, and values no backward pass came by.
        """
        need(self.mode in MODES, f"mode is one of {', '.join(MODES)}, not '{self.mode}'")
        given, seeds = _pairs(inputs), _pairs(der_outputs or {})
        for name in (*given, *seeds):
            self.vars[name]  # a wrong name gets its suggestion
        dtype = self._dtype(given)
        arrays = {n: four_axes(a, f"variable '{n}'") for n, a in given.items() if not is_missing(a)}
        made = self._piece(arrays, tuple(seeds), dtype)
        self._check_labels(made, arrays)
        self._clear()
        feed = {name: array.T.astype(dtype, copy=False) for name, array in arrays.items()}
        feed.update(self._drawn_masks(made, dtype))
        feed.update(self._instance_weights(made, dtype))
        held = {n: p.held for n, p in self.params.items() if p.held is not None}
        values = made.forward(feed, held)
        for name, value in values.items():
            self.vars[name].value = value.T
        self._follow_losses(made, values)
        if seeds:
            self._backward(made, seeds, dtype)
        if self.conserve_memory:
            staying = self._remaining().values(made.net.executed, made.piece)
            for name, variable in self.vars.items():
                if name not in staying:
                    variable.value = None

    def reset(self) -> None:
        """Forget all values and derivatives, and the losses' means."""
        self._clear()
        for parameter in self.params.values():
            parameter.der = None
        for layer in self.layers.values():
            if isinstance(layer.block, Loss):
                layer.block.reset()

    def _clear(self) -> None:
        for variable in self.vars.values():
            variable.value = variable.der = None

    def _dtype(self, given: Mapping[str, Any]) -> str:
        """The parameters' element type, or the inputs' where there are none."""
        held = {f"parameter '{n}'": p.held for n, p in self.params.items() if p.held is not None}
        return real_kind(held or {f"variable '{n}'": a for n, a in given.items()})

    def _piece(self, arrays: dict[str, Array], seeds: tuple[str, ...], dtype: str) -> PieceCall:
        layers = list(self.layers.values())
        ordered = [layers[i] for i in execution_order(layers)]
        known = {n: p.held.shape for n, p in self.params.items() if p.held is not None}
        piece = Piece(
            dtype,
            "test" if self.mode == "test" else "normal",
            self.version,
            tuple((name, array.shape[::-1]) for name, array in arrays.items()),
            tuple(known.items()),
            seeds,
            (),
            (),
            (),
        )
        choices = Choices(self.memory, self.blockwise_loss)
        remaining = self._remaining()
        key = (piece, choices, remaining, tuple(repr(_settled(layer)) for layer in ordered))
        if key not in self._compiled:
            while len(self._compiled) >= _COMPILED_AT_MOST:
                del self._compiled[next(iter(self._compiled))]
            self._compiled[key] = self._compile(ordered, piece, choices, remaining)
        return self._compiled[key]

    def _compile(
        self, ordered: list[MatLayer], piece: Piece, choices: Choices, remaining: Remaining
    ) -> PieceCall:
        run = executed(ordered, [name for name, _ in piece.inputs])
        for name in piece.given:
            need(
                any(name in layer.outputs for layer in run) or name in dict(piece.inputs),
                f"a derivative is given for '{name}', which this call does not compute"
                + _why_left_out(name, ordered, run, piece),
            )
        active, touched = reached(run, piece.given)
        names, last = computed(run, piece), ends(run, piece)
        values = remaining.needed_values(run, piece)
        wanted = replace(
            piece,
            values=tuple(v for v in names if v in values),
            derivatives=tuple(
                v
                for v in names
                if v in touched and remaining.keeps_derivative(v, piece) and v not in last
            ),
            wrt=tuple(
                dict.fromkeys(
                    name
                    for layer in active
                    for position, name in enumerate(layer.params)
                    if not (isinstance(layer.block, BatchNorm) and position == 2)
                )
            ),
        )
        return compile_piece("dagnn", ordered, wanted, choices)

    def _remaining(self) -> Remaining:
        precious = frozenset(name for name, variable in self.vars.items() if variable.precious)
        return Remaining(bool(self.conserve_memory), precious)

    def _check_labels(self, made: PieceCall, arrays: dict[str, Array]) -> None:
        for layer in made.net.executed:
            if isinstance(layer.block, Loss) and layer.inputs[1] in arrays:
                scores = made.net.graph.blobs[layer.inputs[0]]
                kind = layer.block.kind
                try:
                    losses.check_labels(arrays[layer.inputs[1]], kind, scores.shape[1])
                except NetError as error:
                    raise NetError(f"layer '{layer.name}' (Loss): {error}") from None

    def _drawn_masks(self, made: PieceCall, dtype: str) -> dict[str, Array]:
        masks = {}
        for layer in made.net.executed:
            if layer.name not in made.net.masks:
                continue
            block = layer.block
            assert isinstance(block, DropOut)
            shape = made.net.graph.values[made.net.masks[layer.name]].shape
            held = self._masks.get(layer.name)
            if not block.frozen or held is None or held.shape != shape:
                held = dropout_mask(shape, float(block.rate), dtype)
                self._masks[layer.name] = held
            masks[made.net.masks[layer.name]] = held
        return masks

    def _instance_weights(self, made: PieceCall, dtype: str) -> dict[str, Array]:
        """Those that losses hold now, which need not be those they were compiled with."""
        graph = made.net.graph
        found = {}
        for layer in made.net.executed:
            block = self.layers[layer.name].block
            if isinstance(block, Loss) and WEIGHTS.format(layer.name) in graph.values:
                scores = graph.blobs[layer.inputs[0]].shape[::-1]
                weights = block.own_weights(scores, dtype)
                assert weights is not None
                found[WEIGHTS.format(layer.name)] = weights
        return found

    def _follow_losses(self, made: PieceCall, values: dict[str, Array]) -> None:
        for layer in made.net.executed:
            if isinstance(layer.block, Loss):
                scores = made.net.graph.blobs[layer.inputs[0]].shape[::-1]
                value = float(values[layer.outputs[0]].sum())
                layer.block.accumulate(value, scores, layer.block.divides(self.version))

    def _backward(self, made: PieceCall, seeds: dict[str, Any], dtype: str) -> None:
        graph = made.net.graph
        given = {}
        for name, seed in seeds.items():
            given[name] = _seed(name, seed, graph.blobs[name].shape, dtype)
        found, params = made.backward(given)
        for name, array in found.items():
            self.vars[name].der = array.T
        for name in ends(made.net.executed, made.piece):
            if self._remaining().keeps_derivative(name, made.piece):
                self.vars[name].der = given[name].T.copy()
        for layer in made.net.executed:
            if layer.name in made.net.moments and len(layer.params) == 3:
                images = graph.blobs[layer.inputs[0]].shape[0]
                total = made.moments(layer.name)
                shape = (1, 1, 2, total.shape[3])
                scale = images if self.version == "beta25" else 1
                before = params.get(layer.params[2], 0)
                if layer in reached(made.net.executed, made.piece.given)[0]:
                    params[layer.params[2]] = before + total.reshape(shape) * total.dtype.type(
                        scale
                    )
        self._keep_parameter_derivatives(params)

    def _keep_parameter_derivatives(self, found: dict[str, Array]) -> None:
        for name, array in found.items():
            parameter = self.params[name]
            assert parameter.value is not None
            der = array.T.reshape(parameter.value.shape, order="F")
            if self.accumulate and parameter.der is not None:
                der = parameter.der + der
            parameter.der = der
            if self.parameter_server is not None and not self.hold_on:
                self.parameter_server.push(name, der)
                parameter.der = None


def _names(given: str | Sequence[str], what: str) -> tuple[str, ...]:
    names = (given,) if isinstance(given, str) else given
    fine = isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
    need(fine, f"{what} are a name or several, not {given!r:.60}")
    return tuple(names)


def _pairs(given: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
    """Names and arrays, from a mapping or from a list that alternates."""
    if isinstance(given, Mapping):
        return dict(given)
    fine = isinstance(given, (list, tuple)) and len(given) % 2 == 0
    fine = fine and all(isinstance(name, str) for name in given[::2])
    need(fine, "inputs are given as {name: array}, or as name, array, name, ...")
    return dict(zip(given[::2], given[1::2], strict=True))


def _why_left_out(name: str, ordered: list[MatLayer], run: list[MatLayer], piece: Piece) -> str:
    """The first inputs that are missing on the way to a variable."""
    known = {*dict(piece.inputs), *(v for layer in run for v in layer.outputs)}
    makers = {v: layer for layer in ordered for v in layer.outputs}
    wanted, missing = [name], []
    while wanted:
        layer = makers.get(wanted.pop())
        lacks = [v for v in layer.inputs if v not in known] if layer else []
        wanted += [v for v in lacks if v in makers]
        missing += [f"'{v}' of layer '{layer.name}'" for v in lacks if layer and v not in makers]
    return f": there is no value for {', '.join(dict.fromkeys(missing))}" if missing else ""


def _shown(block: Any) -> str:
    return f"the class {block.__name__}" if isinstance(block, type) else type(block).__name__


def _seed(name: str, seed: Any, shape: tuple[int, ...], dtype: str) -> Array:
    array = four_axes(seed, f"the derivative of '{name}'").T
    need(
        array.size == 1 or array.shape == shape,
        f"the derivative of '{name}' does not have the size of its value,"
        f" {' x '.join(map(str, shape[::-1]))}",
    )
    return np.array(np.broadcast_to(array, shape), dtype)


def _settled(layer: MatLayer) -> MatLayer:
    """The layer without what a call changes in it."""
    if isinstance(layer.block, Loss):
        block = layer.block.settled()
        weights = None if is_missing(block.instance_weights) else "given for each call"
        block = replace(block, average=0.0, num_averaged=0, instance_weights=weights)
        return replace(layer, block=block)
    return layer
