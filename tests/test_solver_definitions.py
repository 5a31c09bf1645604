"""Solver definitions: what is refused, and where; learning rates by their policies."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from solver_nets import FIXED, FOLDER, LEAST_SQUARES, least_squares, make

import graphc
from graphc.error import NetError

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


def test_mistakes_of_the_text_and_of_its_meaning_are_told_at_once() -> None:
    with pytest.raises(NetError) as raised:
        make(least_squares(f'momentum: "a" iter_size: 0 {FIXED}'))
    said = [diagnostic.message for diagnostic in raised.value.diagnostics]
    assert len(said) == 2
    assert "momentum" in said[0] and "iter_size must be at least 1" in said[1]


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


def test_a_net_in_place_of_a_solver(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(LEAST_SQUARES.replace("PARAM", ""))
    with pytest.raises(NetError, match="definition of a net, not of a solver") as raised:
        make(tmp_path / "net.prototxt")
    (said,) = raised.value.diagnostics
    assert said.hint == 'a solver names its net: `net: "net.prototxt"`'


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
