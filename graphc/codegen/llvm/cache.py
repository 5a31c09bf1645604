"""The name under which a program's machine code is kept on disk (`runtime.cache_folder`)."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

import llvmlite

from graphc.codegen.llvm.chained_steps import chain_at
from graphc.codegen.llvm.target import Target
from graphc.plan.program import Program


def key(program: Program, kernels: Sequence[str], target: Target) -> str:
    """A name for the machine code of a program: all that it depends on, hashed.

    `kernels` are the fingerprints of the steps' kernels.
    """
    parts = [_version(), repr(target), f"{program.forward_steps} {program.arena_bytes}"]
    for step, kernel in zip(program.steps, kernels, strict=True):
        places = [program.buffers[name] for name in step.arguments]
        parts.append(f"{kernel} {[(p.slot, p.offset, p.span_bytes) for p in places]}")
    steps = range(len(program.steps))
    parts.append(str([number for number in steps if chain_at(program, number) is not None]))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@functools.cache
def _version() -> str:
    """A digest of the code generator itself: another generator makes other code."""
    digest = hashlib.sha256(llvmlite.__version__.encode())
    for source in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()
