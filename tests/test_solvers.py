"""Training: Caffe's own runs, a step as one native call, what a definition says besides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from solver_nets import (
    EXACT,
    FIXED,
    FOLDER,
    IMAGES,
    INPUTS,
    LEAST_SQUARES,
    METHODS,
    chosen,
    close,
    draw,
    image_batch,
    least_squares,
    make,
    parameter,
    read,
)

from graphc import driver
from graphc.error import NetError
from graphc.runtime.cpu import Executable


def cases() -> list[str]:
    return [path.stem for path in sorted((FOLDER / "solvers").glob("*.npz"))]


@pytest.mark.parametrize("name", cases())
def test_it_trains_as_caffe_trained(name: str) -> None:
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


def test_there_are_cases() -> None:
    """Without their folder a parametrised test runs nothing, and fails nowhere."""
    assert len(cases()) > 5


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


@pytest.mark.parametrize(
    ("fields", "used"), [("random_seed: 0", 0), ("random_seed: -1", 9), ("", 9)]
)
def test_a_seed_of_the_definition_comes_first(fields: str, used: int) -> None:
    """0 is one, as for Caffe; a negative one is none."""
    solver = make(least_squares(f"{FIXED} {fields}"), seed=9)
    assert solver.definition.seed == used


def test_seed_fills_the_parameters() -> None:
    first, again, other = (
        make(least_squares(f"{FIXED} random_seed: {seed}")).net.params["fc"][0].data
        for seed in (4, 4, 5)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("files", ["a", "b, a"])
def test_weights_of_the_definition(
    files: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of them counts, and nothing is filled that they bring."""
    for name, seed in (("a", 8), ("b", 9)):
        source = make(least_squares(f"{FIXED} random_seed: {seed}"))
        source.net.save(tmp_path / name)
    wanted = make(least_squares(f"{FIXED} random_seed: 8")).net.params["fc"][0].data
    path = tmp_path / "solver.prototxt"
    path.write_text(least_squares(f'{FIXED} weights: "{files}"'))
    filled: list[object] = []
    monkeypatch.setattr("graphc.weights.fill_in_place", lambda *given: filled.append(given))
    np.testing.assert_array_equal(make(path).net.params["fc"][0].data, wanted)
    assert filled == []


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
