"""Control-C: Python raises it behind a native call, or in the middle of the user's own code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc
from graphc.artifact import Contents, save
from graphc.runtime.cpu import Executable
from graphc.training_event import Event, Progress

LAYERS = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 3 dim: 4 } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 3 } } }
layer { name: "a" type: "InnerProduct" bottom: "x" top: "a"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "norm" type: "BatchNorm" bottom: "a" top: "norm" }
layer { name: "drop" type: "Dropout" bottom: "norm" top: "drop" }
MIDDLE
layer { name: "b" type: "InnerProduct" bottom: "end" top: "b"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "b" bottom: "label" top: "loss" }
"""
NATIVE = LAYERS.replace("MIDDLE", 'layer { name: "m" type: "TanH" bottom: "drop" top: "end" }')
HOSTED = LAYERS.replace(
    "MIDDLE",
    'layer { name: "m" type: "Python" bottom: "drop" top: "end"'
    ' python_param { module: "halving" layer: "Half" } }',
)
MODULE = """
import builtins, os


class Half:
    def setup(self, bottom, top): pass

    def reshape(self, bottom, top): top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        if "RAISED" in os.environ: raise getattr(builtins, os.environ["RAISED"])
        top[0].data[...] = bottom[0].data / 2

    def backward(self, top, propagate_down, bottom): bottom[0].diff[...] = top[0].diff / 2
"""
ADAM = 'base_lr: 0.1 lr_policy: "step" gamma: 0.5 stepsize: 2 type: "Adam" random_seed: 3'
RNG = np.random.default_rng(7)
FEED = {"x": RNG.standard_normal((3, 4)).astype(np.float32), "label": np.array([0, 2, 1])}


def solver() -> graphc.Solver:
    made = graphc.Solver(f"{ADAM} net_param {{ {NATIVE} }}\n", threads=1)
    made.net.set_inputs(FEED)
    return made


def interrupt(executable: Executable, what: str, is_before: bool = False) -> None:
    """Let the next call of a program be the one that control-C meets, or comes just before."""
    native = executable._passes[what]

    def met(*arguments: Any) -> int:
        executable._passes[what] = native
        if not is_before:
            native(*arguments)
        raise KeyboardInterrupt

    executable._passes[what] = met


def running(net: graphc.Net) -> Executable:
    executable = net.compilation().executable
    assert executable is not None
    return executable


def equal(one: graphc.Solver, other: graphc.Solver) -> None:
    assert (one.iter, one.learning_rate) == (other.iter, other.learning_rate)
    for name, array in one.net.values().items():
        np.testing.assert_array_equal(array, other.net.values()[name], err_msg=name)


@pytest.mark.parametrize("is_before", [False, True])
def test_a_step_that_is_interrupted_is_counted_if_it_was_done(is_before: bool) -> None:
    """So that step() or snapshot() goes on from there as if nothing had been."""
    met, other = solver(), solver()
    met.step()
    interrupt(running(met.net), "both", is_before)
    with pytest.raises(KeyboardInterrupt):
        met.step(5)
    assert met.iter == (1 if is_before else 2)
    other.step(met.iter)
    equal(met, other)
    met.step(2)
    other.step(2)
    equal(met, other)


def test_a_listener_may_stop_the_solver_by_an_error() -> None:
    met, other = solver(), solver()

    def stop(event: Event) -> None:
        assert isinstance(event, Progress)
        if event.iteration == 2:
            raise StopIteration

    met.listeners.append(stop)
    with pytest.raises(StopIteration):
        met.step(9)
    met.listeners.clear()
    assert met.iter == 3
    other.step(3)
    equal(met, other)


def test_an_interrupted_pass_leaves_nothing_to_read() -> None:
    net, other = (graphc.Net(NATIVE, phase=graphc.TRAIN, threads=1) for _ in range(2))
    for one in (net, other):
        one.forward(**FEED)
    made = net.prepare(wrt=["x", "drop"])
    assert made.executable is not None
    interrupt(made.executable, "forward")
    with pytest.raises(KeyboardInterrupt):
        net.forward(x=FEED["x"] * 2)
    with pytest.raises(graphc.NetError, match="known after a forward pass"):
        net.blobs["a"].data  # noqa: B018 - to read it is what is refused
    other.forward(x=FEED["x"] * 2)
    for name, array in net.values().items():
        np.testing.assert_array_equal(array, other.values()[name], err_msg=name)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_python_layer_changes_no_state(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "halving.py").write_text(MODULE)
    (tmp_path / "net.prototxt").write_text(HOSTED)
    net = graphc.Net(tmp_path / "net.prototxt", phase=graphc.TRAIN, threads=1)
    net.forward(**FEED)
    held = {name: array.copy() for name, array in net.values().items()}
    monkeypatch.setenv("RAISED", error.__name__)
    with pytest.raises(error):
        net.forward(x=FEED["x"] * 2)
    for name, array in held.items():
        np.testing.assert_array_equal(net.values()[name], array, err_msg=name)
    with pytest.raises(graphc.NetError, match="known after a forward pass"):
        net.blobs["a"].data  # noqa: B018 - to read it is what is refused


@pytest.mark.parametrize("is_before", [False, True])
def test_a_compiled_step_that_is_interrupted(tmp_path: Path, is_before: bool) -> None:
    made = solver()
    save(Contents.of_training(made), made.net.values(), tmp_path / "x.bundle", "bundle")
    trainer = graphc.load(tmp_path / "x.bundle")
    for name, array in FEED.items():
        trainer.arrays[name][...] = array
    trainer.step()
    interrupt(trainer._whole, "both", is_before)
    with pytest.raises(KeyboardInterrupt):
        trainer.step()
    assert trainer.iteration == (1 if is_before else 2)
    made.step(trainer.iteration)
    for name in made.net.lasting():
        np.testing.assert_array_equal(trainer.arrays[name], made.net.values()[name], err_msg=name)
