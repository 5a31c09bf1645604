"""`graphc compile`, nets without a C compiler, for other machines, as texts and bundles."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from c_programs import COMPILER, ROOT, SAMPLES, compiled, needs_compiler, run
from compiled_nets import digits, image

import graphc
from graphc.codegen.llvm.target import Target
from graphc.error import NetError, NetWarning


def test_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(NetError, match=r"no C compiler .* apt install gcc.* and run: cc ") as info:
        digits().save(tmp_path / "net", "exe")
    left = {"net.o", "net.weights", "net.c", "net.h", "net_main.c"}
    assert {path.name for path in tmp_path.iterdir()} == left
    if COMPILER is None:
        return
    command = str(info.value).split("run: cc ")[1].split()
    compiled(tmp_path, *command)
    np.save(tmp_path / "in.npy", image())
    run(tmp_path / "net", "data=in.npy", "-o", "score=out.npy")
    wanted = digits().forward(data=image())["score"]
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), wanted)


def test_object_for_another_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.warns(NetWarning, match="no C compiler for aarch64"):
        digits().save(tmp_path / "net.o", "obj", target=Target.named("neoverse-n1"))
    machine = (tmp_path / "net.o").read_bytes()[18:20]
    assert machine == (183).to_bytes(2, "little"), "EM_AARCH64"


def test_llvm_and_assembly_are_for_the_target(tmp_path: Path):
    digits().save(tmp_path / "net.ll", "llvm", target=Target.named("x86-64-v3"))
    assert "define i32 @graphc_forward" in (tmp_path / "net.ll").read_text()
    digits().save(tmp_path / "net.s", "asm", target=Target.named("neoverse-n1"))
    assert "fmla" in (tmp_path / "net.s").read_text()


def test_bundle_loads_without_compiling(tmp_path: Path):
    sample = digits(grad=True)
    written = sample.save(tmp_path / "net.bundle", "bundle")
    assert written == [tmp_path / "net.bundle", tmp_path / "net.weights"]
    loaded = graphc.load(tmp_path / "net.bundle")
    seed = np.eye(10, dtype=np.float32)[2:3]
    loaded.arrays["data"][...] = image()
    loaded.arrays["score.diff"][...] = seed
    loaded.call("both")
    wanted = sample.gradients({"data": image()}, {"score": seed})["data"]
    np.testing.assert_array_equal(loaded.arrays["data.diff"], wanted)
    assert not loaded.arrays["conv1/0"].flags.writeable
    weights = (tmp_path / "net.weights").read_bytes()
    for broken, said in {
        weights[:-64]: "were written",
        weights[:30]: "cut short",
        b"x" + weights[1:]: "not a graphc weights file",
        weights[:24] + b"\0" + weights[25:]: "another net",
    }.items():
        (tmp_path / "net.weights").write_bytes(broken)
        with pytest.raises(NetError, match=said):
            graphc.load(tmp_path / "net.bundle")
    (tmp_path / "net.weights").unlink()
    with pytest.raises(NetError, match="cannot read weights"):
        graphc.load(tmp_path / "net.bundle")


def test_places_that_cannot_be_written(tmp_path: Path):
    with pytest.raises(NetError, match="there is no folder"):
        digits().save(tmp_path / "none" / "net", "exe")
    with pytest.raises(NetError, match="is a folder"):
        digits().save(tmp_path, "bundle")
    with pytest.raises(NetError, match="lies beside it"):
        digits().save(tmp_path / "digits.h", "so", name="digits")


def test_a_name_that_c_does_not_have(tmp_path: Path):
    with pytest.raises(NetError, match="'my-net' is no name in C"):
        digits().save(tmp_path / "libdigits.so", "so", name="my-net")


# -- the command -----------------------------------------------------------------------------


def graphc_compile(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "graphc", "compile", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@needs_compiler
def test_command(tmp_path: Path):
    net = SAMPLES / "digits.prototxt"
    words = ["--emit", "exe", "-o", tmp_path / "net", "--seed", 3, "--weights-beside"]
    done = graphc_compile(net, *words, "--diff", "score", "--wrt", "data")
    assert done.returncode == 0, done.stderr
    assert [line.split(" (")[0] for line in done.stdout.splitlines()] == [
        str(tmp_path / "net"),
        str(tmp_path / "net.weights"),
    ]
    np.save(tmp_path / "in.npy", image())
    run(tmp_path / "net", "data=in.npy", "-o", "score=out.npy")
    wanted = digits().forward(data=image())["score"]
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), wanted, rtol=1e-5)
    assert "data.diff" in run(tmp_path / "net", "--help").stdout


def test_command_used_wrongly(tmp_path: Path):
    net = SAMPLES / "digits.prototxt"
    done = graphc_compile(net, "-o", tmp_path / "net", "--target", "x86-64-v33")
    assert done.returncode == 3
    assert "no target is named 'x86-64-v33'" in done.stderr
    done = graphc_compile(net, "-o", tmp_path / "net", "--diff", "scor", "--wrt", "data")
    assert done.returncode == 3
    assert "scor" in done.stderr
    assert not list(tmp_path.iterdir())


@needs_compiler
def test_the_name_in_c(tmp_path: Path):
    words = [SAMPLES / "digits.prototxt", "-o", tmp_path / "net.o", "--emit", "obj"]
    done = graphc_compile(*words, "--name", "seven", "--json")
    assert done.returncode == 0, done.stderr
    written = [str(tmp_path / "net.o"), str(tmp_path / "seven.h")]
    assert json.loads(done.stdout)["written"] == written
    assert "int seven_forward(" in (tmp_path / "seven.h").read_text()
    for wrong, said in ((("--name", "my-net"), "'my_net' is one"), (("--emit", "exe"), "no C")):
        refused = graphc_compile(*words, "--name", "seven", *wrong)
        assert refused.returncode == 2
        assert said in refused.stderr
