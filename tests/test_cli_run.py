"""`graphc run` and `graphc grad`: values in, arrays and pictures out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_cli_options import SAMPLES, graphc

import graphc as package

DIGITS = SAMPLES / "digits.prototxt"
LINEAR = """
input: "data" input_shape { dim: 2 dim: 4 }
layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc"
  inner_product_param { num_output: 3 weight_filler { type: "gaussian" std: 1 } } }
"""


@pytest.fixture
def linear(tmp_path: Path) -> Path:
    path = tmp_path / "linear.prototxt"
    path.write_text(LINEAR)
    return path


def weights_of(path: Path) -> np.ndarray:
    return np.array(package.Net(path, weights="random:3").params["fc"][0].data)


def test_run_writes_what_the_net_computes(linear: Path, tmp_path: Path) -> None:
    data = np.arange(8, dtype=np.float32).reshape(2, 4)
    np.save(tmp_path / "in.npy", data)
    out = tmp_path / "out.npz"
    given = f"data={tmp_path / 'in.npy'}"
    result = graphc("run", linear, "--weights", "random:3", "--input", given, "-o", out, "--json")
    assert result.exit_code == 0, result.output
    expected = data @ weights_of(linear).T
    with np.load(out) as arrays:
        assert list(arrays) == ["fc"]
        np.testing.assert_allclose(arrays["fc"], expected, rtol=1e-5)
    shown = json.loads(result.stdout)
    assert shown["outputs"]["fc"]["shape"] == [2, 3]
    assert shown["outputs"]["fc"]["max"] == pytest.approx(expected.max(), rel=1e-5)
    assert set(shown["seconds"]) == {"compile", "run"}


def test_run_prints_the_best_classes_of_one_row() -> None:
    arguments = ("run", DIGITS, "--input", "data=random:4", "--dtype", "float64")
    text = graphc(*arguments)
    assert text.exit_code == 0, text.output
    shown = json.loads(graphc(*arguments, "--json").stdout)
    top = shown["outputs"]["score"]["top"]
    values = [entry["value"] for entry in top]
    assert len(top) == 5
    assert values == sorted(values, reverse=True)
    assert values[0] == shown["outputs"]["score"]["max"]
    assert f"highest of score: {top[0]['class']} " in text.stdout


def test_another_shape_and_kept_blobs(tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    result = graphc(
        *("run", DIGITS, "--shape", "data=3,1,8,8", "--input", "data=fill:0.5"),
        *("--keep", "conv1", "-o", out),
    )
    assert result.exit_code == 0, result.output
    with np.load(out) as arrays:
        assert arrays["score"].shape == (3, 10)
        assert arrays["conv1"].shape == (3, 16, 8, 8)
        np.testing.assert_array_equal(arrays["score"][0], arrays["score"][2])


def test_random_labels_are_classes() -> None:
    result = graphc(
        *("run", DIGITS, "--phase", "train", "--shape", "data=64,1,8,8", "--shape", "label=64"),
        *("--input", "data=random:1", "--input", "label=random:1", "--json"),
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["loss"] > 0


def test_one_hot_gives_the_row_of_weights(linear: Path, tmp_path: Path) -> None:
    out = tmp_path / "grad.npy"
    result = graphc(
        *("grad", linear, "--weights", "random:3", "--input", "data=random:1"),
        *("--diff", "fc=one-hot:1", "--wrt", "data", "-o", out),
    )
    assert result.exit_code == 0, result.output
    np.testing.assert_allclose(np.load(out), np.tile(weights_of(linear)[1], (2, 1)), rtol=1e-6)
    assert "compiled in" in result.stdout


def test_a_given_gradient_from_a_file_and_for_parameters(linear: Path, tmp_path: Path) -> None:
    data = np.arange(8, dtype=np.float32).reshape(2, 4)
    diff = np.array([[1, 0, 2], [0, 3, 0]], np.float32)
    np.save(tmp_path / "data.npy", data)
    np.save(tmp_path / "diff.npy", diff)
    out = tmp_path / "grad.npz"
    result = graphc(
        *("grad", linear, "--input", f"data={tmp_path / 'data.npy'}"),
        *("--diff", f"fc={tmp_path / 'diff.npy'}", "--wrt", "fc/0", "--wrt", "fc/1", "-o", out),
    )
    assert result.exit_code == 0, result.output
    with np.load(out) as arrays:
        np.testing.assert_allclose(arrays["fc/0"], diff.T @ data)
        np.testing.assert_allclose(arrays["fc/1"], diff.sum(0))


def test_the_losses_are_where_gradients_start_by_default() -> None:
    sources = ("--input", "x=random:1", "--input", "target=random:2")
    result = graphc("grad", SAMPLES / "regression.prototxt", *sources, "--json")
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert set(shown["gradients"]) == {"hidden/0", "hidden/1", "y/0", "y/1"}
    assert shown["loss"] > 0
    for verb in ("grad", "run"):
        text = graphc(verb, SAMPLES / "regression.prototxt", *sources).stdout
        assert f"\nloss {shown['loss']:.6g}\n" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--input", "data=fill:1"), "--wrt data"),
        (("--input", "data=fill:1", "--wrt", "data"), "--diff BLOB=one-hot:K"),
        (("--input", "data=fill:1", "--wrt", "data", "--diff", "fc=one-hot:3"), "no class 3"),
        (("--input", "data=fill:1", "--wrt", "data", "--diff", "fx=fill:1"), "no blob 'fx'"),
        (
            ("--input", "data=fill:1", "--wrt", "data", "--diff", "fc=fill:1", "-o", "grad.txt"),
            ".npy or .npz",
        ),
        (
            ("--input", "data=fill:1", "--wrt", "data", "--diff", "fc=fill:1", "-o", "no/g.npy"),
            "there is no folder",
        ),
        (("--input", "data=cat.jpg", "--wrt", "data", "--diff", "fc=fill:1"), "N,C,H,W"),
    ],
)
def test_what_grad_refuses(linear: Path, arguments: tuple[str, ...], said: str) -> None:
    result = graphc("grad", linear, *arguments)
    assert result.exit_code == 3, result.output
    assert said in result.stderr


def test_a_failed_run_leaves_no_file(linear: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.npy"
    result = graphc("run", linear, "--input", "data=fill:nan", "-o", out)
    assert result.exit_code == 3
    assert "nan" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["linear.prototxt"]


def test_a_photo_in_and_a_picture_out(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    net = tmp_path / "net.prototxt"
    net.write_text(
        'input: "data" input_shape { dim: 1 dim: 3 dim: 12 dim: 10 }\n'
        'layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"'
        " convolution_param { num_output: 2 kernel_size: 3"
        ' weight_filler { type: "xavier" } } }\n'
    )
    picture, array = tmp_path / "grad.png", tmp_path / "grad.npy"
    arguments = (
        *("grad", net, "--input", f"data={SAMPLES / 'cat.jpg'}", "--mean", "104,117,123"),
        *("--diff", "conv=one-hot:0", "--wrt", "data", "-o", array, "--picture", picture),
    )
    result = graphc(*arguments, "--beside")
    assert result.exit_code == 0, result.output
    assert "is resized to 10 x 12" in result.stderr
    gradient = np.abs(np.load(array)).max(axis=1)[0]
    shown = np.asarray(image.open(picture))
    assert shown.shape == (12, 20, 3)
    expected = np.round(gradient / gradient.max() * 255)
    np.testing.assert_array_equal(shown[:, 10:, 0], expected)
    refused = graphc(*arguments, "--no-resize")
    assert refused.exit_code == 3
    assert "needs 10 x 12" in refused.stderr
    assert graphc(*arguments, "--resize").stderr == ""


@pytest.mark.parametrize("kept", [(), ("--keep", "con1", "--shape", "dat=1,1,8,8")])
def test_all_wrong_names_are_told_at_once(kept: tuple[str, ...]) -> None:
    arguments = (
        *("grad", DIGITS, "--input", "dta=random:1", "--input", "what=fill:1", *kept),
        *("--diff", "scor=one-hot:1", "--wrt", "cnv1/0", "--wrt", "data", "--wrt", "dada"),
    )
    told = [
        "--input: there is no net input 'dta'; did you mean 'data'?",
        "--input: there is no net input 'what'; inputs: data",
        "--diff: there is no blob 'scor'; did you mean 'score'?",
        "--wrt: there is no blob or parameter 'cnv1/0'; did you mean 'conv1/0'?",
        "--wrt: there is no blob or parameter 'dada'; did you mean 'data'?",
    ]
    if kept:
        told.insert(0, "--shape: there is no net input 'dat'; did you mean 'data'?")
        told.insert(3, "--keep: there is no blob 'con1'; did you mean 'conv1'?")
    refused = graphc(*arguments)
    assert refused.exit_code == 3, refused.output
    assert refused.stderr.splitlines() == [f"error: {line}" for line in told]
    as_json = json.loads(graphc(*arguments, "--json").stderr)
    assert [found["message"] for found in as_json["diagnostics"]] == told


def test_all_wrong_names_of_run_and_of_looking_inside() -> None:
    kept = ("--keep", "con1", "--keep", "con2.diff")
    for arguments in (("run", DIGITS, "--input", "dta=fill:1", *kept), ("plan", DIGITS, *kept)):
        refused = graphc(*arguments)
        assert refused.exit_code == 3, refused.output
        assert "'con1'; did you mean 'conv1'?" in refused.stderr
        assert "'con2'; did you mean 'conv2'?" in refused.stderr
        assert ("'dta'; did you mean 'data'?" in refused.stderr) == (arguments[0] == "run")
