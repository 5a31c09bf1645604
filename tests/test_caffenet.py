"""CaffeNet as somebody pasted it from a web page: told what is wrong, mended, run both ways."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

import graphc

POSTED = Path(__file__).parent / "cases" / "caffe" / "caffenet_as_posted.prototxt"


def test_the_missing_brace_is_reported_where_the_layer_was_left_open() -> None:
    with pytest.raises(graphc.NetError) as caught:
        graphc.Net(POSTED)
    (found,) = caught.value.diagnostics
    lines = POSTED.read_text().splitlines()
    opened = max(number for number, line in enumerate(lines, 1) if line == "layer {")
    assert found.span is not None
    assert (found.span.line, found.span.column) == (opened, 1)
    assert f"{POSTED}:{opened}:1: error: this 'layer {{' is not closed" in str(caught.value)
    assert "layer {\n    ^~~~~" in str(caught.value)


def test_mended_it_runs_forward_and_backward() -> None:
    """The gradient of a class's score agrees with a difference of two scores along it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        net = graphc.Net(POSTED.read_text() + "}\n", weights="random:1")
    told = [str(w.message) for w in caught if issubclass(w.category, graphc.NetWarning)]
    assert len(told) == 1
    assert "no-break space" in told[0]

    rng = np.random.default_rng(0)
    image = 50 * rng.standard_normal((1, 3, 227, 227), dtype=np.float32)
    one_hot = np.zeros((1, 1000), np.float32)
    one_hot[0, 281] = 1
    found = net.forward_backward({"data": image}, {"fc8": one_hot}, wrt=["data"])
    gradient = found["data"][0].copy()
    assert gradient.shape == (3, 227, 227)
    assert net.outputs == ["fc8"]
    assert np.isfinite(net.blobs["fc8"].data).all()

    length = float(np.linalg.norm(gradient))
    step = 0.5 * gradient / length
    above, below = (float(net.forward(data=image + way * step)["fc8"][0, 281]) for way in (1, -1))
    assert above - below == pytest.approx(length, rel=0.02)
