"""Reading Caffe's binary files: weights (`.caffemodel`) and single blobs (`.binaryproto`).

A blob of Caffe's is of single precision, or of double where the net was; both are kept as they are.
Weights are read from the current layout (`layer`) and the older ones (`layers`, and the `layer`
inside of it).
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graphc.error import NetError
from graphc.frontends.caffe import schema, wire
from graphc.frontends.caffe.upgrade import V1_TYPES
from graphc.unreadable import HDF5_MAGIC, looks_like, unreadable

FloatArray = NDArray[np.floating]

LARGEST_FILE = (1 << 31) - 1


@dataclass(frozen=True)
class StoredBlob:
    """Values with the shape the file gives them.

    A `legacy` blob has the four numbers num, channels, height and width of old files: a matrix
    A x B stands there as 1 x 1 x A x B, a vector as 1 x 1 x 1 x N.
    """

    values: FloatArray
    legacy: bool = False

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether a parameter of this shape may take the values, by Caffe's rule."""
        wanted = tuple(shape)
        if self.legacy and len(wanted) <= 4:
            wanted = (1,) * (4 - len(wanted)) + wanted
        return self.values.shape == wanted


@dataclass
class Weights:
    """The parameters in a weight file, by layer name, in their stored precision and shapes.

    Layers without parameters are there with an empty list. `types` are the layers' types, where
    the file has them.
    """

    path: str
    name: str = ""
    blobs: dict[str, list[StoredBlob]] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)

    @property
    def layers(self) -> dict[str, list[FloatArray]]:
        """The arrays of each layer."""
        return {name: [blob.values for blob in blobs] for name, blobs in self.blobs.items()}

    def fitted(self, layer: str, shapes: Sequence[Sequence[int]]) -> list[FloatArray]:
        """The arrays of `layer` in the shapes of the net's parameters.

        Raises NetError where their number or a shape does not fit.
        """
        stored = self.blobs.get(layer)
        if stored is None:
            raise NetError(f"'{self.path}' has no layer '{layer}'")
        if len(stored) != len(shapes):
            raise NetError(
                f"layer '{layer}' has {_count(len(shapes), 'parameter')}, "
                f"'{self.path}' holds {len(stored)} for it"
            )
        for i, (blob, shape) in enumerate(zip(stored, shapes, strict=True)):
            if not blob.fits(shape):
                raise NetError(
                    f"parameter {i} of layer '{layer}' has shape {shown_shape(shape)}, "
                    f"'{self.path}' holds {shown_shape(blob.values.shape)}"
                )
        return [
            blob.values.reshape(tuple(shape)) for blob, shape in zip(stored, shapes, strict=True)
        ]


def read_weights(path: str | Path) -> Weights:
    """Read a `.caffemodel` of any of Caffe's layouts.

    Raises NetError, naming the file and what is wrong with it, for one that cannot be read, is cut
    short, or holds a blob whose shape and values disagree.
    """
    data = read_file(path)
    weights = Weights(str(path))
    current = schema.field_number("NetParameter", "layer")
    older = schema.field_number("NetParameter", "layers")
    name = schema.field_number("NetParameter", "name")
    try:
        for number, kind, payload in wire.fields(data):
            if not isinstance(payload, memoryview) or kind != wire.BYTES:
                continue
            if number == name:
                weights.name = _text(payload)
            elif number in (current, older):
                message = "LayerParameter" if number == current else "V1LayerParameter"
                _read_layer(payload, message, weights)
    except wire.WireError as error:
        raise damaged(path, data, error) from None
    if not weights.blobs:
        raise NetError(f"'{path}' holds no layers: is it a caffemodel?")
    return weights


def read_blob(path: str | Path) -> NDArray[np.float32]:
    """Read a `.binaryproto` (a mean image, an infogain matrix): float32 in the stored shape.

    Raises NetError for a file that cannot be read or is damaged.
    """
    data = read_file(path)
    try:
        values = read_stored(data, "its blob", str(path)).values
    except wire.WireError as error:
        raise damaged(path, data, error) from None
    with np.errstate(over="ignore"):
        return values.astype(np.float32, copy=False)


def read_file(path: str | Path) -> memoryview:
    """A protobuf file's bytes. Raises NetError where it cannot be read or is an HDF5 file."""
    try:
        with Path(path).open("rb") as file:
            kind = os.fstat(file.fileno())
            size = kind.st_size if stat.S_ISREG(kind.st_mode) else LARGEST_FILE  # of a pipe: any
            data = file.read(min(size, LARGEST_FILE) + 1)
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None
    if len(data) > LARGEST_FILE:
        raise NetError(f"'{path}' is larger than the 2 GiB that protobuf allows")
    if data.startswith(HDF5_MAGIC):
        raise NetError(f"'{path}' is an HDF5 file, not a protobuf one")
    return memoryview(data)


def damaged(path: str | Path, data: memoryview, error: wire.WireError) -> NetError:
    """The error for a file whose bytes are no message."""
    hint = looks_like(path, bytes(data[:200]))
    return NetError(f"'{path}' is damaged or no Caffe file ({len(data)} bytes): {error}{hint}")


def _text(payload: memoryview) -> str:
    return bytes(payload).decode("utf-8", "replace")


def _read_layer(data: memoryview, message: str, weights: Weights) -> None:
    """Add one layer's blobs; in the oldest layout they lie in a message inside."""
    numbers = {name: schema.field_number(message, name) for name in ("name", "type", "blobs")}
    inner = schema.field_number(message, "layer") if message == "V1LayerParameter" else -1
    name = kind = ""
    blobs: list[memoryview] = []
    for number, wire_type, payload in wire.fields(data):
        if number == numbers["type"] and isinstance(payload, int):
            kind = _v1_type(payload)
        elif not isinstance(payload, memoryview) or wire_type != wire.BYTES:
            continue
        elif number == numbers["name"]:
            name = _text(payload)
        elif number == numbers["type"]:
            kind = _text(payload)
        elif number == numbers["blobs"]:
            blobs.append(payload)
        elif number == inner:
            _read_layer(payload, "V0LayerParameter", weights)
            return
    if weights.blobs.get(name) and not blobs:
        return
    weights.types[name] = kind
    weights.blobs[name] = [
        read_stored(blob, f"blob {i} of layer '{name}'", weights.path)
        for i, blob in enumerate(blobs)
    ]


def _v1_type(number: int) -> str:
    values = schema.descriptor("V1LayerParameter").enum_types_by_name["LayerType"].values_by_number
    return V1_TYPES[values[number].name] if number in values else ""


def read_stored(data: memoryview, what: str, path: str) -> StoredBlob:
    """Values in the bytes of a BlobProto; WireError names `what` where they are damaged."""
    names = {field.number: field.name for field in schema.descriptor("BlobProto").fields}
    legacy: dict[str, int] = {}
    shape: list[int] = []
    singles: list[memoryview] = []
    doubles: list[memoryview] = []
    for number, kind, payload in wire.fields(data):
        name = names.get(number, "")
        if isinstance(payload, int):
            if name in ("num", "channels", "height", "width"):
                legacy[name] = wire.signed(payload)
        elif name == "shape" and kind == wire.BYTES:
            shape += _read_shape(payload)
        elif name == "data":
            singles.append(payload)
        elif name == "double_data":
            doubles.append(payload)
    if legacy:
        shape = [legacy.get(name, 0) for name in ("num", "channels", "height", "width")]
    values = _values(doubles, np.float64) if doubles else _values(singles, np.float32)
    if any(size < 0 for size in shape):
        raise wire.WireError(f"{what} has the negative shape {shown_shape(shape)}")
    if math.prod(shape) != len(values):
        raise wire.WireError(
            f"{what} has shape {shown_shape(shape)}, which is {_count(math.prod(shape), 'value')}, "
            f"and holds {len(values)}"
        )
    if len(shape) > 32:
        raise wire.WireError(f"{what} has {len(shape)} axes")
    return StoredBlob(values.reshape(shape), bool(legacy))


def _read_shape(data: memoryview) -> list[int]:
    dim = schema.field_number("BlobShape", "dim")
    sizes: list[int] = []
    for number, kind, payload in wire.fields(data):
        if number == dim and isinstance(payload, int):
            sizes.append(wire.signed(payload))
        elif number == dim and kind == wire.BYTES and isinstance(payload, memoryview):
            sizes += wire.varints(payload)
    return sizes


def _values(runs: list[memoryview], dtype: type[np.floating]) -> FloatArray:
    """The numbers of one or several runs, copied out of the file's bytes."""
    size = np.dtype(dtype).itemsize
    if any(len(run) % size for run in runs):
        raise wire.WireError(f"a run of {size}-byte numbers ends inside a number")
    little = np.dtype(dtype).newbyteorder("<")
    arrays = [np.frombuffer(run, little) for run in runs]
    one = len(arrays) == 1
    joined = arrays[0] if one else np.concatenate([*arrays, np.zeros(0, dtype)])
    return joined.astype(dtype, copy=one)


def shown_shape(sizes: Sequence[int]) -> str:
    """A shape as errors show it; of very many axes the first."""
    return " x ".join(map(str, sizes[:12])) if sizes else "() (a single value)"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
