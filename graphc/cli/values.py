"""The values that --input and --diff name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import typer

from graphc import picture
from graphc.call_arguments import unknown
from graphc.cli.axes import CAFFE, Axes
from graphc.cli.options import Channels, InputOptions
from graphc.cli.report import note
from graphc.error import NetError, need
from graphc.numpy_file import read_array
from graphc.random_inputs import InputKind, input_kinds, random_input

if TYPE_CHECKING:
    from PIL import Image

    from graphc.ir.graph import Graph, Value

_FILL = re.compile(r"fill:(.+)")
_RANDOM = re.compile(r"random:(\d+)")
_ONE_HOT = re.compile(r"one-hot:(\d+)")


def read_inputs(
    graph: Graph, sources: Mapping[str, str], options: InputOptions, axes: Axes = CAFFE
) -> tuple[dict[str, np.ndarray], dict[str, Image.Image]]:
    """The arrays of --input, in the user's order of axes; and the pictures among them."""
    kinds = input_kinds(graph)
    arrays: dict[str, np.ndarray] = {}
    pictures: dict[str, Image.Image] = {}
    for position, (name, source) in enumerate(sources.items()):
        value = graph.values[name]
        number = _number(_FILL, source, "--input")
        if number is not None:
            arrays[name] = np.full(axes.shape(value.shape), number)
        elif match := _RANDOM.fullmatch(source):
            rng = np.random.default_rng([int(match[1]), position])
            kind = kinds.get(name, InputKind())
            drawn = random_input(value, kind, rng)
            if axes.turned and kind.classes is not None:
                drawn += 1  # MATLAB's classes count from 1
            arrays[name] = axes.turn(drawn)
        elif Path(source).suffix == ".npy":
            arrays[name] = read_array(source)
        elif Path(source).suffix.lower() in picture.SUFFIXES:
            arrays[name], pictures[name] = _read_picture(value, source, options, axes)
        else:
            raise typer.BadParameter(
                f"'{source}' is no .npy, no picture's file, no random:SEED and no fill:V",
                param_hint="--input",
            )
    return arrays, pictures


def _read_picture(
    value: Value, path: str, options: InputOptions, axes: Axes
) -> tuple[np.ndarray, Image.Image]:
    """A picture for every image of an input: (pixels - mean) * scale."""
    need(
        len(value.shape) == 4,
        f"input '{value.name}' has shape {list(value.shape)}; a picture needs {axes.shown}",
    )
    count, channels, height, width = value.shape
    if axes.turned:
        height, width = width, height
    photo = picture.read_picture(path, channels)
    if photo.size != (width, height):
        sizes = f"'{path}' is {photo.width} x {photo.height}"
        if options.resize is False:
            extents = (photo.height, photo.width, channels, count)
            if not axes.turned:
                extents = (count, channels, photo.height, photo.width)
            raise NetError(
                f"{sizes}, input '{value.name}' needs {width} x {height}; leave --no-resize out,"
                f" or give --shape {value.name}={','.join(map(str, extents))}"
            )
        if options.resize is None:
            note(f"{sizes}; it is resized to {width} x {height}")
        photo = picture.resized(photo, height, width)
    order = options.channels or (Channels.rgb if axes.turned else Channels.bgr)
    array = picture.pixels(photo, order.value)
    if options.mean is not None:
        array = picture.without_mean(array, picture.read_mean(options.mean))
    batch = (count, channels, height, width)
    return axes.of_images(np.broadcast_to(array * np.float32(options.scale), batch)), photo


def read_diffs(
    graph: Graph, sources: Mapping[str, str], axes: Axes = CAFFE
) -> dict[str, np.ndarray]:
    """The gradients of --diff, in the user's order of axes.

    Raises NetError where the graph has no blob of that name, or an array is none.
    """
    arrays = {}
    for name, source in sources.items():
        need(name in graph.blobs, unknown("blob", name, graph.blobs))
        shape = graph.blobs[name].shape
        number = _number(_FILL, source, "--diff")
        if number is not None:
            arrays[name] = np.full(axes.shape(shape), number)
        elif match := _ONE_HOT.fullmatch(source):
            arrays[name] = axes.turn(one_hot(name, shape, int(match[1])))
        elif Path(source).suffix == ".npy":
            arrays[name] = read_array(source)
        else:
            raise typer.BadParameter(
                f"'{source}' is no one-hot:K, no fill:V and no .npy", param_hint="--diff"
            )
    return arrays


def one_hot(name: str, shape: tuple[int, ...], index: int) -> np.ndarray:
    """1 at class `index` of axis 1 (axis 0 of a vector), in every row and at every position."""
    need(shape, f"blob '{name}' is a single number, which has no classes")
    axis = min(1, len(shape) - 1)
    need(
        index < shape[axis],
        f"blob '{name}' has {shape[axis]} classes (shape {list(shape)}); there is no class {index}",
    )
    array = np.zeros(shape, np.float32)
    np.moveaxis(array, axis, 0)[index] = 1
    return array


def _number(pattern: re.Pattern[str], text: str, option: str) -> float | None:
    match = pattern.fullmatch(text)
    if match is None:
        return None
    try:
        return float(match[1])
    except ValueError:
        raise typer.BadParameter(f"'{match[1]}' is no number", param_hint=option) from None
