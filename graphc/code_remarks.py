"""Why the code of a layer's kernels is as it is, as remarks."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from graphc.answers import ranges
from graphc.codegen.llvm.said import lines
from graphc.codegen.llvm.schedule_remarks import KernelRemarks, schedule_remarks
from graphc.codegen.llvm.target import Target
from graphc.ir.remark import Remark
from graphc.plan.budget import shown

if TYPE_CHECKING:
    from graphc.lowered import Lowered

STAGE = "code"
_BEHIND = re.compile(r"\.diff|~")  # what follows the name of a value in an array's


def code_remarks(made: Lowered, layer: str, target: Target | None = None) -> list[Remark]:
    """All about a layer's kernels, forward and backward; nothing where no step does its work.

    target: the processor that code is made for; None: this machine, or what GRAPHC_TARGET names.
    Raises NetError for an unknown name in that variable.
    """
    program, chosen = made.program, target or Target.host()
    steps = [n for n, s in enumerate(program.steps) if layer in s.layer.split(", ")]
    if not steps:
        return []

    def called(array: str) -> str:
        """A parameter's own name, whatever follows: `~packed`, `.diff`."""
        base = _BEHIND.split(array, maxsplit=1)[0]
        return made.called(base) + array[len(base) :]

    found = [_machine(chosen, layer)]
    for kernel in schedule_remarks(program, steps, chosen, made.turned, called):
        found += _of_kernel(kernel, layer)
    return found


def _machine(target: Target, layer: str) -> Remark:
    """What the decisions depend on."""
    facts = {
        "about": "machine",
        "target": target.name,
        "registers": target.registers,
        "vector_bytes": target.vector_bytes,
        "l1_bytes": target.l1_bytes,
        "l2_bytes": target.l2_bytes,
        "load_slots": target.load_slots,
        "streams": target.streams,
        "near_pages": target.near_pages,
        "shared_stores": target.shared_stores,
    }
    said = (
        f"code for '{target.name}': {target.registers} registers of {target.vector_bytes} bytes,"
        f" caches of {shown(target.l1_bytes)} and {shown(target.l2_bytes)} a core"
    )
    if target.streams > 1:
        said += f"; it reads memory fastest in {target.streams} places at once"
    return Remark(STAGE, f"layer:{layer}", said, facts=facts)


def _of_kernel(kernel: KernelRemarks, layer: str) -> list[Remark]:
    """One remark a decision."""
    way = "backward" if kernel.backward else "forward"
    known = {"pass": way, "steps": kernel.steps, "kernel": kernel.kernel}
    return [
        Remark(
            STAGE,
            f"layer:{layer}",
            f"{one.part}: {one.sentence}" if one.part else one.sentence,
            facts={**known, "about": one.about, "part": one.part, **one.facts},
        )
        for one in kernel.said
    ]


def code_lines(remarks: Sequence[Remark]) -> Iterator[str]:
    """These remarks for people: of a kernel that one thread does, its form; of others, all."""
    for steps, group in itertools.groupby(remarks, lambda remark: remark.facts.get("steps")):
        told = list(group)
        facts = told[0].facts
        if steps is None:
            yield from (f"{remark.subject}: {remark.sentence}. [{STAGE}]" for remark in told)
            continue
        where = f"{facts['pass']} step{'s' * (len(steps) > 1)} {ranges(steps)} ({facts['kernel']})"
        if any(remark.facts["about"] == "threads" for remark in told):
            short = [r.sentence for r in told if r.facts["about"] in ("form", "threads")]
            yield f"{where}: {'; '.join(short)}. [{STAGE}]"
            continue
        yield f"{where}: [{STAGE}]"
        parts = [r.facts["part"] for r in told]
        plain = [r.sentence.removeprefix(f"{part}: ") for r, part in zip(told, parts, strict=True)]
        yield from (f"  {line}" for line in lines(zip(parts, plain, strict=True)))
