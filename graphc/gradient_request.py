"""What a backward call asks for: which gradients are given, and which are wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphc.call_arguments import as_names, unknown
from graphc.driver import names as once_each
from graphc.error import NetError
from graphc.frontends.caffe.gradient_rules import has_gradient
from graphc.frontends.caffe.network import CaffeNet


@dataclass(frozen=True)
class GradientRequest:
    """Blobs with given gradients, what to differentiate for, and the names to return.

    `start` is the layer to begin at where losses lie behind it, else "".
    """

    given: tuple[str, ...]
    wanted: tuple[str, ...]
    returned: tuple[str, ...]
    start: str = ""


def request(
    net: CaffeNet,
    *,
    diffs: Sequence[str] | None = None,
    start: str | None = None,
    end: str | None = None,
    wrt: Sequence[str] | None = None,
    gradients: Mapping[str, Any],
) -> GradientRequest:
    """Read the arguments of `Net.backward`; the defaults are Caffe's rule.

    With `start` its tops' gradients are among the given ones. Raises NetError for unknown names,
    and for blobs that have no gradient.
    """
    if wrt is None and end is None and diffs is None and net.refusals:
        raise NetError(net.refusals)
    given = list(gradients) or list(net.seeds)
    if wrt is not None:
        returned = list(as_names(wrt, "wrt"))
        wanted = [net.owners.get(name, name) for name in returned]
    elif end is not None:
        wanted, returned = _down_to(net, end)
    else:
        wanted = list(net.default_wrt)
        returned = [name for name in wanted if name in net.inputs]
    for name in as_names(() if diffs is None else diffs, "diffs"):
        wanted.append(net.owners.get(name, name))
        returned.append(name)
    known = [*net.graph.blobs, *net.parameters]
    for name in [*wanted, *given]:
        if name not in known:
            raise NetError(unknown("blob or parameter", name, known))
    for name in returned:
        _need_gradient(net, name)
    begun = start if start is not None and not all(net.losses_up_to(start)) else ""
    return GradientRequest(once_each(given), once_each(wanted), tuple(returned), begun)


def _down_to(net: CaffeNet, end: str) -> tuple[list[str], list[str]]:
    if end not in net.layer_bottoms:
        raise NetError(unknown("layer", end, net.layer_bottoms))
    layers = list(net.layer_tops)
    after = set(layers[layers.index(end) :])
    learned = [
        name
        for name in net.default_wrt
        if name in net.parameters and name.rpartition("/")[0] in after
    ]
    bottoms = list(net.layer_bottoms[end])
    return bottoms + learned, bottoms


def _need_gradient(net: CaffeNet, name: str) -> None:
    """Refuse a blob that is read as labels, or the like, alone."""
    readers = [
        (layer, position)
        for layer in net.definition.layers
        for position, bottom in enumerate(layer.bottoms)
        if bottom == name
    ]
    if readers and not any(has_gradient(layer, position) for layer, position in readers):
        layer = readers[0][0]
        raise NetError(f"'{name}' has no gradient: {layer.label} ({layer.type}) gives it none")
