"""Weight files and blobs: read as Caffe wrote them, refused clearly where damaged, written back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import cases_folder
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.error import NetError
from graphc.frontends.caffe import schema
from graphc.frontends.caffe.caffemodel import read_blob, read_weights
from graphc.frontends.caffe.caffemodel_writer import write_weights

FILES = cases_folder() / "caffe" / "files"
MODELS = sorted(FILES.glob("*.caffemodel"))


def arrays_of(model: Path) -> dict[str, np.ndarray]:
    """The parameters that Caffe says a weight file holds, by `LAYER/INDEX`."""
    stem = model.name.split(".")[0].split("_iter_")[0]
    with np.load(FILES / f"{stem}.npz", allow_pickle=False) as file:
        kinds = ("param/", "param@3/")
        return {key.split("/", 1)[1]: file[key] for key in file.files if key.startswith(kinds)}


def saved(path: Path, net: Any) -> Path:
    path.write_bytes(net.SerializeToString())
    return path


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.name)
def test_files_that_caffe_wrote(model: Path) -> None:
    weights = read_weights(model)
    wanted = arrays_of(model)
    shapes: dict[str, list[tuple[int, ...]]] = {}
    for key in sorted(wanted):
        shapes.setdefault(key.rsplit("/", 1)[0], []).append(wanted[key].shape)
    for layer, its_shapes in shapes.items():
        # A parameter that shares another's memory is in the file, though not in the case.
        got = weights.layers[layer]
        if len(got) == len(its_shapes):
            got = weights.fitted(layer, its_shapes)
        for key in (k for k in wanted if k.startswith(f"{layer}/")):
            np.testing.assert_array_equal(got[int(key.rsplit("/", 1)[1])], wanted[key])
    assert weights.types[next(iter(shapes))] in ("Convolution", "InnerProduct")


def test_mean_images_and_matrices() -> None:
    found = sorted(FILES.glob("*.binaryproto"))
    for path in found:
        with np.load(path.with_suffix(".npz"), allow_pickle=False) as file:
            assert json.loads(str(file["meta"]))["kind"] == "mean"
            got = read_blob(path)
            np.testing.assert_array_equal(got.reshape(file["mean"].shape), file["mean"])
    if not found:
        pytest.skip("the small set of cases holds no binaryproto")


def test_what_is_written_is_what_protobuf_reads(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    layers = {
        "conv": [generator.standard_normal((4, 3, 2, 2)).astype("f4"), np.zeros(4, "f4")],
        "scalar": [np.float32(3)],
        "empty": [],
        "strided": [np.arange(6.0).reshape(2, 3).T],
    }
    path = tmp_path / "net.caffemodel"
    path.write_bytes(b"an older file")
    write_weights(path, "n\u00e4me", layers, {"conv": "Convolution"})
    assert list(tmp_path.iterdir()) == [path]
    net: Any = schema.message_class("NetParameter").FromString(path.read_bytes())
    assert net.name == "n\u00e4me"
    assert [layer.name for layer in net.layer] == list(layers)
    assert net.layer[0].type == "Convolution"
    for layer in net.layer:
        for blob, array in zip(layer.blobs, layers[layer.name], strict=True):
            assert tuple(blob.shape.dim) == np.shape(array)
            is_double = np.asarray(array).dtype == np.float64
            numbers, none = blob.data, blob.double_data
            if is_double:
                numbers, none = none, numbers
            np.testing.assert_array_equal(np.array(numbers), np.ravel(array))
            assert not none
    again = read_weights(path)
    assert (again.name, again.types["conv"]) == ("n\u00e4me", "Convolution")
    for name, arrays in layers.items():
        for got, array in zip(again.layers[name], arrays, strict=True):
            np.testing.assert_array_equal(got, array)


def test_all_layouts_that_protobuf_can_write(tmp_path: Path) -> None:
    net: Any = schema.message_class("NetParameter")()
    older = net.layers.add(name="a", type=4)
    older.blobs.add(num=1, channels=1, height=2, width=3, data=range(6))
    older.blobs.add(double_data=[1, 2.5]).shape.dim.append(2)
    oldest = net.layers.add().layer
    oldest.name = "b"
    oldest.blobs.add(num=1, channels=1, height=1, width=4, data=range(4), diff=range(4))
    weights = read_weights(saved(tmp_path / "old.caffemodel", net))
    matrix, vector = weights.fitted("a", [(2, 3), (2,)])
    np.testing.assert_array_equal(matrix, [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(vector, np.float32([1, 2.5]))
    assert (matrix.dtype, vector.dtype) == (np.float32, np.float64)
    assert weights.layers["b"][0].shape == (1, 1, 1, 4)
    np.testing.assert_array_equal(weights.fitted("b", [(4,)])[0], [0, 1, 2, 3])
    # Data need not be packed: field 5, kind 5, once a number.
    single = b"\x2d\0\0\x80\x3f" * 2 + b"\x3a\x02\x08\x02"
    path = tmp_path / "single.binaryproto"
    path.write_bytes(single)
    np.testing.assert_array_equal(read_blob(path), [1, 1])


def test_shapes_fit_by_caffes_rule(tmp_path: Path) -> None:
    net: Any = schema.message_class("NetParameter")()
    layer = net.layer.add(name="ip")
    layer.blobs.add(data=range(6)).shape.dim.extend([1, 1, 2, 3])
    weights = read_weights(saved(tmp_path / "net.caffemodel", net))
    assert weights.blobs["ip"][0].fits((1, 1, 2, 3))
    # Only the four numbers of old files stand for shorter shapes.
    with pytest.raises(NetError, match=r"parameter 0 .* 2 x 3, .* holds 1 x 1 x 2 x 3"):
        weights.fitted("ip", [(2, 3)])
    with pytest.raises(NetError, match=r"has 2 parameters, .* holds 1"):
        weights.fitted("ip", [(2, 3), (2,)])
    with pytest.raises(NetError, match="has no layer 'fc'"):
        weights.fitted("fc", [])


def blob_file(path: Path, dims: list[int], values: int = 2, **legacy: int) -> Path:
    blob: Any = schema.message_class("BlobProto")(data=[0.0] * values, **legacy)
    blob.shape.dim.extend(dims)
    return saved(path, blob)


@pytest.mark.parametrize(
    ("dims", "legacy", "reason"),
    [
        ([3], {}, "shape 3, which is 3 values, and holds 2"),
        ([1 << 40, 1 << 40], {}, "1099511627776 x 1099511627776"),
        ([-2, -1], {}, "negative shape -2 x -1"),
        ([2], {"num": 2, "width": 1}, "shape 2 x 0 x 0 x 1"),
        ([1] * 100 + [2], {}, "101 axes"),
    ],
)
def test_blobs_that_lie_about_their_shape(
    tmp_path: Path, dims: list[int], legacy: dict[str, int], reason: str
) -> None:
    path = blob_file(tmp_path / "x.binaryproto", dims, **legacy)
    with pytest.raises(NetError, match=reason) as caught:
        read_blob(path)
    assert str(path) in str(caught.value)


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    path = tmp_path / "x.caffemodel"
    contents = {
        b"": "holds no layers",
        b"name: 'a net'\n": "it looks like text",
        b"\x89HDF\r\n\x1a\n": "HDF5",
        b"\xff" * 40: "a number of more than 10 bytes",
        b"\x0b": "unknown kind of field",
        b"\x00\x01": "a field without a number",
    }
    for content, reason in contents.items():
        path.write_bytes(content)
        with pytest.raises(NetError, match=reason):
            read_weights(path)
    with pytest.raises(NetError, match="No such file"):
        read_weights(tmp_path / "none")
    with pytest.raises(NetError, match="cannot write"):
        write_weights(tmp_path / "none" / "x", "n", {})


def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.caffemodel"
    write_weights(path, "net", {"fc": [np.ones((3, 4), "f4"), np.ones(3, "f4")]})
    whole = path.read_bytes()
    only_name = len(b"\x0a\x03net")
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(
            NetError, match="holds no layers" if size in (0, only_name) else "end|follow"
        ):
            read_weights(path)


def test_a_failed_write_leaves_the_older_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.caffemodel"
    path.write_bytes(b"older")

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(NetError, match="No space left"):
        write_weights(path, "net", {"fc": [np.ones(3, "f4")]})
    assert [p.name for p in tmp_path.iterdir()] == ["x.caffemodel"]
    assert path.read_bytes() == b"older"


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_bytes_are_never_a_crash(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    net: Any = schema.message_class("NetParameter")(name="n")
    layer = net.layer.add(name="fc")
    layer.blobs.add(data=range(3)).shape.dim.append(3)
    content = bytearray(net.SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.caffemodel"
    path.write_bytes(content)
    for read in (read_weights, read_blob):
        try:
            read(path)
        except NetError as error:
            assert str(path) in str(error)
