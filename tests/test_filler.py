"""Fillers: their laws, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.error import NetError
from graphc.frontends.caffe.filler import fill
from graphc.frontends.caffe.message import Message
from graphc.frontends.caffe.prototxt import read_message
from graphc.source import Source


def filler(text: str) -> Message:
    return read_message(Source("filler", text), "FillerParameter")[0]


def filled(text: str, *shape: int, seed: int = 0) -> np.ndarray:
    values = fill(shape, filler(text), np.random.default_rng(seed))
    assert values.dtype == np.float32 and values.shape == shape
    return values


def test_the_default_is_zero() -> None:
    generator = np.random.default_rng(0)
    assert not fill((2, 3), None, generator).any()
    assert not filled("", 2, 3).any()
    assert (filled("value: 0.25", 2, 3) == 0.25).all()
    assert filled("value: 2").shape == ()


def test_uniform() -> None:
    values = filled("type: 'uniform' min: -1 max: 3", 100, 200)
    assert -1 <= values.min() < -0.99 and 2.99 < values.max() <= 3
    assert abs(values.mean() - 1) < 0.03
    assert abs(values.var() - 16 / 12) < 0.03


def test_gaussian() -> None:
    values = filled("type: 'gaussian' mean: 2 std: 0.5", 100, 200)
    assert abs(values.mean() - 2) < 0.02
    assert abs(values.std() - 0.5) < 0.01
    assert abs(((values - 2) ** 4).mean() / values.var() ** 2 - 3) < 0.15


def test_sparse_gaussian_keeps_so_many_of_the_outputs() -> None:
    values = filled("type: 'gaussian' sparse: 15", 100, 400)
    assert abs(np.count_nonzero(values) / values.size - 0.15) < 0.01
    assert abs(values[values != 0].std() - 1) < 0.05
    assert not filled("type: 'gaussian' sparse: 0", 10, 10).any()


def test_positive_unitball() -> None:
    values = filled("type: 'positive_unitball'", 7, 3, 5)
    assert (values > 0).all()
    np.testing.assert_allclose(values.sum((1, 2)), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("norm", "fan"), [("", 60), ("FAN_IN", 60), ("FAN_OUT", 1200), ("AVERAGE", 630)]
)
def test_xavier_and_msra_by_fan(norm: str, fan: float) -> None:
    more = f"variance_norm: {norm}" if norm else ""
    even = filled(f"type: 'xavier' {more}", 100, 5, 4, 3)
    bound = (3 / fan) ** 0.5
    assert 0.99 * bound < np.abs(even).max() <= bound * (1 + 1e-6)
    assert abs(even.std() / (1 / fan) ** 0.5 - 1) < 0.05
    normal = filled(f"type: 'msra' {more}", 100, 5, 4, 3)
    assert abs(normal.std() / (2 / fan) ** 0.5 - 1) < 0.05


def test_bilinear_enlarges_an_image_by_two() -> None:
    values = filled("type: 'bilinear'", 2, 1, 4, 4)
    line = np.array([0.25, 0.75, 0.75, 0.25])
    np.testing.assert_allclose(values[1, 0], np.outer(line, line))
    np.testing.assert_allclose(filled("type: 'bilinear'", 1, 1, 3, 3)[0, 0, 1], [0.5, 1, 0.5])


def test_a_seed_gives_the_same_values() -> None:
    for kind in ("uniform", "gaussian", "positive_unitball", "xavier", "msra"):
        first, again = (filled(f"type: '{kind}'", 3, 4, seed=5) for _ in range(2))
        np.testing.assert_array_equal(first, again)
        assert (first != filled(f"type: '{kind}'", 3, 4, seed=6)).any()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("type: 'gauss'", "unknown filler type 'gauss'"),
        ("type: 'gaussian' std: 0", "'std' must be positive"),
        ("type: 'gaussian' std: nan", "'std' must be positive"),
        ("type: 'gaussian' sparse: 4", "more than the 3 outputs"),
        ("type: 'gaussian' sparse: -2", "'sparse' must be at least 0, or -1 for none, not -2"),
        ("type: 'xavier' sparse: 1", "'sparse' is for the gaussian filler only"),
        ("type: 'uniform' min: 2 max: 1", "'min' 2.0 is above 'max' 1.0"),
        ("type: 'bilinear'", "square 4-d"),
    ],
)
def test_refused_with_a_place(text: str, reason: str) -> None:
    with pytest.raises(NetError, match=reason) as caught:
        filled(text, 3, 2)
    assert str(caught.value).startswith("filler:1:")


def test_an_unknown_filler_is_guessed() -> None:
    with pytest.raises(NetError, match="did you mean 'gaussian'"):
        filled("type: 'gausian'", 3, 2)


def test_blobs_that_cannot_be_filled() -> None:
    for shape in ((), (0, 3)):
        for text in ("'xavier'", "'msra'", "'positive_unitball'", "'gaussian' sparse: 1"):
            with pytest.raises(NetError, match="cannot fill a blob of shape"):
                filled(f"type: {text}", *shape)


def test_a_single_number_is_drawn() -> None:
    draws = [filled("type: 'gaussian' mean: 5 std: 0.5", seed=seed) for seed in range(400)]
    assert abs(np.mean(draws) - 5) < 0.1 and abs(np.std(draws) - 0.5) < 0.05
    assert 2 <= filled("type: 'uniform' min: 2 max: 3") < 3
