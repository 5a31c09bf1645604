"""A Caffe solver definition: which net it trains, and how."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from graphc.error import Diagnostic, NetError, did_you_mean
from graphc.frontends.caffe.definition import NetDefinition, NetState, build_definition
from graphc.frontends.caffe.message import Message
from graphc.frontends.caffe.prototxt import Parsed, parse, read_source
from graphc.frontends.caffe.rate_policy import (
    policy_mistakes,
    policy_warnings,
    rate_policy,
)
from graphc.phase import Phase
from graphc.runtime.rate_policy import RatePolicy
from graphc.source import Source, Span

METHODS = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")
_OLD_METHODS = {method.upper(): method for method in METHODS}
_TRAIN_NETS = ("net", "net_param", "train_net", "train_net_param")


@dataclass(frozen=True)
class TestDefinition:
    """A net that training is tested with, and how many passes' scores are averaged."""

    net: NetDefinition
    passes: int


@dataclass(frozen=True)
class SolverDefinition:
    """What a solver's text says.

    Attributes:
        method: one of METHODS.
        settings: the method's numbers, in the order momentum, momentum2, rms_decay, delta as far as
            the method has them.
        rates: the learning rate.
        decay, norm: the weight decay; norm 1 is L1. clip: largest norm of the gradient, or None.
        iter_size: passes whose gradients are averaged in one iteration.
        max_iter: the last iteration; 0 where none is given.
        seed: None where none is given.
        snapshot: iterations between snapshots; 0: none.
        snapshot_prefix: the beginning of their names, as given; `hdf5` chooses their format.
        weights: files to start from.
        folder: what relative paths start from.
        snapshot_at_end: whether training ends with a snapshot.
        display: iterations between those whose outputs are shown; 0: none.
        average_loss: how many iterations' losses are averaged for showing.
        net: the net in its training phase.
        tests: the test nets. They run every test_interval iterations (0: never), before the first
            one only with test_initialization; test_loss asks for the mean of their losses.
        step_mistakes: what is wrong with the rate or the decay: warned of at first, as Caffe
            accepts such a definition until it takes a step; see `need_steps`.
    """

    method: str
    settings: tuple[float, ...]
    rates: RatePolicy
    decay: float
    norm: Literal[1, 2]
    clip: float | None
    iter_size: int
    max_iter: int
    seed: int | None
    snapshot: int
    snapshot_prefix: str
    hdf5: bool
    weights: tuple[str, ...]
    folder: Path
    snapshot_at_end: bool
    display: int
    average_loss: int
    net: NetDefinition
    tests: tuple[TestDefinition, ...]
    test_interval: int
    test_initialization: bool
    test_loss: bool
    step_mistakes: tuple[Diagnostic, ...]
    warnings: tuple[Diagnostic, ...]
    message: Message

    def need_steps(self) -> None:
        """Raise NetError with all `step_mistakes`, if there are any."""
        if self.step_mistakes:
            raise NetError(self.step_mistakes)


def read_solver(
    text: str | Path | Source,
    *,
    layer_types: Collection[str] | None = None,
    net: NetDefinition | None = None,
) -> SolverDefinition:
    """Read a solver's prototxt, the net it trains and those it tests with.

    `text` is a path, or the text itself where it holds a newline or `{`. Paths in it start from its
    own folder; where the net's file is not there but in the working folder, from that one, as when
    Caffe is run at the root of its tree. `net` is trained in place of the one it names, and then
    no others are read. Raises NetError with every mistake, each with its place; where only steps
    are impossible, that is a warning, and `need_steps` raises it.
    """
    source = read_source(text)
    parsed = parse(source, "SolverParameter")
    if parsed.errors:
        _need_solver(source, parsed.errors[0].span)
    if parsed.errors and not parsed.usable:
        raise NetError(parsed.errors)
    solver = parsed.message
    folder = _folder(source, solver)
    reader = _NetReader(solver, folder, layer_types, [])
    tests: tuple[TestDefinition, ...] = ()
    errors = [*parsed.errors, *_mistakes(solver)]
    if net is None:
        given = [name for name in _TRAIN_NETS if solver.has(name)]
        if len(given) != 1:
            errors.append(_net_mistake(solver, given))
        else:
            net = reader.train_net(given[0])
            tests = () if any(_test_mistakes(solver)) else tuple(reader.tests())
    step_mistakes = (*policy_mistakes(solver), *_norm_mistakes(solver))
    if errors or reader.errors or net is None:
        own = sorted([*errors, *step_mistakes], key=lambda d: d.span.start if d.span else 0)
        raise NetError([*own, *(error for error in reader.errors if error not in own)])
    named = _Named(net, tests, folder, _snapshot_prefix(solver, source, folder))
    return _definition(solver, named, step_mistakes, parsed.warnings)


@dataclass(frozen=True)
class _Named:
    """What the file names of a solver's definition stand for."""

    net: NetDefinition
    tests: tuple[TestDefinition, ...]
    folder: Path
    snapshot_prefix: str


def _definition(
    solver: Message,
    named: _Named,
    step_mistakes: tuple[Diagnostic, ...],
    warnings: Sequence[Diagnostic],
) -> SolverDefinition:
    """What a solver's text without mistakes says."""
    method = _method(solver)
    clip, seed = solver.get("clip_gradients"), solver.get("random_seed")
    return SolverDefinition(
        method=method,
        settings=_settings(method, solver),
        rates=rate_policy(solver),
        decay=solver.get("weight_decay"),
        norm=1 if solver.get("regularization_type") == "L1" else 2,
        clip=clip if clip >= 0 else None,
        iter_size=solver.get("iter_size"),
        max_iter=solver.get("max_iter"),
        seed=seed if seed >= 0 else None,
        snapshot=solver.get("snapshot"),
        snapshot_prefix=named.snapshot_prefix,
        hdf5=solver.get("snapshot_format") == "HDF5",
        weights=tuple(n.strip() for given in solver.all("weights") for n in given.split(",")),
        folder=named.folder,
        snapshot_at_end=solver.get("snapshot_after_train"),
        display=solver.get("display"),
        average_loss=solver.get("average_loss"),
        net=named.net,
        tests=named.tests,
        test_interval=solver.get("test_interval"),
        test_initialization=solver.get("test_initialization"),
        test_loss=solver.get("test_compute_loss"),
        step_mistakes=step_mistakes,
        warnings=(
            *warnings,
            *_warnings(solver),
            *policy_warnings(solver),
            *(replace(mistake, severity="warning") for mistake in step_mistakes),
        ),
        message=solver,
    )


def _need_solver(source: Source, place: Span | None) -> None:
    """Raise NetError where a text with errors is a net's without any."""
    if parse(source).errors:
        return
    hint = f'a solver names its net: `net: "{Path(source.name).name}"`'
    raise NetError(Diagnostic("this is the definition of a net, not of a solver", place, hint=hint))


# -- the method -----------------------------------------------------------------------------------


def _method(solver: Message) -> str:
    if solver.has("solver_type"):
        return _OLD_METHODS[solver.get("solver_type")]
    return str(solver.get("type"))


def _settings(method: str, solver: Message) -> tuple[float, ...]:
    fields = {
        "SGD": ("momentum",),
        "Nesterov": ("momentum",),
        "AdaGrad": ("delta",),
        "RMSProp": ("rms_decay", "delta"),
        "AdaDelta": ("momentum", "delta"),
        "Adam": ("momentum", "momentum2", "delta"),
    }
    return tuple(solver.get(name) for name in fields[method])


def _mistakes(solver: Message) -> Iterator[Diagnostic]:
    """Errors in single fields."""
    yield from _method_mistakes(solver)
    least = {"iter_size": 1, "average_loss": 1, "snapshot": 0, "max_iter": 0, "display": 0}
    for name, number in least.items():
        if solver.get(name) < number:
            span = solver.span_of(name)
            yield Diagnostic(f"{name} must be at least {number}, not {solver.get(name)}", span)
    yield from _test_mistakes(solver)


def _norm_mistakes(solver: Message) -> Iterator[Diagnostic]:
    kind = solver.get("regularization_type")
    if kind not in ("L1", "L2") and solver.get("weight_decay"):
        span = solver.span_of("regularization_type")
        yield Diagnostic(f"unknown regularization type '{kind}'; it is L1 or L2", span)


def _method_mistakes(solver: Message) -> Iterator[Diagnostic]:
    if solver.has("type") and solver.has("solver_type"):
        span = solver.name_span_of("solver_type")
        yield Diagnostic("give type or the older solver_type, not both", span)
        return
    method = _method(solver)
    if method not in METHODS:
        hint = did_you_mean(method, METHODS) or f"the types are {', '.join(METHODS)}"
        yield Diagnostic(f"unknown solver type '{method}'", solver.span_of("type"), hint=hint)
    if method in ("AdaGrad", "RMSProp") and solver.get("momentum") != 0:
        span = solver.span_of("momentum")
        yield Diagnostic(f"{method} has no momentum; it must be 0", span)
    if method == "RMSProp" and not 0 <= solver.get("rms_decay") < 1:
        span = solver.span_of("rms_decay")
        number = solver.get("rms_decay")
        yield Diagnostic(f"rms_decay must be at least 0 and below 1, not {number:g}", span)
    for name in ("momentum", "momentum2") if method == "Adam" else ():
        if not 0 <= solver.get(name) < 1:
            number, span = solver.get(name), solver.span_of(name)
            yield Diagnostic(f"Adam's {name} must be at least 0 and below 1, not {number:g}", span)


def _test_mistakes(solver: Message) -> Iterator[Diagnostic]:
    """Whether every test net has its iterations."""
    named = len(solver.all("test_net")) + len(solver.all("test_net_param"))
    counts = len(solver.all("test_iter"))
    generic = solver.has("net") or solver.has("net_param")
    if counts < named or (counts > named and not generic):
        span = solver.name_span_of("test_iter" if counts else "test_net")
        yield Diagnostic(f"there are {named} test nets and {counts} test_iter", span)
        return
    states = len(solver.all("test_state"))
    if states and states != counts:
        span = solver.name_span_of("test_state")
        yield Diagnostic(f"there are {counts} test nets and {states} test_state", span)
    for place, passes in enumerate(solver.all("test_iter")):
        if passes < 0:
            span = solver.span_of("test_iter", place)
            yield Diagnostic(f"test_iter must be at least 0, not {passes}", span)
    if counts and solver.get("test_interval") <= 0:
        span = solver.name_span_of("test_iter")
        yield Diagnostic("with test_iter, test_interval must be at least 1", span)


def _warnings(solver: Message) -> Iterator[Diagnostic]:
    if solver.get("base_lr") == 0:
        place = solver.span_of("base_lr") if solver.has("base_lr") else solver.span
        yield Diagnostic("base_lr is 0: nothing will be learned", place, "warning")
    if solver.get("snapshot_diff"):
        place = solver.span_of("snapshot_diff")
        yield Diagnostic("gradients are not written into snapshots", place, "warning")


# -- the net --------------------------------------------------------------------------------------


def _net_mistake(solver: Message, given: list[str]) -> Diagnostic:
    if not given:
        fields = ", ".join(_TRAIN_NETS)
        return Diagnostic(f"the solver has no net to train; give one of {fields}", solver.span)
    span = solver.name_span_of(given[1])
    return Diagnostic(f"the net to train is given twice, by {' and '.join(given)}", span)


def _folder(source: Source, solver: Message) -> Path:
    path = Path(source.name)
    own = path.parent if path.is_file() else Path()
    name = solver.get("net") or solver.get("train_net")
    return Path() if name and not (own / name).is_file() and Path(name).is_file() else own


@dataclass(frozen=True)
class _NetReader:
    """Reads the nets of a solver: files, or messages inside of it. `errors` gathers mistakes."""

    solver: Message
    folder: Path
    layer_types: Collection[str] | None
    errors: list[Diagnostic]

    def train_net(self, field: str) -> NetDefinition | None:
        """The net to train, None where it has mistakes.

        Its own state, then train_state, change phase, level and stages.
        """
        return self._net(field, 0, "TRAIN", self.solver.get("train_state"))

    def tests(self) -> list[TestDefinition]:
        """The test nets: those of their own first, then the trained one for the rest of test_iter.

        test_state changes phase, level and stages, one for each.
        """
        own = [
            (field, place)
            for field in ("test_net_param", "test_net")
            for place in range(len(self.solver.all(field)))
        ]
        passes = self.solver.all("test_iter")
        general = "net_param" if self.solver.has("net_param") else "net"
        fields = own + [(general, 0)] * (len(passes) - len(own))
        states = self.solver.all("test_state") or [Message.empty("NetState", self.solver.span)]
        found = []
        for place, (field, count) in enumerate(zip(fields, passes, strict=True)):
            net = self._net(*field, "TEST", states[place % len(states)])
            if net is not None:
                found.append(TestDefinition(net, count))
        return found

    def _net(self, field: str, place: int, phase: Phase, state: Message) -> NetDefinition | None:
        try:
            return self._read(field, place, phase, state)
        except NetError as error:
            self.errors.extend(d for d in error.diagnostics if d not in self.errors)
            return None

    def _read(self, field: str, place: int, phase: Phase, state: Message) -> NetDefinition:
        net = self._parsed(field, place)
        level = 0
        for one in (net.message.get("state"), state):
            phase = one.get("phase") if one.has("phase") else phase
            level = one.get("level") if one.has("level") else level
        return build_definition(
            net.message,
            NetState(phase, level, frozenset(state.all("stage"))),
            layer_types=self.layer_types,
            errors=net.errors,
            warnings=net.warnings,
        )

    def _parsed(self, field: str, place: int) -> Parsed:
        given = self.solver.all(field) if field.startswith("test") else [self.solver.get(field)]
        if isinstance(given[place], Message):
            return Parsed(given[place], [], [], True)
        try:
            net = parse(read_source(self.folder / given[place]))
        except NetError as error:
            raise NetError(str(error), self.solver.span_of(field, place)) from None
        if net.errors and not net.usable:
            raise NetError(net.errors)
        return net


def _snapshot_prefix(solver: Message, source: Source, folder: Path) -> str:
    """As given; without one, or where it names a folder, with the solver's own name."""
    given: str = solver.get("snapshot_prefix")
    path = Path(source.name)
    own = path.with_suffix("") if path.is_file() else Path("solver")
    if not given:
        return own.name if path.is_file() and path.parent == folder else str(own)
    return str(Path(given) / own.name) if (folder / given).is_dir() else given
