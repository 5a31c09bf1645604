"""What is told of kernels that run in loops: which axis is in vector lanes, what is kept, where
results go.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from graphc.codegen.llvm.each import Loops as MadeLoops
from graphc.codegen.llvm.loop_words import Loops, Names, node_loops
from graphc.codegen.llvm.register_rows import Sweep
from graphc.codegen.llvm.said import Said, listed
from graphc.codegen.llvm.schedule import Schedule
from graphc.codegen.llvm.streaming import STREAMED_CACHES
from graphc.codegen.llvm.target import Target
from graphc.codegen.nodes import FoldNode
from graphc.ir.types import DTYPES
from graphc.plan.budget import shown


def loop_remarks(made: MadeLoops, names: Names, target: Target) -> Iterator[Said]:
    """Any kernel in loops."""
    plan = made.plan
    loops = node_loops(plan.nodes, names)
    yield _lanes(plan, loops)
    yield _shares(made, loops)
    if plan.kept.slots:
        count = len(plan.kept.slots)
        said = f"what a sweep makes for later ones stays in memory of the thread: {count} array"
        said += "s" * (count > 1)
        yield Said("sum", said, {"kept": count})
    yield from _results(made, names, target)


def _lanes(plan: Schedule, loops: Loops) -> Said:
    facts: dict[str, object] = {"form": "loops", "lanes": plan.lanes, "vector_axis": None}
    if plan.vector:
        facts["vector_axis"] = loops(plan.vector)
        said = f"{plan.lanes} lanes along {loops.sized(plan.vector)}, for the whole body"
        if plan.walk:
            said += "; rows are walked whole, sums of all columns wait in the thread's memory"
        return Said("form", said, {**facts, "walk": plan.walk})
    inner = [
        f"{plan.inner_lanes[s]} along {loops.sized(axis)} in its {_kind(s)}"
        for s, axis in plan.inner.items()
    ]
    facts["inner"] = [
        {"axis": loops(axis), "lanes": plan.inner_lanes[s], "in": _kind(s)}
        for s, axis in plan.inner.items()
    ]
    if inner:
        said = f"each statement has lanes of its own: {listed(list(dict.fromkeys(inner)))}"
    else:
        said = "no axis is in vector lanes: that would take more instructions than one by one"
    if plan.batch:
        said += f"; what is computed once a row is computed for {plan.batch} rows at once"
    return Said("form", said, {**facts, "batch": plan.batch})


def _kind(statement: object) -> str:
    return f"{statement.kind} fold" if isinstance(statement, FoldNode) else "store"


def _shares(made: MadeLoops, loops: Loops) -> Said:
    plan = made.plan
    facts: dict[str, object] = {"shares": plan.extent, "pages": made.pages}
    facts["axes"] = [loops(axis) for axis in plan.outer]
    if plan.serial:
        said = "one thread runs it: the order of iterations matters"
    elif plan.outer:
        strips = made.strips
        outer = [
            loops.sized(axis)
            if strips is None or axis != strips.axis
            else f"{strips.axis.extent} strips of {strips.size}"
            for axis in plan.outer
        ]
        said = f"threads share {listed(outer)}"
    elif plan.vector:
        said = f"threads share the lanes' axis, {plan.unit} or more at a time"
    else:
        said = "one thread runs it: there is no loop to share"
    if made.pages:
        said += f"; lines of what is read are asked for in {made.pages} pages ahead at once"
    return Said("shares", said, facts)


def _results(made: MadeLoops, names: Names, target: Target) -> Iterator[Said]:
    """Where large results go."""
    written = _called(made.streams.buffers, names)
    size = max(math.prod(b.shape) * DTYPES[b.dtype] for b in made.plan.nodes.kernel.outputs)
    if not written and size >= STREAMED_CACHES * target.l2_bytes:
        said = f"results, {shown(size)}, are stored through the caches: they are read again, or not"
        said += " stored in whole vectors at even places"
        yield Said("results", said, {"streamed": [], "bytes": size})
    if not written:
        return
    said = f"{_quoted(written)} written past the caches, in whole vectors: no cache would hold so"
    facts = {"streamed": written, "bytes": size}
    yield Said("results", f"{said} much until it is read", facts)


def _called(buffers: Iterable[str], names: Names) -> list[str]:
    return sorted(names.plain(name) for name in buffers)


def _quoted(words: list[str]) -> str:
    return listed([f"'{word}'" for word in words]) + (" are" if len(words) > 1 else " is")


def sweep_remarks(made: Sweep, names: Names) -> Iterator[Said]:
    """Kernels over rows that registers hold."""
    last = made.forms[-1]
    loops = node_loops(last.nodes, names)
    said = f"rows along {loops.sized(last.vector)} are held in registers, {len(made.groups[0])}"
    said += " lanes at a time; neighbours along a row are shuffles of registers"
    if made.link:
        link = names.plain(made.link)
        said += f"; it holds the step before it, too: '{link}' is never stored"
    facts = {"form": "rows in registers", "lanes": last.lanes, "vector_axis": loops(last.vector)}
    yield Said("form", said, {**facts, "link": made.link or None})
    said = f"threads share {last.rows:,} rows"
    if made.pages:
        said += f"; lines of what is read are asked for in {made.pages} pages ahead at once"
    yield Said("shares", said, {"shares": last.rows, "pages": made.pages})
    written = _called(made.streamed, names)
    said = f"{_quoted(written)} written past" if written else "results are stored through"
    yield Said("results", f"{said} the caches", {"streamed": written})
