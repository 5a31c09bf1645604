"""One kernel as one LLVM function, by the first emitter that takes it (see `function`)."""

from __future__ import annotations

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.contraction import emit_contraction
from graphc.codegen.llvm.each import emit_loops
from graphc.codegen.llvm.function import EmittedKernel, Emitter
from graphc.codegen.llvm.interleave import emit_interleave
from graphc.codegen.llvm.register_rows import emit_register_rows
from graphc.codegen.llvm.target import Target
from graphc.codegen.llvm.transpose import emit_transpose
from graphc.codegen.llvm.winograd import emit_winograd
from graphc.codegen.llvm.winograd_gradient import emit_winograd_gradient
from graphc.kernel.lang import Kernel

# Tried in order; each takes the kernel or leaves it (None) to the next. Loops take every kernel.
EMITTERS: list[Emitter] = [
    emit_winograd,
    emit_winograd_gradient,
    emit_contraction,
    emit_transpose,
    emit_interleave,
    emit_register_rows,
    emit_loops,
]


def emit_kernel(module: ir.Module, kernel: Kernel, target: Target, name: str) -> EmittedKernel:
    """Add `kernel` to `module` as the function `name`."""
    for emitter in EMITTERS:
        emitted = emitter(module, kernel, target, name)
        if emitted is not None:
            return emitted
    raise AssertionError("emit_loops takes every kernel")
