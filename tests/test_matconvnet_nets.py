"""SimpleNN and DagNN against values MatConvNet computed, and what the values cannot ask."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import cases_folder

import graphc
from graphc import vl
from graphc.dagnn import (
    BatchNorm,
    Block,
    Concat,
    Conv,
    DropOut,
    L2Loss,
    Loss,
    Pooling,
    ReLU,
    ROIPooling,
    Scale,
    Sum,
)
from graphc.error import NetError
from graphc.simple_net import Result

FOLDER = cases_folder() / "matconvnet"
DTYPES = ("float64", "float32")

OPTIONS = {
    "mode": "mode",
    "backPropDepth": "back_prop_depth",
    "parameterServer": "parameter_server",
}


class Server:
    """Keeps what is pushed."""

    def __init__(self) -> None:
        self.pushed: list[tuple[str, np.ndarray]] = []

    def push(self, name: str, value: np.ndarray) -> None:
        self.pushed.append((name, value))


@cache
def read(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    return json.loads(str(arrays.pop("meta"))), arrays


def cases(*kinds: str) -> list[str]:
    names = [path.stem for path in sorted(Path(FOLDER).glob("*.npz"))]
    return [name for name in names if read(name)[0]["kind"] in kinds]


def version_of(meta: dict[str, Any]) -> str:
    return "master" if "master" in meta["source"] else "beta25"


def listed(names: str | list[str]) -> list[str]:
    return [names] if isinstance(names, str) else names


def close(got: dict[str, Any], wanted: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    """Whether results pass by the case's own rule."""
    tolerance = meta["tolerance"]
    for key, want in wanted.items():
        have = np.asarray(got[key])
        single = have.dtype == np.float32
        have = have.reshape(have.shape + (1,) * (4 - have.ndim))
        assert have.shape == want.shape, f"{key} has shape {have.shape}, not {want.shape}"
        limit = tolerance["float64"]
        if single:
            limit = (tolerance.get("float32") or {}).get(key, tolerance["float32_default"])
        error = np.abs(have.astype(np.float64) - want.astype(np.float64)).max()
        scale = tolerance["scale"][key]
        assert error <= limit * scale, f"{key}: off by {error:.3g}, scale {scale:.3g}"


def outputs(arrays: dict[str, np.ndarray], *prefixes: str) -> dict[str, np.ndarray]:
    found = {k[4:]: a for k, a in arrays.items() if k.startswith("out_") and a.size}
    return {k: a for k, a in found.items() if not prefixes or k.startswith(prefixes)}


# -- SimpleNN -------------------------------------------------------------------------------------


def square(layer: dict[str, Any], before: Result, after: Result) -> Result:
    after.x = np.sum((before.x - layer["target"]) ** 2)
    return after


def square_backward(layer: dict[str, Any], before: Result, after: Result) -> Result:
    before.dzdx = 2 * after.dzdx * (before.x - layer["target"])
    return before


def simple_net(meta: dict[str, Any], arrays: dict[str, np.ndarray], dtype: str) -> Any:
    layers = []
    for i, fields in enumerate(meta["layers"], 1):
        layer = dict(fields)
        count = layer.pop("numWeights", 0)
        held = [arrays.get(f"in_l{i}_w{j}") for j in range(1, count + 1)]
        if count:
            layer["weights"] = [None if w is None else w.astype(dtype) for w in held]
        for key in ("class", "target", "instanceWeights"):
            if f"in_l{i}_{key}" in arrays:
                layer[key] = arrays[f"in_l{i}_{key}"]
        if layer["type"] == "custom":
            layer.update(forward=square, backward=square_backward)
        layers.append(layer)
    return graphc.SimpleNet(layers, version=version_of(meta))


def results_of(res: list[Result]) -> dict[str, Any]:
    """What is there, named as in the cases."""
    found: dict[str, Any] = {}
    for i, entry in enumerate(res, 1):
        found.update({f"x{i}": entry.x, f"dzdx{i}": entry.dzdx, f"aux{i}": entry.aux})
        found.update({f"l{i}_dzdw{j}": d for j, d in enumerate(entry.dzdw or [], 1)})
    return {key: value for key, value in found.items() if value is not None}


@pytest.mark.parametrize("conserve", [False, True], ids=["keep", "conserve"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", cases("simplenn"))
def test_simplenn(name: str, dtype: str, conserve: bool) -> None:
    meta, arrays = read(name)
    given = dict(zip(meta["args"][::2], meta["args"][1::2], strict=True))
    server = Server()
    options = {OPTIONS[k]: server if v == "object" else v for k, v in given.items()}
    x = arrays["in_x"].astype(dtype)
    net = simple_net(meta, arrays, dtype)
    forward = graphc.simplenn(net, x, conserve_memory=conserve, **options)
    compare(forward, meta, outputs(arrays, "x"), conserve and "forward")
    if "in_dzdy" not in arrays:
        return
    dzdy = arrays["in_dzdy"].astype(dtype)
    res = graphc.simplenn(net, x, dzdy, conserve_memory=conserve, **options)
    if "pushes" in meta:
        assert [key for key, _ in server.pushed] == meta["pushes"]
        close({f"push_{key}": value for key, value in server.pushed}, outputs(arrays, "push"), meta)
        assert not any(d is not None for entry in res for d in entry.dzdw or [])
        return
    compare(res, meta, outputs(arrays), conserve and "backward")


def compare(
    res: list[Result], meta: dict[str, Any], wanted: dict[str, np.ndarray], resident: str | bool
) -> None:
    """Values, and with conserve_memory that exactly those remain that MatConvNet keeps."""
    got = results_of(res)
    if resident and "resident" in meta:
        stays = meta["resident"][resident]
        kept = {f"{field}{i}" for field in ("x", "dzdx") for i in stays[field]}
        wanted = {k: v for k, v in wanted.items() if k in kept or "dzdw" in k}
        assert {key for key in got if "_" not in key} == kept
    elif "pushes" in meta:
        return
    else:
        assert set(got) == set(wanted)
    close(got, wanted, meta)


@pytest.mark.parametrize("name", cases("simplenn-model"))
def test_simplenn_model(name: str) -> None:
    meta, arrays = read(name)
    net = graphc.SimpleNet.load(FOLDER / meta["model"])
    assert [layer["type"] for layer in net.layers] == [layer["type"] for layer in meta["layers"]]
    assert "classes" in net.meta
    res = graphc.simplenn(net, arrays["in_x"].astype("float32"), mode="test")
    close(results_of(res), outputs(arrays, "x"), meta)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", cases("simplenn-accumulate"))
def test_simplenn_accumulate(name: str, dtype: str) -> None:
    meta, arrays = read(name)
    net = simple_net(meta, arrays, dtype)
    loss = len(net.layers)
    labels = arrays[f"in_l{loss}_class"]
    res, got = None, {}
    for k, part in enumerate(meta["parts"], 1):
        images = [i - 1 for i in part]
        net.layers[-1]["class"] = labels[:, images]
        x = arrays["in_x"][..., images].astype(dtype)
        res = graphc.simplenn(net, x, 1, res, accumulate=k > 1)
        found = results_of(res)
        got[f"objective_{k}"] = res[-1].x
        got.update({f"step{k}_{key}": value for key, value in found.items()})
        got.update(found)
    wanted = outputs(arrays)
    close(got, {k: v for k, v in wanted.items() if not k.startswith("whole")}, meta)


# -- DagNN ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("conserve", [False, True], ids=["keep", "conserve"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", cases("dagnn"))
def test_dagnn(name: str, dtype: str, conserve: bool) -> None:
    meta, arrays = read(name)
    net = graphc.DagNet.load(FOLDER / meta["model"], version=version_of(meta))
    for key, parameter in net.params.items():
        parameter.value = arrays[f"in_param_{key}"].astype(dtype)
    net.mode, net.conserve_memory = meta["mode"], conserve
    inputs = {variable: arrays[f"in_{variable}"].astype(dtype) for variable in meta["inputs"]}
    net.eval(inputs)
    compare_dag(net, meta, outputs(arrays, "var"), conserve and "forward")
    names = [seed["name"] for seed in meta["derOutputs"]]
    if names:
        net.eval(inputs, {n: arrays[f"in_der_{n}"].astype(dtype) for n in names})
        compare_dag(net, meta, outputs(arrays), conserve and "backward")


def compare_dag(
    net: Any, meta: dict[str, Any], wanted: dict[str, np.ndarray], resident: str | bool
) -> None:
    got = {f"var_{n}": v.value for n, v in net.vars.items()}
    got.update({f"der_{n}": v.der for n, v in net.vars.items()})
    got.update({f"pder_{n}": p.der for n, p in net.params.items()})
    got = {key: value for key, value in got.items() if value is not None}
    if resident:
        stays = meta["resident"][resident]
        kept = {f"var_{n}" for n in listed(stays["value"])}
        kept |= {f"der_{n}" for n in listed(stays["der"])}
        wanted = {k: v for k, v in wanted.items() if k in kept or k.startswith("pder")}
    assert set(got) == set(wanted)
    close(got, wanted, meta)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [n for n in cases("block") if n.startswith("l2loss")])
def test_l2loss(name: str, dtype: str) -> None:
    meta, arrays = read(name)
    net = graphc.DagNet()
    net.add_layer("l2", L2Loss(), ("x", "t"), "y")
    net.conserve_memory = False
    inputs = {key: arrays[f"in_{key}"].astype(dtype) for key in ("x", "t")}
    net.eval(inputs, {"y": arrays["in_dzdy"].astype(dtype)})
    close({"y": net.vars["y"].value, "dx": net.vars["x"].der}, outputs(arrays), meta)


def test_every_kind_of_case_is_run() -> None:
    """The blocks but for the last one above are functions: test_matconvnet_functions has them."""
    kinds = {read(path.stem)[0]["kind"] for path in Path(FOLDER).glob("*.npz")}
    every = {"block", "simplenn", "simplenn-model", "simplenn-accumulate", "dagnn"}
    assert {"block", "dagnn"} <= kinds <= every


# -- what the cases cannot ask --------------------------------------------------------------------


def real(*shape: int, seed: int = 0, dtype: str = "float64") -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def regression(**options: Any) -> Any:
    """A net with an L2 loss, as users build it."""
    net = graphc.DagNet()
    net.add_layer("conv8", Conv(size=(3, 3, 2, 5)), "input", "x8", ("conv8f", "conv8b"))
    net.add_layer("relu8", ReLU(**options), "x8", "drop8")
    block = Conv(size=(1, 1, 5, 1), has_bias=True, stride=1, pad=0)
    net.add_layer("fc9", block, "drop8", "prediction", ("conv10f", "conv10b"))
    net.add_layer("l2_loss", L2Loss(), ("prediction", "label"), "objective")
    for number, (name, shape) in enumerate(
        {"conv8f": (3, 3, 2, 5), "conv8b": (5,), "conv10f": (1, 1, 5), "conv10b": (1,)}.items()
    ):
        net.params[name].value = real(*shape, seed=number + 1)
    return net


def test_a_net_built_in_python_learns_a_regression() -> None:
    net = regression()
    x, t = real(3, 3, 2, 8), real(1, 8, seed=9)
    net.vars["prediction"].precious = True
    net.vars["objective"].precious = True
    net.eval({"input": x, "label": t}, {"objective": 1})
    objective = net.vars["objective"].value
    prediction = net.vars["prediction"].value
    np.testing.assert_allclose(objective.ravel(), (prediction.ravel() - t.ravel()) ** 2)
    der = net.vars["prediction"].der
    np.testing.assert_allclose(der.ravel(), 2 * (prediction.ravel() - t.ravel()))
    before = objective.sum()
    for parameter in net.params.values():
        parameter.value[...] -= 1e-3 * parameter.der
    net.eval({"input": x, "label": t})
    assert net.vars["objective"].value.sum() < before


def test_a_given_derivative_is_added_to_that_of_readers() -> None:
    net = regression()
    net.conserve_memory = False
    x, t = real(3, 3, 2, 4), real(1, 4, seed=9)
    net.eval({"input": x, "label": t}, {"objective": 1})
    alone = {name: p.der for name, p in net.params.items()}
    extra = real(1, 1, 1, 4, seed=3)
    net.eval({"input": x, "label": t}, {"prediction": extra})
    given = {name: p.der for name, p in net.params.items()}
    net.eval({"input": x, "label": t}, {"objective": 1, "prediction": extra})
    for name, parameter in net.params.items():
        np.testing.assert_allclose(parameter.der, alone[name] + given[name], rtol=1e-10)


def test_variables_that_are_equal_have_derivatives_of_their_own() -> None:
    net = graphc.DagNet()
    net.mode, net.conserve_memory = "test", False
    triple = Scale(size=(1, 1, 1, 1), has_bias=False)
    net.add_layer("drop", DropOut(), "x", "kept")
    for name in ("left", "right"):
        net.add_layer(name, ReLU(), "kept", name)
        net.add_layer(f"{name} end", triple, name, f"{name} out", "w")
    net.add_layer("end", triple, "x", "out", "w")
    net.params["w"].value = np.full((1, 1, 1, 1), 3.0)
    x = np.abs(real(2, 3, 4, 5)) + 1
    net.eval({"x": x}, {"left out": 1, "right out": 10, "out": 100})
    wanted = {"x": 333, "kept": 33, "left": 3, "right": 30}
    assert {name: np.unique(net.vars[name].der).tolist() for name in wanted} == {
        name: [number] for name, number in wanted.items()
    }


def test_a_layer_without_its_input_is_left_out() -> None:
    net = regression()
    net.eval({"input": real(3, 3, 2, 4)})
    assert net.vars["objective"].value is None
    assert net.vars["prediction"].value.shape == (1, 1, 1, 4)
    with pytest.raises(NetError, match="'objective', which this call does not compute"):
        net.eval({"input": real(3, 3, 2, 4)}, {"objective": 1})


def test_a_value_is_never_taken_from_a_layer_that_needs_it() -> None:
    """MatConvNet fails here: ReLU, executed last, frees what conv needs in backward."""
    net = graphc.DagNet()
    net.add_layer("fc", Conv(size=(1, 1, 2, 3)), "x", "a", ("w", "b"))
    net.add_layer("fc2", Conv(size=(1, 1, 3, 2), has_bias=False), "a", "c", "w2")
    net.add_layer("relu", ReLU(), "x", "r")
    net.add_layer("sum", Sum(), ("c", "r"), "y")
    net.init_params(seed=0)
    x = real(2, 2, 2, 1, dtype="float32")
    net.eval({"x": x}, {"y": 1})
    y, dw = vl.conv(x, net.params["w"].value, net.params["b"].value), net.params["w"].der
    (dy, _, _) = vl.conv(y, net.params["w2"].value, dzdy=np.ones((2, 2, 2, 1), "float32"))
    wanted = vl.conv(x, net.params["w"].value, net.params["b"].value, dzdy=dy)[1]
    np.testing.assert_allclose(dw, wanted, rtol=1e-5, atol=1e-6)


def test_accumulate_adds_until_it_is_off() -> None:
    net = regression()
    inputs = {"input": real(3, 3, 2, 4), "label": real(1, 4, seed=9)}
    net.eval(inputs, {"objective": 1})
    once = net.params["conv8f"].der
    net.accumulate = True
    net.eval(inputs, {"objective": 1})
    np.testing.assert_allclose(net.params["conv8f"].der, 2 * once)
    net.accumulate = False
    net.eval(inputs, {"objective": 1})
    np.testing.assert_allclose(net.params["conv8f"].der, once)


def test_conserved_memory_is_memory_not_used() -> None:
    sizes = {}
    for conserve in (True, False):
        net = graphc.DagNet()
        for i in range(6):
            net.add_layer(f"c{i}", Conv(size=(3, 3, 4, 4), pad=1), f"x{i}", f"y{i}", f"w{i}")
            net.add_layer(f"r{i}", ReLU(), f"y{i}", f"x{i + 1}")
        net.init_params(seed=0)
        net.conserve_memory = conserve
        net.eval({"x0": real(16, 16, 4, 2, dtype="float32")})
        (made,) = net._compiled.values()
        slots = sum(array.nbytes for array in made.call.arrays.values())
        sizes[conserve] = slots + made.call.program.arena_bytes
    assert sizes[True] < sizes[False] / 2


def test_loss_keeps_a_running_mean() -> None:
    net = graphc.DagNet()
    net.add_layer("loss", Loss(), ("scores", "label"), "objective")
    first, second = real(1, 1, 3, 4), real(1, 1, 3, 2, seed=1)
    net.eval({"scores": first, "label": [1, 2, 3, 1]})
    one = net.vars["objective"].value.item()
    net.eval({"scores": second, "label": [1, 0]})
    two = net.vars["objective"].value.item()
    assert net.layers["loss"].block.average == pytest.approx((one + two) / 6)
    net.reset()
    assert net.layers["loss"].block.average == 0
    with pytest.raises(NetError, match=r"layer 'loss' \(Loss\): label 4 is none of 0 .. 3"):
        net.eval({"scores": first, "label": [1, 2, 3, 4]})


def test_dropout_draws_anew_unless_frozen_and_rests_in_test_mode() -> None:
    net = graphc.DagNet()
    block = DropOut(rate=0.5)
    net.add_layer("drop", block, "x", "y")
    x = np.ones((10, 10, 2, 1), "float32")
    net.eval({"x": x}, {"y": 1})
    first, der = net.vars["y"].value, net.vars["x"].der
    net.conserve_memory = False
    net.eval({"x": x}, {"y": 1})
    first, der = net.vars["y"].value, net.vars["x"].der
    np.testing.assert_array_equal(first, der)
    assert set(np.unique(first)) == {0, 2}
    net.eval({"x": x})
    assert (net.vars["y"].value != first).any()
    block.frozen = True
    kept = net.vars["y"].value
    net.eval({"x": x})
    np.testing.assert_array_equal(net.vars["y"].value, kept)
    net.mode = "test"
    net.eval({"x": x}, {"y": 1})
    np.testing.assert_array_equal(net.vars["y"].value, x)
    np.testing.assert_array_equal(net.vars["x"].der, x)


def test_batch_normalisation_in_test_mode_has_its_own_derivative() -> None:
    net = graphc.DagNet()
    net.add_layer("bn", BatchNorm(num_channels=3), "x", "y", ("g", "b", "m"))
    assert net.params["m"].train_method == "average"
    net.init_params()
    g, sigma = real(3, seed=1), np.array([1.0, 2.0, 0.5])
    net.params["g"].value = g
    net.params["b"].value = real(3, seed=2)
    net.params["m"].value = np.stack([real(3, seed=3), sigma], 1)
    net.mode = "test"
    p = real(2, 2, 3, 2, seed=4)
    net.eval({"x": real(2, 2, 3, 2)}, {"y": p})
    np.testing.assert_allclose(net.vars["x"].der, p * (g / sigma)[:, None])
    assert net.params["m"].der is None


def test_blocks_with_several_inputs() -> None:
    net = graphc.DagNet()
    net.add_layer("pool", Pooling(pool_size=(2, 2), stride=2), "x", "p")
    net.add_layer("cat", Concat(dim=3), ("p", "q"), "y")
    net.conserve_memory = False
    x, q = real(4, 4, 2, 1), real(2, 2, 3, 1, seed=1)
    net.eval(["x", x, "q", q], ["y", 1])
    assert net.vars["y"].value.shape == (2, 2, 5, 1)
    np.testing.assert_array_equal(net.vars["q"].der, np.ones_like(q))
    assert net.vars["x"].der.sum() == 8


def test_an_l2_loss_without_its_factor_2_when_asked_for() -> None:
    x, t = real(1, 1, 2, 5), real(2, 5, seed=1)
    for half, factor in ((False, 2.0), (True, 1.0)):
        net = graphc.DagNet()
        net.add_layer("l2", L2Loss(half_gradient=half), ("x", "t"), "y")
        net.conserve_memory = False
        net.eval({"x": x, "t": t}, {"y": 3})
        difference = x - t.reshape(x.shape, order="F")
        np.testing.assert_allclose(net.vars["y"].value, difference**2, rtol=1e-12)
        np.testing.assert_allclose(net.vars["x"].der, 3 * factor * difference, rtol=1e-12)


def test_flattened_regions() -> None:
    x, rois = real(6, 6, 2, 2), np.array([[1, 2], [1, 2], [1, 1], [4, 6], [5, 6]], float)
    values = {}
    for flatten in (False, True):
        net = graphc.DagNet()
        block = ROIPooling(subdivisions=(3, 2), flatten=flatten)
        net.add_layer("roi", block, ("x", "rois"), "y")
        net.conserve_memory = False
        net.eval({"x": x, "rois": rois}, {"y": 1})
        values[flatten] = net.vars["y"].value, net.vars["x"].der
    assert values[True][0].shape == (1, 1, 12, 2)
    flat = values[False][0].reshape((1, 1, 12, 2), order="F")
    np.testing.assert_array_equal(values[True][0], flat)
    np.testing.assert_array_equal(values[True][1], values[False][1])


@dataclass
class Cube(Block):
    """x^3 times a factor."""

    factor: float = 1.0

    def build(self, x: list[Any], params: list[Any], around: Any) -> Any:
        return x[0] * x[0] * x[0] * self.factor


def test_a_block_of_the_users_own_gets_its_derivative() -> None:
    net = graphc.DagNet()
    net.add_layer("cube", Cube(factor=2.0), "x", "y")
    net.conserve_memory = False
    x = real(2, 3, 1, 2)
    net.eval({"x": x}, {"y": 1})
    np.testing.assert_allclose(net.vars["y"].value, 2 * x**3)
    np.testing.assert_allclose(net.vars["x"].der, 6 * x**2)
    net.layers["cube"].block.factor = 1.0  # compiled anew
    net.eval({"x": x})
    np.testing.assert_allclose(net.vars["y"].value, x**3)


def test_skip_forward_uses_the_same_masks() -> None:
    layers = [
        {"type": "conv", "weights": [real(3, 3, 2, 4), real(4)]},
        {"type": "dropout", "rate": 0.5},
        {"type": "relu", "leak": 0.1},
    ]
    net = graphc.SimpleNet(layers)
    x = real(6, 6, 2, 3)
    res = graphc.simplenn(net, x)
    again = graphc.simplenn(net, None, 1.0, res, skip_forward=True)
    mask, y = res[2].aux, vl.conv(x, *layers[0]["weights"])
    (slope,) = vl.relu(y * mask, leak=0.1, dzdy=1.0)
    wanted = vl.conv(x, *layers[0]["weights"], dzdy=slope * mask)
    np.testing.assert_allclose(again[0].dzdx, wanted[0], atol=1e-12)
    np.testing.assert_allclose(again[0].dzdw[1], wanted[2], atol=1e-12)
    np.testing.assert_array_equal(again[3].x, res[3].x)


def test_skip_forward_reads_the_values_in_res() -> None:
    filters, biases, last = real(3, 3, 2, 4), real(4), real(1, 1, 4, 3)
    layers = [
        {"type": "conv", "weights": [filters, biases]},
        {"type": "sigmoid"},
        {"type": "conv", "weights": [last, None]},
        {"type": "softmaxloss", "class": np.array([1, 2, 0])},
    ]
    net = graphc.SimpleNet(layers)
    res = graphc.simplenn(net, real(3, 3, 2, 3))
    res[1].x, res[2].x, res[3].x = (2 * res[i].x + 0.25 for i in (1, 2, 3))
    found = graphc.simplenn(net, None, 1.0, res, skip_forward=True)
    (slope,) = vl.softmaxloss(res[3].x, layers[3]["class"], dzdy=1.0)
    slope, dw, _ = vl.conv(res[2].x, last, None, dzdy=slope)
    np.testing.assert_allclose(found[2].dzdw[0], dw, atol=1e-12)
    (slope,) = vl.sigmoid(res[1].x, dzdy=slope)
    dx, dw, db = vl.conv(res[0].x, filters, biases, dzdy=slope)
    for got, wanted in ((found[0].dzdx, dx), (found[0].dzdw[0], dw), (found[0].dzdw[1], db)):
        np.testing.assert_allclose(got, wanted, atol=1e-12)
    for entry, before in zip(found, res, strict=True):
        np.testing.assert_array_equal(entry.x, before.x)


def test_skip_forward_of_a_relu_whose_input_was_let_go() -> None:
    net = graphc.SimpleNet([{"type": "relu", "leak": 0.5}, {"type": "sigmoid"}])
    x = real(2, 2, 1, 1)
    res = graphc.simplenn(net, x)
    wanted = graphc.simplenn(net, x, 1.0)
    res[0].x = None
    found = graphc.simplenn(net, None, 1.0, res, skip_forward=True)
    np.testing.assert_allclose(found[0].dzdx, wanted[0].dzdx, atol=1e-12)
    res[0].x, res[1].x = x, None
    with pytest.raises(graphc.NetError, match=r"needs res\[1\].x, the input of layer 'layer2'"):
        graphc.simplenn(net, None, 1.0, res, skip_forward=True)
    with pytest.raises(graphc.NetError, match="res has 2 entries; for 2 layers there are 3"):
        graphc.simplenn(net, None, 1.0, res[:2], skip_forward=True)


def test_skip_forward_stops_at_the_depth() -> None:
    net = graphc.SimpleNet([{"type": "relu"}, {"type": "sigmoid"}])
    res = graphc.simplenn(net, real(2, 2, 1, 1))
    res[0].x = None
    found = graphc.simplenn(net, None, 1.0, res, skip_forward=True, back_prop_depth=1)
    assert found[0].dzdx is None
    y = res[2].x
    np.testing.assert_allclose(found[1].dzdx, y * (1 - y), atol=1e-12)


def test_batch_moments_are_the_third_derivative() -> None:
    x = real(4, 4, 3, 5)
    layers = [{"type": "bnorm", "weights": [np.ones(3), np.zeros(3)], "epsilon": 1e-4}]
    for version, factor in (("beta25", 5), ("master", 1)):
        net = graphc.SimpleNet(layers, version=version)
        res = graphc.simplenn(net, x, 1.0)
        mean, deviation = x.mean((0, 1, 3)), np.sqrt(x.var((0, 1, 3)) + 1e-4)
        np.testing.assert_allclose(
            res[0].dzdw[2], factor * np.stack([mean, deviation], 1), rtol=1e-12
        )


def test_a_custom_layer_may_stand_in_the_middle() -> None:
    def triple(layer: Any, before: Result, after: Result) -> Result:
        after.x = layer["factor"] * before.x
        return after

    def triple_backward(layer: Any, before: Result, after: Result) -> Result:
        before.dzdx = layer["factor"] * after.dzdx
        return before

    custom = {"type": "custom", "forward": triple, "backward": triple_backward, "factor": 3.0}
    net = graphc.SimpleNet([{"type": "sigmoid"}, custom, {"type": "relu"}])
    x = real(3, 3, 1, 2)
    res = graphc.simplenn(net, x, 1.0)
    y = 1 / (1 + np.exp(-x))
    np.testing.assert_allclose(res[3].x, 3 * y)
    np.testing.assert_allclose(res[0].dzdx, 3 * y * (1 - y))
    assert all(entry.time >= 0 for entry in res) and res[0].backward_time > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: graphc.SimpleNet([{"type": "convv"}]), "type 'convv'.*did you mean 'conv'"),
        (lambda: graphc.SimpleNet([{"type": "pool"}]), "no field 'pool'"),
        (lambda: graphc.SimpleNet([{"type": "conv"}]), "0 weights; there are 2"),
        (
            lambda: graphc.simplenn(
                {"layers": [{"type": "conv", "name": "c1", "weights": [real(9, 9, 2, 1)]}]},
                real(4, 4, 2, 1),
            ),
            r"layer 'c1' \(Conv\).*does not fit",
        ),
        (lambda: graphc.simplenn({"layers": [{"type": "loss"}]}, real(1, 1, 2)), "'class'"),
        (lambda: regression().eval({"inputt": 1}), "did you mean 'input'"),
        (lambda: regression().vars["labels"], "did you mean 'label'"),
        (
            lambda: regression().add_layer("l2_loss", ReLU(), "a", "b"),
            "there is a layer 'l2_loss' already",
        ),
        (
            lambda: regression().add_layer("again", ReLU(), "a", "x8"),
            "'x8' is an output of layer 'conv8' too",
        ),
    ],
)
def test_what_cannot_be_is_refused(make: Any, message: str) -> None:
    with pytest.raises(NetError, match=message):
        make()


def test_unknown_blocks_of_a_file_are_named_all_at_once(tmp_path: Path) -> None:
    from scipy.io import savemat

    def layer(name: str, kind: str) -> dict[str, Any]:
        return {
            "name": name, "type": kind, "inputs": "x", "outputs": name, "params": [], "block": {}
        }  # fmt: skip

    kinds = [("a", "dagnn.ReLU"), ("b", "dagnn.RNN"), ("c", "dagnn.Convv")]
    layers = np.array([layer(*pair) for pair in kinds], dtype=object)
    savemat(tmp_path / "net.mat", {"layers": layers, "params": [], "vars": []})
    with pytest.raises(NetError, match=r"(?s)'b'.*'dagnn.RNN'.*'c'.*'dagnn.Convv'"):
        graphc.DagNet.load(tmp_path / "net.mat")


def test_files_that_hold_something_else(tmp_path: Path) -> None:
    from scipy.io import savemat

    savemat(tmp_path / "other.mat", {"a": 1})
    (tmp_path / "text.mat").write_text("no such thing")
    savemat(tmp_path / "simple.mat", {"layers": [{"type": "relu"}]})
    with pytest.raises(NetError, match=r"read it with graphc.SimpleNet.load"):
        graphc.DagNet.load(tmp_path / "simple.mat")
    for name, message in (("other", "there are no layers"), ("text", "no .mat file")):
        with pytest.raises(NetError, match=message):
            graphc.SimpleNet.load(tmp_path / f"{name}.mat")
    with pytest.raises(NetError, match="cannot read"):
        graphc.DagNet.load(tmp_path / "missing.mat")
