"""`graphc show --as cuda` and `graphc compile` for GPUs. Neither needs one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from test_cli_options import SAMPLES, graphc

LENET = SAMPLES / "lenet_train.prototxt"


def test_the_text_names_layers_and_launches() -> None:
    result = graphc("show", LENET, "--as", "cuda")
    assert result.exit_code == 0, result.output
    for said in ("// step 0: ", "conv1 (Convolution)", "__global__", "graphc_run", "in tiles of"):
        assert said in result.stdout
    assert "backward" in result.stdout
    assert "#include" not in result.stdout


def test_shown_and_compiled_texts_are_one(tmp_path: Path) -> None:
    path = tmp_path / "lenet.cu"
    for target in ("cuda", "sm_90"):
        result = graphc("compile", LENET, "--emit", "cuda", "--target", target, "-o", path)
        assert result.exit_code == 0, result.output
        assert path.read_text() == graphc("show", LENET, "--as", "cuda", "--mode", "infer").stdout


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc of the CUDA toolkit")
def test_machine_code(tmp_path: Path) -> None:
    for emit, start in (("ptx", b"//"), ("cubin", b"\x7fELF"), ("exe", b"\x7fELF")):
        path = tmp_path / emit
        result = graphc("compile", LENET, "--emit", emit, "--target", "sm_90", "-o", path)
        assert result.exit_code == 0, result.output
        assert path.read_bytes().startswith(start)
    assert os.access(tmp_path / "exe", os.X_OK)


def test_what_cannot_be_is_said(tmp_path: Path) -> None:
    library = graphc("compile", LENET, "--target", "cuda", "--emit", "so", "-o", tmp_path / "x")
    assert library.exit_code == 2
    assert "for a GPU there is cuda, ptx, cubin, exe, not so" in library.output
    nowhere = graphc("compile", LENET, "--emit", "cuda", "-o", tmp_path / "no" / "x.cu")
    assert nowhere.exit_code == 3
    assert "cannot write" in nowhere.output


def test_tensor_cores_are_an_option(tmp_path: Path) -> None:
    shown = graphc("show", LENET, "--as", "cuda", "--mode", "infer", "--fast-math", "tf32").stdout
    assert "by tensor cores (tf32)" in shown
    path = tmp_path / "lenet.cu"
    asked = ("--fast-math", "tf32", "--emit", "cuda", "--target", "cuda", "-o", path)
    assert graphc("compile", LENET, *asked).exit_code == 0
    assert path.read_text() == shown
