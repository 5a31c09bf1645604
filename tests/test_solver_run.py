"""What a solver does besides its steps: test nets, showing, snapshots, the end."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc
from graphc.error import NetError
from graphc.training_event import Event, Progress, SnapshotWritten, TestResult

NET = """
layer { name: "d" type: "DummyData" top: "x" dummy_data_param {
  shape { dim: 6 dim: 4 } data_filler { type: "gaussian" } } include { phase: TRAIN } }
layer { name: "d" type: "DummyData" top: "x" dummy_data_param {
  shape { dim: 2 dim: 4 } data_filler { type: "gaussian" } } include { phase: TEST } }
layer { name: "fc" type: "InnerProduct" bottom: "x" top: "y"
  inner_product_param { num_output: 3 weight_filler { type: "gaussian" } } }
layer { name: "bn" type: "BatchNorm" bottom: "y" top: "y" include { stage: "norm" } }
layer { name: "sum" type: "Reduction" bottom: "y" top: "loss" loss_weight: 0.5
  reduction_param { operation: SUMSQ } }
layer { name: "each" type: "Power" bottom: "y" top: "shown" include { phase: TEST } }
"""
FIXED = 'base_lr: 0.01 lr_policy: "fixed" random_seed: 3'
TESTED = "test_iter: 4 test_interval: 2"


def make(settings: str, folder: Path | None = None, **options: Any) -> graphc.Solver:
    source: str | Path = f"{FIXED} {settings} net_param {{ {NET} }}\n"
    if folder is not None:
        path = folder / "solver.prototxt"
        path.write_text(str(source))
        source = path
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", graphc.NetWarning)
        return graphc.Solver(source, **{"threads": 1, **options})


def heard(solver: graphc.Solver) -> list[Event]:
    events: list[Event] = []
    solver.listeners.append(events.append)
    return events


def iterations_of_tests(events: list[Event]) -> list[int]:
    return [event.iteration for event in events if isinstance(event, TestResult)]


def test_test_nets_share_the_parameters() -> None:
    solver = make(TESTED)
    (net,) = solver.test_nets
    assert net.blobs["x"].shape == (2, 4)
    assert net.params["fc"][0].data is solver.net.params["fc"][0].data
    before = net.params["fc"][0].data.copy()
    solver.step(3)
    assert (net.params["fc"][0].data != before).any()
    x = np.ones((2, 4))
    wanted = x @ solver.net.params["fc"][0].data.T + solver.net.params["fc"][1].data
    np.testing.assert_allclose(net.forward(x=x)["shown"], wanted, rtol=1e-5)
    for blob in solver.net.params["fc"]:
        blob.data[...] = 0
    assert not net.forward(x=x)["loss"].any()


def test_scores_are_means_over_the_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    solver = make(f"{TESTED} test_compute_loss: true")
    (net,) = solver.test_nets
    batches = np.random.default_rng(1).standard_normal((4, 2, 4))
    turn = iter(batches)
    monkeypatch.setattr(net.feeds, "fill", lambda inputs: net.set_inputs({"x": next(turn)}))
    result = solver.test()
    y = batches @ solver.net.params["fc"][0].data.T.astype(np.float64)
    np.testing.assert_allclose(result.scores["shown"], y.mean(axis=0), rtol=1e-5, atol=1e-6)
    assert result.scores["loss"] == pytest.approx((y**2).sum() / 4, rel=1e-5)
    assert result.loss == pytest.approx((y**2).sum() / 4 / 2, rel=1e-5)
    assert result.weights == {"loss": 0.5}
    assert make(TESTED).test().loss is None


@pytest.mark.parametrize(
    ("settings", "wanted"), [("", [0, 2, 4]), ("test_initialization: false", [2, 4])]
)
def test_tests_come_before_the_iterations_of_their_turn(settings: str, wanted: list[int]) -> None:
    solver = make(f"{TESTED} {settings}")
    events = heard(solver)
    solver.step(5)
    assert iterations_of_tests(events) == wanted


def test_each_test_net_has_its_own_state() -> None:
    states = 'test_state { } test_state { stage: "norm" }'
    own = f"test_net_param {{ {NET} }} test_iter: 1 test_iter: 2 test_interval: 1 {states}"
    solver = make(own)
    assert [("bn" in net.params) for net in solver.test_nets] == [False, True]
    events = heard(solver)
    solver.step()
    assert [event.number for event in events if isinstance(event, TestResult)] == [0, 1]
    with pytest.raises(NetError, match="2 test nets; there is none of number 2"):
        solver.test(2)


def test_parameters_that_cannot_be_shared() -> None:
    other = NET.replace("num_output: 3", "num_output: 5")
    with pytest.raises(
        NetError, match=r"cannot share 'fc/0': its shapes are \[5, 4\] and \[3, 4\]"
    ):
        make(f"test_net_param {{ {other} }} test_iter: 1 test_interval: 1")


def test_the_loss_that_is_shown_is_a_mean() -> None:
    solver = make("average_loss: 3 display: 2")
    events = heard(solver)
    solver.step(5)
    shown = [event for event in events if isinstance(event, Progress)]
    twin = make("")
    losses = [twin.step() for _ in range(5)]
    wanted = [np.mean(losses[max(0, n - 2) : n + 1]) for n in range(5)]
    np.testing.assert_allclose([event.loss for event in shown], wanted, rtol=1e-6)
    assert [event.iteration for event in shown if event.outputs] == [0, 2, 4]
    assert shown[4].outputs["loss"] == pytest.approx(2 * losses[4], rel=1e-6)
    assert solver.smoothed_loss == shown[-1].loss


def test_solve_goes_to_the_end(tmp_path: Path) -> None:
    solver = make(f"{TESTED} max_iter: 6 snapshot: 4 display: 3", tmp_path)
    events = heard(solver)
    loss = solver.solve()
    assert solver.iter == 6
    assert iterations_of_tests(events) == [0, 2, 4, 6]
    written = [event.iteration for event in events if isinstance(event, SnapshotWritten)]
    assert written == [4, 6]
    assert (tmp_path / "solver_iter_6.caffemodel").is_file()
    progress = [event for event in events if isinstance(event, Progress)]
    assert [event.iteration for event in progress] == [0, 1, 2, 3, 4, 5, 6]  # one more to show
    assert progress[-1].loss == loss
    resumed = make("max_iter: 6 snapshot_after_train: false", tmp_path)
    resumed.solve(tmp_path / "solver_iter_4.solverstate")
    assert resumed.iter == 6
    (tmp_path / "solver_iter_6.solverstate").unlink()
    make("max_iter: 4 snapshot: 4", tmp_path).solve()
    assert not (tmp_path / "solver_iter_6.solverstate").exists()


def test_testing_and_showing_compile_no_backward_pass(tmp_path: Path) -> None:
    solver = make(f"{TESTED} max_iter: 2 display: 2", tmp_path)
    solver.solve()
    for net in (solver.net, *solver.test_nets):
        program = net.compilation().program
        assert program.forward_steps == len(program.steps)


def test_solve_needs_an_end() -> None:
    with pytest.raises(NetError, match="no max_iter"):
        make("").solve()


def test_stop_ends_with_a_snapshot(tmp_path: Path) -> None:
    solver = make(f"{TESTED} max_iter: 100000", tmp_path)

    def stop_at_seven(event: Event) -> None:
        if isinstance(event, Progress) and event.iteration == 6:
            solver.stop()

    solver.listeners.append(stop_at_seven)
    worker = threading.Thread(target=solver.solve)
    worker.start()
    worker.join(60)
    assert solver.iter == 7
    assert (tmp_path / "solver_iter_7.solverstate").is_file()
    solver.listeners.clear()
    assert solver.test().scores
    solver.step(2)
    assert solver.iter == 9


def test_share_with_needs_the_same_dtype() -> None:
    first, second = (graphc.Net(NET, dtype=dtype, threads=1) for dtype in ("float32", "float64"))
    with pytest.raises(NetError, match="float64 cannot share with one of float32"):
        second.share_with(first)


@pytest.mark.parametrize("form", ["BINARYPROTO", "HDF5"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_snapshot_holds_every_bit(form: str, dtype: str, tmp_path: Path) -> None:
    """In the net's precision, as Caffe's of double precision writes doubles."""
    settings = f'type: "Adam" momentum: 0.9 snapshot_prefix: "s" snapshot_format: {form}'
    solver = make(settings, tmp_path, dtype=dtype)
    solver.step(3)
    path = solver.snapshot()
    held = {name: array.copy() for name, array in solver.net.values().items()}
    again = make(settings, tmp_path, dtype=dtype)
    again.restore(path)
    for name in again.net.lasting():
        np.testing.assert_array_equal(again.net.values()[name], held[name], err_msg=name)
    single = make(settings, tmp_path)
    single.restore(path)
    for name in single.net.lasting():
        np.testing.assert_allclose(single.net.values()[name], held[name], rtol=1e-7)
