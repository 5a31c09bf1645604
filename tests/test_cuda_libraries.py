"""Steps that cuBLASLt and cuDNN do in place of generated kernels, on stand-ins of both."""

from __future__ import annotations

import ctypes
import functools
import gc
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cuda_programs import KernelTable, needs_compiler
from native_programs import Assembly
from stand_in_gpu import StandIn
from stand_in_libraries import StandInLibraries
from test_cli_options import graphc as command
from test_cuda_contraction import EXAMPLES
from test_cuda_nets import CAFFENET, INCEPTION, LENET, assert_same, everything, fill
from test_operators import assert_close, expected, kernel_and_arrays

import graphc
from graphc.bench import device, operator_table
from graphc.codegen.cuda.library_steps import library_form
from graphc.codegen.cuda.program import compile_cuda, cuda_text
from graphc.error import NetError
from graphc.ir.op import Example, normal
from graphc.kernel.reading import parse_kernel
from graphc.ops.conv import Conv, ConvDataGradient, ConvWeightGradient
from graphc.runtime import (
    cublaslt,
    cuda,
    cudnn,
    library_cache,
    library_steps,
    shared_library,
)
from graphc.runtime.library_call import Convolution, MatrixProduct
from graphc.runtime.shared_library import (
    PACKAGES,
    Library,
    library_version,
    open_library,
    packages,
)

pytestmark = needs_compiler

FAST, SLOW = 1e-6, 1.0  # seconds of a call: less and more than any launch on the stand-in


def said(net: graphc.Net) -> list[str]:
    """What was decided about the steps that a library could do."""
    return [sentence for _, sentence in net.prepare().executable.decisions]


# -- what a library can do ------------------------------------------------------------------------

DEPTHWISE = Example(
    Conv((2, 2), ((1, 1), (1, 1)), (1, 1), 8), normal(2, 8, 9, 10), normal(16, 1, 3, 3)
)
# One window that covers the image: any stride that leaves no second row.
WHOLE = Example(Conv((2, 3), ((0, 0),) * 2, (1, 1), 1), normal(3, 4, 5, 6), normal(9, 4, 4, 5))


def has_form(example: Example) -> bool:
    """One geometry of `EXAMPLES` has other padding on either side, which cuDNN has not."""
    return "((3, 0), (0, 1))" not in str(example.op)


FORMS = [*EXAMPLES, DEPTHWISE, WHOLE]


@pytest.mark.parametrize("number", range(len(FORMS)))
def test_contractions_in_channels_last_are_calls(number: int):
    kernel, _ = kernel_and_arrays(FORMS[number], "float32", "channels_last")
    form = library_form(kernel, False)
    if not has_form(FORMS[number]):
        assert form is None
        return
    assert form is not None
    window = isinstance(FORMS[number].op, (Conv, ConvDataGradient, ConvWeightGradient))
    plain = not window or "(130, 65, 1, 1)" in str([a.shape for a in kernel.buffers])
    assert isinstance(form.call, MatrixProduct if plain else Convolution)


def test_geometry_is_read_off():
    geometry = ((4, 3), ((2, 2), (0, 0)), (1, 2), 2)
    example = Example(Conv(*geometry), normal(2, 6, 21, 17), normal(10, 3, 5, 3))
    kernel, _ = kernel_and_arrays(example, "float32", "channels_last")
    call = library_form(kernel, True).call
    assert isinstance(call, Convolution) and call.tf32
    assert (call.strides, call.pads, call.dilations, call.groups) == ((4, 3), (2, 0), (1, 2), 2)
    assert call.data == (2, 6, 21, 17) and call.weights == (10, 3, 5, 3)
    assert call.data_strides == (6 * 21 * 17, 1, 6 * 17, 6)


@pytest.mark.parametrize(
    "text",
    [
        # A diagonal, a window that runs backwards, a sum with a loop that no operand knows.
        "y[i, j] = s\n  s = sum k:9 mul(a[i, k], b[k, k])",
        "y[i, j] = s\n  s = sum k:9 r:3 mul(a[i, k], b[k, j])",
    ],
)
def test_what_only_looks_like_a_product_is_none(text: str):
    store, fold = text.split("\n  ")
    heads = "a: float32[8, 9], b: float32[9, 9], y: float32[8, 9]"
    kernel = parse_kernel(f"kernel p({heads}) each i:8 j:9\n  {fold}\n  {store}\n")
    form = library_form(kernel, False)
    assert form is None or "r:3" not in text


def test_a_transposed_copy_of_a_factor_is_a_flag():
    for number, example in enumerate(EXAMPLES[-7:-1]):
        kernel, _ = kernel_and_arrays(example, "float32", "row_major")
        call = library_form(kernel, False).call
        left, right = example.op.left_transposed, example.op.right_transposed
        assert call.transposed == (right, left), number


# -- the same numbers -----------------------------------------------------------------------------


@functools.cache
def table() -> tuple[KernelTable, dict[tuple[int, str], list[str]]]:
    made, names = KernelTable(), {}
    for number, example in enumerate(FORMS):
        for dtype in ("float32", "float64"):
            if dtype == "float32" or "mat_mul" in str(example.op):
                kernel, arrays = kernel_and_arrays(example, dtype, "channels_last")
                names[number, dtype] = made.add(kernel, arrays)
    return made, names


def test_calls_give_the_reference(libraries: StandInLibraries, stand_in: StandIn):
    made, names = table()
    executable = stand_in.load(compile_cuda(made.program(), libraries="on"))
    made.fill(executable)
    executable.call("forward")
    for (number, dtype), (name,) in names.items():
        _, arrays = kernel_and_arrays(FORMS[number], dtype, "channels_last")
        (wanted,) = expected(FORMS[number].op, arrays[:2])
        assert_close(executable.read(name), wanted, str(FORMS[number].op))
    called = [said for _, said in executable.decisions if "runs as a call" in said]
    possible = [key for key in names if has_form(FORMS[key[0]])]
    assert len(called) == len(possible)
    assert libraries.calls("cublasLtMatmul") and libraries.calls("cudnnConvolutionForward")


@pytest.mark.parametrize("text", [LENET, INCEPTION, CAFFENET])
def test_nets_are_what_they_are_on_the_processor(text: str, libraries: StandInLibraries):
    options = {"phase": graphc.TRAIN, "seed": 3}
    net = graphc.Net(text, **options, target="cuda", libraries="on")
    assert_same(everything(net), everything(graphc.Net(text, **options)))
    decided = said(net)
    assert len([one for one in decided if "as was asked" in one]) >= 8
    for way in ("Forward", "BackwardFilter"):
        assert libraries.calls(f"cudnnConvolution{way}")
    assert libraries.calls("cublasLtMatmul")


def test_descriptors_are_given_back(libraries: StandInLibraries):
    gc.collect()
    before = libraries.living()
    net = graphc.Net(SMALL, target="cuda", libraries="on")
    fill(net, 0)
    net.forward()
    assert libraries.living() > before + 2
    del net
    gc.collect()
    assert libraries.living() <= before + 2  # the handles


def epilogue(body: str, in_place: bool = False) -> tuple[object, dict[str, np.ndarray]]:
    """y = what follows a [6, 5] x [5, 7] product, on the stand-in by a call, and its operands."""

    def layer(k, a, b, c, v, y):
        i, j = k.each(6, 7)
        s = k.axis(5)
        total = k.sum(s, a[i, s] * b[s, j])
        y[i, j] = {
            "bias": lambda: total + v[j],
            "bias+relu": lambda: k.maximum(v[j] + total, 0.0),
            "relu": lambda: k.maximum(total, 0.0),
            "add": lambda: total + c[i, j],
            "rows": lambda: total + v[i],
            "scaled": lambda: (total + v[j]) * 2.0 + c[i, j],
        }[body]()

    made = Assembly("epilogue")
    for name, *shape in (("a", 6, 5), ("b", 5, 7), ("v", 7)):
        made.user(name, *shape)
    made.user("c", 6, 7, role="state" if in_place else "input")
    if not in_place:
        made.user("y", 6, 7, role="output")
    made.step(layer, ["a", "b", "c", "v"], ["c" if in_place else "y"])
    executable = cuda.load(compile_cuda(made.program(), libraries="on"))
    arrays = executable.bind_new()
    rng = np.random.default_rng(0)
    for name in "abcv":
        arrays[name][...] = rng.standard_normal(arrays[name].shape)
    return executable, arrays


@pytest.mark.parametrize("body", ["bias", "bias+relu", "relu", "add", "rows", "scaled"])
def test_what_follows_a_product(body: str, libraries: StandInLibraries):
    executable, arrays = epilogue(body)
    a, b, c, v = (arrays[name].astype("f8") for name in "abcv")
    wanted = {
        "bias": a @ b + v,
        "bias+relu": np.maximum(a @ b + v, 0),
        "relu": np.maximum(a @ b, 0),
        "add": a @ b + c,
        "rows": a @ b + v[:6, None],
        "scaled": (a @ b + v) * 2 + c,
    }[body]
    executable.call("forward")
    np.testing.assert_allclose(arrays["y"], wanted, atol=1e-5)
    (step,) = executable.bundle.libraries.values()
    own = body if body in ("bias", "bias+relu", "relu", "add") else ""
    assert step.call.ending == own and (step.after is None) == bool(own)
    assert ("library steps have" in executable.decisions[-1][1]) == (not own)


def test_a_sum_is_added_in_place(libraries: StandInLibraries):
    """The trial may not change what is added to."""
    executable, arrays = epilogue("add", in_place=True)
    wanted = arrays["a"].astype("f8") @ arrays["b"] + arrays["c"]
    executable.call("forward")
    np.testing.assert_allclose(arrays["c"], wanted, atol=1e-5)


# -- the choice -----------------------------------------------------------------------------------


SMALL = """
name: "small"
layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 2 dim: 4 dim: 8 dim: 8 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 8 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "conv2" type: "Convolution" bottom: "conv1" top: "conv2"
  convolution_param { num_output: 8 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "ip1" type: "InnerProduct" bottom: "conv2" top: "ip1"
  inner_product_param { num_output: 16 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
"""


def small(**options: object) -> graphc.Net:
    net = graphc.Net(SMALL, seed=3, target="cuda", **options)
    fill(net, 0)
    net.forward()
    return net


def test_the_faster_way_is_taken(libraries: StandInLibraries, stand_in: StandIn):
    libraries.take(SLOW)
    net = small()
    assert len(said(net)) == 4
    assert all("is a generated kernel: " in one and "a call of cu" in one for one in said(net))
    assert "results agree within" in said(net)[0]
    before = libraries.calls("cublasLtMatmul")
    net.forward()
    assert libraries.calls("cublasLtMatmul") == before
    library_cache_is_emptied()
    libraries.take(FAST)
    stand_in.launched.clear()
    other = small()
    decided = [one for one in said(other) if "runs as a call of" in one]
    assert len(decided) >= 1  # a product alone needs no kernel beside its call
    before = libraries.calls("cublasLtMatmul")
    other.forward()
    assert libraries.calls("cublasLtMatmul") > before
    remarks = [r for r in other.prepare().remarks if "runs as a call of" in r.sentence]
    assert any(r.subject == "layer:ip2" and "cuBLASLt" in r.sentence for r in remarks)


def library_cache_is_emptied() -> None:
    for file in library_cache.folder().iterdir():
        file.unlink()


def test_off_asks_no_library(libraries: StandInLibraries):
    assert not said(small(libraries="off"))
    assert not libraries.calls("cublasLtCreate") and not libraries.calls("cudnnCreate")


def test_findings_are_kept(libraries: StandInLibraries):
    libraries.take(SLOW)
    first = said(small())
    tried = libraries.calls("cudnnConvolutionForward"), libraries.calls("cublasLtMatmul")
    assert min(tried) > 0
    assert said(small()) == first
    assert tried == (libraries.calls("cudnnConvolutionForward"), libraries.calls("cublasLtMatmul"))
    files = sorted(library_cache.folder().glob("library-*.json"))
    assert len(files) == 4
    found = json.loads(files[0].read_text())
    broken = ("", "[" * 100000, "{}", "null", json.dumps({**found, "taken": 1}))
    for file, text in zip(files * 2, broken, strict=False):
        file.write_text(text)
        assert said(small()) == first
    assert libraries.calls("cublasLtMatmul") > tried[1]


@pytest.mark.parametrize("changed", ["version", "gpu"])
def test_findings_are_of_a_version_and_a_gpu(
    changed: str,
    libraries: StandInLibraries,
    stand_in: StandIn,
    monkeypatch: pytest.MonkeyPatch,
):
    libraries.take(SLOW)
    small()
    before = libraries.calls("cublasLtMatmul")
    if changed == "gpu":
        monkeypatch.setattr(StandIn.Device, "name", lambda self: "another")
    else:
        for name in ("cuBLASLt", "cuDNN"):
            library_steps.opened(name).version += 1
    small()
    assert libraries.calls("cublasLtMatmul") == 2 * before


def test_wrong_results_are_not_taken(libraries: StandInLibraries):
    libraries.take(FAST)
    libraries.be_wrong(0.01)
    net = small()
    assert all("is a generated kernel" in one and "differs by" in one for one in said(net))


# -- what fails -----------------------------------------------------------------------------------

STATUSES = {
    "cublasLtMatmul": (13, "cuBLASLt: cublasLtMatmul fails: CUBLAS_STATUS_EXECUTION_FAILED"),
    "cudnnConvolutionForward": (
        5000,
        "cuDNN: cudnnConvolutionForward fails: CUDNN_STATUS_EXECUTION_FAILED",
    ),
}


@pytest.mark.parametrize("function", STATUSES)
def test_a_call_that_fails_names_library_status_and_layer(
    function: str, libraries: StandInLibraries
):
    status, sentence = STATUSES[function]
    layer = "ip1" if "cublas" in function else "conv1"
    net = small(libraries="on")
    libraries.fail(function, status)
    with pytest.raises(NetError, match=rf"layer '{layer}.*': {sentence}"):
        net.forward()
    other = graphc.Net(SMALL, seed=3, target="cuda", libraries="on")
    fill(other, 0)
    library_cache_is_emptied()
    with pytest.raises(NetError, match=rf"layer '{layer}.*': {sentence}"):
        other.forward()


@pytest.mark.parametrize("function", STATUSES)
def test_where_a_trial_fails_kernels_stay(function: str, libraries: StandInLibraries):
    status, sentence = STATUSES[function]
    libraries.fail(function, status)
    wanted = graphc.Net(SMALL, seed=3)
    fill(wanted, 0)
    net = small()
    wanted.forward()
    np.testing.assert_allclose(net.blobs["ip2"].data, wanted.blobs["ip2"].data, atol=1e-5)
    assert [one for one in said(net) if sentence in one and "is a generated kernel" in one]
    assert len(list(library_cache.folder().glob("*"))) == 2  # the other library's


def test_without_a_handle_kernels_stay(libraries: StandInLibraries):
    libraries.fail("cublasLtCreate", 1)
    libraries.fail("cudnnCreate", 1001)
    decided = said(small())
    assert any("cuBLASLt cannot be used: " in one and "NOT_INITIALIZED" in one for one in decided)
    assert any("cuDNN cannot be used: " in one for one in decided)


def test_what_a_library_has_not_is_said(libraries: StandInLibraries):
    libraries.fail("cublasLtMatmulAlgoGetHeuristic", 15)
    libraries.fail("cudnnGetConvolutionForwardWorkspaceSize", 3000)
    decided = said(small())
    assert all("has no algorithm for it" in one for one in decided) and len(decided) == 4


def test_no_memory_for_a_trial(
    libraries: StandInLibraries, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object) -> None:
        raise stand_in.Error("out of memory")

    monkeypatch.setattr(library_steps, "Trial", refuse)
    decided = said(small())
    assert len(decided) == 4 and all("was not tried: out of memory" in one for one in decided)


def test_no_memory_for_the_steps(
    libraries: StandInLibraries, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
):
    """What was taken and needs memory of its own is a kernel again; the others stay calls."""
    wanted = small(libraries="on")
    size = wanted.prepare().executable._libraries.memory_bytes
    allocate = stand_in.mem_alloc

    def mem_alloc(asked: int) -> object:
        if asked == size:
            raise stand_in.Error("out of memory")
        return allocate(asked)

    monkeypatch.setattr(stand_in, "mem_alloc", mem_alloc)
    net = small(libraries="on")
    after = [one for one in said(net) if f"after all: no {size} bytes" in one]
    assert len(after) == 2  # the convolutions
    before = libraries.calls("cublasLtMatmul")
    net.forward()
    assert libraries.calls("cublasLtMatmul") == before + 2
    np.testing.assert_allclose(net.blobs["ip2"].data, wanted.blobs["ip2"].data, atol=1e-5)


def test_an_old_library_lacks_functions():
    class Old:
        def __getattr__(self, name: str) -> object:
            raise AttributeError(name)

    from graphc.runtime.cublaslt import CublasLt

    with pytest.raises(NetError, match="cuBLASLt: the library has no function cublasLtCreate"):
        CublasLt(Old())  # type: ignore[arg-type]  # an old library, which is none


# -- without ---------------------------------------------------------------------------------------


def test_nothing_changes_without_libraries(stand_in: StandIn):
    made = graphc.Net(SMALL, target="cuda").prepare()
    assert not made.executable.bundle.libraries
    assert made.executable.bundle.text == cuda_text(made.program)
    with pytest.raises(NetError, match="'on' needs cuBLASLt or cuDNN, and neither is installed"):
        graphc.Net(SMALL, target="cuda", libraries="on").prepare()
    with pytest.raises(NetError, match="libraries is one of auto, on, off, not 'maybe'"):
        graphc.Net(SMALL, libraries="maybe")


def test_emitted_texts_have_no_library(libraries: StandInLibraries):
    program = graphc.Net(SMALL).prepare().program
    assert "library" not in cuda_text(program)
    assert "library" in compile_cuda(program, libraries="auto").text
    emulated = graphc.Net(SMALL, target="cuda-emulator", libraries="on").prepare()
    assert not emulated.executable.bundle.libraries


# -- for people -----------------------------------------------------------------------------------


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "small.prototxt"
    path.write_text(SMALL)
    return path


def explained(net: Path) -> str:
    result = command("explain", net, "layer:ip1", "--target", "cuda", "--mode", "infer")
    assert result.exit_code == 0, result.output
    return str(result.stdout)


def test_explain_says_what_was_found(
    net: Path, libraries: StandInLibraries, monkeypatch: pytest.MonkeyPatch
):
    libraries.take(SLOW)
    assert "could run as a call of cuBLASLt; the first call will try both ways" in explained(net)
    graphc.Net(net, target="cuda").forward()
    assert "is a generated kernel: " in explained(net)
    monkeypatch.setattr(library_steps, "open_library", lambda name: None)
    assert "could run as a call of cuBLASLt, which is not installed" in explained(net)
    assert "cuBLASLt" not in command("explain", net, "layer:ip1").stdout


def test_doctor_tells_what_is_installed(
    libraries: StandInLibraries, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shared_library, "open_library", lambda name: libraries.loaded)
    found = json.loads(command("doctor", "--json").stdout)["CUDA"]
    assert found["cuBLASLt"].startswith("12.9.3 (") and found["cuDNN"].startswith("9.28.0 (")
    monkeypatch.setattr(shared_library, "open_library", lambda name: None)
    text = command("doctor").stdout
    for package in PACKAGES.values():
        assert f"none: generated kernels do without (pip install {package})" in text


def test_figures_say_who_ran_what(
    net: Path, libraries: StandInLibraries, monkeypatch: pytest.MonkeyPatch
):
    """`bench net`, `profile` and a row of `bench ops` with libraries on."""
    monkeypatch.setattr("graphc.bench.device.BLOCK_BYTES", 1 << 16)
    device._sweep.cache_clear()
    words = ("--target", "cuda", "--seconds", "0", "--libraries", "on")
    for verb in (("bench", "net", net), ("profile", net)):
        result = command(*verb, *words, "--json")
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)["libraries"]
        assert any(one["layer"] == "ip2" and "cuBLASLt" in one["decision"] for one in found)
    assert "runs as a call of cuDNN" in command("profile", net, *words).stdout
    small = operator_table.Sizes((), 1, ((8, 64, 32),), (1, 4, 7, 7), (8, 40))
    monkeypatch.setattr(operator_table, "FEW_SIZES", small)
    result = command("bench", "ops", *words, "--match", "inner product", "--json")
    assert result.exit_code == 0, result.output
    for row in json.loads(result.stdout)["rows"]:
        assert any("runs as a call of cuBLASLt" in said for said in row["libraries"])


@pytest.mark.parametrize(
    "verb",
    [
        ("run", "--input", "data=random:1"),
        ("grad", "--input", "data=random:1", "--wrt", "data", "--diff", "ip2=fill:1"),
    ],
)
@pytest.mark.parametrize(("choice", "is_called"), [("on", True), ("off", False)])
def test_verbs_that_run_take_the_choice(
    verb: tuple[str, ...],
    choice: str,
    is_called: bool,
    net: Path,
    libraries: StandInLibraries,
) -> None:
    before = libraries.calls("cublasLtMatmul")
    name, *rest = verb
    result = command(name, net, *rest, "--target", "cuda", "--libraries", choice)
    assert result.exit_code == 0, result.output
    assert (libraries.calls("cublasLtMatmul") > before) == is_called


# -- the real libraries ---------------------------------------------------------------------------

HEADERS = {"cuBLASLt": (cublaslt, "cublas*.h"), "cuDNN": (cudnn, "cudnn*.h")}


def installed(name: str) -> ctypes.CDLL:
    loaded = open_library(name)
    if loaded is None:
        pytest.skip(f"needs {name} (pip install {PACKAGES[name]})")
    return loaded


def header_text(pattern: str) -> str:
    found = [path for package in packages() for path in package.glob(f"*/include/{pattern}")]
    if not found:
        pytest.skip(f"needs the headers {pattern} of NVIDIA's packages")
    return "\n".join(path.read_text(errors="replace") for path in found)


def header_value(text: str, name: str) -> int | None:
    """An enumerator's, which may be made of others; None where the headers have it not."""
    found = re.search(rf"\b{name}\s*=\s*([^,/\n}}]+)", text)
    if found is None:
        return None
    parts = [part.strip() for part in found.group(1).strip().strip("()").split("|")]
    value = 0
    for part in parts:
        inner = int(part, 0) if part[:1].isdigit() else header_value(text, part)
        assert inner is not None, part
        value |= inner
    return value


@pytest.mark.long
@pytest.mark.parametrize("name", HEADERS)
def test_constants_are_those_of_the_headers(name: str):
    module, pattern = HEADERS[name]
    text = header_text(pattern)
    elsewhere = {"CUDA_R_32F", "CUDA_R_64F"}  # in library_types.h of the toolkit
    for enumeration in module.ENUMERATIONS:
        for member in enumeration:
            value = header_value(text, member.name)
            assert value == member or (value is None and member.name in elsewhere), member.name


@pytest.mark.long
@pytest.mark.parametrize("name", HEADERS)
def test_functions_are_those_of_the_headers(name: str):
    """As many arguments, pointers and handles where we pass addresses."""
    module, pattern = HEADERS[name]
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", header_text(pattern), flags=re.DOTALL)
    for function, types in module.FUNCTIONS.items():
        declared = re.search(rf"\b{function}\s*\(([^;]*?)\)\s*;", text)
        assert declared is not None, function
        arguments = [one.strip() for one in declared.group(1).split(",")]
        assert len(arguments) == len(types), function
        for argument, kind in zip(arguments, types, strict=True):
            is_address = re.search(r"[*\[]", argument) or re.search(
                r"(Handle|Desc|Layout|Preference|Descriptor|Stream|cudaStream)_t\b", argument
            )
            is_pointer = kind is ctypes.c_void_p or "LP_" in kind.__name__
            assert bool(is_address) == is_pointer, (function, argument)
            if "int64_t" in argument or "size_t" in argument:
                assert is_pointer or ctypes.sizeof(kind) == 8, (function, argument)


@pytest.mark.long
def test_the_heuristics_structure_is_that_of_the_header():
    text = header_text("cublasLt.h")
    declared = re.search(r"typedef struct \{([^}]*)\} cublasLtMatmulHeuristicResult_t;", text)
    body = re.sub(r"/\*.*?\*/", "", declared.group(1), flags=re.DOTALL)
    found = [(kind, name) for kind, name in re.findall(r"(\w+) (\w+)(?:\[\d+\])?;", body)]
    kinds = ["cublasLtMatmulAlgo_t", "size_t", "cublasStatus_t", "float", "int"]
    assert found == list(zip(kinds, [n for n, _ in cublaslt.Heuristic._fields_], strict=True))
    assert re.search(r"uint64_t data\[8\];\s*\} cublasLtMatmulAlgo_t;", text)
    assert ctypes.sizeof(cublaslt.Heuristic) == 64 + 8 + 4 + 4 + 16


@pytest.mark.long
@pytest.mark.parametrize("name", HEADERS)
def test_the_real_library_takes_our_descriptors(name: str):
    """All that it does without a GPU: it has every function, tells its version, names its errors
    and makes descriptors. A handle it makes only for a device.
    """
    loaded = installed(name)
    module, _ = HEADERS[name]
    library = Library(name, loaded, module.FUNCTIONS)
    assert re.match(r"\d+\.\d+", library_version(name))
    kernel, _ = kernel_and_arrays(FORMS[0], "float32", "channels_last")
    if name == "cuBLASLt":
        assert library.version >= 120000
        assert library.status_name(15) == "CUBLAS_STATUS_NOT_SUPPORTED"
        kernel, _ = kernel_and_arrays(EXAMPLES[-2], "float32", "row_major")
    else:
        assert library.version >= 90000
        assert library.status_name(3000).startswith("CUDNN_STATUS_NOT_SUPPORTED")
    call = library_form(kernel, True).call
    if isinstance(call, MatrixProduct):
        call = replace(call, count=3, ending="bias+relu")
    operation = module._Operation(library, call)
    del operation
    gc.collect()
    try:
        made = {"cuBLASLt": cublaslt.CublasLt, "cuDNN": cudnn.Cudnn}[name](loaded)
    except NetError as error:
        assert "NOT_INITIALIZED" in str(error)  # there is no GPU
    else:
        assert made.version > 0
