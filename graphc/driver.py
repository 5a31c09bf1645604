"""From a definition to an executable: the one place that knows all stages.

What is compiled is a Signature. Forward and backward of one signature are one graph and one plan,
so that the plan sees which values backward still needs.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING

import graphc.ops  # noqa: F401  (enters all operators in the table)
from graphc import compilation_cache
from graphc.back_ends import back_end, need_processor, remarks_of
from graphc.collector import resting
from graphc.compilation_cache import Kept, Surface
from graphc.error import NetError
from graphc.frontends.caffe.definition import NetDefinition
from graphc.frontends.caffe.network import CaffeNet, build
from graphc.ir.graph import Graph
from graphc.ir.remark import Remark
from graphc.ir.types import TensorType
from graphc.phase import Phase
from graphc.plan.permission import Algorithms
from graphc.runtime.cpu import Executable
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
        start: the layer that backward begins at, so that later losses count for nothing, or "".
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
    start: str = ""
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

    @cached_property
    def _hash(self) -> int:
        return hash(tuple(getattr(self, field.name) for field in fields(self)))

    def __hash__(self) -> int:
        """Counted once: what is compiled is looked up by signatures at every call."""
        return self._hash


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

    @cached_property
    def losses(self) -> list[tuple[str, float]]:
        """The outputs that the net's loss is the weighted sum of, and their weights."""
        graph = self.caffe.graph
        weights = [weight for _, weight in graph.losses]
        return list(zip(loss_outputs(graph), weights, strict=True))

    @property
    def remarks(self) -> list[Remark]:
        """Every remark of every stage, in order."""
        run = [] if self.executable is None else remarks_of(self.executable.decisions)
        remarks = [*self.graph.remarks, *self.program.remarks, *self.code_remarks, *run]
        return list(dict.fromkeys(remarks))


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
    chosen = back_end(signature.target)
    watch = Stopwatch()
    caffe = caffe or front(definition, signature)
    watch.mark("front end")
    for layer in caffe.python_layers:
        need_processor(layer, signature.target)
    key = None
    if chosen.machine is not None and not caffe.python_layers:
        asked = (signature, list(caffe.parameters))
        key = compilation_cache.key(caffe.graph, asked, chosen.machine())
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
            signature, caffe, back_end(signature.target).load(kept.bundle), kept=kept
        )
        watch.mark("load")
        return made
    return None


def _compiled(
    caffe: CaffeNet, signature: Signature, watch: Stopwatch, key: str | None
) -> Compilation:
    """Through all stages; what comes out is kept on disk under `key`."""
    from graphc.lowering import lowered

    chosen = back_end(signature.target)
    made = Compilation(signature, caffe)
    made.lowering = lowered(caffe, signature, watch=watch)
    bundle = chosen.compile(made.program, "tf32" in signature.fast_math, signature.libraries)
    made.code_remarks = chosen.remarks(bundle)
    watch.mark("code")
    if key:
        compilation_cache.write(key, Kept(bundle, made.surface))
    made.executable = chosen.load(bundle)
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


def seeding_losses(caffe: CaffeNet, signature: Signature) -> list[bool]:
    """For each loss of the net whether backward begins at it."""
    if signature.start:
        return caffe.losses_up_to(signature.start)
    return [True] * len(caffe.graph.losses)


def parameter_types(caffe: CaffeNet) -> dict[str, TensorType]:
    """Type of every parameter by owner name."""
    return {name: held.type for name, held in caffe.parameters.items()}


def with_shapes(signature: Signature, shapes: dict[str, tuple[int, ...]]) -> Signature:
    """The signature for other input shapes."""
    return replace(signature, shapes=tuple(sorted(shapes.items())))


def names(values: Iterable[str]) -> tuple[str, ...]:
    """Names in order, each once."""
    return tuple(dict.fromkeys(values))
