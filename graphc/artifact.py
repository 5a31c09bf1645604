"""Compiled nets as files: libraries, programs, objects, texts, bundles.

Machine code and C are made here; linking is the work of the system's C compiler (`$CC`, else `cc`;
for another architecture `ARCHITECTURE-linux-gnu-gcc`).
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from graphc.codegen import c_api
from graphc.codegen.c_api import Interface
from graphc.codegen.llvm.jit import load as load_code
from graphc.codegen.llvm.linkable import compile_linkable, needed_features
from graphc.codegen.llvm.object import assembly_text, compile_program, llvm_text
from graphc.codegen.llvm.target import Target
from graphc.error import NetError, NetWarning, need
from graphc.runtime.bundle import Bundle
from graphc.runtime.cpu import Executable
from graphc.runtime.launch import CudaBundle
from graphc.runtime.parameter_file import STORED, file_bytes, map_parameters, write_parameters

if TYPE_CHECKING:
    from graphc.driver import Compilation
    from graphc.plan.program import Program

Form = Literal["so", "exe", "obj", "llvm", "asm", "bundle"]
Arrays = Mapping[str, np.ndarray]
AnyBundle = TypeVar("AnyBundle", Bundle, CudaBundle)

# More than this is not put into a program unless asked for: a file can be shared and exchanged.
MOST_EMBEDDED = 32 << 20
# More than this cannot be: code reaches constants within 2 GiB.
MOST_POSSIBLE = 1 << 30
_FLAGS = ("-std=c11", "-O2", "-fPIC", "-fvisibility=hidden")
_LIBRARIES = ("-pthread", "-lm")


@dataclass(frozen=True)
class Contents:
    """What a file is made of.

    Attributes:
        program: its plan; constants: the values of its constant slots.
        outputs, wrt: what forward writes, and what backward writes `NAME.diff` of.
        losses: (output, weight) of what the loss is the sum of.
        column_major: users have the axes of slots from last to first, as in MATLAB.
        names: slots that are called otherwise in the file; all names above are those in the file.
    """

    program: Program
    constants: Arrays
    outputs: tuple[str, ...]
    wrt: tuple[str, ...]
    losses: tuple[tuple[str, float], ...] = ()
    column_major: bool = False
    names: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, made: Compilation) -> Contents:
        """Those of a Caffe net."""
        from graphc.driver import loss_outputs

        graph = made.caffe.graph
        weights = [weight for _, weight in graph.losses]
        losses = tuple(zip(loss_outputs(graph), weights, strict=True))
        return cls(
            made.program, made.graph.constants, tuple(graph.outputs), made.signature.wrt, losses
        )

    def named(self, bundle: AnyBundle) -> AnyBundle:
        """A bundle of the program, its slots and axes as users know them."""
        slots = tuple(replace(s, name=self._name(s.name)) for s in bundle.slots)
        return replace(bundle, slots=slots, column_major=self.column_major)

    def _name(self, slot: str) -> str:
        stem = slot.removesuffix(".diff")
        return self.names.get(stem, stem) + slot[len(stem) :]


def save(
    made: Compilation | Contents,
    parameters: Arrays,
    path: str | Path,
    form: Form,
    target: Target | None = None,
    beside: bool | None = None,
) -> list[Path]:
    """Write a compiled net; the files that were written, `path` first.

    Args:
        made: what to compile (see `graphc.driver.lower`, and `Contents`).
        parameters: values by name, `conv1/0`, with the axes of slots; states may be among them.
        form: "so" and "obj" come with a C header `NAME.h`, "exe" is a program.
        target: the machine; None for this one.
        beside: weights in a file beside `path`; False: inside; None: beside if they are large.
            Texts have none; a bundle's are always beside.
    Raises:
        NetError: where a file cannot be written or linked. Without a C compiler the parts of a
            library or program are written before it is raised; an object is written without its C
            part, with a NetWarning.
    """
    place = Path(path)
    chosen = target or Target.host()
    contents = made if isinstance(made, Contents) else Contents.of(made)
    program = contents.program
    need(place.absolute().parent.is_dir(), f"there is no folder '{place.parent}'")
    need(not place.is_dir(), f"'{place}' is a folder")
    try:
        if form == "llvm":
            place.write_text(llvm_text(program, chosen))
            return [place]
        if form == "asm":
            place.write_text(assembly_text(program, chosen))
            return [place]
        values = {**parameters, **contents.constants}
        if form == "bundle":
            return _save_bundle(contents.named(compile_program(program, chosen)), values, place)
        return _save_linked(contents, values, place, form, chosen, beside)
    except OSError as error:
        raise NetError(f"cannot write '{error.filename or place}': {error.strerror}") from None


def load(path: str | Path) -> Executable:
    """A saved bundle, ready to be called; its weights are mapped from the file beside it.

    The arrays of a MatConvNet net are H x W x C x N, in Fortran order.
    Raises NetError where a file is missing, damaged, or for another machine.
    """
    bundle = Bundle.load(path)
    executable = load_code(bundle)
    if _is_stored(bundle):
        stored = map_parameters(weights_path(Path(path)), bundle.slots)
        executable.bind({n: a.T if bundle.column_major else a for n, a in stored.items()})
    executable.bind_new()
    return executable


def weights_path(path: Path) -> Path:
    """Where the weights of a compiled file lie: those of `libnet.so` in `libnet.weights`."""
    stem = path.name
    for ending in (".so", ".o", ".bundle"):
        stem = stem.removesuffix(ending)
    return path.with_name(f"{stem}.weights")


def find_compiler(triple: str) -> list[str] | None:
    """The command of a C compiler for a machine; None where there is none."""
    chosen = shlex.split(os.environ.get("CC", ""))
    if chosen:
        return chosen if shutil.which(chosen[0]) else None
    architecture = triple.split("-")[0]
    native = architecture == Target.named("host").triple.split("-")[0]
    names = ("cc", "gcc", "clang") if native else (f"{architecture}-linux-gnu-gcc",)
    return next(([name] for name in names if shutil.which(name)), None)


def _save_bundle(bundle: Bundle, values: Arrays, place: Path) -> list[Path]:
    written = [place]
    if _is_stored(bundle):
        written.append(weights_path(place))
        need(written[1] != place, f"'{place}' is the name of its weights file; take another one")
        with written[1].open("wb") as file:
            write_parameters(file, bundle.slots, values)
    bundle.save(place)
    return written


def _is_stored(bundle: Bundle) -> bool:
    return any(slot.role in STORED for slot in bundle.slots)


# -- what a C compiler links -----------------------------------------------------------------


def _save_linked(
    made: Contents,
    values: Arrays,
    place: Path,
    form: Form,
    target: Target,
    beside: bool | None,
) -> list[Path]:
    """A library, program or object, its header, and perhaps its weights."""
    compiler = find_compiler(target.triple)
    name = c_api.identifier(made.program.name)
    bundle = made.named(compile_linkable(made.program, target, name))
    outside = compiler is None or _outside(file_bytes(bundle.slots), beside)
    weights_file = weights_path(place).name if outside else ""
    interface = Interface(
        name=name,
        bundle=bundle,
        outputs=made.outputs,
        wrt=made.wrt,
        losses=made.losses,
        weights_file=weights_file,
        features=needed_features(target),
    )
    sources = {
        f"{name}.h": c_api.header_text(interface),
        f"{name}.c": c_api.source_text(interface),
    }
    if form == "exe":
        sources[f"{name}_main.c"] = c_api.main_text(interface)
    need(
        place.name not in (*sources, weights_path(place).name),
        f"'{place}' is the name of a file that lies beside it; take another one",
    )
    with tempfile.TemporaryDirectory(prefix=".graphc-", dir=place.absolute().parent) as temporary:
        folder = Path(temporary)
        (folder / "kernels.o").write_bytes(bundle.object)
        with (folder / "weights").open("wb") as file:
            write_parameters(file, bundle.slots, values)
        for file_name, text in sources.items():
            (folder / file_name).write_text(text)
        if compiler is None:
            return _without_compiler(folder, place, form, sources, interface)
        _link(compiler, folder, form, [s for s in sources if s.endswith(".c")], interface, place)
        return _moved(folder, place, form, interface)


def _outside(size: int, beside: bool | None) -> bool:
    """Whether `size` bytes of weights go into a file of their own."""
    if beside is None:
        return size > MOST_EMBEDDED
    need(
        beside or size <= MOST_POSSIBLE,
        f"{size >> 20} MiB of weights are too many to be inside; put them in a file beside",
    )
    return beside


def _link(
    compiler: list[str],
    folder: Path,
    form: Form,
    sources: list[str],
    interface: Interface,
    place: Path,
) -> None:
    """Make `linked` in the folder."""
    objects = ["kernels.o"]
    if not interface.weights_file:
        (folder / "weights.s").write_text(c_api.weights_assembly(interface, "weights"))
        sources = [*sources, "weights.s"]
    for source in sources:
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


def _moved(folder: Path, place: Path, form: Form, interface: Interface) -> list[Path]:
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


def _without_compiler(
    folder: Path, place: Path, form: Form, sources: Mapping[str, str], interface: Interface
) -> list[Path]:
    """Write the parts, and say how they become what was asked for."""
    code = place if form == "obj" else place.with_name(f"{place.name}.o")
    moves = {"kernels.o": code, "weights": weights_path(place)}
    moves |= {name: place.with_name(name) for name in sources}
    for part, goal in moves.items():
        os.replace(folder / part, goal)
    written = list(moves.values())
    c_files = [str(place.with_name(name)) for name in sources if name.endswith(".c")]
    if form == "obj":
        advice = f"compile {c_files[0]} too and link both"
    else:
        shared = ["-shared"] if form == "so" else []
        words = ["cc", *_FLAGS, *shared, "-o", str(place), str(code), *c_files, *_LIBRARIES]
        advice = f"run: {shlex.join(words)}"
    message = (
        f"there is no C compiler for {interface.bundle.triple}; written were"
        f" {', '.join(map(str, written))}. Install one (Debian: apt install gcc; $CC names"
        f" another) and {advice}"
    )
    if form != "obj":
        raise NetError(message)
    warnings.warn(message, NetWarning, stacklevel=2)
    return written
