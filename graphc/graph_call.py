"""A graph as a function of arrays: compiled once, called often."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

import graphc.ops  # noqa: F401  (enters all operators in the table)
from graphc.back_ends import BackEnd, back_end, need_library_choice, need_processor
from graphc.collector import resting
from graphc.host_calls import Callback, HostedExecutable
from graphc.ir.graph import Graph
from graphc.loss_budget import lower_within
from graphc.passes.pipeline import Compiled, compile_graph
from graphc.plan.budget import Memory
from graphc.plan.permission import Algorithms
from graphc.plan.planner import plan
from graphc.plan.program import Program
from graphc.runtime.cpu import Executable, usable_cores

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

    def loaded(self, program: Program) -> Executable:
        """The program as code that can be called. Raises NetError for what the target lacks."""
        end = self.back_end
        return end.load(end.compile(program, "tf32" in self.fast_math, self.libraries))


USUAL = Choices()


class GraphCall:
    """A compiled graph. Arrays go in by the names of its inputs and come out by those of outputs.

    Attributes:
        graph: the graph after all passes.
        program: its plan.
        executable: the machine code; the arrays it works on are its own.
    """

    def __init__(self, graph: Graph, program: Program, executable: Executable):
        self.graph = graph
        self.program = program
        self.executable = executable
        self.lock = threading.Lock()
        self.arrays = executable.bind_new()
        for name, data in graph.constants.items():
            if name in self.arrays:
                self.arrays[name][...] = data
        held = sum(array.nbytes for array in self.arrays.values()) + program.arena_bytes
        self.threads = 1 if held < _ALONE_BYTES else usable_cores()

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All outputs, forward and backward, for these inputs."""
        with self.lock:
            self.put(inputs)
            self.executable.call("both", self.threads)
            return {name: self.get(name) for name in self.graph.outputs}

    def put(self, inputs: Mapping[str, np.ndarray]) -> None:
        """Copy arrays into the program's own; those that it does not read are left out."""
        for name, array in inputs.items():
            if name in self.arrays:
                self.arrays[name][...] = array

    def get(self, name: str) -> np.ndarray:
        """A copy of an output or of a blob that is kept."""
        if name in self.graph.outputs and name in self.arrays:
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
    """Compile a front end's graph; arguments as for `lower_graph`."""
    made, program = lower_graph(
        graph, wrt, given, keep, has_callbacks=bool(callbacks), choices=choices, known=known
    )
    for layer in callbacks or {}:
        need_processor(layer, choices.target)
    executable = choices.loaded(program)
    if callbacks:
        executable = HostedExecutable(executable, program, made.graph, callbacks)
    return GraphCall(made.graph, program, executable)


@resting()
def lower_graph(
    graph: Graph,
    wrt: Sequence[str] = (),
    given: Sequence[str] = (),
    keep: Iterable[str] = (),
    has_callbacks: bool = False,
    keep_stages: bool = False,
    choices: Choices = USUAL,
    known: Collection[str] = (),
) -> tuple[Compiled, Program]:
    """All passes and the plan; arguments as for `compile_graph` and `plan`.

    has_callbacks: steps are not joined, so that the user's code stays a step of its own.
    A budget may ask for a loss in blocks by itself.
    """
    kept = list(keep)

    def passes(blockwise: bool) -> Compiled:
        return compile_graph(
            graph,
            wrt=wrt,
            given=given,
            keep=kept,
            keep_stages=keep_stages,
            blockwise_loss=blockwise,
            known=known,
        )

    def planned(made: Graph) -> Program:
        return plan(
            made,
            keep=set(kept),
            memory=choices.memory,
            join=not has_callbacks,
            algorithms=choices.algorithms,
        )

    return lower_within(choices.memory, choices.blockwise_loss, passes, planned)
