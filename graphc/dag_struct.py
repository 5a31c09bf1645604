"""A DagNet as the structure that DagNN saves in a .mat file, and back."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from graphc.error import NetError, NetWarning, need
from graphc.frontends.matconvnet.array import is_missing
from graphc.frontends.matconvnet.block_struct import block_from_struct, block_struct
from graphc.frontends.matconvnet.mat_file import listed, plain
from graphc.frontends.matconvnet.mat_write import Cell, Structs

if TYPE_CHECKING:
    from graphc.dagnn import DagNet


def struct_of(net: DagNet) -> dict[str, Any]:
    """The fields vars, params, layers and meta, ready to be written.

    Raises NetError for a block that MatConvNet does not have.
    """
    layers = []
    for layer in net.layers.values():
        kind, block = block_struct(layer.name, layer.block)
        names = {key: Cell(getattr(layer, key)) for key in ("inputs", "outputs", "params")}
        layers.append({"name": layer.name, "type": kind, **names, "block": block})
    params = [
        {
            "name": p.name,
            "value": p.value,
            "learningRate": p.learning_rate,
            "weightDecay": p.weight_decay,
        }
        for p in net.params.values()
    ]
    names_only = [{"name": v.name, "precious": v.precious} for v in net.vars.values()]
    return {
        "vars": Structs(("name", "precious"), names_only),
        "params": Structs(("name", "value", "learningRate", "weightDecay"), params),
        "layers": Structs(("name", "type", "inputs", "outputs", "params", "block"), layers),
        "meta": net.meta,
    }


def fill_from_struct(net: DagNet, inner: Mapping[str, Any]) -> None:
    """Give an empty net the layers, variables, parameters and meta of such a structure.

    Raises NetError where it has no layers, and with every layer that is wrong.
    """
    need(
        isinstance(inner, Mapping) and "layers" in inner,
        "a net's structure is a dict with 'layers', as `DagNet.to_struct` makes it",
    )
    net.meta = inner.get("meta", {})
    problems: list[Any] = []
    for position, struct in enumerate(listed(inner["layers"]), 1):
        try:
            _add_layer(net, _name(struct, f"layer {position}"), struct)
        except NetError as error:
            problems += error.diagnostics
    if problems:
        raise NetError(problems)
    for position, struct in enumerate(listed(inner.get("vars")), 1):
        name = _name(struct, f"variable {position}")
        if name in net.vars:
            precious = _number(struct.get("precious", 0), f"'precious' of variable '{name}'")
            net.vars[name].precious = bool(precious)
    for position, struct in enumerate(listed(inner.get("params")), 1):
        _set_parameter(net, _name(struct, f"parameter {position}"), struct)


def _name(struct: Any, what: str) -> str:
    """The name in a layer's, a variable's or a parameter's struct; `what` is for the message."""
    need(isinstance(struct, dict), f"{what} is no struct")
    need(isinstance(struct.get("name"), str), f"{what} has no name")
    return str(struct["name"])


def _number(value: Any, what: str) -> float:
    found = plain(value)
    if not isinstance(found, (bool, int, float)):
        raise NetError(f"{what} is not a number")
    return float(found)


def _add_layer(net: DagNet, name: str, struct: dict[str, Any]) -> None:
    properties = struct.get("block")
    block = block_from_struct(
        name, str(struct.get("type", "")), properties if isinstance(properties, dict) else {}
    )
    net.add_layer(
        name,
        block,
        [str(v) for v in listed(struct.get("inputs"))],
        [str(v) for v in listed(struct.get("outputs"))],
        [str(v) for v in listed(struct.get("params"))],
    )


def _set_parameter(net: DagNet, name: str, struct: dict[str, Any]) -> None:
    if name not in net.params:
        warnings.warn(f"parameter '{name}' belongs to no layer", NetWarning, stacklevel=5)
        return
    parameter = net.params[name]
    parameter.value = struct.get("value")
    for field, key in (("learning_rate", "learningRate"), ("weight_decay", "weightDecay")):
        if not is_missing(struct.get(key)):
            setattr(parameter, field, _number(struct[key], f"'{key}' of parameter '{name}'"))
