"""Values: what an instruction has made, or a number that is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from graphc.codegen.llvm.ir.types import Type

if TYPE_CHECKING:
    from graphc.codegen.llvm.ir.function import Block

Undefined = object()  # in place of a constant's number: any will do


class Value:
    """What instructions take: a type and what the text calls it."""

    __slots__ = ("text", "type")

    def __init__(self, type_: Type, text: str):
        self.type = type_
        self.text = text

    def __str__(self) -> str:
        """As an argument is written, behind its type."""
        return f"{self.type.text} {self.text}"


class Constant(Value):
    """A known value.

    constant: a number; for a vector a list of them; None for zeros, or `Undefined`.
    """

    __slots__ = ("constant",)

    def __init__(self, type_: Type, constant: Any):
        self.type = type_
        self.constant = constant
        self.text = _text(type_, constant)


class Splat(Constant):
    """One number in all lanes of a vector."""

    __slots__ = ()

    def __init__(self, type_: Type, number: float):
        self.type = type_
        self.constant = number
        self.text = f"splat ({type_.element.text} {type_.element.number(number)})"


class Phi(Value):
    """A value that depends on the block from which its own was entered."""

    __slots__ = ("_incoming",)

    def __init__(self, type_: Type, text: str):
        super().__init__(type_, text)
        self._incoming: list[tuple[Value, Block]] = []

    def add_incoming(self, value: Value, block: Block) -> None:
        """Be `value` where the block before was `block`."""
        self._incoming.append((value, block))

    @property
    def line(self) -> str:
        """The instruction; known once all blocks that lead here are."""
        cases = ", ".join(f"[ {value.text}, %{block.name} ]" for value, block in self._incoming)
        return f"  {self.text} = phi {self.type.text} {cases}"


def _text(type_: Type, constant: Any) -> str:
    if constant is None:
        return type_.null
    if constant is Undefined:
        return "undef"
    if isinstance(constant, Sequence):
        lane = type_.element
        return "<" + ", ".join(f"{lane.text} {lane.number(number)}" for number in constant) + ">"
    return type_.number(constant)
