"""PyTorch's softmax loss in a process of its own, run when it is told to.

A process of its own, so that its threads and memory are its own and any Python that has torch will
do. The worker answers one line for each line it reads: `run eager`, `run compiled` or nothing more.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from graphc.error import NetError

WORKER = """
import sys, time
import numpy as np
import torch

x_path, label_path, axis, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
x = torch.from_numpy(np.load(x_path))
label = torch.from_numpy(np.load(label_path).astype(np.int64))
if axis == "0":
    x = x[None]
    label = label[None]
x.requires_grad_()

def loss_of(scores):
    return torch.nn.functional.cross_entropy(scores, label)

forms = {"eager": loss_of}
try:
    compiled = torch.compile(loss_of)
    compiled(x).backward()
    forms["compiled"] = compiled
except Exception as error:  # torch raises what its compilers happen to raise
    print("torch.compile:", type(error).__name__, file=sys.stderr)
print(torch.__version__, *forms, flush=True)
for line in sys.stdin:
    form = line.split()[1]
    x.grad = None
    started = time.perf_counter()
    loss = forms[form](x)
    loss.backward()
    print(time.perf_counter() - started, float(loss), flush=True)
"""


class Torch:
    """The worker: torch's cross_entropy forward and backward on given scores.

    Attributes:
        forms: "eager", and "compiled" where torch.compile works there.
        version: torch's.
    Raises NetError where that Python has no torch.
    """

    def __init__(self, x: np.ndarray, label: np.ndarray, axis: int, threads: int, python: str = ""):
        self._folder = tempfile.TemporaryDirectory(prefix="graphc-bench-")
        place = Path(self._folder.name)
        np.save(place / "x.npy", x)
        np.save(place / "label.npy", label)
        command = [python or sys.executable, "-c", WORKER]
        command += [str(place / "x.npy"), str(place / "label.npy"), str(axis), str(threads)]
        try:
            self._worker = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        except OSError as error:
            self._folder.cleanup()
            raise NetError(f"cannot start '{command[0]}': {error.strerror}") from None
        first = self._answer().split()
        self.version, self.forms = first[0], tuple(first[1:])
        self.losses: dict[str, float] = {}

    def _answer(self) -> str:
        assert self._worker.stdout and self._worker.stderr
        line = self._worker.stdout.readline()
        if not line:
            said = self._worker.stderr.read().strip().splitlines()
            self._folder.cleanup()
            why = said[-1] if said else "it ended"
            raise NetError(f"torch cannot be run: {why}; `pip install torch`, or name a Python")
        return line

    def run(self, form: str) -> float:
        """Seconds of one forward and backward pass."""
        assert self._worker.stdin
        self._worker.stdin.write(f"run {form}\n")
        self._worker.stdin.flush()
        seconds, loss = self._answer().split()
        self.losses[form] = float(loss)
        return float(seconds)

    def close(self) -> None:
        """End the process."""
        assert self._worker.stdin and self._worker.stdout and self._worker.stderr
        self._worker.stdin.close()
        self._worker.wait()
        self._worker.stdout.close()
        self._worker.stderr.close()
        self._folder.cleanup()
