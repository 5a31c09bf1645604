"""Parameters of a net: filled, loaded, saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphc.arrays import assign
from graphc.error import Diagnostic, NetError
from graphc.frontends.caffe.caffemodel import (
    StoredBlob,
    Weights,
    read_weights,
    write_weights,
)
from graphc.frontends.caffe.filler import fill
from graphc.frontends.caffe.network import CaffeNet

Arrays = dict[str, np.ndarray]


def fill_parameters(net: CaffeNet, parameters: Arrays, seed: int) -> None:
    """Fill every parameter as its definition says; without a filler, with Caffe's constant 0."""
    rng = np.random.default_rng(seed)
    for name, held in net.parameters.items():
        parameters[name][...] = fill(held.type.shape, held.filler, rng)


def load_weights(net: CaffeNet, parameters: Arrays, weights: Any) -> None:
    """Load by layer name; what the net lacks is ignored, what the source lacks keeps its values.

    Args:
        weights: a .caffemodel path, a dict of layer name -> sequence of arrays (or of
            `conv1/0` -> array), or `"random:SEED"`: msra weights, zero biases.
    Raises:
        NetError: all blob counts and shapes that disagree, at once; nothing is loaded then.
    """
    if isinstance(weights, str) and weights.startswith("random:"):
        _randomise(net, parameters, weights.removeprefix("random:"))
        return
    if isinstance(weights, Mapping):
        source, where = Weights("the given weights"), "the given weights"
        for layer, blobs in _by_layer(weights).items():
            source.blobs[layer] = [StoredBlob(np.asarray(blob, np.float32)) for blob in blobs]
    else:
        source, where = read_weights(Path(weights)), str(weights)
    new: Arrays = {}
    problems: list[Diagnostic] = []
    for layer, keys in _layers(net).items():
        if layer not in source.blobs:
            continue
        owners = [net.owners[key] for key in keys]
        try:
            arrays = source.fitted(layer, [parameters[owner].shape for owner in owners])
        except NetError as error:
            problems.extend(error.diagnostics)
        else:
            new.update(zip(owners, arrays, strict=True))
    if problems:
        raise NetError(problems)
    if not new and source.blobs and net.parameters:
        have = ", ".join(list(source.blobs)[:5])
        raise NetError(f"{where}: no layer name is one of the net's; the source has {have} ...")
    for name, array in new.items():
        assign(parameters[name], array, name)


def save_weights(net: CaffeNet, parameters: Arrays, path: str | Path) -> None:
    """Write a .caffemodel; shared parameters are written in every layer that uses them."""
    layers = {
        layer: [parameters[net.owners[key]] for key in keys] for layer, keys in _layers(net).items()
    }
    kinds = {layer.name: layer.type for layer in net.definition.layers}
    write_weights(Path(path), net.definition.name, layers, kinds)


def _layers(net: CaffeNet) -> dict[str, list[str]]:
    """Layer name -> its parameter keys, in order."""
    layers: dict[str, list[str]] = {}
    for key in net.owners:
        layers.setdefault(key.rpartition("/")[0], []).append(key)
    return layers


def _by_layer(weights: Mapping[str, Any]) -> dict[str, Sequence[Any]]:
    """A dict of layers as it is; one of `conv1/0` keys, gathered by layer."""
    gathered: dict[str, list[Any]] = {}
    for key, value in weights.items():
        layer, slash, index = key.rpartition("/")
        if slash and index.isdigit() and isinstance(value, np.ndarray):
            blobs = gathered.setdefault(layer, [])
            if int(index) != len(blobs):
                raise NetError(f"the given weights: '{key}' comes before '{layer}/{len(blobs)}'")
            blobs.append(value)
        else:
            gathered[key] = list(value)
    return dict(gathered)


def _randomise(net: CaffeNet, parameters: Arrays, seed: str) -> None:
    if not seed.isdigit():
        raise NetError(f"weights 'random:SEED' needs a whole number, not '{seed}'")
    rng = np.random.default_rng(int(seed))
    for name, held in net.parameters.items():
        shape = held.type.shape
        if len(shape) < 2:
            parameters[name][...] = 0
            continue
        fan_in = max(1, int(np.prod(shape[1:])))
        parameters[name][...] = rng.standard_normal(shape, np.float32) * np.sqrt(2.0 / fan_in)
