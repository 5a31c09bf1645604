"""A whole Program as LLVM text: one module, or several (see `modules`).

Every distinct kernel becomes one function; every step a small function that takes its buffers'
places from the table of slots and a thread's share of the kernel's loop; these entries run them:

    i32 graphc_forward / graphc_backward / graphc_both (ptr slots, i32 threads, ptr error)
    i32 graphc_step (ptr slots, i32 step, i32 threads, ptr error)
    i32 graphc_timed (ptr slots, i32 first, i32 last, i32 threads, ptr error, ptr timer)
    void graphc_rest ()

`error` are two int64: 0 or the number of a failed check (from 1, in the bundle's table), and the
value it shows. The result is that number.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from graphc.codegen.fingerprint import fingerprint
from graphc.codegen.llvm.modules import Batches, Modules
from graphc.codegen.llvm.step import Run, step_text
from graphc.codegen.llvm.step_functions import StepFunctions
from graphc.codegen.llvm.target import Target
from graphc.codegen.llvm.team import ArenaEnd, team_text
from graphc.codegen.llvm.waits import waits
from graphc.error import visible
from graphc.kernel.lang import Check
from graphc.plan.program import Program


@dataclass(frozen=True)
class EmittedProgram:
    """LLVM text of a program, how many distinct kernels it has, and what a thread works in.

    The text is that of the whole, or of the last part where the others were given away.
    """

    text: str
    kernels: int
    scratch_bytes: int


def kernel_keys(program: Program) -> list[str]:
    """For each step the fingerprint of its kernel; kernels that are one object are read once."""
    known: dict[int, str] = {}
    for step in program.steps:
        if id(step.kernel) not in known:
            known[id(step.kernel)] = fingerprint(step.kernel)
    return [known[id(step.kernel)] for step in program.steps]


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Looking for garbage among instructions that all live takes as long as emitting them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_no_garbage_collection()
def emit_program(
    program: Program, target: Target, keys: Sequence[str], batches: Batches | None = None
) -> EmittedProgram:
    """The text of one module, or of the last where `batches` takes the others.

    `keys` are the kernels' fingerprints, one a step.
    """
    name = visible(program.name, ends="")  # it stands in a comment of one line
    modules = Modules(name, target, batches)
    runs = _runs(modules, program, target, keys)
    functions = list(dict.fromkeys(run.kernel.function for run in runs if run.kernel))
    scratch_bytes = max((run.kernel.scratch_bytes for run in runs if run.kernel), default=0)
    arena = ArenaEnd(program.arena_bytes, scratch_bytes)
    parts = [modules.last(functions), team_text(target, arena, _stop(program))]
    first_check = 0
    for number, (step, run) in enumerate(zip(program.steps, runs, strict=True)):
        parts.append(step_text(number, run, program, first_check))
        first_check += sum(isinstance(s, Check) for s in step.kernel.body)
    work = [int(run.kernel.cost) if run.kernel and run.is_shared else 0 for run in runs]
    touched = [(run.reads, run.writes) for run in runs]
    flags = waits(program, touched, [run.is_shared for run in runs])
    if _stop(program) > 0:
        flags[_stop(program)] = True
    parts.append(_tables_text(flags, work))
    parts.append(_entries_text(program))
    return EmittedProgram("\n".join(parts), len(functions), scratch_bytes)


def _runs(modules: Modules, program: Program, target: Target, keys: Sequence[str]) -> list[Run]:
    """For each step what it does; equal functions are emitted once."""
    functions = StepFunctions(modules, program, target, keys)
    runs: list[Run] = []
    while len(runs) < len(program.steps):
        number = len(runs)
        runs += functions.chained(number) or [functions.alone(number)]
    return runs


def _tables_text(flags: Sequence[bool], work: Sequence[int]) -> str:
    """For each step its function, whether all wait before it, and its instructions if shared."""
    steps = len(flags)
    functions = ", ".join(f"ptr @graphc_step_{n}" for n in range(steps))
    marks = ", ".join(f"i8 {int(flag)}" for flag in flags)
    counts = ", ".join(f"i64 {count}" for count in work)
    return (
        f"@graphc_steps = internal constant [{steps} x ptr] [{functions}]\n"
        f"@graphc_waits = internal constant [{steps} x i8] [{marks}]\n"
        f"@graphc_work = internal constant [{steps} x i64] [{counts}]"
    )


def _stop(program: Program) -> int:
    """The first step of backward, where forward has checks: it may not run on what these refused.

    Backward may change parameters. -1: nothing stops a call.
    """
    forward = program.steps[: program.forward_steps]
    checked = any(isinstance(s, Check) for step in forward for s in step.kernel.body)
    return len(forward) if checked and len(forward) < len(program.steps) else -1


def _entries_text(program: Program) -> str:
    count, forward = len(program.steps), program.forward_steps
    ranges = {
        "graphc_forward": (0, forward),
        "graphc_backward": (forward, count),
        "graphc_both": (0, count),
    }
    parts = [
        f"""
define i32 @{name}(ptr %slots, i32 %threads, ptr %error) nounwind {{
  %code = call i32 @graphc_run(ptr %slots, i64 {first}, i64 {last}, i32 %threads, ptr %error,
    ptr null)
  ret i32 %code
}}"""
        for name, (first, last) in ranges.items()
    ]
    parts.append("""
define i32 @graphc_step(ptr %slots, i32 %step, i32 %threads, ptr %error) nounwind {
  %first = sext i32 %step to i64
  %last = add i64 %first, 1
  %code = call i32 @graphc_run(ptr %slots, i64 %first, i64 %last, i32 %threads, ptr %error,
    ptr null)
  ret i32 %code
}

define i32 @graphc_timed(ptr %slots, i32 %first, i32 %last, i32 %threads, ptr %error, ptr %timer)
  nounwind {
  %from = sext i32 %first to i64
  %to = sext i32 %last to i64
  %code = call i32 @graphc_run(ptr %slots, i64 %from, i64 %to, i32 %threads, ptr %error, ptr %timer)
  ret i32 %code
}
""")
    return "\n".join(parts)
