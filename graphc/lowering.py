"""From a front end's graph to the Program: all passes, then the plan.

A net whose code was kept on disk runs without this, so nothing of it is imported before it is
needed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from graphc.back_ends import back_end
from graphc.collector import resting
from graphc.driver import Signature, loss_outputs, seeding_losses
from graphc.frontends.caffe.network import CaffeNet
from graphc.ir.graph import Graph
from graphc.loss_budget import lower_within
from graphc.passes.manager import Stage
from graphc.passes.pipeline import Compiled, compile_graph
from graphc.plan.permission import Algorithms
from graphc.plan.planner import plan
from graphc.plan.program import Program
from graphc.stopwatch import Stopwatch
from graphc.training_step import add_updates


@dataclass(frozen=True)
class Lowering:
    """The graph after all passes, the plan of it, and what each pass did."""

    stages: tuple[Stage, ...]
    graph: Graph
    program: Program


@resting()
def lowered(
    caffe: CaffeNet, signature: Signature, stages: bool = False, watch: Stopwatch | None = None
) -> Lowering:
    """Take a net to its Program. stages keeps the graph after every pass.

    Raises NetError for what the definition or signature asks wrongly.
    """
    watch = watch or Stopwatch()
    accumulate = [name for name in signature.wrt if name in caffe.parameters]
    rule = signature.update

    def passes(blockwise_loss: bool) -> Compiled:
        return compile_graph(
            _with_losses(caffe, signature),
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
        watch.mark("passes")
        try:
            return plan(
                graph,
                keep=set(signature.keep),
                memory=signature.memory,
                join=not caffe.python_layers,  # the user's code must stay a step of its own
                algorithms=_algorithms(signature),
                cores=back_end(signature.target).cores,
            )
        finally:
            watch.mark("plan")

    result, program = lower_within(signature.memory, signature.blockwise_loss, passes, planned)
    return Lowering(result.stages, result.graph, program)


def _algorithms(signature: Signature) -> Algorithms:
    """What convolutions may be."""
    choices = signature.exact, signature.fast_math, signature.threads
    return back_end(signature.target).algorithms(*choices)


def _kept(caffe: CaffeNet, signature: Signature) -> Iterable[str]:
    """Blobs that passes may not take away: with memory "all" every one that the user knows."""
    if signature.memory == "all":
        return [*signature.keep, *(name for name in caffe.graph.blobs if ":" not in name)]
    return signature.keep


def _with_losses(caffe: CaffeNet, signature: Signature) -> Graph:
    """Make every loss value an output of the call, so that the net's loss can be read."""
    new, _ = caffe.graph.copy()
    for name, (value, _weight) in zip(loss_outputs(new), new.losses, strict=True):
        new.outputs[name] = value
    new.losses = list(itertools.compress(new.losses, seeding_losses(caffe, signature)))
    return new
