"""The names that options give, against those that a net has: all mistakes are told at once."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphc.call_arguments import unknown
from graphc.error import Diagnostic, NetError

if TYPE_CHECKING:
    from graphc.cli.options import NetOptions
    from graphc.frontends.caffe.network import CaffeNet
    from graphc.ir.graph import Graph
    from graphc.mat_model import MatModel


@dataclass(frozen=True)
class Known:
    """The names of one net.

    Attributes:
        inputs: what --input and --shape may name.
        blobs: what --keep and --diff may name.
        sources: what --wrt may name.
        blob, source: what a user calls one of `blobs` and one of `sources`.
    """

    inputs: Collection[str]
    blobs: Collection[str]
    sources: Collection[str]
    blob: str = "blob"
    source: str = "blob or parameter"

    @classmethod
    def of_caffe(cls, net: CaffeNet) -> Known:
        """Those of a definition."""
        blobs = net.graph.blobs
        return cls(net.inputs, blobs, [*blobs, *net.owners])

    @classmethod
    def of_model(cls, model: MatModel) -> Known:
        """Those of a MatConvNet net."""
        either = [*model.variables, *model.params]
        return cls(model.inputs, either, either, *["variable or parameter"] * 2)

    @classmethod
    def of_graph(cls, graph: Graph) -> Known:
        """Those of a graph's text."""
        inputs = [value.name for value in graph.inputs("input", "gradient")]
        anything = [value.name for value in graph.inputs()]
        return cls(inputs, graph.blobs, dict.fromkeys([*anything, *graph.blobs, *graph.values]))


def given_names(options: NetOptions) -> list[str]:
    """The blobs of --diff; `fc8` alone will do where no values are needed."""
    return [word.partition("=")[0] for word in options.diff or ()]


def need_known(known: Known, options: NetOptions, inputs: Iterable[str] = ()) -> None:
    """Raise NetError with every name that the net does not have; `inputs` are those of --input."""
    shaped = [word.partition("=")[0] for word in options.shape or ()]
    kept = [name for name in options.keep or () if name not in known.blobs]
    kept = [name.removesuffix(".diff") for name in kept]
    asked = (
        ("--shape", "net input", shaped, known.inputs),
        ("--input", "net input", inputs, known.inputs),
        ("--keep", known.blob, kept, known.blobs),
        ("--diff", known.blob, given_names(options), known.blobs),
        ("--wrt", known.source, options.wrt or (), known.sources),
    )
    problems = [
        Diagnostic(f"{option}: {_unknown(kind, name, among)}")
        for option, kind, names, among in asked
        for name in dict.fromkeys(names)
        if name not in among
    ]
    if problems:
        raise NetError(problems)


def _unknown(kind: str, name: str, known: Collection[str]) -> str:
    """As `unknown` says it; of net inputs, which are few, all are told where none is close."""
    told = unknown(kind, name, known)
    if kind != "net input" or "; " in told:
        return told
    return f"{told}; inputs: {', '.join(known)}" if known else f"{told}; it has no inputs"
