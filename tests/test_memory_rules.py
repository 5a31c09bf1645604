"""The model of MatConvNet's conserveMemory against what MatConvNet itself held, step by step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from graphc.bench.memory_rules import DagMemory, Layer, chain_peak

TRACE = Path(__file__).parent / "cases" / "matconvnet" / "memtrace.json"
RUNS: list[dict[str, Any]] = json.loads(TRACE.read_text())


def named(wrapper: str) -> list[Any]:
    return [pytest.param(run, id=run["name"]) for run in RUNS if run["wrapper"] == wrapper]


def dag_sizes(run: dict[str, Any]) -> dict[str, int]:
    """Elements of each variable: what the total grew by when it appeared, nothing being freed."""
    plain = next(r for r in RUNS if r["layers"] == run["layers"] and not r["conserveMemory"])
    sizes: dict[str, int] = {}
    for name, shape in run["inputSizes"].items():
        sizes[name] = 1
        for extent in shape:
            sizes[name] *= extent
    total = sum(sizes.values())
    for layer, step in zip(plain["layers"], plain["steps"], strict=False):
        (output,) = layer["outputs"]
        sizes[output] = step["elements"] - total
        total = step["elements"]
    return sizes


@pytest.mark.parametrize("run", named("dagnn"))
def test_dagnn_holds_what_the_model_says(run: dict[str, Any]) -> None:
    layers = [
        Layer(one["name"], one["type"], tuple(one["inputs"]), tuple(one["outputs"]))
        for one in run["layers"]
    ]
    memory = DagMemory(layers, dag_sizes(run), no_gradient=["label"])
    trace = memory.trace(run["backward"], run["conserveMemory"])
    found = [(held.layer, set(held.values), set(held.derivatives), held.size) for held in trace]
    wanted = [
        (step["layer"], set(step["value"]), set(step["der"]), step["elements"])
        for step in run["steps"]
    ]
    assert found == wanted
    peak = memory.peak(run["backward"], run["conserveMemory"])
    assert peak == run["peak_elements"]


def chain_sizes(run: dict[str, Any]) -> list[int]:
    """Elements of each x of a chain, by MatConvNet's rules for shapes."""
    height, width, channels, images = run["inputSize"]
    sizes = [height * width * channels * images]
    for layer in run["layers"]:
        if layer["type"] == "conv":
            channels = layer["filterSize"][3]
        if layer["type"] in ("conv", "pool"):
            window = layer["filterSize" if layer["type"] == "conv" else "pool"]
            height, width = (
                (extent + 2 * layer["pad"] - size) // layer["stride"] + 1
                for extent, size in zip((height, width), window, strict=False)
            )
        last = layer["type"] == "softmaxloss"
        sizes.append(1 if last else height * width * channels * images)
    return sizes


@pytest.mark.parametrize("run", named("simplenn"))
def test_simplenn_holds_what_the_model_says(run: dict[str, Any]) -> None:
    layers = [
        Layer(str(i), one["type"], (), (), one["precious"]) for i, one in enumerate(run["layers"])
    ]
    conserve = run["args"][run["args"].index("conserveMemory") + 1]
    assert chain_peak(layers, chain_sizes(run), run["backward"], conserve) == run["peak_elements"]
