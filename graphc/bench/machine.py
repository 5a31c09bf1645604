"""What the machine can do at most: products a second, and bytes to and from memory.

A benchmark measures these in the same run as its nets, because a shared machine is not equally fast
at all times.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

from graphc.codegen.llvm.peak import PLACES, LimitLoops, limit_loops
from graphc.codegen.llvm.target import Target
from graphc.runtime.cpu import aligned_zeros, usable_cores

# Short tries, and many: on a busy machine some of them are not interrupted.
_PRODUCT_TRIES = 60
_PRODUCT_SECONDS = 0.002
_MEMORY_TRIES = 15
_LEAST_BYTES = 1 << 26
_MOST_BYTES = 1 << 28


@dataclass(frozen=True)
class Limits:
    """The best of several tries with `threads` threads.

    fma: float32 operations a second, a fused multiplication and addition being two. copy: bytes
    read and written a second, by the best of plain and streaming stores, from end to end or in
    several places at once. read, write: bytes that are only read (in one place or several), or
    only written past the caches, a second. `block_bytes`: the size of an array in these, several
    times the last cache.
    """

    threads: int
    fma: float
    copy: float
    read: float
    write: float
    block_bytes: int

    def better(self, other: Limits) -> Limits:
        """The higher of both, where a measurement may have been disturbed."""
        return replace(
            self,
            fma=max(self.fma, other.fma),
            copy=max(self.copy, other.copy),
            read=max(self.read, other.read),
            write=max(self.write, other.write),
        )


@cache
def _loops() -> LimitLoops:
    return limit_loops()


def measure_limits(threads: int = 1) -> Limits:
    """Measure. Takes about half a second."""
    loops = _loops()
    fma = _product_rate(loops, threads)
    block = _block_bytes()
    source = aligned_zeros((block,), "uint8")
    target = aligned_zeros((block,), "uint8")
    source[...] = 1  # else all pages of zeros may be the same one
    chunks = block // loops.chunk_bytes // (threads * PLACES) * PLACES  # of a thread
    shares = [t * chunks * loops.chunk_bytes for t in range(threads)]
    from_, to = source.ctypes.data, target.ctypes.data
    reads = [[partial(read, from_ + place, chunks) for place in shares] for read in loops.reads]
    write = [partial(loops.write, to + place, chunks) for place in shares]
    copies = [
        [partial(copy, to + place, from_ + place, chunks) for place in shares]
        for copy in loops.copies
    ]
    read_seconds = min(together(work) for _ in range(_MEMORY_TRIES) for work in reads)
    write_seconds = min(together(write) for _ in range(_MEMORY_TRIES))
    copy_seconds = min(together(work) for _ in range(_MEMORY_TRIES) for work in copies)
    moved = threads * chunks * loops.chunk_bytes
    copy = 2 * moved / copy_seconds
    return Limits(threads, fma, copy, moved / read_seconds, moved / write_seconds, block)


def _product_rate(loops: LimitLoops, threads: int) -> float:
    rounds = 1000
    while (seconds := together([partial(loops.products, rounds)])) < _PRODUCT_SECONDS / 4:
        rounds *= 4
    rounds = max(1, int(rounds * _PRODUCT_SECONDS / seconds))
    work = [partial(loops.products, rounds)] * threads
    best = min(together(work) for _ in range(_PRODUCT_TRIES))
    return threads * rounds * loops.flops_a_round / best


def together(work: Sequence[Callable[[], object]]) -> float:
    """Seconds from the start of the first to the end of the last, each on a thread of its own."""
    if len(work) == 1:
        started = time.perf_counter()
        work[0]()
        return time.perf_counter() - started
    begins, ends = [0.0] * len(work), [0.0] * len(work)
    gate = threading.Barrier(len(work))

    def run(number: int) -> None:
        gate.wait()
        begins[number] = time.perf_counter()
        work[number]()
        ends[number] = time.perf_counter()

    others = [threading.Thread(target=run, args=(n,)) for n in range(1, len(work))]
    for other in others:
        other.start()
    run(0)
    for other in others:
        other.join()
    return max(ends) - min(begins)


def _block_bytes() -> int:
    """Four times the largest cache, between 64 and 256 MiB."""
    largest = max((size for _, size in _caches()), default=0)
    return min(max(4 * largest, _LEAST_BYTES), _MOST_BYTES)


_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def _caches() -> list[tuple[int, int]]:
    """(level, bytes) of the first core's data caches, as far as the system tells."""
    found = []
    for folder in sorted(_CACHES.glob("index*")):
        try:
            kind, level, size = (
                (folder / entry).read_text().strip() for entry in ("type", "level", "size")
            )
            if kind != "Instruction":
                found.append((int(level), int(size.removesuffix("K")) << 10))
        except (OSError, ValueError):
            continue
    return found


def describe_machine() -> dict[str, object]:
    """The machine in words and numbers that anybody may read: no names of hosts or people."""
    target = Target.host()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "processor": _processor_name(),
        "target": target.cpu,
        "vector_bits": 8 * target.vector_bytes,
        "cores": usable_cores(),
        "caches": {f"L{level}": size for level, size in _caches()},
        "system": platform.system(),
        "load": load,
    }


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
