"""THE ORDER of the passes, with a reason for each place."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from graphc.ir.graph import Graph, Value
from graphc.passes.backward import backward, kept_gradients, named_value
from graphc.passes.blockwise import blockwise
from graphc.passes.clean import clean
from graphc.passes.commute import commute
from graphc.passes.expand import expand
from graphc.passes.fuse import fuse as fuse_pass
from graphc.passes.manager import Pass, Stage, run


@dataclass(frozen=True)
class Compiled:
    """A graph that is ready to be planned, and what each pass did on the way, "start" first."""

    graph: Graph
    stages: tuple[Stage, ...]


def compile_graph(
    graph: Graph,
    wrt: Sequence[str | Value] = (),
    given: Sequence[str] = (),
    accumulate: frozenset[str] = frozenset(),
    keep: Iterable[str] = (),
    fuse: bool = True,
    keep_stages: bool = False,
    update: Callable[[Graph], Graph] | None = None,
    blockwise_loss: bool = False,
    known: Collection[str] = (),
) -> Compiled:
    """Take a front end's graph through all passes.

    Args:
        graph: the forward pass; it stays as it is.
        wrt, given, accumulate, known: the gradients wanted; see `graphc.passes.backward`. Values
            are taken by their names.
        keep: blobs, and gradients as `BLOB.diff`, that must survive the call.
        fuse: whether pairs that operators equal are replaced.
        keep_stages: keep the graph after each pass, in `Stage.graph`.
        update: makes of the gradients what a step of training changes.
        blockwise_loss: whether a last layer and its loss never hold all scores, and compute them
            twice.

    Raises NetError for an unknown name in `keep`, and as the passes do.
    """
    names = [item if isinstance(item, str) else item.name for item in wrt]
    kept, _ = graph.copy()
    for name in keep:
        named_value(kept, name.removesuffix(".diff"))
        kept.kept.add(name)
    passes = order(
        names, given, accumulate, kept_gradients(kept.kept), fuse, update, blockwise_loss, known
    )
    made, stages = run(kept, passes, keep_stages)
    return Compiled(made, tuple(stages))


def order(
    wrt: Sequence[str],
    given: Sequence[str],
    accumulate: frozenset[str],
    kept: Sequence[str],
    fuse: bool,
    update: Callable[[Graph], Graph] | None = None,
    blockwise_loss: bool = False,
    known: Collection[str] = (),
) -> list[Pass]:
    """The passes for one signature, in order; `kept` names blobs whose gradient is kept."""
    asked = frozenset([*wrt, *kept])
    alive = sorted({*asked, *given})
    # First clean: patterns are matched literally, so fuse wants one way of writing things.
    # Values that are asked for a gradient stay as they are until it is made.
    tidy = partial(clean, alive=alive, apart=asked)
    passes = [Pass("clean", "brings the net into canonical form", tidy)]
    if fuse:
        # Before backward: a fused loss has a gradient of its own, which is exact and cheap; the
        # gradient of the pair it replaces loses digits and cannot be recognised afterwards.
        passes.append(Pass("fuse", "puts fused operators in place", lambda g: fuse_pass(g, asked)))
        # What a fusion has left over must not be differentiated.
        passes.append(Pass("sweep", "drops what fusion left over", tidy))
    if blockwise_loss:
        # Behind fuse: it looks for the fused loss. Before backward: it has a gradient of its own.
        passes.append(
            Pass("blockwise", "lets last layers work in blocks", lambda g: blockwise(g, asked))
        )
        passes.append(Pass("sweep again", "drops what is replaced", tidy))
    if asked or given:
        # Only where backward would keep the large image; and before it, to change its gradient.
        passes.append(Pass("commute", "moves relu behind max pooling", lambda g: commute(g, alive)))
        # After everything that rewrites forward: gradients are made of the final operators.
        add = partial(backward, wrt=wrt, given=given, accumulate=accumulate, known=known)
        passes.append(Pass("backward", "adds gradients", add))
    if update is not None:
        # Behind backward: it turns gradients, which are results, into changes of parameters.
        passes.append(Pass("update", "changes parameters by their gradients", update))
    # Gradients ask again for values that forward has, seeds are constants that vanish, and
    # StopGradient has done its work.
    passes.append(Pass("finish", "simplifies the result", lambda g: clean(g, release_stops=True)))
    # Last: what is computed twice to save memory must not be found to be the same.
    passes.append(Pass("expand", "writes out operators that work in blocks", expand))
    return passes
