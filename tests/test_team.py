"""Threads of one call: shares, waits, and the same bits however many there are."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from native_programs import Assembly

from graphc.codegen.llvm import crew
from graphc.codegen.llvm.jit import load
from graphc.codegen.llvm.object import compile_program
from graphc.codegen.llvm.program import waits
from graphc.codegen.llvm.schedule import schedule
from graphc.codegen.llvm.target import Target
from graphc.codegen.llvm.team import WORTH_A_TEAM
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


def test_any_number_of_threads_gives_the_same_bits():
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


def test_waits_only_where_bytes_are_shared():
    program = chain(2)
    everything = [True] * len(program.steps)
    inputs = [len(step.kernel.inputs) for step in program.steps]
    names = [step.arguments for step in program.steps]
    touched = [(some[:count], some[count:]) for some, count in zip(names, inputs, strict=True)]
    # advance x->a, a->b, b->a; small s->t, t->s; spread s, a -> y.
    assert waits(program, touched, everything) == [False, True, True, False, True, True]
    # Thread 0 alone runs both small steps, so only the reader of both waits.
    shared = [True, True, True, False, False, True]
    assert waits(program, touched, shared) == [False, True, True, False, False, True]


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
