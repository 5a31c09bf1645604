"""The modules that a program's functions are put into: one, or one after another.

Where there are several, each is given away as soon as it is full, so that it can become machine
code while the next is filled. A kernel's function is then seen by the other objects of its program,
and by nobody else. Where a module ends depends on the program alone: the same code comes out
however many threads make it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.target import Target

# A module with at least so many instructions is full: some 0.05 s of work.
FULL = 1000


@dataclass(frozen=True)
class Batches:
    """How a program is given away in parts.

    take: gets the text of every module but the last. prefix: what the names of kernels begin with,
    where a linker sees those of several programs.
    """

    take: Callable[[str], None]
    prefix: str = ""


class Modules:
    """Where functions are put: all into one module, or as `batches` says."""

    def __init__(self, name: str, target: Target, batches: Batches | None):
        self.prefix = batches.prefix if batches else ""
        self._name = name
        self._triple = target.triple
        self._layout = str(target.machine(position_independent=True).target_data)
        self._batches = batches
        self._apart: set[str] = set()
        self.module = self._new()

    def _new(self) -> ir.Module:
        module = ir.Module(self._name)
        module.triple = self._triple
        module.data_layout = self._layout
        return module

    def cut(self) -> None:
        """Give the module away if it is full."""
        if self._batches is None or _instructions(self.module) < FULL:
            return
        self._batches.take(self._shared_text())
        self._apart.update(function.name for function in _defined(self.module))
        self.module = self._new()

    def last(self, called: Iterable[ir.Function]) -> str:
        """The text of the module that was not given away; more can be put behind it.

        `called`: functions that are called there, wherever they are.
        """
        text = str(self.module) if self._batches is None else self._shared_text()
        apart = [function for function in called if function.name in self._apart]
        return "\n".join([text, *map(_declaration, apart)])

    def _shared_text(self) -> str:
        """The module's text, its functions seen by other objects."""
        for function in _defined(self.module):
            function.linkage = "hidden"  # printed where a visibility may stand, too
        return str(self.module)


def _defined(module: ir.Module) -> list[ir.Function]:
    return [function for function in module.functions if not function.is_declaration]


def _instructions(module: ir.Module) -> int:
    return sum(block.size for function in module.functions for block in function.blocks)


def _declaration(function: ir.Function) -> str:
    types = ", ".join(str(argument.type) for argument in function.args)
    return f'declare hidden void @"{function.name}"({types})'
