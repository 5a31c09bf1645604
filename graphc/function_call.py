"""A call of one of MatConvNet's functions: its arrays on our axes, its program kept by shapes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from graphc.error import need
from graphc.frontends.matconvnet.array import four_axes, is_missing, real_kind
from graphc.frontends.matconvnet.functions import shown
from graphc.graph_call import GraphCall, compile_graph_call
from graphc.ir.graph import Graph, Value
from graphc.ir.types import TensorType

Array = np.ndarray


@dataclass
class FunctionCall:
    """The inputs of one call, all of one type, turned to our axes.

    Attributes:
        arrays: by the names of the function's arguments, in their order; None where one is missing.
        shapes: as they were given.
        differentiable: the inputs that derivatives are returned of.
    """

    dtype: str
    arrays: dict[str, Array | None]
    shapes: dict[str, tuple[int, ...]]
    differentiable: list[str]

    @classmethod
    def of(cls, arrays: Mapping[str, Any], fixed: Collection[str] = ()) -> FunctionCall:
        """The call on these inputs; those in `fixed` have no derivative.

        Raises NetError where they are of two types, or x is empty.
        """
        given = {name: array for name, array in arrays.items() if not is_missing(array)}
        dtype = real_kind(given)
        made = cls(dtype, {}, {}, [])
        for name, array in arrays.items():
            made.shapes[name] = () if array is None else np.shape(array)
            if name not in fixed:
                made.differentiable.append(name)
            made.arrays[name] = (
                four_axes(array, name).astype(dtype, copy=False).T if name in given else None
            )
        need(made.arrays.get("x", True) is not None, "x is empty")
        return made

    def add(self, name: str, turned: Array, shape: tuple[int, ...]) -> None:
        """One more input without a derivative, turned already; it was given in this shape."""
        self.arrays[name] = turned
        self.shapes[name] = shape

    def run(
        self,
        function: Callable[..., Any],
        dzdy: Any,
        options: dict[str, Any],
        extra: Sequence[str] = (),
    ) -> Any:
        """The value, or the derivatives and the function's further results named in `extra`."""
        types = tuple(
            (name, None if array is None else array.shape) for name, array in self.arrays.items()
        )
        wrt = (
            ()
            if dzdy is None
            else tuple(name for name in self.differentiable if self.arrays[name] is not None)
        )
        key = tuple(sorted((name, _frozen(value)) for name, value in options.items()))
        made = _compiled(function, self.dtype, types, key, wrt, dzdy is not None, tuple(extra))
        inputs = {name: array for name, array in self.arrays.items() if array is not None}
        if dzdy is None:
            return made.call(inputs)["y"].T
        inputs["y.diff"] = _projection(dzdy, made.shape, self.dtype)
        found = made.call(inputs)
        derivatives = [self._derivative(name, found) for name in self.differentiable]
        return (*derivatives, *(found[name].T for name in extra))

    def _derivative(self, name: str, found: dict[str, Array]) -> Array | None:
        if self.arrays[name] is not None:
            return found[f"{name}.diff"].T.reshape(self.shapes[name], order="F")
        empty = self.shapes[name]
        return np.zeros(empty, self.dtype) if empty else None


def _projection(dzdy: Any, shape: tuple[int, ...], dtype: str) -> Array:
    """dzdy turned to our axes; one number stands for all elements."""
    given = four_axes(dzdy, "dzdy")
    need(
        given.size == 1 or given.T.shape == shape,
        f"dzdy of {shown(given.T.shape)} does not fit a value of {shown(shape)}",
    )
    return np.broadcast_to(given.astype(dtype).T, shape)


def _frozen(value: Any) -> Any:
    """An option as something that can be a key: nested tuples for arrays and lists."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(part) for part in value)
    return value.item() if isinstance(value, np.generic) else value


@dataclass(frozen=True)
class _Compiled:
    call: GraphCall
    shape: tuple[int, ...]  # of the value, on our axes


@lru_cache(maxsize=512)
def _compiled(
    function: Callable[..., Any],
    dtype: str,
    types: tuple[tuple[str, tuple[int, ...] | None], ...],
    options: tuple[tuple[str, Any], ...],
    wrt: tuple[str, ...],
    backward: bool,
    extra: tuple[str, ...],
) -> _Compiled:
    graph = Graph(function.__name__)
    arguments: list[Value | None] = [
        None if shape is None else graph.input(name, TensorType(dtype, shape))
        for name, shape in types
    ]
    result = function(*arguments, **dict(options))
    y, *others = result if isinstance(result, tuple) else (result,)
    graph.blobs["y"] = y
    if not backward:
        graph.outputs["y"] = y
        return _Compiled(compile_graph_call(graph), y.shape)
    graph.outputs.update(zip(extra, others, strict=False))
    return _Compiled(compile_graph_call(graph, wrt, ("y",), known=("y",)), y.shape)
