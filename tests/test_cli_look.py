"""`graphc show`, `plan` and `explain`: looking inside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_cli_options import REGRESSION, SAMPLES, graphc

import graphc as package
from graphc.ir.reader import parse_graph

FROZEN = SAMPLES / "frozen_trunk.prototxt"
INFOGAIN = SAMPLES / "infogain_unfused.prototxt"
PROBABILITIES = ("--infogain-input", "probabilities")


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("graph", "output x.diff = "),
        ("kernel", "kernel "),
        ("program", "backward"),
        ("llvm", "graphc_forward"),
        ("asm", "graphc_backward"),
        ("dot", "digraph "),
    ],
)
def test_every_form_is_shown(form: str, said: str) -> None:
    result = graphc("show", REGRESSION, "--as", form, "--wrt", "x")
    assert result.exit_code == 0, result.output
    assert said in result.stdout


def test_the_gradient_is_there_unless_told_otherwise() -> None:
    with_gradient = graphc("show", REGRESSION).stdout
    assert "output hidden/0.diff" in with_gradient
    assert ".diff" not in graphc("show", REGRESSION, "--mode", "infer").stdout


HOSTILE = r"""name: "ev\033[31mil\r\nnet"
layer {
  name: "in\033[2J" type: "Input" top: "x\342\200\256" input_param { shape { dim: 2 dim: 3 } }
}
layer {
  name: "fc\n\033]0;title\007" type: "InnerProduct" bottom: "x\342\200\256" top: "a\r\n\033[1mb\t"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } }
}
layer { name: "sum" type: "Reduction" bottom: "a\r\n\033[1mb\t" top: "sum" loss_weight: 1 }
"""


@pytest.mark.parametrize(
    "words",
    [
        *(("summary",), ("plan",), ("plan", "--all"), ("plan", "--compare"), ("explain",)),
        *(("run", "--input", "x\u202e=fill:1"), ("grad", "--input", "x\u202e=fill:1"), ("check",)),
        *(("show", "--as", form) for form in ("graph", "kernel", "program", "llvm", "asm")),
        *(("show", "--as", form) for form in ("dot", "json", "cuda")),
        *(("show", "--diff-passes", "start", "clean"), ("upgrade",)),
    ],
    ids=" ".join,
)
def test_names_steer_no_terminal(words: tuple[str, ...], tmp_path: Path) -> None:
    """Names may hold what clears the screen, turns the line around, or makes a line of its own."""
    net = tmp_path / "net.prototxt"
    net.write_text(HOSTILE)
    result = graphc(words[0], net, *words[1:])
    assert result.exit_code == 0, result.output
    shown = result.stdout
    assert shown.replace("\n", "").replace("\t", "").isprintable()
    if words[0] in ("summary", "grad", "check"):
        assert r"\x1b[1mb" in shown or r"\x1b]0;title" in shown or r"x\u202e" in shown
        assert "\nb" not in shown


LOOKING = [("show",), ("plan",), ("plan", "--compare"), ("summary",), ("explain",)]
NO_LAYERS = 'graph "none"\ninput %x: float32[2]\nblob x = %x\noutput x = %x\n'


@pytest.mark.parametrize("verb", [*LOOKING, ("inspect", "--json"), ("compile", "-o", "net.so")])
@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("nothing.caffemodel", "cannot read 'nothing.caffemodel': No such file"),
        (str(REGRESSION), "is damaged or no Caffe file"),
        (str(SAMPLES / "digits.caffemodel"), "no layer name is one of the net's"),
        ("random:many", "needs a whole number, not 'many'"),
    ],
)
def test_weights_that_cannot_be_loaded_are_an_error_everywhere(
    verb: tuple[str, ...], weights: str, said: str
) -> None:
    result = graphc(*verb, REGRESSION, "--weights", weights)
    assert result.exit_code == 3, result.output
    assert said in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("verb", [("show",), ("plan",), ("summary",), ("explain",)])
@pytest.mark.parametrize("has_parameters", [True, False])
def test_weights_for_a_graphs_text_too(
    verb: tuple[str, ...], has_parameters: bool, tmp_path: Path
) -> None:
    path = tmp_path / "net.ir"
    shown = graphc("show", REGRESSION, "--mode", "infer").stdout
    path.write_text(shown if has_parameters else NO_LAYERS)
    assert graphc(*verb, path).exit_code == 0
    result = graphc(*verb, path, "--weights", "nothing.npz")
    assert result.exit_code == 3, result.output
    assert "cannot read 'nothing.npz'" in result.stderr


def test_weights_that_fit_change_nothing(tmp_path: Path) -> None:
    package.Net(REGRESSION, weights="random:3").save(tmp_path / "net.caffemodel")
    for verb in LOOKING:
        plain = graphc(*verb, REGRESSION)
        assert plain.exit_code == 0
        for weights in (tmp_path / "net.caffemodel", "random:1"):
            assert graphc(*verb, REGRESSION, "--weights", weights).stdout == plain.stdout


def test_a_shown_graph_parses_back() -> None:
    graph = parse_graph(graphc("show", REGRESSION).stdout)
    assert graph.name == "regression"
    assert set(graph.outputs) >= {"loss", "y/1.diff"}


def test_the_graph_after_a_pass() -> None:
    before = graphc("show", INFOGAIN, *PROBABILITIES, "--after", "clean").stdout
    after = graphc("show", INFOGAIN, *PROBABILITIES, "--after", "fuse").stdout
    assert "softmax_infogain_loss" not in before
    assert "softmax_infogain_loss" in after
    unfused = graphc("show", INFOGAIN, *PROBABILITIES, "--no-fuse").stdout
    assert "softmax_infogain_loss" not in unfused
    refused = graphc("show", INFOGAIN, "--after", "fuze")
    assert refused.exit_code == 3
    assert "did you mean 'fuse'?" in refused.stderr


def test_the_dot_text_names_every_edge_end() -> None:
    text = graphc("show", REGRESSION, "--as", "dot").stdout
    declared = {line.split()[0] for line in text.splitlines() if "[shape=" in line}
    ends = [line.split("[")[0].rstrip("; ").split(" -> ") for line in text.splitlines()[1:]]
    used = {end.strip() for pair in ends if len(pair) == 2 for end in pair}
    assert used
    assert used <= declared


def test_plan_as_table_and_as_json() -> None:
    text = graphc("plan", REGRESSION).stdout
    data = json.loads(graphc("plan", REGRESSION, "--json").stdout)
    memory = data["memory"]
    assert memory["bound_of_any_order"] <= memory["bound_of_order"] <= memory["peak"]
    assert f"{memory['peak']:,} bytes" in text
    assert data["forward_steps"] < data["steps"]
    for row in data["buffers"]:
        assert row["name"] in text
        assert row["offset"] + row["bytes"] <= memory["peak"]
    infer = json.loads(graphc("plan", REGRESSION, "--mode", "infer", "--json").stdout)
    assert infer["forward_steps"] == infer["steps"]
    apart = json.loads(graphc("plan", REGRESSION, "--memory", "all", "--json").stdout)
    assert apart["memory"]["peak"] > memory["peak"]


def test_a_batch_takes_more_memory() -> None:
    def peak(batch: int) -> int:
        shapes = ("--shape", f"x={batch},4", "--shape", f"target={batch},2")
        return json.loads(graphc("plan", REGRESSION, *shapes, "--json").stdout)["memory"]["peak"]

    assert peak(1024) > 10 * peak(16)


@pytest.mark.parametrize(
    ("subject", "said"),
    [
        ("conv1/0", "its lr_mult is 0"),
        ("conv2/1", "the path is cut by layer 'head'"),
        ("layer:head", "propagate_down: false at 'head'"),
        ("blob:loss", "loss weight 1 is the default of SoftmaxWithLoss"),
        ("blob:conv1", "layer 'relu1' works in place"),
        ("layer:conv1", "runs forward in step"),
        ("", "the path is cut by layer 'head'"),
    ],
)
def test_explain_says_why(subject: str, said: str) -> None:
    arguments = ["explain", FROZEN, *filter(None, [subject])]
    result = graphc(*arguments)
    assert result.exit_code == 0, result.output
    assert said in result.stdout
    remarks = json.loads(graphc(*arguments, "--json").stdout)
    assert any(said in remark["sentence"] for remark in remarks)


def test_explain_of_the_whole_net_and_of_nothing() -> None:
    assert graphc("explain", FROZEN, "net").exit_code == 0
    unknown = graphc("explain", FROZEN, "layer:haed")
    assert unknown.exit_code == 3
    assert "did you mean" in unknown.stderr
