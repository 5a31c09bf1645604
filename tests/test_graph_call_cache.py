"""MatConvNet nets and functions start from compilations on disk, as Caffe nets do: see
test_compilation_cache.py for what the files are."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_cli_options import graphc as command

import graphc
from graphc import function_call, graph_lowering, vl
from graphc.dagnn import BatchNorm, Conv, DagNet, Loss, PythonBlock, ReLU
from graphc.error import NetError
from graphc.ir.graph import Graph
from graphc.ir.op import REGISTRY
from graphc.kernel.text import print_kernel
from graphc.mat_call import PieceCall
from graphc.plan.budget import BudgetError
from graphc.runtime import cache_folder

Arrays = dict[str, np.ndarray]
RNG = np.random.default_rng(3)
X = RNG.standard_normal((6, 6, 2, 4)).astype(np.float32)
FILTERS = RNG.standard_normal((3, 3, 2, 4)).astype(np.float32)
LAST = RNG.standard_normal((6, 6, 4, 5)).astype(np.float32)
CLASSES = np.array([1, 5, 3, 3])


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def lowerings(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the graphs that went through passes and plan."""
    seen: list[str] = []
    lower_graph = graph_lowering.lower_graph

    def noted(graph: Graph, *rest: Any, **named: Any) -> Any:
        seen.append(graph.name)
        return lower_graph(graph, *rest, **named)

    monkeypatch.setattr(graph_lowering, "lower_graph", noted)
    yield seen


def compilations(folder: Path) -> list[Path]:
    return sorted(folder.glob("net-*")) if folder.is_dir() else []


def same(one: Arrays, other: Arrays) -> bool:
    """Also in the order of names."""
    return list(one) == list(other) and all(np.array_equal(one[n], other[n]) for n in one)


# -- nets ------------------------------------------------------------------------------------------


def chain(*more: dict[str, Any], **options: Any) -> graphc.SimpleNet:
    ones, zeros = np.ones(4, np.float32), np.zeros(4, np.float32)
    moments = np.stack([zeros, ones], axis=1)
    layers = [
        {"type": "conv", "name": "conv", "weights": [FILTERS, zeros], "pad": 1},
        {"type": "bnorm", "name": "bn", "weights": [ones, zeros, moments]},
        {"type": "relu", "name": "relu"},
        *more,
        {"type": "conv", "name": "fc", "weights": [LAST, np.zeros(5, np.float32)]},
        {"type": "softmaxloss", "name": "loss", "class": CLASSES},
    ]
    return graphc.SimpleNet(layers, **options)


def chain_results(net: graphc.SimpleNet, dzdy: Any = 1, x: np.ndarray = X, **how: Any) -> Arrays:
    """All that a call leaves."""
    found: Arrays = {}
    for i, entry in enumerate(graphc.simplenn(net, x, dzdy, **how)):
        found |= {f"{i}.x": entry.x, f"{i}.dzdx": entry.dzdx}
        found |= {f"{i}.dzdw{j}": d for j, d in enumerate(entry.dzdw or ())}
    return {name: array for name, array in found.items() if array is not None}


def dag(block: Any = None, **settings: Any) -> DagNet:
    net = DagNet()
    net.add_layer("conv", Conv(size=(3, 3, 2, 4), pad=1), "input", "x1", ("f1", "b1"))
    net.add_layer("bn", BatchNorm(num_channels=4), "x1", "x2", ("g", "b", "m"))
    net.add_layer("relu", block or ReLU(), "x2", "x3")
    net.add_layer("fc", Conv(size=(6, 6, 4, 5)), "x3", "scores", ("f2", "b2"))
    net.add_layer("loss", Loss(), ("scores", "label"), "objective")
    net.init_params(3)
    for name, value in {"conserve_memory": False, **settings}.items():
        setattr(net, name, value)
    return net


def dag_results(net: DagNet, ders: Any = None, x: np.ndarray = X) -> Arrays:
    """All that a call leaves."""
    labels = CLASSES.reshape(1, 1, 1, 4)
    net.eval({"input": x, "label": labels}, {"objective": 1} if ders is None else ders)
    found: Arrays = {f"{n}.der": p.der for n, p in net.params.items()}
    for name, variable in net.vars.items():
        found |= {name: variable.value, f"{name}.der": variable.der}
    return {name: array for name, array in found.items() if array is not None}


def simple_start(**options: Any) -> Arrays:
    return chain_results(chain(**options))


def dag_start(**settings: Any) -> Arrays:
    return dag_results(dag(**settings))


def function_start() -> Arrays:
    """vl.conv and its derivatives, as another process would find them."""
    function_call._compiled.cache_clear()
    y = vl.conv(X, FILTERS, None, pad=1)
    derivatives = vl.conv(X, FILTERS, None, pad=1, dzdy=np.ones_like(y))
    return {"y": y, **{str(i): d for i, d in enumerate(derivatives) if d is not None}}


STARTS = [simple_start, dag_start, function_start]


def piece(net: graphc.SimpleNet | DagNet) -> PieceCall:
    (made,) = net._compiled.values()
    return made


# -- a second start --------------------------------------------------------------------------------


@pytest.mark.parametrize("start", STARTS)
def test_a_second_start_gives_the_same_and_does_not_compile(
    start: Callable[[], Arrays], own_cache: Path, lowerings: list[str]
) -> None:
    first = start()
    compiled = len(lowerings)
    assert compiled == len(compilations(own_cache)) > 0
    assert same(start(), first)
    assert len(lowerings) == compiled == len(compilations(own_cache))


def test_a_second_start_imports_no_passes(own_cache: Path) -> None:
    program = (
        "import sys, numpy, graphc, graphc.mat_model\n"
        "net = graphc.SimpleNet([{'type': 'relu'}, {'type': 'softmax'}])\n"
        "graphc.simplenn(net, numpy.ones((2, 2, 3, 1), 'float32'), 1)\n"
        "heavy = ('graphc.passes', 'graphc.plan.planner', 'networkx', 'google.protobuf')\n"
        "heavy += ('graphc.driver', 'graphc.frontends.caffe')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    environment = {**os.environ, cache_folder.ENVIRONMENT: str(own_cache)}
    printed = [
        subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for _ in range(2)
    ]
    assert "graphc.passes" in printed[0]
    assert printed[1] == "[]"


def test_a_second_start_shows_the_same(lowerings: list[str]) -> None:
    nets = [chain(), chain()]
    for net in nets:
        chain_results(net)
    one, other = (piece(net).call for net in nets)
    assert len(lowerings) == 1
    assert one.executable.bundle == other.executable.bundle
    assert one.surface == other.surface
    texts = [
        [print_kernel(step.kernel) for step in call.program.steps]
        + [repr(call.program.buffers), repr(call.program.readable), *map(str, call.graph.remarks)]
        for call in (one, other)
    ]
    assert texts[0] == texts[1]
    assert len(lowerings) == 2  # made when it was asked for


@pytest.mark.parametrize("verb", [("run",), ("grad", "--diff", "prediction=fill:1")])
def test_the_command_starts_from_the_disk(
    verb: tuple[str, ...], dag: Path, lowerings: list[str]
) -> None:
    values = ("--input", "input=random:1", "--shape", "input=6,6,2,4", "--input", "label=fill:1")
    said = [command(verb[0], dag, *values, *verb[1:], "--json") for _ in range(2)]
    assert [result.exit_code for result in said] == [0, 0], said[0].output
    assert len(lowerings) == 1


def test_layers_take_time_after_a_second_start() -> None:
    for _ in range(2):
        res = graphc.simplenn(chain(), X, 1)
        assert sum(entry.time for entry in res) > 0
        assert sum(entry.backward_time for entry in res) > 0


def test_errors_come_again() -> None:
    for _ in range(2):
        with pytest.raises(BudgetError, match="the least"):
            simple_start(memory=16)
        net = chain()
        net.layers[-1]["class"] = np.array([1, 9, 3, 3])
        with pytest.raises(NetError, match=r"'loss' \(softmaxloss\).*9"):
            chain_results(net)


# -- what misses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (simple_start, lambda: simple_start(memory="all")),
        (simple_start, lambda: simple_start(memory="1MiB")),
        (simple_start, lambda: simple_start(exact=True)),
        (simple_start, lambda: simple_start(fast_math=["winograd4"])),
        (simple_start, lambda: chain_results(chain(), None)),
        (simple_start, lambda: chain_results(chain(), mode="test")),
        (simple_start, lambda: chain_results(chain(), back_prop_depth=2)),
        (simple_start, lambda: chain_results(chain(), conserve_memory=True)),
        (simple_start, lambda: chain_results(chain({"type": "sigmoid"}))),
        (simple_start, lambda: simple_start(version="master")),
        (dag_start, lambda: dag_start(memory="all")),
        (dag_start, lambda: dag_start(blockwise_loss=True)),
        (dag_start, lambda: dag_start(exact=True)),
        (dag_start, lambda: dag_start(mode="test")),
        (dag_start, lambda: dag_start(conserve_memory=True)),
        (dag_start, lambda: dag_results(dag(), {})),
        (dag_start, lambda: dag_results(dag(), {"objective": 1, "scores": np.ones((1, 1, 5, 4))})),
    ],
)
def test_another_call_misses(
    first: Callable[[], Arrays], second: Callable[[], Arrays], lowerings: list[str]
) -> None:
    first()
    second()
    assert len(lowerings) == 2


@pytest.mark.parametrize("name", ["GRAPHC_TARGET", "GRAPHC_WINOGRAD"])
def test_another_machine_or_variable_misses(
    name: str, monkeypatch: pytest.MonkeyPatch, lowerings: list[str]
) -> None:
    simple_start()
    monkeypatch.setenv(name, {"GRAPHC_TARGET": "x86-64-v2", "GRAPHC_WINOGRAD": "2"}[name])
    simple_start()
    assert len(lowerings) == 2


def test_the_number_of_cores_misses(monkeypatch: pytest.MonkeyPatch, lowerings: list[str]) -> None:
    """What convolutions may be depends on the threads that a call may use."""
    for cores in (1, 2, 2):
        monkeypatch.setattr("graphc.graph_call.usable_cores", lambda cores=cores: cores)
        simple_start()
    assert len(lowerings) == 2


# -- code of the user's ----------------------------------------------------------------------------


def test_python_code_is_not_kept(own_cache: Path, lowerings: list[str]) -> None:
    def times(factor: float) -> PythonBlock:
        return PythonBlock(lambda x: x * factor, lambda dzdy, x: dzdy * factor)

    found = [dag_results(dag(times(factor))) for factor in (1.0, 2.0)]
    assert not np.array_equal(found[0]["x3"], found[1]["x3"])
    assert len(lowerings) == 2 and compilations(own_cache) == []


def test_an_operator_of_the_users_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    class Foreign(graphc.Op):
        """Not used by any net."""

    monkeypatch.setitem(REGISTRY, "foreign", Foreign)
    simple_start()
    assert compilations(own_cache) == []


# -- files that are not as they were written -------------------------------------------------------


def test_a_broken_file_is_not_used(own_cache: Path, lowerings: list[str]) -> None:
    first = simple_start()
    (entry,) = compilations(own_cache)
    whole = entry.read_bytes()
    for content in (b"", whole[: len(whole) // 2], whole[:-1] + b"?"):
        entry.write_bytes(content)
        assert same(simple_start(), first)
        assert entry.read_bytes() == whole
    assert len(lowerings) == 4


def test_without_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lowerings: list[str]
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv(cache_folder.ENVIRONMENT, str(tmp_path / "file" / "below"))
    assert same(simple_start(), simple_start())
    assert len(lowerings) == 2
