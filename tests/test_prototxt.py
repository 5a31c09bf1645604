"""The recovering reader of prototxt: what it accepts, and how it tells what is wrong."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import cases_folder
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.error import NetError
from graphc.frontends.caffe import schema
from graphc.frontends.caffe.message import Message
from graphc.frontends.caffe.prototxt import Parsed, parse, read_message, read_source
from graphc.source import Source

CASES = cases_folder() / "caffe"


def read(text: str, message: str = "NetParameter") -> Message:
    return read_message(Source("net.prototxt", text), message)[0]


def broken(text: str, message: str = "NetParameter") -> Parsed:
    return parse(Source("net.prototxt", text), message)


def messages(text: str, message: str = "NetParameter") -> list[str]:
    return [error.message for error in broken(text, message).errors]


# What the format allows


def test_every_notation_of_the_format() -> None:
    net = read(
        """
        # a comment; with { and "quotes
        name: 'it''s' "\\x41\\102\\n\\u00e9" ,
        layer: < type: "ReLU"; bottom: "a", bottom: "b" relu_param { negative_slope: .5f } >
        layer { convolution_param { num_output: 0x10 pad: 010 pad: [1, 2] kernel_size: [] }
                propagate_down: t propagate_down: False propagate_down: 1 phase: 0
                loss_weight: 1.f loss_weight: -2e1 loss_weight: inf loss_weight: - .25 }
        """
    )
    assert net.get("name") == "itsAB\né"
    first, second = net.all("layer")
    assert first.all("bottom") == ["a", "b"]
    assert first.get("relu_param").get("negative_slope") == 0.5
    convolution = second.get("convolution_param")
    assert convolution.get("num_output") == 16
    assert convolution.all("pad") == [8, 1, 2]
    assert not convolution.has("kernel_size")
    assert second.all("propagate_down") == [True, False, True]
    assert second.get("phase") == "TRAIN"
    assert second.all("loss_weight") == [1.0, -20.0, math.inf, -0.25]


def test_lists_of_messages() -> None:
    net = read("input_shape: [{ dim: [1, 2] }, < dim: 3 >] input: ['a', 'b']")
    assert [shape.all("dim") for shape in net.all("input_shape")] == [[1, 2], [3]]
    assert net.all("input") == ["a", "b"]


def test_absent_fields_read_as_the_defaults() -> None:
    layer = read("layer { lrn_param { alpha: 1e-4 } }").all("layer")[0]
    assert layer.get("lrn_param").get("alpha") == 1e-4
    assert layer.get("lrn_param").get("beta") == 0.75
    assert layer.get("batch_norm_param").get("eps") == 1e-5
    assert not layer.has("batch_norm_param")
    assert layer.get("pooling_param").get("pool") == "MAX"
    assert layer.get("convolution_param").get("bias_term") is True
    assert layer.get("name") == ""
    assert layer.all("bottom") == []


def test_places_of_values_and_names() -> None:
    layer = read('layer {\n  bottom: "a"\n  bottom: "b"\n}').all("layer")[0]
    assert str(layer.span) == "net.prototxt:1:1"
    assert str(layer.span_of("bottom", 1)) == "net.prototxt:3:11"
    assert str(layer.name_span_of("bottom", 1)) == "net.prototxt:3:3"
    assert layer.span_of("top") == layer.span


def test_a_required_field_must_be_there() -> None:
    text = "layer { clip_param { min: -1 } }"
    assert messages(text) == ["ClipParameter needs a 'max'"]
    read("layer { clip_param { min: -1 max: 1 } }")


# What it refuses

REFUSED = {
    "kernel_size: -3": "'kernel_size' must not be negative",
    "num_output: 2.5": "'num_output' must be a whole number, not 2.5",
    "num_output: 4294967296": "out of range for 'num_output' (at most 4294967295)",
    "num_output: 08": "'num_output' must be a whole number, not 08",
    "num_output: 96x": "'num_output' is a whole number, found '96x'",
    'num_output: "96"': "'num_output' is a whole number, not a string",
    "num_output: 1 num_output: 2": "'num_output' is given twice",
    "num_output: [1]": "'num_output' takes one value, not a list",
    "num_output: }": "expected a value for 'num_output', found '}'",
    "num_output 3": "expected ':' after 'num_output'",
    "bias_term: 2": "'bias_term' is true or false, found '2'",
    "bias_term: TRUE": "'bias_term' is true or false, found 'TRUE'",
    "engine: CUDA": "Engine has no value 'CUDA'",
    "engine: 7": "Engine has no value 7",
    "axis: 9999999999": "out of range for 'axis'",
    "kernal_size: 3": "ConvolutionParameter has no field 'kernal_size'",
    "weight_filler: 3": "'weight_filler' is a message: expected '{' after it",
    "num_output { }": "'num_output' is a single value",
    "weight_filler { type: xavier }": "'type' is a string and needs quotes",
    'weight_filler { type: "xavier }': "this string has no closing quote on its line",
    "weight_filler { std: 1.0.0 }": "'std' is a number, found '1.0.0'",
    'weight_filler { type: "\\q" }': "unknown escape sequence \\q",
    'weight_filler { type: "\\xff" }': "the string of 'type' is not UTF-8",
    "@": "unexpected character '@' (U+0040)",
    "pad: [1, 2": "this list is not closed",
}


@pytest.mark.parametrize("text", REFUSED)
def test_one_mistake_is_one_error(text: str) -> None:
    close = "" if text.endswith("}") and "{" not in text else " }"
    found = messages(f'layer {{ convolution_param {{ {text}{close} }}\nlayer {{ name: "n" }}')
    assert len(found) == 1
    assert REFUSED[text] in found[0]


def test_the_text_of_an_error() -> None:
    text = 'layer {\n  convolution_param {\n    kernal_size: 11\n  }\n  type: "Convolution"\n}'
    with pytest.raises(NetError) as caught:
        read(text)
    assert str(caught.value) == (
        "net.prototxt:3:5: error: ConvolutionParameter has no field 'kernal_size'\n"
        "        kernal_size: 11\n"
        "        ^~~~~~~~~~~\n"
        "did you mean 'kernel_size'?"
    )


def test_another_layers_fields_are_not_read_as_those_of_a_field_with_a_like_name() -> None:
    (found,) = messages(
        'layer { type: "ROIPooling" roi_pooling_param { pooled_w: 7 spatial_scale: 0.0625 } }'
    )
    assert "LayerParameter has no field 'roi_pooling_param'" in found
    assert "did you mean" not in found


def test_all_errors_come_at_once_and_in_order() -> None:
    parsed = broken(
        """
        layer { nmae: "a" type: "Convolution" convolution_param { num_output: 1.5 } }
        layer { pooling_param { pool: MIN kernel_size: 2 } }
        layers { type: RELUU }
        """
    )
    assert [error.span.line for error in parsed.errors if error.span] == [2, 2, 3, 4]
    assert parsed.usable
    # The misspelt field was read as the one that was meant, and the sound ones are all there.
    assert parsed.message.all("layer")[0].get("name") == "a"
    assert parsed.message.all("layer")[1].get("pooling_param").get("kernel_size") == 2


def test_hints_say_where_a_field_belongs() -> None:
    (error,) = broken("layer { kernel_size: 3 }").errors
    assert error.hint == "it belongs inside convolution_param or pooling_param"
    (error,) = broken("layer { blobs_lr: 1 }").errors
    assert "lr_mult" in error.hint
    (error,) = broken("layer { type: ReLU }").errors
    assert error.hint == 'did you mean "ReLU"?'


# Braces

LAYER = """layer {
  name: "conv1"
  convolution_param {
    num_output: 3
    weight_filler {
      type: "xavier"
    }
  }
}
"""


@pytest.mark.parametrize("line", [7, 8, 9])
@pytest.mark.parametrize("last", [False, True])
def test_a_missing_brace_is_reported_at_the_layer_left_open(line: int, last: bool) -> None:
    lines = LAYER.splitlines()
    del lines[line - 1]
    after = "" if last else LAYER.replace("conv1", "conv2")
    parsed = broken("\n".join(["# a comment", *lines, after]))
    (error,) = parsed.errors
    assert error.span is not None and error.span.line == 2
    assert "'layer {' is not closed" in error.message
    if line < 9:
        assert f"'{'weight_filler' if line == 7 else 'convolution_param'}'" in error.hint
    assert len(parsed.message.all("layer")) == (1 if last else 2)
    assert parsed.usable


def test_a_field_further_out_closes_what_was_left_open() -> None:
    text = 'layer {\n  lrn_param {\n    alpha: 1\n  top: "x"\n}\nlayer {\n}\n'
    (error,) = broken(text).errors
    assert error.span is not None and error.span.line == 2
    assert "before the 'top' of line 4" in error.message


def test_braces_too_many() -> None:
    assert messages("layer { } }\nlayer { }") == ["this '}' closes nothing"]
    (error,) = broken('layer {\n  lrn_param { } }\n  top: "x"\n}\nlayer { }').errors
    assert "'top' stands after the '}'" in error.message
    assert messages("layer { lrn_param < alpha: 1 } }") == [
        "'lrn_param' is closed with '}' where '>' is expected"
    ]


# Text from web pages


def test_spaces_of_the_web_are_one_warning() -> None:
    text = '\ufefflayer\u00a0{\u00a0name:\u00a0"a\u00a0b"\u200b}\u2003# \u00a0'
    message, warnings = read_message(Source("net.prototxt", text))
    assert message.all("layer")[0].get("name") == "a\u00a0b"
    (warning,) = warnings
    assert warning.severity == "warning"
    assert "3 characters U+00A0 (no-break space)" in warning.message
    assert "1 character U+200B (zero width space)" in warning.message
    assert str(warning.span) == "net.prototxt:1:1"


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    text = "\ufeffname: 3\n"
    (tmp_path / "net.prototxt").write_text(text)
    for source in (text, tmp_path / "net.prototxt"):
        parsed = parse(read_source(source))
        assert parsed.warnings == []
        (error,) = parsed.errors
        assert error.span is not None
        assert (error.span.line, error.span.column) == (1, 7)


@pytest.mark.parametrize(
    ("line", "columns"),
    [
        ("name: 3", 6),
        ("\tname:\t3", 12),
        ('layer { name: "conv" bottom: 3 }', 29),
        ('layer { name: "слой" bottom: 3 }', 29),
        ('layer { name: "畳み込み" bottom: 3 }', 33),
        ('layer { name: "cafe\u0301" bottom: 3 }', 29),
        ('layer { name: "😀" bottom: 3 }', 27),
    ],
)
def test_the_caret_stands_under_the_word(line: str, columns: int) -> None:
    (error,) = parse(read_source(line + "\n")).errors
    assert error.span is not None
    _, caret = error.span.excerpt().splitlines()
    assert caret.partition("^")[0] == " " * (4 + columns)


def test_typographic_quotes_are_told_and_read() -> None:
    parsed = broken("layer { name: “conv1” type: 'ReLU' }")
    (error,) = parsed.errors
    assert "U+201C" in error.message and error.hint == 'did you mean "conv1"?'
    assert parsed.message.all("layer")[0].get("name") == "conv1"


def test_caffenet_as_posted() -> None:
    path = CASES / "caffenet_as_posted.prototxt"
    if not path.exists():
        pytest.skip("the small set of cases does not hold this text")
    text = path.read_text()
    parsed = parse(Source("posted.prototxt", text))
    (error,) = parsed.errors
    assert error.span is not None and error.span.start == text.rindex("layer {")
    assert "198 characters U+00A0" in parsed.warnings[0].message
    mended = parse(Source("mended.prototxt", text + "}\n"))
    assert not mended.errors
    assert len(mended.message.all("layer")) == text.count("layer {")


# Files


def test_files_that_are_no_text(tmp_path: Path) -> None:
    for content, reason in ((b"name: '\xff'", "not UTF-8"), (b"\xff\xfen\0a\0", "not UTF-8")):
        path = tmp_path / "net.prototxt"
        path.write_bytes(content)
        with pytest.raises(NetError, match=reason):
            read_source(path)
    with pytest.raises(NetError, match="No such file"):
        read_source(str(tmp_path / "none.prototxt"))
    with pytest.raises(NetError, match="cannot read"):
        read_source(tmp_path)
    assert read_source("layer {}").name == "<text>"


@pytest.mark.parametrize(
    "text",
    [
        "layer {" * 100_000,
        "x {" * 200_000,
        "a: [" * 100_000,
        "}" * 500_000,
        "\0" * 1_000_000,
        "\x01 " * 500_000,
        '"' * 1_000_001,
        "name: '" + "\\" * 500_001,
        "layer { loss_weight: " + "9" * 1_000_000 + " }",
        "layer { top: " + '"a" ' * 200_000,
        "a " * 500_000,
        "-" * 500_000,
    ],
    ids=lambda text: repr(text[:12]),
)
def test_hostile_texts_end_soon_in_a_clear_error(text: str) -> None:
    start = time.process_time()
    parsed = broken(text)
    assert parsed.errors or "9999" in text
    assert time.process_time() - start < 5


# Against protobuf's own reader


@pytest.mark.parametrize("path", sorted(CASES.rglob("*.prototxt")), ids=lambda path: path.stem)
def test_cases_read_as_protobuf_reads_them(path: Path) -> None:
    name = "SolverParameter" if path.name.endswith(".solver.prototxt") else "NetParameter"
    text = path.read_text()
    parsed = parse(Source(path.name, text), name)
    wanted = schema.message_class(name)()
    try:
        text_format.Parse(text.replace("\u00a0", " "), wanted)
    except text_format.ParseError:
        assert parsed.errors
    else:
        assert not parsed.errors
        assert parsed.message.to_proto() == wanted


MARKS = ["{", "}", "<", ">", "[", "]", ":", ",", ";", "-", '"', "#", "\n", "\u00a0", "“", "@", "\0"]
VALUES = ["3", "0.5", "-1", "1e9", "true", "MAX", '"a"', "'b'", "TRAIN", "foo", "é"]
NAMES = ["layer", "layers", "name", "type", "bottom", "param", "lr_mult", "input", "input_shape"]
NAMES += ["dim", "state", "phase", "convolution_param", "num_output", "kernel_size", "pad"]
NAMES += ["pooling_param", "pool", "weight_filler", "clip_param", "min"]
words = st.sampled_from(MARKS + VALUES + NAMES)


@settings(max_examples=300, deadline=None)
@given(st.lists(words, max_size=40))
def test_any_words_end_in_a_result(parts: list[str]) -> None:
    parsed = broken(" ".join(parts))
    assert all(error.message and error.span is not None for error in parsed.errors)
    str(NetError(parsed.errors))
    if not parsed.errors:
        parsed.message.to_proto()


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_any_characters_end_in_a_result(text: str) -> None:
    parsed = broken(text)
    str(NetError(parsed.errors))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_cutting_a_text_short_is_never_a_crash(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(LAYER)))
    stop = data.draw(st.integers(start, len(LAYER)))
    cut = LAYER[:start] + LAYER[stop:] + LAYER
    parsed = broken(cut)
    assert parsed.errors or parsed.message.has("layer")


floats = st.floats(width=32, allow_nan=False)


@settings(max_examples=100, deadline=None)
@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.lists(floats, max_size=3),
    st.lists(st.integers(0, 2**32 - 1), max_size=3),
    st.integers(-(2**31), 2**31 - 1),
    st.booleans(),
)
def test_what_protobuf_writes_is_read_back(
    name: str, weights: list[float], pads: list[int], axis: int, bias: bool
) -> None:
    net: Any = schema.message_class("NetParameter")(name=name)
    layer = net.layer.add(loss_weight=weights, phase=int(bias))
    layer.convolution_param.pad.extend(pads)
    layer.convolution_param.axis = axis
    layer.convolution_param.bias_term = bias
    layer.blobs.add(data=weights, double_data=weights)
    text = text_format.MessageToString(net)
    assert read(text).to_proto() == net
    if "{" in text_format.MessageToString(net, as_one_line=True):
        assert read(text_format.MessageToString(net, as_one_line=True)).to_proto() == net
