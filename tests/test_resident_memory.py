"""What the system says a call takes against what the plan says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LENET = Path(__file__).parent.parent / "samples" / "lenet_train.prototxt"

# In a process of its own: what an allocator has kept from other tests would count as room.
PROGRAM = """
import sys
import numpy as np
import graphc
from graphc.bench.memory import extra_bytes

path, batch, memory = sys.argv[1], int(sys.argv[2]), sys.argv[3]
shapes = {"data": (batch, 1, 28, 28), "label": (batch,)}
net = graphc.Net(path, phase=graphc.TRAIN, shapes=shapes, memory=memory, threads=1)
made = net.prepare()
net.set_inputs({"data": np.ones(shapes["data"], np.float32), "label": np.zeros(batch, np.float32)})
for array in made.executable.bind_new().values():
    array += np.zeros((), array.dtype)  # the user's arrays lie in memory already
run = made.executable.call
print(made.program.arena_bytes, extra_bytes(lambda: run("both", 1)))
"""


@pytest.mark.long
@pytest.mark.parametrize("memory", ["reuse", "all"])
def test_a_call_grows_by_what_the_plan_says(memory: str) -> None:
    """For a plan of more than 200 MiB, within 3 %."""
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(LENET), "4096", memory],
        check=True,
        capture_output=True,
        text=True,
    )
    planned, grown = map(int, found.stdout.split())
    assert planned > 200 << 20
    assert abs(grown - planned) <= 0.03 * planned
