"""Data layers that bring their own data: files, databases, random numbers."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import cases_folder
from test_cli_options import graphc as run_graphc

import graphc
from graphc.error import NetError
from graphc.frontends.caffe import schema
from graphc.frontends.caffe.caffemodel_writer import write_blob
from graphc.sources.hdf5 import Hdf5Rows

FILES = cases_folder() / "caffe" / "files"
SERVED = sorted(
    path
    for kind in ("hdf5_*.npz", "lmdb_*.npz")
    for path in FILES.glob(kind)
    if path.with_suffix(".prototxt").is_file()
)


def make(source: str | Path, **options: Any) -> graphc.Net:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", graphc.NetWarning)
        return graphc.Net(source, threads=1, **options)


@pytest.mark.parametrize("path", SERVED, ids=lambda path: path.stem)
def test_batches_are_those_that_caffe_serves(path: Path) -> None:
    if path.stem.startswith("lmdb"):
        pytest.importorskip("lmdb", reason="an LMDB database is read by the module lmdb")
    with np.load(path, allow_pickle=False) as file:
        meta = json.loads(str(file["meta"]))
        wanted = {name: file[name] for name in file.files if name.startswith("out@")}
    net = make(path.with_suffix(".prototxt"), phase=meta["phase"])
    passes = 1 + max(int(name[4 : name.index("/")]) for name in wanted)
    for number in range(passes):
        results = net.forward()
        for top in meta.get("outputs", ["data", "label"]):
            tolerance = {"rtol": meta["tolerance"]["rtol"], "atol": meta["tolerance"]["atol"]}
            np.testing.assert_allclose(results[top], wanted[f"out@{number}/{top}"], **tolerance)


# -- who serves, and when --------------------------------------------------------------------------


def hdf5_net(folder: Path, counts: tuple[int, ...] = (3, 2), rest: str = "") -> Path:
    """Files whose rows are numbered through, and a net that reads two at a time."""
    h5py = pytest.importorskip("h5py")
    first = 0
    for number, count in enumerate(counts):
        with h5py.File(folder / f"{number}.h5", "w") as file:
            file["data"] = np.arange(first, first + count, dtype=np.float32).reshape(count, 1)
        first += count
    (folder / "list.txt").write_text("".join(f"{number}.h5\n" for number in range(len(counts))))
    path = folder / "net.prototxt"
    path.write_text(
        'layer { name: "d" type: "HDF5Data" top: "data" hdf5_data_param'
        f' {{ source: "list.txt" batch_size: 2 {rest} }} }}\n'
        'layer { name: "p" type: "Power" bottom: "data" top: "y" power_param { scale: 10 } }\n'
    )
    return path


def test_a_batch_is_served_where_no_value_is_given(tmp_path: Path) -> None:
    net = make(hdf5_net(tmp_path))
    served = [net.forward()["y"][:, 0].tolist() for _ in range(3)]
    assert served == [[0, 10], [20, 30], [40, 0]]
    given = net.forward(data=np.array([[7.0], [8.0]]))
    assert given["y"][:, 0].tolist() == [70, 80]
    assert net.forward()["y"][:, 0].tolist() == [10, 20]
    net.set_inputs({"data": np.array([[5.0], [6.0]])})
    assert net.forward()["y"][:, 0].tolist() == [50, 60]
    assert net.forward(end="p")["y"][:, 0].tolist() == [30, 40]


def test_backward_belongs_to_the_batch_of_forward(tmp_path: Path) -> None:
    path = hdf5_net(tmp_path)
    path.write_text(
        path.read_text() + 'layer { name: "s" type: "Reduction" bottom: "y" top: "s" loss_weight: 1'
        " reduction_param { operation: SUMSQ } }\n"
    )
    net = make(path)
    net.forward()
    first = net.backward(wrt=["data"])["data"][:, 0]  # compiles, and runs forward once more
    np.testing.assert_allclose(first, [0, 200])
    np.testing.assert_allclose(net.backward(wrt=["data", "y"])["data"][:, 0], [0, 200])
    np.testing.assert_allclose(
        net.forward_backward(wrt=["data"])["data"][:, 0], np.array([2, 3]) * 200
    )


def test_another_batch_size(tmp_path: Path) -> None:
    net = make(hdf5_net(tmp_path))
    net.blobs["data"].reshape(4, 1)
    assert net.forward()["y"][:, 0].tolist() == [0, 10, 20, 30]


def test_shuffled_rows_are_all_served_once_a_round(tmp_path: Path) -> None:
    path = hdf5_net(tmp_path, (4, 6), "shuffle: true")
    nets = [make(path, seed=seed) for seed in (1, 1, 2)]
    rounds = [[net.forward()["y"][:, 0] / 10 for _ in range(10)] for net in nets]
    first, same, other = (np.concatenate(parts) for parts in rounds)
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()
    for half in (first[:10], first[10:]):
        assert sorted(half) == list(range(10))
    assert (first[:10] != first[10:]).any()
    for half in (first[:10], first[10:]):  # a file's rows stay together
        assert {tuple(sorted(half[:4])), tuple(sorted(half[-4:]))} & {(0, 1, 2, 3)}


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    net = make(hdf5_net(tmp_path))
    with h5py.File(tmp_path / "1.h5", "w") as file:
        file["data"] = np.ones((2, 3))
    net.forward()
    with pytest.raises(NetError, match=r"not alike: \[1\] and \[3\]"):
        net.forward()
    with h5py.File(tmp_path / "2.h5", "w") as file:
        file["a"], file["b"], file["c"] = np.ones((2, 3)), np.ones(3), np.array([b"x"])
    with pytest.raises(NetError, match=r"as many each: a \[2, 3\], b \[3\]"):
        Hdf5Rows([tmp_path / "2.h5"], ["a", "b"], None).next([(2, 3), (2,)])
    for name in ("c", "d"):
        with pytest.raises(NetError, match=f"no data set '{name}' of numbers"):
            Hdf5Rows([tmp_path / "2.h5"], [name], None).next([(1,)])


def test_the_command_line_takes_the_first_batch(tmp_path: Path) -> None:
    shown = run_graphc("run", hdf5_net(tmp_path), "--json")
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)["outputs"]["y"]["max"] == 10


# -- DummyData -------------------------------------------------------------------------------------

FILLERS = (
    'type: "gaussian" mean: 2 std: 3',
    'type: "uniform" min: 4 max: 5',
    'type: "xavier"',
    'type: "msra"',
    'type: "positive_unitball"',
)


def dummy(*fillers: str, dims: str = "dim: 40 dim: 50") -> str:
    tops = " ".join(f'top: "t{number}"' for number in range(len(fillers)))
    given = " ".join(f"data_filler {{ {filler} }}" for filler in fillers)
    return (
        f'layer {{ name: "d" type: "DummyData" {tops} dummy_data_param'
        f" {{ shape {{ {dims} }} {given} }} }}"
    )


def test_random_dummy_data_is_new_at_every_pass() -> None:
    text = dummy(*FILLERS)
    first, same, other = (make(text, seed=seed) for seed in (3, 3, 4))
    before: dict[str, np.ndarray] = {}
    for _ in range(2):
        tops, equal, unlike = (
            {k: v.copy() for k, v in n.forward().items()} for n in (first, same, other)
        )
        for name, array in tops.items():
            np.testing.assert_array_equal(array, equal[name])
            assert (array != unlike[name]).any()
            assert name not in before or (array != before[name]).any()
        before = tops
    normal, even, xavier, msra, rows = (before[f"t{number}"] for number in range(5))
    assert abs(normal.mean() - 2) < 0.3
    assert abs(normal.std() - 3) < 0.3
    assert 4 <= even.min() < 4.1 < 4.9 < even.max() <= 5
    bound = np.sqrt(3 / 50)
    assert 0.95 * bound < np.abs(xavier).max() <= bound
    assert abs(msra.std() - np.sqrt(2 / 50)) < 0.02
    np.testing.assert_allclose(rows.sum(axis=1), 1, rtol=1e-5)


def test_constant_dummy_data_is_no_input() -> None:
    net = make(
        dummy(
            'type: "constant" value: 3',
            'type: "bilinear"',
            FILLERS[1],
            dims="dim: 1 " * 2 + "dim: 4 dim: 4",
        )
    )
    assert net.inputs == ["t2"]
    results = net.forward()
    assert (results["t0"] == 3).all()
    assert results["t1"][0, 0, 0, 0] == pytest.approx(1 / 16)


def test_old_extents_of_dummy_data_are_given_once_or_once_a_top() -> None:
    text = (
        'layer { name: "d" type: "DummyData" top: "a" top: "b" dummy_data_param'
        " { num: 2 num: 3 channels: 4 height: 1 width: 5 width: 6 FIELDS } }"
    )
    results = make(text.replace("FIELDS", "")).forward()
    assert (results["a"].shape, results["b"].shape) == ((2, 4, 1, 5), (3, 4, 1, 6))
    with pytest.raises(NetError, match="not both"):
        make(text.replace("FIELDS", "shape { dim: 1 }"))
    with pytest.raises(NetError, match="width is given 3 times for 2 tops"):
        make(text.replace("FIELDS", "width: 7"))


def test_dummy_data_goes_through_the_net_and_back() -> None:
    """The gradient belongs to the numbers that forward drew."""
    text = dummy(FILLERS[0]) + (
        'layer { name: "f" type: "InnerProduct" bottom: "t0" top: "f" inner_product_param'
        ' { num_output: 3 weight_filler { type: "xavier" } } }\n'
        'layer { name: "l" type: "Reduction" bottom: "f" top: "l" loss_weight: 1 }\n'
    )
    net = make(text)
    net.forward()
    net.backward()
    x = net.blobs["t0"].data
    wanted = np.broadcast_to(x.sum(axis=0), (3, 50))
    np.testing.assert_allclose(net.params["f"][0].diff, wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("fillers", "message"),
    [
        (('type: "normal"',), "unknown filler type 'normal'"),
        (('type: "bilinear"',), "bilinear needs a square 4-d blob"),
        (('type: "gaussian" std: 0',), "'std' must be positive"),
    ],
)
def test_fillers_that_cannot_be(fillers: tuple[str, ...], message: str) -> None:
    with pytest.raises(NetError, match=message):
        make(dummy(*fillers))


# -- images ----------------------------------------------------------------------------------------


def database(folder: Path, images: np.ndarray, encode: bool = False) -> None:
    """An LMDB database of these images [N, C, H, W], labels 0, 1, ..."""
    lmdb = pytest.importorskip("lmdb", reason="an LMDB database is written by the module lmdb")
    datum = schema.message_class("Datum")
    with lmdb.open(str(folder)) as made, made.begin(write=True) as transaction:
        for label, image in enumerate(images):
            channels, height, width = image.shape
            record = datum(channels=channels, height=height, width=width, label=label)
            record.encoded = encode
            if encode:
                picture = pytest.importorskip("PIL.Image").fromarray(image[::-1].transpose(1, 2, 0))
                held = io.BytesIO()
                picture.save(held, "png")
                record.data = held.getvalue()
            else:
                record.data = image.tobytes()
            transaction.put(f"{label:08}".encode(), record.SerializeToString())


def data_net(folder: Path, transform: str) -> Path:
    path = folder / "net.prototxt"
    path.write_text(
        'layer { name: "d" type: "Data" top: "data" top: "label" data_param'
        ' { source: "db" backend: LMDB batch_size: 4 }'
        f" transform_param {{ {transform} }} }}"
    )
    return path


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def test_an_image_loses_its_mean_and_its_edges(tmp_path: Path) -> None:
    images = drawn(4, 3, 7, 9)
    database(tmp_path / "db", images)
    mean = np.random.default_rng(1).standard_normal((1, 3, 7, 9)).astype(np.float32)
    write_blob(tmp_path / "mean.binaryproto", mean)
    net = make(data_net(tmp_path, 'mean_file: "mean.binaryproto" crop_size: 4 scale: 0.5'))
    results = net.forward()
    wanted = ((images - mean) * np.float32(0.5))[:, :, 1:5, 2:6]
    np.testing.assert_allclose(results["data"], wanted, rtol=1e-6)
    assert results["label"].tolist() == [0, 1, 2, 3]
    net = make(data_net(tmp_path, "mean_value: 1 mean_value: 2 mean_value: 3"))
    wanted = images - np.array([1, 2, 3], np.float32)[:, np.newaxis, np.newaxis]
    np.testing.assert_array_equal(net.forward()["data"], wanted)


def test_crops_and_mirrors_at_random(tmp_path: Path) -> None:
    images = drawn(4, 1, 6, 6)
    database(tmp_path / "db", images)
    net = make(data_net(tmp_path, "crop_size: 4 mirror: true"), phase=graphc.TRAIN)
    seen = set()
    for _ in range(50):
        for image, served in zip(images, net.forward()["data"], strict=True):
            places = [
                (top, left, flip)
                for top in range(3)
                for left in range(3)
                for flip in (1, -1)
                if (image[0, top : top + 4, left : left + 4][:, ::flip] == served[0]).all()
            ]
            assert len(places) == 1
            seen.update(places)
    assert len(seen) == 18


def test_encoded_images(tmp_path: Path) -> None:
    images = drawn(4, 3, 5, 5)
    database(tmp_path / "db", images, encode=True)
    net = make(data_net(tmp_path, "crop_size: 3"))
    np.testing.assert_array_equal(net.forward()["data"], images[:, :, 1:4, 1:4])
    whole = make(data_net(tmp_path, ""))  # the first of them tells the size
    np.testing.assert_array_equal(whole.forward()["data"], images)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        ("crop_size: 4 mean_value: 1 mean_value: 2", "2 mean_values; an image has 3 channels"),
        ('mean_file: "mean.binaryproto"', r"mean image is \[3, 7, 7\], an image is \[3, 7, 9\]"),
        ('mean_value: 1 mean_file: "mean.binaryproto"', "mean_file or mean_value, not both"),
    ],
)
def test_transforms_that_do_not_fit(tmp_path: Path, transform: str, message: str) -> None:
    database(tmp_path / "db", drawn(4, 3, 7, 9))
    write_blob(tmp_path / "mean.binaryproto", np.zeros((1, 3, 7, 7), np.float32))
    with pytest.raises(NetError, match=message):
        make(data_net(tmp_path, transform)).forward()


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    database(tmp_path / "db", drawn(4, 3, 7, 9))
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(tmp_path / "db")) as made, made.begin(write=True) as transaction:
        transaction.put(b"00000001", b"\xff\xff")
    with pytest.raises(NetError, match=r"record '00000001' of .* is no Datum"):
        make(data_net(tmp_path, "crop_size: 4")).forward()
    held = (tmp_path / "db" / "data.mdb").read_bytes()
    (tmp_path / "db" / "data.mdb").write_bytes(held[: 3 * 4096])
    with pytest.raises(NetError, match="is cut off"):
        make(data_net(tmp_path, "crop_size: 4"))
    (tmp_path / "db" / "data.mdb").write_bytes(b"not a database" * 1000)
    with pytest.raises(NetError, match="cannot read the database"):
        make(data_net(tmp_path, "crop_size: 4"))


def test_listed_pictures(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pictures = drawn(3, 5, 6, 3)
    for number, picture in enumerate(pictures):
        image.fromarray(picture).save(tmp_path / f"{number} a.png")
    (tmp_path / "list.txt").write_text("0 a.png 5\n\n1 a.png 6\n2 a.png 7\n")
    net = tmp_path / "net.prototxt"
    net.write_text(
        'layer { name: "d" type: "ImageData" top: "data" top: "label" image_data_param'
        ' { source: "list.txt" batch_size: 2 new_height: 5 new_width: 6 } }'
    )
    served = make(net)
    first, second = served.forward()["label"].tolist(), served.forward()
    assert (first, second["label"].tolist()) == ([5, 6], [7, 5])
    bgr = pictures[[2, 0]].transpose(0, 3, 1, 2)[:, ::-1]
    np.testing.assert_array_equal(second["data"], bgr)
    (tmp_path / "list.txt").write_text("0 a.png five\n")
    with pytest.raises(NetError, match=r"list.txt:1: .* is not a file and its label"):
        make(net)
