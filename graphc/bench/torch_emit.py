"""The words in which operators are translated to torch.

A translation gets `emit`, which adds calls to the module, the node, and its operator. It returns
the value of the node's first output, or a tuple of all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from graphc.ir.graph import Node, Value

Translation = Callable[["Emit", Node, Any], Any]
TRANSLATIONS: dict[str, Translation] = {}


class Emit(Protocol):
    """What a translation may ask for; see `graphc.bench.torch_rival`."""

    torch: Any
    functional: Any
    masked: bool

    def call(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """A call of a torch function."""

    def of(self, value: Value) -> Any:
        """A translated value."""

    def mask(self, node: Node) -> Any:
        """The input that holds a dropout's mask."""

    def buffer(self, tensor: Any) -> Any:
        """A tensor that the module owns."""

    def producer(self, value: Value) -> Node | None:
        """The node that makes a value."""

    def alone(self, value: Value) -> bool:
        """Whether one node alone reads a value."""


def translates(*names: str) -> Callable[[Translation], Translation]:
    """Enter a translation for the operators of these names."""

    def enter(function: Translation) -> Translation:
        TRANSLATIONS.update(dict.fromkeys(names, function))
        return function

    return enter


def written_out(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter `function(torch, op, *tensors)`, plain torch code, for the operators of these names."""

    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        def translation(emit: Emit, node: Node, op: Any) -> Any:
            torch = emit.torch

            def computed(*tensors: Any) -> Any:
                return function(torch, op, *tensors)

            computed.__name__ = op.op_name
            return emit.call(computed, *arguments(emit, node))

        translates(*names)(translation)
        return function

    return enter


def arguments(emit: Emit, node: Node) -> list[Any]:
    """The translated inputs."""
    return [emit.of(value) for value in node.inputs]


def made_by(emit: Emit, value: Value, *names: str) -> Node | None:
    """The node that makes `value`, where it is one of these operators and nobody else reads it."""
    node = emit.producer(value)
    return node if node and node.op.op_name in names and emit.alone(value) else None


def as_type(x: Any, dtype: Any) -> Any:
    """The tensor with other elements."""
    return x.to(dtype)
