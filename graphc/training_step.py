"""One step of training as a graph: the gradients of a net's backward pass, and what they change.

    gradient (of several passes, added up) -> clipped -> averaged -> decay added -> update

Each parameter's chain follows right behind its gradient, so that the plan can compute it in the
sweep that makes the gradient. Only clipping has to wait for all of them.
"""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass

from graphc.ir.core.axes import Sum
from graphc.ir.graph import Graph, Origin, Value
from graphc.ir.remark import Saving
from graphc.ir.types import TensorType
from graphc.ops.update import (
    AdaDeltaUpdate,
    AdaGradUpdate,
    AdamUpdate,
    ClipFactor,
    NesterovUpdate,
    RmsPropUpdate,
    Scaled,
    SgdUpdate,
    SumOfSquares,
    Update,
    WeightDecay,
)

RATE = "solver.rate"
CONSUMED = "a gradient used up by its update"

METHODS: dict[str, type[Update]] = {  # each takes its settings, then `factor`
    "SGD": SgdUpdate,
    "Nesterov": NesterovUpdate,
    "AdaGrad": AdaGradUpdate,
    "RMSProp": RmsPropUpdate,
    "AdaDelta": AdaDeltaUpdate,
    "Adam": AdamUpdate,
}


@dataclass(frozen=True)
class Learned:
    """A parameter that a step may change. With factor 0 it counts in the norm only."""

    name: str
    factor: float  # of the rate: lr_mult
    decay: float  # weight_decay * decay_mult


@dataclass(frozen=True)
class UpdateRule:
    """How a step changes parameters.

    Attributes:
        method: a key of METHODS.
        settings: the fields of its operator but `factor`, in order.
        parameters: what it may change.
        norm: 1 or 2, of the weight decay.
        clip: the largest norm of all gradients together; None: any.
        passes: how many passes' gradients are averaged; with more than one, the state `NAME.diff`
            holds the sum of all passes but the last.
    """

    method: str
    settings: tuple[float, ...]
    parameters: tuple[Learned, ...]
    norm: int = 2
    clip: float | None = None
    passes: int = 1


def history_names(method: str, parameter: str) -> list[str]:
    """The states that hold a parameter's history, in the order of the method's operator."""
    count = METHODS[method].histories
    return [f"{parameter}.history{number}" for number in range(1, count + 1)]


def add_updates(graph: Graph, rule: UpdateRule) -> Graph:
    """The graph, with gradients as outputs `NAME.diff`, made one that updates its parameters.

    The gradients are no outputs any more; the parameters become states, and so do the histories.
    The rate is an input called RATE.
    """
    new, _ = graph.copy()
    gradients = {learned.name: _gradient(new, learned, rule) for learned in rule.parameters}
    factor: Value | None = None
    if rule.clip is not None and gradients:
        factor = _clip_factor(new, list(gradients.values()), rule.clip)
    rate: Value | None = None
    for learned in rule.parameters:
        if learned.factor == 0:
            continue
        parameter = new.values[learned.name]
        if rate is None:
            rate = new.input(RATE, TensorType(parameter.type.dtype, ()), "input")
        new.origin = _origin(learned.name, "update")
        gradient = gradients[learned.name]
        if factor is not None:
            gradient = Scaled()(gradient, factor)
        if rule.passes > 1:
            gradient = gradient * (1.0 / rule.passes)
        if learned.decay:
            gradient = WeightDecay(learned.decay, rule.norm)(gradient, parameter)
        _update(new, rule, learned, gradient, rate)
    return new


def _origin(parameter: str, kind: str) -> Origin:
    return Origin(parameter.rpartition("/")[0], kind, backward=True)


def _gradient(graph: Graph, learned: Learned, rule: UpdateRule) -> Value:
    """The gradient of all passes; it is no output and no blob of the user's any more."""
    name = f"{learned.name}.diff"
    gradient = graph.outputs.pop(name)
    graph.remark(
        "update",
        learned.name,
        "its gradient is used up by the update, and is no result of the call",
        saving=Saving(CONSUMED, gradient.type.bytes) if rule.passes == 1 else None,
    )
    graph.blobs.pop(name, None)
    if rule.passes == 1:
        return gradient
    if name in graph.values:
        graph.rename(graph.values[name], graph.fresh(f"{name}.last"))
    graph.origin = _origin(learned.name, "update")
    return graph.input(name, gradient.type, "state") + gradient


def _clip_factor(graph: Graph, gradients: list[Value], limit: float) -> Value:
    """The factor for all gradients: 1, or less where their norm is above the limit."""
    graph.origin = Origin("", "clip", backward=True)
    sums: list[Value] = []
    for gradient in gradients:
        # Row by row first, which threads can share.
        rows = SumOfSquares(tuple(range(1, gradient.type.rank)))(gradient)
        sums.append(Sum((0,))(rows) if gradient.type.rank else rows)
    factor: Value = ClipFactor(limit)(functools.reduce(operator.add, sums))
    return factor


def _update(graph: Graph, rule: UpdateRule, learned: Learned, gradient: Value, rate: Value) -> None:
    parameter = graph.values[learned.name]
    states = history_names(rule.method, learned.name)
    histories = [graph.input(state, parameter.type, "state") for state in states]
    # Operators of methods have the method's settings as fields, then the factor of the rate.
    update = METHODS[rule.method](*rule.settings, learned.factor)  # type: ignore[call-arg]
    updated, *renewed = update(parameter, gradient, *histories, rate)
    parameter.role = "state"
    graph.updates[learned.name] = updated
    graph.updates.update(zip(states, renewed, strict=True))
