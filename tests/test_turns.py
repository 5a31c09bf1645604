"""One call at a time: what a second thread, a nested call, control-C and a fork find."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import graphc
from graphc.artifact import Contents, save
from graphc.dagnn import DagNet, PythonBlock
from graphc.runtime.cpu import Executable
from graphc.runtime.trainer import Trainer
from graphc.training_event import Event

SAMPLES = Path(__file__).resolve().parent.parent / "samples"
SMALL = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 4 } } }
layer { name: "a" type: "InnerProduct" bottom: "x" top: "a"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "Reduction" bottom: "a" top: "loss" loss_weight: 1 }
"""
HOSTED = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 3 } } }
layer { name: "held" type: "Python" bottom: "x" top: "y"
  python_param { module: "held_up" layer: "Held" } }
"""
MODULE = """
import held_up_by


class Held:
    def setup(self, bottom, top): pass

    def reshape(self, bottom, top): top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        held_up_by.does()
        top[0].data[...] = bottom[0].data + 1

    def backward(self, top, propagate_down, bottom): bottom[0].diff[...] = top[0].diff
"""
X = np.arange(8, dtype="float32").reshape(2, 4)


class Gate:
    """What holds a call up: `stop`, called by it, returns when the test is over."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        self.holds = True

    def stop(self) -> None:
        """Wait once; later calls pass."""
        if self.holds:
            self.holds = False
            self.reached.set()
            assert self.opened.wait(60)

    @contextmanager
    def held_up(self, call: Callable[[], object]) -> Iterator[None]:
        """`call`, made by a thread of the name 'first', is at the gate; it ends afterwards."""
        first = threading.Thread(target=call, name="first")
        first.start()
        try:
            assert self.reached.wait(60)
            yield
        finally:
            self.opened.set()
            first.join(60)
        assert not first.is_alive()


def hold_up(executable: Executable, gate: Gate) -> None:
    """Let native calls come by the gate."""
    native = dict(executable._passes)

    def passing(what: str) -> Callable[..., int]:
        def met(*arguments: Any) -> int:
            gate.stop()
            return int(native[what](*arguments))

        return met

    executable._passes = {what: passing(what) for what in native}


def small_net(gate: Gate) -> graphc.Net:
    net = graphc.Net(SMALL, threads=1)
    executable = net.prepare(wrt=["x", "a/0"]).executable
    assert executable is not None
    hold_up(executable, gate)
    return net


@pytest.mark.parametrize(
    "second",
    [
        lambda net: net.forward(x=-X),
        lambda net: net.backward(),
        lambda net: net.forward_backward({"x": -X}),
        lambda net: net.set_inputs({"x": -X}),
        lambda net: net.reshape(),
        lambda net: net.copy_from("random:2"),
        lambda net: net.share_with(graphc.Net(SMALL, threads=1)),
        lambda net: net.save("never.caffemodel"),
        lambda net: net.prepare(),
        lambda net: net.clear_param_diffs(),
    ],
)
def test_a_net_refuses_a_second_thread(second: Callable[[graphc.Net], object]) -> None:
    gate = Gate()
    net = small_net(gate)
    made: dict[str, np.ndarray] = {}
    refused = pytest.raises(
        graphc.NetError,
        match=r"was called while forward of the same Net runs in thread 'first': both would work"
        r" on the same arrays; make a Net for each thread",
    )
    with gate.held_up(lambda: made.update(net.forward(x=X))), refused:
        second(net)
    np.testing.assert_array_equal(net.blobs["x"].data, X)
    expected = net.forward(x=X)["loss"].copy()
    np.testing.assert_array_equal(made["loss"], expected)
    assert not Path("never.caffemodel").exists()


@pytest.fixture
def does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """`does.does` is what the layer of HOSTED does in a forward pass."""
    (tmp_path / "held_up.py").write_text(MODULE)
    (tmp_path / "net.prototxt").write_text(HOSTED)
    made = SimpleNamespace(does=lambda: None)
    monkeypatch.setitem(sys.modules, "held_up_by", made)
    return made


def test_a_python_layer_cannot_run_its_own_net(tmp_path: Path, does: SimpleNamespace) -> None:
    net = graphc.Net(tmp_path / "net.prototxt", threads=1)
    np.testing.assert_array_equal(net.forward(x=[1, 2, 3])["y"], [2, 3, 4])
    does.does = lambda: net.forward(x=[7, 7, 7])
    with pytest.raises(graphc.NetError, match="forward of the same Net runs, by what that runs"):
        net.forward(x=[4, 5, 6])
    does.does = lambda: None
    np.testing.assert_array_equal(net.forward(x=[4, 5, 6])["y"], [5, 6, 7])


def test_a_python_layer_may_run_another_net(tmp_path: Path, does: SimpleNamespace) -> None:
    net, other = graphc.Net(tmp_path / "net.prototxt", threads=1), graphc.Net(SMALL, threads=1)
    does.does = lambda: other.forward(x=X)
    np.testing.assert_array_equal(net.forward(x=[4, 5, 6])["y"], [5, 6, 7])
    np.testing.assert_array_equal(other.blobs["x"].data, X)


# -- solvers ------------------------------------------------------------------------------------

SOLVER = f'base_lr: 0.1 lr_policy: "fixed" random_seed: 3 net_param {{ {SMALL} }}\n'


def small_solver() -> graphc.Solver:
    made = graphc.Solver(SOLVER, threads=1)
    made.net.set_inputs({"x": X})
    return made


def test_a_solver_refuses_a_second_thread_but_its_stop() -> None:
    gate, solver, other = Gate(), small_solver(), small_solver()

    def waiting() -> dict[str, np.ndarray]:
        gate.stop()
        return {}

    with gate.held_up(lambda: solver.step(9, waiting)):
        for second in (solver.step, solver.snapshot, solver.test_all, solver.solve):
            with pytest.raises(graphc.NetError, match="step of the same Solver runs in thread 'fi"):
                second()
        solver.stop()
    assert solver.iter == 1
    other.step(1)
    for name, array in other.net.values().items():
        np.testing.assert_array_equal(solver.net.values()[name], array)


def test_a_listener_may_use_its_solver(tmp_path: Path) -> None:
    text = SOLVER.replace("base_lr", f'snapshot_prefix: "{tmp_path}/s" base_lr')
    solver = graphc.Solver(text, threads=1)
    seen: list[Path] = []

    def listen(event: Event) -> None:
        if not seen:
            seen.append(tmp_path)
            seen[0] = solver.snapshot()
            solver.net.forward(x=X)

    solver.listeners.append(listen)
    solver.step(2)
    assert seen[0].is_file() and solver.iter == 2


# -- bundles ------------------------------------------------------------------------------------


def test_a_bundle_refuses_a_second_thread(tmp_path: Path) -> None:
    net = graphc.Net(SMALL, threads=1)
    save(net.prepare(), net.values(), tmp_path / "net.bundle", "bundle")
    loaded, gate = graphc.load(tmp_path / "net.bundle"), Gate()
    assert isinstance(loaded, Executable)
    hold_up(loaded, gate)
    with gate.held_up(loaded.call):
        with pytest.raises(graphc.NetError, match=r"call of the same bundle .*'first'.* load"):
            loaded.call()
        with pytest.raises(graphc.NetError, match="step was called while call"):
            loaded.step(0)
    loaded.call()


def test_a_trainer_refuses_a_second_thread(tmp_path: Path) -> None:
    solver = small_solver()
    save(Contents.of_training(solver), solver.net.values(), tmp_path / "net.bundle", "bundle")
    trainer, gate = graphc.load(tmp_path / "net.bundle"), Gate()
    assert isinstance(trainer, Trainer)
    hold_up(trainer._whole, gate)
    with gate.held_up(trainer.step):
        with pytest.raises(graphc.NetError, match="step of the same Trainer runs in thread 'first"):
            trainer.step()
        with pytest.raises(graphc.NetError, match="save was called while step"):
            trainer.save(tmp_path / "torn.weights")
    assert trainer.iteration == 1 and not (tmp_path / "torn.weights").exists()


# -- MatConvNet ---------------------------------------------------------------------------------

Y = np.arange(4, dtype="float32").reshape(1, 1, 4, 1)


def test_a_dagnet_refuses_a_second_thread() -> None:
    gate = Gate()

    def waiting(x: np.ndarray) -> np.ndarray:
        if x.any():  # not where the size is asked for
            gate.stop()
        return x + 1

    net = DagNet()
    net.add_layer("own", PythonBlock(waiting, lambda dzdy, x: dzdy, lambda size: size), "x", "y")
    refused = pytest.raises(graphc.NetError, match="eval of the same DagNet runs in thread 'first'")
    with gate.held_up(lambda: net.eval({"x": Y})), refused:
        net.eval({"x": -Y})
    np.testing.assert_array_equal(net.vars["y"].value, Y + 1)


def test_a_simplenet_refuses_a_second_thread() -> None:
    gate = Gate()

    def waiting(layer: Any, before: Any, after: Any) -> Any:
        gate.stop()
        after.x = before.x + 1
        return after

    net = graphc.SimpleNet([{"type": "relu"}, {"type": "custom", "forward": waiting}])
    found: list[Any] = []
    refused = pytest.raises(graphc.NetError, match="simplenn of the same SimpleNet runs in thread")
    with gate.held_up(lambda: found.append(graphc.simplenn(net, Y)[-1].x)), refused:
        graphc.simplenn(net, -Y)
    np.testing.assert_array_equal(found[0], Y + 1)


# -- control-C ----------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timers")
def test_control_c_never_leaves_a_net_taken() -> None:
    """Wherever it comes: between the instructions before a call, in it, or behind it."""
    net = graphc.Net(SMALL, threads=1)
    expected = net.forward(x=X)["loss"].copy()

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    met = 0
    try:
        for number in range(400):
            with suppress(KeyboardInterrupt):
                met += 1
                signal.setitimer(signal.ITIMER_REAL, 1e-5 + number % 40 * 2e-6)
                for _ in range(200):
                    net.forward(x=X)
                met -= 1
            with suppress(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, 0)
            np.testing.assert_array_equal(net.forward(x=X)["loss"], expected)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert met > 300


# -- nets of several threads, and processes -----------------------------------------------------


def lenet(seed: int, **options: Any) -> graphc.Net:
    return graphc.Net(
        SAMPLES / "lenet_train.prototxt",
        weights=f"random:{seed}",
        phase=graphc.TRAIN,
        threads=2,
        **options,
    )


def feed(net: graphc.Net, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = net.blobs["data"].shape
    return {"data": rng.random(shape, "float32"), "label": rng.integers(0, 10, shape[0])}


@pytest.mark.parametrize("shares", [False, True])
def test_nets_run_in_threads_at_once(shares: bool) -> None:
    """Compiled there, each with a team of two; the same bits as alone."""
    alone = lenet(0)
    inputs = [feed(alone, seed) for seed in range(3)]
    expected: list[tuple[float, np.ndarray]] = []
    for one in inputs:
        slopes = alone.forward_backward(one, wrt=["data"])
        expected.append((alone.loss, slopes["data"].copy()))
    wrong: list[object] = []

    def work(number: int) -> None:
        try:
            net = lenet(0)
            if shares:
                net.share_with(alone)
            for _ in range(15):
                slopes = net.forward_backward(inputs[number], wrt=["data"])
                same = (slopes["data"] == expected[number][1]).all()
                if not same or net.loss != expected[number][0]:
                    wrong.append(number)
        except Exception as error:
            wrong.append(error)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert not wrong and not any(worker.is_alive() for worker in workers)


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork"
)
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_processes_that_are_forked_run_the_net() -> None:
    net = lenet(0)
    inputs = feed(net, 1)
    net.forward(**inputs)
    expected = net.loss

    def loss(place: Any) -> None:
        net.forward(**inputs)
        place.value = net.loss

    context = multiprocessing.get_context("fork")
    places = [context.Value("d", 0.0) for _ in range(3)]
    workers = [context.Process(target=loss, args=(place,)) for place in places]
    for worker in workers:
        worker.start()
    net.forward(**inputs)
    assert net.loss == expected
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert [place.value for place in places] == [expected] * 3


ENDING = """
import sys, threading, time
sys.path[:0] = {path!r}
import graphc
from graphc.codegen.llvm import crew
crew.LINGERS = 10**9
net = graphc.Net({net!r}, phase=graphc.TRAIN, weights="random:0", threads=3)
net.forward()

def work():
    while True:
        net.forward()

if {works}:
    threading.Thread(target=work, daemon=True).start()
    time.sleep({seconds})
"""


@pytest.mark.parametrize(("works", "seconds"), [(False, 0), (True, 0.1), (True, 0.15)])
def test_the_interpreter_ends_while_threads_linger_or_work(
    works: bool, seconds: float, tmp_path: Path
) -> None:
    path = str(SAMPLES / "lenet_train.prototxt")
    text = ENDING.format(path=sys.path, net=path, works=works, seconds=seconds)
    done = subprocess.run(
        [sys.executable, "-c", text],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={"GRAPHC_CACHE": str(tmp_path), "PATH": ""},
    )
    assert (done.returncode, done.stderr) == (0, "")
