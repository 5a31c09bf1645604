"""What samples/ promises: each script runs, and its numbers mean what it says."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc

SAMPLES = Path(__file__).resolve().parent.parent / "samples"
pytest.importorskip("sklearn", reason="the digits come with scikit-learn")


@pytest.fixture
def sample(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a script of samples/ by name."""
    monkeypatch.syspath_prepend(str(SAMPLES))
    return importlib.import_module


@pytest.fixture
def digits() -> graphc.Net:
    return graphc.Net(SAMPLES / "digits.prototxt", weights=SAMPLES / "digits.caffemodel")


def run_script(name: str, *arguments: str, folder: Path | None = None) -> str:
    ran = subprocess.run(
        [sys.executable, str(SAMPLES / name), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(SAMPLES.parent)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


NETS = sorted(path for path in SAMPLES.glob("*.prototxt") if not path.stem.endswith("_solver"))


@pytest.mark.parametrize("path", NETS, ids=lambda path: path.stem)
def test_definitions_are_accepted(path: Path) -> None:
    for phase in (graphc.TRAIN, graphc.TEST):
        net = graphc.Net(path, phase=phase, infogain_input="probabilities")
        assert net.inputs
        assert net.warnings == []


def test_the_split_is_fixed_and_apart(sample: Any) -> None:
    training, labels, held_out, held_out_labels = sample("digits_data").load_split()
    assert training.shape == (1437, 1, 8, 8)
    assert held_out.shape == (360, 1, 8, 8)
    assert labels.shape + held_out_labels.shape == (1437, 360)
    assert training.max() == held_out.max() == 1
    again = sample("digits_data").load_split()[2]
    np.testing.assert_array_equal(held_out, again)


def test_the_weights_know_digits_they_never_saw(sample: Any, digits: graphc.Net) -> None:
    _, _, pictures, labels = sample("digits_data").load_split()
    assert sample("train_digits").accuracy(digits, pictures, labels) >= 0.975


def test_training_learns(sample: Any, capsys: pytest.CaptureFixture[str]) -> None:
    train_digits = sample("train_digits")
    net = train_digits.train(epochs=4)
    shown = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()]
    assert shown[-1] < shown[0] / 5
    test = graphc.Net(
        SAMPLES / "digits.prototxt",
        weights={name: [p.data for p in blobs] for name, blobs in net.params.items()},
    )
    _, _, pictures, labels = sample("digits_data").load_split()
    assert train_digits.accuracy(test, pictures, labels) >= 0.95


@pytest.mark.long
def test_training_as_the_script_does_it(tmp_path: Path) -> None:
    shown = run_script("train_digits.py", "--output", str(tmp_path / "digits.caffemodel"))
    assert float(shown.rsplit(":", 1)[1].strip().rstrip("%")) >= 97.5


def test_training_writes_where_it_runs(tmp_path: Path) -> None:
    """And leaves the weights beside the definition as they are."""
    kept = (SAMPLES / "digits.caffemodel").read_bytes()
    shown = run_script("train_digits.py", "--epochs", "1", folder=tmp_path)
    assert "wrote trained_digits.caffemodel" in shown
    assert [path.name for path in tmp_path.iterdir()] == ["trained_digits.caffemodel"]
    assert (SAMPLES / "digits.caffemodel").read_bytes() == kept


def test_saliency_points_at_what_matters(sample: Any, digits: graphc.Net) -> None:
    """Wiping out the most salient pixels hurts the true class more than wiping out random ones."""
    saliency = sample("saliency").saliency
    _, _, pictures, labels = sample("digits_data").load_split()
    rng = np.random.default_rng(0)
    drops = {"salient": [], "random": [], "least": []}
    for picture, label in zip(pictures[:60], labels[:60], strict=True):
        order = saliency(digits, picture, "score", label).ravel().argsort()[::-1]
        inked = [place for place in order if picture.ravel()[place] > 0]
        before = digits.forward(data=picture[None])["score"][0, label].copy()
        chosen = {"salient": inked[:6], "random": rng.permutation(inked)[:6], "least": inked[-6:]}
        for kind, places in chosen.items():
            wiped = picture.copy()
            wiped.ravel()[places] = 0
            drops[kind].append(before - digits.forward(data=wiped[None])["score"][0, label])
    salient, random, least = (np.mean(drops[kind]) for kind in ("salient", "random", "least"))
    assert salient > 1.5 * random
    assert random > least


def test_saliency_of_a_digit_is_printed(tmp_path: Path) -> None:
    shown = run_script("saliency.py", "--number", "5", "--picture", str(tmp_path / "five.png"))
    assert "held-out digit 5" in shown
    assert shown.count("  |  ") == 8
    assert (tmp_path / "five.png").read_bytes().startswith(b"\x89PNG")


def test_saliency_of_the_photo(sample: Any) -> None:
    result = sample("saliency").photo("random:0", 281)
    assert result.shape == (227, 227)
    assert np.isfinite(result).all()
    assert (result > 0).mean() > 0.9


@pytest.mark.parametrize("label", range(10))
def test_synthesis_finds_pictures_of_its_class(sample: Any, digits: graphc.Net, label: int) -> None:
    synthesis = sample("synthesize")
    picture = synthesis.synthesize(digits, label, penalty=1.0, steps=100)
    start = synthesis.mean_digit()
    rises = [
        synthesis.objective(digits, start + share * (picture - start), label, penalty=1.0)
        for share in (0, 0.5, 1)
    ]
    assert rises[0] < rises[1] < rises[2]
    scores = digits.forward(data=picture)["score"][0]
    assert scores.argmax() == label
    assert scores[label] > np.sort(scores)[-2] + 3


def test_synthesis_as_a_script() -> None:
    shown = run_script("synthesize.py", "--class", "3", "--steps", "60")
    assert "the net takes it for a 3" in shown


def test_regression_fits(sample: Any) -> None:
    losses = sample("fit_regression").fit(1500)
    assert np.mean(losses[-100:]) < 0.05 * losses[0]


def test_lenet_trains_a_little() -> None:
    rng = np.random.default_rng(0)
    net = graphc.Net(SAMPLES / "lenet_train.prototxt", phase=graphc.TRAIN)
    label = rng.integers(0, 10, 64)
    data = rng.standard_normal((64, 1, 28, 28)) + 0.1 * label[:, None, None, None]
    losses = []
    for _ in range(8):
        net.clear_param_diffs()
        net.forward_backward({"data": data, "label": label})
        losses.append(net.loss)
        for layer in net.params.values():
            for parameter in layer:
                parameter.data[...] -= 0.02 * parameter.diff
    assert losses[-1] < 0.8 * losses[0]
    assert 0 <= net.blobs["accuracy"].data <= 1


def test_what_freezes_what(sample: Any) -> None:
    freeze = sample("freeze")
    found = {title: freeze.learning(text) for title, text in freeze.VARIANTS.items()}
    head = {"head/0", "head/1"}
    learned = {title: {n for n, moved in got[0].items() if moved} for title, got in found.items()}
    assert learned == {
        "as written": head,
        "without propagate_down: false": head | {"conv2/1"},
        "without lr_mult: 0": head,
        "without both": head | {"conv1/0", "conv1/1", "conv2/0", "conv2/1"},
    }
    steps = {title: got[1] for title, got in found.items()}
    assert steps["as written"] < steps["without propagate_down: false"] < steps["without both"]


def test_the_infogain_pair(sample: Any) -> None:
    fuse_infogain = sample("fuse_infogain")
    rng = np.random.default_rng(3)
    label = rng.integers(0, 6, 16)
    matrix = np.eye(6, dtype=np.float32) + 0.1
    for apart, unfused_is_right in ((1, True), (1e4, False)):
        scores = (apart * rng.uniform(-1, 1, (16, 6))).astype(np.float32)
        wanted = fuse_infogain.exact(scores, label, matrix)
        errors = [
            np.abs(fuse_infogain.gradient(scores, label, matrix, fuse) - wanted).max()
            / np.abs(wanted).max()
            for fuse in (True, False)
        ]
        assert errors[0] <= 1e-6
        assert (errors[1] <= 1e-5) == unfused_is_right


def test_the_readme_runs_an_old_net(monkeypatch: pytest.MonkeyPatch) -> None:
    root = SAMPLES.parent
    monkeypatch.chdir(root)
    text = (root / "README.md").read_text()
    (code,) = re.findall(r"Run an old net, .*?```python\n(.*?)```", text, re.DOTALL)
    scope: dict[str, Any] = {}
    exec(code, scope)
    assert scope["scores"].argmax() == 7
    # The score of a seven rises along its own gradient.
    step = 1e-3 * scope["saliency"]
    weights = graphc.Net(SAMPLES / "digits.prototxt", weights=SAMPLES / "digits.caffemodel")
    near = weights.forward(data=scope["seven"] + step)["score"][0, 7]
    predicted = scope["scores"][0, 7] + float((scope["saliency"] * step).sum())
    assert near == pytest.approx(predicted, rel=1e-3)
    assert near > scope["scores"][0, 7]
