"""SimpleNN: nets as chains of layers, in MatConvNet's manner.

    net = graphc.SimpleNet.load("imagenet-vgg-f.mat")
    res = graphc.simplenn(net, x)
    res[-1].x

Arrays are H x W x C x N. A net keeps MatConvNet's layer structures: `net.layers[i]` is a dict of a
SimpleNN layer's fields, by MATLAB's names, with missing ones supplied as vl_simplenn_tidy does.

A layer of type "custom" is the user's: its fields `forward` and `backward` are functions of
(layer, res_i, res_next); the one returns res_next with `x` set, the other res_i with `dzdx` set and
perhaps `dzdw`. The layers between custom ones are compiled together, forward and backward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphc.call_arguments import as_names, explained
from graphc.error import NetError, need
from graphc.frontends.matconvnet.mat_write import Cell, write_mat
from graphc.frontends.matconvnet.network import MODES, MatLayer
from graphc.frontends.matconvnet.simplenn import read_layers, tidy
from graphc.graph_call import Choices
from graphc.mat_call import CompiledPieces, Piece, PieceCall, compile_piece
from graphc.plan.budget import Memory, memory_mode
from graphc.runtime.turn import Turn, one_at_a_time
from graphc.simple_run import Result, Run

if TYPE_CHECKING:
    from graphc.summary import Summary


_INSTEAD = "make a SimpleNet of the same layers for each thread: SimpleNet(net.layers, net.meta)"


class SimpleNet:
    """A chain of layers.

    Args:
        layers: a dict for each layer, with the fields of a SimpleNN layer by MATLAB's names;
            weights are H x W x C x K.
        meta: anything; `save` writes it, and the size of the input is looked for in it.
        version: "beta25", or "master" for losses divided by the number of images.
        memory: "reuse", "all" to keep every value apart, or a budget for what a call needs beside
            the net's arrays, 200MiB or a number of bytes: some values are then computed twice, and
            a call raises BudgetError where it cannot be met. Values that stay in `res` must fit:
            see conserve_memory of `simplenn`. Between custom layers it holds for each part.
        target, exact, fast_math, libraries: as those of `graphc.Net`.
    Attributes:
        layers: the same, tidied: missing fields are supplied.
        meta, version, memory: as given.
    Raises:
        NetError: with every layer that has an unknown type or a wrong field; for a wrong choice.
    """

    @explained
    def __init__(
        self,
        layers: Sequence[Mapping[str, Any]],
        meta: Any = None,
        version: str = "beta25",
        memory: Memory | str = "reuse",
        *,
        target: str = "cpu",
        exact: bool = False,
        fast_math: Sequence[str] = (),
        libraries: str = "auto",
    ):
        need(version in ("beta25", "master"), f"version is beta25 or master, not '{version}'")
        problems: list[Any] = []
        self.layers: list[dict[str, Any]] = []
        need(
            isinstance(layers, Sequence) and all(isinstance(layer, Mapping) for layer in layers),
            "the layers of a SimpleNet are a list of dicts, {'type': 'relu'} for instance",
        )
        for number, layer in enumerate(layers, 1):
            try:
                self.layers.append(tidy(layer, number))
            except NetError as error:
                problems += error.diagnostics
        if problems:
            raise NetError(problems)
        self.meta = {} if meta is None else meta
        self.version = version
        self._turn = Turn("SimpleNet", _INSTEAD)
        self.memory = memory_mode(memory)
        self._choices = Choices(
            exact=bool(exact),
            fast_math=as_names(fast_math, "fast_math"),
            target=target,
            libraries=libraries,
        )
        self._compiled = CompiledPieces()

    @classmethod
    def load(
        cls,
        path: str | Path,
        version: str = "beta25",
        memory: Memory | str = "reuse",
        **choices: Any,
    ) -> SimpleNet:
        """Read a net: `layers` and `meta` as variables of the file, or inside a variable `net`.

        choices: target, exact, fast_math and libraries, as when one is made.

        Raises NetError where the file cannot be read or holds none, or a layer is wrong.
        """
        layers, meta = read_layers(path)
        return cls(layers, meta, version, memory, **choices)

    def summary(self, **sizes: tuple[int, ...]) -> Summary:
        """The table of layers; `sizes` of inputs, H x W x C x N, where the net has none.

        Raises NetError for an input without a size, and for one that a layer cannot take.
        """
        from graphc.mat_model import summary_of

        return summary_of(self, sizes)

    def _repr_svg_(self) -> str | None:
        """The layers as a picture, in a notebook."""
        from graphc.mat_model import picture_of

        return picture_of(self)

    def save(self, path: str | Path) -> None:
        """Write `layers` and `meta` as MatConvNet saves them, for MATLAB too.

        Raises NetError for a custom layer, and where the file cannot be written.
        """
        layers = []
        for layer in self.layers:
            need(
                layer["type"] != "custom",
                f"layer '{layer['name']}' is custom: no .mat file holds its code",
            )
            weights = {"weights": Cell(layer["weights"])} if "weights" in layer else {}
            layers.append({**layer, **weights})
        write_mat(path, {"layers": Cell(layers), "meta": self.meta})

    def piece(self, layers: list[MatLayer], piece: Piece, memory: Memory) -> PieceCall:
        """Layers compiled for a purpose; kept for the next call."""
        choices = replace(self._choices, memory=memory)
        key = (piece, choices, repr(layers))
        return self._compiled.kept(key, lambda: compile_piece("simplenn", layers, piece, choices))


@explained
def simplenn(
    net: SimpleNet | Mapping[str, Any],
    x: Any,
    dzdy: Any = None,
    res: Sequence[Result] | None = None,
    *,
    conserve_memory: bool = False,
    accumulate: bool = False,
    back_prop_depth: float = float("inf"),
    mode: str = "normal",
    skip_forward: bool = False,
    parameter_server: Any = None,
    hold_on: bool = False,
    memory: Memory | str | None = None,
) -> list[Result]:
    """vl_simplenn: run a net, forward, and with dzdy backward; one Result more than layers.

    res[i].x is the input of layer i (from 0) and res[-1].x the net's output.

    Args:
        net: a SimpleNet, or a dict of its `layers` and `meta`.
        x: the input, H x W x C x N.
        dzdy: the derivative of the output, or one number for all elements; None: forward only.
        res: an earlier result, for accumulate and skip_forward.
        conserve_memory: values that MatConvNet drops are None: forward, every x but the last and
            those that precious and loss layers made; backward, what lies between the input and the
            output, unless a precious layer made it. Memory is shared among them during the call.
        accumulate: add the derivatives of weights to those in `res`.
        back_prop_depth: how many layers, from the last, are differentiated.
        mode: "normal" (or "train"), or "test": no dropout, batch normalisation by its third weight.
        skip_forward: only backward, at the values and masks in `res`; x is not read. Each layer is
            differentiated at its own res[i].x, so one that was changed since forward counts. What
            it needs besides (an output, the moments of a batch) is computed again from there.
        parameter_server: gets `push("l{i}_{j}", derivative)`, from the last layer to the first, and
            the derivative's place in dzdw becomes None, unless hold_on.
        memory: for this call, in place of the net's; see `SimpleNet`.
    Raises:
        NetError: for sizes that a layer cannot take, a wrong choice, a `res` that misses what is
            needed, and what a custom layer gets wrong; BudgetError, which is one, where the
            budget for `memory` cannot be met.

    The derivative of batch normalisation in test mode is that of what is computed there;
    MatConvNet differentiates with the batch's moments. In normal mode the third derivative holds
    the batch's moments, times the number of images in version beta25.
    """
    need(mode in MODES, f"mode is one of {', '.join(MODES)}, not '{mode}'")
    if not isinstance(net, SimpleNet):
        need(
            isinstance(net, Mapping) and "layers" in net,
            f"simplenn runs a SimpleNet, or a dict with 'layers', not {type(net).__name__}",
        )
        net = SimpleNet(net["layers"], net.get("meta"))
    run = Run(net, "test" if mode == "test" else "normal", bool(conserve_memory))
    run.memory = net.memory if memory is None else memory_mode(memory)
    run.depth(dzdy is not None, back_prop_depth)
    if skip_forward:
        need(dzdy is not None and res, "skip_forward needs dzdy and the res of a forward call")
    _simplenn(net, run, x, dzdy, res if skip_forward else None)
    if dzdy is not None:
        run.finish(res if accumulate else None, parameter_server if not hold_on else None)
    if conserve_memory:
        run.drop()
    return run.res


@one_at_a_time
def _simplenn(net: SimpleNet, run: Run, x: Any, dzdy: Any, before: Sequence[Result] | None) -> None:
    """What of a call works on the net's compiled pieces."""
    if before is None:
        run.forward(x, dzdy)
    else:
        run.resume(before)
    if dzdy is not None:
        run.backward(dzdy)
