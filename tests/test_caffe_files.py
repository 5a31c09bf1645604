"""Files that Caffe wrote: weights in all its layouts, and mean images; and ours read back."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import cases_folder

import graphc
from graphc.error import NetError
from graphc.frontends.caffe.caffemodel import read_blob
from graphc.frontends.caffe.caffemodel_writer import write_blob
from graphc.frontends.caffe.hdf5 import hdf5_shapes, read_hdf5_arrays, read_hdf5_weights

FOLDER = cases_folder() / "caffe" / "files"


def read(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    return json.loads(str(arrays.pop("meta"))), arrays


def weight_files() -> list[Any]:
    found = []
    for path in sorted(FOLDER.glob("*.npz")):
        meta, _ = read(path.stem)
        if meta["kind"] == "weights":
            found += [pytest.param(path.stem, file, id=file) for file in meta["files"]]
    return found


def make_net(name: str, weights: Path | None = None) -> graphc.Net:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", graphc.NetWarning)
        return graphc.Net(FOLDER / f"{name}.prototxt", weights=weights, threads=1)


def check(name: str, net: graphc.Net) -> None:
    """The parameters to the bit, and a forward pass with them."""
    meta, arrays = read(name)
    for key, wanted in arrays.items():
        kind, _, rest = key.partition("/")
        if kind == "param":
            layer, _, index = rest.rpartition("/")
            np.testing.assert_array_equal(net.params[layer][int(index)].data, wanted)
    inputs = {key[3:]: value for key, value in arrays.items() if key.startswith("in/")}
    outputs = net.forward(**inputs)
    for key, wanted in arrays.items():
        if key.startswith("out/"):
            limit = meta["tolerance"]["atol"] + meta["tolerance"]["rtol"] * np.abs(wanted).max()
            np.testing.assert_allclose(outputs[key[4:]], wanted, rtol=0, atol=limit)


@pytest.mark.parametrize(("name", "file"), weight_files())
def test_weights_of_caffe(name: str, file: str) -> None:
    check(name, make_net(name, FOLDER / file))


@pytest.mark.parametrize(("name", "file"), weight_files())
def test_copy_from(name: str, file: str) -> None:
    net = make_net(name)
    net.copy_from(FOLDER / file)
    check(name, net)


@pytest.mark.parametrize("ending", [".caffemodel", ".caffemodel.h5"])
@pytest.mark.parametrize("name", ["weights_small", "weights_bn_shared"])
def test_saved_weights_come_back(name: str, ending: str, tmp_path: Path) -> None:
    net = make_net(name, FOLDER / f"{name}.caffemodel")
    path = tmp_path / f"saved{ending}"
    net.save(path)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    check(name, make_net(name, path))


@pytest.mark.parametrize("name", ["weights_small", "weights_bn_shared"])
def test_saved_hdf5_is_laid_out_as_caffe_does(name: str, tmp_path: Path) -> None:
    make_net(name, FOLDER / f"{name}.caffemodel").save(tmp_path / "saved.h5")
    with (
        h5py.File(tmp_path / "saved.h5") as ours,
        h5py.File(FOLDER / f"{name}.caffemodel.h5") as theirs,
    ):
        wanted = datasets(theirs)
        assert datasets(ours).keys() == wanted.keys()
        for key, array in datasets(ours).items():
            assert array.dtype == np.float32
            np.testing.assert_array_equal(array, wanted[key])
        # Caffe's own net has the splits it inserts besides.
        assert set(ours["data"]) == {key for key in theirs["data"] if not key.endswith("_split")}


def datasets(file: h5py.File) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    file.visititems(
        lambda key, item: found.update({key: item[()]}) if isinstance(item, h5py.Dataset) else None
    )
    return found


def test_hdf5_that_does_not_fit_is_refused_and_nothing_loaded(tmp_path: Path) -> None:
    net = make_net("weights_small", FOLDER / "weights_small.caffemodel")
    path = tmp_path / "other.h5"
    net.save(path)
    with h5py.File(path, "r+") as file:
        del file["data/conv1/1"]
        del file["data/fc1/0"]
        file["data/fc1/0"] = np.zeros((2, 2), np.float32)
        file["data/conv1/0"][...] = 7
    before = net.params["conv1"][0].data.copy()
    with pytest.raises(NetError) as raised:
        net.copy_from(path)
    assert "lacks parameter 1 of 'conv1'" in str(raised.value)
    assert "[6, 36]" in str(raised.value)
    assert "[2, 2]" in str(raised.value)
    np.testing.assert_array_equal(net.params["conv1"][0].data, before)


def test_damaged_hdf5_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.caffemodel.h5"
    path.write_bytes((FOLDER / "weights_small.caffemodel.h5").read_bytes()[:1000])
    with pytest.raises(NetError, match=r"cut\.caffemodel\.h5"):
        make_net("weights_small", path)


def test_mean_image(tmp_path: Path) -> None:
    _, arrays = read("mean_3x8x8")
    mean = read_blob(FOLDER / "mean_3x8x8.binaryproto")
    np.testing.assert_array_equal(mean.reshape(arrays["mean"].shape), arrays["mean"])
    write_blob(tmp_path / "again.binaryproto", mean)
    again = read_blob(tmp_path / "again.binaryproto")
    assert again.shape == mean.shape
    np.testing.assert_array_equal(again, mean)


def odd_hdf5(path: Path, kind: str) -> Path:
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        if kind == "a name of bytes":
            data.create_group(b"c\xff").create_dataset("0", data=np.ones(3, "f4"))
        elif kind == "a dangling link":
            file["x"] = h5py.SoftLink("/nowhere")
            data["c"] = h5py.SoftLink("/nowhere")
        elif kind == "no values":
            for group in (file, data.create_group("c")):
                group.create_dataset("x" if group is file else "0", dtype="f4")
        else:
            for group in (file, data.create_group("c")):
                shape = (1 << 31, 1 << 24)
                name = "x" if group is file else "0"
                group.create_dataset(name, shape, "f4", chunks=(1, 1024))
    return path


@pytest.mark.parametrize("kind", ["a name of bytes", "a dangling link", "no values", "huge"])
def test_odd_hdf5_is_refused(kind: str, tmp_path: Path) -> None:
    path = odd_hdf5(tmp_path / "odd.caffemodel.h5", kind)
    if kind != "a dangling link":  # which visiting leaves out
        with pytest.raises(NetError, match=r"odd\.caffemodel\.h5"):
            read_hdf5_weights(path)
    if kind != "a name of bytes":
        with pytest.raises(NetError, match=r"odd\.caffemodel\.h5"):
            read_hdf5_arrays(path, ["x"])
    if kind == "a dangling link":
        assert hdf5_shapes(path) == {}
