"""SimpleNN's layer structures: what a file holds, with the missing fields, and as blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphc.error import NetError, did_you_mean, need
from graphc.frontends.matconvnet import blocks
from graphc.frontends.matconvnet.array import is_missing
from graphc.frontends.matconvnet.block import Block
from graphc.frontends.matconvnet.loss_blocks import Loss
from graphc.frontends.matconvnet.mat_file import listed, plain, read_mat
from graphc.frontends.matconvnet.network import MatLayer

LOSSES = ("loss", "softmaxloss")

# What vl_simplenn_tidy supplies for each type of layer.
DEFAULTS: dict[str, dict[str, Any]] = {
    "conv": {"pad": 0, "stride": 1, "dilate": 1},
    "convt": {"crop": 0, "upsample": 1, "numGroups": 1},
    "pool": {"pad": 0, "stride": 1, "method": "max"},
    "normalize": {"param": [5, 1, 0.0001 / 5, 0.75]},
    "lrn": {"param": [5, 1, 0.0001 / 5, 0.75]},
    "softmax": {},
    "loss": {},
    "softmaxloss": {},
    "relu": {"leak": 0},
    "sigmoid": {},
    "noffset": {"param": [1, 0.5]},
    "spnorm": {"param": [2, 2, 10, 2]},
    "dropout": {"rate": 0.5},
    "bnorm": {"epsilon": 1e-5},
    "pdist": {"p": 2, "noRoot": False, "aggregate": False, "epsilon": 1e-3},
    "custom": {},
}
_SEVERAL = ("pad", "stride", "dilate", "crop", "upsample", "param")  # not one number alone
WEIGHTS = {"conv": 2, "convt": 2, "bnorm": 3}


def read_layers(path: str | Path) -> tuple[list[dict[str, Any]], Any]:
    """Layers and meta: variables of the file, or fields of its variable `net`.

    Raises NetError where the file holds no SimpleNN net.
    """
    return layer_structs(read_mat(path), path)


def layer_structs(found: dict[str, Any], path: str | Path) -> tuple[list[dict[str, Any]], Any]:
    """The same of a file's variables."""
    inner = found.get("net", found)
    layers = listed(inner.get("layers")) if isinstance(inner, dict) else []
    if not layers or not all(isinstance(layer, dict) for layer in layers):
        raise NetError(f"'{path}' holds no SimpleNN net: there are no layers")
    if "block" in layers[0]:
        raise NetError(f"'{path}' holds a DagNN net; read it with graphc.DagNet.load")
    meta = inner.get("meta", {})
    legacy = {k: inner[k] for k in ("classes", "normalization") if k in inner}
    return layers, {**legacy, **meta} if isinstance(meta, dict) else meta


def tidy(layer: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A copy of a layer with all fields it needs; layer `number` counts from 1.

    Raises NetError for an unknown type, a field that is missing or of the wrong kind.
    """
    kind = str(layer.get("type", ""))
    supplied = ("name", "precious", "rememberOutput", *DEFAULTS.get(kind, ()))
    made = {k: v for k, v in layer.items() if not (k in supplied and _is_empty(v))}
    made.setdefault("name", f"layer{number}")
    if kind not in DEFAULTS:
        hint = did_you_mean(kind, DEFAULTS)
        raise NetError(
            f"layer '{made['name']}' has the type '{kind}', which is not known here"
            + (f"; {hint}" if hint else "")
        )
    made.setdefault("precious", made.pop("rememberOutput", False))  # its name before beta13
    made["precious"] = bool(plain(made["precious"]))
    if kind == "custom":
        return made
    if "filters" in made:  # how weights were stored before version 1.0-beta8
        made["weights"] = [made.pop("filters"), made.pop("biases", None)]
    for key, value in DEFAULTS[kind].items():
        made[key] = _like(value, plain(made[key]), made, key) if key in made else value
    if "pool" in made:
        made["pool"] = plain(made["pool"])
    if kind in WEIGHTS:
        made["weights"] = _weights(made, kind)
    if kind == "pool":
        need("pool" in made, f"layer '{made['name']}' (pool) has no field 'pool'")
    return made


def _is_empty(value: Any) -> bool:
    """Whether a field holds nothing: in an array of structs every layer has all fields."""
    return not value if isinstance(value, str) else is_missing(value)


def _like(default: Any, value: Any, layer: Mapping[str, Any], key: str) -> Any:
    """The value of a field, which must be of the kind that its default is of."""
    what = f"layer '{layer['name']}' ({layer['type']}): its '{key}'"
    if isinstance(default, str):
        need(isinstance(value, str), f"{what} is text such as '{default}', not {value!r:.60}")
        return value
    numbers = np.asarray(value)
    need(numbers.dtype.kind in "fiub", f"{what} is made of numbers, not {value!r:.60}")
    several = key in _SEVERAL
    need(several or numbers.size == 1, f"{what} is one number, not {numbers.size}")
    return value if several else numbers.item()


def _weights(layer: dict[str, Any], kind: str) -> list[Any]:
    given = [None if is_missing(w) else w for w in listed(layer.get("weights"))]
    least = 2 if kind == "bnorm" else 1
    need(
        len(given) >= least and len(given) <= WEIGHTS[kind],
        f"layer '{layer['name']}' ({kind}) has {len(given)} weights; there are {WEIGHTS[kind]}",
    )
    if kind == "bnorm" and len(given) == 2:
        first = np.asarray(given[0])
        given.append(np.zeros((first.size, 2), first.dtype))
    return [*given, *[None] * (WEIGHTS[kind] - len(given))]


def weight_numbers(layer: Mapping[str, Any]) -> list[tuple[int, Any]]:
    """The weights that are there, with their numbers from 1."""
    if layer["type"] not in WEIGHTS:
        return []
    return [(j, w) for j, w in enumerate(layer["weights"], 1) if not is_missing(w)]


def chain(
    layers: Sequence[Mapping[str, Any]], custom: Callable[[Any], Block] | None = None
) -> list[MatLayer]:
    """Tidy layers as ones that share variables: x1 is the input, x2 what layer 1 makes, and so on.

    Classes are variables, class3 those of layer 3; parameters are l1_1, l1_2 and so on. `custom`
    makes a block of a custom layer; without it NetError is raised for one.
    """
    made: list[MatLayer] = []
    for i, layer in enumerate(layers, 1):
        name = str(layer["name"])
        if any(other.name == name for other in made):
            name = f"{name} ({i})"
        is_custom = layer["type"] == "custom"
        need(custom or not is_custom, f"layer '{name}' is custom: its code is not in the file")
        reads = [f"x{i}", *([f"class{i}"] if layer["type"] in (*LOSSES, "pdist") else ())]
        params = tuple(f"l{i}_{j}" for j, _ in weight_numbers(layer))
        block = custom(layer) if custom and is_custom else block_of(layer)
        made.append(MatLayer(name, block, tuple(reads), (f"x{i + 1}",), params))
    return made


def block_of(layer: Mapping[str, Any]) -> Block:
    """What a layer computes."""
    kind, get = layer["type"], layer.get
    match kind:
        case "conv":
            return blocks.Conv(stride=get("stride"), pad=get("pad"), dilate=get("dilate"))
        case "convt":
            return blocks.ConvTranspose(
                upsample=get("upsample"), crop=get("crop"), num_groups=layer["numGroups"]
            )
        case "pool":
            return blocks.Pooling(get("pool"), layer["method"], get("stride"), get("pad"))
        case "normalize" | "lrn":
            return blocks.LRN(get("param"))
        case "relu":
            return blocks.ReLU(float(layer["leak"]))
        case "noffset":
            return blocks.NormOffset(get("param"))
        case "spnorm":
            return blocks.SpatialNorm(get("param"))
        case "dropout":
            return blocks.DropOut(float(layer["rate"]))
        case "bnorm":
            return blocks.BatchNorm(epsilon=float(layer["epsilon"]))
        case "pdist":
            return blocks.PDist(
                layer["p"], bool(layer["aggregate"]), bool(layer["noRoot"]), layer["epsilon"]
            )
        case "loss" | "softmaxloss":
            return Loss()
        case "softmax":
            return blocks.SoftMax()
    return blocks.Sigmoid()
