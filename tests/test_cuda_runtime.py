"""The pycuda executor: what it says where something is missing, and, on memory of this process in
place of a GPU's, that it copies, launches and reads back what the launch plan says."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cuda_programs import needs_compiler
from test_cuda_kernels import operators
from test_cuda_nets import INCEPTION, LENET, everything

import graphc
from graphc.codegen.cuda.program import compile_cuda
from graphc.error import NetError
from graphc.runtime import cuda, cuda_graph, emulator
from graphc.runtime.cuda import CudaExecutable
from graphc.runtime.launch import CudaBundle, Launch


class Allocation:
    """Memory as pycuda.driver.DeviceAllocation; it begins as nans."""

    def __init__(self, size: int):
        self.raw = np.full(size + 256, 0xFF, np.uint8)
        self.address = self.raw.ctypes.data + -self.raw.ctypes.data % 256

    def __int__(self) -> int:
        return self.address


class StandIn:
    """pycuda.driver as far as the executor uses it; kernels run in the emulator's library."""

    class Error(Exception):
        pass

    def __init__(self, bundle: CudaBundle):
        self.bundle = bundle
        self.library = ctypes.CDLL(str(emulator.build(bundle.text)))
        self.allocations: list[Allocation] = []
        self.largest = 2**40

    class Stream:
        handle = 7

        def synchronize(self) -> None:
            pass

    @staticmethod
    def pagelocked_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        return np.full(shape, 0x55, dtype)

    def mem_alloc(self, size: int) -> Allocation:
        assert size > 0, "pycuda cannot allocate nothing"
        if size > self.largest:
            raise StandIn.Error("out of memory")
        self.allocations.append(Allocation(size))
        return self.allocations[-1]

    def memcpy_htod_async(self, target: Any, array: np.ndarray, stream: Any) -> None:
        ctypes.memmove(int(target), array.ctypes.data, array.nbytes)

    def memcpy_dtoh_async(self, array: np.ndarray, source: Any, stream: Any) -> None:
        ctypes.memmove(array.ctypes.data, int(source), array.nbytes)

    def memcpy_dtoh(self, array: np.ndarray, source: Any) -> None:
        ctypes.memmove(array.ctypes.data, int(source), array.nbytes)

    def memset_d8_async(self, target: Any, value: int, count: int, stream: Any) -> None:
        ctypes.memset(int(target), value, count)

    def get_function(self, name: str) -> Function:
        assert name in self.bundle.text
        return Function(self, name)


class Function:
    """A kernel: its launches must be those of the plan."""

    def __init__(self, driver: StandIn, name: str):
        self.driver = driver
        self.name = name

    def prepare(self, types: str) -> None:
        self.types = types

    def prepared_async_call(
        self, grid: Any, block: Any, stream: Any, *arguments: int, shared_size: int
    ) -> None:
        *memory, error = self.driver.allocations[: len(self.driver.bundle.slots) + 1]
        assert len(arguments) == len(self.types)
        given = (self.name, grid, block, shared_size, arguments)
        numbers = [
            number
            for number, launch in enumerate(self.driver.bundle.launches)
            if given == self._as_planned(launch, memory, error)
        ]
        assert numbers, f"no step launches {given}"
        table = (ctypes.c_void_p * len(memory))(*map(int, memory))
        failed = self.driver.library.graphc_run(
            table, numbers[0], numbers[0] + 1, ctypes.c_void_p(int(error)), None
        )
        assert failed == 0

    def _as_planned(
        self, launch: Launch, memory: list[Allocation], error: Allocation
    ) -> tuple[Any, ...]:
        arguments = [int(memory[slot]) + offset for slot, offset in launch.places]
        if launch.first_check is not None:
            arguments += [int(error), launch.first_check]
        grid, block = (launch.grid, 1), (launch.threads, 1, 1)
        return launch.kernel, grid, block, launch.shared_bytes, tuple(arguments)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[StandIn]:
    made: list[StandIn] = []
    monkeypatch.setattr(cuda_graph, "_bindings", lambda: None)

    def load(bundle: CudaBundle) -> CudaExecutable:
        made.append(StandIn(bundle))
        return CudaExecutable(bundle, made[-1], made[-1])

    monkeypatch.setattr(cuda, "load", load)
    return made


class Bindings:
    """cuda.bindings.driver as far as graphs go: what is issued during a capture is noted."""

    class CUstreamCaptureMode:
        CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.refused = ""

    def __getattr__(self, name: str) -> Any:
        def ask(*arguments: Any) -> tuple[Any, ...]:
            self.asked.append(name)
            return (1 if name == self.refused else 0, f"result of {name}")

        return ask


@pytest.fixture
def bindings(monkeypatch: pytest.MonkeyPatch) -> Bindings:
    made = Bindings()
    monkeypatch.setattr(cuda_graph, "_bindings", lambda: made)
    return made


def test_second_time_is_captured_and_later_ones_replayed(bindings: Bindings):
    issued: list[str] = []
    capture = cuda_graph.GraphCapture(StandIn.Stream())
    for _ in range(4):
        capture.run("forward", lambda: issued.append("forward"))
    capture.run("both", lambda: issued.append("both"))
    assert issued == ["forward", "forward", "both"]
    captured = ["cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate"]
    assert bindings.asked == [*captured, "cuGraphDestroy", *["cuGraphLaunch"] * 3]
    bindings.refused = "cuGraphLaunch"
    with pytest.raises(NetError, match="cuGraphLaunch fails on the GPU: 1"):
        capture.run("forward", lambda: None)


def test_capture_ends_where_issuing_fails(bindings: Bindings):
    capture = cuda_graph.GraphCapture(StandIn.Stream())
    capture.run("forward", lambda: None)

    def fail() -> None:
        raise NetError("no launch")

    with pytest.raises(NetError, match="no launch"):
        capture.run("forward", fail)
    assert bindings.asked == ["cuStreamBeginCapture", "cuStreamEndCapture"]


@needs_compiler
@pytest.mark.parametrize("text", [LENET, INCEPTION])
def test_executor_runs_the_plan(text: str, stand_in: list[StandIn]):
    wanted = everything(graphc.Net(text, phase=graphc.TRAIN, seed=3, target="cuda-emulator"))
    got = everything(graphc.Net(text, phase=graphc.TRAIN, seed=3, target="cuda"))
    assert stand_in and list(got) == list(wanted)
    for name, array in wanted.items():
        np.testing.assert_array_equal(got[name], array, name)


@needs_compiler
def test_inner_blobs_and_checks(stand_in: list[StandIn]):
    nets = [
        graphc.Net(LENET, phase=graphc.TEST, seed=3, keep=["conv2"], target=target)
        for target in ("cpu", "cuda")
    ]
    for net in nets:
        net.blobs["data"].data[...] = np.random.default_rng(0).standard_normal((6, 1, 28, 28))
        net.forward()
    one, other = (net.blobs["conv2"].data for net in nets)
    np.testing.assert_allclose(other, one, atol=1e-5)
    nets[1].blobs["label"].data[0] = -1
    with pytest.raises(NetError, match="found -1"):
        nets[1].forward()
    nets[1].blobs["label"].data[0] = 0
    nets[1].forward()


@needs_compiler
def test_too_little_memory_is_one_line(stand_in: list[StandIn]):
    net = graphc.Net(LENET, target="cuda")
    made = graphc.Net(LENET, target="cuda-emulator").compilation()
    bundle = made.executable.bundle
    small = StandIn(bundle)
    small.largest = 100
    with pytest.raises(NetError, match=r"the GPU has no .* GiB for 'LeNet': out of memory"):
        CudaExecutable(replace(bundle), small, small)
    assert net.name == "LeNet"


def test_missing_pycuda_is_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pycuda", None)
    cuda.device.cache_clear()
    net = graphc.Net(LENET, target="cuda")
    with pytest.raises(NetError, match=r"target 'cuda' needs pycuda .*pip install"):
        net.forward()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_gpu_runs_every_operator(dtype: str):
    pytest.importorskip("pycuda", reason="needs pycuda and a GPU")
    table, runs = operators(dtype)
    executable = cuda.load(compile_cuda(table.program()))
    table.fill(executable)
    executable.call("forward")
    emulated = table.results(0)
    limit = {"float32": 1e-5, "float64": 1e-12}[dtype]
    for found in runs.values():
        for name in (name for names in found.values() for name in names):
            wanted = emulated[name]
            scale = float(np.abs(wanted[np.isfinite(wanted)]).max(initial=1e-30))
            atol = limit * scale if wanted.dtype.kind == "f" else 0
            np.testing.assert_allclose(executable.read(name), wanted, rtol=0, atol=atol)


@pytest.mark.gpu
def test_a_gpu_gives_what_the_emulator_gives():
    pytest.importorskip("pycuda", reason="needs pycuda and a GPU")
    for text in (LENET, INCEPTION):
        wanted = everything(graphc.Net(text, phase=graphc.TRAIN, seed=3))
        got = everything(graphc.Net(text, phase=graphc.TRAIN, seed=3, target="cuda"))
        for name, array in wanted.items():
            scale = max(1e-30, float(np.abs(array).max()))
            np.testing.assert_allclose(got[name], array, rtol=0, atol=5e-5 * scale, err_msg=name)
