"""Every form after every pass, what two passes differ in, and graphs that are run from a text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from test_cli_options import REGRESSION, SAMPLES, graphc

import graphc as package
from graphc.ir.printer import print_graph
from graphc.ir.reader import parse_graph
from graphc.plan.reading import parse_program
from graphc.plan.text import print_program

FORMS = ("graph", "kernel", "program", "llvm", "asm", "cuda", "dot", "json")
PASSES = ("start", "clean", "fuse", "sweep", "commute", "backward", "finish")
SEED = ("--weights", "random:3")
VALUES = ("--input", "x=random:1", "--input", "target=random:2")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("after", PASSES)
def test_every_form_after_every_pass(form: str, after: str) -> None:
    result = graphc("show", REGRESSION, "--as", form, "--after", after)
    assert result.exit_code == 0, result.output
    assert len(result.stdout) > 200


@pytest.mark.parametrize("after", PASSES)
@pytest.mark.parametrize("net", ["infogain_unfused", "lenet_train"])
def test_texts_read_back(net: str, after: str) -> None:
    arguments = ("show", SAMPLES / f"{net}.prototxt", "--phase", "TRAIN", "--after", after)
    text = graphc(*arguments).stdout
    graph = parse_graph(text)
    assert (
        print_graph(graph) == "\n".join(line.split("  # ")[0] for line in text.splitlines()) + "\n"
    )
    program = graphc(*arguments, "--as", "program").stdout
    assert print_program(parse_program(program)) == program


def test_the_graph_as_data() -> None:
    data = json.loads(graphc("show", REGRESSION, "--as", "json").stdout)
    made = {value["name"] for node in data["nodes"] for value in node["outputs"]}
    made |= {value["name"] for value in data["inputs"]}
    assert all(name in made for node in data["nodes"] for name in node["inputs"])
    assert set(data["outputs"].values()) <= made
    assert any(node["backward"] for node in data["nodes"])


def test_ptx_needs_nvcc() -> None:
    result = graphc("show", REGRESSION, "--as", "ptx")
    if shutil.which("nvcc"):
        assert ".visible .entry" in result.stdout
    else:
        assert result.exit_code == 3
        assert "nvcc" in result.stderr


def test_what_two_passes_differ_in() -> None:
    result = graphc("show", REGRESSION, "--diff-passes", "commute", "backward")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[:2] == ["--- after commute", "+++ after backward"]
    assert any(line.startswith("+output hidden/0.diff = ") for line in lines)
    assert graphc("show", REGRESSION, "--diff-passes", "clean", "clean").stdout == ""
    wrong = graphc("show", REGRESSION, "--diff-passes", "clean", "bakward")
    assert wrong.exit_code == 3
    assert "did you mean 'backward'?" in wrong.stderr
    kernels = graphc("show", REGRESSION, "--diff-passes", "commute", "finish", "--as", "kernel")
    assert "+kernel " in kernels.stdout


@pytest.fixture
def ir(tmp_path: Path) -> Path:
    path = tmp_path / "net.ir"
    path.write_text(graphc("show", REGRESSION, "--mode", "infer").stdout)
    return path


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    net = package.Net(REGRESSION, weights="random:3")
    held = {f"{layer}/{i}": b.data for layer, bs in net.params.items() for i, b in enumerate(bs)}
    path = tmp_path / "weights.npz"
    np.savez(path, **held)
    return path


def arrays(*arguments: object, tmp: Path) -> dict[str, np.ndarray]:
    out = tmp / "out.npz"
    result = graphc(*arguments, "-o", out)
    assert result.exit_code == 0, result.output
    with np.load(out) as held:
        return {name: held[name] for name in held.files}


def test_a_text_runs_as_its_net_does(ir: Path, weights: Path, tmp_path: Path) -> None:
    own = arrays("run", REGRESSION, *SEED, *VALUES, "--mode", "infer", tmp=tmp_path)
    text = arrays("run", ir, "--weights", weights, *VALUES, tmp=tmp_path)
    for name, array in own.items():
        assert np.array_equal(array, text[name]), name
    stored = tmp_path / "net.caffemodel"
    package.Net(REGRESSION, weights="random:3").save(stored)
    again = arrays("run", ir, "--weights", stored, *VALUES, tmp=tmp_path)
    assert all(np.array_equal(again[name], text[name]) for name in text)


def test_an_edited_text_does_what_it_says(ir: Path, weights: Path, tmp_path: Path) -> None:
    before = arrays("run", ir, "--weights", weights, *VALUES, "--keep", "y", tmp=tmp_path)["y"]
    text = ir.read_text()
    blob = next(line for line in text.splitlines() if line.startswith("blob y = "))
    value = blob.removeprefix("blob y = ")
    shape = next(line for line in text.splitlines() if line.startswith(f"{value}: "))
    type = shape.removeprefix(f"{value}: ").partition(" = ")[0]
    edited = text.replace(blob, f"%twice: {type} = times(factor=2.0) {value}\nblob y = %twice")
    ir.write_text(edited)
    after = arrays("run", ir, "--weights", weights, *VALUES, "--keep", "y", tmp=tmp_path)["y"]
    assert np.allclose(after, 2 * before, rtol=1e-5, atol=1e-5)
    assert np.any(after)


def test_gradients_of_a_text(ir: Path, weights: Path, tmp_path: Path) -> None:
    own = arrays("grad", REGRESSION, *SEED, *VALUES, "--wrt", "x", tmp=tmp_path)
    text = arrays("grad", ir, "--weights", weights, *VALUES, "--wrt", "x", tmp=tmp_path)
    assert np.any(own["x"])
    assert np.allclose(text["x"], own["x"], rtol=1e-5, atol=1e-7)


def test_a_text_with_its_backward_pass_runs(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "both.ir"
    path.write_text(graphc("show", REGRESSION, "--wrt", "x").stdout)
    text = arrays("run", path, "--weights", weights, *VALUES, tmp=tmp_path)
    own = arrays("grad", REGRESSION, *SEED, *VALUES, "--wrt", "x", tmp=tmp_path)
    assert np.allclose(text["x.diff"], own["x"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("verb", ["show", "summary", "plan", "explain"])
def test_other_verbs_take_a_text(verb: str, ir: Path) -> None:
    result = graphc(verb, ir)
    assert result.exit_code == 0, result.output
    assert graphc("inspect", ir, "--json", "--no-code").exit_code == 0
    assert graphc("check", ir).exit_code in (0, 3)


STATISTICS = """
name: "norm"
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "bn" type: "BatchNorm" bottom: "x" top: "bn" }
"""


@pytest.mark.parametrize("form", ["npz", "caffemodel"])
def test_statistics_come_from_the_weights_as_parameters_do(form: str, tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(STATISTICS)
    net = package.Net(tmp_path / "net.prototxt", weights="random:3")
    held = {"bn/0": [1.0, 2.0, 3.0], "bn/1": [4.0, 8.0, 32.0], "bn/2": [2.0]}
    for blob, values in zip(net.params["bn"], held.values(), strict=True):
        blob.data[...] = values
    net.save(tmp_path / "net.caffemodel")
    np.savez(tmp_path / "net.npz", **{name: np.float32(v) for name, v in held.items()})
    ir = tmp_path / "net.ir"
    ir.write_text(graphc("show", tmp_path / "net.prototxt", "--mode", "infer").stdout)
    x = np.float32([[1, 2, 3], [-1, 0, 5]])
    np.save(tmp_path / "x.npy", x)
    words = ("run", ir, "--input", f"x={tmp_path / 'x.npy'}", "--weights")
    found = arrays(*words, tmp_path / f"net.{form}", tmp=tmp_path)["bn"]
    mean, variance = np.array([0.5, 1, 1.5]), np.array([2, 4, 16])
    np.testing.assert_allclose(found, (x - mean) / np.sqrt(variance + 1e-5), rtol=1e-6)
    np.savez(tmp_path / "less.npz", **{"bn/0": held["bn/0"]})
    less = graphc(*words, tmp_path / "less.npz")
    assert less.exit_code == 3
    assert "has no 'bn/1'" in less.stderr


def test_mistakes_in_a_text(ir: Path) -> None:
    text = ir.read_text()
    ir.write_text(
        text.replace("= mat_mul(", "= mat_mull(", 1).replace(
            "output loss = %", "output loss = %x", 1
        )
    )
    result = graphc("run", ir, *SEED, *VALUES)
    assert result.exit_code == 3
    line = text[: text.index("= mat_mul(")].count("\n") + 1
    assert f"{ir}:{line}:" in result.stderr
    assert "^~~~~~~~" in result.stderr
    assert "did you mean 'mat_mul'?" in result.stderr
    assert result.stderr.count("error:") == 2
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*VALUES,), "add --weights"),
        ((*SEED, "--input", "x=random:1"), "no value is given for input 'target'"),
        ((*SEED, *VALUES, "--phase", "TRAIN"), "--phase is for definitions"),
        (("--weights", "nothing.npz", *VALUES), "cannot read 'nothing.npz'"),
        (("--weights", REGRESSION, *VALUES), "regression"),
    ],
)
def test_what_a_text_needs(arguments: tuple[str, ...], said: str, ir: Path) -> None:
    result = graphc("run", ir, *arguments)
    assert result.exit_code == 3
    assert said in result.stderr


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"graph", b"# nothing\n"])
def test_a_file_that_is_no_graph(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "odd.ir"
    path.write_bytes(content)
    for verb in ("run", "show", "plan"):
        result = graphc(verb, path)
        assert result.exit_code == 3, result.output
        assert "Traceback" not in result.stderr
