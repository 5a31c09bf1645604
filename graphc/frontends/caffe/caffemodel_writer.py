"""Writing Caffe's binary files: weights (`.caffemodel`) and single blobs (`.binaryproto`).

Weights are written in the current layout or, for Caffe before 2015, in `layers`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graphc.error import Diagnostic, NetError
from graphc.frontends.caffe import schema, wire
from graphc.frontends.caffe.caffemodel import LARGEST_FILE, shown_shape
from graphc.frontends.caffe.upgrade import V1_TYPES
from graphc.whole_file import write_parts


def write_weights(
    path: str | Path,
    name: str,
    layers: Mapping[str, Sequence[NDArray[np.floating]]],
    types: Mapping[str, str] | None = None,
    layout: str = "current",
) -> None:
    """Write a `.caffemodel`: the arrays of each layer, as float32 unless they are float64.

    The file is written beside its place and then renamed, so `path` never holds half a file.

    Args:
        types: the layers' types, which Caffe needs for the layout "v1" only.
        layout: "current", or "v1", which every Caffe since the end of 2013 reads. That one has a
            number for each type it knows and four extents of float32 for every array; of layers
            without arrays it holds those whose type it knows.
    Raises:
        NetError: if the file cannot be written or would be larger than the 2 GiB that protobuf
            allows; for "v1", all layers that it has no type or no shape for.
    """
    types = types or {}
    form = LAYOUTS[layout]
    if layout == "v1":
        layers = _fit_for_v1(layers, types)
    parts: list[bytes | memoryview] = [string_field("NetParameter", "name", name)]
    layer_number = schema.field_number("NetParameter", form.field)
    blob_number = schema.field_number(form.message, "blobs")
    for layer, arrays in layers.items():
        inner: list[bytes | memoryview] = [
            string_field(form.message, "name", layer),
            form.type_field(types.get(layer, "")),
        ]
        for array in arrays:
            inner += enclosed(blob_number, form.blob(array))
        parts += enclosed(layer_number, inner)
    size = sum(len(part) for part in parts)
    if size > LARGEST_FILE:
        raise NetError(f"the weights need {size} bytes; a caffemodel can have {LARGEST_FILE}")
    write_parts(path, parts)


def write_blob(path: str | Path, array: NDArray[np.floating]) -> None:
    """Write a `.binaryproto`: one array, as `write_weights` has them.

    Caffe's means have the shape 1 x C x H x W. The file is written whole or not at all; NetError
    if that fails.
    """
    write_parts(path, blob_parts(array))


def string_field(message: str, name: str, value: str) -> bytes:
    """A field that holds text; nothing for an empty one."""
    data = value.encode("utf-8", "surrogatepass")
    return wire.header(schema.field_number(message, name), len(data)) + data if data else b""


def enclosed(number: int, parts: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    """A field that holds a message of these parts."""
    return [wire.header(number, sum(len(part) for part in parts)), *parts]


def number_field(message: str, name: str, value: int) -> bytes:
    """A field that holds a whole number of at least 0."""
    key = schema.field_number(message, name) << 3 | wire.VARINT
    return wire.encode_varint(key) + wire.encode_varint(value)


def blob_parts(array: NDArray[np.floating]) -> list[bytes | memoryview]:
    """The bytes of an array as a BlobProto, in float32 unless it is float64."""
    dims = b"".join(wire.encode_varint(size) for size in np.shape(array))
    shape = wire.header(schema.field_number("BlobShape", "dim"), len(dims)) + dims if dims else b""
    return [
        *_data_field(array),
        wire.header(schema.field_number("BlobProto", "shape"), len(shape)),
        shape,
    ]


def _four_extents(array: NDArray[np.floating]) -> list[bytes | memoryview]:
    """The bytes of an array of up to four axes as a BlobProto of old, with ones in front."""
    extents = (1,) * (4 - np.ndim(array)) + np.shape(array)
    names = ("num", "channels", "height", "width")
    numbers = [number_field("BlobProto", *pair) for pair in zip(names, extents, strict=True)]
    return [*numbers, *_data_field(np.asarray(array, np.float32))]


def _data_field(array: NDArray[np.floating]) -> list[bytes | memoryview]:
    is_double = array.dtype == np.float64
    values = np.ascontiguousarray(array, dtype="<f8" if is_double else "<f4")
    data = values.reshape(-1).view(np.uint8).data
    name = "double_data" if is_double else "data"
    return [wire.header(schema.field_number("BlobProto", name), len(data)), data]


@dataclass(frozen=True)
class Layout:
    """One form of a weight file: the field of NetParameter for layers, and what each holds."""

    field: str
    message: str
    type_field: Callable[[str], bytes]
    blob: Callable[[NDArray[np.floating]], list[bytes | memoryview]]


def _type_word(kind: str) -> bytes:
    return string_field("LayerParameter", "type", kind)


def _type_number(kind: str) -> bytes:
    values = schema.descriptor("V1LayerParameter").enum_types_by_name["LayerType"].values_by_name
    return number_field("V1LayerParameter", "type", values[_V1_NAMES[kind]].number)


_V1_NAMES = {today: old for old, today in V1_TYPES.items() if today}

LAYOUTS = {
    "current": Layout("layer", "LayerParameter", _type_word, blob_parts),
    "v1": Layout("layers", "V1LayerParameter", _type_number, _four_extents),
}


def _fit_for_v1(
    layers: Mapping[str, Sequence[NDArray[np.floating]]], types: Mapping[str, str]
) -> dict[str, Sequence[NDArray[np.floating]]]:
    """The layers that the layout v1 can hold. NetError for each whose arrays it cannot."""
    problems = []
    for layer, arrays in layers.items():
        kind = types.get(layer, "")
        if arrays and not kind:
            problems.append(
                f"the type of layer '{layer}' is not known, and v1 needs it: give the definition"
                " with --net"
            )
        elif arrays and kind not in _V1_NAMES:
            problems.append(f"layer '{layer}' is of type {kind}, which v1 does not have")
        problems += [
            f"parameter {i} of layer '{layer}' has shape {shown_shape(np.shape(array))}, and v1"
            " holds four axes at most"
            for i, array in enumerate(arrays)
            if np.ndim(array) > 4
        ]
    if problems:
        raise NetError([Diagnostic(problem) for problem in problems])
    return {name: arrays for name, arrays in layers.items() if types.get(name, "") in _V1_NAMES}
