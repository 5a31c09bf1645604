"""Training: Caffe's own runs, and every method against its formula on a least-squares problem."""

from __future__ import annotations

import json
import math
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import cases_folder

import graphc
from graphc import driver
from graphc.error import NetError
from graphc.runtime.cpu import Executable

FOLDER = cases_folder() / "caffe"
RESULTS: Counter[str] = Counter()


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


def cases() -> list[str]:
    return [path.stem for path in sorted((FOLDER / "solvers").glob("*.npz"))]


@pytest.mark.parametrize("name", cases())
def test_case(name: str) -> None:
    RESULTS["ran"] += 1
    meta, arrays = read(FOLDER / "solvers" / f"{name}.npz")
    solver = make(FOLDER / "solvers" / meta["solver_file"])
    for key, value in chosen(arrays, "param@0/").items():
        parameter(solver, key)[...] = value
    solver.net.set_inputs(chosen(arrays, "in/"))
    if "memory/data" in arrays:
        solver.net.set_input_arrays(arrays["memory/data"], arrays["memory/label"])
    for number in range(meta["steps"]):
        solver.net.set_inputs(chosen(arrays, f"in@{number}/"))
        if meta["learning_rates"]:
            close(solver.learning_rate, meta["learning_rates"][number], EXACT, "rate")
        solver.step(1)
        close(solver.net.loss, meta["losses"][number], meta["tolerance"], f"loss {number}")
        for key, wanted in chosen(arrays, f"param@{number + 1}/").items():
            what = f"{key} after {number + 1}"
            close(parameter(solver, key), wanted, meta["tolerance"], what)
    assert solver.iter == meta["steps"]
    RESULTS["passed"] += 1


EXACT = {"rtol": 1e-6, "atol": 0.0}


def test_counts(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\nsolver cases: {dict(RESULTS)}")
    assert RESULTS["passed"] == RESULTS["ran"]


# -- definitions that are refused ------------------------------------------------------------------

ERRORS: dict[str, tuple[str, tuple[str, ...]]] = {
    "err_solver_no_net": ("1:1", ("no net to train", "net_param", "train_net")),
    "err_solver_policy": ("1:25", ("unknown learning rate policy 'linear'", "fixed, step")),
    "err_solver_type": ("1:7", ("unknown solver type 'LBFGS'", "AdaDelta")),
}


@pytest.mark.parametrize("path", sorted((FOLDER / "errors").glob("*solver*.json")), ids=str)
def test_recorded_error(path: Path) -> None:
    recorded = json.loads(path.read_text())
    source = path.parent / recorded["file"]
    stage = "build"
    with pytest.raises(NetError) as raised:
        solver = make(source)
        stage = "step"
        solver.step()
    assert stage == recorded["stage"]
    text = str(raised.value)
    place, words = ERRORS.get(path.stem, ("", ()))
    assert text.startswith(f"{source}:{place}"), text
    assert all(word in text for word in words), text


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

# name -> fields, the text that the complaint points to, words it must hold.
REFUSED = {
    "two types": ('type: "SGD" solver_type: SGD', "solver_type", "type or the older solver_type"),
    "momentum": ('type: "AdaGrad" momentum: 0.9', "0.9", "AdaGrad has no momentum"),
    "rms_decay": ('type: "RMSProp" rms_decay: 1.5', "1.5", "rms_decay .* below 1"),
    "adam": ('type: "Adam" momentum: 1.5', "1.5", "momentum .* below 1"),
    "near type": ('type: "Adamm"', '"Adamm"', "did you mean 'Adam'"),
    "iter_size": ("iter_size: 0", "0", "iter_size must be at least 1, not 0"),
    "average_loss": ("average_loss: 0", "0", "average_loss must be at least 1"),
    "two nets": ('net: "a"', "net_param", "twice, by net and net_param"),
    "test_iter": ("test_iter: 3", "test_iter", "test_interval must be at least 1"),
    "passes": ("test_iter: -1 test_interval: 1", "-1", "test_iter must be at least 0"),
    "test nets": ('test_net: "a"', "test_net", "1 test nets and 0 test_iter"),
    "field": ("momentun: 0.9", "momentun", "did you mean 'momentum'"),
    "number": ('momentum: "a"', '"a"', "momentum"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_definitions_are_refused_at_their_place(name: str) -> None:
    fields, where, words = REFUSED[name]
    text = least_squares(f"{fields} {FIXED}")
    with pytest.raises(NetError, match=words) as raised:
        make(text)
    column = text.index(where) + 1
    assert str(raised.value).startswith(f"<text>:1:{column}: error: "), raised.value


RATES_REFUSED = {
    "step": ('base_lr: 1 lr_policy: "step" gamma: 0.1', '"step"', "needs a stepsize of at least 1"),
    "poly": ('base_lr: 1 lr_policy: "poly" power: 1', '"poly"', "needs a max_iter of at least 1"),
    "gamma": ('base_lr: 1 lr_policy: "exp" gamma: -1', "-1", "gamma must be at least 0"),
    "none": ("base_lr: 1", "base_lr", "no lr_policy"),
    "near": ('base_lr: 1 lr_policy: "multi_step"', '"multi', "did you mean 'multistep'"),
    "norm": (f'{FIXED} weight_decay: 1 regularization_type: "L3"', '"L3"', "type 'L3'"),
}


@pytest.mark.parametrize("name", RATES_REFUSED)
def test_wrong_rates_are_warned_of_and_refused_by_the_first_step(name: str) -> None:
    settings, where, words = RATES_REFUSED[name]
    text = least_squares(settings)
    with pytest.warns(graphc.NetWarning, match=words):
        solver = graphc.Solver(text)
    before = solver.net.params["fc"][0].data.copy()
    with pytest.raises(NetError, match=words) as raised:
        solver.step()
    np.testing.assert_array_equal(solver.net.params["fc"][0].data, before)
    assert str(raised.value).startswith(f"<text>:1:{text.index(where) + 1}: error: "), raised.value


def test_a_policy_that_ends() -> None:
    solver = make(least_squares('base_lr: 1 lr_policy: "poly" power: 0.5 max_iter: 1'))
    with pytest.raises(NetError, match="iteration 2; the last is 1"):
        solver.step(3)
    assert solver.iter == 2


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ('lr_policy: "step" stepsize: 2', "'step' without gamma: the rate becomes 0"),
        ('lr_policy: "inv" gamma: 1', "'inv' without power: the rate never changes"),
        ('lr_policy: "multistep" gamma: 0.1', "without a stepvalue: the rate never changes"),
    ],
)
def test_a_rate_that_does_nothing_is_warned_of(fields: str, words: str) -> None:
    with pytest.warns(graphc.NetWarning, match=words):
        graphc.Solver(least_squares(f"base_lr: 1 {fields}"))


def test_everything_wrong_is_said_at_once(tmp_path: Path) -> None:
    """In the solver and in its nets, each once."""
    (tmp_path / "net.prototxt").write_text('layer { name: "x" type: "Inputt" top: "x" }\n')
    path = tmp_path / "a.prototxt"
    path.write_text(
        'net: "net.prototxt"\nlr_policy: "stp"\niter_size: 0\n'
        'test_net: "absent.prototxt"\ntest_iter: [1, 1]\ntest_interval: 5\n'
    )
    with pytest.raises(NetError) as raised:
        make(path)
    places = [str(d.span) for d in raised.value.diagnostics]
    wanted = [f"{path}:2:12", f"{path}:3:12", f"{tmp_path / 'net.prototxt'}:1:25", f"{path}:4:11"]
    assert places == wanted, raised.value


def test_errors_of_the_net_have_their_places(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text('layer { name: "x" type: "Inputt" top: "x" }\n')
    path = tmp_path / "a.prototxt"
    path.write_text(f'{FIXED}\nnet: "net.prototxt"\n')
    with pytest.raises(NetError, match="unknown layer type 'Inputt'") as raised:
        make(path)
    assert str(raised.value).startswith(f"{tmp_path / 'net.prototxt'}:1:25: error: ")
    path.write_text(f'{FIXED}\nnet: "absent.prototxt"\n')
    with pytest.raises(NetError, match="cannot read") as raised:
        make(path)
    assert str(raised.value).startswith(f"{path}:2:6: error: ")


RATES = {
    "inv": ("gamma: 0.5 power: 2", 0.2 / (1 + 0.5 * 6) ** 2),
    "sigmoid": ("gamma: 0.5 stepsize: 4", 0.2 / (1 + math.exp(-0.5 * (6 - 4)))),
    "poly": ("power: 0.5 max_iter: 8", 0.2 * math.sqrt(1 - 6 / 8)),
    "exp": ("gamma: 0.9", 0.2 * 0.9**6),
    "step": ("gamma: 0.5 stepsize: 3", 0.2 * 0.5**2),
    "fixed": ("", 0.2),
    "multistep": ("gamma: 0.5 stepvalue: [2, 3, 7]", 0.2 * 0.5**2),
}


@pytest.mark.parametrize("policy", RATES)
def test_rate_policy(policy: str) -> None:
    fields, wanted = RATES[policy]
    solver = make(least_squares(f'base_lr: 0.2 lr_policy: "{policy}" {fields}'))
    solver.step(6)
    assert solver.learning_rate == pytest.approx(wanted, rel=1e-12)


def test_sigmoid_is_zero_long_before_its_step() -> None:
    fields = 'base_lr: 0.2 lr_policy: "sigmoid" gamma: 1 stepsize: 100000'
    assert make(least_squares(fields)).learning_rate == 0.0


# -- methods against their formulas ----------------------------------------------------------------


class Reference:
    """Updates of one parameter in float64, straight from the formulas."""

    def __init__(self, method: str, w: np.ndarray, **settings: float):
        self.method = method
        self.w = w.astype(np.float64)
        self.first = np.zeros_like(self.w)
        self.second = np.zeros_like(self.w)
        self.settings = settings
        self.count = 0

    def update(self, g: np.ndarray, rate: float) -> None:
        mu = self.settings.get("momentum", 0.0)
        delta = self.settings.get("delta", 1e-8)
        self.count += 1
        if self.method == "SGD":
            self.first = mu * self.first + rate * g
            change = self.first
        elif self.method == "Nesterov":
            old, self.first = self.first, mu * self.first + rate * g
            change = self.first + mu * (self.first - old)
        elif self.method == "AdaGrad":
            self.first = self.first + g**2
            change = rate * g / (self.first**0.5 + delta)
        elif self.method == "RMSProp":
            decay = self.settings.get("rms_decay", 0.99)
            self.first = decay * self.first + (1 - decay) * g**2
            change = rate * g / (self.first**0.5 + delta)
        elif self.method == "AdaDelta":
            self.first = mu * self.first + (1 - mu) * g**2
            step = g * np.sqrt(self.second + delta) / np.sqrt(self.first + delta)
            self.second = mu * self.second + (1 - mu) * step**2
            change = rate * step
        else:
            mu2 = self.settings.get("momentum2", 0.999)
            self.first = mu * self.first + (1 - mu) * g
            self.second = mu2 * self.second + (1 - mu2) * g**2
            correction = math.sqrt(1 - mu2**self.count) / (1 - mu**self.count)
            change = rate * correction * self.first / (self.second**0.5 + delta)
        self.w = self.w - change


METHODS: dict[str, dict[str, float]] = {
    "SGD": {"momentum": 0.9},
    "Nesterov": {"momentum": 0.9},
    "AdaGrad": {"delta": 1e-3},
    "RMSProp": {"rms_decay": 0.9, "delta": 1e-3},
    "AdaDelta": {"momentum": 0.95, "delta": 1e-3},
    "Adam": {"momentum": 0.9, "momentum2": 0.99, "delta": 1e-3},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "decay": {"weight_decay": 0.3},
    "decay L1": {"weight_decay": 0.3, "regularization_type": "L1"},
    "clipped": {"clip_gradients": 0.5},
    "not clipped": {"clip_gradients": 1e6},
    "several passes": {"iter_size": 3},
    "everything": {"weight_decay": 0.2, "clip_gradients": 1.0, "iter_size": 2},
}


def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return rng.standard_normal((6, 4)), rng.standard_normal((6, 3))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("method", METHODS)
def test_method_on_least_squares(method: str, variant: str) -> None:
    """Both parameters, with rates and decays of their own, on a new batch at every pass."""
    settings, more = METHODS[method], VARIANTS[variant]
    fields = {"type": method, **settings, **more}
    text = " ".join(f"{k}: {json.dumps(v)}" for k, v in fields.items())
    policy = 'base_lr: 0.1 lr_policy: "inv" gamma: 0.5 power: 1'
    param = "param { lr_mult: 1 decay_mult: 2 } param { lr_mult: 3 decay_mult: 0 }"
    solver = make(least_squares(f"{policy} {text}", param), dtype="float64")
    held = solver.net.params["fc"]
    wanted = [Reference(method, blob.data, **settings) for blob in held]
    passes = more.get("iter_size", 1)
    batches = [draw(rng) for rng in np.random.default_rng(1).spawn(4 * passes)]
    served = iter(batches)

    def feed() -> dict[str, np.ndarray]:
        x, t = next(served)
        return {"x": x, "t": t}

    for iteration in range(4):
        gradients = [np.zeros((3, 4)), np.zeros(3)]
        loss = 0.0
        for x, t in batches[iteration * passes : (iteration + 1) * passes]:
            rest = x @ wanted[0].w.T + wanted[1].w - t
            gradients[0] += rest.T @ x / 6
            gradients[1] += rest.sum(0) / 6
            loss += (rest**2).sum() / 12 / passes
        norm = math.sqrt(sum((g**2).sum() for g in gradients))
        limit = more.get("clip_gradients", math.inf)
        shrink = limit / norm if norm > limit else 1.0
        for g, reference, lr_mult, decay_mult in zip(
            gradients, wanted, (1, 3), (2, 0), strict=True
        ):
            decay = more.get("weight_decay", 0.0) * decay_mult
            penalty = np.sign(reference.w) if "regularization_type" in more else reference.w
            rate = 0.1 / (1 + 0.5 * iteration) * lr_mult
            reference.update(g * shrink / passes + decay * penalty, rate)
        assert solver.step(feed=feed) == pytest.approx(loss, rel=1e-9)
        for blob, reference in zip(held, wanted, strict=True):
            np.testing.assert_allclose(blob.data, reference.w, rtol=1e-9, atol=1e-12)
    kept = [
        history for set_ in ("first", "second") for history in (getattr(w, set_) for w in wanted)
    ]
    for got, history in zip(solver.net.histories(), kept, strict=False):
        np.testing.assert_allclose(got, history, rtol=1e-9, atol=1e-12)


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
MOVES = {"conv/0": 1.0, "conv/1": 1.0, "scale/0": 1.0, "scale/1": 1.0, "prelu/0": 1.0}
MOVES |= {"again/1": 2.0, "fc/0": 1.0, "fc/1": 1.0}


def image_batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {"x": rng.standard_normal((3, 4, 9, 8)), "t": np.array([0.0, 3.0, 1.0])}


def test_the_options_of_a_net_reach_every_net_of_a_solver() -> None:
    settings = f"{FIXED} net_param {{ {IMAGES} }} test_iter: 1 test_interval: 9"
    options = {"exact": True, "fuse": False, "infogain_input": "probabilities"}
    solver = make(settings, blockwise_loss=True, **options)
    for net in (solver.net, *solver.test_nets):
        signature = net.compilations.base
        assert {name: getattr(signature, name) for name in options} == options
        assert signature.blockwise_loss
    assert make(settings, fast_math="winograd4").net.compilations.base.fast_math == ("winograd4",)
    with pytest.raises(NetError, match="exclude each other"):
        make(settings, exact=True, fast_math=["winograd4"])


@pytest.mark.parametrize("threads", [1, 2])
def test_a_step_is_the_gradient_and_the_formula(threads: int) -> None:
    """A net with convolutions, statistics and dropout; the plain net gives the gradients."""
    settings = f"{FIXED} momentum: 0.9 weight_decay: 0.01 random_seed: 5"
    solver = make(f"{settings} net_param {{ {IMAGES} }}", dtype="float64", threads=threads)
    net = graphc.Net(IMAGES, phase=graphc.TRAIN, dtype="float64", threads=threads, seed=5)
    references = {}
    for layer, blobs in net.params.items():
        for index, blob in enumerate(blobs):
            np.testing.assert_array_equal(blob.data, solver.net.params[layer][index].data)
            references[f"{layer}/{index}"] = Reference("SGD", blob.data, momentum=0.9)
    solver.net.set_inputs(image_batch())
    for _ in range(3):
        net.clear_param_diffs()
        net.forward(**image_batch())
        net.backward()
        solver.step()
        assert solver.net.loss == pytest.approx(net.loss, rel=1e-9)
        for key, factor in MOVES.items():
            layer, index = key.split("/")
            blob, reference = net.params[layer][int(index)], references[key]
            reference.update(blob.diff + 0.01 * reference.w, 0.1 * factor)
            blob.data[...] = reference.w
        for layer, blobs in net.params.items():
            for index, blob in enumerate(blobs):
                got = solver.net.params[layer][index].data
                np.testing.assert_allclose(got, blob.data, rtol=1e-8, atol=1e-10)
    assert solver.net.params["bn"][2].data[0] > 2  # the calls renewed it, no update moved it


# -- one native call -------------------------------------------------------------------------------


def test_a_step_is_one_native_call_and_compiles_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    compiled: list[object] = []
    call, compile_net = Executable.call, driver.compile_net

    def counted_call(self: Executable, what: str, threads: int) -> None:
        calls.append(what)
        call(self, what, threads)

    def counted_compile(*arguments: Any) -> Any:
        compiled.append(arguments)
        return compile_net(*arguments)

    monkeypatch.setattr(Executable, "call", counted_call)
    monkeypatch.setattr(driver, "compile_net", counted_compile)
    solver = make(least_squares('base_lr: 0.1 lr_policy: "exp" gamma: 0.5 type: "Adam"'))
    solver.net.step()
    solver.net.step()
    assert calls == ["both", "both"]
    assert len(compiled) == 1
    assert solver.iter == 2
    several = make(least_squares(f"{FIXED} iter_size: 4"))
    several.step()
    assert len(calls) == 2 + 4
    assert len(compiled) == 1 + 2


def test_gradients_are_consumed_where_they_are_made() -> None:
    """The weights' gradient, the largest array of the net, is nowhere in memory."""
    wide = LEAST_SQUARES.replace("dim: 4", "dim: 5000").replace("PARAM", "")
    for method, settings in METHODS.items():
        fields = " ".join(f"{k}: {v}" for k, v in settings.items())
        solver = make(
            f'{FIXED} type: "{method}" {fields} weight_decay: 0.1 net_param {{ {wide} }}\n'
        )
        solver.step()
        assert solver.net.compilation().program.memory.peak < 3 * 5000 * 4


def test_a_refused_input_changes_nothing() -> None:
    solver = make(f"{FIXED} momentum: 0.9 net_param {{ {IMAGES} }}")
    solver.net.set_inputs({**image_batch(), "t": np.array([0.0, 7.0, 1.0])})
    before = {n: [b.data.copy() for b in blobs] for n, blobs in solver.net.params.items()}
    with pytest.raises(NetError, match=r"label.* not within 0 \.\. 3"):
        solver.step()
    assert solver.iter == 0
    for name, blobs in solver.net.params.items():
        for old, blob in zip(before[name], blobs, strict=True):
            np.testing.assert_array_equal(blob.data, old)
    assert not any(history.any() for history in solver.net.histories())


def test_the_net_can_be_used_between_steps() -> None:
    solver = make(least_squares(f"{FIXED} momentum: 0.9"), dtype="float64")
    twin = make(least_squares(f"{FIXED} momentum: 0.9"), dtype="float64")
    x, t = draw(np.random.default_rng(2))
    for one in (solver, twin):
        one.net.set_inputs({"x": x, "t": t})
        one.step()
    solver.net.forward()
    solver.net.backward()
    rest = x @ solver.net.params["fc"][0].data.T + solver.net.params["fc"][1].data - t
    np.testing.assert_allclose(solver.net.params["fc"][0].diff, rest.T @ x / 6, rtol=1e-9)
    solver.step(2)
    twin.step(2)
    np.testing.assert_array_equal(solver.net.params["fc"][0].data, twin.net.params["fc"][0].data)


def test_a_parameter_that_no_loss_reaches_still_decays() -> None:
    text = LEAST_SQUARES.replace("PARAM", "") + (
        'layer { name: "idle" type: "InnerProduct" bottom: "x" top: "z" inner_product_param'
        ' { num_output: 2 weight_filler { type: "gaussian" } } }\n'
    )
    solver = make(f"{FIXED} weight_decay: 0.5 net_param {{ {text} }}", dtype="float64")
    before = solver.net.params["idle"][0].data.copy()
    solver.step()
    np.testing.assert_allclose(solver.net.params["idle"][0].data, before * 0.95, rtol=1e-12)


# -- what the definition says besides --------------------------------------------------------------


def test_a_net_without_parameters_has_nothing_to_change() -> None:
    text = INPUTS.replace("dim: 4", "dim: 3") + (
        'layer { name: "l" type: "EuclideanLoss" bottom: "x" bottom: "t" top: "l" }\n'
    )
    solver = make(f"{FIXED} clip_gradients: 1 iter_size: 2 net_param {{ {text} }}\n")
    solver.net.set_inputs({"x": np.ones((6, 3))})
    assert solver.step() == 1.5


def test_train_state_and_the_nets_own_state() -> None:
    extra = 'include { stage: "own" stage: "solver" min_level: 2 }'
    text = LEAST_SQUARES.replace("PARAM", "") + (
        f'layer {{ name: "extra" type: "Power" bottom: "y" top: "z" {extra} }}\n'
        'layer { name: "test" type: "Power" bottom: "y" top: "w" include { phase: TEST } }\n'
        'state { stage: "own" }\n'
    )
    state = 'train_state { stage: "solver" level: 2 }'
    solver = make(f"{FIXED} {state} net_param {{ {text} }}\n")
    assert "z" in solver.net.blobs
    assert "w" not in solver.net.blobs
    assert "z" not in make(f"{FIXED} net_param {{ {text} }}\n").net.blobs


def test_seed_fills_the_parameters() -> None:
    first, again, other = (
        make(least_squares(f"{FIXED} random_seed: {seed}")).net.params["fc"][0].data
        for seed in (4, 4, 5)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_weights_of_the_definition(tmp_path: Path) -> None:
    source = make(least_squares(f"{FIXED} random_seed: 8"))
    source.net.save(tmp_path / "a.caffemodel")
    path = tmp_path / "solver.prototxt"
    path.write_text(least_squares(f'{FIXED} weights: "a.caffemodel"'))
    made = make(path)
    np.testing.assert_array_equal(made.net.params["fc"][0].data, source.net.params["fc"][0].data)


MEMORY = """
layer { name: "m" type: "MemoryData" top: "x" top: "t"
  memory_data_param { batch_size: 2 channels: 3 height: 1 width: 1 } }
layer { name: "fc" type: "InnerProduct" bottom: "x" top: "y"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "y" bottom: "t" top: "loss" }
"""


def test_memory_data_goes_round() -> None:
    solver = make(f"{FIXED} iter_size: 2 net_param {{ {MEMORY} }}\n")
    images = np.arange(18.0).reshape(6, 3, 1, 1)
    solver.net.set_input_arrays(images, np.array([0, 1, 0, 1, 0, 1]))
    seen = []
    for _ in range(3):
        solver.step()
        seen.append(solver.net.blobs["x"].data[0, 0, 0, 0])
    assert seen == [6.0, 0.0, 12.0]
    solver.net.forward()
    assert solver.net.blobs["x"].data[0, 0, 0, 0] == 0.0


def test_memory_data_must_fit() -> None:
    net = make(f"{FIXED} net_param {{ {MEMORY} }}\n").net
    with pytest.raises(NetError, match="a multiple of 2; data of shape"):
        net.set_input_arrays(np.zeros((3, 3, 1, 1)), np.zeros(3))
    with pytest.raises(NetError, match="4 images and 3 labels"):
        net.set_input_arrays(np.zeros((4, 3, 1, 1)), np.zeros(3))
    with pytest.raises(NetError, match="no MemoryData layer"):
        make(least_squares(FIXED)).net.set_input_arrays(np.zeros((4, 3)), np.zeros(4))


def test_a_number_of_iterations_is_whole() -> None:
    solver = make(least_squares(FIXED))
    for wrong in (-1, 1.5, True, "2"):
        with pytest.raises(NetError, match="whole number"):
            solver.step(wrong)
    assert solver.step(0) == 0.0
    assert solver.iter == 0
