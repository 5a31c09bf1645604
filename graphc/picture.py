"""Pictures: files become arrays that a net takes, gradients become pictures.

The saliency of a pixel is the largest |gradient| among its channels (Simonyan, Vedaldi, Zisserman,
"Deep Inside Convolutional Networks", arXiv 1312.6034, section 3.1).
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np

from graphc.error import NetError, need
from graphc.numpy_file import read_array
from graphc.unreadable import unreadable

if TYPE_CHECKING:
    from PIL import Image

PIP_COMMAND = "pip install 'graphc[data]'"
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
_MOST_ROWS = 16  # pictures of a batch that are put one below the other


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise NetError(f"pictures need Pillow, which is not installed: {PIP_COMMAND}") from None
    return Image


def read_picture(path: str | Path, channels: int) -> Image.Image:
    """A picture in colour (3 channels) or grey (1). Raises NetError for a file that is none."""
    return _opened(path, str(path), channels)


def _opened(file: str | Path | IO[bytes], path: str, channels: int) -> Image.Image:
    need(
        channels in (1, 3),
        f"a picture has 1 or 3 channels, the input has {channels}; give it a .npy",
    )
    with _open(file, path) as opened:
        photo: Image.Image = opened.convert("RGB" if channels == 3 else "L")
        return photo


def picture_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of a picture, by its header. Raises NetError for a file that is none."""
    with _open(path, str(path)) as opened:
        return opened.height, opened.width


@contextmanager
def _open(file: str | Path | IO[bytes], path: str) -> Iterator[Image.Image]:
    """The opened picture; whatever Pillow finds wrong with it is a NetError."""
    image = _pillow()
    try:
        with image.open(file) as opened:
            yield opened
    except FileNotFoundError as error:
        raise unreadable(path, error) from None
    except OSError as error:
        reason = error.strerror or "it is no picture that Pillow can read"
        raise NetError(f"cannot read '{path}': {reason}") from None
    except (ValueError, SyntaxError, image.DecompressionBombError) as error:
        raise NetError(f"cannot read '{path}': {error}") from None


def decoded(data: bytes, what: str, channels: int) -> np.ndarray:
    """The pixels, as `pixels` gives them, of the bytes of a picture file called `what`."""
    return pixels(_opened(io.BytesIO(data), what, channels))


def resized(picture: Image.Image, height: int, width: int) -> Image.Image:
    """The picture stretched to a size, bilinear."""
    return picture.resize((width, height), _pillow().Resampling.BILINEAR)


def pixels(picture: Image.Image, order: Literal["bgr", "rgb"] = "bgr") -> np.ndarray:
    """float32[channels, height, width], 0 .. 255; colours in the given order."""
    array = np.asarray(picture, np.float32)
    if array.ndim == 2:
        return array[np.newaxis]
    if order == "bgr":
        array = array[:, :, ::-1]
    return np.ascontiguousarray(array.transpose(2, 0, 1))


def read_mean(text: str) -> np.ndarray:
    """A mean: numbers as in "104,117,123", or a .npy or .binaryproto file.

    Returns float32[channels, 1, 1] or float32[channels, height, width]. Raises NetError for a text
    that is none of these, a file that cannot be read, an array of another shape.
    """
    suffix = Path(text).suffix
    if suffix == ".npy":
        mean = read_array(text)
    elif suffix == ".binaryproto":
        from graphc.frontends.caffe.caffemodel import read_blob

        mean = np.asarray(read_blob(text))
    else:
        try:
            mean = np.array([float(part) for part in text.split(",")], np.float32)
        except ValueError:
            raise NetError(
                f"a mean is numbers as in 104,117,123, or a .npy or .binaryproto, not '{text}'"
            ) from None
    while mean.ndim > 3 and mean.shape[0] == 1:
        mean = mean[0]
    if mean.ndim == 1:
        mean = mean[:, np.newaxis, np.newaxis]
    need(
        mean.ndim == 3 and mean.dtype.kind in "fiu",
        f"the mean '{text}' has shape {list(mean.shape)}; needed are channels, or channels,"
        " height and width",
    )
    return np.asarray(mean, np.float32)


def without_mean(array: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """`array` [channels, height, width] less a mean; of a larger mean picture, its middle.

    Taking the middle is what Caffe does when it crops. Raises NetError where the mean is smaller.
    """
    need(
        mean.shape[0] in (1, array.shape[0]),
        f"the mean has {mean.shape[0]} channels, the picture {array.shape[0]}",
    )
    if mean.shape[1:] == (1, 1):
        return np.asarray(array - mean)
    height, width = array.shape[1:]
    top, left = (mean.shape[1] - height) // 2, (mean.shape[2] - width) // 2
    need(
        top >= 0 and left >= 0,
        f"the mean picture is {mean.shape[2]} x {mean.shape[1]},"
        f" smaller than the input, {width} x {height}",
    )
    return np.asarray(array - mean[:, top : top + height, left : left + width])


def saliency(gradient: np.ndarray) -> np.ndarray:
    """The largest |gradient| over the channels: [N, H, W] of a gradient [N, C, H, W].

    A gradient of two axes is one row of pixels an example, of three [C, H, W]. Raises NetError for
    other ones.
    """
    strength = np.abs(np.asarray(gradient, np.float64))
    if strength.ndim == 4:
        return np.asarray(strength.max(axis=1))
    if strength.ndim == 3:
        return np.asarray(strength.max(axis=0)[np.newaxis])
    if strength.ndim == 2:
        return strength[:, np.newaxis, :]
    raise NetError(f"a gradient of shape {list(strength.shape)} makes no picture; it needs N,C,H,W")


def grey(strength: np.ndarray) -> np.ndarray:
    """uint8 of a saliency map: its largest value is white; nan is black."""
    finite = np.nan_to_num(strength, nan=0.0, posinf=0.0, neginf=0.0)
    top = finite.max() if finite.size else 0.0
    return np.asarray(np.round(finite * (255.0 / top) if top > 0 else finite * 0), np.uint8)


def saliency_picture(
    gradient: np.ndarray,
    size: tuple[int, int] | None = None,
    beside: Sequence[Image.Image] = (),
) -> Image.Image:
    """The saliency of each example, one below the other, each made as bright as can be.

    Args:
        gradient: [N, C, H, W].
        size: (height, width) of one map; pixels are repeated to reach it. None: as it is.
        beside: the photo of each example, to stand left of its map.
    """
    image = _pillow()
    maps = saliency(gradient)[:_MOST_ROWS]
    need(maps.size, "a gradient without elements makes no picture")
    height, width = size or maps.shape[1:]
    left = width if beside else 0
    sheet: Image.Image = image.new("RGB" if beside else "L", (left + width, height * len(maps)))
    for row, one in enumerate(maps):
        if row < len(beside):
            sheet.paste(resized(beside[row], height, width), (0, row * height))
        map_ = image.fromarray(grey(one)).resize((width, height), image.Resampling.NEAREST)
        sheet.paste(map_, (left, row * height))
    return sheet


def picture_format(path: str | Path) -> str:
    """Pillow's name of a file's format. Raises NetError for an ending that it does not know."""
    image = _pillow()
    known = image.registered_extensions()
    suffix = Path(path).suffix.lower()
    if suffix not in known or known[suffix] not in image.SAVE:
        raise NetError(f"'{path}' names no kind of picture that can be written; .png is one")
    return str(known[suffix])


def save_picture(picture: Image.Image, file: IO[bytes], format: str) -> None:
    """Write a picture in one of Pillow's formats."""
    picture.save(file, format)
