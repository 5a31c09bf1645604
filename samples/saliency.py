"""Which pixels does the score of a class depend on?

    python samples/saliency.py                                    a held-out digit
    python samples/saliency.py --number 7 --picture saliency.png
    python samples/saliency.py --caffenet bvlc_reference_caffenet.caffemodel --class 281

The gradient of one class's score with respect to the picture answers it (Simonyan, Vedaldi and
Zisserman, arXiv 1312.6034, section 3): a pixel with a large gradient moves the score most. The
score layer gets a gradient that is 1 at the class and 0 elsewhere, and backward brings it down.
CaffeNet looks at samples/cat.jpg; its weights are Caffe's, "random:0" does without them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from digits_data import as_text, load_split

import graphc

FOLDER = Path(__file__).resolve().parent
CAFFENET_MEAN = np.float32([104, 117, 123])  # of blue, green and red


def saliency(net: graphc.Net, picture: np.ndarray, scores: str, label: int) -> np.ndarray:
    """|d score[label] / d pixel|, the largest of a pixel's colours: an H x W array."""
    one_hot = np.zeros(net.blobs[scores].shape, np.float32)
    one_hot[0, label] = 1
    gradients = net.forward_backward({"data": picture[None]}, {scores: one_hot}, wrt=["data"])
    return np.abs(gradients["data"][0]).max(axis=0)


def digit(number: int) -> np.ndarray:
    """Saliency of the true class of one held-out digit, which is printed beside it."""
    net = graphc.Net(FOLDER / "digits.prototxt", weights=FOLDER / "digits.caffemodel")
    _, _, pictures, labels = load_split()
    result = saliency(net, pictures[number], "score", int(labels[number]))
    print(f"held-out digit {number}, a {labels[number]}; right, what its score depends on\n")
    lines = zip(as_text(pictures[number]).splitlines(), as_text(result).splitlines(), strict=True)
    print("\n".join(f"{left}  |  {right}" for left, right in lines))
    return result


def photo(weights: str, label: int) -> np.ndarray:
    """Saliency of a class in samples/cat.jpg, by CaffeNet."""
    from PIL import Image

    net = graphc.Net(FOLDER / "caffenet.prototxt", weights=weights)
    image = Image.open(FOLDER / "cat.jpg").convert("RGB").resize((227, 227))
    blue_green_red = np.asarray(image, np.float32)[:, :, ::-1] - CAFFENET_MEAN
    result = saliency(net, blue_green_red.transpose(2, 0, 1), "fc8", label)
    row, column = np.unravel_index(result.argmax(), result.shape)
    print(f"class {label} depends most on the pixel at row {row}, column {column}")
    return result


def write_picture(values: np.ndarray, path: Path) -> None:
    """Write an array as a grey picture, its largest value white."""
    from PIL import Image

    grey = (255 * values / (values.max() or 1)).astype(np.uint8)
    enlarge = max(1, 256 // max(grey.shape))
    Image.fromarray(np.kron(grey, np.ones((enlarge, enlarge), np.uint8))).save(path)
    print(f"wrote {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=0, help="which held-out digit")
    parser.add_argument("--caffenet", metavar="WEIGHTS", help="look at the photo with CaffeNet")
    parser.add_argument("--class", dest="label", type=int, default=281, help="281: tabby cat")
    parser.add_argument("--picture", type=Path, help="write the saliency as a picture")
    options = parser.parse_args()
    net = options.caffenet
    result = photo(net, options.label) if net else digit(options.number)
    if options.picture:
        write_picture(result, options.picture)


if __name__ == "__main__":
    main()
