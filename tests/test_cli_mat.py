"""A .mat net on the command line, wherever a prototxt could stand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from mat_nets import RNG, cell, chain
from test_cli_options import graphc

import graphc as package
from graphc.error import NetError
from graphc.frontends.matconvnet.simplenn import chain as layers_of
from graphc.simple_net import SimpleNet, simplenn


def saved(folder: Path, **arrays: np.ndarray) -> list[str]:
    """Arrays as --input options."""
    options = []
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
        options += ["--input", f"{name}={folder / name}.npy"]
    return options


def test_run_computes_what_simplenn_does(simple: Path, tmp_path: Path) -> None:
    x = RNG.standard_normal((6, 6, 2, 3)).astype("float32")
    out = tmp_path / "out.npz"
    result = graphc("run", simple, *saved(tmp_path, x1=x), "--keep", "x3", "-o", out, "--json")
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert shown["outputs"]["x5"]["shape"] == [1, 1, 5, 3]
    expected = simplenn(SimpleNet.load(simple), x)
    with np.load(out) as found:
        np.testing.assert_allclose(found["x5"], expected[-1].x, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found["x3"], expected[2].x, rtol=1e-5, atol=1e-5)


def test_grad_of_a_class(simple: Path, tmp_path: Path) -> None:
    x = RNG.standard_normal((6, 6, 2, 1)).astype("float32")
    out = tmp_path / "grad.npz"
    result = graphc(
        *("grad", simple, *saved(tmp_path, x1=x), "--diff", "x5=one-hot:3"),
        *("--wrt", "x1", "--wrt", "l1_1", "-o", out),
    )
    assert result.exit_code == 0, result.output
    one_hot = np.zeros((1, 1, 5, 1), "float32")
    one_hot[0, 0, 3] = 1
    expected = simplenn(SimpleNet.load(simple), x, one_hot)
    with np.load(out) as found:
        np.testing.assert_allclose(found["x1"], expected[0].dzdx, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found["l1_1"], expected[0].dzdw[0], rtol=1e-5, atol=1e-5)


def test_a_dagnn_net_is_derived_from_its_loss(dag: Path, tmp_path: Path) -> None:
    x = RNG.standard_normal((6, 6, 2, 4)).astype("float32")
    label = np.array([1, 2, 3, 1], "float32").reshape(1, 1, 1, 4)
    out = tmp_path / "grad.npz"
    arguments = (*saved(tmp_path, input=x, label=label), "--mode", "train", "-o", out)
    result = graphc("grad", dag, *arguments)
    assert result.exit_code == 0, result.output
    net = package.DagNet.load(dag)
    net.eval({"input": x, "label": label}, {"objective": 1})
    with np.load(out) as found:
        assert set(found) == {"input", "fcf", "fcb"}
        np.testing.assert_allclose(found["input"], net.vars["input"].der, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(
            found["fcb"].ravel(), net.params["fcb"].der.ravel(), rtol=1e-5, atol=1e-5
        )


def test_a_picture_becomes_height_width_colours(tmp_path: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (4, 5, 3)).astype("uint8")
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    layers = cell({"type": "relu", "name": "relu"})
    path = tmp_path / "net.mat"
    scipy.io.savemat(path, {"layers": layers, "meta": {"inputSize": [4.0, 5.0, 3.0]}})
    out, gradient = tmp_path / "out.npy", tmp_path / "saliency.png"
    photo = f"x1={tmp_path / 'photo.png'}"
    assert graphc("run", path, "--input", photo, "-o", out).exit_code == 0
    np.testing.assert_array_equal(np.load(out)[..., 0], pixels)
    bgr = graphc("run", path, "--input", photo, "--channels", "bgr", "-o", out)
    assert bgr.exit_code == 0, bgr.output
    np.testing.assert_array_equal(np.load(out)[..., 0], pixels[:, :, ::-1])
    result = graphc("grad", path, "--input", photo, "--diff", "x2=one-hot:1", "--picture", gradient)
    assert result.exit_code == 0, result.output
    with Image.open(gradient) as made:
        assert made.size == (5, 4)


def test_looking_inside(dag: Path) -> None:
    shape = ("--shape", "input=6,6,2,2")
    shown = graphc("show", dag, *shape)
    assert "output params/fcf.diff" not in shown.stdout
    assert "output input.diff" in shown.stdout, shown.output
    program = graphc("show", dag, *shape, "--as", "program", "--mode", "infer")
    assert "prediction" in program.stdout
    assert ".diff" not in program.stdout
    assert "input" in graphc("plan", dag, *shape).stdout
    told = graphc("explain", dag, "layer:fc", *shape)
    assert told.exit_code == 0, told.output
    assert "layer:fc" in told.stdout


def test_check_finds_nothing_wrong(dag: Path) -> None:
    result = graphc("check", dag, "--shape", "input=6,6,2,2", "--samples", "3", "--json")
    assert result.exit_code == 0, result.output
    rows = {(row["layer"], row["name"]): row for row in json.loads(result.stdout)["findings"]}
    assert rows["fc", "fcf"]["status"] == "right"
    assert rows["fc", "fcf"]["shape"] == [6, 6, 2, 3]
    assert rows["(whole net)", "input"]["status"] == "right"


def test_dropout_follows_the_seed(tmp_path: Path) -> None:
    path = chain(tmp_path / "net.mat", {"type": "dropout", "name": "drop", "rate": 0.5})

    def ran(*options: str) -> Any:
        result = graphc("run", path, "--input", "x1=random:1", "--json", *options)
        return json.loads(result.stdout)["outputs"]["x6"]

    train = ran("--phase", "train", "--seed", "3")
    assert train == ran("--phase", "train", "--seed", "3")
    assert train != ran("--phase", "test")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "--input", "x2=fill:1"), "there is no net input 'x2'"),
        (("run",), "no value is given for input 'x1'"),
        (("run", "--input", "x1=fill:1", "--weights", "random:1"), "--weights is for Caffe's nets"),
        (("run", "--input", "x1=fill:1", "--keep", "y7"), "no variable or parameter 'y7'"),
        (("grad", "--input", "x1=fill:1"), "the net has no loss"),
        (("plan", "--shape", "x9=1,1,1,1"), "there is no net input 'x9'"),
        (("plan", "--diff", "x5", "--wrt", "l1_3"), "no variable or parameter 'l1_3'"),
        (("compile", "-o", "net.so", "--weights", "a.caffemodel"), "--weights is for Caffe's nets"),
        (("compile", "-o", "net.so", "--wrt", "l1_1"), "the net has no loss"),
        (("compile", "-o", "net.so", "--diff", "x5", "--wrt", "l1_3"), "no variable or parameter"),
    ],
)
def test_mistakes_are_explained(simple: Path, arguments: tuple[str, ...], said: str) -> None:
    verb, *rest = arguments
    result = graphc(verb, simple, *rest)
    assert result.exit_code == 3, result.output
    assert said in result.stderr


def test_a_size_that_nobody_says_is_asked_for(tmp_path: Path) -> None:
    path = chain(tmp_path / "net.mat", size=False)
    result = graphc("plan", path)
    assert result.exit_code == 3
    assert "--shape x1=H,W,C,N" in result.stderr
    assert graphc("plan", path, "--shape", "x1=6,6,2,1").exit_code == 0


def test_a_file_that_is_no_net(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "other.mat", {"a": np.ones(3)})
    (tmp_path / "broken.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(20))
    for name in ("other", "broken", "absent"):
        result = graphc("plan", tmp_path / f"{name}.mat")
        assert result.exit_code == 3, result.output
        assert f"{name}.mat" in result.stderr


@pytest.mark.parametrize("verb", ["plan", "profile", "run", "grad"])
def test_every_verb_minds_the_budget(simple: Path, verb: str) -> None:
    values = [word for word in ("--input", "x1=fill:1") if verb in ("run", "grad")]
    seeds = [word for word in ("--diff", "x5=fill:1") if verb == "grad"]
    result = graphc(verb, simple, "--memory", "64B", *values, *seeds)
    assert result.exit_code == 3
    assert "64 bytes are not enough" in result.stderr


@pytest.mark.parametrize(
    ("subject", "said"),
    [
        ("fc", "layer 'fc' (Conv) reads 'input' and makes 'prediction'."),
        ("fcf", "'fcf' is a parameter of layer 'fc': 6 x 6 x 2 x 3, 216 numbers, 864 bytes."),
        ("fcf", "a solver asks for its gradient and moves 'fcf': its learningRate is 1."),
        ("fcf", "fcf: is copied into packed order for fc."),
        ("fcf.diff", "it gets no gradient: it was not asked for."),
        ("prediction", "is made by 'fc' and read by 'loss': 1 x 1 x 3 x 1, float32"),
        ("input.diff", "its gradient is computed, from the loss 'objective'."),
        ("blob:objective", "copies it into the array that the caller gets, 4 bytes."),
    ],
)
def test_explain_knows_the_names_of_a_mat(subject: str, said: str, dag: Path) -> None:
    result = graphc("explain", dag, subject, "--shape", "input=6,6,2,1")
    assert result.exit_code == 0, result.output
    assert said in result.stdout
    assert "shared" not in result.stdout
    assert "still moves" not in result.stdout
    assert "params/" not in result.stdout


@pytest.mark.parametrize(
    ("subject", "said"),
    [
        ("fcff", "did you mean 'fcf'?"),
        ("layer:los", "the net has no 'layer:los'; did you mean 'loss'?"),
        ("blob:predicton", "did you mean 'prediction'?"),
        ("nothing", "the net has no 'nothing'"),
    ],
)
def test_explain_suggests_a_name_of_a_mat(subject: str, said: str, dag: Path) -> None:
    result = graphc("explain", dag, subject, "--shape", "input=6,6,2,1")
    assert result.exit_code == 3
    assert said in result.stderr


def test_explain_without_a_backward_pass(simple: Path) -> None:
    assert "no gradient: no backward pass" in graphc("explain", simple, "x5.diff").stdout
    said = graphc("explain", simple, "l1_1").stdout
    assert "a solver asks for its gradient and moves 'l1_1'" in said


def test_all_wrong_names_are_told_at_once(simple: Path) -> None:
    wrong = ("--input", "x11=fill:1", "--diff", "y5=fill:1", "--wrt", "l1_9", "--keep", "x22")
    refused = graphc("grad", simple, *wrong)
    assert refused.exit_code == 3, refused.output
    lines = refused.stderr.splitlines()
    assert [line.split("'")[1] for line in lines] == ["x11", "x22", "y5", "l1_9"]
    assert lines[0].endswith("there is no net input 'x11'; did you mean 'x1'?")


def test_layers_of_one_name_and_code_that_is_not_in_the_file() -> None:
    relu = {"type": "relu", "name": "same", "leak": 0}
    first, second = layers_of([relu, relu])
    assert (first.name, second.name) == ("same", "same (2)")
    assert (second.inputs, second.outputs) == (("x2",), ("x3",))
    with pytest.raises(NetError, match="layer 'mine' is custom: its code is not in the file"):
        layers_of([{"type": "custom", "name": "mine"}])
