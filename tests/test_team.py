"""Threads of one call: shares, waits, and the same bits however many there are."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from native_programs import Assembly

from graphc.codegen.llvm.jit import load
from graphc.codegen.llvm.object import compile_program
from graphc.codegen.llvm.program import waits
from graphc.codegen.llvm.schedule import schedule
from graphc.codegen.llvm.target import Target
from graphc.codegen.llvm.team import WORTH_A_TEAM
from graphc.codegen.nodes import Nodes
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
