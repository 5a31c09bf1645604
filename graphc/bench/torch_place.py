"""Where torch runs: what it is told before a run, and when a run has ended."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from graphc.bench.memory import extra_bytes


class Place(ABC):
    """A device of torch's. `device` is its name there."""

    device: str

    def __init__(self, torch: Any, threads: int):
        self.torch, self.threads = torch, threads

    @abstractmethod
    def begin(self, tf32: bool) -> None:
        """Set what torch keeps for a whole process; tf32: tensor cores may round."""

    @abstractmethod
    def end(self) -> None:
        """Wait until what was asked for is done."""

    @abstractmethod
    def peak_bytes(self, run: Callable[[], object], held: int) -> int | None:
        """Memory at most in a run, `held` bytes of inputs and parameters in it; None: unknown."""


class Processor(Place):
    """Threads of this process."""

    device = "cpu"

    def begin(self, tf32: bool) -> None:
        """See `Place`."""
        self.torch.set_num_threads(self.threads)

    def end(self) -> None:
        """See `Place`."""

    def peak_bytes(self, run: Callable[[], object], held: int) -> int | None:
        """See `Place`."""
        extra = extra_bytes(run)
        return None if extra is None else extra + held


class Gpu(Place):
    """The first GPU; cuDNN tries its algorithms and keeps the fastest."""

    device = "cuda"

    def begin(self, tf32: bool) -> None:
        """See `Place`."""
        backends = self.torch.backends
        backends.cudnn.benchmark = True
        backends.cudnn.allow_tf32 = backends.cuda.matmul.allow_tf32 = tf32

    def end(self) -> None:
        """See `Place`."""
        self.torch.cuda.synchronize()

    def peak_bytes(self, run: Callable[[], object], held: int) -> int | None:
        """See `Place`."""
        self.torch.cuda.reset_peak_memory_stats()
        run()
        return int(self.torch.cuda.max_memory_allocated())


PLACES: dict[str, type[Place]] = {"cpu": Processor, "cuda": Gpu}
