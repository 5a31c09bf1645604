"""What people ask about a name in their net, answered in sentences.

Why is my gradient zero; why does my frozen layer still move; why is this layer (not) in place; why
did the loss (not) fuse; where does this copy come from; what does this cost. The answers put
together what the stages have left: the graph, the plan and the remarks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

from graphc.bench.work import work_of
from graphc.ir.graph import Value
from graphc.loss_budget import BLOCKS
from graphc.lowered import Layer, Lowered
from graphc.ops.class_blocks import MassLogLoss
from graphc.passes.blockwise import NEVER_WHOLE, blockwise
from graphc.passes.fuse import STAGE as FUSE
from graphc.passes.fuse import fuse
from graphc.plan.explain import memory_rows
from graphc.plan.program import ProgramBuffer
from graphc.report.gradients import NO_BACKWARD, NOT_ASKED, gradient_state

_ORDERS = {
    "channels-last": "kernels take all channels of a place together",
    "packed": "its kernel reads weights in the order of its tiles",
    "row-major": "it takes the values in the order of the definition's axes",
}

# What a loss in blocks of classes is made of, and no other.
IN_BLOCKS = MassLogLoss.op_name

_PART = re.compile(r"part\d+")  # what a step writes of an array that others write the rest of


def answers(made: Lowered, subject: str) -> list[str]:
    """Sentences about a layer, a blob, a parameter or a copy; none for what is none of these.

    A bare name stands for all that have it; `layer:` and `blob:` in front choose.
    """
    kind, colon, name = subject.partition(":")
    if not colon or kind not in ("layer", "blob"):
        kind, name = "", subject
    name = name.removesuffix(".diff")
    found: list[str] = []
    layer = made.layer(name)
    if layer is not None and kind != "blob":
        found += _about_layer(made, layer)
    parameter = made.owners.get(name)
    if parameter is not None and not kind:
        found += _about_parameter(made, name, parameter)
    if name in made.forward.blobs and kind != "layer" and name not in made.owners:
        found += _about_blob(made, name)
        if subject.endswith(".diff") and _is_forward_only(made):
            found.append(f"it has no gradient: {NO_BACKWARD}")
    if "~" in name and name in made.program.buffers:
        found += _about_copies(made, name.partition("~")[0])
    return found


# -- layers ---------------------------------------------------------------------------------------


def _about_layer(made: Lowered, layer: Layer) -> Iterator[str]:
    place = f" at {layer.span}" if layer.span else ""
    reads = f" reads {_quoted(layer.bottoms)} and" if layer.bottoms else ""
    yield f"layer '{layer.name}' ({layer.kind}){place}{reads} makes {_quoted(layer.tops)}"
    yield from _costs(made, layer)
    yield from _in_place(made, layer)
    yield from _fusion(made, layer)
    for parameter in layer.parameters:
        yield from _moves(made, made.called(parameter), parameter)


def _costs(made: Lowered, layer: Layer) -> Iterator[str]:
    program = made.program
    for backward, way in ((False, "forward"), (True, "backward")):
        steps = [
            (number, step)
            for number, step in enumerate(program.steps)
            if step.backward is backward and layer.name in step.layer.split(", ")
        ]
        if steps:
            flops = sum(work_of(program, step).flops for _, step in steps)
            moved = sum(work_of(program, step).bytes for _, step in steps)
            numbers = ranges([number for number, _ in steps])
            others = {n for _, step in steps for n in step.layer.split(", ")} - {layer.name}
            shared = f", shared with {_quoted(sorted(others))}" if others else ""
            yield (
                f"its {way} pass is step{'s' * (len(steps) > 1)} {numbers}{shared}:"
                f" {flops:,} operations, {moved:,} bytes moved"
            )
    if not any(layer.name in step.layer.split(", ") for step in program.steps):
        said = [r.sentence for r in made.program.remarks if _names(r.subject, layer.name)]
        why = f"it {said[0].removeprefix('it ')}" if said else "nothing had to be computed"
        yield f"no step of the program does its work: {why}"


def _in_place(made: Lowered, layer: Layer) -> Iterator[str]:
    """Whether its top lies where its bottom lay."""
    remarks = made.program.remarks
    moved = [r for r in remarks if r.stage == "commute" and r.subject == f"layer:{layer.name}"]
    if moved:
        yield f"it {moved[0].sentence}"
        return
    found = _ends(made, layer)
    if len(layer.tops) != 1 or found is None:
        return
    source, target = found
    buffers = made.program.buffers
    said = [
        r.sentence
        for r in remarks
        if r.stage == "share" and r.sentence.startswith(f"{source.name} is not overwritten")
        if layer.name in r.sentence
    ]
    if source.type.shape != target.type.shape:
        yield "it is not in place: its top has another shape than its bottom"
    elif source.name not in buffers:
        yield f"it is in place: '{source.name}' stays in registers and has no memory of its own"
    elif target.name not in buffers:
        yield f"it is in place: '{target.name}' stays in registers and has no memory of its own"
    elif _same_place(buffers[source.name], buffers[target.name]):
        yield f"it is in place: '{target.name}' is written over '{source.name}'"
    elif said:
        yield f"it is not in place: {said[0]}"
    else:
        yield f"it is not in place: '{target.name}' has bytes of its own"


def _same_place(old: ProgramBuffer, new: ProgramBuffer) -> bool:
    """Whether one takes the bytes of the other while these still mattered."""
    return (old.slot, old.offset) == (new.slot, new.offset) and old.last >= new.first


def _ends(made: Lowered, layer: Layer) -> tuple[Value, Value] | None:
    """What the layer's nodes read first and make last, in the graph that is run."""
    own = [n for n in made.graph.nodes if n.origin.layer == layer.name and not n.origin.backward]
    ends = [made.graph.blobs[name] for name in layer.bottoms if name in made.graph.blobs]
    outside = {v for n in own for v in n.inputs} - {v for n in own for v in n.outputs}
    read = [v for v in ends if v in outside] or [
        v
        for n in own
        for v in n.inputs
        if v.role not in ("parameter", "state", "constant") and v in outside
    ]
    made_last = [v for n in own for v in n.outputs[:1] if v.name in layer.tops] or [
        v for n in own for v in n.outputs[:1] if len(v.shape) > 1
    ]
    return (read[0], made_last[-1]) if read and made_last else None


def _fusion(made: Lowered, layer: Layer) -> Iterator[str]:
    """For a loss: whether it holds its softmax, and where its gradient is made."""
    values = [made.forward.blobs[top] for top in layer.tops if top in made.forward.blobs]
    if not any(value is loss for value in values for loss, _ in made.forward.losses):
        return
    own = {node.op.op_name for node in made.graph.nodes if node.origin.layer == layer.name}
    whole = sorted(name for name in own if name.endswith("_loss") and "_" in name)
    said = [r for r in made.program.remarks if _names(r.subject, layer.name)]
    fusing = [r.sentence for r in said if r.stage == FUSE]
    before = _once_only_before(made, layer)
    if any(name.startswith(("softmax", "sigmoid", "logistic")) for name in whole):
        yield f"the loss is fused: it is one operator, {whole[0]}, that takes scores"
        yield from _possible_blocks(made, layer)
    elif IN_BLOCKS in own:
        yield "the loss is fused with the layer before it: they work in blocks of classes"
        asked = [r.sentence for r in made.program.remarks if r.sentence.startswith(BLOCKS)]
        yield from asked or ["blocks were asked for, whatever the memory"]
    elif not before:
        yield "the loss is not fused: no softmax or sigmoid stands before it that it could hold"
    elif not any(stage.name == "fuse" for stage in made.stages):
        yield f"the loss is not fused with layer '{before}' before it: fusing was switched off"
    elif not fusing:
        yield f"the loss is not fused with layer '{before}': no operator is what both are together"
    yield from fusing
    yield from (r.sentence for r in said if r.stage == "join" and "made in forward" in r.sentence)


def _possible_blocks(made: Lowered, layer: Layer) -> Iterator[str]:
    """What blocks of classes would hold, where the loss could have them and has not."""
    if made.program.forward_steps == len(made.program.steps):
        return
    wanted = {name for name in made.forward.blobs if f"{name}.diff" in made.graph.outputs}
    possible = blockwise(fuse(made.forward, frozenset(wanted)), frozenset(wanted))
    for remark in possible.remarks:
        _, found, holds = remark.sentence.partition(", which holds ")
        if found and remark.stage == FUSE and _names(remark.subject, layer.name):
            yield (
                "all scores are held; the loss in blocks of classes (--blockwise-loss, or a memory"
                f" budget that asks for it) holds {holds}"
            )


def _once_only_before(made: Lowered, layer: Layer) -> str:
    """The layer whose softmax, or the like, the layer reads; empty where there is none."""
    graph = made.forward
    for node in graph.nodes:
        maker = graph.producer(node.inputs[0]) if node.inputs else None
        while maker is not None and maker.op.is_view:
            maker = graph.producer(maker.inputs[0])
        if node.origin.layer == layer.name and maker is not None and maker.op.once_only:
            return maker.origin.layer
    return ""


def _names(subject: str, layer: str) -> bool:
    return subject.startswith("layer:") and layer in subject.removeprefix("layer:").split(", ")


# -- parameters -----------------------------------------------------------------------------------


def _about_parameter(made: Lowered, name: str, owner: str) -> Iterator[str]:
    value = made.forward.values[owner]
    shape = " x ".join(map(str, value.shape[::-1] if made.turned else value.shape)) or "scalar"
    users = [layer.name for layer in made.layers if owner in layer.parameters]
    yield (
        f"'{name}' is a parameter of layer{'s' * (len(users) > 1)} {_quoted(users)}: {shape},"
        f" {math.prod(value.shape):,} numbers, {value.type.bytes:,} bytes"
    )
    others = [other for other, held in made.owners.items() if held == owner and other != name]
    if others or len(users) > 1:
        held = made.called(owner)
        yield f"it is shared: all of its users work on '{held}', and their gradients add up"
    yield from _gradient(made, owner)
    yield from _moves(made, name, owner)
    yield from _about_copies(made, owner)


def _gradient(made: Lowered, name: str) -> Iterator[str]:
    state, why = gradient_state(made, name)
    if state == "zero":
        yield f"its gradient is zero: {why}"
    elif state == "computed":
        yield f"its gradient is computed, {why}"
    else:
        yield f"it gets no gradient: {why}"


def _moves(made: Lowered, name: str, owner: str) -> Iterator[str]:
    """Whether training changes it, and what to do where that is not meant."""
    learning = made.learning.get(owner)
    if learning is None:
        return
    (rate, decay), factor = made.rate_words, f"{learning.lr_mult:g}"
    if not learning.learned:
        if owner in made.graph.updates:
            yield (
                f"'{name}' moves in phase TRAIN without any gradient: the forward pass updates this"
                " statistic; use_global_stats: true holds it"
            )
        else:
            yield f"'{name}' does not move: it is a statistic, and this phase only reads it"
        return
    if learning.lr_mult == 0:
        yield f"a solver does not move '{name}': its {rate} is 0, which stops weight decay too"
        return
    state, why = gradient_state(made, owner)
    if state == "computed":
        yield f"a solver moves '{name}' by its gradient: its {rate} is {factor}"
    elif why in (NOT_ASKED, NO_BACKWARD):
        yield f"a solver asks for its gradient and moves '{name}': its {rate} is {factor}"
    elif learning.decay_mult:
        yield (
            f"a solver still moves '{name}', although no gradient reaches it: weight decay and"
            f" momentum do, its {rate} is {factor} and its {decay}"
            f" {learning.decay_mult:g}; {rate}: 0 freezes it"
        )
    else:
        yield f"only momentum could move '{name}': no gradient reaches it and its {decay} is 0"


# -- blobs ----------------------------------------------------------------------------------------


def _about_blob(made: Lowered, name: str) -> Iterator[str]:
    value = made.forward.blobs[name]
    shape = " x ".join(map(str, value.shape[::-1] if made.turned else value.shape)) or "scalar"
    makers = [layer.name for layer in made.layers if name in layer.tops]
    readers = [layer.name for layer in made.layers if name in layer.bottoms]
    origin = f"made by {_quoted(makers)}" if makers else "given at each call"
    ends = f"read by {_quoted(readers)}" if readers else "read by no layer"
    yield (
        f"blob '{name}' is {origin} and {ends}: {shape}, {value.type.dtype},"
        f" {value.type.bytes:,} bytes"
    )
    yield from _where(made, name)
    if any(value is loss for loss, _ in made.forward.losses):
        weight = next(w for loss, w in made.forward.losses if loss is value)
        yield f"it is a loss: gradients start here, with weight {weight:g}"
    elif not _is_forward_only(made):
        if value.role != "input" and f"{name}.diff" in made.graph.blobs:
            yield "its gradient is computed on the way to what is asked for"
        elif _not_computed(made, name):
            yield "its gradient is not computed as such, because the blob is not"
        elif value.role == "input" or f"{name}.diff" in made.graph.outputs:
            yield from _gradient(made, name)
        else:
            yield "its gradient is not computed: nothing that is asked for needs it"
    yield from _about_copies(made, name)


def _is_forward_only(made: Lowered) -> bool:
    return made.program.forward_steps == len(made.program.steps)


def _where(made: Lowered, name: str) -> Iterator[str]:
    """Where its bytes lie and how long."""
    program = made.program
    held = program.readable.get(name) or program.readable_forward.get(name) or name
    buffer = program.buffers.get(held)
    if buffer is None:
        why = program.overwritten.get(name) or _not_computed(made, name) or "it is not stored"
        yield f"it costs no memory: {why}"
        return
    if buffer.slot:
        slot = program.slots[buffer.slot]
        yield f"it costs nothing in the arena: it lies in the {slot.role} array '{slot.name}'"
        return
    shares = next((row.shares for row in memory_rows(program) if row.name == held), "")
    how = f" ({shares})" if shares else ""
    size = f"{buffer.span_bytes:,} bytes at {buffer.offset:,}"
    yield f"it lies in the arena from step {buffer.first} to step {buffer.last}: {size}{how}"
    if name in program.overwritten:
        yield program.overwritten[name]


def _not_computed(made: Lowered, name: str) -> str:
    """Why a blob is not computed at all; empty where it is."""
    said = [r.sentence for r in made.program.remarks if r.subject == f"blob:{name}"]
    said.append(made.program.overwritten.get(name, ""))
    reasons = ("is not computed", NEVER_WHOLE)
    return next((s for s in said if any(reason in s for reason in reasons)), "")


def _about_copies(made: Lowered, name: str) -> Iterator[str]:
    """Copies in another order, who wants them and why."""
    program = made.program
    value = made.graph.blobs.get(name) or made.graph.values.get(name)
    base = value.name if value is not None else name
    parts: list[int] = []
    for number, step in enumerate(program.steps):
        for written in step.arguments[len(step.kernel.inputs) :]:
            source, sign, order = written.partition("~")
            if not sign or source != base:
                continue
            buffer = program.buffers[written]
            way = order.partition(".")[0]
            if _PART.fullmatch(way):
                parts.append(number)
                continue
            if way == "out":
                size = f"{buffer.span_bytes:,} bytes"
                yield f"step {number} copies it into the array that the caller gets, {size}"
                continue
            why = f": {_ORDERS[way]}" if way in _ORDERS else ""
            yield (
                f"step {number} makes a copy of it in {way} order, {buffer.span_bytes:,} bytes,"
                f" for '{_wanted_by(made, base, way) or step.layer}'{why}"
            )

    if parts:
        yield (
            f"its parts are written into it where they are made, by step{'s' * (len(parts) > 1)}"
            f" {ranges(parts)}"
        )


def ranges(numbers: Sequence[int]) -> str:
    """`1, 4-16, 19` of numbers in order."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{r[0]}-{r[-1]}" if len(r) > 2 else ", ".join(map(str, r)) for r in runs)


def _wanted_by(made: Lowered, name: str, way: str) -> str:
    """The layer that a copy was made for."""
    start = f"is copied into {way} order for "
    for remark in made.program.remarks:
        if remark.subject in (name, f"blob:{name}") and remark.sentence.startswith(start):
            return remark.sentence.removeprefix(start)
    return ""


def _quoted(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "nothing"
