"""A program as object files for a linker, beside other code and other nets."""

from __future__ import annotations

import re

from graphc.codegen.llvm.modules import Batches
from graphc.codegen.llvm.object import bundle_of
from graphc.codegen.llvm.object_maker import ObjectMaker
from graphc.codegen.llvm.program import emit_program, kernel_keys
from graphc.codegen.llvm.target import Target
from graphc.plan.program import Program
from graphc.runtime.bundle import ENTRIES, Bundle

_UNLOADING = """
@llvm.global_dtors = appending global [1 x { i32, ptr, ptr }]
  [{ i32, ptr, ptr } { i32 65535, ptr @graphc_rest, ptr null }]
"""


def compile_linkable(program: Program, target: Target, prefix: str, whole: bool = False) -> Bundle:
    """A bundle whose machine code calls its entries `PREFIX_run_forward`, `PREFIX_run_backward` ...

    They can be called within the shared library or program that they are linked into, and are not
    seen from outside of it. When that is unloaded, threads that linger in it are sent away.
    whole: in one object, which takes longer to make.
    """
    with ObjectMaker(target) as maker:
        batches = None if whole else Batches(maker.add, f"{prefix}_run_")
        emitted = emit_program(program, target, kernel_keys(program), batches)
        maker.add(_renamed(f"{emitted.text}\n{_UNLOADING}", prefix))
        return bundle_of(program, target, maker.objects(), emitted.scratch_bytes)


def _renamed(text: str, prefix: str) -> str:
    """The text with its entries as `compile_linkable` has them."""
    names = "|".join(entry.removeprefix("graphc_") for entry in ENTRIES)
    hidden = re.sub(rf"^define (?=\w+ @graphc_({names})\()", "define hidden ", text, flags=re.M)
    return re.sub(rf"@graphc_({names})\b", rf"@{prefix}_run_\1", hidden)


def needed_features(target: Target) -> tuple[str, ...]:
    """What an x86-64 processor must have to run a target's code, in the C compilers' words.

    These stand for all: a processor that has them has what came with them. Empty for others, whose
    code uses the base instruction set.
    """
    if not target.triple.startswith(("x86_64", "amd64")):
        return ()
    features = {
        "sse4.1": target.has_rounding,
        "avx": target.vector_bytes >= 32,
        "avx2": target.vector_bytes >= 32 and target.has_fma,
        "fma": target.has_fma,
        "avx512f": target.vector_bytes >= 64,
        "avx512vl": target.vector_bytes >= 64,
    }
    return tuple(name for name, needed in features.items() if needed)
