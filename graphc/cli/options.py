"""The options that verbs share, and the decorator that turns a verb into a command.

A verb is a function like

    def plan(net: NetOptions, *, rows: Annotated[int, typer.Option()] = 0) -> None: ...

A parameter whose type is a dataclass of this file stands for all the options in it.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, get_type_hints

import typer

from graphc.cli.report import reporting


class PhaseName(StrEnum):
    """The phases of a net."""

    TRAIN = "TRAIN"
    TEST = "TEST"


class Mode(StrEnum):
    """What a program is compiled for."""

    infer = "infer"
    grad = "grad"
    train = "train"


class Dtype(StrEnum):
    """Precision of all real numbers."""

    float32 = "float32"
    float64 = "float64"


class InfogainInput(StrEnum):
    """What an InfogainLoss layer takes."""

    scores = "scores"
    probabilities = "probabilities"


class FastMath(StrEnum):
    """What may be less exact than a direct sum."""

    winograd4 = "winograd4"
    tf32 = "tf32"


class TargetName(StrEnum):
    """What runs a net that is measured."""

    cpu = "cpu"
    cuda = "cuda"


class RunTargetName(StrEnum):
    """What runs a net; the emulator is a GPU on the processor, for tests."""

    cpu = "cpu"
    cuda = "cuda"
    emulator = "cuda-emulator"


class LibrariesName(StrEnum):
    """Whether a GPU's steps may be calls of cuBLASLt and cuDNN."""

    auto = "auto"
    on = "on"
    off = "off"


class Channels(StrEnum):
    """Order of the colours in an input."""

    bgr = "bgr"
    rgb = "rgb"


Words = list[str] | None

# Options of verbs that work on nets and of others.
MemoryOption = Annotated[
    str,
    typer.Option(
        metavar="reuse|all|SIZE",
        help="Share memory between blobs, or not; or a budget for the arena, 200MiB, that is"
        " met by computing values again.",
    ),
]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, max=256, help="Threads of a call; else all usable cores.")
]
ExactOption = Annotated[
    bool, typer.Option("--exact", help="Convolutions are direct sums, never Winograd's.")
]
FastMathOption = Annotated[
    list[FastMath] | None,
    typer.Option(
        metavar="NAME",
        help="Allow what rounds more: winograd4, 3x3 convolutions as F(4x4, 3x3), error 2e-5;"
        " tf32, a GPU's tensor cores. Repeatable.",
    ),
]
TargetOption = Annotated[
    TargetName, typer.Option("--target", help="What runs the net; cuda: the first GPU.")
]
RunTargetOption = Annotated[
    RunTargetName,
    typer.Option(
        "--target",
        help="What runs the net; cuda: the first GPU; cuda-emulator: its code on the processor,"
        " slowly, for tests.",
    ),
]
LibrariesOption = Annotated[
    LibrariesName,
    typer.Option(
        "--libraries",
        help="cuBLASLt and cuDNN on a GPU: auto, where measured faster; on, wherever they can.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, errors too.")]


@dataclasses.dataclass(frozen=True)
class NetOptions:
    """The net, and what it is compiled for."""

    net: Annotated[
        str, typer.Argument(metavar="NET", help="A prototxt, a MatConvNet .mat, or a graph .ir.")
    ]
    phase: Annotated[
        PhaseName | None,
        typer.Option(case_sensitive=False, help="The phase; TEST unless --mode is train."),
    ] = None
    level: Annotated[int, typer.Option(help="The level that include rules ask for.")] = 0
    stage: Annotated[
        Words, typer.Option(metavar="NAME", help="A stage that include rules ask for. Repeatable.")
    ] = None
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|random:SEED",
            help="A .caffemodel (.h5 too; for a graph .ir also a .npz). Else the fillers.",
        ),
    ] = None
    shape: Annotated[
        Words,
        typer.Option(
            metavar="NAME=N,C,H,W",
            help="Another shape for an input; H,W,C,N for a .mat. Repeatable.",
        ),
    ] = None
    mode: Annotated[
        Mode | None,
        typer.Option(
            help="infer: forward alone. grad: gradients of the inputs. train: of inputs and "
            "parameters, by Caffe's rule, in phase TRAIN. Where it is not given: what the verb's "
            "text says, else the gradients that are defined."
        ),
    ] = None
    diff: Annotated[
        Words,
        typer.Option(
            metavar="BLOB=VALUE",
            help="A gradient that is given: one-hot:K (1 at class K of every row), fill:V or "
            "FILE.npy. Where none is given: the losses. Repeatable.",
        ),
    ] = None
    wrt: Annotated[
        Words,
        typer.Option(
            metavar="NAME", help="An input, blob or parameter (conv1/0) to derive for. Repeatable."
        ),
    ] = None
    keep: Annotated[
        Words,
        typer.Option(
            metavar="BLOB", help="A blob that stays readable: conv5, conv5.diff. Repeatable."
        ),
    ] = None
    memory: MemoryOption = "reuse"
    threads: ThreadsOption = None
    fuse: Annotated[
        bool, typer.Option("--fuse/--no-fuse", help="Make softmax and loss one operator.")
    ] = True
    blockwise_loss: Annotated[
        bool,
        typer.Option(
            "--blockwise-loss", help="Never hold all scores before a loss; compute them twice."
        ),
    ] = False
    dtype: Annotated[Dtype, typer.Option(help="Precision of all real numbers.")] = Dtype.float32
    exact: ExactOption = False
    fast_math: FastMathOption = None
    seed: Annotated[int, typer.Option(min=0, help="Seed of fillers and dropout.")] = 0
    infogain_input: Annotated[
        InfogainInput,
        typer.Option(help="What InfogainLoss takes; before 2017 Caffe gave it probabilities."),
    ] = InfogainInput.scores
    json: JsonOption = False


@dataclasses.dataclass(frozen=True)
class InputOptions:
    """The values of the inputs, and how a picture becomes numbers."""

    input: Annotated[
        Words,
        typer.Option(
            metavar="NAME=VALUE",
            help="An input's value: FILE.npy, a picture's file, random:SEED or fill:V. Repeatable.",
        ),
    ] = None
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="M,M,M|FILE",
            help="What is subtracted from a picture (0..255): a number for each channel in the "
            "order of --channels, or a .npy or .binaryproto.",
        ),
    ] = None
    scale: Annotated[
        float, typer.Option(help="What a picture is multiplied with, after the mean.")
    ] = 1.0
    channels: Annotated[
        Channels | None,
        typer.Option(help="Order of a picture's colours; else bgr for Caffe, rgb for MatConvNet."),
    ] = None
    resize: Annotated[
        bool | None,
        typer.Option(
            "--resize/--no-resize",
            help="Stretch a picture to the net's size. Where neither is said, it is done and told.",
        ),
    ] = None


def fast_math_words(exact: bool, given: list[FastMath] | None) -> tuple[str, ...]:
    """The words of --fast-math. --exact beside them is wrong usage."""
    words = tuple(dict.fromkeys(word.value for word in given or ()))
    if words and exact:
        raise typer.BadParameter("--exact allows none", param_hint="--fast-math")
    return words


def verb(function: Callable[..., None]) -> Callable[..., None]:
    """The command of a verb: option groups written out, errors printed as people expect."""
    own = inspect.signature(function, eval_str=True).parameters
    groups: dict[str, Any] = {
        n: p.annotation for n, p in own.items() if dataclasses.is_dataclass(p.annotation)
    }
    parameters = [p for group in groups.values() for p in _fields(group)]
    parameters += [
        _keyword(p.name, p.annotation, p.default) for p in own.values() if p.name not in groups
    ]
    # Arguments in the order of the command line, then the verb's own options, then the shared.
    parameters.sort(key=lambda p: 0 if _is_argument(p) else 1 if p.name in own else 2)

    @functools.wraps(function)
    def command(**given: Any) -> None:
        with reporting(given["json"]):
            made = {
                name: group(**{p.name: given.pop(p.name) for p in _fields(group)})
                for name, group in groups.items()
            }
            function(**made, **given)

    # What typer reads; to mypy a function is no place for attributes.
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def _fields(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        _keyword(
            field.name,
            hints[field.name],
            inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
        )
        for field in dataclasses.fields(group)
    ]


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, annotation=annotation, default=default)


def _is_argument(parameter: inspect.Parameter) -> bool:
    marks = getattr(parameter.annotation, "__metadata__", ())
    return any(isinstance(mark, type(typer.Argument())) for mark in marks)
