"""The function of one kernel: what every emitter fills, and what a program must know of it.

`void name(ptr buffers..., i64 low, i64 high, ptr error, ptr scratch)` runs the share [low, high) of
the loop that threads divide among themselves. `error` points to two int64: the number of a failed
check (from 1, in the kernel), and the value it shows. `scratch` is the thread's own memory (see
`scratch`). Slots begin at multiples of 64 bytes, buffers inside them wherever the plan put them:
only the element's own alignment may be relied on. Last comes the number of the thread, `i64
worker`, where each has a part of a buffer to work in.
"""

from __future__ import annotations

from collections.abc import Callable, Sized
from dataclasses import dataclass, field

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.loops import INT64, POINTER, VOID
from graphc.codegen.llvm.target import Target
from graphc.kernel.lang import Check, Kernel


@dataclass(frozen=True)
class EmittedKernel:
    """A kernel's function and how to share it.

    extent: iterations of the shared loop. unit: shares begin at multiples of it. cost: scalar
    instructions of a whole run, roughly. checks: the messages of its checks, in order.
    scratch_bytes: what each thread works in. grain: units of which shares are best cut into
    multiples; 0: into none, as several take longer than one. workers: threads that have a part of a
    buffer to work in; 0: it takes any number of them. made: the emitter's own decisions, of which
    `schedule_remarks` tells.
    """

    function: ir.Function
    extent: int
    unit: int
    cost: float
    checks: tuple[str, ...]
    scratch_bytes: int = 0
    grain: int = 0
    workers: int = 0
    made: object = field(default=None, compare=False)


Emitter = Callable[[ir.Module, Kernel, Target, str], EmittedKernel | None]


def kernel_function(
    module: ir.Module, buffers: Sized, name: str, has_worker: bool = False
) -> ir.Function:
    """The declaration every emitter fills: buffers, low, high, error, scratch, a worker perhaps."""
    parameters = [POINTER] * len(buffers) + [INT64, INT64, POINTER, POINTER]
    parameters += [INT64] * has_worker
    function = ir.Function(module, ir.FunctionType(VOID, parameters), name)
    function.linkage = "internal"
    function.attributes.append("nounwind")
    function.args[len(buffers) + 3].add_attribute("noalias")  # no buffer lies there
    return function


def check_messages(kernel: Kernel) -> tuple[str, ...]:
    """The messages of a kernel's checks, in order."""
    return tuple(s.message for s in kernel.body if isinstance(s, Check))
