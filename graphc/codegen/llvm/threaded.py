"""LLVM called by several threads at once.

LLVM allows it where each thread has a context and a target machine of its own. llvmlite allows it
to nobody: all its calls take one lock. So the calls that make machine code are made past it. And
llvmlite's calls all let go of the interpreter's lock; taking that back from a thread that runs
Python costs up to 5 ms. So only the call that takes long lets go of it here.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import llvmlite.binding as llvm
from llvmlite.binding import ffi

_BRIEF = (
    "LLVMPY_ContextCreate",
    "LLVMPY_ContextDispose",
    "LLVMPY_ParseAssembly",
    "LLVMPY_DisposeModule",
    "LLVMPY_GetBufferStart",
    "LLVMPY_GetBufferSize",
    "LLVMPY_DisposeMemoryBuffer",
)
_LONG = ("LLVMPY_TargetMachineEmitToMemory",)


def machine_code(text: str, machine: llvm.TargetMachine) -> bytes:
    """The object file of one module, for a machine that no other thread uses.

    Raises RuntimeError where LLVM refuses the text.
    """
    library = _functions()
    if library is None:
        return bytes(machine.emit_object(llvm.parse_assembly(text, llvm.create_context())))
    context = library["LLVMPY_ContextCreate"]()
    try:
        error = ctypes.c_char_p()
        parse = library["LLVMPY_ParseAssembly"]
        module = parse(context, text.encode(), ctypes.byref(error))
        if not module:
            raise RuntimeError(f"LLVM IR parsing error\n{_said(error)}")
        try:
            return _emitted(machine, module, library)
        finally:
            library["LLVMPY_DisposeModule"](module)
    finally:
        library["LLVMPY_ContextDispose"](context)


def _emitted(machine: llvm.TargetMachine, module: Any, library: dict[str, Any]) -> bytes:
    error = ctypes.c_char_p()
    emit = library["LLVMPY_TargetMachineEmitToMemory"]
    buffer = emit(machine, module, 1, ctypes.byref(error))
    if not buffer:
        raise RuntimeError(_said(error))
    try:
        size = library["LLVMPY_GetBufferSize"](buffer)
        return ctypes.string_at(library["LLVMPY_GetBufferStart"](buffer), size)
    finally:
        library["LLVMPY_DisposeMemoryBuffer"](buffer)


def _said(error: ctypes.c_char_p) -> str:
    """What LLVM says of an error; its own copy goes."""
    with ffi.OutputString(init=error) as words:
        return str(words)


@functools.cache
def _functions() -> dict[str, Any] | None:
    """llvmlite's functions, called without its lock; None for an llvmlite that has others.

    They are no part of what it promises: with others, threads wait for each other, no more.
    """
    found = {}
    for names, load in ((_BRIEF, ctypes.PyDLL), (_LONG, ctypes.CDLL)):
        try:
            library = load(ffi.lib._name)
            both = [(getattr(ffi.lib, name), getattr(library, name)) for name in names]
        except AttributeError:
            return None
        for name, (known, function) in zip(names, both, strict=True):
            function.argtypes, function.restype = known.argtypes, known.restype
            found[name] = function
    return found
