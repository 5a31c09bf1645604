"""One kernel as one `__global__` function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphc.codegen.cuda.body import Body
from graphc.codegen.cuda.contraction import emit_contraction
from graphc.codegen.cuda.expressions import TYPES, counter
from graphc.codegen.cuda.fours import FOUR, emit_fours, fours
from graphc.codegen.cuda.rows import RowBody
from graphc.codegen.cuda.schedule import Schedule, read, schedule
from graphc.codegen.cuda.text import Names, Text, comment
from graphc.codegen.cuda.tiles import SUMMING, SUMMING_THREADS, Choice, TiledKernel
from graphc.kernel.lang import Check, Kernel
from graphc.kernel.text import print_kernel

MOST_BLOCKS = 65536  # of a grid whose threads run several iterations each
_SHOWN_LINES = 12  # of the kernel's own text
DEFAULT_CHOICE = Choice()


@dataclass(frozen=True)
class EmittedKernel:
    """A kernel's function and how it is launched. A grid of 0 blocks: there is nothing to do.

    scratch_bytes: of memory that it wants as one more argument. summing: a second function in
    `text` that has to follow on the same arguments. why: a decision about it, for people.
    """

    name: str
    text: str
    grid: int
    threads: int
    shared_bytes: int
    checks: bool
    scratch_bytes: int = 0
    summing: EmittedKernel | None = None
    why: str = ""


def emit_kernel(
    kernel: Kernel,
    name: str,
    alone: bool,
    heading: Sequence[str] = (),
    choice: Choice = DEFAULT_CHOICE,
) -> EmittedKernel:
    """The function `name`. `alone`: no output ever shares memory with another argument."""
    text = Text()
    for line in heading:
        text.line(f"// {comment(line)}")
    shown = print_kernel(kernel).splitlines()
    for line in shown[:_SHOWN_LINES]:
        text.line(f"//   {comment(line)}"[:160])
    if len(shown) > _SHOWN_LINES:
        text.line(f"//   ... {len(shown) - _SHOWN_LINES} more lines")
    names = Names()
    buffers = {buffer.name: names.fresh(buffer.name) for buffer in kernel.buffers}
    checks = any(isinstance(s, Check) for s in kernel.body)
    form = "AloneBuffer" if alone else "Buffer"
    formals = [f"{form}<const {TYPES[b.dtype]}> {buffers[b.name]}" for b in kernel.inputs]
    formals += [f"{form}<{TYPES[b.dtype]}> {buffers[b.name]}" for b in kernel.outputs]
    last = ["long long* error", "int first_check"] if checks else []

    def head(suffix: str = "", scratch: Sequence[str] = ()) -> str:
        return f"{name}{suffix}({', '.join([*formals, *scratch, *last])})"

    tiled = emit_contraction(text, kernel, names, buffers, head, choice)
    if tiled is not None:
        return _tiled(name, str(text), tiled, checks)
    made = schedule(read(kernel), alone)
    text.line(f'extern "C" __global__ void __launch_bounds__({made.threads})')
    with text.block(head()):
        if made.form == "threads":
            grid, shared_bytes = _threads(text, made, names, buffers, choice.aligned), 0
        else:
            grid, shared_bytes = _block(text, made, names, buffers, alone, choice.aligned)
    return EmittedKernel(name, str(text), grid, made.threads, shared_bytes, checks)


def _tiled(name: str, text: str, tiled: TiledKernel, checks: bool) -> EmittedKernel:
    summing = None
    if tiled.summing_grid:
        summing = EmittedKernel(
            name + SUMMING, "", tiled.summing_grid, SUMMING_THREADS, 0, checks, tiled.scratch_bytes
        )
    return EmittedKernel(
        name,
        text,
        tiled.grid,
        tiled.threads,
        tiled.shared_bytes,
        checks,
        tiled.scratch_bytes,
        summing,
        tiled.why,
    )


def _threads(
    text: Text,
    made: Schedule,
    names: Names,
    buffers: dict[str, str],
    aligned: frozenset[str],
) -> int:
    """A thread an iteration, or four; more than the grid has are taken in turns. The grid."""
    count, nodes = made.iterations, made.nodes
    body = Body(text, names, made, buffers)
    if count == 0 or nodes.size(made.serial) == 0:
        return 0
    chosen = fours(made, aligned)
    count = count if chosen is None else count // FOUR
    grid = min(-(-count // made.threads), MOST_BLOCKS)
    kind = counter(count + grid * made.threads)
    if made.iterations == 1:
        with text.block("if (blockIdx.x * blockDim.x + threadIdx.x == 0)"):
            body.all()
        return 1
    start = names.fresh("e")
    first = "blockIdx.x * blockDim.x + threadIdx.x"
    first = first if kind == "int" else f"(long long){first}"
    step = "gridDim.x * blockDim.x"
    with text.block(f"for ({kind} {start} = {first}; {start} < {count}; {start} += {step})"):
        if chosen is None:
            body.decompose(start, made.parallel)
            body.all()
        else:
            emit_fours(body, chosen, start)
    return grid


def _block(
    text: Text,
    made: Schedule,
    names: Names,
    buffers: dict[str, str],
    alone: bool,
    aligned: frozenset[str],
) -> tuple[int, int]:
    """A block an iteration."""
    body = RowBody(text, names, made, buffers, alone, aligned)
    if made.iterations > 1:
        body.decompose("blockIdx.x", made.parallel)
    body.all()
    return made.iterations, body.shared_bytes
