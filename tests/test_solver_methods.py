"""Every solver's method against its formula, on least squares and on a small net."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from solver_nets import FIXED, IMAGES, METHODS, draw, image_batch, least_squares, make

import graphc
from graphc.error import NetError


class Reference:
    """Updates of one parameter in float64, straight from the formulas."""

    def __init__(self, method: str, w: np.ndarray, **settings: float):
        self.method = method
        self.w = w.astype(np.float64)
        self.first = np.zeros_like(self.w)
        self.second = np.zeros_like(self.w)
        self.settings = settings
        self.count = 0

    def update(self, g: np.ndarray, rate: float) -> None:
        mu = self.settings.get("momentum", 0.0)
        delta = self.settings.get("delta", 1e-8)
        self.count += 1
        if self.method == "SGD":
            self.first = mu * self.first + rate * g
            change = self.first
        elif self.method == "Nesterov":
            old, self.first = self.first, mu * self.first + rate * g
            change = self.first + mu * (self.first - old)
        elif self.method == "AdaGrad":
            self.first = self.first + g**2
            change = rate * g / (self.first**0.5 + delta)
        elif self.method == "RMSProp":
            decay = self.settings.get("rms_decay", 0.99)
            self.first = decay * self.first + (1 - decay) * g**2
            change = rate * g / (self.first**0.5 + delta)
        elif self.method == "AdaDelta":
            self.first = mu * self.first + (1 - mu) * g**2
            step = g * np.sqrt(self.second + delta) / np.sqrt(self.first + delta)
            self.second = mu * self.second + (1 - mu) * step**2
            change = rate * step
        else:
            mu2 = self.settings.get("momentum2", 0.999)
            self.first = mu * self.first + (1 - mu) * g
            self.second = mu2 * self.second + (1 - mu2) * g**2
            correction = math.sqrt(1 - mu2**self.count) / (1 - mu**self.count)
            change = rate * correction * self.first / (self.second**0.5 + delta)
        self.w = self.w - change


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "decay": {"weight_decay": 0.3},
    "decay L1": {"weight_decay": 0.3, "regularization_type": "L1"},
    "clipped": {"clip_gradients": 0.5},
    "not clipped": {"clip_gradients": 1e6},
    "several passes": {"iter_size": 3},
    "everything": {"weight_decay": 0.2, "clip_gradients": 1.0, "iter_size": 2},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("method", METHODS)
def test_method_on_least_squares(method: str, variant: str) -> None:
    """Both parameters, with rates and decays of their own, on a new batch at every pass."""
    settings, more = METHODS[method], VARIANTS[variant]
    fields = {"type": method, **settings, **more}
    text = " ".join(f"{k}: {json.dumps(v)}" for k, v in fields.items())
    policy = 'base_lr: 0.1 lr_policy: "inv" gamma: 0.5 power: 1'
    param = "param { lr_mult: 1 decay_mult: 2 } param { lr_mult: 3 decay_mult: 0 }"
    solver = make(least_squares(f"{policy} {text}", param), dtype="float64")
    held = solver.net.params["fc"]
    wanted = [Reference(method, blob.data, **settings) for blob in held]
    passes = more.get("iter_size", 1)
    batches = [draw(rng) for rng in np.random.default_rng(1).spawn(4 * passes)]
    served = iter(batches)

    def feed() -> dict[str, np.ndarray]:
        x, t = next(served)
        return {"x": x, "t": t}

    for iteration in range(4):
        gradients = [np.zeros((3, 4)), np.zeros(3)]
        loss = 0.0
        for x, t in batches[iteration * passes : (iteration + 1) * passes]:
            rest = x @ wanted[0].w.T + wanted[1].w - t
            gradients[0] += rest.T @ x / 6
            gradients[1] += rest.sum(0) / 6
            loss += (rest**2).sum() / 12 / passes
        norm = math.sqrt(sum((g**2).sum() for g in gradients))
        limit = more.get("clip_gradients", math.inf)
        shrink = limit / norm if norm > limit else 1.0
        for g, reference, lr_mult, decay_mult in zip(
            gradients, wanted, (1, 3), (2, 0), strict=True
        ):
            decay = more.get("weight_decay", 0.0) * decay_mult
            penalty = np.sign(reference.w) if "regularization_type" in more else reference.w
            rate = 0.1 / (1 + 0.5 * iteration) * lr_mult
            reference.update(g * shrink / passes + decay * penalty, rate)
        assert solver.step(feed=feed) == pytest.approx(loss, rel=1e-9)
        for blob, reference in zip(held, wanted, strict=True):
            np.testing.assert_allclose(blob.data, reference.w, rtol=1e-9, atol=1e-12)
    kept = [
        history for set_ in ("first", "second") for history in (getattr(w, set_) for w in wanted)
    ]
    for got, history in zip(solver.net.histories(), kept, strict=False):
        np.testing.assert_allclose(got, history, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("passes", [1, 2])
def test_a_net_that_learns_a_single_number(passes: int) -> None:
    """Its gradient, and the sum of squares that clips it, are one number, seen in two shapes."""
    net = """
    layer { name: "data" type: "Input" top: "x" top: "t" input_param { shape { dim: 6 dim: 1 } } }
    layer { name: "scale" type: "Scale" bottom: "x" top: "y" scale_param { filler { value: 2 } } }
    layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "t" top: "loss" }
    """
    fields = f"iter_size: {passes} clip_gradients: 0.5 base_lr: 0.1 lr_policy: 'fixed'"
    solver = make(f"{fields} type: 'SGD' net_param {{ {net} }}", dtype="float64")
    x = np.random.default_rng(0).standard_normal((6, 1))
    t = 9 * x + 1
    w = 2.0
    for _ in range(3):
        solver.step(feed=lambda: {"x": x, "t": t})
        gradient = passes * float(((w * x - t) * x).sum()) / 6
        assert abs(gradient) > 0.5
        w -= 0.1 * math.copysign(0.5, gradient) / passes
        assert solver.net.params["scale"][0].data.item() == pytest.approx(w, rel=1e-12)


MOVES = {"conv/0": 1.0, "conv/1": 1.0, "scale/0": 1.0, "scale/1": 1.0, "prelu/0": 1.0}

MOVES |= {"again/1": 2.0, "fc/0": 1.0, "fc/1": 1.0}


def test_the_options_of_a_net_reach_every_net_of_a_solver() -> None:
    settings = f"{FIXED} net_param {{ {IMAGES} }} test_iter: 1 test_interval: 9"
    options = {"exact": True, "fuse": False, "infogain_input": "probabilities"}
    solver = make(settings, blockwise_loss=True, **options)
    for net in (solver.net, *solver.test_nets):
        signature = net.compilations.base
        assert {name: getattr(signature, name) for name in options} == options
        assert signature.blockwise_loss
    assert make(settings, fast_math="winograd4").net.compilations.base.fast_math == ("winograd4",)
    with pytest.raises(NetError, match="exclude each other"):
        make(settings, exact=True, fast_math=["winograd4"])


@pytest.mark.parametrize("threads", [1, 2])
def test_a_step_is_the_gradient_and_the_formula(threads: int) -> None:
    """A net with convolutions, statistics and dropout; the plain net gives the gradients."""
    settings = f"{FIXED} momentum: 0.9 weight_decay: 0.01 random_seed: 5"
    solver = make(f"{settings} net_param {{ {IMAGES} }}", dtype="float64", threads=threads)
    net = graphc.Net(IMAGES, phase=graphc.TRAIN, dtype="float64", threads=threads, seed=5)
    references = {}
    for layer, blobs in net.params.items():
        for index, blob in enumerate(blobs):
            np.testing.assert_array_equal(blob.data, solver.net.params[layer][index].data)
            references[f"{layer}/{index}"] = Reference("SGD", blob.data, momentum=0.9)
    solver.net.set_inputs(image_batch())
    for _ in range(3):
        net.clear_param_diffs()
        net.forward(**image_batch())
        net.backward()
        solver.step()
        assert solver.net.loss == pytest.approx(net.loss, rel=1e-9)
        for key, factor in MOVES.items():
            layer, index = key.split("/")
            blob, reference = net.params[layer][int(index)], references[key]
            reference.update(blob.diff + 0.01 * reference.w, 0.1 * factor)
            blob.data[...] = reference.w
        for layer, blobs in net.params.items():
            for index, blob in enumerate(blobs):
                got = solver.net.params[layer][index].data
                np.testing.assert_allclose(got, blob.data, rtol=1e-8, atol=1e-10)
    assert solver.net.params["bn"][2].data[0] > 2  # the calls renewed it, no update moved it
