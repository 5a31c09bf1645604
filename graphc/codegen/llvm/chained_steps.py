"""Steps that are run as one: what the first makes row by row, the second takes from registers.

The gradient of a normalisation across channels needs, of each pixel, sums of what a first kernel
makes of the pixel. Run one after the other they read every image twice, and what lies between them
is written and read for nothing. `register_rows` runs both pixel by pixel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from graphc.kernel.alongside import renamed
from graphc.kernel.lang import Kernel
from graphc.plan.program import Program, ProgramBuffer, Step


@dataclass(frozen=True)
class Chain:
    """Two steps that might be one.

    link: the array that the first makes and the second alone reads. reads, writes: the others.
    """

    first: Step
    second: Step
    link: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]

    @property
    def name(self) -> str:
        """The names of both kernels."""
        return f"{self.first.kernel.name}+{self.second.kernel.name}"

    @property
    def pattern(self) -> tuple[int, ...]:
        """Which arguments of the two are one array."""
        names = (*self.first.arguments, *self.second.arguments)
        return tuple(names.index(name) for name in names)

    def kernels(self) -> list[Kernel]:
        """Both kernels, their buffers named as the arrays."""
        return [_with_actuals(step) for step in (self.first, self.second)]


def chain_at(program: Program, number: int) -> Chain | None:
    """Step `number` and the one behind it, if they may be one: the first has nothing to do then."""
    if number + 1 >= len(program.steps) or number + 1 == program.forward_steps:
        return None
    steps = program.steps[number : number + 2]
    made = _outputs(steps[0])
    if len(made) != 1 or made[0] not in _inputs(steps[1]):
        return None
    (link,) = made
    place = program.buffers[link]
    shown = {*program.readable.values(), *program.readable_forward.values()}
    if place.slot != 0 or place.needed != number + 1 or link in shown:
        return None
    if any(len(set(step.arguments)) < len(step.arguments) for step in steps):
        return None
    names = dict.fromkeys(name for step in steps for name in _inputs(step) if name != link)
    reads, writes = tuple(names), _outputs(steps[1])
    stored = [program.buffers[name] for name in writes]
    if not all(_in_any_order(program.buffers[name], s) for name in reads for s in stored):
        return None
    return Chain(steps[0], steps[1], link, reads, writes)


def _inputs(step: Step) -> tuple[str, ...]:
    return step.arguments[: len(step.kernel.inputs)]


def _outputs(step: Step) -> tuple[str, ...]:
    return step.arguments[len(step.kernel.inputs) :]


def _in_any_order(read: ProgramBuffer, stored: ProgramBuffer) -> bool:
    """Whether rows may be read after other rows were stored: the same places, or none in common."""
    if read.slot != stored.slot:
        return True
    if (read.offset, read.strides, read.shape, read.dtype) == (
        stored.offset,
        stored.strides,
        stored.shape,
        stored.dtype,
    ):
        return True
    ends = [place.offset + place.span_bytes for place in (read, stored)]
    return ends[0] <= stored.offset or ends[1] <= read.offset


def _with_actuals(step: Step) -> Kernel:
    pairs = zip(step.kernel.buffers, step.arguments, strict=True)
    return renamed(step.kernel, {b: replace(b, name=name) for b, name in pairs}, {}, {})
