"""Small MatConvNet nets in .mat files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

RNG = np.random.default_rng(5)
FILTERS = RNG.standard_normal((3, 3, 2, 4)).astype("float32")
BIASES = RNG.standard_normal((4, 1)).astype("float32")
LAST = RNG.standard_normal((3, 3, 4, 5)).astype("float32")


def cell(*items: Any) -> np.ndarray:
    """A cell array."""
    made = np.empty((1, len(items)), dtype=object)
    for i, item in enumerate(items):
        made[0, i] = item
    return made


def chain(path: Path, *more: dict[str, Any], size: bool = True) -> Path:
    """A SimpleNN net of four layers, and `more`."""
    layers = [
        {"type": "conv", "name": "conv", "weights": cell(FILTERS, BIASES), "stride": 1, "pad": 1},
        {"type": "relu", "name": "relu"},
        {"type": "pool", "name": "pool", "pool": [2, 2], "stride": 2, "method": "max"},
        {"type": "conv", "name": "fc", "weights": cell(LAST, np.zeros((5, 1), "float32"))},
        *more,
    ]
    meta = {"normalization": {"imageSize": np.array([[6.0, 6.0, 2.0]])}} if size else {}
    scipy.io.savemat(path, {"layers": cell(*layers), "meta": meta})
    return path


def dag_net(path: Path) -> Path:
    """A DagNN net: a convolution over all there is, and a loss."""
    conv = {"size": [6.0, 6.0, 2.0, 3.0], "hasBias": True, "pad": 0, "stride": 1}
    layers = [
        {
            "name": "fc",
            "type": "dagnn.Conv",
            "inputs": cell("input"),
            "outputs": cell("prediction"),
            "params": cell("fcf", "fcb"),
            "block": conv,
        },
        {
            "name": "loss",
            "type": "dagnn.Loss",
            "inputs": cell("prediction", "label"),
            "outputs": cell("objective"),
            "params": cell(),
            "block": {"loss": "softmaxlog"},
        },
    ]
    values = [
        RNG.standard_normal((6, 6, 2, 3)).astype("float32"),
        RNG.standard_normal((3, 1)).astype("float32"),
    ]
    params = [{"name": n, "value": v} for n, v in zip(("fcf", "fcb"), values, strict=True)]
    net = {"layers": cell(*layers), "params": cell(*params), "vars": cell(), "meta": {}}
    scipy.io.savemat(path, {"net": net})
    return path
