"""Blocks of the user's own: an operator, or plain Python functions.

net.add_layer("loss", OperatorBlock(Huber(1.0)), ("prediction", "label"), "objective")
net.add_layer("twice", PythonBlock(lambda x: 2 * x, lambda dy, x: 2 * dy), "a", "b")
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphc.error import NetError, need
from graphc.frontends.matconvnet.array import four_axes
from graphc.frontends.matconvnet.block import Block, Surroundings
from graphc.ir.graph import Value
from graphc.ir.op import Op
from graphc.ops.host import HostCall


@dataclass
class OperatorBlock(Block):
    """An operator of one output on the layer's inputs, then its parameters.

    The operator sees axes [N, C, W, H], MATLAB's from the other end.
    """

    op: Any = None
    has_several: ClassVar[bool] = True

    def build(self, x: list[Value], params: list[Value], around: Surroundings) -> Value:
        need(isinstance(self.op, Op), f"an operator is needed, not {type(self.op).__name__}")
        made: Value = self.op(*x, *params)
        need(isinstance(made, Value), f"operator '{self.op.op_name}' has several outputs")
        return made


@dataclass
class PythonBlock(Block):
    """The user's functions, called in the middle of the native program.

    Attributes:
        forward: of the inputs, then the parameters, H x W x C x N: the output.
        backward: of the output's derivative, then what `forward` got: a derivative for each of
            these (None: none), or one array where there is one.
        size: of the sizes H x W x C x N of what `forward` gets: that of its output; None: it is the
            first of them.
    """

    forward: Callable[..., Any] | None = None
    backward: Callable[..., Any] | None = None
    size: Callable[..., Sequence[int]] | None = None
    has_several: ClassVar[bool] = True

    def build(self, x: list[Value], params: list[Value], around: Surroundings) -> Value:
        need(callable(self.forward), "it needs a function 'forward'")
        given = [*x, *params]
        need(given, "it needs an input")
        shape = given[0].shape
        if self.size is not None:
            sizes = [value.shape[::-1] for value in given]
            wanted = tuple(int(extent) for extent in self.size(*sizes))
            need(len(wanted) <= 4, f"its size {wanted} has more than four axes")
            shape = (*wanted, *(1,) * (4 - len(wanted)))[::-1]
        label = f"layer '{around.layer}' (PythonBlock)"
        around.callbacks[around.layer] = FunctionPair(label, self.forward, self.backward)
        made: Value = HostCall(around.layer, (shape,))(*given)
        return made


class FunctionPair:
    """A block's functions, as a program with the user's code calls them."""

    def __init__(self, label: str, forward: Any, backward: Any):
        self.label = label
        self.name = getattr(forward, "__name__", type(forward).__name__)
        self._forward = forward
        self._backward = backward

    def forward(self, bottom: Sequence[Any], top: Sequence[Any]) -> None:
        """Fill the output."""
        made = self._call("forward", self._forward, *(blob.data.T for blob in bottom))
        self._put(top[0].data, made, "output")

    def backward(self, top: Sequence[Any], wanted: list[bool], bottom: Sequence[Any]) -> None:
        """Fill the derivatives that somebody wants."""
        need(callable(self._backward), f"{self.label} has no function 'backward'")
        inputs = [blob.data.T for blob in bottom]
        made = self._call("backward", self._backward, top[0].diff.T, *inputs)
        parts = list(made) if isinstance(made, (tuple, list)) else [made]
        need(
            len(parts) == len(bottom),
            f"{self.label}: backward gives {len(parts)} derivatives for {len(bottom)} inputs",
        )
        for part, blob, is_wanted in zip(parts, bottom, wanted, strict=True):
            if is_wanted and part is not None:
                self._put(blob.diff, part, "derivative")

    def _call(self, what: str, function: Any, *arrays: np.ndarray) -> Any:
        try:
            return function(*arrays)
        except Exception as error:  # the user's code may raise anything
            raise NetError(
                f"{self.label}: {what} raised {type(error).__name__}: {error}"
            ) from error

    def _put(self, place: np.ndarray, made: Any, what: str) -> None:
        array = four_axes(made, f"{self.label}: the {what}").T
        need(
            array.shape == place.shape or array.size == place.size == 1,
            f"{self.label}: the {what} has the size {array.shape[::-1]}, not {place.shape[::-1]}",
        )
        place[...] = array.reshape(place.shape)
