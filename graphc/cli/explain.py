"""`graphc explain`: why things are as they are."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphc.cli.options import NetOptions, TargetName, TargetOption, fast_math_words
from graphc.cli.report import busy, print_json, say
from graphc.cli.session import open_session
from graphc.error import NetError, did_you_mean

if TYPE_CHECKING:
    from graphc.ir.remark import Remark
    from graphc.lowered import Lowered
    from graphc.plan.program import Program

WHOLE = "net"
ANSWER = "answer"


def explain(
    options: NetOptions,
    subject: Annotated[
        str,
        typer.Argument(
            metavar="SUBJECT",
            help="layer:conv1, blob:conv1, a parameter conv1/0 (by its own name in a .mat), `net`"
            " for what concerns the whole, or nothing for everything.",
        ),
    ] = "",
    *,
    target: TargetOption = TargetName.cpu,
) -> None:
    """Print why things are as they are.

    What it is, what it costs, whether it is in place, gets a gradient, moves in training; then
    every decision about it, in order. Of a named layer also why the code of its kernels is as it is
    on this machine, or on the one that the variable GRAPHC_TARGET names: tiles, what threads share,
    how sums are cut, what is copied, where results go. With --target cuda also which steps a
    library could do, and what was found when it was tried here.
    """
    from graphc.code_remarks import code_lines
    from graphc.ir.remark import without_repeats

    with busy("planning"):
        made = _lowered(options, target)
    answered = _answers(made, subject)
    told = "\n".join(remark.sentence for remark in answered)
    decided = [r for r in _remarks(made, subject, bool(answered)) if r.sentence not in told]
    found = list(dict.fromkeys([*answered, *decided]))
    remarks = without_repeats(found)
    code = _code(made, subject) if target is TargetName.cpu else []
    if options.json:
        every = [*remarks, *((remark, 0) for remark in code)]
        print_json([_plain(made, remark, more) for remark, more in every])
        return
    for remark, more in remarks:
        if remark.stage == ANSWER:
            say(f"{remark.sentence}.")
            continue
        place = f"  ({remark.span})" if remark.span else ""
        others = f" (and {more} more like this)" if more else ""
        said = f"{remark.sentence}{_saved(remark)}{others}"
        say(f"{made.called(remark.subject)}: {said}. [{remark.stage}]{place}")
    for line in code_lines(code):
        say(line)
    if not remarks:
        say(f"{subject or 'the net'}: nothing had to be decided.")


def _lowered(options: NetOptions, target: TargetName) -> Lowered:
    """The net's stages; for a GPU with remarks about its code, which has direct sums alone."""
    if target is TargetName.cpu:
        return open_session(options).lowered()
    from graphc.back_ends import gpu_remarks

    tf32 = "tf32" in fast_math_words(options.exact, options.fast_math)
    made = open_session(replace(options, exact=True, fast_math=None)).lowered()
    said = gpu_remarks(made.program, tf32)
    return replace(made, program=replace(made.program, remarks=(*made.program.remarks, *said)))


def _code(made: Lowered, subject: str) -> list[Remark]:
    """Why the code of a layer's kernels is as it is; nothing where no layer is named."""
    from graphc.code_remarks import code_remarks

    kind, colon, name = subject.partition(":")
    if not colon or kind not in ("layer", "blob"):
        kind, name = "", subject
    return code_remarks(made, name) if kind != "blob" and made.layer(name) else []


def _answers(made: Lowered, subject: str) -> list[Remark]:
    """What people ask about such a thing, as remarks without a stage of the compiler."""
    from graphc.answers import answers
    from graphc.ir.remark import Remark

    return [Remark(ANSWER, subject, sentence) for sentence in answers(made, subject)]


def _remarks(made: Lowered, subject: str, is_known: bool) -> list[Remark]:
    """Those about the subject; a layer's include those about its tops and parameters.

    Raises NetError for a name that is not `is_known` and that nothing has.
    """
    from graphc.plan.explain import explain as remarks_about

    program = made.program
    if subject == WHOLE and WHOLE not in made.graph.blobs:
        return [remark for remark in program.remarks if remark.subject == WHOLE]
    if not subject:
        return list(program.remarks)
    kind, _, layer = subject.rpartition(":")
    if kind == "layer" and layer in made.layer_tops:
        things = [f"blob:{top}" for top in made.layer_tops[layer] if top in program.buffers]
        things += [key for key in made.owners if key.rpartition("/")[0] == layer]
        wanted = {subject, *things}
        wanted |= {f"{thing}.diff" for thing in things} | {f"blob:{thing}" for thing in things}
        found = [remark for remark in program.remarks if wanted & _subjects(remark)]
        return [*found, *_steps(program, layer)]
    if "~" in subject and subject in program.buffers:
        return []  # a copy: what is asked is where it comes from
    base = subject.removesuffix(".diff")
    owner = made.owners.get(base, base)
    try:
        return remarks_about(program, owner + subject.removeprefix(base))
    except NetError:
        if is_known:
            return []
        named = {"layer": [*made.layer_tops], "blob": [*made.forward.blobs]}
        kind, _, name = subject.rpartition(":")
        every = [*made.layer_tops, *made.forward.blobs, *made.owners, *program.buffers]
        hint = did_you_mean(name, named.get(kind, every))
        if hint:
            raise NetError(f"the net has no '{subject}'; {hint}") from None
        raise


def _subjects(remark: Remark) -> set[str]:
    """A remark on joined layers, `layer:conv1, relu1`, is about each of them."""
    kind, colon, names = remark.subject.rpartition(":")
    return {remark.subject} | {f"{kind}{colon}{name}" for name in names.split(", ")}


def _steps(program: Program, layer: str) -> list[Remark]:
    """In which steps a layer runs, and with whom."""
    from graphc.answers import ranges
    from graphc.ir.remark import Remark

    remarks = []
    for way, backward in (("forward", False), ("backward", True)):
        runs: dict[str, list[int]] = {}
        for number, step in enumerate(program.steps):
            layers = step.layer.split(", ")
            if step.backward is backward and layer in layers:
                others = ", ".join(f"'{other}'" for other in layers if other != layer)
                said = f"{step.kernel.name}{f', with {others}' * bool(others)}"
                runs.setdefault(said, []).append(number)
        if runs:
            parts = [f"{ranges(numbers)} ({said})" for said, numbers in runs.items()]
            many = sum(map(len, runs.values())) > 1
            sentence = f"runs {way} in step{'s' * many} {', '.join(parts)}"
            remarks.append(Remark("plan", f"layer:{layer}", sentence))
    return remarks


def _saved(remark: Remark) -> str:
    from graphc.plan.budget import shown

    return f"; that saves {shown(remark.saving.bytes)}" if remark.saving else ""


def _plain(made: Lowered, remark: Remark, more: int) -> dict[str, Any]:
    """As data; `more` are remarks alike that are left out."""
    place = remark.span
    return {
        "more": more,
        "stage": remark.stage,
        "subject": made.called(remark.subject),
        "sentence": remark.sentence,
        "facts": dict(remark.facts) or None,
        "saved": remark.saving.bytes if remark.saving else None,
        "file": place.source.name if place else None,
        "line": place.line if place else None,
        "column": place.column if place else None,
    }
