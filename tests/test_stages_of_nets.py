"""Every stage of deep and of recurrent nets as text: it reads back, and runs to the same bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from deep_nets import googlenet, resnet
from test_cli_options import graphc

import graphc as package
from graphc import driver
from graphc.codegen.cuda.program import cuda_text
from graphc.codegen.llvm.object import llvm_text
from graphc.driver import Signature
from graphc.frontends.caffe.definition import read_net
from graphc.ir.printer import print_graph
from graphc.ir.reader import parse_graph
from graphc.ir.verify import verify
from graphc.lowered import Lowered, of_compilation
from graphc.plan.planner import plan
from graphc.plan.reading import parse_program
from graphc.plan.text import print_program

pytestmark = pytest.mark.long

CLASSES = 20
LSTM = """
name: "characters"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 6 dim: 3 } } }
layer { name: "cont" type: "Input" top: "cont" input_param { shape { dim: 6 dim: 3 } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 6 dim: 3 } } }
layer { name: "embed" type: "Embed" bottom: "data" top: "embed" embed_param {
  input_dim: 20 num_output: 9 bias_term: false weight_filler { type: "uniform" min: -1 } } }
layer { name: "lstm1" type: "LSTM" bottom: "embed" bottom: "cont" top: "lstm1"
  recurrent_param { num_output: 8 weight_filler { type: "uniform" min: -0.5 max: 0.5 } } }
layer { name: "drop" type: "Dropout" bottom: "lstm1" top: "drop" }
layer { name: "lstm2" type: "LSTM" bottom: "drop" bottom: "cont" top: "lstm2"
  recurrent_param { num_output: 8 weight_filler { type: "uniform" min: -0.5 max: 0.5 } } }
layer { name: "fc" type: "InnerProduct" bottom: "lstm2" top: "fc" inner_product_param {
  num_output: 20 axis: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss"
  softmax_param { axis: 2 } }
"""
NETS = {"lstm": LSTM, "resnet": resnet(2, 32, (2, 1), 8), "googlenet": googlenet(1, 32)}
WRT = {"lstm": "fc/0", "resnet": "data", "googlenet": "data"}


def lowered(source: str, phase: str, backward: bool) -> Lowered:
    definition = read_net(source, phase=phase)
    signature = Signature(phase=phase)
    if backward:
        front = driver.front(definition, signature)
        signature = Signature(phase=phase, given=tuple(front.seeds), wrt=tuple(front.default_wrt))
    return of_compilation(driver.lower(definition, signature, stages=True))


@pytest.mark.parametrize(("phase", "backward"), [("TEST", False), ("TRAIN", True)])
@pytest.mark.parametrize("name", NETS)
def test_every_stage_reads_back(name: str, phase: str, backward: bool) -> None:
    made = lowered(NETS[name], phase, backward)
    assert len(made.stages) > 5
    for stage in made.stages:
        assert stage.graph is not None
        text = print_graph(stage.graph)
        read = parse_graph(text, stage.name)
        verify(read)
        assert print_graph(read) == "".join(
            line.split("  # ")[0] + "\n" for line in text.splitlines()
        )
    for program in (made.program, plan(made.stages[0].graph)):
        text = print_program(program)
        assert print_program(parse_program(text)) == text
    assert llvm_text(parse_program(print_program(made.program))) == llvm_text(made.program)
    direct = plan(made.graph)
    assert cuda_text(parse_program(print_program(direct))) == cuda_text(direct)


@pytest.fixture(params=sorted(NETS))
def files(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path, list[object]]:
    """A net's name, a folder with its definition and weights, and the words that give inputs."""
    name = request.param
    (tmp_path / "net.prototxt").write_text(NETS[name])
    net = package.Net(tmp_path / "net.prototxt", weights="random:3")
    held = {f"{layer}/{i}": b.data for layer, bs in net.params.items() for i, b in enumerate(bs)}
    np.savez(tmp_path / "weights.npz", **held)
    net.save(tmp_path / "net.caffemodel")
    rng = np.random.default_rng(1)
    words: list[object] = []
    for blob in net.inputs:
        shape = net.blobs[blob].shape
        whole = name == "lstm" or blob == "label"
        most = 2 if blob == "cont" else CLASSES
        values = rng.integers(0, most, shape) if whole else rng.standard_normal(shape)
        np.save(tmp_path / f"{blob}.npy", values.astype("float32"))
        words += ["--input", f"{blob}={tmp_path / f'{blob}.npy'}"]
    return name, tmp_path, words


def arrays(folder: Path, *words: object) -> dict[str, np.ndarray]:
    done = graphc(*words, "-o", folder / "out.npz")
    assert done.exit_code == 0, done.output
    with np.load(folder / "out.npz") as held:
        return {name: held[name] for name in held.files}


def test_texts_run_to_the_same_bits(files: tuple[str, Path, list[object]]) -> None:
    """The last graph to the very same; those after earlier passes up to rounding."""
    _, folder, inputs = files
    net, text = folder / "net.prototxt", folder / "net.ir"
    own = arrays(
        folder, "run", net, "--mode", "infer", "--weights", folder / "net.caffemodel", *inputs
    )
    assert set(own) == {"loss"}
    weights = ("--weights", folder / "weights.npz")
    for after in (None, "start", "fuse"):
        words = ("--after", after) if after else ()
        text.write_text(graphc("show", net, "--mode", "infer", *words).stdout)
        found = arrays(folder, "run", text, *weights, *inputs)
        if after is None:
            assert np.array_equal(found["loss"], own["loss"])
        np.testing.assert_allclose(found["loss"], own["loss"], rtol=1e-5)


def test_texts_of_backward_run_to_the_same_bits(files: tuple[str, Path, list[object]]) -> None:
    name, folder, inputs = files
    net, text, wrt = folder / "net.prototxt", folder / "net.ir", WRT[name]
    stored = ("--weights", folder / "net.caffemodel")
    own = arrays(folder, "grad", net, *stored, *inputs, "--wrt", wrt)
    assert np.any(own[wrt])
    text.write_text(graphc("show", net, "--wrt", wrt).stdout)
    found = arrays(folder, "run", text, "--weights", folder / "weights.npz", *inputs)
    assert np.array_equal(found[f"{wrt}.diff"], own[wrt])


@pytest.mark.parametrize("name", NETS)
def test_what_the_passes_of_a_net_change(name: str, tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(NETS[name])
    words = ("show", tmp_path / "net.prototxt", "--diff-passes", "commute", "backward")
    lines = graphc(*words).stdout.splitlines()
    assert lines[:2] == ["--- after commute", "+++ after backward"]
    added = [line for line in lines if line.startswith("+output ")]
    assert any(f"{WRT[name]}.diff" in line or "/0.diff" in line for line in added)
    kernels = graphc(*words[:2], "--diff-passes", "start", "finish", "--as", "kernel")
    assert kernels.exit_code == 0
    assert "+kernel " in kernels.stdout
