"""Threads of one call: shares, waits, and the same bits however many there are."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import threading
import time
import warnings
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import pytest
from native_programs import Assembly

from graphc.codegen.llvm import claims, crew, step
from graphc.codegen.llvm.claims import HALVINGS, NEIGHBOURS, claims_text, least_uncut
from graphc.codegen.llvm.jit import load
from graphc.codegen.llvm.object import compile_program
from graphc.codegen.llvm.schedule import schedule
from graphc.codegen.llvm.target import Target
from graphc.codegen.llvm.team import WORTH_A_TEAM
from graphc.codegen.llvm.waits import waits
from graphc.codegen.nodes import Nodes
from graphc.error import NetError
from graphc.plan.program import Program
from graphc.runtime import cache_folder
from graphc.runtime.cpu import Executable

SIZE = 30_011


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache_folder.ENVIRONMENT, str(tmp_path))


def advance(k, x, y):
    """Each element needs one that another thread wrote in the step before."""
    (i,) = k.each(SIZE)
    y[i] = k.tanh(x[(i * 7 + 3) % SIZE]) + 0.5 * x[i]


def small(k, x, y):
    (i,) = k.each(8)
    y[i] = x[i] + 1.0


def spread(k, s, x, y):
    (i,) = k.each(SIZE)
    y[i] = x[i] + s[i % 8]


def chain(steps: int) -> Program:
    made = Assembly("chain")
    made.user("x", SIZE)
    for name in ("a", "b"):
        made.inner(name, SIZE)
    made.inner("s", 8)
    made.inner("t", 8)
    made.user("y", SIZE, role="output")
    made.step(advance, ["x"], ["a"])
    for number in range(steps):
        source, target = ("a", "b") if number % 2 == 0 else ("b", "a")
        made.step(advance, [source], [target])
    made.step(small, ["s"], ["t"])
    made.step(small, ["t"], ["s"])
    made.step(spread, ["s", target], ["y"])
    return made.program()


def run(executable: Executable, threads: int) -> np.ndarray:
    executable.arena[...] = 0
    executable.arrays["y"][...] = np.nan
    executable.call("forward", threads)
    return executable.arrays["y"].copy()


@pytest.mark.parametrize(
    "moved",
    [
        {"WORTH_CLAIMING": 10**12},
        {"WORTH_CLAIMING": 1},
        {"WORTH_CLAIMING": 1, "HALVINGS": 0, "NEIGHBOURS": 1},
        {"WORTH_CLAIMING": 1, "HALVINGS": 20, "NEIGHBOURS": 2},
    ],
)
def test_any_number_of_threads_gives_the_same_bits(
    moved: dict[str, int], monkeypatch: pytest.MonkeyPatch
):
    for name, value in moved.items():
        monkeypatch.setattr(step if name in vars(step) else claims, name, value)
    executable = load(compile_program(chain(20)))
    arrays = executable.bind_new()
    arrays["x"][...] = np.random.default_rng(1).standard_normal(SIZE)
    value = arrays["x"].astype(np.float64)
    for _ in range(21):
        value = np.tanh(value[(np.arange(SIZE) * 7 + 3) % SIZE]) + 0.5 * value
    alone = run(executable, 1)
    np.testing.assert_allclose(alone, value + 2, atol=1e-5)
    for threads in (2, 3, 5, 16, 2, 3):
        np.testing.assert_array_equal(run(executable, threads), alone)
    for odd in (0, -4, 1000):
        np.testing.assert_array_equal(run(executable, odd), alone)


# -- pieces of shares ---------------------------------------------------------------------------


class Claims:
    """The counters of a team, and `graphc_claim` as machine code."""

    def __init__(self) -> None:
        head = f'target triple = "{llvm.get_process_triple()}"\n'
        text = claims_text().replace("define internal", "define")
        # A pair is returned in registers by one way of calling and in memory by another.
        text += """
define void @claim(ptr %claims, i64 %thread, i64 %threads, i64 %step, i64 %units, i64 %grain,
  i64 %least, ptr %found) {
  %pair = call { i64, i64 } @graphc_claim(ptr %claims, i64 %thread, i64 %threads, i64 %step,
    i64 %units, i64 %grain, i64 %least)
  store { i64, i64 } %pair, ptr %found
  ret void
}
"""
        machine = Target.host().machine()
        self.engine = llvm.create_mcjit_compiler(llvm.parse_assembly(head + text), machine)
        self.engine.finalize_object()
        types = [ctypes.c_void_p, *[ctypes.c_int64] * 6, ctypes.c_void_p]
        self.function = ctypes.CFUNCTYPE(None, *types)(self.engine.get_function_address("claim"))
        self.counters = np.zeros((256, 8), np.int64)
        self.found = np.zeros(2, np.int64)

    def claim(self, thread: int, threads: int, step: int, units: int, grain: int) -> range:
        numbers = thread, threads, step, units, grain, least_uncut(grain)
        self.function(self.counters.ctypes.data, *numbers, self.found.ctypes.data)
        return range(*self.found.tolist())


@pytest.mark.parametrize("threads", [1, 2, 3, 5, 40])
@pytest.mark.parametrize("grain", [1, 3, 7])
def test_every_unit_is_claimed_once(threads: int, grain: int):
    counters, rng = Claims(), random.Random(threads + grain)
    for position, units in enumerate([1, 2, 3, 43, 64, 1000, 98304, 5]):
        starts = [t * units // threads for t in range(threads + 1)]
        here, pieces = list(range(threads)), []
        while here:
            thread = rng.choice(here)
            if piece := counters.claim(thread, threads, position, units, grain):
                pieces.append(piece)
                continue
            here.remove(thread)  # it goes to the next step, and nothing may be left that it sees
            near = [(thread + k) % threads for k in range(min(threads, NEIGHBOURS))]
            claimed = {unit for piece in pieces for unit in (piece[0], piece[-1])}
            for t in near:
                empty = starts[t] == starts[t + 1]
                assert empty or (starts[t] in claimed and starts[t + 1] - 1 in claimed)
        pieces.sort(key=lambda piece: piece.start)
        assert [piece.start for piece in pieces] == [0, *(piece.stop for piece in pieces[:-1])]
        assert pieces[-1].stop == units
        assert all(piece.start in starts or piece.start % grain == 0 for piece in pieces)
        assert len(pieces) <= threads * (1 if threads == 1 else HALVINGS + 1)


def test_who_is_late_finds_less_to_do():
    counters = Claims()
    assert counters.claim(0, 2, 5, 64, 1) == range(16)
    claimed = [counters.claim(0, 2, 5, 64, 1) for _ in range(6)]
    assert claimed[-1] == range(32, 48)  # the other's first piece, before that comes
    assert counters.claim(1, 2, 5, 64, 1) == range(48, 56)
    assert counters.claim(1, 2, 6, 64, 1) == range(32, 48)  # another step


def test_one_thread_does_a_step_as_a_whole():
    counters = Claims()
    assert counters.claim(0, 1, 0, 1000, 1) == range(1000)
    assert not counters.claim(0, 1, 0, 1000, 1)


def test_waits_only_where_bytes_are_shared():
    made = chain(2)
    everything = [True] * len(made.steps)
    inputs = [len(step.kernel.inputs) for step in made.steps]
    names = [step.arguments for step in made.steps]
    touched = [(some[:count], some[count:]) for some, count in zip(names, inputs, strict=True)]
    # advance x->a, a->b, b->a; small s->t, t->s; spread s, a -> y.
    assert waits(made, touched, everything) == [False, True, True, False, True, True]
    # Thread 0 alone runs both small steps, so only the reader of both waits.
    shared = [True, True, True, False, False, True]
    assert waits(made, touched, shared) == [False, True, True, False, False, True]


def test_the_test_program_is_worth_a_team():
    """Otherwise everything above would have run on one thread."""
    work = sum(
        schedule(Nodes(step.kernel).read(), Target.named("host")).cost for step in chain(20).steps
    )
    assert work > 1.5 * WORTH_A_TEAM * Target.named("host").lanes("float32")


def test_calls_from_several_python_threads():
    """Every call has its own team, and the interpreter's lock is free meanwhile."""
    bundle = compile_program(chain(20))
    executables = [load(bundle) for _ in range(3)]
    for executable in executables:
        executable.bind_new()["x"][...] = np.random.default_rng(2).standard_normal(SIZE)
    alone = run(executables[0], 1)
    results: dict[int, np.ndarray] = {}

    def work(number: int) -> None:
        for _ in range(3):
            results[number] = run(executables[number], 2)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    for number in range(3):
        np.testing.assert_array_equal(results[number], alone)


THREADS = Path("/proc/self/task")


def ready(seed: int) -> tuple[Executable, np.ndarray]:
    """A program with its input, and what it answers."""
    executable = load(compile_program(chain(20)))
    executable.bind_new()["x"][...] = np.random.default_rng(seed).standard_normal(SIZE)
    return executable, run(executable, 1)


@pytest.mark.skipif(not THREADS.exists(), reason="threads are counted in Linux's /proc")
def test_threads_linger_and_go():
    executable, alone = ready(3)
    before = len(list(THREADS.iterdir()))
    for _ in range(5):
        np.testing.assert_array_equal(run(executable, 4), alone)
        assert len(list(THREADS.iterdir())) <= before + 3  # no more for each call
    for _ in range(2000):
        if len(list(THREADS.iterdir())) <= before:
            break
        time.sleep(0.01)
    assert len(list(THREADS.iterdir())) <= before
    np.testing.assert_array_equal(run(executable, 4), alone)


@pytest.fixture
def long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "LINGERS", 10**8)  # more than a second


@pytest.mark.usefixtures("long_waits")
def test_code_is_unloaded_while_threads_linger():
    bundle = compile_program(chain(20))
    for _ in range(5):
        executable = load(bundle)
        arrays = executable.bind_new()
        arrays["x"][...] = 0
        executable.call("forward", 3)
        del executable
        np.testing.assert_array_equal(arrays["y"], 2.0)


@pytest.mark.usefixtures("long_waits")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_makes_threads_of_its_own():
    executable, alone = ready(5)
    np.testing.assert_array_equal(run(executable, 3), alone)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python sees the threads that linger
        child = os.fork()
    if child == 0:
        same = all((run(executable, 3) == alone).all() for _ in range(3))
        os._exit(0 if same else 1)
    for _ in range(3000):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        time.sleep(0.01)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the child hangs")
    assert os.waitstatus_to_exitcode(status) == 0
    np.testing.assert_array_equal(run(executable, 3), alone)


def test_calls_of_one_program_at_the_same_time():
    """The crew is one call's; another call beside it makes threads that end with it."""
    bundle = compile_program(chain(20))
    executable = load(bundle)
    others = [Executable(bundle, executable._functions) for _ in range(2)]
    x = np.random.default_rng(6).standard_normal(SIZE)
    for one in (executable, *others):
        one.bind_new()["x"][...] = x
    alone = run(executable, 1)
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(10):
            if not (run(others[number], 3) == alone).all():
                wrong.append(number)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert not wrong and not any(worker.is_alive() for worker in workers)


def checked(k, x, z):
    """Refuses numbers beyond 100."""
    (i,) = k.each(SIZE)
    n = k.let(k.cast(x[i], "int64"))
    k.check((n > -100) & (n < 100), "too large", n)
    z[i] = x[i] * 0.0


def counted(k, y, z, w):
    """What may not happen to numbers that were refused."""
    (i,) = k.each(SIZE)
    w[i] = y[i] + 1.0 + z[i]


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_backward_does_not_run_on_what_forward_refused(threads: int):
    made = Assembly("refusing")
    made.user("x", SIZE)
    made.inner("a", SIZE)
    made.inner("b", SIZE)
    made.inner("z", SIZE)
    made.user("y", SIZE, role="output")
    made.step(advance, ["x"], ["a"])
    for number in range(12):
        source, target = ("a", "b") if number % 2 == 0 else ("b", "a")
        made.step(advance, [source], [target])
    made.step(checked, ["x"], ["z"])
    made.step(counted, ["a", "z"], ["y"])
    executable = load(compile_program(made.program(forward_steps=14)))
    arrays = executable.bind_new()
    arrays["x"][SIZE - 5] = 777.0
    arrays["y"][...] = 7.0
    for _ in range(20):
        with pytest.raises(NetError, match="too large; found 777"):
            executable.call("both", threads)
        np.testing.assert_array_equal(arrays["y"], 7.0)
    arrays["x"][...] = 0.0
    executable.call("both", threads)
    np.testing.assert_array_equal(arrays["y"], 1.0)
    executable.call("backward", threads)
    np.testing.assert_array_equal(arrays["y"], 1.0)
