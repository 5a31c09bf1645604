"""Pictures as arrays: channel order, mean, size; saliency maps."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from graphc import picture
from graphc.error import NetError

image = pytest.importorskip("PIL.Image")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """3 wide, 2 high: red, green, blue; black, white, grey."""
    rows = [
        [[255, 0, 0], [0, 255, 0], [0, 0, 255]],
        [[0, 0, 0], [255, 255, 255], [99, 99, 99]],
    ]
    path = tmp_path / "photo.png"
    image.fromarray(np.array(rows, np.uint8)).save(path)
    return path


def test_channels_come_first_blue_before_red(photo: Path) -> None:
    bgr = picture.pixels(picture.read_picture(photo, 3), "bgr")
    assert bgr.shape == (3, 2, 3)
    assert bgr.dtype == np.float32
    assert bgr[:, 0, 0].tolist() == [0, 0, 255]
    rgb = picture.pixels(picture.read_picture(photo, 3), "rgb")
    assert rgb[:, 0, 0].tolist() == [255, 0, 0]
    assert bgr[:, 1, 2].tolist() == [99, 99, 99]


def test_one_channel_is_grey(photo: Path) -> None:
    grey = picture.pixels(picture.read_picture(photo, 1))
    assert grey.shape == (1, 2, 3)
    assert grey[0, 1].tolist() == [0, 255, 99]


def test_means_of_every_kind(photo: Path, tmp_path: Path) -> None:
    array = picture.pixels(picture.read_picture(photo, 3))
    less = picture.without_mean(array, picture.read_mean("1,2,3"))
    np.testing.assert_array_equal(less, array - np.array([1, 2, 3], np.float32)[:, None, None])
    large = np.arange(3 * 4 * 5, dtype=np.float32).reshape(1, 3, 4, 5)
    np.save(tmp_path / "mean.npy", large)
    less = picture.without_mean(array, picture.read_mean(str(tmp_path / "mean.npy")))
    np.testing.assert_array_equal(less, array - large[0, :, 1:3, 1:4])


@pytest.mark.parametrize(
    ("text", "said"), [("blue", "104,117,123"), ("none.npy", "cannot read"), ("1,2", "2 channels")]
)
def test_means_that_do_not_fit(photo: Path, text: str, said: str) -> None:
    array = picture.pixels(picture.read_picture(photo, 3))
    with pytest.raises(NetError, match=said):
        picture.without_mean(array, picture.read_mean(text))


def test_a_smaller_mean_picture_is_refused(photo: Path) -> None:
    array = picture.pixels(picture.read_picture(photo, 3))
    with pytest.raises(NetError, match="smaller than the input"):
        picture.without_mean(array, np.zeros((3, 2, 2), np.float32))


def test_what_is_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "text.png"
    path.write_text("not a picture")
    with pytest.raises(NetError, match="no picture"):
        picture.read_picture(path, 3)
    with pytest.raises(NetError, match="No such file"):
        picture.read_picture(tmp_path / "absent.png", 3)
    with pytest.raises(NetError, match="1 or 3 channels"):
        picture.read_picture(path, 4)
    with pytest.raises(NetError, match="no kind of picture"):
        picture.picture_format("grad.xyz")


def test_without_pillow_the_pip_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(NetError, match=r"pip install 'graphc\[data\]'"):
        picture.read_picture("photo.png", 3)


def test_saliency_is_the_strongest_channel() -> None:
    gradient = np.zeros((2, 3, 2, 2))
    gradient[0, 1, 0, 1] = -4
    gradient[0, 2, 0, 1] = 3
    gradient[0, 0, 1, 0] = 1
    gradient[1, 0, 1, 1] = 0.25
    strength = picture.saliency(gradient)
    assert strength.tolist() == [[[0, 4], [1, 0]], [[0, 0], [0, 0.25]]]
    sheet = np.asarray(picture.saliency_picture(gradient, size=(4, 4)))
    assert sheet.shape == (8, 4)  # one below the other, each pixel repeated
    assert sheet[0].tolist() == [0, 0, 255, 255]
    assert sheet[2].tolist() == [64, 64, 0, 0]
    assert sheet[7].tolist() == [0, 0, 255, 255]  # each as bright as can be


def test_a_gradient_of_zeros_is_black() -> None:
    sheet = picture.saliency_picture(np.zeros((1, 1, 3, 3)))
    assert np.asarray(sheet).max() == 0
    with pytest.raises(NetError, match="makes no picture"):
        picture.saliency(np.zeros(3))
