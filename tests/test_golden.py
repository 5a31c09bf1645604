"""Whole texts of every stage, for small nets: what changes here changes for everybody who reads.

`pytest --update-golden` rewrites the files after a change that is meant.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Golden

from graphc import driver
from graphc.codegen.llvm.object import llvm_text
from graphc.codegen.llvm.target import Target
from graphc.driver import Compilation, Signature
from graphc.frontends.caffe.definition import read_net
from graphc.ir.printer import print_graph
from graphc.plan.explain import memory_table
from graphc.plan.text import print_program

SAMPLES = Path(__file__).resolve().parent.parent / "samples"
TEXT = """
name: "tiny"
force_backward: true
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 2 } } }
layer {
  name: "fc" type: "InnerProduct" bottom: "x" top: "fc"
  inner_product_param { num_output: 4 }
}
layer { name: "act" type: "ReLU" bottom: "fc" top: "fc" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
"""


def compilation(source: str | Path) -> Compilation:
    definition = read_net(source, phase="TRAIN")
    signature = Signature(phase="TRAIN")
    front = driver.front(definition, signature)
    wanted = Signature(phase="TRAIN", given=tuple(front.seeds), wrt=tuple(front.default_wrt))
    return driver.lower(definition, wanted, stages=True)


@pytest.mark.parametrize("stage", ["start", "finish"])
def test_graph(golden: Golden, stage: str) -> None:
    made = compilation(SAMPLES / "digits.prototxt")
    (graph,) = [s.graph for s in made.stages if s.name == stage]
    assert graph is not None
    golden.check(f"digits.{stage}.graph.txt", print_graph(graph).replace(f"{SAMPLES}/", ""))


def test_program(golden: Golden) -> None:
    made = compilation(SAMPLES / "digits.prototxt")
    golden.check("digits.program.txt", print_program(made.program))


def test_memory_table(golden: Golden) -> None:
    made = compilation(SAMPLES / "digits.prototxt")
    golden.check("digits.memory.txt", memory_table(made.program))


def test_remarks(golden: Golden) -> None:
    made = compilation(SAMPLES / "frozen_trunk.prototxt")
    golden.check("frozen_trunk.remarks.txt", "".join(f"{r}\n" for r in made.remarks))


def test_llvm(golden: Golden) -> None:
    made = compilation(TEXT)
    golden.check("tiny.x86-64-v3.ll", llvm_text(made.program, Target.named("x86-64-v3")))
