"""Whole programs: entries, errors, files and the cache."""

from __future__ import annotations

import gc
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from native_programs import TARGETS, Assembly

from graphc.codegen.llvm import object
from graphc.codegen.llvm.jit import load
from graphc.codegen.llvm.object import assembly_text, compile_program, llvm_text
from graphc.codegen.llvm.target import Target
from graphc.error import NetError
from graphc.plan.program import Program
from graphc.runtime import cache_folder
from graphc.runtime.bundle import Bundle
from graphc.runtime.cpu import Executable, aligned_zeros

ROWS, CLASSES = 300, 10


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache_folder.ENVIRONMENT, str(tmp_path / "cache"))
    return tmp_path / "cache"


def relu(k, x, y):
    i, j = k.each(ROWS, CLASSES)
    y[i, j] = k.maximum(x[i, j], 0.0)


def log_loss(k, x, label, y):
    (n,) = k.each(ROWS)
    c = k.axis(CLASSES)
    right = k.index(label[n], CLASSES, "the label")
    y[n] = k.log(k.sum(c, k.exp(x[n, c]))) - x[n, right]


def total(k, rows, y):
    i = k.axis(ROWS)
    y[()] = k.sum(i, rows[i])


def example() -> Program:
    made = Assembly("example")
    made.user("x", ROWS, CLASSES)
    made.user("label", ROWS)
    made.user("loss", role="output")
    made.inner("h", ROWS, CLASSES)
    made.inner("g", ROWS, CLASSES)
    made.inner("rows", ROWS)
    made.step(relu, ["x"], ["h"], "relu1", "ReLU")
    made.step(relu, ["h"], ["g"], "relu2", "ReLU")
    made.step(log_loss, ["g", "label"], ["rows"], "loss", "SoftmaxWithLoss")
    made.step(total, ["rows"], ["loss"], "loss", "SoftmaxWithLoss")
    return made.program(forward_steps=3)


def filled(executable: Executable) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    arrays = executable.bind_new()
    arrays["x"][...] = rng.standard_normal((ROWS, CLASSES))
    arrays["label"][...] = rng.integers(0, CLASSES, ROWS)
    return arrays


def wanted(arrays: dict[str, np.ndarray]) -> np.ndarray:
    h = np.maximum(arrays["x"], 0).astype(np.float64)
    return np.log(np.exp(h).sum(1)) - h[np.arange(ROWS), arrays["label"].astype(int)]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("threads", [1, 2])
def test_passes_and_steps(target: str, threads: int):
    executable = load(compile_program(example(), Target.named(target)))
    arrays = filled(executable)
    rows = wanted(arrays)
    executable.call("both", threads)
    assert abs(float(arrays["loss"]) - rows.sum()) < 1e-5 * rows.sum()
    np.testing.assert_allclose(executable.read("rows"), rows, atol=1e-6)
    executable.arena[...] = 0xFF  # nans
    arrays["loss"][...] = 7
    executable.call("forward", threads)
    assert arrays["loss"] == 7, "forward runs the forward steps only"
    executable.call("backward", threads)
    assert abs(float(arrays["loss"]) - rows.sum()) < 1e-5 * rows.sum()
    executable.arena[...] = 0xFF
    for number in range(4):
        executable.step(number, threads)
    assert abs(float(arrays["loss"]) - rows.sum()) < 1e-5 * rows.sum()


def test_failed_check_names_the_layer_and_the_value():
    executable = load(compile_program(example()))
    arrays = filled(executable)
    arrays["label"][77] = -3
    with pytest.raises(NetError, match=r"layer 'loss' \(SoftmaxWithLoss\): the label .*found -3"):
        executable.call("forward")
    arrays["label"][77] = 0
    executable.call("forward")  # the error does not stay


def test_arrays_are_checked():
    executable = load(compile_program(example()))
    with pytest.raises(NetError, match="no array yet for 'x', 'label', 'loss'"):
        executable.call("forward")
    for bad in (
        aligned_zeros((ROWS, CLASSES), "float64"),
        aligned_zeros((CLASSES, ROWS), "float32"),
        aligned_zeros((CLASSES, ROWS), "float32").T,
        aligned_zeros((ROWS * CLASSES + 1,), "float32")[1:].reshape(ROWS, CLASSES),
    ):
        with pytest.raises(NetError, match="'x'"):
            executable.bind({"x": bad})
    with pytest.raises(NetError, match="did you mean 'label'"):
        executable.bind({"labels": aligned_zeros((ROWS,), "float32")})
    with pytest.raises(NetError, match="overwritten by 'relu2'"):
        executable.read("gone")


def test_equal_kernels_are_emitted_once():
    assert len(re.findall(r"define internal void @\"?k\d", llvm_text(example()))) == 3


def test_assembly_has_the_entries():
    text = assembly_text(example())
    for entry in ("graphc_forward", "graphc_backward", "graphc_both", "graphc_step"):
        assert f"{entry}:" in text


def test_bundle_file(tmp_path: Path):
    bundle = compile_program(example())
    path = tmp_path / "example.bundle"
    bundle.save(path)
    assert Bundle.load(path) == bundle
    executable = load(Bundle.load(path))
    arrays = filled(executable)
    executable.call("both")
    assert abs(float(arrays["loss"]) - wanted(arrays).sum()) < 1e-3
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(NetError, match="checksum"):
        Bundle.load(path)
    path.write_bytes(b"something else")
    with pytest.raises(NetError, match="not a graphc bundle"):
        Bundle.load(path)
    with pytest.raises(NetError, match="cannot read"):
        Bundle.load(tmp_path / "nowhere")


def test_code_for_another_machine_is_refused():
    bundle = compile_program(example())
    for other, message in (
        (replace(bundle, triple="riscv64-unknown-linux-gnu"), "compiled for riscv64"),
        (replace(bundle, vector_bytes=4096), "a named target"),
        (replace(bundle, target="host", cpu="pentium"), "the processor pentium"),
        (replace(bundle, objects=(b"no object file",)), "cannot be loaded"),
    ):
        with pytest.raises(NetError, match=message):
            load(other)


def test_cache_spares_the_emission(own_cache: Path, monkeypatch: pytest.MonkeyPatch):
    first = compile_program(example())
    (entry,) = own_cache.iterdir()
    assert own_cache.stat().st_mode & 0o777 == 0o700

    def emitted(*_: object) -> None:
        raise AssertionError("the program was emitted again")

    with monkeypatch.context() as patch:
        patch.setattr(object, "emit_program", emitted)
        assert compile_program(example()) == first
        with pytest.raises(AssertionError):
            compile_program(example(), Target.named("scalar"))
    entry.write_bytes(b"broken" + entry.read_bytes()[6:])
    assert compile_program(example()) == first
    assert (cache_folder.read(entry.name) or b"").endswith(first.objects[-1])


def test_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv(cache_folder.ENVIRONMENT, str(tmp_path / "file" / "below"))
    assert compile_program(example()).objects


def test_cache_is_not_read_where_others_can_write(own_cache: Path):
    bundle = compile_program(example())
    (entry,) = own_cache.iterdir()
    assert (cache_folder.read(entry.name) or b"").endswith(bundle.objects[-1])
    own_cache.chmod(0o777)
    assert cache_folder.read(entry.name) is None
    entry.unlink()
    assert compile_program(example()) == bundle
    assert list(own_cache.iterdir()) == []


def test_cache_drops_what_was_not_used_for_longest(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cache_folder, "LARGEST_BYTES", 1000)
    for number in range(4):
        cache_folder.write(f"entry{number}", bytes(200))
        os.utime(own_cache / f"entry{number}", (number, number))
    assert cache_folder.read("entry0") == bytes(200)  # used again just now
    cache_folder.write("entry4", bytes(200))
    assert sorted(path.name for path in own_cache.iterdir()) == ["entry0", "entry4"]


def test_programs_come_and_go():
    bundle = compile_program(example())
    for _ in range(30):
        executable = load(bundle)
        arrays = filled(executable)
        executable.call("both", threads=2)
        assert abs(float(arrays["loss"]) - wanted(arrays).sum()) < 1e-3
        del executable
        gc.collect()


def test_a_program_without_steps_changes_nothing():
    made = Assembly("nothing")
    made.user("x", 3)
    executable = load(compile_program(made.program()))
    executable.bind_new()
    executable.arrays["x"][...] = (1, 2, 3)
    for what in ("forward", "backward", "both"):
        executable.call(what, threads=2)
        assert executable.arrays["x"].tolist() == [1, 2, 3]
