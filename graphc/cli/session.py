"""From options to a net that verbs work on, whichever framework it comes from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import typer

from graphc.cli.axes import Axes
from graphc.cli.names import Known, given_names, need_known
from graphc.cli.options import Mode, NetOptions, fast_math_words
from graphc.error import NetError
from graphc.phase import TEST, TRAIN, Phase

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from graphc.artifact import Contents
    from graphc.bench.net import Call
    from graphc.driver import Compilation, Signature
    from graphc.frontends.caffe.definition import NetDefinition
    from graphc.frontends.caffe.network import CaffeNet
    from graphc.graph_call import Choices
    from graphc.ir.graph import Graph
    from graphc.lowered import Lowered
    from graphc.net import Net
    from graphc.solver import Solver

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Results:
    """What a call gave, in the user's order of axes.

    Attributes:
        arrays: the outputs and what is kept, or the gradients.
        outputs: the net's outputs.
        seconds: of `compile` and `run`.
    """

    arrays: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    loss: float | None
    seconds: dict[str, float]


class Session(Protocol):
    """A net of either framework, with its options. Arrays have the user's order of axes."""

    axes: Axes

    @property
    def graph(self) -> Graph:
        """Forward; its inputs and blobs have the shapes of the call."""

    @property
    def inputs(self) -> list[str]:
        """Names of the net's inputs."""

    @property
    def filled(self) -> list[str]:
        """Those inputs that data layers fill where no value is given."""

    @property
    def outputs(self) -> list[str]:
        """Names of its outputs."""

    def targets(self) -> tuple[list[str], list[str]]:
        """(blobs a gradient is given for, names it is wanted for), as for `gradients_of`."""

    def forward(self, arrays: Mapping[str, np.ndarray], kept: Sequence[str]) -> Results:
        """Run forward; `kept` are blobs to be read besides the outputs."""

    def gradients(
        self, arrays: Mapping[str, Any], seeds: Mapping[str, Any], wrt: Sequence[str]
    ) -> Results:
        """Run forward and backward from gradients that are given."""

    def lowered(self, stages: bool = False) -> Lowered:
        """The program that the options mean, with gradients if any are defined."""

    def contents(self) -> Contents:
        """The same for a file."""

    def held(self) -> dict[str, np.ndarray]:
        """Parameters and states by their names in a file, with the axes of the graph."""

    def bench_call(self) -> Call:
        """The net compiled for a target and run once on random inputs."""


def open_session(
    options: NetOptions,
    sources: Mapping[str, str] | None = None,
    target: str = "cpu",
    libraries: str = "auto",
) -> Session:
    """The net of the options; `sources` are those of --input, whose files may tell a size."""
    if is_mat(options):
        from graphc.cli.mat_session import MatSession

        return MatSession(options, sources or {}, target, libraries)
    if is_ir(options):
        from graphc.cli.ir_session import IrSession

        return IrSession(options, sources or {}, target, libraries)
    from graphc.cli.caffe_session import CaffeSession

    return CaffeSession(options, sources or {}, target, libraries)


def is_mat(options: NetOptions) -> bool:
    """Whether the net is a MatConvNet file."""
    return Path(options.net).suffix.lower() == ".mat"


def is_ir(options: NetOptions) -> bool:
    """Whether the net is a graph written as text."""
    return Path(options.net).suffix.lower() == ".ir"


def pairs(option: str, words: list[str] | None) -> dict[str, str]:
    """NAME=VALUE words as a dict. A word without `=`, or a name twice, is wrong usage."""
    found: dict[str, str] = {}
    for word in words or ():
        name, sign, value = word.partition("=")
        if not sign or not name or not value:
            raise typer.BadParameter(f"'{word}' is not NAME=VALUE", param_hint=option)
        if name in found:
            raise typer.BadParameter(f"'{name}' is given twice", param_hint=option)
        found[name] = value
    return found


def shapes_of(options: NetOptions) -> dict[str, Shape]:
    """The shapes of --shape data=16,3,227,227."""
    shapes = {}
    for name, text in pairs("--shape", options.shape).items():
        extents = text.split(",")
        if not all(extent.strip().isdecimal() for extent in extents):
            raise typer.BadParameter(
                f"'{text}' is no shape; one is written 16,3,227,227", param_hint="--shape"
            )
        shapes[name] = tuple(int(extent) for extent in extents)
    return shapes


def phase_of(options: NetOptions) -> Phase:
    """What --phase says, else TRAIN for --mode train, else TEST."""
    if options.phase is not None:
        return options.phase.value
    return TRAIN if options.mode is Mode.train else TEST


def definition_of(options: NetOptions) -> NetDefinition:
    """The net as --phase, --level and --stage see it."""
    from graphc.frontends.caffe.definition import read_net

    return read_net(
        options.net,
        phase=phase_of(options),
        level=options.level,
        stages=tuple(options.stage or ()),
    )


def forward_signature(options: NetOptions) -> Signature:
    """The Signature without gradients."""
    from graphc.driver import Signature, names
    from graphc.plan.budget import memory_mode
    from graphc.runtime.cpu import usable_cores

    return Signature(
        phase=phase_of(options),
        shapes=tuple(sorted(shapes_of(options).items())),
        keep=names(options.keep or ()),
        memory=memory_mode(options.memory),
        fuse=options.fuse,
        blockwise_loss=options.blockwise_loss,
        infogain_input=options.infogain_input.value,
        dtype=options.dtype.value,
        threads=options.threads or usable_cores(),
        exact=options.exact,
        fast_math=fast_math_words(options.exact, options.fast_math),
    )


def choices_of(options: NetOptions, target: str = "cpu", libraries: str = "auto") -> Choices:
    """How a graph is compiled, for nets that no Signature describes."""
    from graphc.graph_call import Choices
    from graphc.plan.budget import memory_mode

    return Choices(
        memory_mode(options.memory),
        options.blockwise_loss,
        options.exact,
        fast_math_words(options.exact, options.fast_math),
        options.threads,
        target,
        libraries,
    )


def lowered(options: NetOptions, stages: bool = False) -> Compilation:
    """The program that the options mean, up to the plan: with gradients if any are defined.

    The weights, of which no plan depends, must fit all the same.
    """
    definition = definition_of(options)

    import graphc.driver as driver
    from graphc.weights import brought

    signature = forward_signature(options)
    front = driver.front(definition, signature)
    need_known(Known.of_caffe(front), options)
    if options.weights is not None:
        brought(front, options.weights)
    given, wrt = gradients_of(options, front)
    signature = replace(signature, given=driver.names(given), wrt=driver.names(wrt))
    warn(front)
    return driver.lower(definition, signature, stages=stages)


def warn(front: CaffeNet) -> None:
    """Say what looked wrong in the definition, as a Net does."""
    import warnings

    from graphc.error import NetWarning

    for warning in front.warnings:
        warnings.warn(str(warning), NetWarning, stacklevel=2)


def gradients_of(options: NetOptions, front: CaffeNet) -> tuple[list[str], list[str]]:
    """(blobs a gradient is given for, names it is wanted for) by --mode, --diff, --wrt.

    Without these options: what Caffe's rule says, which may be nothing. Raises NetError where a
    gradient is asked for and none is defined.
    """
    given, wrt = given_names(options), list(options.wrt or ())
    if options.mode is Mode.infer:
        if given or wrt:
            raise typer.BadParameter("--mode infer has no gradients; leave --diff and --wrt out")
        return [], []
    asked = bool(options.mode or given or wrt)
    if not wrt:
        wrt = default_wrt(front, inputs_first=options.mode is Mode.grad)
    if not given:
        given = list(front.seeds)
    if asked and not wrt:
        inputs = ", ".join(f"--wrt {name}" for name in front.inputs[:3])
        raise NetError(
            "nothing gets a gradient by Caffe's rule: the net has no loss and no"
            f" 'force_backward: true'; say what is to be derived for ({inputs})"
        )
    if asked and not given and not front.graph.losses:
        outputs = ", ".join(list(front.graph.outputs)[:3])
        raise NetError(
            "there is no gradient to start from: the net has no loss; give one with"
            f" --diff BLOB=one-hot:K (the outputs are {outputs})"
        )
    return (given, [front.owners.get(name, name) for name in wrt]) if wrt else ([], [])


def default_wrt(front: CaffeNet, inputs_first: bool) -> list[str]:
    """Caffe's rule; with `inputs_first` the inputs alone, if there are any."""
    inputs = [name for name in front.default_wrt if name in front.inputs]
    return inputs if inputs and inputs_first else list(front.default_wrt)


def open_net(options: NetOptions, target: str = "cpu", libraries: str = "auto") -> Net:
    """The Net of the options, its parameters filled or loaded; nothing is compiled yet."""
    from graphc.net import Net

    return Net(
        options.net,
        weights=options.weights,
        phase=phase_of(options),
        level=options.level,
        stages=tuple(options.stage or ()),
        keep=options.keep or (),
        threads=options.threads,
        fuse=options.fuse,
        blockwise_loss=options.blockwise_loss,
        memory=options.memory,
        dtype=options.dtype.value,
        seed=options.seed,
        infogain_input=options.infogain_input.value,
        shapes=shapes_of(options),
        target=target,
        exact=options.exact,
        fast_math=fast_math_words(options.exact, options.fast_math),
        libraries=libraries,
    )


def need_no_gradients(options: NetOptions) -> None:
    """With --solver the gradients are those of its step: others are wrong usage."""
    if options.mode not in (None, Mode.train):
        raise typer.BadParameter(f"--solver trains; --mode {options.mode.value} does not")
    if options.diff or options.wrt:
        raise typer.BadParameter("--solver trains by the losses; leave --diff and --wrt out")


def open_solver(options: NetOptions, path: str) -> Solver:
    """The Solver of a file at work on the net of the options; --weights may be its state."""
    from graphc.solver import Solver

    if is_mat(options):
        raise NetError(f"'{options.net}' is a MatConvNet net; a solver trains a Caffe definition")
    options = replace(options, mode=Mode.train)
    state = options.weights is not None and ".solverstate" in Path(options.weights).name
    solver = Solver(
        Path(path),
        weights=None if state else options.weights,
        keep=options.keep or (),
        threads=options.threads,
        memory=options.memory,
        dtype=options.dtype.value,
        shapes=shapes_of(options),
        net=definition_of(options),
        seed=options.seed,
        fuse=options.fuse,
        blockwise_loss=options.blockwise_loss,
        infogain_input=options.infogain_input.value,
        exact=options.exact,
        fast_math=fast_math_words(options.exact, options.fast_math),
    )
    if options.weights is not None and (state or options.weights.endswith(".weights")):
        solver.restore(options.weights)
    return solver
