"""A whole Program as one LLVM module.

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

from llvmlite import ir

from graphc.codegen.fingerprint import fingerprint
from graphc.codegen.llvm.chained_steps import chain_at
from graphc.codegen.llvm.claims import least_uncut
from graphc.codegen.llvm.function import EmittedKernel
from graphc.codegen.llvm.kernel import emit_kernel
from graphc.codegen.llvm.register_rows import emit_row_chain
from graphc.codegen.llvm.target import Target
from graphc.codegen.llvm.team import ArenaEnd, team_text
from graphc.error import visible
from graphc.kernel.lang import Check
from graphc.plan.program import Program

# Steps of fewer scalar instructions are not worth waking other threads for.
WORTH_SHARING = 20_000
# Nor are shares of fewer worth being cut into pieces that threads take from each other.
WORTH_CLAIMING = 2_000_000


@dataclass(frozen=True)
class EmittedProgram:
    """LLVM text of a program, how many distinct kernels it has, and what a thread works in."""

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
def emit_program(program: Program, target: Target, keys: Sequence[str]) -> EmittedProgram:
    """The module's text. `keys` are the kernels' fingerprints, one a step."""
    module = ir.Module(visible(program.name, ends=""))  # it stands in a comment of one line
    module.triple = target.triple
    module.data_layout = str(target.machine(position_independent=True).target_data)
    runs = _runs(module, program, target, keys)
    scratch_bytes = max((run.kernel.scratch_bytes for run in runs if run.kernel), default=0)
    arena = ArenaEnd(program.arena_bytes, scratch_bytes)
    parts = [str(module), team_text(target, arena, _stop(program))]
    first_check = 0
    for number, (step, run) in enumerate(zip(program.steps, runs, strict=True)):
        parts.append(_step_text(number, run, program, first_check))
        first_check += sum(isinstance(s, Check) for s in step.kernel.body)
    work = [int(run.kernel.cost) if run.kernel and run.is_shared else 0 for run in runs]
    touched = [(run.reads, run.writes) for run in runs]
    flags = waits(program, touched, [run.is_shared for run in runs])
    if _stop(program) > 0:
        flags[_stop(program)] = True
    parts.append(_tables_text(flags, work))
    parts.append(_entries_text(program))
    functions = {run.kernel.function.name for run in runs if run.kernel}
    return EmittedProgram("\n".join(parts), len(functions), scratch_bytes)


@dataclass(frozen=True)
class _Run:
    """What a step does: a function, and the names of the buffers that it reads and writes.

    No function: its work is done by the step behind it.
    """

    kernel: EmittedKernel | None
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()

    @property
    def is_shared(self) -> bool:
        """Whether its loop is worth waking other threads for."""
        kernel = self.kernel
        return kernel is not None and kernel.cost >= WORTH_SHARING and kernel.extent > kernel.unit

    @property
    def is_claimed(self) -> bool:
        """Whether threads may take pieces of each other's shares."""
        kernel = self.kernel
        may = kernel is not None and kernel.grain > 0 and kernel.cost >= WORTH_CLAIMING
        return may and self.is_shared


def _runs(module: ir.Module, program: Program, target: Target, keys: Sequence[str]) -> list[_Run]:
    """For each step what it does; equal functions are emitted once."""
    known: dict[object, EmittedKernel | None] = {}
    runs: list[_Run] = []
    while len(runs) < len(program.steps):
        number = len(runs)
        step, inputs = program.steps[number], len(program.steps[number].kernel.inputs)
        count = sum(kernel is not None for kernel in known.values())
        chain = chain_at(program, number)
        if chain is not None:
            key: object = (keys[number], keys[number + 1], chain.pattern)
            if key not in known:
                name = f"k{count}_{_word(chain.name)}"
                known[key] = emit_row_chain(module, chain, target, name)
            if (kernel := known[key]) is not None:
                runs += [_Run(None), _Run(kernel, chain.reads, chain.writes)]
                continue
        key = keys[number]
        if key not in known:
            name = f"k{count}_{_word(step.kernel.name)}"
            known[key] = emit_kernel(module, step.kernel, target, name)
        runs.append(_Run(known[key], step.arguments[:inputs], step.arguments[inputs:]))
    return runs


def _word(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)


def _step_text(number: int, run: _Run, program: Program, first_check: int) -> str:
    lines = [
        f"define internal void @graphc_step_{number}"
        "(ptr %slots, i64 %thread, i64 %threads, ptr %error, ptr %scratch, ptr %claims) nounwind {",
        "entry:",
    ]
    kernel = run.kernel
    if kernel is None:
        return "\n".join([*lines, "  ret void", "}"])
    arguments = []
    for position, name in enumerate((*run.reads, *run.writes)):
        place = program.buffers[name]
        lines.append(f"  %s{position} = getelementptr ptr, ptr %slots, i64 {place.slot}")
        lines.append(f"  %b{position} = load ptr, ptr %s{position}")
        lines.append(f"  %p{position} = getelementptr i8, ptr %b{position}, i64 {place.offset}")
        arguments.append(f"ptr %p{position}")
    found = "%found" if kernel.checks else "%error"
    if kernel.checks:
        lines += ["  %found = alloca [2 x i64], align 8", "  store i64 0, ptr %found"]
    lines += _work_lines(run, kernel, number)
    arguments += ["i64 %low", "i64 %high", f"ptr {found}", "ptr %scratch"]
    arguments += ["i64 %thread"] * bool(kernel.workers)
    lines += ["  br i1 %mine, label %run, label %done", "run:"]
    lines.append(f"  call void @{kernel.function.name}({', '.join(arguments)})")
    behind = "next" if run.is_claimed else "done"
    lines += _report_lines(first_check, behind) if kernel.checks else [f"  br label %{behind}"]
    return "\n".join([*lines, "done:", "  ret void", "}"])


def _work_lines(run: _Run, kernel: EmittedKernel, number: int) -> list[str]:
    """%low and %high: what to run now; %mine: whether it is anything."""
    if run.is_claimed:
        return [*_team_lines(kernel), *_claim_lines(kernel, number)]
    if run.is_shared:
        return [*_team_lines(kernel), *_share_lines(kernel)]
    return [
        "  %low = add i64 0, 0",
        f"  %high = add i64 {kernel.extent}, 0",
        "  %mine = icmp eq i64 %thread, 0",
    ]


def _team_lines(kernel: EmittedKernel) -> list[str]:
    """%size: how many threads share; others, who lack memory to work in, have nothing to do."""
    if not kernel.workers:
        return ["  %size = add i64 %threads, 0"]
    return [
        f"  %fits = icmp ult i64 %threads, {kernel.workers}",
        f"  %size = select i1 %fits, i64 %threads, i64 {kernel.workers}",
        "  %works = icmp ult i64 %thread, %size",
        "  br i1 %works, label %share, label %done",
        "share:",
    ]


def _share_lines(kernel: EmittedKernel) -> list[str]:
    """Thread t of n takes units floor(t u / n) .. floor((t + 1) u / n) - 1 of u."""
    return [
        f"  %low_product = mul i64 %thread, {_units(kernel)}",
        "  %low_unit = udiv i64 %low_product, %size",
        f"  %high_product = add i64 %low_product, {_units(kernel)}",
        "  %high_unit = udiv i64 %high_product, %size",
        *_bound_lines(kernel),
    ]


def _claim_lines(kernel: EmittedKernel, number: int) -> list[str]:
    """Pieces of what thread t has, and then of others', until there are none."""
    numbers = number, _units(kernel), kernel.grain, least_uncut(kernel.grain)
    words = ["ptr %claims", "i64 %thread", "i64 %size", *(f"i64 {n}" for n in numbers)]
    return [
        "  br label %next",
        "next:",
        f"  %piece = call {{ i64, i64 }} @graphc_claim({', '.join(words)})",
        "  %low_unit = extractvalue { i64, i64 } %piece, 0",
        "  %high_unit = extractvalue { i64, i64 } %piece, 1",
        *_bound_lines(kernel),
    ]


def _units(kernel: EmittedKernel) -> int:
    return -(-kernel.extent // kernel.unit)


def _bound_lines(kernel: EmittedKernel) -> list[str]:
    """From units to iterations, and whether there are any."""
    return [
        f"  %low = mul i64 %low_unit, {kernel.unit}",
        f"  %high_whole = mul i64 %high_unit, {kernel.unit}",
        f"  %beyond = icmp ugt i64 %high_whole, {kernel.extent}",
        f"  %high = select i1 %beyond, i64 {kernel.extent}, i64 %high_whole",
        "  %mine = icmp ult i64 %low, %high",
    ]


def _report_lines(first_check: int, behind: str) -> list[str]:
    """A failed check's number is counted inside its kernel; pass it on as one of the program's."""
    return [
        "  %code = load i64, ptr %found",
        "  %bad = icmp ne i64 %code, 0",
        f"  br i1 %bad, label %report, label %{behind}",
        "report:",
        "  %value_place = getelementptr i64, ptr %found, i64 1",
        "  %value = load i64, ptr %value_place",
        "  %shown_place = getelementptr i64, ptr %error, i64 1",
        "  store i64 %value, ptr %shown_place",
        f"  %number = add i64 %code, {first_check}",
        "  store i64 %number, ptr %error",
        f"  br label %{behind}",
    ]


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


# -- which steps must wait -------------------------------------------------------------------

Names = tuple[str, ...]
_Bytes = tuple[int, int, int]  # slot, first byte, past the last byte


def waits(
    program: Program, touched: Sequence[tuple[Names, Names]], shared: Sequence[bool]
) -> list[bool]:
    """For each step whether all threads must have finished the steps before it.

    Between two steps that touch the same bytes, one of them writing, there is always a wait, unless
    thread 0 alone runs both. `touched`: what each step reads and what it writes, by name.
    """
    flags: list[bool] = []
    since: list[tuple[list[_Bytes], list[_Bytes], bool]] = []
    for names, parallel in zip(touched, shared, strict=True):
        reads, writes = (_bytes(program, some) for some in names)
        wait = any(
            (parallel or other_parallel)
            and (
                _meet(writes, other_reads)
                or _meet(writes, other_writes)
                or _meet(reads, other_writes)
            )
            for other_reads, other_writes, other_parallel in since
        )
        if wait:
            since = []
        since.append((reads, writes, parallel))
        flags.append(wait)
    return flags


def _bytes(program: Program, names: Names) -> list[_Bytes]:
    places = [program.buffers[name] for name in names]
    return [(p.slot, p.offset, p.offset + p.span_bytes) for p in places]


def _meet(left: Sequence[_Bytes], right: Sequence[_Bytes]) -> bool:
    return any(a[0] == b[0] and a[1] < b[2] and b[1] < a[2] for a in left for b in right)
