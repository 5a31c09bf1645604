"""Compiled nets as files: libraries, programs, objects, texts, bundles.

Machine code and C are made here; linking is the work of the system's C compiler.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from graphc.codegen import c_api
from graphc.codegen.c_api import Interface
from graphc.codegen.llvm.jit import load as load_code
from graphc.codegen.llvm.linkable import compile_linkable, needed_features
from graphc.codegen.llvm.object import assembly_text, bundle_of, compile_program, llvm_text
from graphc.codegen.llvm.target import Target
from graphc.codegen.shared_arrays import merged
from graphc.error import NetError, need
from graphc.linker import (
    Form,
    c_name,
    find_compiler,
    link,
    moved,
    weights_path,
    without_compiler,
)
from graphc.runtime.bundle import Bundle, Tables, Training
from graphc.runtime.cpu import Executable
from graphc.runtime.loaded import LoadedProgram
from graphc.runtime.parameter_file import (
    STORED,
    Stored,
    file_bytes,
    map_parameters,
    write_parameters,
)
from graphc.runtime.trainer import Trainer
from graphc.training_step import RATE
from graphc.whole_file import write_parts

if TYPE_CHECKING:
    from graphc.driver import Compilation
    from graphc.frontends.caffe.network import CaffeNet
    from graphc.plan.program import Program
    from graphc.solver import Solver

Arrays = Mapping[str, np.ndarray]
Values = Arrays | Callable[[], Arrays]
AnyBundle = TypeVar("AnyBundle", bound=Tables)

# More than this is not put into a program unless asked for: a file can be shared and exchanged.
MOST_EMBEDDED = 32 << 20
# More than this cannot be: code reaches constants within 2 GiB.
MOST_POSSIBLE = 1 << 30

_HEADER_MARK = b" compiled by graphc "  # in the first line of each header
_IS_FOLDER = "'{}', where the weights go, is a folder"


@dataclass(frozen=True)
class Contents:
    """What a file is made of.

    Attributes:
        program: its plan; constants: the values of its constant slots.
        outputs, wrt: slots that forward writes, and whose `NAME.diff` backward writes.
        losses: (slot, weight) of what the loss is the sum of.
        renewed: states that forward renews.
        training: what a step does; None: there are no steps. earlier: the program of all passes of
            a step but the last, and its constants.
        iteration: steps done.
        column_major: users have the axes of slots from last to first, as in MATLAB.
        names: slots that are called otherwise in the file; all names above are those in the file.
    """

    program: Program
    constants: Arrays
    outputs: tuple[str, ...]
    wrt: tuple[str, ...]
    losses: tuple[tuple[str, float], ...] = ()
    renewed: tuple[str, ...] = ()
    training: Training | None = None
    earlier: tuple[Program, Arrays] | None = None
    iteration: int = 0
    column_major: bool = False
    names: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, made: Compilation) -> Contents:
        """Those of a Caffe net. Raises NetError where parts of it need Python."""
        _need_portable(made.caffe)
        graph = made.caffe.graph
        return cls(
            made.program,
            made.graph.constants,
            tuple(graph.outputs),
            made.signature.wrt if made.signature.update is None else (),
            tuple(made.losses),
            tuple(graph.updates),
        )

    @classmethod
    def of_training(cls, solver: Solver) -> Contents:
        """Those of a solver's step, which goes on where the solver is."""
        definition, net = solver.definition, solver.net
        definition.need_steps()
        last, *earlier = net.lowered_steps()
        rule = net.rule
        slots = {slot.name for slot in last.program.slots}
        lasting = [name for name in net.lasting() if name in slots]
        training = Training(
            method=rule.method,
            rates=definition.rates,
            rate=RATE,
            momenta=(rule.settings[0], rule.settings[1]) if rule.method == "Adam" else None,
            passes=rule.passes,
            parameters=tuple(net.arrays.parameters),
            histories=tuple(name for name in lasting if name not in net.arrays.parameters),
            sums=tuple(f"{held.name}.diff" for held in rule.parameters if rule.passes > 1),
            earlier=None,
        )
        return replace(
            cls.of(last),
            training=training,
            earlier=(earlier[0].program, earlier[0].graph.constants) if earlier else None,
            iteration=solver.iter,
        )

    def named(self, bundle: AnyBundle) -> AnyBundle:
        """A bundle of the program, its slots and axes as users know them."""
        return replace(
            bundle,
            slots=tuple(replace(s, name=self._name(s.name)) for s in bundle.slots),
            losses=self.losses,
            renewed=self.renewed,
            column_major=self.column_major,
        )

    def _name(self, slot: str) -> str:
        stem = slot.removesuffix(".diff")
        return self.names.get(stem, stem) + slot[len(stem) :]


def _need_portable(net: CaffeNet) -> None:
    """Raise NetError for layers that compiled files cannot hold."""
    for layer in net.python_layers:
        raise NetError(
            f"layer '{layer}' is Python code, which a compiled file cannot run; write it with"
            " layers of Caffe, or run the net in Python"
        )
    for selection in net.selections:
        makers = [layer for layer, tops in net.layer_tops.items() if selection.tops[0] in tops]
        raise NetError(
            f"layer '{makers[0]}' (Filter) lets as many items pass as its data say; in a compiled"
            " file all shapes are fixed"
        )


def save(
    made: Compilation | Contents,
    parameters: Values,
    path: str | Path,
    form: Form,
    target: Target | None = None,
    beside: bool | None = None,
    name: str | None = None,
) -> list[Path]:
    """Write a compiled net; the files that were written, `path` first.

    Args:
        made: what to compile (see `graphc.driver.lower`, and `Contents`).
        parameters: values by name, `conv1/0`, with the axes of slots; states may be among them.
                Or what gives them, which is asked in a thread while code is generated.
        form: "so" and "obj" come with a C header NAME.h, "exe" is a program.
        target: the machine; None for this one.
        beside: weights in a file beside `path`; False: inside; None: beside if they are large.
            Texts have none; a bundle's are always beside.
        name: what C calls the net: the header's name, and the prefix of its functions; None: as
            the file is called, `libnet.so` is `net`.
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
    is_text = form in ("llvm", "asm")
    need(is_text or place.is_file() or not place.exists(), f"'{place}' is no file to be replaced")
    try:
        if form == "llvm":
            write_parts(place, [llvm_text(program, chosen).encode()])
            return [place]
        if form == "asm":
            write_parts(place, [assembly_text(program, chosen).encode()])
            return [place]
        if form == "bundle":
            return _save_bundle(contents, parameters, place, chosen)
        called = c_name(place) if name is None else name
        need(called == c_api.identifier(called), f"'{called}' is no name in C")
        return _save_linked(contents, parameters, place, form, chosen, beside, called)
    except OSError as error:
        raise NetError(f"cannot write '{error.filename or place}': {error.strerror}") from None


def load(path: str | Path) -> Executable | Trainer:
    """A saved bundle, ready to be called; its weights are mapped from the file beside it.

    path: what `graphc compile --emit bundle` wrote; with `--solver` it has steps of training. The
    arrays of a MatConvNet net are H x W x C x N, in Fortran order; `loaded.arrays` has them all by
    name. Raises NetError where a file is missing, damaged, or for another machine; what is loaded
    does so for a second thread's call meanwhile. Load the bundle once for each thread.
    """
    bundle = Bundle.load(path)
    executable = load_code(bundle, LoadedProgram)
    stored = Stored.empty()
    if _is_stored(bundle):
        stored = map_parameters(weights_path(Path(path)), bundle.slots)
        arrays = stored.arrays.items()
        executable.bind({name: a.T if bundle.column_major else a for name, a in arrays})
    executable.bind_new()
    training = bundle.training
    if training is None:
        return executable
    earlier = load_code(training.earlier) if training.earlier is not None else None
    return Trainer(executable, training, earlier, stored.iteration, stored.passes)


def _bundle(made: Contents, compiled: Callable[[Program, str], Bundle]) -> tuple[Bundle, Arrays]:
    """The bundle with all that its steps need, and the values of its constants.

    compiled: makes a bundle of a program and what its names in a linker end with.
    """
    bundle, training = made.named(compiled(made.program, "")), made.training
    constants = made.constants
    if training is not None and made.earlier is not None:
        program, others = made.earlier
        compiled_earlier = compiled(program, "_pass")
        bundle, earlier, constants = merged(bundle, constants, compiled_earlier, others)
        training = replace(training, earlier=earlier)
    return replace(bundle, training=training), constants


def _save_bundle(made: Contents, values: Values, place: Path, target: Target) -> list[Path]:
    """A bundle and, where it has any, its weights."""
    with _folder_beside(place) as folder, _writing(made, values, folder, target) as weights:
        bundle, _ = _bundle(made, lambda program, _: compile_program(program, target))
        stored = weights()
        if not _is_stored(bundle):
            bundle.save(place)
            return [place]
        beside = weights_path(place)
        need(not beside.is_dir(), _IS_FOLDER.format(beside))
        need(beside != place, f"'{place}' is the name of its weights file; take another one")
        bundle.save(place)
        os.replace(stored, beside)
        return [place, beside]


@contextlib.contextmanager
def _folder_beside(place: Path) -> Iterator[Path]:
    """A folder beside a file, to be gone after the block; what is in it can be moved to `place`."""
    with tempfile.TemporaryDirectory(prefix=".graphc-", dir=place.absolute().parent) as folder:
        yield Path(folder)


@contextlib.contextmanager
def _writing(
    made: Contents, values: Values, folder: Path, target: Target
) -> Iterator[Callable[[], Path]]:
    """A file of the weights is written in a thread meanwhile; what the block gets waits for it.

    240 MB of them take half a second, in which no Python runs.
    """
    tables, constants = _bundle(made, lambda program, _: bundle_of(program, target, (), 0))

    def write() -> Path:
        arrays = values() if callable(values) else values
        path = folder / "weights"
        with path.open("wb") as file:
            write_parameters(file, tables.slots, {**arrays, **constants}, made.iteration)
        return path

    context = contextvars.copy_context()  # notes go where this thread's do
    with ThreadPoolExecutor(1, "graphc-weights") as pool:
        yield pool.submit(context.run, write).result


def _is_stored(bundle: Bundle) -> bool:
    return any(slot.role in STORED for slot in bundle.slots)


# -- what a C compiler links -----------------------------------------------------------------


def _save_linked(
    made: Contents,
    parameters: Values,
    place: Path,
    form: Form,
    target: Target,
    beside: bool | None,
    name: str,
) -> list[Path]:
    """A library, program or object, its header, and perhaps its weights."""
    if form != "exe":
        _need_replaceable(place.with_name(f"{name}.h"))
    compiler = find_compiler(target.triple)
    with _folder_beside(place) as folder, _writing(made, parameters, folder, target) as weights:
        bundle, _ = _bundle(
            made,
            lambda one, end: compile_linkable(one, target, name + end, whole=compiler is None),
        )
        objects = _objects("kernels", bundle)
        if bundle.training is not None and bundle.training.earlier is not None:
            objects |= _objects("passes", bundle.training.earlier)
        inside = Interface(name, bundle, made.outputs, made.wrt, features=needed_features(target))
        goal = weights_path(place)
        outside = compiler is None or _outside(file_bytes(bundle.slots), beside)
        interface = replace(inside, weights_file=goal.name) if outside else inside
        need(not (outside and goal.is_dir()), _IS_FOLDER.format(goal))
        sources = _sources(interface, form)
        need(
            place.name not in (*sources, goal.name),
            f"'{place}' is the name of a file that lies beside it; take another one",
        )
        for file_name, code in objects.items():
            (folder / file_name).write_bytes(code)
        for file_name, text in sources.items():
            (folder / file_name).write_text(text)
        weights()
        if compiler is None:
            return without_compiler(folder, place, form, list(objects), sources, interface)
        parts = [*objects, *(source for source in sources if source.endswith(".c"))]
        link(compiler, folder, form, parts, interface, place)
        return moved(folder, place, form, interface)


def _need_replaceable(header: Path) -> None:
    """Raise NetError where a user's own file, which nobody named, would be lost."""
    if not header.exists():
        return
    with header.open("rb") as file:
        need(
            _HEADER_MARK in file.readline(),
            f"'{header}' is there and was not written by graphc; the header goes elsewhere with"
            " another name for C (--name) or another folder",
        )


def _sources(interface: Interface, form: Form) -> dict[str, str]:
    """C's part of a library, program or object: texts by the names of their files."""
    sources = {
        f"{interface.name}.h": c_api.header_text(interface),
        f"{interface.name}.c": c_api.source_text(interface),
    }
    if form == "exe":
        sources[f"{interface.name}_main.c"] = c_api.main_text(interface)
    return sources


def _objects(name: str, bundle: Bundle) -> dict[str, bytes]:
    """The objects of a program as files for a linker."""
    return {f"{name}{number}.o": code for number, code in enumerate(bundle.objects)}


def _outside(size: int, beside: bool | None) -> bool:
    """Whether `size` bytes of weights go into a file of their own."""
    if beside is None:
        return size > MOST_EMBEDDED
    need(
        beside or size <= MOST_POSSIBLE,
        f"{size >> 20} MiB of weights are too many to be inside; put them in a file beside",
    )
    return beside
