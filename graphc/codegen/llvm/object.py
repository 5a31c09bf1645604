"""Program -> Bundle: machine code straight from the text, with no optimisation passes between.

The text already has its loops, vectors and invariants where they belong; LLVM selects instructions,
allocates registers and schedules, for one part of the program while the next is emitted. The result
is kept on disk (`graphc.runtime.cache_folder`).
"""

from __future__ import annotations

import itertools
import struct

import llvmlite.binding as llvm

from graphc.codegen.llvm import cache
from graphc.codegen.llvm.modules import Batches
from graphc.codegen.llvm.object_maker import ObjectMaker
from graphc.codegen.llvm.program import emit_program, kernel_keys
from graphc.codegen.llvm.scratch import behind_arena
from graphc.codegen.llvm.target import Target
from graphc.kernel.lang import Check
from graphc.plan.program import Program
from graphc.runtime import cache_folder
from graphc.runtime.bundle import Bundle, CheckEntry, Place, SlotEntry, StepEntry

# Before kept code: what a thread works in, in bytes, and how many objects there are; and for each
# of these its length.
_SCRATCH = struct.Struct("<QQ")
_LENGTH = struct.Struct("<Q")


def compile_program(program: Program, target: Target | None = None) -> Bundle:
    """Machine code for a program, from the cache where it is there. `target` None: this machine."""
    chosen = target or Target.host()
    keys = kernel_keys(program)
    key = cache.key(program, keys, chosen)
    kept = cache_folder.read(key)
    if kept is not None:
        return bundle_of(program, chosen, *_unpacked(kept))
    with ObjectMaker(chosen) as maker:
        emitted = emit_program(program, chosen, keys, Batches(maker.add))
        maker.add(emitted.text)
        objects = maker.objects()
    cache_folder.write(key, _packed(objects, emitted.scratch_bytes))
    return bundle_of(program, chosen, objects, emitted.scratch_bytes)


def _packed(objects: tuple[bytes, ...], scratch_bytes: int) -> bytes:
    """What is kept on disk."""
    lengths = [_LENGTH.pack(len(code)) for code in objects]
    return b"".join([_SCRATCH.pack(scratch_bytes, len(objects)), *lengths, *objects])


def _unpacked(kept: bytes) -> tuple[tuple[bytes, ...], int]:
    """The objects, and what a thread works in."""
    scratch_bytes, count = _SCRATCH.unpack_from(kept)
    begin = _SCRATCH.size + count * _LENGTH.size
    lengths = [length for (length,) in _LENGTH.iter_unpack(kept[_SCRATCH.size : begin])]
    ends = itertools.accumulate(lengths, initial=begin)
    return tuple(kept[one:other] for one, other in itertools.pairwise(ends)), scratch_bytes


def llvm_text(program: Program, target: Target | None = None) -> str:
    """The program as LLVM text."""
    return emit_program(program, target or Target.host(), kernel_keys(program)).text


def assembly_text(program: Program, target: Target | None = None) -> str:
    """The program as the machine's assembly."""
    chosen = target or Target.host()
    module = _module(program, chosen, kernel_keys(program))
    return str(chosen.machine(position_independent=True).emit_assembly(module))


def both_texts(program: Program, target: Target | None = None) -> tuple[str, str]:
    """LLVM text and assembly, for the work of one."""
    chosen = target or Target.host()
    text = llvm_text(program, chosen)
    machine = chosen.machine(position_independent=True)
    return text, str(machine.emit_assembly(llvm.parse_assembly(text)))


def _module(program: Program, target: Target, keys: list[str]) -> llvm.ModuleRef:
    text = emit_program(program, target, keys).text
    target.machine()  # registers the back end before text for it is read
    return llvm.parse_assembly(text)


def bundle_of(
    program: Program, target: Target, objects: tuple[bytes, ...], scratch_bytes: int
) -> Bundle:
    """Machine code with the tables of the program it belongs to.

    scratch_bytes: what a thread works in; the caller's has it behind the planned bytes.
    """
    checks = tuple(
        CheckEntry(step.layer, step.kind, statement.message)
        for step in program.steps
        for statement in step.kernel.body
        if isinstance(statement, Check)
    )
    steps = tuple(
        StepEntry(step.kernel.name, step.layer, step.kind, step.backward) for step in program.steps
    )
    slots = tuple(
        SlotEntry(name, slot.role, slot.type.dtype, slot.type.shape)
        for name, slot in zip(program.slot_names, program.slots, strict=True)
    )
    return Bundle(
        name=program.name,
        objects=objects,
        target=target.name,
        triple=target.triple,
        cpu=target.cpu,
        vector_bytes=target.vector_bytes,
        slots=slots,
        arena_bytes=program.arena_bytes + behind_arena(scratch_bytes),
        checks=checks,
        steps=steps,
        forward_steps=program.forward_steps,
        readable=_places(program, program.readable),
        readable_forward=_places(program, program.readable_forward),
        overwritten=dict(program.overwritten),
    )


def _places(program: Program, blobs: dict[str, str]) -> dict[str, Place]:
    """Where each blob's buffer lies."""
    places = {}
    for blob, name in blobs.items():
        b = program.buffers[name]
        places[blob] = Place(b.slot, b.offset, b.dtype, b.shape, b.strides)
    return places
