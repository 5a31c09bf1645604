"""What NVIDIA's compilers say to the emitted text. They need no GPU.

NVRTC comes with the distributions nvidia-cuda-nvrtc and cuda-bindings, nvcc with the toolkit
or nvidia-cuda-nvcc, nvidia-cuda-crt, nvidia-cuda-runtime, nvidia-cuda-cccl and nvidia-nvvm.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import test_cuda_nets as nets
from test_cuda_contraction import long_table
from test_cuda_kernels import operators

import graphc
from graphc.codegen.cuda.compiler import find_nvcc, save
from graphc.codegen.cuda.main import main_text
from graphc.codegen.cuda.program import compile_cuda
from graphc.error import NetError
from graphc.runtime.nvcc import nvcc_path

ARCHITECTURES = ("sm_80", "sm_90")
MOST_REGISTERS = 168  # of a thread: 256 threads of such a kernel still fit a multiprocessor
# In double, a division, pow and the like are calls, around which registers go to the stack.
MOST_SPILLED = {"float": 0, "double": 32}


def nets_text(text: str) -> str:
    """A net's text, with the kernels that stand beside calls of libraries."""
    net = graphc.Net(text, phase=graphc.TRAIN)
    return compile_cuda(net.prepare().program, libraries="auto").text


def need_nvrtc() -> None:
    reason = "needs cuda-bindings and nvidia-cuda-nvrtc"
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc", reason=reason)
    try:
        nvrtc.nvrtcVersion()
    except RuntimeError as error:
        pytest.skip(f"{reason}: {str(error).splitlines()[0]}")


def nvrtc_log(text: str, architecture: str) -> str:
    """What NVRTC says; it must take the text."""
    from cuda.bindings import nvrtc

    status, program = nvrtc.nvrtcCreateProgram(text.encode(), b"net.cu", 0, [], [])
    assert status == nvrtc.nvrtcResult.NVRTC_SUCCESS
    options = [
        f"--gpu-architecture={architecture}".encode(),
        b"--std=c++17",
        b"--ptxas-options=-v",
    ]
    (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    _, size = nvrtc.nvrtcGetProgramLogSize(program)
    log = b" " * size
    nvrtc.nvrtcGetProgramLog(program, log)
    assert status == nvrtc.nvrtcResult.NVRTC_SUCCESS, log.decode()[:2000]
    return log.decode()


def check_resources(text: str, log: str) -> None:
    """No kernel keeps registers in memory, none takes too many."""
    kernels = dict(re.findall(r"^(k\d+_\w+)(\(.*?^\})", text, re.DOTALL | re.MULTILINE))
    reports = re.findall(
        r"entry function '(\w+)'.*?(\d+) bytes spill stores.*?Used (\d+) registers", log, re.DOTALL
    )
    assert {name for name, _, _ in reports} == set(kernels)
    for name, spilled, registers in reports:
        kind = "double" if "double" in kernels[name] else "float"
        assert int(spilled) <= MOST_SPILLED[kind], f"{name} spills {spilled} bytes"
        assert int(registers) <= MOST_REGISTERS, f"{name} takes {registers} registers"


@pytest.mark.long
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nvrtc_takes_every_operator(dtype: str, architecture: str):
    need_nvrtc()
    text = compile_cuda(operators(dtype)[0].program(), tf32=True).text
    check_resources(text, nvrtc_log(text, architecture))


@pytest.mark.long
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("tf32", [False, True], ids=["float32", "tf32"])
def test_nvrtc_takes_sums_in_parts(tf32: bool, architecture: str):
    need_nvrtc()
    text = compile_cuda(long_table(tf32)[0].program(), tf32=tf32).text
    assert "_sum(" in text
    check_resources(text, nvrtc_log(text, architecture))


@pytest.mark.long
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("net", ["LENET", "INCEPTION", "CAFFENET"])
def test_nvrtc_takes_whole_nets(net: str, architecture: str):
    need_nvrtc()
    text = nets_text(getattr(nets, net))
    check_resources(text, nvrtc_log(text, architecture))


@pytest.mark.long
@pytest.mark.skipif(nvcc_path() is None, reason="needs nvcc of the CUDA toolkit")
def test_nvcc_takes_the_whole_text(tmp_path: Path):
    text = nets_text(nets.LENET)
    save(text, tmp_path / "lenet.cubin", "cubin", "sm_90")
    assert (tmp_path / "lenet.cubin").read_bytes().startswith(b"\x7fELF")
    save(text, tmp_path / "lenet.ptx", "ptx")
    assert ".target sm_80" in (tmp_path / "lenet.ptx").read_text()
    with pytest.raises(NetError, match=r"nvcc fails: .*error"):
        save(text.replace("float", "flaot"), tmp_path / "wrong.ptx", "ptx")


@pytest.mark.long
@pytest.mark.skipif(nvcc_path() is None, reason="needs nvcc of the CUDA toolkit")
def test_nvcc_links_a_program(tmp_path: Path):
    net, program = graphc.Net(nets.LENET, phase=graphc.TRAIN), tmp_path / "lenet"
    save(main_text(compile_cuda(net.prepare().program)), program, "exe")
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")


def test_nvcc_of_pip_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    for version in ("cu12", "cu13"):
        program = tmp_path / "nvidia" / version / "bin" / "nvcc"
        program.parent.mkdir(parents=True)
        program.touch(0o755)
    assert nvcc_path() == str(program)


def test_architecture_and_compiler_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(NetError, match="written sm_80 or sm_90, not 'hopper'"):
        save("", tmp_path / "x", "ptx", "hopper")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setattr("graphc.runtime.nvcc._of_pip", list)
    with pytest.raises(NetError, match="needs nvcc"):
        find_nvcc()
    save("// text", tmp_path / "x.cu", "cuda")
    assert (tmp_path / "x.cu").read_text() == "// text"
