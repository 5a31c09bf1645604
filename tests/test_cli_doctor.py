"""`graphc doctor`: what it says agrees with the project and with this process."""

from __future__ import annotations

import json
import platform
import re
import tomllib
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_cli_options import graphc

from graphc.cli.doctor import BASE, EXTRAS

doctor = import_module("graphc.cli.doctor")  # `graphc.cli` has the verb of that name

PROJECT = tomllib.loads(
    (Path(__file__).resolve().parent.parent / "pyproject.toml").read_text(encoding="utf-8")
)["project"]


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=\[ ;]", one)[0] for one in requirements}


def test_the_extras_are_those_of_the_project() -> None:
    assert names(PROJECT["dependencies"]) == set(BASE)
    offered = set(PROJECT["optional-dependencies"]) - {"test", "dev"}
    assert set(EXTRAS) == offered
    for extra, parts in EXTRAS.items():
        assert {name for name, _ in parts} == names(PROJECT["optional-dependencies"][extra])


def test_it_tells_what_is_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRAPHC_CACHE", str(tmp_path / "cache"))
    result = graphc("doctor", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["graphc"]["Python"] == platform.python_version()
    assert found["processor"]["usable cores"] >= 1
    assert found["cache"] == {
        "folder": str(tmp_path / "cache"),
        "writable": True,
        "files": 0,
        "size": "0.0 MiB",
    }
    for extra, parts in EXTRAS.items():
        complete = all(find_spec(module) for _, module in parts)
        assert found["extras"][extra].startswith("pip install") is not complete


def test_the_text_names_every_fact() -> None:
    text = graphc("doctor").stdout
    for section, facts in json.loads(graphc("doctor", "--json").stdout).items():
        assert section in text
        for fact in facts:
            assert fact in text


def test_a_missing_compiler_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    found = json.loads(graphc("doctor", "--json").stdout)
    assert "not found" in found["C compiler"]["command"]


def test_gpus_are_named_by_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver without devices, one with two, and none."""

    def put(place: Any, value: int) -> int:
        place._obj.value = value
        return 0

    def name(text: Any, size: int, gpu: Any) -> int:
        text.value = f"GPU {gpu.value}".encode()
        return 0

    library = SimpleNamespace(
        cuInit=lambda flags: 0,
        cuDriverGetVersion=lambda place: put(place, 13010),
        cuDeviceGetCount=lambda place: put(place, 2),
        cuDeviceGet=put,
        cuDeviceGetName=name,
    )
    monkeypatch.setattr(doctor, "_driver_library", lambda: library)
    found = json.loads(graphc("doctor", "--json").stdout)["CUDA"]
    assert (found["driver"], found["GPU"]) == ("for CUDA 13.1", ["GPU 0", "GPU 1"])
    library.cuInit = lambda flags: 100
    assert "none: the driver answers with error 100" in graphc("doctor").stdout
    monkeypatch.setattr(doctor, "_driver_library", lambda: None)
    found = json.loads(graphc("doctor", "--json").stdout)["CUDA"]
    assert (found["driver"], found["GPU"]) == ("none: its library is not there", "none: no driver")
