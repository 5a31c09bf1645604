"""Fit the net of regression.prototxt to a function, with EuclideanLoss.

    python samples/fit_regression.py

The function maps 4 numbers to 2 and is not linear, so the hidden layer is needed. EuclideanLoss is
half the squared distance, averaged over the batch.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import graphc

FOLDER = Path(__file__).resolve().parent
BATCH = 32


def function(x: np.ndarray) -> np.ndarray:
    """What is to be learned: (|a - b|, c + max(d, 0))."""
    a, b, c, d = x.T
    return np.stack([np.abs(a - b), c + np.maximum(d, 0)], axis=1)


def fit(steps: int, rate: float = 0.05, seed: int = 0) -> list[float]:
    """The loss of each step of stochastic gradient descent."""
    net = graphc.Net(FOLDER / "regression.prototxt", phase=graphc.TRAIN, seed=seed)
    rng = np.random.default_rng(seed)
    losses = []
    for step in range(steps):
        x = rng.uniform(-1, 1, (BATCH, 4))
        net.clear_param_diffs()
        net.forward_backward({"x": x, "target": function(x)})
        losses.append(net.loss)
        for layer in net.params.values():
            for parameter in layer:
                parameter.data[...] -= rate * (1 - step / steps) * parameter.diff
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5000)
    options = parser.parse_args()
    losses = fit(options.steps)
    for first in range(0, len(losses), max(1, len(losses) // 10)):
        print(f"step {first:5}  loss {losses[first]:.5f}")
    print(f"mean loss of the last 100 steps: {np.mean(losses[-100:]):.5f}")


if __name__ == "__main__":
    main()
