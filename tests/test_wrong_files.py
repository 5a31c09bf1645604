"""A file that is missing, or that is not what it is taken for: what is said, and the exit code."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_cli_options import graphc as run_graphc

import graphc
from graphc import NetError
from graphc.unreadable import looks_like, unreadable

SAMPLES = Path(__file__).resolve().parent.parent / "samples"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a net, its weights, its solver and a picture."""
    for name in ("digits.prototxt", "digits.caffemodel", "digits_solver.prototxt", "seven.pgm"):
        shutil.copy(SAMPLES / name, tmp_path)
    return tmp_path


# -- what a missing file may have been meant to be ------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (("run", "digits.protoxt"), "digits.prototxt"),
        (("run", "digits.prototxt", "--weights", "digit.caffemodel"), "digits.caffemodel"),
        (("run", "digits.prototxt", "--input", "data=sevn.pgm"), "seven.pgm"),
        (("train", "digit_solver.prototxt"), "digits_solver.prototxt"),
        (("convert", "digts.caffemodel", "out.h5"), "digits.caffemodel"),
    ],
)
def test_a_name_that_is_nearly_right(
    arguments: tuple[str, ...], meant: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    result = run_graphc(*arguments)
    assert result.exit_code == 3, result.output
    assert f"No such file or directory; did you mean '{meant}'?" in result.stderr


def test_a_name_in_another_folder(folder: Path) -> None:
    with pytest.raises(NetError, match=r"digts.prototxt': No such .*; did you mean 'digits.proto"):
        graphc.Net(folder / "digts.prototxt")


def test_nothing_like_it_is_there(folder: Path) -> None:
    with pytest.raises(NetError, match=r"No such file or directory$"):
        graphc.Net(folder / "net.prototxt")  # though all definitions end alike
    with pytest.raises(NetError, match=r"No such file or directory$"):
        graphc.Net(folder / "no" / "digits.prototxt")
    forbidden = unreadable(folder / "digts.prototxt", PermissionError(13, "Permission denied"))
    assert str(forbidden).endswith("Permission denied")


# -- what it is instead ---------------------------------------------------------------------------


STARTS = {
    "a.mat": (b"MATLAB 5.0 MAT-file, Platform", "a MATLAB file"),
    "a.h5": (b"\x89HDF\r\n\x1a\n\0\0", "an HDF5 file"),
    "a.npy": (b"\x93NUMPY\x01\x00", "a .npy file"),
    "a.npz": (b"PK\x03\x04\x14", "a .npz or another zip file"),
    "a.gz": (b"\x1f\x8b\x08", "a file packed by gzip: unpack it"),
    "a.png": (b"\x89PNG\r\n\x1a\n", "a picture"),
    "a.caffemodel": (
        b"version https://git-lfs.github.com/spec/v1\n",
        "what Git LFS puts in a file's place: `git lfs pull` fetches it",
    ),
    "b.caffemodel": (b"<html><body>404", "a web page"),
    "c.caffemodel": (b"name: 'net'\n", "text"),
    "d.caffemodel": (b"\x0a\x03net", "weights: they are given beside the net's prototxt"),
    "a.solverstate": (
        b"\x08\x02\x12",
        "a solver's state: training goes on from it, by --snapshot or restore",
    ),
}


@pytest.mark.parametrize("name", STARTS)
def test_what_it_looks_like(name: str) -> None:
    start, kind = STARTS[name]
    assert looks_like(name, start) == f"; it looks like {kind}"


def test_what_looks_like_nothing() -> None:
    assert looks_like("net", b"\x0a\x03\xff") == ""
    assert looks_like("net", b"") == ""


def test_files_in_each_others_place(folder: Path) -> None:
    net, weights = folder / "digits.prototxt", folder / "digits.caffemodel"
    with pytest.raises(
        NetError, match=r"not UTF-8 text: .*; it looks like weights: they are given"
    ):
        graphc.Net(weights)
    with pytest.raises(NetError, match=r"no Caffe file .*; it looks like text"):
        graphc.Net(net, weights=net)
    with pytest.raises(NetError, match=r"no header of a level 5 file.*; it looks like text"):
        graphc.SimpleNet.load(net)
    mat = folder / "net.mat"
    mat.write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM")
    with pytest.raises(NetError, match=r"no Caffe file .*; it looks like a MATLAB file"):
        graphc.Net(net, weights=mat)


def test_a_damaged_mat_is_not_said_to_be_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "net.mat"
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(100))
    with pytest.raises(NetError) as refused:
        graphc.SimpleNet.load(path)
    assert "looks like" not in str(refused.value)


def test_a_solver_is_no_net_to_upgrade(folder: Path) -> None:
    result = run_graphc("upgrade", folder / "digits_solver.prototxt")
    assert result.exit_code == 3
    assert result.stderr.count("error: ") == 1
    assert "this is the definition of a solver, not of a net" in result.stderr


def test_weights_of_another_net(folder: Path) -> None:
    weights, target = folder / "digits.caffemodel", folder / "out.h5"
    result = run_graphc("convert", weights, target, "--net", SAMPLES / "caffenet.prototxt")
    assert result.exit_code == 3
    assert "conv3/0, conv3/1, conv4/0, conv4/1, conv5/0 and 7 more of" in result.stderr
    assert not target.exists()


# -- data layers -----------------------------------------------------------------------------------

DATA = """layer { name: "d" type: "KIND" top: "data" top: "label" FIELDS }
layer { name: "sum" type: "Reduction" bottom: "data" top: "sum" }
"""


def data_net(folder: Path, kind: str, fields: str) -> Path:
    path = folder / "net.prototxt"
    path.write_text(DATA.replace("KIND", kind).replace("FIELDS", fields))
    return path


def pictures_net(folder: Path, more: str = "") -> Path:
    source = 'source: "list.txt" batch_size: 2'
    return data_net(folder, "ImageData", f"image_data_param {{ {source} {more} }}")


def test_the_first_picture_tells_the_size(folder: Path) -> None:
    pytest.importorskip("PIL")
    (folder / "list.txt").write_text("seven.pgm 7\n")
    read = graphc.Net(pictures_net(folder))
    assert read.blobs["data"].shape == (2, 3, 8, 8)
    read.forward()
    values = np.loadtxt(SAMPLES / "seven.pgm", skiprows=3).reshape(8, 8)
    held = read.blobs["data"].data[1, 2].astype("float64")
    np.testing.assert_allclose(held / held.max(), values / values.max(), atol=1 / 255)
    grey = graphc.Net(pictures_net(folder, "is_color: false"))
    assert grey.blobs["data"].shape == (2, 1, 8, 8)


@pytest.mark.parametrize(
    ("listed", "why"),
    [
        (None, r"cannot read the list of pictures '.*list.txt': No such file or directory"),
        ("no.png 1\n", r"cannot read '.*no.png': No such file or directory"),
        ("digits.prototxt 1\n", r"cannot read '.*digits.prototxt': it is no picture"),
        ("seven.pgm\n", r".*list.txt:1: 'seven.pgm' is not a file and its label"),
        ("\n", r"the list '.*list.txt' names no picture"),
    ],
)
def test_why_no_picture_tells_the_size(listed: str | None, why: str, folder: Path) -> None:
    pytest.importorskip("PIL")
    if listed is not None:
        (folder / "list.txt").write_text(listed)
    with pytest.raises(NetError, match=rf"net.prototxt:1:1: .*shape of its images: {why}") as error:
        graphc.Net(pictures_net(folder))
    assert "--shape data=2,3,224,224, in Python shapes={'data': (2, 3, 224, 224)}" in str(
        error.value
    )


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ('source: "db" backend: LMDB', "there is no LMDB database '.*db'"),
        ('source: "db"', "the backend is LEVELDB, of which graphc reads nothing"),
        ("backend: LMDB", "it names no source"),
    ],
)
def test_why_no_record_tells_the_size(fields: str, why: str, folder: Path) -> None:
    with pytest.raises(NetError, match=rf"shape of its images: {why}"):
        graphc.Net(data_net(folder, "Data", f"data_param {{ {fields} batch_size: 2 }}"))


def test_a_mean_file_that_is_not_there_is_a_reason(folder: Path) -> None:
    fields = 'data_param { batch_size: 2 } transform_param { mean_file: "mean.binaryproto" }'
    with pytest.raises(NetError, match=r"the mean_file '.*mean.binaryproto' is not there"):
        graphc.Net(data_net(folder, "Data", fields))


@pytest.mark.parametrize(
    ("source", "listed", "why"),
    [
        ('source: "list.txt"', None, r":1:\d+: error: .*the list of files '.*': No such file or"),
        ('source: "list.txt"', "\na.h5", r":1:\d+: error: .*list.txt:2: there is no file '.*a.h5'"),
        ("", None, "source must be given"),
    ],
)
def test_lists_of_hdf5_files(source: str, listed: str | None, why: str, folder: Path) -> None:
    if listed is not None:
        (folder / "list.txt").write_text(listed)
    fields = f"hdf5_data_param {{ {source} batch_size: 2 }}"
    with pytest.raises(NetError, match=why):
        graphc.Net(data_net(folder, "HDF5Data", fields))


# -- streams, folders ------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed(closed: str, folder: Path) -> None:
    verb = f"{sys.executable} -m graphc run digits.prototxt --input data=fill:1"
    good = subprocess.run(
        f"{verb} -o out.npy {closed}", shell=True, cwd=folder, capture_output=True, timeout=100
    )
    assert good.returncode == 0
    assert np.load(folder / "out.npy").shape == (1, 10)  # and nothing that was printed
    bad = subprocess.run(f"{verb} --weights no {closed}", shell=True, cwd=folder, timeout=100)
    assert bad.returncode == 3


def test_a_folder_without_permission_is_said_by_its_name(folder: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    folder.chmod(0o555)
    result = run_graphc("compile", folder / "digits.prototxt", "-o", folder / "net.so")
    folder.chmod(0o755)
    assert result.exit_code == 3
    assert f"cannot write '{folder / 'net.so'}': the folder '{folder}' is not" in result.stderr


def test_a_choice_that_is_none() -> None:
    result = run_graphc("show", SAMPLES / "digits.prototxt", "--as", "grap")
    assert result.exit_code == 2
    assert "Invalid value for '--as': 'grap' is not one of" in result.stderr


def test_a_solver_that_cannot_step_is_told_once(folder: Path) -> None:
    solver = folder / "digits_solver.prototxt"
    solver.write_text(solver.read_text().replace('lr_policy: "', 'lr_policy: "un'))
    shutil.copy(SAMPLES / "digits_train.prototxt", folder)
    result = run_graphc("train", solver)
    assert result.exit_code == 3
    assert result.stderr.count("unknown learning rate policy") == 1
