"""The same tables on a GPU: what the emulator gives, and what NVIDIA's sanitizer says.

The tests marked `gpu` need a device, pycuda and nvcc, and skip where one is missing. What they run
is run here on the stand-in too, so that nothing but the device is new on the day there is one.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cuda_programs import KernelTable, needs_compiler
from stand_in_gpu import StandIn
from stand_in_libraries import StandInLibraries
from test_cli_options import graphc
from test_cuda_arrays import solver, train
from test_cuda_contraction import long_table, table
from test_cuda_kernels import operators
from test_cuda_nets import CAFFENET, INCEPTION, INFOGAIN, LENET, everything

import graphc as package
from graphc.codegen.cuda.compiler import save
from graphc.codegen.cuda.main import main_text
from graphc.codegen.cuda.program import compile_cuda
from graphc.error import NetError
from graphc.runtime import cuda, library_steps
from graphc.runtime.cpu import Executable
from graphc.runtime.launch import CudaBundle, LibraryChoice
from graphc.runtime.library_trial import TOLERANCES

pytestmark = needs_compiler

Load = Callable[[CudaBundle], Executable]
TABLES: dict[str, Callable[[], KernelTable]] = {
    "operators in float32": lambda: operators("float32")[0],
    "operators in float64": lambda: operators("float64")[0],
    "contractions": lambda: table()[0],
    "tensor cores": lambda: table(tf32=True)[0],
    "sums in parts": lambda: long_table(False)[0],
    "sums in parts by tensor cores": lambda: long_table(True)[0],
}
# The same additions in the same order, but for what a compiler or a tensor core rounds otherwise.
LIMITS = {"float32": 1e-5, "float64": 1e-12}
SANITIZER = "compute-sanitizer"


@pytest.fixture
def device() -> Load:
    """What loads a program on the GPU; skips where there is none."""
    try:
        cuda.device()
    except NetError as error:
        pytest.skip(str(error))
    if shutil.which("nvcc") is None:
        pytest.skip("needs nvcc of the CUDA toolkit")
    return cuda.load


def check_table(made: KernelTable, load: Load, libraries: LibraryChoice = "off") -> Executable:
    """Every buffer after every step is what the emulator leaves there."""
    executable = load(compile_cuda(made.program(), made.tf32, made.gpu, libraries))
    made.fill(executable)
    executable.call("forward")
    wanted = made.results(0)
    limits = LIMITS if libraries == "off" else TOLERANCES
    for name, array in wanted.items():
        scale = float(np.abs(array[np.isfinite(array)]).max(initial=1e-30))
        limit = limits.get(str(array.dtype), 0) * scale
        got = executable.read(name)
        np.testing.assert_allclose(got, array, rtol=0, atol=limit, err_msg=name)
    return executable


def check_libraries(name: str, load: Load) -> None:
    """Calls of libraries leave what the emulator leaves, and stand for every step they can do."""
    executable = check_table(TABLES[name](), load, "on")
    said = [sentence for _, sentence in executable.decisions]
    assert sum("runs as a call of" in sentence for sentence in said) >= len(said) // 2 > 0, said


def check_net(text: str) -> None:
    """Two steps of a net, the second one a replay: what the processor gives."""
    phase = package.TEST if text is INFOGAIN else package.TRAIN
    wanted = everything(package.Net(text, phase=phase, seed=3))
    got = everything(package.Net(text, phase=phase, seed=3, target="cuda"))
    assert list(got) == list(wanted)
    for name, array in wanted.items():
        scale = max(1e-30, float(np.abs(array).max()))
        np.testing.assert_allclose(got[name], array, rtol=0, atol=5e-5 * scale, err_msg=name)


def check_training(folder: Path) -> None:
    """Five iterations, of which the last ones replay a graph: losses and parameters."""
    one, other = (solver(target, folder) for target in ("cuda", "cpu"))
    np.testing.assert_allclose(train(one, range(5)), train(other, range(5)), rtol=1e-4)
    for name, array in other.net.values().items():
        atol = 1e-4 * max(1e-30, float(np.abs(array).max()))
        np.testing.assert_allclose(one.net.values()[name], array, rtol=0, atol=atol, err_msg=name)


def check_figures(net: Path) -> None:
    """`graphc bench net` and `graphc profile` on the device give figures that can be."""
    words = (net, "--mode", "train", "--target", "cuda", "--seconds", "0", "--json")
    for verb in (("bench", "net"), ("profile",)):
        result = graphc(*verb, *words)
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)
        assert found["limits"]["copy_bytes"] > 0 and found["limits"]["fma_flops"] > 0
        times = found.get("steps") or found["results"]
        assert times


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.prototxt"
    path.write_text(LENET)
    return path


# -- on the stand-in ------------------------------------------------------------------------------


def test_stand_in_runs_a_table(stand_in: StandIn):
    check_table(TABLES["sums in parts"](), cuda.load)


def test_stand_in_runs_a_net(stand_in: StandIn):
    check_net(INFOGAIN)


def test_stand_in_trains(stand_in: StandIn, tmp_path: Path):
    check_training(tmp_path)


def test_stand_in_gives_figures(stand_in: StandIn, net: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("graphc.bench.device.BLOCK_BYTES", 1 << 16)
    check_figures(net)


def test_stand_in_runs_calls_of_libraries(libraries: StandInLibraries):
    check_libraries("sums in parts", cuda.load)


# -- on a GPU -------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("name", TABLES)
def test_a_gpu_gives_what_the_emulator_gives(name: str, device: Load):
    check_table(TABLES[name](), device)


@pytest.mark.gpu
@pytest.mark.parametrize("text", [LENET, INCEPTION, INFOGAIN, CAFFENET])
def test_a_gpu_runs_nets(text: str, device: Load):
    check_net(text)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["contractions", "sums in parts"])
def test_a_gpu_runs_calls_of_libraries(name: str, device: Load):
    if not library_steps.is_any_installed():
        pytest.skip("needs cuBLASLt or cuDNN")
    check_libraries(name, device)


@pytest.mark.gpu
def test_a_gpu_trains(device: Load, tmp_path: Path):
    check_training(tmp_path)


@pytest.mark.gpu
def test_a_gpu_gives_figures(device: Load, net: Path):
    check_figures(net)


@pytest.mark.gpu
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
@pytest.mark.parametrize("name", ["operators in float32", "sums in parts by tensor cores"])
def test_sanitizer_finds_nothing(name: str, tool: str, device: Load, tmp_path: Path):
    """The program with a main of its own, so that the sanitizer sees nothing but our kernels."""
    if shutil.which(SANITIZER) is None:
        pytest.skip(f"needs {SANITIZER} of the CUDA toolkit")
    made = TABLES[name]()
    folder, program = tmp_path / "arrays", tmp_path / "net"
    folder.mkdir()
    bundle = compile_cuda(made.program(), made.tf32, made.gpu)
    executable = device(bundle)
    made.fill(executable)
    for slot, array in executable.arrays.items():
        np.save(folder / f"{slot}.npy", array)
    save(main_text(bundle), program, "exe")
    command = [SANITIZER, "--tool", tool, "--error-exitcode", "9", str(program), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
