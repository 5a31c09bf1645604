"""Steps of a program that a library could do, and the kernels beside its calls.

Around a call stand kernels that are generated as all others are: copies of weights into the order
that the library reads, and what follows the sum where the library cannot do that itself. They are
further steps of the program for the purpose of making code, on buffers in a slot of their own: the
memory of library steps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from graphc.codegen.cuda.kernel import EmittedKernel
from graphc.codegen.cuda.library_convolution import convolution
from graphc.codegen.cuda.library_form import LibraryForm, sum_of
from graphc.codegen.cuda.library_product import product
from graphc.codegen.cuda.matrices import matrices
from graphc.codegen.cuda.schedule import read
from graphc.codegen.order import ordered_axes
from graphc.ir.types import DTYPES, TensorType
from graphc.kernel.contraction import match
from graphc.kernel.lang import Axis, Buffer, Kernel, Let, Load, Store, Var
from graphc.kernel.walk import statement_exprs, walk
from graphc.plan.program import Program, ProgramBuffer, Slot, Step
from graphc.runtime.launch import (
    LIBRARY_MEMORY,
    Argument,
    Beside,
    Launch,
    LibraryStep,
    Reference,
)

MEMORY = "memory of library steps"
_ALIGNMENT = 256  # bytes, of each array in it


@dataclass(frozen=True)
class Extra:
    """A kernel beside a call: its number among the extended program's steps, and its arguments."""

    number: int
    arguments: tuple[Reference, ...]


@dataclass(frozen=True)
class Planned:
    """A library step before code is made; operands: the call's. memory_bytes: of its own arrays."""

    form: LibraryForm
    operands: tuple[Reference, ...]
    before: tuple[Extra, ...]
    after: Extra | None
    memory_bytes: int


@dataclass(frozen=True)
class Extended:
    """A program with the kernels beside library calls as further steps."""

    program: Program
    planned: dict[int, Planned]


def library_form(kernel: Kernel, tf32: bool) -> LibraryForm | None:
    """The call that computes a kernel's sums; None where no library does."""
    contraction = match(kernel)
    if contraction is None or contraction.fold.values[0].dtype not in ("float32", "float64"):
        return None
    nodes = read(kernel)
    if any(ordered_axes(nodes).values()) or any(0 in b.shape for b in kernel.buffers):
        return None
    made = matrices(contraction, nodes)
    return product(contraction, made, tf32) or convolution(contraction, tf32)


def extended(program: Program, tf32: bool) -> Extended:
    """The program and what libraries could do of it."""
    builder = _Builder(program)
    forms: dict[int, LibraryForm | None] = {}
    for number, step in enumerate(program.steps):
        if id(step.kernel) not in forms:
            forms[id(step.kernel)] = library_form(step.kernel, tf32)
        form = forms[id(step.kernel)]
        if form is not None:
            builder.add(number, step, form)
    return builder.result()


class _Builder:
    def __init__(self, program: Program):
        self.program = program
        self.slot = len(program.slots)
        self.buffers: dict[str, ProgramBuffer] = {}
        self.steps: list[Step] = []
        self.planned: dict[int, Planned] = {}

    def add(self, number: int, step: Step, form: LibraryForm) -> None:
        """The kernels beside the call of one step; every step has the memory to itself."""
        formals = [buffer.name for buffer in step.kernel.buffers]
        end = 0
        before: list[Extra] = []
        operands: list[Reference] = []
        for operand in form.operands:
            position = formals.index(operand.buffer.name)
            read_from = Reference(position)
            if operand.copied is not None:
                name = f"library{number}~{len(operands)}"
                read_from, end = self._place(name, operand.buffer, operand.copied, end)
                kernel = _copy(operand.buffer, operand.copied)
                names = (step.arguments[position], name)
                arguments = (Reference(position), read_from)
                before.append(self._extra(step, kernel, names, arguments, "copy for a library"))
            operands.append(_behind(read_from, operand.first, operand.buffer))
        stored = _stored(step.kernel)
        after = None
        if form.sums is None:
            result = Reference(formals.index(stored.name))
        else:
            name = f"library{number}~sums"
            result, end = self._place(name, stored, form.sums, end)
            after = self._rest(step, form.sums, name, result)
        operands.insert(2, _behind(result, form.first, stored))
        self.planned[number] = Planned(form, tuple(operands), tuple(before), after, end)

    def _rest(self, step: Step, strides: tuple[int, ...], name: str, sums: Reference) -> Extra:
        """What follows the sums, which are in the buffer of that name."""
        formals = [buffer.name for buffer in step.kernel.buffers]
        kernel = _rest(step.kernel, strides)
        positions = [formals.index(b.name) for b in kernel.buffers[1:]]
        names = (name, *(step.arguments[position] for position in positions))
        arguments = (sums, *map(Reference, positions))
        return self._extra(step, kernel, names, arguments, "after a library's sums")

    def _place(
        self, name: str, like: Buffer, strides: tuple[int, ...], begin: int
    ) -> tuple[Reference, int]:
        """A new array in the memory, and where the next one may begin."""
        made = ProgramBuffer(
            name, like.dtype, like.shape, strides, self.slot, begin, 0, len(self.program.steps)
        )
        self.buffers[name] = made
        end = begin + -(-made.span_bytes // _ALIGNMENT) * _ALIGNMENT
        return Reference(LIBRARY_MEMORY, begin), end

    def _extra(
        self,
        step: Step,
        kernel: Kernel,
        names: tuple[str, ...],
        arguments: tuple[Reference, ...],
        kind: str,
    ) -> Extra:
        self.steps.append(replace(step, kernel=kernel, arguments=names, kind=kind))
        return Extra(len(self.program.steps) + len(self.steps) - 1, arguments)

    def result(self) -> Extended:
        most = max((one.memory_bytes for one in self.planned.values()), default=0)
        if not self.steps:
            return Extended(self.program, self.planned)
        program = replace(
            self.program,
            slots=(*self.program.slots, Slot(MEMORY, "state", TensorType("uint8", (most,)))),
            buffers={**self.program.buffers, **self.buffers},
            steps=(*self.program.steps, *self.steps),
        )
        return Extended(program, self.planned)


def _behind(begin: Reference, elements: int, buffer: Buffer) -> Reference:
    return replace(begin, offset=begin.offset + elements * DTYPES[buffer.dtype])


def _stored(kernel: Kernel) -> Buffer:
    """The buffer of the first store."""
    contraction = match(kernel)
    assert contraction is not None
    return contraction.stores[0].buffer


def _copy(buffer: Buffer, strides: tuple[int, ...]) -> Kernel:
    """A kernel that copies an array into another layout."""
    source = replace(buffer, name="a0")
    target = replace(buffer, name="a1", strides=strides)
    axes = tuple(Axis(f"i{n}", extent) for n, extent in enumerate(buffer.shape))
    index = tuple(Var(axis) for axis in axes)
    store = Store(target, index, Load(source, index))
    return Kernel("copy", (source,), (target,), axes, (store,))


def _rest(kernel: Kernel, strides: tuple[int, ...]) -> Kernel:
    """The kernel with its sum read from an array that is shaped as what its first store fills."""
    contraction = match(kernel)
    assert contraction is not None
    stored, index = contraction.stores[0].buffer, contraction.stores[0].index
    sums = Buffer(kernel.free_name(), stored.dtype, stored.shape, strides)
    body = (Let(sum_of(contraction), Load(sums, index)), *kernel.body[1:])
    loads = {
        part.buffer
        for statement in body
        for expr in statement_exprs(statement)
        for part in walk(expr)
        if isinstance(part, Load)
    }
    inputs = (sums, *(b for b in kernel.inputs if b in loads))
    return Kernel(f"{kernel.name}~after", inputs, kernel.outputs, kernel.each, body)


# -- with their code ------------------------------------------------------------------------------


def library_steps(
    made: Extended, emitted: Sequence[EmittedKernel], launches: Sequence[Launch]
) -> dict[int, LibraryStep]:
    """What an executor needs, by step. emitted, launches: of the extended program's steps."""
    found = {}
    for number, planned in made.planned.items():
        extras = [*planned.before, *([planned.after] if planned.after else [])]
        beside = [Beside(launches[extra.number], extra.arguments) for extra in extras]
        step = made.program.steps[number]
        buffers = [made.program.buffers[name] for name in step.arguments]
        arguments = tuple(Argument(b.dtype, b.span_bytes) for b in buffers)
        facts = (planned.form.call, planned.operands, arguments, launches[number].grid)
        offsets = [buffer.offset % _ALIGNMENT for buffer in buffers]
        texts = [emitted[n].text for n in (number, *(extra.number for extra in extras))]
        parts = [repr(facts), repr(offsets), *map(_code, texts)]
        found[number] = LibraryStep(
            planned.form.call,
            planned.operands,
            tuple(beside[: len(planned.before)]),
            beside[-1] if planned.after else None,
            planned.memory_bytes,
            arguments,
            hashlib.sha256("\n".join(parts).encode()).hexdigest(),
        )
    return found


def _code(text: str) -> str:
    """A kernel's text without its name, and without comments, which tell of layers."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("//")]
    return "\n".join(line.partition("(")[2] if line.startswith("k") else line for line in lines)
