"""Draw the picture that a class of the digits net likes best.

    python samples/synthesize.py --class 3

Gradient ascent on the picture (Simonyan, Vedaldi and Zisserman, arXiv 1312.6034, section 2): find
the picture x that maximises  score_class(x) - penalty * |x|^2.  The net's weights stay as they are;
the picture is what is learned. Each step is one native call, forward and backward.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from digits_data import as_text, load_split

import graphc

FOLDER = Path(__file__).resolve().parent


def objective(net: graphc.Net, picture: np.ndarray, label: int, penalty: float) -> float:
    """score_class(x) - penalty * |x|^2."""
    score = net.forward(data=picture)["score"][0, label]
    return float(score) - penalty * float((picture**2).sum())


def mean_digit() -> np.ndarray:
    """The mean of the training pictures, where the paper starts, too."""
    return load_split()[0].mean(axis=0, keepdims=True)


def synthesize(
    net: graphc.Net,
    label: int,
    penalty: float = 1.0,
    steps: int = 200,
    step_size: float = 0.05,
    progress: int = 0,
) -> np.ndarray:
    """The picture after `steps` steps of ascent from the mean digit; prints now and then."""
    one_hot = np.zeros(net.blobs["score"].shape, np.float32)
    one_hot[0, label] = 1
    picture = mean_digit()
    for step in range(steps):
        if progress and step % progress == 0:
            value = objective(net, picture, label, penalty)
            print(f"step {step:4}  score - penalty * |x|^2 = {value:8.3f}")
        gradient = net.forward_backward({"data": picture}, {"score": one_hot}, wrt=["data"])
        picture += step_size * (gradient["data"] - 2 * penalty * picture)
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--class", dest="label", type=int, default=3, choices=range(10))
    parser.add_argument("--penalty", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()

    net = graphc.Net(FOLDER / "digits.prototxt", weights=FOLDER / "digits.caffemodel")
    before = objective(net, mean_digit(), options.label, options.penalty)
    picture = synthesize(net, options.label, options.penalty, options.steps, progress=20)
    after = objective(net, picture, options.label, options.penalty)
    scores = net.forward(data=picture)["score"][0]
    print(f"\nfrom {before:.3f} to {after:.3f}; the net takes it for a {scores.argmax()}\n")
    print(as_text(picture))
    if after <= before:
        raise SystemExit("the score did not rise: try a smaller --penalty")


if __name__ == "__main__":
    main()
