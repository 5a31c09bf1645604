"""Data layers: inputs of the net, whose shapes come from their fields or from files."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import cases_folder

import graphc
from graphc.error import NetError
from graphc.frontends.caffe.caffemodel_writer import write_blob

FILES = cases_folder() / "caffe" / "files"


def make(text: str | Path, **options: Any) -> graphc.Net:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", graphc.NetWarning)
        return graphc.Net(text, threads=1, **options)


def shapes(net: graphc.Net) -> dict[str, tuple[int, ...]]:
    return {name: net.blobs[name].shape for name in net.inputs}


def of_type(kind: str, fields: str, tops: str = 'top: "data" top: "label"') -> str:
    return f'layer {{ name: "d" type: "{kind}" {tops} {fields} }}'


SHAPES = {
    "memory": (
        of_type("MemoryData", "memory_data_param { batch_size: 4 channels: 3 height: 5 width: 6 }"),
        (4, 3, 5, 6),
    ),
    "cropped": (
        of_type("Data", "data_param { batch_size: 4 } transform_param { crop_size: 7 }"),
        (4, 3, 7, 7),
    ),
    "grey": (
        of_type(
            "Data",
            "data_param { batch_size: 2 } transform_param { crop_size: 7 force_gray: true }",
        ),
        (2, 1, 7, 7),
    ),
    "images": (
        of_type("ImageData", "image_data_param { batch_size: 2 new_height: 8 new_width: 9 }"),
        (2, 3, 8, 9),
    ),
    "windows": (
        of_type("WindowData", "window_data_param { batch_size: 2 crop_size: 9 }"),
        (2, 3, 9, 9),
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_from_fields(name: str):
    text, wanted = SHAPES[name]
    assert shapes(make(text)) == {"data": wanted, "label": wanted[:1]}


def test_shape_from_the_mean_image(tmp_path: Path):
    write_blob(tmp_path / "mean.binaryproto", np.zeros((1, 2, 10, 12), np.float32))
    net = tmp_path / "net.prototxt"
    text = of_type(
        "Data",
        'data_param { batch_size: 5 } transform_param { mean_file: "mean.binaryproto" CROP }',
        'top: "data"',
    )
    net.write_text(text.replace("CROP", ""))
    assert shapes(make(net)) == {"data": (5, 2, 10, 12)}
    net.write_text(text.replace("CROP", "crop_size: 8"))
    assert shapes(make(net)) == {"data": (5, 2, 8, 8)}


def test_shape_from_the_first_file_of_a_list():
    net = make(FILES / "hdf5_two_files.prototxt")
    with np.load(FILES / "hdf5_two_files.npz") as file:
        assert shapes(net) == {"data": file["out@0/data"].shape, "label": file["out@0/label"].shape}


def test_shapes_of_the_caller_win():
    net = make(of_type("Data", "data_param { batch_size: 5 }"), shapes={"data": (2, 3, 4, 4)})
    assert shapes(net) == {"data": (2, 3, 4, 4), "label": (2,)}


def test_values_are_given_like_inputs():
    net = make(SHAPES["memory"][0] + ' layer { name: "r" type: "ReLU" bottom: "data" top: "y" }')
    x = np.random.default_rng(0).standard_normal((4, 3, 5, 6)).astype(np.float32)
    np.testing.assert_array_equal(net.forward(data=x)["y"], np.maximum(x, 0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (of_type("Data", "data_param { batch_size: 4 }"), "shape of its images"),
        (of_type("Data", "transform_param { crop_size: 7 }"), "batch_size"),
        (of_type("MemoryData", "memory_data_param { batch_size: 4 }"), "channels, height and"),
        (of_type("HDF5Data", 'hdf5_data_param { batch_size: 1 source: "no" }'), "list of files"),
        (of_type("HDF5Output", "", 'bottom: "x"'), "unknown bottom blob 'x'"),
    ],
)
def test_what_is_missing_is_said(text: str, message: str):
    with pytest.raises(NetError, match=message):
        make(text)


def test_what_graphc_does_not_do_is_refused_in_a_sentence():
    start = 'layer { name: "i" type: "Input" top: "x" input_param { shape { dim: 4 } } }\n'
    with pytest.raises(NetError, match="writes a file at every pass"):
        make(start + 'layer { name: "o" type: "HDF5Output" bottom: "x" bottom: "x" }')
