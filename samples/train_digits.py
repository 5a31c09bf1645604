"""Train the net of digits.prototxt, and write its weights, to trained_digits.caffemodel if you do
not name another file.

    python samples/train_digits.py --output WEIGHTS.caffemodel

One step of training is one native call, `forward_backward`: it computes the loss of a batch and the
gradient of every parameter. What to do with the gradients is up to us: here it is stochastic
gradient descent with momentum, five lines of numpy.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from digits_data import load_split

import graphc

FOLDER = Path(__file__).resolve().parent
BATCH = 64


def accuracy(net: graphc.Net, pictures: np.ndarray, labels: np.ndarray) -> float:
    """The share of pictures whose highest score is that of their label."""
    net.blobs["data"].reshape(*pictures.shape)
    scores = net.forward(data=pictures)["score"]
    return float((scores.argmax(axis=1) == labels).mean())


def train(
    epochs: int, rate: float = 0.1, momentum: float = 0.9, decay: float = 1e-3, seed: int = 0
) -> graphc.Net:
    """A net in the phase TRAIN, after `epochs` rounds through the training pictures."""
    pictures, labels, _, _ = load_split()

    # The prototxt says one picture at a time; we want to see 64 at once. The weights start as its
    # fillers say, drawn from the seed.
    net = graphc.Net(FOLDER / "digits.prototxt", phase=graphc.TRAIN, seed=seed)
    net.blobs["data"].reshape(BATCH, 1, 8, 8)
    net.blobs["label"].reshape(BATCH)
    net.reshape()

    # `data` and `diff` are the memory that the native program works on: we change it in place.
    # `learned` names what a gradient is wanted for: conv1/0 (weights), conv1/1 (bias), and
    # so on, but not the pictures, whose gradient force_backward would add.
    learned = [f"{name}/{i}" for name, layer in net.params.items() for i in range(len(layer))]
    parameters = [parameter for layer in net.params.values() for parameter in layer]
    velocities = [np.zeros(parameter.shape, np.float32) for parameter in parameters]
    rng = np.random.default_rng(seed)
    for epoch in range(epochs):
        step_size = rate * 0.5 * (1 + np.cos(np.pi * epoch / epochs))  # falls from `rate` to 0
        order = rng.permutation(len(pictures))
        losses = []
        for first in range(0, len(order) - BATCH + 1, BATCH):
            batch = order[first : first + BATCH]

            # As in Caffe, gradients of parameters add up until they are cleared.
            net.clear_param_diffs()
            net.forward_backward({"data": pictures[batch], "label": labels[batch]}, wrt=learned)
            losses.append(net.loss)

            for parameter, velocity in zip(parameters, velocities, strict=True):
                velocity *= momentum
                velocity -= step_size * (parameter.diff + decay * parameter.data)
                parameter.data[...] += velocity
        if epoch % 5 == 0 or epoch == epochs - 1:
            print(f"epoch {epoch:3}  loss {np.mean(losses):.4f}", flush=True)
    return net


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the net of digits.prototxt.")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--output", type=Path, default=Path("trained_digits.caffemodel"))
    options = parser.parse_args()

    began = time.perf_counter()
    trained = train(options.epochs)
    trained.save(options.output)
    print(f"trained in {time.perf_counter() - began:.1f} s, wrote {options.output}")

    # What counts is the file, read into a net of the phase TEST, on digits it never saw.
    net = graphc.Net(FOLDER / "digits.prototxt", weights=options.output)
    _, _, pictures, labels = load_split()
    print(f"accuracy on {len(labels)} held-out digits: {accuracy(net, pictures, labels):.2%}")


if __name__ == "__main__":
    main()
