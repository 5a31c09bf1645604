"""From a definition to an executable: the one place that knows all stages.

What is compiled is a Signature. Forward and backward of one signature are one graph and one plan,
so that the plan sees which values backward still needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import graphc.ops  # noqa: F401  (enters all operators in the table)
from graphc import compilation_cache
from graphc.collector import resting
from graphc.compilation_cache import Kept, Surface
from graphc.error import NetError, need
from graphc.frontends.caffe.definition import NetDefinition
from graphc.frontends.caffe.network import CaffeNet, build
from graphc.ir.graph import Graph
from graphc.ir.remark import Remark
from graphc.ir.types import TensorType
from graphc.phase import Phase
from graphc.plan.permission import Algorithms
from graphc.runtime.cpu import Executable
from graphc.runtime.cuda_arrays import DeviceArrays
from graphc.runtime.host_arrays import Arrays, HostArrays
from graphc.stopwatch import Stopwatch
from graphc.training_step import UpdateRule

if TYPE_CHECKING:
    from graphc.lowering import Lowering
    from graphc.passes.manager import Stage
    from graphc.plan.budget import Memory
    from graphc.plan.program import Program


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
    """All stages of one signature; `executable` is there once code was generated.

    Code that was kept on disk runs at once. What only those ask for who look inside, the stages
    up to the program and the remarks, is then made when it is first asked for.
    """

    signature: Signature
    caffe: CaffeNet
    executable: Executable | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    code_remarks: list[Remark] = field(default_factory=list)
    kept: Kept | None = None

    @cached_property
    def lowering(self) -> Lowering:
        """The stages up to the program."""
        from graphc.lowering import lowered

        return lowered(self.caffe, self.signature)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """What each pass did."""
        return self.lowering.stages

    @property
    def graph(self) -> Graph:
        """The net after all passes."""
        return self.lowering.graph

    @property
    def program(self) -> Program:
        """The plan."""
        return self.lowering.program

    @cached_property
    def surface(self) -> Surface:
        """What the net asks for that runs this."""
        return self.kept.surface if self.kept else Surface.of(self.graph)

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
    user's arrays are in; `remarks` are what making the code decided. `machine` says what code
    depends on besides the program; None: no bundle of it is kept on disk.
    """

    compile: Callable[[Program, Signature], Any]
    load: Callable[[Any], Executable]
    arrays: Callable[[], Arrays] = HostArrays
    remarks: Callable[[Any], list[Remark]] = lambda bundle: []
    machine: Callable[[], str] | None = None


def _compile_native(program: Program, signature: Signature) -> Any:
    from graphc.codegen.llvm.object import compile_program

    return compile_program(program)


def _load_native(bundle: Any) -> Executable:
    from graphc.codegen.llvm.jit import load

    return load(bundle)


def _native_machine() -> str:
    from graphc.codegen.llvm.target import Target, llvm_version

    return f"{Target.host()} LLVM {llvm_version()}"


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
    "cpu": BackEnd(_compile_native, _load_native, machine=_native_machine),
    "cuda": BackEnd(_compile_for_gpu, _load_cuda, DeviceArrays, _cuda_remarks),
    "cuda-emulator": BackEnd(_compile_cuda, _load_emulated, remarks=_cuda_remarks),
}


def front_signature(signature: Signature) -> Signature:
    """What of a signature the front end asks for."""
    return Signature(
        phase=signature.phase,
        dtype=signature.dtype,
        shapes=signature.shapes,
        fuse=signature.fuse,
        infogain_input=signature.infogain_input,
        masks=signature.masks,
        only=signature.only,
    )


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


def lower(
    definition: NetDefinition,
    signature: Signature,
    stages: bool = False,
    caffe: CaffeNet | None = None,
) -> Compilation:
    """Everything up to the Program: what `show`, `plan` and `explain` look at.

    stages keeps the graph after every pass. caffe: `front` of the two, where it is known. Raises
    NetError for what the definition or signature asks wrongly.
    """
    from graphc.lowering import lowered

    watch = Stopwatch()
    made = Compilation(signature, caffe or front(definition, signature))
    watch.mark("front end")
    made.lowering = lowered(made.caffe, signature, stages, watch)
    made.seconds.update(watch.seconds)
    return made


@resting()
def compile_net(
    definition: NetDefinition, signature: Signature, caffe: CaffeNet | None = None
) -> Compilation:
    """`lower`, then machine code in memory, ready to run. Most of it may come from the disk."""
    back_end = BACK_ENDS[signature.target]
    watch = Stopwatch()
    caffe = caffe or front(definition, signature)
    watch.mark("front end")
    for layer in caffe.python_layers:
        need(
            signature.target == "cpu",
            f"layer '{layer}' is Python code; target '{signature.target}' cannot run it",
        )
    key = None
    if back_end.machine is not None:
        key = compilation_cache.key(caffe, signature, back_end.machine())
    made = _from_disk(caffe, signature, watch, key) if key else None
    made = made or _compiled(caffe, signature, watch, key)
    made.seconds.update(watch.seconds)
    return made


def _from_disk(
    caffe: CaffeNet, signature: Signature, watch: Stopwatch, key: str
) -> Compilation | None:
    """What was kept; None where nothing is, or nothing that this machine can load."""
    kept = compilation_cache.read(key)
    watch.mark("cache")
    if kept is None:
        return None
    with suppress(NetError):
        made = Compilation(
            signature, caffe, BACK_ENDS[signature.target].load(kept.bundle), kept=kept
        )
        watch.mark("load")
        return made
    return None


def _compiled(
    caffe: CaffeNet, signature: Signature, watch: Stopwatch, key: str | None
) -> Compilation:
    """Through all stages; what comes out is kept on disk under `key`."""
    from graphc.lowering import lowered

    back_end = BACK_ENDS[signature.target]
    made = Compilation(signature, caffe)
    made.lowering = lowered(caffe, signature, watch=watch)
    bundle = back_end.compile(made.program, signature)
    made.code_remarks = back_end.remarks(bundle)
    watch.mark("code")
    if key:
        compilation_cache.write(key, Kept(bundle, made.surface))
    made.executable = back_end.load(bundle)
    if caffe.python_layers:
        from graphc.host_calls import HostedExecutable

        made.executable = HostedExecutable(
            made.executable, made.program, made.graph, caffe.python_layers
        )
    watch.mark("load")
    return made


def loss_outputs(graph: Graph) -> list[str]:
    """Under what names a call returns the losses of a net's graph: none that the user has."""
    names = []
    for number in range(len(graph.losses)):
        name = f"loss.{number}"
        while name in graph.blobs:
            name = f"{name}~loss"
        names.append(name)
    return names


def parameter_types(caffe: CaffeNet) -> dict[str, TensorType]:
    """Type of every parameter by owner name."""
    return {name: held.type for name, held in caffe.parameters.items()}


def with_shapes(signature: Signature, shapes: dict[str, tuple[int, ...]]) -> Signature:
    """The signature for other input shapes."""
    return replace(signature, shapes=tuple(sorted(shapes.items())))


def names(values: Iterable[str]) -> tuple[str, ...]:
    """Names in order, each once."""
    return tuple(dict.fromkeys(values))
