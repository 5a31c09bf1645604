"""Modules, functions and blocks: where instructions stand."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from graphc.codegen.llvm.ir.types import FunctionType, Type
from graphc.codegen.llvm.ir.values import Phi, Value

_PLAIN = re.compile(r"[A-Za-z._$-][\w.$-]*", re.ASCII)  # names that need no quotes
_NONTEMPORAL = "!0 = !{ i32 1 }"  # what a store past the caches refers to


class Module:
    """Functions, and the target they are for. Its text is what LLVM reads."""

    def __init__(self, name: str = ""):
        self.name = name
        self.triple = "unknown-unknown-unknown"
        self.data_layout = ""
        self.globals: dict[str, Function] = {}
        self.has_streams = False

    @property
    def functions(self) -> list[Function]:
        """All functions, in the order they were made."""
        return list(self.globals.values())

    def declared(self, name: str, result: Type, arguments: Sequence[Type]) -> Function:
        """A function that is elsewhere, such as one of LLVM's own, declared once."""
        found = self.globals.get(name)
        return found or Function(self, FunctionType(result, list(arguments)), name)

    def __str__(self) -> str:
        name = self.name.encode("unicode_escape").decode()  # what a net is called: any text
        lines = [
            f'; ModuleID = "{name}"',
            f'target triple = "{self.triple}"',
            f'target datalayout = "{self.data_layout}"',
            "",
            *map(str, self.globals.values()),
        ]
        return "\n".join([*lines, _NONTEMPORAL, ""] if self.has_streams else [*lines, ""])


class Argument(Value):
    """An argument of a function."""

    __slots__ = ("attributes",)

    def __init__(self, type_: Type, text: str):
        super().__init__(type_, text)
        self.attributes: list[str] = []

    def add_attribute(self, attribute: str) -> None:
        """Promise LLVM something, such as "noalias"."""
        self.attributes.append(attribute)

    @property
    def declared(self) -> str:
        """As the function's head lists it."""
        return " ".join([self.type.text, *self.attributes, self.text])


class Function:
    """A function: a declaration until it has a block.

    linkage: "internal", or the visibility of one that is seen outside of the module.
    """

    def __init__(self, module: Module, type_: FunctionType, name: str):
        self.module = module
        self.name = name
        self.called = f"@{name}" if _PLAIN.fullmatch(name) else f'@"{name}"'
        self.result = type_.result
        self.args = tuple(Argument(each, f"%a{n}") for n, each in enumerate(type_.arguments))
        self.blocks: list[Block] = []
        self.linkage = ""
        self.attributes: list[str] = []
        self._numbers = itertools.count()
        module.globals[name] = self

    @property
    def is_declaration(self) -> bool:
        """Whether it is elsewhere."""
        return not self.blocks

    def append_basic_block(self, name: str = "block") -> Block:
        """A new block, behind all others; the first is the entry, others get a number."""
        block = Block(self, f"{name}{next(self._numbers)}" if self.blocks else "entry")
        self.blocks.append(block)
        return block

    def fresh(self) -> str:
        """A name that no value of the function has."""
        return f"%v{next(self._numbers)}"

    def __str__(self) -> str:
        if self.is_declaration:
            types = ", ".join(argument.type.text for argument in self.args)
            return f"declare {self.result} {self.called}({types})\n"
        arguments = ", ".join(argument.declared for argument in self.args)
        words = ["define", self.linkage, f"{self.result} {self.called}({arguments})"]
        head = " ".join([*filter(None, words), *self.attributes])
        return "\n".join([f"{head} {{", *(line for b in self.blocks for line in b.text), "}\n"])


class Block:
    """Instructions in a row, of which the last, the terminator, says where to go on.

    The terminator is kept apart: what is put at a block's end stands before it.
    """

    __slots__ = ("function", "lines", "name", "phis", "terminator")

    def __init__(self, function: Function, name: str):
        self.function = function
        self.name = name
        self.phis: list[Phi] = []
        self.lines: list[str] = []
        self.terminator: str | None = None

    @property
    def size(self) -> int:
        """How many instructions it has."""
        return len(self.phis) + len(self.lines) + 1

    @property
    def text(self) -> list[str]:
        """Its lines, behind its name."""
        end = [] if self.terminator is None else [self.terminator]
        return [f"{self.name}:", *(phi.line for phi in self.phis), *self.lines, *end]
