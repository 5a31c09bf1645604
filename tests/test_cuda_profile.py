"""`graphc profile`, `bench net` and `train` with a GPU as their target, on the stand-in."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cuda_programs import needs_compiler
from mat_nets import chain
from stand_in_gpu import LAUNCH_SECONDS, StandIn
from test_cli_options import SAMPLES, graphc
from test_cuda_nets import LENET

import graphc as package
from graphc.bench import device, operator_table
from graphc.bench.torch_place import Gpu
from graphc.runtime import cuda_graph

pytestmark = needs_compiler


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits of a GPU are measured on few bytes."""
    monkeypatch.setattr(device, "BLOCK_BYTES", 1 << 16)
    device._sweep.cache_clear()


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "lenet.prototxt"
    path.write_text(LENET)
    return path


def test_every_step_is_timed_by_the_gpus_clock(stand_in: StandIn):
    made = package.Net(LENET, phase=package.TRAIN, seed=3, target="cuda")
    compiled = made.prepare()
    made.forward()
    times = compiled.executable.timed_call("both")
    assert len(times.steps) == len(compiled.program.steps)
    launches = [1 + (launch.follower is not None) for launch in compiled.executable.bundle.launches]
    np.testing.assert_allclose(times.steps, np.multiply(launches, LAUNCH_SECONDS), rtol=1e-9)
    assert times.starting >= 0
    with pytest.raises(package.NetError, match="timed by its own clock"):
        compiled.executable.timed_call("both", 1, 3)


def test_a_profile_names_layers(stand_in: StandIn, net: Path):
    words = ("profile", net, "--mode", "train", "--target", "cuda", "--seconds", "0")
    result = graphc(*words, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert {"conv1", "ip2", "loss"} <= set(found["layers"])
    times = [step["seconds"] for step in found["steps"]]
    assert min(times) == pytest.approx(LAUNCH_SECONDS)
    assert found["limits"]["fma_flops"] == 2 * 128 * 132 * 1.98e9
    assert found["limits"]["copy_bytes"] == pytest.approx(2 * (1 << 16) / LAUNCH_SECONDS)
    assert "limits of the GPU" in graphc(*words).stdout


def test_a_net_is_measured(stand_in: StandIn, net: Path):
    words = ("bench", "net", net, "--mode", "train", "--target", "cuda", "--seconds", "0")
    result = graphc(*words, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["machine"]["gpu"] == "stand-in (sm_90)"
    assert found["results"][0]["seconds"]["median"] > 0
    assert "stand-in (sm_90)" in graphc(*words).stdout


def test_operators_are_measured(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch):
    small = operator_table.Sizes((), 1, ((8, 64, 32),), (1, 4, 7, 7), (8, 40))
    monkeypatch.setattr(operator_table, "FEW_SIZES", small)
    words = ("bench", "ops", "--target", "cuda", "--seconds", "0", "--match", "inner product")
    result = graphc(*words, "--fast-math", "tf32", "--json")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    assert [row["way"] for row in rows] == ["forward", "data gradient", "weight gradient"]
    assert min(row["seconds"]["median"] for row in rows) > 0


def test_the_fused_loss_is_measured(stand_in: StandIn):
    size = ("--classes", "40", "--batch", "64", "--repeats", "2", "--steps", "2")
    result = graphc("bench", "loss", *size, "--target", "cuda", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [row["name"] for row in found["times"]] == ["fused", "unfused", "copy"]
    assert max(found["gradient_error"].values()) < 1e-5 and stand_in.launched
    refused = graphc("bench", "loss", *size, "--target", "cuda", "--width", "8")
    assert refused.exit_code == 3 and "on the processor" in refused.output


def test_the_table_of_a_gpu_has_the_sizes_that_are_asked_of_it():
    names = {row.name for row in operator_table.table(True, "cuda")}
    assert {"inner product 4096->4096, batch 4096", "softmax 65536x8192"} <= names


def test_nothing_moves_while_a_net_is_measured(stand_in: StandIn, net: Path):
    assert graphc("bench", "net", net, "--mode", "train", "--target", "cuda").exit_code == 0
    stand_in.forget_moves()
    made = package.Net(LENET, phase=package.TRAIN, target="cuda", weights="random:1")
    from graphc.bench.net import prepare

    call = prepare(made, ["conv1/0", "ip1/0"], [])
    for _ in range(2):
        call.run()
    stand_in.forget_moves()
    call.run()
    assert stand_in.largest_moved() <= 16


def test_run_takes_the_target(stand_in: StandIn, net: Path):
    words = ("run", net, "--input", "data=random:1", "--input", "label=fill:3", "--json")
    wanted, got = (graphc(*words, *more) for more in ((), ("--target", "cuda")))
    assert got.exit_code == 0, got.output
    assert stand_in.launched
    one, other = (json.loads(result.stdout)["loss"] for result in (wanted, got))
    assert other == pytest.approx(one, rel=1e-4)


def test_training_takes_the_target(stand_in: StandIn, tmp_path: Path):
    solver = tmp_path / "solver.prototxt"
    solver.write_text((SAMPLES / "digits_solver.prototxt").read_text())
    assert graphc("train", solver, "--target", "gpu").exit_code == 2


def test_a_profile_of_a_mat_file(stand_in: StandIn, tmp_path: Path):
    net = chain(tmp_path / "chain.mat")
    words = ("--target", "cuda", "--diff", "x5=fill:1", "--seconds", "0", "--json")
    result = graphc("profile", net, "--mode", "grad", *words)
    assert result.exit_code == 0, result.output
    assert stand_in.launched
    assert {"conv", "pool", "fc"} <= set(json.loads(result.stdout)["layers"])


def test_times_of_the_emulator_are_not_asked_for(net: Path):
    for words in (("profile", net), ("bench", "net", net), ("bench", "ops")):
        refused = graphc(*words, "--target", "cuda-emulator")
        assert refused.exit_code == 2
        assert "is not one of 'cpu', 'cuda'" in refused.output


# -- the rival ------------------------------------------------------------------------------------


class Asked:
    """A module that notes what it is asked for."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        matmul, cudnn = SimpleNamespace(allow_tf32=None), SimpleNamespace()
        self.backends = SimpleNamespace(cuda=SimpleNamespace(matmul=matmul), cudnn=cudnn)
        self.cuda = SimpleNamespace(
            synchronize=lambda: self.calls.append("wait"),
            reset_peak_memory_stats=lambda: self.calls.append("reset"),
            max_memory_allocated=lambda: 12345,
        )


def test_torch_on_a_gpu_is_waited_for_and_may_use_its_tensor_cores():
    torch: Any = Asked()
    place = Gpu(torch, 1)
    place.begin(True)
    assert torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.benchmark
    place.begin(False)
    assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32
    place.end()
    assert place.peak_bytes(lambda: torch.calls.append("run"), 1) == 12345
    assert torch.calls == ["wait", "reset", "run"]


def test_events_of_a_graph_are_nodes_of_it(monkeypatch: pytest.MonkeyPatch):
    """Inside of a capture an event must say that it is one of the graph's own."""
    from graphc.runtime.cuda_events import make_events

    asked: list[tuple[str, tuple[Any, ...]]] = []

    class Bindings:
        class CUevent_record_flags:  # noqa: N801  (the name there)
            CU_EVENT_RECORD_DEFAULT = 0
            CU_EVENT_RECORD_EXTERNAL = 1

        class CUstreamCaptureMode:
            CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1

        def __getattr__(self, name: str) -> Any:
            def ask(*arguments: Any) -> tuple[Any, ...]:
                asked.append((name, arguments))
                return (0, 2.5 if name == "cuEventElapsedTime" else len(asked))

            return ask

    monkeypatch.setattr(cuda_graph, "_bindings", Bindings)
    graphs = cuda_graph.GraphCapture(StandIn.Stream())
    events = make_events(graphs, None, StandIn.Stream(), 3)
    for _ in range(3):
        graphs.run("timed", lambda: [events.record(n) for n in range(3)])
    flags = [arguments[-1] for name, arguments in asked if name == "cuEventRecordWithFlags"]
    assert flags == [0, 0, 0, 1, 1, 1]  # as it is, then captured, then replayed
    assert events.seconds() == [0.0025, 0.0025]
    graphs.forget()
    assert asked[-1][0] == "cuGraphExecDestroy"
