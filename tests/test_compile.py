"""Compiled nets as programs that do what `Net` does."""

from __future__ import annotations

import re
import resource
import subprocess
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from c_programs import SAMPLES, STRICT, compiled, needs_compiler, run
from compiled_nets import (
    BARE,
    DROPOUT_NET,
    LOSS_NET,
    Sample,
    bad_inputs,
    digits,
    image,
    needed_libraries,
)

import graphc
from graphc import artifact
from graphc.artifact import save
from graphc.codegen.c_api import visible_text
from graphc.error import NetError, visible


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
def test_program_whose_input_is_worked_on_in_place(tmp_path: Path):
    text = """layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
    layer { name: "l" type: "Power" bottom: "x" top: "x" power_param { scale: 2 shift: 1 } }
    """
    Sample(text).save(tmp_path / "net", "exe")
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.save(tmp_path / "in.npy", x)
    run(tmp_path / "net", "x=in.npy", "-o", "x=out.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), 2 * x + 1)


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


@needs_compiler
def test_program_refuses_bad_inputs(infer_program: Path):
    for name, said in bad_inputs(infer_program.parent).items():
        done = run(infer_program, f"data={name}", "-o", "score=refused.npy", code=3)
        assert f"'{name}' {said}" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert not (infer_program.parent / "refused.npy").exists()
    done = run(infer_program, "data=good.npy", "-o", "score=/nowhere/out.npy", code=3)
    assert "'/nowhere/out.npy' cannot be written" in done.stderr


# -- names and paths on a terminal ----------------------------------------------------------------

HOSTILE = r"""name: "net"
layer { name: "label" type: "Input" top: "\303\251\033c" input_param { shape { dim: 2 } } }
layer { name: "in" type: "Input" top: "x\342\200\256" input_param { shape { dim: 2 dim: 3 } } }
layer {
  name: "fc\n\033]0;title\007" type: "InnerProduct" bottom: "x\342\200\256" top: "a\r\n\033[1mb\t"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } }
}
layer { name: "\033[31m" type: "SoftmaxWithLoss" bottom: "a\r\n\033[1mb\t" bottom: "\303\251\033c"
  top: "\033loss" }
"""


@needs_compiler
def test_names_steer_no_terminal(tmp_path: Path):
    """As those of a net's layers do not in Python."""
    Sample(HOSTILE, wrt=["x\u202e"]).save(tmp_path / "net", "exe")
    for name, labels in (("right", [0, 3]), ("wrong", [0, 9])):
        np.save(tmp_path / f"{name}.npy", np.array(labels, np.float32))
    np.save(tmp_path / "x.npy", np.ones((2, 3), np.float32))
    (tmp_path / "odd\n.npy").write_bytes(b"\x93NUMPY\1\0\0\1{'descr': '<\x1b[2J'".ljust(266))
    x, label = "x\u202e=x.npy", "é\x1bc={}.npy".format
    program = tmp_path / "net"
    said = [
        (run(program, "--help").stdout, r"  x\u202e [2, 3]"),
        (run(program, x, label("right")).stdout, r"\x1bloss [] "),
        (run(program, x, label("right"), x, code=2).stderr, r"'x\u202e' is given twice"),
        (run(program, x, code=2).stderr, r"é\x1bc=FILE"),
        (run(program, "\x9b\U000e0041=1", code=2).stderr, r"'\x9b\U000e0041=1' is no"),
        (run(program, x, label("x"), code=3).stderr, r"'é\x1bc' needs [2]"),
        (run(program, x, label("wrong"), code=3).stderr, r"layer '\x1b[31m'"),
        (run(program, x, label("odd\n"), code=3).stderr, r"'odd\n.npy' holds '<\x1b[2J'"),
    ]
    for shown, wanted in said:
        assert wanted in shown
        assert shown.replace("\n", "").isprintable()
    assert all(len(shown.splitlines()) == 1 for shown, _ in said[2:])


@needs_compiler
@pytest.mark.parametrize("flags", [["-std=c99"], ["-std=c++17", "-x", "c++"]], ids=" ".join)
def test_texts_are_shown_as_python_shows_them(flags: list[str], tmp_path: Path):
    main = "int main(int n, char **texts) { print_visible(stdout, texts[n - 1]); return 0; }"
    includes = "#include <stdio.h>\n#include <stddef.h>\n"
    (tmp_path / "show.c").write_text(f"{includes}{visible_text()}{main}\n")
    compiled(tmp_path, *STRICT, *flags, "show.c", "-o", "show")
    known = [chr(n) for n in range(1, 0x110000) if unicodedata.category(chr(n)) not in ("Cn", "Cs")]
    for start in range(0, len(known), 20000):
        text = "".join(known[start : start + 20000])
        shown = subprocess.run([tmp_path / "show", text], capture_output=True, check=True).stdout
        assert shown.decode() == visible(text, ends="")
    broken = b"a\xff\xc3|\xed\xa0\x80\xc0\xaf\xf4\x90\x80\x80\xe2\x80"
    shown = subprocess.run([tmp_path / "show", broken], capture_output=True, check=True).stdout
    assert shown == rb"a\xff\xc3|\xed\xa0\x80\xc0\xaf\xf4\x90\x80\x80\xe2\x80"


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


@pytest.mark.parametrize("form", ["llvm", "asm", "bundle"])
def test_a_disk_that_is_full_leaves_the_older_files(form: str, tmp_path: Path):
    place, weights = tmp_path / "net", tmp_path / "net.weights"
    place.write_text("older")
    weights.write_text("older weights")
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, allowed[1]))
    try:
        with pytest.raises(NetError, match=r"cannot write '.*': File too large"):
            digits().save(place, form)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, allowed)
    assert (place.read_text(), weights.read_text()) == ("older", "older weights")
    assert {path.name for path in tmp_path.iterdir()} == {"net", "net.weights"}


@pytest.mark.parametrize("form", ["so", pytest.param("exe", marks=needs_compiler), "bundle"])
def test_a_folder_in_the_place_of_the_weights(form: str, tmp_path: Path):
    (tmp_path / "net.weights").mkdir()
    with pytest.raises(NetError, match=r"net\.weights', where the weights go, is a folder"):
        digits().save(tmp_path / "net", form, beside=True)
    assert [path.name for path in tmp_path.iterdir()] == ["net.weights"]


@needs_compiler
@pytest.mark.parametrize("form", ["so", "obj"])
def test_a_header_of_the_users_own_is_left_alone(form: str, tmp_path: Path):
    header = tmp_path / "net.h"
    header.write_text("int mine;\n")
    with pytest.raises(NetError, match=r"net\.h' is there and was not written by graphc"):
        digits().save(tmp_path / "net", form)
    assert [path.name for path in tmp_path.iterdir()] == ["net.h"]
    header.unlink()
    for _ in range(2):  # one of ours is replaced
        assert header in digits().save(tmp_path / "net", form)
    header.write_text("int mine;\n")
    digits().save(tmp_path / "net", "exe")  # has none
    assert header.read_text() == "int mine;\n"


def test_weights_that_cannot_be_had(tmp_path: Path):
    def none() -> dict[str, np.ndarray]:
        raise NetError("there are none")

    place = tmp_path / "net"
    place.write_text("older")
    with pytest.raises(NetError, match=r"^there are none$"):
        save(digits().lowered(), none, place, "bundle")
    assert place.read_text() == "older"
    assert [path.name for path in tmp_path.iterdir()] == ["net"]
    save(digits().lowered(), none, place, "llvm")  # a text has none


@needs_compiler
def test_only_libc_libm_and_threads_are_needed(grad_program: Path):
    needed = needed_libraries(grad_program)
    assert "libc.so.6" in needed
    assert needed <= BARE


@needs_compiler
def test_processor_without_the_instructions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(artifact, "needed_features", lambda target: ("sse4a", "xop"))
    if all(f" {name} " in Path("/proc/cpuinfo").read_text() for name in ("sse4a", "xop")):
        pytest.skip("this processor has them all")
    digits().save(tmp_path / "net", "exe")
    np.save(tmp_path / "in.npy", image())
    assert "needs a processor" in run(tmp_path / "net", "data=in.npy", code=3).stderr
