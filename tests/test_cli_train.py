"""`graphc train`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_cli_options import graphc

import graphc as package

NET = """
layer { name: "d" type: "DummyData" top: "x" dummy_data_param {
  shape { dim: 6 dim: 4 } data_filler { type: "gaussian" } } }
layer { name: "fc" type: "InnerProduct" bottom: "x" top: "y"
  inner_product_param { num_output: 3 weight_filler { type: "gaussian" } } }
layer { name: "sum" type: "Reduction" bottom: "y" top: "loss" loss_weight: 1
  reduction_param { operation: SUMSQ } }
"""
FIELDS = 'net: "net.prototxt" base_lr: 0.001 lr_policy: "fixed"'


@pytest.fixture
def solver(tmp_path: Path) -> Path:
    (tmp_path / "net.prototxt").write_text(NET)
    path = tmp_path / "solver.prototxt"
    path.write_text(f"{FIELDS} max_iter: 6 display: 3 snapshot: 4 test_iter: 2 test_interval: 4\n")
    return path


def test_it_says_what_happens(solver: Path) -> None:
    result = graphc("train", solver, "--threads", 1)
    assert result.exit_code == 0, result.output
    heads = [line.split("  ")[0] for line in result.stdout.splitlines()]
    assert heads[:-1] == [
        "test 0 at iteration 0",
        "iteration 0",
        "iteration 3",
        f"snapshot {solver.parent / 'solver_iter_4.solverstate'}",
        "test 0 at iteration 4",
        f"snapshot {solver.parent / 'solver_iter_6.solverstate'}",
        "iteration 6",
    ]
    assert heads[-1].startswith("trained 6 iterations in ")


def test_as_json_and_from_a_snapshot(solver: Path) -> None:
    first = graphc("train", solver, "--iterations", 5, "--json")
    assert first.exit_code == 0, first.output
    told = json.loads(first.stdout)
    assert (told["iterations"], told["stopped"]) == (5, False)
    assert [(test["iteration"], test["net"]) for test in told["tests"]] == [(0, 0), (4, 0)]
    assert told["tests"][0]["scores"]["loss"] > 0
    state = told["snapshots"][-1]
    assert state.endswith("solver_iter_5.solverstate")
    told = json.loads(graphc("train", solver, "--snapshot", state, "--json").stdout)
    assert told["iterations"] == 6


def test_from_weights(solver: Path, tmp_path: Path) -> None:
    net = package.Net(NET)
    net.params["fc"][0].data[...] = 0
    net.save(tmp_path / "zero.caffemodel")
    result = graphc("train", solver, "--weights", tmp_path / "zero.caffemodel", "--json")
    assert json.loads(result.stdout)["loss"] == 0


@pytest.mark.parametrize(
    ("fields", "arguments", "code", "said"),
    [
        (FIELDS, ("--weights", "a", "--snapshot", "b"), 2, "not both"),
        (FIELDS, ("--iterations", 0), 2, "--iterations"),
        (FIELDS, (), 3, "no max_iter"),
        (FIELDS, ("--snapshot", "absent.solverstate"), 3, "cannot read"),
        (f"{FIELDS} max_iter: 1 gama: 1", (), 3, "did you mean 'gamma'"),
        (f'{FIELDS} max_iter: 1 snapshot_prefix: "absent/a"', (), 3, "there is no folder"),
    ],
)
def test_what_cannot_be_trained(
    solver: Path, fields: str, arguments: tuple[object, ...], code: int, said: str
) -> None:
    solver.write_text(f"{fields}\n")
    result = graphc("train", solver, *arguments)
    assert result.exit_code == code, result.output
    assert said in result.stderr
    assert not list(solver.parent.glob("*.caffemodel"))


def test_a_net_that_nobody_feeds(solver: Path) -> None:
    given = NET.replace("DummyData", "Input").replace("dummy_data_param", "input_param")
    (solver.parent / "net.prototxt").write_text(
        given.replace('data_filler { type: "gaussian" }', "")
    )
    result = graphc("train", solver)
    assert result.exit_code == 3
    assert "nothing gives values for 'x' in phase TRAIN" in result.stderr


def test_a_loss_that_is_no_number_is_warned_of(solver: Path) -> None:
    solver.write_text('net: "net.prototxt" base_lr: 1e30 lr_policy: "fixed" max_iter: 5\n')
    result = graphc("train", solver)
    assert result.exit_code == 0
    assert result.stderr.count("warning: the loss is") == 1


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_stops_it_with_a_snapshot(solver: Path, name: str) -> None:
    solver.write_text(f"{FIELDS} max_iter: 100000000 display: 1 snapshot_after_train: false\n")
    command = [sys.executable, "-u", "-m", "graphc", "train", str(solver)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("iteration 0")
    time.sleep(0.1)
    process.send_signal(getattr(signal, name))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    *_, snapshot, last = out.splitlines()
    assert last.startswith(f"stopped by {name} after ")
    state = Path(snapshot.removeprefix("snapshot "))
    assert state.is_file()
    iterations = int(last.split()[4])
    restored = package.Solver(solver)
    restored.restore(state)
    assert restored.iter == iterations > 0
    assert np.isfinite(restored.net.params["fc"][0].data).all()
    assert not list(solver.parent.glob(".*"))  # nothing half-written is left
