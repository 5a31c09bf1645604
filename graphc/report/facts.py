"""Everything the report says, as plain data: what `graphc inspect --json` prints."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from graphc.bench.machine import describe_machine
from graphc.bench.profile import Profile
from graphc.bench.work import work_of
from graphc.codegen.llvm.target import llvm_version
from graphc.ir.printer import print_op
from graphc.ir.remark import Remark, without_repeats
from graphc.lowered import Lowered
from graphc.plan.explain import memory_rows
from graphc.report.boxes import Boxes, boxes_of_steps
from graphc.report.gradients import gradient_rows
from graphc.report.kernel_texts import KernelTexts, texts_of_kernels
from graphc.report.pass_texts import PassTexts, texts_of_passes
from graphc.summary import Summary, summarise

_LIBRARIES = ("numpy", "networkx", "llvmlite", "protobuf")


@dataclass(frozen=True)
class Facts:
    """What is known of a net; `made` is what it was taken from, the rest is plain data.

    Attributes:
        steps: one dictionary a step of the program; `seconds` and `roofline` where profiled.
        remarks: those alike once, with how many `more` there are.
        limits: operations and bytes a second of the machine, where profiled.
        provenance: versions, processor, options as given, names and SHA-256 of the files.
    """

    made: Lowered
    summary: Summary
    boxes: Boxes
    passes: PassTexts
    kernels: list[KernelTexts]
    steps: list[dict[str, Any]]
    overview: dict[str, Any]
    memory: list[dict[str, Any]]
    gradients: list[dict[str, Any]]
    remarks: list[dict[str, Any]]
    provenance: dict[str, Any]
    limits: dict[str, float] | None = None

    @property
    def name(self) -> str:
        """The net's."""
        return self.made.graph.name


def collect(
    made: Lowered,
    options: Mapping[str, Any] | None = None,
    files: Sequence[Path] = (),
    profile: Profile | None = None,
    code: bool = True,
    version: str = "",
) -> Facts:
    """Gather all of it.

    Args:
        made: lowered with its stages.
        options: what the user asked for, and `files` the files that were read, for the
            provenance.
        profile: measured times of the same program's steps.
        code: whether kernels are shown as LLVM, assembly and CUDA too.
        version: of graphc, for the provenance.
    """
    kernels = texts_of_kernels(made.program, code)
    summary = summarise(made)
    steps = _steps(made, kernels, profile)
    return Facts(
        made=made,
        summary=summary,
        boxes=boxes_of_steps(made.graph, made.program),
        passes=texts_of_passes(made.stages),
        kernels=kernels,
        steps=steps,
        overview=_overview(made, summary, steps, kernels),
        memory=[asdict(row) for row in memory_rows(made.program)],
        gradients=[asdict(row) for row in gradient_rows(made)],
        remarks=[
            _remark(remark, more, files)
            for remark, more in without_repeats(dict.fromkeys(made.program.remarks))
        ],
        provenance=_provenance(version, options or {}, files),
        limits={"fma": profile.limits.fma, "copy": profile.limits.copy} if profile else None,
    )


def as_json(facts: Facts) -> dict[str, Any]:
    """The same as dictionaries and lists alone."""
    return {
        "name": facts.name,
        "overview": facts.overview,
        "layers": [asdict(row) for row in facts.summary.rows],
        "graph": {
            "boxes": [
                {**asdict(box), "operators": operators_of(facts, box.nodes)}
                for box in facts.boxes.boxes
            ],
            "edges": [list(edge) for edge in facts.boxes.edges],
        },
        "passes": [
            {
                "name": p.name,
                "sentence": p.sentence,
                "seconds": p.seconds,
                "nodes": p.nodes,
                "added": p.added,
                "removed": p.removed,
                "text": "".join(f"{facts.passes.table[n]}\n" for m, n in p.lines if m >= 0),
            }
            for p in facts.passes.passes
        ],
        "steps": facts.steps,
        "kernels": [asdict(kernel) for kernel in facts.kernels],
        "memory": facts.memory,
        "gradients": facts.gradients,
        "remarks": facts.remarks,
        "limits": facts.limits,
        "provenance": facts.provenance,
    }


def operators_of(facts: Facts, nodes: Sequence[int]) -> list[str]:
    """Operators of some nodes of the last graph, as text."""
    return [print_op(facts.made.graph.nodes[place].op) for place in nodes]


def _steps(
    made: Lowered, kernels: list[KernelTexts], profile: Profile | None
) -> list[dict[str, Any]]:
    names = {number: kernel.name for kernel in kernels for number in kernel.steps}
    rows = []
    for number, step in enumerate(made.program.steps):
        work = work_of(made.program, step)
        count = len(step.kernel.inputs)
        row: dict[str, Any] = {
            "step": number,
            "layer": step.layer,
            "kind": step.kind,
            "backward": step.backward,
            "kernel": names[number],
            "kernel_name": step.kernel.name,
            "flops": work.flops,
            "bytes": work.bytes,
            "reads": list(step.arguments[:count]),
            "writes": list(step.arguments[count:]),
        }
        if profile is not None:
            row["seconds"] = profile.steps[number].seconds
            row["roofline"] = profile.steps[number].roofline
        rows.append(row)
    return rows


def _overview(
    made: Lowered, summary: Summary, steps: list[dict[str, Any]], kernels: list[KernelTexts]
) -> dict[str, Any]:
    program, memory = made.program, made.program.memory
    forward = program.forward_steps
    fused = [
        {
            "step": number,
            "layers": step.layer.split(", "),
            "kinds": step.kind,
            "backward": step.backward,
        }
        for number, step in enumerate(program.steps)
        if ", " in step.layer
    ]
    return {
        "phase": made.phase,
        "layers": len(made.layers),
        "parameters": summary.parameters,
        "forward_flops": sum(step["flops"] for step in steps[:forward]),
        "backward_flops": sum(step["flops"] for step in steps[forward:]),
        "steps": len(steps),
        "forward_steps": forward,
        "kernels": len(kernels),
        "peak": memory.peak,
        "bound_of_order": memory.bound_of_order,
        "bound_of_any_order": memory.bound_of_any_order,
        "naive": memory.naive,
        "slots": dict(memory.slots),
        "fused_steps": fused,
        "seconds": sum(s["seconds"] for s in steps) if steps and "seconds" in steps[0] else None,
    }


def _remark(remark: Remark, more: int, files: Sequence[Path]) -> dict[str, Any]:
    place = remark.span
    sentence = remark.sentence
    for file in files:
        sentence = sentence.replace(f"{file.parent}/", "")
    return {
        "stage": remark.stage,
        "subject": remark.subject,
        "sentence": sentence,
        "more": more,
        "line": place.line if place else None,
    }


def _provenance(version: str, options: Mapping[str, Any], files: Sequence[Path]) -> dict[str, Any]:
    """Versions, processor, options, files: no path but a file's own name."""
    machine = describe_machine()
    return {
        "graphc": version,
        "Python": platform.python_version(),
        "LLVM": llvm_version(),
        **{name: _version(name) for name in _LIBRARIES},
        "processor": machine["processor"],
        "target": machine["target"],
        "vector bits": machine["vector_bits"],
        "cores": machine["cores"],
        "system": machine["system"],
        "options": dict(options),
        "files": [
            {
                "name": file.name,
                "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
                "bytes": file.stat().st_size,
            }
            for file in files
        ],
    }


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed as a distribution"
