"""`graphc inspect`: what the report says, as data and as one file; no name can do harm in it."""

from __future__ import annotations

import base64
import json
import re
import zlib
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from inception import googlenet
from test_cli_options import REGRESSION, SAMPLES, graphc

from graphc import driver
from graphc.driver import Signature
from graphc.frontends.caffe.definition import read_net
from graphc.lowered import Lowered, of_compilation
from graphc.report.boxes import boxes_of_layers, boxes_of_steps, joined_name
from graphc.report.facts import Facts, collect
from graphc.report.graph_layout import HEIGHT, WIDTH, arrange
from graphc.report.kernel_texts import KernelTexts
from graphc.report.packing import packed, packed_kernels
from graphc.report.page import page
from graphc.report.pass_texts import marked_lines

LENET = SAMPLES / "lenet_train.prototxt"
HOSTILE = "</script><img src=x onerror=alert(1)>"
HOSTILE_NET = f"""
name: "{HOSTILE}"
layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ dim: 2 dim: 3 }} }} }}
layer {{ name: "{HOSTILE}" type: "InnerProduct" bottom: "x" top: "{HOSTILE}"
  inner_product_param {{ num_output: 4 }} }}
layer {{ name: "'\\"><svg onload=alert(2)>" type: "ReLU" bottom: "{HOSTILE}" top: "&lt;b&gt;" }}
"""


def lowered(source: str | Path, phase: str = "TRAIN") -> Lowered:
    definition = read_net(source, phase=phase)
    front = driver.front(definition, Signature(phase=phase))
    wanted = Signature(phase=phase, given=tuple(front.seeds), wrt=tuple(front.default_wrt))
    return of_compilation(driver.lower(definition, wanted, stages=True))


@pytest.fixture(scope="module")
def lenet() -> Facts:
    return collect(lowered(LENET), {"phase": "TRAIN"}, [LENET], version="9")


TIMES = 8


def lstm(times: int) -> str:
    """A net with a recurrent layer, which is unrolled."""
    return f"""
name: "characters"
layer {{ name: "in" type: "Input" top: "x" top: "cont" top: "label"
  input_param {{ shape {{ dim: {times} dim: 2 dim: 3 }} shape {{ dim: {times} dim: 2 }}
                shape {{ dim: {times} dim: 2 }} }} }}
layer {{ name: "lstm" type: "LSTM" bottom: "x" bottom: "cont" top: "lstm" recurrent_param {{
  num_output: 4 weight_filler {{ type: "uniform" min: -0.1 max: 0.1 }} }} }}
layer {{ name: "scores" type: "InnerProduct" bottom: "lstm" top: "scores" inner_product_param {{
  num_output: 5 axis: 2 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "scores" bottom: "label" top: "loss"
  softmax_param {{ axis: 2 }} }}
"""


LSTM = lstm(TIMES)


class Elements(HTMLParser):
    """Every start tag, and ids."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


# -- boxes and their places -----------------------------------------------------------------------


def test_boxes_hold_every_node_once_and_name_what_is_fused(lenet: Facts) -> None:
    made = lenet.made
    held = sorted(place for box in lenet.boxes.boxes for place in box.nodes)
    assert held == list(range(len(made.graph.nodes)))
    fused = {box.title for box in lenet.boxes.boxes if box.is_fused}
    assert fused == {"ip1 + relu1", "ip2 + relu1: gradient", "loss"}
    (loss,) = [box for box in lenet.boxes.boxes if box.is_fused and box.title == "loss"]
    assert loss.subtitle == "SoftmaxWithLoss, and its gradient"
    views = [box for box in lenet.boxes.boxes if box.is_view]
    assert [(box.title, box.steps) for box in views] == [("ip1", ()), ("ip1: gradient", ())]


def test_values_flow_along_the_edges(lenet: Facts) -> None:
    titles = {box.key: box.title for box in lenet.boxes.boxes}
    edges = {(titles[a], titles[b]) for a, b in lenet.boxes.edges}
    assert {("data", "conv1"), ("conv1", "pool1"), ("label", "loss")} <= edges
    assert ("loss", "ip2 + relu1: gradient") in edges
    assert ("data", "conv2") not in edges


@pytest.mark.parametrize("source", [LENET, googlenet(2, 64)], ids=["lenet", "googlenet"])
def test_no_box_covers_another(source: str | Path) -> None:
    made = lowered(source)
    boxes = boxes_of_steps(made.graph, made.program)
    picture = arrange(boxes)
    places = sorted((p.y, p.x) for p in picture.places.values())
    assert len(places) == len(boxes.boxes) > 20
    for (y, x), (next_y, next_x) in pairwise(places):
        assert next_y >= y + HEIGHT or next_x >= x + WIDTH
    assert min(x for _, x in places) >= 0
    assert max(x for _, x in places) + WIDTH <= picture.width
    assert max(y for y, _ in places) + HEIGHT <= picture.height


def test_forward_flows_down_and_gradients_up(lenet: Facts) -> None:
    picture = arrange(lenet.boxes)
    backward = {box.key: box.backward for box in lenet.boxes.boxes}
    for a, b in lenet.boxes.edges:
        above = picture.places[a].y < picture.places[b].y
        if not backward[a] and not backward[b]:
            assert above
        if backward[a] and backward[b]:
            assert picture.places[a].y > picture.places[b].y


def test_an_edge_passes_between_the_boxes_of_a_lane() -> None:
    made = lowered(googlenet(2, 64))
    boxes = boxes_of_layers(made.forward)
    picture = arrange(boxes)
    for route in picture.routes.values():
        for x, y in route[1:-1]:
            for place in picture.places.values():
                inside = place.x < x < place.x + WIDTH and place.y < y < place.y + HEIGHT
                assert not inside


def test_names_say_once_what_they_share() -> None:
    assert joined_name(["m/conv", "m/conv/relu"]) == "m/conv + relu"
    assert joined_name(["m/a/x", "m/a/y", "other"]) == "m/a/x + y + other"
    assert joined_name(["conv1", "relu1"]) == "conv1 + relu1"


# -- the parts ------------------------------------------------------------------------------------


def test_overview(lenet: Facts) -> None:
    seen = lenet.overview
    assert seen["parameters"] == 20 * 25 + 20 + 50 * 20 * 25 + 50 + 500 * 800 + 500 + 5000 + 10
    conv1 = 2 * 64 * 20 * 24 * 24 * 25  # operations of the first convolution's products
    assert seen["forward_flops"] > conv1
    assert seen["bound_of_any_order"] <= seen["bound_of_order"] <= seen["peak"] < seen["naive"]
    assert seen["forward_steps"] < seen["steps"]


def test_marks_of_lines() -> None:
    found = marked_lines(["a", "b", "c"], ["a", "x", "c", "d"])
    assert found == [(0, "a"), (-1, "b"), (1, "x"), (0, "c"), (1, "d")]


def test_passes_add_up(lenet: Facts) -> None:
    passes = lenet.passes.passes
    assert passes[0].name == "start"
    assert [found.name for found in passes[-2:]] == ["finish", "expand"]
    for before, after in pairwise(passes):
        old = [n for mark, n in before.lines if mark >= 0]
        new = [n for mark, n in after.lines if mark >= 0]
        kept = [n for mark, n in after.lines if mark <= 0]
        assert kept == old
        assert len(new) == len(old) + after.added - after.removed
    backward = next(p for p in passes if p.name == "backward")
    assert (backward.added > 20, backward.sentence) == (True, "adds gradients")


def test_gradients_say_who_and_why(lenet: Facts) -> None:
    rows = {row["name"]: row for row in lenet.gradients}
    assert (rows["conv1/0"]["state"], rows["conv1/0"]["why"]) == (
        "computed",
        "from the loss 'loss'",
    )
    assert rows["data"]["state"] == "none"
    assert rows["label"]["why"] == "layer 'loss' (SoftmaxWithLoss) gives it none"
    frozen = collect(lowered(SAMPLES / "frozen_trunk.prototxt"), code=False)
    rows = {row["name"]: row for row in frozen.gradients}
    assert rows["conv1/0"]["why"] == "its lr_mult is 0 and force_backward is not set"
    assert rows["conv2/1"]["state"] == "zero"
    assert rows["conv2/1"]["why"] == "the path is cut by layer 'head' (InnerProduct)"


def test_every_kernel_has_its_five_texts(lenet: Facts) -> None:
    assert sorted(n for kernel in lenet.kernels for n in kernel.steps) == list(
        range(len(lenet.steps))
    )
    for kernel in lenet.kernels:
        assert kernel.texts["kernel"].startswith("kernel ")
        assert max(map(len, kernel.texts["schedule"].splitlines())) <= 100
        assert "register" in kernel.texts["schedule"] or "lane" in kernel.texts["schedule"]
        assert kernel.texts["llvm"].startswith("define internal void")
        assert kernel.texts["asm"].rstrip().splitlines()[0].endswith(":")
        assert "ret" in kernel.texts["asm"]
        assert "__global__" in kernel.texts["cuda"]
        number = int(kernel.name[1:]) - 1
        for language in ("llvm", "asm", "cuda"):
            assert f"k{number}_" in kernel.texts[language], (kernel.name, language)


# -- the file -------------------------------------------------------------------------------------


def test_the_file_is_one_and_asks_for_nothing(lenet: Facts) -> None:
    text = page(lenet)
    assert len(text) < 1_000_000
    for tag, attributes in Elements(text).tags:
        assert tag not in ("link", "img", "iframe", "object", "base", "form")
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
        assert not [name for name in attributes if name.startswith("on")]
    assert "default-src 'none'" in text
    assert not re.search(r"url\(\s*['\"]?(?!#)", text)


def test_links_lead_somewhere(lenet: Facts) -> None:
    elements = Elements(page(lenet))
    rows = {a["data-key"] for _, a in elements.tags if "data-key" in a}
    boxes = {a["data-box"] for _, a in elements.tags if "data-box" in a}
    ids = [a["id"] for _, a in elements.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert boxes == {box.key for box in lenet.boxes.boxes}
    for tag, attributes in elements.tags:
        target = (attributes.get("href") or "#part/")[1:]
        kind = target.partition("-")[0]
        if kind == "kernel":
            assert f"code-{target.removeprefix('kernel-')}" in ids
        elif kind == "step":
            assert target in boxes or target.replace("step", "run") in rows
        elif kind in ("view", "input"):
            assert target in boxes
        else:
            assert target.startswith("part/"), (tag, target)
    for _, attributes in elements.tags:
        for name in ("aria-controls", "aria-labelledby"):
            assert attributes.get(name, ids[0]) in ids


def test_hostile_names_are_text() -> None:
    facts = collect(lowered(HOSTILE_NET, "TEST"), {"net": HOSTILE}, [], code=False)
    text = page(facts)
    tags = [tag for tag, _ in Elements(text).tags]
    assert "img" not in tags
    own = 4  # the first lines, the facts, the lines of the passes, the script
    assert tags.count("script") == own + len(facts.kernels)
    assert tags.count("svg") == 2  # the graph and the timeline
    assert not [a for _, a in Elements(text).tags if any(n.startswith("on") for n in a)]
    assert "<title>&lt;/script&gt;&lt;img" in text


def unpacked(text: str) -> object:
    return json.loads(zlib.decompress(base64.b64decode(text)))


def test_texts_that_are_too_long_are_cut_and_say_so() -> None:
    assert unpacked(packed({"a": ["ä", 1]})) == {"a": ["ä", 1]}
    lines = [f"{n * 7919 % 10007} {n * 104729 % 99991}" for n in range(5000)]
    kernels = [KernelTexts("k1", "big", [0], {"kernel": "small\n", "llvm": "\n".join(lines)})]
    whole = unpacked(packed_kernels(kernels, budget=2_000_000)["k1"])
    assert whole == {
        "texts": {"kernel": "small", "llvm": "\n".join(lines)},
        "left_out": {},
        "missing": {},
    }
    made = packed_kernels(kernels, budget=10_000)["k1"]
    assert len(made) <= 10_000
    cut = unpacked(made)
    shown = cut["texts"]["llvm"].splitlines()
    assert shown == lines[: len(shown)]
    assert len(shown) + cut["left_out"]["llvm"] == 5000
    assert len(shown) >= 200


# -- the command ----------------------------------------------------------------------------------


def test_inspect_writes_a_report_without_paths(tmp_path: Path) -> None:
    net = tmp_path / "secret_folder" / "net.prototxt"
    net.parent.mkdir()
    net.write_text(Path(REGRESSION).read_text())
    made = tmp_path / "report.html"
    result = graphc("inspect", net, "-o", made, "--mode", "train", "--no-code")
    assert result.exit_code == 0, result.output
    text = made.read_text()
    assert text.startswith("<!DOCTYPE html>")
    assert "secret_folder" not in text
    assert str(tmp_path) not in text
    data = graphc("inspect", net, "--json", "--mode", "train", "--no-code").stdout
    assert "secret_folder" not in data


def test_inspect_as_data() -> None:
    result = graphc("inspect", REGRESSION, "--json", "--phase", "TRAIN", "--wrt", "x")
    data = json.loads(result.stdout)
    assert data["name"] == "regression"
    assert data["provenance"]["options"] == {"phase": "TRAIN", "wrt": ["x"]}
    (file,) = data["provenance"]["files"]
    assert file["name"] == "regression.prototxt"
    assert len(file["sha256"]) == 64
    assert data["passes"][0]["name"] == "start"
    assert data["passes"][-1]["text"].startswith('graph "regression"\n')
    assert {"kernel", "schedule", "llvm", "asm", "cuda"} == set(data["kernels"][0]["texts"])
    by_name = {row["name"]: row["state"] for row in data["gradients"]}
    assert by_name["x"] == "computed"


def test_inspect_measures_when_asked() -> None:
    arguments = ("--json", "--mode", "train", "--no-code", "--profile", "--seconds", "0.05")
    data = json.loads(graphc("inspect", REGRESSION, *arguments).stdout)
    assert all(step["seconds"] >= 0 for step in data["steps"])
    assert data["limits"]["fma"] > 0
    assert data["overview"]["seconds"] == pytest.approx(sum(s["seconds"] for s in data["steps"]))


def test_inspect_takes_matconvnet_files(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    from mat_nets import chain

    result = graphc("inspect", chain(tmp_path / "chain.mat"), "--json", "--no-code")
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    rows = {row["layer"]: row for row in data["layers"]}
    assert sum(row["parameters"] for row in rows.values()) == data["overview"]["parameters"] > 0
    by_name = {row["name"]: row for row in data["gradients"]}
    assert by_name["l1_1"]["why"] == "no backward pass was asked for, or no gradient is defined"


def test_gradients_show_the_rates_of_matconvnet_files(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    from mat_nets import cell, chain

    weights = cell(np.ones((2, 2, 5, 3), "float32"), np.zeros((3, 1), "float32"))
    last = {"type": "conv", "name": "last", "weights": weights, "pad": [1, 0, 1, 0]}
    rates = {"learningRate": [1.0, 2.0], "weightDecay": [1.0, 0.0]}
    path = chain(tmp_path / "chain.mat", {**last, **rates})
    result = graphc("inspect", path, "--diff", "x6=one-hot:0", "--json", "--no-code")
    assert result.exit_code == 0, result.output
    rows = {row["name"]: row for row in json.loads(result.stdout)["gradients"]}
    found = {name: (rows[name]["lr_mult"], rows[name]["decay_mult"]) for name in rows}
    assert found == {
        "x1": (None, None),
        **dict.fromkeys(("l1_1", "l1_2", "l4_1", "l4_2", "l5_1"), (1, 1)),
        "l5_2": (2, 0),
    }
    written = graphc(
        "inspect", path, "--diff", "x6=one-hot:0", "--no-code", "-o", tmp_path / "r.html"
    )
    assert written.exit_code == 0, written.output
    text = (tmp_path / "r.html").read_text()
    assert ">learningRate</button>" in text
    assert "lr_mult" not in text


def test_unrolled_layers_are_one_box_each_way() -> None:
    made = lowered(LSTM)
    facts = collect(made, code=False)
    boxes = {box.title: box for box in facts.boxes.boxes if len(box.steps) > 1}
    assert set(boxes) == {"lstm", "lstm: gradient"}
    steps = made.program.steps
    for title, backward in (("lstm", False), ("lstm: gradient", True)):
        numbers = boxes[title].steps
        assert len(numbers) > 3 * TIMES
        assert {(steps[n].layer, steps[n].backward) for n in numbers} == {("lstm", backward)}
        assert boxes[title].subtitle == f"LSTM, {len(numbers)} steps"
    held = [step for box in facts.boxes.boxes for step in box.steps]
    assert len(held) == len(set(held))
    # What is said again for each of the times is said once.
    every = list(dict.fromkeys(made.program.remarks))
    assert len(facts.remarks) < len(every) / 2
    assert sum(remark["more"] + 1 for remark in facts.remarks) == len(every)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "name a file for the report"),
        (("-o", "/nowhere/report.html"), 3, "there is no folder"),
        (("-o", "."), 3, "it is a folder"),
    ],
)
def test_inspect_refuses(arguments: tuple[str, ...], code: int, said: str) -> None:
    result = graphc("inspect", REGRESSION, *arguments)
    assert result.exit_code == code
    assert said in result.stderr
