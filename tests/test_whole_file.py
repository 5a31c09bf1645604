"""Files are written whole or not at all; what is no file is not replaced by one."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from graphc.cli import app
from graphc.error import NetError
from graphc.frontends.caffe.caffemodel import read_blob
from graphc.frontends.caffe.caffemodel_writer import write_blob
from graphc.whole_file import write_whole

NET = """layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 } } }
layer { name: "y" type: "ReLU" bottom: "x" top: "y" }
"""


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_bytes(b"old")

    def fail(file: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(NetError, match=r"cannot write '.*file': No space left on device"):
        write_whole(place, fail)
    assert place.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [place]


def test_a_link_is_followed(tmp_path: Path) -> None:
    write_whole(tmp_path / "old", lambda file: file.writelines([b"old"]))
    (tmp_path / "link").symlink_to(tmp_path / "old")
    (tmp_path / "dangling").symlink_to(tmp_path / "new")
    for name in ("link", "dangling"):
        write_whole(tmp_path / name, lambda file: file.writelines([b"more"]))
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / name).read_bytes() == b"more"


def pipe(tmp_path: Path) -> tuple[Path, list[bytes], threading.Thread]:
    place, read = tmp_path / "pipe.npy", []
    os.mkfifo(place)
    reader = threading.Thread(target=lambda: read.append(place.read_bytes()), daemon=True)
    reader.start()
    return place, read, reader


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    place, read, reader = pipe(tmp_path)
    write_blob(place, array)
    reader.join(10)
    assert stat.S_ISFIFO(place.stat().st_mode)
    (tmp_path / "copy").write_bytes(read[0])
    np.testing.assert_array_equal(read_blob(tmp_path / "copy"), array)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NetError, match="Is a directory"):
        write_whole(tmp_path, lambda file: None)


@pytest.mark.parametrize(
    "words", ["run --input x=fill:1 -o", "plan --svg", "inspect -o", "compile -o"]
)
def test_no_verb_replaces_a_pipe(tmp_path: Path, words: str) -> None:
    (tmp_path / "net.prototxt").write_text(NET)
    place, read, reader = pipe(tmp_path)
    verb, *options = words.split()
    made = CliRunner().invoke(app, [verb, str(tmp_path / "net.prototxt"), *options, str(place)])
    assert stat.S_ISFIFO(place.stat().st_mode)
    if verb == "compile":
        assert made.exit_code == 3
        assert "is no file to be replaced" in made.stderr
        return
    assert made.exit_code == 0, made.stderr
    reader.join(10)
    assert read[0]
