"""MatConvNet's nets and graphs as text on a GPU: as on the processor, in Python and as verbs.

What runs is the emulator, and the GPU's executor on the stand-in.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_programs import needs_compiler
from mat_nets import chain
from stand_in_gpu import StandIn
from test_cli_options import SAMPLES, graphc

from graphc.dagnn import BatchNorm, Conv, DagNet, DropOut, Loss, Pooling, PythonBlock, ReLU
from graphc.error import NetError
from graphc.graph_call import Choices
from graphc.runtime.cuda import device
from graphc.simple_net import SimpleNet, simplenn

pytestmark = needs_compiler

RNG = np.random.default_rng(2)
X = RNG.standard_normal((7, 6, 2, 3)).astype("float32")
CLASSES = np.array([1, 4, 5], "float32").reshape(1, 1, 1, 3)
TARGETS = "cuda", "cuda-emulator"


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype("float32")


LAYERS: list[dict[str, Any]] = [
    {"type": "conv", "name": "conv", "weights": [normal(3, 3, 2, 4), []], "pad": 1},
    {"type": "bnorm", "name": "bn", "weights": [normal(4), normal(4), np.ones((4, 2), "float32")]},
    {"type": "relu", "name": "relu"},
    {"type": "pool", "name": "pool", "pool": [3, 2], "stride": 2, "method": "max"},
    {"type": "conv", "name": "fc", "weights": [normal(3, 3, 4, 5), normal(5)]},
    {"type": "softmaxloss", "name": "loss", "class": CLASSES},
]


def close(got: Any, wanted: Any) -> None:
    """Equal but for rounding; None where None is wanted."""
    assert (got is None) == (wanted is None)
    if wanted is not None:
        scale = max(1e-6, float(np.abs(wanted).max(initial=0)))
        assert np.shape(got) == np.shape(wanted)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-5 * scale)


@pytest.mark.parametrize("target", TARGETS)
def test_a_chain(target: str, stand_in: StandIn) -> None:
    """Twice, with other weights the second time."""
    nets = [SimpleNet(LAYERS), SimpleNet(LAYERS, target=target, libraries="off")]
    for _ in range(2):
        wanted, got = (simplenn(net, X, 1.0) for net in nets)
        for one, other in zip(got, wanted, strict=True):
            close(one.x, other.x)
            close(one.dzdx, other.dzdx)
            for a, b in zip(one.dzdw or [], other.dzdw or [], strict=True):
                close(a, b)
        assert all(result.time > 0 and result.backward_time > 0 for result in got[:2])
        for net in nets:
            net.layers[4]["weights"][0] = 3 * net.layers[4]["weights"][0]
    assert bool(stand_in.launched) == (target == "cuda")


def dag() -> DagNet:
    net = DagNet()
    net.add_layer("conv", Conv(size=(3, 3, 2, 4), has_bias=False, pad=1), "input", "a", "cf")
    net.add_layer("bn", BatchNorm(num_channels=4), "a", "b", ("bm", "bb", "bx"))
    net.add_layer("relu", ReLU(), "b", "c")
    net.add_layer("pool", Pooling(pool_size=(2, 2), stride=2), "c", "d")
    net.add_layer("drop", DropOut(frozen=True), "d", "e")
    net.add_layer("fc", Conv(size=(3, 3, 4, 5)), "e", "f", ("ff", "fb"))
    net.add_layer("loss", Loss(), ("f", "label"), "objective")
    net.init_params(3)
    net.conserve_memory = False
    return net


@pytest.mark.parametrize("target", TARGETS)
def test_a_graph_of_layers(target: str, stand_in: StandIn) -> None:
    """Two steps of training by hand: what changed between them counts."""
    nets = [dag(), dag()]
    nets[1].target = target
    for _ in range(2):
        for net in nets:
            net._masks["drop"] = np.full((3, 4, 3, 3), 2, "float32")
            net.eval({"input": X, "label": CLASSES}, {"objective": 1})
        wanted, got = nets
        for name, variable in wanted.vars.items():
            close(got.vars[name].value, variable.value)
            close(got.vars[name].der, variable.der)
        for name, parameter in wanted.params.items():
            close(got.params[name].der, parameter.der)
            for net in nets:
                net.params[name].value = net.params[name].value - 0.1 * parameter.der


def test_tensor_cores_round() -> None:
    layers = [{"type": "conv", "name": "fc", "weights": [normal(1, 1, 64, 32), normal(32)]}]
    x = normal(1, 1, 64, 32)
    nets = SimpleNet(layers), SimpleNet(layers, target="cuda-emulator", fast_math=["tf32"])
    wanted, got = (simplenn(net, x)[-1].x for net in nets)
    error = np.abs(got - wanted).max() / np.abs(wanted).max()
    assert 1e-5 < error < 2e-3


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SimpleNet(LAYERS, target="gpu"), "target is one of cpu, cuda, cuda-emulator"),
        (lambda: SimpleNet(LAYERS, fast_math=["tf23"]), "fast math knows no 'tf23'"),
        (lambda: SimpleNet(LAYERS, libraries="never"), "libraries is one of auto, on, off"),
        (lambda: Choices(target="cudaemulator"), "did you mean 'cuda-emulator'"),
        (lambda: Choices(exact=True, fast_math=("tf32",)), "exclude each other"),
    ],
)
def test_wrong_choices_are_said(make: Callable[[], object], said: str) -> None:
    with pytest.raises(NetError, match=said):
        make()


def test_what_is_wrong_in_a_dagnet_is_said_by_eval() -> None:
    net = dag()
    net.target = "gpu"
    with pytest.raises(NetError, match="target is one of"):
        net.eval({"input": X, "label": CLASSES})
    net = DagNet()
    net.target = "cuda-emulator"
    net.add_layer("mine", PythonBlock(lambda x: 2 * x, lambda d, x: 2 * d), "x", "y")
    with pytest.raises(NetError, match="layer 'mine' is Python code; target 'cuda-emulator'"):
        net.eval({"x": X})


# -- verbs ----------------------------------------------------------------------------------------


def arrays(tmp: Path, *words: object) -> dict[str, np.ndarray]:
    out = tmp / "out.npz"
    result = graphc(*words, "-o", out)
    assert result.exit_code == 0, result.output
    with np.load(out) as held:
        return {name: held[name] for name in held.files}


def same_on_both(tmp: Path, *words: object) -> None:
    wanted = arrays(tmp, *words)
    got = arrays(tmp, *words, "--target", "cuda-emulator")
    assert set(got) == set(wanted) and wanted
    for name, array in wanted.items():
        assert np.any(array), name
        close(got[name], array)


def test_verbs_on_a_mat_file(tmp_path: Path) -> None:
    net = chain(tmp_path / "chain.mat")
    same_on_both(tmp_path, "run", net, "--input", "x1=random:1", "--keep", "x3")
    diff = ("--diff", "x5=one-hot:3", "--wrt", "x1", "--wrt", "l1_1")
    same_on_both(tmp_path, "grad", net, "--input", "x1=random:1", *diff)


def test_verbs_on_a_graphs_text(tmp_path: Path) -> None:
    path = tmp_path / "net.ir"
    path.write_text(graphc("show", SAMPLES / "regression.prototxt", "--mode", "infer").stdout)
    values = ("--weights", "random:3", "--input", "x=random:1", "--input", "target=random:2")
    same_on_both(tmp_path, "run", path, *values, "--keep", "y")
    same_on_both(tmp_path, "grad", path, *values, "--wrt", "x")


def test_gradients_of_a_definition(tmp_path: Path) -> None:
    words = ("--input", "data=random:1", "--diff", "score=one-hot:2", "--wrt", "data")
    same_on_both(tmp_path, "grad", SAMPLES / "digits.prototxt", "--weights", "random:1", *words)


def test_a_missing_gpu_is_one_line(tmp_path: Path) -> None:
    """On a machine without pycuda, driver or GPU every verb says so."""
    with contextlib.suppress(NetError):
        device()
        pytest.skip("there is a GPU here")
    net = chain(tmp_path / "chain.mat")
    values = ("--input", "x1=random:1")
    for words in (("run", net, *values), ("profile", net), ("bench", "net", net)):
        refused = graphc(*words, "--target", "cuda")
        assert refused.exit_code == 3, refused.output
        assert refused.stderr.count("\n") == 1 and "target 'cuda'" in refused.stderr
