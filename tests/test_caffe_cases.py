"""Values computed by Caffe itself, through the native path: outputs, gradients, states."""

from __future__ import annotations

import json
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import cases_folder

import graphc
import graphc.frontends.caffe.network

FOLDER = cases_folder() / "caffe"
GROUPS = ("layers", "semantics", "nets")

# Cases that are not run, each with its reason.
LEFT_OUT: dict[str, str] = {
    "layers/inplace_power_linear": "Caffe's Power with exponent 1, in place, overwrites the"
    " gradient it is about to read; graphc gives the derivative",
}


@cache
def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return json.loads(str(arrays.pop("meta"))), arrays


def cases() -> list[str]:
    names = []
    for group in GROUPS:
        names += [f"{group}/{path.stem}" for path in sorted((FOLDER / group).glob("*.npz"))]
    return names


def close(got: np.ndarray, wanted: np.ndarray, tolerance: dict[str, Any], what: str) -> None:
    got = np.asarray(got, np.float64).reshape(wanted.shape)
    wanted = wanted.astype(np.float64)
    size = np.abs(wanted)
    scale = size if tolerance.get("elementwise") else size.max(initial=0.0)
    error = np.abs(got - wanted)
    allowed = tolerance["atol"] + tolerance["rtol"] * scale
    worst = float((error - allowed).max(initial=-1.0))
    assert not np.isnan(got).any() or np.isnan(wanted).any(), f"{what} holds nan"
    assert worst <= 0, f"{what}: off by {float(error.max()):.3g}, scale {np.max(scale):.3g}"


def recipe_values(meta: dict[str, Any], net: graphc.Net) -> dict[str, np.ndarray]:
    """Inputs and parameters of a net that are drawn by a recipe instead of stored."""
    recipe = meta["rng_recipe"]
    rng = np.random.default_rng(recipe["seed"])
    values = {}
    for blob in meta["inputs"]:
        shape = net.blobs[blob].shape
        if blob.startswith("label"):
            values[f"in/{blob}"] = rng.integers(0, recipe["classes"], shape).astype(np.float32)
        else:
            scale = np.float32(recipe["input_scale"].get(blob, 1.0))
            values[f"in/{blob}"] = rng.standard_normal(shape, dtype=np.float32) * scale
    for key, shape in recipe["param_shapes"]:
        scale = np.sqrt(2.0 / np.prod(shape[1:])) if key.endswith("/0") else 0.1
        drawn = rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)
        values[f"param/{key}"] = drawn
    return values


def fingerprint(array: np.ndarray) -> np.ndarray:
    flat = np.asarray(array, np.float64).ravel()
    return np.concatenate(
        [[flat.sum(), np.linalg.norm(flat), np.abs(flat).max()], flat[:8], flat[-8:]]
    )


@pytest.mark.parametrize("name", cases())
def test_it_computes_what_caffe_computed(name: str) -> None:
    if name in LEFT_OUT:
        pytest.skip(LEFT_OUT[name])
    meta, arrays = read(FOLDER / f"{name}.npz")
    net = make_net(name, meta, arrays)
    if "rng_recipe" in meta:
        arrays = {**recipe_values(meta, net), **arrays}
    set_values(net, arrays)
    run_passes(net, meta, arrays)


def make_net(name: str, meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> graphc.Net:
    masks = [key.removeprefix("mask/") for key in arrays if key.startswith("mask/")]
    inner = [key.removeprefix("mid/") for key in arrays if key.startswith("mid/")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", graphc.NetWarning)
        net = graphc.Net(
            FOLDER / f"{name}.prototxt",
            phase=meta["phase"],
            level=meta.get("level", 0),
            stages=meta.get("stages", ()),
            keep=inner,
            masks=masks,
            threads=1,
        )
    return net


def set_values(net: graphc.Net, arrays: dict[str, np.ndarray]) -> None:
    for key, value in arrays.items():
        kind, _, rest = key.partition("/")
        if kind == "param":
            layer, _, index = rest.rpartition("/")
            net.params[layer][int(index)].data[...] = value
        elif kind == "mask":
            net.set_inputs({key: value})
        elif kind == "in":
            net.set_inputs({rest: value})


def run_passes(net: graphc.Net, meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    tolerance = meta["tolerance"]
    passes = meta.get("passes", 1)
    for number in range(passes):
        prefix = f"in@{number}/"
        changed = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
        out = net.forward(**changed)
        for key, wanted in arrays.items():
            if key.startswith(f"out@{number}/"):
                close(out[key.partition("/")[2]], wanted, tolerance, key)
        if number == passes - 1:
            compare_forward(net, meta, arrays, out)
        if meta.get("backward", True):
            for key, value in arrays.items():
                if key.startswith("seed/"):
                    net.blobs[key.removeprefix("seed/")].diff[...] = value
            gradients = net.backward()
    if meta.get("backward", True):
        compare_backward(net, meta, arrays, gradients)


def compare_forward(
    net: graphc.Net, meta: dict[str, Any], arrays: dict[str, np.ndarray], out: dict[str, np.ndarray]
) -> None:
    tolerance = meta["tolerance"]
    assert sorted(out) == sorted(meta["outputs"])
    assert list(net.inputs) == [*meta["inputs"], *[k for k in arrays if k.startswith("mask/")]]
    for key, wanted in arrays.items():
        kind, _, blob = key.partition("/")
        if kind == "out":
            close(out[blob], wanted, tolerance, key)
        elif kind == "mid":
            close(net.blobs[blob].data, wanted, tolerance, key)
        elif kind == "param_after":
            layer, _, index = blob.rpartition("/")
            close(net.params[layer][int(index)].data, wanted, tolerance, key)
    if meta.get("loss") is not None:
        close(np.array(net.loss), np.array(meta["loss"]), tolerance, "loss")


def within_rounding(arrays: dict[str, np.ndarray], layer: str) -> float:
    """What the gradient of a layer's parameter may err by where its terms cancel.

    Of a bias before a BatchNorm they cancel to 0; each is rounded, some 2^-20 of the layer's
    largest gradient in all.
    """
    prefix = f"grad_param/{layer}/"
    found = (np.abs(value).max(initial=0.0) for k, value in arrays.items() if k.startswith(prefix))
    return float(max(found)) * 2.0**-20


def compare_backward(
    net: graphc.Net,
    meta: dict[str, Any],
    arrays: dict[str, np.ndarray],
    gradients: dict[str, np.ndarray],
) -> None:
    tolerance = meta["tolerance"]
    for key, wanted in arrays.items():
        kind, _, rest = key.partition("/")
        if kind == "grad_in":
            assert rest in gradients, f"no gradient of input '{rest}'"
            close(gradients[rest], wanted, tolerance, key)
        elif kind == "grad_param":
            layer, _, index = rest.rpartition("/")
            floor = tolerance["atol"] + within_rounding(arrays, layer)
            close(net.params[layer][int(index)].diff, wanted, {**tolerance, "atol": floor}, key)
        elif kind == "grad_param_check":
            layer, _, index = rest.rpartition("/")
            got = fingerprint(net.params[layer][int(index)].diff)
            close(got[1:], wanted[1:], tolerance, key)
    for blob in meta.get("no_grad_inputs", ()):
        assert blob not in gradients, f"input '{blob}' should get no gradient"


@pytest.mark.parametrize("group", GROUPS)
def test_there_are_cases(group: str) -> None:
    """Without its folder a parametrised test runs nothing, and fails nowhere."""
    assert any(name.startswith(f"{group}/") for name in cases())
