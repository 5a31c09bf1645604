"""Small nets with solvers, and reading the reference runs."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from conftest import cases_folder

import graphc

FOLDER = cases_folder() / "caffe"


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return json.loads(str(arrays.pop("meta"))), arrays


def make(source: str | Path, **options: Any) -> graphc.Solver:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", graphc.NetWarning)
        return graphc.Solver(source, **{"threads": 1, **options})


def chosen(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def parameter(solver: graphc.Solver, key: str) -> np.ndarray:
    layer, _, index = key.rpartition("/")
    return solver.net.params[layer][int(index)].data


def close(got: Any, wanted: Any, tolerance: Mapping[str, Any], what: str) -> None:
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    size = np.abs(wanted)
    scale = size if tolerance.get("elementwise") else size.max(initial=0.0)
    error = np.abs(got - wanted)
    limit = tolerance["atol"] + tolerance["rtol"] * scale
    assert np.all(error <= limit), f"{what}: off by {error.max():.3g}, scale {np.max(scale):.3g}"


EXACT = {"rtol": 1e-6, "atol": 0.0}

INPUTS = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 6 dim: 4 } } }
layer { name: "t" type: "Input" top: "t" input_param { shape { dim: 6 dim: 3 } } }
"""

LEAST_SQUARES = (
    INPUTS
    + """
layer { name: "fc" type: "InnerProduct" bottom: "x" top: "y" inner_product_param {
  num_output: 3 weight_filler { type: "gaussian" } bias_filler { type: "gaussian" } } PARAM }
layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "t" top: "loss" }
"""
)


def least_squares(settings: str, param: str = "") -> str:
    return f"{settings} net_param {{ {LEAST_SQUARES.replace('PARAM', param)} }}\n"


FIXED = 'base_lr: 0.1 lr_policy: "fixed"'

METHODS: dict[str, dict[str, float]] = {
    "SGD": {"momentum": 0.9},
    "Nesterov": {"momentum": 0.9},
    "AdaGrad": {"delta": 1e-3},
    "RMSProp": {"rms_decay": 0.9, "delta": 1e-3},
    "AdaDelta": {"momentum": 0.95, "delta": 1e-3},
    "Adam": {"momentum": 0.9, "momentum2": 0.99, "delta": 1e-3},
}


def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return rng.standard_normal((6, 4)), rng.standard_normal((6, 3))


IMAGES = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 3 dim: 4 dim: 9 dim: 8 } } }
layer { name: "t" type: "Input" top: "t" input_param { shape { dim: 3 } } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "conv" convolution_param {
  num_output: 6 kernel_size: 3 group: 2 pad: 1 weight_filler { type: "msra" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "bn" }
layer { name: "scale" type: "Scale" bottom: "bn" top: "bn" scale_param { bias_term: true } }
layer { name: "prelu" type: "PReLU" bottom: "bn" top: "bn" prelu_param { channel_shared: true } }
layer { name: "pool" type: "Pooling" bottom: "bn" top: "pool"
  pooling_param { kernel_size: 3 stride: 2 } }
layer { name: "again" type: "Convolution" bottom: "pool" top: "again"
  param { lr_mult: 0 } param { lr_mult: 2 }
  convolution_param { num_output: 5 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "drop" type: "Dropout" bottom: "again" top: "drop" }
layer { name: "fc" type: "InnerProduct" bottom: "drop" top: "fc"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "t" top: "loss" }
"""


def image_batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {"x": rng.standard_normal((3, 4, 9, 8)), "t": np.array([0.0, 3.0, 1.0])}
