"""MatConvNet nets as files: the same bits as in Python, and MATLAB's order of axes."""

from __future__ import annotations

import ctypes
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from c_programs import STRICT, compiled, needs_compiler, run
from mat_nets import RNG, cell
from test_cli_options import graphc
from test_cuda_emulator import build_main, run_main

import graphc as package
from graphc.cli.options import Mode, NetOptions
from graphc.cli.session import open_session
from graphc.codegen.cuda.program import compile_cuda
from graphc.simple_net import SimpleNet, simplenn

X = RNG.standard_normal((6, 6, 2, 3)).astype("float32")
LABEL = np.array([1, 3, 2], "float32").reshape(1, 1, 1, 3)


def emitted(net: Path, path: Path, emit: str, *options: object) -> None:
    result = graphc("compile", net, "-o", path, "--emit", emit, *options)
    assert result.exit_code == 0, result.output


def derived(net: Path) -> package.DagNet:
    """The net after a call with derivatives."""
    made = package.DagNet.load(net)
    made.conserve_memory = False
    made.eval({"input": X, "label": LABEL}, {"objective": 1})
    return made


TRAIN = ("--mode", "train", "--shape", "input=6,6,2,3")


@needs_compiler
@pytest.mark.parametrize("order", ["C", "F"])
def test_program_of_a_chain(simple: Path, tmp_path: Path, order: str) -> None:
    emitted(simple, tmp_path / "net", "exe", "--shape", "x1=6,6,2,3")
    np.save(tmp_path / "x.npy", np.asarray(X, order=order))
    run(tmp_path / "net", "x1=x.npy", "-o", "x5=y.npy")
    found = np.load(tmp_path / "y.npy")
    np.testing.assert_array_equal(found, simplenn(SimpleNet.load(simple), X, mode="test")[-1].x)
    assert found.flags.f_contiguous
    told = run(tmp_path / "net", "--help").stdout
    assert "inputs (float32, column-major):\n  x1 [6, 6, 2, 3]\n" in told


@needs_compiler
def test_program_derives_from_the_loss(dag: Path, tmp_path: Path) -> None:
    emitted(dag, tmp_path / "net", "exe", *TRAIN)
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "label.npy", LABEL)
    words = ["input=x.npy", "label=label.npy", "-o", "objective=o.npy", "-o", "fcf.diff=f.npy"]
    run(tmp_path / "net", *words, "-o", "input.diff=d.npy", "-o", "fcb.diff=b.npy")
    net = derived(dag)
    for file, wanted in {
        "o": net.vars["objective"].value,
        "d": net.vars["input"].der,
        "f": net.params["fcf"].der,
        "b": net.params["fcb"].der,
    }.items():
        found = np.load(tmp_path / f"{file}.npy")
        np.testing.assert_array_equal(found.ravel("F"), np.ravel(wanted, "F"), file)


@needs_compiler
def test_program_takes_a_gradient_that_is_given(simple: Path, tmp_path: Path) -> None:
    options = ("--shape", "x1=6,6,2,3", "--diff", "x5", "--wrt", "l1_1", "--wrt", "x3")
    emitted(simple, tmp_path / "net", "exe", *options)
    slope = RNG.standard_normal((1, 1, 5, 3)).astype("float32")
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "slope.npy", slope)
    words = ["x1=x.npy", "x5.diff=slope.npy", "-o", "l1_1.diff=w.npy", "-o", "x3.diff=d.npy"]
    run(tmp_path / "net", *words)
    wanted = simplenn(SimpleNet.load(simple), X, slope)
    assert wanted[0].dzdw is not None
    np.testing.assert_array_equal(np.load(tmp_path / "w.npy"), wanted[0].dzdw[0])
    np.testing.assert_array_equal(np.load(tmp_path / "d.npy"), wanted[2].dzdx)


CALLER = """
#include <stdio.h>
#include "dag.h"
int main(void) {
    printf("%d %d\\n", dag_input_index("input"), dag_parameter_index("fcf"));
    return 0;
}
"""


@needs_compiler
def test_library_has_the_memory_of_matlab(dag: Path, tmp_path: Path) -> None:
    emitted(dag, tmp_path / "libdag.so", "so", *TRAIN)
    header = (tmp_path / "dag.h").read_text()
    assert "input 0: input float32[6, 6, 2, 3]" in header
    assert "column-major, as MATLAB stores" in header
    (tmp_path / "main.c").write_text(CALLER)
    compiled(tmp_path, *STRICT, "main.c", "-L.", "-ldag", "-o", "main")
    library = ctypes.CDLL(str(tmp_path / "libdag.so"))
    library.dag_create.restype = ctypes.c_void_p
    net = ctypes.c_void_p(library.dag_create(None, None))
    for kind in ("input", "output", "gradient"):
        getattr(library, f"dag_{kind}").restype = ctypes.c_void_p

    def memory(kind: str, name: str, size: int) -> np.ndarray:
        number = getattr(library, f"dag_{kind}_index")(name.encode())
        assert number >= 0, name
        place = getattr(library, f"dag_{kind}")(net, number)
        return np.ctypeslib.as_array((ctypes.c_float * size).from_address(place))

    memory("input", "input", X.size)[...] = X.ravel("F")
    memory("input", "label", 3)[...] = LABEL.ravel()
    assert library.dag_forward(net, 1) == 0
    assert library.dag_backward(net, 1) == 0
    library.dag_loss.restype = ctypes.c_double
    wanted = derived(dag)
    assert library.dag_loss(net) == float(np.ravel(wanted.vars["objective"].value)[0])
    found = memory("gradient", "fcf", 6 * 6 * 2 * 3)
    np.testing.assert_array_equal(found, np.ravel(wanted.params["fcf"].der, "F"))
    library.dag_destroy(net)


def test_bundle_has_the_axes_of_matlab(dag: Path, tmp_path: Path) -> None:
    emitted(dag, tmp_path / "net.bundle", "bundle", *TRAIN, "--keep", "prediction")
    loaded = package.load(tmp_path / "net.bundle")
    assert loaded.arrays["input"].shape == (6, 6, 2, 3)
    loaded.arrays["input"][...] = X
    loaded.arrays["label"][...] = LABEL
    loaded.call("both", 2)
    wanted = derived(dag)
    np.testing.assert_array_equal(loaded.arrays["input.diff"], wanted.vars["input"].der)
    np.testing.assert_array_equal(loaded.arrays["fcf.diff"], wanted.params["fcf"].der)
    np.testing.assert_array_equal(loaded.arrays["fcf"], wanted.params["fcf"].value)
    np.testing.assert_array_equal(loaded.read("prediction"), wanted.vars["prediction"].value)
    with pytest.raises(package.NetError, match=r"needs an array float32\[6, 6, 2, 3\]"):
        loaded.bind({"input": X.T.copy()})
    with pytest.raises(package.NetError, match="is not column-major"):
        loaded.bind({"input": X})


def test_a_parameter_named_as_a_variable(tmp_path: Path) -> None:
    path = tmp_path / "net.mat"
    layer = {
        "name": "fc",
        "type": "dagnn.Conv",
        "inputs": cell("input"),
        "outputs": cell("y"),
        "params": cell("y"),
        "block": {"size": [1.0, 1.0, 1.0, 2.0], "hasBias": False},
    }
    values = np.array([3.0, 4.0], "float32").reshape(1, 1, 1, 2)
    params = cell({"name": "y", "value": values})
    scipy.io.savemat(path, {"layers": cell(layer), "params": params, "vars": cell()})
    emitted(path, tmp_path / "net.bundle", "bundle", "--shape", "input=1,1,1,1")
    loaded = package.load(tmp_path / "net.bundle")
    loaded.arrays["input"][...] = 2
    loaded.call()
    np.testing.assert_array_equal(loaded.arrays["y"].ravel(), [6, 8])
    np.testing.assert_array_equal(loaded.arrays["params/y"], values)


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_program_for_a_gpu_reads_fortran_files(dag: Path, tmp_path: Path) -> None:
    options = ("--mode", "train", "--shape", "input=6,6,2,3")
    emitted(dag, tmp_path / "net.cu", "cuda", *options)
    assert "graphc_run" in (tmp_path / "net.cu").read_text()
    net = NetOptions(str(dag), mode=Mode.train, shape=["input=6,6,2,3"])
    contents = open_session(net).contents()
    build_main(contents.named(compile_cuda(contents.program)), tmp_path / "net")
    wanted = derived(dag)
    for name, array in {"input": X, "label": LABEL}.items():
        np.save(tmp_path / f"{name}.npy", np.asfortranarray(array))
    for name, parameter in wanted.params.items():
        value = np.asarray(parameter.value)
        value = value.reshape(value.shape + (1,) * (4 - value.ndim))
        np.save(tmp_path / f"{name}.npy", np.asfortranarray(value))
    done = run_main(tmp_path / "net", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    found = np.load(tmp_path / "input.diff.npy")
    np.testing.assert_allclose(found, wanted.vars["input"].der, rtol=1e-5, atol=1e-6)


def test_profile_and_bench(dag: Path, simple: Path) -> None:
    result = graphc(
        *("profile", dag, *TRAIN, "--seconds", "0", "--threads", "1", "--json"),
    )
    assert result.exit_code == 0, result.output
    layers = json.loads(result.stdout)["layers"]
    assert set(layers) >= {"fc", "loss"}
    assert layers["fc"]["backward"] is not None
    result = graphc("bench", "net", simple, "--seconds", "0", "--threads", "1", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["inputs"] == {"x1": [6, 6, 2, 1]}
    products = 6 * 6 * 4 * 18 + 5 * 36
    assert found["flops"] == 2 * products


PIXELS = RNG.integers(0, 256, (2, 4, 3)).astype(np.uint8)


@needs_compiler
def test_program_reads_a_picture_into_the_memory_of_matlab(tmp_path: Path) -> None:
    """A convolution with the unit matrix gives back what it was given."""
    unit = np.eye(3, dtype="float32").reshape(1, 1, 3, 3)
    layer = {"type": "conv", "name": "c", "weights": cell(unit, np.zeros((3, 1), "float32"))}
    scipy.io.savemat(tmp_path / "net.mat", {"layers": cell({**layer, "pad": 0.0, "stride": 1.0})})
    emitted(tmp_path / "net.mat", tmp_path / "net", "exe", "--shape", "x1=2,4,3,1")
    (tmp_path / "in.ppm").write_bytes(b"P6 4 2 255\n" + PIXELS.tobytes())
    numbers = " ".join(map(str, PIXELS.ravel()))
    (tmp_path / "plain.ppm").write_text(f"P3 4 2 # as text\n255\n{numbers}\n")
    mean = np.float32([1, 2, 3])
    for name in ("in.ppm", "plain.ppm"):
        for words, wanted in {
            (): PIXELS,
            ("--mean", "1,2,3", "--scale", "0.5"): (PIXELS - mean) / 2,
            ("--channels", "bgr", "--mean", "1,2,3"): PIXELS[..., ::-1] - mean,
        }.items():
            run(tmp_path / "net", f"x1={name}", "-o", "x2=y.npy", *words)
            found = np.load(tmp_path / "y.npy")
            assert found.flags.f_contiguous
            np.testing.assert_array_equal(found[..., 0], wanted)
    (tmp_path / "in.raw").write_bytes(PIXELS.astype("float32").tobytes("F"))
    run(tmp_path / "net", "x1=in.raw", "-o", "x2=y.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy")[..., 0], PIXELS)


def hostile(good: bytes) -> list[bytes]:
    """A .npy in Fortran order, made wrong in its header or its length."""
    shape, dtype = b"(6, 6, 2, 3)", b"'<f4'"
    shapes = (b"(6, 6, 2, 3", b"(9223372036854775807,)", b"(6,6,2,3," + 60 * b"1," + b")")
    shapes += (
        b"(4294967296, 4294967296)",
        b"((6,6),2,3)",
        b"(0x6, 6, 2, 3)",
        b"()",
        b"(3, 2, 6, 6)",
    )
    dtypes = (
        b"'>f4'",
        b"'<f8'",
        b"'<f4",
        b"'O'",
        b"[('a','<f4')]",
        b"'" + 60 * b"x" + b"'",
        b"'%n%s'",
    )
    made = [good.replace(shape, other) for other in shapes]
    made += [good.replace(dtype, other) for other in dtypes]
    made += [good.replace(b"True", other) for other in (b"Tru", b"None", b"1", b"'True'")]
    made += [good[:length] for length in range(0, 140, 7)] + [good[:-1], good + b"\0"]
    made += [good[:8] + size.to_bytes(2, "little") + good[10:] for size in (0, 5, 117, 119, 65535)]
    assert all(one != good for one in made)
    return made


@needs_compiler
@pytest.mark.long
def test_hostile_files_under_sanitizers(
    dag: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    words = ("--emit", "exe", *TRAIN)
    assert graphc("compile", dag, "-o", tmp_path / "net", *words).exit_code == 3
    monkeypatch.delenv("CC")
    sanitizers = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    flags = [*STRICT, "-std=c11", *sanitizers, "net.c", "net_main.c", "net.o", "-o", "net"]
    compiled(tmp_path, *flags, "-pthread", "-lm")
    np.save(tmp_path / "x.npy", np.asfortranarray(X))
    np.save(tmp_path / "l.npy", LABEL)
    run(tmp_path / "net", "input=x.npy", "label=l.npy")
    for content in hostile((tmp_path / "x.npy").read_bytes()):
        (tmp_path / "bad.npy").write_bytes(content)
        done = run(tmp_path / "net", "input=bad.npy", "label=l.npy", code=3)
        assert "'bad.npy'" in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
    whole = (tmp_path / "net.weights").read_bytes()
    headers = [whole[:place] + 8 * b"\xff" + whole[place + 8 :] for place in range(0, 32, 8)]
    for content in [*headers, *(whole[:n] for n in range(0, 200, 9)), whole + bytes(4096)]:
        (tmp_path / "bad.weights").write_bytes(content)
        words = ("input=x.npy", "label=l.npy", "--weights", "bad.weights")
        done = run(tmp_path / "net", *words, code=3)
        assert "weights 'bad.weights': the" in done.stderr
