"""Run a CUDA program on a CPU, for tests: its own text, built by a C++ compiler.

The text is compiled with `cuda_on_cpu.h` before it, which runs the threads of a block as fibers and
finds what a GPU would forgive (see there). The library exports the same entries as native code.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from graphc.error import NetError
from graphc.runtime.cache_folder import folder, is_private
from graphc.runtime.cpu import Executable, Functions, StepTimes
from graphc.runtime.launch import CudaBundle

HEADER = Path(__file__).parent / "cuda_on_cpu.h"
TRAFFIC_HEADER = HEADER.with_name("cuda_traffic.h")
COUNTING = ("-DGRAPHC_COUNT_TRAFFIC",)  # flags of programs whose `traffic` can be asked for
FLAGS = ("-std=c++17", "-O1", "-shared", "-fPIC", "-w", "-fno-strict-aliasing", "-ffp-contract=off")
_FAILED = -1

_ENTRIES = r"""
static int graphc_answer(void** slots, int first, int last, long long* error) {
  error[0] = error[1] = 0;
  if (graphc_run(slots, first, last, error, nullptr)) return -1;
  return int(error[0]);
}
extern "C" int graphc_forward(void** slots, int, long long* error) {
  return graphc_answer(slots, 0, graphc_forward_steps, error);
}
extern "C" int graphc_backward(void** slots, int, long long* error) {
  return graphc_answer(slots, graphc_forward_steps, graphc_steps, error);
}
extern "C" int graphc_both(void** slots, int, long long* error) {
  const int refused = graphc_forward(slots, 0, error);  // then backward changes nothing
  return refused ? refused : graphc_backward(slots, 0, error);
}
extern "C" int graphc_step(void** slots, int step, int, long long* error) {
  return graphc_answer(slots, step, step + 1, error);
}
extern "C" void graphc_order(uint64_t seed) { emulator::machine.seed = seed; }
extern "C" const char* graphc_complaint() {
  emulator::machine.failed = false;
  return emulator::machine.message;
}
"""


def compiler() -> list[str]:
    """The C++ compiler's command: $CXX, or g++. Raises NetError where there is none."""
    command = os.environ.get("CXX", "").split() or ["g++"]
    if shutil.which(command[0]) is None:
        raise NetError(
            f"the CUDA emulator needs a C++ compiler, and '{command[0]}' is not found;"
            " install g++ or set CXX"
        )
    return command


@dataclass(frozen=True)
class Traffic:
    """What warps ask of a buffer; see cuda_traffic.h.

    Attributes:
        accesses: of whole warps.
        goes, least_goes: of shared memory, and how many there would be without bank conflicts.
        sectors, least_sectors: of 32 bytes of global memory, and how many would hold the bytes.
    """

    accesses: int
    goes: int
    least_goes: int
    sectors: int
    least_sectors: int


class EmulatedExecutable(Executable):
    """A CUDA program on the CPU.

    `seed` chooses the order of threads and blocks: 0 is that of their numbers, others are random.
    Before a forward pass the arena is filled with nans.
    """

    bundle: CudaBundle

    def __init__(self, bundle: CudaBundle, library: ctypes.CDLL, seed: int = 0):
        names = ("graphc_forward", "graphc_backward", "graphc_both", "graphc_step")
        addresses = {name: _address(library, name) for name in names}
        super().__init__(bundle, Functions(addresses, library))
        self.seed = seed
        self._library = library
        library.graphc_order.argtypes = [ctypes.c_uint64]
        library.graphc_complaint.restype = ctypes.c_char_p

    def call(self, what: str = "forward", threads: int = 1) -> None:
        """Run `forward`, `backward` or `both`, one thread of the system doing all."""
        if what != "backward":
            self.arena[...] = 0xFF
        self._library.graphc_order(self.seed)
        super().call(what, threads)

    def step(self, number: int, threads: int = 1) -> None:
        """Run one step."""
        self._library.graphc_order(self.seed)
        super().step(number, threads)

    def timed_call(
        self, what: str = "forward", threads: int = 1, clock: int | None = None
    ) -> StepTimes:
        """A call with a clock read before each step: how long it takes to emulate it."""
        numbers = itertools.chain(*self._ranges(what))
        if what != "backward":
            self.arena[...] = 0xFF
        self.only_forward = what == "forward"
        return StepTimes.one_by_one(numbers, lambda number: self.step(number, threads), clock)

    def traffic(self) -> dict[tuple[str, str], Traffic]:
        """By kernel and buffer ("shared": shared memory) what its warps have asked of memory.

        Of a program that was loaded with the flags COUNTING; counting begins again.
        """
        ask = self._library.graphc_traffic
        ask.restype = ctypes.c_char_p
        found = {}
        for line in ask().decode().splitlines():
            kernel, buffer, *numbers = line.split("\t")
            found[kernel, buffer] = Traffic(*map(int, numbers))
        return found

    def _report(self, code: int) -> None:
        if code == _FAILED:
            complaint = self._library.graphc_complaint().decode()
            raise NetError(f"'{self.bundle.name}' in the CUDA emulator: {complaint}")
        super()._report(code)


def _address(library: ctypes.CDLL, name: str) -> int:
    address = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
    assert address is not None
    return address


def load(bundle: CudaBundle, seed: int = 0, flags: Sequence[str] = ()) -> EmulatedExecutable:
    """Build the program's library, or find it in the cache, and load it.

    Raises NetError where there is no C++ compiler or it does not take the text.
    """
    return EmulatedExecutable(bundle, ctypes.CDLL(str(build(bundle.text, flags))), seed)


def build(text: str, flags: Sequence[str] = ()) -> Path:
    """The shared library of a CUDA text with the entries of native code."""
    command = [*compiler(), *FLAGS, *flags]
    digest = hashlib.sha256(_version())
    for part in (*command, text, _ENTRIES):
        digest.update(part.encode() + b"\0")
    place = _folder() / f"emulator-{digest.hexdigest()[:40]}.so"
    if place.exists() and is_private(place.parent):
        return place
    with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
        source, library = Path(scratch, "net.cpp"), Path(scratch, "net.so")
        source.write_text(text + _ENTRIES)
        done = subprocess.run(
            [*command, "-include", str(HEADER), str(source), "-o", str(library)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            first = next((line for line in done.stderr.splitlines() if "error" in line), "")
            raise NetError(f"the C++ compiler refuses the CUDA text: {first or done.stderr[:400]}")
        os.replace(library, place)
    return place


@functools.cache
def _version() -> bytes:
    return HEADER.read_bytes() + TRAFFIC_HEADER.read_bytes()


def _folder() -> Path:
    """Where libraries are kept: the folder of compiled code, if it is this user's alone."""
    place = folder()
    with contextlib.suppress(OSError):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        if is_private(place) and os.access(place, os.W_OK):
            return place
    return Path(tempfile.mkdtemp(prefix="graphc-"))
