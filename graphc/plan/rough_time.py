"""A rough machine, to choose by: what a step takes, counted from its operations and its bytes."""

from __future__ import annotations

from graphc.kernel.lang import Kernel
from graphc.kernel.work import flops_of, product_flops_of
from graphc.plan.program import Program

# Operations of a tiled product and of all else, bytes moved.
PRODUCTS_PER_SECOND = 50e9
OPERATIONS_PER_SECOND = 5e9
BYTES_PER_SECOND = 10e9


def kernel_seconds(kernel: Kernel, moved: int) -> float:
    """The time of a kernel that moves so many bytes."""
    products = product_flops_of(kernel)
    others = flops_of(kernel) - products
    computing = products / PRODUCTS_PER_SECOND + others / OPERATIONS_PER_SECOND
    return max(computing, moved / BYTES_PER_SECOND)


def shown_seconds(seconds: float) -> str:
    """`0.24 ms`, `480 ms`, `3.9 s`: two digits, as it is a rough count."""
    number, unit = (seconds, "s") if seconds >= 0.995 else (seconds * 1e3, "ms")
    return f"{float(f'{number:.2g}'):g} {unit}"


def program_seconds(program: Program) -> float:
    """The time of a call, forward and backward."""
    computing: dict[tuple[Kernel, int], float] = {}
    total = 0.0
    for step in program.steps:
        moved = sum(program.buffers[name].span_bytes for name in set(step.arguments))
        if (step.kernel, moved) not in computing:
            computing[step.kernel, moved] = kernel_seconds(step.kernel, moved)
        total += computing[step.kernel, moved]
    return total
