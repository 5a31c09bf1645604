"""Caffe's data layers, as inputs of the net: the caller gives the values, or the layer's own files.

A layer's shapes come from its fields where they tell, else from the files it names: the first
record, a mean image, the first data set. `graphc.Net(path, shapes={"data": (10, 3, 227, 227)})`
says them where neither does.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from graphc.error import NetError
from graphc.frontends.caffe.caffemodel import read_blob
from graphc.frontends.caffe.database import is_database, read_datums
from graphc.frontends.caffe.hdf5 import hdf5_shapes
from graphc.frontends.caffe.layer import LayerContext, layer
from graphc.ir.graph import Value

Shape = tuple[int, ...]


def _batch(c: LayerContext, options: Any) -> int:
    count: int = options.get("batch_size")
    if not count:
        raise c.fail("batch_size must be given and be at least 1", "batch_size")
    return count


def _need_tops(c: LayerContext, least: int, most: int) -> None:
    count = len(c.layer.tops)
    if not least <= count <= most:
        numbers = str(least) if least == most else f"{least} or {most}"
        raise c.fail(f"{c.layer.type} has {numbers} tops, not {count}")


def _images(c: LayerContext, options: Any, found: Shape | None) -> tuple[Value, ...]:
    """Images [batch, channels, height, width], cropped where so asked, and their labels [batch].

    `found` is the shape of one image, None where nothing tells it.
    """
    _need_tops(c, 1, 2)
    batch = _batch(c, options)
    known = c.around.shapes.get(c.layer.tops[0])
    crop: int = c.options("transform_param").get("crop_size")
    if known is None and found is None and not crop:
        raise c.fail(
            "nothing tells the shape of its images: neither a crop_size nor a file that can be"
            f" read; give it as shapes={{'{c.layer.tops[0]}': ({batch}, 3, 224, 224)}}"
        )
    channels, height, width = found or (_channels(c, known), crop, crop)
    if crop and (crop > height or crop > width):
        raise c.fail(f"crop_size {crop} is more than the image's {height} x {width}", "crop_size")
    shape = (batch, channels, crop or height, crop or width)
    data = c.input(c.layer.tops[0], shape)
    if len(c.layer.tops) == 1:
        return (data,)
    return data, c.input(c.layer.tops[1], (data.shape[0],))


def _channels(c: LayerContext, known: Shape | None) -> int:
    """The number of colours, guessed where no file tells it."""
    options = c.options("transform_param")
    means = len(options.all("mean_value"))
    if options.get("force_gray"):
        return 1
    channels = means if means > 1 else 3
    if known is None and not options.get("force_color") and means < 2:
        c.warn(f"the number of channels of '{c.layer.tops[0]}' is taken for {channels}")
    return channels


def _mean_shape(c: LayerContext) -> Shape | None:
    """The shape of an image by the mean image that is subtracted from it."""
    name = c.options("transform_param").get("mean_file")
    path = c.path(name)
    if not name or not path.is_file():
        return None
    shape: Shape = read_blob(path).shape
    return shape[-3:] if len(shape) >= 3 else None


@layer("Data", bottoms=0)
def data(c: LayerContext) -> tuple[Value, ...]:
    """Images and labels from a database of Datum records."""
    options = c.options("data_param")
    c.serves(c.layer.tops)
    found = None
    if options.get("backend") == "LMDB" and options.get("source"):
        found = _first_record(c.path(options.get("source")))
    elif options.get("source") and c.path(options.get("source")).is_dir():
        c.warn("graphc reads LMDB databases only, not LevelDB: its values must be given", "source")
    return _images(c, options, found or _mean_shape(c))


def _first_record(folder: Path) -> Shape | None:
    """The shape of a database's first Datum; None where it, or the module lmdb, is not there."""
    if not is_database(folder) or importlib.util.find_spec("lmdb") is None:
        return None
    found, _ = read_datums(folder, 1)
    return found[0].image.shape if found and found[0].image is not None else None


@layer("ImageData", bottoms=0)
def image_data(c: LayerContext) -> tuple[Value, ...]:
    """Image files from a list."""
    options = c.options("image_data_param")
    c.serves(c.layer.tops)
    extents = (options.get("new_height"), options.get("new_width"))
    if any(extents) and not all(extents):
        raise c.fail("new_height and new_width belong together", "image_data_param")
    if not all(extents):
        return _images(c, options, _mean_shape(c))
    return _images(c, options, (3 if options.get("is_color") else 1, *extents))


@layer("WindowData", bottoms=0)
def window_data(c: LayerContext) -> tuple[Value, ...]:
    """Windows of image files, all scaled to crop_size."""
    options = c.options("window_data_param")
    _need_tops(c, 2, 2)
    crop = c.options("transform_param").get("crop_size") or options.get("crop_size")
    if not crop:
        raise c.fail("crop_size must be given", "window_data_param")
    batch = _batch(c, options)
    images = c.input(c.layer.tops[0], (batch, 3, crop, crop))
    return images, c.input(c.layer.tops[1], (images.shape[0],))


@layer("MemoryData", bottoms=0)
def memory_data(c: LayerContext) -> tuple[Value, ...]:
    """Arrays that the program gives: images and labels."""
    options = c.options("memory_data_param")
    _need_tops(c, 2, 2)
    extents = tuple(options.get(name) for name in ("channels", "height", "width"))
    if not all(extents):
        raise c.fail(
            "batch_size, channels, height and width must be given and be at least 1",
            "memory_data_param",
        )
    images = c.input(c.layer.tops[0], (_batch(c, options), *extents))
    return images, c.input(c.layer.tops[1], (images.shape[0],))


@layer("HDF5Data", bottoms=0)
def hdf5_data(c: LayerContext) -> tuple[Value, ...]:
    """Data sets of HDF5 files from a list, named like the tops; axis 0 counts the items."""
    options = c.options("hdf5_data_param")
    batch = _batch(c, options)
    _need_tops(c, 1, 32)
    c.serves(c.layer.tops)
    if all(top in c.around.shapes for top in c.layer.tops):
        return tuple(c.input(top, ()) for top in c.layer.tops)
    listed = c.path(options.get("source"))
    try:
        first = hdf5_files(listed)[0]
    except NetError as error:
        raise c.fail(str(error), "source") from None
    found = hdf5_shapes(first)
    for top in c.layer.tops:
        if top not in found or not found[top]:
            held = ", ".join(sorted(found)) or "none"
            raise c.fail(f"'{first}' has no data set '{top}'; it has {held}")
    return tuple(c.input(top, (batch, *found[top][1:])) for top in c.layer.tops)


def hdf5_files(listed: Path) -> list[Path]:
    """The files that a list names, beside it or where the working folder leads.

    Raises NetError where the list cannot be read or is empty.
    """
    try:
        names = listed.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise NetError(f"cannot read the list of files '{listed}': {error}") from None
    if not names:
        raise NetError(f"the list '{listed}' names no file")
    beside = [listed.parent / name for name in names]
    return [
        path if path.is_file() or not Path(name).is_file() else Path(name)
        for path, name in zip(beside, names, strict=True)
    ]


@layer("HDF5Output")
def hdf5_output(c: LayerContext) -> Value:
    """Refused: nothing is written while a net runs."""
    raise c.fail(
        "HDF5Output writes a file at every pass, which graphc does not; read the blobs"
        f" {', '.join(c.layer.bottoms)} after the call instead"
    )
