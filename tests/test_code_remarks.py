"""`graphc explain NET LAYER`: why the code of a layer's kernels is as it is."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import pytest
from pairs import in_turn
from test_cli_options import SAMPLES, graphc
from test_report import lowered

from graphc.code_remarks import code_remarks
from graphc.codegen.llvm import ir
from graphc.codegen.llvm.contraction import Tiles
from graphc.codegen.llvm.each import Loops
from graphc.codegen.llvm.function import EmittedKernel
from graphc.codegen.llvm.kernel import emit_kernel
from graphc.codegen.llvm.target import Target
from graphc.codegen.llvm.tiled_product import TiledProduct
from graphc.ir.remark import Remark
from graphc.lowered import Lowered

LENET = SAMPLES / "lenet_train.prototxt"
TARGET = "znver5"
LAYERS = """
force_backward: true
layer {{ name: "in" type: "Input" top: "x" input_param {{ shape {{ {shape} }} }} }}
layer {{ name: "c" type: "{kind}" bottom: "x" top: "c" {parameters} }}
layer {{ name: "l" type: "Reduction" bottom: "c" top: "l" loss_weight: 1 }}
"""
FILLED = 'weight_filler { type: "xavier" }'


def net(shape: tuple[int, ...], kind: str, parameters: str) -> str:
    """One layer and a loss."""
    dims = " ".join(f"dim: {size}" for size in shape)
    return LAYERS.format(shape=dims, kind=kind, parameters=parameters)


def convolution(shape: tuple[int, ...], words: str) -> str:
    return net(shape, "Convolution", f"convolution_param {{ bias_term: false {words} {FILLED} }}")


def product(rows: int, inputs: int, outputs: int) -> str:
    words = f"num_output: {outputs} bias_term: false {FILLED}"
    return net((rows, inputs), "InnerProduct", f"inner_product_param {{ {words} }}")


NETS = {
    "padded": convolution((4, 24, 13, 13), "num_output: 64 kernel_size: 7 pad: 3"),
    "strided": convolution((4, 24, 14, 14), "num_output: 64 kernel_size: 3 pad: 1 stride: 2"),
    "1x1": convolution((8, 70, 14, 14), "num_output: 130 kernel_size: 1"),
    "few channels": convolution((4, 3, 20, 22), "num_output: 50 kernel_size: 5"),
    "depthwise": convolution((2, 37, 9, 11), "num_output: 37 kernel_size: 3 pad: 1 group: 37"),
    "groups": convolution((2, 44, 9, 11), "num_output: 44 kernel_size: 3 pad: 1 group: 11"),
    "small batch": product(4, 1024, 4096),
    "batch": product(64, 800, 500),
    "rows of a power of two": product(1024, 1024, 512),
    "one row": product(1, 4096, 1000),
}


def remarks(made: Lowered, layer: str = "c", target: str = TARGET) -> list[Remark]:
    return code_remarks(made, layer, Target.named(target))


def about(said: list[Remark], kernel: str, what: str) -> list[dict[str, Any]]:
    """The numbers of what is told of a kernel."""
    return [
        {**remark.facts, "said": remark.sentence}
        for remark in said
        if kernel in remark.facts.get("kernel", "") and remark.facts["about"] == what
    ]


def emitted(made: Lowered, step: int, target: str) -> EmittedKernel:
    """A step's function, from the emitter."""
    module = ir.Module()
    return emit_kernel(module, made.program.steps[step].kernel, Target.named(target), "k")


# -- what is said is what was emitted -------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "target"), in_turn(NETS, ["x86-64-v3", "neoverse-n1", "scalar"], ["znver5"])
)
def test_the_numbers_are_those_of_the_code(name: str, target: str) -> None:
    made = lowered(NETS[name])
    found = [remark.facts for remark in remarks(made, target=target)[1:]]
    assert {way for facts in found for way in [facts["pass"]]} == {"forward", "backward"}
    contractions = 0
    once = [f["steps"] for f in found if f.get("terms") == 1]  # no loop, so nothing is carried
    for facts in found:
        kernel = emitted(made, facts["steps"][0], target)
        text = str(kernel.function)
        parts = len(kernel.made.parts) if isinstance(kernel.made, Tiles) else 1
        if facts["about"] == "shares" and parts == 1:
            assert facts["shares"] == kernel.extent
        if facts["about"] == "results" and parts == 1:
            assert bool(facts["streamed"]) == ("!nontemporal" in text)
        if facts.get("scratch_bytes"):
            assert facts["scratch_bytes"] <= kernel.scratch_bytes
        if facts.get("form") == "register tiles" and facts["about"] == "form":
            contractions += 1
            if facts["steps"] in once:
                continue
            assert facts["sums"] == facts["rows"] * facts["deep"] * facts["vectors"]
            kind = f"<{facts['lanes']} x float>" if facts["lanes"] > 1 else "float"
            blocks = re.split(r"\n[^ \n].*:\n", text)
            sums = [len(re.findall(rf"phi +{kind} ", block)) for block in blocks]
            assert facts["sums"] in sums, sums
    assert contractions or name == "depthwise" or target == "scalar"


def test_a_result_that_goes_past_the_caches() -> None:
    made = lowered(NETS["small batch"])
    (facts,) = [f for f in about(remarks(made), "", "results") if f["streamed"]]
    assert facts["pass"] == "backward"
    assert facts["said"] == (
        "'c/0.diff' goes past the caches: its 16 MiB are at least 8 second-level caches, and lines"
        " written whole need not be read first"
    )
    (shares,) = [f for f in about(remarks(made), "", "shares") if f["steps"] == facts["steps"]]
    assert "a few whole rows of the result" in shares["said"]
    near = [f for f in about(remarks(made, target="neoverse-n1"), "", "results") if f["streamed"]]
    assert near and "4 MiB" not in near[0]["said"]
    far = about(remarks(made, target="apple-m1"), "", "results")
    assert {"small"} == {f["held"] for f in far}
    assert any("16 MiB may wait in a cache until it is read" in f["said"] for f in far)


def test_padding_that_is_left_out() -> None:
    made = lowered(NETS["padded"])
    (facts,) = about(remarks(made), "conv", "edges")[:1]
    assert facts["edge_tiles"] > 0 and facts["clipped"] == ["axis 2 of 'c/0~packed'"]
    assert "without the rows that would read padding" in facts["said"]
    assert facts["said"].endswith(
        "loops over axis 2 of 'c/0~packed' are cut short where they would read padding"
    )
    kernel = emitted(made, facts["steps"][0], TARGET)
    assert isinstance(kernel.made, Tiles)
    (part,) = kernel.made.parts
    assert isinstance(part, TiledProduct)
    assert facts["tiles"] == sum(group.count for group in part.tiling.groups)
    assert not about(remarks(lowered(NETS["1x1"])), "conv", "edges")


def test_operands_that_are_packed() -> None:
    turned = about(remarks(lowered(NETS["batch"])), "mat_mul", "operands")[0]
    assert turned["packing"] == "turn" and turned["packed_bytes"] > 0
    assert "is transposed into a block of" in turned["said"]
    copied = [
        f
        for f in about(remarks(lowered(NETS["rows of a power of two"])), "mat_mul", "operands")
        if f["packing"] == "copy"
    ]
    assert copied, "rows 4096 bytes apart share sets"
    assert re.search(r"vectors [\d,]+ bytes apart would share few sets", copied[0]["said"])


def test_why_a_sum_is_cut() -> None:
    said = remarks(lowered(LENET), "conv2")
    error = about(said, "conv_weight_gradient", "sum")[0]
    assert (error["reason"], error["terms"]) == ("error", 4096)
    assert "more than 1,200 in one register lose digits" in error["said"]
    cache = about(remarks(lowered(LENET), "ip1"), "mat_mul", "sum")[0]
    assert (cache["reason"], cache["terms"]) == ("cache", 800)
    assert cache["chunk"] <= cache["longest"] == 256
    (whole, *_) = about(said, "conv+add_bias", "sum")
    assert whole["chunk"] is None and "stays in one register" in whole["said"]


def test_the_tile_taken_is_the_cheapest_of_those_weighed() -> None:
    for source in NETS.values():
        for facts in about(remarks(lowered(source)), "", "instead"):
            rivals = facts.get("rivals", [facts])
            assert all(rival["cost"] >= facts.get("chosen", facts["cost"]) for rival in rivals)
            assert not re.search(r" -\d", facts["said"])


def test_phases_of_a_stride_are_parts() -> None:
    said = remarks(lowered(NETS["strided"]))
    (whole,) = about(said, "conv_data_gradient", "whole")
    assert whole["parts"] >= 4
    parts = [f["parts"] for f in about(said, "conv_data_gradient", "form")]
    assert sorted(itertools.chain.from_iterable(parts)) == list(range(1, whole["parts"] + 1))


def test_kernels_in_loops_say_what_is_in_lanes() -> None:
    made = lowered(LENET)
    (pool,) = about(remarks(made, "pool1"), "max_pool_gradient", "form")
    kernel = emitted(made, pool["steps"][0], TARGET)
    assert isinstance(kernel.made, Loops) and kernel.made.plan.vector is not None
    assert pool["lanes"] == kernel.made.plan.lanes
    assert pool["vector_axis"] == "axis 1 of 'conv1.diff'"
    (loss,) = about(remarks(made, "loss"), "softmax_log_loss", "form")
    assert [inner["in"] for inner in loss["inner"]] == [
        "max fold",
        "store",
        "sum fold",
        "store",
    ]


def test_other_forms_are_named() -> None:
    made = lowered(SAMPLES / "caffenet.prototxt")
    (winograd,) = about(remarks(made, "conv3"), "winograd2.conv+", "form")
    assert winograd["said"].startswith("Winograd's F(2x2, 3x3): 16 products of matrices")
    (norm,) = about(remarks(made, "norm1"), "lrn", "form")[:1]
    assert "neighbours along a row are shuffles of registers" in norm["said"]
    backward = [f for f in about(remarks(made, "norm1"), "", "form") if f.get("link")]
    assert len(backward) == 1 and len(backward[0]["steps"]) == 2
    (copy,) = about(remarks(made, "fc6"), "copy", "form")[:1]
    assert copy["form"] == "transposed squares" or copy["vector_axis"]
    depthwise = lowered(NETS["depthwise"])
    (taps,) = about(remarks(depthwise), "conv_weight_gradient", "form")
    assert taps["taps"] == 9 and "sums of all 9 taps stay in registers" in taps["said"]


def test_a_far_matrix_is_read_in_streams() -> None:
    found = remarks(lowered(product(1, 4096, 2048)), target="x86-64-v4")
    (rows,) = [r for r in found if r.facts.get("form") == "sums of rows in streams"]
    assert rows.facts["streams"] == 16 and "read once, 16 side by side" in rows.sentence
    (sums,) = [r for r in found if r.facts.get("wide")]
    assert "sums wait in the first-level cache" in sums.sentence


def test_every_kernel_of_a_net_is_told() -> None:
    for path in sorted(SAMPLES.glob("*.prototxt")):
        if path.name.endswith("solver.prototxt"):
            continue
        made = lowered(path)
        for layer in {name for step in made.program.steps for name in step.layer.split(", ")}:
            steps = [n for n, s in enumerate(made.program.steps) if layer in s.layer.split(", ")]
            said = remarks(made, layer)
            told = {n for r in said[1:] if r.facts["about"] == "form" for n in r.facts["steps"]}
            assert told >= set(steps)
            assert not [r for r in said if "loop i" in r.sentence or "loop r" in r.sentence]


# -- on the command line --------------------------------------------------------------------------


def test_no_machine_code_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made = lowered(LENET)

    def refuse(*_: object) -> None:
        raise AssertionError("text was handed to LLVM")

    monkeypatch.setattr(llvm, "parse_assembly", refuse)
    assert len(remarks(made, "conv2")) > 20


def test_explain_tells_of_a_layer_and_of_a_net_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHC_TARGET", TARGET)
    arguments = ("explain", LENET, "--mode", "train")
    for subject in ("layer:conv2", "conv2"):
        said = graphc(*arguments, subject).stdout
        assert (
            "layer:conv2: code for 'znver5': 32 registers of 64 bytes, caches of 48 KiB and 1 MiB a"
            " core. [code]\nforward step 3 (copy): squares of 16 x 16" in said
        )
        assert "forward step 4 (conv+add_bias): [code]\n  it runs with the lanes beyond" in said
        assert "\n  part 1 of 2:\n    register tiles of 8 rows (axis 3 of 'conv2', 8" in said
        assert "backward step 26 (conv_weight_gradient): [code]" in said
    for subject in ((), ("net",), ("blob:conv2",), ("conv2/0",)):
        assert "[code]" not in graphc(*arguments, *subject).stdout


def test_explain_as_json_has_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHC_TARGET", TARGET)
    result = graphc("explain", LENET, "layer:ip1", "--mode", "train", "--json")
    rows = [row for row in json.loads(result.stdout) if row["stage"] == "code"]
    assert rows[0]["facts"]["target"] == TARGET and rows[0]["facts"]["registers"] == 32
    tiles = [row for row in rows if row["facts"]["about"] == "form"]
    assert {(row["facts"]["pass"], *row["facts"]["steps"]) for row in tiles} >= {
        ("forward", 7),
        ("backward", 19),
    }
    (tile,) = [row["facts"] for row in tiles if row["facts"]["steps"] == [7]]
    kept = {key: tile[key] for key in ("form", "row_axis", "vector_axis", "lanes", "registers")}
    assert kept == {
        "form": "register tiles",
        "row_axis": "axis 1 of 'ip1'",
        "vector_axis": "axis 0 of 'ip1'",
        "lanes": 16,
        "registers": 32,
    }
    plain = json.loads(graphc("explain", LENET, "conv1/0", "--json").stdout)
    assert all(row["facts"] is None for row in plain)


def test_a_wrong_name_is_refused_with_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = graphc("explain", LENET, "layer:conv3")
    assert wrong.exit_code == 3 and "did you mean" in wrong.stderr
    monkeypatch.setenv("GRAPHC_TARGET", "znver55")
    unknown = graphc("explain", LENET, "layer:conv2")
    assert unknown.exit_code == 3 and "did you mean" in unknown.stderr


def test_shapes_of_matlab_are_the_users(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    made = lowered(NETS["1x1"])
    turned = Lowered(**{**made.__dict__, "turned": True})
    (usual,) = about(remarks(made), "conv", "form")[:1]
    (matlab,) = about(remarks(turned), "conv", "form")[:1]
    assert usual["vector_axis"] == "axis 1 of 'c'"
    assert matlab["vector_axis"] == "dimension 3 of 'c'"
