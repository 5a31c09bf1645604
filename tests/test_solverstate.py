"""Snapshots: Caffe's own files, going on from them, and files that are damaged or cut short."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import cases_folder
from solver_nets import METHODS, close, least_squares, make, parameter, read

import graphc
from graphc.error import NetError
from graphc.frontends.caffe.caffemodel import read_weights
from graphc.frontends.caffe.solverstate import SolverState, read_solverstate, write_solverstate

FILES = cases_folder() / "caffe" / "files"
STATES = [
    (path, suffix)
    for path in sorted(FILES.glob("*.npz"))
    if read(path)[0]["kind"] == "solverstate"
    for suffix in ("", ".h5")
]
IDS = [f"{path.stem}{suffix}" for path, suffix in STATES]


def state_file(path: Path, suffix: str) -> Path:
    meta, _ = read(path)
    return FILES / next(n for n in meta["files"] if n.endswith(f".solverstate{suffix}"))


# -- Caffe's files ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "suffix"), STATES, ids=IDS)
def test_history_in_caffes_file(path: Path, suffix: str) -> None:
    _, arrays = read(path)
    state = read_solverstate(state_file(path, suffix))
    assert len(state.history) == sum(key.startswith("history/") for key in arrays)
    for number, got in enumerate(state.history):
        np.testing.assert_array_equal(got, arrays[f"history/{number}"])


@pytest.mark.parametrize(("path", "suffix"), STATES, ids=IDS)
def test_training_goes_on_from_caffes_file(path: Path, suffix: str) -> None:
    meta, arrays = read(path)
    solver = make(FILES / meta["solver_file"])
    solver.net.set_inputs({k[3:]: v for k, v in arrays.items() if k.startswith("in/")})
    solver.restore(state_file(path, suffix))
    numbers = sorted({int(k[6:].split("/")[0]) for k in arrays if k.startswith("param@")})
    for number in numbers:
        solver.step(number - solver.iter)
        assert solver.iter == number
        for key, wanted in arrays.items():
            if key.startswith(f"param@{number}/"):
                got = parameter(solver, key.partition("/")[2])
                close(got, wanted, meta["tolerance"], f"{key} of {path.stem}")


@pytest.mark.parametrize(("path", "suffix"), STATES, ids=IDS)
def test_what_is_written_is_what_caffe_writes(path: Path, suffix: str, tmp_path: Path) -> None:
    original = state_file(path, suffix)
    copy = tmp_path / original.name
    write_solverstate(copy, read_solverstate(original))
    if not suffix:
        assert copy.read_bytes() == original.read_bytes()
        return
    with h5py.File(original) as wanted, h5py.File(copy) as got:
        names: list[str] = []
        wanted.visit(names.append)
        found: list[str] = []
        got.visit(found.append)
        assert sorted(found) == sorted(names)
        for name in names:
            if isinstance(wanted[name], h5py.Dataset):
                assert got[name].shape == wanted[name].shape
                assert got[name].id.get_type() == wanted[name].id.get_type()
                np.testing.assert_array_equal(got[name][()], wanted[name][()])


# -- our own ---------------------------------------------------------------------------------------


def written(folder: Path, settings: str, name: str = "solver.prototxt") -> Path:
    path = folder / name
    path.write_text(least_squares(settings))
    return path


def train(solver: graphc.Solver, steps: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        solver.net.set_inputs({"x": rng.standard_normal((6, 4)), "t": rng.standard_normal((6, 3))})
        solver.step()


RATE = 'base_lr: 0.1 lr_policy: "multistep" gamma: 0.5 stepvalue: [1, 2, 6] snapshot_prefix: "a"'


@pytest.mark.parametrize("kind", ["BINARYPROTO", "HDF5"])
@pytest.mark.parametrize("method", METHODS)
def test_going_on_is_as_if_never_stopped(method: str, kind: str, tmp_path: Path) -> None:
    fields = " ".join(f"{k}: {v}" for k, v in METHODS[method].items())
    path = written(
        tmp_path, f'{RATE} type: "{method}" {fields} snapshot_format: {kind} random_seed: 3'
    )
    solver = make(path)
    train(solver, 4, seed=1)
    saved = solver.snapshot()
    suffix = ".h5" if kind == "HDF5" else ""
    assert saved == tmp_path / f"a_iter_4.solverstate{suffix}"
    assert (tmp_path / f"a_iter_4.caffemodel{suffix}").is_file()
    again = make(path)
    again.restore(saved)
    assert again.iter == 4
    assert again.learning_rate == solver.learning_rate
    for one in (solver, again):
        train(one, 4, seed=2)
    for index in (0, 1):
        got, wanted = (s.net.params["fc"][index].data for s in (again, solver))
        np.testing.assert_array_equal(got, wanted)


def test_dropout_goes_on_as_if_never_stopped(tmp_path: Path) -> None:
    layer = 'layer { name: "d" type: "Dropout" bottom: "y" top: "y" }'
    path = tmp_path / "s.prototxt"
    settings = 'base_lr: 0.1 lr_policy: "fixed" iter_size: 2 random_seed: 3 snapshot_prefix: "b"'
    path.write_text(
        least_squares(settings).replace(
            'layer { name: "loss"', layer + "\n" + 'layer { name: "loss"'
        )
    )
    solver = make(path)
    train(solver, 2, seed=1)
    saved = solver.snapshot()
    again = make(path)
    again.restore(saved)
    for one in (solver, again):
        train(one, 2, seed=2)
    got, wanted = (s.net.params["fc"][0].data for s in (again, solver))
    np.testing.assert_array_equal(got, wanted)


def test_snapshots_while_training(tmp_path: Path) -> None:
    """Every `snapshot` iterations; without a prefix they are called after the solver."""
    path = written(tmp_path, 'base_lr: 0.1 lr_policy: "fixed" snapshot: 3', "mine.prototxt")
    make(path).step(7)
    names = {f.name for f in tmp_path.iterdir()} - {path.name}
    assert names == {
        f"mine_iter_{n}.{kind}" for n in (3, 6) for kind in ("caffemodel", "solverstate")
    }
    state = read_solverstate(tmp_path / "mine_iter_6.solverstate")
    assert (state.iteration, state.learned_net) == (6, "mine_iter_6.caffemodel")


def test_a_prefix_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    path = written(tmp_path, 'base_lr: 0.1 lr_policy: "fixed" snapshot_prefix: "runs"')
    assert make(path).snapshot() == tmp_path / "runs" / "solver_iter_0.solverstate"


def test_snapshots_can_be_moved(tmp_path: Path) -> None:
    path = written(tmp_path, RATE)
    solver = make(path)
    train(solver, 2, seed=1)
    saved = solver.snapshot()
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in (saved.name, "a_iter_2.caffemodel"):
        (tmp_path / name).rename(moved / name)
    again = make(path)
    again.restore(moved / saved.name)
    got, wanted = (s.net.params["fc"][0].data for s in (again, solver))
    np.testing.assert_array_equal(got, wanted)


def test_statistics_and_shared_parameters_have_their_places(tmp_path: Path) -> None:
    """One history for each blob of the net, for batch norm's three as well, shared ones once."""
    path = tmp_path / "s.prototxt"
    path.write_text(
        'base_lr: 0.1 lr_policy: "fixed" momentum: 0.9 type: "Adam" net_param {\n'
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 5 dim: 4 } } }\n'
        'layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" param { name: "w" }\n'
        '  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }\n'
        'layer { name: "n" type: "BatchNorm" bottom: "a" top: "n" }\n'
        'layer { name: "b" type: "InnerProduct" bottom: "n" top: "b" param { name: "w" }\n'
        "  inner_product_param { num_output: 4 bias_term: false } }\n"
        'layer { name: "l" type: "EuclideanLoss" bottom: "b" bottom: "x" top: "l" } }\n'
    )
    solver = make(path)
    solver.net.set_inputs({"x": np.random.default_rng(0).standard_normal((5, 4))})
    solver.step(2)
    state = read_solverstate(solver.snapshot())
    one_set = [(4, 4), (4,), (4,), (4,), (1,)]
    assert [array.shape for array in state.history] == one_set * 2
    assert [array.any() for array in state.history] == [True, True, False, False, False] * 2


# -- what is wrong ---------------------------------------------------------------------------------


@pytest.fixture
def trained(tmp_path: Path) -> tuple[graphc.Solver, Path]:
    solver = make(written(tmp_path, RATE))
    train(solver, 2, seed=1)
    return solver, solver.snapshot()


def refused(solver: graphc.Solver, path: Path, words: str) -> None:
    """The restore fails and leaves everything as it is."""
    before = [b.data.copy() for b in solver.net.params["fc"]]
    with pytest.raises(NetError, match=words):
        solver.restore(path)
    for old, blob in zip(before, solver.net.params["fc"], strict=True):
        np.testing.assert_array_equal(blob.data, old)
    assert solver.iter == 0


def test_files_cut_short_are_refused(trained: tuple[graphc.Solver, Path], tmp_path: Path) -> None:
    _, saved = trained
    data = saved.read_bytes()
    fresh = make(tmp_path / "solver.prototxt")
    broken = tmp_path / "broken.solverstate"
    for length in range(0, len(data) - 2, 7):
        broken.write_bytes(data[:length])
        refused(fresh, broken, "broken.solverstate")


def test_hdf5_files_cut_short_are_refused(tmp_path: Path) -> None:
    whole = tmp_path / "a.solverstate.h5"
    write_solverstate(whole, SolverState(3, "w", 0, [np.ones((3, 4), np.float32)]))
    data = whole.read_bytes()
    for length in range(0, len(data), 97):
        whole.write_bytes(data[:length])
        with pytest.raises(NetError, match=r"a\.solverstate\.h5"):
            read_solverstate(whole)


def test_states_of_others_are_refused(trained: tuple[graphc.Solver, Path], tmp_path: Path) -> None:
    _, saved = trained
    adam = make(written(tmp_path, f'{RATE} type: "Adam"', "adam.prototxt"))
    refused(adam, saved, "2 histories; Adam needs 4")
    wider = tmp_path / "wider.prototxt"
    text = least_squares(RATE).replace("num_output: 3", "num_output: 2")
    wider.write_text(text.replace("dim: 3", "dim: 2"))
    refused(make(wider), saved, r"history 0 .* \[3, 4\],.* \[2, 4\]")
    (tmp_path / "a_iter_2.caffemodel").unlink()
    same = make(tmp_path / "solver.prototxt")
    refused(same, saved, r"needs its weight file 'a_iter_2\.caffemodel'")
    refused(same, tmp_path / "no.solverstate", "cannot read")
    refused(same, tmp_path / "solver.prototxt", "looks like text")


def test_a_snapshot_that_cannot_be_written(tmp_path: Path) -> None:
    path = written(tmp_path, RATE.replace('"a"', '"absent/a"'))
    with pytest.raises(NetError, match=r"cannot write .*absent/a_iter_0\.caffemodel"):
        make(path).snapshot()


# -- a kill at any moment --------------------------------------------------------------------------

CHILD = """
import sys, warnings
import numpy as np
import graphc
warnings.simplefilter("ignore")
solver = graphc.Solver(sys.argv[1], threads=1)
solver.net.set_inputs({"x": np.ones((6, 4)), "t": np.ones((6, 3))})
solver.step()
solver.snapshot()
print("ready", flush=True)
while True:
    solver.step()
    solver.snapshot()
"""


def test_a_kill_leaves_whole_snapshots(tmp_path: Path) -> None:
    """Killed again and again while it writes; each file is whole, and so is what a state names."""
    solver = written(
        tmp_path, 'base_lr: 0.01 lr_policy: "fixed" momentum: 0.9 snapshot_prefix: "k"'
    )
    delays = np.random.default_rng(7).uniform(0.0, 0.25, 4)
    for delay in delays:
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(solver)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(graphc.__file__).parent.parent)},
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        states = list(tmp_path.glob("k_iter_*.solverstate"))
        assert states
        for path in states:
            state = read_solverstate(path)
            assert path.name == f"k_iter_{state.iteration}.solverstate"
            assert (tmp_path / state.learned_net).is_file()
        for path in tmp_path.glob("k_iter_*.caffemodel"):
            assert len(read_weights(path).layers["fc"]) == 2
        newest = max(states, key=lambda p: int(p.stem.rpartition("_")[2]))
        make(solver).restore(newest)
        for path in tmp_path.glob("k_iter_*"):
            path.unlink()
