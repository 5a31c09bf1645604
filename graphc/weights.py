"""Parameters of a net: filled, loaded, saved."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from graphc.arrays import assign, real_numbers
from graphc.error import Diagnostic, NetError, need
from graphc.frontends.caffe.caffemodel import StoredBlob, Weights, read_weights
from graphc.frontends.caffe.caffemodel_writer import write_weights
from graphc.frontends.caffe.filler import check_fit, draws, fill, fill_in_place
from graphc.frontends.caffe.hdf5 import is_hdf5, read_hdf5_weights, write_hdf5_weights
from graphc.frontends.caffe.network import CaffeNet
from graphc.runtime.parameter_file import is_parameter_file, read_parameters

Arrays = MutableMapping[str, np.ndarray]


@dataclass(frozen=True)
class Brought:
    """What a source has for a net: read, and found to fit.

    Attributes:
        names: the parameters that it has values for, by owner.
        values: name and array of each; they can be asked for once.
    """

    names: frozenset[str]
    values: Iterable[tuple[str, np.ndarray]]

    def copy_into(self, parameters: Arrays) -> None:
        """Write the values into the net's arrays."""
        for name, array in self.values:
            assign(parameters[name], array, name)


def start_parameters(net: CaffeNet, parameters: Arrays, seed: int, weights: Any = None) -> None:
    """Give every parameter its first values: those of `weights`, and by fillers what these lack.

    weights, errors: as for `brought`; None: fillers alone.
    """
    found = Brought(frozenset(), ()) if weights is None else brought(net, weights)
    _fill(net, parameters, seed, found.names)
    found.copy_into(parameters)


def load_weights(net: CaffeNet, parameters: Arrays, weights: Any) -> None:
    """Load by layer name; arguments and errors as for `brought`. On an error nothing is loaded."""
    brought(net, weights).copy_into(parameters)


def brought(net: CaffeNet, weights: Any) -> Brought:
    """What a source has for a net, by layer name; what the net lacks is ignored.

    Args:
        weights: a .caffemodel or .caffemodel.h5 path, a .weights file of a compiled net, a dict of
            layer name -> sequence of arrays (or of `conv1/0` -> array), or `"random:SEED"`: msra
            weights, zero biases.
    Raises:
        NetError: where the source cannot be read or none of its layers is the net's; all blob
            counts and shapes that disagree, at once.
    """
    if isinstance(weights, str) and weights.startswith("random:"):
        return _random(net, weights.removeprefix("random:"))
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
        return _of_compiled(net, Path(weights))
    elif is_hdf5(Path(weights)):
        return _of_hdf5(net, Path(weights))
    else:
        source, where = read_weights(Path(weights)), str(weights)
    new: dict[str, np.ndarray] = {}
    problems: list[Diagnostic] = []
    for layer, keys in _layers(net).items():
        if layer not in source.blobs:
            continue
        owners = [net.owners[key] for key in keys]
        try:
            arrays = source.fitted(layer, [_shape(net, owner) for owner in owners])
        except NetError as error:
            problems.extend(error.diagnostics)
        else:
            new.update(zip(owners, arrays, strict=True))
    return _fitting(net, new, problems, list(source.blobs), where)


def _fill(net: CaffeNet, parameters: Arrays, seed: int, but: Collection[str]) -> None:
    """Fill parameters as their definitions say; without a filler, with Caffe's constant 0.

    Those named in `but` get their values elsewhere. They are drawn all the same where a later one
    is drawn: a seed gives a parameter the same values, whatever others are loaded.
    """
    rng = np.random.default_rng(seed)
    drawing = [n for n, p in net.parameters.items() if p.initial is None and draws(p.filler)]
    while drawing and drawing[-1] in but:
        drawing.pop()
    for name, held in net.parameters.items():
        if held.initial is not None:
            parameters[name][...] = held.initial
        elif name not in but or name in drawing:
            fill_in_place(parameters[name], held.filler, rng)
        elif held.filler is not None:
            check_fit(held.type.shape, held.filler)


def _shape(net: CaffeNet, owner: str) -> tuple[int, ...]:
    return net.parameters[owner].type.shape


def _fitting(
    net: CaffeNet,
    new: Mapping[str, np.ndarray],
    problems: list[Diagnostic],
    layers: Sequence[str],
    where: str,
) -> Brought:
    """The new values, unless something is wrong with them or there are none."""
    if problems:
        raise NetError(problems)
    if not new and layers and net.parameters:
        have = ", ".join(layers[:5])
        raise NetError(f"{where}: no layer name is one of the net's; the source has {have} ...")
    return Brought(frozenset(new), new.items())


def _of_compiled(net: CaffeNet, path: Path) -> Brought:
    """The weights of a compiled net, or what one has trained."""
    stored = read_parameters(path).arrays
    new = {name: stored[name] for name in net.parameters if name in stored}
    wrong = [
        Diagnostic(
            f"parameter '{name}' has shape {list(_shape(net, name))}, '{path}' holds"
            f" {list(array.shape)}"
        )
        for name, array in new.items()
        if array.shape != _shape(net, name)
    ]
    return _fitting(net, new, wrong, list(stored), str(path))


def _of_hdf5(net: CaffeNet, path: Path) -> Brought:
    """What a .caffemodel.h5 holds; a shared parameter may stand only in the layer that made it."""
    source = read_hdf5_weights(path)
    new: dict[str, np.ndarray] = {}
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
            elif stored[index].shape != _shape(net, owner):
                problems.append(
                    Diagnostic(
                        f"parameter {index} of layer '{layer}' has shape"
                        f" {list(_shape(net, owner))}, '{path}' holds"
                        f" {list(stored[index].shape)}"
                    )
                )
            else:
                new[owner] = stored[index]
    return _fitting(net, new, problems, list(source), str(path))


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
    Raises NetError where the file cannot be written, or cannot hold the parameters.
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


def _random(net: CaffeNet, seed: str) -> Brought:
    """Matrices by msra, vectors 0: but factors and slopes as filled, batch norm with moments 0, 1.

    A layer whose first parameter is a vector multiplies by it, so that keeps its filler's value;
    and a Python layer keeps what its setup gave its own.
    """
    if not seed.isdigit():
        raise NetError(f"weights 'random:SEED' needs a whole number, not '{seed}'")
    rng = np.random.default_rng(int(seed))
    own = [name for name, held in net.parameters.items() if held.initial is None]
    return Brought(frozenset(own), ((name, _drawn(net, name, rng)) for name in own))


def _drawn(net: CaffeNet, name: str, rng: np.random.Generator) -> np.ndarray:
    """Random values of one parameter."""
    held = net.parameters[name]
    shape = held.type.shape
    is_first = name.rpartition("/")[2] == "0"
    if not held.learned:
        return np.full(shape, 0 if is_first else 1, np.float32)
    if len(shape) < 2:
        return fill(shape, held.filler if is_first else None, rng)
    fan_in = max(1, int(np.prod(shape[1:])))
    return np.asarray(rng.standard_normal(shape, np.float32) * np.sqrt(2.0 / fan_in))
