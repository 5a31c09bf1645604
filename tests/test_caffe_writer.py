"""Definitions printed again: the same fields, the current format, readable by protobuf too."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import cases_folder
from google.protobuf import text_format

import graphc
from graphc.error import NetError
from graphc.frontends.caffe import schema
from graphc.frontends.caffe.definition import read_net
from graphc.frontends.caffe.message import Message
from graphc.frontends.caffe.prototxt import parse, read_source
from graphc.frontends.caffe.writer import print_message, upgraded_text

FOLDER = cases_folder() / "caffe"
FILES = sorted(
    path
    for group in ("layers", "semantics", "nets")
    for path in (FOLDER / group).glob("*.prototxt")
)


def plain(message: Message) -> list[Any]:
    """Names and values of all fields, without their places."""
    return [
        (given.name, plain(given.value) if isinstance(given.value, Message) else given.value)
        for given in message
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_printed_message_reads_back(path: Path) -> None:
    first = parse(read_source(path)).message
    second = parse(read_source(print_message(first) + "\n"))
    assert not second.errors
    assert plain(second.message) == plain(first)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_upgraded_text_is_the_same_net_in_the_current_format(path: Path) -> None:
    text = upgraded_text(path)
    assert upgraded_text(text) == text
    # Protobuf's own reader agrees, and finds nothing of the older formats.
    net = text_format.Parse(text, schema.message_class("NetParameter")())
    assert not net.layers
    assert not net.input
    assert len(net.layer) >= 1
    with np.load(path.with_suffix(".npz")) as file:
        meta = json.loads(str(file["meta"]))
    state = {"level": meta.get("level", 0), "stages": meta.get("stages", ())}
    read = read_net(text, phase=meta["phase"], **state)
    assert [[layer.name, layer.type] for layer in read.layers] == meta["layers"]


@pytest.mark.parametrize("name", ["v0_deploy", "v1_deploy"])
def test_upgraded_net_computes_the_same(name: str) -> None:
    path = FOLDER / "semantics" / f"{name}.prototxt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", graphc.NetWarning)
        nets = [graphc.Net(source, threads=1) for source in (path, upgraded_text(path))]
    first, second = (outputs(net) for net in nets)
    assert list(first) == list(second)
    for blob, value in first.items():
        np.testing.assert_array_equal(second[blob], value)


def outputs(net: graphc.Net) -> dict[str, np.ndarray]:
    """What the net gives for inputs and parameters that depend on their order and shape only."""
    rng = np.random.default_rng(0)
    for blob in net.inputs:
        net.set_inputs({blob: rng.standard_normal(net.blobs[blob].shape)})
    for blobs in net.params.values():
        for held in blobs:
            held.data[...] = rng.standard_normal(held.shape)
    return net.forward()


def test_values_of_every_kind() -> None:
    text = (
        'name: "a\\"b\\\\c\\n\\001é"\n'
        'layer { name: "d" type: "Input" top: "x" loss_weight: 1e-07 loss_weight: 0.1'
        " loss_weight: 3 loss_weight: -inf phase: TEST propagate_down: true"
        " input_param { shape { dim: 1 dim: -2 } } }"
    )
    first = parse(read_source(text)).message
    printed = print_message(first)
    assert plain(parse(read_source(printed)).message) == plain(first)
    assert "loss_weight: 1e-07\n" in printed
    assert "  phase: TEST\n" in printed
    assert "shape { dim: 1 dim: -2 }\n" in printed


def test_mistakes_are_reported_with_their_place() -> None:
    with pytest.raises(NetError, match=r"2:7: error: .*no field 'bottm'"):
        upgraded_text('layers {\n      bottm: "x"\n}')
