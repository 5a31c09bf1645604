"""PyTorch's softmax loss, alone or behind a linear layer, in a process of its own.

A process of its own, so that its threads and memory are its own and any Python that has torch will
do. The worker answers one line for each line it reads: `run eager` with seconds and the loss,
`growth eager` with the bytes by which its process grows in such a run, but for the gradients.
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

x_path, label_path, axis, threads, device, *weights = sys.argv[1:]
torch.set_num_threads(int(threads))
x = torch.from_numpy(np.load(x_path)).to(device)
label = torch.from_numpy(np.load(label_path).astype(np.int64)).to(device)
if axis == "0":
    x = x[None]
    label = label[None]
x.requires_grad_()

w = torch.from_numpy(np.load(weights[0])).to(device).requires_grad_() if weights else None

def wait():
    if device == "cuda":
        torch.cuda.synchronize()

def loss_of(x):
    scores = x if w is None else torch.nn.functional.linear(x, w)
    return torch.nn.functional.cross_entropy(scores, label)

def resident(entry):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith(entry))

def forget():
    x.grad = None
    if w is not None:
        w.grad = None

def growth(form):
    try:
        with open("/proc/self/clear_refs", "w") as clear:
            clear.write("5")
        forget()
        before = resident("VmRSS")
        forms[form](x).backward()
        made = sum(t.grad.nbytes for t in (x, w) if t is not None)
        return max(0, resident("VmHWM") - before - made)
    except OSError:
        return 0

forms = {"eager": loss_of}
refusal = ""
try:
    compiled = torch.compile(loss_of)
    compiled(x).backward()
    forms["compiled"] = compiled
except Exception as error:  # torch raises what its compilers happen to raise
    said = str(error).strip().partition("\\n")[0]
    refusal = f"{type(error).__name__}: {said}"
print(torch.__version__, *forms, refusal and "\\t" + refusal, flush=True)
for line in sys.stdin:
    wish, form = line.split()
    if wish == "growth":
        print(growth(form), flush=True)
        continue
    forget()
    wait()
    started = time.perf_counter()
    loss = forms[form](x)
    loss.backward()
    wait()
    print(time.perf_counter() - started, float(loss), flush=True)
"""


class Torch:
    """The worker: torch's cross_entropy forward and backward on given scores.

    With weights [classes, width] the scores are those of a linear layer on x [batch, width].

    Attributes:
        forms: "eager", and "compiled" where torch.compile works there.
        refusals: forms that cannot run, and why.
        version: torch's.
    Raises NetError where that Python has no torch.
    """

    def __init__(
        self,
        x: np.ndarray,
        label: np.ndarray,
        axis: int,
        threads: int,
        python: str = "",
        weights: np.ndarray | None = None,
        target: str = "cpu",
    ):
        self._folder = tempfile.TemporaryDirectory(prefix="graphc-bench-")
        place = Path(self._folder.name)
        np.save(place / "x.npy", x)
        np.save(place / "label.npy", label)
        command = [python or sys.executable, "-c", WORKER]
        command += [str(place / "x.npy"), str(place / "label.npy"), str(axis), str(threads)]
        command.append(target)
        if weights is not None:
            np.save(place / "weights.npy", weights)
            command.append(str(place / "weights.npy"))
        self._said = place / "stderr"
        try:
            with self._said.open("w") as said:  # a pipe would be full of warnings some day
                self._worker = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True
                )
        except OSError as error:
            self._folder.cleanup()
            raise NetError(f"cannot start '{command[0]}': {error.strerror}") from None
        first, _, why = self._answer().partition("\t")
        self.version, *forms = first.split()
        self.forms = tuple(forms)
        self.refusals = {"compile": why.strip()} if why else {}
        self.losses: dict[str, float] = {}

    def _answer(self) -> str:
        assert self._worker.stdout
        line = self._worker.stdout.readline()
        if not line:
            said = self._said.read_text().strip().splitlines()
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

    def growth(self, form: str) -> int:
        """Bytes by which the process grows in one run beside the gradients, after one before."""
        self.run(form)
        assert self._worker.stdin
        self._worker.stdin.write(f"growth {form}\n")
        self._worker.stdin.flush()
        return int(self._answer())

    def close(self) -> None:
        """End the process."""
        assert self._worker.stdin and self._worker.stdout
        self._worker.stdin.close()
        self._worker.wait()
        self._worker.stdout.close()
        self._folder.cleanup()
