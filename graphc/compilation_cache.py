"""Whole compilations kept on disk: what was compiled once starts without the compiler.

What is kept is a bundle, as `graphc compile --emit bundle` writes it, and the few facts that those
ask for who have run it. The name of a file is a digest of all that a compilation depends on,
graphc's own sources among it; whoever looks inside gets the stages made anew. Errors are never
kept, and the front end, whose warnings and errors are those that a user sees, always runs.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import os
import platform
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from graphc.error import NetError
from graphc.ir.graph import Graph
from graphc.ir.op import REGISTRY
from graphc.ir.printer import print_graph
from graphc.runtime import cache_folder
from graphc.runtime.bundle import Bundle
from graphc.runtime.parameter_file import slot_bytes

_FIRST_LINE = b"graphc compilation 1\n"
_LENGTHS = struct.Struct("<QQ")
# More data than this are not copied once more onto the disk.
_MOST_CONSTANT_BYTES = 16 << 20
# Parts of graphc that show what others have compiled.
_ONLY_SHOWING = {"bench", "cli", "report"}


@dataclass(frozen=True)
class Surface:
    """What is asked for of a compilation by those who run it.

    Attributes:
        blobs: names of all blobs and gradients, `conv1.diff`, that the graph has after all passes.
        outputs: what the call returns, in order.
        constants: data that belong to the definition, by slot.
    """

    blobs: frozenset[str]
    outputs: tuple[str, ...]
    constants: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, graph: Graph) -> Surface:
        """That of a graph after all passes."""
        return cls(frozenset(graph.blobs), tuple(graph.outputs), graph.constants)


@dataclass(frozen=True)
class Kept:
    """A compilation as far as it is needed to run it."""

    bundle: Bundle
    surface: Surface


def key(graph: Graph, asked: object, machine: str) -> str | None:
    """The name for what is compiled of a front end's graph; None where it cannot be kept.

    Args:
        asked: what it is compiled for; its `repr` tells all that matters.
        machine: all that code depends on besides the program.
    Code of the user's has no digest: nothing is kept where an operator, which a pass might put into
    any graph, is not graphc's own. (The caller keeps no graph that calls functions of the user's.)
    """
    data = graph.constants
    if sum(array.nbytes for array in data.values()) > _MOST_CONSTANT_BYTES:
        return None
    if not _only_own_operators():
        return None
    try:
        text = print_graph(graph, data=False, places=False)
    except NetError:  # a field that has no text
        return None
    digest = hashlib.sha256(_digest_of_this_process().encode())
    for part in (machine, repr(asked), repr(_variables()), text):
        digest.update(f"{len(part)} {part}\n".encode())
    for name, array in data.items():
        digest.update(f"{name!r} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return f"net-{digest.hexdigest()}"


def _only_own_operators() -> bool:
    """Whether every method of every operator is graphc's: some may have been put in later."""
    return all(
        (item.__module__ or "").startswith("graphc.")
        for kind in REGISTRY.values()
        for item in (kind, *vars(kind).values())
        if inspect.isclass(item) or inspect.isfunction(item)
    )


def _variables() -> list[tuple[str, str]]:
    """The environment variables that graphc reads, but for the cache's own."""
    return sorted(
        (name, value)
        for name, value in os.environ.items()
        if name.startswith("GRAPHC_") and name != cache_folder.ENVIRONMENT
    )


@functools.cache
def _digest_of_this_process() -> str:
    """That of the compiler as it was when it was first asked for: reading all of it takes time."""
    return compiler_digest()


def compiler_digest() -> str:
    """A digest of the compiler itself, as its files are now, and of what it is made with."""
    made_with = f"Python {platform.python_version()}, numpy {np.__version__}"
    digest = hashlib.sha256(made_with.encode())
    root = os.path.dirname(__file__)
    for folder, inner, files in os.walk(root):  # pathlib's way takes twice as long
        inner[:] = sorted(set(inner) - _ONLY_SHOWING)
        for name in sorted(files):
            if name.endswith(".py"):
                place = os.path.join(folder, name)
                with open(place, "rb", buffering=0) as file:
                    content = file.read()
                digest.update(f"\n{os.path.relpath(place, root)} {len(content)}\n".encode())
                digest.update(content)
    return digest.hexdigest()


def read(name: str) -> Kept | None:
    """What is kept under a name; None where there is none, or none that can be used."""
    content = cache_folder.read(name)
    try:
        return None if content is None else _parsed(content)
    except (NetError, ValueError, KeyError, TypeError, struct.error, RecursionError):
        return None


def _parsed(content: bytes) -> Kept | None:
    """Raises all sorts of errors for what was not written by `write`."""
    if not content.startswith(_FIRST_LINE):
        return None
    start = len(_FIRST_LINE) + _LENGTHS.size
    facts_bytes, bundle_bytes = _LENGTHS.unpack(content[len(_FIRST_LINE) : start])
    middle = start + facts_bytes
    end = middle + bundle_bytes
    facts = json.loads(content[start:middle])
    bundle = Bundle.of_content(content[middle:end], "kept on disk")
    constants = {}
    for slot in bundle.slots:
        if slot.role == "constant":
            count = slot_bytes(slot) // np.dtype(slot.dtype).itemsize
            flat = np.frombuffer(content, slot.dtype, count, end)
            constants[slot.name] = flat.reshape(slot.shape)
            end += slot_bytes(slot)
    if end != len(content):
        return None
    return Kept(bundle, Surface(frozenset(facts["blobs"]), tuple(facts["outputs"]), constants))


def write(name: str, kept: Kept) -> None:
    """Keep a compilation. Where that cannot be done, it is compiled again next time."""
    bundle, surface = kept.bundle, kept.surface
    names = {"blobs": sorted(surface.blobs), "outputs": list(surface.outputs)}
    facts, program = json.dumps(names).encode(), bundle.content()
    arrays = [
        np.ascontiguousarray(surface.constants[slot.name], slot.dtype).tobytes()
        for slot in bundle.slots
        if slot.role == "constant"
    ]
    lengths = _LENGTHS.pack(len(facts), len(program))
    cache_folder.write(name, b"".join([_FIRST_LINE, lengths, facts, program, *arrays]))
