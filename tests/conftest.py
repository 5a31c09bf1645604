"""What all tests share: where the reference cases lie, golden texts, .mat nets."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from stand_in_gpu import StandIn
from stand_in_libraries import StandInLibraries, stand_in_libraries

from graphc.bench import device
from graphc.bench.machine import Limits, measure_limits
from graphc.ir.op import REGISTRY
from graphc.runtime import (
    cache_folder,
    cuda,
    cuda_graph,
    library_cache,
    library_steps,
    library_trial,
)

HERE = Path(__file__).resolve().parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite the golden texts that differ"
    )


def cases_folder() -> Path:
    """The reference cases: all of them where GRAPHC_CASES says, else the small set kept here."""
    return Path(os.environ.get("GRAPHC_CASES") or HERE / "cases")


class Golden:
    """Compares a whole text with the file it is kept in."""

    def __init__(self, update: bool):
        self.update = update

    def check(self, name: str, text: str) -> None:
        path = HERE / "golden" / name
        if self.update:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        assert path.exists(), f"no golden text {name}; run pytest --update-golden"
        assert text == path.read_text()


@pytest.fixture
def simple(tmp_path: Path) -> Path:
    """The .mat file of a SimpleNN net."""
    from mat_nets import chain

    return chain(tmp_path / "chain.mat")


@pytest.fixture
def dag(tmp_path: Path) -> Path:
    """The .mat file of a DagNN net."""
    from mat_nets import dag_net

    return dag_net(tmp_path / "dag.mat")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(bool(request.config.getoption("--update-golden")))


@functools.cache
def limits_measured_once(threads: int = 1) -> Limits:
    return measure_limits(threads)


@pytest.fixture(autouse=True)
def _limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's limits are measured once, not twice for every report: that takes a second."""
    monkeypatch.setattr(device, "measure_limits", limits_measured_once)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """What target "cuda" runs on in place of a GPU. No graph is captured, no library found."""
    made = StandIn()
    monkeypatch.setattr(cuda_graph, "_bindings", lambda: None)
    monkeypatch.setattr(cuda, "load", made.load)
    monkeypatch.setattr(cuda, "device", lambda: made)
    monkeypatch.setattr(library_steps, "open_library", lambda name: None)
    found = (library_steps.opened, library_steps.is_any_installed)
    for function in found:
        function.cache_clear()
    yield made
    for function in found:
        function.cache_clear()


@pytest.fixture
def libraries(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stand_in: StandIn
) -> Iterator[StandInLibraries]:
    """cuBLASLt and cuDNN on memory of this process; nothing is known of their speed."""
    made = stand_in_libraries()
    made.reset()
    stand_in.library_seconds = made.seconds
    monkeypatch.setattr(library_steps, "open_library", lambda name: made.loaded)
    monkeypatch.setattr(library_cache, "folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(library_trial, "MOST_RUNS", 2)
    monkeypatch.setattr(library_trial, "LOOKS", 2)
    yield made
    assert not made.complaint


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that is empty, and no operators but graphc's own."""
    monkeypatch.setenv(cache_folder.ENVIRONMENT, str(tmp_path / "cache"))
    for name, kind in list(REGISTRY.items()):  # other tests' own operators
        if not kind.__module__.startswith("graphc."):
            monkeypatch.delitem(REGISTRY, name)
    return tmp_path / "cache"
