"""A program for a GPU as plain data: its CUDA text, and what to launch with which arguments.

The back ends that run it (`graphc.runtime.cuda`, `graphc.runtime.emulator`) need nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphc.runtime.bundle import Tables

FREE_SHARED_BYTES = 48 << 10  # shared memory that a kernel may have without being allowed more


@dataclass(frozen=True)
class Launch:
    """One step. Its arguments are the addresses of `places`, (slot, byte offset), in order.

    The first `inputs` of them are only read. After them, where `first_check` is not None, come the
    address of the error words and that number. A grid of 0 blocks is not launched. `follower` is
    launched behind it.
    """

    kernel: str
    grid: int
    threads: int
    shared_bytes: int
    places: tuple[tuple[int, int], ...]
    inputs: int
    first_check: int | None
    follower: Launch | None = None


@dataclass(frozen=True, kw_only=True)
class CudaBundle(Tables):
    """All that is needed to run a program on a GPU.

    decisions: (layer, sentence) about the code.
    """

    text: str
    launches: tuple[Launch, ...]
    decisions: tuple[tuple[str, str], ...] = ()
