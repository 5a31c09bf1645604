"""A call of a DagNet: its layers as one compiled piece, forward and backward."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from graphc.call_arguments import as_names
from graphc.error import NetError, need
from graphc.frontends.matconvnet import losses
from graphc.frontends.matconvnet.array import dropout_mask, four_axes, is_missing, real_kind
from graphc.frontends.matconvnet.block import WEIGHTS
from graphc.frontends.matconvnet.blocks import BatchNorm, DropOut
from graphc.frontends.matconvnet.loss_blocks import Loss
from graphc.frontends.matconvnet.network import MatLayer, executed, execution_order, reached
from graphc.graph_call import Choices
from graphc.mat_call import CompiledPieces, Piece, PieceCall, compile_piece
from graphc.remaining import Remaining, computed, ends

if TYPE_CHECKING:
    from graphc.dagnn import DagNet

Array = np.ndarray


class Run:
    """One `eval` of a net: made from what the user gives, then forward, backward and drop.

    Args:
        given: arrays by variable, H x W x C x N.
        seeds: derivatives by variable; none: forward only.
        pieces: what is compiled already; what this call needs besides is put there.
        masks: of dropout layers, by layer; a frozen layer's serves again, a new one is put there.
    Raises:
        NetError: for arrays, labels or derivatives that do not suit the net.
    """

    def __init__(
        self,
        net: DagNet,
        given: Mapping[str, Any],
        seeds: Mapping[str, Any],
        pieces: CompiledPieces,
        masks: dict[str, Array],
    ):
        self.net = net
        self.pieces, self.masks = pieces, masks
        held = {f"parameter '{n}'": p.held for n, p in net.params.items() if p.held is not None}
        # The parameters' element type, or the inputs' where there are none.
        self.dtype = real_kind(held or {f"variable '{n}'": a for n, a in given.items()})
        self.arrays = {
            n: four_axes(a, f"variable '{n}'") for n, a in given.items() if not is_missing(a)
        }
        precious = frozenset(name for name, variable in net.vars.items() if variable.precious)
        self.remaining = Remaining(bool(net.conserve_memory), precious)
        self.call = self._compiled(tuple(seeds))
        blobs = self.call.net.graph.blobs
        self.given = {
            name: _seed(name, seed, blobs[name].shape, self.dtype) for name, seed in seeds.items()
        }
        self._check_labels()

    # -- compiling --

    def _compiled(self, seeded: tuple[str, ...]) -> PieceCall:
        net = self.net
        layers = list(net.layers.values())
        ordered = [layers[i] for i in execution_order(layers)]
        known = {n: p.held.shape for n, p in net.params.items() if p.held is not None}
        piece = Piece(
            self.dtype,
            "test" if net.mode == "test" else "normal",
            net.version,
            tuple((name, array.shape[::-1]) for name, array in self.arrays.items()),
            tuple(known.items()),
            seeded,
            (),
            (),
            (),
            known=True,
        )
        choices = Choices(
            net.memory,
            net.blockwise_loss,
            bool(net.exact),
            as_names(net.fast_math, "fast_math"),
            target=net.target,
            libraries=net.libraries,
        )
        key = (piece, choices, self.remaining, tuple(repr(_settled(layer)) for layer in ordered))
        return self.pieces.kept(
            key, lambda: compile_piece("dagnn", ordered, self._wanted(ordered, piece), choices)
        )

    def _wanted(self, ordered: list[MatLayer], piece: Piece) -> Piece:
        """The piece with the values and derivatives that this call leaves."""
        run = executed(ordered, [name for name, _ in piece.inputs])
        for name in piece.given:
            need(
                any(name in layer.outputs for layer in run) or name in dict(piece.inputs),
                f"a derivative is given for '{name}', which this call does not compute"
                + _why_left_out(name, ordered, run, piece),
            )
        active, touched = reached(run, piece.given)
        names, last = computed(run, piece), ends(run, piece)
        values = self.remaining.needed_values(run, piece)
        learned = (
            name
            for layer in active
            for position, name in enumerate(layer.params)
            if not (isinstance(layer.block, BatchNorm) and position == 2)
        )
        return replace(
            piece,
            values=tuple(v for v in names if v in values),
            derivatives=tuple(
                v
                for v in names
                if v in touched and self.remaining.keeps_derivative(v, piece) and v not in last
            ),
            wrt=tuple(dict.fromkeys(learned)),
        )

    def _check_labels(self) -> None:
        net = self.call.net
        for layer in net.executed:
            if isinstance(layer.block, Loss) and layer.inputs[1] in self.arrays:
                scores = net.graph.blobs[layer.inputs[0]]
                kind = layer.block.kind
                try:
                    losses.check_labels(self.arrays[layer.inputs[1]], kind, scores.shape[1])
                except NetError as error:
                    raise NetError(f"layer '{layer.name}' (Loss): {error}") from None

    # -- forward --

    def forward(self) -> None:
        """Fill in the values of variables, and follow the losses' means."""
        feed = {name: array.T.astype(self.dtype, copy=False) for name, array in self.arrays.items()}
        feed.update(self._drawn_masks())
        feed.update(self._instance_weights())
        held = {n: p.held for n, p in self.net.params.items() if p.held is not None}
        values = self.call.forward(feed, held, self.given)
        for name, value in values.items():
            self.net.vars[name].value = value.T
        for layer in self.call.net.executed:
            block = self.net.layers[layer.name].block  # perhaps not the one it was compiled with
            if isinstance(block, Loss):
                scores = self.call.net.graph.blobs[layer.inputs[0]].shape[::-1]
                loss = float(values[layer.outputs[0]].sum())
                block.accumulate(loss, scores, block.divides(self.net.version))

    def _drawn_masks(self) -> dict[str, Array]:
        net = self.call.net
        drawn = {}
        for layer in net.executed:
            if layer.name not in net.masks:
                continue
            block = layer.block
            assert isinstance(block, DropOut)
            shape = net.graph.values[net.masks[layer.name]].shape
            held = self.masks.get(layer.name)
            if not block.frozen or held is None or held.shape != shape:
                held = dropout_mask(shape, float(block.rate), self.dtype)
                self.masks[layer.name] = held
            drawn[net.masks[layer.name]] = held
        return drawn

    def _instance_weights(self) -> dict[str, Array]:
        """Those that losses hold now, which need not be those they were compiled with."""
        graph = self.call.net.graph
        found = {}
        for layer in self.call.net.executed:
            block = self.net.layers[layer.name].block
            if isinstance(block, Loss) and WEIGHTS.format(layer.name) in graph.values:
                scores = graph.blobs[layer.inputs[0]].shape[::-1]
                weights = block.own_weights(scores, self.dtype)
                assert weights is not None
                found[WEIGHTS.format(layer.name)] = weights
        return found

    # -- backward --

    def backward(self) -> None:
        """Fill in the derivatives of variables and parameters."""
        piece = self.call.piece
        found, params = self.call.backward(self.given)
        for name, array in found.items():
            self.net.vars[name].der = array.T
        for name in ends(self.call.net.executed, piece):
            if self.remaining.keeps_derivative(name, piece):
                self.net.vars[name].der = self.given[name].T.copy()
        self._add_moments(params)
        self._keep_parameter_derivatives(params)

    def _add_moments(self, params: dict[str, Array]) -> None:
        """The batch's moments, as derivatives of the parameters that hold the running ones."""
        net = self.call.net
        active, _ = reached(net.executed, self.call.piece.given)
        for layer in active:
            if layer.name not in net.moments or len(layer.params) != 3:
                continue
            images = net.graph.blobs[layer.inputs[0]].shape[0]
            scale = images if self.net.version == "beta25" else 1
            total = self.call.moments(layer.name)
            moments = total.reshape(1, 1, 2, total.shape[3]) * total.dtype.type(scale)
            params[layer.params[2]] = params.get(layer.params[2], 0) + moments

    def _keep_parameter_derivatives(self, found: dict[str, Array]) -> None:
        net = self.net
        for name, array in found.items():
            parameter = net.params[name]
            assert parameter.value is not None
            der = array.T.reshape(parameter.value.shape, order="F")
            if net.accumulate and parameter.der is not None:
                der = parameter.der + der
            parameter.der = der
            if net.parameter_server is not None and not net.hold_on:
                net.parameter_server.push(name, der)
                parameter.der = None

    # -- memory --

    def drop(self) -> None:
        """Empty the values that do not remain."""
        staying = self.remaining.values(self.call.net.executed, self.call.piece)
        for name, variable in self.net.vars.items():
            if name not in staying:
                variable.value = None


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
