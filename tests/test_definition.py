"""Net definitions: rules, older formats, inputs, and how layers may connect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import cases_folder
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.error import NetError
from graphc.frontends.caffe.definition import NetDefinition, read_net

CASES = cases_folder() / "caffe"
ERRORS = [
    path
    for path in sorted((CASES / "errors").glob("*.json"))
    if not path.with_suffix(".solver.prototxt").exists()
]
NETS = sorted(
    path for group in ("layers", "semantics", "nets") for path in (CASES / group).glob("*.prototxt")
)

# Definitions that Caffe refuses and whose text alone shows why. The others need layer types,
# shapes or values. (A no-break space is white space here on purpose.)
REFUSED_BY_TEXT = {
    "err_bad_enum": "PoolMethod has no value 'MIN'",
    "err_bottom_before_top": "unknown bottom blob 'data'",
    "err_duplicate_top": "top blob 'o' of layer 'b' is already produced by layer 'a'",
    "err_float_for_int": "'num_output' must be a whole number",
    "err_include_and_exclude": "both include and exclude",
    "err_inplace_reader_after": "cannot work in place on blob 'h'",
    "err_inplace_with_reader": "cannot work in place on blob 'h'",
    "err_layer_and_layers": "either 'layer' or the older 'layers'",
    "err_loss_weight_count": "1 loss_weight for 2 tops",
    "err_missing_brace": "'layer {' is not closed",
    "err_negative_kernel": "'kernel_size' must not be negative",
    "err_propagate_down_count": "1 propagate_down for 2 bottoms",
    "err_softmaxloss_two_tops": "2 tops and no loss_weight",
    "err_unknown_bottom": "unknown bottom blob 'dta'",
    "err_unknown_field": "LayerParameter has no field 'foo'",
}

DATA = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 } } }\n'


def refusal(text: str, **state: Any) -> str:
    with pytest.raises(NetError) as caught:
        read_net(text, **state)
    assert all(error.span is not None for error in caught.value.diagnostics)
    return str(caught.value)


def layer(name: str, kind: str, bottom: str, top: str, more: str = "") -> str:
    ends = f'bottom: "{bottom}" top: "{top}"'
    return f'layer {{ name: "{name}" type: "{kind}" {ends} {more} }}\n'


def names(net: NetDefinition) -> list[str]:
    return [layer.name for layer in net.layers]


# Reference cases


@pytest.mark.parametrize("path", ERRORS, ids=lambda path: path.stem)
def test_definitions_that_caffe_judged(path: Path) -> None:
    case = json.loads(path.read_text())
    text = path.with_name(case["file"])
    if path.stem in REFUSED_BY_TEXT:
        assert case["rejected"]
        assert REFUSED_BY_TEXT[path.stem] in refusal(str(text), phase=case["phase"])
    else:
        assert read_net(text, phase=case["phase"]).layers


@pytest.mark.parametrize("path", NETS, ids=lambda path: path.stem)
def test_layers_are_those_that_caffe_ran(path: Path) -> None:
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as file:
        meta = json.loads(str(file["meta"]))
    net = read_net(path, phase=meta["phase"], level=meta["level"], stages=meta["stages"])
    assert [[layer.name, layer.type] for layer in net.layers] == meta["layers"]
    assert not net.warnings


# Rules


def test_include_and_exclude_rules() -> None:
    text = (
        DATA
        + layer("a", "ReLU", "data", "a", "include { phase: TRAIN } include { stage: 'x' }")
        + layer("b", "ReLU", "data", "b", "include { min_level: 1 max_level: 2 not_stage: 'x' }")
        + layer("c", "ReLU", "data", "c", "exclude { phase: TEST stage: 'x' stage: 'y' }")
    )
    assert names(read_net(text, phase="TRAIN")) == ["data", "a", "c"]
    assert names(read_net(text, phase="TEST")) == ["data", "c"]
    assert names(read_net(text, phase="TEST", level=2)) == ["data", "b", "c"]
    assert names(read_net(text, phase="TEST", level=3)) == ["data", "c"]
    assert names(read_net(text, phase="TEST", level=1, stages=["x", "y"])) == ["data", "a"]
    net = read_net("state { level: 1 stage: 'y' }" + text, phase="TEST", stages=["x"])
    assert names(net) == ["data", "a"]
    assert net.left_out == ("b", "c")


def test_a_bottom_that_the_rules_took_away() -> None:
    text = DATA + layer("a", "ReLU", "data", "a", "include { phase: TRAIN }")
    text += layer("b", "ReLU", "a", "b")
    assert "layer 'a' makes it, but its rules leave it out in phase TEST" in refusal(text)
    assert len(read_net(text, phase="TRAIN").layers) == 3


# Connections


def test_in_place_needs_a_single_reader() -> None:
    chain = DATA + layer("a", "ReLU", "data", "data") + layer("b", "ReLU", "data", "data")
    net = read_net(chain + layer("c", "TanH", "data", "c") + layer("d", "TanH", "data", "d"))
    assert [layer.in_place(0) for layer in net.layers[1:]] == [True, True, False, False]
    text = DATA + layer("a", "TanH", "data", "a") + layer("b", "ReLU", "data", "data")
    assert "layer 'a' reads it too" in refusal(text)
    text = DATA + layer("a", "TanH", "data", "a", "loss_weight: 2") + layer("b", "ReLU", "a", "a")
    assert "layer 'a' gives it a loss_weight" in refusal(text)
    read_net(text.replace("loss_weight: 2", "loss_weight: 0"))


def test_all_mistakes_of_a_net_at_once() -> None:
    text = (
        DATA
        + layer("a", "Convolution", "dat", "a", "convolution_param { num_outptu: 3 }")
        + layer("b", "RelU", "a", "b", "propagate_down: [true, false]")
        + layer("c", "ReLU", "b", "a")
        + 'layer { name: "d" top: "d" }'
    )
    with pytest.raises(NetError) as caught:
        read_net(text, layer_types={"Convolution", "ReLU", "Input"})
    found = caught.value.diagnostics
    assert [d.span.line for d in found if d.span] == [2, 2, 3, 3, 4, 5]
    assert "did you mean 'data'?" in [d.hint for d in found]
    assert "did you mean 'ReLU'?" in [d.hint for d in found]
    assert found[-1].message == "layer 'd' has no type"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ('name: "a" type: RELUX', "LayerType has no value 'RELUX'"),
        ('name: "a" type: FOO', "LayerType has no value 'FOO'"),
        ('name: "a" type: "ReLU"', "'type' is one of NONE, ACCURACY"),
        ('layer { name: "a" type: "foo" }', "unknown layer type 'foo' of the oldest format"),
    ],
)
def test_a_wrong_type_of_old_does_not_cascade(fields: str, said: str) -> None:
    text = f'input: "x" input_dim: [1, 1, 1, 1]\nlayers {{ {fields} bottom: "x" top: "y" }}'
    with pytest.raises(NetError) as caught:
        read_net(text)
    (only,) = caught.value.diagnostics
    assert said in only.message


@pytest.mark.parametrize(
    ("given", "meant"),
    [("RELU", "ReLU"), ("CONVOLUTION", "Convolution"), ("relu", "ReLU"), ("Elu", "ELU")],
)
def test_small_and_large_letters_are_the_same_to_a_suggestion(given: str, meant: str) -> None:
    with pytest.raises(NetError, match=f"did you mean '{meant}'") as caught:
        known = {"Convolution", "ReLU", "ELU", "Input"}
        read_net(DATA + layer("a", given, "data", "y"), layer_types=known)
    assert len(caught.value.diagnostics) == 1


def test_a_misspelt_bottom_field_does_not_cascade() -> None:
    text = DATA + layer("a", "ReLU", "data", "a").replace("top", "tpo") + layer("b", "X", "a", "b")
    assert refusal(text).count("error:") == 1


def test_shared_fields_of_a_layer() -> None:
    text = DATA + layer(
        "ip",
        "InnerProduct",
        "data",
        "ip",
        "param { name: 'w' lr_mult: 0 share_mode: PERMISSIVE } param { decay_mult: 2 }"
        "loss_weight: 0.5 propagate_down: true phase: TRAIN",
    )
    ip = read_net("force_backward: true " + text).layers[1]
    weight, bias = ip.params
    assert (weight.name, weight.lr_mult, weight.share_mode) == ("w", 0.0, "PERMISSIVE")
    assert (bias.lr_mult, bias.decay_mult, bias.share_mode) == (1.0, 2.0, "STRICT")
    assert (weight.gives_decay_mult, bias.gives_decay_mult) == (False, True)
    assert (ip.loss_weights, ip.propagate_down, ip.phase) == ((0.5,), (True,), "TRAIN")
    assert read_net("force_backward: true " + text).force_backward


# Older formats


def test_inputs_become_an_input_layer_put_first() -> None:
    reader = layer("r", "ReLU", "a", "r")
    dims = "input: 'a' input: 'b' input_dim: [1, 2, 3, 4, 5, 6, 7, 8]"
    shapes = "input: 'a' input: 'b' input_shape { dim: 1 } input_shape { dim: [2, 3] }"
    for head, sizes in ((dims, [[1, 2, 3, 4], [5, 6, 7, 8]]), (shapes, [[1], [2, 3]])):
        first = read_net(reader + head).layers[0]
        assert (first.name, first.type, first.tops) == ("input", "Input", ("a", "b"))
        stored = first.message.get("input_param").all("shape")
        assert [shape.all("dim") for shape in stored] == sizes
    short = reader + "input: ['a', 'b'] input_dim: [1, 2, 3, 4, 5]"
    assert "2 'input' need 8 'input_dim', there are 5" in refusal(short)
    assert "unknown bottom blob 'a'" in refusal(reader + "input: 'a'")


def test_three_rates_of_batch_norm_count_as_zero() -> None:
    text = DATA + layer("bn", "BatchNorm", "data", "bn", "param { lr_mult: 1 } " * 3)
    assert [p.lr_mult for p in read_net(text).layers[1].params] == [0, 0, 0]
    two = DATA + layer("bn", "BatchNorm", "data", "bn", "param { lr_mult: 1 } " * 2)
    assert [p.lr_mult for p in read_net(two).layers[1].params] == [1, 1]


def test_v1_layers() -> None:
    net = read_net(
        """
        layers { name: "d" type: DATA top: "d" data_param { source: "x" scale: 0.5 mirror: true } }
        layers { name: "c" type: CONVOLUTION bottom: "d" top: "c" blobs_lr: 1 blobs_lr: 2
                 weight_decay: 3 param: "w" blob_share_mode: PERMISSIVE
                 convolution_param { num_output: 2 kernel_size: 3 } }
        layers { name: "l" type: SOFTMAX_LOSS bottom: "c" bottom: "d" loss_weight: 2
                 include { phase: TEST } }
        """
    )
    data, convolution, loss = net.layers
    assert data.message.get("transform_param").get("scale") == 0.5
    assert not data.message.get("data_param").has("mirror")
    assert convolution.type == "Convolution"
    first, second = convolution.params
    assert (first.name, first.lr_mult, first.decay_mult) == ("w", 1, 3)
    assert (first.share_mode, second.lr_mult, second.gives_decay_mult) == ("PERMISSIVE", 2, False)
    assert convolution.message.get("convolution_param").all("kernel_size") == [3]
    assert (loss.type, loss.loss_weights) == ("SoftmaxWithLoss", (2,))
    assert convolution.span.line == 3


def test_v0_padding_moves_into_the_layer_that_reads_it() -> None:
    text = """
        input: "data" input_dim: [1, 1, 4, 4]
        layers { layer { name: "p" type: "padding" pad: 2 } bottom: "data" top: "p" }
        layers { layer { name: "c" type: "conv" num_output: 2 kernelsize: 3 biasterm: false
                         alpha: 3 } bottom: "p" top: "c" }
        layers { layer { name: "i" type: "innerproduct" num_output: 1 } bottom: "c" top: "i" }
        layers { layer { name: "s" type: "images" source: "x" meanfile: "m" cropsize: 3 } top: "s" }
        """
    net = read_net(text)
    assert names(net) == ["input", "c", "i", "s"]
    assert net.layers[1].bottoms == ("data",)
    convolution = net.layers[1].message.get("convolution_param")
    assert convolution.all("pad") == [2]
    assert convolution.all("kernel_size") == [3]
    assert convolution.get("bias_term") is False
    assert net.layers[3].message.get("transform_param").get("crop_size") == 3
    assert net.layers[3].message.get("image_data_param").get("source") == "x"
    assert "'alpha' means nothing for a 'conv' layer" in str(net.warnings[0])
    mistaken = text.replace('"conv"', '"relu"')
    assert "only conv and pool can take its padding" in refusal(mistaken)


def test_data_layers_are_read() -> None:
    kinds = ("Data", "ImageData", "HDF5Data", "MemoryData", "DummyData", "Parameter", "WindowData")
    text = "".join(f'layer {{ name: "{k}" type: "{k}" top: "{k}" }}\n' for k in kinds)
    assert [layer.type for layer in read_net(text).layers] == list(kinds)


def test_a_net_without_layers_is_refused() -> None:
    assert "the net has no layers" in refusal("# nothing\n")
    text = layer("a", "Input", "x", "x", "include { phase: TRAIN }")
    assert "no layers in phase TEST" in refusal(text)


pieces = st.sampled_from(
    [
        DATA,
        layer("a", "ReLU", "data", "a"),
        layer("b", "ReLU", "a", "a"),
        layer("a", "SoftmaxWithLoss", "a", "l", "top: 'm' loss_weight: 1"),
        "input: 'data' ",
        "input_dim: 3 ",
        "layers { type: RELU bottom: 'data' top: 'x' blobs_lr: 1 }\n",
        "layers { layer { type: 'padding' pad: 1 } bottom: 'data' top: 'p' }\n",
        "layers { layer { type: 'conv' num_output: 1 } bottom: 'p' bottom: 'p' top: 'c' }\n",
        "layers { layer { } }\n",
        "layer { }\n",
        "layer { type: 'BatchNorm' param {} param {} param {} }\n",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(pieces, max_size=8))
def test_any_pieces_end_in_a_net_or_one_clear_error(parts: list[str]) -> None:
    try:
        net = read_net("".join(parts) + "\n")
    except NetError as error:
        assert str(error)
        return
    produced: set[str] = set()
    for part in net.layers:
        assert produced.issuperset(part.bottoms)
        produced.update(part.tops)


def test_a_solver_given_for_a_net_is_called_one() -> None:
    solver = 'net: "train.prototxt"\nbase_lr: 0.1\nmax_iter: 10\n'
    with pytest.raises(NetError, match=r"(?s)a solver, not of a net.*'train.prototxt'") as caught:
        read_net(solver)
    (only,) = caught.value.diagnostics
    assert only.severity == "error" and only.span is not None and only.span.start == 0
    with pytest.raises(NetError, match="no field 'base_lr'"):
        read_net(solver + "layer { }\n")
