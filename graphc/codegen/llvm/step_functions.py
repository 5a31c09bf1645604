"""The functions of a program's steps: equal kernels are emitted once, some pairs as one."""

from __future__ import annotations

from collections.abc import Sequence

from graphc.codegen.llvm.chained_steps import chain_at
from graphc.codegen.llvm.function import EmittedKernel
from graphc.codegen.llvm.kernel import emit_kernel
from graphc.codegen.llvm.modules import Modules
from graphc.codegen.llvm.register_rows import emit_row_chain
from graphc.codegen.llvm.step import Run
from graphc.codegen.llvm.target import Target
from graphc.plan.program import Program


class StepFunctions:
    """Puts functions into `modules` as they are asked for; `keys` are one a step."""

    def __init__(self, modules: Modules, program: Program, target: Target, keys: Sequence[str]):
        self.modules = modules
        self.program = program
        self.target = target
        self.keys = keys
        self._known: dict[object, EmittedKernel | None] = {}  # None: such steps are no chain

    def chained(self, number: int) -> list[Run]:
        """What a step and the next do where they are one function; nothing where they are not."""
        chain = chain_at(self.program, number)
        if chain is None:
            return []
        key = (self.keys[number], self.keys[number + 1], chain.pattern)
        if key not in self._known:
            name = self._name(chain.name)
            self._known[key] = emit_row_chain(self.modules.module, chain, self.target, name)
            self.modules.cut()
        kernel = self._known[key]
        return [Run(None), Run(kernel, chain.reads, chain.writes)] if kernel else []

    def alone(self, number: int) -> Run:
        """What a step does by itself."""
        step, key = self.program.steps[number], self.keys[number]
        if key not in self._known:
            name = self._name(step.kernel.name)
            self._known[key] = emit_kernel(self.modules.module, step.kernel, self.target, name)
            self.modules.cut()
        inputs = len(step.kernel.inputs)
        return Run(self._known[key], step.arguments[:inputs], step.arguments[inputs:])

    def _name(self, name: str) -> str:
        count = sum(kernel is not None for kernel in self._known.values())
        word = "".join(c if c.isalnum() else "_" for c in name)
        return f"{self.modules.prefix}k{count}_{word}"
