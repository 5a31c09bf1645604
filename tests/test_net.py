"""graphc.Net from the user's side: blobs, parameters, forward passes, shapes, memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deep_nets
import numpy as np
import pytest
from trunk_nets import (
    DATA,
    LABEL,
    LEARNED,
    LOSS,
    RNG,
    SCORES,
    SEED,
    close,
    parameter,
    scores,
    slope,
    training,
)

import graphc
from graphc.bench.net import prepare
from graphc.error import NetError
from graphc.frontends.caffe.filler import fill_in_place
from graphc.runtime.cpu import Executable

# -- what a net shows ------------------------------------------------------------------------------


def test_names_and_shapes() -> None:
    net = scores()
    assert net.name == "scores"
    assert net.inputs == ["data"]
    assert net.outputs == ["prob"]
    assert list(net.blobs) == ["data", "conv", "pool", "ip", "prob"]
    assert net.blobs["conv"].shape == (4, 5, 4, 4)
    assert {name: [p.shape for p in blobs] for name, blobs in net.params.items()} == {
        "conv": [(5, 3, 3, 3), (5,)],
        "ip": [(7, 20), (7,)],
    }
    assert training().outputs == ["loss", "zero"]


def test_source_is_a_path_or_a_text(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(SCORES)
    one_line = SCORES.replace("\n", " ")
    found = [graphc.Net(source).forward(data=DATA)["prob"] for source in (SCORES, path, one_line)]
    found.append(graphc.Net(str(path)).forward(data=DATA)["prob"])
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_forward_is_what_numpy_says() -> None:
    net = scores(dtype="float64", keep=["conv", "pool", "ip"])
    found = net.forward(data=DATA)
    weights, bias = (p.data for p in net.params["conv"])
    windows = np.lib.stride_tricks.sliding_window_view(DATA.astype(np.float64), (3, 3), (2, 3))
    conv = np.maximum(np.einsum("nchwyx,ocyx->nohw", windows, weights) + bias[:, None, None], 0)
    pool = conv.reshape(4, 5, 2, 2, 2, 2).mean(axis=(3, 5))
    ip = pool.reshape(4, 20) @ net.params["ip"][0].data.T + net.params["ip"][1].data
    prob = np.exp(ip) / np.exp(ip).sum(axis=1, keepdims=True)
    close(net.blobs["conv"].data, conv, 1e-12)
    close(net.blobs["pool"].data, pool, 1e-12)
    close(net.blobs["ip"].data, ip, 1e-12)
    close(found["prob"], prob, 1e-12)


def test_weights_by_seed_dict_and_path(tmp_path: Path) -> None:
    one, same, other = (scores(weights=f"random:{seed}") for seed in (3, 3, 4))
    assert np.array_equal(one.params["ip"][0].data, same.params["ip"][0].data)
    assert not np.array_equal(one.params["ip"][0].data, other.params["ip"][0].data)
    assert not one.params["ip"][1].data.any()
    one.save(tmp_path / "one.caffemodel")
    values = {layer: [p.data for p in blobs] for layer, blobs in one.params.items()}
    flat = {
        f"{layer}/{i}": array for layer, blobs in values.items() for i, array in enumerate(blobs)
    }
    wanted = one.forward(data=DATA)["prob"]
    for weights in (tmp_path / "one.caffemodel", str(tmp_path / "one.caffemodel"), values, flat):
        np.testing.assert_array_equal(scores(weights=weights).forward(data=DATA)["prob"], wanted)
    other.copy_from(tmp_path / "one.caffemodel")
    np.testing.assert_array_equal(other.forward(data=DATA)["prob"], wanted)


def test_weights_of_some_layers_leave_the_others() -> None:
    net = scores()
    held = net.params["conv"][0].data.copy()
    net.copy_from({"ip": [np.ones((7, 20)), np.zeros(7)], "stranger": [np.zeros(3)]})
    assert np.array_equal(net.params["conv"][0].data, held)
    assert (net.params["ip"][0].data == 1).all()


THREE = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "a" type: "InnerProduct" bottom: "data" top: "a" inner_product_param { num_output: 6
  weight_filler { type: "gaussian" sparse: 2 } bias_filler { type: "constant" value: 2 } } }
layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" inner_product_param { num_output: 5
  weight_filler { type: "positive_unitball" } bias_filler { type: "uniform" } } }
layer { name: "c" type: "InnerProduct" bottom: "b" top: "c" inner_product_param { num_output: 4
  weight_filler { type: "msra" } } }
"""


@pytest.mark.parametrize("loaded", ["a", "b", "c", "ab", "bc", "ac", "abc"])
def test_loaded_weights_leave_the_others_as_their_seed_fills_them(
    loaded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled: list[tuple[int, ...]] = []

    def noted(array: np.ndarray, filler: Any, generator: np.random.Generator) -> None:
        filled.append(array.shape)
        fill_in_place(array, filler, generator)

    monkeypatch.setattr("graphc.weights.fill_in_place", noted)
    whole = graphc.Net(THREE, seed=7)
    given = {layer: [np.full(p.shape, 3.0) for p in whole.params[layer]] for layer in loaded}
    everything = len(filled)
    net = graphc.Net(THREE, seed=7, weights=given)
    for layer, blobs in net.params.items():
        for blob, other in zip(blobs, whole.params[layer], strict=True):
            wanted = np.full(blob.shape, 3.0) if layer in loaded else other.data
            assert np.array_equal(blob.data, wanted)
    spared = {"a": 1, "b": 0, "c": 2, "ab": 1, "bc": 4, "ac": 3, "abc": 6}[loaded]
    assert len(filled) == everything + 6 - spared


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("sparse: 2", "sparse: 9", "'sparse' 9 is more than the 6 outputs"),
        ('"msra"', '"bilinear"', "bilinear needs a square 4-d blob"),
        ("num_output: 6", "num_output: 0", "num_output"),
    ],
)
def test_a_wrong_filler_is_refused_though_weights_are_loaded(
    old: str, new: str, message: str
) -> None:
    text = THREE.replace(old, new)
    for given in (None, "random:1"):
        with pytest.raises(NetError, match=message):
            graphc.Net(text, weights=given)


def test_double_weights_stay_exact() -> None:
    value = 1 / 3
    net = scores(dtype="float64")
    net.copy_from({"ip": [np.full((7, 20), value), np.zeros(7)]})
    assert net.params["ip"][0].data[0, 0] == value


def test_fillers_and_dropout_follow_the_seed() -> None:
    nets = [training(seed=seed) for seed in (5, 5, 6)]
    for net in nets:
        net.forward(data=DATA, label=LABEL)
    assert np.array_equal(nets[0].params["conv"][0].data, nets[1].params["conv"][0].data)
    assert not np.array_equal(nets[0].params["conv"][0].data, nets[2].params["conv"][0].data)
    assert nets[0].loss == nets[1].loss != nets[2].loss


def test_warns_of_weights_that_are_all_zero() -> None:
    text = SCORES.replace('num_output: 7 weight_filler { type: "xavier" }', "num_output: 7")
    with pytest.warns(graphc.NetWarning, match="layer 'ip': all its weights are zero"):
        graphc.Net(text)


# -- arrays ----------------------------------------------------------------------------------------


def test_arrays_of_inputs_outputs_and_parameters_are_stable() -> None:
    net = scores()
    weights, data = net.params["ip"][0].data, net.blobs["data"].data
    prob = net.forward(data=DATA)["prob"]
    gradient = net.backward(prob=SEED)["data"]
    diff, image_diff = net.params["ip"][0].diff, net.blobs["data"].diff
    assert gradient is image_diff
    net.clear_param_diffs()
    net.forward(data=2 * DATA)
    net.backward(prob=SEED, wrt=["data", "ip/0", "pool"])
    net.forward_backward({"data": DATA}, {"prob": SEED})
    assert net.params["ip"][0].data is weights
    assert net.blobs["data"].data is data
    assert net.blobs["prob"].data is prob
    assert net.params["ip"][0].diff is diff
    assert net.blobs["data"].diff is image_diff
    for array in (weights, data, prob, diff, image_diff):
        assert array.flags.c_contiguous


def test_values_written_in_place_are_seen() -> None:
    net, other = scores(), scores()
    net.blobs["data"].data[...] = DATA
    net.params["ip"][0].data[...] *= 2
    other.copy_from({"ip": [2 * other.params["ip"][0].data, other.params["ip"][1].data]})
    np.testing.assert_array_equal(net.forward()["prob"], other.forward(data=DATA)["prob"])
    net.blobs["prob"].diff[...] = SEED
    np.testing.assert_array_equal(net.backward()["data"], other.backward(prob=SEED)["data"])


def test_parameter_gradients_written_in_place_are_added_to() -> None:
    net, other = scores(), scores()
    net.params["ip"][1].diff[...] = 10
    for one in (net, other):
        one.forward(data=DATA)
        one.backward(prob=SEED)
    close(net.params["ip"][1].diff, other.params["ip"][1].diff + 10)


@pytest.mark.parametrize(
    "array",
    [
        np.ones((4, 3, 6, 6, 1, 1), np.float64),
        np.ones((4, 3, 6, 6), np.uint8),
        np.ones((4, 3, 6, 6), bool),
        np.ones((4, 3, 6, 6), np.float16),
        np.ones((4, 3, 6, 6), ">f4"),
        np.asfortranarray(np.ones((4, 3, 6, 6))),
        np.ones((8, 3, 6, 6))[::2],
        np.ones((4, 3, 6, 6)).tolist(),
    ],
    ids=["ones behind", "uint8", "bool", "half", "big-endian", "fortran", "strided", "list"],
)
def test_real_arrays_of_any_kind_are_taken(array: Any) -> None:
    net = scores()
    wanted = net.forward(data=np.ones((4, 3, 6, 6), np.float32))["prob"].copy()
    net.forward(data=DATA)
    np.testing.assert_array_equal(net.forward(data=array)["prob"], wanted)


def test_shared_parameters_are_one_array() -> None:
    layer = """
layer {{
  name: "{0}" type: "InnerProduct" bottom: "{1}" top: "{0}"
  param {{ name: "w" }} param {{ name: "b" }}
  inner_product_param {{ num_output: 4 weight_filler {{ type: "xavier" }} }}
}}"""
    text = 'force_backward: true input: "x" input_shape { dim: 2 dim: 4 }'
    net = graphc.Net(text + layer.format("one", "x") + layer.format("two", "one"), dtype="float64")
    assert net.params["one"][0].data is net.params["two"][0].data
    x = RNG.standard_normal((2, 4))
    seed = RNG.standard_normal((2, 4))

    def value() -> float:
        return float((net.forward(x=x)["two"] * seed).sum())

    wanted = slope(value, net.params["one"][0].data)
    net.forward(x=x)
    net.backward(two=seed)
    close(net.params["two"][0].diff, wanted, 1e-7)
    assert net.params["one"][0].diff is net.params["two"][0].diff


# -- what can be read ------------------------------------------------------------------------------


def test_an_overwritten_blob_names_keep() -> None:
    net = scores(phase=graphc.TRAIN)
    net.forward_backward({"data": DATA}, {"prob": SEED})
    lost = []
    for name in ("conv", "pool", "ip"):
        for read in (lambda b: b.data, lambda b: b.diff):
            try:
                read(net.blobs[name])
            except NetError as error:
                lost.append(name)
                assert "keep=" in str(error)
                assert name in str(error)
    assert lost


@pytest.mark.parametrize("memory", ["reuse", "all"])
def test_kept_blobs_and_gradients_can_be_read(memory: Any) -> None:
    names = ["conv", "pool", "ip"]
    keep = [] if memory == "all" else [*names, *[f"{name}.diff" for name in names]]
    kept, other = scores(memory=memory, keep=keep), scores()
    kept.forward_backward({"data": DATA}, {"prob": SEED})
    values = {name: kept.blobs[name].data.copy() for name in names}
    diffs = {name: kept.blobs[name].diff.copy() for name in names}
    other.forward(data=DATA)
    wanted = other.backward(prob=SEED, wrt=names)
    for name in names:
        np.testing.assert_array_equal(diffs[name], wanted[name])
        np.testing.assert_array_equal(values[name], other.forward(blobs=[name])[name])


def test_kept_gradients_are_those_of_the_last_pass() -> None:
    net = scores(keep=["ip.diff"])
    assert not net.blobs["ip"].diff.any()
    net.forward(data=DATA)
    net.backward(prob=SEED)
    once = net.blobs["ip"].diff.copy()
    assert once.any()
    net.backward(prob=2 * SEED)
    close(net.blobs["ip"].diff, 2 * once)


def test_what_a_user_looks_at_prints_on_a_line() -> None:
    net = scores()
    call = prepare(net, ["data"], ["prob"])
    made = net.compilation()
    assert made.executable is not None
    for shown in (net.definition, made.caffe, made.program, made.executable.bundle):
        assert len(repr(shown)) < 100
        assert net.name in repr(shown)
    assert len(repr(made.program.steps[0])) < 300
    assert len(repr(made)) < 2000
    assert len(repr(call)) < 2000
    assert repr(net.blobs["ip"]) == "<Blob 'ip' [4, 7]>"
    assert repr(net.params["ip"][1]) == "<ParameterBlob 'ip/1' [7]>"


@pytest.mark.parametrize("touched", [False, True])
def test_a_gradient_that_is_gone_is_never_shown_as_an_older_one(touched: bool) -> None:
    """Not the zeros from before, nor what an earlier call has left."""
    net = scores(phase=graphc.TRAIN)
    if touched:
        assert not net.blobs["ip"].diff.any()
    net.forward(data=DATA)
    if touched:
        net.backward(prob=2 * SEED, wrt=["ip"])
        assert net.blobs["ip"].diff.any()
    net.backward(prob=SEED, wrt=["data"])
    with pytest.raises(NetError, match=r"keep='ip\.diff'"):
        _ = net.blobs["ip"].diff
    net.forward()
    net.blobs["ip"].diff[...] = 1  # may be written for the next call again


def test_one_name_may_stand_alone() -> None:
    net = scores(keep="ip")
    net.forward(data=DATA)
    net.backward(prob=SEED)
    assert net.blobs["ip"].data.shape == (4, 7)


def test_a_blob_in_place_shows_its_last_value() -> None:
    net = scores(keep=["conv"])
    net.forward(data=DATA)
    assert (net.blobs["conv"].data >= 0).all()


PREPARED = """force_backward: true
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "twice" type: "Power" bottom: "data" top: "data" power_param { scale: 2 } }
layer { name: "raised" type: "Power" bottom: "data" top: "data" power_param { shift: 1 } }
"""

READ = 'layer { name: "ip" type: "Power" bottom: "data" top: "y" }\n'


def test_an_input_that_layers_work_on_in_place_comes_out_as_they_left_it() -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    net = graphc.Net(PREPARED, threads=1)
    for _ in range(2):
        close(net.forward(data=x)["data"], 2 * x + 1)
    close(net.results()["data"], 2 * x + 1)
    close(net.backward(data=np.ones((2, 3)))["data"], np.full((2, 3), 2.0))
    close(net.blobs["data"].data, x)  # what the next call reads
    inner = graphc.Net(PREPARED + READ, threads=1, keep=["data"])
    close(inner.forward(blobs=["data"], data=x)["data"], 2 * x + 1)
    close(inner.forward(end="raised", data=x)["data"], 2 * x + 1)


# -- shapes ----------------------------------------------------------------------------------------


def test_reshape_and_back() -> None:
    net = scores()
    wanted = net.forward(data=DATA)["prob"].copy()
    gradient = net.backward(prob=SEED)["data"].copy()
    net.blobs["data"].reshape(1, 3, 6, 6)
    assert net.blobs["data"].shape == (1, 3, 6, 6)
    net.reshape()
    assert net.blobs["prob"].shape == (1, 7)
    single = net.forward(data=DATA[2:3])["prob"]
    np.testing.assert_allclose(single, wanted[2:3], rtol=1e-5)
    found = net.backward(prob=SEED[2:3])["data"]
    close(found, gradient[2:3], 1e-5)
    net.blobs["data"].reshape(4, 3, 6, 6)  # without net.reshape(): forward follows suit
    np.testing.assert_array_equal(net.forward(data=DATA)["prob"], wanted)


def test_a_reshape_that_does_not_fit_is_refused_and_forgotten() -> None:
    net = scores()
    wanted = net.forward(data=DATA)["prob"].copy()
    net.blobs["data"].reshape(4, 3, 9, 9)
    with pytest.raises(NetError, match="parameter 'ip/0'"):
        net.reshape()
    assert net.blobs["data"].shape == (4, 3, 6, 6)
    np.testing.assert_array_equal(net.forward()["prob"], wanted)


def test_shapes_when_the_net_is_made() -> None:
    net = scores(shapes={"data": (2, 3, 6, 6)})
    assert net.forward(data=DATA[:2])["prob"].shape == (2, 7)


# -- choices of the constructor --------------------------------------------------------------------


def run_all(net: graphc.Net) -> Iterator[np.ndarray]:
    net.forward(data=DATA, label=LABEL)
    yield np.array(net.loss)
    yield net.backward(wrt=["data"])["data"]
    net.backward(wrt=LEARNED)
    for name in LEARNED:
        yield parameter(net, name).diff


@pytest.mark.parametrize(
    "options",
    [{"memory": "all"}, {"threads": 2}, {"fuse": False}, {"keep": ["conv", "pool.diff"]}],
    ids=["memory all", "two threads", "not fused", "keep"],
)
def test_choices_do_not_change_the_numbers(options: dict[str, Any]) -> None:
    usual = training(threads=1)
    other = training(**{"threads": 1, **options})
    for got, wanted in zip(run_all(other), run_all(usual), strict=True):
        close(got, wanted, 2e-6)


def test_memory_all_gives_the_same_bits() -> None:
    for got, wanted in zip(run_all(training(memory="all")), run_all(training()), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_float32_is_close_to_float64() -> None:
    double = training(dtype="float64")
    single = training(weights={n: [p.data for p in b] for n, b in double.params.items()})
    for got, wanted in zip(run_all(single), run_all(double), strict=True):
        assert wanted.dtype == np.float64
        close(got, wanted, 1e-5)


def test_two_nets_side_by_side() -> None:
    alone = [list(map(np.copy, run_all(training(seed=seed)))) for seed in (1, 2)]
    nets = [training(seed=seed) for seed in (1, 2)]
    for got in zip(run_all(nets[0]), run_all(nets[1]), alone[0], alone[1], strict=True):
        np.testing.assert_array_equal(got[0], got[2])
        np.testing.assert_array_equal(got[1], got[3])


def test_dropout_works_in_training_alone() -> None:
    train, test = training(), graphc.Net(LOSS)
    test.copy_from({n: [p.data for p in b] for n, b in train.params.items()})
    losses = set()
    for _ in range(2):
        train.forward(data=DATA, label=LABEL)
        test.forward(data=DATA, label=LABEL)
        losses.add(test.loss)
        assert train.loss != test.loss
    assert len(losses) == 1


def test_an_input_that_nobody_reads_is_an_output() -> None:
    text = """force_backward: true input: "x" input: "spare"
    input_shape { dim: 2 dim: 3 } input_shape { dim: 5 }
    layer { name: "r" type: "ReLU" bottom: "x" top: "y" }
    """
    net = graphc.Net(text)
    found = net.forward(x=[[1, -2, 3], [4, 5, -6]], spare=range(5))
    assert found["spare"].tolist() == [0, 1, 2, 3, 4]
    gradients = net.backward(y=np.full((2, 3), 7), wrt=["x", "y"])
    assert gradients["y"].tolist() == [[7, 7, 7], [7, 7, 7]]
    assert gradients["x"].tolist() == [[7, 0, 7], [7, 7, 0]]


def test_a_blob_may_be_called_anything() -> None:
    text = """input: "x" input: "label" input_shape { dim: 2 dim: 3 } input_shape { dim: 2 }
    layer { name: "loss.0~loss" type: "Power" bottom: "x" top: "loss.0" power_param { scale: 5 } }
    layer { name: "wrt" type: "SoftmaxWithLoss" bottom: "x" bottom: "label" top: "start" }
    layer { name: "threads" type: "ReLU" bottom: "x" top: "loss.0~loss" }
    layer { name: "x.diff" type: "ReLU" bottom: "x" top: "x.out" }
    """
    net = graphc.Net(text)
    found = net.forward(x=np.ones((2, 3)), label=[0, 1])
    assert (found["loss.0"] == 5).all()
    assert (found["loss.0~loss"] == 1).all()
    assert net.loss == pytest.approx(np.log(3), rel=1e-6)
    assert float(found["start"]) == pytest.approx(np.log(3), rel=1e-6)


def test_forward_is_run_once_for_each_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while gradients add up, and where a blob is wanted beside the outputs."""
    calls: list[str] = []
    run = Executable.call

    def counted(self: Executable, what: str = "forward", threads: int = 1) -> None:
        calls.append(what)
        run(self, what, threads)

    monkeypatch.setattr(Executable, "call", counted)
    net = training()
    for wanted in ((), (), ("pool",)):
        net.forward(data=DATA, label=LABEL, blobs=wanted)
        net.backward()
    assert calls == 3 * ["forward", "backward"]
    net.clear_param_diffs()
    net.forward_backward()
    assert calls[6:] == ["both"]


def test_programs_of_one_net_share_their_working_memory() -> None:
    """Adding to gradients and overwriting them are two programs; so is a call that keeps more."""
    source = deep_nets.resnet(2, 32, (1, 1), 4)
    data = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    inputs = {"data": data, "label": np.array([3, 5], np.float32)}

    def gradients(net: graphc.Net) -> list[np.ndarray]:
        return [blob.diff.copy() for blobs in net.params.values() for blob in blobs]

    net = graphc.Net(source, phase=graphc.TRAIN, weights="random:1", threads=1)
    net.forward_backward(inputs)
    once = gradients(net)
    kept = net.forward(blobs=["res2a"])["res2a"].copy()
    net.backward()
    twice = gradients(net)
    made = [m.executable for m in net.compilations.made.values() if m.executable]
    assert len(made) >= 2
    assert len({executable.arena.ctypes.data for executable in made}) == 1
    assert max(e.bundle.arena_bytes for e in made) == made[0].working_memory.of(0).base.size - 64
    assert np.any(kept)
    for first, second in zip(once, twice, strict=True):
        np.testing.assert_allclose(second, 2 * first, rtol=1e-6)
