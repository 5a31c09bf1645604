"""`net.summary()`, `graphc summary`, and a net's picture in a notebook."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import Golden
from test_cli_options import REGRESSION, SAMPLES, graphc

import graphc as package
from graphc.bench.work import work_of
from graphc.error import NetError

LENET = SAMPLES / "lenet_train.prototxt"
SHARED = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 4 } } }
layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" param { name: "w" } param { name: "b" }
  inner_product_param { num_output: 4 } }
layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" param { name: "w" } param { name: "b" }
  inner_product_param { num_output: 4 } }
"""


def test_the_table(golden: Golden) -> None:
    golden.check("lenet.summary.txt", f"{package.Net(LENET, phase=package.TRAIN).summary()}\n")


def test_figures_of_a_convolution() -> None:
    summary = package.Net(LENET, phase=package.TRAIN).summary()
    rows = {row.layer: row for row in summary.rows}
    places = 64 * 20 * 24 * 24
    conv1 = rows["conv1"]
    assert conv1.shapes == ((64, 20, 24, 24),)
    assert conv1.parameters == 20 * 25 + 20
    assert conv1.flops == places * (2 * 25 + 1)  # a product and a sum for each weight, the bias
    assert conv1.bytes == 4 * places
    assert rows["relu1"].bytes == 0  # in place
    assert rows["relu1"].flops == 64 * 500
    assert summary.parameters == sum(row.parameters for row in summary.rows) == 431_080
    assert summary.backward


def test_operations_are_those_of_the_steps() -> None:
    net = package.Net(REGRESSION)
    made = net.prepare(wrt=())
    steps = sum(work_of(made.program, step).flops for step in made.program.steps)
    assert net.summary().flops == steps > 0


@pytest.mark.filterwarnings("ignore::graphc.NetWarning")
def test_shared_parameters_count_once() -> None:
    rows = package.Net(SHARED).summary().rows
    assert [row.parameters for row in rows] == [0, 20, 0]


def test_the_verb_prints_the_same() -> None:
    text = graphc("summary", LENET, "--phase", "TRAIN").stdout
    assert text == f"{package.Net(LENET, phase=package.TRAIN).summary()}\n"
    data = json.loads(graphc("summary", LENET, "--phase", "TRAIN", "--json").stdout)
    assert data["total"]["parameters"] == 431_080
    assert data["rows"][2]["shapes"] == [[64, 20, 24, 24]]


def test_a_summary_makes_no_code() -> None:
    net = package.Net(LENET, phase=package.TRAIN)
    net.summary()
    assert not net.compilations.made


def test_matconvnet_nets(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    from mat_nets import chain

    net = package.SimpleNet.load(chain(tmp_path / "net.mat"))
    rows = net.summary().rows
    assert [row.kind for row in rows][:2] == ["Conv", "ReLU"]
    assert rows[0].shapes[0][:2] == (6, 6)  # MATLAB's order: height and width first
    assert rows[0].parameters > 0
    assert "<svg" in net._repr_svg_()
    unsized = package.SimpleNet.load(chain(tmp_path / "unsized.mat", size=False))
    assert unsized._repr_svg_() is None
    with pytest.raises(NetError, match="does not say the size"):
        unsized.summary()
    assert unsized.summary(x1=(6, 6, 2, 1)).parameters == net.summary().parameters


def test_the_picture_in_a_notebook() -> None:
    svg = package.Net(LENET)._repr_svg_()
    root = ElementTree.fromstring(svg)
    shown = {text.text for text in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"conv1", "Convolution", "64 x 20 x 24 x 24", "data", "loss"} <= shown
    assert "href" not in svg
