"""Compiled steps of training change the same bits as `graphc.Solver`, and train."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from c_programs import COMPILERS, ROOT, SAMPLES, STRICT, Library, compiled, needs_compiler, run

import graphc
from graphc.artifact import Contents, save
from graphc.error import NetError

# All that lasts from step to step: statistics, random numbers, a frozen parameter, two rates.
IMAGES = """
name: "images"
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 3 dim: 4 dim: 9 dim: 8 } } }
layer { name: "t" type: "Input" top: "t" input_param { shape { dim: 3 } } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "conv" convolution_param {
  num_output: 6 kernel_size: 3 group: 2 pad: 1 weight_filler { type: "msra" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "bn" }
layer { name: "relu" type: "ReLU" bottom: "bn" top: "bn" }
layer { name: "again" type: "Convolution" bottom: "bn" top: "again"
  param { lr_mult: 0 } param { lr_mult: 2 }
  convolution_param { num_output: 5 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "drop" type: "Dropout" bottom: "again" top: "drop" }
layer { name: "fc" type: "InnerProduct" bottom: "drop" top: "fc"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "t" top: "loss" }
"""

SOLVERS = {
    "SGD": 'momentum: 0.9 lr_policy: "step" gamma: 0.1 stepsize: 2 clip_gradients: 0.7',
    "Nesterov": 'momentum: 0.9 lr_policy: "inv" gamma: 0.3 power: 0.75 weight_decay: 0.01',
    "AdaGrad": 'lr_policy: "exp" gamma: 0.7 delta: 1e-4 iter_size: 2',
    "RMSProp": 'rms_decay: 0.9 lr_policy: "poly" power: 0.9 max_iter: 40 clip_gradients: 1'
    " iter_size: 3",
    "AdaDelta": 'momentum: 0.95 delta: 1e-4 lr_policy: "multistep" gamma: 0.5 stepvalue: 1'
    " stepvalue: 2 stepvalue: 2 stepvalue: 4",
    "Adam": 'momentum: 0.9 momentum2: 0.99 lr_policy: "sigmoid" gamma: 0.3 stepsize: 3'
    ' weight_decay: 0.02 regularization_type: "L1" iter_size: 2',
    "fixed SGD": 'lr_policy: "fixed"',
}


def solver_text(name: str, net: str = IMAGES) -> str:
    method = name.split()[-1]
    own = f'type: "{method}" base_lr: 0.05 random_seed: 7'
    return f"net_param {{ {net} }}\n{own}\n{SOLVERS[name]}\n"


class Trainer:
    """One compiled instance."""

    def __init__(self, path: Path, prefix: str, weights: Path | None = None, **options):
        self.library = Library(path, prefix, **options)
        self.net = self.library.create(str(weights).encode() if weights else None, None)
        assert self.net
        self.inputs = self.library.arrays(self.net, "input")
        self.parameters = self.library.arrays(self.net, "parameter")
        self.histories = self.library.arrays(self.net, "history")

    def iterate(self, solver: graphc.Solver, rng: np.random.Generator, threads: int) -> float:
        """One iteration of both on the same numbers; the mean of the compiled passes' losses."""
        batches = [draw(solver, rng) for _ in range(solver.definition.iter_size)]
        total = 0.0
        for batch in batches:
            for name, array in batch.items():
                self.inputs[name][...] = array
            assert self.library.step(self.net, threads) == 0
            total += self.library.loss(self.net)
        rate = solver.learning_rate
        served = iter(batches)
        loss = solver.step(feed=lambda: next(served))
        assert total / len(batches) == loss
        assert self.library.learning_rate(self.net) == solver.learning_rate or rate != rate
        assert self.library.iteration(self.net) == solver.iter
        return loss

    def equals(self, solver: graphc.Solver) -> None:
        net = solver.net
        assert list(self.parameters) == list(net.arrays.parameters)
        for name, array in self.parameters.items():
            np.testing.assert_array_equal(array, net.arrays.parameters[name], err_msg=name)
        solver.net.histories()
        assert len(self.histories) == len(net.lasting()) - sum(
            name in self.parameters for name in net.lasting()
        )
        for name, array in self.histories.items():
            np.testing.assert_array_equal(array, net.arrays.states[name], err_msg=name)

    def save(self, path: Path) -> None:
        assert self.library.save(self.net, str(path).encode()) == 0

    def close(self) -> None:
        self.library.destroy(self.net)


def draw(solver: graphc.Solver, rng: np.random.Generator) -> dict[str, np.ndarray]:
    shape = solver.net.blobs["x"].shape
    return {"x": rng.standard_normal(shape), "t": rng.integers(0, 4, shape[0]).astype(float)}


def make(name: str, **options) -> graphc.Solver:
    return graphc.Solver(solver_text(name), threads=1, **options)


def build(solver: graphc.Solver, path: Path, form="so", beside: bool | None = None) -> Path:
    save(Contents.of_training(solver), solver.net.values(), path, form, None, beside)
    return path


@needs_compiler
@pytest.mark.parametrize("name", SOLVERS)
def test_steps_change_the_same_bits(tmp_path: Path, name: str):
    """And go on from each other's files: C to Python, Python to C."""
    rng = np.random.default_rng(1)
    solver = make(name)
    before = {key: array.copy() for key, array in solver.net.arrays.parameters.items()}
    path = build(solver, tmp_path / "libimages.so")
    trainer = Trainer(path, "images")
    trainer.equals(solver)
    losses = [trainer.iterate(solver, rng, threads=1) for _ in range(4)]
    trainer.equals(solver)
    assert len(set(losses)) == 4
    moved = {key for key, array in trainer.parameters.items() if (array != before[key]).any()}
    assert moved == {"conv/0", "bn/0", "bn/1", "bn/2", "again/1", "fc/0", "fc/1"} | (
        moved & {"conv/1"}  # in front of a batch norm it moves by decay and rounding only
    )

    trainer.save(tmp_path / "here.weights")
    again = make(name)
    again.restore(tmp_path / "here.weights")
    trainer.equals(again)
    for _ in range(2):
        trainer.iterate(again, rng, threads=1)
    trainer.equals(again)
    trainer.close()

    other = tmp_path / "other"
    other.mkdir()
    resumed = Trainer(build(again, other / "libimages.so"), "images")
    assert resumed.library.iteration(resumed.net) == 6
    resumed.equals(again)
    for _ in range(2):
        resumed.iterate(again, rng, threads=1)
    resumed.equals(again)
    resumed.close()


@needs_compiler
def test_two_threads_and_double_precision(tmp_path: Path):
    rng = np.random.default_rng(2)
    solver = make("Adam", dtype="float64")
    solver.net.threads = 2
    path = build(solver, tmp_path / "libimages.so", beside=True)
    weights = tmp_path / "libimages.weights"
    trainer = Trainer(path, "images", weights, real=ctypes.c_double)
    for _ in range(3):
        trainer.iterate(solver, rng, threads=2)
    trainer.equals(solver)
    trainer.close()


@needs_compiler
def test_a_failed_step_changes_nothing(tmp_path: Path):
    """Statistics, random numbers and the sum of gradients begin the iteration again."""
    rng = np.random.default_rng(3)
    solver = make("AdaGrad")
    trainer = Trainer(build(solver, tmp_path / "libimages.so"), "images")
    library = trainer.library
    for wrong_pass in (0, 1):
        held = {name: array.copy() for name, array in trainer.parameters.items()}
        for _ in range(wrong_pass):
            for name, array in draw(solver, rng).items():
                trainer.inputs[name][...] = array
            assert library.step(trainer.net, 1) == 0
            held = {name: array.copy() for name, array in trainer.parameters.items()}
        trainer.inputs["t"][...] = 4
        code = library.step(trainer.net, 1)
        assert code > 0
        assert b"layer 'loss' (SoftmaxWithLoss): label is not within" in library.error_text(code)
        for name, array in trainer.parameters.items():
            np.testing.assert_array_equal(array, held[name])
        if wrong_pass == 0:
            trainer.iterate(solver, rng, threads=1)
            trainer.equals(solver)
    assert library.iteration(trainer.net) == 1
    trainer.close()


@needs_compiler
def test_a_rate_that_ends(tmp_path: Path):
    solver = make("RMSProp")
    trainer = Trainer(build(solver, tmp_path / "libimages.so"), "images")
    library = trainer.library
    assert library.set_iteration(trainer.net, 41) == 0
    assert np.isnan(library.learning_rate(trainer.net))
    assert b"has none for this iteration" in library.error_text(library.step(trainer.net, 1))
    assert b"below 0" in library.error_text(library.set_iteration(trainer.net, -1))
    assert b"cannot be written" in library.error_text(library.save(trainer.net, b"/none/x"))
    assert b"NULL" in library.error_text(library.save(None, b"x"))
    assert b"NULL" in library.error_text(library.save(trainer.net, None))
    assert b"NULL" in library.error_text(library.step(None, 1))
    assert b"threads" in library.error_text(library.step(trainer.net, 0))
    assert library.iteration(None) == 0
    trainer.close()


@needs_compiler
def test_files_between_passes_and_of_others(tmp_path: Path):
    rng = np.random.default_rng(4)
    solver = make("AdaGrad")
    trainer = Trainer(build(solver, tmp_path / "libimages.so"), "images")
    first, second = draw(solver, rng), draw(solver, rng)
    for name, array in first.items():
        trainer.inputs[name][...] = array
    assert trainer.library.step(trainer.net, 1) == 0
    trainer.save(tmp_path / "between.weights")
    with pytest.raises(NetError, match="between the passes"):
        make("AdaGrad").restore(tmp_path / "between.weights")
    half = Trainer(tmp_path / "libimages.so", "images", tmp_path / "between.weights")
    for instance in (trainer, half):
        for name, array in second.items():
            instance.inputs[name][...] = array
        assert instance.library.step(instance.net, 1) == 0
    served = iter([first, second])
    solver.step(feed=lambda: next(served))
    trainer.equals(solver)
    half.equals(solver)
    trainer.save(tmp_path / "whole.weights")
    with pytest.raises(NetError, match="another net or method"):
        make("AdaDelta").restore(tmp_path / "whole.weights")
    data = (tmp_path / "whole.weights").read_bytes()
    (tmp_path / "cut.weights").write_bytes(data[:-9])
    with pytest.raises(NetError, match="were written"):
        make("AdaGrad").restore(tmp_path / "cut.weights")
    (tmp_path / "table.weights").write_bytes(data[:-9] + b"\xff" * 9)
    with pytest.raises(NetError, match="damaged"):
        make("AdaGrad").restore(tmp_path / "table.weights")
    trainer.close()
    half.close()


@pytest.mark.parametrize("name", SOLVERS)
def test_a_bundle_changes_the_same_bits(tmp_path: Path, name: str):
    """Without the compiler; and goes on from its own file, and the solver from that."""
    rng = np.random.default_rng(5)
    solver = make(name)
    passes = solver.definition.iter_size
    written = save(
        Contents.of_training(solver), solver.net.values(), tmp_path / "x.bundle", "bundle"
    )
    assert [path.name for path in written] == ["x.bundle", "x.weights"]
    trainer = graphc.load(tmp_path / "x.bundle")
    for iteration in range(5):
        if iteration == 3:  # elsewhere, in the middle of an iteration where it has several passes
            trainer.save(tmp_path / "x.weights")
            trainer = graphc.load(tmp_path / "x.bundle")
        batches = [draw(solver, rng) for _ in range(passes)]
        total = 0.0
        for number, batch in enumerate(batches):
            if number == 1:
                trainer.save(tmp_path / "x.weights")
                trainer = graphc.load(tmp_path / "x.bundle")
            for array_name, array in batch.items():
                trainer.arrays[array_name][...] = array
            assert trainer.iteration == iteration
            assert trainer.learning_rate == solver.learning_rate
            total += trainer.step()
        served = iter(batches)
        assert solver.step(feed=lambda served=served: next(served)) == total / passes
        for parameter in solver.net.lasting():
            wanted = solver.net.values()[parameter]
            np.testing.assert_array_equal(trainer.arrays[parameter], wanted, err_msg=parameter)
    trainer.save(tmp_path / "x.weights")
    again = make(name)
    again.restore(tmp_path / "x.weights")
    batches = [draw(solver, rng) for _ in range(passes)]
    losses = []
    for one in (solver, again):
        served = iter(batches)
        losses.append(one.step(feed=lambda served=served: next(served)))
    assert losses[0] == losses[1]


def test_a_bundle_used_wrongly(tmp_path: Path):
    rng = np.random.default_rng(6)
    solver = make("Adam")
    build(solver, tmp_path / "x.bundle", "bundle")
    trainer = graphc.load(tmp_path / "x.bundle")
    batches = [draw(solver, rng) for _ in range(2)]
    for broken, said in {
        "nan": "input 'x' holds nan, first at",
        "label": r"layer 'loss' \(SoftmaxWithLoss\): label is not within 0 .. 3; found 9",
    }.items():
        for bad_pass in (0, 1):
            for number, batch in enumerate(batches):
                for name, array in batch.items():
                    trainer.arrays[name][...] = array
                if number == bad_pass:
                    if broken == "nan":
                        trainer.arrays["x"][1, 2, 3, 4] = np.nan
                    else:
                        trainer.arrays["t"][2] = 9
                    with pytest.raises(NetError, match=said):
                        trainer.step()
                    break
                trainer.step()
    assert trainer.iteration == 0
    # Passes that went well before a bad one have drawn random numbers; the solver follows.
    trainer.save(tmp_path / "x.weights")
    solver.restore(tmp_path / "x.weights")
    for batch in batches:
        for name, array in batch.items():
            trainer.arrays[name][...] = array
        trainer.step()
    served = iter(batches)
    solver.step(feed=lambda: next(served))
    for name in solver.net.lasting():
        np.testing.assert_array_equal(trainer.arrays[name], solver.net.values()[name])
    with pytest.raises(NetError, match="at least 0"):
        trainer.iteration = -1
    with pytest.raises(NetError, match="cannot write"):
        trainer.save(tmp_path / "nowhere" / "x.weights")
    assert not list(tmp_path.glob("*.part"))


# -- programs --------------------------------------------------------------------------------


def graphc_compile(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "graphc", "compile", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trainer of IMAGES by Adam, beside its solver and 7 items of data."""
    place = tmp_path_factory.mktemp("program")
    (place / "net.prototxt").write_text(IMAGES)
    text = solver_text("Adam").split("\n", IMAGES.count("\n") + 1)[-1]
    (place / "solver.prototxt").write_text(text)
    words = ["--mode", "train", "--solver", place / "solver.prototxt", "--emit", "exe"]
    done = graphc_compile(place / "net.prototxt", *words, "-o", place / "trainer")
    assert done.returncode == 0, done.stderr
    rng = np.random.default_rng(6)
    np.save(place / "x.npy", rng.standard_normal((7, 4, 9, 8)).astype(np.float32))
    np.save(place / "t.npy", rng.integers(0, 4, 7).astype(np.float32))
    return place / "trainer"


DATA = ["x=x.npy", "t=t.npy"]


@needs_compiler
def test_program_trains_as_the_solver_does(program: Path):
    x, t = (np.load(program.parent / f"{name}.npy") for name in "xt")
    solver = make("Adam")
    place = [0]

    def feed() -> dict[str, np.ndarray]:
        rows = [(place[0] + i) % 7 for i in range(3)]
        place[0] += 3
        return {"x": x[rows], "t": t[rows]}

    losses = [solver.step(feed=feed) for _ in range(3)]
    words = ["--steps", 3, "--every", 1, "--threads", 1, "--save", "three.weights"]
    done = run(program, *DATA, *words, "-o", "fc/0=fc.npy", "-o", "fc/0.history2=h.npy")
    shown = re.findall(r"^iteration (\d+)  loss (\S+)  rate (\S+)$", done.stdout, re.M)
    assert [float(loss) for _, loss, _ in shown] == pytest.approx(losses, rel=1e-5)
    np.testing.assert_array_equal(
        np.load(program.parent / "fc.npy"), solver.net.params["fc"][0].data
    )
    history = solver.net.arrays.states["fc/0.history2"]
    np.testing.assert_array_equal(np.load(program.parent / "h.npy"), history)
    assert history.any()
    # Going on begins with the item that would have come next.
    solver.step(2, feed=feed)
    words = ["--steps", 2, "--threads", 1, "--weights", "three.weights", "--save", "five.weights"]
    assert "iteration 3 " in run(program, *DATA, *words).stdout
    net = graphc.Net(IMAGES, weights=program.parent / "five.weights")
    for name, array in solver.net.arrays.parameters.items():
        np.testing.assert_array_equal(net.arrays.parameters[name], array)


@needs_compiler
def test_command_goes_on_from_a_snapshot(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)  # where the snapshot goes
    solver = make("Adam")
    rng = np.random.default_rng(8)
    solver.step(2, feed=lambda: draw(solver, rng))
    for suffix in ("solverstate", "weights"):
        source = tmp_path / f"state.{suffix}"
        if suffix == "weights":
            trainer = Trainer(build(solver, tmp_path / "libimages.so"), "images")
            trainer.save(source)
            trainer.close()
        else:
            source = solver.snapshot().resolve()
        place = program.parent
        words = ["--solver", place / "solver.prototxt", "--weights", source, "--name", "images"]
        done = graphc_compile(place / "net.prototxt", *words, "-o", tmp_path / f"lib{suffix}.so")
        assert done.returncode == 0, done.stderr
        trainer = Trainer(tmp_path / f"lib{suffix}.so", "images")
        assert trainer.library.iteration(trainer.net) == 2
        trainer.equals(solver)
        trainer.close()


@needs_compiler
def test_only_libc_libm_and_threads_are_needed(program: Path):
    readelf = shutil.which("readelf")
    if readelf is None:
        pytest.skip("readelf is not installed")
    text = subprocess.check_output([readelf, "-dW", program], text=True)
    needed = set(re.findall(r"\(NEEDED\).*\[(.*?)\]", text))
    assert needed <= {"libc.so.6", "libm.so.6", "libpthread.so.0"}, needed


@needs_compiler
def test_program_tells_what_it_takes(program: Path):
    text = run(program, "--help").stdout
    for line in (
        "  x [3, 4, 9, 8]",
        "  conv/0 [6, 2, 3, 3]",
        "by Adam",
        "An iteration has 2 passes",
    ):
        assert line in text
    timed = run(program, "--bench", 2, "--threads", 1).stdout
    assert re.fullmatch(r"step: median [\d.e-]+ ms of 2 calls, 1 thread\n", timed)


@needs_compiler
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--steps", 1, "--save", "out"], "input 'x' is missing"),
        ([*DATA], "say where the result goes"),
        ([*DATA, "--save", "out"], "the solver has no max_iter"),
        ([*DATA, "--save", "out", "--steps", "-1"], "--steps needs a number from 1"),
        ([*DATA, "--save"], "'--save' is no option, or lacks its value"),
        ([*DATA, "-o", "fc/2=x.npy"], "'fc/2=x.npy' is no NAME=FILE.npy of an output"),
    ],
)
def test_program_used_wrongly(program: Path, words: list[str], said: str):
    assert said in run(program, *words, code=2).stderr


@needs_compiler
def test_program_refuses_bad_data(program: Path):
    place = program.parent
    x = np.load(place / "x.npy")
    np.save(place / "six.npy", x[:6])
    np.save(place / "none.npy", x[:0])
    np.save(place / "small.npy", x[:, :, :8])
    data = (place / "x.npy").read_bytes()
    (place / "huge.npy").write_bytes(data.replace(b"(7, 4", b"(7000000000000000, 4")[:128])
    (place / "large.npy").write_bytes(data.replace(b"(7, 4,", b"(900000000, 4,"))
    (place / "minus.npy").write_bytes(data.replace(b"(7, 4,", b"(-7, 4,"))
    np.save(place / "labels.npy", np.full(7, 9, np.float32))
    for name, said in {
        "six": "'six.npy' has 6 items, 't.npy' has 7",
        "none": "needs [3, 4, 9, 8], with any number of items",
        "small": "has shape (7, 4, 8, 8)",
        "huge": "'huge.npy' ",
        "large": "'large.npy' is cut short",
        "minus": "has shape (-7, 4, 9, 8)",
    }.items():
        words = [f"x={name}.npy", "t=t.npy", "--steps", 1, "--save", "refused.weights"]
        done = run(program, *words, code=3)
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
    words = ["x=x.npy", "t=labels.npy", "--steps", 1, "--save", "refused.weights"]
    assert "label is not within 0 .. 3" in run(program, *words, code=3).stderr
    assert not (place / "refused.weights").exists()


# -- the sample ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """libdigits_train.so, digits_train.h and the digits."""
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    place = tmp_path_factory.mktemp("digits")
    subprocess.run([sys.executable, SAMPLES / "digits_data.py", place], check=True)
    solver = graphc.Solver(SAMPLES / "digits_solver.prototxt", threads=1)
    build(solver, place / "libdigits_train.so")
    return place


@needs_compiler
@pytest.mark.parametrize("compiler", COMPILERS)
def test_digits_are_trained_in_c(digits_folder: Path, compiler: str):
    flags = [*STRICT, "-std=c99", "-I.", "-L.", "-Wl,-rpath,$ORIGIN"]
    source, program = SAMPLES / "train_digits.c", digits_folder / f"train_{compiler}"
    compiled(
        digits_folder, *flags, source, "-o", program, "-ldigits_train", "-lm", compiler=compiler
    )
    shown = run(program).stdout
    right = float(re.search(r"^held-out digits right: (\S+)%$", shown, re.M)[1])
    assert right >= 97
    net = graphc.Net(SAMPLES / "digits.prototxt", weights=digits_folder / "digits.weights")
    pictures = np.load(digits_folder / "held_out.npy")
    net.blobs["data"].reshape(*pictures.shape)
    found = net.forward(data=pictures)["score"].argmax(1)
    assert 100 * (found == np.load(digits_folder / "held_out_labels.npy")).mean() == pytest.approx(
        right, abs=0.01
    )
    bias = [f"{number:.3f}" for number in net.params["score"][1].data]
    assert f"score/1: {' '.join(bias)}" in shown


def test_command_used_wrongly(tmp_path: Path):
    net, solver = SAMPLES / "digits_train.prototxt", SAMPLES / "digits_solver.prototxt"
    done = graphc_compile(net, "--solver", solver, "--mode", "grad", "-o", tmp_path / "x")
    assert done.returncode == 2
    assert "--mode grad does not" in done.stderr
    done = graphc_compile(net, "--solver", solver, "--wrt", "data", "-o", tmp_path / "x")
    assert done.returncode == 2
    done = graphc_compile(net, "--solver", solver, "--emit", "cuda", "-o", tmp_path / "x")
    assert done.returncode == 2
    (tmp_path / "solver.prototxt").write_text('lr_policy: "stop"')
    words = ["--solver", tmp_path / "solver.prototxt", "-o", tmp_path / "x"]
    done = graphc_compile(net, *words)
    assert done.returncode == 3
    assert "unknown learning rate policy 'stop'" in done.stderr
    assert "Traceback" not in done.stderr
