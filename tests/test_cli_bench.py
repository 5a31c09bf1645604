"""`graphc bench loss`: right before it is fast, and a report in words, numbers and a picture."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import pytest
from test_cli_options import graphc

from graphc.bench import loss, loss_report
from graphc.bench.last_layer import Form, LayerSize, check_layer, draw_layer, exact_layer
from graphc.bench.loss import Candidate, Measured, Size, check, draw, errors, interleaved
from graphc.bench.loss_training import train
from graphc.error import NetError

SMALL = ("--classes", "20", "--batch", "32", "--repeats", "3", "--steps", "30")


def test_the_tables_say_what_was_compared_and_measured() -> None:
    result = graphc("bench", "loss", *SMALL)
    assert result.exit_code == 0, result.output
    for said in ("checked against float64", "fused", "unfused", "copy", "GB/s", "inf or nan"):
        assert said in result.stdout
    assert result.stdout.index("checked") < result.stdout.index("GB/s")


@pytest.mark.parametrize("axis", [0, 1])
def test_the_figures_as_json(axis: int) -> None:
    result = graphc("bench", "loss", *SMALL, "--axis", axis, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["size"] == {"batch": 32, "classes": 20, "axis": axis}
    assert max(found["gradient_error"].values()) <= 3e-7
    rows = {row["name"]: row for row in found["times"]}
    assert set(rows) == {"fused", "unfused", "copy"}
    for row in rows.values():
        assert row["seconds"] >= row["best_seconds"] > 0
        rate = row["effective_bytes_per_second"]
        assert rate == pytest.approx(8 * 32 * 20 / row["seconds"])
    scores = 4 * 32 * 20
    assert rows["fused"]["bytes_moved"] < rows["unfused"]["bytes_moved"]
    assert rows["unfused"]["memory"] - rows["fused"]["memory"] >= scores, "the probabilities"
    assert rows["copy"]["part_of_copy"] == 1
    assert {e["name"] for e in found["errors"]} == {"fused", "unfused", "unfused, no floor"}


def test_a_last_layer_in_blocks_beside_the_whole() -> None:
    size = ("--classes", "600", "--batch", "4096", "--repeats", "2", "--steps", "5")
    result = graphc("bench", "loss", *size, "--width", "8", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["last_layer"]
    assert found["size"] == {"batch": 4096, "classes": 600, "width": 8}
    assert 0 < max(found["gradient_error"].values()) <= 2e-5
    whole, blocks = found["times"]
    assert (whole["name"], blocks["name"]) == ("whole", "blocks")
    assert whole["memory"] >= 4 * 4096 * 600 > blocks["memory"]
    product = 2 * 4096 * 600 * 8
    assert whole["operations_per_second"] == pytest.approx(3 * product / whole["seconds"])
    assert blocks["operations_per_second"] == pytest.approx(4 * product / blocks["seconds"])
    assert blocks["part_of_whole"] == pytest.approx(blocks["seconds"] / whole["seconds"])
    said = graphc("bench", "loss", *SMALL, "--width", "8").stdout
    assert "through a last layer of width 8" in said
    assert "along axis 1" in graphc("bench", "loss", *SMALL, "--width", "8", "--axis", "0").stderr


def test_a_wrong_last_layer_is_not_timed() -> None:
    size = LayerSize(16, 30, 4)
    inputs = draw_layer(size)
    form, wanted = Form(size, "whole", 1), exact_layer(inputs)
    assert check_layer(form, inputs, wanted) <= 2e-5
    loss, dx, dw = wanted
    with pytest.raises(NetError, match="the loss is wrong"):
        check_layer(form, inputs, (loss * 1.01, dx, dw))
    with pytest.raises(NetError, match="the gradient of w is wrong"):
        check_layer(form, inputs, (loss, dx, dw * 1.01))


def test_only_the_fused_loss_is_right_at_every_spread() -> None:
    found = errors(Size(64, 50))
    assert all(e.gradient <= 3e-7 and e.bad == 0 for e in found if e.name == "fused")
    far = [e for e in found if e.spread >= 1e3]
    assert all(e.stuck > 0.9 for e in far if e.name == "unfused")
    assert all(e.bad > 0 for e in far if e.name == "unfused, no floor")


def test_only_the_fused_loss_learns() -> None:
    fused, unfused = train("fused"), train("unfused")
    assert fused.losses[0] == unfused.losses[0], "they begin alike"
    assert fused.wrong[-1] < 0.05
    assert unfused.wrong[-1] > 0.3


def test_a_wrong_result_is_never_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    size = Size(16, 10)
    candidate = Candidate(size, "fused")
    x, label = draw(size, 1.0)
    assert check(candidate, x, label, 1) <= 3e-7
    run = candidate.run

    def broken() -> None:
        run()
        candidate.gradient[3, 4] += 1e-6

    monkeypatch.setattr(candidate, "run", broken)
    with pytest.raises(NetError, match="fused: the gradient is wrong by"):
        check(candidate, x, label, 1)
    timed: list[str] = []
    monkeypatch.setattr(Candidate, "gradient", property(lambda self: self.arrays["x.diff"] * 1.01))
    monkeypatch.setattr(loss_report, "interleaved", lambda work, repeats: timed.append("timed"))
    result = graphc("bench", "loss", *SMALL)
    assert result.exit_code == 3
    assert "the gradient is wrong" in result.stderr
    assert not timed


def test_runs_take_turns() -> None:
    order: list[str] = []

    def work(name: str) -> float:
        order.append(name)
        return float(len(order))

    runs = interleaved({"a": lambda: work("a"), "b": lambda: work("b")}, 3)
    assert order == ["a", "b", "a", "b", "b", "a", "a", "b"], "one round is for warming up"
    assert runs == {"a": [3.0, 6.0, 7.0], "b": [4.0, 5.0, 8.0]}


def test_a_timing_is_a_median_with_its_spread() -> None:
    timing = Measured("x", 0, 0, [4.0, 1.0, 2.0, 3.0, 100.0])
    assert (timing.seconds, timing.best) == (3.0, 1.0)
    assert timing.spread == pytest.approx((52 - 1.5) / 3), "between the quartiles"


def test_few_runs_have_no_spread() -> None:
    timing = Measured("x", 0, 0, [4.0, 1.0, 2.0])
    assert timing.spread is None
    assert timing.quartiles == (2.0, 2.0)


@pytest.mark.parametrize(
    "arguments", [("--classes", "1"), ("--axis", "2"), ("--repeats", "0"), ("--rival", "caffe")]
)
def test_wrong_usage_ends_with_2(arguments: tuple[str, ...]) -> None:
    result = graphc("bench", "loss", *arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""


def test_a_rival_that_is_not_there(tmp_path: Path) -> None:
    result = graphc("bench", "loss", *SMALL, "--rival", "torch", "--rival-python", tmp_path / "no")
    assert result.exit_code == 3
    assert "cannot start" in result.stderr
    if find_spec("torch") is None:
        result = graphc("bench", "loss", *SMALL, "--rival", "torch")
        assert result.exit_code == 3
        assert "pip install torch" in result.stderr


def test_a_rival_takes_part(tmp_path: Path) -> None:
    """A worker that answers as torch's does, so that the report is tested without torch."""
    worker = tmp_path / "python"
    worker.write_text(f"#!{sys.executable}\n{WORKER}")
    worker.chmod(0o755)
    result = graphc(
        *("bench", "loss", *SMALL, "--rival", "torch", "--rival-python", worker, "--json")
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["rival"] == "torch 9.9"
    rows = {row["name"]: row for row in found["times"]}
    assert rows["torch eager"]["seconds"] == 0.5
    assert found["refusals"] == {"compile": "InductorError: no compiler"}
    assert json.loads(result.stderr)["notes"] == [
        "torch compile left out: InductorError: no compiler"
    ]
    worker.write_text(worker.read_text().replace("* 1.0", "* 1.1"))
    result = graphc(*("bench", "loss", *SMALL, "--rival", "torch", "--rival-python", worker))
    assert result.exit_code == 3
    assert "they do not compute the same" in result.stderr


WORKER = """
import sys
import numpy as np
x, label = np.load(sys.argv[3]).astype(float), np.load(sys.argv[4]).astype(int)
own = x[np.arange(len(label)), label]
loss = (np.log(np.exp(x).sum(1)) - own).mean() * 1.0
print("9.9 eager \\tInductorError: no compiler", flush=True)
for line in sys.stdin:
    print(0.5, loss, flush=True)
"""


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib draws, and is not there")
def test_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "loss.png"
    result = graphc("bench", "loss", *SMALL, "--plot", path)
    assert result.exit_code == 0, result.output
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    result = graphc("bench", "loss", *SMALL, "--plot", tmp_path / "none" / "loss.png")
    assert result.exit_code == 3
    assert "there is no folder" in result.stderr
    if find_spec("matplotlib") is not None:
        result = graphc("bench", "loss", *SMALL, "--plot", tmp_path / "loss.txt")
        assert result.exit_code == 3
        assert "loss.txt': a picture is FILE.png" in result.stderr


def test_errors_of_very_many_classes_are_those_of_fewer_examples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loss, "ERROR_SCORES", 30)
    drawn = mock.Mock(wraps=loss.draw)
    monkeypatch.setattr(loss, "draw", drawn)
    assert len(loss.errors(loss.Size(8, 10), spreads=(1.0,))) == len(loss.FORMS)
    assert {call.args[0].batch for call in drawn.call_args_list} == {3}
    drawn.reset_mock()
    loss.errors(loss.Size(8, 100), spreads=(1.0,))
    assert {call.args[0].batch for call in drawn.call_args_list} == {1}
