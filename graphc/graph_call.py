"""A graph as a function of arrays: compiled once, called often, and kept on disk meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

import graphc.ops  # noqa: F401  (enters all operators in the table)
from graphc import compilation_cache
from graphc.back_ends import BackEnd, back_end, need_library_choice, need_processor
from graphc.collector import resting
from graphc.compilation_cache import Kept, Surface
from graphc.error import NetError
from graphc.ir.graph import Graph
from graphc.plan.permission import Algorithms
from graphc.runtime.cpu import Executable, usable_cores

if TYPE_CHECKING:
    from graphc.host_calls import Callback
    from graphc.plan.budget import Memory
    from graphc.plan.program import Program

# Below this many bytes a call is done before other threads would have woken up.
_ALONE_BYTES = 2**18


@dataclass(frozen=True)
class Choices:
    """What a user chooses for every graph that is compiled, whatever it is for.

    Attributes:
        memory: "reuse", "all" to keep every buffer apart, or a budget in bytes.
        blockwise_loss: a last layer and its softmax loss never hold all scores.
        exact: convolutions are direct sums.
        fast_math: what may be less exact than a direct sum: "winograd4", "tf32".
        threads: how many a call may use; None: all usable cores.
        target: the back end that runs it, a key of BACK_ENDS.
        libraries: whether a GPU's steps may be calls of NVIDIA's libraries, "auto", "on" or "off".
    Raises:
        NetError: for a value that is none of these, or choices that contradict each other.
    """

    memory: Memory = "reuse"
    blockwise_loss: bool = False
    exact: bool = False
    fast_math: tuple[str, ...] = ()
    threads: int | None = None
    target: str = "cpu"
    libraries: str = "auto"

    def __post_init__(self) -> None:
        need_library_choice(self.libraries)
        _ = self.algorithms  # raises what is to be raised

    @property
    def algorithms(self) -> Algorithms:
        """What convolutions may be."""
        threads = self.threads or usable_cores()
        return self.back_end.algorithms(self.exact, self.fast_math, threads)

    @property
    def back_end(self) -> BackEnd:
        """What runs it."""
        return back_end(self.target)

    def compiled(self, program: Program) -> Any:
        """The program as a bundle. Raises NetError for what the target lacks."""
        return self.back_end.compile(program, "tf32" in self.fast_math, self.libraries)

    def loaded(self, program: Program) -> Executable:
        """The program as code that can be called; errors as for `compiled`."""
        return self.back_end.load(self.compiled(program))


USUAL = Choices()


class GraphCall:
    """A compiled graph. Arrays go in by the names of its inputs and come out by those of outputs.

    Attributes:
        executable: the machine code; the arrays it works on are its own.
        surface: the names it has after all passes, and its constants.
    """

    def __init__(
        self,
        executable: Executable,
        surface: Surface,
        lowered: Callable[[], tuple[Graph, Program]],
    ):
        """`lowered` makes, once more if need be, what the executable was compiled from."""
        self.executable = executable
        self.surface = surface
        self._lowered = lowered
        self.lock = threading.Lock()
        self.arrays = executable.bind_new()
        for name, data in surface.constants.items():
            if name in self.arrays:
                self.arrays[name][...] = data
        held = sum(array.nbytes for array in self.arrays.values()) + executable.bundle.arena_bytes
        self.threads = 1 if held < _ALONE_BYTES else usable_cores()

    @cached_property
    def _stages(self) -> tuple[Graph, Program]:
        return self._lowered()

    @property
    def graph(self) -> Graph:
        """The graph after all passes: for looking inside."""
        return self._stages[0]

    @property
    def program(self) -> Program:
        """Its plan: for looking inside."""
        return self._stages[1]

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All outputs, forward and backward, for these inputs."""
        with self.lock:
            self.put(inputs)
            self.executable.call("both", self.threads)
            return {name: self.get(name) for name in self.surface.outputs}

    def put(self, inputs: Mapping[str, np.ndarray]) -> None:
        """Copy arrays into the program's own; those that it does not read are left out."""
        for name, array in inputs.items():
            if name in self.arrays:
                self.arrays[name][...] = array

    def get(self, name: str) -> np.ndarray:
        """A copy of an output or of a blob that is kept."""
        if name in self.surface.outputs and name in self.arrays:
            return self.arrays[name].copy()
        return self.executable.read(name)


@resting()
def compile_graph_call(
    graph: Graph,
    wrt: Sequence[str] = (),
    given: Sequence[str] = (),
    keep: Iterable[str] = (),
    callbacks: Mapping[str, Callback] | None = None,
    choices: Choices = USUAL,
    known: Collection[str] = (),
) -> GraphCall:
    """Compile a front end's graph, which stays as it is from then on, or find it on the disk.

    Arguments and errors as for `graphc.graph_lowering.lower_graph`.
    """
    for layer in callbacks or {}:
        need_processor(layer, choices.target)
    asked = _Asked(tuple(wrt), tuple(given), tuple(keep), tuple(known), choices, choices.algorithms)
    if callbacks:
        return _hosted(graph, asked, callbacks)
    machine = choices.back_end.machine
    key = None if machine is None else compilation_cache.key(graph, asked, machine())
    return _from_disk(graph, asked, key) or _compiled(graph, asked, key)


@dataclass(frozen=True)
class _Asked:
    """What a graph is compiled for; `algorithms` are what the choices come to on this machine."""

    wrt: tuple[str, ...]
    given: tuple[str, ...]
    keep: tuple[str, ...]
    known: tuple[str, ...]
    choices: Choices
    algorithms: Algorithms

    def lowered(self, graph: Graph, has_callbacks: bool = False) -> tuple[Graph, Program]:
        """The graph after all passes, and its plan."""
        from graphc.graph_lowering import lower_graph

        made, program = lower_graph(
            graph,
            self.wrt,
            self.given,
            self.keep,
            has_callbacks=has_callbacks,
            choices=self.choices,
            known=self.known,
        )
        return made.graph, program


def _from_disk(graph: Graph, asked: _Asked, key: str | None) -> GraphCall | None:
    """What was kept; None where nothing is, or nothing that this machine can load."""
    kept = compilation_cache.read(key) if key else None
    if kept is None:
        return None
    with suppress(NetError):
        executable = asked.choices.back_end.load(kept.bundle)
        return GraphCall(executable, kept.surface, lambda: asked.lowered(graph))
    return None


def _compiled(graph: Graph, asked: _Asked, key: str | None) -> GraphCall:
    """Through all stages; what comes out is kept on disk under `key`."""
    made, program = asked.lowered(graph)
    bundle = asked.choices.compiled(program)
    surface = Surface.of(made)
    if key:
        compilation_cache.write(key, Kept(bundle, surface))
    executable = asked.choices.back_end.load(bundle)
    return GraphCall(executable, surface, lambda: (made, program))


def _hosted(graph: Graph, asked: _Asked, callbacks: Mapping[str, Callback]) -> GraphCall:
    """With steps that are the user's Python code."""
    from graphc.host_calls import HostedExecutable

    made, program = asked.lowered(graph, has_callbacks=True)
    executable = HostedExecutable(asked.choices.loaded(program), program, made, callbacks)
    return GraphCall(executable, Surface.of(made), lambda: (made, program))
