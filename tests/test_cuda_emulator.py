"""The emulator finds what a GPU would forgive: bugs planted in CUDA text are reported."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import test_llvm_program
from cuda_programs import needs_compiler
from native_programs import Assembly
from test_cuda_contraction import long_table
from test_cuda_kernels import operators
from test_cuda_nets import LENET, fill

import graphc
from graphc.codegen.cuda.main import file_name, main_text
from graphc.codegen.cuda.prelude import PRELUDE
from graphc.codegen.cuda.program import compile_cuda
from graphc.error import NetError
from graphc.runtime import emulator
from graphc.runtime.emulator import EmulatedExecutable, load
from graphc.runtime.launch import CudaBundle

pytestmark = needs_compiler

ROWS, COLUMNS = 5, 400
SIDE = 70

# Kernels with one bug each, and one without. Each is launched with one block of 64 threads on
# `x`, 64 floats that hold 1, 2, 3 ...
BUGS = r"""
extern "C" __global__ void fine(Buffer<float> x) {
  const Tile<float> shared = tile<float>(0, 64);
  shared[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  x[threadIdx.x] = shared[63 - threadIdx.x];
}
extern "C" __global__ void no_barrier(Buffer<float> x) {
  const Tile<float> shared = tile<float>(0, 64);
  shared[threadIdx.x] = x[threadIdx.x];
  x[threadIdx.x] = shared[63 - threadIdx.x];
}
extern "C" __global__ void barrier_of_some(Buffer<float> x) {
  if (threadIdx.x < 40) __syncthreads();
  x[threadIdx.x] = 0.0f;
}
extern "C" __global__ void two_barriers(Buffer<float> x) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  x[threadIdx.x] = 0.0f;
}
extern "C" __global__ void exchange_of_some(Buffer<float> x) {
  if (threadIdx.x % 32 != 5) x[threadIdx.x] = __shfl_xor_sync(0xffffffffu, x[threadIdx.x], 1);
}
extern "C" __global__ void part_of_a_mask(Buffer<float> x) {
  x[threadIdx.x] = __shfl_xor_sync(0x0000ffffu, x[threadIdx.x], 1);
}
extern "C" __global__ void past_the_end(Buffer<float> x) { x[threadIdx.x + 1] = 0.0f; }
extern "C" __global__ void before_the_start(Buffer<float> x) {
  x[threadIdx.x] = x[(int)threadIdx.x - 1];
}
extern "C" __global__ void past_shared(Buffer<float> x) {
  const Tile<float> shared = tile<float>(0, 64);
  x[threadIdx.x] = shared[threadIdx.x + 32];
}
extern "C" __global__ void unwritten_shared(Buffer<float> x) {
  x[threadIdx.x] = tile<float>(0, 64)[threadIdx.x];
}
"""
NAMES = re.findall(r"void (\w+)\(", BUGS)
COMPLAINTS = {
    "barrier_of_some": "waits at the barrier of line",
    "two_barriers": "comes to the barrier of line",
    "exchange_of_some": "waits at the exchange of line",
    "part_of_a_mask": "has not all lanes in its mask",
    "past_the_end": "index 64 of x is outside of its 64 elements",
    "before_the_start": "index -1 of x is outside of its 64 elements",
    "past_shared": "index 64 of shared memory is outside of its 64 elements",
}


@pytest.fixture(scope="module")
def planted() -> EmulatedExecutable:
    """A program whose steps are the kernels of BUGS."""
    made = Assembly("planted")
    made.user("x", 64, role="state")
    cases = "\n".join(
        f"""    case {number}: {{
      Buffer<float> x = placed<float>(slots[1], 0, 64, "x");
      void* arguments[] = {{&x}};
      return cudaLaunchKernel({name}, dim3(1), dim3(64), arguments, 256, stream);
    }}"""
        for number, name in enumerate(NAMES)
    )
    bundle = compile_cuda(made.program())
    host = bundle.text[bundle.text.index("#ifndef __CUDACC_RTC__  // what follows") :]
    text = PRELUDE + BUGS + host.replace("switch (step) {", "switch (step) {\n" + cases, 1)
    step = compile_cuda(one_step()).steps[0]
    return load(replace(bundle, text=text, steps=(step,) * len(NAMES)))


def one_step() -> object:
    def copy(k, x, y):
        (i,) = k.each(64)
        y[i] = x[i]

    made = Assembly("one")
    made.user("x", 64)
    made.user("y", 64, role="output")
    made.step(copy, ["x"], ["y"])
    return made.program()


def run(executable: EmulatedExecutable, name: str, seed: int = 0) -> np.ndarray:
    x = executable.bind_new()["x"]
    x[...] = np.arange(1, 65)
    executable.seed = seed
    executable.step(NAMES.index(name))
    return x


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("name", sorted(COMPLAINTS))
def test_planted_bug_is_named(planted: EmulatedExecutable, name: str, seed: int):
    with pytest.raises(NetError, match=re.escape(f"kernel {name}, block 0")) as caught:
        run(planted, name, seed)
    if seed == 0 or "outside" not in COMPLAINTS[name]:  # at random another thread may be first
        assert COMPLAINTS[name] in str(caught.value)
    np.testing.assert_array_equal(run(planted, "fine", seed), np.arange(64, 0, -1))


def test_missing_barrier_shows(planted: EmulatedExecutable):
    wanted = np.arange(64, 0, -1)
    for seed in (0, 3, 4):
        assert not np.array_equal(run(planted, "no_barrier", seed), wanted)
        np.testing.assert_array_equal(run(planted, "fine", seed), wanted)


def test_shared_memory_begins_as_nans(planted: EmulatedExecutable):
    run(planted, "fine")
    assert np.isnan(run(planted, "unwritten_shared")).all()


# -- the generated kernels need their barriers ----------------------------------------------------


def softmax(k, x, y):
    (row,) = k.each(ROWS)
    c = k.axis(COLUMNS)
    top = k.max(c, x[row, c])
    mass = k.sum(c, k.exp(x[row, c] - top))
    y[row, c] = k.exp(x[row, c] - top) / mass


def product(k, a, b, c):
    i, j = k.each(SIDE, SIDE)
    s = k.axis(SIDE)
    c[i, j] = k.sum(s, a[i, s] * b[s, j])


def backwards(k, x, y, z):
    """A second store reads what other threads have stored."""
    (row,) = k.each(ROWS)
    c, d = k.axes(COLUMNS, COLUMNS)
    y[row, c] = x[row, c] * 2.0
    z[row, d] = y[row, (COLUMNS - 1) - d] + 1.0


def extremes(k, x, high, low):
    """Where a row is largest, then where it is smallest."""
    (row,) = k.each(ROWS)
    c, d = k.axes(COLUMNS, COLUMNS)
    _, first = k.argmax(c, x[row, c], c)
    _, last = k.argmin(d, x[row, d], d)
    high[row] = first
    low[row] = last


def barriers_program(tf32: bool) -> CudaBundle:
    made = Assembly("barriers")
    for name in ("x", "soft", "double", "turned"):
        made.user(name, ROWS, COLUMNS, role="input" if name == "x" else "output")
    for name in ("a", "b", "c"):
        made.user(name, SIDE, SIDE, role="output" if name == "c" else "input")
    for name in ("high", "low"):
        made.user(name, ROWS, dtype="int64", role="output")
    made.step(softmax, ["x"], ["soft"])
    made.step(product, ["a", "b"], ["c"])
    made.step(backwards, ["x"], ["double", "turned"])
    made.step(extremes, ["x"], ["high", "low"])
    return compile_cuda(made.program(), tf32)


def all_right(executable: EmulatedExecutable, seed: int, tf32: bool) -> bool:
    rng = np.random.default_rng(0)
    arrays = executable.bind_new()
    for name in ("x", "a", "b"):
        arrays[name][...] = rng.standard_normal(arrays[name].shape)
    executable.seed = seed
    executable.call("both")
    x = arrays["x"].astype(np.float64)
    soft = np.exp(x - x.max(1, keepdims=True))
    soft /= soft.sum(1, keepdims=True)
    pairs = (
        (arrays["soft"], soft),
        (arrays["c"], arrays["a"].astype(np.float64) @ arrays["b"]),
        (arrays["turned"], 2 * x[:, ::-1] + 1),
        (arrays["high"], x.argmax(1)),
        (arrays["low"], x.argmin(1)),
    )
    tolerance = 0.05 if tf32 else 1e-4
    return all(np.allclose(got, wanted, rtol=0, atol=tolerance) for got, wanted in pairs)


@pytest.mark.parametrize("tf32", [False, True], ids=["float32", "tf32"])
def test_every_barrier_of_generated_text_is_needed(tf32: bool):
    """So is every wait for copies, and the mark at the end of those that are waited for."""
    bundle = barriers_program(tf32)
    whole = load(bundle)
    assert all(all_right(whole, seed, tf32) for seed in (0, 1, 2))
    kernels = bundle.text.index(PRELUDE) + len(PRELUDE)
    meetings = r"__syncthreads\(\);|wait_for_copies<\d>\(\);|end_of_copies\(\);"
    places = [*re.finditer(meetings, bundle.text)]
    assert sum(place.start() > kernels for place in places) >= 5
    caught = []
    for place in places:
        text = bundle.text[: place.start()] + bundle.text[place.end() :]
        less = load(replace(bundle, text=text))
        caught.append(not all(all_right(less, seed, tf32) for seed in (1, 2, 3, 4)))
    assert all(caught), f"{[p[0] for p, c in zip(places, caught, strict=True) if not c]}"


def test_arena_begins_as_nans():
    made = Assembly("arena")
    made.user("y", 64, role="output")
    made.inner("h", 64)

    def copy(k, x, y):
        (i,) = k.each(64)
        y[i] = x[i]

    made.step(copy, ["h"], ["y"])
    executable = load(compile_cuda(made.program()))
    arrays = executable.bind_new()
    executable.call("both")
    assert np.isnan(arrays["y"]).all()


# -- building -------------------------------------------------------------------------------------


def test_missing_compiler_is_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(NetError, match="needs a C\\+\\+ compiler, and 'no-such-compiler'"):
        load(compile_cuda(one_step()))


def test_text_that_does_not_compile_is_refused():
    with pytest.raises(NetError, match="the C\\+\\+ compiler refuses"):
        emulator.build("this is no C++")


def test_libraries_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("GRAPHC_CACHE", str(folder))
    bundle = compile_cuda(one_step())
    first = emulator.build(bundle.text)
    assert [first] == list(folder.iterdir())
    assert folder.stat().st_mode & 0o777 == 0o700
    written = first.stat().st_mtime_ns
    assert emulator.build(bundle.text) == first
    assert first.stat().st_mtime_ns == written
    assert emulator.build(bundle.text + "// another\n") != first
    assert ctypes.CDLL(os.fspath(first)).graphc_run


# -- the program around a text --------------------------------------------------------------------


def build_main(bundle: CudaBundle, program: Path, *flags: str) -> None:
    source = program.with_suffix(".cpp")
    source.write_text(main_text(bundle))
    command = [*emulator.compiler(), "-std=c++17", "-O1", "-w", *flags, "-include"]
    command += [str(emulator.HEADER), str(source), "-o", str(program)]
    subprocess.run(command, check=True)


def run_main(program: Path, *words: str) -> subprocess.CompletedProcess[str]:
    # The program leaves its memory to the system when it ends.
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    return subprocess.run(
        [program, *words], capture_output=True, text=True, check=False, env=environment
    )


@pytest.fixture(scope="module")
def main_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("main") / "net"
    build_main(compile_cuda(test_llvm_program.example()), program)
    return program


def write_inputs(folder: Path) -> np.ndarray:
    """Files of the example's inputs; its loss."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((test_llvm_program.ROWS, test_llvm_program.CLASSES)).astype("f")
    label = rng.integers(0, test_llvm_program.CLASSES, test_llvm_program.ROWS).astype("f")
    np.save(folder / "x.npy", x)
    np.save(folder / "label.npy", label)
    return test_llvm_program.wanted({"x": x, "label": label}).sum()


def test_main_reads_and_writes_files(main_program: Path, tmp_path: Path):
    loss = write_inputs(tmp_path)
    done = run_main(main_program, str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    got = np.load(tmp_path / "loss.npy")
    assert (got.shape, got.dtype) == ((), np.float32)
    assert abs(float(got) - loss) < 1e-5 * loss


def test_main_refuses(main_program: Path, tmp_path: Path):
    assert run_main(main_program).returncode == 2
    missing = run_main(main_program, str(tmp_path))
    assert (missing.returncode, missing.stderr) == (1, f"error: cannot read {tmp_path}/x.npy\n")
    write_inputs(tmp_path)
    np.save(tmp_path / "label.npy", np.zeros(7, "f"))
    assert "needed is {'descr':'<f4'" in run_main(main_program, str(tmp_path)).stderr
    np.save(tmp_path / "label.npy", np.full(test_llvm_program.ROWS, 99, "f"))
    assert (
        "the label is not within 0 .. 9; found 99" in run_main(main_program, str(tmp_path)).stderr
    )


def test_main_of_a_net(tmp_path: Path):
    """LeNet with all its gradients, from files to files: what the processor's program gives."""
    net = graphc.Net(LENET, phase=graphc.TRAIN, seed=3)
    fill(net, 0)
    compiled = net.prepare()
    before = {name: array.copy() for name, array in net.values().items()}
    gradients = net.forward_backward()
    bundle = compile_cuda(compiled.program)
    assert any(launch.follower for launch in bundle.launches)
    for slot in bundle.slots[1:]:
        if slot.role not in ("output", "gradient"):
            known = {**before, **net.arrays.inputs}
            array = known.get(slot.name, np.zeros(slot.shape, slot.dtype))
            np.save(tmp_path / file_name(slot.name), array)
    build_main(bundle, tmp_path / "net")
    done = run_main(tmp_path / "net", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert abs(np.load(tmp_path / "loss.npy") - net.blobs["loss"].data) < 1e-5
    checked = 0
    for layer, blobs in net.params.items():
        for place, blob in enumerate(blobs):
            found = np.load(tmp_path / file_name(f"{layer}/{place}.diff"))
            scale = max(1e-30, float(np.abs(blob.diff).max()))
            np.testing.assert_allclose(found, blob.diff, atol=5e-5 * scale)
            checked += 1
    assert checked == 8 and not gradients


@pytest.mark.long
@pytest.mark.parametrize("name", ["operators", "parts", "parts by tensor cores"])
def test_sanitizers_find_nothing(name: str, tmp_path: Path):
    """Every operator's kernel under the address and undefined-behaviour sanitizers."""
    table = operators("float32")[0] if name == "operators" else long_table("tensor" in name)[0]
    flags = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g")
    bundle = compile_cuda(table.program(), table.tf32)
    folder = tmp_path / "arrays"
    folder.mkdir()
    executable = load(bundle)
    table.fill(executable)
    for name, array in executable.arrays.items():
        np.save(folder / f"{name}.npy", array)
    build_main(bundle, tmp_path / "net", *flags)
    done = run_main(tmp_path / "net", str(folder))
    assert done.returncode == 0, done.stderr
    assert "ERROR" not in done.stderr and "runtime error" not in done.stderr
