"""A call of a SimpleNN net: its layers cut into compiled pieces, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from graphc.error import NetError, need
from graphc.frontends.matconvnet import losses
from graphc.frontends.matconvnet.array import dropout_mask, four_axes, is_missing, real_kind
from graphc.frontends.matconvnet.blocks import DropOut
from graphc.frontends.matconvnet.network import PARAMETER, MatLayer
from graphc.frontends.matconvnet.simplenn import LOSSES, WEIGHTS, block_of, weight_numbers
from graphc.mat_call import Piece, PieceCall

if TYPE_CHECKING:
    from graphc.simple_net import SimpleNet

Array = np.ndarray


@dataclass
class Result:
    """One entry of `res`: a layer's input, what backward found about it, and the layer's times.

    dzdw holds one derivative per weight, None for one that is missing. aux is the mask of the
    dropout layer before. time and backward_time are seconds.
    """

    x: Any = None
    dzdx: Any = None
    dzdw: list[Any] | None = None
    aux: Any = None
    stats: Any = None
    time: float = 0.0
    backward_time: float = 0.0


class Run:
    """The net's layers cut into compiled pieces and custom layers."""

    def __init__(self, net: SimpleNet, mode: str, conserve: bool):
        self.net, self.mode, self.conserve = net, mode, conserve
        self.memory = net.memory
        self.alone = False  # every layer is a piece
        self.dzdy: Any = None  # where the last piece runs forward knowing it
        self.count = len(net.layers)
        self.res = [Result() for _ in range(self.count + 1)]
        self.masks: dict[int, Array] = {}
        self.calls: dict[int, PieceCall] = {}  # by their first layer
        held = {
            f"weight {j} of layer '{layer['name']}'": w
            for layer in net.layers
            for j, w in enumerate(layer.get("weights", ()), 1)
            if not is_missing(w)
        }
        self.dtype = real_kind(held) if held else ""

    def depth(self, backward: bool, depth: float) -> None:
        """The first layer, from 0, that is differentiated."""
        need(depth >= 0, f"back_prop_depth is at least 0, not {depth}")
        reach = min(self.count, int(min(depth, self.count)))
        self.first = self.count - reach if backward else self.count

    # -- the pieces --

    def pieces(self) -> list[list[int]]:
        """Runs of layers that are compiled together; a custom layer stands alone."""
        cut: list[list[int]] = []
        for i, layer in enumerate(self.net.layers):
            custom = layer["type"] == "custom"
            if custom or self.alone or not cut or self.is_custom(cut[-1][-1]):
                cut.append([i])
            else:
                cut[-1].append(i)
        return cut

    def is_custom(self, i: int) -> bool:
        """Whether layer i is the user's."""
        return bool(self.net.layers[i]["type"] == "custom")

    def forward(self, x: Any, dzdy: Any = None) -> None:
        """Fill in values, masks and times. dzdy: what backward will be called with, if it will."""
        self.dzdy = dzdy
        whole = four_axes(x, "x")
        self.dtype = self.dtype or real_kind({"x": whole})
        self.res[0].x = whole.astype(self.dtype, copy=False)
        for layers in self.pieces():
            if self.is_custom(layers[0]):
                self._custom_forward(layers[0])
            else:
                self._piece_forward(layers)

    def resume(self, before: Sequence[Result]) -> None:
        """Take the values, masks and times of an earlier call, and make ready for backward.

        Every layer is differentiated by itself, at its x in `before`, whatever made that.
        """
        need(
            len(before) == self.count + 1,
            f"res has {len(before)} entries; for {self.count} layers there are {self.count + 1}",
        )
        self.alone = True
        self.masks = {i - 1: e.aux for i, e in enumerate(before) if e.aux is not None}
        for i in range(self.first, self.count):
            self.res[i] = self._resumed(before, i)
            if not self.is_custom(i):
                self.dtype = self.dtype or real_kind({"x": self.res[i].x})
                self._piece_forward([i])
        need(before[-1].x is not None, "skip_forward needs the output, res[-1].x")
        for entry, old in zip(self.res, before, strict=True):
            entry.x, entry.time = old.x, old.time
            entry.aux, entry.stats = old.aux, old.stats

    def _resumed(self, before: Sequence[Result], i: int) -> Result:
        """The entry of layer i; a ReLU can be differentiated by its output as well."""
        layer, x = self.net.layers[i], before[i].x
        if x is None and layer["type"] == "relu":
            x = before[i + 1].x
        need(
            x is not None,
            f"skip_forward needs res[{i}].x, the input of layer '{layer['name']}'; run forward"
            " without conserve_memory",
        )
        return Result(x=four_axes(x, f"res[{i}].x"))

    def _custom_forward(self, i: int) -> None:
        layer = self.net.layers[i]
        need(callable(layer.get("forward")), f"layer '{layer['name']}' (custom) has no 'forward'")
        made = layer["forward"](layer, self.res[i], self.res[i + 1])
        need(
            isinstance(made, Result) and made.x is not None,
            f"the forward function of layer '{layer['name']}' must return its last argument with x"
            " set",
        )
        made.x = four_axes(made.x, f"the output of layer '{layer['name']}'")
        self.res[i + 1] = made

    def _piece_forward(self, numbers: list[int]) -> None:
        layers, inputs, held = [], {}, {}
        first, last = numbers[0], numbers[-1]
        inputs[_x(first)] = self.res[first].x.T.astype(self.dtype, copy=False)
        for i in numbers:
            made, extra = self._layer(i)
            layers.append(made)
            inputs.update(extra)
            for j, weight in weight_numbers(self.net.layers[i]):
                held[f"l{i + 1}_{j}"] = four_axes(weight, f"l{i + 1}_{j}").T
        call = self._compiled(layers, numbers, inputs, held)
        self.calls[first] = call
        for i in numbers:
            self._check_labels(i, call)
        inputs.update(self._drawn_masks(call, layers, numbers))
        given = {}
        if call.piece.known:
            output = call.net.graph.blobs[_x(last + 1)]
            given[_x(last + 1)] = self._slope(self.dzdy, output.shape[::-1]).T
        inputs.update((PARAMETER.format(name), array) for name, array in held.items())
        values = call.forward(inputs, {}, given)
        for i in range(first + 1, last + 2):
            if _x(i) in values:
                self.res[i].x = values[_x(i)].T
        for i, layer in zip(numbers, layers, strict=True):
            self.res[i].time = call.seconds[layer.name][0]

    def _layer(self, i: int) -> tuple[MatLayer, dict[str, Array]]:
        """Layer i with its block, and the inputs besides x that it reads."""
        layer = self.net.layers[i]
        extra: dict[str, Array] = {}
        if layer["type"] in LOSSES or layer["type"] == "pdist":
            given = layer.get("class")
            need(
                not is_missing(given),
                f"layer '{layer['name']}' ({layer['type']}) has no field 'class'",
            )
            labels = four_axes(given, f"the class of layer '{layer['name']}'")
            weights = layer.get("instanceWeights") if layer["type"] == "pdist" else None
            if layer["type"] == "softmaxloss" and labels.shape[2] == 2:
                labels, weights = labels[:, :, :1], labels[:, :, 1:]
            extra[f"class{i + 1}"] = labels.T.astype(self.dtype)
            if not is_missing(weights):
                array = four_axes(weights, f"the weights of layer '{layer['name']}'")
                extra[f"weights{i + 1}"] = array.T.astype(self.dtype)
        params = tuple(f"l{i + 1}_{j}" for j, _ in weight_numbers(layer))
        made = MatLayer(
            _layer_name(self.net, i), block_of(layer), (_x(i), *extra), (_x(i + 1),), params
        )
        return made, extra

    def _check_labels(self, i: int, call: PieceCall) -> None:
        layer = self.net.layers[i]
        if layer["type"] in LOSSES:
            labels = four_axes(layer["class"], "class")[:, :, :1]
            channels = call.net.graph.blobs[_x(i)].shape[1]
            try:
                losses.check_labels(labels, "softmaxlog", channels)
            except NetError as error:
                raise NetError(f"layer '{layer['name']}' ({layer['type']}): {error}") from None

    def _compiled(
        self,
        layers: list[MatLayer],
        numbers: list[int],
        inputs: dict[str, Array],
        held: dict[str, Array],
    ) -> PieceCall:
        first, last = numbers[0], numbers[-1]
        backward = last >= self.first
        start = max(first, self.first)
        stay = self.staying_values() | {last + 1} if self.conserve else set(range(self.count + 1))
        slopes = self.staying_slopes() if self.conserve else set(range(self.count + 1))
        learned = tuple(
            name
            for i, layer in zip(numbers, layers, strict=True)
            for j, name in enumerate(layer.params)
            if i >= self.first and not (self.net.layers[i]["type"] == "bnorm" and j == 2)
        )
        piece = Piece(
            self.dtype,
            self.mode,
            self.net.version,
            tuple((name, array.shape) for name, array in inputs.items()),
            tuple((name, array.shape) for name, array in held.items()),
            (_x(last + 1),) if backward else (),
            tuple(_x(i) for i in range(first + 1, last + 2) if i in stay),
            tuple(_x(i) for i in range(start, last + 1) if i in slopes or (i == first > self.first))
            if backward
            else (),
            learned if backward else (),
            known=backward and self.dzdy is not None and last == self.count - 1,
        )
        return self.net.piece(layers, piece, self.memory)

    def _drawn_masks(
        self, call: PieceCall, layers: list[MatLayer], numbers: list[int]
    ) -> dict[str, Array]:
        found = {}
        for i, layer in zip(numbers, layers, strict=True):
            if layer.name not in call.net.masks:
                continue
            name = call.net.masks[layer.name]
            if i not in self.masks:
                assert isinstance(layer.block, DropOut)
                shape = call.net.graph.values[name].shape[::-1]
                self.masks[i] = dropout_mask(shape, float(layer.block.rate), self.dtype)
            found[name] = four_axes(self.masks[i], "mask").T
            self.res[i + 1].aux = self.masks[i]
        return found

    # -- backward --

    def backward(self, dzdy: Any) -> None:
        """Fill in derivatives."""
        last = self.res[-1]
        last.dzdx = self._slope(dzdy, last.x.shape)
        for layers in reversed(self.pieces()):
            if layers[-1] < self.first:
                continue
            if self.is_custom(layers[0]):
                self._custom_backward(layers[0])
            else:
                self._piece_backward(layers)

    def _slope(self, dzdy: Any, shape: tuple[int, ...]) -> Array:
        """dzdy for every element of the output."""
        given = four_axes(dzdy, "dzdy")
        need(
            given.size == 1 or given.shape == shape,
            f"dzdy of {given.shape} does not have the size of the output, {shape}",
        )
        return np.array(np.broadcast_to(given, shape), self.dtype)

    def _custom_backward(self, i: int) -> None:
        layer = self.net.layers[i]
        need(callable(layer.get("backward")), f"layer '{layer['name']}' (custom) has no 'backward'")
        made = layer["backward"](layer, self.res[i], self.res[i + 1])
        need(
            isinstance(made, Result) and made.dzdx is not None,
            f"the backward function of layer '{layer['name']}' must return its second argument with"
            " dzdx set",
        )
        made.dzdx = four_axes(made.dzdx, f"dzdx of layer '{layer['name']}'")
        need(
            made.dzdx.shape == made.x.shape,
            f"layer '{layer['name']}' gives a dzdx of {made.dzdx.shape} for an x of {made.x.shape}",
        )
        self.res[i] = made

    def _piece_backward(self, numbers: list[int]) -> None:
        call = self.calls[numbers[0]]
        after = _x(numbers[-1] + 1)
        slope = self.res[numbers[-1] + 1].dzdx
        variables, params = call.backward({after: slope.T.astype(self.dtype, copy=False)})
        for i in numbers:
            if _x(i) in variables:
                self.res[i].dzdx = variables[_x(i)].T
            if i < self.first:
                continue
            self.res[i].backward_time = call.seconds[_layer_name(self.net, i)][1]
            self._weight_derivatives(i, call, params)

    def _weight_derivatives(self, i: int, call: PieceCall, params: dict[str, Array]) -> None:
        layer = self.net.layers[i]
        if layer["type"] not in WEIGHTS:
            return
        found: list[Any] = [None] * WEIGHTS[layer["type"]]
        for j, weight in weight_numbers(layer):
            name = f"l{i + 1}_{j}"
            if name in params:
                found[j - 1] = params[name].T.reshape(np.shape(weight), order="F")
        name = _layer_name(self.net, i)
        if name in call.net.moments:
            moments = call.moments(name)
            images = self.res[0].x.shape[3] if self.net.version == "beta25" else 1
            found[2] = (moments.T * moments.dtype.type(images)).reshape(
                np.shape(layer["weights"][2]), order="F"
            )
        self.res[i].dzdw = found

    def finish(self, before: Sequence[Result] | None, server: Any) -> None:
        """Add to earlier derivatives, and hand them to a parameter server."""
        for i in reversed(range(self.first, self.count)):
            found = self.res[i].dzdw
            if self.is_custom(i) or found is None:
                continue
            if before is not None and before[i].dzdw is not None:
                old = before[i].dzdw or []
                found = [
                    d if o is None or d is None else o + d for o, d in zip(old, found, strict=True)
                ]
            if server is not None:
                for j, derivative in enumerate(found, 1):
                    if derivative is not None:
                        server.push(f"l{i + 1}_{j}", derivative)
                found = [None] * len(found)
            self.res[i].dzdw = found

    # -- memory --

    def staying_values(self) -> set[int]:
        """Entries of res whose x remains with conserve_memory."""
        layers, stay = self.net.layers, {self.count}
        for i in range(self.count + 1):
            made_by = layers[i - 1] if i else {"precious": False, "type": ""}
            if i < min(self.first, self.count):
                if made_by["precious"] or made_by["type"] in LOSSES:
                    stay.add(i)
            elif i == self.first and i < self.count:
                if i == 0 or (layers[i]["precious"]):
                    stay.add(i)
            elif made_by["precious"]:
                stay.add(i)
        return stay

    def staying_slopes(self) -> set[int]:
        """Entries of res whose dzdx remains with conserve_memory."""
        return {i for i in self.staying_values() if i >= self.first}

    def drop(self) -> None:
        """Empty what does not remain."""
        values, slopes = self.staying_values(), self.staying_slopes()
        for i, entry in enumerate(self.res):
            entry.x = entry.x if i in values else None
            entry.dzdx = entry.dzdx if i in slopes else None


def _x(i: int) -> str:
    """The variable that layer i (from 0) reads, named as in MATLAB."""
    return f"x{i + 1}"


def _layer_name(net: SimpleNet, i: int) -> str:
    """A layer's name, made different from the others'."""
    name = str(net.layers[i]["name"])
    same = any(str(layer["name"]) == name for layer in net.layers[:i])
    return f"{name} ({i + 1})" if same else name
