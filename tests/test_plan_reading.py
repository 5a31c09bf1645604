"""A program's text reads back to a program that prints and does the same."""

from __future__ import annotations

import numpy as np
import pytest
from inception import googlenet
from test_cli_options import SAMPLES
from test_report import HOSTILE_NET, lowered

from graphc.codegen.llvm.jit import load
from graphc.codegen.llvm.object import compile_program
from graphc.error import NetError
from graphc.plan.reading import parse_program
from graphc.plan.text import print_program

NETS = {
    "digits": SAMPLES / "digits.prototxt",
    "lenet": SAMPLES / "lenet_train.prototxt",
    "frozen": SAMPLES / "frozen_trunk.prototxt",
    "googlenet": googlenet(1, 64),
    "hostile": HOSTILE_NET,
}


@pytest.mark.parametrize("net", NETS)
def test_it_prints_the_same_again(net: str) -> None:
    program = lowered(NETS[net]).program
    text = print_program(program)
    read = parse_program(text)
    assert print_program(read) == text
    assert [s.layer for s in read.steps] == [s.layer for s in program.steps]
    assert read.slots == program.slots
    assert read.buffers == program.buffers
    assert (read.readable, read.readable_forward) == (program.readable, program.readable_forward)
    assert (read.forward_steps, read.arena_bytes) == (program.forward_steps, program.arena_bytes)


def test_it_computes_the_same() -> None:
    program = lowered(NETS["lenet"]).program
    results = []
    for made in (program, parse_program(print_program(program))):
        executable = load(compile_program(made))
        arrays = executable.bind_new()
        rng = np.random.default_rng(3)
        for slot in made.slots[1:]:
            if slot.role in ("input", "parameter"):
                arrays[slot.name][...] = np.abs(rng.standard_normal(slot.type.shape)) * 0.05
        arrays["label"][...] = 3
        executable.call("both", 1)
        results.append({s.name: arrays[s.name].copy() for s in made.slots if s.role == "output"})
    assert len(results[0]) > 8
    for name, array in results[0].items():
        assert np.array_equal(array, results[1][name]), name
        assert np.any(array) or name == "accuracy", name


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("program LeNet", "programme LeNet", 1, "expected a line like 'program NAME'"),
        (" input data: float32[64, 1, 28, 28]", " input data: float16[64]", 4, "unknown element"),
        (" input data:", " entry data:", 4, "a slot's role is one of input, output"),
        ("slot 0 + 0, steps 0..1", "slot 0 + 99999996, steps 0..1", None, "its slot holds"),
        ("slot 0 + 0, steps 0..1", "slot 77 + 0, steps 0..1", None, "there is no slot 77"),
        ("k1 conv1/0 -> conv1/0~packed", "k1 conv9/0 -> conv1/0~packed", None, "no buffer 'conv9"),
        ("k1 conv1/0 -> conv1/0~packed", "k1 data -> conv1/0~packed", None, "has not the type"),
        ("k1 conv1/0 -> conv1/0~packed", "k999 conv1/0 -> conv1", None, "there is no kernel k999"),
        ("  data in data", "  data at data", None, "expected a line like 'conv1 in conv1'"),
        ("  data in data", "  data in elsewhere", None, "there is no buffer 'elsewhere'"),
        ("k1 = kernel copy(", "k1 = kernel copy(((", None, "expected"),
        ("  0 conv1", "  7 conv1", None, "expected step 0"),
    ],
)
def test_mistakes_are_told_with_their_line(old: str, new: str, line: int | None, said: str) -> None:
    text = print_program(lowered(NETS["lenet"]).program)
    assert old in text
    place = text[: text.index(old)].count("\n") + 1
    with pytest.raises(NetError, match=r"^net\.program:") as caught:
        parse_program(text.replace(old, new, 1), "net.program")
    (found,) = caught.value.diagnostics
    assert said in found.message
    assert found.span is not None
    assert found.span.line == (line or place)


@pytest.mark.parametrize("end", [1, 100, 1500, 4000, 9000])
def test_a_text_that_ends_early_is_refused_or_short(end: int) -> None:
    text = print_program(lowered(NETS["lenet"]).program)[:end]
    try:
        parse_program(text)
    except NetError as error:
        assert all(d.span is not None for d in error.diagnostics)
