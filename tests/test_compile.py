"""Compiled nets as files: programs, libraries, objects and bundles that do what `Net` does."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from c_programs import (
    COMPILER,
    COMPILERS,
    ROOT,
    SAMPLES,
    STRICT,
    Library,
    compiled,
    needs_compiler,
    run,
)

import graphc
from graphc import artifact, driver
from graphc.artifact import save
from graphc.codegen.c_api import identifier
from graphc.codegen.llvm.target import Target
from graphc.driver import Compilation, Signature
from graphc.error import NetError, NetWarning
from graphc.linker import Form

LOSS_NET = """
name: "losses"
force_backward: true
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 3 dim: 4 } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 3 } } }
layer {
  name: "loss" type: "SoftmaxWithLoss" bottom: "x" bottom: "label" top: "loss" loss_weight: 2
}
"""

DROPOUT_NET = """
name: "drop"
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 50 } } }
layer {
  name: "ip" type: "InnerProduct" bottom: "x" top: "ip"
  inner_product_param { num_output: 40 weight_filler { type: "msra" } }
}
layer { name: "drop" type: "Dropout" bottom: "ip" top: "y" }
"""

ODD_NAMES = """
name: "2 odd-n\u00e4mes \\"*/ ??="
layer { name: "a" type: "Input" top: "a = \\"b\\"" input_param { shape { dim: 1 dim: 4 } } }
layer { name: "n" type: "TanH" bottom: "a = \\"b\\"" top: "\u00fc%s" }
"""


class Sample:
    """A net, and what `graphc compile` would make of it."""

    def __init__(self, source: str | Path, given=(), wrt=(), **options):
        self.given, self.wrt = tuple(given), tuple(wrt)
        self.net = graphc.Net(source, seed=3, **options)
        self.parameters = {
            blob.name: blob.data for blobs in self.net.params.values() for blob in blobs
        }
        self.signature = Signature(
            phase=options.get("phase", graphc.TEST),
            given=self.given,
            wrt=self.wrt,
            dtype=options.get("dtype", "float32"),
        )

    def lowered(self) -> Compilation:
        return driver.lower(self.net.definition, self.signature)

    def save(self, path: Path, form: Form, beside: bool | None = None, target=None) -> list[Path]:
        return save(self.lowered(), self.parameters, path, form, target, beside)

    def forward(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        self.net.prepare(wrt=())
        return {name: array.copy() for name, array in self.net.forward(**inputs).items()}

    def gradients(self, inputs: dict, given: dict) -> dict[str, np.ndarray]:
        found = self.net.forward_backward(inputs, given, wrt=list(self.wrt))
        return {name: array.copy() for name, array in found.items()}


def digits(grad: bool = False, **options) -> Sample:
    asked = {"given": ["score"], "wrt": ["data"]} if grad else {}
    return Sample(SAMPLES / "digits.prototxt", **asked, **options)


def image(dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(5).random((1, 1, 8, 8)).astype(dtype)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def infer_program(folder: Path) -> Path:
    digits().save(folder / "infer", "exe")
    return folder / "infer"


@pytest.fixture(scope="module")
def grad_program(folder: Path) -> Path:
    digits(grad=True).save(folder / "grad", "exe")
    return folder / "grad"


@pytest.fixture(scope="module")
def library_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """libdigits.so with gradients, and digits.h."""
    place = tmp_path_factory.mktemp("library")
    written = digits(grad=True).save(place / "libdigits.so", "so")
    assert written == [place / "libdigits.so", place / "digits.h"]
    return place


# -- programs --------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("threads", [1, 2])
def test_program_computes_what_net_computes(infer_program: Path, tmp_path: Path, threads: int):
    np.save(tmp_path / "in.npy", image() if threads == 1 else np.asfortranarray(image()))
    words = [f"data={tmp_path}/in.npy", "-o", f"score={tmp_path}/out.npy", "--threads", threads]
    assert run(infer_program, *words).stdout == ""
    result = np.load(tmp_path / "out.npy")
    wanted = digits().forward(data=image())["score"]
    assert result.dtype == wanted.dtype
    np.testing.assert_array_equal(result, wanted)


@needs_compiler
def test_program_with_gradients(grad_program: Path, tmp_path: Path):
    seed = np.zeros((1, 10), np.float32)
    seed[0, 3] = 1
    np.save(tmp_path / "in.npy", image())
    np.save(tmp_path / "seed.npy", seed)
    words = [f"data={tmp_path}/in.npy", f"score.diff={tmp_path}/seed.npy"]
    run(grad_program, *words, "-o", f"data.diff={tmp_path}/grad.npy")
    wanted = digits(grad=True).gradients({"data": image()}, {"score": seed})["data"]
    assert wanted.any()
    np.testing.assert_array_equal(np.load(tmp_path / "grad.npy"), wanted)
    shown = run(grad_program, *words).stdout
    assert re.search(r"^score \[1, 10\] smallest \S+ at \d, largest \S+ at \d$", shown, re.M)
    assert re.search(rf"^data\.diff .* largest \S+ at {wanted.argmax()}$", shown, re.M)


@needs_compiler
def test_program_in_double_precision(tmp_path: Path):
    sample = digits(dtype="float64")
    sample.save(tmp_path / "net", "exe")
    np.save(tmp_path / "in.npy", image("float64"))
    run(tmp_path / "net", "data=in.npy", "-o", "score=out.npy")
    wanted = sample.forward(data=image("float64"))["score"]
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), wanted)
    np.save(tmp_path / "in.npy", image())
    assert "'<f4'" in run(tmp_path / "net", "data=in.npy", code=3).stderr


@needs_compiler
def test_program_tells_what_it_takes(grad_program: Path):
    text = run(grad_program, "--help").stdout
    for line in ("  data [1, 1, 8, 8]", "  score.diff [1, 10]", "  score [1, 10]", "(float32"):
        assert line in text
    times = run(grad_program, "--bench", 3, "--threads", 1).stdout.splitlines()
    assert [line.split(":")[0] for line in times] == ["forward", "backward"]
    assert all(re.search(r"median [\d.e-]+ ms of 3 calls, 1 thread$", line) for line in times)


@needs_compiler
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "input 'data' is missing: data=FILE.npy"),
        (["dat=in.npy"], "'dat=in.npy' is no NAME=FILE.npy of an input"),
        (["data=in.npy", "data=in.npy"], "'data' is given twice"),
        (["data=in.npy", "-o", "data=out.npy"], "of an output"),
        (["data=in.npy", "-o"], "'-o' is no option, or lacks its value"),
        (["data=in.npy", "--fast"], "'--fast' is no option"),
        (["data=in.npy", "--threads", "0"], "--threads needs a number from 1 to 256"),
        (["data=in.npy", "--bench", "5x"], "--bench needs a number"),
        (["data=in.npy", "-o", "data.diff=g.npy"], "a gradient to start from is missing"),
    ],
)
def test_program_used_wrongly(grad_program: Path, words: list[str], said: str):
    np.save(grad_program.parent / "in.npy", image())
    assert said in run(grad_program, *words, code=2).stderr


def _bad_inputs(place: Path) -> dict[str, str]:
    """File name -> what the program has to say about it."""
    good = image()
    np.save(place / "double.npy", good.astype("float64"))
    np.save(place / "shape.npy", good.reshape(1, 64))
    np.save(place / "less.npy", good[..., :4])
    with_nan = good.copy()
    with_nan[0, 0, 2, 1] = np.nan
    np.save(place / "nan.npy", with_nan)
    np.save(place / "good.npy", good)
    data = (place / "good.npy").read_bytes()
    (place / "short.npy").write_bytes(data[:-1])
    (place / "header.npy").write_bytes(data[:40])
    (place / "long.npy").write_bytes(data + b"\0")
    (place / "magic.npy").write_bytes(b"\x89PNG" + data[4:])
    (place / "empty.npy").write_bytes(b"")
    np.save(place / "big.npy", good.astype(">f4"))
    np.save(place / "whole.npy", good.astype("int32"))
    np.save(place / "pairs.npy", np.zeros((1, 1, 8, 8), "f4,f4"))
    np.save(place / "single.npy", np.float32(1))
    (place / "minus.npy").write_bytes(data.replace(b"(1, 1, 8, 8)", b"(1,-1,-8, 8)"))
    (place / "many.npy").write_bytes(data.replace(b"(1, 1, 8, 8)", b"(1,1,99999999999999999999)"))
    (place / "open.npy").write_bytes(data.replace(b"8, 8)", b"8, 8 "))
    (place / "wide.npy").write_bytes(data[:6] + b"\x02\0\xff\xff\xff\xff" + data[10:])
    (place / "zeros.npy").write_bytes(data[:10] + bytes(len(data) - 10))
    (place / "words.npy").write_bytes(data.replace(b"'descr'", b"'mystr'"))
    return {
        "double.npy": "holds '<f8', 'data' needs '<f4' (float32)",
        "shape.npy": "has shape (1, 64), 'data' needs [1, 1, 8, 8]",
        "less.npy": "has shape (1, 1, 8, 4), 'data' needs [1, 1, 8, 8]",
        "big.npy": "holds '>f4', 'data' needs '<f4'",
        "whole.npy": "holds '<i4', 'data' needs '<f4'",
        "pairs.npy": "holds '', 'data' needs '<f4'",
        "single.npy": "has shape (), 'data' needs [1, 1, 8, 8]",
        "minus.npy": "has shape (1,-1,-8, 8), 'data' needs [1, 1, 8, 8]",
        "many.npy": "has shape (1,1,99999999999999999999)",
        "open.npy": "has a damaged header",
        "wide.npy": "has a damaged header",
        "zeros.npy": "has a damaged header",
        "nan.npy": "holds nan, first at element 17",
        "short.npy": "is cut short",
        "header.npy": "is cut short",
        "long.npy": "is longer than its header says",
        "magic.npy": "is not a .npy file",
        "empty.npy": "is not a .npy file",
        "words.npy": "has a damaged header",
        "missing.npy": "cannot be opened",
    }


@needs_compiler
def test_program_refuses_bad_inputs(infer_program: Path):
    for name, said in _bad_inputs(infer_program.parent).items():
        done = run(infer_program, f"data={name}", "-o", "score=refused.npy", code=3)
        assert f"'{name}' {said}" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert not (infer_program.parent / "refused.npy").exists()
    done = run(infer_program, "data=good.npy", "-o", "score=/nowhere/out.npy", code=3)
    assert "'/nowhere/out.npy' cannot be written" in done.stderr


@needs_compiler
def test_losses_and_labels(tmp_path: Path):
    sample = Sample(LOSS_NET, wrt=["x"])
    sample.save(tmp_path / "losses", "exe")
    x = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)
    label = np.array([3, 0, 1], np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "label.npy", label)
    words = ["x=x.npy", "label=label.npy"]
    run(tmp_path / "losses", *words, "-o", "loss=loss.npy", "-o", "x.diff=grad.npy")
    wanted = sample.gradients({"x": x, "label": label}, {})["x"]
    np.testing.assert_array_equal(np.load(tmp_path / "grad.npy"), wanted)
    assert np.load(tmp_path / "loss.npy").shape == ()
    assert np.load(tmp_path / "loss.npy") == sample.net.blobs["loss"].data
    np.save(tmp_path / "label.npy", np.array([3, 4, 1], np.float32))
    error = run(tmp_path / "losses", *words, code=3).stderr
    assert "layer 'loss' (SoftmaxWithLoss): label is not within 0 .. 3" in error
    assert error.endswith("found 4\n")


@needs_compiler
def test_training_phase_counts_its_calls(tmp_path: Path):
    """Dropout draws by a state that every call renews; parameters get gradients by name."""
    sample = Sample(DROPOUT_NET, given=["y"], wrt=["ip/0"], phase=graphc.TRAIN)
    x = np.random.default_rng(2).standard_normal((2, 50)).astype(np.float32)
    seed = np.ones((2, 40), np.float32)
    code = f"""
        #include <stdio.h>
        #include "drop.h"
        int main(void) {{
            drop_net *net = drop_create(NULL, NULL);
            FILE *file = fopen("x.raw", "rb");
            if (fread(drop_input(net, 0), 4, {x.size}, file) != {x.size}) return 9;
            for (int i = 0; i < drop_given_size(0); i++) drop_given(net, 0)[i] = 1;
            for (int call = 0; call < 2; call++) {{
                if (drop_forward(net, 1) || drop_backward(net, 1)) return 1;
                fwrite(drop_output(net, 0), 4, (size_t)drop_output_size(0), stdout);
                fwrite(drop_gradient(net, 0), 4, (size_t)drop_gradient_size(0), stdout);
            }}
            drop_destroy(net);
            return fclose(file);
        }}"""
    counter = {"dropout.counter": np.array(3 * 1_000_003)}  # a Net of seed 3 begins here
    written = save(sample.lowered(), {**sample.parameters, **counter}, tmp_path / "drop.o", "obj")
    assert written[0].exists()
    (tmp_path / "twice.c").write_text(code)
    (tmp_path / "x.raw").write_bytes(x.tobytes())
    compiled(tmp_path, *STRICT, "twice.c", "drop.o", "-o", "twice", "-pthread", "-lm")
    data = subprocess.check_output([tmp_path / "twice"], cwd=tmp_path)
    found = np.frombuffer(data, np.float32)
    wanted = []
    for _ in range(2):
        sample.net.clear_param_diffs()
        gradient = sample.gradients({"x": x}, {"y": seed})["ip/0"]
        wanted += [sample.net.blobs["y"].data.copy().reshape(-1), gradient.reshape(-1)]
    assert (wanted[0] != wanted[2]).any(), "another mask"
    np.testing.assert_array_equal(found, np.concatenate(wanted))


@needs_compiler
def test_weights_beside(tmp_path: Path):
    sample = digits()
    program = tmp_path / "net"
    assert sample.save(program, "exe", beside=True) == [program, tmp_path / "net.weights"]
    np.save(tmp_path / "in.npy", image())
    run(program, "data=in.npy", "-o", "score=out.npy")
    wanted = sample.forward(data=image())["score"]
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), wanted)
    whole = (tmp_path / "net.weights").read_bytes()
    (tmp_path / "double.weights").write_bytes(whole)
    doubled = {name: 2 * array for name, array in sample.parameters.items()}
    save(sample.lowered(), doubled, tmp_path / "double", "exe", beside=True)
    run(program, "data=in.npy", "-o", "score=other.npy", "--weights", "double.weights")
    assert (np.load(tmp_path / "other.npy") != wanted).any()
    Sample(SAMPLES / "regression.prototxt").save(tmp_path / "other", "exe", beside=True)
    (tmp_path / "text.weights").write_text("no weights at all")
    (tmp_path / "empty.weights").write_text("")
    (tmp_path / "short.weights").write_bytes(whole[:-64])
    (tmp_path / "header.weights").write_bytes(whole[:20])
    for name, said in {
        "missing": "cannot be opened",
        "text": "is no graphc weights file",
        "empty": "is no graphc weights file",
        "short": "is cut short",
        "header": "is cut short",
        "other": "those of another net",
    }.items():
        done = run(program, "data=in.npy", "--weights", f"{name}.weights", code=3)
        assert f"'{name}.weights': " in done.stderr
        assert said in done.stderr
    (tmp_path / "net.weights").unlink()
    assert "net.weights': the weights file cannot" in run(program, "data=in.npy", code=3).stderr


@needs_compiler
def test_only_libc_libm_and_threads_are_needed(grad_program: Path, library_folder: Path):
    readelf = shutil.which("readelf")
    if readelf is None:
        pytest.skip("readelf is not installed")
    for path in (grad_program, library_folder / "libdigits.so"):
        text = subprocess.check_output([readelf, "-dW", path], text=True)
        needed = set(re.findall(r"\(NEEDED\).*\[(.*?)\]", text))
        assert needed <= {"libc.so.6", "libm.so.6", "libpthread.so.0"}, needed
        assert "libc.so.6" in needed


@needs_compiler
def test_processor_without_the_instructions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(artifact, "needed_features", lambda target: ("sse4a", "xop"))
    if all(f" {name} " in Path("/proc/cpuinfo").read_text() for name in ("sse4a", "xop")):
        pytest.skip("this processor has them all")
    digits().save(tmp_path / "net", "exe")
    np.save(tmp_path / "in.npy", image())
    assert "needs a processor" in run(tmp_path / "net", "data=in.npy", code=3).stderr


# -- the C interface -------------------------------------------------------------------------


@needs_compiler
def test_header_is_plain_c_and_cpp(library_folder: Path):
    (library_folder / "use.c").write_text('#include "digits.h"\nint digits_unused;\n')
    shutil.copy(library_folder / "use.c", library_folder / "use.cpp")
    compiled(library_folder, *STRICT, "-std=c99", "-fsyntax-only", "use.c")
    if shutil.which("g++"):
        compiled(library_folder, *STRICT, "-x", "c++", "-std=c++11", "-fsyntax-only", "use.cpp")


@needs_compiler
@pytest.mark.parametrize("compiler", COMPILERS)
def test_saliency_in_c(library_folder: Path, compiler: str):
    source = SAMPLES / "saliency.c"
    flags = [*STRICT, "-std=c99", "-I.", "-L.", "-Wl,-rpath,$ORIGIN"]
    compiled(library_folder, *flags, source, "-o", "saliency", "-ldigits", "-lm", compiler=compiler)
    words = (SAMPLES / "seven.pgm").read_text().split()
    assert words[:4] == ["P2", "8", "8", "16"]
    pixels = np.array(words[4:], np.float32).reshape(1, 1, 8, 8) / 16
    done = run(library_folder / "saliency", SAMPLES / "seven.pgm", "map.pgm")
    sample = digits(grad=True)
    score = sample.forward(data=pixels)["score"]
    best = int(score.argmax())
    assert done.stdout == f"class {best}, score {score[0, best]:.6f}\n"
    seed = np.eye(10, dtype=np.float32)[best : best + 1]
    gradient = np.abs(sample.gradients({"data": pixels}, {"score": seed})["data"])
    shades = np.array((library_folder / "map.pgm").read_text().split()[4:], float)
    assert shades.max() == 255
    exact = 255 * gradient.reshape(-1) / gradient.max()
    assert np.abs(shades - exact).max() <= 0.501
    assert "not a plain PGM" in run(library_folder / "saliency", "map.c", "x", code=1).stderr


@needs_compiler
def test_library_computes_what_net_computes(library_folder: Path):
    library = Library(library_folder / "libdigits.so", "digits")
    sample = digits(grad=True)
    code = ctypes.c_int(77)
    net = library.create(None, code)
    assert code.value == 0
    parameters = library.arrays(net, "parameter")
    assert list(parameters) == list(sample.parameters)
    for name, array in sample.parameters.items():
        np.testing.assert_array_equal(parameters[name], array)
    seed = np.eye(10, dtype=np.float32)[4:5]
    for threads in (1, 2):
        library.arrays(net, "input")["data"][...] = image()
        library.arrays(net, "given")["score"][...] = seed
        assert library.forward(net, threads) == 0
        assert library.backward(net, threads) == 0
        wanted = sample.gradients({"data": image()}, {"score": seed})["data"]
        np.testing.assert_array_equal(library.arrays(net, "gradient")["data"], wanted)
        score = sample.net.blobs["score"].data
        np.testing.assert_array_equal(library.arrays(net, "output")["score"], score)
    library.destroy(net)
    assert library.arena_bytes() == sample.lowered().program.arena_bytes


@needs_compiler
def test_library_used_wrongly(library_folder: Path):
    library = Library(library_folder / "libdigits.so", "digits")
    code = ctypes.c_int()
    assert library.create(b"/nowhere", code) is None
    assert b"cannot be opened" in library.error_text(code.value)
    assert library.create(str(library_folder).encode(), None) is None
    library.destroy(None)
    assert b"NULL" in library.error_text(library.forward(None, 1))
    net = library.create(None, None)
    assert b"threads" in library.error_text(library.forward(net, 0))
    assert b"forward pass" in library.error_text(library.backward(net, 1))
    assert library.forward(net, 1) == 0
    assert library.backward(net, 1) == 0
    assert b"forward pass" in library.error_text(library.backward(net, 1))
    assert library.input(net, 1) is None
    assert library.input(net, -1) is None
    assert library.input(None, 0) is None
    assert library.output_name(7) is None
    assert library.gradient_index(b"score") == -1
    assert library.gradient_index(None) == -1
    assert b"number" in library.error_text(library.bind_parameter(net, 99, None))
    place = library.parameter(net, 0)
    assert b"multiple of 64" in library.error_text(library.bind_parameter(net, 0, place + 4))
    assert library.error_text(12345) == b"an unknown error"
    library.destroy(net)


@needs_compiler
def test_parameters_of_the_caller(library_folder: Path):
    library = Library(library_folder / "libdigits.so", "digits")
    sample = digits(grad=True)
    net = library.create(None, None)
    library.arrays(net, "input")["data"][...] = image()
    library.forward(net, 1)
    before = library.arrays(net, "output")["score"].copy()
    number = library.parameter_index(b"score/1")
    room = np.zeros(48, np.float32)
    skip = -room.ctypes.data % 64 // 4
    mine = room[skip : skip + 10]
    mine[...] = sample.parameters["score/1"] + 1
    assert library.bind_parameter(net, number, mine.ctypes.data) == 0
    library.forward(net, 1)
    np.testing.assert_allclose(library.arrays(net, "output")["score"], before + 1, rtol=1e-6)
    assert library.bind_parameter(net, number, None) == 0
    library.forward(net, 1)
    np.testing.assert_array_equal(library.arrays(net, "output")["score"], before)
    library.destroy(net)


@needs_compiler
def test_two_objects_in_one_program(tmp_path: Path):
    assert digits().save(tmp_path / "digits.o", "obj") == [
        tmp_path / "digits.o",
        tmp_path / "digits.h",
    ]
    Sample(SAMPLES / "regression.prototxt").save(tmp_path / "regression.o", "obj")
    (tmp_path / "both.c").write_text(
        """
        #include <stdio.h>
        #include "digits.h"
        #include "regression.h"
        int main(void) {
            digits_net *a = digits_create(NULL, NULL);
            regression_net *b = regression_create(NULL, NULL);
            for (int i = 0; i < digits_input_size(0); i++) digits_input(a, 0)[i] = 1;
            int wrong = digits_forward(a, 1) || regression_forward(b, 1);
            printf("%.9g %.9g\\n", digits_output(a, 0)[0], regression_loss(b));
            digits_destroy(a);
            regression_destroy(b);
            return wrong;
        }"""
    )
    objects = ["digits.o", "regression.o"]
    compiled(tmp_path, *STRICT, "-std=c99", "both.c", *objects, "-o", "both", "-pthread", "-lm")
    score, loss = map(float, run(tmp_path / "both").stdout.split())
    ones = np.ones((1, 1, 8, 8), np.float32)
    assert np.float32(score) == digits().forward(data=ones)["score"][0, 0]
    regression = Sample(SAMPLES / "regression.prototxt")
    regression.forward()
    assert loss == pytest.approx(regression.net.loss, rel=1e-6)


@needs_compiler
def test_names_that_c_does_not_have(tmp_path: Path):
    Sample(ODD_NAMES).save(tmp_path / "odd", "exe")
    text = run(tmp_path / "odd", "--help").stdout
    assert 'a = "b" [1, 4]' in text
    assert "\u00fc%s [1, 4]" in text
    np.save(tmp_path / "in.npy", np.ones((1, 4), np.float32))
    run(tmp_path / "odd", 'a = "b"=in.npy', "-o", "\u00fc%s=out.npy")
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), np.tanh(1), rtol=1e-6)


@needs_compiler
@pytest.mark.parametrize("name", ["weights", "kernels", "main", "int", "linked"])
def test_names_of_our_own_files_and_of_c(tmp_path: Path, name: str):
    Sample(LOSS_NET.replace("losses", name)).save(tmp_path / "net", "exe")
    np.save(tmp_path / "x.npy", np.zeros((3, 4), np.float32))
    np.save(tmp_path / "label.npy", np.zeros(3, np.float32))
    shown = run(tmp_path / "net", "x=x.npy", "label=label.npy").stdout
    assert float(shown.split("]")[1]) == pytest.approx(np.log(4))


def test_identifiers():
    assert identifier("CaffeNet") == "CaffeNet"
    assert identifier("my net-2.1") == "my_net_2_1"
    assert identifier("2nd") == "net_2nd"
    assert identifier("_x") == "net_x"
    assert identifier("\u00e4") == "net_"


# -- without a C compiler, for other machines, for Python ------------------------------------


def test_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(NetError, match=r"no C compiler .* apt install gcc.* and run: cc ") as info:
        digits().save(tmp_path / "net", "exe")
    left = {"net.o", "net.weights", "digits.c", "digits.h", "digits_main.c"}
    assert {path.name for path in tmp_path.iterdir()} == left
    if COMPILER is None:
        return
    command = str(info.value).split("run: cc ")[1].split()
    compiled(tmp_path, *command)
    np.save(tmp_path / "in.npy", image())
    run(tmp_path / "net", "data=in.npy", "-o", "score=out.npy")
    wanted = digits().forward(data=image())["score"]
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), wanted)


def test_object_for_another_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.warns(NetWarning, match="no C compiler for aarch64"):
        digits().save(tmp_path / "net.o", "obj", target=Target.named("neoverse-n1"))
    machine = (tmp_path / "net.o").read_bytes()[18:20]
    assert machine == (183).to_bytes(2, "little"), "EM_AARCH64"


def test_texts(tmp_path: Path):
    digits().save(tmp_path / "net.ll", "llvm", target=Target.named("x86-64-v3"))
    assert "define i32 @graphc_forward" in (tmp_path / "net.ll").read_text()
    digits().save(tmp_path / "net.s", "asm", target=Target.named("neoverse-n1"))
    assert "fmla" in (tmp_path / "net.s").read_text()


def test_bundle_loads_without_compiling(tmp_path: Path):
    sample = digits(grad=True)
    written = sample.save(tmp_path / "net.bundle", "bundle")
    assert written == [tmp_path / "net.bundle", tmp_path / "net.weights"]
    loaded = graphc.load(tmp_path / "net.bundle")
    seed = np.eye(10, dtype=np.float32)[2:3]
    loaded.arrays["data"][...] = image()
    loaded.arrays["score.diff"][...] = seed
    loaded.call("both")
    wanted = sample.gradients({"data": image()}, {"score": seed})["data"]
    np.testing.assert_array_equal(loaded.arrays["data.diff"], wanted)
    assert not loaded.arrays["conv1/0"].flags.writeable
    weights = (tmp_path / "net.weights").read_bytes()
    for broken, said in {
        weights[:-64]: "were written",
        weights[:30]: "cut short",
        b"x" + weights[1:]: "not a graphc weights file",
        weights[:24] + b"\0" + weights[25:]: "another net",
    }.items():
        (tmp_path / "net.weights").write_bytes(broken)
        with pytest.raises(NetError, match=said):
            graphc.load(tmp_path / "net.bundle")
    (tmp_path / "net.weights").unlink()
    with pytest.raises(NetError, match="cannot read weights"):
        graphc.load(tmp_path / "net.bundle")


def test_places_that_cannot_be_written(tmp_path: Path):
    with pytest.raises(NetError, match="there is no folder"):
        digits().save(tmp_path / "none" / "net", "exe")
    with pytest.raises(NetError, match="is a folder"):
        digits().save(tmp_path, "bundle")
    with pytest.raises(NetError, match="lies beside it"):
        digits().save(tmp_path / "digits.h", "so")


# -- the command -----------------------------------------------------------------------------


def graphc_compile(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "graphc", "compile", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@needs_compiler
def test_command(tmp_path: Path):
    net = SAMPLES / "digits.prototxt"
    words = ["--emit", "exe", "-o", tmp_path / "net", "--seed", 3, "--weights-beside"]
    done = graphc_compile(net, *words, "--diff", "score", "--wrt", "data")
    assert done.returncode == 0, done.stderr
    assert [line.split(" (")[0] for line in done.stdout.splitlines()] == [
        str(tmp_path / "net"),
        str(tmp_path / "net.weights"),
    ]
    np.save(tmp_path / "in.npy", image())
    run(tmp_path / "net", "data=in.npy", "-o", "score=out.npy")
    wanted = digits().forward(data=image())["score"]
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), wanted, rtol=1e-5)
    assert "data.diff" in run(tmp_path / "net", "--help").stdout


def test_command_used_wrongly(tmp_path: Path):
    net = SAMPLES / "digits.prototxt"
    done = graphc_compile(net, "-o", tmp_path / "net", "--target", "x86-64-v33")
    assert done.returncode == 3
    assert "no target is named 'x86-64-v33'" in done.stderr
    done = graphc_compile(net, "-o", tmp_path / "net", "--diff", "scor", "--wrt", "data")
    assert done.returncode == 3
    assert "scor" in done.stderr
    assert not list(tmp_path.iterdir())


# -- sanitizers ------------------------------------------------------------------------------

CALLS = """
#include <stdio.h>
#include <string.h>
#include "digits.h"
static int wrong(int code, const char *word) {
    if (code != 0 && strstr(digits_error_text(code), word) != NULL) return 0;
    printf("'%s' was expected, not '%s'\\n", word, digits_error_text(code));
    return 1;
}
int main(int count, char **files) {
    int bad = 0, code;
    for (int i = 2; i < count; i++) {
        if (digits_create(files[i], &code) != NULL) bad++;
        bad += code >= 0;
    }
    digits_destroy(digits_create(files[1], NULL));
    bad += digits_create(NULL, &code) != NULL || wrong(code, "no weights are embedded");
    digits_net *net = digits_create(files[1], &code);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < digits_input_size(0); i++) digits_input(net, 0)[i] = (float)i;
        for (int i = 0; i < digits_given_size(0); i++) digits_given(net, 0)[i] = 1;
        bad += digits_forward(net, 1 + round) != 0 || digits_backward(net, 1 + round) != 0;
    }
    bad += wrong(digits_backward(net, 1), "forward pass");
    bad += wrong(digits_forward(NULL, 1), "NULL") + wrong(digits_backward(NULL, 1), "NULL");
    bad += wrong(digits_forward(net, -5), "threads");
    bad += wrong(digits_bind_parameter(net, -1, NULL), "number");
    for (int i = -3; i < 30; i++) digits_error_text(i);
    digits_destroy(net);
    return bad;
}
"""


@needs_compiler
@pytest.mark.long
def test_c_side_under_sanitizers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(NetError, match="no C compiler"):
        digits(grad=True).save(tmp_path / "net", "exe")
    monkeypatch.delenv("CC")
    sanitizers = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    flags = [*STRICT, "-std=c11", *sanitizers, "digits.c", "net.o"]
    (tmp_path / "calls.c").write_text(CALLS)
    compiled(tmp_path, *flags, "calls.c", "-o", "calls", "-pthread", "-lm")
    compiled(tmp_path, *flags, "digits_main.c", "-o", "net", "-pthread", "-lm")
    whole = (tmp_path / "net.weights").read_bytes()
    (tmp_path / "short.weights").write_bytes(whole[:-1])
    (tmp_path / "tiny.weights").write_bytes(whole[:17])
    (tmp_path / "empty.weights").write_bytes(b"")
    bad = ["short.weights", "tiny.weights", "empty.weights", "missing.weights", "."]
    done = run(tmp_path / "calls", "net.weights", *bad)
    assert done.stdout + done.stderr == ""
    refused = _bad_inputs(tmp_path)
    np.save(tmp_path / "fortran.npy", np.asfortranarray(image()))
    run(tmp_path / "net", "data=fortran.npy")
    np.save(tmp_path / "seed.npy", np.ones((1, 10), np.float32))
    for name in refused:
        done = run(tmp_path / "net", f"data={name}", code=3)
        assert "Sanitizer" not in done.stderr
    words = ["data=good.npy", "score.diff=seed.npy", "-o", "data.diff=grad.npy"]
    run(tmp_path / "net", *words)
    run(tmp_path / "net", "data=good.npy")
    run(tmp_path / "net", "--bench", 2)
    run(tmp_path / "net", "--help")
