"""What the system says a call takes against what the plan says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import deep_nets
import pytest

LENET = (Path(__file__).parent.parent / "samples" / "lenet_train.prototxt").read_text()

# In a process of its own: what an allocator has kept from other tests would count as room.
PROGRAM = """
import sys
import numpy as np
import graphc
from graphc.bench.memory import extra_bytes

memory, batch, *image = sys.argv[1], *map(int, sys.argv[2:])
shapes = {"data": (batch, *image), "label": (batch,)}
source = sys.stdin.read()
net = graphc.Net(source, phase=graphc.TRAIN, shapes=shapes, memory=memory, threads=1)
made = net.prepare()
net.set_inputs({"data": np.ones(shapes["data"], np.float32), "label": np.zeros(batch, np.float32)})
for array in made.executable.bind_new().values():
    array += np.zeros((), array.dtype)  # the user's arrays lie in memory already
run = made.executable.call
print(made.program.arena_bytes, extra_bytes(lambda: run("both", 1)))
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("source", "shape", "memory"),
    [
        pytest.param(LENET, (4096, 1, 28, 28), "reuse", id="lenet"),
        pytest.param(LENET, (4096, 1, 28, 28), "all", id="lenet, all"),
        pytest.param(deep_nets.resnet(), (16, 3, 224, 224), "reuse", id="resnet"),
    ],
)
def test_a_call_grows_by_what_the_plan_says(
    source: str, shape: tuple[int, ...], memory: str
) -> None:
    """For a plan of more than 200 MiB, within 3 %."""
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, memory, *map(str, shape)],
        check=True,
        capture_output=True,
        input=source,
        text=True,
    )
    planned, grown = map(int, found.stdout.split())
    assert planned > 200 << 20
    assert abs(grown - planned) <= 0.03 * planned
