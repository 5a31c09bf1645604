"""Checks of how the layers of a net connect, by Caffe's rules.

A bottom must be a top of an earlier layer. A blob has one producer, except that a layer may work
in place (top i has the name of bottom i), and then only where it is the blob's single reader: to
every reader of several, Caffe gives a copy of its own, and a copy cannot be worked on in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from graphc.error import Diagnostic, did_you_mean
from graphc.frontends.caffe.layer_definition import LayerDefinition


@dataclass
class _Blob:
    """One value of a blob's name: the layer that wrote it, and who reads it."""

    maker: LayerDefinition
    readers: list[LayerDefinition] = field(default_factory=list)
    weighs: bool = False


def check_connections(
    layers: Sequence[LayerDefinition], left_out: Sequence[LayerDefinition] = (), state: str = ""
) -> list[Diagnostic]:
    """Every error in how `layers` connect.

    `left_out` are the layers that rules dropped in `state`; they serve to explain a missing blob.
    """
    errors: list[Diagnostic] = []
    latest: dict[str, _Blob] = {}
    read: list[list[_Blob | None]] = []
    for position, layer in enumerate(layers):
        read.append([latest.get(name) for name in layer.bottoms])
        for i, blob in enumerate(read[-1]):
            if blob is None:
                hint = _where_is(layer.bottoms[i], layers[position:], left_out, state)
                hint = hint or did_you_mean(layer.bottoms[i], latest)
                text = f"{layer.label}: unknown bottom blob '{layer.bottoms[i]}'"
                errors.append(Diagnostic(text, layer.bottom_span(i), hint=hint))
            else:
                blob.readers.append(layer)
        for i, name in enumerate(layer.tops):
            weight = layer.loss_weights[i] if i < len(layer.loss_weights) else 0
            latest[name] = _Blob(layer, weighs=weight != 0)
    return errors + _check_single_producer(layers, read)


def _check_single_producer(
    layers: Sequence[LayerDefinition], read: Sequence[Sequence[_Blob | None]]
) -> list[Diagnostic]:
    errors: list[Diagnostic] = []
    producer: dict[str, LayerDefinition] = {}
    for layer, bottoms in zip(layers, read, strict=True):
        for i, name in enumerate(layer.tops):
            blob = bottoms[i] if layer.in_place(i) else None
            first = producer.setdefault(name, layer)
            span = layer.top_span(i)
            if layer.in_place(i):
                why = _why_not_in_place(layer, blob)
                if why:
                    text = f"{layer.label} cannot work in place on blob '{name}': {why}"
                    hint = f"give the top of {layer.label} a name of its own"
                    errors.append(Diagnostic(text, span, hint=hint))
            elif first is not layer or name in layer.tops[:i]:
                text = f"top blob '{name}' of {layer.label} is already produced by {first.label}"
                errors.append(Diagnostic(text, span))
    return errors


def _why_not_in_place(layer: LayerDefinition, blob: _Blob | None) -> str:
    """What else needs the value that `layer` would overwrite; empty if nothing does."""
    if blob is None:
        return ""
    others = [reader.label for reader in blob.readers if reader is not layer]
    if others:
        return f"{' and '.join(others)} read{'s' if len(others) == 1 else ''} it too"
    if len(blob.readers) > 1:
        return "it reads it more than once"
    if blob.weighs:
        return f"{blob.maker.label} gives it a loss_weight"
    return ""


def _where_is(
    name: str,
    later: Sequence[LayerDefinition],
    left_out: Sequence[LayerDefinition],
    state: str,
) -> str:
    for layer in later:
        if name in layer.tops:
            where = f"line {layer.span.line}"
            if layer is later[0]:
                return ""
            return f"{layer.label} makes it in {where}; layers must stand in the order they run"
    for layer in left_out:
        if name in layer.tops:
            return f"{layer.label} makes it, but its rules leave it out in {state}"
    return ""
