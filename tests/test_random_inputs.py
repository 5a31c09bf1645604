"""Random inputs are ones that a net can run on, so that `check` and `bench` need no others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import graphc
from graphc.random_inputs import InputKind, input_kinds, random_input

EMBED = """
input: "word" input_shape { dim: 40 }
layer { name: "e" type: "Embed" bottom: "word" top: "e"
        embed_param { input_dim: 7 num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "e" bottom: "label" top: "loss" }
input: "label" input_shape { dim: 40 }
"""

REINDEX = """
force_backward: true
input: "x" input_shape { dim: 5 dim: 2 }
input: "order" input_shape { dim: 40 }
layer { name: "r" type: "BatchReindex" bottom: "x" bottom: "order" top: "y" }
"""

SIAMESE = """
force_backward: true
input: "a" input_shape { dim: 40 dim: 2 }
input: "b" input_shape { dim: 40 dim: 2 }
input: "same" input_shape { dim: 40 }
layer { name: "loss" type: "ContrastiveLoss" bottom: "a" bottom: "b" bottom: "same" top: "loss" }
"""


@pytest.mark.parametrize(
    ("text", "name", "count"),
    [(EMBED, "word", 7), (EMBED, "label", 3), (REINDEX, "order", 5), (SIAMESE, "same", 2)],
)
def test_a_whole_number_is_drawn_below_its_count(text: str, name: str, count: int):
    graph = graphc.Net(text, phase="TRAIN").front().graph
    kind = input_kinds(graph)[name]
    assert kind == InputKind(classes=count)
    drawn = random_input(graph.values[name], kind, np.random.default_rng(0))
    assert set(np.unique(drawn)) == set(range(count))


@pytest.mark.parametrize("text", [EMBED, REINDEX, SIAMESE])
def test_nets_that_choose_by_number_are_checked(text: str, tmp_path: Path):
    path = tmp_path / "net.prototxt"
    path.write_text(text)
    findings = graphc.check(path)
    assert findings
    assert all(finding.status == "right" for finding in findings)
