"""A whole Program as one CUDA text, and the plan of its launches.

The text holds the prelude, every distinct kernel once, and a function that launches the steps in
order on one table of slots, slot 0 being the arena:

    int graphc_run(void* const* slots, int first, int last, long long* error, cudaStream_t stream)

`error` are two int64 on the device, as in the code for processors. NVRTC leaves the launches out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from graphc.codegen.cuda.expressions import TYPES
from graphc.codegen.cuda.kernel import EmittedKernel, emit_kernel
from graphc.codegen.cuda.library_steps import Extended, extended, library_steps
from graphc.codegen.cuda.prelude import PRELUDE
from graphc.codegen.cuda.text import Text, comment, identifier
from graphc.codegen.cuda.tile_shape import HOPPER, DeviceClass
from graphc.codegen.cuda.tiles import Choice
from graphc.codegen.fingerprint import fingerprint
from graphc.ir.types import DTYPES
from graphc.kernel.lang import Check
from graphc.plan.program import Program, ProgramBuffer, Slot, Step
from graphc.runtime.bundle import CheckEntry, Place, SlotEntry, StepEntry
from graphc.runtime.launch import FREE_SHARED_BYTES, CudaBundle, Launch, LibraryChoice

_MOST_USERS = 6  # of a kernel that its comment names
_ALIGNMENT = 256  # bytes, of scratch memory
_COPIED_TOGETHER = 16  # bytes that a thread copies to shared memory at once


def cuda_text(program: Program, tf32: bool = False) -> str:
    """The program as CUDA C++; see `compile_cuda`."""
    return compile_cuda(program, tf32).text


def kernel_texts(program: Program) -> list[str]:
    """The text of every distinct kernel, in the order in which they first run."""
    return [kernel.text for kernel in _emit_kernels(program, _keys(program), Choice()).values()]


def compile_cuda(
    program: Program,
    tf32: bool = False,
    gpu: DeviceClass = HOPPER,
    libraries: LibraryChoice = "off",
) -> CudaBundle:
    """The text, and the tables that a call needs.

    tf32: float32 contractions use tensor cores, which round what they multiply to 10 bits after the
    point (an error of about 1e-3 of a product). gpu: whose sizes decide about tiles; the text runs
    on others as well. libraries: unless "off", say also which steps a library of NVIDIA's could do,
    and put the kernels beside its calls into the text.
    """
    whole = Extended(program, {}) if libraries == "off" else extended(program, tf32)
    keys = _keys(whole.program)
    emitted = _emit_kernels(whole.program, keys, Choice(tf32, gpu=gpu))
    kernels = [emitted[key] for key in keys]
    scratch = -(-program.arena_bytes // _ALIGNMENT) * _ALIGNMENT
    launches = _launches(whole.program, kernels, scratch)
    most = max((kernel.scratch_bytes for kernel in emitted.values()), default=0)
    arena_bytes = scratch + most if most else program.arena_bytes
    return CudaBundle(
        name=program.name,
        text=_text(program, whole.program, list(emitted.values()), launches, arena_bytes),
        launches=tuple(launches[: len(program.steps)]),
        slots=tuple(
            _slot(name, slot, arena_bytes)
            for name, slot in zip(program.slot_names, program.slots, strict=True)
        ),
        arena_bytes=arena_bytes,
        checks=tuple(
            CheckEntry(step.layer, step.kind, statement.message)
            for step in program.steps
            for statement in step.kernel.body
            if isinstance(statement, Check)
        ),
        steps=tuple(StepEntry(s.kernel.name, s.layer, s.kind, s.backward) for s in program.steps),
        forward_steps=program.forward_steps,
        readable=_places(program, program.readable),
        readable_forward=_places(program, program.readable_forward),
        overwritten=dict(program.overwritten),
        decisions=tuple(
            (step.layer, kernel.why)
            for step, kernel in zip(program.steps, kernels, strict=False)
            if kernel.why
        ),
        libraries=library_steps(whole, kernels, launches),
        library_choice=libraries,
    )


def _launches(program: Program, kernels: Sequence[EmittedKernel], scratch: int) -> list[Launch]:
    """A launch for each step; `scratch` is where in the arena kernels may have their own memory."""
    launches: list[Launch] = []
    first_check = 0
    for step, kernel in zip(program.steps, kernels, strict=True):
        buffers = [program.buffers[name] for name in step.arguments]
        places = tuple((b.slot, b.offset) for b in buffers)
        launches.append(_launch(kernel, places, len(step.kernel.inputs), first_check, scratch))
        first_check += sum(isinstance(s, Check) for s in step.kernel.body)
    return launches


def _slot(name: str, slot: Slot, arena_bytes: int) -> SlotEntry:
    shape = (arena_bytes,) if slot.role == "arena" else slot.type.shape
    return SlotEntry(name, slot.role, slot.type.dtype, shape)


def _launch(
    kernel: EmittedKernel,
    places: tuple[tuple[int, int], ...],
    inputs: int,
    first_check: int,
    scratch: int,
) -> Launch:
    """A kernel's launch."""
    own = ((0, scratch),) if kernel.scratch_bytes else ()
    follower = None
    if kernel.summing is not None:
        follower = _launch(kernel.summing, places, inputs, first_check, scratch)
    return Launch(
        kernel=kernel.name,
        grid=kernel.grid,
        threads=kernel.threads,
        shared_bytes=kernel.shared_bytes,
        places=places + own,
        inputs=inputs,
        first_check=first_check if kernel.checks else None,
        follower=follower,
    )


def _keys(program: Program) -> list[str]:
    """For each step the fingerprint of its kernel."""
    known: dict[int, str] = {}
    for step in program.steps:
        if id(step.kernel) not in known:
            known[id(step.kernel)] = fingerprint(step.kernel)
    return [known[id(step.kernel)] for step in program.steps]


def _places(program: Program, blobs: dict[str, str]) -> dict[str, Place]:
    """Where each blob's buffer lies."""
    found = ((blob, program.buffers[name]) for blob, name in blobs.items())
    return {blob: Place(b.slot, b.offset, b.dtype, b.shape, b.strides) for blob, b in found}


# -- kernels --------------------------------------------------------------------------------------


def _emit_kernels(
    program: Program, keys: Sequence[str], choice: Choice
) -> dict[str, EmittedKernel]:
    users: dict[str, list[int]] = {}
    for number, key in enumerate(keys):
        users.setdefault(key, []).append(number)
    emitted = {}
    for number, (key, steps) in enumerate(users.items()):
        kernel = program.steps[steps[0]].kernel
        emitted[key] = emit_kernel(
            kernel,
            name=f"k{number}_{identifier(kernel.name)}"[:48],
            alone=all(_is_alone(program, program.steps[step]) for step in steps),
            heading=_heading(program, steps),
            choice=replace(choice, aligned=_aligned(program, steps)),
        )
    return emitted


def _aligned(program: Program, steps: Sequence[int]) -> frozenset[str]:
    """The kernel's buffers that begin at a multiple of 16 bytes in each of its steps.

    Every slot does: what the driver allocates is aligned to 256 bytes.
    """
    names = [buffer.name for buffer in program.steps[steps[0]].kernel.buffers]
    return frozenset(
        name
        for place, name in enumerate(names)
        if all(
            program.buffers[program.steps[step].arguments[place]].offset % _COPIED_TOGETHER == 0
            for step in steps
        )
    )


def _heading(program: Program, steps: Sequence[int]) -> list[str]:
    shown = [f"step {number}: {_title(program.steps[number])}" for number in steps[:_MOST_USERS]]
    if len(steps) > _MOST_USERS:
        shown.append(f"and {len(steps) - _MOST_USERS} more steps")
    return shown


def _title(step: Step) -> str:
    """`conv1 (Convolution), backward`."""
    kind = f" ({step.kind})" if step.kind else ""
    return f"{step.layer or 'net'}{kind}{', backward' if step.backward else ''}"


def _is_alone(program: Program, step: Step) -> bool:
    """Whether no output of the step shares bytes with another argument."""
    places = [program.buffers[name] for name in step.arguments]
    first_output = len(step.kernel.inputs)
    return not any(
        _meet(places[output], places[other])
        for output in range(first_output, len(places))
        for other in range(output)
    )


def _meet(a: ProgramBuffer, b: ProgramBuffer) -> bool:
    return (
        a.slot == b.slot
        and a.offset < b.offset + b.span_bytes
        and b.offset < a.offset + a.span_bytes
    )


# -- the text -------------------------------------------------------------------------------------


def _text(
    program: Program,
    whole: Program,
    kernels: Sequence[EmittedKernel],
    launches: Sequence[Launch],
    arena_bytes: int,
) -> str:
    text = Text()
    text.line(f"// '{comment(program.name)}' as CUDA C++: {len(program.steps)} steps,")
    text.line(f"// {len(kernels)} kernels, an arena of {arena_bytes} bytes.")
    text.line()
    parts = [str(text), PRELUDE]
    parts += [kernel.text for kernel in kernels]
    parts.append(_launches_text(program, whole, launches, arena_bytes))
    return "\n".join(parts)


def _launches_text(
    program: Program, whole: Program, launches: Sequence[Launch], arena_bytes: int
) -> str:
    """Those of the whole program, which is `program` and kernels beside library calls."""
    text = Text()
    text.line("#ifndef __CUDACC_RTC__  // what follows runs on the host")
    text.line()
    text.line("// The slots:")
    for number, slot in enumerate(whole.slots):
        kind = f"uint8[{arena_bytes}]" if slot.role == "arena" else slot.type
        text.line(f"//   {number} {slot.role} {comment(slot.name)}: {kind}")
    text.line(f"static const int graphc_steps = {len(program.steps)};")
    text.line(f"static const int graphc_forward_steps = {program.forward_steps};")
    text.line()
    head = (
        "static cudaError_t graphc_launch(void* const* slots, int step, long long* error,"
        " cudaStream_t stream)"
    )
    with text.block(head), text.block("switch (step)"):
        for number, (step, launch) in enumerate(zip(whole.steps, launches, strict=True)):
            if launch.grid:
                _launch_text(text, whole, number, step, launch, arena_bytes)
    text.lines.insert(-1, "  return (cudaError_t)0;")
    text.line()
    text.line(
        "// Steps first .. last - 1, in order; what is returned is not 0 where a launch fails."
    )
    head = (
        'extern "C" int graphc_run(void* const* slots, int first, int last, long long* error,'
        " cudaStream_t stream)"
    )
    with text.block(head):
        with text.block("for (int step = first; step < last; ++step)"):
            text.line("const cudaError_t failed = graphc_launch(slots, step, error, stream);")
            text.line("if (failed) return (int)failed;")
        text.line("return 0;")
    text.line("#endif")
    return str(text)


def _launch_text(
    text: Text, program: Program, number: int, step: Step, launch: Launch, arena_bytes: int
) -> None:
    text.line(f"// {comment(_title(step))}")
    with text.block(f"case {number}:"):
        arguments = []
        formals = step.kernel.buffers
        for position, (formal, name) in enumerate(zip(formals, step.arguments, strict=True)):
            place = program.buffers[name]
            constant = "const " if position < len(step.kernel.inputs) else ""
            kind = f"{constant}{TYPES[formal.dtype]}"
            count = place.span_bytes // DTYPES[formal.dtype]
            _placed(text, position, kind, (place.slot, place.offset), count, name)
            arguments.append(f"&b{position}")
        if launch.follower is not None:
            (dtype,) = {formal.dtype for formal in formals[:2]}
            own = launch.places[-1]
            count = (arena_bytes - own[1]) // DTYPES[dtype]
            _placed(text, len(formals), TYPES[dtype], own, count, "sums of parts")
            arguments.append(f"&b{len(formals)}")
        if launch.first_check is not None:
            text.line(f"int first_check = {launch.first_check};")
            arguments += ["&error", "&first_check"]
        text.line(f"void* arguments[] = {{{', '.join(arguments)}}};")
        if launch.shared_bytes > FREE_SHARED_BYTES:
            text.line(f"graphc_allow_shared({launch.kernel}, {launch.shared_bytes});")
        if launch.follower is not None:
            text.line(f"const cudaError_t failed = {_call(launch)};")
            text.line("if (failed) return failed;")
        text.line(f"return {_call(launch.follower or launch)};")


def _placed(
    text: Text, position: int, kind: str, place: tuple[int, int], count: int, name: str
) -> None:
    slot, offset = place
    text.line(
        f"Buffer<{kind}> b{position} = placed<{kind}>(slots[{slot}],"
        f" {offset}, {count}, {quoted(name)});"
    )


def _call(launch: Launch) -> str:
    return (
        f"cudaLaunchKernel({launch.kernel}, dim3({launch.grid}),"
        f" dim3({launch.threads}), arguments, {launch.shared_bytes}, stream)"
    )


def quoted(name: str) -> str:
    """A name as a C string."""
    return '"' + comment(name).replace("\\", "/").replace('"', "'") + '"'
