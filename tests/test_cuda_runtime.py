"""The pycuda executor: what it says where something is missing, and, on memory of this process in
place of a GPU's, that it copies, launches and reads back what the launch plan says."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from cuda_programs import needs_compiler
from stand_in_gpu import StandIn
from test_cuda_nets import INCEPTION, LENET, everything

import graphc
from graphc.error import NetError
from graphc.runtime import cuda, cuda_graph


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
def test_executor_runs_the_plan(text: str, stand_in: StandIn):
    wanted = everything(graphc.Net(text, phase=graphc.TRAIN, seed=3, target="cuda-emulator"))
    got = everything(graphc.Net(text, phase=graphc.TRAIN, seed=3, target="cuda"))
    assert stand_in.launched and list(got) == list(wanted)
    for name, array in wanted.items():
        np.testing.assert_array_equal(got[name], array, name)


@needs_compiler
def test_inner_blobs_and_checks(stand_in: StandIn):
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
def test_too_little_memory_is_one_line(stand_in: StandIn):
    net = graphc.Net(LENET, target="cuda")
    stand_in.room = 100  # less than the arena takes
    with pytest.raises(NetError, match=r"the GPU has no .* GiB for 'LeNet': out of memory"):
        net.forward()
    arena = net.compilations.planned(net.compilations.default()).program.arena_bytes
    stand_in.room = 100 + arena
    with pytest.raises(NetError, match=r"the GPU has no .* GiB for 'LeNet': out of memory"):
        net.forward()


def test_missing_driver_is_one_line(monkeypatch: pytest.MonkeyPatch):
    """pycuda is there, and does not load without the driver's library."""

    class NoDriver:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name.startswith("pycuda"):
                raise ImportError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(sys, "meta_path", [NoDriver(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "pycuda", raising=False)
    monkeypatch.delitem(sys.modules, "pycuda.driver", raising=False)
    cuda.device.cache_clear()
    with pytest.raises(NetError, match=r"target 'cuda' needs NVIDIA's driver, .*libcuda") as caught:
        cuda.device()
    assert "\n" not in str(caught.value)


def test_missing_pycuda_is_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pycuda", None)
    cuda.device.cache_clear()
    net = graphc.Net(LENET, target="cuda")
    with pytest.raises(NetError, match=r"target 'cuda' needs pycuda .*pip install"):
        net.forward()
