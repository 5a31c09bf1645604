"""`graphc explain NAME`: whole answers to what people ask about their nets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_cli_options import SAMPLES, graphc
from test_report import LSTM, lowered

from graphc.answers import answers, ranges
from graphc.lowered import Lowered

FROZEN = SAMPLES / "frozen_trunk.prototxt"
INFOGAIN = SAMPLES / "infogain_unfused.prototxt"
NORMALISED = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 4 dim: 3 dim: 5 dim: 5 } } }
layer { name: "t" type: "Input" top: "t" input_param { shape { dim: 4 dim: 2 } } }
layer { name: "bn" type: "BatchNorm" bottom: "x" top: "bn" }
layer { name: "a" type: "InnerProduct" bottom: "bn" top: "a" param { lr_mult: 0 }
  param { lr_mult: 2 } inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "l" type: "EuclideanLoss" bottom: "a" bottom: "t" top: "l" }
"""
SHARED = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 4 } } }
layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" param { name: "w" }
  inner_product_param { num_output: 4 bias_term: false } }
layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" param { name: "w" }
  inner_product_param { num_output: 4 bias_term: false } }
layer { name: "l" type: "EuclideanLoss" bottom: "b" bottom: "x" top: "l" }
"""
WIDE = """
layer { name: "in" type: "Input" top: "x" top: "label"
  input_param { shape { dim: 512 dim: 8 } shape { dim: 512 } } }
layer { name: "fc" type: "InnerProduct" bottom: "x" top: "fc"
  inner_product_param { num_output: 20000 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
"""


@pytest.fixture(scope="module")
def frozen() -> Lowered:
    return lowered(FROZEN)


def test_why_is_my_gradient_zero(frozen: Lowered) -> None:
    said = answers(frozen, "conv2/1")
    assert said[0] == "'conv2/1' is a parameter of layer 'conv2': 8, 8 numbers, 32 bytes"
    assert said[1] == "its gradient is zero: the path is cut by layer 'head' (InnerProduct)"


def test_why_does_my_frozen_layer_still_move(frozen: Lowered) -> None:
    assert answers(frozen, "conv2/1")[2] == (
        "a solver still moves 'conv2/1', although no gradient reaches it: weight decay and momentum"
        " do, its lr_mult is 1 and its decay_mult 1; lr_mult: 0 freezes it"
    )
    said = answers(frozen, "conv1/0")
    assert said[1] == "it gets no gradient: its lr_mult is 0 and force_backward is not set"
    assert said[2] == (
        "a solver does not move 'conv1/0': its lr_mult is 0, which stops weight decay too"
    )
    normalised = lowered(NORMALISED)
    assert answers(normalised, "layer:bn")[-1] == (
        "'bn/2' moves in phase TRAIN without any gradient: the forward pass updates this statistic;"
        " use_global_stats: true holds it"
    )
    assert answers(normalised, "bn/0")[1] == (
        "it gets no gradient: it is a statistic that the forward pass keeps, not a learned"
        " parameter"
    )
    assert answers(lowered(NORMALISED, "TEST"), "bn/0")[-1] == (
        "'bn/0' does not move: it is a statistic, and this phase only reads it"
    )
    assert answers(normalised, "layer:a")[-2:] == [
        "a solver does not move 'a/0': its lr_mult is 0, which stops weight decay too",
        "a solver moves 'a/1' by its gradient: its lr_mult is 2",
    ]


def test_a_frozen_layer_that_shares_its_weights() -> None:
    assert answers(lowered(SHARED), "b/0")[:3] == [
        "'b/0' is a parameter of layers 'a', 'b': 4 x 4, 16 numbers, 64 bytes",
        "it is shared: all of its users work on 'a/0', and their gradients add up",
        "its gradient is computed, from the loss 'l'",
    ]


def test_why_is_this_layer_in_place_or_not(frozen: Lowered) -> None:
    assert (
        "it is in place: 'conv1:conv1' stays in registers and has no memory of its own"
        in answers(frozen, "layer:relu1")
    )
    assert "it is not in place: its top has another shape than its bottom" in answers(
        frozen, "layer:head"
    )
    arguments = ("--diff", "prob", "--wrt", "data")
    said = graphc("explain", SAMPLES / "caffenet.prototxt", "layer:norm1", *arguments).stdout
    assert (
        "it is not in place: pool1 is not overwritten by norm1: norm1's backward still reads it.\n"
        in said
    )
    said = graphc("explain", SAMPLES / "caffenet.prototxt", "layer:relu1", *arguments).stdout
    assert "it works behind pool1 instead of before it" in said


def test_why_did_the_loss_fuse_or_not(frozen: Lowered) -> None:
    assert answers(frozen, "layer:loss")[-2:] == [
        "the loss is fused: it is one operator, softmax_log_loss, that takes scores",
        "loss's backward is made in forward, in one sweep over head with the loss",
    ]

    def said(*options: str) -> str:
        return graphc("explain", INFOGAIN, "layer:loss", *options).stdout

    old = ("--infogain-input", "probabilities")
    assert "softmax and infogain_loss fused into softmax_infogain_loss.\n" in said(*old)
    assert "the loss is not fused with layer 'prob' before it: fusing was switched off.\n" in said(
        *old, "--no-fuse"
    )
    assert "warning: two times softmax in a row" in said()
    assert answers(lowered(SHARED), "layer:l")[-1] == (
        "the loss is not fused: no softmax or sigmoid stands before it that it could hold"
    )


def test_which_form_of_the_last_layer_and_why(tmp_path: Path) -> None:
    net = tmp_path / "wide.prototxt"
    net.write_text(WIDE)
    holds = "holds 4.0 MiB at a time instead of 39.1 MiB"

    def said(subject: str, *options: str) -> str:
        return graphc("explain", net, subject, "--mode", "train", *options).stdout

    whole, asked = said("layer:loss"), said("layer:loss", "--blockwise-loss")
    budget = said("layer:loss", "--memory", "20MiB")
    assert "all scores are held; the loss in blocks of classes (--blockwise-loss, or a" in whole
    assert all(holds in text for text in (whole, asked, budget))
    for text in (asked, budget):
        assert "all scores are held" not in text
        assert "the loss is fused with the layer before it: they work in blocks" in text
        assert "\na part of loss's backward is made in forward, in one sweep over label" in text
    assert "blocks were asked for, whatever the memory" in asked
    assert "the budget asked for the loss in blocks of classes: with all scores held," in budget
    scores = said("blob:fc", "--blockwise-loss")
    assert "it costs no memory: fc is never held whole" in scores
    assert "its gradient is not computed as such, because the blob is not" in scores
    refused = said("layer:loss", "--blockwise-loss", "--keep", "fc")
    assert "fc is stored anyway, since others read it" in refused


def test_where_does_this_copy_come_from(frozen: Lowered) -> None:
    answer = (
        "step 0 makes a copy of it in channels-last order, 24,576 bytes, for 'conv1': kernels take"
        " all channels of a place together"
    )
    assert answers(frozen, "data~channels-last") == [answer]
    assert answer in answers(frozen, "blob:data")
    assert answers(frozen, "conv1/0")[-1] == (
        "step 1 makes a copy of it in packed order, 864 bytes, for 'conv1': its kernel reads"
        " weights in the order of its tiles"
    )


def test_what_does_this_blob_cost(frozen: Lowered) -> None:
    said = answers(frozen, "blob:conv1")
    assert said[0] == (
        "blob 'conv1' is made by 'conv1', 'relu1' and read by 'relu1', 'conv2': 8 x 8 x 16 x 16,"
        " float32, 65,536 bytes"
    )
    buffer = frozen.program.buffers["conv1"]
    assert said[1] == (
        f"it lies in the arena from step {buffer.first} to step {buffer.last}: 65,536 bytes at"
        f" {buffer.offset:,}"
    )
    assert answers(frozen, "blob:data")[1] == (
        "it costs nothing in the arena: it lies in the input array 'data'"
    )
    arguments = ("--diff", "prob", "--wrt", "data")
    said_of = graphc("explain", SAMPLES / "caffenet.prototxt", "blob:conv1", *arguments).stdout
    assert "it costs no memory: 'conv1' is not computed: relu was moved behind pool1" in said_of


def test_every_name_has_an_answer(frozen: Lowered) -> None:
    for layer in frozen.layers:
        assert answers(frozen, f"layer:{layer.name}")
    for name in (*frozen.owners, *frozen.forward.blobs):
        assert answers(frozen, name), name
    assert answers(frozen, "nothing") == []


def test_answers_as_data() -> None:
    found = json.loads(graphc("explain", FROZEN, "conv2/1", "--json").stdout)
    assert [f["stage"] for f in found][:3] == ["answer"] * 3
    unknown = graphc("explain", FROZEN, "conv3")
    assert unknown.exit_code == 3
    assert "did you mean" in unknown.stderr


IN_TURN = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 9 dim: 9 } } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool"
  pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "drop" type: "Dropout" bottom: "pool" top: "drop" }
layer { name: "fc" type: "InnerProduct" bottom: "drop" top: "fc"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "t" type: "Input" top: "t" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "l" type: "EuclideanLoss" bottom: "fc" bottom: "t" top: "l" }
"""


def test_layers_that_others_are_joined_with() -> None:
    made = lowered(IN_TURN)
    # ReLU runs behind the pooling: 'conv' as the definition has it is never there.
    assert "it is not in place: its top has another shape than its bottom" in answers(made, "pool")
    said = answers(made, "conv.diff")
    assert "its gradient is not computed as such, because the blob is not" in said
    own = "'pool' stays in registers and has no memory of its own"
    assert f"it is in place: {own}" in answers(made, "drop")
    assert "drop" in made.program.buffers and "pool" not in made.program.buffers
    assert "no step of the program does its work: nothing had to be computed" in answers(made, "t")


def test_layers_of_very_many_steps() -> None:
    made = lowered(LSTM)
    forward, backward = (s for s in answers(made, "lstm") if " pass is steps " in s)
    numbers = [n for n, step in enumerate(made.program.steps) if step.layer == "lstm"]
    for sentence, is_backward in ((forward, False), (backward, True)):
        shown = sentence.partition(" pass is steps ")[2].partition(":")[0]
        read: list[int] = []
        for run in shown.split(", "):
            first, _, last = run.partition("-")
            read += range(int(first), int(last or first) + 1)
        assert read == [n for n in numbers if made.program.steps[n].backward is is_backward]
        assert len(shown) < 2 * len(read)
    (parts,) = (s for s in answers(made, "blob:lstm") if s.startswith("its parts are written"))
    assert parts.startswith("its parts are written into it where they are made, by steps ")


def test_ranges_of_numbers() -> None:
    assert ranges([]) == ""
    assert ranges([3]) == "3"
    assert ranges([1, 2, 4, 5, 6, 9]) == "1, 2, 4-6, 9"


def test_a_gradient_of_a_blob_in_place_and_a_name_that_is_near(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(IN_TURN)
    found = graphc("explain", tmp_path / "net.prototxt", "conv.diff", "--mode", "train")
    assert found.exit_code == 0, found.output
    assert "because the blob is not" in found.stdout
    (tmp_path / "lstm.prototxt").write_text(LSTM)
    wrong = graphc("explain", tmp_path / "lstm.prototxt", "lstmm", "--mode", "train")
    assert wrong.exit_code == 3
    assert "did you mean 'lstm'?" in wrong.stderr
    once = graphc("explain", tmp_path / "lstm.prototxt", "layer:lstm", "--mode", "train").stdout
    assert " more like this)" in once
    assert sum(not line.startswith(" ") for line in once.splitlines()) < 35  # one a kernel
    assert sum(not line.endswith("[code]") for line in once.splitlines()) < 20
