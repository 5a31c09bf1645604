"""Every loss of vl_nnloss against its formula, with instance weights in all their ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from mat_nets import cell, chain, dag_net

import graphc
from graphc import vl
from graphc.dagnn import Loss
from graphc.mat_call import PieceCall

H, W, C, N = 2, 3, 6, 4
RNG = np.random.default_rng(8)
SCORES = RNG.uniform(0.05, 0.95, (H, W, C, N))
CLASSES = RNG.integers(0, C + 1, (H, W, 1, N)).astype(float)
SIGNS = RNG.integers(-1, 2, (H, W, C, N)).astype(float)
CATEGORICAL = ("classerror", "topkerror", "log", "softmaxlog", "mhinge", "mshinge")
ATTRIBUTES = ("binaryerror", "binarylog", "logistic", "hinge")
ERRORS = ("classerror", "topkerror", "binaryerror")


def of_class(kind: str, x: np.ndarray, c: int) -> float:
    """The loss of one position with class c, from 0."""
    others = np.delete(x, c)
    match kind:
        case "classerror":
            return float(np.argmax(x) != c)
        case "topkerror":
            return float((others > x[c]).sum() >= 2)
        case "log":
            return -np.log(x[c])
        case "softmaxlog":
            return np.log(np.exp(x).sum()) - x[c]
        case "mhinge":
            return max(0, 1 - x[c])
    return max(0, 1 - x[c] + others.max())


def of_sign(kind: str, x: float, c: float) -> float:
    """The loss of one attribute."""
    match kind:
        case "binaryerror":
            return float(np.sign(x - 0.4) != c)
        case "binarylog":
            return -np.log(c * (x - 0.5) + 0.5)
        case "logistic":
            return np.log1p(np.exp(-c * x))
    return max(0, 1 - c * x)


def formula(kind: str, x: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    """The sum over everything whose label is not 0."""
    total = 0.0
    for h, w, n in np.ndindex(x.shape[0], x.shape[1], x.shape[3]):
        if kind in CATEGORICAL:
            label = int(labels[h, w, 0, n])
            if label:
                total += weights[h, w, 0, n] * of_class(kind, x[h, w, :, n], label - 1)
            continue
        for c in range(x.shape[2]):
            if labels[h, w, c, n]:
                value = of_sign(kind, x[h, w, c, n], labels[h, w, c, n])
                total += weights[h, w, c, n] * value
    return total


def slopes(kind: str, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Central differences of the formula."""
    found = np.zeros_like(SCORES)
    for place in np.ndindex(*SCORES.shape):
        ends = []
        for step in (1e-6, -1e-6):
            moved = SCORES.copy()
            moved[place] += step
            ends.append(formula(kind, moved, labels, weights))
        found[place] = (ends[0] - ends[1]) / 2e-6
    return found


def labels_of(kind: str) -> np.ndarray:
    return CLASSES if kind in CATEGORICAL else SIGNS


def weights_of(kind: str, per_image: bool) -> tuple[np.ndarray, np.ndarray]:
    """Weights as they are given, and one for each label."""
    shape = labels_of(kind).shape
    given = RNG.uniform(0.5, 2, (1, 1, 1, N) if per_image else shape)
    return given, np.broadcast_to(given, shape)


def evaluated(block: Loss, **inputs: np.ndarray) -> tuple[float, np.ndarray]:
    """Value and derivative of a net that is this loss alone."""
    net = graphc.DagNet()
    net.conserve_memory = False
    net.add_layer("loss", block, tuple(inputs), "objective")
    net.eval(inputs, {"objective": 1})
    return float(np.ravel(net.vars["objective"].value)[0]), net.vars["x"].der


@pytest.mark.parametrize("per_image", [True, False], ids=["per image", "per label"])
@pytest.mark.parametrize("kind", [*CATEGORICAL, *ATTRIBUTES])
def test_value_and_derivative(kind: str, per_image: bool) -> None:
    labels = labels_of(kind)
    given, whole = weights_of(kind, per_image)
    wanted = formula(kind, SCORES, labels, whole)
    slope = np.zeros_like(SCORES) if kind in ERRORS else slopes(kind, labels, whole)
    options = {"loss": kind, "topK": 2, "threshold": 0.4}
    value = vl.loss(SCORES, labels, instanceWeights=given, **options)
    (dx,) = vl.loss(SCORES, labels, instanceWeights=given, dzdy=1.0, **options)
    found = [
        (float(value.ravel()[0]), dx),
        evaluated(Loss(opts={**options, "instanceWeights": given}), x=SCORES, c=labels),
        evaluated(Loss(kind, opts=("TopK", 2, "threshold", 0.4)), x=SCORES, c=labels, w=given),
    ]
    for value, derivative in found:
        assert value == pytest.approx(wanted, rel=1e-12)
        np.testing.assert_allclose(derivative, slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", CATEGORICAL)
def test_one_label_for_each_image(kind: str) -> None:
    labels = np.array([3.0, 0.0, 6.0, 1.0])
    spread = np.broadcast_to(labels.reshape(1, 1, 1, N), (H, W, 1, N))
    wanted = formula(kind, SCORES, spread, np.ones_like(spread))
    assert vl.loss(SCORES, labels, loss=kind, topK=2).item() == pytest.approx(wanted)
    assert evaluated(Loss(kind, top_k=2), x=SCORES, c=labels)[0] == pytest.approx(wanted)


def test_weights_may_change_between_calls() -> None:
    net = graphc.DagNet()
    net.conserve_memory = False
    block = Loss(opts={"instanceWeights": np.ones(N)})
    net.add_layer("loss", block, ("x", "c"), "objective")
    for factor in (1.0, 3.0):
        block.opts = {"instanceWeights": np.full(N, factor)}
        net.eval({"x": SCORES, "c": CLASSES})
        whole = np.full(CLASSES.shape, factor)
        wanted = formula("softmaxlog", SCORES, CLASSES, whole)
        assert net.vars["objective"].value.item() == pytest.approx(wanted)
    assert len(net._compiled) == 1


def test_a_loss_that_takes_the_place_of_one_like_it_follows_its_own_mean() -> None:
    net = graphc.DagNet()
    blocks = [Loss(), Loss()]
    for block in blocks:
        net.add_layer("loss", block, ("x", "c"), "objective")
        net.eval({"x": SCORES, "c": CLASSES})
        net.remove_layer("loss")
    assert len(net._compiled) == 1
    assert blocks[0].average == blocks[1].average > 0
    assert blocks[0].num_averaged == blocks[1].num_averaged == SCORES[:, :, 0].size


def loss_steps(call: PieceCall) -> list[tuple[bool, str]]:
    """(backward, kernel) of all steps that have to do with a loss."""
    steps = call.call.program.steps
    return [(s.backward, s.kernel.name) for s in steps if "loss" in s.kernel.name]


@pytest.mark.parametrize("seed", [1.0, 0.25])
def test_a_net_with_a_derivative_makes_the_gradient_in_the_sweep_of_its_loss(
    tmp_path: Path, seed: float
) -> None:
    # The derivative is there before forward, so nothing of the loss is left to backward.
    net = graphc.DagNet.load(dag_net(tmp_path / "dag.mat"))
    x = RNG.standard_normal((6, 6, 2, 4)).astype("float32")
    labels = np.array([1.0, 3.0, 2.0, 1.0]).reshape(1, 1, 1, 4)
    net.conserve_memory = False
    net.eval({"input": x, "label": labels}, {"objective": seed})
    (call,) = net._compiled.values()
    assert loss_steps(call) == [(False, "softmax_log_loss+softmax_log_loss_gradient")]
    exponentials = np.exp(net.vars["prediction"].value.astype(float))
    hit = np.arange(1, 4).reshape(1, 1, 3, 1) == labels
    wanted = seed * (exponentials / exponentials.sum(2, keepdims=True) - hit)
    np.testing.assert_allclose(net.vars["prediction"].der, wanted, rtol=1e-5, atol=1e-7)
    # Another derivative is another call of the same program.
    net.eval({"input": x, "label": labels}, {"objective": 2 * seed})
    assert len(net._compiled) == 1
    np.testing.assert_allclose(net.vars["prediction"].der, 2 * wanted, rtol=1e-5, atol=1e-7)


def test_a_chain_with_a_derivative_makes_the_gradient_in_the_sweep_of_its_loss(
    tmp_path: Path,
) -> None:
    loss = {"type": "softmaxloss", "name": "loss", "class": np.array([1.0, 5.0, 2.0])}
    net = graphc.SimpleNet.load(chain(tmp_path / "chain.mat", loss))
    x = RNG.standard_normal((6, 6, 2, 3)).astype("float32")
    found = {}
    for seed in (1.0, 0.5):
        res = graphc.simplenn(net, x, seed)
        found[seed] = res[0].dzdx
        (call,) = net._compiled.values()
        assert loss_steps(call) == [(False, "softmax_log_loss+softmax_log_loss_gradient")]
    np.testing.assert_array_equal(found[0.5], found[1.0] / 2)


def stored(path: Path, *opts: Any) -> Path:
    layer = {
        "name": "loss",
        "type": "dagnn.Loss",
        "inputs": cell("x", "c"),
        "outputs": cell("objective"),
        "params": cell(),
        "block": {"loss": "softmaxlog", "opts": cell(*opts)},
    }
    scipy.io.savemat(path, {"layers": cell(layer), "vars": cell(), "params": cell()})
    return path


def test_weights_in_a_file(tmp_path: Path) -> None:
    from test_cli_options import graphc as command

    given = np.array([[1.0, 2.0, 0.0, 4.0]])
    path = stored(tmp_path / "net.mat", "loss", "mhinge", "instanceWeights", given)
    whole = np.broadcast_to(given.reshape(1, 1, 1, N), CLASSES.shape)
    wanted = formula("mhinge", SCORES, CLASSES, whole)
    net = graphc.DagNet.load(path)
    net.eval({"x": SCORES, "c": CLASSES})
    assert net.vars["objective"].value.item() == pytest.approx(wanted)
    for name, array in {"x": SCORES, "c": CLASSES}.items():
        np.save(tmp_path / f"{name}.npy", array)
    inputs = [f"--input={name}={tmp_path / name}.npy" for name in "xc"]
    ran = command("run", path, *inputs, "--dtype", "float64", "-o", tmp_path / "o.npy")
    assert ran.exit_code == 0, ran.output
    assert np.load(tmp_path / "o.npy").item() == pytest.approx(wanted)
    checked = command("check", path, *inputs)
    assert checked.exit_code == 0, checked.output
    shapes = ("--shape", "x=2,3,6,4", "--shape", "c=2,3,1,4", "--dtype", "float64")
    assert command("compile", path, *shapes, "-o", tmp_path / "n.bundle", "--emit", "bundle")
    loaded = graphc.load(tmp_path / "n.bundle")
    loaded.arrays["x"][...], loaded.arrays["c"][...] = SCORES, CLASSES
    loaded.call()
    assert loaded.arrays["objective"].item() == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("block", "inputs", "said"),
    [
        (Loss(opts={"instanceWeight": 1}), 2, "did you mean 'instanceWeights'"),
        (Loss(opts=("loss",)), 2, "names and values by turns"),
        (Loss("softmaxlogg"), 2, "did you mean 'softmaxlog'"),
        (Loss(opts={"instanceWeights": np.ones(3)}), 2, "instanceWeights of 3 x 1 x 1 x 1"),
        (Loss(opts={"instanceWeights": np.ones(N)}), 3, "weights in its third input and in"),
    ],
)
def test_wrong_blocks_and_inputs_are_refused(block: Loss, inputs: int, said: str) -> None:
    arrays = {"x": SCORES, "c": CLASSES, "w": np.ones(N)}
    with pytest.raises(graphc.NetError, match=said):
        evaluated(block, **dict(list(arrays.items())[:inputs]))


def test_a_wrong_option_in_a_file(tmp_path: Path) -> None:
    path = stored(tmp_path / "net.mat", "topk", 3.0, "instanceWeigths", 1.0)
    with pytest.raises(graphc.NetError, match=r"layer 'loss' \(Loss\): the loss option 'instanceW"):
        graphc.DagNet.load(path)


def test_class_weights_have_no_effect() -> None:
    with pytest.warns(graphc.NetWarning, match="classWeights have no effect"):
        value, _ = evaluated(Loss(opts={"classWeights": np.ones(C)}), x=SCORES, c=CLASSES)
    assert value == pytest.approx(vl.loss(SCORES, CLASSES).item())
