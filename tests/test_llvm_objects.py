"""The objects that one program is compiled to, by several threads."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from c_programs import STRICT, compiled, needs_compiler, run
from compiled_nets import Sample
from native_programs import Assembly

import graphc
from graphc.artifact import Contents, save
from graphc.codegen.llvm import modules, object, object_maker, threaded
from graphc.codegen.llvm.jit import load
from graphc.codegen.llvm.linkable import compile_linkable
from graphc.codegen.llvm.object import compile_program, llvm_text
from graphc.codegen.llvm.object_maker import ObjectMaker
from graphc.codegen.llvm.target import Target
from graphc.error import NetError
from graphc.plan.program import Program
from graphc.runtime import cache_folder
from graphc.runtime.bundle import Bundle

EMPTY = "define void @nothing() {\n  ret void\n}\n"
NONSENSE = "define nonsense"
LAYERS = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 3 dim: 4 dim: 6 dim: 6 } } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "conv"
  convolution_param { num_output: 5 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "norm" type: "LRN" bottom: "conv" top: "norm" }
layer { name: "pool" type: "Pooling" bottom: "norm" top: "pool"
  pooling_param { kernel_size: 3 stride: 2 } }
layer { name: "fc" type: "InnerProduct" bottom: "pool" top: "fc"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
"""
LOSS = """
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 3 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
"""
RNG = np.random.default_rng(1)
X = RNG.standard_normal((3, 4, 6, 6)).astype(np.float32)
LABEL = np.array([2, 0, 1], np.float32)


@pytest.fixture(autouse=True)
def without_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache_folder.ENVIRONMENT, str(tmp_path / "file" / "below"))
    (tmp_path / "file").write_text("not a folder")


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kernel gets an object of its own."""
    monkeypatch.setattr(modules, "FULL", 1)


def program() -> Program:
    """Kernels that are all different, each with a loop."""
    made = Assembly("several")
    made.user("x", 8, 64)
    made.user("y", 8, 64, role="output")
    names = ["x", *(made.inner(f"inner{n}", 8, 64) for n in range(8)), "y"]
    for n in range(9):

        def scaled(k, x, y, factor=float(n + 2)):
            i, j = k.each(8, 64)
            y[i, j] = k.exp(x[i, j] / factor)

        made.step(scaled, [names[n]], [names[n + 1]])
    return made.program()


def left_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "graphc-objects"]


def with_cores(patch: pytest.MonkeyPatch, cores: int) -> None:
    patch.setattr(object_maker, "usable_cores", lambda: cores)


# -- the same code and the same numbers ------------------------------------------------------


@pytest.mark.parametrize("full", [1, 80, 200])
def test_code_does_not_depend_on_cores(full: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(modules, "FULL", full)
    found = []
    for cores in (1, 2, 2, 7):
        with_cores(monkeypatch, cores)
        found.append(compile_program(program()))
    assert all(bundle == found[0] for bundle in found)
    assert 1 < len(found[0].objects) <= 10
    assert (len(found[0].objects) == 10) == (full == 1)  # an object a kernel, and that of the team


def test_a_cut_depends_on_size_alone(monkeypatch: pytest.MonkeyPatch):
    counts = []
    for full in (1, 40, 200, 10**9):
        monkeypatch.setattr(modules, "FULL", full)
        counts.append(len(compile_program(program()).objects))
    assert counts == sorted(counts, reverse=True) and counts[-1] == 1


def test_the_shown_text_is_one(one_by_one: None, monkeypatch: pytest.MonkeyPatch):
    text = llvm_text(program())
    monkeypatch.setattr(modules, "FULL", 10**9)
    assert llvm_text(program()) == text
    assert text.count("ModuleID") == 1 and "hidden" not in text


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("phase", [graphc.TRAIN, graphc.TEST])
def test_several_objects_give_the_same_bits(
    phase: graphc.Phase, threads: int, monkeypatch: pytest.MonkeyPatch
):
    answers: list[dict[str, np.ndarray]] = []
    counts = []
    for full in (10**9, 1):
        monkeypatch.setattr(modules, "FULL", full)
        net = graphc.Net(LAYERS + LOSS, phase=phase, threads=threads, seed=3)
        made = net.forward_backward({"x": X, "label": LABEL}, wrt=["x", "conv/0", "fc/0", "fc/1"])
        answers.append({name: array.copy() for name, array in made.items()})
        executable = net.compilation().executable
        assert executable is not None
        counts.append(len(executable.bundle.objects))
    assert counts[0] == 1 and counts[1] > 5
    assert answers[0].keys() == answers[1].keys()
    for name, array in answers[0].items():
        assert np.any(array)
        np.testing.assert_array_equal(array, answers[1][name], err_msg=name)


def test_an_llvmlite_with_other_functions_makes_the_same_code(
    one_by_one: None, own_cache: Path, monkeypatch: pytest.MonkeyPatch
):
    usual = compile_program(program())
    monkeypatch.setattr(threaded, "_BRIEF", ("LLVMPY_NoSuchFunction",))
    threaded._functions.cache_clear()
    monkeypatch.setenv("GRAPHC_CACHE", str(own_cache / "other"))
    try:
        assert threaded._functions() is None
        assert compile_program(program()).objects == usual.objects
    finally:
        monkeypatch.undo()
        threaded._functions.cache_clear()


def test_two_compilations_at_once(one_by_one: None):
    want = compile_program(program())
    found: list[Bundle] = []

    def compiling() -> None:
        found.append(compile_program(program()))

    threads = [threading.Thread(target=compiling) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [want] * 3


# -- files -----------------------------------------------------------------------------------


def test_a_bundle_file_holds_all_objects(one_by_one: None, tmp_path: Path):
    bundle = compile_program(program())
    bundle.save(tmp_path / "several.bundle")
    again = Bundle.load(tmp_path / "several.bundle")
    assert again == bundle and len(again.objects) == 10
    executable = load(again)
    arrays = executable.bind_new()
    arrays["x"][...] = x = RNG.standard_normal((8, 64)).astype(np.float32)
    executable.call()
    want = x.astype(np.float64)
    for n in range(9):
        want = np.exp(want / (n + 2))
    np.testing.assert_allclose(arrays["y"], want, rtol=1e-5)


@pytest.mark.parametrize(
    "changed",
    [
        lambda objects: (),
        lambda objects: objects[:-1],
        lambda objects: objects[1:],
        lambda objects: (*objects, objects[0]),
        lambda objects: (objects[0][:100], *objects[1:]),
    ],
)
def test_objects_that_do_not_fit_are_refused(
    changed: Callable[[Sequence[bytes]], tuple[bytes, ...]], one_by_one: None
):
    bundle = compile_program(program())
    with pytest.raises(NetError, match="the machine code of 'several' cannot be loaded"):
        load(replace(bundle, objects=changed(bundle.objects)))


def test_the_cache_keeps_all_objects(
    one_by_one: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(cache_folder.ENVIRONMENT, str(tmp_path / "cache"))
    first = compile_program(program())
    monkeypatch.setattr(object, "emit_program", None)
    assert compile_program(program()) == first
    assert len(first.objects) == 10


# -- what a linker sees ----------------------------------------------------------------------


def symbols(path: Path, *options: str) -> list[list[str]]:
    """What `nm` says of a file: lines of [address,] kind and name."""
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("there is no nm")
    done = subprocess.run([nm, *options, str(path)], capture_output=True, text=True, check=True)
    return [line.split() for line in done.stdout.splitlines()]


@needs_compiler
def test_a_library_shows_no_kernel(one_by_one: None, tmp_path: Path):
    sample = Sample(f'name: "small" {LAYERS}', given=["fc"], wrt=["x"])
    assert len(compile_linkable(sample.lowered().program, Target.host(), "small").objects) > 5
    sample.save(tmp_path / "libsmall.so", "so")
    shown = [line[-1] for line in symbols(tmp_path / "libsmall.so", "-D", "--defined-only")]
    assert "small_forward" in shown
    assert not [name for name in shown if "_run_" in name]
    local = [line for line in symbols(tmp_path / "libsmall.so") if "_run_k" in line[-1]]
    assert len(local) > 5
    assert {line[-2] for line in local} == {"t"}  # code, seen within the library


TWO = """
#include <stdio.h>
#include "left.h"
#include "right.h"
int main(void) {
    left_net *left = left_create(NULL, NULL);
    right_net *right = right_create(NULL, NULL);
    if (left == NULL || right == NULL) return 1;
    for (int i = 0; i < left_input_size(0); i++)
        left_input(left, 0)[i] = right_input(right, 0)[i] = (float)(i % 7) - 3;
    if (left_forward(left, 1) || right_forward(right, 2)) return 1;
    for (int i = 0; i < left_output_size(0); i++)
        printf("%.9g %.9g\\n", left_output(left, 0)[i], right_output(right, 0)[i]);
    left_destroy(left);
    right_destroy(right);
    return 0;
}
"""


@needs_compiler
def test_two_programs_in_one(one_by_one: None, tmp_path: Path):
    """Their kernels have the same numbers and names."""
    x = (np.arange(3 * 4 * 6 * 6) % 7 - 3).reshape(3, 4, 6, 6).astype(np.float32)
    wanted = []
    for name, layers in (("left", LAYERS), ("right", LAYERS.replace("stride: 2", "stride: 1"))):
        sample = Sample(f'name: "{name}" {layers}')
        sample.save(tmp_path / f"{name}.o", "obj")
        wanted.append(sample.forward(x=x)["fc"].reshape(-1))
    (tmp_path / "two.c").write_text(TWO)
    flags = [*STRICT, "-std=c99", "two.c", "left.o", "right.o", "-o", "two", "-pthread", "-lm"]
    compiled(tmp_path, *flags)
    shown = np.array(run(tmp_path / "two").stdout.split(), np.float32).reshape(-1, 2).T
    np.testing.assert_array_equal(shown, np.array(wanted))


@needs_compiler
def test_passes_of_a_training_step_in_one_library(one_by_one: None, tmp_path: Path):
    solver = graphc.Solver(
        f'net_param {{ name: "small" {LAYERS}{LOSS} }} base_lr: 0.1 lr_policy: "fixed" iter_size: 2'
    )
    save(Contents.of_training(solver), solver.net.values(), tmp_path / "libsmall.so", "so")
    names = [line[-1] for line in symbols(tmp_path / "libsmall.so")]
    for prefix in ("small_run_k0_", "small_pass_run_k0_", "small_run_rest", "small_pass_run_rest"):
        assert [name for name in names if name.startswith(prefix)], prefix


# -- what goes wrong -------------------------------------------------------------------------


@pytest.mark.parametrize("cores", [1, 3])
def test_what_llvm_refuses_is_raised(cores: int, monkeypatch: pytest.MonkeyPatch):
    with_cores(monkeypatch, cores)
    with (
        ObjectMaker(Target.host()) as maker,
        pytest.raises(RuntimeError, match="LLVM IR parsing error"),
    ):
        for text in (EMPTY, NONSENSE, EMPTY):
            maker.add(text)
        maker.objects()
    assert not left_threads()


@pytest.mark.parametrize("cores", [1, 2, 5])
def test_the_first_error_in_a_thread_is_raised(
    cores: int, own_cache: Path, one_by_one: None, monkeypatch: pytest.MonkeyPatch
):
    with_cores(monkeypatch, cores)
    made = object_maker.machine_code

    def failing(text: str, machine: object) -> bytes:
        for number in (2, 4):
            if f"@k{number}_scaled(ptr %" in text:
                raise MemoryError(f"kernel {number}")
        return made(text, machine)

    with monkeypatch.context() as patch:
        patch.setattr(object_maker, "machine_code", failing)
        with pytest.raises(MemoryError, match="kernel 2"):
            compile_program(program())
    assert not left_threads()
    assert not own_cache.exists()
    assert len(compile_program(program()).objects) == 10


@pytest.mark.parametrize("where", ["emission", "machine code"])
def test_an_interrupt_leaves_no_thread(
    where: str, own_cache: Path, one_by_one: None, monkeypatch: pytest.MonkeyPatch
):
    made = object_maker.machine_code
    added = ObjectMaker.add
    count = 0

    def interrupted_addition(maker: ObjectMaker, text: str) -> None:
        nonlocal count
        count += 1
        if count == 5:
            raise KeyboardInterrupt
        added(maker, text)

    def interrupted_code(text: str, machine: object) -> bytes:
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        return made(text, machine)

    with_cores(monkeypatch, 2 if where == "emission" else 1)
    with monkeypatch.context() as patch:
        if where == "emission":
            patch.setattr(ObjectMaker, "add", interrupted_addition)
        else:
            patch.setattr(object_maker, "machine_code", interrupted_code)
        with pytest.raises(KeyboardInterrupt):
            compile_program(program())
    assert not left_threads()
    assert not own_cache.exists()
    assert len(compile_program(program()).objects) == 10


def test_where_there_are_no_threads_to_be_had(one_by_one: None, monkeypatch: pytest.MonkeyPatch):
    want = compile_program(program())

    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with_cores(monkeypatch, 3)
    monkeypatch.setattr(threading.Thread, "start", refused)
    assert compile_program(program()) == want
