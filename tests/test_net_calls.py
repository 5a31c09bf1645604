"""The Python around a native call: little where nothing changed, nothing missed where it did."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc
from graphc.driver import Signature
from graphc.runtime.cpu import Executable, aligned_zeros, refuse_nan

TEXT = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 4 } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 2 } } }
layer { name: "a" type: "InnerProduct" bottom: "x" top: "a"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "a" top: "a" }
layer { name: "b" type: "InnerProduct" bottom: "a" top: "b"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "b" bottom: "label" top: "loss" }
"""
SETTINGS = 'base_lr: 0.1 lr_policy: "fixed" momentum: 0.9 random_seed: 3'
# Python functions that a step and a call may enter: a tenth more than they do.
STEP, CALL = 78, 108
RNG = np.random.default_rng(3)
FEED = {"x": RNG.standard_normal((2, 4)).astype(np.float32), "label": np.array([0, 2], np.float32)}


def make_net(**options: Any) -> graphc.Net:
    return graphc.Net(TEXT, **{"phase": graphc.TRAIN, "threads": 1, **options})


def make_solver(settings: str = SETTINGS) -> graphc.Solver:
    return graphc.Solver(f"{settings} net_param {{ {TEXT} }}\n", threads=1)


def python_calls(function: Callable[[], object]) -> int:
    """How many Python functions are entered."""
    count = 0

    def noted(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(noted)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def loss(net: graphc.Net, **inputs: np.ndarray) -> float:
    net.forward(**{**FEED, **inputs})
    return net.loss


@pytest.fixture
def binds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many arrays were handed to programs, a number for each time."""
    seen: list[int] = []
    bind = Executable.bind

    def noted(self: Executable, arrays: Any) -> None:
        seen.append(len(arrays))
        bind(self, arrays)

    monkeypatch.setattr(Executable, "bind", noted)
    return seen


# -- little where nothing changed ------------------------------------------------------------------


def test_a_step_enters_few_functions(binds: list[int]) -> None:
    solver = make_solver()
    solver.step(3, feed=lambda: FEED)
    binds.clear()
    assert python_calls(lambda: solver.step(1, feed=lambda: FEED)) <= STEP
    assert binds == []


def test_a_call_enters_few_functions(binds: list[int]) -> None:
    net = make_net()
    for _ in range(2):
        net.clear_param_diffs()
        net.forward_backward(FEED)
    net.forward_backward(FEED)  # adds up: another program
    binds.clear()
    assert python_calls(lambda: net.forward_backward(FEED)) <= CALL
    assert binds == []


# -- and nothing missed where it did ---------------------------------------------------------------


def test_shared_parameters_are_used_from_then_on() -> None:
    net, other = make_net(seed=1), make_net(seed=2)
    before = loss(net)
    net.share_with(other)
    wanted = loss(other)
    assert before != wanted
    assert loss(net) == wanted
    other.params["b"][0].data[...] *= 2
    assert loss(net) == loss(other) != wanted


def test_another_array_in_a_table_is_used() -> None:
    """States that are restored, for instance, may be new arrays."""
    net = make_net()
    net.forward(**FEED)
    other = aligned_zeros((3, 5), "float32")
    net.arrays.parameters["b/0"] = other
    assert loss(net) == pytest.approx(np.log(3), rel=1e-6)


def test_other_shapes_and_back() -> None:
    net = make_net()
    wanted = loss(net)
    net.blobs["x"].reshape(1, 4)
    net.blobs["label"].reshape(1)
    one = loss(net, x=FEED["x"][:1], label=FEED["label"][:1])
    net.blobs["x"].reshape(2, 4)
    net.blobs["label"].reshape(2)
    assert loss(net) == wanted != one


def test_a_whole_pass_forgets_what_a_part_has_left() -> None:
    net = make_net(keep=["a", "b"])
    wanted = loss(net)
    scores = net.blobs["b"].data.copy()
    for _ in range(2):
        net.forward(start="b", end="b", a=np.zeros((2, 5)))
        assert not net.blobs["b"].data.any()
        assert net.loss == wanted
    net.forward(start="b", end="loss", a=np.zeros((2, 5)))
    assert net.loss == wanted != net.blobs["loss"].data
    assert loss(net) == wanted == net.blobs["loss"].data
    np.testing.assert_array_equal(net.blobs["b"].data, scores)


def test_a_part_before_the_first_whole_pass() -> None:
    net = make_net(keep=["b"])
    net.forward(end="loss", **FEED)
    net.forward(start="b", a=np.zeros((2, 5)), label=FEED["label"])
    zeros = net.blobs["loss"].data.copy()
    assert zeros == pytest.approx(np.log(3), rel=1e-6)
    assert loss(net) == net.blobs["loss"].data != zeros
    assert net.blobs["b"].data.any()


def test_a_solver_goes_on_from_a_snapshot(tmp_path: Path) -> None:
    """Whose states come into arrays that programs are bound to."""
    path = tmp_path / "solver.prototxt"
    path.write_text(f'{SETTINGS} snapshot_prefix: "s" net_param {{ {TEXT} }}\n')
    solver = graphc.Solver(path, threads=1)
    solver.step(2, feed=lambda: FEED)
    solver.snapshot()
    wanted = [solver.step(feed=lambda: FEED) for _ in range(3)]
    solver.restore(tmp_path / "s_iter_2.solverstate")
    assert [solver.step(feed=lambda: FEED) for _ in range(3)] == wanted


def test_another_phase_of_a_step() -> None:
    """Steps of several passes run two programs in turn, on the same arrays."""
    one, two = make_solver(), make_solver(f"{SETTINGS} iter_size: 2")
    for _ in range(3):
        one.step(feed=lambda: FEED)
        two.step(feed=lambda: FEED)
    for layer, blobs in one.net.params.items():
        for blob, other in zip(blobs, two.net.params[layer], strict=True):
            np.testing.assert_allclose(blob.data, other.data, rtol=1e-5, atol=1e-7)


def test_signatures_differ_by_every_field() -> None:
    first = Signature()
    assert hash(first) == hash(Signature())
    for field in fields(first):
        other = replace(first, **{field.name: "another"})
        assert hash(other) != hash(first) and other != first


def test_nan_is_told_from_numbers_that_are_too_large() -> None:
    large = np.array([3e38, 3e38, -np.inf, np.inf], np.float32)
    refuse_nan({"x": large, "none": np.zeros(0, np.float32), "one": np.float32(1) * np.ones(())})
    with pytest.raises(graphc.NetError, match=r"input 'y' holds nan, first at \[1, 0\]"):
        refuse_nan({"x": large, "y": np.array([[1, 2], [np.nan, 3]])})
