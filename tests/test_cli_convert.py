"""`graphc convert` and `graphc upgrade`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_cli_options import graphc

import graphc as package
from graphc.frontends.caffe import schema
from graphc.frontends.caffe.caffemodel import read_blob, read_weights
from graphc.frontends.caffe.caffemodel_writer import write_weights
from graphc.frontends.caffe.hdf5 import read_hdf5_weights
from graphc.weight_files import convert

NET = """
name: "small"
layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 1 dim: 2 dim: 4 dim: 4 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 3 kernel_size: 2 weight_filler { type: "gaussian" std: 1 } } }
layer { name: "a" type: "InnerProduct" bottom: "conv" top: "a" param { name: "w" }
  inner_product_param { num_output: 2 bias_term: false weight_filler { type: "gaussian" std: 1 } } }
layer { name: "b" type: "InnerProduct" bottom: "conv" top: "b" param { name: "w" }
  inner_product_param { num_output: 2 bias_term: false weight_filler { type: "gaussian" std: 1 } } }
"""

V1 = ("--layout", "v1")

OLD = """
# the oldest format
name: "old" # and its name
layers { layer { name: "conv" type: "conv" num_output: 3 kernelsize: 2 }
  bottom: "data" top: "conv" }
layers { layer { name: "relu" type: "relu" } bottom: "conv" top: "conv" }
input: "data" input_dim: 1 input_dim: 2 input_dim: 4 input_dim: 4
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.prototxt"
    path.write_text(NET)
    return path


@pytest.fixture
def weights(net: Path, tmp_path: Path) -> Path:
    path = tmp_path / "net.caffemodel"
    package.Net(net).save(path)
    return path


def test_there_and_back(weights: Path, tmp_path: Path) -> None:
    middle, back = tmp_path / "net.caffemodel.h5", tmp_path / "back.caffemodel"
    shown = graphc("convert", weights, middle, "--json")
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)["shapes"]["conv/0"] == [3, 2, 2, 2]
    assert graphc("convert", middle, back).exit_code == 0
    before, after = read_weights(weights).layers, read_weights(back).layers
    for layer, arrays in before.items():
        for index, array in enumerate(arrays):
            np.testing.assert_array_equal(after[layer][index], array)


def test_shared_parameters_need_the_net(weights: Path, net: Path, tmp_path: Path) -> None:
    stored, back = tmp_path / "net.h5", tmp_path / "back.caffemodel"
    assert graphc("convert", weights, stored, "--net", net).exit_code == 0
    assert 0 not in read_hdf5_weights(stored).get("b", {})
    assert graphc("convert", stored, back, "--net", net).exit_code == 0
    found = read_weights(back)
    np.testing.assert_array_equal(found.layers["a"][0], found.layers["b"][0])
    assert found.name == "small"
    assert found.types["conv"] == "Convolution"


def varint(number: int) -> bytes:
    made = b""
    while number >= 128:
        made += bytes([number % 128 + 128])
        number //= 128
    return made + bytes([number])


def part(number: int, data: bytes) -> bytes:
    """A field of bytes, as protobuf writes it."""
    return varint(number * 8 + 2) + varint(len(data)) + data


def old_blob(array: np.ndarray) -> bytes:
    """num, channels, height, width and data, as Caffe wrote blobs before 2015."""
    sizes = (1,) * (4 - array.ndim) + array.shape
    numbers = b"".join(varint(8 * (i + 1)) + varint(size) for i, size in enumerate(sizes))
    return numbers + part(5, array.astype("<f4").tobytes())


def old_file(path: Path, kind: int, *arrays: np.ndarray) -> None:
    """A V1 layer `fc` (name 4, type 5, blobs 6) in a NetParameter (name 1, layers 2)."""
    layer = part(4, b"fc") + varint(5 * 8) + varint(kind)
    layer += b"".join(part(6, old_blob(array)) for array in arrays)
    path.write_bytes(part(1, b"old") + part(2, layer))


def test_old_files_get_shapes_of_today(tmp_path: Path) -> None:
    matrix, vector = np.arange(6.0).reshape(2, 3), np.arange(2.0)
    inner_product = 14
    old_file(tmp_path / "old.caffemodel", inner_product, matrix, vector)
    made = convert(tmp_path / "old.caffemodel", tmp_path / "new.caffemodel")
    assert made.shapes == {"fc/0": (2, 3), "fc/1": (2,)}
    found = read_weights(tmp_path / "new.caffemodel")
    assert found.types["fc"] == "InnerProduct"
    assert not found.blobs["fc"][0].legacy
    np.testing.assert_array_equal(found.layers["fc"][0], matrix)


def test_an_old_shape_that_may_mean_two_things_is_refused(tmp_path: Path) -> None:
    old_file(tmp_path / "old.caffemodel", 0, np.ones((2, 3)))
    result = graphc("convert", tmp_path / "old.caffemodel", tmp_path / "new.h5")
    assert result.exit_code == 3
    assert "--net" in result.stderr
    assert not (tmp_path / "new.h5").exists()


def test_arrays(tmp_path: Path) -> None:
    mean = np.random.default_rng(0).standard_normal((1, 3, 4, 4)).astype("float32")
    np.save(tmp_path / "mean.npy", mean)
    stored, back = tmp_path / "mean.binaryproto", tmp_path / "back.npy"
    assert graphc("convert", tmp_path / "mean.npy", stored).exit_code == 0
    np.testing.assert_array_equal(read_blob(stored), mean)
    assert graphc("convert", stored, back).exit_code == 0
    np.testing.assert_array_equal(np.load(back), mean)


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("net.caffemodel", "net.npy", "cannot become"),
        ("net.caffemodel", "net.txt", "does not end as a file that can be converted"),
        ("absent.caffemodel", "net.h5", "cannot read"),
        ("absent.h5", "net.caffemodel", "cannot read"),
        ("net.caffemodel", "absent/net.h5", "there is no folder"),
        ("text.caffemodel", "net.h5", "it looks like text"),
        ("text.h5", "net.caffemodel", "no HDF5 file"),
    ],
)
def test_what_cannot_be_converted(
    weights: Path, tmp_path: Path, source: str, target: str, said: str
) -> None:
    for name in ("text.caffemodel", "text.h5"):
        (tmp_path / name).write_text("name: 'text'\n")
    before = sorted(path.name for path in tmp_path.iterdir())
    result = graphc("convert", tmp_path / source, tmp_path / target)
    assert result.exit_code == 3, result.output
    assert said in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_weights_must_fit_the_net(weights: Path, net: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.prototxt"
    other.write_text(NET.replace("num_output: 3", "num_output: 4"))
    result = graphc("convert", weights, tmp_path / "net.h5", "--net", other)
    assert result.exit_code == 3
    assert "layer 'conv'" in result.stderr
    other.write_text(NET.replace('name: "conv"', 'name: "first"'))
    result = graphc("convert", weights, tmp_path / "net.h5", "--net", other)
    assert result.exit_code == 3
    assert "no parameters for first/0" in result.stderr


def test_upgrade_prints_the_current_format(tmp_path: Path) -> None:
    old = tmp_path / "old.prototxt"
    old.write_text(OLD)
    printed = graphc("upgrade", old)
    assert printed.exit_code == 0, printed.output
    assert 'type: "Convolution"' in printed.stdout
    assert "layers" not in printed.stdout
    assert "comments" in printed.stderr
    new = tmp_path / "new.prototxt"
    written = graphc("upgrade", old, "-o", new)
    assert (written.exit_code, written.stdout) == (0, "")
    assert new.read_text() == printed.stdout
    again = graphc("upgrade", new)
    assert again.stdout == printed.stdout
    assert again.stderr == ""
    x = np.random.default_rng(0).standard_normal((1, 2, 4, 4))
    results = [package.Net(path, weights="random:2").forward(data=x)["conv"] for path in (old, new)]
    np.testing.assert_array_equal(*results)


def test_a_hash_inside_quotes_is_no_comment(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text('name: "a # b"\nlayer { name: "r" type: "Silence" }\n')
    assert graphc("upgrade", path).stderr == ""


def test_upgrade_reports_mistakes_in_their_place(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text('layers { name: "a" type: RELUX }\n')
    result = graphc("upgrade", path, "-o", tmp_path / "new.prototxt")
    assert result.exit_code == 3
    assert "net.prototxt:1:" in result.stderr
    assert not (tmp_path / "new.prototxt").exists()


# -- the layout of Caffe before 2015 ---------------------------------------------------------------


def test_v1_is_what_an_old_caffe_expects(weights: Path, net: Path, tmp_path: Path) -> None:
    """Type numbers and four extents, read back by protobuf and by our own reader."""
    old = tmp_path / "old.caffemodel"
    made = graphc("convert", weights, old, "--layout", "v1")
    assert made.exit_code == 0, made.output
    message = schema.message_class("NetParameter").FromString(old.read_bytes())
    assert (message.name, len(message.layer)) == ("small", 0)
    assert [(layer.name, layer.type) for layer in message.layers] == [
        ("conv", 4),  # CONVOLUTION
        ("a", 14),  # INNER_PRODUCT
        ("b", 14),
    ]
    extents = [
        [(blob.num, blob.channels, blob.height, blob.width) for blob in layer.blobs]
        for layer in message.layers
    ]
    assert extents == [[(3, 2, 2, 2), (1, 1, 1, 3)], [(1, 1, 2, 27)], [(1, 1, 2, 27)]]
    assert not any(blob.HasField("shape") for layer in message.layers for blob in layer.blobs)
    x = np.random.default_rng(0).standard_normal((1, 2, 4, 4))
    first, second = (package.Net(net, weights=path).forward(data=x)["a"] for path in (weights, old))
    np.testing.assert_array_equal(first, second)
    back = tmp_path / "back.caffemodel"
    assert graphc("convert", old, back).exit_code == 0
    assert back.read_bytes() == weights.read_bytes()


def test_v1_has_no_type_for_every_layer(tmp_path: Path) -> None:
    arrays = {"relu": [], "input": [], "norm": [np.ones(2)], "x": [np.ones((1, 1, 1, 1, 1))]}
    types = {"relu": "ReLU", "input": "Input", "norm": "BatchNorm", "x": "Convolution"}
    write_weights(tmp_path / "new.caffemodel", "n", {**arrays, "y": [np.ones(2)]}, types)
    result = graphc("convert", tmp_path / "new.caffemodel", tmp_path / "v1.caffemodel", *V1)
    assert result.exit_code == 3
    for said in (
        "layer 'norm' is of type BatchNorm, which v1 does not have",
        "parameter 0 of layer 'x' has shape 1 x 1 x 1 x 1 x 1, and v1 holds four axes at most",
        "the type of layer 'y' is not known",
    ):
        assert said in result.stderr
    assert not (tmp_path / "v1.caffemodel").exists()
    write_weights(tmp_path / "new.caffemodel", "n", {"relu": [], "input": []}, types)
    made = graphc("convert", tmp_path / "new.caffemodel", tmp_path / "v1.caffemodel", *V1)
    assert made.exit_code == 0, made.output
    assert read_weights(tmp_path / "v1.caffemodel").types == {"relu": "ReLU"}


def test_v1_from_hdf5_needs_the_net(weights: Path, net: Path, tmp_path: Path) -> None:
    """HDF5 files hold no types."""
    stored, old = tmp_path / "net.h5", tmp_path / "old.caffemodel"
    assert graphc("convert", weights, stored).exit_code == 0
    refused = graphc("convert", stored, old, *V1)
    assert refused.exit_code == 3
    assert "give the definition with --net" in refused.stderr
    assert graphc("convert", stored, old, *V1, "--net", net).exit_code == 0
    assert read_weights(old).types["conv"] == "Convolution"
    assert graphc("convert", weights, stored, *V1).exit_code == 3


def test_upgrade_takes_weights_too(weights: Path, tmp_path: Path) -> None:
    old, new = tmp_path / "old.caffemodel", tmp_path / "new.caffemodel"
    convert(weights, old, layout="v1")
    assert graphc("upgrade", old).exit_code == 2
    assert graphc("upgrade", old, "-o", new).exit_code == 0
    assert new.read_bytes() == weights.read_bytes()
