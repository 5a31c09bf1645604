"""The system's C compiler, which makes libraries and programs of objects and C sources.

It is what `$CC` names, else `cc`; for another architecture `ARCHITECTURE-linux-gnu-gcc`.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from graphc.codegen import c_api
from graphc.codegen.c_api import Interface
from graphc.codegen.llvm.target import Target
from graphc.error import NetError, NetWarning

Form = Literal["so", "exe", "obj", "llvm", "asm", "bundle"]
# Contraction would give the learning rate other bits on processors with fused multiply-add.
_FLAGS = ("-std=c11", "-O2", "-ffp-contract=off", "-fPIC", "-fvisibility=hidden")
_LIBRARIES = ("-pthread", "-lm")


def weights_path(path: Path) -> Path:
    """Where the weights of a compiled file lie: those of `libnet.so` in `libnet.weights`."""
    return path.with_name(f"{_stem(path)}.weights")


def c_name(path: Path) -> str:
    """What C calls a compiled file unless told otherwise: `libnet.so` is `net`.

    Two files beside each other have two headers then, and fit into one program.
    """
    stem = re.sub(r"\.so(\.\d+)+$", "", path.name)  # libnet.so.1.2
    stem = _stem(path) if stem == path.name else stem
    return c_api.identifier(stem.removeprefix("lib") or stem)


def _stem(path: Path) -> str:
    stem = path.name
    for ending in (".so", ".o", ".bundle"):
        stem = stem.removesuffix(ending)
    return stem


def find_compiler(triple: str) -> list[str] | None:
    """The command of a C compiler for a machine; None where there is none."""
    chosen = shlex.split(os.environ.get("CC", ""))
    if chosen:
        return chosen if shutil.which(chosen[0]) else None
    architecture = triple.split("-")[0]
    names = ("cc", "gcc", "clang") if _is_native(triple) else (f"{architecture}-linux-gnu-gcc",)
    return next(([name] for name in names if shutil.which(name)), None)


def link(
    compiler: list[str],
    folder: Path,
    form: Form,
    parts: list[str],
    interface: Interface,
    place: Path,
) -> None:
    """Make `linked` in the folder, of objects and sources."""
    if not interface.weights_file:
        (folder / "weights.s").write_text(c_api.weights_assembly(interface, "weights"))
        parts = [*parts, "weights.s"]
    objects = [part for part in parts if part.endswith(".o")]
    for source in parts:
        if source.endswith(".o"):
            continue
        objects.append(f"{source}.o")
        flags = _FLAGS if source.endswith(".c") else ()
        _run([*compiler, *flags, "-c", source, "-o", objects[-1]], folder)
    kinds = {
        "obj": ["-r", "-nostdlib"],
        "so": ["-shared", f"-Wl,-soname,{place.name}"],
        "exe": [],
    }
    libraries = () if form == "obj" else _LIBRARIES
    _run([*compiler, *kinds[form], "-o", "linked", *objects, *libraries], folder)


def _run(command: list[str], folder: Path) -> None:
    """Run the C compiler; NetError with its first words where it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        said = "\n".join(done.stderr.strip().splitlines()[:10])
        raise NetError(f"'{shlex.join(command)}' failed:\n{said}")


def moved(folder: Path, place: Path, form: Form, interface: Interface) -> list[Path]:
    """Move what was asked for out of the folder; the rest goes with it."""
    moves = {"linked": place}
    if form != "exe":
        header = f"{interface.name}.h"
        moves[header] = place.with_name(header)
    if interface.weights_file:
        moves["weights"] = weights_path(place)
    for part, goal in moves.items():
        os.replace(folder / part, goal)
    return list(moves.values())


def without_compiler(
    folder: Path,
    place: Path,
    form: Form,
    objects: list[str],
    sources: Mapping[str, str],
    interface: Interface,
) -> list[Path]:
    """Write the parts, and say how they become what was asked for."""
    code = place if form == "obj" else place.with_name(f"{place.name}.o")
    goals = dict(zip(objects, [code, code.with_suffix(".pass.o")], strict=False))
    moves = goals | {"weights": weights_path(place)}
    moves |= {name: place.with_name(name) for name in sources}
    for part, goal in moves.items():
        os.replace(folder / part, goal)
    written = list(moves.values())
    c_files = [str(place.with_name(name)) for name in sources if name.endswith(".c")]
    if form == "obj":
        advice = f"compile {c_files[0]} too and link {'both' if len(goals) == 1 else 'all'}"
    else:
        shared = ["-shared"] if form == "so" else []
        parts = [*map(str, goals.values()), *c_files]
        advice = (
            f"run: {shlex.join(['cc', *_FLAGS, *shared, '-o', str(place), *parts, *_LIBRARIES])}"
        )
    message = (
        f"there is no C compiler for {interface.bundle.triple}; written were"
        f" {', '.join(map(str, written))}. Install one (Debian: apt install"
        f" {_package(interface.bundle.triple)}; $CC names another) and {advice}"
    )
    if form != "obj":
        raise NetError(message)
    warnings.warn(message, NetWarning, stacklevel=2)
    return written


def _package(triple: str) -> str:
    """The Debian package of a C compiler for a machine."""
    architecture = triple.split("-")[0]
    return "gcc" if _is_native(triple) else f"gcc-{architecture.replace('_', '-')}-linux-gnu"


def _is_native(triple: str) -> bool:
    return triple.split("-")[0] == Target.named("host").triple.split("-")[0]
