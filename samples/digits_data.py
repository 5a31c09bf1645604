"""The 8 x 8 pictures of handwritten digits that come with scikit-learn, split once and for all.

Training and all other samples use the same split, so "held out" means the same everywhere.

    python samples/digits_data.py FOLDER

writes it as float32 .npy files, for programs that are not Python.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

HELD_OUT = 360


def load_split() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training pictures and labels, held-out pictures and labels.

    Pictures are float32 arrays N x 1 x 8 x 8 with pixels from 0 (paper) to 1 (ink).
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        sys.exit("the digits come with scikit-learn: pip install scikit-learn")
    digits = load_digits()
    pictures = (digits.images / 16).astype(np.float32)[:, None]
    order = np.random.default_rng(20131220).permutation(len(pictures))
    held_out, training = order[:HELD_OUT], order[HELD_OUT:]
    return (
        pictures[training],
        digits.target[training],
        pictures[held_out],
        digits.target[held_out],
    )


def as_text(picture: np.ndarray) -> str:
    """A picture as characters, ` ` for the lowest value and `@` for the highest."""
    rows = np.asarray(picture, np.float64).reshape(8, 8)
    span = rows.max() - rows.min()
    shades = " .:-=+*#%@"
    levels = (rows - rows.min()) / (span or 1.0) * (len(shades) - 1)
    return "\n".join("".join(2 * shades[round(level)] for level in row) for row in levels)


def main(folder: str) -> None:
    names = ("training", "training_labels", "held_out", "held_out_labels")
    for name, array in zip(names, load_split(), strict=True):
        np.save(Path(folder) / f"{name}.npy", array.astype(np.float32))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python samples/digits_data.py FOLDER")
    main(sys.argv[1])
