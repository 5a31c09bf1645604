"""`graphc compile`: a net as a library, a program, an object, a text or a bundle."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from graphc.cli.options import Mode, NetOptions
from graphc.cli.report import busy, print_json
from graphc.cli.session import lowered, open_net


class Emit(StrEnum):
    """What a net can be compiled to."""

    so = "so"
    exe = "exe"
    obj = "obj"
    llvm = "llvm"
    asm = "asm"
    bundle = "bundle"


def compile(
    options: NetOptions,
    output: Annotated[str, typer.Option("--output", "-o", metavar="PATH", help="The file.")],
    emit: Annotated[
        Emit,
        typer.Option(
            help="so: a shared library and a C header. exe: a program that reads and writes .npy"
            " files. obj: an object file and a C header. llvm, asm: text. bundle: for"
            " graphc.load, which compiles nothing."
        ),
    ] = Emit.so,
    target: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="The machine: host, x86-64-v2, x86-64-v3, x86-64-v4, znver4, neoverse-n1 ...;"
            " code for this host may not run on an older processor.",
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
) -> None:
    """Compile the net to a file that runs without Python.

    It has gradients with --mode grad, or where --diff (here a blob's name alone) or --wrt are
    given. The linker is the system's C compiler, or what $CC names.
    """
    from graphc.artifact import save
    from graphc.codegen.llvm.target import Target

    machine = Target.named(target) if target else Target.host()
    if options.mode is None:
        gradients = bool(options.diff or options.wrt)
        options = replace(options, mode=Mode.grad if gradients else Mode.infer)
    with busy("compiling"):
        net = open_net(options)
        parameters = {blob.name: blob.data for blobs in net.params.values() for blob in blobs}
        values = {**parameters, **net._states}
        written = save(lowered(options), values, output, emit.value, machine, beside)
    if options.json:
        print_json({"written": [str(path) for path in written]})
        return
    for path in written:
        typer.echo(f"{path} ({_size(path)})")


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1024:.0f} KiB" if size < 1 << 20 else f"{size / (1 << 20):.1f} MiB"
