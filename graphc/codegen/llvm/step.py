"""What a program does at a step: a small function around the one of the step's kernel.

It takes the buffers' places from the table of slots, and what this thread has to do of the kernel's
loop; a kernel whose checks failed tells it, and it tells the program.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphc.codegen.llvm.claims import least_uncut
from graphc.codegen.llvm.function import EmittedKernel
from graphc.plan.program import Program

# Steps of fewer scalar instructions are not worth waking other threads for.
WORTH_SHARING = 20_000
# Nor are shares of fewer worth being cut into pieces that threads take from each other.
WORTH_CLAIMING = 2_000_000


@dataclass(frozen=True)
class Run:
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


def step_text(number: int, run: Run, program: Program, first_check: int) -> str:
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


def _work_lines(run: Run, kernel: EmittedKernel, number: int) -> list[str]:
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
