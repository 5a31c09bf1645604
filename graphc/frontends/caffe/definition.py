"""A Caffe net definition, checked: which layers it has in one phase, and how they connect.

Read here is what the text alone says. What a layer type means, and the shapes of its blobs, is
for the part that builds the graph.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from graphc.error import Diagnostic, NetError, need
from graphc.frontends.caffe.connection import check_connections
from graphc.frontends.caffe.layer_definition import LayerDefinition, layer_definition
from graphc.frontends.caffe.message import Message
from graphc.frontends.caffe.prototxt import parse, read_source
from graphc.frontends.caffe.upgrade import upgrade
from graphc.phase import Phase
from graphc.source import Source, Span


@dataclass(frozen=True)
class NetState:
    """What include and exclude rules ask about."""

    phase: Phase
    level: int = 0
    stages: frozenset[str] = frozenset()

    def __str__(self) -> str:
        parts = [f"phase {self.phase}"]
        if self.level:
            parts.append(f"level {self.level}")
        if self.stages:
            parts.append(f"stages {', '.join(sorted(self.stages))}")
        return ", ".join(parts)


@dataclass(frozen=True, repr=False)
class NetDefinition:
    """A net as one phase sees it.

    `layers` are in the order they run. `left_out` names the layers that include and exclude rules
    dropped. `message` is the whole net in the current format, before those rules.
    """

    name: str
    layers: tuple[LayerDefinition, ...]
    state: NetState
    force_backward: bool
    warnings: tuple[Diagnostic, ...]
    source: Source
    message: Message
    left_out: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<NetDefinition '{self.name}': {len(self.layers)} layers, phase {self.phase}>"

    @property
    def phase(self) -> Phase:
        """The phase the net was read for."""
        return self.state.phase


def read_net(
    text: str | Path | Source,
    *,
    phase: Phase = "TEST",
    level: int = 0,
    stages: Sequence[str] = (),
    layer_types: Collection[str] | None = None,
) -> NetDefinition:
    """Read a net definition of any of Caffe's formats, for one phase, level and set of stages.

    `text` is a path, or the text itself where it holds a newline or `{`. With `layer_types`, a
    layer of another type is an error. Raises NetError with every mistake that is found, each with
    its place.
    """
    need(phase in ("TRAIN", "TEST"), f"phase is TRAIN or TEST, not {phase!r}")
    need(not isinstance(stages, str), f"stages is a sequence of names, not {stages!r}")
    source = read_source(text)
    parsed = parse(source)
    if parsed.errors:
        need_net(source, parsed.errors[0].span)
    if parsed.errors and not parsed.usable:
        raise NetError(parsed.errors)
    state = NetState(phase, level, frozenset(stages))
    return build_definition(
        parsed.message,
        state,
        layer_types=layer_types,
        errors=parsed.errors,
        warnings=parsed.warnings,
    )


def need_net(source: Source, place: Span | None) -> None:
    """Raise NetError where a text with errors is a solver's without any."""
    solver = parse(source, "SolverParameter")
    if solver.errors:
        return
    named = [solver.message.get(name) for name in ("net", "train_net") if solver.message.has(name)]
    hint = f"the net is in '{named[0]}', which it names" if named else ""
    raise NetError(
        [Diagnostic("this is the definition of a solver, not of a net", place, hint=hint)]
    )


def build_definition(
    net: Message,
    state: NetState,
    *,
    layer_types: Collection[str] | None = None,
    errors: Sequence[Diagnostic] = (),
    warnings: Sequence[Diagnostic] = (),
) -> NetDefinition:
    """The definition in a parsed NetParameter (a file's, or one inside a solver's text).

    `errors` and `warnings` are what reading the text gave. Stages of the net's own `state` are
    added to `state`; its phase and level give way. Raises NetError as `read_net` does.
    """
    upgraded = upgrade(net)
    found = [*errors, *upgraded.errors]
    own_stages = upgraded.message.get("state").all("stage")
    state = NetState(state.phase, state.level, state.stages | frozenset(own_stages))
    layers: list[LayerDefinition] = []
    left_out: list[LayerDefinition] = []
    for message in upgraded.message.all("layer"):
        layer = layer_definition(message, state.phase)
        (layers if _is_included(layer, state, found) else left_out).append(layer)
    if not layers and not found:
        has = f"no layers in {state}" if left_out else "no layers"
        found.append(Diagnostic(f"the net has {has}", net.span))
    for layer in layers:
        found.extend(layer.mistakes(layer_types))
    found.extend(check_connections(layers, left_out, str(state)))
    if found:
        raise NetError(sorted(found, key=lambda d: d.span.start if d.span else 0))
    return NetDefinition(
        name=upgraded.message.get("name"),
        layers=tuple(layers),
        state=state,
        force_backward=upgraded.message.get("force_backward"),
        warnings=(*warnings, *upgraded.warnings),
        source=net.span.source,
        message=upgraded.message,
        left_out=tuple(layer.name for layer in left_out),
    )


def _is_included(layer: LayerDefinition, state: NetState, errors: list[Diagnostic]) -> bool:
    """Whether the layer's include or exclude rules keep it; a layer may have one kind only."""
    include = layer.message.all("include")
    exclude = layer.message.all("exclude")
    if include and exclude:
        span: Span = layer.message.name_span_of("exclude")
        errors.append(
            Diagnostic(f"{layer.label} has both include and exclude rules; one kind only", span)
        )
    if include:
        return any(_meets(state, rule) for rule in include)
    return not any(_meets(state, rule) for rule in exclude)


def _meets(state: NetState, rule: Message) -> bool:
    """Whether the state satisfies every condition of a rule."""
    return (
        (not rule.has("phase") or rule.get("phase") == state.phase)
        and (not rule.has("min_level") or state.level >= rule.get("min_level"))
        and (not rule.has("max_level") or state.level <= rule.get("max_level"))
        and all(stage in state.stages for stage in rule.all("stage"))
        and not any(stage in state.stages for stage in rule.all("not_stage"))
    )
