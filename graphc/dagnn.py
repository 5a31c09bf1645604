"""DagNN: nets as graphs of layers that share variables, in MatConvNet's manner.

    from graphc.dagnn import Conv, DagNet, L2Loss

    net = DagNet()
    net.add_layer("fc", Conv(size=(4, 4, 16, 1)), "input", "prediction", ("fcf", "fcb"))
    net.add_layer("l2", L2Loss(), ("prediction", "label"), "objective")
    net.init_params()
    net.eval({"input": x, "label": t}, {"objective": 1})
    net.vars["prediction"].value, net.params["fcf"].der

A block whose text names a function of MatConvNet, vl_nnconv for Conv, computes what `graphc.vl`
says of it; its properties are the function's options, in Python's spelling. A block of the user's
own is a dataclass derived from Block; its `build` writes the output in graph operators, on values
with axes [N, C, W, H], and the derivative follows. An operator (made with `graphc.operator`) will
do as a block, and so will PythonBlock(forward, backward): plain functions.

Arrays are H x W x C x N. The whole net, with its backward pass, is compiled into one program for
every combination of input sizes, mode and derivatives asked for.

Right on purpose, where MatConvNet errs: a derivative given for a variable that has readers too is
added to theirs, not overwritten; derivatives of an earlier call are never read (all `der` are
cleared first); ReLU's short circuit never takes a value that another layer needs; in test mode
batch normalisation can be differentiated, its moments being constants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphc.call_arguments import explained
from graphc.dag_run import Run
from graphc.dag_struct import fill_from_struct, struct_of
from graphc.error import NetError, did_you_mean, need
from graphc.frontends.matconvnet.block import Block
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
from graphc.frontends.matconvnet.mat_write import write_mat
from graphc.frontends.matconvnet.network import (
    MODES,
    MatLayer,
)
from graphc.ir.op import Op
from graphc.mat_call import CompiledPieces
from graphc.plan.budget import Memory, memory_mode
from graphc.runtime.turn import Turn, one_at_a_time

if TYPE_CHECKING:
    from graphc.summary import Summary

__all__ = [
    "LRN", "BatchNorm", "BilinearSampler", "Block", "Concat", "Conv", "ConvTranspose", "Crop",
    "DagNet", "DropOut", "L2Loss", "Loss", "NormOffset", "OperatorBlock", "PDist", "Parameter",
    "Pooling", "PythonBlock", "ROIPooling", "ReLU", "Scale", "Sigmoid", "SoftMax", "SoftTargetLoss",
    "SpatialNorm", "Sum", "Variable",
]  # fmt: skip

Array = np.ndarray
_INSTEAD = "make a DagNet for each thread: DagNet.from_struct(net.to_struct())"
MOMENTS_RATE = 0.1  # how fast the moments of batch normalisation follow the batches'


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
        target, exact, fast_math, libraries: as those of `graphc.Net`; `eval` tells wrong ones.
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
        self.target = "cpu"
        self.exact = False
        self.fast_math: Sequence[str] = ()
        self.libraries = "auto"
        self.version = version
        self._turn = Turn("DagNet", _INSTEAD)
        self._masks: dict[str, Array] = {}
        self._compiled = CompiledPieces()

    @property
    def memory(self) -> Memory:
        """How memory is used; takes texts too. Raises NetError for what is no budget."""
        return self._memory

    @memory.setter
    def memory(self, given: Memory | str) -> None:
        self._memory = memory_mode(given)

    def summary(self, **sizes: tuple[int, ...]) -> Summary:
        """The table of layers; `sizes` of inputs, H x W x C x N, where the net has none.

        Raises NetError for inputs without a size, and for sizes that a layer cannot take.
        """
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

        The block may be an operator, applied to the inputs, then the parameters. Raises NetError
        for the name of another layer, for a block that is none, and for an output that another
        layer makes.
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
        """Take a layer out; variables and parameters that nobody uses any more go with it.

        Raises NetError where there is no layer of that name.
        """
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

        Batch normalisation begins with multipliers 1, biases 0 and moments 0. The deviation is
        that of He et al., arXiv:1502.01852, as in MatConvNet. `seed` None: other numbers each time.
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
        """The net of a structure that DagNN saves: vars, params, layers, meta.

        Raises NetError as `load` does.
        """
        net = cls(version)
        fill_from_struct(net, inner)
        return net

    def save(self, path: str | Path) -> None:
        """Write the net as DagNN's saveobj does: vars, params, layers and meta, for MATLAB too.

        Raises NetError for a block of your own, for a loss that MatConvNet does not have (soft
        targets, smoothed labels), and where the file cannot be written.
        """
        write_mat(path, self.to_struct())

    def to_struct(self) -> dict[str, Any]:
        """The structure that `from_struct` reads. Raises NetError as `save` does."""
        return struct_of(self)

    # -- running ----------------------------------------------------------------------------

    @explained
    @one_at_a_time
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

        Args:
            inputs: H x W x C x N arrays by name, or name, array, name, array, ...
            der_outputs: derivatives of variables, in the same way; None: forward only.
        Raises:
            NetError: for an unknown name, a wrong choice (`mode`, `target`, ...), parameters
                without a value, and sizes that a layer cannot take; BudgetError, which is one,
                where the budget for `memory` cannot be met.
        """
        need(self.mode in MODES, f"mode is one of {', '.join(MODES)}, not '{self.mode}'")
        given, seeds = _pairs(inputs), _pairs(der_outputs or {})
        for name in (*given, *seeds):
            self.vars[name]  # a wrong name gets its suggestion
        run = Run(self, given, seeds, self._compiled, self._masks)
        self._clear()
        run.forward()
        if seeds:
            run.backward()
        if self.conserve_memory:
            run.drop()

    @one_at_a_time
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


def _shown(block: Any) -> str:
    return f"the class {block.__name__}" if isinstance(block, type) else type(block).__name__
