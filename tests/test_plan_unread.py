"""Results that nothing in a program reads again, and where code sends them."""

from __future__ import annotations

from dataclasses import replace

import pytest

import graphc
from graphc.codegen.llvm.contraction import tiled_parts
from graphc.codegen.llvm.target import Target
from graphc.codegen.llvm.tiled_product import TiledProduct
from graphc.error import NetError
from graphc.kernel.contraction import match
from graphc.kernel.lang import Kernel
from graphc.kernel.reading import parse_kernel
from graphc.kernel.text import print_kernel
from graphc.kernel.verify import verify
from graphc.plan.program import Program

NET = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 4 dim: 384 } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 4 } } }
layer { name: "a" type: "InnerProduct" bottom: "x" top: "a"
  inner_product_param { num_output: 512 weight_filler { type: "xavier" } } }
layer { name: "b" type: "InnerProduct" bottom: "a" top: "b"
  inner_product_param { num_output: 8 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "b" bottom: "label" top: "loss" }
"""
SLOWER = replace(Target.named("x86-64-v4"), l2_bytes=5 << 18, shared_stores=False)


def weight_gradient(program: Program) -> Kernel:
    """The kernel that makes a's 768 KiB of them."""
    (kernel,) = (
        step.kernel
        for step in program.steps
        if step.backward and any(b.shape == (512, 384) for b in step.kernel.outputs)
    )
    return kernel


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    made = graphc.Net(NET, phase="TRAIN", threads=1).prepare()
    return weight_gradient(made.program)


def goes_past(kernel: Kernel, target: Target) -> bool:
    """Whether its result is stored past the caches."""
    found = match(kernel)
    assert found is not None
    (part,) = tiled_parts(found, target)
    assert isinstance(part, TiledProduct)
    return part.tiling.streamed


def test_a_gradient_for_the_user_is_unread(kernel: Kernel) -> None:
    assert kernel.unread == tuple(buffer.name for buffer in kernel.outputs)


def test_one_that_a_step_reads_is_not() -> None:
    solver = graphc.Solver(
        f'base_lr: 0.1 lr_policy: "fixed" type: "Adam" net_param {{ {NET} }}', threads=1
    )
    (made,) = solver.net.lowered_steps()
    assert not any(step.kernel.unread for step in made.program.steps)


def test_small_results_are_not_marked() -> None:
    made = graphc.Net(NET.replace("512", "64"), phase="TRAIN", threads=1).prepare()
    assert not any(step.kernel.unread for step in made.program.steps)


def test_it_passes_the_caches_where_memory_takes_stores_faster(kernel: Kernel) -> None:
    assert goes_past(kernel, SLOWER)
    assert not goes_past(kernel, replace(SLOWER, shared_stores=True))
    assert not goes_past(replace(kernel, unread=()), SLOWER)
    assert not goes_past(kernel, replace(SLOWER, l2_bytes=4 << 20))  # it is small


def test_the_text_says_so(kernel: Kernel) -> None:
    text = print_kernel(kernel)
    assert text.splitlines()[0].endswith(f" unread {kernel.outputs[0].name}")
    again = parse_kernel(text)
    assert (again.unread, print_kernel(again)) == (kernel.unread, text)
    verify(again)
    with pytest.raises(NetError, match="x is no output"):
        verify(replace(kernel, unread=("x",)))
