"""Parameters of a net: filled, loaded, saved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from graphc.arrays import assign, real_numbers
from graphc.error import Diagnostic, NetError, need
from graphc.frontends.caffe.caffemodel import (
    StoredBlob,
    Weights,
    read_weights,
    write_weights,
)
from graphc.frontends.caffe.filler import fill_in_place
from graphc.frontends.caffe.hdf5 import is_hdf5, read_hdf5_weights, write_hdf5_weights
from graphc.frontends.caffe.network import CaffeNet
from graphc.runtime.parameter_file import is_parameter_file, read_parameters

Arrays = MutableMapping[str, np.ndarray]


def fill_parameters(net: CaffeNet, parameters: Arrays, seed: int) -> None:
    """Fill every parameter as its definition says; without a filler, with Caffe's constant 0."""
    rng = np.random.default_rng(seed)
    for name, held in net.parameters.items():
        if held.initial is None:
            fill_in_place(parameters[name], held.filler, rng)
        else:
            parameters[name][...] = held.initial


def load_weights(net: CaffeNet, parameters: Arrays, weights: Any) -> None:
    """Load by layer name; what the net lacks is ignored, what the source lacks keeps its values.

    Args:
        weights: a .caffemodel or .caffemodel.h5 path, a .weights file of a compiled net, a dict of
            layer name -> sequence of arrays (or of `conv1/0` -> array), or `"random:SEED"`: msra
            weights, zero biases.
    Raises:
        NetError: all blob counts and shapes that disagree, at once; nothing is loaded then.
    """
    if isinstance(weights, str) and weights.startswith("random:"):
        _randomise(net, parameters, weights.removeprefix("random:"))
        return
    if isinstance(weights, Mapping):
        source, where = Weights("the given weights"), "the given weights"
        for layer, blobs in _by_layer(weights).items():
            source.blobs[layer] = [
                StoredBlob(real_numbers(blob, f"the given weights: parameter {i} of '{layer}'"))
                for i, blob in enumerate(blobs)
            ]
    elif not isinstance(weights, (str, PathLike)):
        kind = type(weights).__name__
        raise NetError(f"weights are a path, a dict or 'random:SEED', not {kind}")
    elif is_parameter_file(weights):
        _load_compiled(net, parameters, Path(weights))
        return
    elif is_hdf5(Path(weights)):
        _load_hdf5(net, parameters, Path(weights))
        return
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
    _take(net, parameters, new, problems, list(source.blobs), where)


def _take(
    net: CaffeNet,
    parameters: Arrays,
    new: Arrays,
    problems: list[Diagnostic],
    layers: Sequence[str],
    where: str,
) -> None:
    """Copy the new values in, all of them or none."""
    if problems:
        raise NetError(problems)
    if not new and layers and net.parameters:
        have = ", ".join(layers[:5])
        raise NetError(f"{where}: no layer name is one of the net's; the source has {have} ...")
    for name, array in new.items():
        assign(parameters[name], array, name)


def _load_compiled(net: CaffeNet, parameters: Arrays, path: Path) -> None:
    """Load the weights of a compiled net, or what one has trained."""
    stored = read_parameters(path).arrays
    new = {name: stored[name] for name in net.parameters if name in stored}
    wrong = [
        Diagnostic(
            f"parameter '{name}' has shape {list(parameters[name].shape)}, '{path}' holds"
            f" {list(array.shape)}"
        )
        for name, array in new.items()
        if array.shape != parameters[name].shape
    ]
    _take(net, parameters, new, wrong, list(stored), str(path))


def _load_hdf5(net: CaffeNet, parameters: Arrays, path: Path) -> None:
    """Load a .caffemodel.h5; a shared parameter may stand only in the layer that made it."""
    source = read_hdf5_weights(path)
    new: Arrays = {}
    problems: list[Diagnostic] = []
    for layer, keys in _layers(net).items():
        stored = source.get(layer)
        if stored is None:
            continue
        if len(stored) > len(keys):
            text = f"layer '{layer}' has {len(keys)} parameters, '{path}' holds {len(stored)}"
            problems.append(Diagnostic(text))
        for index, key in enumerate(keys):
            owner = net.owners[key]
            if index not in stored:
                if owner == key:
                    problems.append(Diagnostic(f"'{path}' lacks parameter {index} of '{layer}'"))
            elif stored[index].shape != parameters[owner].shape:
                problems.append(
                    Diagnostic(
                        f"parameter {index} of layer '{layer}' has shape"
                        f" {list(parameters[owner].shape)}, '{path}' holds"
                        f" {list(stored[index].shape)}"
                    )
                )
            else:
                new[owner] = stored[index]
    _take(net, parameters, new, problems, list(source), str(path))


def share_parameters(
    net: CaffeNet, parameters: Arrays, other: CaffeNet, others: Mapping[str, np.ndarray]
) -> None:
    """Let `net` use the arrays of `other`, layer by layer of the same name.

    Layers that only one of them has are left alone. Raises NetError, and changes nothing, where
    their number or a shape disagrees.
    """
    theirs = _layers(other)
    new: dict[str, np.ndarray] = {}
    problems: list[Diagnostic] = []
    for layer, keys in _layers(net).items():
        if layer not in theirs:
            continue
        if keys != theirs[layer]:
            text = f"cannot share layer '{layer}': {len(keys)} and {len(theirs[layer])} parameters"
            problems.append(Diagnostic(text))
            continue
        for key in keys:
            mine, shared = parameters[net.owners[key]], others[other.owners[key]]
            if mine.shape != shared.shape:
                shapes = f"{list(mine.shape)} and {list(shared.shape)}"
                problems.append(Diagnostic(f"cannot share '{key}': its shapes are {shapes}"))
            new[net.owners[key]] = shared
    if problems:
        raise NetError(problems)
    parameters.update(new)


def save_weights(
    net: CaffeNet, parameters: Arrays, path: str | Path, layout: str = "current"
) -> None:
    """Write a .caffemodel in one of its layouts, or a .caffemodel.h5 where the path ends in .h5.

    Shared parameters are written in every layer that uses them; in HDF5 where they are made.
    """
    need(isinstance(path, (str, PathLike)), f"a path is needed, not {type(path).__name__}")
    if Path(path).suffix == ".h5":
        kept: dict[str, dict[int, np.ndarray]] = {layer: {} for layer in net.layer_tops}
        for layer, keys in _layers(net).items():
            kept[layer] = {
                index: parameters[key] for index, key in enumerate(keys) if net.owners[key] == key
            }
        write_hdf5_weights(path, kept)
        return
    layers = {
        layer: [parameters[net.owners[key]] for key in keys] for layer, keys in _layers(net).items()
    }
    kinds = {layer.name: layer.type for layer in net.definition.layers}
    write_weights(Path(path), net.definition.name, layers, kinds, layout)


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
        need(isinstance(key, str), f"the given weights: {key!r} is no layer's name")
        layer, slash, index = key.rpartition("/")
        if slash and index.isdigit() and isinstance(value, np.ndarray):
            blobs = gathered.setdefault(layer, [])
            if int(index) != len(blobs):
                raise NetError(f"the given weights: '{key}' comes before '{layer}/{len(blobs)}'")
            blobs.append(value)
        else:
            several = isinstance(value, Iterable) and not isinstance(value, str)
            need(several, f"the given weights: '{key}' needs a sequence of arrays")
            gathered[key] = list(value)
    return dict(gathered)


def _randomise(net: CaffeNet, parameters: Arrays, seed: str) -> None:
    """Matrices by msra, vectors 0: but factors and slopes as filled, batch norm with moments 0, 1.

    A layer whose first parameter is a vector multiplies by it, so that keeps its filler's value;
    and a Python layer keeps what its setup gave its own.
    """
    if not seed.isdigit():
        raise NetError(f"weights 'random:SEED' needs a whole number, not '{seed}'")
    rng = np.random.default_rng(int(seed))
    for name, held in net.parameters.items():
        shape = held.type.shape
        index = name.rpartition("/")[2]
        if held.initial is not None:
            continue
        if not held.learned:
            parameters[name][...] = 0 if index == "0" else 1
        elif len(shape) < 2 and index == "0":
            fill_in_place(parameters[name], held.filler, rng)
        elif len(shape) < 2:
            parameters[name][...] = 0
        else:
            fan_in = max(1, int(np.prod(shape[1:])))
            parameters[name][...] = rng.standard_normal(shape, np.float32) * np.sqrt(2.0 / fan_in)
