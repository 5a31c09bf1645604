"""LLVM's language as far as graphc speaks it, written as text at once.

The names are those of llvmlite's `ir`, which keeps every instruction as an object that can still be
changed, and writes the text in the end. Here an instruction is its line from the start, and a value
no more than a type and a name, which takes a third of the time:

    define internal void @halve(ptr %a0, i64 %a1) nounwind {
    entry:
      %v0 = getelementptr float, ptr %a0, i64 %a1
      %v1 = load float, ptr %v0, align 4
      %v2 = fmul float %v1, 0x3fe0000000000000
      store float %v2, ptr %v0, align 4
      ret void
    }
"""

from graphc.codegen.llvm.ir.builder import IRBuilder
from graphc.codegen.llvm.ir.function import Block, Function, Module
from graphc.codegen.llvm.ir.types import (
    ArrayType,
    DoubleType,
    FloatType,
    FunctionType,
    IntType,
    PointerType,
    Type,
    VectorType,
    VoidType,
)
from graphc.codegen.llvm.ir.values import Constant, Phi, Splat, Undefined, Value

__all__ = [
    "ArrayType",
    "Block",
    "Constant",
    "DoubleType",
    "FloatType",
    "Function",
    "FunctionType",
    "IRBuilder",
    "IntType",
    "Module",
    "Phi",
    "PointerType",
    "Splat",
    "Type",
    "Undefined",
    "Value",
    "VectorType",
    "VoidType",
]
