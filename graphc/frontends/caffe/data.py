"""Caffe's data layers, as inputs of the net: the caller gives the values, or the layer's own files.

A layer's shapes come from its fields where they tell, else from the files it names: the first
record, a mean image, the first data set. `graphc.Net(path, shapes={"data": (10, 3, 227, 227)})`
says them where neither does.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from graphc.error import NetError
from graphc.frontends.caffe.caffemodel import read_blob
from graphc.frontends.caffe.database import LMDB_IS_MISSING, is_database, read_datums
from graphc.frontends.caffe.hdf5 import hdf5_shapes
from graphc.frontends.caffe.layer import LayerContext, layer
from graphc.frontends.caffe.listed_files import hdf5_files, listed_pictures
from graphc.ir.graph import Value
from graphc.picture import decoded, picture_size

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


def _images(
    c: LayerContext, options: Any, *found: Shape | str, channels: int | None = None
) -> tuple[Value, ...]:
    """Images [batch, channels, height, width], cropped where so asked, and their labels [batch].

    `found`: by each place that may tell it the shape of one image, or why it does not (nothing
    where that is no news). `channels`: the number of colours, where the layer itself says it.
    """
    _need_tops(c, 1, 2)
    batch = _batch(c, options)
    known = c.around.shapes.get(c.layer.tops[0])
    crop: int = c.options("transform_param").get("crop_size")
    told = [one for one in found if not isinstance(one, str)]
    if known is None and not told and not crop:
        reasons = [one for one in found if isinstance(one, str) and one]
        top, size = c.layer.tops[0], (batch, channels or 3, 224, 224)
        raise c.fail(
            f"nothing tells the shape of its images: {'; '.join(reasons)}. A crop_size"
            f" does; or say it, --shape {top}={','.join(map(str, size))}, in Python"
            f" shapes={{'{top}': {size}}}"
        )
    count, height, width = told[0] if told else (channels or _channels(c, known), crop, crop)
    if crop and (crop > height or crop > width):
        raise c.fail(f"crop_size {crop} is more than the image's {height} x {width}", "crop_size")
    shape = (batch, count, crop or height, crop or width)
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


def _mean_shape(c: LayerContext) -> Shape | str:
    """The shape of an image by the mean image that is subtracted from it, or why it is not told."""
    name = c.options("transform_param").get("mean_file")
    path = c.path(name)
    if not name:
        return ""
    if not path.is_file():
        return f"the mean_file '{path}' is not there"
    shape: Shape = read_blob(path).shape
    return shape[-3:] if len(shape) >= 3 else f"the mean of '{path}' is no image"


@layer("Data", bottoms=0)
def data(c: LayerContext) -> tuple[Value, ...]:
    """Images and labels from a database of Datum records."""
    c.serves(c.layer.tops)
    return _images(c, c.options("data_param"), _first_record(c), _mean_shape(c))


def _first_record(c: LayerContext) -> Shape | str:
    """The shape of a database's first Datum, or why it is not told."""
    options = c.options("data_param")
    name = options.get("source")
    folder = c.path(name)
    if not name:
        return "it names no source"
    if options.get("backend") != "LMDB":
        if folder.is_dir():
            c.warn(
                "graphc reads LMDB databases only, not LevelDB: its values must be given", "source"
            )
        return "the backend is LEVELDB, of which graphc reads nothing; `backend: LMDB` is read"
    if not is_database(folder):
        return f"there is no LMDB database '{folder}'"
    if importlib.util.find_spec("lmdb") is None:
        return LMDB_IS_MISSING
    found, _ = read_datums(folder, 1)
    if not found:
        return f"the database '{folder}' is empty"
    if found[0].image is not None:
        return found[0].image.shape
    channels = 1 if c.options("transform_param").get("force_gray") else 3
    try:
        return decoded(found[0].encoded, f"a record of '{folder}'", channels).shape
    except NetError as error:
        return str(error)


@layer("ImageData", bottoms=0)
def image_data(c: LayerContext) -> tuple[Value, ...]:
    """Image files from a list."""
    options = c.options("image_data_param")
    c.serves(c.layer.tops)
    extents = (options.get("new_height"), options.get("new_width"))
    if any(extents) and not all(extents):
        raise c.fail("new_height and new_width belong together", "image_data_param")
    channels = 3 if options.get("is_color") else 1
    if all(extents):
        return _images(c, options, (channels, *extents))
    return _images(c, options, _first_picture(c, channels), _mean_shape(c), channels=channels)


def _first_picture(c: LayerContext, channels: int) -> Shape | str:
    """The shape of the first picture in the layer's list, or why it is not told."""
    options = c.options("image_data_param")
    if not options.get("source"):
        return "it names no source"
    try:
        name, _ = next(listed_pictures(c.path(options.get("source"))))
        return (channels, *picture_size(c.path(options.get("root_folder") + name)))
    except NetError as error:
        return str(error)


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
    if not options.get("source"):
        raise c.fail("source must be given: a file that lists HDF5 files", "hdf5_data_param")
    try:
        first = hdf5_files(c.path(options.get("source")))[0]
        found = hdf5_shapes(first)
    except NetError as error:
        raise c.fail(str(error), "source") from None
    for top in c.layer.tops:
        if top not in found or not found[top]:
            held = ", ".join(sorted(found)) or "none"
            raise c.fail(f"'{first}' has no data set '{top}'; it has {held}")
    return tuple(c.input(top, (batch, *found[top][1:])) for top in c.layer.tops)


@layer("HDF5Output")
def hdf5_output(c: LayerContext) -> Value:
    """Refused: nothing is written while a net runs."""
    raise c.fail(
        "HDF5Output writes a file at every pass, which graphc does not; read the blobs"
        f" {', '.join(c.layer.bottoms)} after the call instead"
    )
