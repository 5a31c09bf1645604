"""Who gets a gradient, who does not, and why."""

from __future__ import annotations

from dataclasses import dataclass

from graphc.lowered import Lowered

_STAGES = ("backward", "caffe")


@dataclass(frozen=True)
class GradientRow:
    """An input or a parameter: `state` is "computed", "zero" or "none"."""

    name: str
    role: str
    shape: tuple[int, ...]
    lr_mult: float | None
    decay_mult: float | None
    state: str
    why: str


def gradient_rows(made: Lowered) -> list[GradientRow]:
    """All inputs, then all parameters."""
    rows = []
    for value in made.forward.inputs("input", "parameter"):
        learning = made.learning.get(value.name)
        state, why = gradient_state(made, value.name)
        shape = value.shape[::-1] if made.turned else value.shape
        rows.append(
            GradientRow(
                name=made.called(value.name),
                role=value.role or "",
                shape=shape,
                lr_mult=learning.lr_mult if learning else None,
                decay_mult=learning.decay_mult if learning else None,
                state=state,
                why=why,
            )
        )
    return rows


NO_BACKWARD = "no backward pass was asked for, or no gradient is defined"
NOT_ASKED = "it was not asked for"


def gradient_state(made: Lowered, name: str) -> tuple[str, str]:
    """("computed", "zero" or "none", why) for the gradient of an input, blob or parameter."""
    graph = made.graph
    diff = f"{name}.diff"
    said = [
        remark.sentence
        for remark in graph.remarks
        if remark.stage in _STAGES
        and remark.subject in (name, f"blob:{name}")
        and "gradient" in remark.sentence
    ]
    if any(" is zero: " in s or " stays as it is: " in s for s in said):
        return "zero", next(s for s in said if ": " in s).partition(": ")[2]
    if diff in graph.outputs or diff in graph.updates:
        return "computed", _source(made)
    learning = made.learning.get(name)
    if name in graph.updates and (learning is None or learning.learned):
        return "computed", _source(made)  # a step of training, which keeps no gradient
    return "none", _why_none(made, name, said)


def _source(made: Lowered) -> str:
    losses = [f"'{name}'" for name, value in made.forward.blobs.items() if _is_loss(made, value)]
    given = [f"'{v.name.removesuffix('.diff')}'" for v in made.graph.inputs("gradient")]
    parts = []
    if losses:
        parts.append(f"from the loss{'es' * (len(losses) > 1)} {', '.join(losses)}")
    if given:
        parts.append(f"from the gradient given for {', '.join(given)}")
    return " and ".join(parts)


def _is_loss(made: Lowered, value: object) -> bool:
    return any(value is loss for loss, _ in made.forward.losses)


def _why_none(made: Lowered, name: str, said: list[str]) -> str:
    value = made.forward.values.get(name) or made.forward.blobs.get(name)
    if value is not None and not value.type.is_real:
        return f"it holds {value.type.dtype}, which has no gradient"
    if name in made.labels:
        return made.labels[name]
    for sentence in said:
        if "gets no gradient: " in sentence:
            return sentence.partition(": ")[2]
    learning = made.learning.get(name)
    if learning is not None and not learning.learned:
        return "it is a statistic that the forward pass keeps, not a learned parameter"
    if made.program.forward_steps == len(made.program.steps):
        return NO_BACKWARD
    if value is not None and value.role == "input" and not made.turned:
        return "it was not asked for; by Caffe's rule inputs get one with force_backward alone"
    return NOT_ASKED
