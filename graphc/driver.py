"""From a definition to an executable: the one place that knows all stages.

What is compiled is a Signature. Forward and backward of one signature are one graph and one plan,
so that the plan sees which values backward still needs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import graphc.ops  # noqa: F401  (enters all operators in the table)
from graphc.codegen.llvm.jit import load
from graphc.codegen.llvm.object import compile_program
from graphc.collector import resting
from graphc.error import NetError, need
from graphc.frontends.caffe.definition import NetDefinition
from graphc.frontends.caffe.network import CaffeNet, build
from graphc.host_calls import HostedExecutable
from graphc.ir.graph import Graph
from graphc.ir.remark import Remark
from graphc.ir.types import TensorType
from graphc.loss_budget import lower_within
from graphc.passes.manager import Stage
from graphc.passes.pipeline import Compiled, compile_graph
from graphc.phase import Phase
from graphc.plan.algorithm import DIRECT, Algorithms, allowed
from graphc.plan.budget import Memory
from graphc.plan.planner import plan
from graphc.plan.program import Program
from graphc.runtime.cpu import Executable
from graphc.runtime.cuda_arrays import DeviceArrays
from graphc.runtime.host_arrays import Arrays, HostArrays
from graphc.training_step import UpdateRule, add_updates


@dataclass(frozen=True)
class Signature:
    """What a compilation is for.

    Attributes:
        shapes: (blob, shape) of the inputs that differ from the definition.
        given: blobs a gradient is given for.
        wrt: inputs, blobs and parameters (`conv1/0`) a gradient is wanted for.
        accumulate: parameter gradients are added to what the user's arrays hold.
        keep: blobs (`conv5`, `conv5.diff`) that can be read after the call.
        memory: "reuse", "all" to keep every buffer apart, or a budget in bytes.
        blockwise_loss: a last layer and its softmax loss never hold all scores; a budget may ask
            for that by itself.
        only: first and last layer of a part of the net.
        threads: how many a call may use; more do no harm, but may find nothing to do.
        exact: convolutions are direct sums.
        fast_math: what may be less exact than a direct sum: "winograd4", "tf32".
        libraries: whether a GPU's steps may be calls of NVIDIA's libraries, "auto", "on" or "off".
        update: what a step of training does with the gradients of `wrt`; None: they are results.
        target: the back end that runs it, a key of BACK_ENDS.
    """

    phase: Phase = "TEST"
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    given: tuple[str, ...] = ()
    wrt: tuple[str, ...] = ()
    accumulate: bool = False
    keep: tuple[str, ...] = ()
    memory: Memory = "reuse"
    fuse: bool = True
    blockwise_loss: bool = False
    infogain_input: str = "scores"
    dtype: str = "float32"
    masks: tuple[str, ...] = ()
    only: tuple[str | None, str | None] = (None, None)
    threads: int = Algorithms.threads
    exact: bool = False
    fast_math: tuple[str, ...] = ()
    libraries: str = "auto"
    update: UpdateRule | None = None
    target: str = "cpu"


@dataclass
class Compilation:
    """All stages of one signature; `executable` is there once code was generated."""

    signature: Signature
    caffe: CaffeNet
    stages: tuple[Stage, ...]
    graph: Graph
    program: Program
    executable: Executable | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    code_remarks: list[Remark] = field(default_factory=list)

    @property
    def remarks(self) -> list[Remark]:
        """Every remark of every stage, in order."""
        run = [] if self.executable is None else _remarks(self.executable.decisions)
        remarks = [*self.graph.remarks, *self.program.remarks, *self.code_remarks, *run]
        return list(dict.fromkeys(remarks))


@dataclass(frozen=True)
class BackEnd:
    """A way to run a program: `compile` makes a bundle of it, `load` makes that callable.

    What fast math a signature allows, the code may use as well. `arrays` makes the tables that the
    user's arrays are in; `remarks` are what making the code decided.
    """

    compile: Callable[[Program, Signature], Any]
    load: Callable[[Any], Executable]
    arrays: Callable[[], Arrays] = HostArrays
    remarks: Callable[[Any], list[Remark]] = lambda bundle: []


def _compile_native(program: Program, signature: Signature) -> Any:
    return compile_program(program)


def _compile_cuda(program: Program, signature: Signature) -> Any:
    from graphc.codegen.cuda.program import compile_cuda

    return compile_cuda(program, tf32="tf32" in signature.fast_math)


def _compile_for_gpu(program: Program, signature: Signature) -> Any:
    from graphc.codegen.cuda.program import compile_cuda
    from graphc.runtime.library_steps import library_choice

    choice = library_choice(signature.libraries)
    return compile_cuda(program, tf32="tf32" in signature.fast_math, libraries=choice)


def gpu_remarks(program: Program, tf32: bool) -> list[Remark]:
    """What is decided, or was found before, about a program's code for a GPU; none is needed."""
    from graphc.codegen.cuda.program import compile_cuda
    from graphc.runtime import cuda
    from graphc.runtime.library_steps import outlook

    bundle = compile_cuda(program, tf32, libraries="auto")
    try:
        gpu = cuda.device()
    except NetError:
        gpu = None
    return _remarks([*bundle.decisions, *outlook(bundle, gpu)])


def _cuda_remarks(bundle: Any) -> list[Remark]:
    return _remarks(bundle.decisions)


def _remarks(decisions: Iterable[tuple[str, str]]) -> list[Remark]:
    """Those of (layer, sentence), about the whole net where there is no layer."""
    return [Remark("cuda", f"layer:{layer}" if layer else "net", said) for layer, said in decisions]


def _load_emulated(bundle: Any) -> Executable:
    from graphc.runtime import emulator

    return emulator.load(bundle)


def _load_cuda(bundle: Any) -> Executable:
    from graphc.runtime import cuda

    return cuda.load(bundle)


BACK_ENDS: dict[str, BackEnd] = {
    "cpu": BackEnd(_compile_native, load),
    "cuda": BackEnd(_compile_for_gpu, _load_cuda, DeviceArrays, _cuda_remarks),
    "cuda-emulator": BackEnd(_compile_cuda, _load_emulated, remarks=_cuda_remarks),
}


def front(definition: NetDefinition, signature: Signature) -> CaffeNet:
    """The forward graph of a signature."""
    return build(
        definition,
        phase=signature.phase,
        dtype=signature.dtype,
        shapes=dict(signature.shapes),
        fused=signature.fuse,
        infogain_input=signature.infogain_input,
        masks=signature.masks,
        only=signature.only,
    )


@resting()
def lower(definition: NetDefinition, signature: Signature, stages: bool = False) -> Compilation:
    """Everything up to the Program: what `show`, `plan` and `explain` look at.

    stages keeps the graph after every pass. Raises NetError for what the definition or signature
    asks wrongly.
    """
    clock = _Clock()
    caffe = front(definition, signature)
    clock.mark("front end")
    accumulate = [name for name in signature.wrt if name in caffe.parameters]
    rule = signature.update

    def passes(blockwise_loss: bool) -> Compiled:
        return compile_graph(
            _with_losses(caffe.graph),
            wrt=signature.wrt,
            given=signature.given,
            accumulate=frozenset(accumulate) if signature.accumulate else frozenset(),
            keep=_kept(caffe, signature),
            fuse=signature.fuse,
            keep_stages=stages,
            update=None if rule is None else lambda graph: add_updates(graph, rule),
            blockwise_loss=blockwise_loss,
        )

    def planned(graph: Graph) -> Program:
        clock.mark("passes")
        try:
            return plan(
                graph,
                keep=set(signature.keep),
                memory=signature.memory,
                join=not caffe.python_layers,  # the user's code must stay a step of its own
                algorithms=_algorithms(signature),
            )
        finally:
            clock.mark("plan")

    result, program = lower_within(signature.memory, signature.blockwise_loss, passes, planned)
    return Compilation(
        signature, caffe, result.stages, result.graph, program, seconds=clock.seconds
    )


def _algorithms(signature: Signature) -> Algorithms:
    """What convolutions may be; the CUDA back end has direct sums alone."""
    chosen = allowed(signature.exact, signature.fast_math, signature.threads)
    return chosen if signature.target == "cpu" else DIRECT


@resting()
def compile_net(definition: NetDefinition, signature: Signature) -> Compilation:
    """`lower`, then machine code in memory, ready to run."""
    made = lower(definition, signature)
    clock = _Clock()
    back_end = BACK_ENDS[signature.target]
    for layer in made.caffe.python_layers:
        need(
            signature.target == "cpu",
            f"layer '{layer}' is Python code; target '{signature.target}' cannot run it",
        )
    bundle = back_end.compile(made.program, signature)
    made.code_remarks = back_end.remarks(bundle)
    clock.mark("code")
    made.executable = back_end.load(bundle)
    if made.caffe.python_layers:
        made.executable = HostedExecutable(
            made.executable, made.program, made.graph, made.caffe.python_layers
        )
    clock.mark("load")
    made.seconds.update(clock.seconds)
    return made


def _kept(caffe: CaffeNet, signature: Signature) -> Iterable[str]:
    """Blobs that passes may not take away: with memory "all" every one that the user knows."""
    if signature.memory == "all":
        return [*signature.keep, *(name for name in caffe.graph.blobs if ":" not in name)]
    return signature.keep


def loss_outputs(graph: Graph) -> list[str]:
    """Under what names a call returns the losses of a net's graph: none that the user has."""
    names = []
    for number in range(len(graph.losses)):
        name = f"loss.{number}"
        while name in graph.blobs:
            name = f"{name}~loss"
        names.append(name)
    return names


def _with_losses(graph: Graph) -> Graph:
    """Make every loss value an output of the call, so that the net's loss can be read."""
    new, _ = graph.copy()
    for name, (value, _weight) in zip(loss_outputs(graph), new.losses, strict=True):
        new.outputs[name] = value
    return new


def parameter_types(caffe: CaffeNet) -> dict[str, TensorType]:
    """Type of every parameter by owner name."""
    return {name: held.type for name, held in caffe.parameters.items()}


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def mark(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now


def with_shapes(signature: Signature, shapes: dict[str, tuple[int, ...]]) -> Signature:
    """The signature for other input shapes."""
    return replace(signature, shapes=tuple(sorted(shapes.items())))


def names(values: Iterable[str]) -> tuple[str, ...]:
    """Names in order, each once."""
    return tuple(dict.fromkeys(values))
