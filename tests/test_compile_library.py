"""Compiled nets as C libraries: the header, calls from C and from Python, names, sanitizers."""

from __future__ import annotations

import ctypes
import shutil
from pathlib import Path

import numpy as np
import pytest
from c_programs import COMPILERS, SAMPLES, STRICT, Library, compiled, needs_compiler, run
from compiled_nets import (
    BARE,
    LOSS_NET,
    ODD_NAMES,
    Sample,
    bad_inputs,
    digits,
    image,
    needed_libraries,
)

from graphc.codegen.c_api import identifier
from graphc.codegen.llvm.object import compile_program
from graphc.error import NetError


@pytest.fixture(scope="module")
def library_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """libdigits.so with gradients, and digits.h."""
    place = tmp_path_factory.mktemp("library")
    written = digits(grad=True).save(place / "libdigits.so", "so")
    assert written == [place / "libdigits.so", place / "digits.h"]
    return place


@needs_compiler
def test_a_library_needs_what_a_program_needs(library_folder: Path):
    assert needed_libraries(library_folder / "libdigits.so") <= BARE


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
    assert library.arena_bytes() == compile_program(sample.lowered().program).arena_bytes


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
def test_two_libraries_of_one_net(tmp_path: Path):
    """Each has a header of its own, and names of its own in C."""
    scores, gradients = tmp_path / "libscores.so", tmp_path / "libgradients.so.1"
    assert digits().save(scores, "so") == [scores, tmp_path / "scores.h"]
    assert digits(grad=True).save(gradients, "so") == [gradients, tmp_path / "gradients.h"]
    (tmp_path / "both.c").write_text(
        """
        #include <stdio.h>
        #include "scores.h"
        #include "gradients.h"
        int main(void) {
            scores_net *a = scores_create(NULL, NULL);
            gradients_net *b = gradients_create(NULL, NULL);
            for (int i = 0; i < scores_input_size(0); i++)
                scores_input(a, 0)[i] = gradients_input(b, 0)[i] = 1;
            gradients_given(b, 0)[3] = 1;
            int wrong = scores_forward(a, 1) || gradients_forward(b, 1) || gradients_backward(b, 1);
            printf("%.9g %.9g\\n", scores_output(a, 0)[3], gradients_gradient(b, 0)[20]);
            scores_destroy(a);
            gradients_destroy(b);
            return wrong;
        }"""
    )
    flags = [*STRICT, "-std=c99", "both.c", scores, gradients, "-Wl,-rpath,$ORIGIN", "-o", "both"]
    compiled(tmp_path, *flags)
    score, slope = map(np.float32, run(tmp_path / "both").stdout.split())
    ones = np.ones((1, 1, 8, 8), np.float32)
    assert score == digits().forward(data=ones)["score"][0, 3]
    seed = {"score": np.eye(10, dtype=np.float32)[3:4]}
    assert slope == digits(grad=True).gradients({"data": ones}, seed)["data"][0, 0, 2, 4]


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
        digits(grad=True).save(tmp_path / "net", "exe", name="digits")
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
    refused = bad_inputs(tmp_path)
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
