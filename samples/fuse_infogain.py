"""A softmax and an infogain loss on its probabilities, as one operator and as two.

    python samples/fuse_infogain.py

infogain_unfused.prototxt writes the two layers one after the other. As they stand, a probability
that underflows to 0 takes the gradient with it: the softmax multiplies by the probability what the
loss divided by it, and a floor under the divisor does not bring it back. graphc finds the pair and
computes both in one: the gradient of a score is a difference of two numbers of ordinary size,
however far the scores lie apart. Compare the two, with scores further and further apart.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import graphc

FOLDER = Path(__file__).resolve().parent
CLASSES = 6


def gradient(scores: np.ndarray, label: np.ndarray, matrix: np.ndarray, fuse: bool) -> np.ndarray:
    """d loss / d score, by the native program."""
    net = graphc.Net(
        FOLDER / "infogain_unfused.prototxt", fuse=fuse, infogain_input="probabilities"
    )
    # The inner product passes its first six numbers on, so that we say what the scores are.
    net.params["score"][0].data[...] = np.eye(CLASSES, 20)
    net.params["score"][1].data[...] = 0
    data = np.zeros(net.blobs["data"].shape, np.float32)
    data[:, :CLASSES] = scores
    inputs = {"data": data, "label": label, "H": matrix[None, None]}
    return net.forward_backward(inputs, wrt=["data"])["data"][:, :CLASSES]


def exact(scores: np.ndarray, label: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The same in float64: p * sum of the label's row of H, minus that row, over the batch."""
    scores = scores.astype(np.float64)
    mass = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities = mass / mass.sum(axis=1, keepdims=True)
    rows = matrix[label]
    return (probabilities * rows.sum(axis=1, keepdims=True) - rows) / len(label)


def main() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, CLASSES, 16)
    matrix = np.eye(CLASSES, dtype=np.float32) + 0.1
    print("scores apart   error fused   error unfused   (relative to the largest)")
    for apart in (1, 10, 30, 100, 1000, 10000):
        scores = (apart * rng.uniform(-1, 1, (16, CLASSES))).astype(np.float32)
        wanted = exact(scores, label, matrix)
        errors = [
            np.abs(gradient(scores, label, matrix, fuse) - wanted).max() / np.abs(wanted).max()
            for fuse in (True, False)
        ]
        print(f"{apart:12}   {errors[0]:11.1e}   {errors[1]:13.1e}")


if __name__ == "__main__":
    main()
