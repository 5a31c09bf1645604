"""Files of parameters and arrays, turned into each other.

    .caffemodel (any of Caffe's layouts is read; the current one or v1 written)  <->  .caffemodel.h5
    .binaryproto (a mean image, an infogain matrix)                              <->  .npy

The arrays stay as they are, float32; only old files that hold four numbers for every shape get the
shapes of today. With a net's definition the file must fit it, and has its shapes then.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graphc.driver import Signature, front
from graphc.error import NetError, need
from graphc.frontends.caffe.caffemodel import StoredBlob, Weights, read_blob, read_weights
from graphc.frontends.caffe.caffemodel_writer import LAYOUTS, write_blob, write_weights
from graphc.frontends.caffe.definition import read_net
from graphc.frontends.caffe.hdf5 import is_hdf5, read_hdf5_weights, write_hdf5_weights
from graphc.frontends.caffe.layer import LAYERS
from graphc.numpy_file import read_array
from graphc.weights import load_weights, save_weights
from graphc.whole_file import write_parts

Shape = tuple[int, ...]

WEIGHTS = (".caffemodel", ".h5")
ARRAYS = (".binaryproto", ".npy")

# How many axes parameters have by layer type; those that are not named here are vectors.
_AXES = {
    "Convolution": (4, 1),
    "Deconvolution": (4, 1),
    "InnerProduct": (2, 1),
    "Embed": (2, 1),
}


@dataclass(frozen=True)
class Converted:
    """What a conversion wrote: the shapes of the arrays, by `LAYER/INDEX`, or by `array`."""

    source: str
    target: str
    shapes: dict[str, Shape]

    @property
    def numbers(self) -> int:
        """How many numbers there are."""
        return sum(int(np.prod(shape)) for shape in self.shapes.values())


def convert(
    source: str | Path,
    target: str | Path,
    net: str | Path | None = None,
    layout: str = "current",
) -> Converted:
    """Read one file and write the other, whole or not at all; the endings say what they are.

    Args:
        net: a definition that the weights must fit. Parameters that the file lacks are an error.
        layout: of a .caffemodel that is written, "current" or "v1" (for Caffe before 2015).
    Raises:
        NetError: for endings that cannot be turned into each other, a file that cannot be read or
            written, weights that do not fit.
    """
    made, wanted = _ending(source), _ending(target)
    need(layout in LAYOUTS, f"layout is one of {', '.join(LAYOUTS)}, not {layout!r}")
    need(
        layout == "current" or wanted == ".caffemodel",
        f"the layout {layout} is one of .caffemodel files; '{target}' is none",
    )
    if made in ARRAYS and wanted in ARRAYS:
        need(net is None, f"--net is for weights; '{source}' holds one array")
        return _convert_array(source, target)
    need(
        made in WEIGHTS and wanted in WEIGHTS,
        f"'{source}' cannot become '{target}': weights are {' and '.join(WEIGHTS)},"
        f" single arrays {' and '.join(ARRAYS)}",
    )
    if net is not None:
        return _convert_for_net(source, target, net, layout)
    weights = _read(Path(source))
    layers = {name: _modern(weights, name) for name in weights.blobs}
    if wanted == ".h5":
        write_hdf5_weights(target, {n: dict(enumerate(arrays)) for n, arrays in layers.items()})
    else:
        write_weights(target, weights.name, layers, weights.types, layout)
    return _report(source, target, layers)


def _ending(path: str | Path) -> str:
    suffix = Path(path).suffix.lower()
    known = (*WEIGHTS, *ARRAYS)
    need(
        suffix in known,
        f"'{path}' does not end as a file that can be converted does: {', '.join(known)}",
    )
    return suffix


def _convert_array(source: str | Path, target: str | Path) -> Converted:
    array = read_array(source) if _ending(source) == ".npy" else np.asarray(read_blob(source))
    need(array.dtype.kind in "fiub", f"'{source}' holds {array.dtype}, not real numbers")
    array = np.asarray(array, np.float32)
    if _ending(target) == ".binaryproto":
        write_blob(target, array)
    else:
        write_whole_npy(target, array)
    return Converted(str(source), str(target), {"array": tuple(array.shape)})


def write_whole_npy(path: str | Path, array: np.ndarray) -> None:
    """Write a .npy beside its place and rename it. Raises NetError where that fails."""
    held = io.BytesIO()
    np.save(held, array, allow_pickle=False)
    write_parts(path, [held.getbuffer()])


def _read(path: Path) -> Weights:
    """Weights of either kind. In HDF5 a shared parameter stands only in the layer that made it."""
    if not is_hdf5(path):
        need(_ending(path) != ".h5" or not path.is_file(), f"'{path}' is no HDF5 file")
        return read_weights(path)
    weights = Weights(str(path))
    for layer, arrays in read_hdf5_weights(path).items():
        missing = [i for i in range(max(arrays) + 1) if i not in arrays]
        if missing:
            raise NetError(
                f"'{path}' lacks parameter {missing[0]} of layer '{layer}', which another layer"
                " shares: give the definition with --net"
            )
        weights.blobs[layer] = [StoredBlob(arrays[i]) for i in sorted(arrays)]
    need(weights.blobs, f"'{path}' holds no parameters")
    return weights


def _modern(weights: Weights, layer: str) -> list[np.ndarray]:
    """A layer's arrays; four numbers of an old file become the shape of the layer's type.

    Raises NetError where the type is not known and the shape could be more than one.
    """
    kind = weights.types.get(layer, "")
    found = []
    for index, blob in enumerate(weights.blobs[layer]):
        shape = blob.values.shape
        if not blob.legacy:
            found.append(blob.values)
            continue
        axes = _AXES.get(kind, (1, 1))[min(index, 1)]
        leading = 4 - axes
        need(
            kind and shape[:leading] == (1,) * leading,
            f"'{weights.path}' is old and gives parameter {index} of layer '{layer}' the shape"
            f" {list(shape)}, whose leading ones may mean nothing: give the definition with --net",
        )
        found.append(blob.values.reshape(shape[leading:]))
    return found


def _convert_for_net(
    source: str | Path, target: str | Path, path: str | Path, layout: str
) -> Converted:
    """By way of the net's parameters, which all must be there."""
    definition = read_net(path, layer_types=LAYERS)
    net = front(definition, Signature())
    parameters = {
        n: np.full(held.type.shape, np.nan, "float32") for n, held in net.parameters.items()
    }
    source_layers = set(_layer_names(Path(source)))
    missing = [key for key in net.owners if key.rpartition("/")[0] not in source_layers]
    missing = [key for key in missing if net.owners[key] == key]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise NetError(
            f"'{source}' has no parameters for {', '.join(missing[:5])}{more} of '{path}'"
        )
    load_weights(net, parameters, Path(source))
    save_weights(net, parameters, Path(target), layout)
    arrays = {key: tuple(parameters[net.owners[key]].shape) for key in net.owners}
    return Converted(str(source), str(target), arrays)


def _layer_names(path: Path) -> list[str]:
    return list(read_hdf5_weights(path)) if is_hdf5(path) else list(read_weights(path).blobs)


def _report(
    source: str | Path, target: str | Path, layers: dict[str, list[np.ndarray]]
) -> Converted:
    shapes = {
        f"{layer}/{index}": tuple(array.shape)
        for layer, arrays in layers.items()
        for index, array in enumerate(arrays)
    }
    return Converted(str(source), str(target), shapes)
