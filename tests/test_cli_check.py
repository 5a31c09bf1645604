"""`graphc check`: right gradients pass, wrong ones are found where they are made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_cli_options import REGRESSION, SAMPLES, graphc

from graphc.ops.neuron import Relu

DROPOUT = """
input: "data" input_shape { dim: 4 dim: 6 }
input: "label" input_shape { dim: 4 }
layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc"
  inner_product_param { num_output: 8 weight_filler { type: "xavier" } } }
layer { name: "drop" type: "Dropout" bottom: "fc" top: "fc" }
layer { name: "out" type: "InnerProduct" bottom: "fc" top: "out"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "twice" type: "Eltwise" bottom: "out" bottom: "out" top: "twice" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "twice" bottom: "label" top: "loss" }
layer { name: "accuracy" type: "Accuracy" bottom: "twice" bottom: "label" top: "accuracy" }
"""


def findings(result: Any) -> dict[tuple[str, str], dict[str, Any]]:
    rows = json.loads(result.stdout)["findings"]
    return {(row["layer"], row["name"]): row for row in rows}


def test_right_gradients_pass() -> None:
    result = graphc("check", REGRESSION, "--samples", "4", "--json")
    assert result.exit_code == 0, result.output
    found = findings(result)
    assert found["hidden", "hidden/0"]["status"] == "right"
    assert found["loss", "target"]["status"] == "right"
    assert found["(whole net)", "y/1"]["checked"] == 2
    assert all(row["error"] < 1e-6 for row in found.values())


def test_dropout_labels_and_a_value_used_twice(tmp_path: Path) -> None:
    net = tmp_path / "net.prototxt"
    net.write_text(DROPOUT)
    result = graphc("check", net, "--phase", "train", "--samples", "5", "--json")
    assert result.exit_code == 0, result.output
    found = findings(result)
    assert found["drop", "fc"]["status"] == "right"
    assert found["twice", "out"]["status"] == "right"
    assert found["(whole net)", "data"]["status"] == "right"
    assert ("loss", "label") not in found
    assert found["accuracy", "twice"]["status"] == "no gradient"
    assert "cut by layer 'accuracy'" in found["accuracy", "twice"]["reason"]


def test_a_wrong_gradient_is_found_in_its_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: Relu, dy: Any, y: Any, x: Any) -> Any:
        return dy * 0.5

    monkeypatch.setattr(Relu, "gradient", wrong)
    result = graphc("check", REGRESSION, "--json")
    assert result.exit_code == 1
    found = findings(result)
    wrong_layers = {layer for (layer, _), row in found.items() if row["status"] == "wrong"}
    assert wrong_layers == {"act", "(whole net)"}
    worst = found["act", "hidden"]
    assert worst["error"] > 0.4
    assert worst["gradient"] != pytest.approx(worst["difference"], rel=0.1)
    assert found["(whole net)", "y/0"]["status"] == "right"  # above the wrong layer
    text = graphc("check", REGRESSION)
    assert text.exit_code == 1
    place = ", ".join(map(str, worst["worst"]))
    assert "act: the gradient of hidden is " in text.stdout
    assert f"; at [{place}] it is " in text.stdout


def test_kinks_are_not_called_wrong(tmp_path: Path) -> None:
    net = tmp_path / "net.prototxt"
    net.write_text(
        'input: "data" input_shape { dim: 2 dim: 3 }\n'
        'layer { name: "relu" type: "ReLU" bottom: "data" top: "relu" }\n'
    )
    at_the_kink = graphc("check", net, "--input", "data=fill:0", "--json")
    assert at_the_kink.exit_code == 0, at_the_kink.output
    row = findings(at_the_kink)["relu", "data"]
    assert (row["status"], row["checked"], row["rough"]) == ("not smooth", 0, 6)
    data = np.full((2, 3), 0.5)
    data[1, 2] = 2e-6  # a kink lies within the step, but not at the element
    np.save(tmp_path / "data.npy", data)
    beside = graphc("check", net, "--input", f"data={tmp_path / 'data.npy'}", "--json")
    row = findings(beside)["relu", "data"]
    assert (row["status"], row["checked"], row["rough"]) == ("right", 5, 1)


def test_cuts_and_frozen_parameters_do_not_hide_derivatives() -> None:
    frozen = SAMPLES / "frozen_trunk.prototxt"
    arguments = ("--samples", "2", "--wrt", "conv1/0", "--wrt", "data")
    result = graphc("check", frozen, *arguments, "--json")
    assert result.exit_code == 0, result.output
    found = findings(result)
    assert set(found) == {
        *(("conv1", "data"), ("conv1", "conv1/0")),
        *(("(whole net)", "data"), ("(whole net)", "conv1/0")),
    }
    assert all(row["status"] == "right" for row in found.values())


def test_unknown_names_are_refused() -> None:
    assert graphc("check", REGRESSION, "--wrt", "hidden/7").exit_code == 3
    assert graphc("check", REGRESSION, "--input", "y=fill:1").exit_code == 3


def test_a_gradient_for_a_blob_that_is_not_there() -> None:
    refused = graphc("check", REGRESSION, "--diff", "hiden=fill:1")
    assert refused.exit_code == 3, refused.exception
    assert "there is no blob 'hiden'; did you mean 'hidden'?" in refused.stderr
