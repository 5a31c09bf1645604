"""`graphc bench net`, `graphc bench ops` and `graphc profile`: what is counted, what is printed."""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from test_cli_options import SAMPLES, graphc

import graphc as package
from graphc import driver
from graphc.bench.agreement import disagreement
from graphc.bench.contest import Contestant, Timing, contest
from graphc.bench.machine import Limits, describe_machine, measure_limits
from graphc.bench.net import planned_bytes, prepare
from graphc.bench.operator_table import CONVOLUTIONS, Row, convolution_rows, elementwise_rows, table
from graphc.bench.operators import OneOperator, Setup, bench_row
from graphc.bench.profile import profile
from graphc.bench.torch_rival import UnsupportedError, Workload
from graphc.bench.work import work_of
from graphc.driver import Signature
from graphc.error import NetError
from graphc.frontends.caffe.definition import read_net
from graphc.runtime.cpu import StepTimes

CAFFENET = SAMPLES / "caffenet.prototxt"
LENET = SAMPLES / "lenet_train.prototxt"
SMALL = """
name: "small"
layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 2 dim: 3 dim: 9 dim: 9 } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 2 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 8 kernel_size: 3 pad: 1 stride: 2 } }
layer { name: "act" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool"
  pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "drop" type: "Dropout" bottom: "pool" top: "pool" }
layer { name: "fc" type: "InnerProduct" bottom: "pool" top: "fc"
  inner_product_param { num_output: 5 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
"""
with_torch = pytest.mark.skipif(
    find_spec("torch") is None, reason="needs torch, which is no dependency"
)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.prototxt"
    path.write_text(SMALL)
    return path


def result_of(*arguments: object) -> Any:
    result = graphc(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


# -- the machine --


@pytest.fixture(scope="module")
def limits() -> Limits:
    return measure_limits(1)


def test_limits_are_those_of_a_machine(limits: Limits) -> None:
    assert 1e9 < limits.fma < 1e13
    assert 1e8 < limits.copy < 1e13
    assert 1e8 < limits.write < 1e13
    assert 1e8 < limits.read < 1e13
    assert limits.block_bytes >= 1 << 26


def test_the_better_of_two_measurements(limits: Limits) -> None:
    lower = replace(limits, fma=limits.fma / 2, copy=2 * limits.copy)
    better = limits.better(lower)
    assert better == replace(limits, copy=2 * limits.copy)


def test_the_description_names_no_host() -> None:
    import platform

    machine = describe_machine()
    assert isinstance(machine["cores"], int) and machine["cores"] >= 1
    assert platform.node() not in map(str, machine.values())


# -- counting --


def products(source: Path | str, **options: Any) -> tuple[dict[str, int], dict[str, int]]:
    """Operations of contractions by first layer, (forward, backward)."""
    definition = read_net(source, phase="TRAIN")
    base = Signature(phase="TRAIN", **options)
    front = driver.front(definition, base)
    wanted = Signature(
        phase="TRAIN", given=tuple(front.seeds), wrt=tuple(front.default_wrt), **options
    )
    program = driver.lower(definition, wanted).program
    ways: tuple[dict[str, int], dict[str, int]] = ({}, {})
    for step in program.steps:
        found = ways[step.backward]
        layer = step.layer.split(", ")[0]
        found[layer] = found.get(layer, 0) + work_of(program, step).products
    return ways


def test_caffenet_is_1_45_gflop_forward_and_twice_that_backward() -> None:
    forward, backward = products(CAFFENET)
    assert forward["conv1"] == 2 * 96 * 55 * 55 * 3 * 11 * 11
    assert forward["conv2"] == 2 * 256 * 27 * 27 * 48 * 5 * 5
    assert forward["fc6"] == 2 * 9216 * 4096
    assert sum(forward.values()) == 1_448_813_632
    for layer, count in forward.items():
        if count:
            assert backward[layer] == 2 * count, layer


@pytest.mark.parametrize("geometry", CONVOLUTIONS, ids=lambda g: g.label)
def test_a_convolution_and_its_gradients_are_equal_work(geometry: Any) -> None:
    after = (geometry.side + 2 * geometry.pad - geometry.kernel) // geometry.stride + 1
    window = geometry.channels // geometry.groups * geometry.kernel**2
    expected = 2 * 2 * geometry.outputs * after**2 * window
    for row in convolution_rows(geometry, batch=2):
        definition = compiled_program(row)
        counted = sum(work_of(definition, step).products for step in definition.steps)
        assert counted == expected, row.way


def compiled_program(row: Row) -> Any:
    from graphc.passes.pipeline import compile_graph
    from graphc.plan.planner import plan

    return plan(compile_graph(row.graph()).graph)


def test_bytes_count_every_buffer_once(small: Path) -> None:
    definition = read_net(small, phase="TEST")
    program = driver.lower(definition, Signature()).program
    (step,) = [s for s in program.steps if s.kernel.name.startswith("conv")]
    parts = 4 * (2 * 3 * 9 * 9 + 8 * 3 * 3 * 3 + 8 + 2 * 8 * 5 * 5)
    assert parts <= work_of(program, step).bytes <= 1.5 * parts


# -- timing --


def test_threads_that_spin_after_a_turn_do_not_slow_the_next() -> None:
    """As those of OpenMP do: for some milliseconds they keep the core that others need."""
    spins_until = [0.0]

    def spins() -> None:
        spins_until[0] = time.perf_counter() + 0.015

    def slowed() -> None:
        if time.perf_counter() < spins_until[0]:
            time.sleep(0.004)

    found = contest([Contestant("spins", spins), Contestant("slowed", slowed)], 0.0)
    assert found["slowed"].median < 1e-4, "a slow run of a dozen would be more"


def test_medians_of_a_contest_tell_who_is_slower() -> None:
    def work(count: int) -> Any:
        return lambda: sum(range(count))

    found = contest([Contestant("short", work(2000)), Contestant("long", work(40000))], 0.0)
    assert found["short"].rounds == found["long"].rounds >= 5
    assert found["short"].best <= found["short"].low <= found["short"].median
    assert found["short"].median <= found["short"].high
    assert found["long"].median > 3 * found["short"].median


def test_a_timing_is_the_median_and_the_quartiles() -> None:
    timing = Timing.of([4.0, 1.0, 3.0, 2.0, 100.0])
    assert (timing.median, timing.low, timing.high, timing.best) == (3.0, 2.0, 4.0, 1.0)
    assert timing.spread == pytest.approx(2 / 3)


# -- a net --


def test_a_net_in_json(small: Path) -> None:
    found = result_of("bench", "net", small, "--mode", "train", "--seconds", "0", "--threads", "1")
    assert set(found) == {
        *("net", "inputs", "gradients", "machine", "limits", "clock", "flops", "bytes"),
        *("results", "refusals", "ratio", "libraries"),
    }
    assert found["libraries"] == []
    assert found["gradients"] == ["conv/0", "conv/1", "fc/0", "fc/1"]
    assert found["ratio"] is None
    forward = 2 * 2 * 8 * 25 * 27 + 2 * 2 * 72 * 5
    assert found["flops"] == 2 * forward + 2 * 2 * 72 * 5
    (ours,) = found["results"]
    assert ours["name"] == "graphc"
    assert ours["seconds"]["median"] > 0
    assert ours["gflops"] == pytest.approx(found["flops"] / ours["seconds"]["median"] / 1e9)
    assert 0 < ours["of_fma"] < 1.2
    assert ours["memory"] > 4 * (8 * 27 + 72 * 5)


def test_memory_is_the_arena_and_the_arrays(small: Path) -> None:
    call = prepare(package.Net(small, weights="random:1", threads=1), (), ())
    arrays = call.executable.bind_new()
    total = call.executable.bundle.arena_bytes + sum(a.nbytes for a in arrays.values())
    assert planned_bytes(call.program) == total


def test_other_results_are_not_timed(small: Path) -> None:
    call = prepare(package.Net(small, weights="random:1", threads=1), (), ())
    own = call.executable.arrays["loss"].copy()
    assert disagreement(call, {"loss": own}) == 0
    with pytest.raises(NetError, match="disagree on 'loss'"):
        disagreement(call, {"loss": own * 1.01})
    with pytest.raises(NetError, match="disagree on 'loss'"):
        disagreement(call, {"loss": own * np.nan})


def test_a_float64_result_says_whose_rounding_it_is(small: Path) -> None:
    call = prepare(package.Net(small, weights="random:1", threads=1), (), ())
    own = call.executable.arrays["loss"].copy()
    between = {"loss": own * 1.004}
    assert disagreement(call, {"loss": own * 1.01}, lambda: between) == pytest.approx(
        0.01, rel=1e-3
    )
    with pytest.raises(NetError, match=r"float64 result graphc's is 0\.009\d* away, torch's 0\.0"):
        disagreement(call, {"loss": own * 1.01}, lambda: {"loss": own * 1.0091})
    with pytest.raises(NetError, match="disagree on 'loss'"):
        disagreement(call, {"loss": own * 1.01}, lambda: {"loss": own * np.nan})


def test_a_missing_torch_is_named_with_its_command(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    result = graphc("bench", "net", small, "--rival", "torch")
    assert result.exit_code == 3
    assert result.stderr.strip() == (
        "error: there is no torch to compare with; pip install torch==2.13.0"
    )


class TorchOfTwo:
    """In place of `TorchRun`: of three variants one runs, and torch has much to say."""

    is_masked = False

    def __init__(self, workload: Workload, variant: str, *rest: Any, **more: Any) -> None:
        warnings.warn("torch would rather have another tensor", UserWarning, stacklevel=2)
        logging.getLogger("torch._dynamo").error("a long traceback")
        if variant == "compile":
            raise RuntimeError("no compiler\n\nSet TORCH_VERBOSE=1")
        if variant == "channels-last":
            raise UnsupportedError("the torch rival cannot run the operator 'x'")
        self.name = f"torch {variant}"
        self.run = self.results = dict
        self.backward_alone = lambda: dict
        self.peak_bytes = lambda: None


LEFT_OUT = [
    "torch channels-last left out{}: the torch rival cannot run the operator 'x'",
    "torch compile left out{}: RuntimeError: no compiler",
]


def test_what_torch_cannot_run_is_left_out(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
    for module in ("net", "operators"):
        monkeypatch.setattr(f"graphc.bench.{module}.TorchRun", TorchOfTwo)
    lines = [line.format("") for line in LEFT_OUT]
    told = graphc("bench", "net", small, "--seconds", "0", "--rival", "torch")
    assert told.exit_code == 0, told.output
    assert told.stderr.splitlines() == lines
    assert "torch eager" in told.stdout
    told = graphc("bench", "net", small, "--seconds", "0", "--rival", "torch", "--json")
    assert json.loads(told.stderr)["notes"] == lines
    refusals = json.loads(told.stdout)["refusals"]
    assert refusals["compile"] == "RuntimeError: no compiler"
    words = ("bench", "ops", "--match", "softmax", "--seconds", "0", "--rival", "torch")
    told = graphc(*words)
    assert told.exit_code == 0, told.output
    assert told.stderr.splitlines() == [line.format(" of 2 rows") for line in LEFT_OUT]
    rows = json.loads(graphc(*words, "--json").stdout)["rows"]
    assert [row["refusals"] for row in rows] == [refusals, refusals]
    assert all(set(row["rivals"]) == {"eager"} for row in rows)


def test_double_precision_is_measured_without_the_rival(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    double = ("bench", "net", small, "--dtype", "float64", "--seconds", "0")
    assert graphc(*double).exit_code == 0
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
    told = graphc(*double, "--rival", "torch")
    assert told.exit_code == 0, told.output
    left = "torch eager, channels-last, compile left out: the torch rival compares float32 nets"
    assert told.stderr.strip() == left


def test_the_cpu_clock_is_for_one_thread(small: Path) -> None:
    result = graphc("profile", small, "--clock", "cpu", "--threads", "2")
    assert result.exit_code == 3
    assert "--clock wall" in result.stderr


# -- a profile --


def test_the_steps_of_a_profile_add_up_to_the_call() -> None:
    net = package.Net(LENET, weights="random:1", threads=1, phase="TRAIN")
    call = prepare(net, net.front().default_wrt, ())
    found = profile(call, seconds=1.0, clock="cpu")
    assert found.is_close, f"{found.total} of {found.unprofiled}"
    layers = found.layers()
    shown = sum(part.seconds for pair in layers.values() for part in pair if part)
    assert shown + found.starting == pytest.approx(found.total)
    forward, backward = layers["conv2"]
    assert forward and backward
    assert backward.flops == pytest.approx(2 * forward.flops, rel=0.01)
    assert next(iter(layers)) == "conv2"


def test_a_timed_call_of_several_threads_is_a_call() -> None:
    net = package.Net(LENET, weights="random:1", threads=2, phase="TRAIN")
    call = prepare(net, net.front().default_wrt, ())
    results = {slot.name for slot in call.executable.bundle.slots if slot.role != "input"}
    arrays = {n: a for n, a in call.executable.arrays.items() if n in results}
    call.run()
    expected = {name: array.copy() for name, array in arrays.items()}
    begun = time.monotonic()
    times = call.executable.timed_call("both", 2)
    elapsed = time.monotonic() - begun
    assert len(times.steps) == len(call.program.steps)
    assert min(times.steps) >= 0 and times.starting > 0
    waits = zip(times.waiting, times.steps, strict=True)
    assert all(0 <= waiting <= seconds for waiting, seconds in waits)
    assert elapsed / 2 < times.starting + sum(times.steps) <= elapsed
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected[name], name)


def test_a_team_s_time_is_its_steps_and_its_waiting() -> None:
    """Two threads, two steps that nobody waits between, and one before which both wait."""
    first = [(10, 30), (30, 40), (60, 70)]
    second = [(12, 20), (20, 60), (60, 90)]
    times = StepTimes.of_team(0, np.array([first, second]), 100)
    assert times.starting == pytest.approx(11e-9)
    assert times.steps == pytest.approx([14e-9, 35e-9, 40e-9])
    assert times.waiting == pytest.approx([0, 10e-9, 20e-9])
    assert times.starting + sum(times.steps) == pytest.approx(100e-9)


def test_a_profile_says_how_long_threads_waited(small: Path) -> None:
    words = ("profile", small, "--mode", "train", "--seconds", "0", "--threads")
    found = result_of(*words, "2")
    assert all(0 <= step["waiting"] <= 1 for step in found["steps"])
    lost = sum(step["waiting"] * step["seconds"] for step in found["steps"])
    spent = sum(step["seconds"] for step in found["steps"])
    assert found["waiting"] == pytest.approx(lost / spent)
    assert 0 <= found["layers"]["conv"]["forward"]["waiting"] <= 1
    shown = graphc(*words, "2")
    assert "waits" in shown.stdout and "threads waited for each other" in shown.stdout
    assert "wait" not in graphc(*words, "1").stdout
    assert "waits" in graphc(*words, "2", "--steps").stdout


def test_a_profile_in_json(small: Path) -> None:
    found = result_of("profile", small, "--mode", "train", "--seconds", "0", "--threads", "1")
    seconds = [step["seconds"] for step in found["steps"]]
    assert seconds == sorted(seconds, reverse=True)
    assert sum(seconds) + found["starting"] == pytest.approx(found["total"])
    assert found["difference"] == pytest.approx(found["total"] / found["unprofiled"] - 1)
    assert found["layers"]["conv"]["forward"]["flops"] >= 2 * 2 * 8 * 25 * 27
    assert found["layers"]["conv"]["backward"] is not None
    assert found["layers"]["loss"]["forward"]["bytes"] > 0


def test_a_profile_in_words(small: Path) -> None:
    by_layer = graphc("profile", small, "--mode", "train", "--seconds", "0", "--threads", "1")
    assert by_layer.exit_code == 0, by_layer.output
    assert "backward time" in by_layer.stdout
    assert "a call without clocks" in by_layer.stdout
    by_step = graphc("profile", small, "--steps", "--seconds", "0", "--threads", "1")
    assert "conv, act" in by_step.stdout or "pool, act" in by_step.stdout


# -- single operators --


def test_the_table_has_every_way_of_every_operator() -> None:
    rows = table(full=True)
    assert len(rows) == 3 * len(CONVOLUTIONS) + 3 * 2 + 2 * 10
    assert len({(row.name, row.way) for row in rows}) == len(rows)
    assert all(row.bytes > 0 for row in rows)


def test_an_operator_runs_without_the_transposes_at_its_edges() -> None:
    for row in elementwise_rows((2, 16, 9, 9), (4, 10)):
        ours = OneOperator(row, Setup())
        kernels = [step.kernel.name for step in ours.steps()]
        assert kernels, row.name
        assert "copy" not in kernels
        ours.run()


def test_operators_in_json() -> None:
    found = result_of("bench", "ops", "--match", "ResNet 1x1", "--seconds", "0")
    assert [row["way"] for row in found["rows"]] == ["forward", "data gradient", "weight gradient"]
    for row in found["rows"]:
        assert row["flops"] == 2 * 2 * 64 * 56 * 56 * 64
        assert 0 < row["of_fma"] < 1.2
        assert row["ratio"] is None


def test_an_unknown_operator_is_refused() -> None:
    assert graphc("bench", "ops", "--match", "frobnicate").exit_code == 3


# -- the rival --


@with_torch
@pytest.mark.parametrize("mode", ["infer", "grad", "train"])
def test_torch_computes_the_same_net(small: Path, mode: str) -> None:
    from graphc.bench.net import workload_of
    from graphc.bench.torch_rival import TorchRun

    phase = "TRAIN" if mode == "train" else "TEST"
    net = package.Net(small, weights="random:1", threads=1, phase=phase)
    wrt = {"infer": (), "grad": ("data",), "train": net.front().default_wrt}[mode]
    call = prepare(net, wrt, ())
    for variant in ("eager", "channels-last"):
        results = TorchRun(workload_of(call), variant, 1, masked=True).results()
        assert set(results) == {"loss", *(f"{name}.diff" for name in wrt)}
        assert disagreement(call, results) < 1e-5
    exact = TorchRun(workload_of(call), "eager", 1, masked=True, double=True).results()
    assert {array.dtype.name for array in exact.values()} == {"float64"}
    assert disagreement(call, exact) < 1e-5


@with_torch
def test_torch_computes_the_same_operators() -> None:
    rows = list(elementwise_rows((2, 16, 9, 9), (4, 10)))
    rows += [row for g in (CONVOLUTIONS[13], CONVOLUTIONS[26]) for row in convolution_rows(g, 1)]
    for row in rows:
        found = bench_row(row, Setup(), ("eager",), seconds=0.0)
        assert found.ratio is not None
        assert found.errors["eager"] < 1e-4


@with_torch
def test_a_net_beside_torch(small: Path) -> None:
    found = result_of(
        *("bench", "net", small, "--mode", "train", "--seconds", "0", "--threads", "1"),
        *("--rival", "torch"),
    )
    names = [row["name"] for row in found["results"]]
    assert names[:3] == ["graphc", "torch eager", "torch channels-last"]
    assert len(names) + len(found["refusals"]) == 4
    assert all(row["difference"] < 1e-5 for row in found["results"][1:])
    best = min(row["seconds"]["median"] for row in found["results"][1:])
    assert found["ratio"] == pytest.approx(best / found["results"][0]["seconds"]["median"])
