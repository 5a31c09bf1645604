"""`graphc compile`: a net as a library, a program, an object, a text or a bundle."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from graphc.cli.options import Mode, NetOptions, fast_math_words
from graphc.cli.report import busy, need_writable, print_json, say
from graphc.cli.session import need_no_gradients, open_session, open_solver
from graphc.error import NetError

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, np.ndarray]


class Emit(StrEnum):
    """What a net can be compiled to."""

    so = "so"
    exe = "exe"
    obj = "obj"
    llvm = "llvm"
    asm = "asm"
    bundle = "bundle"
    cuda = "cuda"
    ptx = "ptx"
    cubin = "cubin"


ONLY_CUDA = (Emit.cuda, Emit.ptx, Emit.cubin)


def compile(
    options: NetOptions,
    output: Annotated[str, typer.Option("--output", "-o", metavar="PATH", help="The file.")],
    emit: Annotated[
        Emit,
        typer.Option(
            help="so: a shared library and a C header. exe: a program that reads and writes .npy"
            " files. obj: an object file and a C header. llvm, asm: text. bundle: for"
            " graphc.load, which compiles nothing. cuda: CUDA C++ text. ptx, cubin: what nvcc makes"
            " of it; exe for a GPU reads and writes a folder of .npy files."
        ),
    ] = Emit.so,
    target: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="The machine: host, x86-64-v2, x86-64-v3, x86-64-v4, znver4, neoverse-n1 ...;"
            " code for this host may not run on an older processor. For a GPU: cuda, or its"
            " architecture, sm_90.",
        ),
    ] = "",
    beside: Annotated[
        bool | None,
        typer.Option(
            "--weights-beside/--weights-inside",
            help="Weights in a file that is mapped, or inside of the code; else beside where they"
            " are more than 32 MiB.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What C calls the net, in the header's name NAME.h and before its functions"
            " NAME_forward ...; else as the file is called: libdigits.so is digits.",
        ),
    ] = None,
    solver: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="A solver's prototxt; with it the file has a step of training, and --weights may"
            " be a .solverstate to go on from. The net is NET, whichever the solver names.",
        ),
    ] = None,
) -> None:
    """Compile the net to a file that runs without Python.

    It has gradients with --mode grad, or where --diff (here a blob's name alone) or --wrt are
    given, and trains with --mode train --solver. The linker is the system's C compiler, or what
    $CC names.

    The arrays of a MatConvNet net (.mat) are H x W x C x N there too, column-major in memory as
    MATLAB has them; programs read .npy files of either order.
    """
    need_writable(output)
    _check_name(name, emit)
    if emit in ONLY_CUDA or _is_gpu(target):
        if solver is not None:
            raise typer.BadParameter("--solver compiles steps for processors, not for GPUs")
        _compile_cuda(options, Path(output), emit, target)
        return
    from graphc.artifact import Contents, save
    from graphc.codegen.llvm.target import Target
    from graphc.linker import Form

    machine = Target.named(target) if target else Target.host()
    form = cast(Form, emit.value)
    if solver is not None:
        need_no_gradients(options)
        with busy("compiling"):
            trainer = open_solver(options, solver)
            contents = Contents.of_training(trainer)
            written = save(contents, trainer.net.values(), output, form, machine, beside, name)
        _say(options, written)
        return
    options = _with_mode(options)
    with busy("compiling"):
        net = open_session(options)
        with _meanwhile(net.held) as held:
            written = save(net.contents(), held, output, form, machine, beside, name)
    _say(options, written)


@contextlib.contextmanager
def _meanwhile(work: Callable[[], Arrays]) -> Iterator[Callable[[], Arrays]]:
    """`work` goes on in a thread of its own; what the block gets waits for its result.

    Fillers draw for a second where a net has 240 MB of weights, and need no Python meanwhile.
    """
    context = contextvars.copy_context()  # notes go where this thread's do
    with ThreadPoolExecutor(1, "graphc-held") as pool:
        yield pool.submit(context.run, work).result


def _check_name(name: str | None, emit: Emit) -> None:
    """Wrong usage where C cannot have the name, or nothing has one."""
    from graphc.codegen.c_api import identifier

    if name is None:
        return
    if emit not in (Emit.so, Emit.obj):
        raise typer.BadParameter(f"{emit.value} has no C header", param_hint="--name")
    if name != identifier(name):
        raise typer.BadParameter(
            f"'{name}' is no name in C; '{identifier(name)}' is one", param_hint="--name"
        )


def _with_mode(options: NetOptions) -> NetOptions:
    """Gradients where something about them is asked for."""
    if options.mode is not None:
        return options
    gradients = bool(options.diff or options.wrt)
    return replace(options, mode=Mode.grad if gradients else Mode.infer)


def _is_gpu(target: str) -> bool:
    return target == "cuda" or target.startswith("sm_")


def _compile_cuda(options: NetOptions, path: Path, emit: Emit, target: str) -> None:
    """For a GPU: a text, or what nvcc makes of it."""
    from graphc.codegen.cuda.compiler import OLDEST_ARCHITECTURE, save
    from graphc.codegen.cuda.main import main_text
    from graphc.codegen.cuda.program import compile_cuda

    if emit not in (*ONLY_CUDA, Emit.exe):
        forms = ", ".join(form.value for form in (*ONLY_CUDA, Emit.exe))
        raise typer.BadParameter(f"for a GPU there is {forms}, not {emit.value}")
    architecture = target if target not in ("", "cuda") else OLDEST_ARCHITECTURE
    with busy("compiling"):
        tf32 = "tf32" in fast_math_words(options.exact, options.fast_math)
        direct = replace(_with_mode(options), exact=True, fast_math=None)
        contents = open_session(direct).contents()
        bundle = contents.named(compile_cuda(contents.program, tf32))
        text = main_text(bundle) if emit is Emit.exe else bundle.text
        try:
            save(text, path, emit.value, architecture)
        except OSError as error:
            raise NetError(f"cannot write '{path}': {error.strerror}") from None
    _say(options, [path])


def _say(options: NetOptions, written: list[Path]) -> None:
    if options.json:
        print_json({"written": [str(path) for path in written]})
        return
    for path in written:
        say(f"{path} ({_size(path)})")


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1024:.0f} KiB" if size < 1 << 20 else f"{size / (1 << 20):.1f} MiB"
